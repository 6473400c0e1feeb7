/* pin_file: DIR/pins.json: the pins once more, beside the index. Segments say nothing of them, so an index that is made anew has them from here. It is written whole, before
 * the row of a pin and after the row of one that ended is gone: so it never lacks a pin that was acknowledged. What it has too much, of a process that was killed between
 * the two, goes at the next opening, for an index that is whole is right. */
#include "base/file.h"
#include "base/hash.h"
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

char *pins_path(const struct vault *v) { return xasprintf("%s/pins.json", v->dir); }

char *json_sum(const json_t *j)
{
    CLEANUP(free_ptr) char *text = json_text(j);
    uint8_t digest[HASH_SHA256_SIZE];
    char hex[HASH_SHA256_HEX_SIZE];

    hash_sha256(text, strlen(text), digest);
    return xstrdup(hash_hex(digest, sizeof digest, hex));
}

/* ---- writing ---- */

struct writing {
    json_t *list;
    const MDB_val *added; /* not written yet; NULL: none (any more) */
};

/* A row's key as it is in the file. */
static int push(json_t *list, MDB_val key, struct err *e)
{
    const char *point = key.mv_data;
    size_t size = strnlen(point, key.mv_size) + 1;
    json_t *pin = size > key.mv_size ? NULL : json_pack("{s:s, s:s%}", "point", point, "reason", point + size, key.mv_size - size);

    return !pin || json_array_append_new(list, pin) < 0 ? err_set(e, ERR_INVALID, "a pin's reason is no text in UTF-8") : 0;
}

static int compare_keys(MDB_val a, MDB_val b)
{
    int order = memcmp(a.mv_data, b.mv_data, a.mv_size < b.mv_size ? a.mv_size : b.mv_size);

    return order ? order : a.mv_size < b.mv_size ? -1 : a.mv_size > b.mv_size;
}

/* In the order of the keys, so that the same pins are the same bytes. */
static int push_row(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct writing *w = user;
    int order = w->added ? compare_keys(*w->added, key) : 1;

    (void)value;
    if (order < 0 && push(w->list, *w->added, e) < 0)
        return -1;
    if (order <= 0)
        w->added = NULL;
    return push(w->list, key, e);
}

/* The caller frees; NULL on failure. */
static char *pins_text(struct vault *v, const MDB_val *added, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    CLEANUP(json_free) json_t *j = NULL;
    CLEANUP(free_ptr) char *sum = NULL;
    struct writing w = {.list = json_array(), .added = added};
    char id[2 * VAULT_ID_SIZE + 1];

    j = json_pack("{s:s, s:i, s:s, s:o}", "format", "slipway-pins", "version", 1, "vault", hash_hex(v->id, VAULT_ID_SIZE, id), "pins", w.list);
    MUST(j);
    if (index_begin(&v->index, false, &txn, e) < 0 || index_each(&v->index, txn, INDEX_PIN, index_val("", 0), push_row, &w, e) < 0 || (w.added && push(w.list, *w.added, e) < 0))
        return NULL;
    json_array_extend(w.list, v->pins_waiting);
    sum = json_sum(j);
    json_object_set_new(j, "sha256", json_string(sum));
    return json_text(j);
}

int pins_write(struct vault *v, const MDB_val *added, struct err *e)
{
    CLEANUP(free_ptr) char *path = pins_path(v), *text = pins_text(v, added, e);
    CLEANUP(buf_release) struct buf there = {0};
    size_t size;

    if (!text)
        return -1;
    size = strlen(text);
    if (added && size > PINS_LIMIT) /* no index could be made anew with it. What ends is written all the same */
        return err_set(e, ERR_LIMIT, "the vault holds as many pins of recovery points as it can keep (%u MiB of them): end some of them first", PINS_LIMIT >> 20);
    buf_init(&there, PINS_LIMIT);
    if (file_read(path, PINS_LIMIT, &there, NULL) == 0 && there.size_bytes == size && memcmp(there.data, text, size) == 0)
        return 0;
    if (file_write(path, text, size, 0600, e) < 0)
        return err_wrap(e, "keeping the pins of recovery points");
    atomic_fetch_add(&v->pins_written, 1);
    bucket_stir(v->bucket);
    return 0;
}

/* ---- reading ---- */

int pins_parse(const uint8_t vault_id[static VAULT_ID_SIZE], const struct buf *text, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *j = NULL;
    CLEANUP(free_ptr) char *said = NULL, *sum = NULL;
    char id[2 * VAULT_ID_SIZE + 1];
    struct err why = {0};
    json_t *list;

    if (json_read_most(text->data ? text->data : "", text->size_bytes, PINS_LIMIT, &j, &why) < 0)
        return err_set(e, ERR_CORRUPT, "%s", why.message);
    if (strcmp(json_get_string(j, "format", ""), "slipway-pins") == 0 && json_get_int(j, "version", 1) > 1)
        return err_set(e, ERR_UNSUPPORTED, "it is of version %lld; this Slipway reads version 1", (long long)json_get_int(j, "version", 0));
    said = xstrdup(json_get_string(j, "sha256", ""));
    json_object_del(j, "sha256");
    sum = json_sum(j);
    if (strcmp(said, sum) != 0 || strcmp(json_get_string(j, "format", ""), "slipway-pins") != 0)
        return err_set(e, ERR_CORRUPT, "it is damaged, or no file of pins");
    if (strcmp(json_get_string(j, "vault", ""), hash_hex(vault_id, VAULT_ID_SIZE, id)) != 0)
        return err_set(e, ERR_CORRUPT, "it is another vault's");
    if (json_need_array(j, "pins", &list, e) < 0)
        return -1;
    *out = json_incref(list);
    return 0;
}

int pins_read(struct vault *v, json_t **out, struct err *e)
{
    CLEANUP(free_ptr) char *path = pins_path(v);
    CLEANUP(buf_release) struct buf text = {0};

    *out = NULL;
    if (!file_exists(path))
        return 0;
    buf_init(&text, PINS_LIMIT);
    return file_read(path, PINS_LIMIT, &text, e) < 0 || pins_parse(v->id, &text, out, e) < 0 ? err_wrap(e, "reading %s", path) : 1;
}

/* ---- opening ---- */

/* Their rows, where the index is made anew; those of points that are not there wait. */
static int settle(struct vault *v, MDB_txn *txn, const json_t *kept, bool anew, struct err *e)
{
    json_t *pin;
    size_t i;

    json_array_foreach(kept, i, pin) {
        const char *point = json_get_string(pin, "point", ""), *reason = json_get_string(pin, "reason", "");
        char key[VAULT_POINT_ID_SIZE + VAULT_PIN_REASON_SIZE];
        MDB_val row, value;
        int found = pin_key(point, reason, key, &row, e) < 0 ? -1 : index_get(&v->index, txn, INDEX_POINT, index_val(point, strlen(point)), &value, e);

        if (found < 0 || (found == 1 && anew && index_put(&v->index, txn, INDEX_PIN, row, index_val("", 0), e) < 0))
            return -1;
        if (found == 0)
            json_array_append(v->pins_waiting, pin);
    }
    return 0;
}

int pins_settle(struct vault *v, const json_t *kept, bool anew, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct err why = {0};

    v->pins_waiting = json_array();
    if (kept && (index_begin(&v->index, anew, &txn, e) < 0 || settle(v, txn, kept, anew, e) < 0 || (anew && index_commit(&txn, e) < 0)))
        return -1;
    index_abort(&txn);
    /* A vault that can't write must open, to make room: the next pin writes it whole. */
    return pins_write(v, NULL, &why) == 0 || why.kind == ERR_NO_SPACE ? 0 : err_set(e, why.kind, "%s", why.message);
}
