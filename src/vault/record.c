#include "vault/record.h"

#include "base/bytes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#define FORMAT_VERSION 1
#define ZSTD_LEVEL 1
#define DELTA_HEAD_SIZE 40u /* base 32, mask 2, codec of the pages 1, zero 5 */

static const uint8_t header_magic[8] = "SLIPSEG1", trailer_magic[8] = "SLIPEND1", record_magic[4] = "SREC";

/* All three headers end in the XXH3-64 of their first 56 bytes. */
static void seal_header(uint8_t bytes[static 64]) { put_le64(bytes + 56, XXH3_64bits(bytes, 56)); }
static bool header_intact(const uint8_t bytes[static 64]) { return get_le64(bytes + 56) == XXH3_64bits(bytes, 56); }

void segment_header_encode(const struct segment_header *h, uint8_t bytes[static SEGMENT_HEADER_SIZE])
{
    memset(bytes, 0, SEGMENT_HEADER_SIZE);
    memcpy(bytes, header_magic, 8);
    put_le32(bytes + 8, FORMAT_VERSION);
    put_le64(bytes + 16, h->id); /* 12: flags, none yet */
    put_le64(bytes + 24, (uint64_t)h->created_us);
    memcpy(bytes + 32, h->vault_id, VAULT_ID_SIZE);
    seal_header(bytes);
}

int segment_header_decode(const uint8_t bytes[static SEGMENT_HEADER_SIZE], struct segment_header *out, struct err *e)
{
    if (memcmp(bytes, header_magic, 8) != 0 || !header_intact(bytes))
        return err_set(e, ERR_CORRUPT, "not a vault segment, or its header is damaged");
    if (get_le32(bytes + 8) != FORMAT_VERSION || get_le32(bytes + 12) != 0)
        return err_set(e, ERR_UNSUPPORTED, "the segment has version %u and flags %#x; this Slipway reads version %d without flags: "
                       "use the Slipway that wrote it or a later one", get_le32(bytes + 8), get_le32(bytes + 12), FORMAT_VERSION);
    out->id = get_le64(bytes + 16);
    out->created_us = (int64_t)get_le64(bytes + 24);
    memcpy(out->vault_id, bytes + 32, VAULT_ID_SIZE);
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

static void record_encode(const struct record *r, uint8_t bytes[static RECORD_HEADER_SIZE])
{
    memset(bytes, 0, RECORD_HEADER_SIZE);
    memcpy(bytes, record_magic, 4);
    bytes[4] = FORMAT_VERSION;
    bytes[5] = (uint8_t)r->kind;
    bytes[6] = (uint8_t)r->codec; /* 7: flags, none yet */
    put_le32(bytes + 8, r->raw_size);
    put_le32(bytes + 12, r->stored_size);
    memcpy(bytes + 16, r->hash.bytes, VAULT_HASH_SIZE);
    put_le64(bytes + 48, r->payload_sum);
    seal_header(bytes);
}

/* The payload is in place: header and padding around it. */
static size_t finish(struct record *r, uint8_t *bytes)
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
    return finish(&r, held);
}

size_t record_wrap(enum record_kind kind, const void *packed, size_t packed_size, size_t raw_size, const struct vault_hash *hash,
                   uint8_t **bytes)
{
    struct record r = {.kind = kind, .codec = CODEC_ZSTD, .raw_size = (uint32_t)raw_size, .stored_size = (uint32_t)packed_size,
                       .hash = *hash};

    MUST(packed_size > 0 && packed_size < raw_size && raw_size <= RECORD_RAW_LIMIT);
    *bytes = xmalloc(record_span(r.stored_size));
    memcpy(*bytes + RECORD_HEADER_SIZE, packed, packed_size);
    return finish(&r, *bytes);
}

size_t record_pack_delta(const struct record_base *base, const uint8_t raw[static VAULT_CHUNK_BYTES], const struct vault_hash *hash, uint8_t **bytes)
{
    struct record r = {.kind = RECORD_CHUNK, .codec = CODEC_DELTA, .raw_size = VAULT_CHUNK_BYTES, .hash = *hash};
    uint8_t pages[VAULT_CHUNK_BYTES], *held, *head;
    size_t size = 0, room, packed_size;

    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++)
        if (base->mask >> i & 1) {
            memcpy(pages + size, raw + i * VAULT_PAGE_BYTES, VAULT_PAGE_BYTES);
            size += VAULT_PAGE_BYTES;
        }
    MUST(size > 0 && base->mask >> VAULT_CHUNK_PAGES == 0);
    room = ZSTD_compressBound(size);
    held = xmalloc(RECORD_HEADER_SIZE + DELTA_HEAD_SIZE + room + 8);
    head = held + RECORD_HEADER_SIZE;
    memset(head, 0, DELTA_HEAD_SIZE);
    memcpy(head, base->name.bytes, VAULT_HASH_SIZE);
    head[32] = (uint8_t)base->mask;
    head[33] = (uint8_t)(base->mask >> 8);
    head[34] = CODEC_ZSTD;
    packed_size = ZSTD_compressCCtx(codec_of_thread()->pack, head + DELTA_HEAD_SIZE, room, pages, size, ZSTD_LEVEL);
    if (ZSTD_isError(packed_size) || packed_size >= size) {
        head[34] = CODEC_RAW;
        packed_size = size;
        memcpy(head + DELTA_HEAD_SIZE, pages, size);
    }
    r.stored_size = (uint32_t)(DELTA_HEAD_SIZE + packed_size);
    *bytes = held;
    return finish(&r, held);
}

void record_base_of(const void *payload, struct record_base *out)
{
    const uint8_t *head = payload;

    memcpy(out->name.bytes, head, VAULT_HASH_SIZE);
    out->mask = head[32] | (uint32_t)head[33] << 8;
}

int record_decode(const uint8_t bytes[static RECORD_HEADER_SIZE], struct record *out, struct err *e)
{
    struct record r;

    if (memcmp(bytes, record_magic, 4) != 0 || !header_intact(bytes))
        return err_set(e, ERR_CORRUPT, "no record starts here, or its header is damaged");
    if (bytes[4] != FORMAT_VERSION || bytes[5] == 0 || bytes[5] >= RECORD_KIND_END || bytes[6] >= CODEC_END || bytes[7] != 0)
        return err_set(e, ERR_UNSUPPORTED, "a record of version %u, kind %u, codec %u, flags %#x: this Slipway does not know it",
                       bytes[4], bytes[5], bytes[6], bytes[7]);
    r.kind = bytes[5];
    r.codec = bytes[6];
    r.raw_size = get_le32(bytes + 8);
    r.stored_size = get_le32(bytes + 12);
    memcpy(r.hash.bytes, bytes + 16, VAULT_HASH_SIZE);
    r.payload_sum = get_le64(bytes + 48);
    if (r.raw_size == 0 || r.raw_size > RECORD_RAW_LIMIT || r.stored_size == 0 || r.stored_size > r.raw_size ||
        (r.codec == CODEC_RAW && r.stored_size != r.raw_size) ||
        (r.codec == CODEC_DELTA && (r.kind != RECORD_CHUNK || r.raw_size != VAULT_CHUNK_BYTES || r.stored_size <= DELTA_HEAD_SIZE)))
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

static bool lay_pages_over(const struct record *r, const uint8_t *payload, uint8_t *raw)
{
    static const uint8_t nothing[5];
    uint8_t pages[VAULT_CHUNK_BYTES];
    struct record_base base;

    record_base_of(payload, &base);
    if (base.mask == 0 || memcmp(payload + 35, nothing, sizeof nothing) != 0 ||
        !expand(payload[34], payload + DELTA_HEAD_SIZE, r->stored_size - DELTA_HEAD_SIZE, pages,
                (size_t)__builtin_popcount(base.mask) * VAULT_PAGE_BYTES))
        return false;
    record_lay_pages(raw, base.mask, pages);
    return true;
}

int record_unpack(const struct record *r, const void *payload, void *raw, struct err *e)
{
    struct vault_hash found;
    char text[VAULT_HASH_TEXT_SIZE];

    if (r->codec == CODEC_DELTA ? !lay_pages_over(r, payload, raw) : !expand(r->codec, payload, r->stored_size, raw, r->raw_size))
        return err_set(e, ERR_CORRUPT, "chunk %s does not decompress", vault_hash_text(&r->hash, text));
    vault_hash_of(raw, r->raw_size, &found);
    if (!vault_hash_same(&found, &r->hash))
        return err_set(e, ERR_CORRUPT, "the bytes of chunk %s do not match its SHA-256", vault_hash_text(&r->hash, text));
    return 0;
}
