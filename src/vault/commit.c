/* commit: what was appended becomes durable, then known: segments are synced first, then one index transaction. */
#include "base/bytes.h"
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

struct vault_disk *disk_by_number(struct vault *v, uint32_t number)
{
    for (size_t i = 0; i < v->disk_count; i++)
        if (v->disks[i].number == number)
            return &v->disks[i];
    return NULL;
}

int meta_next(struct vault *v, MDB_txn *txn, const char *name, uint64_t *value, struct err *e)
{
    uint64_t next = 1;
    MDB_val found;
    int got = index_get(&v->index, txn, INDEX_META, index_val(name, strlen(name)), &found, e);

    if (got < 0)
        return -1;
    if (got == 1 && found.mv_size == sizeof next)
        memcpy(&next, found.mv_data, sizeof next);
    *value = next++;
    return index_put(&v->index, txn, INDEX_META, index_val(name, strlen(name)), index_val(&next, sizeof next), e);
}

int segment_row_put(struct vault *v, MDB_txn *txn, const struct segment *s, bool sealed, struct err *e)
{
    struct segment_row row = {.committed = s->end, .record_count = (uint32_t)s->record_count, .flags = sealed ? SEGMENT_SEALED : 0, .key = (uint16_t)s->key};
    uint8_t key[4];

    put_be32(key, s->id);
    return index_put(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), index_val(&row, sizeof row), e);
}

int segment_row_get(struct vault *v, uint32_t id, struct segment_row *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    uint8_t key[4];
    MDB_val value;
    int found;

    put_be32(key, id);
    found = index_begin(&v->index, false, &txn, e) < 0 ? -1 : index_get(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), &value, e);
    if (found == 1 && value.mv_size != sizeof *out)
        return err_set(e, ERR_CORRUPT, "the vault's index has a segment row of %zu bytes", value.mv_size);
    if (found == 1)
        memcpy(out, value.mv_data, sizeof *out);
    return found;
}

int segment_row_read(MDB_val key, MDB_val value, uint32_t *id, struct segment_row *out, struct err *e)
{
    if (key.mv_size != 4 || value.mv_size != sizeof *out)
        return err_set(e, ERR_CORRUPT, "the vault's index has a damaged segment row");
    *id = get_be32(key.mv_data);
    memcpy(out, value.mv_data, sizeof *out);
    return 0;
}

int next_point_put(struct vault *v, MDB_txn *txn, struct err *e)
{
    return v->next_point == v->next_point_known ? 0 : index_put(&v->index, txn, INDEX_META, index_val("next_point", 10), index_val(&v->next_point, 8), e);
}

/* What one flush takes: copies, so that appending goes on meanwhile. Descriptors stay open: only a flush closes them. */
struct batch {
    struct pending_chunk *chunks;
    struct pending_set *sets;
    struct pending_feed *feeds;
    struct segment *segments; /* the full ones, then the current */
    size_t chunk_count, set_count, feed_count, segment_count, full_count;
    uint64_t next_segment;
};

static void batch_release(struct batch *b)
{
    free(b->chunks);
    free(b->sets);
    free(b->feeds);
    free(b->segments);
}

static void *copy_of(const void *bytes, size_t size)
{
    void *copy = xmalloc(size);

    if (size)
        memcpy(copy, bytes, size);
    return copy;
}

static int batch_take(struct vault *v, struct batch *b, struct err *e)
{
    bool broken;

    pthread_mutex_lock(&v->append_lock);
    broken = v->broken;
    b->chunk_count = v->pending.chunk_count;
    b->set_count = v->pending.set_count;
    b->chunks = copy_of(v->pending.chunks, b->chunk_count * sizeof *b->chunks);
    b->sets = copy_of(v->pending.sets, b->set_count * sizeof *b->sets);
    b->feed_count = v->pending.feed_count;
    b->feeds = copy_of(v->pending.feeds, b->feed_count * sizeof *b->feeds);
    b->full_count = b->segment_count = v->full_count;
    b->segments = xmalloc((v->full_count + 1) * sizeof *b->segments);
    if (v->full_count)
        memcpy(b->segments, v->full, v->full_count * sizeof *b->segments);
    if (v->current.fd >= 0)
        b->segments[b->segment_count++] = v->current;
    b->next_segment = v->next_segment;
    pthread_mutex_unlock(&v->append_lock);
    return broken ? err_set(e, ERR_IO, "the vault can't be written since a sync failed: check its disk and start the replicator again")
                  : 0;
}

static int batch_sync(struct vault *v, const struct batch *b, struct err *e)
{
    for (size_t i = 0; i < b->segment_count; i++)
        if (segment_sync(&b->segments[i], e) < 0) {
            pthread_mutex_lock(&v->append_lock);
            v->broken = true;
            pthread_mutex_unlock(&v->append_lock);
            return -1;
        }
    return 0;
}

/* early: what the same transaction has of it already, from its beginning on; NULL: nothing. */
static int batch_write(struct vault *v, MDB_txn *txn, const struct batch *b, const struct batch *early, struct err *e)
{
    size_t sets_there = early ? early->set_count : 0;

    for (size_t i = early ? early->chunk_count : 0; i < b->chunk_count; i++) {
        MDB_val key = index_val(&b->chunks[i].hash, sizeof b->chunks[i].hash);

        if (index_put(&v->index, txn, INDEX_CHUNK, key, index_val(&b->chunks[i].place, sizeof b->chunks[i].place), e) < 0 ||
            index_del(&v->index, txn, INDEX_BAD, key, e) < 0 ||
            (b->chunks[i].pages ? index_put(&v->index, txn, INDEX_BASE, key, index_val(b->chunks[i].pages, pages_row_size(b->chunks[i].pages)), e)
                                : index_del(&v->index, txn, INDEX_BASE, key, e)) < 0)
            return -1;
    }
    for (size_t i = 0; i < b->segment_count; i++)
        if (segment_row_put(v, txn, &b->segments[i], i < b->full_count, e) < 0)
            return -1;
    if (index_put(&v->index, txn, INDEX_META, index_val("next_segment", 12), index_val(&b->next_segment, 8), e) < 0)
        return -1;
    for (size_t i = 0; i < b->feed_count; i++)
        if (index_put(&v->index, txn, INDEX_FEED, index_val(b->feeds[i].server, strlen(b->feeds[i].server)),
                      index_val(&b->feeds[i].feed, sizeof b->feeds[i].feed), e) < 0)
            return -1;
    if ((!early && drops_finish(v, txn, e) < 0) || next_point_put(v, txn, e) < 0)
        return -1;
    return work_apply(v, txn, b->sets + sets_there, b->set_count - sets_there, e);
}

static void batch_done(struct vault *v, const struct batch *b)
{
    v->drop_count = 0;
    v->next_point_known = v->next_point; /* nobody draws one while a flush is under way but who builds in it */
    pthread_mutex_lock(&v->append_lock);
    pending_done(&v->pending, b->chunk_count, b->set_count, b->feed_count);
    bad_forget(v, b->chunks, b->chunk_count);
    for (size_t i = 0; i < b->full_count; i++)
        segment_close(&v->full[i]);
    v->full_count -= b->full_count;
    if (v->full_count)
        memmove(v->full, v->full + b->full_count, v->full_count * sizeof *v->full);
    pthread_mutex_unlock(&v->append_lock);
    if (b->full_count)
        bucket_stir(v->bucket);
}

static int flush(struct vault *v, flush_extra *extra, void *user, struct err *e)
{
    CLEANUP(batch_release) struct batch b = {0};
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    if ((v->disks_stale && disks_load(v, e) < 0) || batch_take(v, &b, e) < 0)
        return -1;
    if (b.chunk_count == 0 && b.set_count == 0 && b.feed_count == 0 && b.full_count == 0 && v->drop_count == 0 && !extra)
        return 0;
    if (batch_sync(v, &b, e) < 0 || index_begin(&v->index, true, &txn, e) < 0 || batch_write(v, txn, &b, NULL, e) < 0 ||
        (extra && extra(v, txn, user, e) < 0) || index_commit(&txn, e) < 0)
        return -1;
    batch_done(v, &b);
    return 0;
}

int vault_flush(struct vault *v, flush_extra *extra, void *user, struct err *e)
{
    int r = flush(v, extra, user, e);

    bad_write(v); /* what was found while the transaction was open */
    return r;
}

static int flush_built(struct vault *v, flush_extra *build, flush_extra *extra, void *user, struct err *e)
{
    CLEANUP(batch_release) struct batch early = {0}, b = {0};
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    if ((v->disks_stale && disks_load(v, e) < 0) || batch_take(v, &early, e) < 0 || index_begin(&v->index, true, &txn, e) < 0 || batch_write(v, txn, &early, NULL, e) < 0 || build(v, txn, user, e) < 0)
        return -1;
    /* All that is pending now begins with what was then: nobody else takes from it. */
    if (batch_take(v, &b, e) < 0 || batch_sync(v, &b, e) < 0 || batch_write(v, txn, &b, &early, e) < 0 || extra(v, txn, user, e) < 0 || index_commit(&txn, e) < 0)
        return -1;
    batch_done(v, &b);
    return 0;
}

int vault_flush_built(struct vault *v, flush_extra *build, flush_extra *extra, void *user, struct err *e)
{
    int r = flush_built(v, build, extra, user, e);

    bad_write(v);
    return r;
}

int vault_sync(struct vault *v, struct err *e)
{
    int r;

    pthread_mutex_lock(&v->commit_lock);
    r = commit_waiting(v) == 0 ? 0 : vault_flush(v, NULL, NULL, e);
    pthread_mutex_unlock(&v->commit_lock);
    return r;
}
