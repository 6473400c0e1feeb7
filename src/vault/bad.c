/* bad: what was found damaged: it counts as absent until it comes again. Known in memory at once, and in the index soon. */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

static void note(struct vault *v, const struct vault_hash *hash)
{
    v->bad_unwritten = xrealloc(v->bad_unwritten, (v->bad_unwritten_count + 1) * sizeof *hash);
    v->bad_unwritten[v->bad_unwritten_count++] = *hash;
}

void chunk_mark_bad(struct vault *v, const struct vault_hash *hash)
{
    bool fresh;

    pthread_mutex_lock(&v->append_lock);
    fresh = hash_set_add(&v->bad, hash);
    v->bad_found += fresh;
    if (fresh)
        note(v, hash);
    pthread_mutex_unlock(&v->append_lock);
    /* LMDB lets one writer in at a time: where this thread is that one, in a commit or a repair, the flush writes it when it ends. */
    if (fresh && !index_writes_here())
        bad_write(v);
}

/* What has come again meanwhile is not bad any more: its row would stay. The caller frees. */
static size_t take(struct vault *v, struct vault_hash **list)
{
    size_t count = 0;

    pthread_mutex_lock(&v->append_lock);
    *list = v->bad_unwritten;
    for (size_t i = 0; i < v->bad_unwritten_count; i++)
        if (hash_set_has(&v->bad, &(*list)[i]) && !pending_find(&v->pending, &(*list)[i]))
            (*list)[count++] = (*list)[i];
    v->bad_unwritten = NULL;
    v->bad_unwritten_count = 0;
    pthread_mutex_unlock(&v->append_lock);
    return count;
}

static void give_back(struct vault *v, const struct vault_hash *list, size_t count)
{
    pthread_mutex_lock(&v->append_lock);
    for (size_t i = 0; i < count; i++)
        note(v, &list[i]);
    pthread_mutex_unlock(&v->append_lock);
}

static int write_rows(struct vault *v, const struct vault_hash *list, size_t count, MDB_txn **txn)
{
    int64_t now_us = clock_read_us(v->options.clock);

    for (size_t i = 0; i < count; i++)
        if (index_put(&v->index, *txn, INDEX_BAD, index_val(&list[i], sizeof list[i]), index_val(&now_us, sizeof now_us), NULL) < 0)
            return -1;
    return index_commit(txn, NULL);
}

void bad_write(struct vault *v)
{
    CLEANUP(free_ptr) struct vault_hash *list = NULL;
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    size_t count;

    pthread_mutex_lock(&v->append_lock);
    count = v->bad_unwritten_count;
    pthread_mutex_unlock(&v->append_lock);
    /* Taken inside the transaction: no flush that has one of them again is between its commit and what it says of that here. */
    if (count == 0 || index_begin(&v->index, true, &txn, NULL) < 0)
        return;
    count = take(v, &list);
    if (count && write_rows(v, list, count, &txn) < 0)
        give_back(v, list, count);
}

void bad_forget(struct vault *v, const struct pending_chunk *chunks, size_t count)
{
    struct hash_set repaired = {0}, left = {0};

    for (size_t i = 0; i < count; i++)
        if (hash_set_has(&v->bad, &chunks[i].hash))
            hash_set_add(&repaired, &chunks[i].hash);
    if (repaired.used_count == 0)
        return;
    for (size_t i = 0; i < v->bad.slot_count; i++) {
        struct vault_hash hash = {0};

        memcpy(hash.bytes, v->bad.slots[i], sizeof v->bad.slots[i]); /* a set looks at these bits only */
        if ((v->bad.slots[i][0] || v->bad.slots[i][1]) && !hash_set_has(&repaired, &hash))
            hash_set_add(&left, &hash);
    }
    hash_set_release(&repaired);
    hash_set_release(&v->bad);
    v->bad = left;
}
