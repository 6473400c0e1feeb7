/* How often space is given back, of whom points may expire, and for whom others wait. */
#include "replicator/session.h"
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

/* A member of a group that says for good that it is at a point, or is asked for one without an end. */
static void at_a_point(void)
{
    static struct session s;
    struct peer p = {.session = &s, .has_status = true, .status = {.state = "CREATING_SNAPSHOT", .tracker = "ebpf"}};
    const char *why;

    ok(!care_why_no_point(&p, true, 100 * US_PER_S), "one that is at a point is waited for");
    ok(!care_why_no_point(&p, true, 155 * US_PER_S), "as long as such a point may take");
    why = care_why_no_point(&p, true, 165 * US_PER_S);
    ok(why && strstr(why, "more than a minute"), "and no longer: it %s", why ? why : "is waited for");
    ok(!care_why_no_point(&p, false, 165 * US_PER_S), "which is nothing against a point of its own");
    memcpy(p.status.state, "CONTINUOUS", sizeof "CONTINUOUS");
    ok(!care_why_no_point(&p, true, 166 * US_PER_S), "once it is done it is one of them again");
    memcpy(p.status.state, "CREATING_SNAPSHOT", sizeof "CREATING_SNAPSHOT");
    ok(!care_why_no_point(&p, true, 170 * US_PER_S), "and is waited for anew");
}

int main(void)
{
    is_int(care_space_every_us(false, 0), 300 * US_PER_S, "every five minutes");
    is_int(care_space_every_us(false, 75 * US_PER_S), 300 * US_PER_S, "also where it takes a fourth of them");
    is_int(care_space_every_us(false, 3600 * US_PER_S), 4 * 3600 * US_PER_S, "where it takes long, it takes a fourth of the time still");
    is_int(care_space_every_us(true, 3600 * US_PER_S), 10 * US_PER_S, "without room it goes on at once");
    may_expire();
    by_the_clock();
    at_a_point();
    return tap_done();
}
