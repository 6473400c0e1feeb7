/* Where a disk comes, goes, grows or was away, only that one is read: the tracking of the others goes on in the same epoch, while somebody writes to them, and so
 * does what was acknowledged of them. On loop devices under names that are disks', in a /sys/block of the test's own. Needs root and loop devices; skipped without. */
#include "agentworld.h"
#include "agent/engine.h"
#include "base/file.h"

#define QUIET_CHUNKS 64 /* the first half of a disk of SMALL bytes, to which nobody writes */
#define QUIET_BYTES (QUIET_CHUNKS * (int64_t)WIRE_CHUNK_SIZE)

static char log_path[300], kept[64];
static int again_before; /* how often the log had said by then that a disk is read again */
static char epoch[WIRE_TOKEN_SIZE];
static char written[64], other[64]; /* names: the other one's comes before, so the disks' numbers change with it */

/* ---- somebody who writes ---- */

static atomic_bool writer_stops;
static pthread_t writer;
static uint64_t writer_seed;

static void *write_behind(void *user)
{
    uint64_t state = *(uint64_t *)user;
    int fd = open(raw[0].path, O_RDWR | O_DIRECT | O_CLOEXEC);
    void *block;

    MUST(fd >= 0 && posix_memalign(&block, 4096, 4096) == 0);
    while (!atomic_load(&writer_stops)) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        memset(block, (int)(state >> 24), 4096);
        MUST(pwrite(fd, block, 4096, QUIET_BYTES + (off_t)(state % ((SMALL - QUIET_BYTES) / 4096)) * 4096) == 4096);
        usleep(1000);
    }
    free(block);
    close(fd);
    return NULL;
}

static void begin_writing(void)
{
    atomic_store(&writer_stops, false);
    writer_seed = seed * 2 + 1;
    MUST(pthread_create(&writer, NULL, write_behind, &writer_seed) == 0);
}

static void end_writing(void)
{
    atomic_store(&writer_stops, true);
    pthread_join(writer, NULL);
}

/* What no two disks, and no two tests, have in common. */
static void fill(struct loopdev *l)
{
    static uint8_t bytes[SMALL];

    for (size_t i = 0; i < sizeof bytes; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        bytes[i] = (uint8_t)(seed >> 32);
    }
    MUST(pwrite(l->fd, bytes, (size_t)(l->size_bytes < SMALL ? l->size_bytes : SMALL), 0) > 0 && fsync(l->fd) == 0);
}

/* ---- what is held against what ---- */

/* There are kernels that pass the tracker over now and then: then a disk is read again, which the log says; as against "everything". */
static int read_again(void)
{
    CLEANUP(buf_release) struct buf text = {0};
    int count = 0;

    MUST(file_read(log_path, 16 << 20, &text, NULL) == 0);
    for (const char *at = text.data; at && (at = strstr(at, " is read again")); at++)
        count += strncmp(at - strlen("everything"), "everything", strlen("everything")) != 0;
    return count;
}

static int number_of(const struct fake *f, const char *name)
{
    for (int i = 0; i < f->disk_count; i++)
        if (strcmp(f->disks[i].info.name, name) == 0)
            return i;
    return -1;
}

/* From now on it counts what is offered of the disks' first halves. */
static void count_anew(struct fake *f)
{
    pthread_mutex_lock(&f->lock);
    f->quiet_chunks = QUIET_CHUNKS;
    for (int i = 0; i < f->disk_count; i++)
        f->disks[i].quiet_offered = 0;
    memcpy(epoch, f->epoch, sizeof epoch);
    pthread_mutex_unlock(&f->lock);
    again_before = read_again();
}

static int64_t offered_of(struct fake *f, const char *name)
{
    int64_t count;

    pthread_mutex_lock(&f->lock);
    count = number_of(f, name) < 0 ? -1 : f->disks[number_of(f, name)].quiet_offered;
    pthread_mutex_unlock(&f->lock);
    return count;
}

static void goes_on(struct fake *f, const char *name)
{
    int64_t count = offered_of(f, name);

    if (count > 0 && read_again() > again_before)
        tap_note("the kernel passed the tracker over, and that was seen: %lld chunks of %s were offered again", (long long)count, name);
    else
        is_int(count, 0, "what nobody wrote to on %s is not offered again", name);
}

static void same_epoch(struct fake *f) { is_str(f->epoch, epoch, "the epoch goes on"); }

static void is_whole(struct fake *f, const char *name)
{
    int64_t count = offered_of(f, name);

    ok(count == QUIET_CHUNKS || (count > QUIET_CHUNKS && read_again() > again_before), "all of %s is offered, once: %lld", name, (long long)count);
}

static void point_is_exact(struct fake *f, int disk_count)
{
    struct fake_point *p = fake_point(f, WIRE_CRASH, false, 0, 60000);
    const struct loopdev *disks[] = {disk_count > 1 ? &raw[1] : &raw[0], &raw[0]};

    ok(p && p->disk_count == disk_count, "a point has %d disks: %s", disk_count, p ? "" : f->failure.message);
    for (int i = 0; p && i < disk_count; i++)
        ok(point_equals_disk(p, i, disks[i]), "and disk %d is equal", i);
}

/* The agent sees at once that the disks are others, for a point is asked for. */
static bool is_noticed(struct fake *f, int connections)
{
    bool failed = !fake_point(f, WIRE_CRASH, false, 0, 20000);

    if (!ok(failed && fake_wait(f, &f->connections, connections + 1, 60000), "the agent says HELLO again: %s", f->failure.message))
        return false;
    fake_forget_statuses(f);
    return ok(fake_wait_state(f, "CONTINUOUS", 60000), "and is continuous");
}

static struct running *begin(struct fake *f)
{
    int connections = f->connections + 1;
    struct running *r = start_agent(f, 0, NULL, false);

    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "continuous");
    return r;
}

static void end(struct fake *f, struct running *r)
{
    stop_agent(r);
    MUST(agent_forget_tracker(kept, NULL) == 0);
    fake_forget_points(f);
}

/* ---- the tests ---- */

/* What is kept follows its disks to their new numbers, and there is one heir. */
static void test_inherit(void)
{
    const struct disk disks[] = {{.name = "sda", .id = "third"}, {.name = "sdb", .id = "new"}};
    struct carried c = {.disks = disks, .count = 2, .origin = {2, -1}};
    struct kept *from = xcalloc(1, sizeof *from), *to = xcalloc(1, sizeof *to);

    *from = (struct kept){.layout = 7, .epoch = "e", .ids = {"first", "second", "third"}, .next_number = 9, .reported_ack = 5, .pass_done = true, .unreadable_count = 3,
                          .unreadable = {{.disk = 0, .chunk = 1}, {.disk = 2, .chunk = 4}, {.disk = 1, .chunk = 3}}};
    kept_inherit(to, from, &c);
    ok(to->layout == 7 && from->layout == 0, "what was inherited is void");
    ok(strcmp(to->epoch, "e") == 0 && to->next_number == 9 && to->reported_ack == 5 && to->pass_done && !to->rescan_pass, "the epoch, its numbers and the pass go on");
    ok(strcmp(to->ids[0], "third") == 0 && strcmp(to->ids[1], "new") == 0 && !to->ids[2][0], "of the disks of now");
    ok(to->unreadable_count == 1 && to->unreadable[0].disk == 0 && to->unreadable[0].chunk == 4, "what can't be read is of the disks that go on, by their new numbers");
    c.begins_anew = true;
    kept_inherit(to, from, &c);
    ok(!to->pass_done && !to->rescan_pass, "where chunks are to do that were not marked a pass begins");
    c.rescan = true;
    kept_inherit(to, from, &c);
    ok(!to->pass_done && to->rescan_pass, "over what the replicator has already, too");
    from->pass_done = false;
    kept_inherit(to, from, &c);
    ok(!to->pass_done && !to->rescan_pass, "the first sync stays one");
    free(from);
    free(to);
}

/* While somebody writes to the first disk. */
static void other_comes(struct fake *f)
{
    count_anew(f);
    begin_writing();
    plug(&raw[1], other, true);
    is_noticed(f, f->connections);
    end_writing();
}

static void test_comes_and_goes(struct fake *f)
{
    struct running *r;

    fill(&raw[0]);
    fill(&raw[1]);
    plug(&raw[0], written, true);
    r = begin(f);
    other_comes(f);
    same_epoch(f);
    goes_on(f, written);
    is_whole(f, other);
    point_is_exact(f, 2);

    count_anew(f);
    begin_writing();
    unplug(other);
    is_noticed(f, f->connections);
    end_writing();
    same_epoch(f);
    goes_on(f, written);
    point_is_exact(f, 1);

    count_anew(f);
    begin_writing();
    fill(&raw[1]); /* it went through something */
    plug(&raw[1], other, true);
    is_noticed(f, f->connections);
    end_writing();
    same_epoch(f);
    goes_on(f, written);
    is_whole(f, other);
    point_is_exact(f, 2);

    /* And the agent after this one goes on with what this one has carried over. */
    count_anew(f);
    stop_agent(r);
    MUST(pwrite(raw[0].fd, "meanwhile", 9, QUIET_BYTES) == 9 && fsync(raw[0].fd) == 0);
    r = begin(f);
    same_epoch(f);
    goes_on(f, written);
    goes_on(f, other);
    point_is_exact(f, 2);
    end(f, r);
    unplug(other);
    unplug(written);
}

/* What lies behind the old end is something, and was never written through the disk. */
static void set_size(struct loopdev *l, int64_t size_bytes)
{
    int64_t more = size_bytes - l->size_bytes;
    int file = open(l->file, O_WRONLY | O_CLOEXEC);

    MUST(file >= 0 && ftruncate(file, size_bytes) == 0 && (more <= 0 || pwrite(file, "was there", 9, l->size_bytes) == 9));
    MUST(fsync(file) == 0 && close(file) == 0 && ioctl(l->fd, LOOP_SET_CAPACITY, 0) == 0);
    l->size_bytes = size_bytes;
}

static void test_grows(struct fake *f)
{
    struct running *r;

    set_size(&raw[1], SMALL - 4096); /* its last chunk is one in part */
    fill(&raw[0]);
    fill(&raw[1]);
    plug(&raw[0], written, true);
    plug(&raw[1], other, true);
    r = begin(f);
    count_anew(f);
    begin_writing();
    set_size(&raw[1], SMALL + SMALL / 2);
    MUST(pwrite(raw[1].fd, "in the old part", 15, QUIET_BYTES + 100000) == 15 && fsync(raw[1].fd) == 0);
    is_noticed(f, f->connections);
    MUST(pwrite(raw[1].fd, "over the old end", 16, SMALL - 4096 - 16) == 16 && fsync(raw[1].fd) == 0);
    end_writing();
    same_epoch(f);
    goes_on(f, written);
    goes_on(f, other);
    point_is_exact(f, 2);

    /* What is written to the new part before the agent knows of it can't be marked: then that disk is read, and no other. */
    count_anew(f);
    begin_writing();
    set_size(&raw[1], 2 * SMALL);
    MUST(pwrite(raw[1].fd, "in the new part", 15, 2 * SMALL - 100000) == 15 && fsync(raw[1].fd) == 0);
    is_noticed(f, f->connections);
    end_writing();
    same_epoch(f);
    goes_on(f, written);
    ok(offered_of(f, other) >= QUIET_CHUNKS && read_again() > again_before, "all of it is offered again, and the log says so");
    point_is_exact(f, 2);

    count_anew(f);
    set_size(&raw[1], SMALL);
    is_noticed(f, f->connections);
    same_epoch(f);
    goes_on(f, written);
    ok(offered_of(f, other) >= QUIET_CHUNKS, "one that has shrunk is offered as a whole");
    point_is_exact(f, 2);
    end(f, r);
    unplug(other);
    unplug(written);
}

/* The kernel's number for its being there is another one, though nothing else is. */
static void test_was_away(struct fake *f)
{
    struct running *r;

    plug(&raw[0], written, true);
    plug(&raw[1], other, true);
    MUST(run("cd /sys/block && rm %s && mkdir %s && ln -s /sys/devices/virtual/block/%s/* %s/ && rm -f %s/diskseq && echo 1000001 > %s/diskseq",
             other, other, raw[1].name, other, other, other) == 0);
    r = begin(f);
    count_anew(f);
    begin_writing();
    MUST(run("echo 1000002 > /sys/block/%s/diskseq", other) == 0);
    is_noticed(f, f->connections);
    end_writing();
    same_epoch(f);
    goes_on(f, written);
    ok(offered_of(f, other) >= QUIET_CHUNKS, "one that was away is offered as a whole");
    point_is_exact(f, 2);
    end(f, r);
    MUST(run("rm -r /sys/block/%s /dev/%s", other, other) == 0);
    unplug(written);
}

static int64_t applied_of(struct fake *f)
{
    int64_t number;

    pthread_mutex_lock(&f->lock);
    number = f->applied;
    pthread_mutex_unlock(&f->lock);
    return number;
}

/* A pass that is under way goes on where it is: what was acknowledged of it is not offered again. */
static void test_in_the_midst(struct fake *f)
{
    int connections = f->connections + 1;
    struct running *r;
    int64_t again;

    fill(&raw[0]);
    fill(&raw[1]);
    fake_forget_disks(f);
    plug(&raw[0], written, true);
    read_bytes_per_s = 600 << 10; /* 14 s for it: the agent looks for disks after 10 */
    again_before = read_again();
    r = start_agent(f, 0, NULL, false);
    ok(fake_wait(f, &f->connections, connections, 60000), "it begins");
    while (applied_of(f) < 2) /* half of it, in offers of 2 MiB */
        clock_sleep_us(20000);
    pthread_mutex_lock(&f->lock);
    memcpy(epoch, f->epoch, sizeof epoch);
    f->disks[0].known_offered = 0;
    pthread_mutex_unlock(&f->lock);
    plug(&raw[1], other, true);
    ok(fake_wait(f, &f->connections, connections + 1, 60000), "a disk comes: the agent says HELLO again");
    tap_note("after offer %lld of the pass", (long long)applied_of(f));
    fake_forget_statuses(f);
    ok(fake_wait_state(f, "CONTINUOUS", 60000), "and is continuous");
    same_epoch(f);
    pthread_mutex_lock(&f->lock);
    again = f->disks[number_of(f, written)].known_offered;
    pthread_mutex_unlock(&f->lock);
    /* An acknowledgement may have been on its way as the link was closed. */
    ok(again <= BATCH_CHUNKS || read_again() > again_before, "what was acknowledged of the first is not offered again, but for %lld chunks", (long long)again);
    point_is_exact(f, 2);
    read_bytes_per_s = 0;
    end(f, r);
    unplug(other);
    unplug(written);
}

/* Two trackers at a time, where there is memory for them only while there are no buffers. */
static void test_tight(struct fake *f)
{
    struct running *r;

    memory_bound_mib = 51; /* 34 and 16 of buffers, and a little; a tracker takes 2 */
    fill(&raw[0]);
    plug(&raw[0], written, true);
    r = begin(f);
    other_comes(f);
    same_epoch(f);
    goes_on(f, written);
    point_is_exact(f, 2);
    end(f, r);
    memory_bound_mib = 128;
    unplug(other);
    unplug(written);
}

/* One that can't be opened at first stands in nobody's way for longer than that. */
static void test_not_opened(struct fake *f)
{
    int excuses = f->excuses, connections;
    struct running *r;

    fill(&raw[0]);
    plug(&raw[0], written, true);
    r = begin(f);
    count_anew(f);
    begin_writing();
    plug(&raw[1], other, false);
    connections = f->connections;
    ok(!fake_point(f, WIRE_CRASH, false, 0, 20000) && fake_wait(f, &f->excuses, excuses + 1, 60000) && f->connections == connections, "a disk comes that can't be opened: %s", f->excuse.message);
    unplug(other);
    plug(&raw[1], other, true);
    ok(fake_wait(f, &f->connections, connections + 1, 60000), "it can be opened");
    fake_forget_statuses(f);
    ok(fake_wait_state(f, "CONTINUOUS", 60000), "and all is continuous");
    end_writing();
    same_epoch(f);
    goes_on(f, written);
    point_is_exact(f, 2);
    end(f, r);
    unplug(other);
    unplug(written);
}

/* Without a tracker that outlives the agent nothing is carried over. */
static void test_not_kept(struct fake *f)
{
    struct running *r;

    tracker_dir = "";
    plug(&raw[0], written, true);
    r = begin(f);
    count_anew(f);
    plug(&raw[1], other, true);
    is_noticed(f, f->connections);
    ok(strcmp(f->epoch, epoch) != 0 && offered_of(f, written) >= QUIET_CHUNKS, "where the tracker is not kept all is offered again, in a new epoch");
    point_is_exact(f, 2);
    end(f, r);
    unplug(other);
    unplug(written);
}

int main(void)
{
    struct fake *f = world_open("test_disks_change");
    int said = dup(STDERR_FILENO);

    if (!f)
        return 0;
    snprintf(written, sizeof written, "slipway%d.m", getpid());
    snprintf(other, sizeof other, "slipway%d.a", getpid());
    snprintf(kept, sizeof kept, "/sys/fs/bpf/slipway-test-%d", getpid());
    snprintf(log_path, sizeof log_path, "%s/log", folder);
    tracker_dir = kept;
    disks_auto = true;
    MUST(freopen(log_path, "ae", stderr) != NULL);
    world_hide_disks();
    test_inherit();
    test_comes_and_goes(f);
    test_grows(f);
    test_was_away(f);
    test_in_the_midst(f);
    test_tight(f);
    test_not_opened(f);
    test_not_kept(f);
    is_str(f->fault, "", "the agent kept to the protocol");
    is_int(f->refusals, 0, "and had nothing to refuse");
    MUST(umount("/sys/block") == 0);
    MUST(fflush(stderr) == 0 && dup2(said, STDERR_FILENO) >= 0 && close(said) == 0);
    (void)run("cat %s >&2", log_path);
    world_close(f);
    return tap_done();
}
