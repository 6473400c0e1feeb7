/* Which points the ladder keeps, where they do not come in step: a server that changes nothing has none for hours, and its newest stands for all of that. What is
 * held against it is all that there ever was: of each step that is promised the point that was current at its beginning. */
#include "base/clock.h"
#include "tap.h"
#include "vault/vault.h"

#include <unistd.h>

#define POINTS_MOST 1000
#define SWEEP_US (20 * US_PER_S)
#define MINUTE_US (60 * US_PER_S)
#define HOUR_US (60 * MINUTE_US)
#define DAY_US (24 * HOUR_US)
#define BEGIN_US (INT64_C(20700) * DAY_US + 10 * HOUR_US - 10 * US_PER_S) /* 09:59:50 */

static char dir[64];
static struct vault *v;
static int64_t now_us; /* by the wall clock */

static int64_t wall(void *user) { (void)user; return now_us; }

/* Every point that there ever was, in the order of its commit. */
static struct {
    char id[VAULT_POINT_ID_SIZE];
    int64_t at_us;
    bool there;
} all[POINTS_MOST];
static int all_count, there_count, missing;

static void begin(void)
{
    static const struct clock clock = {wall, NULL};
    static const struct vault_options options = {.guard_bytes = 1 << 20, .clock = &clock};
    struct vault_disk d;
    struct err e = {0};

    snprintf(dir, sizeof dir, "/tmp/vault-ladder.XXXXXX");
    MUST(mkdtemp(dir) && vault_open(dir, &options, &v, &e) == 0 && vault_disk_open(v, "s", "d", VAULT_CHUNK_BYTES, &d, &e) == 0 &&
         vault_map_zero(v, &d, 0, 1, &e) == 0);
    now_us = BEGIN_US;
    all_count = missing = 0;
}

static void end(void)
{
    char command[128];

    vault_close(&v);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    MUST(system(command) == 0);
}

static int point(void)
{
    struct vault_point p;
    struct err e = {0};

    MUST(all_count < POINTS_MOST && vault_point_commit(v, "s", now_us, "crash", 0, &p, &e) == 0);
    snprintf(all[all_count].id, sizeof all[0].id, "%s", p.id);
    all[all_count].at_us = now_us;
    return all_count++;
}

static void sweep(const struct vault_ladder *l)
{
    struct vault_point *list = NULL;
    struct err e = {0};
    int count;

    MUST(vault_expire(v, "s", l, &e) >= 0 && (count = vault_point_list(v, "s", 0, &list, &e)) >= 0);
    for (int i = 0; i < all_count; i++)
        all[i].there = false;
    for (int i = 0, at = all_count - 1; i < count; at--) {
        MUST(at >= 0);
        if (strcmp(all[at].id, list[i].id) == 0) {
            all[at].there = true;
            i++;
        }
    }
    there_count = count;
    free(list);
}

/* Nothing happens meanwhile but sweeps. */
static void idle(int64_t duration_us, const struct vault_ladder *l)
{
    for (int64_t until_us = now_us + duration_us; now_us < until_us; sweep(l))
        now_us += until_us - now_us < SWEEP_US ? until_us - now_us : SWEEP_US;
}

static void busy(int64_t duration_us, int64_t every_us, const struct vault_ladder *l)
{
    for (int64_t until_us = now_us + duration_us; now_us < until_us; now_us += every_us) {
        point();
        sweep(l);
    }
}

/* The point that was current at that moment, -1: there was none yet. */
static int current_at(int64_t at_us)
{
    int i = all_count - 1;

    while (i >= 0 && all[i].at_us > at_us)
        i--;
    return i;
}

static void is_there(int i, int64_t at_us)
{
    if (i < 0 || all[i].there)
        return;
    if (missing++ == 0)
        tap_note("of %lld s ago the point is gone: it was made %lld s ago", (long long)((now_us - at_us) / US_PER_S), (long long)((now_us - all[i].at_us) / US_PER_S));
}

/* One of those that were current in the step has stayed, though its beginning is over the span already. */
static void is_held(int64_t from_us, int64_t to_us)
{
    bool held = false;

    for (int i = current_at(from_us); i < all_count && (i < 0 || all[i].at_us < to_us); i++)
        held = held || (i >= 0 && all[i].there);
    missing += !held && current_at(to_us - 1) >= 0;
}

static void promises_hold(const struct vault_ladder *l)
{
    for (size_t r = 0; r < l->rung_count; r++) {
        int64_t step_us = l->rungs[r].step_us, from_us = now_us - l->rungs[r].span_us, first_us = step_us ? (from_us + step_us - 1) / step_us * step_us : 0;

        for (int i = current_at(from_us); !step_us && i < all_count; i++)
            is_there(i, i < 0 || all[i].at_us < from_us ? from_us : all[i].at_us);
        for (int64_t at_us = first_us; step_us && at_us <= now_us; at_us += step_us)
            is_there(current_at(at_us), at_us);
        if (step_us && first_us > from_us)
            is_held(first_us - step_us, first_us);
    }
    is_there(all_count - 1, now_us);
}

/* What the ladder may keep at most, without those of its first rung. */
static int steps_of(const struct vault_ladder *l)
{
    int64_t count = (int64_t)l->keep_last;

    for (size_t r = 0; r < l->rung_count; r++)
        count += l->rungs[r].step_us ? l->rungs[r].span_us / l->rungs[r].step_us + 2 : 1;
    return (int)count;
}

/* A point of 10:00:05 is all that there is until 12:30: at 12:40 the state of 12:29 is no more than eleven minutes old. */
static void test_idle(void)
{
    const struct vault_ladder *l = &vault_ladder_default;
    int stands;

    begin();
    busy(20 * US_PER_S, 5 * US_PER_S, l);
    stands = all_count - 1; /* of 10:00:05 */
    now_us = BEGIN_US + 2 * HOUR_US + 30 * MINUTE_US;
    busy(5 * MINUTE_US, 10 * US_PER_S, l);
    ok(all[stands].there, "the point that stood for two hours is there: all of the last 10 minutes are promised");
    busy(20 * MINUTE_US, 10 * US_PER_S, l);
    ok(all[stands].there, "after 25 minutes: one a minute is");
    ok(!all[1].there, "and not those before it, which stood for 5 s each");
    promises_hold(l);
    idle(40 * MINUTE_US, l);
    ok(all[stands].there, "after more than an hour: one an hour is");
    promises_hold(l);
    idle(25 * HOUR_US, l);
    ok(!all[stands].there && all[0].there, "after a day the oldest of that day is, which it is not");
    idle(3 * DAY_US, l);
    ok(!all[0].there, "and that one goes, too");
    ok(all[all_count - 1].there, "the newest stands for now");
    is_int(missing, 0, "nothing is missing that was promised");
    end();
}

/* The newest that has stood since before all rungs begin is not let go, whatever keep_last says. */
static void test_newest(void)
{
    const struct vault_ladder l = {.rung_count = vault_ladder_default.rung_count, .rungs = vault_ladder_default.rungs};

    begin();
    point();
    now_us += 40 * DAY_US;
    sweep(&l);
    is_int(there_count, 1, "a single point of 40 days ago stands for now");
    now_us += HOUR_US;
    busy(2 * MINUTE_US, 5 * US_PER_S, &l);
    ok(all[0].there, "and for the days before the next ones came");
    end();
}

static uint64_t draw(void)
{
    static uint64_t x = 88172645463325252;

    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x >> 12;
}

/* Minutes in which points come every few seconds, and hours in which none do. */
static void test_any(void)
{
    static const struct vault_rung rungs[] = {{3 * MINUTE_US, 0}, {20 * MINUTE_US, 30 * US_PER_S}, {5 * HOUR_US, 30 * MINUTE_US}, {2 * DAY_US, 12 * HOUR_US}};
    const struct vault_ladder l = {.keep_last = 3, .rung_count = ARRAY_COUNT(rungs), .rungs = rungs};
    int most = 0;

    begin();
    while (all_count < 700) {
        int young = 0;

        if (draw() % 3)
            busy((int64_t)(draw() % 90) * US_PER_S, (1 + (int64_t)(draw() % 20)) * US_PER_S, &l);
        else
            idle((int64_t)(draw() % (draw() % 5 ? 40 : 600)) * MINUTE_US / 4, &l);
        sweep(&l);
        promises_hold(&l);
        for (int i = 0; i < all_count; i++)
            young += now_us - all[i].at_us <= rungs[0].span_us;
        most = there_count - young > most ? there_count - young : most;
    }
    is_int(missing, 0, "%d points over %lld hours: what was promised is there at any time", all_count, (long long)((now_us - BEGIN_US) / HOUR_US));
    ok(most <= steps_of(&l), "and no more than the steps are: %d", most);
    ok(most > 20, "which was something to keep");
    end();
}

/* ---- a clock that is set back ---- */

static int64_t set_back_us; /* by how much */

/* How long ago the wall clock stood there, the last time that it did. */
static int64_t age_of(void *user, int64_t at_us)
{
    (void)user;
    return at_us <= now_us ? now_us - at_us : now_us + set_back_us - at_us;
}

static void test_set_back(void)
{
    const struct vault_ladder l = {.keep_last = 3, .rung_count = vault_ladder_default.rung_count, .rungs = vault_ladder_default.rungs, .age_us = age_of};
    int before, young = 0, minutes = 0;

    begin();
    set_back_us = 0;
    busy(HOUR_US, 30 * US_PER_S, &l);
    before = all_count - 1;
    idle(20 * MINUTE_US, &l);
    set_back_us = 3 * HOUR_US;
    now_us -= set_back_us;
    busy(5 * MINUTE_US, 30 * US_PER_S, &l);
    ok(all[before].there, "the point that stood when the clock was set back stays");
    for (int i = before + 1; i < all_count; i++)
        young += all[i].there;
    is_int(young, all_count - before - 1, "and all that came since");
    idle(20 * MINUTE_US, &l);
    ok(all[before].there, "also when the last ten minutes have none of it");
    for (int i = before + 1; i < all_count; i++)
        minutes += all[i].there;
    ok(minutes >= 5 && minutes <= 8, "of the five minutes after it one a minute: %d", minutes);
    ok(there_count <= steps_of(&l), "%d points are kept", there_count);
    idle(5 * DAY_US, &l);
    is_int(there_count, 3, "in the end it all goes but the newest");
    end();
}

int main(void)
{
    test_idle();
    test_newest();
    test_any();
    test_set_back();
    return tap_done();
}
