/* right_size: advice from the measured use of the running instance; and it is filled in to the end, so that it needs the staged data no more. */
#include "base/clock.h"
#include "plan/right_size.h"
#include "steps/launch.h"

#include <inttypes.h>

#define SAMPLE_LIMIT 600
#define SAMPLES_LEAST 12
#define MEASURE_S 120   /* where the wave's setting right_size_measure_s says nothing else */
#define ENOUGH_S 86400  /* smaller only after a day of it: what was measured in minutes says what it needs at least, not what it needs at most */

struct measured {
    struct use_sample samples[SAMPLE_LIMIT];
    int count;
    int64_t disk_read_bytes, disk_written_bytes;
    int64_t filled_bytes, total_bytes;
};

static int measure(struct step *s, struct launch *l, struct measured *m, struct err *e)
{
    struct target_usage usage;

    (void)s;
    if (l->api->usage(l->target, l->instance, &usage, e) < 0)
        return -1;
    if (m->count < SAMPLE_LIMIT)
        m->samples[m->count++] = (struct use_sample){clock_now_us(), usage.cpu_share, usage.memory_used_bytes};
    m->disk_read_bytes = usage.disk_read_bytes;
    m->disk_written_bytes = usage.disk_written_bytes;
    return l->api->fill(l->target, l->instance, &m->filled_bytes, &m->total_bytes, e);
}

/* Samples for as long as is set, and until the fill is at its end. */
static int watch(struct step *s, struct launch *l, struct measured *m, struct err *e)
{
    int64_t measure_s = step_int(s, "wave.settings.right_size_measure_s", MEASURE_S), began_us = clock_monotonic_us();
    int64_t pause_ms = measure_s * 1000 / SAMPLES_LEAST;

    if (pause_ms < 500)
        pause_ms = 500;
    if (pause_ms > 10000)
        pause_ms = 10000;
    for (;;) {
        if (measure(s, l, m, e) < 0)
            return -1;
        step_progress(s, m->filled_bytes >> 20, m->total_bytes >> 20, "MiB", "filled in; %d samples of its use", m->count);
        if (m->total_bytes > 0 && m->filled_bytes == m->total_bytes && clock_monotonic_us() - began_us >= measure_s * US_PER_S)
            return 0;
        if (step_sleep_ms(s, pause_ms, e) < 0)
            return -1;
    }
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    CLEANUP(free_ptr) struct measured *m = xcalloc(1, sizeof *m);
    CLEANUP(json_free) json_t *advice = json_array();
    struct target_usage now;
    enum target_state state;
    json_t *line;
    size_t i;

    if (launch_open_instance(s, LAUNCH_CUTOVER, &l, e) < 0 || l.api->state(l.target, l.instance, &state, e) < 0)
        return -1;
    if (state != TARGET_RUNNING)
        return err_set(e, ERR_WRONG_STATE, "the instance %s does not run: nothing can be measured", l.instance);
    if (l.api->usage(l.target, l.instance, &now, e) < 0 || watch(s, &l, m, e) < 0)
        return -1;
    if (launch_spec(s, LAUNCH_CUTOVER, NULL, &l, e) < 0)
        return -1;
    plan_right_size(m->samples, m->count, (struct machine_size){l.spec.cpu_count, now.memory_bytes}, ENOUGH_S, advice);
    if (json_array_size(advice) == 0)
        return err_set(e, ERR_INTERNAL, "no advice came of %d samples", m->count);
    json_array_foreach(advice, i, line)
        step_evidence(s, json_get_string(line, "what", "?"), true, "%s: %s", json_get_string(line, "change", "?"), json_get_string(line, "reason", ""));
    step_evidence(s, "disks", true, "%" PRId64 " MiB read, %" PRId64 " MiB written since it started", m->disk_read_bytes >> 20, m->disk_written_bytes >> 20);
    step_evidence(s, "filled in", true, "all %" PRId64 " MiB: the instance stands on its own disks", m->total_bytes >> 20);
    step_result(s, "advice", json_incref(advice));
    step_result(s, "filled_bytes", json_integer(m->filled_bytes));
    step_result(s, "filled", json_true()); /* drop_staged asks for it */
    return 0;
}

const struct step_api step_right_size = {
    .name = "right_size", .title = "Right-size from measured use", .place = STEP_AT_TARGET, .timeout_ms = 2 * 3600 * 1000, .attempts = 3, .span = STEP_LONG, .run = run};
