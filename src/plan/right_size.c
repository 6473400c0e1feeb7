#include "plan/right_size.h"

#include "base/clock.h"

#include <math.h>
#include <stdlib.h>

#define CPU_AIM 0.60
#define CPU_HOT 0.85    /* p95 above it: larger */
#define MEMORY_AIM 0.75
#define MEMORY_HOT 0.90
#define MEMORY_STEP (INT64_C(256) << 20)
#define MEMORY_LEAST (INT64_C(512) << 20)
#define SAMPLES_ENOUGH 10

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double plan_percentile(const double *values, int count, double share)
{
    CLEANUP(free_ptr) double *known = xcalloc((size_t)count + 1, sizeof *known);
    int known_count = 0, rank;

    for (int i = 0; i < count; i++)
        if (values[i] >= 0)
            known[known_count++] = values[i];
    if (known_count == 0)
        return -1;
    qsort(known, (size_t)known_count, sizeof *known, by_value);
    rank = (int)ceil(share * known_count);
    rank = rank < 1 ? 1 : rank > known_count ? known_count : rank;
    return known[rank - 1];
}

struct measured {
    int known;
    int64_t span_s;
    double p50, p95, max;
};

static struct measured measure(const struct use_sample *samples, int count, const double *values)
{
    struct measured m = {.p50 = plan_percentile(values, count, 0.50), .p95 = plan_percentile(values, count, 0.95),
                         .max = plan_percentile(values, count, 1)};
    int64_t first = INT64_MAX, last = INT64_MIN;

    for (int i = 0; i < count; i++)
        if (values[i] >= 0) {
            m.known++;
            first = samples[i].at_us < first ? samples[i].at_us : first;
            last = samples[i].at_us > last ? samples[i].at_us : last;
        }
    m.span_s = m.known ? (last - first) / US_PER_S : 0;
    return m;
}

static void add(json_t *advice, const char *what, int64_t now, int64_t advised, const struct measured *m, const char *reason)
{
    const char *change = advised == now ? "keep" : advised < now ? "smaller" : "larger";
    json_t *one = json_pack("{s:s, s:I, s:I, s:s, s:s, s:i, s:I}", "what", what, "now", (json_int_t)now, "advised", (json_int_t)advised, "change",
                            change, "reason", reason, "samples", m->known, "span_s", (json_int_t)m->span_s);

    json_object_set_new(one, "p50", m->known ? json_real(m->p50) : json_null());
    json_object_set_new(one, "p95", m->known ? json_real(m->p95) : json_null());
    json_object_set_new(one, "max", m->known ? json_real(m->max) : json_null());
    json_array_append_new(advice, one);
}

/* Why nothing smaller can be advised yet, or NULL; the caller frees. */
static char *too_little(const struct measured *m, int64_t enough_s)
{
    if (m->known == 0)
        return xstrdup("its use was not measured");
    if (m->known < SAMPLES_ENOUGH)
        return xasprintf("only %d samples: not enough to go by", m->known);
    if (m->span_s < enough_s)
        return xasprintf("measured for %lld s only, of %lld: not enough to go by", (long long)m->span_s, (long long)enough_s);
    return NULL;
}

static void size_cpu(const struct measured *m, int now, int64_t enough_s, json_t *advice)
{
    CLEANUP(free_ptr) char *few = too_little(m, enough_s), *reason = NULL;
    int wanted = m->known ? (int)ceil(m->p95 * now / CPU_AIM) : now;

    wanted = wanted < 1 ? 1 : wanted;
    if (m->known && m->p95 > CPU_HOT) {
        wanted = wanted <= now ? now + 1 : wanted;
        reason = xasprintf("95 %% of the time it used up to %.0f %% of its %d CPUs: too near to all of them", m->p95 * 100, now);
    } else if (few) {
        wanted = now;
        reason = xstrdup(few);
    } else if (wanted < now) {
        wanted = wanted < (now + 1) / 2 ? (now + 1) / 2 : wanted;
        reason = xasprintf("95 %% of the time it used at most %.0f %% of its %d CPUs (at most %.0f %%): %d carr%s that at %.0f %%", m->p95 * 100, now,
                           m->max * 100, wanted, wanted == 1 ? "ies" : "y", m->p95 * 100 * now / wanted);
    } else {
        wanted = now;
        reason = xasprintf("95 %% of the time it used at most %.0f %% of its %d CPUs: that fits", m->p95 * 100, now);
    }
    add(advice, "cpu", now, wanted, m, reason);
}

static int64_t in_steps(double bytes)
{
    int64_t rounded = ((int64_t)ceil(bytes) + MEMORY_STEP - 1) / MEMORY_STEP * MEMORY_STEP;

    return rounded < MEMORY_LEAST ? MEMORY_LEAST : rounded;
}

static void size_memory(const struct measured *m, int64_t now, int64_t enough_s, json_t *advice)
{
    CLEANUP(free_ptr) char *few = too_little(m, enough_s), *reason = NULL;
    int64_t wanted = m->known ? in_steps(m->max / MEMORY_AIM) : now, mib = INT64_C(1) << 20;

    if (m->known && m->max > MEMORY_HOT * (double)now) {
        wanted = wanted <= now ? now + MEMORY_STEP : wanted;
        reason = xasprintf("it used up to %lld of its %lld MiB: too near to all of it", (long long)(int64_t)m->max / mib, (long long)(now / mib));
    } else if (few) {
        wanted = now;
        reason = xstrdup(few);
    } else if (wanted < now) {
        wanted = wanted < in_steps((double)now / 2) ? in_steps((double)now / 2) : wanted;
        wanted = wanted > now ? now : wanted;
        reason = xasprintf("it never used more than %lld of its %lld MiB", (long long)(int64_t)m->max / mib, (long long)(now / mib));
    } else {
        wanted = now;
        reason = xasprintf("it used up to %lld of its %lld MiB: that fits", (long long)(int64_t)m->max / mib, (long long)(now / mib));
    }
    add(advice, "memory", now, wanted, m, reason);
}

void plan_right_size(const struct use_sample *samples, int count, struct machine_size now, int64_t enough_s, json_t *advice)
{
    CLEANUP(free_ptr) double *values = xcalloc((size_t)count + 1, sizeof *values);
    struct measured m;

    MUST(now.cpu_count > 0 && now.memory_bytes > 0);
    for (int i = 0; i < count; i++)
        values[i] = samples[i].cpu_share;
    m = measure(samples, count, values);
    size_cpu(&m, now.cpu_count, enough_s, advice);
    for (int i = 0; i < count; i++)
        values[i] = (double)samples[i].memory_used_bytes;
    m = measure(samples, count, values);
    size_memory(&m, now.memory_bytes, enough_s, advice);
}
