/* Reading what an offer names: chunks, or pages of them. */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/file.h"

#include <string.h>

/* What lies behind the disk's end is zero bytes. */
static int read_piece(struct agent *a, const struct agent_disk *d, uint8_t *to, int64_t from, int64_t size, struct err *e)
{
    int64_t begun_us = clock_monotonic_us(), requests;
    int64_t there = from >= d->info.size_bytes ? 0 : from + size > d->info.size_bytes ? d->info.size_bytes - from : size;

    if (there && fd_pread_all(d->fd, to, (size_t)there, from, e) < 0)
        return err_wrap(e, "disk %s", d->info.name);
    requests = (there + d->request_bytes - 1) / d->request_bytes;
    atomic_fetch_add(&a->own_requests, requests);
    atomic_fetch_add(&a->own_read_us, requests * (clock_monotonic_us() - begun_us)); /* side by side, each nearly as long as all */
    memset(to + there, 0, (size_t)(size - there));
    atomic_fetch_add(&a->bytes_read, there);
    return 0;
}

/* Each page to its place in the chunk. */
static int read_pages(struct agent *a, const struct agent_disk *d, uint32_t pages, uint8_t *chunk, int64_t from, struct err *e)
{
    while (pages) {
        int first = __builtin_ctz(pages), run = __builtin_ctz(~(pages >> first));

        if (read_piece(a, d, chunk + first * (int)WIRE_PAGE_SIZE, from + first * (int)WIRE_PAGE_SIZE, run * (int)WIRE_PAGE_SIZE, e) < 0)
            return -1;
        pages &= ~(((1u << run) - 1) << first);
    }
    return 0;
}

/* Neighbours at once. */
int chunks_read(struct agent *a, struct offer *o, struct err *e)
{
    const struct agent_disk *d = &a->disks[o->disk];

    for (int i = 0, run; i < o->count; i += run) {
        int64_t from = (int64_t)o->chunks[i] * WIRE_CHUNK_SIZE;
        uint8_t *to = o->batch + (size_t)i * WIRE_CHUNK_SIZE;
        int result;

        for (run = 1; !o->pages[i] && i + run < o->count && !o->pages[i + run] && o->chunks[i + run] == o->chunks[i] + (uint32_t)run; run++)
            ;
        result = o->pages[i] ? read_pages(a, d, o->pages[i], to, from, e) : read_piece(a, d, to, from, (int64_t)run * WIRE_CHUNK_SIZE, e);
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
