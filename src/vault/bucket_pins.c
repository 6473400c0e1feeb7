/* bucket_pins: the vault's pins.json once more in the bucket, for whoever takes the vault over from there: PREFIXpins, as records (record.h) of pieces of the file, sealed where the
 * vault is, for the reasons are people's words. It goes there within seconds of each change, as long as the store answers. */
#include "base/file.h"
#include "base/hash.h"
#include "vault/bucket_private.h"

#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES (RECORD_RAW_LIMIT / 2)
#define OBJECT_LIMIT (2 * PINS_LIMIT)
#define PINS_SEGMENT 0 /* what their key is made of: no segment has that number */

static void pins_key(const struct bucket *b, char out[static BUCKET_KEY_SIZE]) { snprintf(out, BUCKET_KEY_SIZE, "%spins", b->prefix); }

/* ---- sending ---- */

static int add_piece(struct vault *v, const void *bytes, size_t size, struct buf *out, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *packed = NULL, *sealed = NULL;
    struct vault_hash hash;
    size_t span;

    hash_sha256(bytes, size, hash.bytes);
    span = record_pack(RECORD_PINS, bytes, size, &hash, &packed);
    pthread_mutex_lock(&v->append_lock); /* a data key may be made meanwhile */
    if (v->seal)
        span = seal_record(v->seal, PINS_SEGMENT, packed, &sealed);
    pthread_mutex_unlock(&v->append_lock);
    return buf_add(out, sealed ? sealed : packed, span) < 0 ? err_set(e, ERR_LIMIT, "there are too many pins for the bucket") : 0;
}

static int pack(struct vault *v, const char *path, struct buf *out, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};

    buf_init(&text, PINS_LIMIT);
    if (file_read(path, PINS_LIMIT, &text, e) < 0)
        return -1;
    for (size_t at = 0; at < text.size_bytes; at += PIECE_BYTES)
        if (add_piece(v, text.data + at, text.size_bytes - at < PIECE_BYTES ? text.size_bytes - at : PIECE_BYTES, out, e) < 0)
            return -1;
    return 0;
}

bool bucket_pins_wait(struct bucket *b) { return !b->read_only && atomic_load(&b->pins_sent) != atomic_load(&b->v->pins_written); }

int bucket_pins_send(struct bucket *b, struct err *e)
{
    CLEANUP(free_ptr) char *path = pins_path(b->v);
    CLEANUP(buf_release) struct buf object = {0};
    uint64_t written = atomic_load(&b->v->pins_written);
    char key[BUCKET_KEY_SIZE];

    if (!bucket_pins_wait(b) || !file_exists(path)) /* there was no room for it: the next pin writes it */
        return 0;
    buf_init(&object, OBJECT_LIMIT);
    if (pack(b->v, path, &object, e) < 0)
        return -1;
    if (!bucket_is_marked(b)) /* the data key is newer than what is said of keys there */
        return 1;
    pins_key(b, key);
    if (s3_put(b->writer, key, object.data, object.size_bytes, e) < 0)
        return err_wrap(e, "bringing the pins of recovery points there");
    atomic_store(&b->pins_sent, written);
    return 1;
}

/* ---- taking over ---- */

static int take_piece(const struct seal *seal, uint8_t *bytes, size_t left, struct buf *text, size_t *span, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *raw = NULL;
    uint8_t *payload = bytes + RECORD_HEADER_SIZE;
    struct record r;

    if (left < RECORD_HEADER_SIZE)
        return err_set(e, ERR_CORRUPT, "they end in the midst");
    if (record_decode(bytes, &r, e) < 0)
        return -1;
    *span = record_span(r.stored_size);
    if (*span > left || r.kind != RECORD_PINS || !record_payload_intact(&r, payload))
        return err_set(e, ERR_CORRUPT, "they are damaged");
    if (seal_open_record(seal, PINS_SEGMENT, &r, payload, e) < 0)
        return -1;
    raw = xmalloc(r.raw_size);
    if (record_unpack(&r, payload, seal, raw, e) < 0)
        return -1;
    return buf_add(text, raw, r.raw_size) < 0 ? err_set(e, ERR_CORRUPT, "they are longer than any file of pins") : 0;
}

int bucket_pins_unpack(const struct seal *seal, uint8_t *bytes, size_t size, struct buf *text, struct err *e)
{
    for (size_t at = 0, span = 0; at < size; at += span)
        if (take_piece(seal, bytes + at, size - at, text, &span, e) < 0)
            return -1;
    return 0;
}

int bucket_pins_take(struct bucket *b, struct err *e)
{
    CLEANUP(free_ptr) char *path = pins_path(b->v);
    CLEANUP(buf_release) struct buf object = {0}, text = {0};
    char key[BUCKET_KEY_SIZE];
    struct s3 *client;
    struct err why = {0};
    int r;

    if (client_take(b, &client, e) < 0)
        return -1;
    buf_init(&object, OBJECT_LIMIT);
    buf_init(&text, PINS_LIMIT);
    pins_key(b, key);
    r = s3_get_text(client, key, OBJECT_LIMIT, &object, &why);
    client_give(b, &client);
    if (r < 0 && why.kind == ERR_NOT_FOUND)
        return 0;
    if (r < 0 || bucket_pins_unpack(b->v->seal, (uint8_t *)object.data, object.size_bytes, &text, &why) < 0)
        return err_set(e, why.kind, "%s in the bucket %s: %.900s", key, b->name, why.message);
    return file_write(path, text.data ? text.data : "", text.size_bytes, 0600, e) < 0 ? -1 : 1;
}
