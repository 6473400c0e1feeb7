/* bucket_use: what is known of each segment's use, by its number. */
#include "vault/bucket_private.h"

#include <stdlib.h>

#define USES_AT_FIRST 1024

/* Where it is, or would be. size: a power of two, and not all are taken. */
static struct segment_use *use_slot(struct segment_use *uses, size_t size, uint32_t id)
{
    size_t at = id * UINT64_C(0x9e3779b97f4a7c15) >> 32 & (size - 1);

    while (uses[at].taken && uses[at].id != id)
        at = (at + 1) & (size - 1);
    return &uses[at];
}

static void grow_uses(struct bucket *b)
{
    size_t size = b->use_size ? 2 * b->use_size : USES_AT_FIRST;
    struct segment_use *uses = xcalloc(size, sizeof *uses);

    for (size_t i = 0; i < b->use_size; i++)
        if (b->uses[i].taken)
            *use_slot(uses, size, b->uses[i].id) = b->uses[i];
    free(b->uses);
    b->uses = uses;
    b->use_size = size;
}

/* By how many there are, not by their numbers: names in a bucket may be anything. */
struct segment_use *use_of(struct bucket *b, uint32_t id)
{
    struct segment_use *use;

    if (b->use_count >= b->use_size / 2)
        grow_uses(b);
    use = use_slot(b->uses, b->use_size, id);
    if (!use->taken) {
        *use = (struct segment_use){.id = id, .taken = true};
        b->use_count++;
    }
    return use;
}
