/* The first byte names the message's type, the rest is its payload (type 0: a frame's header). What decodes must encode to itself
 * (binary messages) or decode again to the same (JSON). */
#include "base/zip.h"
#include "wire/wire.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void same_again(const struct buf *encoded, const uint8_t *payload, size_t size)
{
    MUST(encoded->size_bytes == size && memcmp(encoded->data, payload, size) == 0);
}

static void try_data(const uint8_t *payload, size_t size)
{
    CLEANUP(zip_free) struct zip *z = zip_new(1);
    static uint8_t raw[WIRE_CHUNK_SIZE];
    CLEANUP(buf_release) struct buf again = {.limit_bytes = WIRE_PAYLOAD_LIMIT};
    struct wire_data data;
    struct wire_data_chunk chunk;

    if (wire_data_decode(payload, size, &data, NULL) < 0)
        return;
    wire_data_begin(&again, data.offer);
    while (wire_data_next(&data, &chunk)) {
        wire_data_unpack(z, &chunk, (const uint8_t[HASH_SHA256_SIZE]){0}, raw, NULL);
        MUST(wire_data_add(&again, &chunk) == 0);
    }
    same_again(&again, payload, size);
}

static void try_binary(unsigned type, const uint8_t *payload, size_t size)
{
    CLEANUP(buf_release) struct buf again = {.limit_bytes = WIRE_PAYLOAD_LIMIT};
    static struct wire_offer offer;
    struct wire_need need;
    struct wire_ack ack;
    struct wire_hashes hashes;

    if (type == WIRE_OFFER && wire_offer_decode(payload, size, &offer, NULL) == 0)
        wire_offer_encode(&offer, &again);
    else if (type == WIRE_NEED && wire_need_decode(payload, size, &need, NULL) == 0)
        wire_need_encode(&need, &again);
    else if (type == WIRE_ACK && wire_ack_decode(payload, size, &ack, NULL) == 0)
        wire_ack_encode(&ack, &again);
    else if (type == WIRE_HASHES && wire_hashes_decode(payload, size, &hashes, NULL) == 0)
        wire_hashes_encode(&hashes, &again);
    else
        return;
    same_again(&again, payload, size);
}

static void try_json(unsigned type, size_t message_size, const uint8_t *payload, size_t size)
{
    CLEANUP(free_ptr) char *first = xcalloc(1, message_size);
    CLEANUP(free_ptr) char *second = xcalloc(1, message_size);
    CLEANUP(buf_release) struct buf text = {.limit_bytes = WIRE_PAYLOAD_LIMIT};

    if (wire_json_decode(type, payload, size, first, message_size, NULL) < 0)
        return;
    wire_json_encode(type, first, message_size, &text);
    MUST(wire_json_decode(type, text.data, text.size_bytes, second, message_size, NULL) == 0);
    MUST(memcmp(first, second, message_size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct {
        unsigned type;
        size_t size;
    } json[] = {
        {WIRE_HELLO, sizeof(struct wire_hello)}, {WIRE_WELCOME, sizeof(struct wire_welcome)}, {WIRE_POINT_COMMIT, sizeof(struct wire_point)},
        {WIRE_POINT_DONE, sizeof(struct wire_point_done)}, {WIRE_TAKE_POINT, sizeof(struct wire_take_point)},
        {WIRE_THAWED, sizeof(struct wire_thawed)}, {WIRE_HASH, sizeof(struct wire_hash)}, {WIRE_HASH_DONE, sizeof(struct wire_hash_done)},
        {WIRE_STATUS, sizeof(struct wire_status)}, {WIRE_REFUSE, sizeof(struct wire_failure)}, {WIRE_RESTORE, sizeof(struct wire_restore)},
        {WIRE_RESTORING, sizeof(struct wire_restoring)}, {WIRE_PING, sizeof(struct wire_simple)},
        {WIRE_POINT_AT, sizeof(struct wire_simple)}, {WIRE_RESCUE, sizeof(struct wire_rescue)},
        {WIRE_MOVE, sizeof(struct wire_move)}, {WIRE_MOVE_FAILED, sizeof(struct wire_failure)}, {WIRE_COPY, sizeof(struct wire_copy)},
        {WIRE_COPYING, sizeof(struct wire_copying)}, {WIRE_COPY_POINT, sizeof(struct wire_copy_point)}, {WIRE_COPY_PINS, sizeof(struct wire_copy_pins)},
        {WIRE_COPY_WAITS, sizeof(struct wire_failure)}, {WIRE_COPY_PINNED, sizeof(struct wire_copy_pinned)}, {WIRE_LIMIT, sizeof(struct wire_limit)},
    };
    struct wire_header header;

    if (!size)
        return 0;
    if (bytes[0] == 0 && size == 1 + WIRE_HEADER_SIZE) {
        uint8_t again[WIRE_HEADER_SIZE];

        if (wire_header_decode(bytes + 1, &header, NULL) == 0) {
            wire_header_encode(&header, again);
            MUST(memcmp(again, bytes + 1, sizeof again) == 0);
        }
    }
    if (bytes[0] == WIRE_DATA)
        try_data(bytes + 1, size - 1);
    try_binary(bytes[0], bytes + 1, size - 1);
    for (size_t i = 0; i < ARRAY_COUNT(json); i++)
        if (json[i].type == bytes[0])
            try_json(bytes[0], json[i].size, bytes + 1, size - 1);
    return 0;
}
