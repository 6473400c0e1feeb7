/* How far HASH has come. A running SHA-256 can't be had again but by reading, so it is kept after each of the last frames: which of them have arrived, only the other end
 * knows. */
#include "agent/engine.h"

#include <stdlib.h>
#include <string.h>

#define MARKS 128 /* frames on their way at most: 4 MiB, and what they hash is 8 GiB of a disk */

struct hashed {
    int64_t run;
    int64_t held_since_us; /* 0: not held */
    uint64_t held_writes[LIMIT_DISKS_PER_SERVER];
    struct {
        char id[WIRE_ID_SIZE];
        int64_t size_bytes;
        bool whole;
        uint8_t sha256[HASH_SHA256_SIZE];
    } disks[LIMIT_DISKS_PER_SERVER];
    int disk; /* whose the marks are */
    struct mark {
        int64_t chunk;
        struct hash *running;
    } marks[MARKS]; /* a ring */
    unsigned first, count;
};

static struct mark *mark_at(struct hashed *h, unsigned i) { return &h->marks[(h->first + i) % MARKS]; }

static void forget_marks(struct hashed *h)
{
    for (unsigned i = 0; i < h->count; i++)
        hash_free(&mark_at(h, i)->running);
    h->first = h->count = 0;
}

static bool is_same_disk(const struct agent *a, int disk)
{
    return strcmp(a->hashed->disks[disk].id, a->disks[disk].info.id) == 0 && a->hashed->disks[disk].size_bytes == a->disks[disk].info.size_bytes;
}

/* What was hashed of a held source counts as long as it is held at the same point: HASH_DONE says "still" of all of it. */
static bool goes_on(const struct agent *a, int64_t run)
{
    const struct hashed *h = a->hashed;
    size_t size = (size_t)a->disk_count * sizeof *a->held_writes;

    return h && run && h->run == run && h->held_since_us == (a->held ? a->held_since_us : 0) && (!a->held || memcmp(h->held_writes, a->held_writes, size) == 0);
}

void hashed_free(struct agent *a)
{
    if (a->hashed)
        forget_marks(a->hashed);
    free(a->hashed);
    a->hashed = NULL;
}

void hashed_begin(struct agent *a, int64_t run)
{
    struct hashed *h;

    if (goes_on(a, run))
        return;
    hashed_free(a);
    h = a->hashed = xcalloc(1, sizeof *h);
    h->run = run;
    h->held_since_us = a->held ? a->held_since_us : 0;
    memcpy(h->held_writes, a->held_writes, sizeof h->held_writes);
}

bool hashed_whole(const struct agent *a, int disk, uint8_t sha256[static HASH_SHA256_SIZE])
{
    if (!a->hashed->disks[disk].whole || !is_same_disk(a, disk))
        return false;
    memcpy(sha256, a->hashed->disks[disk].sha256, HASH_SHA256_SIZE);
    return true;
}

struct hash *hashed_from(const struct agent *a, int disk, int64_t *from_chunk)
{
    struct hashed *h = a->hashed;

    for (unsigned i = h->disk == disk && is_same_disk(a, disk) ? h->count : 0; i-- > 0;)
        if (mark_at(h, i)->chunk <= *from_chunk) {
            *from_chunk = mark_at(h, i)->chunk;
            return hash_copy(mark_at(h, i)->running);
        }
    *from_chunk = 0;
    return hash_new();
}

/* What is noted of a disk is of this one. */
static void name_disk(struct agent *a, int disk)
{
    memcpy(a->hashed->disks[disk].id, a->disks[disk].info.id, sizeof a->hashed->disks[disk].id);
    a->hashed->disks[disk].size_bytes = a->disks[disk].info.size_bytes;
    a->hashed->disks[disk].whole = false;
}

void hashed_note(struct agent *a, int disk, int64_t chunk, const struct hash *running)
{
    struct hashed *h = a->hashed;

    if (h->disk != disk)
        forget_marks(h);
    h->disk = disk;
    name_disk(a, disk);
    while (h->count && mark_at(h, h->count - 1)->chunk >= chunk) /* it went back */
        hash_free(&mark_at(h, --h->count)->running);
    if (h->count == MARKS) {
        hash_free(&mark_at(h, 0)->running);
        h->first = (h->first + 1) % MARKS;
        h->count--;
    }
    *mark_at(h, h->count++) = (struct mark){.chunk = chunk, .running = hash_copy(running)};
}

void hashed_end(struct agent *a, int disk, const uint8_t sha256[static HASH_SHA256_SIZE])
{
    name_disk(a, disk);
    memcpy(a->hashed->disks[disk].sha256, sha256, HASH_SHA256_SIZE);
    a->hashed->disks[disk].whole = true;
}
