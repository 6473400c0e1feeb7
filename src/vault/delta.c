/* delta: a small change inside a chunk is kept as the pages in which it differs from another chunk. A base is never a delta itself: a delta of a delta
 * lies on the same base, with the pages of both. One with many pages is kept whole instead. So a read costs one base at most. */
#include "vault/internal.h"

#include <string.h>

#define PAGES_MOST 8 /* of 16: above, a delta costs reads and saves little */

int base_find(struct vault *v, const struct vault_hash *hash, struct record_base *out, struct err *e)
{
    const struct pending_chunk *pending = pending_find(&v->pending, hash);
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    MDB_val value;
    int found;

    if (pending) {
        *out = pending->base;
        return pending->base.mask != 0;
    }
    if (index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    found = index_get(&v->index, txn, INDEX_BASE, index_val(hash, sizeof *hash), &value, e);
    if (found != 1)
        return found;
    if (value.mv_size != sizeof *out)
        return err_set(e, ERR_CORRUPT, "the vault's index has a row of a delta of %zu bytes", value.mv_size);
    memcpy(out, value.mv_data, sizeof *out);
    return 1;
}

/* What the chunk would lie on: 1; 0: it is better kept whole. A chunk that was damaged is always sent whole: something may lie on it. append_lock held. */
static int choose_base(struct vault *v, const struct vault_hash *near, uint32_t mask, const struct vault_hash *hash, struct record_base *out,
                       struct err *e)
{
    int delta = base_find(v, near, out, e);

    if (delta == 0)
        out->name = *near;
    out->mask = mask | (delta ? out->mask : 0);
    if (delta < 0)
        return -1;
    return !vault_hash_is_zero(near) && !hash_set_has(&v->bad, hash) && !vault_hash_same(&out->name, hash) &&
           __builtin_popcount(out->mask) <= PAGES_MOST;
}

/* gc_lock shared: 1 appended or there; 0: to be kept whole. */
static int add_delta(struct vault *v, const struct vault_hash *near, uint32_t mask, const uint8_t *raw, const struct vault_hash *hash, uint64_t *stored,
                     struct err *e)
{
    CLEANUP(free_ptr) uint8_t *packed = NULL;
    struct record_base base;
    size_t span = 0;
    int found, chosen = 0;

    pthread_mutex_lock(&v->append_lock);
    found = have(v, hash, VAULT_CHUNK_BYTES, e);
    if (found == 0)
        chosen = choose_base(v, near, mask, hash, &base, e);
    pthread_mutex_unlock(&v->append_lock);
    if (found || chosen <= 0)
        return found < 0 || chosen < 0 ? -1 : found;
    span = record_pack_delta(&base, raw, hash, &packed);
    pthread_mutex_lock(&v->append_lock);
    found = have(v, hash, VAULT_CHUNK_BYTES, e); /* somebody else may have sent it meanwhile */
    if (found == 0 && (chosen = have(v, &base.name, VAULT_CHUNK_BYTES, e)) == 1) {
        chosen = record_append(v, RECORD_CHUNK, packed, span, VAULT_CHUNK_BYTES, hash, &base, e) < 0 ? -1 : 1;
        *stored = span;
    }
    pthread_mutex_unlock(&v->append_lock);
    return found ? found : chosen;
}

int vault_store_delta(struct vault *v, const struct vault_hash *base, uint32_t mask, const void *pages, struct vault_hash *hash,
                      uint64_t *stored_bytes, struct err *e)
{
    uint8_t raw[VAULT_CHUNK_BYTES] = {0};
    struct vault_hash name;
    struct err why = {0};
    uint64_t stored = 0;
    int added;

    MUST(mask && mask >> VAULT_CHUNK_PAGES == 0);
    if (vault_hash_is_unknown(base))
        return 0;
    if (!vault_hash_is_zero(base) && record_get(v, base, raw, sizeof raw, &why) < 0)
        return why.kind == ERR_CORRUPT ? 0 : err_set(e, why.kind, "%s", why.message);
    record_lay_pages(raw, mask, pages);
    if (vault_bytes_are_zero(raw, sizeof raw)) {
        *hash = vault_hash_zero;
        if (stored_bytes)
            *stored_bytes = 0;
        return 1;
    }
    vault_hash_of(raw, sizeof raw, &name);
    pthread_rwlock_rdlock(&v->gc_lock);
    added = add_delta(v, base, mask, raw, &name, &stored, e);
    if (added == 0)
        added = record_add(v, RECORD_CHUNK, raw, sizeof raw, &name, &stored, e) < 0 ? -1 : 1;
    pthread_rwlock_unlock(&v->gc_lock);
    if (added < 0)
        return -1;
    *hash = name;
    if (stored_bytes)
        *stored_bytes = stored;
    return sync_when_much(v, e) < 0 ? -1 : 1;
}
