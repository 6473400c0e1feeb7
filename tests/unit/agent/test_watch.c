/* The disks that an agent watches: they come, go, grow, can't be set up, get another label. On loop devices under names that are disks', in a /sys/block of the test's own. Needs
 * root and loop devices; skipped without. */
#include "agentworld.h"

/* Whatever was committed since then has as many disks, all of each; one that failed named the change. */
static void next_point(struct fake *f, int disk_count, const char *what)
{
    int connections = f->connections + 1;
    struct fake_point *p = fake_point(f, WIRE_CRASH, false, 0, 60000);

    if (!p && ok(fake_wait(f, &f->connections, connections, 60000), "a point fails (%s), and the disks are looked at again", f->failure.message))
        p = fake_point(f, WIRE_CRASH, false, 0, 60000);
    ok(p && p->disk_count == disk_count, "%s: the next point has as many disks: %d", what, disk_count);
    for (int i = 0; i < disk_count; i++)
        ok(p && point_equals_disk(p, i, &raw[i]), "disk %d is equal", i);
}

static void test_comes(struct fake *f)
{
    CLEANUP(free_ptr) char *first = xasprintf("slipway%d.a", getpid()), *second = xasprintf("slipway%d.b", getpid());
    int connections = f->connections + 1, failures, points;
    struct running *r;

    plug(&raw[0], first, true);
    disks_auto = true;
    r = start_agent(f, 0, NULL, false);
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "one disk, continuous");
    next_point(f, 1, "alone");
    plug(&raw[1], second, true);
    MUST(pwrite(raw[1].fd, "one half", 8, 4096) == 8 && fsync(raw[1].fd) == 0 && pwrite(raw[0].fd, "the other", 9, 4096) == 9 && fsync(raw[0].fd) == 0);
    next_point(f, 2, "a second one comes");
    unplug(second);
    next_point(f, 1, "it goes");
    failures = f->failures;
    points = f->point_count;
    connections = f->connections + 1;
    ok(fake_step(f, WIRE_CRASH, false, 0, WIRE_STILL), "alone, it stands still");
    plug(&raw[1], second, true);
    fake_go(f, WIRE_COMMIT);
    fails_with(f, failures, "conflict");
    ok(strstr(f->failure.message, "has come") && f->point_count == points, "what has come meanwhile is the end of it");
    ok(fake_wait(f, &f->connections, connections, 60000), "and is looked at at once");
    next_point(f, 2, "with it");
    stop_agent(r);
    disks_auto = false;
    unplug(first);
    unplug(second);
    fake_forget_points(f);
}

/* Where the disks can't be set up nobody is told of some of them, but why there are none; and it is tried again. */
static void test_no_set_up(struct fake *f)
{
    CLEANUP(free_ptr) char *first = xasprintf("slipway%d.c", getpid()), *second = xasprintf("slipway%d.d", getpid());
    int connections = f->connections + 1, excuses = f->excuses;
    struct running *r;

    plug(&raw[0], first, true);
    disks_auto = true;
    memory_bound_mib = 54; /* 34 and 16 of buffers, and a little */
    r = start_agent(f, 0, NULL, false);
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "one disk, continuous");
    plug(&raw[1], second, false);
    ok(!fake_point(f, WIRE_CRASH, false, 0, 60000), "a disk comes that can't be opened: %s", f->failure.message);
    ok(fake_wait(f, &f->excuses, excuses + 2, 60000), "the agent says why it names none, again and again: %s", f->excuse.message);
    ok(strstr(f->excuse.message, second) && f->connections == connections, "which, and nothing else");
    unplug(second);
    plug(&raw[1], second, true);
    ok(fake_wait(f, &f->connections, connections + 1, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "it can be opened: the agent goes on");
    next_point(f, 2, "and");
    excuses = f->excuses;
    MUST(truncate(raw[1].file, INT64_C(8) << 40) == 0 && ioctl(raw[1].fd, LOOP_SET_CAPACITY, 0) == 0);
    ok(!fake_point(f, WIRE_CRASH, false, 0, 60000), "it grows beyond what there is memory for: %s", f->failure.message);
    ok(fake_wait(f, &f->excuses, excuses + 1, 60000) && strstr(f->excuse.message, "memory_bound_mib"), "the agent says what would do: %s", f->excuse.message);
    is_str(f->excuse.kind, "limit", "as a limit");
    is_int(f->connections, connections + 1, "and nothing else");
    MUST(truncate(raw[1].file, raw[1].size_bytes) == 0 && ioctl(raw[1].fd, LOOP_SET_CAPACITY, 0) == 0);
    ok(fake_wait(f, &f->connections, connections + 2, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "as it was, it goes on");
    next_point(f, 2, "again");
    stop_agent(r);
    disks_auto = false;
    memory_bound_mib = 128;
    unplug(first);
    unplug(second);
    fake_forget_points(f);
}

/* Whatever is written over its label, a disk that is followed is who it is: in HELLO, and so in points. */
static void test_label(struct fake *f)
{
    CLEANUP(free_ptr) char *first = xasprintf("slipway%d.g", getpid()), *second = xasprintf("slipway%d.h", getpid());
    int connections = f->connections + 1;
    char mbr[512] = "", was[sizeof f->disks[0].info.id];
    struct running *r;

    mbr[440] = 'x';
    mbr[510] = 0x55;
    mbr[511] = (char)0xaa;
    MUST(pwrite(raw[0].fd, mbr, sizeof mbr, 0) == sizeof mbr && fsync(raw[0].fd) == 0);
    plug(&raw[0], first, true);
    disks_auto = true;
    r = start_agent(f, 0, NULL, false);
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "one disk, continuous");
    memcpy(was, f->disks[0].info.id, sizeof was);
    is_str(was, "mbr:78000000", "which is who its label says");
    mbr[440] = 'y';
    MUST(pwrite(raw[0].fd, mbr, sizeof mbr, 0) == sizeof mbr && fsync(raw[0].fd) == 0);
    plug(&raw[1], second, true); /* so that it says HELLO again */
    next_point(f, 2, "another label, and another disk");
    is_str(f->disks[0].info.id, was, "it is who it was");
    stop_agent(r);
    disks_auto = false;
    unplug(first);
    unplug(second);
    fake_forget_points(f);
}

int main(void)
{
    struct fake *f = world_open("test_watch");

    if (!f)
        return 0;
    world_hide_disks();
    test_comes(f);
    test_no_set_up(f);
    test_label(f);
    is_str(f->fault, "", "the agent kept to the protocol");
    is_int(f->refusals, 0, "and had nothing to refuse");
    MUST(umount("/sys/block") == 0);
    world_close(f);
    return tap_done();
}
