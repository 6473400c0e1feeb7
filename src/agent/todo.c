/* The map of chunks to offer. The engine's thread only. */
#include "agent/engine.h"

void todo_set(struct agent_disk *d, int64_t chunk)
{
    uint64_t bit = UINT64_C(1) << (chunk % 64);

    MUST(chunk >= 0 && chunk < d->chunk_count);
    d->todo_count += !(d->todo[chunk / 64] & bit);
    d->todo[chunk / 64] |= bit;
}

void todo_all(struct agent_disk *d)
{
    int64_t words = (d->chunk_count + 63) / 64;

    for (int64_t i = 0; i < words; i++)
        d->todo[i] = UINT64_MAX;
    if (d->chunk_count % 64)
        d->todo[words - 1] = UINT64_MAX >> (64 - d->chunk_count % 64);
    d->todo_count = d->chunk_count;
    d->cursor = 0;
}

int64_t todo_total(const struct agent *a)
{
    int64_t total = 0;

    for (int i = 0; i < a->disk_count; i++)
        total += a->disks[i].todo_count;
    return total;
}

int todo_next(struct agent_disk *d, uint32_t *chunks, int limit)
{
    int64_t words = (d->chunk_count + 63) / 64, looked = 0;
    int count = 0;

    while (count < limit && d->todo_count > 0 && looked <= words) {
        uint64_t bits;

        if (d->cursor >= words) {
            if (count)
                break; /* an offer's chunks rise */
            d->cursor = 0;
        }
        bits = d->todo[d->cursor];
        if (!bits) {
            d->cursor++;
            looked++;
            continue;
        }
        chunks[count++] = (uint32_t)(d->cursor * 64 + __builtin_ctzll(bits));
        d->todo[d->cursor] &= bits - 1;
        d->todo_count--;
    }
    return count;
}
