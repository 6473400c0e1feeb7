/* let_go: what came home was accepted, and the source replicates again: the launched machine's disks go, and what was kept until now. */
#include "base/file.h"
#include "steps/home.h"

#include <unistd.h>

static int run(struct step *s, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    const char *point;

    if (step_need_string(s, "context.keep_source.point", &point, e) < 0 || launch_open_instance(s, LAUNCH_CUTOVER, &l, e) < 0 || launch_remove(s, LAUNCH_CUTOVER, false, e) < 0 ||
        home_drop(s, e) < 0 || home_unpin(s, point, e) < 0)
        return -1;
    unlink(arena_printf(l.arena, "%s/%s.home.json", l.folder, l.instance));
    step_evidence(s, "let go", true, "the recovery point %s stays as long as the server's retention keeps it", point);
    return 0;
}

const struct step_api step_let_go = {
    .name = "let_go", .title = "Remove the launched machine", .place = STEP_AT_TARGET, .timeout_ms = 15 * 60 * 1000, .attempts = 5, .run = run};
