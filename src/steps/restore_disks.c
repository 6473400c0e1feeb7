/* restore_disks: waits until the source, in its rescue, says that the launched machine's last point is on its disks, every byte of it read again. */
#include "base/clock.h"
#include "steps/control.h"

#include <inttypes.h>
#include <string.h>

#define LOOK_EVERY_MS 1000
#define PATIENCE_US (30 * 60 * US_PER_S) /* how long nothing may be heard of it, or nothing but failures, before a person should look */

struct waiting {
    const char *point;
    int64_t good_us;  /* monotonic: when it was last heard of as it should be */
    bool restoring;
    char said[512];   /* in other words than it should */
};

/* 1: done, 0: not yet, -1: nobody knows what it says. */
static int judge(const json_t *rescue, struct waiting *w, struct err *e)
{
    const char *state = json_get_string(rescue, "state", ""), *message = json_get_string(rescue, "message", "");
    bool done = strcmp(state, "done") == 0;

    if (!json_is_object(rescue) || strcmp(json_get_string(rescue, "point", ""), w->point) != 0) {
        snprintf(w->said, sizeof w->said, "it has not said yet that it restores %s", w->point);
        return 0;
    }
    w->restoring = strcmp(state, "restoring") == 0;
    if (done || w->restoring)
        w->good_us = clock_monotonic_us();
    else if (strcmp(state, "failed") != 0)
        return err_set(e, ERR_PROTOCOL, "the source in its rescue is \"%s\", which nobody knows", state);
    snprintf(w->said, sizeof w->said, "%.20s: %.480s", state, message);
    return done;
}

static int look(struct step *s, struct waiting *w, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *server;
    struct err why = {0};

    if (control_server(s, &answer, &server, &why) == 0)
        return judge(json_object_get(server, "rescue"), w, e);
    if (why.kind != ERR_UNREACHABLE) { /* a replicator that starts again is waited for */
        *e = why;
        return -1;
    }
    snprintf(w->said, sizeof w->said, "%.500s", why.message);
    return 0;
}

static int run(struct step *s, struct err *e)
{
    struct waiting w = {.good_us = clock_monotonic_us()};
    int64_t begun_us = w.good_us;
    int done;

    if (step_need_string(s, "context.last_change.point", &w.point, e) < 0)
        return -1;
    while ((done = look(s, &w, e)) == 0) {
        if (!w.restoring && clock_monotonic_us() - w.good_us > PATIENCE_US)
            return err_set(e, ERR_TIMEOUT, "the source does not restore its disks: %s. Look at its console; it goes on by itself where it can. `slipway server stay %s` lets the "
                                           "launched machine serve on", w.said, step_string(s, "server.name", "?"));
        step_progress(s, 0, 0, "", "the source in its rescue: %s", w.said);
        if (step_sleep_ms(s, LOOK_EVERY_MS, e) < 0)
            return -1;
    }
    if (done < 0)
        return -1;
    step_evidence(s, "restored", true, "%s is on the source's disks after %" PRId64 " s: %s", w.point, (clock_monotonic_us() - begun_us) / US_PER_S, w.said);
    return 0;
}

const struct step_api step_restore_disks = {
    .name = "restore_disks", .title = "Restore the source's disks", .place = STEP_AT_REPLICATOR, .timeout_ms = INT32_MAX, .attempts = 10, .run = run};
