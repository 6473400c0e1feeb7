/* The map of chunks to offer. The engine's thread only.
 *
 * A chunk that is to do and has a slot in a->pages is to be offered with these pages only: all others are as they were when the chunk was offered last,
 * and every offer before comes before in the replicator's map, too. A chunk without a slot is to be offered whole: which is always right. */
#include "agent/engine.h"

#define PAGES_MOST 8 /* of 16: above, the whole chunk costs less trouble */

/* What a chunk that is to do will be: its pages, or all of it where there are many, or none is known. */
static int64_t cost_of(uint32_t pages)
{
    int count = __builtin_popcount(pages & TRACK_PAGES_ALL);

    return count && count <= PAGES_MOST ? count * (int64_t)WIRE_PAGE_SIZE : (int64_t)WIRE_CHUNK_SIZE;
}

/* The slot of the chunk: NULL where it has none. free_one: else one that is free, if there is. */
static uint64_t *find_slot(struct agent *a, int disk, int64_t chunk, bool free_one)
{
    uint64_t tag = track_tag((unsigned)disk, (uint64_t)chunk), *empty = NULL;
    uint32_t first = track_slot(tag);

    for (uint32_t i = 0; i < 2; i++) {
        uint64_t *slot = &a->pages[first ^ i];

        if (*slot >> TRACK_TAG_SHIFT == tag >> TRACK_TAG_SHIFT)
            return slot;
        if (!*slot && !empty)
            empty = slot;
    }
    if (free_one && empty)
        *empty = tag;
    return free_one ? empty : NULL;
}

/* Where memory is short others become to do with one that is added or dropped (bits.h): as a whole, for they have no slot. */
static void count_others(struct agent_disk *d, int64_t expected)
{
    d->todo_bytes += (d->todo->count - expected) * WIRE_CHUNK_SIZE;
}

/* True where it was not to do before. Whoever calls it counts its bytes. */
static bool add_chunk(struct agent_disk *d, int64_t chunk)
{
    bool fresh = !bits_has(d->todo, chunk);
    int64_t expected = d->todo->count + fresh;

    if (d->kept_todo)
        d->kept_todo[chunk / 64] |= UINT64_C(1) << (chunk % 64);
    bits_add(d->todo, chunk);
    count_others(d, expected);
    return fresh;
}

void todo_set(struct agent *a, int disk, int64_t chunk)
{
    uint64_t *slot = find_slot(a, disk, chunk, false);
    struct agent_disk *d = &a->disks[disk];

    if (add_chunk(d, chunk))
        d->todo_bytes += WIRE_CHUNK_SIZE;
    else if (slot)
        d->todo_bytes += WIRE_CHUNK_SIZE - cost_of((uint32_t)*slot);
    if (slot)
        *slot = 0;
}

void todo_mark(struct agent *a, int disk, int64_t chunk, uint32_t pages)
{
    struct agent_disk *d = &a->disks[disk];
    uint64_t *slot;
    bool fresh;

    if (pages == TRACK_PAGES_ALL) {
        todo_set(a, disk, chunk);
        return;
    }
    /* One that was to do and has no slot stays whole. */
    fresh = add_chunk(d, chunk);
    slot = find_slot(a, disk, chunk, fresh);
    if (slot) {
        d->todo_bytes += cost_of((uint32_t)*slot | pages) - (fresh ? 0 : cost_of((uint32_t)*slot));
        *slot |= pages;
    } else if (fresh) {
        d->todo_bytes += WIRE_CHUNK_SIZE;
    }
}

void todo_all(struct agent *a, int disk)
{
    struct agent_disk *d = &a->disks[disk];

    for (int64_t i = 0; d->kept_todo && i < d->chunk_count / 64; i++)
        d->kept_todo[i] = UINT64_MAX;
    if (d->kept_todo && d->chunk_count % 64)
        d->kept_todo[d->chunk_count / 64] = UINT64_MAX >> (64 - d->chunk_count % 64);
    bits_fill(d->todo);
    d->todo_bytes = d->chunk_count * WIRE_CHUNK_SIZE;
    order_rewind(d);
    for (uint32_t i = 0; i < TRACK_SLOT_COUNT; i++)
        if (a->pages[i] >> 40 >> TRACK_TAG_SHIFT == (uint64_t)disk + 1)
            a->pages[i] = 0;
}

void todo_kept(struct agent *a, int disk)
{
    struct agent_disk *d = &a->disks[disk];

    for (int64_t i = 0; i < (d->chunk_count + 63) / 64; i++)
        for (uint64_t word = d->kept_todo[i]; word; word &= word - 1)
            todo_set(a, disk, i * 64 + __builtin_ctzll(word));
}

int64_t todo_total(const struct agent *a)
{
    int64_t total = 0;

    for (int i = 0; i < a->disk_count; i++)
        total += a->disks[i].todo->count;
    return total;
}

int64_t todo_bytes(const struct agent *a)
{
    int64_t total = 0;

    for (int i = 0; i < a->disk_count; i++)
        total += a->disks[i].todo_bytes;
    return total;
}

static uint16_t take_pages(struct agent *a, int disk, int64_t chunk)
{
    uint64_t *slot = find_slot(a, disk, chunk, false);
    uint16_t pages = slot ? (uint16_t)*slot : 0;

    if (slot)
        *slot = 0;
    a->disks[disk].todo_bytes -= cost_of(pages);
    return __builtin_popcount(pages) <= PAGES_MOST ? pages : 0;
}

int todo_next(struct agent *a, int disk, struct stretch *s, struct kept_offer *under_way, uint32_t *chunks, uint16_t *pages, int limit)
{
    struct agent_disk *d = &a->disks[disk];
    int count = 0;

    while (count < limit) {
        int64_t chunk = order_peek(d, s), expected;

        if (chunk < 0 || (count && chunk <= (int64_t)chunks[count - 1]))
            break; /* an offer's chunks rise */
        s->cursor = chunk + 1;
        chunks[count] = (uint32_t)chunk;
        pages[count] = take_pages(a, disk, chunk);
        kept_add(under_way, chunks[count]); /* before it is to do no longer */
        count++;
        if (d->kept_todo)
            d->kept_todo[chunk / 64] &= ~(UINT64_C(1) << (chunk % 64));
        expected = d->todo->count - 1;
        bits_drop(d->todo, chunk);
        count_others(d, expected);
    }
    return count;
}
