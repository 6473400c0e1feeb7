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

int main(void)
{
    is_int(care_space_every_us(false, 0), 300 * US_PER_S, "every five minutes");
    is_int(care_space_every_us(false, 75 * US_PER_S), 300 * US_PER_S, "also where it takes a fourth of them");
    is_int(care_space_every_us(false, 3600 * US_PER_S), 4 * 3600 * US_PER_S, "where it takes long, it takes a fourth of the time still");
    is_int(care_space_every_us(true, 3600 * US_PER_S), 10 * US_PER_S, "without room it goes on at once");
    may_expire();
    return tap_done();
}
