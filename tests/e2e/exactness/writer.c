/* writer SEED DISK PARTITION RAW FILESYSTEM FILE FOLDER: writes to a disk in every way, and knows what it must hold (model.h).
 *
 * DISK and PARTITION: device nodes of the disk and of a partition that holds no filesystem. RAW: "BEGIN-END,…", the spans of DISK in bytes that nothing
 * else uses, outside the partition and in it. FILESYSTEM: the node of another partition, whose mounted filesystem FILE and FOLDER are in. Two files are
 * made, "FILE0" and "FILE1", whose blocks never move; in FOLDER everything changes.
 *
 * Orders on stdin, one a line, each answered by a line of JSON:
 *   hush, go            no write begins until go, and none is under way where no frozen filesystem holds it
 *   begin, end          a point is about to be asked for; it was answered
 *   check IMAGE         the point's image against the model
 *   same IMAGE          the image against the disk, byte by byte: for a disk that stands still
 *   stats               writes so far */
#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DISK_LANES 4
#define PARTITION_LANES 3
#define FILE_LANES 2
#define SLOT_SECTORS 120u   /* 60 KiB: no multiple of a chunk, so that chunks are shared and borders crossed */
#define BIG_SECTORS 18432u  /* 9 MiB for the lane of large writes: more than a word of marks, 64 chunks */
#define BIG_MOST 2048u      /* 1 MiB */
#define FILE_SECTORS 4096u
#define SAME_STEP (1u << 20)

struct span {
    uint64_t begin, end; /* bytes of the disk */
};

static struct lane_writer writers[LANES_MAX];
static struct lane *lanes[LANES_MAX];
static int lane_count;
static struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
static struct churn churn = {.gate = &gate};
static uint64_t seed;

void die(const char *what)
{
    fprintf(stderr, "writer: %s: %s\n", what, strerror(errno));
    _exit(1);
}

uint64_t random_next(struct random *r)
{
    uint64_t x = r->state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

uint32_t random_below(struct random *r, uint32_t limit) { return (uint32_t)((random_next(r) >> 32) * limit >> 32); }

/* ---- the gate ---- */

bool gate_enter(struct gate *g, bool counted)
{
    bool open;

    pthread_mutex_lock(&g->lock);
    while ((g->resting || g->hushed) && !g->ending)
        pthread_cond_wait(&g->changed, &g->lock);
    open = !g->ending;
    g->busy += open && counted;
    pthread_mutex_unlock(&g->lock);
    return open;
}

void gate_leave(struct gate *g, bool counted)
{
    pthread_mutex_lock(&g->lock);
    g->busy -= counted;
    if (!g->busy)
        pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

static void gate_hush(bool hushed)
{
    pthread_mutex_lock(&gate.lock);
    gate.hushed = hushed;
    pthread_cond_broadcast(&gate.changed);
    while (hushed && gate.busy)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

/* Bursts and rests of random length; a long rest now and then, for machines on which a point takes its time. */
static void *keep_rhythm(void *nothing)
{
    struct random r = {seed ^ 77};

    for (bool resting = false;; resting = !resting) {
        pthread_mutex_lock(&gate.lock);
        gate.resting = resting;
        pthread_cond_broadcast(&gate.changed);
        pthread_mutex_unlock(&gate.lock);
        if (resting)
            usleep(10000 + random_below(&r, random_below(&r, 6) ? 190000 : 1500000));
        else
            usleep(20000 + random_below(&r, 380000));
    }
    return nothing;
}

/* ---- areas ---- */

static int open_node(const char *path, int flags)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | flags, 0600);

    if (fd < 0)
        die(path);
    return fd;
}

static struct lane_writer *add_lane(const char *node, uint32_t most, bool in_file)
{
    struct lane_writer *w = &writers[lane_count];
    void *block;

    MUST(lane_count < LANES_MAX && posix_memalign(&block, 4096, (size_t)most * SECTOR) == 0);
    *w = (struct lane_writer){.gate = &gate, .random = {seed * LANES_MAX + (unsigned)lane_count}, .node = node, .direct = open_node(node, O_DIRECT),
                              .buffered = open_node(node, 0), .most = most, .zeroes = !in_file, .counted = !in_file, .block = block};
    lane_count++;
    return w;
}

static void add_piece(struct lane_writer *w, uint64_t offset, uint32_t count)
{
    uint32_t first = w->piece_count ? w->pieces[w->piece_count - 1].first + w->pieces[w->piece_count - 1].count : 0;

    w->pieces = xrealloc(w->pieces, (w->piece_count + 1) * sizeof *w->pieces);
    w->pieces[w->piece_count++] = (struct piece){offset, first, count};
}

/* The node begins at that byte of the disk. */
static void finish_lane(struct lane_writer *w, uint64_t node_begin)
{
    const struct piece *last = &w->pieces[w->piece_count - 1];
    CLEANUP(free_ptr) uint32_t *places = xcalloc(last->first + last->count, sizeof *places);

    for (const struct piece *p = w->pieces; p <= last; p++)
        for (uint32_t i = 0; i < p->count; i++)
            places[p->first + i] = (uint32_t)((node_begin + p->offset) / SECTOR) + i;
    lanes[w - writers] = w->lane = lane_new((unsigned)(w - writers), seed, places, last->first + last->count);
}

static uint64_t begin_of(const char *partition)
{
    struct stat st;
    char path[128];
    uint64_t sectors;
    FILE *file;

    if (stat(partition, &st) < 0)
        die(partition);
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/start", major(st.st_rdev), minor(st.st_rdev));
    file = fopen(path, "re");
    if (!file || fscanf(file, "%" SCNu64, &sectors) != 1)
        die(path);
    fclose(file);
    return sectors * SECTOR;
}

static uint64_t size_of(const char *node)
{
    int fd = open_node(node, 0);
    uint64_t size;

    if (ioctl(fd, BLKGETSIZE64, &size) < 0)
        die(node);
    close(fd);
    return size;
}

/* Slots in turns: those that lie in the partition go to its lanes and the disk's, the others to the disk's. The last span's begin is the big
 * lane's. */
static void share_out(const struct span *spans, int span_count, const char *disk, const char *partition)
{
    uint64_t inside = begin_of(partition), inside_end = inside + size_of(partition);
    int turn = 0;

    for (int i = 0; i < DISK_LANES; i++)
        add_lane(disk, SLOT_SECTORS, false);
    for (int i = 0; i < PARTITION_LANES; i++)
        add_lane(partition, SLOT_SECTORS, false);
    add_piece(add_lane(disk, BIG_MOST, false), spans[span_count - 1].begin, BIG_SECTORS);
    for (int i = 0; i < span_count; i++)
        for (uint64_t at = spans[i].begin + (i == span_count - 1 ? BIG_SECTORS * SECTOR : 0); at + SLOT_SECTORS * SECTOR <= spans[i].end;
             at += SLOT_SECTORS * SECTOR, turn++) {
            bool in = at >= inside && at + SLOT_SECTORS * SECTOR <= inside_end;
            int lane = turn % (in ? DISK_LANES + PARTITION_LANES : DISK_LANES);

            add_piece(&writers[lane], lane < DISK_LANES ? at : at - inside, SLOT_SECTORS);
        }
    for (int i = 0; i < lane_count; i++)
        finish_lane(&writers[i], i >= DISK_LANES && i < DISK_LANES + PARTITION_LANES ? inside : 0);
}

/* Where the file's sectors are on the disk; it was written once, so that nothing moves any more. */
static void map_file(struct lane_writer *w, int fd, uint64_t partition_begin)
{
    struct fiemap *map = xcalloc(1, sizeof *map + 64 * sizeof map->fm_extents[0]);
    CLEANUP(free_ptr) struct fiemap *held = map;
    CLEANUP(free_ptr) uint32_t *places = xcalloc(FILE_SECTORS, sizeof *places);
    uint32_t known = 0;

    map->fm_length = UINT64_MAX;
    map->fm_extent_count = 64;
    map->fm_flags = FIEMAP_FLAG_SYNC;
    if (ioctl(fd, FS_IOC_FIEMAP, map) < 0)
        die("where the file is");
    for (uint32_t i = 0; i < map->fm_mapped_extents; i++) {
        const struct fiemap_extent *x = &map->fm_extents[i];

        MUST((x->fe_flags & ~(uint32_t)FIEMAP_EXTENT_LAST) == 0);
        for (uint64_t at = 0; at < x->fe_length && x->fe_logical + at < (uint64_t)FILE_SECTORS * SECTOR; at += SECTOR, known++)
            places[(x->fe_logical + at) / SECTOR] = (uint32_t)((partition_begin + x->fe_physical + at) / SECTOR);
    }
    MUST(known == FILE_SECTORS);
    add_piece(w, 0, FILE_SECTORS);
    lanes[w - writers] = w->lane = lane_new((unsigned)(w - writers), seed, places, FILE_SECTORS);
}

static void add_file(const char *path, uint64_t partition_begin)
{
    CLEANUP(close_fd) int fd = open_node(path, O_CREAT | O_EXCL);
    CLEANUP(free_ptr) uint8_t *zeros = xcalloc(FILE_SECTORS, SECTOR);

    if (write(fd, zeros, FILE_SECTORS * SECTOR) != (ssize_t)(FILE_SECTORS * SECTOR) || fsync(fd) < 0)
        die(path);
    map_file(add_lane(path, SLOT_SECTORS, true), fd, partition_begin);
}

static int read_spans(char *text, struct span *spans, int limit)
{
    int count = 0;

    for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
        MUST(count < limit && sscanf(word, "%" SCNu64 "-%" SCNu64, &spans[count].begin, &spans[count].end) == 2);
        count++;
    }
    MUST(count > 0);
    return count;
}

/* ---- orders ---- */

static const uint8_t *map_image(const char *path, size_t *size)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *at;

    if (fd < 0 || fstat(fd, &st) < 0)
        die(path);
    *size = (size_t)st.st_size;
    at = mmap(NULL, *size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED)
        die(path);
    return at;
}

static void check(const char *path)
{
    struct verdict v;
    size_t size;
    const uint8_t *image = map_image(path, &size);

    model_check(lanes, lane_count, image, &v);
    munmap((void *)(uintptr_t)image, size);
    printf("{\"sectors\":%" PRIu64 ",\"in_flight\":%" PRIu64 ",\"torn_in_flight\":%" PRIu64 ",\"words\":\"%s\"", v.sectors, v.in_flight, v.torn,
           v.words);
    for (int i = 0; i < FAULT_KINDS; i++)
        printf(",\"%s\":%" PRIu64, fault_names[i], v.faults[i]);
    puts("}");
}

static void same(const char *path)
{
    CLEANUP(close_fd) int fd = open_node(writers[0].node, O_DIRECT);
    uint64_t differing = 0, first = 0;
    size_t size;
    const uint8_t *image = map_image(path, &size);
    void *block;

    MUST(posix_memalign(&block, 4096, SAME_STEP) == 0 && size % SAME_STEP == 0);
    for (size_t at = 0; at < size; at += SAME_STEP) {
        if (pread(fd, block, SAME_STEP, (off_t)at) != SAME_STEP)
            die("reading the disk");
        for (size_t i = 0; i < SAME_STEP; i += SECTOR)
            if (memcmp((uint8_t *)block + i, image + at + i, SECTOR) != 0 && !differing++)
                first = at + i;
    }
    free(block);
    munmap((void *)(uintptr_t)image, size);
    printf("{\"bytes\":%zu,\"differing\":%" PRIu64 ",\"first\":%" PRIu64 "}\n", size, differing, first);
}

static void stats(void)
{
    uint64_t writes = 0, zeros = 0;

    for (int i = 0; i < lane_count; i++) {
        writes += atomic_load(&lanes[i]->acknowledged);
        zeros += writers[i].zero_writes;
    }
    printf("{\"writes\":%" PRIu64 ",\"zeroing\":%" PRIu64 ",\"files\":%" PRIu64 "}\n", writes, zeros, churn.operations);
}

static void obey(char *line)
{
    char *word = strtok(line, " \n"), *path = strtok(NULL, "\n");

    if (!word)
        return;
    if (strcmp(word, "check") == 0 && path)
        check(path);
    else if (strcmp(word, "same") == 0 && path)
        same(path);
    else if (strcmp(word, "stats") == 0)
        stats();
    else if (strcmp(word, "begin") == 0)
        model_begin(lanes, lane_count), puts("{}");
    else if (strcmp(word, "end") == 0)
        model_end(lanes, lane_count), puts("{}");
    else if (strcmp(word, "hush") == 0 || strcmp(word, "go") == 0)
        gate_hush(*word == 'h'), puts("{}");
    else
        printf("{\"error\":\"no such order\"}\n");
    fflush(stdout);
}

static void start(void *(*run)(void *), void *user)
{
    pthread_t thread;

    MUST(pthread_create(&thread, NULL, run, user) == 0);
}

int main(int count, char **words)
{
    struct span spans[16];
    char line[1024], names[FILE_LANES][512];
    int span_count;

    if (count != 8) {
        fputs("usage: writer SEED DISK PARTITION RAW FILESYSTEM FILE FOLDER\n", stderr);
        return 2;
    }
    seed = strtoull(words[1], NULL, 10);
    span_count = read_spans(words[4], spans, 16);
    share_out(spans, span_count, words[2], words[3]);
    for (int i = 0; i < FILE_LANES; i++) {
        snprintf(names[i], sizeof names[i], "%s%d", words[6], i);
        add_file(names[i], begin_of(words[5]));
    }
    churn.folder = words[7];
    churn.random.state = seed ^ 99;
    for (int i = 0; i < lane_count; i++)
        start(lane_run, &writers[i]);
    start(churn_run, &churn);
    start(keep_rhythm, NULL);
    puts("{}");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        obey(line);
    return 0; /* the threads end with the process */
}
