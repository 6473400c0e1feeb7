/* How old points are: by the time that passed, whatever became of the wall clock. */
#include "replicator/lifetime.h"

#include "base/clock.h"
#include "tap.h"

#define DAY_US (INT64_C(86400) * US_PER_S)
#define HOUR_US (INT64_C(3600) * US_PER_S)
#define BEGIN_US INT64_C(1800000000000000)

/* Two clocks: one that is set, and one that is not. */
static struct lifetime life;
static int64_t wall_us, monotonic_us;

static int64_t pass(int64_t duration_us)
{
    wall_us += duration_us;
    monotonic_us += duration_us;
    return lifetime_tick(&life, wall_us, monotonic_us);
}

static int64_t set_clock(int64_t to_us)
{
    wall_us = to_us;
    return lifetime_tick(&life, wall_us, monotonic_us);
}

/* A restart: what was kept is read, and the machine's other clock begins anew. */
static void restart(int64_t away_us)
{
    CLEANUP(json_free) json_t *kept = lifetime_json(&life);
    struct err e = {0};

    is_int(lifetime_read(&life, kept, &e), 0, "what was kept is read: %s", e.message);
    wall_us += away_us;
    monotonic_us = 5 * US_PER_S;
    lifetime_begin(&life, wall_us, monotonic_us);
}

static void begin(void)
{
    life = (struct lifetime){0};
    wall_us = BEGIN_US;
    monotonic_us = 1000 * US_PER_S;
    lifetime_begin(&life, wall_us, monotonic_us);
}

static void is_hours(int64_t point_us, int hours, const char *what) { is_int(lifetime_age_us(&life, point_us) / HOUR_US, hours, "%s: %d h old", what, hours); }

static void test_well(void)
{
    int64_t point_us;

    begin();
    is_hours(BEGIN_US - DAY_US, 24, "a point of before the first start is as old as the clock says");
    is_int(pass(HOUR_US), 0, "no jump");
    point_us = wall_us;
    is_int(pass(5 * HOUR_US), 0, "no jump");
    is_hours(point_us, 5, "a point");
    is_int(lifetime_age_us(&life, wall_us + US_PER_S), 0, "one of the future has no age");
    restart(3 * US_PER_S);
    is_int(life.count, 1, "a short restart is none");
    is_hours(point_us, 5, "it goes on");
}

static void test_ahead(void)
{
    int64_t before_us, after_us;

    begin();
    pass(10 * HOUR_US);
    before_us = wall_us;
    pass(HOUR_US);
    is_int(set_clock(wall_us + 365 * DAY_US) / DAY_US, 365, "the clock jumps a year ahead");
    is_hours(before_us, 1, "the point of before it");
    after_us = wall_us;
    pass(2 * HOUR_US);
    is_hours(before_us, 3, "and later");
    is_hours(after_us, 2, "one of after it");
    is_int(set_clock(wall_us - 365 * DAY_US) / DAY_US, -365, "and back");
    pass(HOUR_US);
    is_hours(before_us, 4, "the first");
    is_hours(after_us, 3, "the second, whose moment is in the future again");
    restart(0);
    pass(HOUR_US);
    is_hours(before_us, 5, "over a restart, the first");
    is_hours(after_us, 4, "and the second");
}

/* A point that was made after the jump, before it was noticed. */
static void test_unnoticed(void)
{
    int64_t point_us;

    begin();
    pass(DAY_US);
    wall_us -= 30 * DAY_US;
    wall_us += 10 * US_PER_S, monotonic_us += 10 * US_PER_S;
    point_us = wall_us;
    is_int(pass(10 * US_PER_S) / DAY_US, -30, "a jump is noticed later");
    pass(2 * HOUR_US);
    is_hours(point_us, 2, "what was made meanwhile");
    restart(0);
    is_hours(point_us, 2, "and after a restart");
}

static void test_away(void)
{
    int64_t point_us;

    begin();
    pass(HOUR_US);
    point_us = wall_us;
    pass(HOUR_US);
    restart(10 * DAY_US);
    pass(2 * HOUR_US);
    is_hours(point_us, 3, "while nobody runs nothing grows older");
    is_hours(point_us + 5 * DAY_US, 2, "a point of when nobody ran (another replicator's) is as old as the end before");
    set_clock(BEGIN_US - 20 * 365 * DAY_US); /* a machine whose clock has no battery */
    restart(0);
    pass(HOUR_US);
    is_hours(point_us, 4, "nor by a clock that begins in another century");
}

static void test_many(void)
{
    int64_t first_us;

    begin();
    first_us = wall_us;
    for (int i = 0; i < 3 * LIFETIME_STRETCHES_MAX; i++) {
        pass(HOUR_US);
        restart(DAY_US);
    }
    is_int(life.count, LIFETIME_STRETCHES_MAX, "no more than so many stretches are kept");
    ok(lifetime_age_us(&life, first_us) >= LIFETIME_STRETCHES_MAX * HOUR_US, "what lies before them is older than they");
}

static void test_bad(void)
{
    static const char *const bad[] = {"{}", "{\"stretches\":3}", "{\"stretches\":[{}]}", "{\"stretches\":[{\"wall_us\":-1,\"ran_us\":0,\"length_us\":0}]}",
                                      "{\"stretches\":[{\"wall_us\":1,\"ran_us\":6,\"length_us\":9},{\"wall_us\":1,\"ran_us\":5,\"length_us\":9}]}"};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        CLEANUP(json_free) json_t *kept = json_loads(bad[i], 0, NULL);

        err_clear(&e);
        is_int(lifetime_read(&life, kept, &e), -1, "%s: %s", bad[i], e.message);
    }
}

int main(void)
{
    test_well();
    test_ahead();
    test_unnoticed();
    test_away();
    test_many();
    test_bad();
    return tap_done();
}
