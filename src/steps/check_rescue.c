/* check_rescue: all that can be looked at before anything stops: the source is parked and has all that it needs to leave its system for a rescue, and to restore the
 * launched machine's disks onto its own there. */
#include "steps/home.h"
#include "steps/source.h"

static int run(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(json_free) json_t *about = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    const char *point;

    if (step_need_string(s, "context.sync_copy.point", &point, e) < 0)
        return -1;
    if (source_open(s, SOURCE_PARKED, false, &r, e) < 0 || home_rescue(s, r, "check", point, &about, e) < 0)
        return err_wrap(e, "the source can't take the launched machine's changes; nothing was stopped");
    text = json_text(about);
    step_evidence(s, "image", true, "%.2000s", text);
    return 0;
}

const struct step_api step_check_rescue = {
    .name = "check_rescue", .title = "Can the source take it?", .place = STEP_AT_SOURCE, .timeout_ms = 900000, .attempts = 5, .run = run};
