#include "plan/part.h"
#include "tap.h"

#include <stdbool.h>
#include <string.h>

#define MOST 3

/* A replicator and what the factory knows of it: it says how many it has and what it goes by, and takes the answer, or doesn't get it. */
static struct part_holder known[MOST];
static int64_t goes_by[MOST];
static int count;

static int64_t sum(void)
{
    int64_t total = 0;

    for (int i = 0; i < count; i++)
        total += goes_by[i];
    return total;
}

static void report(int who, int64_t active, int64_t idle, bool is_answered)
{
    int64_t given;

    known[who] = (struct part_holder){active, idle, goes_by[who]};
    given = part_give(known, count, who);
    if (given > known[who].held)
        known[who].held = given;
    goes_by[who] = is_answered ? given : goes_by[who];
}

static void begin(int replicators)
{
    memset(known, 0, sizeof known);
    memset(goes_by, 0, sizeof goes_by);
    count = replicators;
}

/* Rounds of reports with these many active and idle ones until nothing moves. */
static void settle(const int64_t *active, const int64_t *idle)
{
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < count; i++)
            report(i, active[i], idle[i], true);
}

static void divides(void)
{
    begin(1);
    report(0, 0, 0, true);
    is_int(goes_by[0], PART_WHOLE, "who is alone has all, before anybody is connected, too");
    begin(2);
    settle((int64_t[]){3, 1}, (int64_t[]){0, 5});
    ok(goes_by[0] == 750000 && goes_by[1] == 250000, "by servers that have something to send: %lld and %lld", (long long)goes_by[0], (long long)goes_by[1]);
    settle((int64_t[]){10, 0}, (int64_t[]){0, 5});
    ok(goes_by[0] > 990000 && goes_by[1] > 0 && sum() <= PART_WHOLE, "who has idle ones only has a little: %lld", (long long)goes_by[1]);
    settle((int64_t[]){10, 0}, (int64_t[]){0, 0});
    ok(goes_by[0] == PART_WHOLE && goes_by[1] == 0, "who has nobody there has none");
    settle((int64_t[]){0, 0}, (int64_t[]){0, 0});
    ok(goes_by[0] == 500000 && goes_by[1] == 500000, "where nobody is anywhere, even parts");
    begin(3);
    settle((int64_t[]){1, 1, 1}, (int64_t[]){0, 0, 0});
    ok(goes_by[0] == 333333 && sum() <= PART_WHOLE, "three have a third each, rounded down");
}

static void gives_before_it_takes(void)
{
    begin(2);
    report(0, 1, 0, true);
    report(1, 1, 0, true);
    ok(goes_by[0] == PART_WHOLE && goes_by[1] == 0, "one that comes gets nothing of what another holds");
    report(0, 1, 0, true);
    report(1, 1, 0, true);
    ok(goes_by[0] == 500000 && goes_by[1] == 0, "nor when that one is told to hold less: it may not have heard it");
    report(0, 1, 0, true);
    report(1, 1, 0, true);
    is_int(goes_by[1], 500000, "once it says so, it does");
    report(1, 0, 0, true);
    report(1, 0, 0, true);
    report(0, 1, 0, false);
    ok(goes_by[1] == 0 && goes_by[0] == 500000 && known[0].held == PART_WHOLE, "one goes: the answer to the other is lost");
    report(1, 1, 0, true);
    is_int(goes_by[1], 0, "but counts as given");
    begin(2);
    goes_by[0] = goes_by[1] = PART_WHOLE;
    known[0] = known[1] = (struct part_holder){1, 0, PART_WHOLE};
    report(0, 1, 0, true);
    report(1, 1, 0, true);
    is_int(sum(), PART_WHOLE, "two that knew of no parts come down to theirs, and not to nothing");
}

/* Whatever comes, with lost answers: never more than the whole. */
static void never_more(void)
{
    unsigned seed = 7;
    int64_t most = 0, least_at_end;

    begin(MOST);
    for (int i = 0; i < 100000; i++) {
        int who = (int)((seed = seed * 1664525 + 1013904223) >> 16) % MOST;

        report(who, (seed >> 8) % 5, (seed >> 12) % 3, (seed >> 20) % 4 != 0);
        most = sum() > most ? sum() : most;
    }
    ok(most <= PART_WHOLE && most > PART_WHOLE * 9 / 10, "over 100,000 reports, a fourth of them without an answer, at most %lld millionths are gone by", (long long)most);
    settle((int64_t[]){1, 1, 1}, (int64_t[]){0, 0, 0});
    least_at_end = goes_by[0] < goes_by[1] ? goes_by[0] : goes_by[1];
    ok(least_at_end == 333333 && goes_by[2] == 333333, "and then they come to even parts");
}

int main(void)
{
    divides();
    gives_before_it_takes();
    never_more();
    return tap_done();
}
