/* The disks have changed: what is known of those that are as they were is carried over, in the same epoch, and only the others are to do as a whole. As for the
 * agent after this one (kept.c) all that is to be known lies in the tracker's memory; so a new tracker, of the disks as they are now, inherits it.
 *
 * No write gets lost on the way. The new tracker is attached before the old one is asked for its last marks; and of each disk there is a moment up to which the
 * old one has seen all that the kernel has counted, and from which on the new one is held against what the kernel counts (track_hand_over). Where no such moment
 * comes, the disk is to do as a whole. So is one that has come, was away, has shrunk, or is another one: of it nothing needs to be known. One that has grown keeps
 * what it had, and what is new of it is to do.
 *
 * There are never two heirs of an epoch: the numbers of offers would come twice. Before the new one is kept what the old one kept is void; killed in between, the
 * next agent reads everything. */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/log.h"

#include <string.h>

#define PATIENCE_US (3 * US_PER_S) /* with all disks; each is asked once at least */
#define ASK_EVERY_US US_PER_MS
#define TRACKER_BYTES (INT64_C(2) << 20) /* of a tracker, beside the marks of its chunks: slots, counters, programs */

/* The disk that this one was, whose tracking goes on; -1: there is none. The device must have been there all the time. */
static int origin_of(const struct disk *now, const struct disk *was, int was_count)
{
    for (int i = 0; i < was_count; i++)
        if (now->instance && now->instance == was[i].instance && strcmp(now->name, was[i].name) == 0 && strcmp(now->id, was[i].id) == 0 &&
            now->size_bytes >= was[i].size_bytes)
            return i;
    return -1;
}

static int find_origins(struct carried *c, const struct disk *was, int was_count, struct err *e)
{
    bool any = false;

    for (int i = 0; i < c->count; i++) {
        c->origin[i] = origin_of(&c->disks[i], was, was_count);
        any |= c->origin[i] >= 0;
    }
    return any ? 0 : err_set(e, ERR_NOT_FOUND, "none of the disks was followed before");
}

/* Both trackers are there for a moment. What was to do stands in the old one's memory alone by now; where that is not enough, the buffers are given back meanwhile. */
static int find_room(struct agent *a, const struct carried *c, struct err *e)
{
    int64_t in_use = a->memory.total_bytes - a->memory.spare_blocks * BITS_BLOCK_BYTES, beside = TRACKER_BYTES, bound = a->config->memory_bound_mib << 20;

    for (int i = 0; i < c->count; i++)
        beside += track_chunks(c->disks[i].size_bytes) * TRACK_MARK_BITS_KEPT / 8;
    if (in_use + beside <= bound)
        return 0;
    if (in_use + beside - a->free_count * (int64_t)BATCH_BYTES > bound)
        return err_set(e, ERR_LIMIT, "for a moment a second tracker is needed, of %lld MiB, and memory_bound_mib does not allow for it",
                       (long long)((beside >> 20) + 1));
    pipeline_lend_buffers(a);
    return 0;
}

static void ignore(int64_t chunk, uint32_t pages, void *user)
{
    (void)chunk, (void)pages, (void)user; /* it stands in track_todo */
}

/* All that was written to the disk is to do, or is the new tracker's to see: 0. -1: that can't be said, in words. */
static int settle(struct tracker *old, int was, struct tracker *new, int now, int64_t until_us, struct err *e)
{
    int handed;

    while ((handed = track_hand_over(old, was, new, now)) == 0 && clock_monotonic_us() < until_us)
        clock_sleep_us(ASK_EVERY_US);
    if (handed == 0)
        return err_set(e, ERR_TIMEOUT, "it is written to all the time, so there was no moment to say that every write was seen");
    /* After the moment, so that nothing of before it is left; and where marks were lost, it says how. */
    if (track_take(old, was, ignore, NULL, e) < 0)
        return -1;
    return handed > 0 ? 0 : err_set(e, ERR_CORRUPT, "the kernel keeps no statistics of it");
}

static void set_todo(uint64_t *todo, int64_t first, int64_t end)
{
    for (int64_t chunk = first; chunk < end; chunk++)
        todo[chunk / 64] |= UINT64_C(1) << (chunk % 64);
}

/* What was followed under its name all the time is what was found: a device that leaves never comes again under its number. */
static bool is_as_found(const struct disk *d)
{
    int64_t size_bytes;

    return track_instance(d->name) == d->instance && disks_size(d->name, &size_bytes, NULL) == 0 && size_bytes == d->size_bytes;
}

/* What is to do of the disk now; of one that has grown from its old end on: in the midst of a chunk, that one, too. */
static void inherit_todo(struct carried *c, int now, struct tracker *old, const struct disk *was, struct tracker *new, int64_t until_us)
{
    const struct disk *d = &c->disks[now];
    int origin = c->origin[now];
    int64_t chunk_count = track_chunks(d->size_bytes), first = 0;
    uint64_t *todo = track_todo(new, now);
    struct err e = {0};

    if (origin >= 0 && settle(old, origin, new, now, until_us, &e) == 0 && !is_as_found(d))
        err_set(&e, ERR_CONFLICT, "it goes on changing");
    if (origin >= 0 && !e.kind) {
        first = d->size_bytes == was[origin].size_bytes ? chunk_count : was[origin].size_bytes / TRACK_CHUNK_SIZE;
        memcpy(todo, track_todo(old, origin), (size_t)((track_chunks(was[origin].size_bytes) + 63) / 64) * sizeof *todo);
    } else if (origin >= 0) {
        log_err(&e, "disk %s is read again", d->name);
    }
    set_todo(todo, first, chunk_count);
    c->begins_anew |= first < chunk_count;
}

/* The replicator has all of these disks, as they were, where each was one before, and none has grown. */
static bool held_before(const struct carried *c, const struct disk *was, int was_count)
{
    for (int i = 0; i < c->count; i++) {
        bool held = false;

        for (int k = 0; k < was_count; k++)
            held |= strcmp(c->disks[i].id, was[k].id) == 0 && c->disks[i].size_bytes <= was[k].size_bytes;
        if (!held)
            return false;
    }
    return true;
}

int carry_over(struct agent *a, struct tracker *old, struct carried *c, const struct track_disk *tracked, struct tracker **out, struct err *e)
{
    CLEANUP(track_close) struct tracker *new = NULL;
    const struct disk *was = a->tracked;
    int was_count = a->tracked_count;
    int64_t until_us;

    if (!old || !track_todo(old, 0))
        return err_set(e, ERR_UNSUPPORTED, "the tracker is not one that outlives the agent");
    if (find_origins(c, was, was_count, e) < 0 || find_room(a, c, e) < 0 || track_open_to_keep(tracked, c->count, &new, e) < 0)
        return -1;
    if (!track_todo(new, 0))
        return err_set(e, ERR_UNSUPPORTED, "changes can't be followed in the best way any more");
    until_us = clock_monotonic_us() + PATIENCE_US;
    for (int i = 0; i < c->count; i++)
        inherit_todo(c, i, old, was, new, until_us);
    c->rescan = held_before(c, was, was_count);
    kept_inherit(track_memory(new), track_memory(old), c);
    if (track_keep(new, a->config->tracker_dir, e) < 0)
        return -1;
    *out = new;
    new = NULL;
    return 0;
}
