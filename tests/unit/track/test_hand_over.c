/* From one tracker to the next: while threads write, a chain of trackers each takes over from the one before, and no write gets lost between two; a miss of the first is not handed over. Needs root and loop devices. */
#include "track/private.h"
#include "base/clock.h"
#include "loopdev.h"
#include "tap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>

#define SIZE (64 << 20)
#define CHUNKS (SIZE / TRACK_CHUNK_SIZE)
#define ROUNDS 8
#define PATIENCE_US (2 * US_PER_S)
#define THREADS 3

static struct loopdev l;
static struct track_disk disk = {.size_bytes = SIZE};
static atomic_bool stop;
static uint8_t *replica, *truth;
static bool marked[CHUNKS];

static void note(int64_t chunk, uint32_t pages, void *user)
{
    (void)pages, (void)user;
    marked[chunk] = true;
}

/* Every other thread's writes wait for a flush each: those are counted by the kernel long after they were seen. */
static void *write_at_random(void *user)
{
    uint64_t state = (uint64_t)(uintptr_t)user * 88172645463325252u + 1;
    int fd = open(l.path, O_RDWR | O_DIRECT | O_CLOEXEC | ((uintptr_t)user % 2 ? 0 : O_DSYNC));
    void *block;

    MUST(fd >= 0 && posix_memalign(&block, 4096, 4096) == 0);
    while (!atomic_load(&stop)) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        memset(block, (int)(state >> 24), 4096);
        MUST(pwrite(fd, block, 4096, (off_t)(state % (SIZE / 4096)) * 4096) == 4096);
        usleep((useconds_t)(state >> 52) / 4);
    }
    free(block);
    close(fd);
    return NULL;
}

static void read_disk(uint8_t *to, bool all)
{
    int fd = open(l.path, O_RDONLY | O_DIRECT | O_CLOEXEC);

    MUST(fd >= 0);
    for (int64_t i = 0; i < CHUNKS; i++)
        if (all || marked[i])
            MUST(pread(fd, to + i * TRACK_CHUNK_SIZE, TRACK_CHUNK_SIZE, i * TRACK_CHUNK_SIZE) == TRACK_CHUNK_SIZE);
    close(fd);
}

/* What it has marked is in the replica; everything where marks were lost: false. */
static bool take(struct tracker *t)
{
    struct err e = {0};
    bool took;

    memset(marked, 0, sizeof marked);
    took = track_take(t, 0, note, NULL, &e) >= 0;
    if (!took)
        tap_note("%s", e.message);
    read_disk(replica, !took);
    return took;
}

static int hand_over(struct tracker *first, struct tracker *other)
{
    int64_t until_us = clock_monotonic_us() + PATIENCE_US;
    int handed;

    while ((handed = track_hand_over(first, 0, other, 0)) == 0 && clock_monotonic_us() < until_us)
        clock_sleep_us(500);
    return handed;
}

static void test_chain(void)
{
    CLEANUP(track_close) struct tracker *t = NULL;
    int lost = 0, missed = 0;
    pthread_t threads[THREADS];
    struct err e = {0};

    MUST(track_open_to_keep(&disk, 1, &t, &e) == 0);
    read_disk(replica, true);
    for (uintptr_t i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, write_at_random, (void *)(i + 1)) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        struct tracker *next = NULL;
        int handed;

        MUST(track_open_to_keep(&disk, 1, &next, &e) == 0);
        handed = hand_over(t, next);
        if (!take(t) || handed != 1) {
            lost++;
            read_disk(replica, true);
        }
        track_close(&t);
        t = next;
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 100 && track_check(t, 0) == 0; i++)
        clock_sleep_us(10000);
    lost += !take(t);
    read_disk(truth, true);
    for (int64_t i = 0; i < CHUNKS; i++)
        missed += memcmp(truth + i * TRACK_CHUNK_SIZE, replica + i * TRACK_CHUNK_SIZE, TRACK_CHUNK_SIZE) != 0;
    is_int(missed, 0, "the replica equals the disk, after %d trackers, one after the other", ROUNDS);
    ok(lost < ROUNDS, "of which %d had to say that everything is to be read again", lost); /* there are kernels that pass a tracker over now and then */
}

/* As if the kernel had passed over all of its programs, once. */
static void test_missed(void)
{
    CLEANUP(track_close) struct tracker *first = NULL, *other = NULL;
    struct err e = {0};

    MUST(track_open_to_keep(&disk, 1, &first, &e) == 0 && track_open_to_keep(&disk, 1, &other, &e) == 0);
    MUST(pwrite(l.fd, "x", 1, 0) == 1 && fsync(l.fd) == 0);
    for (int i = 0; i < PROGRAMS; i++)
        first->ledger->disks[0].balance[first->ledger->disks[0].newest & 1].sectors[i] += 8;
    is_int(hand_over(first, other), -1, "what the first one has not seen is not handed over");
    is_int(track_take(first, 0, note, NULL, &e), -1, "and is said with its marks: %s", e.message);
    track_close(&first);
    track_close(&other);
}

static void count(struct tracker *t, unsigned long long sectors)
{
    for (int i = 0; i < PROGRAMS; i++)
        t->counters[0].sectors[i] += sectors;
}

/* A write that both have seen waits for its flush, so that the kernel has not counted it yet, and hides that the first one has not seen another one. */
static void test_hidden(void)
{
    CLEANUP(track_close) struct tracker *first = NULL, *other = NULL;
    struct err e = {0};

    MUST(track_open_to_keep(&disk, 1, &first, &e) == 0 && track_open_to_keep(&disk, 1, &other, &e) == 0);
    for (int i = 0; i < PROGRAMS; i++)
        first->ledger->disks[0].balance[first->ledger->disks[0].newest & 1].sectors[i] += 8;
    count(first, 8);
    count(other, 8);
    is_int(hand_over(first, other), 1, "it is not known, and handed over");
    count(other, (unsigned long long)-8); /* what the kernel counts of this one, it counts of the one that waited */
    MUST(pwrite(l.fd, "x", 1, 0) == 1 && fsync(l.fd) == 0);
    is_int(track_check(other, 0), -1, "once the kernel counts it the other one knows that something was missed");
}

static void set_statistics(const char *to)
{
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/queue/iostats", l.name);
    FILE *f = fopen(path, "we");

    MUST(f && fputs(to, f) >= 0 && fclose(f) == 0);
}

static void test_no_statistics(void)
{
    CLEANUP(track_close) struct tracker *first = NULL, *other = NULL;
    struct err e = {0};

    MUST(track_open_to_keep(&disk, 1, &first, &e) == 0 && track_open_to_keep(&disk, 1, &other, &e) == 0);
    set_statistics("0");
    is_int(hand_over(first, other), -1, "without the kernel's statistics nothing proves it");
    set_statistics("1");
}

static void write_one(void) { MUST(pwrite(l.fd, "x", 1, 0) == 1 && fsync(l.fd) == 0); }

/* What track_check comes to say, but for moments. */
static int settled(struct tracker *t)
{
    int64_t until_us = clock_monotonic_us() + 40 * US_PER_S;
    int state;

    while ((state = track_check(t, 0)) == 0 && clock_monotonic_us() < until_us)
        clock_sleep_us(50000);
    return state;
}

/* The statistics are there, and can't be read at the moment: a write may have been missed. */
static void test_unreadable_statistics(void)
{
    CLEANUP(track_close) struct tracker *t = NULL;
    struct rlimit before, none;

    MUST(track_open_to_keep(&disk, 1, &t, NULL) == 0 && getrlimit(RLIMIT_NOFILE, &before) == 0);
    write_one();
    none = (struct rlimit){0, before.rlim_max};
    MUST(setrlimit(RLIMIT_NOFILE, &none) == 0);
    is_int(track_check(t, 0), 0, "without a descriptor to read statistics by nothing is sure");
    MUST(setrlimit(RLIMIT_NOFILE, &before) == 0);
    is_int(settled(t), 1, "with one it is");
}

/* Somebody switches the statistics off, and on again: of what was written meanwhile the kernel never counts anything. */
static void test_statistics_again(void)
{
    CLEANUP(track_close) struct tracker *t = NULL;
    struct err e = {0};

    MUST(track_open_to_keep(&disk, 1, &t, &e) == 0);
    set_statistics("0");
    write_one();
    is_int(settled(t), 1, "without statistics there is nothing to hold the tracker against");
    set_statistics("1");
    write_one();
    is_int(settled(t), 1, "once there are any again it is held against what they count from then on");
    for (int i = 0; i < PROGRAMS; i++)
        t->ledger->disks[0].balance[t->ledger->disks[0].newest & 1].sectors[i] += 8;
    write_one();
    is_int(settled(t), -1, "so that a miss is seen");
    is_int(track_take(t, 0, note, NULL, &e), -1, "and said");
    set_statistics("0");
    write_one();
    set_statistics("1");
    is_int(track_check(t, 0), 0, "where nobody looked meanwhile more was seen than is counted, as in many a moment");
    is_int(settled(t), -1, "but it stays so while nothing is written: then it is no moment");
    is_int(track_take(t, 0, note, NULL, &e), -1, "and all is read again: %s", e.message);
    write_one();
    is_int(settled(t), 1, "after that all is as before");
}

int main(void)
{
    static char folder[] = "/tmp/slipway-hand-over.XXXXXX";
    CLEANUP(track_close) struct tracker *t = NULL;
    struct err e = {0};

    MUST(mkdtemp(folder) != NULL);
    if (geteuid() != 0 || loopdev_make(&l, folder, "disk", SIZE) < 0) {
        rmdir(folder);
        printf("1..0 # SKIP needs root and loop devices\n");
        return 0;
    }
    memcpy(disk.name, l.name, sizeof l.name);
    MUST(posix_memalign((void **)&replica, 4096, SIZE) == 0 && posix_memalign((void **)&truth, 4096, SIZE) == 0);
    if (track_open_to_keep(&disk, 1, &t, &e) < 0 || !track_todo(t, 0)) {
        printf("1..0 # SKIP this kernel has not the best way\n");
    } else {
        track_close(&t);
        test_chain();
        test_missed();
        test_hidden();
        test_no_statistics();
        test_unreadable_statistics();
        test_statistics_again();
    }
    track_close(&t);
    free(replica);
    free(truth);
    loopdev_remove(&l);
    rmdir(folder);
    return tap_done();
}
