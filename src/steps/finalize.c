/* finalize: from here on there is no way back: the source's replication ends, its points stay until they are dropped. */
#include "steps/control.h"

#include <string.h>

static int run(struct step *s, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *server;
    const char *name, *state;

    if (step_need_string(s, "server.name", &name, e) < 0 ||
        control_ask(s, json_pack("{s:s, s:s}", "verb", "detach", "server", name), 60000, NULL, NULL, e) < 0 || control_server(s, &answer, &server, e) < 0 ||
        json_need_string(server, "state", &state, e) < 0)
        return -1;
    if (strcmp(state, "DISCONNECTED") != 0 && strcmp(state, "STOPPED") != 0)
        return err_set(e, ERR_UNREACHABLE, "the agent was told to end its link, and replication is still %s", state);
    step_evidence(s, "replication ended", true, "%s; nothing more is read from the source", state);
    return 0;
}

const struct step_api step_finalize = {
    .name = "finalize", .title = "Finalize", .place = STEP_AT_REPLICATOR, .timeout_ms = 600000, .attempts = 5, .run = run};
