#include "identity/private.h"

#include <sodium.h>

#define VAULT_KEY_SIZE 32u
#define KEYS_MOST 1000

static char *context_of(const char *replicator, int64_t number) { return xasprintf("vault_key/%s/%lld", replicator, (long long)number); }

int identity_vault_keys(struct identity *i, struct store_tx *tx, const char *replicator, json_t **keys, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *list = json_array();
    int rc = store_query(tx, &rows, e, "SELECT number, sealed FROM vault_key WHERE replicator = $1 ORDER BY number DESC", "s", replicator);

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        CLEANUP(free_ptr) char *context = context_of(replicator, store_int(rows, 0));
        CLEANUP(secret_release) struct secret key = {0};
        char hex[2 * VAULT_KEY_SIZE + 1];
        size_t size;
        const void *sealed = store_blob(rows, 1, &size);

        if (identity_unseal(i, context, sealed, size, &key, e) < 0)
            return -1;
        if (key.size_bytes != VAULT_KEY_SIZE)
            return err_set(e, ERR_CORRUPT, "%s is not %u bytes", context, VAULT_KEY_SIZE);
        json_array_append_new(list, json_string(hash_hex((const uint8_t *)key.bytes, VAULT_KEY_SIZE, hex)));
        sodium_memzero(hex, sizeof hex);
    }
    if (rc < 0)
        return -1;
    *keys = json_incref(list);
    return 0;
}

int identity_vault_key_make(struct identity *i, struct store_tx *tx, const char *replicator, struct err *e)
{
    CLEANUP(free_ptr) char *by = xasprintf("replicator:%s", replicator);
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(free_ptr) char *context = NULL;
    CLEANUP(buf_release) struct buf sealed;
    int64_t number, now_us = identity_now_us(i);
    uint8_t key[VAULT_KEY_SIZE];
    int r;

    buf_init(&sealed, 0);
    if (store_query(tx, &rows, e, "SELECT COALESCE(MAX(number), 0) FROM vault_key WHERE replicator = $1", "s", replicator) < 0 || store_next(rows, e) < 1)
        return -1;
    number = store_int(rows, 0) + 1;
    if (number > KEYS_MOST)
        return err_set(e, ERR_LIMIT, "%s has had %d keys: no more are kept", replicator, KEYS_MOST);
    context = context_of(replicator, number);
    randombytes_buf(key, sizeof key);
    r = identity_seal(i, context, key, sizeof key, &sealed, e);
    sodium_memzero(key, sizeof key);
    if (r < 0 || store_run(tx, e, "INSERT INTO vault_key (replicator, number, sealed, made_us) VALUES ($1, $2, $3, $4)", "sibi", replicator, number,
                           (const void *)sealed.data, sealed.size_bytes, now_us) < 0)
        return -1;
    return identity_event(tx, by, "vault_key.made", "replicator", replicator, json_pack("{s:I}", "number", (json_int_t)number), now_us, e);
}
