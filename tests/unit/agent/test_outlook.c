/* The outlook over made-up histories, a second a step. */
#include "agent/outlook.h"
#include "base/clock.h"
#include "tap.h"

#define MB INT64_C(1000000)

struct world {
    struct outlook o;
    struct outlook_sample s;
    int64_t backlog, lag_us;
    bool behind;
};

static void begin(struct world *w, int64_t backlog)
{
    *w = (struct world){.backlog = backlog, .behind = true, .s.at_us = 1000 * US_PER_S};
    outlook_reset(&w->o);
}

/* A second in which so much was acknowledged, in so many milliseconds, and so much newly marked and written at all. The ETA then. */
static int64_t step(struct world *w, int64_t acked, int64_t busy_ms, int64_t churned, int64_t written)
{
    w->s.at_us += US_PER_S;
    w->s.acked_bytes += acked;
    w->s.busy_us += busy_ms * US_PER_MS;
    w->s.churned_bytes += churned;
    w->s.written += written;
    outlook_feed(&w->o, &w->s, w->lag_us);
    return outlook_eta_ms(&w->o, w->backlog, w->behind, w->s.at_us);
}

static int64_t steps(struct world *w, int count, int64_t acked, int64_t churned)
{
    int64_t eta_ms = OUTLOOK_UNKNOWN;

    for (int i = 0; i < count; i++)
        eta_ms = step(w, acked, 1000, churned, churned);
    return eta_ms;
}

static void test_known(void)
{
    struct world w;

    begin(&w, 600 * MB);
    is_int(step(&w, 0, 0, 0, 0), OUTLOOK_UNKNOWN, "nothing was measured: unknown");
    is_int(w.o.rate, OUTLOOK_UNKNOWN, "no rate");
    is_int(w.o.churn, OUTLOOK_UNKNOWN, "no churn");
    is_int(steps(&w, 60, 10 * MB, 4 * MB), 100000, "600 MB at 10 MB/s, 4 MB/s come: 100 s, not 60");
    is_int(w.o.rate, 10 * MB, "the rate");
    is_int(w.o.churn, 4 * MB, "the churn");
    w.behind = false;
    is_int(steps(&w, 1, 10 * MB, 4 * MB), 60000, "what keeps up counts no churn");
    w.backlog = 0;
    is_int(steps(&w, 1, 10 * MB, 4 * MB), 0, "nothing is left");
}

static void test_seldom_busy(void)
{
    struct world w;

    begin(&w, 5 * MB);
    w.behind = false;
    for (int i = 0; i < 60; i++)
        step(&w, MB, 50, MB, MB);
    is_int(w.o.rate, 20 * MB, "1 MB in 50 ms of each second: the link does 20 MB/s, not 1");
    for (int i = 0; i < 60; i++)
        step(&w, 0, 0, 0, 0);
    is_int(w.o.rate, 20 * MB, "idle: the last known rate stands");
    is_int(w.o.churn, 0, "and nothing changes");
}

static void test_never(void)
{
    struct world w;
    int64_t eta_ms = 0;
    int after_s = 0;

    begin(&w, 500 * MB);
    steps(&w, 40, 10 * MB, 3 * MB);
    while (eta_ms != OUTLOOK_NEVER && after_s < 100) {
        eta_ms = steps(&w, 1, 10 * MB, 40 * MB);
        after_s++;
    }
    ok(after_s >= 15 && after_s <= 25, "churn outruns the link: never, after %d s, not at once", after_s);
    is_int(steps(&w, 300, 10 * MB, 11 * MB), OUTLOOK_NEVER, "and never it stays, also where it is by little");
    for (int i = 0; i < 7; i++) {
        eta_ms = step(&w, 10 * MB, 1000, i < 6 ? 0 : 30 * MB, 11 * MB);
        ok(eta_ms == OUTLOOK_NEVER, "a rest of six seconds in all the writing is no turn (%lld bytes a second)", (long long)w.o.churn);
    }
    steps(&w, 40, 10 * MB, 11 * MB);
    is_int(steps(&w, 60, 10 * MB, 9.5 * MB), OUTLOOK_NEVER, "nor is a rest that is nearly the link's all");
    for (after_s = 0; eta_ms == OUTLOOK_NEVER && after_s < 100; after_s++)
        eta_ms = steps(&w, 1, 10 * MB, 0);
    ok(after_s <= 16, "the writer stops: after %d s there is an ETA", after_s);
    eta_ms = steps(&w, 10, 10 * MB, 0);
    is_int(eta_ms, 50000, "which is the backlog by the rate");
}

static void test_blip(void)
{
    struct world w;
    bool said = false;

    begin(&w, 500 * MB);
    steps(&w, 60, 10 * MB, 3 * MB);
    for (int i = 0; i < 8; i++)
        said |= steps(&w, 1, 10 * MB, 25 * MB) == OUTLOOK_NEVER;
    for (int i = 0; i < 60; i++)
        said |= steps(&w, 1, 10 * MB, 3 * MB) == OUTLOOK_NEVER;
    ok(!said, "eight seconds of more are a blip");
    is_int(steps(&w, 1, 10 * MB, 3 * MB), 500 * 1000 / 7, "and are forgotten");
}

/* 1 GB, over and over; a round of sending it takes 100 s, and it is marked anew in each round's first ten seconds. */
static void test_same_places(void)
{
    struct world w;
    int never = 0, count = 0;

    begin(&w, 1000 * MB);
    for (int i = 0; i < 1000; i++) {
        int64_t eta_ms;

        w.lag_us = i < 100 ? i * US_PER_S : (100 + i % 100) * US_PER_S;
        eta_ms = step(&w, 10 * MB, 1000, i % 100 < 10 ? 100 * MB : 0, 100 * MB);
        if (i >= 300) {
            count++;
            never += eta_ms == OUTLOOK_NEVER;
        }
    }
    is_int(never, count, "who writes the same places faster than they are sent outruns the link in each round's middle, too");
    w.lag_us = 150 * US_PER_S;
    for (count = 0; count < 100 && step(&w, 10 * MB, 1000, 0, 0) == OUTLOOK_NEVER; count++)
        ;
    ok(count <= 16, "until it stops: %d s later that is seen, in the midst of a round", count);
}

static void test_pass_ends(void)
{
    struct world w;

    begin(&w, 100 * MB);
    steps(&w, 60, 500 * MB, 0);
    outlook_end_pass(&w.o, w.s.at_us);
    is_int(w.o.rate, 500 * MB, "a pass over what is there already is fast");
    is_int(steps(&w, 3, MB, 0), 100000, "changes are not: at once that is known");
}

static void test_limit(void)
{
    struct world w;

    begin(&w, 100 * MB);
    steps(&w, 60, 50 * MB, MB);
    outlook_forget_rate(&w.o, w.s.at_us);
    is_int(w.o.rate, OUTLOOK_UNKNOWN, "the limit has changed: no rate");
    is_int(steps(&w, 3, 5 * MB, MB), 25000, "and then the new one, at once");
    w.s.acked_bytes = w.s.busy_us = w.s.churned_bytes = w.s.written = 0;
    outlook_reset(&w.o);
    is_int(step(&w, 0, 0, 0, 0), OUTLOOK_UNKNOWN, "counters that begin anew begin with nothing known");
}

static void test_long(void)
{
    struct world w;

    begin(&w, INT64_C(1) << 59);
    ok(steps(&w, 2000, 1, 0) == INT64_C(10) * 365 * 86400 * 1000, "half an exabyte at a byte a second: ten years, and no overflow");
    begin(&w, INT64_C(1) << 59);
    w.lag_us = 600 * US_PER_S;
    ok(steps(&w, 700, INT64_C(1) << 45, INT64_C(1) << 44) > 0, "large figures are figures");
    is_int(w.o.rate, INT64_C(1) << 45, "whole");
}

int main(void)
{
    test_known();
    test_seldom_busy();
    test_never();
    test_blip();
    test_same_places();
    test_pass_ends();
    test_limit();
    test_long();
    return tap_done();
}
