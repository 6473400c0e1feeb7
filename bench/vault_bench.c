/* vault_bench FOLDER FILE FILE: what the vault does alone, without a network or an agent: puts two files as two servers' disks (each by a thread of its
 * own), makes a point of each, reads both points back, scrubs, drops the second server and gives its space back. Prints {"bytes","put_s","get_s",
 * "scrub_s","gc_s","freed_bytes","stored_bytes","kept_bytes"}. Every byte that is read back is compared, after the clock has stopped.
 *
 * vault_bench index FOLDER CHUNKS: what the index of so many chunks takes: {"index_bytes","index_raw_bytes","memory_bytes","tables":{name:bytes}}; memory: the most that
 * the process held at any time; tables: LMDB's pages in use, the rest of its file is free. */
#include "base/clock.h"
#include "base/file.h"
#include "vault/index.h"
#include "vault/vault.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIDES 2
#define DISK "disk"
#define READ_BYTES (1 << 20)

struct side { /* a file, and the server that it is a disk of */
    struct vault *v;
    const char *server;
    uint8_t *bytes; /* the file, mapped */
    uint64_t size_bytes;
    struct vault_point point;
    uint8_t *back; /* what was read of the point */
    struct err e;
};

static double seconds_since(int64_t begin_us) { return (double)(clock_monotonic_us() - begin_us) / US_PER_S; }

static long long memory_bytes(void)
{
    CLEANUP(buf_release) struct buf text = {0};
    const char *found = file_read("/proc/self/status", 65536, &text, NULL) == 0 ? strstr(text.data, "VmHWM:") : NULL;

    return found ? strtoll(found + strlen("VmHWM:"), NULL, 10) * 1024 : 0; /* what getrusage says begins with what our parent held */
}

static int open_side(struct side *s, const char *path, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;

    if (fd < 0 || fstat(fd, &about) < 0)
        return err_errno(e, errno, "can't open %s", path);
    if (about.st_size == 0 || about.st_size % READ_BYTES)
        return err_set(e, ERR_INVALID, "%s must be some whole MiB long", path);
    s->size_bytes = (uint64_t)about.st_size;
    s->bytes = mmap(NULL, s->size_bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    s->back = mmap(NULL, s->size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->bytes == MAP_FAILED || s->back == MAP_FAILED)
        return err_errno(e, errno, "there is no memory for %s", path);
    return 0;
}

static int put(struct side *s, struct err *e)
{
    struct vault_disk disk;
    struct vault_hash hash;

    if (vault_disk_open(s->v, s->server, DISK, s->size_bytes, &disk, e) < 0)
        return -1;
    for (uint64_t i = 0; i < disk.chunk_count; i++)
        if (vault_store(s->v, s->bytes + i * VAULT_CHUNK_BYTES, NULL, &hash, NULL, e) < 0 || vault_map(s->v, &disk, i, &hash, e) != 1)
            return -1;
    return vault_sync(s->v, e) < 0 ? -1 : vault_point_commit(s->v, s->server, 0, "crash", 0, &s->point, e);
}

static int get(struct side *s, struct err *e)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;

    if (vault_image_open(s->v, s->point.id, DISK, &image, e) < 0)
        return -1;
    for (uint64_t at = 0; at < s->size_bytes; at += READ_BYTES)
        if (vault_image_read(image, s->back + at, READ_BYTES, at, e) < 0)
            return -1;
    return 0;
}

static void *put_thread(void *side) { return put(side, &((struct side *)side)->e), NULL; }
static void *get_thread(void *side) { return get(side, &((struct side *)side)->e), NULL; }

/* Both sides at once. */
static int on_both(struct side *sides, void *(*work)(void *), double *seconds, struct err *e)
{
    int64_t begin_us = clock_monotonic_us();
    pthread_t threads[SIDES];

    for (int i = 0; i < SIDES; i++)
        MUST(pthread_create(&threads[i], NULL, work, &sides[i]) == 0);
    for (int i = 0; i < SIDES; i++)
        pthread_join(threads[i], NULL);
    *seconds = seconds_since(begin_us);
    for (int i = 0; i < SIDES; i++)
        if (sides[i].e.kind)
            return err_set(e, sides[i].e.kind, "%s", sides[i].e.message);
    return 0;
}

static int check_back(const struct side *sides, struct err *e)
{
    for (int i = 0; i < SIDES; i++)
        if (memcmp(sides[i].bytes, sides[i].back, sides[i].size_bytes) != 0)
            return err_set(e, ERR_CORRUPT, "what was read back of %s is not what was put", sides[i].server);
    return 0;
}

static int scrub(struct vault *v, double *seconds, struct err *e)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    int64_t begin_us = clock_monotonic_us();

    if (vault_scrub(v, NULL, NULL, &report, e) < 0)
        return -1;
    *seconds = seconds_since(begin_us);
    return report.finding_count ? err_set(e, ERR_CORRUPT, "the scrub found: %s", report.findings[0].text) : 0;
}

static int measure(const char *folder, struct side *sides, struct err *e)
{
    struct vault_options options = {.scrub_threads = SIDES};
    CLEANUP(vault_close) struct vault *v = NULL;
    double put_s, get_s, scrub_s, gc_s;
    struct vault_stat full, kept;
    uint64_t freed = 0;
    int64_t begin_us;

    if (vault_open(folder, &options, &v, e) < 0)
        return -1;
    sides[0].v = sides[1].v = v;
    if (on_both(sides, put_thread, &put_s, e) < 0 || vault_stat(v, &full, e) < 0)
        return -1;
    vault_close(&v); /* what it held in memory is gone; the page cache is warm, as for the peers */
    if (vault_open(folder, &options, &v, e) < 0)
        return -1;
    sides[0].v = sides[1].v = v;
    if (on_both(sides, get_thread, &get_s, e) < 0 || check_back(sides, e) < 0 || scrub(v, &scrub_s, e) < 0)
        return -1;
    begin_us = clock_monotonic_us();
    if (vault_server_drop(v, sides[1].server, e) < 0 || vault_gc(v, &freed, e) < 0)
        return -1;
    gc_s = seconds_since(begin_us);
    if (vault_stat(v, &kept, e) < 0 || get(&sides[0], e) < 0 || check_back(sides, e) < 0)
        return -1;
    printf("{\"bytes\":%llu,\"put_s\":%.3f,\"get_s\":%.3f,\"scrub_s\":%.3f,\"gc_s\":%.3f,\"freed_bytes\":%llu,\"stored_bytes\":%llu,\"kept_bytes\":%llu}\n",
           (unsigned long long)(sides[0].size_bytes + sides[1].size_bytes), put_s, get_s, scrub_s, gc_s, (unsigned long long)freed,
           (unsigned long long)full.stored_bytes, (unsigned long long)kept.stored_bytes);
    return 0;
}

/* A chunk that no other is equal to, and that costs little to compress. */
static void make_chunk(uint8_t *chunk, uint64_t number)
{
    memcpy(chunk, &number, sizeof number);
    chunk[sizeof number] = 1; /* never zero */
}

static int fill_index(struct vault *v, uint64_t count, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *chunk = xcalloc(1, VAULT_CHUNK_BYTES);
    struct vault_disk disk;
    struct vault_hash hash;
    struct vault_point *point;
    int result;

    if (vault_disk_open(v, "web01", DISK, count * VAULT_CHUNK_BYTES, &disk, e) < 0)
        return -1;
    for (uint64_t i = 0; i < count; i++) {
        make_chunk(chunk, i);
        if (vault_store(v, chunk, NULL, &hash, NULL, e) < 0 || vault_map(v, &disk, i, &hash, e) != 1 || (i % 4096 == 0 && vault_sync(v, e) < 0))
            return -1;
    }
    point = xcalloc(1, sizeof *point);
    result = vault_sync(v, e) < 0 ? -1 : vault_point_commit(v, "web01", 0, "crash", 0, point, e);
    free(point);
    return result;
}

static int print_tables(const char *folder, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/index", folder);
    CLEANUP(index_close) struct vault_index x = {0};
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    uint64_t bytes;

    if (index_open(path, &x, e) < 0 || index_begin(&x, false, &txn, e) < 0)
        return -1;
    for (enum index_table t = 0; t < INDEX_TABLES; t++) {
        if (index_table_bytes(&x, txn, t, &bytes, e) < 0)
            return -1;
        printf("%s\"%s\":%llu", t ? "," : "", index_table_name(t), (unsigned long long)bytes);
    }
    return 0;
}

/* What the index takes on disk: LMDB's file, where it is not a hole. */
static int measure_index(const char *folder, uint64_t count, struct err *e)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(free_ptr) char *path = xasprintf("%s/index/data.mdb", folder);
    struct stat about;

    if (vault_open(folder, NULL, &v, e) < 0 || fill_index(v, count, e) < 0)
        return -1;
    if (stat(path, &about) < 0)
        return err_errno(e, errno, "can't look at %s", path);
    printf("{\"index_bytes\":%lld,\"index_raw_bytes\":%llu,\"memory_bytes\":%lld,\"tables\":{", (long long)about.st_blocks * 512, (unsigned long long)(count * VAULT_CHUNK_BYTES),
           memory_bytes());
    vault_close(&v);
    if (print_tables(folder, e) < 0)
        return -1;
    printf("}}\n");
    return 0;
}

int main(int argc, char **argv)
{
    struct side *sides = xcalloc(SIDES, sizeof *sides);
    struct err e = {0};

    sides[0].server = "web01";
    sides[1].server = "web02";
    if (argc != 4) {
        fprintf(stderr, "usage: vault_bench FOLDER FILE FILE | index FOLDER CHUNKS\n");
        return 2;
    }
    if (strcmp(argv[1], "index") == 0)
        measure_index(argv[2], (uint64_t)atoll(argv[3]), &e);
    else if (open_side(&sides[0], argv[2], &e) == 0 && open_side(&sides[1], argv[3], &e) == 0)
        measure(argv[1], sides, &e);
    if (e.kind)
        fprintf(stderr, "vault_bench: %s\n", e.message);
    return e.kind != 0;
}
