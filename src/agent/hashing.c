/* HASH: SHA-256 of whole disks and of each of their chunks, for the proof that a copy is what the source was. */
#include "agent/engine.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD 8 /* batches being read and hashed at a time */
#define FRAME_HASHES 1024u /* 64 MiB of a disk */

struct hashing {
    struct agent *a;
    int64_t request;
    int disk;
    struct hash *whole; /* of the chunks before frame_chunk + frame_count */
    struct offer *ahead[AHEAD];
    int first, count;
    int64_t next_chunk; /* to read */
    uint8_t *hashes;    /* of chunks from frame_chunk on, not sent yet */
    uint32_t frame_chunk, frame_count;
};

static int send_hashes(struct hashing *h, struct err *e)
{
    CLEANUP(buf_release) struct buf frame = {.limit_bytes = WIRE_PAYLOAD_LIMIT};
    struct wire_hashes message = {.request = (uint64_t)h->request, .disk = (uint16_t)h->disk, .first_chunk = h->frame_chunk,
                                  .count = h->frame_count, .hashes = h->hashes};

    if (!h->frame_count)
        return 0;
    wire_hashes_encode(&message, &frame);
    h->frame_chunk += h->frame_count;
    h->frame_count = 0;
    if (wire_send_buf(h->a->conn, WIRE_HASHES, &frame, e) < 0)
        return -1;
    hashed_note(h->a, h->disk, h->frame_chunk, h->whole);
    return 0;
}

static void read_ahead(struct hashing *h)
{
    const struct agent_disk *d = &h->a->disks[h->disk];

    while (h->count < AHEAD && h->next_chunk < d->chunk_count) {
        int64_t left = d->chunk_count - h->next_chunk;
        int count = left < BATCH_CHUNKS ? (int)left : (int)BATCH_CHUNKS;
        struct offer *o = pipeline_fill_for_hashing(h->a, h->disk, h->next_chunk, count);

        if (!o)
            break;
        h->ahead[(h->first + h->count++) % AHEAD] = o;
        h->next_chunk += count;
    }
}

/* Waits until the first batch was read and (which a worker does meanwhile) its chunks hashed. */
static void wait_for_first(struct hashing *h)
{
    struct offer *o = h->ahead[h->first];

    pthread_mutex_lock(&h->a->lock);
    while (o->state != OFFER_HASHED)
        pthread_cond_wait(&h->a->changed, &h->a->lock);
    pthread_mutex_unlock(&h->a->lock);
}

static struct offer *take_first(struct hashing *h)
{
    struct offer *o = h->ahead[h->first];

    h->first = (h->first + 1) % AHEAD;
    h->count--;
    return o;
}

static int use_first(struct hashing *h, struct err *e)
{
    const struct agent_disk *d = &h->a->disks[h->disk];
    struct offer *o = h->ahead[h->first];
    int64_t from, size;

    wait_for_first(h);
    from = (int64_t)o->chunks[0] * WIRE_CHUNK_SIZE;
    size = (int64_t)o->count * WIRE_CHUNK_SIZE;
    if (o->failed)
        return err_set(e, ERR_IO, "the disk %s can't be read at %lld", d->info.name, (long long)from);
    if (from + size > d->info.size_bytes)
        size = d->info.size_bytes - from;
    hash_add(h->whole, o->batch, (size_t)size);
    for (int i = 0; i < o->count; i++)
        memcpy(h->hashes + (size_t)h->frame_count++ * HASH_SHA256_SIZE, o->hash[i], HASH_SHA256_SIZE);
    pipeline_give_back(h->a, take_first(h));
    return h->frame_count + BATCH_CHUNKS > FRAME_HASHES ? send_hashes(h, e) : 0;
}

/* Under lock: the first THAW that waits, whatever waits before it; but what is held by a point that is yet to be taken is let go after that. */
static bool next_thaw(struct agent *a, struct wire_simple *thaw)
{
    for (unsigned i = 0; i < a->command_count; i++) {
        const struct command *c = &a->commands[(a->command_first + i) % COMMANDS_MAX];

        if (c->type == WIRE_TAKE_POINT)
            return false;
        if (c->type != WIRE_THAW)
            continue;
        *thaw = c->simple;
        engine_drop_command(a, i);
        return true;
    }
    return false;
}

/* A thaw can't wait until everything is hashed; nor a stop, nor a cut link. */
static int look_up(struct agent *a, struct err *e)
{
    struct wire_simple thaw = {0};
    bool broken, found;

    point_check_hold(a);
    pthread_mutex_lock(&a->lock);
    broken = a->broken;
    found = next_thaw(a, &thaw);
    pthread_mutex_unlock(&a->lock);
    if (found)
        point_thaw(a, thaw.request, true);
    if (atomic_load(a->stop) || broken)
        return err_set(e, ERR_CANCELLED, "the link was cut, or the agent stops");
    return 0;
}

/* From chunk `from` on, if the hash of those before is known, else from where it is. */
static int hash_disk(struct hashing *h, int64_t from, uint8_t sha256[static HASH_SHA256_SIZE], struct err *e)
{
    CLEANUP(hash_free) struct hash *whole = hashed_from(h->a, h->disk, &from);
    int result = 0;

    h->whole = whole;
    h->next_chunk = from;
    h->frame_chunk = (uint32_t)from;
    h->frame_count = 0;
    h->first = h->count = 0;
    for (;;) {
        read_ahead(h);
        if (!h->count)
            break;
        result = look_up(h->a, e);
        if (result == 0)
            result = use_first(h, e);
        if (result < 0)
            break;
    }
    while (h->count) { /* given up: the workers finish what they have */
        wait_for_first(h);
        pipeline_give_back(h->a, take_first(h));
    }
    if (result == 0 && h->next_chunk < h->a->disks[h->disk].chunk_count)
        return err_set(e, ERR_INTERNAL, "no buffer is free");
    if (result < 0 || send_hashes(h, e) < 0)
        return -1;
    hash_end(whole, sha256);
    hashed_end(h->a, h->disk, sha256);
    return 0;
}

static int find_disk(const struct agent *a, const char *id, struct err *e)
{
    for (int i = 0; i < a->disk_count; i++)
        if (strcmp(a->disks[i].info.id, id) == 0)
            return i;
    return err_set(e, ERR_NOT_FOUND, "this machine has no disk %s", id);
}

static int hash_all(struct agent *a, const struct wire_hash *r, struct wire_hash_done *done, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *hashes = xmalloc((FRAME_HASHES + BATCH_CHUNKS) * HASH_SHA256_SIZE);
    struct hashing h = {.a = a, .request = r->request, .hashes = hashes};
    int64_t count = r->disk_count ? r->disk_count : a->disk_count;

    hashed_begin(a, r->run);
    for (int64_t i = 0; i < count; i++) {
        struct wire_hashed_disk *d = &done->disks[i];
        int64_t from = r->disk_count ? r->disks[i].from_chunk : 0;

        h.disk = r->disk_count ? find_disk(a, r->disks[i].id, e) : (int)i;
        if (h.disk < 0)
            return -1;
        if ((from < a->disks[h.disk].chunk_count || !hashed_whole(a, h.disk, d->sha256)) && hash_disk(&h, from, d->sha256, e) < 0)
            return -1;
        snprintf(d->id, sizeof d->id, "%s", a->disks[h.disk].info.id);
        d->size_bytes = a->disks[h.disk].info.size_bytes;
        done->disk_count++;
    }
    return 0;
}

/* Buffers come free when what is under way was sent. */
static int wait_until_quiet(struct agent *a, struct err *e)
{
    int64_t deadline_us = clock_monotonic_us() + 60 * US_PER_S;
    int result = 0;

    pthread_mutex_lock(&a->lock);
    while (!result && !pipeline_all_at_least(a, OFFER_SENT))
        result = engine_wait(a, deadline_us, e);
    pthread_mutex_unlock(&a->lock);
    return result;
}

void hashing_run(struct agent *a, const struct wire_hash *r)
{
    struct wire_hash_done *done = xcalloc(1, sizeof *done);
    struct wire_failure failure = {.request = r->request};
    struct err e = {0};

    done->request = r->request;
    a->hashing = true;
    if (wait_until_quiet(a, &e) == 0 && hash_all(a, r, done, &e) == 0) {
        done->still = a->held && !freezer_expired(a->freezer) && engine_still(a, a->held_writes);
        wire_send_message(a->conn, WIRE_HASH_DONE, done, &e);
    } else {
        snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(e.kind)->name);
        snprintf(failure.message, sizeof failure.message, "%.500s", e.message);
        wire_send_message(a->conn, WIRE_HASH_FAILED, &failure, NULL);
    }
    a->hashing = false;
    free(done);
}
