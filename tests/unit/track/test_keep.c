/* What the tracker needs of the kernel; and the tracker that lives on: marks while nobody holds it, refuses what doesn't fit, and loses nothing when whoever takes marks is killed, at any of its instructions. */
#include "track/private.h"
#include "loopdev.h"
#include "tap.h"

#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define SIZE (64 << 20)
#define CHUNKS (SIZE / TRACK_CHUNK_SIZE)
#define STEPS_MAX 2000000

static char folder[64];
static struct loopdev l;
static struct track_disk disk;

static void note(int64_t chunk, uint32_t pages, void *user)
{
    if (user)
        ((uint32_t *)user)[chunk] |= pages;
}

static void write_chunk(int chunk)
{
    int fd = open(l.path, O_RDWR | O_DIRECT | O_CLOEXEC);
    void *block;

    MUST(fd >= 0 && posix_memalign(&block, 4096, 4096) == 0);
    memset(block, chunk, 4096);
    MUST(pwrite(fd, block, 4096, (off_t)chunk * TRACK_CHUNK_SIZE) == 4096);
    free(block);
    close(fd);
}

static struct tracker *adopted(struct err *e)
{
    struct tracker *t = NULL;

    return track_adopt(folder, &disk, 1, &t, e) == 0 ? t : NULL;
}

/* There are kernels that pass the tracker over now and then, and then say -1: that is another test's matter. */
static void test_lives_on(void)
{
    static uint32_t pages[CHUNKS];
    struct tracker *t = NULL;
    struct err e = {0};

    is_int(track_adopt(folder, &disk, 1, &t, &e), -1, "nothing is kept: %s", e.message);
    is_int(e.kind, ERR_NOT_FOUND, "and that is said");
    MUST(track_open_to_keep(&disk, 1, &t, &e) == 0);
    if (!ok(track_keep(t, folder, &e) == 0, "a tracker is kept: %s", e.message))
        return;
    strcpy(track_memory(t), "what was known");
    track_todo(t, 0)[3] = 0x55;
    write_chunk(1);
    track_close(&t);
    write_chunk(2); /* nobody is there */
    t = adopted(&e);
    if (!ok(t != NULL, "and found again: %s", e.message))
        return;
    ok(strcmp(track_memory(t), "what was known") == 0 && track_todo(t, 0)[3] == 0x55, "with what was known");
    write_chunk(3);
    if (track_take(t, 0, note, pages, &e) >= 0)
        ok(pages[1] == 1 && pages[2] == 1 && pages[3] == 1 && !pages[4], "it has marked before, while nobody held it, and after: %x %x %x", pages[1], pages[2], pages[3]);
    else
        tap_note("passed over: %s", e.message);
    ok((track_todo(t, 0)[0] & 0xe) == 0xe, "what was taken is to do");
    track_close(&t);
}

static void refused(const struct track_disk *disks, int count, const char *what)
{
    struct tracker *t = NULL;
    struct err e = {0};

    ok(track_adopt(folder, disks, count, &t, &e) < 0 && e.kind != ERR_NOT_FOUND, "refused: %s: %s", what, e.message);
    track_close(&t);
}

static void test_refused(void)
{
    struct track_disk other[2] = {disk, disk};
    struct err e = {0};
    struct tracker *t;
    char path[128];

    other[0].size_bytes += TRACK_CHUNK_SIZE;
    refused(other, 1, "another size");
    other[0] = disk;
    refused(other, 2, "more disks");
    t = adopted(&e);
    MUST(t != NULL);
    t->ledger->programs ^= 1;
    refused(&disk, 1, "other programs");
    t->ledger->programs ^= 1;
    t->ledger->disks[0].instance ^= 1;
    refused(&disk, 1, "a disk that was away");
    t->ledger->disks[0].instance ^= 1;
    t->ledger->disks[0].balance[t->ledger->disks[0].newest & 1].by_stat += 1000000;
    refused(&disk, 1, "statistics that began again");
    t->ledger->disks[0].balance[t->ledger->disks[0].newest & 1].by_stat -= 1000000;
    track_close(&t);
    t = adopted(&e);
    ok(t != NULL, "none of that, and it fits: %s", e.message);
    track_close(&t);
    snprintf(path, sizeof path, "%s/second", folder);
    MUST(unlink(path) == 0);
    refused(&disk, 1, "one of its programs is missing");
    is_int(track_forget(folder, &e), 0, "forgotten: %s", e.message);
    ok(access(folder, F_OK) < 0 && errno == ENOENT, "it is gone");
    is_int(track_forget(folder, &e), 0, "twice is fine");
}

/* Writes that happened while nobody was there, and were not seen: the balance finds them. */
static void test_balance_over_the_time_between(void)
{
    struct tracker *t = NULL;
    struct err e = {0};

    MUST(track_open_to_keep(&disk, 1, &t, &e) == 0 && track_keep(t, folder, &e) == 0);
    t->ledger->disks[0].balance[t->ledger->disks[0].newest & 1].by_stat -= 8; /* as if the kernel had counted a page more than the tracker saw */
    track_close(&t);
    t = adopted(&e);
    MUST(t != NULL);
    is_int(track_take(t, 0, note, NULL, &e), -1, "a write that was not seen while nobody was there: %s", e.message);
    track_close(&t);
    t = adopted(&e);
    MUST(t != NULL);
    is_int(track_take(t, 0, note, NULL, &e), -1, "who is killed before acting on it is told again: %s", e.message);
    ok(track_take(t, 0, note, NULL, &e) >= 0, "once");
    track_close(&t);
    MUST(track_forget(folder, &e) == 0);
}

static int count_lost(const struct tracker *t, const int *chunks, int count)
{
    int lost = 0;

    for (int i = 0; i < count; i++)
        lost += !((t->dirty[chunks[i] / 64] | t->todo[chunks[i] / 64]) >> (chunks[i] % 64) & 1);
    return lost;
}

static void take_stepwise(void)
{
    struct err e = {0};
    struct tracker *t = adopted(&e);

    if (!t || ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(9);
    raise(SIGSTOP);
    track_take(t, 0, note, NULL, &e);
    _exit(0);
}

/* A process takes marks, one instruction at a time: were it killed there, each mark would be in one of the two places, and none in neither. */
static void test_killed_anywhere(void)
{
    static const int chunks[] = {5, 6, 64, 700, 1023};
    int state, lost = 0, both = 0;
    struct tracker *t = NULL;
    struct err e = {0};
    long steps = 0;
    pid_t child;

    MUST(track_open_to_keep(&disk, 1, &t, &e) == 0 && track_keep(t, folder, &e) == 0);
    for (size_t i = 0; i < ARRAY_COUNT(chunks); i++)
        write_chunk(chunks[i]);
    is_int(count_lost(t, chunks, ARRAY_COUNT(chunks)), 0, "what was written is marked");
    fflush(stdout);
    child = fork();
    if (child == 0)
        take_stepwise();
    MUST(waitpid(child, &state, 0) == child && WIFSTOPPED(state));
    for (; steps < STEPS_MAX && !WIFEXITED(state) && !WIFSIGNALED(state); steps++) {
        lost += count_lost(t, chunks, ARRAY_COUNT(chunks));
        both += (t->dirty[chunks[0] / 64] & t->todo[chunks[0] / 64]) != 0;
        MUST(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0 && waitpid(child, &state, 0) == child);
    }
    ok(WIFEXITED(state) && WEXITSTATUS(state) == 0 && steps > 100, "marks were taken in %ld steps", steps);
    is_int(lost, 0, "after none of which a mark was nowhere");
    ok(both > 0, "for %d of them it was in both places", both);
    ok(!t->dirty[0] && (t->todo[0] & 0x60) == 0x60, "in the end they are to do, and marked no longer");
    track_close(&t);
    MUST(track_forget(folder, &e) == 0);
}

/* A kernel without what is needed is simulated: each need is taken away. */
static void test_needs(void)
{
    static const char *const says[TRACKER_NEEDS] = {"CONFIG_BPF_SYSCALL", "/sys/kernel/btf/vmlinux", "5.5", "5.12", "membarrier", "tracefs"};
    static const int first_way[TRACKER_NEEDS] = {-1, TRACK_WAY_FORMAT, TRACK_WAY_FORMAT, TRACK_WAY_TYPES, TRACK_WAY_BEST, TRACK_WAY_BEST};
    struct err e = {0};

    for (unsigned i = 0; i < TRACKER_NEEDS; i++) {
        int offers = tracker_offers(1u << i, &e), way = 0;

        while (way < TRACK_WAYS && !tracker_may(way, offers))
            way++;
        is_int(way < TRACK_WAYS ? way : -1, first_way[i], "without one need, which way is the best: %s", says[i]);
        ok(tracker_say_missing(offers, &e) < 0 && e.kind == ERR_UNSUPPORTED && strstr(e.message, says[i]), "and it is named: %s", e.message);
        err_clear(&e);
    }
    ok(tracker_say_missing(tracker_offers((1u << TRACKER_NEEDS) - 1, &e), &e) < 0 && strstr(e.message, says[0]) && strstr(e.message, says[TRACKER_NEEDS - 1]), "without all of it all is named");
    err_clear(&e);
}

/* By a lesser way writes are followed, and why it is a lesser one is told; but it can't be kept for whoever comes next. */
static void test_lesser_way(void)
{
    CLEANUP(track_close) struct tracker *t = NULL;
    struct err e = {0};

    is_int(tracker_open(&disk, 1, true, 1u << NEED_ATOMICS, &t, &e), 0, "it is followed without atomics: %s", e.message);
    ok(t && !track_todo(t, 0) && track_memory(t) && strstr(track_lacks(t), "5.12"), "it is told: %s", track_lacks(t));
    ok(track_mark_bits(t) > TRACK_MARK_BITS_KEPT, "it takes %d bits a chunk", track_mark_bits(t));
    track_close(&t);
    is_int(tracker_open(&disk, 1, true, 1u << NEED_TYPES, &t, &e), 0, "and without types: %s", e.message);
    ok(t && strstr(track_lacks(t), "btf") && strstr(track_lacks(t), "NVMe"), "it is told: %s", track_lacks(t));
    track_close(&t);
    ok(tracker_open(&disk, 1, true, 1u << NEED_TYPES | 1u << NEED_FORMAT, &t, &e) < 0 && e.kind == ERR_UNSUPPORTED && !t, "without either it is refused: %s", e.message);
}

int main(void)
{
    char images[] = "/dev/shm/slipway-keep.XXXXXX";

    MUST(mkdtemp(images) != NULL);
    if (geteuid() != 0 || loopdev_make(&l, images, "disk", SIZE) < 0) {
        rmdir(images);
        printf("1..0 # SKIP needs root and loop devices\n");
        return 0;
    }
    snprintf(folder, sizeof folder, "/sys/fs/bpf/slipway-keep-%d", getpid());
    disk.size_bytes = SIZE;
    snprintf(disk.name, sizeof disk.name, "%s", l.name);
    test_needs();
    test_lesser_way();
    test_lives_on();
    test_refused();
    test_balance_over_the_time_between();
    test_killed_anywhere();
    track_forget(folder, NULL);
    loopdev_remove(&l);
    rmdir(images);
    return tap_done();
}
