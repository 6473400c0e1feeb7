/* keep_source: the way home's first task. What the source was at its cutover can be had again, whatever comes: its recovery point is whole, and pinned until what
 * came home is accepted. The source, which may still be held since, may move: it is logged in at next. */
#include "steps/control.h"
#include "steps/home.h"

#include <string.h>

/* What the target mended on the copy's disks would come along. */
static int check_mends(struct step *s, struct err *e)
{
    size_t count = json_array_size(step_json(s, "context.launch_cutover.mends"));
    const char *reason = step_string(s, "server.attributes.accept_mends", "");

    if (!json_is_array(step_json(s, "context.launch_cutover.mends")))
        return err_set(e, ERR_WRONG_STATE, "it is not known whether the launched machine's disks were mended for the target");
    step_evidence(s, "mends", count == 0 || *reason, "%zu on the launched machine's disks%s%s", count, *reason && count ? "; accepted: " : "", count ? reason : "");
    if (count == 0 || *reason)
        return 0;
    return err_set(e, ERR_WRONG_STATE, "the launched machine's disks were mended for the target, and nothing undoes that: the source might not boot from them. Say in the server's "
                                       "attribute accept_mends why it will, or take the server back without its changes");
}

static int let_source_move(struct step *s, const char *server, struct err *e)
{
    struct err why = {0};

    if (control_ask(s, json_pack("{s:s, s:s}", "verb", "thaw", "server", server), 120000, NULL, NULL, &why) == 0) {
        step_evidence(s, "source moves", true, "its filesystems are not held");
        return 0;
    }
    if (why.kind != ERR_UNREACHABLE) {
        *e = why;
        return err_wrap(e, "the source can't be told to go on");
    }
    step_evidence(s, "source moves", true, "its agent is away, and holds nothing then: %s", why.message);
    return 0;
}

static int run(struct step *s, struct err *e)
{
    const char *server, *point;

    if (step_need_string(s, "server.name", &server, e) < 0 || step_need_string(s, "context.final_sync.point", &point, e) < 0 || check_mends(s, e) < 0 ||
        home_pin(s, point, e) < 0 || control_ask(s, json_pack("{s:s, s:s}", "verb", "usable", "point", point), 60000, NULL, NULL, e) < 0)
        return -1;
    step_evidence(s, "kept", true, "the recovery point %s: the source as it was at its cutover, until what comes home is accepted", point);
    step_result(s, "point", json_string(point));
    return let_source_move(s, server, e);
}

const struct step_api step_keep_source = {
    .name = "keep_source", .title = "Keep what the source was", .place = STEP_AT_REPLICATOR, .timeout_ms = 600000, .attempts = 5, .run = run};
