/* The tracker against the truth, on a loop device, by each way of following: every page that differs afterwards was marked; and a replica that is fed
 * from marks while several threads write ends up equal. Needs root and loop devices; skipped without. */
#include "base/clock.h"
#include "track/private.h"
#include "loopdev.h"
#include "tap.h"

#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define SIZE (96 << 20)
#define CHUNKS (SIZE / TRACK_CHUNK_SIZE)
#define PAGES (TRACK_CHUNK_SIZE / TRACK_PAGE_SIZE)

static char folder[] = "/tmp/slipway-track.XXXXXX";
static uint8_t *before, *after;
static unsigned absent; /* what the kernel is taken to lack: which way it is followed by */
static enum track_way way; /* so */
static int marked_by_page; /* how many of the looks at all ways of writing had marks to go by */

static void read_disk(struct loopdev *l, uint8_t *into)
{
    int fd = open(l->path, O_RDONLY | O_DIRECT | O_CLOEXEC);

    MUST(fd >= 0);
    for (off_t at = 0; at < l->size_bytes; at += 1 << 20)
        MUST(pread(fd, into + at, 1 << 20, at) == 1 << 20);
    close(fd);
}

/* Runs a command with its output in the TAP stream as comments. */
__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
    char command[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command);
}

/* By the record a completion of any disk of the machine may be passed over: then all is to be read again, and it was said. */
static bool took(int64_t got, int64_t wanted, const struct err *e) { return got == wanted || (way == TRACK_WAY_FORMAT && got < 0 && e->kind == ERR_CORRUPT); }

static int attach(const struct track_disk *disk, struct tracker **t, struct err *e)
{
    if (tracker_open(disk, 1, false, absent, t, e) < 0)
        return -1;
    is_int((*t)->way, way, "it is followed by the way that there is: %s", (*t)->lacks[0] ? (*t)->lacks : "the best one");
    return 0;
}

static void note(int64_t chunk, uint32_t pages, void *user) { ((uint32_t *)user)[chunk] |= pages; }

static int count_missed(const uint32_t *pages, int *changed)
{
    int missed = 0;

    *changed = 0;
    for (int i = 0; i < CHUNKS * PAGES; i++) {
        bool differs = memcmp(before + (size_t)i * TRACK_PAGE_SIZE, after + (size_t)i * TRACK_PAGE_SIZE, TRACK_PAGE_SIZE) != 0;

        *changed += differs;
        if (differs && !(pages[i / PAGES] >> (i % PAGES) & 1)) {
            missed++;
            printf("# page %d of chunk %d was written, marked were %#x\n", i % PAGES, i / PAGES, pages[i / PAGES]);
        }
    }
    return missed;
}

/* A write may be seen and not counted yet. What track_check says then is said once. */
static int settled(struct tracker *t)
{
    int state = 0;

    for (int i = 0; i < 100 && state == 0; i++, usleep(20000))
        state = track_check(t, 0);
    return state;
}

static void write_through_filesystem(const char *mount_point)
{
    char path[512];
    uint8_t *map;
    void *block;
    int fd;

    run("for i in 1 2 3; do dd if=/dev/urandom of=%s/f$i bs=37k count=40 status=none; done", mount_point);
    snprintf(path, sizeof path, "%s/direct", mount_point);
    fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    MUST(posix_memalign(&block, 4096, 65536) == 0);
    memset(block, 0x5a, 65536);
    for (int i = 0; i < 20; i++)
        ok(pwrite(fd, block, 65536, i * 65536) == 65536, "a direct write");
    free(block);
    close(fd);
    snprintf(path, sizeof path, "%s/mapped", mount_point);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    MUST(ftruncate(fd, 1 << 20) == 0);
    map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int i = 0; i < 1 << 20; i += 9000)
        map[i] = 7;
    munmap(map, 1 << 20);
    close(fd);
    run("rm %s/f2; sync; fstrim -o 0 -l 8M %s 2>/dev/null || true", mount_point, mount_point);
}

static void test_all_ways(struct loopdev *l, const char *make)
{
    struct track_disk disk = {.size_bytes = SIZE};
    CLEANUP(track_close) struct tracker *t = NULL;
    static uint32_t pages[CHUNKS];
    uint64_t range[2], writes;
    int64_t got;
    struct err e = {0};
    char point[256];
    int changed, missed;

    memset(pages, 0, sizeof pages);
    snprintf(disk.name, sizeof disk.name, "%s", l->name);
    snprintf(point, sizeof point, "%s/m", folder);
    mkdir(point, 0700);
    ok(run("%s %s >/dev/null 2>&1; sync", make, l->path) == 0, "%s", make);
    read_disk(l, before);
    if (!ok(attach(&disk, &t, &e) == 0, "the tracker attaches: %s", e.message))
        return;
    writes = track_writes(t, 0);
    ok(run("mount %s %s", l->path, point) == 0, "mount");
    write_through_filesystem(point);
    ok(run("umount %s", point) == 0, "unmount");
    range[0] = 70 << 20, range[1] = 3 << 20;
    ok(ioctl(l->fd, BLKDISCARD, range) == 0 || errno == EOPNOTSUPP, "discard");
    range[0] = (80 << 20) + 512, range[1] = (5 << 20) + 1024;
    ok(ioctl(l->fd, BLKZEROOUT, range) == 0, "write zeroes");
    ok(pwrite(l->fd, "raw, unaligned", 14, (90 << 20) + 65530) == 14 && fsync(l->fd) == 0, "a raw write over a chunk's border");
    got = track_take(t, 0, note, pages, &e);
    ok(got > 0 || e.kind == ERR_CORRUPT, "there are marks: %s", e.message);
    if (got < 0 || settled(t) < 0) {
        tap_note("the kernel passed the tracker over, and that was seen: %s", e.message);
        memset(pages, 0xff, sizeof pages);
    } else {
        marked_by_page++;
    }
    read_disk(l, after);
    missed = count_missed(pages, &changed);
    ok(changed > 50, "%d pages changed", changed);
    is_int(missed, 0, "none was missed");
    ok(track_writes(t, 0) > writes, "writes were counted");
    ok(took(track_take(t, 0, note, pages, &e), 0, &e), "taken marks don't come again");
}

/* ---- a replica fed from marks while threads write ---- */

static atomic_bool stop;
static struct loopdev *target;

static void *write_at_random(void *user)
{
    uint64_t state = (uint64_t)(uintptr_t)user * 88172645463325252u + 1;
    int fd = open(target->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    void *block;

    MUST(fd >= 0 && posix_memalign(&block, 4096, 1 << 18) == 0);
    while (!atomic_load(&stop)) {
        uint64_t range[2];

        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        range[0] = state % (SIZE / 512 - 512) * 512;
        range[1] = (1 + (state >> 32) % (state >> 59 & 1 ? 500 : 12)) * 512;
        memset(block, (int)(state >> 24), range[1]);
        switch (state >> 60) {
        case 0: ioctl(fd, BLKDISCARD, range); break;
        case 1: ioctl(fd, BLKZEROOUT, range); break;
        default: MUST(pwrite(fd, block, range[1], (off_t)range[0]) == (ssize_t)range[1]); usleep(1000);
        }
    }
    free(block);
    close(fd);
    return NULL;
}

/* How many chunks had only some of their pages marked. */
static int copy_marked(int fd, const uint32_t *pages)
{
    int parts = 0;

    for (int i = 0, run; i < CHUNKS * PAGES; i += run + 1) {
        for (run = 0; i + run < CHUNKS * PAGES && pages[(i + run) / PAGES] >> ((i + run) % PAGES) & 1 && run < 256; run++)
            ;
        if (run)
            MUST(pread(fd, before + (size_t)i * TRACK_PAGE_SIZE, (size_t)run * TRACK_PAGE_SIZE, (off_t)i * TRACK_PAGE_SIZE) ==
                 (ssize_t)run * TRACK_PAGE_SIZE);
        run -= run == 256; /* the next page was not looked at */
    }
    for (int i = 0; i < CHUNKS; i++)
        parts += pages[i] && pages[i] != TRACK_PAGES_ALL;
    return parts;
}

static void test_replica(struct loopdev *l)
{
    int fd = open(l->path, O_RDONLY | O_DIRECT | O_CLOEXEC), rounds = 0, lost = 0, end, missed, changed;
    struct track_disk disk = {.size_bytes = SIZE};
    CLEANUP(track_close) struct tracker *t = NULL;
    static uint32_t pages[CHUNKS];
    int64_t begin_us, marked = 0, parts = 0, got;
    pthread_t threads[3];
    struct err e = {0};

    atomic_store(&stop, false);
    target = l;
    snprintf(disk.name, sizeof disk.name, "%s", l->name);
    for (uintptr_t i = 0; i < 3; i++)
        MUST(pthread_create(&threads[i], NULL, write_at_random, (void *)(i + 1)) == 0);
    if (!ok(attach(&disk, &t, &e) == 0, "the tracker attaches while there are writes"))
        return;
    memset(pages, 0xff, sizeof pages);
    copy_marked(fd, pages);
    begin_us = clock_monotonic_us();
    for (bool last = false;; rounds++) {
        memset(pages, 0, sizeof pages);
        got = track_take(t, 0, note, pages, &e);
        if (got < 0) { /* the kernel passed the tracker over: known, and so nothing is lost */
            lost++;
            memset(pages, 0xff, sizeof pages);
        }
        marked += got < 0 ? 0 : got;
        parts += copy_marked(fd, pages);
        if (last)
            break;
        if ((rounds >= 3 && clock_monotonic_us() - begin_us > 2 * US_PER_S) || clock_monotonic_us() - begin_us > 10 * US_PER_S) {
            atomic_store(&stop, true);
            for (int i = 0; i < 3; i++)
                pthread_join(threads[i], NULL);
            last = true;
        }
    }
    end = settled(t);
    if (end < 0) {
        lost++;
        memset(pages, 0xff, sizeof pages);
        copy_marked(fd, pages);
    }
    read_disk(l, after);
    memset(pages, 0, sizeof pages);
    missed = count_missed(pages, &changed);
    ok((marked > 100 && (parts > 100 || way != TRACK_WAY_BEST)) || (way == TRACK_WAY_FORMAT && lost > 0), "%lld marks, %lld of them of single pages, in %d rounds while three threads wrote", (long long)marked, (long long)parts, rounds);
    is_int(missed, 0, "the replica equals the disk; %d times marks were lost, and that was seen", lost);
    ok(end != 0, "in the end it can be said whether every write was seen");
    close(fd);
}

/* What waits is told without being taken. */
static void test_waiting(struct loopdev *l)
{
    struct track_disk disk = {.size_bytes = SIZE};
    CLEANUP(track_close) struct tracker *t = NULL;
    static uint32_t pages[CHUNKS];
    uint64_t written_before, written_first, written;
    int64_t small = way == TRACK_WAY_BEST ? TRACK_PAGE_SIZE : TRACK_CHUNK_SIZE;
    int fd = open(l->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    struct err e = {0};

    snprintf(disk.name, sizeof disk.name, "%s", l->name);
    MUST(fd >= 0 && attach(&disk, &t, &e) == 0);
    is_int(track_waiting(t, &written_before), 0, "nothing waits");
    for (int i = 0; i < 3; i++)
        MUST(pwrite(fd, after, TRACK_PAGE_SIZE, 5 * TRACK_CHUNK_SIZE) == TRACK_PAGE_SIZE);
    is_int(track_waiting(t, &written_first), small, "a page that was written three times waits once");
    ok(written_first > written_before, "though it was written");
    MUST(pwrite(fd, after, 2 * TRACK_CHUNK_SIZE, 8 * TRACK_CHUNK_SIZE) == 2 * TRACK_CHUNK_SIZE);
    is_int(track_waiting(t, &written), small + 2 * TRACK_CHUNK_SIZE, "and two whole chunks");
    ok(took(track_take(t, 0, note, pages, &e), 3, &e), "they are there to be taken yet %s", e.message);
    is_int(track_waiting(t, &written), 0, "and then none waits");
    close(fd);
}

static void test_grown(struct loopdev *l)
{
    struct track_disk disk = {.size_bytes = SIZE / 2};
    CLEANUP(track_close) struct tracker *t = NULL;
    static uint32_t pages[CHUNKS];
    struct err e = {0};

    snprintf(disk.name, sizeof disk.name, "%s", l->name);
    MUST(attach(&disk, &t, &e) == 0);
    MUST(pwrite(l->fd, "x", 1, SIZE - 100) == 1 && fsync(l->fd) == 0);
    is_int(track_take(t, 0, note, pages, &e), -1, "a write beyond the known end: %s", e.message);
    is_int(e.kind, ERR_CORRUPT, "says that marks were lost");
    ok(took(track_take(t, 0, note, pages, &e), 0, &e), "once");
}

/* Ranges of all lengths, from where blocks and spans begin and end: marked is what was written, and of large ones what lies in the same spans or blocks. */
static void test_ranges(struct loopdev *l)
{
    static const struct {
        int64_t first, count; /* sectors */
    } ranges[] = {{0, 1}, {127, 2}, {63 * 128, 64 * 128}, {5, 64 * 128}, {64 * 128, 64 * 128 + 1}, {100 * 128 + 1, 900 * 128}, {SIZE / 512 - 9, 9}, {SIZE / 512 - 65 * 128, 65 * 128}, {0, SIZE / 512}};
    struct track_disk disk = {.size_bytes = SIZE};
    CLEANUP(track_close) struct tracker *t = NULL;
    struct err e = {0};

    snprintf(disk.name, sizeof disk.name, "%s", l->name);
    MUST(attach(&disk, &t, &e) == 0);
    for (size_t i = 0; i < ARRAY_COUNT(ranges); i++) {
        int64_t first = ranges[i].first / 128, last = (ranges[i].first + ranges[i].count - 1) / 128, missed = 0, far = 0, got;
        uint64_t range[2] = {(uint64_t)ranges[i].first * 512, (uint64_t)ranges[i].count * 512};
        static uint32_t pages[CHUNKS];

        memset(pages, 0, sizeof pages);
        MUST(ioctl(l->fd, BLKZEROOUT, range) == 0);
        got = track_take(t, 0, note, pages, &e);
        if (got < 0) {
            tap_note("the kernel passed the tracker over, and that was seen: %s", e.message);
            err_clear(&e);
            continue;
        }
        for (int64_t c = 0; c < CHUNKS; c++) {
            missed += c >= first && c <= last && pages[c] == 0;
            far += pages[c] && (c / 64 < first / 64 || c / 64 > last / 64);
        }
        ok(missed == 0 && far == 0, "%lld sectors at %lld: %lld chunks are marked, none is missed and none is far off", (long long)ranges[i].count, (long long)ranges[i].first, (long long)got);
    }
}

static void test_way(struct loopdev *l, enum track_way which, unsigned lacks)
{
    way = which;
    absent = lacks;
    marked_by_page = 0;
    test_all_ways(l, "mkfs.ext4 -q -F");
    test_all_ways(l, "mkfs.ext4 -q -F -b 1024");
    for (int i = 0; i < 5 && !marked_by_page; i++)
        test_all_ways(l, "mkfs.ext4 -q -F");
    ok(marked_by_page > 0, "marks were what was looked at");
    test_replica(l);
    test_waiting(l);
    test_ranges(l);
    test_grown(l);
}

static void test_sums(void)
{
    CLEANUP(track_sums_free) struct track_sums *s = track_sums_new(3);

    ok(track_sums_changed(s, 2, "abc", 3), "an unknown chunk is changed");
    ok(!track_sums_changed(s, 2, "abc", 3), "the same content isn't");
    ok(track_sums_changed(s, 2, "abd", 3), "other content is");
    track_sums_forget(s, 2);
    ok(track_sums_changed(s, 2, "abd", 3), "a forgotten chunk is");
}

int main(void)
{
    struct track_disk missing = {.name = "no-such-disk", .size_bytes = 1 << 20};
    struct tracker *none = NULL;
    struct loopdev l;
    struct err e = {0};

    test_sums();
    MUST(mkdtemp(folder) != NULL);
    if (geteuid() != 0 || loopdev_make(&l, folder, "disk", SIZE) < 0) {
        rmdir(folder);
        printf("1..0 # SKIP needs root and loop devices\n");
        return 0;
    }
    MUST(posix_memalign((void **)&before, 4096, SIZE) == 0 && posix_memalign((void **)&after, 4096, SIZE) == 0); /* for O_DIRECT */
    is_int(track_open(&missing, 1, &none, &e), -1, "a disk that isn't there: %s", e.message);
    test_way(&l, TRACK_WAY_BEST, 0);
    test_way(&l, TRACK_WAY_TYPES, 1u << NEED_ATOMICS);
    test_way(&l, TRACK_WAY_FORMAT, 1u << NEED_TYPES);
    test_way(&l, TRACK_WAY_FORMAT, 1u << NEED_TYPES | 1u << NEED_MAPPED); /* before 5.5 */
    ok(track_writes_by_stat(l.name) != TRACK_WRITES_UNKNOWN, "the kernel's own count");
    loopdev_remove(&l);
    free(before);
    free(after);
    ok(run("rm -rf %s", folder) == 0, "cleared");
    return tap_done();
}
