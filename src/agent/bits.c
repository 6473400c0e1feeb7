#include "agent/bits.h"

#include <stdlib.h>
#include <string.h>

#define WORDS (BITS_BLOCK_COUNT / 64)

static uint64_t full_block[1]; /* its address stands for a block that has all */
#define FULL full_block

int64_t bits_blocks(int64_t bound) { return (bound + BITS_BLOCK_COUNT - 1) / BITS_BLOCK_COUNT; }

static int32_t size_of(const struct bits *b, int64_t block)
{
    int64_t left = b->bound - block * BITS_BLOCK_COUNT;

    return left < BITS_BLOCK_COUNT ? (int32_t)left : BITS_BLOCK_COUNT;
}

struct bits *bits_new(int64_t bound, int64_t blocks)
{
    struct bits *b = xcalloc(1, sizeof *b);

    MUST(bound > 0 && blocks >= BITS_BLOCKS_LEAST);
    b->bound = bound;
    b->block_count = bits_blocks(bound);
    b->free_count = blocks;
    b->blocks = xcalloc((size_t)b->block_count, sizeof *b->blocks);
    b->counts = xcalloc((size_t)b->block_count, sizeof *b->counts);
    b->pool = xcalloc((size_t)blocks, BITS_BLOCK_BYTES);
    b->free_blocks = xcalloc((size_t)blocks, sizeof *b->free_blocks);
    for (int64_t i = 0; i < blocks; i++)
        b->free_blocks[i] = b->pool + i * WORDS;
    return b;
}

void bits_free(struct bits **b)
{
    if (*b) {
        free((*b)->blocks);
        free((*b)->counts);
        free((*b)->pool);
        free((*b)->free_blocks);
    }
    free_ptr(b);
}

static void set_whole(struct bits *b, int64_t block, bool full)
{
    if (b->blocks[block] && b->blocks[block] != FULL)
        b->free_blocks[b->free_count++] = b->blocks[block];
    b->blocks[block] = full ? FULL : NULL;
    b->count += (full ? size_of(b, block) : 0) - b->counts[block];
    b->counts[block] = full ? size_of(b, block) : 0;
}

void bits_fill(struct bits *b)
{
    for (int64_t i = 0; i < b->block_count; i++)
        set_whole(b, i, true);
}

/* The fullest of those in between is filled: what is added so is the least. */
static void make_room(struct bits *b)
{
    int64_t fullest = -1;

    for (int64_t i = 0; i < b->block_count; i++)
        if (b->blocks[i] && b->blocks[i] != FULL && (fullest < 0 || b->counts[i] > b->counts[fullest]))
            fullest = i;
    MUST(fullest >= 0);
    set_whole(b, fullest, true);
}

bool bits_has(const struct bits *b, int64_t number)
{
    const uint64_t *block = b->blocks[number / BITS_BLOCK_COUNT];

    return block == FULL || (block && block[number % BITS_BLOCK_COUNT / 64] >> (number % 64) & 1);
}

void bits_add(struct bits *b, int64_t number)
{
    int64_t block = number / BITS_BLOCK_COUNT;

    MUST(number >= 0 && number < b->bound);
    if (bits_has(b, number))
        return;
    if (!b->blocks[block] && !b->free_count) {
        set_whole(b, block, true);
        return;
    }
    if (!b->blocks[block]) {
        b->blocks[block] = b->free_blocks[--b->free_count];
        memset(b->blocks[block], 0, BITS_BLOCK_BYTES);
    }
    b->blocks[block][number % BITS_BLOCK_COUNT / 64] |= UINT64_C(1) << (number % 64);
    b->counts[block]++;
    b->count++;
    if (b->counts[block] == size_of(b, block))
        set_whole(b, block, true);
}

void bits_drop(struct bits *b, int64_t number)
{
    int64_t block = number / BITS_BLOCK_COUNT;

    MUST(number >= 0 && number < b->bound && bits_has(b, number));
    if (b->counts[block] == 1) {
        set_whole(b, block, false);
        return;
    }
    if (b->blocks[block] == FULL) {
        if (!b->free_count)
            make_room(b);
        b->blocks[block] = b->free_blocks[--b->free_count];
        memset(b->blocks[block], 0xff, BITS_BLOCK_BYTES); /* beyond the bound, too: bits_next stops there */
    }
    b->blocks[block][number % BITS_BLOCK_COUNT / 64] &= ~(UINT64_C(1) << (number % 64));
    b->counts[block]--;
    b->count--;
}

bool bits_is_tight(const struct bits *b, int64_t number)
{
    int64_t block = number / BITS_BLOCK_COUNT;

    return b->blocks[block] == FULL && b->counts[block] > 1 && !b->free_count;
}

int64_t bits_next(const struct bits *b, int64_t from)
{
    while (from < b->bound) {
        int64_t block = from / BITS_BLOCK_COUNT;
        uint64_t word;

        if (b->blocks[block] == FULL)
            return from;
        if (!b->blocks[block]) {
            from = (block + 1) * BITS_BLOCK_COUNT;
            continue;
        }
        word = b->blocks[block][from % BITS_BLOCK_COUNT / 64] >> (from % 64);
        if (word) {
            from += __builtin_ctzll(word);
            return from < b->bound ? from : -1;
        }
        from = (from / 64 + 1) * 64;
    }
    return -1;
}
