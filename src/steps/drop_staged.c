/* drop_staged: the staged data of a server that runs on its own disks goes. Never while the instance still reads from it. */
#include "steps/control.h"
#include "steps/home.h"

#include <inttypes.h>

static int run(struct step *s, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL, *left = NULL;
    json_t *points;
    const char *server, *point;

    if (step_need_string(s, "server.name", &server, e) < 0 || step_need_string(s, "context.final_sync.point", &point, e) < 0)
        return -1;
    if (!json_is_true(step_json(s, "context.right_size.filled")))
        return err_set(e, ERR_WRONG_STATE, "it isn't known that the instance of %s has all its blocks on disks of its own; nothing is dropped", server);
    if (control_ask(s, json_pack("{s:s, s:s}", "verb", "unexport", "point", point), 60000, NULL, NULL, e) < 0 ||
        home_unpin_all(s, server, e) < 0 || /* of a way home that was called off */
        control_ask(s, json_pack("{s:s, s:s}", "verb", "drop", "server", server), 2 * 3600 * 1000, "dropping", &answer, e) < 0)
        return -1;
    if (control_ask(s, json_pack("{s:s, s:s}", "verb", "points", "server", server), 60000, NULL, &left, e) < 0 || json_need_array(left, "points", &points, e) < 0)
        return err_wrap(e, "whether anything is left");
    if (json_array_size(points) != 0)
        return err_set(e, ERR_WRONG_STATE, "%zu recovery points of %s are still there", json_array_size(points), server);
    step_evidence(s, "staged data", true, "dropped; %" PRId64 " bytes freed, no recovery point is left", json_get_int(answer, "bytes_freed", 0));
    return 0;
}

const struct step_api step_drop_staged = {
    .name = "drop_staged", .title = "Drop the staged data", .place = STEP_AT_REPLICATOR, .timeout_ms = 2 * 3600 * 1000, .attempts = 5, .span = STEP_LONG, .run = run};
