/* bits: a set of numbers below a bound (chunks of a disk) in memory that was taken at the start, and less than a bit for each: where a block of
 * 32,768 is empty or full it takes none. Where more blocks are in between than there is memory for, one is filled: so a set may hold more
 * than was added, and never less. */
#pragma once

#include "base/mem.h"

#define BITS_BLOCK_COUNT 32768 /* chunks: 2 GiB of a disk */
#define BITS_BLOCK_BYTES (BITS_BLOCK_COUNT / 8)
#define BITS_BLOCKS_LEAST 2

struct bits {
    int64_t bound;
    int64_t count; /* how many are in it */
    /* bits.c's */
    int64_t block_count;
    uint64_t **blocks; /* NULL: empty; full (see bits.c); else one of pool's */
    int32_t *counts;   /* of each block */
    uint64_t *pool, **free_blocks;
    int64_t free_count;
};

/* Of so many blocks there are at most for a bound. */
int64_t bits_blocks(int64_t bound);
/* In at most so many blocks (BITS_BLOCKS_LEAST at least). */
struct bits *bits_new(int64_t bound, int64_t blocks);
void bits_free(struct bits **b); /* for CLEANUP; NULL inside is fine */
void bits_fill(struct bits *b);
bool bits_has(const struct bits *b, int64_t number);
void bits_add(struct bits *b, int64_t number);
void bits_drop(struct bits *b, int64_t number); /* one that it has */
bool bits_is_tight(const struct bits *b, int64_t number); /* to drop that one another block would have to be filled */
int64_t bits_next(const struct bits *b, int64_t from); /* the least from `from` on; -1: none */
