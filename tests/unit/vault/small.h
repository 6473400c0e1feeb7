/* small: a vault of small segments in a folder of its own, with one disk of noise; damage; what the index has. For the vault's unit tests. */
#pragma once

#include "base/file.h"
#include "tap.h"
#include "vault/internal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define SEGMENTS_MOST 100
#define SERVER "web01"

static char dir[64];
static struct vault *v;
static struct vault_disk disk;
static struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1, .cache_bytes = CHUNK};

static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

/* 1: it is in the map; else as vault_store and vault_map. */
static int put(uint64_t index, uint64_t seed)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    fill(bytes, seed);
    return vault_store(v, bytes, NULL, &hash, NULL, NULL) < 0 ? -1 : vault_map(v, &disk, index, &hash, NULL);
}

__attribute__((unused)) static struct vault_point point(void)
{
    struct vault_point p = {0};
    struct err e = {0};

    ok(vault_point_commit(v, SERVER, 0, "crash", 0, &p, &e) == 0, "a point %s", e.message);
    return p;
}

static void open_it(uint64_t chunk_count)
{
    struct err e = {0};

    ok(vault_open(dir, &options, &v, &e) == 0 && vault_disk_open(v, SERVER, "d", chunk_count * CHUNK, &disk, &e) == 0, "the vault opens %s", e.message);
}

/* Every step-th of its chunks is noise (of seed and where it lies), all others are zeros. */
static void begin(uint64_t chunk_count, uint64_t step, uint64_t seed)
{
    snprintf(dir, sizeof dir, "/tmp/vault-small.XXXXXX");
    MUST(mkdtemp(dir));
    open_it(chunk_count);
    MUST(vault_map_zero(v, &disk, 0, chunk_count, NULL) == 0);
    for (uint64_t i = 0; i < chunk_count; i += step)
        MUST(put(i, seed + i) == 1);
}

static void end(void)
{
    char command[96];

    vault_close(&v);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    MUST(system(command) == 0);
}

/* What is appended from now on goes to the next segment. */
__attribute__((unused)) static void seal_current(void) { MUST(current_seal(v, NULL) == 0 && vault_sync(v, NULL) == 0); }

__attribute__((unused)) static uint64_t rows(enum index_table t)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    uint64_t count = 0;

    MUST(index_begin(&v->index, false, &txn, NULL) == 0 && index_count(&v->index, txn, t, &count, NULL) == 0);
    return count;
}

struct damaging {
    int fd;
    enum record_kind kind;
    int first, count; /* of that kind */
};

static int damage_record(const struct record *r, uint64_t offset, const uint8_t *payload, void *user, struct err *e)
{
    struct damaging *d = user;
    uint8_t byte = payload[6] ^ 0x55;

    if (r->kind != d->kind || d->first-- > 0 || d->count-- <= 0)
        return 0;
    return fd_pwrite_all(d->fd, &byte, 1, (int64_t)offset + RECORD_HEADER_SIZE + 6, e);
}

/* In their order, from the first on; what is read again is not read from memory. */
__attribute__((unused)) static void damage(enum record_kind kind, int first, int count)
{
    for (uint32_t id = 1; id < SEGMENTS_MOST; id++) {
        char folder[80];
        CLEANUP(free_ptr) char *path = NULL;
        CLEANUP(close_fd) int fd = -1;
        struct segment_state state;
        struct damaging d = {.kind = kind, .first = first, .count = count};

        snprintf(folder, sizeof folder, "%s/segments", dir);
        path = segment_path(folder, id);
        d.fd = fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            continue;
        (void)segment_scan(fd, 0, damage_record, &d, &state, NULL);
        first = d.first;
        count = d.count;
    }
}
