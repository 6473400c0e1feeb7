#include "vault/seal.h"

#include "base/bytes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#define FORMAT_VERSION 1
#define RECORD_SEALED 1u
#define SEGMENT_SEALED 1u
#define ZSTD_LEVEL 1
#define DELTA_HEAD_SIZE 40u /* base 32, mask 2, codec of the pages 1, zero 5 */
#define PAGES_HEAD_SIZE 8u  /* own mask 2, number of parts 1, codec of the pages 1, zero 4; then the parts */
#define PART_SIZE 34u       /* name 32, mask 2 */

static const uint8_t header_magic[8] = "SLIPSEG1", trailer_magic[8] = "SLIPEND1", record_magic[4] = "SREC";

/* All three headers end in the XXH3-64 of their first 56 bytes. */
static void seal_header(uint8_t bytes[static 64]) { put_le64(bytes + 56, XXH3_64bits(bytes, 56)); }
static bool header_intact(const uint8_t bytes[static 64]) { return get_le64(bytes + 56) == XXH3_64bits(bytes, 56); }

void segment_header_encode(const struct segment_header *h, uint8_t bytes[static SEGMENT_HEADER_SIZE])
{
    memset(bytes, 0, SEGMENT_HEADER_SIZE);
    memcpy(bytes, header_magic, 8);
    put_le32(bytes + 8, FORMAT_VERSION);
    put_le32(bytes + 12, h->key ? SEGMENT_SEALED : 0);
    put_le64(bytes + 16, h->id);
    put_le64(bytes + 24, (uint64_t)h->created_us);
    memcpy(bytes + 32, h->vault_id, VAULT_ID_SIZE);
    put_le32(bytes + 48, h->key);
    seal_header(bytes);
}

int segment_header_decode(const uint8_t bytes[static SEGMENT_HEADER_SIZE], struct segment_header *out, struct err *e)
{
    if (memcmp(bytes, header_magic, 8) != 0 || !header_intact(bytes))
        return err_set(e, ERR_CORRUPT, "not a vault segment, or its header is damaged");
    if (get_le32(bytes + 8) != FORMAT_VERSION || get_le32(bytes + 12) & ~SEGMENT_SEALED)
        return err_set(e, ERR_UNSUPPORTED, "the segment has version %u and flags %#x; this Slipway reads version %d with flags %#x: "
                       "use the Slipway that wrote it or a later one", get_le32(bytes + 8), get_le32(bytes + 12), FORMAT_VERSION, SEGMENT_SEALED);
    out->id = get_le64(bytes + 16);
    out->created_us = (int64_t)get_le64(bytes + 24);
    memcpy(out->vault_id, bytes + 32, VAULT_ID_SIZE);
    out->key = get_le32(bytes + 12) ? get_le32(bytes + 48) : 0;
    return 0;
}

void segment_trailer_encode(uint64_t record_count, uint64_t end, uint8_t bytes[static SEGMENT_TRAILER_SIZE])
{
    memset(bytes, 0, SEGMENT_TRAILER_SIZE);
    memcpy(bytes, trailer_magic, 8);
    put_le32(bytes + 8, FORMAT_VERSION);
    put_le64(bytes + 16, record_count);
    put_le64(bytes + 24, end);
    seal_header(bytes);
}

bool segment_trailer_valid(const uint8_t bytes[static SEGMENT_TRAILER_SIZE], uint64_t end, uint64_t *record_count)
{
    if (memcmp(bytes, trailer_magic, 8) != 0 || !header_intact(bytes) || get_le64(bytes + 24) != end)
        return false;
    *record_count = get_le64(bytes + 16);
    return true;
}

/* Compression contexts are large: one of each for a thread, freed with it. */
struct codec {
    ZSTD_CCtx *pack;
    ZSTD_DCtx *unpack;
};
static pthread_key_t codec_key;
static pthread_once_t codec_once = PTHREAD_ONCE_INIT;

static void codec_destroy(void *held)
{
    struct codec *c = held;

    ZSTD_freeCCtx(c->pack);
    ZSTD_freeDCtx(c->unpack);
    free(c);
}

static void codec_setup(void) { MUST(pthread_key_create(&codec_key, codec_destroy) == 0); }

static struct codec *codec_of_thread(void)
{
    struct codec *c;

    MUST(pthread_once(&codec_once, codec_setup) == 0);
    c = pthread_getspecific(codec_key);
    if (!c) {
        c = xcalloc(1, sizeof *c);
        c->pack = ZSTD_createCCtx();
        c->unpack = ZSTD_createDCtx();
        MUST(c->pack && c->unpack && pthread_setspecific(codec_key, c) == 0);
    }
    return c;
}

size_t record_span(uint32_t stored_size) { return RECORD_HEADER_SIZE + (((size_t)stored_size + 7) & ~(size_t)7); }

void record_encode(const struct record *r, uint8_t bytes[static RECORD_HEADER_SIZE])
{
    memset(bytes, 0, RECORD_HEADER_SIZE);
    memcpy(bytes, record_magic, 4);
    bytes[4] = FORMAT_VERSION;
    bytes[5] = (uint8_t)r->kind;
    bytes[6] = (uint8_t)r->codec;
    bytes[7] = r->sealed ? RECORD_SEALED : 0;
    put_le32(bytes + 8, r->raw_size);
    put_le32(bytes + 12, r->stored_size);
    memcpy(bytes + 16, r->hash.bytes, VAULT_HASH_SIZE);
    put_le64(bytes + 48, r->payload_sum);
    seal_header(bytes);
}

size_t record_frame(struct record *r, uint8_t *bytes)
{
    size_t span = record_span(r->stored_size), used = RECORD_HEADER_SIZE + r->stored_size;

    r->payload_sum = XXH3_64bits(bytes + RECORD_HEADER_SIZE, r->stored_size);
    record_encode(r, bytes);
    memset(bytes + used, 0, span - used);
    return span;
}

size_t record_pack(enum record_kind kind, const void *raw, size_t raw_size, const struct vault_hash *hash, uint8_t **bytes)
{
    struct record r = {.kind = kind, .codec = CODEC_ZSTD, .raw_size = (uint32_t)raw_size, .hash = *hash};
    size_t held_size, packed_size;
    uint8_t *held;

    MUST(raw_size > 0 && raw_size <= RECORD_RAW_LIMIT);
    held_size = RECORD_HEADER_SIZE + ZSTD_compressBound(raw_size) + 8;
    held = xmalloc(held_size);
    packed_size = ZSTD_compressCCtx(codec_of_thread()->pack, held + RECORD_HEADER_SIZE, held_size - RECORD_HEADER_SIZE - 8, raw,
                                    raw_size, ZSTD_LEVEL);
    if (ZSTD_isError(packed_size) || packed_size >= raw_size) {
        r.codec = CODEC_RAW;
        packed_size = raw_size;
        memcpy(held + RECORD_HEADER_SIZE, raw, raw_size);
    }
    r.stored_size = (uint32_t)packed_size;
    *bytes = held;
    return record_frame(&r, held);
}

size_t record_wrap(enum record_kind kind, const void *packed, size_t packed_size, size_t raw_size, const struct vault_hash *hash,
                   uint8_t **bytes)
{
    struct record r = {.kind = kind, .codec = CODEC_ZSTD, .raw_size = (uint32_t)raw_size, .stored_size = (uint32_t)packed_size,
                       .hash = *hash};

    MUST(packed_size > 0 && packed_size < raw_size && raw_size <= RECORD_RAW_LIMIT);
    *bytes = xmalloc(record_span(r.stored_size));
    memcpy(*bytes + RECORD_HEADER_SIZE, packed, packed_size);
    return record_frame(&r, *bytes);
}

size_t record_pack_pages(const struct record_pages *p, const uint8_t raw[static VAULT_CHUNK_BYTES], const struct vault_hash *hash, uint8_t **bytes)
{
    struct record r = {.kind = RECORD_CHUNK, .codec = CODEC_PAGES, .raw_size = VAULT_CHUNK_BYTES, .hash = *hash};
    size_t size = 0, room, packed_size, head_size = PAGES_HEAD_SIZE + p->part_count * PART_SIZE;
    uint8_t pages[VAULT_CHUNK_BYTES], *held, *head;

    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++)
        if (p->own >> i & 1) {
            memcpy(pages + size, raw + i * VAULT_PAGE_BYTES, VAULT_PAGE_BYTES);
            size += VAULT_PAGE_BYTES;
        }
    MUST(size > 0 && size < VAULT_CHUNK_BYTES && p->part_count <= RECORD_PARTS_MOST);
    room = ZSTD_compressBound(size);
    held = xmalloc(RECORD_HEADER_SIZE + head_size + room + 8);
    head = held + RECORD_HEADER_SIZE;
    memset(head, 0, PAGES_HEAD_SIZE);
    put_le16(head, p->own);
    head[2] = (uint8_t)p->part_count;
    head[3] = CODEC_ZSTD;
    for (size_t i = 0; i < p->part_count; i++) {
        memcpy(head + PAGES_HEAD_SIZE + i * PART_SIZE, p->parts[i].name.bytes, VAULT_HASH_SIZE);
        put_le16(head + PAGES_HEAD_SIZE + i * PART_SIZE + VAULT_HASH_SIZE, p->parts[i].mask);
    }
    packed_size = ZSTD_compressCCtx(codec_of_thread()->pack, head + head_size, room, pages, size, ZSTD_LEVEL);
    if (ZSTD_isError(packed_size) || packed_size >= size) {
        head[3] = CODEC_RAW;
        packed_size = size;
        memcpy(head + head_size, pages, size);
    }
    r.stored_size = (uint32_t)(head_size + packed_size);
    *bytes = held;
    return record_frame(&r, held);
}

int record_decode(const uint8_t bytes[static RECORD_HEADER_SIZE], struct record *out, struct err *e)
{
    struct record r;
    uint32_t packed_size;

    if (memcmp(bytes, record_magic, 4) != 0 || !header_intact(bytes))
        return err_set(e, ERR_CORRUPT, "no record starts here, or its header is damaged");
    if (bytes[4] != FORMAT_VERSION || bytes[5] == 0 || bytes[5] >= RECORD_KIND_END || bytes[6] >= CODEC_END || bytes[7] & ~RECORD_SEALED)
        return err_set(e, ERR_UNSUPPORTED, "a record of version %u, kind %u, codec %u, flags %#x: this Slipway does not know it",
                       bytes[4], bytes[5], bytes[6], bytes[7]);
    r.kind = bytes[5];
    r.codec = bytes[6];
    r.sealed = bytes[7] == RECORD_SEALED;
    r.raw_size = get_le32(bytes + 8);
    r.stored_size = get_le32(bytes + 12);
    memcpy(r.hash.bytes, bytes + 16, VAULT_HASH_SIZE);
    r.payload_sum = get_le64(bytes + 48);
    packed_size = r.sealed ? r.stored_size < SEAL_OVERHEAD ? 0 : r.stored_size - SEAL_OVERHEAD : r.stored_size;
    if (r.raw_size == 0 || r.raw_size > RECORD_RAW_LIMIT || packed_size == 0 || packed_size > r.raw_size ||
        (r.codec == CODEC_RAW && packed_size != r.raw_size) || (r.codec >= CODEC_DELTA && (r.kind != RECORD_CHUNK || r.raw_size != VAULT_CHUNK_BYTES)) ||
        (r.codec == CODEC_DELTA && packed_size <= DELTA_HEAD_SIZE) || (r.codec == CODEC_PAGES && packed_size <= PAGES_HEAD_SIZE))
        return err_set(e, ERR_CORRUPT, "a record says %u raw and %u stored bytes", r.raw_size, r.stored_size);
    *out = r;
    return 0;
}

bool record_payload_intact(const struct record *r, const void *payload)
{
    return XXH3_64bits(payload, r->stored_size) == r->payload_sum;
}

static bool expand(enum record_codec codec, const void *packed, size_t packed_size, void *raw, size_t raw_size)
{
    if (codec == CODEC_ZSTD)
        return ZSTD_decompressDCtx(codec_of_thread()->unpack, raw, raw_size, packed, packed_size) == raw_size; /* an error is no size */
    if (codec != CODEC_RAW || packed_size != raw_size)
        return false;
    memcpy(raw, packed, raw_size);
    return true;
}

void record_lay_pages(uint8_t raw[static VAULT_CHUNK_BYTES], uint32_t mask, const uint8_t *pages)
{
    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++)
        if (mask >> i & 1) {
            memcpy(raw + i * VAULT_PAGE_BYTES, pages, VAULT_PAGE_BYTES);
            pages += VAULT_PAGE_BYTES;
        }
}

void record_copy_pages(uint8_t raw[static VAULT_CHUNK_BYTES], uint32_t mask, const uint8_t from[static VAULT_CHUNK_BYTES])
{
    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++)
        if (mask >> i & 1)
            memcpy(raw + i * VAULT_PAGE_BYTES, from + i * VAULT_PAGE_BYTES, VAULT_PAGE_BYTES);
}

bool record_pages_whole(const struct record_pages *p)
{
    uint32_t all = p->own;

    for (size_t i = 0; i < p->part_count; i++)
        all |= p->parts[i].mask;
    return all == RECORD_ALL_PAGES;
}

/* A delta of version 1: its base is a chunk that is no delta. */
static bool base_of(const uint8_t *head, struct record_pages *out)
{
    static const uint8_t nothing[5];
    uint16_t mask = get_le16(head + 32);

    *out = (struct record_pages){.own = mask, .part_count = mask != RECORD_ALL_PAGES};
    memcpy(out->parts[0].name.bytes, head, VAULT_HASH_SIZE);
    out->parts[0].mask = (uint16_t)~mask;
    return mask != 0 && memcmp(head + 35, nothing, sizeof nothing) == 0;
}

static bool parts_of(const uint8_t *head, size_t size, struct record_pages *out)
{
    static const uint8_t nothing[4];
    struct record_pages p = {.own = get_le16(head), .part_count = head[2]};
    uint32_t seen = p.own;

    if (p.own == 0 || p.part_count > RECORD_PARTS_MOST || size <= PAGES_HEAD_SIZE + p.part_count * PART_SIZE || memcmp(head + 4, nothing, sizeof nothing) != 0)
        return false;
    for (size_t i = 0; i < p.part_count; i++) {
        const uint8_t *part = head + PAGES_HEAD_SIZE + i * PART_SIZE;

        memcpy(p.parts[i].name.bytes, part, VAULT_HASH_SIZE);
        p.parts[i].mask = get_le16(part + VAULT_HASH_SIZE);
        if (p.parts[i].mask == 0 || (seen & p.parts[i].mask))
            return false;
        seen |= p.parts[i].mask;
    }
    *out = p;
    return true;
}

int record_pages_of(const struct record *r, const void *payload, struct record_pages *out, struct err *e)
{
    char text[VAULT_HASH_TEXT_SIZE];

    if (r->codec != CODEC_DELTA && r->codec != CODEC_PAGES)
        *out = (struct record_pages){.own = RECORD_ALL_PAGES};
    else if (r->codec == CODEC_DELTA ? !base_of(payload, out) : !parts_of(payload, r->stored_size, out))
        return err_set(e, ERR_CORRUPT, "the record of chunk %s does not say right which pages it holds", vault_hash_text(&r->hash, text));
    return 0;
}

/* Its own pages, one after the other: of a record that does not hold all of them. */
static bool expand_pages(const struct record *r, const uint8_t *payload, const struct record_pages *p, uint8_t pages[static VAULT_CHUNK_BYTES])
{
    size_t head_size = r->codec == CODEC_DELTA ? DELTA_HEAD_SIZE : PAGES_HEAD_SIZE + p->part_count * PART_SIZE;

    return expand(payload[r->codec == CODEC_DELTA ? 34 : 3], payload + head_size, r->stored_size - head_size, pages,
                  (size_t)__builtin_popcount(p->own) * VAULT_PAGE_BYTES);
}

int record_own_pages(const struct record *r, const void *payload, uint32_t mask, const struct seal *s, uint8_t raw[static VAULT_CHUNK_BYTES], struct err *e)
{
    uint8_t pages[VAULT_CHUNK_BYTES], *page = pages;
    char text[VAULT_HASH_TEXT_SIZE];
    struct record_pages p;

    if (record_pages_of(r, payload, &p, e) < 0)
        return -1;
    if (mask & ~(uint32_t)p.own)
        return err_set(e, ERR_NOT_FOUND, "the record of chunk %s lacks a page that it should hold", vault_hash_text(&r->hash, text));
    if (p.own == RECORD_ALL_PAGES && r->codec < CODEC_DELTA ? record_unpack(r, payload, s, pages, e) < 0 : !expand_pages(r, payload, &p, pages))
        return err_set(e, ERR_CORRUPT, "the pages of chunk %s do not unpack, or do not match its SHA-256", vault_hash_text(&r->hash, text));
    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++) {
        if (mask >> i & 1)
            memcpy(raw + i * VAULT_PAGE_BYTES, page, VAULT_PAGE_BYTES);
        if (p.own >> i & 1)
            page += VAULT_PAGE_BYTES;
    }
    return 0;
}

int record_unpack(const struct record *r, const void *payload, const struct seal *s, void *raw, struct err *e)
{
    struct vault_hash found;
    struct record_pages p;
    char text[VAULT_HASH_TEXT_SIZE];

    MUST(!r->sealed);
    if (r->codec >= CODEC_DELTA) {
        if (record_pages_of(r, payload, &p, e) < 0 || record_own_pages(r, payload, p.own, s, raw, e) < 0)
            return -1;
    } else if (!expand(r->codec, payload, r->stored_size, raw, r->raw_size)) {
        return err_set(e, ERR_CORRUPT, "chunk %s does not decompress", vault_hash_text(&r->hash, text));
    }
    vault_hash_of(raw, r->raw_size, &found);
    if (r->kind == RECORD_CHUNK || r->kind == RECORD_NODE) /* a document's name is never hidden: nobody can guess a root */
        seal_name(s, &found);
    if (!vault_hash_same(&found, &r->hash))
        return err_set(e, ERR_CORRUPT, "the bytes of chunk %s do not match its SHA-256", vault_hash_text(&r->hash, text));
    return 0;
}
