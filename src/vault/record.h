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

enum record_kind { RECORD_CHUNK = 1, RECORD_NODE = 2, RECORD_POINT = 3, RECORD_GRAVE = 4, RECORD_GROUP = 5, RECORD_KIND_END };
enum record_codec { CODEC_RAW = 0, CODEC_ZSTD = 1, CODEC_DELTA = 2, CODEC_END };

struct record_base {
    struct vault_hash name; /* of a chunk that is no delta itself; zero: there is none */
    uint32_t mask;          /* the pages that are not the base's */
};

struct segment_header {
    uint64_t id;
    int64_t created_us;
    uint8_t vault_id[VAULT_ID_SIZE];
};

struct record {
    enum record_kind kind;
    enum record_codec codec;
    uint32_t raw_size, stored_size;
    struct vault_hash hash; /* SHA-256 of the raw bytes */
    uint64_t payload_sum;   /* XXH3-64 of the stored bytes: tells a torn write without unpacking */
};

void segment_header_encode(const struct segment_header *h, uint8_t bytes[static SEGMENT_HEADER_SIZE]);
int segment_header_decode(const uint8_t bytes[static SEGMENT_HEADER_SIZE], struct segment_header *out, struct err *e);
void segment_trailer_encode(uint64_t record_count, uint64_t end, uint8_t bytes[static SEGMENT_TRAILER_SIZE]);
/* end: where the trailer itself starts; it must say so too. */
bool segment_trailer_valid(const uint8_t bytes[static SEGMENT_TRAILER_SIZE], uint64_t end, uint64_t *record_count);

/* Header, payload and padding of one record, ready to append. The caller frees *bytes. */
size_t record_pack(enum record_kind kind, const void *raw, size_t raw_size, const struct vault_hash *hash, uint8_t **bytes);
/* The same around a zstd frame that the caller has; it must be smaller than the raw bytes and is not looked into. */
size_t record_wrap(enum record_kind kind, const void *packed, size_t packed_size, size_t raw_size, const struct vault_hash *hash,
                   uint8_t **bytes);
/* A chunk as the pages (VAULT_PAGE_BYTES each) in which it differs from another: bit i of mask: page i of raw. hash: of all of raw. */
size_t record_pack_delta(const struct record_base *base, const uint8_t raw[static VAULT_CHUNK_BYTES], const struct vault_hash *hash, uint8_t **bytes);
/* The pages of mask, one after the other in pages, to their places in raw. */
void record_lay_pages(uint8_t raw[static VAULT_CHUNK_BYTES], uint32_t mask, const uint8_t *pages);
/* What a delta's payload starts with. The record must be one (codec CODEC_DELTA). */
void record_base_of(const void *payload, struct record_base *out);
int record_decode(const uint8_t bytes[static RECORD_HEADER_SIZE], struct record *out, struct err *e);
/* Space from one record's start to the next's: a multiple of 8. */
size_t record_span(uint32_t stored_size);
/* Whether the stored bytes are those that were written. */
bool record_payload_intact(const struct record *r, const void *payload);
/* Stored bytes to raw_size raw bytes, checked against the hash. A delta's raw must hold the bytes of its base before. After ERR_CORRUPT raw
 * holds nothing to be used. */
int record_unpack(const struct record *r, const void *payload, void *raw, struct err *e);
