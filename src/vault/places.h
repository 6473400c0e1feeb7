/* places: what the index knows of some segments, in the order in which it lies there, for those who read it all: by rising segment, each from its begin to its
 * end, so that none is brought from the bucket twice. */
#pragma once

#include "vault/internal.h"

struct placed {
    struct vault_hash hash;
    struct chunk_place place;
};

#define PLACED_BYTES 72 /* what one takes in memory, with what sorting takes */

struct places {
    struct placed *list;
    size_t count, held;
};
void places_release(struct places *p); /* for CLEANUP */
void places_make(struct places *p, size_t count); /* empty, and room for so many; there may be more */
void places_add(struct places *p, const struct vault_hash *hash, const struct chunk_place *place);
void places_sort(struct places *p);
