/* Reading what an offer names: chunks, or pages of them. */
#include "agent/engine.h"

#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_US (30 * US_PER_S) /* with an offer's sectors, one by one: what fails after that counts as unreadable as a whole, until it is tried again */

struct reading {
    struct agent *a;
    struct offer *o;
    const struct agent_disk *d;
    int64_t until_us; /* monotonic: the patience's end; 0: all could be read so far */
    int64_t row;      /* bytes that could not be read, one after the other, up to here */
};

/* 0, or an errno. */
static int read_fully(const struct agent_disk *d, uint8_t *to, int64_t from, int64_t size)
{
    for (int64_t done = 0; done < size;) {
        ssize_t got = pread(d->fd, to + done, (size_t)(size - done), from + done);

        if (got == 0 || (got < 0 && errno != EINTR))
            return got ? errno : EIO;
        done += got > 0 ? got : 0;
    }
    return 0;
}

/* What a disk says of sectors (the kernel's BLK_STS_IOERR, _MEDIUM, _PROTECTION, _TARGET, _TIMEOUT), as against one that is gone. */
static bool is_of_sectors(int reason)
{
    return reason == EIO || reason == ENODATA || reason == EILSEQ || reason == EREMOTEIO || reason == ETIMEDOUT;
}

static void mark(struct reading *r, uint8_t *to, int64_t size)
{
    memset(to, 0, (size_t)size);
    r->row += size;
    if (r->o->for_hashing) /* it is of what the map holds, and this does not go there */
        return;
    if (!r->o->bad)
        r->o->bad = xcalloc(BATCH_CHUNKS, sizeof *r->o->bad);
    for (int64_t at = to - r->o->batch; size > 0; at += WIRE_SECTOR_SIZE, size -= WIRE_SECTOR_SIZE)
        sectors_add(&r->o->bad[at / WIRE_CHUNK_SIZE], (unsigned)(at % WIRE_CHUNK_SIZE / WIRE_SECTOR_SIZE), 1);
}

static int fail(const struct agent_disk *d, int64_t from, int reason, struct err *e)
{
    return err_errno(e, reason, "disk %s can't be read at %lld", d->info.name, (long long)from);
}

/* It could not be read as a whole: half by half, down to the sectors; in the midst of much that can't be read down to the pages. */
static int read_around(struct reading *r, uint8_t *to, int64_t from, int64_t size, struct err *e)
{
    int64_t least = r->row < WIRE_CHUNK_SIZE ? r->d->sector_bytes : WIRE_PAGE_SIZE;
    int64_t half = size / 2 / least * least;

    if (atomic_load(r->a->stop))
        return err_set(e, ERR_CANCELLED, "the agent is stopping");
    if (!half || clock_monotonic_us() > r->until_us) {
        mark(r, to, size);
        return 0;
    }
    for (int64_t at = 0; at < size; at += half, half = size - half) {
        int reason = read_fully(r->d, to + at, from + at, half);

        if (reason && !is_of_sectors(reason))
            return fail(r->d, from + at, reason, e);
        if (!reason)
            r->row = 0;
        else if (read_around(r, to + at, from + at, half, e) < 0)
            return -1;
    }
    return 0;
}

static int read_or_mark(struct reading *r, uint8_t *to, int64_t from, int64_t size, struct err *e)
{
    int reason = read_fully(r->d, to, from, size);

    if (!reason)
        return 0;
    if (!is_of_sectors(reason) || (r->o->for_hashing && !unreadable_knows(r->a, r->o->disk, from, size)))
        return fail(r->d, from, reason, e);
    if (!r->o->for_hashing && unreadable_full(r->a))
        return unreadable_too_much(r->d, e);
    if (!r->until_us)
        r->until_us = clock_monotonic_us() + PATIENCE_US;
    return read_around(r, to, from, size, e);
}

/* What lies behind the disk's end is zero bytes. */
static int read_piece(struct reading *r, uint8_t *to, int64_t from, int64_t size, struct err *e)
{
    const struct agent_disk *d = r->d;
    struct agent *a = r->a;
    int64_t begun_us = clock_monotonic_us(), requests;
    int64_t there = from >= d->info.size_bytes ? 0 : from + size > d->info.size_bytes ? d->info.size_bytes - from : size;

    atomic_fetch_add(&a->own_asked_bytes, there);
    if (there && read_or_mark(r, to, from, there, e) < 0)
        return -1;
    requests = (there + d->request_bytes - 1) / d->request_bytes;
    atomic_fetch_add(&a->own_requests, requests);
    atomic_fetch_add(&a->own_read_us, requests * (clock_monotonic_us() - begun_us)); /* side by side, each nearly as long as all */
    memset(to + there, 0, (size_t)(size - there));
    atomic_fetch_add(&a->bytes_read, there);
    return 0;
}

/* Each page to its place in the chunk. */
static int read_pages(struct reading *r, uint32_t pages, uint8_t *chunk, int64_t from, struct err *e)
{
    while (pages) {
        int first = __builtin_ctz(pages), run = __builtin_ctz(~(pages >> first));

        if (read_piece(r, chunk + first * (int)WIRE_PAGE_SIZE, from + first * (int)WIRE_PAGE_SIZE, run * (int)WIRE_PAGE_SIZE, e) < 0)
            return -1;
        pages &= ~(((1u << run) - 1) << first);
    }
    return 0;
}

/* Neighbours at once; but where reading is held to a pace, chunk by chunk, evenly in time: what the source wants of the disk meanwhile waits for
 * one chunk at most. */
int chunks_read(struct agent *a, struct offer *o, int64_t *waited_us, struct err *e)
{
    struct reading r = {.a = a, .o = o, .d = &a->disks[o->disk]};

    for (int i = 0, run; i < o->count; i += run) {
        int64_t from = (int64_t)o->chunks[i] * WIRE_CHUNK_SIZE;
        uint8_t *to = o->batch + (size_t)i * WIRE_CHUNK_SIZE;
        bool paced = workers_read_turn(a, wire_entry_size(&(struct wire_entry){.pages = o->pages[i]}), waited_us);
        int result;

        for (run = 1; !paced && !o->pages[i] && i + run < o->count && !o->pages[i + run] && o->chunks[i + run] == o->chunks[i] + (uint32_t)run; run++)
            ;
        result = o->pages[i] ? read_pages(&r, o->pages[i], to, from, e) : read_piece(&r, to, from, (int64_t)run * WIRE_CHUNK_SIZE, e);
        if (result < 0)
            return -1;
    }
    return 0;
}

size_t chunks_gather(uint8_t *chunk, uint32_t pages)
{
    size_t size = 0;

    for (; pages; pages &= pages - 1, size += WIRE_PAGE_SIZE)
        memmove(chunk + size, chunk + (size_t)__builtin_ctz(pages) * WIRE_PAGE_SIZE, WIRE_PAGE_SIZE);
    return size;
}
