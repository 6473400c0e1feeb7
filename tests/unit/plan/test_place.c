#include "plan/place.h"
#include "tap.h"

#define GIB (INT64_C(1) << 30)

/* 100 GiB, half of it free, and nothing to speak against it. */
static struct place_candidate good(const char *name)
{
    return (struct place_candidate){.name = name, .living = true, .addressed = true, .free_bytes = 50 * GIB, .total_bytes = 100 * GIB, .write_bytes_per_s = 100};
}

/* Who is chosen of them, by name; the error's kind is left in *e. */
static const char *chosen(const struct place_candidate *list, int count, int64_t need_bytes, struct buf *why, struct err *e)
{
    int best;

    buf_release(why);
    buf_init(why, 4096);
    err_clear(e);
    best = place_choose(list, count, need_bytes, 50, why, e);
    return best < 0 ? "" : list[best].name;
}

int main(void)
{
    CLEANUP(buf_release) struct buf why = {0};
    struct place_candidate two[] = {good("a"), good("b")};
    struct err e = {0};

    is_str(chosen(two, 2, GIB, &why, &e), "a", "two that are alike: by name");
    two[0].server_count = 1;
    is_str(chosen(two, 2, GIB, &why, &e), "b", "then they take turns");
    two[1].free_bytes = 47 * GIB;
    is_str(chosen(two, 2, GIB, &why, &e), "b", "a little less room is no reason");
    two[1].free_bytes = 30 * GIB;
    is_str(chosen(two, 2, GIB, &why, &e), "a", "much less is");
    ok(strstr(why.data, "a: 1 servers, ") == why.data && strstr(why.data, "; b: 0 servers, 30"), "the choice first, then the other (%s)", why.data);
    two[1] = good("b");
    two[1].to_come_bytes = 40 * GIB;
    is_str(chosen(two, 2, GIB, &why, &e), "a", "what is to come takes room");
    two[1].to_come_bytes = 0;
    two[0].churn_bytes_per_s = 90;
    is_str(chosen(two, 2, GIB, &why, &e), "b", "one whose disk is busy is worse than one that is half full");
    two[0] = good("a");
    is_str(chosen(two, 1, 100 * GIB, &why, &e), "a", "half of its disks' bytes must fit");
    is_str(chosen(two, 1, 101 * GIB, &why, &e), "", "no more");
    ok(e.kind == ERR_NO_SPACE && strstr(e.message, "a lacks room") && strstr(e.message, "room_percent"), "for want of room, and what to do (%s)", e.message);
    two[0].group_count = 1, two[0].free_bytes = 20 * GIB, two[0].server_count = 9;
    is_str(chosen(two, 2, GIB, &why, &e), "a", "one that has others of its group, whatever is better elsewhere");
    ok(strstr(why.data, "a: 9 servers, 1 of its application, ") == why.data, "which is said (%s)", why.data);
    two[1].group_count = 2;
    is_str(chosen(two, 2, GIB, &why, &e), "b", "more of them, more so");
    two[0].group_count = 3;
    is_str(chosen(two, 2, 50 * GIB, &why, &e), "b", "but not where it lacks room");
    two[0].group_count = 0;
    two[0].draining = true;
    is_str(chosen(two, 2, GIB, &why, &e), "b", "one that is drained takes none");
    two[1].living = false;
    is_str(chosen(two, 2, GIB, &why, &e), "", "nor one that does not report");
    ok(e.kind == ERR_UNREACHABLE && strstr(e.message, "a is drained; b does not report"), "which is said of each (%s)", e.message);
    two[1] = good("b");
    two[1].addressed = false;
    is_str(chosen(two, 2, GIB, &why, &e), "", "nor one that nobody knows how to reach");
    two[1].addressed = true;
    two[1].free_bytes = -1;
    is_str(chosen(two, 2, GIB, &why, &e), "", "nor one that does not tell its room");
    is_str(chosen(two, 0, GIB, &why, &e), "", "of none, none");
    ok(strstr(e.message, "none is enrolled") != NULL, "(%s)", e.message);
    return tap_done();
}
