/* zip: zstd. A struct is for one thread at a time. */
#pragma once

#include "base/mem.h"

/* One block at a time. A block that doesn't shrink stays as it is. */
struct zip;
struct zip *zip_new(int level); /* zstd's levels, 1-19 */
void zip_free(struct zip **z);  /* for CLEANUP */

/* Compresses into out, which must hold `size` bytes. Returns the compressed size, or 0 where it isn't at least 1/32 smaller
 * (store the block as it is then). */
size_t zip_pack(struct zip *z, const void *bytes, size_t size, void *out);
/* Exactly raw_size bytes must come out: ERR_CORRUPT otherwise. Never writes past raw_size. */
int zip_unpack(struct zip *z, const void *packed, size_t packed_size, void *out, size_t raw_size, struct err *e);

/* A stream of blocks, each packed with what came before it in mind, as far back as ZIP_WINDOW_BYTES: much smaller than each alone, and unpacked only in
 * the order in which they were packed. One end packs, the other unpacks: neither does both. */
#define ZIP_WINDOW_BYTES (2u << 20)
struct zip_stream;
struct zip_stream *zip_stream_new(int level);    /* to pack */
struct zip_stream *zip_stream_unpacker(void);
void zip_stream_free(struct zip_stream **s);     /* for CLEANUP */
/* Appends the packed block, all of it, to out, whose limit must allow it: never more than ZIP_STREAM_BOUND(size). last: the next block begins anew.
 * An empty last block is fine. */
#define ZIP_STREAM_BOUND(size) ((size) + (size) / 128 + 1024)
void zip_stream_pack(struct zip_stream *s, const void *bytes, size_t size, bool last, struct buf *out);
/* Exactly raw_size bytes must come out of all of what was packed, and the window may not be larger than ours: ERR_CORRUPT otherwise, and the stream is
 * of no more use. */
int zip_stream_unpack(struct zip_stream *s, const void *packed, size_t packed_size, void *out, size_t raw_size, struct err *e);
bool zip_stream_ended(const struct zip_stream *s); /* the last block that was unpacked was a last one, or none was: it remembers nothing */
