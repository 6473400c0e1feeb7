#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

void pending_release(struct pending *p)
{
    for (size_t i = 0; i < p->chunk_count; i++)
        free(p->chunks[i].pages);
    free(p->chunks);
    free(p->slots);
    free(p->sets);
    free(p->set_slots);
    free(p->feeds);
    *p = (struct pending){0};
}

static uint32_t *find_slot(const struct pending *p, const struct vault_hash *hash)
{
    uint64_t at;

    memcpy(&at, hash->bytes, sizeof at);
    for (at &= p->slot_count - 1; p->slots[at]; at = (at + 1) & (p->slot_count - 1))
        if (vault_hash_same(&p->chunks[p->slots[at] - 1].hash, hash))
            break;
    return &p->slots[at];
}

/* The table anew, with room for twice what is there. */
static void rehash(struct pending *p)
{
    size_t slot_count = 256;

    while (slot_count < p->chunk_count * 4)
        slot_count *= 2;
    if (slot_count != p->slot_count) {
        free(p->slots);
        p->slots = xcalloc(slot_count, sizeof *p->slots);
        p->slot_count = slot_count;
    } else {
        memset(p->slots, 0, slot_count * sizeof *p->slots);
    }
    for (size_t i = 0; i < p->chunk_count; i++)
        *find_slot(p, &p->chunks[i].hash) = (uint32_t)i + 1;
}

/* A chunk that is pending twice (the first copy turned out damaged) is found at its later place. */
void pending_add(struct pending *p, const struct vault_hash *hash, const struct chunk_place *place, const struct record_pages *pages)
{
    struct record_pages *copy = NULL;

    if (pages) {
        copy = xmalloc(sizeof *copy);
        *copy = *pages;
    }
    if (p->chunk_count == p->chunk_held) {
        p->chunk_held = p->chunk_held ? p->chunk_held * 2 : 256;
        p->chunks = xrealloc(p->chunks, p->chunk_held * sizeof *p->chunks);
    }
    p->chunks[p->chunk_count++] = (struct pending_chunk){*hash, *place, copy};
    if (p->chunk_count * 2 > p->slot_count)
        rehash(p);
    else
        *find_slot(p, hash) = (uint32_t)p->chunk_count;
}

const struct pending_chunk *pending_find(const struct pending *p, const struct vault_hash *hash)
{
    uint32_t found = p->slot_count ? *find_slot(p, hash) : 0;

    return found ? &p->chunks[found - 1] : NULL;
}

/* ---- the maps ---- */

static uint32_t *find_set_slot(const struct pending *p, uint32_t disk, uint64_t chunk)
{
    uint64_t at = (chunk + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)disk * UINT64_C(0xc2b2ae3d27d4eb4f);

    for (at = (at ^ at >> 32) & (p->set_slot_count - 1); p->set_slots[at]; at = (at + 1) & (p->set_slot_count - 1)) {
        const struct pending_set *s = &p->sets[p->set_slots[at] - 1];

        if (s->disk == disk && s->first == chunk)
            break;
    }
    return &p->set_slots[at];
}

static void note_set(struct pending *p, size_t i)
{
    if (p->sets[i].count == 1)
        *find_set_slot(p, p->sets[i].disk, p->sets[i].first) = (uint32_t)i + 1;
    else
        p->range_count++;
}

static void rehash_sets(struct pending *p)
{
    size_t slot_count = 256;

    while (slot_count < p->set_count * 4)
        slot_count *= 2;
    free(p->set_slots);
    p->set_slots = xcalloc(slot_count, sizeof *p->set_slots);
    p->set_slot_count = slot_count;
    p->range_count = 0;
    for (size_t i = 0; i < p->set_count; i++)
        note_set(p, i);
}

void pending_set_map(struct pending *p, uint32_t disk, uint64_t first, uint64_t count, const struct vault_hash *hash)
{
    if (p->set_count == p->set_held) {
        p->set_held = p->set_held ? p->set_held * 2 : 256;
        p->sets = xrealloc(p->sets, p->set_held * sizeof *p->sets);
    }
    p->sets[p->set_count++] = (struct pending_set){disk, first, count, *hash};
    if (p->set_count * 2 > p->set_slot_count)
        rehash_sets(p);
    else
        note_set(p, p->set_count - 1);
}

const struct vault_hash *pending_map_get(const struct pending *p, uint32_t disk, uint64_t chunk)
{
    uint32_t found = p->set_slot_count ? *find_set_slot(p, disk, chunk) : 0;

    /* A range after it counts for more; there are few. */
    for (size_t i = p->set_count; p->range_count && i > found; i--) {
        const struct pending_set *s = &p->sets[i - 1];

        if (s->disk == disk && s->count > 1 && chunk >= s->first && chunk - s->first < s->count)
            return &s->hash;
    }
    return found ? &p->sets[found - 1].hash : NULL;
}

void pending_done(struct pending *p, size_t chunk_count, size_t set_count, size_t feed_count)
{
    MUST(chunk_count <= p->chunk_count && set_count <= p->set_count && feed_count <= p->feed_count);
    for (size_t i = 0; i < chunk_count; i++)
        free(p->chunks[i].pages);
    p->chunk_count -= chunk_count;
    p->set_count -= set_count;
    p->feed_count -= feed_count;
    if (p->feed_count)
        memmove(p->feeds, p->feeds + feed_count, p->feed_count * sizeof *p->feeds);
    if (p->chunk_count)
        memmove(p->chunks, p->chunks + chunk_count, p->chunk_count * sizeof *p->chunks);
    if (p->set_count)
        memmove(p->sets, p->sets + set_count, p->set_count * sizeof *p->sets);
    if (chunk_count)
        rehash(p);
    if (set_count)
        rehash_sets(p);
}
