/* boot_source: the source, whose disks are restored, hears that it may boot from them. Its address is free: the launched machine was stopped. */
#include "steps/control.h"

#include <string.h>

static int run(struct step *s, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    const char *server, *point, *restored;

    if (step_need_string(s, "server.name", &server, e) < 0 || step_need_string(s, "context.last_change.point", &point, e) < 0 ||
        control_ask(s, json_pack("{s:s, s:s, s:s}", "verb", "boot_rescued", "server", server, "point", point), 60000, NULL, &answer, e) < 0 ||
        json_need_string(answer, "point", &restored, e) < 0)
        return -1;
    if (strcmp(restored, point) != 0)
        return err_set(e, ERR_CORRUPT, "the source has restored %s, and %s is what was to come home", restored, point);
    step_evidence(s, "may boot", true, "from %s: it hears of it when it asks next", point);
    return 0;
}

const struct step_api step_boot_source = {
    .name = "boot_source", .title = "Let the source boot", .place = STEP_AT_REPLICATOR, .timeout_ms = 600000, .attempts = 5, .run = run};
