/* Whether everything was seen: what the tracker's programs have counted against what the kernel's own statistics have; and what has been written at all. */
#include "track/plain.h"

#include "base/clock.h"
#include "base/file.h"

#include <bpf/bpf.h>
#include <stdlib.h>

#define UNCLEAR_TOO_LONG_US (3 * US_PER_S) /* a write that waits for its flush is counted by then, mostly; where not, everything is read once more than was needed */
#define AHEAD_TOO_LONG_US (10 * US_PER_S)  /* the same, of a disk on which nothing else completes meanwhile: its flush, if that is what it waits for, holds up all */

/* What all processors have counted. Each count only rises: two equal sums had equal parts. */
struct track_counters tracker_counted(const struct tracker *t, int disk)
{
    struct track_counters sum = {0};

    if (t->plain)
        return plain_counted(t->plain, disk);
    for (unsigned i = 0; i < t->ledger->processor_count; i++) {
        const struct track_counters *c = &t->counters[i * TRACK_DISKS_MAX + (unsigned)disk];

        for (int p = 0; p < PROGRAMS; p++)
            sum.sectors[p] += __atomic_load_n(&c->sectors[p], __ATOMIC_SEQ_CST);
        sum.lost += __atomic_load_n(&c->lost, __ATOMIC_SEQ_CST);
    }
    return sum;
}

/* Fields of /sys/block/NAME/stat (Documentation/block/stat). */
enum { STAT_WRITES = 4, STAT_SECTORS_WRITTEN = 6, STAT_DISCARDS = 11, STAT_SECTORS_DISCARDED = 13, STAT_FIELDS = 14 };

/* 0 where the kernel keeps no statistics of the disk (queue/iostats is 0), or none that we know; -1 where that can't be read at the moment (no memory, no descriptor). */
static int read_stat(const char *name, unsigned long long v[static STAT_FIELDS])
{
    CLEANUP(buf_release) struct buf text = {0};
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/stat", name);
    CLEANUP(free_ptr) char *on_path = xasprintf("/sys/block/%s/queue/iostats", name);
    CLEANUP(buf_release) struct buf on = {0};
    struct err e = {0};
    char *at;

    if (file_read(on_path, 64, &on, &e) < 0 || (on.data[0] == '1' && file_read(path, 4096, &text, &e) < 0))
        return e.kind == ERR_NOT_FOUND ? 0 : -1;
    if (on.data[0] != '1')
        return 0;
    at = text.data;
    for (int i = 0; i < STAT_FIELDS; i++) {
        char *end;

        v[i] = strtoull(at, &end, 10);
        if (end == at)
            return 0;
        at = end;
    }
    return 1;
}

uint64_t tracker_sectors_by_stat(const char *name)
{
    unsigned long long v[STAT_FIELDS];

    return read_stat(name, v) == 1 ? v[STAT_SECTORS_WRITTEN] + v[STAT_SECTORS_DISCARDED] : TRACK_WRITES_UNKNOWN;
}

/* In this order: a completion is counted by us first, and right after by the kernel. passed_over: how often the kernel says that it passed over the
 * program, for whatever disk. */
struct track_balance tracker_weighed(const struct tracker *t, int disk)
{
    struct track_balance b = {.by_stat = tracker_sectors_by_stat(t->ledger->disks[disk].name)};
    struct track_counters c = tracker_counted(t, disk);

    b.unclear = c.unclear;
    for (int i = 0; i < PROGRAMS; i++) {
        struct bpf_prog_info info = {0};
        __u32 size = sizeof info;

        b.sectors[i] = c.sectors[i];
        if (bpf_obj_get_info_by_fd(t->programs[i], &info, &size) == 0)
            b.passed_over[i] = info.recursion_misses;
    }
    return b;
}

/* The other one is written, then it holds. */
void tracker_set_balance(struct track_followed *f, const struct track_balance *b)
{
    f->balance[~f->newest & 1] = *b;
    __atomic_store_n(&f->newest, ~f->newest & 1, __ATOMIC_SEQ_CST);
}

/* What the programs have seen since the balance was taken, against what the kernel has counted: 1 all of it, 0 more (what is counted in a moment), -1 less. */
static int weigh(const struct track_balance *was, const struct track_balance *now)
{
    int64_t by_stat = (int64_t)(now->by_stat - was->by_stat), seen = 0;
    bool one_saw_all = false, all_passed_over = true;

    for (int i = 0; i < PROGRAMS; i++) {
        int64_t by_program = (int64_t)(now->sectors[i] - was->sectors[i]);

        if (by_program > by_stat)
            return 0;
        one_saw_all |= by_program == by_stat;
        all_passed_over &= now->passed_over[i] != was->passed_over[i];
        seen += by_program;
    }
    /* Where each was passed over, as the kernel says, for the others' sake, each completion has been seen by one of them at least. */
    return one_saw_all || (all_passed_over && seen >= by_stat) ? 1 : -1;
}

/* Written down before the balance moves on. */
static int set_unseen(struct track_followed *f, const struct track_balance *now)
{
    __atomic_store_n(&f->unseen, 1, __ATOMIC_SEQ_CST);
    tracker_set_balance(f, now);
    return -1;
}

/* More was seen than is counted: it is counted in a moment. But where nothing more was seen or counted for a while it never will be: the kernel did not count
 * all the time (its statistics were off and are on again). What it lacks would hide that as much was not seen. */
static int judge_ahead(struct track_ahead *ahead, const struct track_balance *now, int weighed)
{
    uint64_t counts = now->by_stat + now->sectors[0] + now->sectors[1] + now->sectors[2];
    int64_t now_us = clock_monotonic_us();

    if (weighed) {
        ahead->since_us = 0;
        return weighed;
    }
    if (!ahead->since_us || counts != ahead->counts)
        *ahead = (struct track_ahead){now_us, counts};
    return now_us - ahead->since_us > AHEAD_TOO_LONG_US ? -1 : 0;
}

/* There were completions of which is not known whether they were writes. If they were, the kernel counts them, too, in a moment. If it doesn't, they were commands past the block layer, and may have done anything. */
static int judge_unclear(struct track_followed *f, const struct track_balance *now, int weighed)
{
    int64_t now_us = clock_monotonic_us();

    if (now->unclear == tracker_balance(f)->unclear || weighed) {
        f->unclear_since_us = 0;
        return weighed;
    }
    if (!f->unclear_since_us)
        f->unclear_since_us = now_us;
    return now_us - f->unclear_since_us > UNCLEAR_TOO_LONG_US ? -1 : 0;
}

/* Whoever was not seen may have been any disk's. */
static int judge_roll(struct tracker *t)
{
    int called = t->plain ? plain_roll_call(t->plain) : 1;

    for (unsigned i = 0; called < 0 && i < t->ledger->disk_count; i++)
        __atomic_store_n(&t->ledger->disks[i].unseen, 1, __ATOMIC_SEQ_CST);
    return called;
}

/* There is nothing to hold the tracker against. What is written meanwhile the kernel never counts: once it counts again, the balance begins anew. Where the
 * statistics are there, and could not be read just now, nothing is sure. */
static int judge_uncounted(struct track_followed *f, const struct track_balance *now)
{
    unsigned long long v[STAT_FIELDS];

    if (now->unclear != tracker_balance(f)->unclear)
        return set_unseen(f, now);
    if (read_stat(f->name, v) != 0)
        return 0;
    tracker_set_balance(f, now);
    return 1;
}

int track_check(struct tracker *t, int disk)
{
    struct track_followed *f = &t->ledger->disks[disk];
    int called = judge_roll(t), weighed;
    struct track_balance now = tracker_weighed(t, disk);
    const struct track_balance *was = tracker_balance(f);

    if (f->unseen)
        return -1;
    if (called == 0)
        return 0;
    if (now.by_stat == TRACK_WRITES_UNKNOWN)
        return judge_uncounted(f, &now);
    weighed = judge_ahead(&t->ahead[disk], &now, was->by_stat == TRACK_WRITES_UNKNOWN ? 1 : weigh(was, &now));
    weighed = judge_unclear(f, &now, weighed);
    if (weighed == 0)
        return 0;
    if (weighed < 0)
        return set_unseen(f, &now);
    tracker_set_balance(f, &now);
    return 1;
}

uint64_t track_writes(const struct tracker *t, int disk)
{
    uint64_t by_stat = tracker_sectors_by_stat(t->ledger->disks[disk].name);
    struct track_counters c = tracker_counted(t, disk);

    /* All only rise; sectors, for a flush counts as a write there. The tracker's own would do, were it never passed over. */
    return c.sectors[0] + c.sectors[1] + c.sectors[2] + c.lost + (by_stat == TRACK_WRITES_UNKNOWN ? 0 : by_stat);
}

/* The other one's balance begins at a moment in which nothing completed: from before the first one's balance to after the other one's neither the kernel nor the first one's
 * programs have counted anything. So what the kernel had counted by then the first one has seen, and what it counts later the other one must see.
 *
 * A write that was seen and that the kernel counts later (it waits for its flush) can hide from the first one's balance that another one was not seen. Here it can't: as it was
 * seen before the moment, the other one's balance has it behind it, and will find it lacking when the kernel counts it: then all is read again. */
int track_hand_over(struct tracker *first, int disk, struct tracker *other, int others_disk)
{
    uint64_t writes = track_writes(first, disk);
    int checked = track_check(first, disk);
    struct track_balance b = tracker_weighed(other, others_disk);

    if (checked < 0 || b.by_stat == TRACK_WRITES_UNKNOWN || tracker_balance(&first->ledger->disks[disk])->by_stat == TRACK_WRITES_UNKNOWN)
        return -1;
    if (!checked || track_writes(first, disk) != writes)
        return 0;
    tracker_set_balance(&other->ledger->disks[others_disk], &b);
    return 1;
}

uint64_t track_writes_by_stat(const char *name)
{
    unsigned long long v[STAT_FIELDS];

    return read_stat(name, v) == 1 ? v[STAT_WRITES] + v[STAT_DISCARDS] : TRACK_WRITES_UNKNOWN;
}
