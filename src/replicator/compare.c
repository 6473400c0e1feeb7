/* compare: a source against its recovery point, every block. Where the source is not held, it may have moved on: of each block that differs
 * we look whether the vault has received a later content of it. The agent hashes its disks; we read the point through its own NBD export
 * with a real client, the way an instance does, and hash what we read. */
#include "base/hash.h"
#include "base/log.h"
#include "replicator/compared.h"
#include "replicator/orders.h"
#include "replicator/private.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES (1u << 20)
#define COMPARE_LIMIT_US (12 * 3600 * US_PER_S)
#define ABSENCE_LIMIT_US (10 * 60 * US_PER_S) /* so long an agent may be away; what was hashed is kept for longer (compared.h) */
#define ABSENCE_LOOK_US (200 * US_PER_MS)
#define DIFFERENCES_TOLD 8

struct pair {
    const struct vault_point_disk *disk;
    int target_fd; /* one SHA-256 for each chunk, in a file without a name */
    char source_sha256[HASH_SHA256_HEX_SIZE], target_sha256[HASH_SHA256_HEX_SIZE];
};

struct comparison {
    struct talk *t;
    struct peer *p;
    const struct vault_point *point;
    struct compared *source;
    struct pair pairs[LIMIT_DISKS_PER_SERVER];
    bool asked;                           /* the slot is ours */
    int64_t deadline_us, absent_since_us; /* while it is not */
    uint64_t total_bytes, done_bytes; /* total_bytes: of both sides */
    uint8_t *buffer; /* READ_BYTES */
    uint8_t hash_of_zeros[HASH_SHA256_SIZE]; /* of a chunk */
};

static void comparison_free(struct comparison **held)
{
    struct comparison *c = *held;

    for (size_t i = 0; c && i < c->point->disk_count; i++)
        close_fd(&c->pairs[i].target_fd);
    if (c) {
        compared_free(&c->source);
        free(c->buffer);
    }
    free(c);
    *held = NULL;
}

static void nbd_release(struct nbd_handle **h)
{
    if (*h)
        nbd_close(*h);
}

/* Not in memory: 32 bytes for each 64 KiB of all disks may be much. */
static int scratch(struct replicator *r, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/compare.XXXXXX", r->home);
    int fd = mkostemp(path, O_CLOEXEC);

    if (fd < 0)
        return err_errno(e, errno, "can't make a file in %s", r->home);
    unlink(path);
    return fd;
}

static int pair_disks(struct comparison *c, struct err *e)
{
    struct peer *p = c->p;
    int result;

    pthread_mutex_lock(&p->lock);
    result = p->session ? 0 : peer_absent(p, e); /* of an agent that we have not heard yet, the disks are not known */
    for (size_t i = 0; i < c->point->disk_count && result == 0; i++) {
        struct pair *pair = &c->pairs[i];
        bool there = false;

        pair->disk = &c->point->disks[i];
        for (int64_t d = 0; d < p->hello.disk_count; d++)
            there = there || (strcmp(p->hello.disks[d].id, pair->disk->id) == 0 && (uint64_t)p->hello.disks[d].size_bytes == pair->disk->size_bytes);
        if (!there)
            result = err_set(e, ERR_CONFLICT, "the source has no disk %s of %llu bytes any more", pair->disk->id,
                             (unsigned long long)pair->disk->size_bytes);
    }
    pthread_mutex_unlock(&p->lock);
    return result;
}

static int open_scratch(struct comparison *c, struct err *e)
{
    for (size_t i = 0; i < c->point->disk_count; i++)
        if ((c->pairs[i].target_fd = scratch(c->p->r, e)) < 0)
            return -1;
    return 0;
}

/* ---- the source ---- */

/* How much of its disks has been hashed already. */
static int64_t source_bytes(const struct comparison *c)
{
    int64_t chunks = 0;

    for (size_t i = 0; i < c->point->disk_count; i++)
        chunks += compared_chunks(c->source, i);
    return chunks * (int64_t)VAULT_CHUNK_BYTES;
}

static void tell_progress(struct comparison *c)
{
    int64_t done = source_bytes(c) + (int64_t)c->done_bytes;

    if (!c->asked)
        return;
    pthread_mutex_lock(&c->p->lock);
    c->p->slots[SLOT_HASH].bytes_done = done < (int64_t)c->total_bytes ? done : (int64_t)c->total_bytes; /* a disk's last chunk may be a part of one */
    c->p->slots[SLOT_HASH].bytes_total = (int64_t)c->total_bytes;
    pthread_mutex_unlock(&c->p->lock);
}

static int ask_source(struct comparison *c, struct err *e)
{
    CLEANUP(free_ptr) struct wire_hash *ask = xcalloc(1, sizeof *ask);
    struct ask a = {SLOT_HASH, WIRE_HASH, ask, sizeof *ask, &ask->request, c->source->fd, false, false};

    if (pair_disks(c, e) < 0)
        return -1;
    ask->run = c->source->run;
    ask->disk_count = (int64_t)c->point->disk_count;
    for (size_t i = 0; i < c->point->disk_count; i++) {
        memcpy(ask->disks[i].id, c->pairs[i].disk->id, strlen(c->pairs[i].disk->id) + 1);
        ask->disks[i].from_chunk = compared_chunks(c->source, i);
    }
    c->asked = slot_ask(c->p, &a, c->deadline_us, e) == 0;
    return c->asked ? 0 : -1;
}

static bool is_lost(const struct comparison *c)
{
    bool lost;

    pthread_mutex_lock(&c->p->lock);
    lost = c->asked && c->p->slots[SLOT_HASH].lost;
    pthread_mutex_unlock(&c->p->lock);
    return lost;
}

/* The link was lost: from here on the agent is asked again once it is there. */
static void leave_lost(struct comparison *c)
{
    c->asked = false;
    c->absent_since_us = clock_monotonic_us();
    slot_leave(c->p, SLOT_HASH);
    log_warn("%s: the link was lost in the midst of a comparison with recovery point %s: it goes on at %lld MiB", c->p->server, c->point->id,
             (long long)(source_bytes(c) >> 20));
}

/* To be called often. Afterwards c->asked says whether the agent is at work; -1: it will not be any more. */
static int keep_asking(struct comparison *c, struct err *e)
{
    struct err why = {0};
    bool there;

    if (is_lost(c))
        leave_lost(c);
    pthread_mutex_lock(&c->p->lock);
    there = c->p->session && c->p->greeted;
    pthread_mutex_unlock(&c->p->lock);
    if (c->asked || (there && ask_source(c, &why) == 0))
        return 0;
    if (why.kind != ERR_NONE && why.kind != ERR_UNREACHABLE) {
        *e = why;
        return -1;
    }
    return clock_monotonic_us() - c->absent_since_us < ABSENCE_LIMIT_US ? 0 : peer_absent(c->p, e);
}

/* ---- our side ---- */

static int keep_hashes(struct pair *pair, const uint8_t *bytes, size_t size, uint64_t offset, struct err *e)
{
    uint8_t hashes[READ_BYTES / VAULT_CHUNK_BYTES][HASH_SHA256_SIZE];
    size_t count = size / VAULT_CHUNK_BYTES;
    ssize_t n;

    MUST(size % VAULT_CHUNK_BYTES == 0 && size <= READ_BYTES);
    for (size_t i = 0; i < count; i++)
        hash_sha256(bytes + i * VAULT_CHUNK_BYTES, VAULT_CHUNK_BYTES, hashes[i]);
    n = pwrite(pair->target_fd, hashes, count * HASH_SHA256_SIZE, (off_t)(offset / VAULT_CHUNK_BYTES * HASH_SHA256_SIZE));
    return n == (ssize_t)(count * HASH_SHA256_SIZE) ? 0 : err_errno(e, n < 0 ? errno : ENOSPC, "can't keep the copy's hashes");
}

static int read_target(struct comparison *c, struct pair *pair, struct nbd_handle *h, struct err *e)
{
    uint64_t size = pair->disk->size_bytes;
    uint8_t whole[HASH_SHA256_SIZE];
    struct hash *running = hash_new();
    int result = 0;

    if (nbd_get_size(h) != (int64_t)size)
        result = err_set(e, ERR_CONFLICT, "the export of %s has %lld bytes", pair->disk->id, (long long)nbd_get_size(h));
    for (uint64_t at = 0; at < size && result == 0; at += READ_BYTES) {
        size_t take = size - at < READ_BYTES ? (size_t)(size - at) : READ_BYTES;
        size_t padded = (take + VAULT_CHUNK_BYTES - 1) / VAULT_CHUNK_BYTES * VAULT_CHUNK_BYTES;

        if (nbd_pread(h, c->buffer, take, at, 0) < 0) {
            result = err_set(e, nbd_get_errno() == EIO ? ERR_CORRUPT : ERR_IO, "reading disk %s through its export: %s", pair->disk->id,
                             nbd_get_error());
            break;
        }
        hash_add(running, c->buffer, take);
        memset(c->buffer + take, 0, padded - take);
        result = keep_hashes(pair, c->buffer, padded, at, e);
        c->done_bytes += take;
        if (result == 0)
            result = keep_asking(c, e);
        if (result == 0 && talk_progress(c->t, (int64_t)c->done_bytes, (int64_t)c->total_bytes, "bytes"))
            result = err_set(e, ERR_CANCELLED, "whoever asked went away");
    }
    hash_end(running, whole);
    hash_free(&running);
    hash_hex(whole, sizeof whole, pair->target_sha256);
    return result;
}

static int read_targets(struct comparison *c, struct err *e)
{
    for (size_t i = 0; i < c->point->disk_count; i++) {
        CLEANUP(free_ptr) char *uri = orders_uri(c->p->r->nbd_path, NBD_LENT_PREFIX, c->point->id, c->pairs[i].disk->id);
        CLEANUP(nbd_release) struct nbd_handle *h = nbd_create();

        if (!h || nbd_connect_uri(h, uri) < 0)
            return err_set(e, ERR_UNREACHABLE, "can't connect to %s: %s", uri, nbd_get_error());
        if (read_target(c, &c->pairs[i], h, e) < 0)
            return -1;
        nbd_shutdown(h, 0);
    }
    return 0;
}

/* ---- the two sides ---- */

/* The chunks that differ, and those among them of which the vault has received another content since the point. */
struct differences {
    uint64_t count, received;
    json_t *at; /* borrowed: where the first ones begin */
};

/* The working map of the pair's disk. *out has chunk_count 0 where there is none any more. */
static int find_map(struct comparison *c, const struct pair *pair, struct vault_disk *out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_disk *disks = NULL;
    int count = vault_disk_list(c->p->r->vault, c->p->server, &disks, e);

    memset(out, 0, sizeof *out);
    for (int i = 0; i < count; i++)
        if (strcmp(disks[i].id, pair->disk->id) == 0)
            *out = disks[i];
    return count < 0 ? -1 : 0;
}

/* Whether the vault's map has another chunk there than the point, by its hash. */
static bool is_received(const struct comparison *c, const struct vault_hash *now, const uint8_t *point_hash)
{
    if (vault_hash_is_unknown(now))
        return false;
    if (vault_hash_is_zero(now)) /* a name, not a hash */
        return memcmp(point_hash, c->hash_of_zeros, sizeof c->hash_of_zeros) != 0;
    return memcmp(point_hash, now->bytes, sizeof now->bytes) != 0;
}

/* One piece of the two files of hashes, `here` of them. */
static int count_piece(struct comparison *c, const struct vault_disk *map, uint64_t first, size_t here, struct differences *d, struct err *e)
{
    const uint8_t *a = c->buffer, *b = c->buffer + READ_BYTES / 2;
    CLEANUP(free_ptr) struct vault_hash *now = NULL;

    if (memcmp(a, b, here * HASH_SHA256_SIZE) == 0)
        return 0;
    if (first + here <= map->chunk_count) {
        now = xcalloc(here, sizeof *now);
        if (vault_disk_read(c->p->r->vault, map, first, here, now, e) < 0)
            return -1;
    }
    for (size_t i = 0; i < here; i++, a += HASH_SHA256_SIZE, b += HASH_SHA256_SIZE) {
        if (memcmp(a, b, HASH_SHA256_SIZE) == 0)
            continue;
        if (d->count++ < DIFFERENCES_TOLD)
            json_array_append_new(d->at, json_integer((json_int_t)((first + i) * VAULT_CHUNK_BYTES)));
        d->received += now && is_received(c, &now[i], b);
    }
    return 0;
}

static int count_differences(struct comparison *c, size_t index, struct differences *d, struct err *e)
{
    struct pair *pair = &c->pairs[index];
    uint64_t chunks = (pair->disk->size_bytes + VAULT_CHUNK_BYTES - 1) / VAULT_CHUNK_BYTES;
    const size_t step = READ_BYTES / 2 / HASH_SHA256_SIZE;
    struct vault_disk map;

    if (find_map(c, pair, &map, e) < 0)
        return -1;
    for (uint64_t first = 0; first < chunks; first += step) {
        size_t here = chunks - first < step ? (size_t)(chunks - first) : step, size = here * HASH_SHA256_SIZE;
        off_t at = (off_t)(first * HASH_SHA256_SIZE);

        if (pread(c->source->fd[index], c->buffer, size, at) != (ssize_t)size ||
            pread(pair->target_fd, c->buffer + READ_BYTES / 2, size, at) != (ssize_t)size)
            return err_set(e, ERR_PROTOCOL, "the source did not hash all blocks of disk %s", pair->disk->id);
        if (count_piece(c, &map, first, here, d, e) < 0)
            return -1;
    }
    return 0;
}

static const struct wire_hashed_disk *hashed_disk(const struct wire_hash_done *done, const char *id)
{
    for (int64_t i = 0; i < done->disk_count; i++)
        if (strcmp(done->disks[i].id, id) == 0)
            return &done->disks[i];
    return NULL;
}

static json_t *pair_json(struct comparison *c, size_t index, const struct wire_hash_done *done, struct err *e)
{
    struct pair *pair = &c->pairs[index];
    const struct wire_hashed_disk *source = hashed_disk(done, pair->disk->id);
    CLEANUP(json_free) json_t *told = json_array();
    struct differences d = {.at = told};
    json_t *j;

    if (!source || (uint64_t)source->size_bytes != pair->disk->size_bytes) {
        err_set(e, ERR_PROTOCOL, "the source did not hash disk %s", pair->disk->id);
        return NULL;
    }
    if (count_differences(c, index, &d, e) < 0)
        return NULL;
    hash_hex(source->sha256, HASH_SHA256_SIZE, pair->source_sha256);
    j = json_pack("{s:s, s:I, s:I, s:s, s:s, s:I, s:I, s:b}", "id", pair->disk->id, "size_bytes", (json_int_t)pair->disk->size_bytes,
                  "bytes_compared", (json_int_t)pair->disk->size_bytes, "source_sha256", pair->source_sha256, "target_sha256",
                  pair->target_sha256, "blocks_differing", (json_int_t)d.count, "blocks_received_since", (json_int_t)d.received, "still", done->still);
    json_object_set(j, "differing_at", told);
    return j;
}

static int results(struct comparison *c, json_t **disks, struct err *e)
{
    CLEANUP(free_ptr) struct wire_hash_done *done = NULL;
    CLEANUP(json_free) json_t *list = json_array();

    pthread_mutex_lock(&c->p->lock);
    done = c->p->slots[SLOT_HASH].hashed;
    c->p->slots[SLOT_HASH].hashed = NULL;
    pthread_mutex_unlock(&c->p->lock);
    if (!done)
        return err_set(e, ERR_INTERNAL, "the source's hashes are not there");
    for (size_t i = 0; i < c->point->disk_count; i++) {
        json_t *j = pair_json(c, i, done, e);

        if (!j)
            return -1;
        json_array_append_new(list, j);
    }
    *disks = list;
    list = NULL;
    return 0;
}

/* Our side is read: from now on the progress is that of the source's. */
static int await_source(struct comparison *c, struct err *e)
{
    for (;;) {
        if (keep_asking(c, e) < 0)
            return -1;
        if (c->asked) {
            struct err why = {0};

            tell_progress(c);
            if (slot_wait(c->p, SLOT_HASH, c->deadline_us, c->t, &why) == 0)
                return 0;
            if (!is_lost(c) || why.kind != ERR_UNREACHABLE) {
                *e = why;
                return -1;
            }
        } else if (talk_progress(c->t, source_bytes(c) + (int64_t)c->done_bytes, (int64_t)c->total_bytes, "bytes")) {
            return err_set(e, ERR_CANCELLED, "whoever asked went away");
        } else {
            clock_sleep_us(ABSENCE_LOOK_US);
        }
    }
}

static int compare_sides(struct comparison *c, json_t **disks, struct err *e)
{
    if (ask_source(c, e) < 0)
        return -1;
    return read_targets(c, e) < 0 || await_source(c, e) < 0 || results(c, disks, e) < 0 ? -1 : 0;
}

int compare_point(struct talk *t, struct peer *p, const struct vault_point *point, json_t **disks, struct err *e)
{
    CLEANUP(comparison_free) struct comparison *c = xcalloc(1, sizeof *c);
    int result;

    c->t = t;
    c->p = p;
    c->point = point;
    c->deadline_us = clock_monotonic_us() + COMPARE_LIMIT_US;
    c->buffer = xcalloc(1, READ_BYTES);
    hash_sha256(c->buffer, VAULT_CHUNK_BYTES, c->hash_of_zeros);
    for (size_t i = 0; i < point->disk_count; i++) {
        c->pairs[i].target_fd = -1;
        c->total_bytes += 2 * point->disks[i].size_bytes;
    }
    if (compared_open(p->r->home, point->id, point->disk_count, &c->source, e) < 0 || open_scratch(c, e) < 0)
        return -1;
    result = compare_sides(c, disks, e);
    if (c->asked)
        slot_leave(p, SLOT_HASH);
    if (result == 0)
        compared_end(c->source);
    return result;
}
