/* The binary messages. */
#include "wire/wire.h"

#include "base/bytes.h"
#include "base/zip.h"

#include <string.h>

#define OFFER_HEAD_SIZE 12u
#define ENTRY_SIZE 40u
#define NEED_HEAD_SIZE 12u
#define DATA_HEAD_SIZE 12u
#define DATA_CHUNK_HEAD_SIZE 12u
#define HASHES_HEAD_SIZE 20u

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            return false;
    return true;
}

const char *wire_type_name(unsigned type)
{
    static const struct {
        unsigned type;
        const char *name;
    } names[] = {
        {WIRE_HELLO, "HELLO"}, {WIRE_OFFER, "OFFER"}, {WIRE_DATA, "DATA"}, {WIRE_POINT_BEGIN, "POINT_BEGIN"},
        {WIRE_POINT_COMMIT, "POINT_COMMIT"}, {WIRE_THAWED, "THAWED"}, {WIRE_HASHES, "HASHES"}, {WIRE_HASH_DONE, "HASH_DONE"},
        {WIRE_STATUS, "STATUS"}, {WIRE_BYE, "BYE"}, {WIRE_PACKED, "PACKED"}, {WIRE_RESTORE, "RESTORE"}, {WIRE_RESTORING, "RESTORING"},
        {WIRE_RESCUE, "RESCUE"}, {WIRE_HEARD, "HEARD"}, {WIRE_POINT_AT, "POINT_AT"}, {WIRE_POINT_GO, "POINT_GO"}, {WIRE_WELCOME, "WELCOME"}, {WIRE_NEED, "NEED"}, {WIRE_ACK, "ACK"},
        {WIRE_MOVE, "MOVE"}, {WIRE_MOVE_FAILED, "MOVE_FAILED"}, {WIRE_COPY, "COPY"}, {WIRE_COPY_POINT, "COPY_POINT"}, {WIRE_COPY_COMMIT, "COPY_COMMIT"},
        {WIRE_COPY_PINS, "COPY_PINS"}, {WIRE_COPY_DROP, "COPY_DROP"}, {WIRE_COPYING, "COPYING"}, {WIRE_COPY_GO, "COPY_GO"}, {WIRE_COPY_WAITS, "COPY_WAITS"},
        {WIRE_COPY_PINNED, "COPY_PINNED"}, {WIRE_COPY_DROPPED, "COPY_DROPPED"},
        {WIRE_TAKE_POINT, "TAKE_POINT"}, {WIRE_POINT_DONE, "POINT_DONE"}, {WIRE_THAW, "THAW"}, {WIRE_HASH, "HASH"},
        {WIRE_PAUSE, "PAUSE"}, {WIRE_RESUME, "RESUME"}, {WIRE_LIMIT, "LIMIT"}, {WIRE_DETACH, "DETACH"},
        {WIRE_POINT_FAILED, "POINT_FAILED"}, {WIRE_HASH_FAILED, "HASH_FAILED"}, {WIRE_REFUSE, "REFUSE"},
        {WIRE_PING, "PING"}, {WIRE_PONG, "PONG"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (names[i].type == type)
            return names[i].name;
    return "?";
}

void wire_header_encode(const struct wire_header *h, uint8_t bytes[static WIRE_HEADER_SIZE])
{
    put_le32(bytes, h->payload_size);
    put_le16(bytes + 4, h->type);
    put_le16(bytes + 6, h->flags);
    put_le32(bytes + 8, h->sequence);
}

int wire_header_decode(const uint8_t bytes[static WIRE_HEADER_SIZE], struct wire_header *out, struct err *e)
{
    struct wire_header h = {get_le32(bytes), get_le16(bytes + 4), get_le16(bytes + 6), get_le32(bytes + 8)};

    if (h.payload_size > WIRE_PAYLOAD_LIMIT)
        return err_set(e, ERR_PROTOCOL, "a frame of %u bytes is over the limit of %u", h.payload_size, WIRE_PAYLOAD_LIMIT);
    if (strcmp(wire_type_name(h.type), "?") == 0)
        return err_set(e, ERR_PROTOCOL, "frame type %u is unknown", h.type);
    if (h.flags)
        return err_set(e, ERR_PROTOCOL, "frame flags 0x%x are unknown", h.flags);
    *out = h;
    return 0;
}

void wire_offer_encode(const struct wire_offer *o, struct buf *out)
{
    uint8_t head[OFFER_HEAD_SIZE], entry[ENTRY_SIZE];

    MUST(o->count >= 1 && o->count <= WIRE_OFFER_CHUNKS);
    put_le64(head, o->number);
    put_le16(head + 8, o->disk);
    put_le16(head + 10, o->count);
    MUST(buf_add(out, head, sizeof head) == 0);
    for (unsigned i = 0; i < o->count; i++) {
        memset(entry, 0, sizeof entry);
        put_le32(entry, o->entries[i].chunk);
        entry[4] = o->entries[i].zero;
        put_le16(entry + 6, o->entries[i].pages);
        MUST(!o->entries[i].zero || !o->entries[i].pages);
        if (!o->entries[i].zero)
            memcpy(entry + 8, o->entries[i].hash, HASH_SHA256_SIZE);
        MUST(buf_add(out, entry, sizeof entry) == 0);
    }
}

/* Checks one entry; the chunk numbers rise, so that no chunk is named twice in an offer. */
static int check_entry(const uint8_t *at, bool first, uint32_t previous, struct err *e)
{
    if (at[4] > 1 || at[5] || (at[4] && get_le16(at + 6)))
        return err_set(e, ERR_PROTOCOL, "OFFER: an entry has unknown flags");
    if (at[4] && !all_zero(at + 8, HASH_SHA256_SIZE))
        return err_set(e, ERR_PROTOCOL, "OFFER: a zero chunk has a hash");
    if (!first && get_le32(at) <= previous)
        return err_set(e, ERR_PROTOCOL, "OFFER: chunk %u comes after chunk %u", get_le32(at), previous);
    return 0;
}

int wire_offer_decode(const void *payload, size_t size, struct wire_offer *out, struct err *e)
{
    const uint8_t *bytes = payload;
    uint16_t count = size >= OFFER_HEAD_SIZE ? get_le16(bytes + 10) : 0;

    if (count < 1 || count > WIRE_OFFER_CHUNKS || size != OFFER_HEAD_SIZE + count * ENTRY_SIZE)
        return err_set(e, ERR_PROTOCOL, "OFFER: %zu bytes don't hold %u chunks", size, count);
    if (get_le16(bytes + 8) >= LIMIT_DISKS_PER_SERVER || !get_le64(bytes))
        return err_set(e, ERR_PROTOCOL, "OFFER: disk %u or number %llu can't be", get_le16(bytes + 8), (unsigned long long)get_le64(bytes));
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *at = bytes + OFFER_HEAD_SIZE + i * ENTRY_SIZE;

        if (check_entry(at, i == 0, i ? get_le32(at - ENTRY_SIZE) : 0, e) < 0)
            return -1;
    }
    out->number = get_le64(bytes);
    out->disk = get_le16(bytes + 8);
    out->count = count;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *at = bytes + OFFER_HEAD_SIZE + i * ENTRY_SIZE;

        out->entries[i].chunk = get_le32(at);
        out->entries[i].zero = at[4];
        out->entries[i].pages = get_le16(at + 6);
        memcpy(out->entries[i].hash, at + 8, HASH_SHA256_SIZE);
    }
    return 0;
}

void wire_need_encode(const struct wire_need *n, struct buf *out)
{
    uint8_t head[NEED_HEAD_SIZE] = {0};

    MUST(n->count >= 1 && n->count <= WIRE_OFFER_CHUNKS);
    put_le64(head, n->offer);
    put_le16(head + 8, n->count);
    MUST(buf_add(out, head, sizeof head) == 0 && buf_add(out, n->bitmap, (n->count + 7u) / 8) == 0);
}

int wire_need_decode(const void *payload, size_t size, struct wire_need *out, struct err *e)
{
    const uint8_t *bytes = payload;
    uint16_t count = size >= NEED_HEAD_SIZE ? get_le16(bytes + 8) : 0;

    if (count < 1 || count > WIRE_OFFER_CHUNKS || size != NEED_HEAD_SIZE + (count + 7u) / 8 || get_le16(bytes + 10))
        return err_set(e, ERR_PROTOCOL, "NEED: %zu bytes don't hold %u bits", size, count);
    if (count % 8 && bytes[size - 1] >> (count % 8))
        return err_set(e, ERR_PROTOCOL, "NEED: bits after the last are set");
    *out = (struct wire_need){.offer = get_le64(bytes), .count = count};
    memcpy(out->bitmap, bytes + NEED_HEAD_SIZE, (count + 7u) / 8);
    return 0;
}

void wire_data_begin(struct buf *out, uint64_t offer)
{
    uint8_t head[DATA_HEAD_SIZE] = {0};

    MUST(out->size_bytes == 0);
    put_le64(head, offer);
    MUST(buf_add(out, head, sizeof head) == 0);
}

unsigned wire_data_count(const struct buf *out)
{
    return out->size_bytes < DATA_HEAD_SIZE ? 0 : get_le16((const uint8_t *)out->data + 8);
}

int wire_data_add(struct buf *out, const struct wire_data_chunk *c)
{
    uint8_t head[DATA_CHUNK_HEAD_SIZE] = {0};

    MUST(out->size_bytes >= DATA_HEAD_SIZE && c->entry < WIRE_OFFER_CHUNKS && c->stored_size >= 1);
    MUST(c->raw_size && c->raw_size <= WIRE_CHUNK_SIZE && c->raw_size % WIRE_PAGE_SIZE == 0);
    MUST(c->codec == WIRE_RAW ? c->stored_size == c->raw_size : c->codec == WIRE_ZSTD && c->stored_size < c->raw_size);
    if (out->size_bytes + sizeof head + c->stored_size > WIRE_PAYLOAD_LIMIT)
        return -1;
    put_le16(head, c->entry);
    head[2] = c->codec;
    put_le32(head + 4, c->raw_size);
    put_le32(head + 8, c->stored_size);
    MUST(buf_add(out, head, sizeof head) == 0 && buf_add(out, c->bytes, c->stored_size) == 0);
    put_le16((uint8_t *)out->data + 8, (uint16_t)(wire_data_count(out) + 1));
    return 0;
}

/* The chunk at `at`: 0 and *size its bytes with its head, or -1. */
static int check_data_chunk(const uint8_t *at, size_t left, size_t *size, struct err *e)
{
    uint32_t raw_size, stored_size;

    if (left < DATA_CHUNK_HEAD_SIZE)
        return err_set(e, ERR_PROTOCOL, "DATA: ends inside a chunk's head");
    raw_size = get_le32(at + 4);
    stored_size = get_le32(at + 8);
    if (get_le16(at) >= WIRE_OFFER_CHUNKS || at[3] || !raw_size || raw_size > WIRE_CHUNK_SIZE || raw_size % WIRE_PAGE_SIZE)
        return err_set(e, ERR_PROTOCOL, "DATA: a chunk's head can't be");
    if (at[2] == WIRE_RAW ? stored_size != raw_size : at[2] != WIRE_ZSTD || !stored_size || stored_size >= raw_size)
        return err_set(e, ERR_PROTOCOL, "DATA: codec %u with %u bytes can't be", at[2], stored_size);
    if (left - DATA_CHUNK_HEAD_SIZE < stored_size)
        return err_set(e, ERR_PROTOCOL, "DATA: ends inside a chunk");
    *size = DATA_CHUNK_HEAD_SIZE + stored_size;
    return 0;
}

int wire_data_decode(const void *payload, size_t size, struct wire_data *out, struct err *e)
{
    const uint8_t *bytes = payload, *at = bytes + DATA_HEAD_SIZE, *end = bytes + size;
    uint16_t count = size >= DATA_HEAD_SIZE ? get_le16(bytes + 8) : 0;

    if (count < 1 || count > WIRE_OFFER_CHUNKS || get_le16(bytes + 10))
        return err_set(e, ERR_PROTOCOL, "DATA: %zu bytes don't hold %u chunks", size, count);
    for (unsigned i = 0; i < count; i++) {
        size_t chunk_size = 0;

        if (check_data_chunk(at, (size_t)(end - at), &chunk_size, e) < 0)
            return -1;
        at += chunk_size;
    }
    if (at != end)
        return err_set(e, ERR_PROTOCOL, "DATA: %zu bytes follow the last chunk", (size_t)(end - at));
    *out = (struct wire_data){get_le64(bytes), count, bytes + DATA_HEAD_SIZE, end};
    return 0;
}

bool wire_data_next(struct wire_data *d, struct wire_data_chunk *out)
{
    if (d->at == d->end)
        return false;
    *out = (struct wire_data_chunk){get_le16(d->at), d->at[2], get_le32(d->at + 8), d->at + DATA_CHUNK_HEAD_SIZE, get_le32(d->at + 4)};
    d->at += DATA_CHUNK_HEAD_SIZE + out->stored_size;
    return true;
}

int wire_data_unpack(struct zip *z, const struct wire_data_chunk *c, const uint8_t hash[static HASH_SHA256_SIZE],
                     uint8_t out[static WIRE_CHUNK_SIZE], struct err *e)
{
    uint8_t found[HASH_SHA256_SIZE];

    if (c->codec == WIRE_RAW)
        memcpy(out, c->bytes, c->raw_size);
    else if (zip_unpack(z, c->bytes, c->stored_size, out, c->raw_size, e) < 0)
        return -1;
    hash_sha256(out, c->raw_size, found);
    if (memcmp(found, hash, sizeof found) != 0)
        return err_set(e, ERR_CORRUPT, "a received chunk is not what its hash says");
    return 0;
}

void wire_ack_encode(const struct wire_ack *a, struct buf *out)
{
    uint8_t bytes[8];

    put_le64(bytes, a->offer);
    MUST(buf_add(out, bytes, sizeof bytes) == 0);
}

int wire_ack_decode(const void *payload, size_t size, struct wire_ack *out, struct err *e)
{
    if (size != 8)
        return err_set(e, ERR_PROTOCOL, "ACK: %zu bytes where 8 were expected", size);
    out->offer = get_le64(payload);
    return 0;
}

void wire_hashes_encode(const struct wire_hashes *h, struct buf *out)
{
    uint8_t head[HASHES_HEAD_SIZE] = {0};

    MUST(h->count >= 1 && h->count <= WIRE_HASHES_CHUNKS);
    put_le64(head, h->request);
    put_le16(head + 8, h->disk);
    put_le32(head + 12, h->first_chunk);
    put_le32(head + 16, h->count);
    MUST(buf_add(out, head, sizeof head) == 0 && buf_add(out, h->hashes, (size_t)h->count * HASH_SHA256_SIZE) == 0);
}

int wire_hashes_decode(const void *payload, size_t size, struct wire_hashes *out, struct err *e)
{
    const uint8_t *bytes = payload;
    uint32_t count = size >= HASHES_HEAD_SIZE ? get_le32(bytes + 16) : 0;

    if (count < 1 || count > WIRE_HASHES_CHUNKS || size != HASHES_HEAD_SIZE + (size_t)count * HASH_SHA256_SIZE)
        return err_set(e, ERR_PROTOCOL, "HASHES: %zu bytes don't hold %u hashes", size, count);
    if (get_le16(bytes + 8) >= LIMIT_DISKS_PER_SERVER || get_le16(bytes + 10) || get_le32(bytes + 12) > UINT32_MAX - count)
        return err_set(e, ERR_PROTOCOL, "HASHES: its head can't be");
    *out = (struct wire_hashes){get_le64(bytes), get_le16(bytes + 8), get_le32(bytes + 12), count, bytes + HASHES_HEAD_SIZE};
    return 0;
}
