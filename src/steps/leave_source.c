/* leave_source: the source leaves its own system for a rescue, which restores the launched machine's last point onto its disks and waits. What its disks were is kept
 * (keep_source). Whether it got there, restore_disks hears from the rescue itself. */
#include "base/clock.h"
#include "base/file.h"
#include "base/http.h"
#include "steps/home.h"
#include "steps/source.h"

#include <string.h>
#include <unistd.h>

/* Written before the word is given, so that an attempt after this one knows why nothing answers: it names the point. */
static char *mark_path(const struct step *s)
{
    CLEANUP(free_ptr) char *name = http_escape(step_string(s, "server.name", "?")), *run = http_escape(step_string(s, "run.id", "?"));

    return xasprintf("%s/left-%s-%s", step_state_dir(s), run, name);
}

static bool was_told(const char *mark, const char *point)
{
    CLEANUP(buf_release) struct buf text = {0};

    return file_read(mark, 256, &text, NULL) == 0 && text.data && strcmp(text.data, point) == 0;
}

/* It does not answer where it is parked: it has left where it was told to. */
static int has_left(struct step *s, const char *mark, const char *point, struct err *e)
{
    if (!was_told(mark, point) || (e->kind != ERR_TIMEOUT && e->kind != ERR_UNREACHABLE))
        return err_wrap(e, "the parked source can't be told to leave for its rescue");
    step_evidence(s, "left", true, "an attempt before this one gave the word, and it does not answer at its parking address any more: %s", e->message);
    err_clear(e);
    return 0;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(free_ptr) char *mark = mark_path(s);
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(json_free) json_t *about = NULL;
    char at[CLOCK_TEXT_SIZE];
    const char *point;

    if (step_need_string(s, "context.last_change.point", &point, e) < 0)
        return -1;
    if (source_open(s, SOURCE_PARKED, false, &r, e) < 0)
        return has_left(s, mark, point, e);
    if (file_write(mark, point, strlen(point), 0600, e) < 0)
        return -1;
    if (home_rescue(s, r, "leave", point, &about, e) < 0) {
        if (e->kind == ERR_WRONG_STATE) /* it has said why it stays */
            unlink(mark);
        return err_wrap(e, "the source does not leave for its rescue");
    }
    step_evidence(s, "left", true, "told at %s to leave its system for %s", clock_format(clock_now_us(), at), point);
    return 0;
}

const struct step_api step_leave_source = {
    .name = "leave_source", .title = "The source leaves its system", .place = STEP_AT_SOURCE, .timeout_ms = 900000, .attempts = 5, .run = run};
