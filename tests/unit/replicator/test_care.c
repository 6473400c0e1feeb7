/* How often space is given back, and of whom points may expire. */
#include "replicator/private.h"
#include "tap.h"

static void may_expire(void)
{
    static struct replicator r;
    static struct peer p = {.r = &r, .lock = PTHREAD_MUTEX_INITIALIZER};

    ok(care_may_expire(&p), "without a factory the replicator's own ladder holds");
    r.options.factory_url = "https://factory";
    ok(!care_may_expire(&p), "of a server that the factory has not spoken of nothing expires");
    p.settings_said = json_object();
    ok(care_may_expire(&p), "once it has, also if it leaves the ladder to us, points do");
    json_free(&p.settings_said);
}

/* A point that holds its source still is taken by the newest one's age, also where the clock was set back since that one. */
static void by_the_clock(void)
{
    struct peer p = {.has_status = true, .status = {.tracker = "rescan"}, .settings = {.rescan_freeze_us = 60 * US_PER_S, .rescan_points_us = 3600 * US_PER_S}};
    int64_t now_us = clock_monotonic_us();
    struct wire_take_point take;

    p.newest_at_us = clock_now_us() - 1800 * US_PER_S;
    ok(!rescanned_due(&p, now_us, &take), "half an hour after the newest none is due");
    p.newest_at_us = clock_now_us() - 3601 * US_PER_S;
    ok(rescanned_due(&p, now_us, &take), "after an hour one is");
    p.newest_at_us = clock_now_us() + 400 * 86400 * US_PER_S;
    ok(rescanned_due(&p, now_us, &take), "so is one where the newest is of a time to come");
    p.last_try_us = now_us - US_PER_S;
    ok(!rescanned_due(&p, now_us, &take), "and not again a moment after it was tried");
}

int main(void)
{
    is_int(care_space_every_us(false, 0), 300 * US_PER_S, "every five minutes");
    is_int(care_space_every_us(false, 75 * US_PER_S), 300 * US_PER_S, "also where it takes a fourth of them");
    is_int(care_space_every_us(false, 3600 * US_PER_S), 4 * 3600 * US_PER_S, "where it takes long, it takes a fourth of the time still");
    is_int(care_space_every_us(true, 3600 * US_PER_S), 10 * US_PER_S, "without room it goes on at once");
    may_expire();
    by_the_clock();
    return tap_done();
}
