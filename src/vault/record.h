/* record: the bytes of a segment: its header, its records, its trailer. Everything here is little-endian and described in
 * docs/formats/vault.md; nothing here touches a file. Decoding trusts nothing: ERR_CORRUPT for bytes that are not what they say,
 * ERR_UNSUPPORTED for a version, kind, codec or flag from a later Slipway. */
#pragma once

#include "vault/vault.h"

#define SEGMENT_HEADER_SIZE 64u
#define SEGMENT_TRAILER_SIZE 64u
#define RECORD_HEADER_SIZE 64u
#define RECORD_RAW_LIMIT (1u << 20) /* no record says more: a chunk is 64 KiB, a point's document a few KiB a disk */
#define VAULT_ID_SIZE 16

enum record_kind { RECORD_CHUNK = 1, RECORD_NODE = 2, RECORD_POINT = 3, RECORD_GRAVE = 4, RECORD_GROUP = 5, RECORD_PINS = 6 /* in a bucket, beside the segments */, RECORD_KIND_END };
enum record_codec { CODEC_RAW = 0, CODEC_ZSTD = 1, CODEC_DELTA = 2 /* of version 1, not written any more */, CODEC_PAGES = 3, CODEC_END };

/* Which pages of a chunk its record holds itself, and where the others are: each part names another chunk's record, and those of the pages
 * that *it* holds itself. So a chunk is read from its record and those of its parts, and never from theirs. A record whose pages and parts do
 * not make a whole chunk is there for others only. */
#define RECORD_PARTS_MOST (VAULT_CHUNK_PAGES - 1)
#define RECORD_ALL_PAGES ((1u << VAULT_CHUNK_PAGES) - 1)
struct record_part {
    struct vault_hash name;
    uint16_t mask; /* bit i: page i */
};
struct record_pages {
    uint16_t own, part_count;
    struct record_part parts[RECORD_PARTS_MOST];
};

struct segment_header {
    uint64_t id;
    int64_t created_us;
    uint8_t vault_id[VAULT_ID_SIZE];
    uint32_t key; /* number of the data key that its records are sealed under; 0: they are not */
};

struct record {
    enum record_kind kind;
    enum record_codec codec;
    uint32_t raw_size, stored_size;
    struct vault_hash hash; /* SHA-256 of the raw bytes */
    bool sealed;            /* the payload is encrypted (seal.h) */
    uint64_t payload_sum;   /* XXH3-64 of the stored bytes: tells a torn write without unpacking */
};

void segment_header_encode(const struct segment_header *h, uint8_t bytes[static SEGMENT_HEADER_SIZE]);
int segment_header_decode(const uint8_t bytes[static SEGMENT_HEADER_SIZE], struct segment_header *out, struct err *e);
void segment_trailer_encode(uint64_t record_count, uint64_t end, uint8_t bytes[static SEGMENT_TRAILER_SIZE]);
/* end: where the trailer itself starts; it must say so too. */
bool segment_trailer_valid(const uint8_t bytes[static SEGMENT_TRAILER_SIZE], uint64_t end, uint64_t *record_count);

struct seal;

/* The header alone. */
void record_encode(const struct record *r, uint8_t bytes[static RECORD_HEADER_SIZE]);
/* Header and padding around a payload that is in place; returns the span. */
size_t record_frame(struct record *r, uint8_t *bytes);
/* Header, payload and padding of one record, ready to append. The caller frees *bytes. */
size_t record_pack(enum record_kind kind, const void *raw, size_t raw_size, const struct vault_hash *hash, uint8_t **bytes);
/* The same around a zstd frame that the caller has; it must be smaller than the raw bytes and is not looked into. */
size_t record_wrap(enum record_kind kind, const void *packed, size_t packed_size, size_t raw_size, const struct vault_hash *hash,
                   uint8_t **bytes);
/* A chunk as its own pages, which are taken from raw, and the names of its parts. hash: of all of the chunk. */
size_t record_pack_pages(const struct record_pages *p, const uint8_t raw[static VAULT_CHUNK_BYTES], const struct vault_hash *hash, uint8_t **bytes);
/* The pages of mask, from their places in another chunk. */
void record_copy_pages(uint8_t raw[static VAULT_CHUNK_BYTES], uint32_t mask, const uint8_t from[static VAULT_CHUNK_BYTES]);
/* The pages of mask, one after the other in pages, to their places in raw. */
void record_lay_pages(uint8_t raw[static VAULT_CHUNK_BYTES], uint32_t mask, const uint8_t *pages);
/* What a chunk's record holds itself and what else it needs. ERR_CORRUPT where the payload does not say it right. */
int record_pages_of(const struct record *r, const void *payload, struct record_pages *out, struct err *e);
/* Every page is there, by itself or by a part. */
bool record_pages_whole(const struct record_pages *p);
/* Those of its own pages that are in mask, to their places in raw. ERR_NOT_FOUND where it lacks one, ERR_CORRUPT where it does not unpack; a
 * record of the whole chunk is checked against its hash, others can't be. */
int record_own_pages(const struct record *r, const void *payload, uint32_t mask, const struct seal *s, uint8_t raw[static VAULT_CHUNK_BYTES], struct err *e);
int record_decode(const uint8_t bytes[static RECORD_HEADER_SIZE], struct record *out, struct err *e);
/* Space from one record's start to the next's: a multiple of 8. */
size_t record_span(uint32_t stored_size);
/* Whether the stored bytes are those that were written. */
bool record_payload_intact(const struct record *r, const void *payload);
/* Stored bytes to raw_size raw bytes, checked against the hash. Where the record has parts, raw must hold their pages before. After
 * ERR_CORRUPT raw holds nothing to be used. s: whose names they are; the record must not be sealed any more. */
int record_unpack(const struct record *r, const void *payload, const struct seal *s, void *raw, struct err *e);
