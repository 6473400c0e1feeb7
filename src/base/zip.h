/* zip: zstd for one block at a time. A block that doesn't shrink stays as it is. One struct zip for each thread. */
#pragma once

#include "base/mem.h"

struct zip;
struct zip *zip_new(int level); /* zstd's levels, 1-19 */
void zip_free(struct zip **z);  /* for CLEANUP */

/* Compresses into out, which must hold `size` bytes. Returns the compressed size, or 0 where it isn't at least 1/32 smaller
 * (store the block as it is then). */
size_t zip_pack(struct zip *z, const void *bytes, size_t size, void *out);
/* Exactly raw_size bytes must come out: ERR_CORRUPT otherwise. Never writes past raw_size. */
int zip_unpack(struct zip *z, const void *packed, size_t packed_size, void *out, size_t raw_size, struct err *e);
