/* launch_cutover: the instance that will take over, from the cutover point, behind its closed door. */
#include "steps/launch.h"

static int run(struct step *s, struct err *e)
{
    const char *point;

    if (step_need_string(s, "context.final_sync.point", &point, e) < 0)
        return err_wrap(e, "the cutover point is not known");
    return launch_point(s, LAUNCH_CUTOVER, point, e);
}

static int undo(struct step *s, struct err *e) { return launch_remove(s, LAUNCH_CUTOVER, false, e); }

const struct step_api step_launch_cutover = {
    .name = "launch_cutover", .title = "Launch the cutover instance", .place = STEP_AT_TARGET, .timeout_ms = 30 * 60 * 1000, .attempts = 3, .run = run, .undo = undo};
