/* gc: gives back the space of records that nothing uses. Marks without holding anybody up: a snapshot of the index names the roots, and a
 * barrier gathers every chunk that gets a new use meanwhile. The set of marked chunks may only err by keeping (hash_sieve). Then, with
 * writers held for moments: rows of unmarked records go, segments with nothing alive go, sparse ones are copied out. A kill at any
 * moment leaves at most records that are there twice or that no row names.
 *
 * A record that no map names may be there for others: as a part, with some of its pages. It counts as alive by those, and is copied out with those only. */
#include "vault/gc.h"

#include <string.h>

#define SWEEP_BATCH 4096 /* rows looked at while writers wait */

struct sweep {
    struct gc *g;
    MDB_txn *txn;
    struct vault_hash at, *dead;
    size_t looked_count, dead_count;
    bool more;
};

static int sweep_row(MDB_val key, MDB_val value, struct sweep *s, struct err *e)
{
    struct chunk_place place;
    struct vault_hash hash;
    uint64_t living;

    if (key.mv_size != sizeof hash || value.mv_size != sizeof place)
        return 0;
    memcpy(&hash, key.mv_data, sizeof hash);
    memcpy(&place, value.mv_data, sizeof place);
    s->at = hash;
    if (place.segment >= s->g->segment_limit)
        return 0;
    if (!gc_wants(s->g, &hash, place.kind)) {
        s->dead[s->dead_count++] = hash;
        return 0;
    }
    if (gc_living_bytes(s->g, s->txn, &hash, &place, &living, e) < 0)
        return -1;
    s->g->live_bytes[place.segment] += living;
    s->g->live_count[place.segment]++;
    return 0;
}

/* Deletes the dead rows among the next SWEEP_BATCH. Inside the flush's transaction, with all writers held. vault_has goes on: who is told by
 * it that a chunk is there, and then maps it, is told that it is gone, and sends it again. */
static int sweep_batch(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    CLEANUP(index_cursor_close) MDB_cursor *cursor = NULL;
    struct sweep *s = user;
    struct vault_hash from = s->at;
    MDB_val key = index_val(&from, sizeof from), value;
    int code = mdb_cursor_open(txn, v->index.table[INDEX_CHUNK], &cursor);
    bool first = s->looked_count == 0;
    int swept = 0;

    if (code == 0)
        code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    /* The row where the last batch ended is done already, if it still is there. */
    if (code == 0 && !first && key.mv_size == sizeof from && memcmp(key.mv_data, &from, sizeof from) == 0)
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    s->dead_count = 0;
    s->txn = txn;
    pthread_mutex_lock(&v->append_lock);
    for (size_t i = 0; code == 0 && swept == 0 && i < SWEEP_BATCH; i++) {
        swept = sweep_row(key, value, s, e);
        s->looked_count++;
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    pthread_mutex_unlock(&v->append_lock);
    if (swept < 0 || (code && code != MDB_NOTFOUND))
        return swept < 0 ? -1 : index_fail(e, code, "read");
    s->more = code == 0;
    for (size_t i = 0; i < s->dead_count; i++) {
        MDB_val dead = index_val(&s->dead[i], sizeof s->dead[i]);

        if (index_del(&v->index, txn, INDEX_CHUNK, dead, e) < 0 || index_del(&v->index, txn, INDEX_BAD, dead, e) < 0 ||
            index_del(&v->index, txn, INDEX_GRAVE, dead, e) < 0 || index_del(&v->index, txn, INDEX_BASE, dead, e) < 0)
            return -1;
    }
    return 0;
}

static int sweep_rows(struct gc *g, struct err *e)
{
    CLEANUP(free_ptr) struct vault_hash *dead = xcalloc(SWEEP_BATCH, sizeof *dead);
    struct sweep s = {.g = g, .dead = dead, .more = true};
    int r = 0;

    g->live_bytes = xcalloc((size_t)g->segment_limit + 1, sizeof *g->live_bytes);
    g->live_count = xcalloc((size_t)g->segment_limit + 1, sizeof *g->live_count);
    while (r == 0 && s.more) {
        pthread_rwlock_wrlock(&g->v->gc_lock);
        pthread_mutex_lock(&g->v->commit_lock);
        r = vault_flush(g->v, sweep_batch, &s, e);
        pthread_mutex_unlock(&g->v->commit_lock);
        pthread_rwlock_unlock(&g->v->gc_lock);
    }
    return r;
}

static int run(struct gc *g, struct err *e)
{
    MDB_txn *txn = NULL;
    int r = gc_snapshot(g, &txn, e);

    if (r == 0)
        r = gc_mark(g, txn, e);
    index_abort(&txn);
    if (r == 0)
        r = sweep_rows(g, e);
    if (r == 0)
        r = gc_empty_segments(g, e);
    gc_set_barrier(g, false); /* up to now it also said what must not be shrunk */
    return r;
}

static int collect(struct vault *v, unsigned live_percent, bool seal_anew, uint64_t *freed_bytes, struct err *e)
{
    CLEANUP(gc_release) struct gc g = {.v = v, .live_percent = live_percent, .seal_anew = seal_anew};
    int r;

    pthread_mutex_lock(&v->gc_run_lock);
    r = run(&g, e);
    pthread_mutex_unlock(&v->gc_run_lock);
    if (r == 0 && freed_bytes)
        *freed_bytes = g.freed_bytes;
    return r < 0 ? err_wrap(e, "giving back space in the vault") : 0;
}

int vault_gc(struct vault *v, uint64_t *freed_bytes, struct err *e) { return collect(v, 50, false, freed_bytes, e); }

int vault_compact(struct vault *v, unsigned live_percent, bool seal_anew, uint64_t *freed_bytes, struct err *e)
{
    if (live_percent > 100)
        return err_set(e, ERR_INVALID, "a share that lives is 0 to 100 percent");
    return current_seal(v, e) < 0 ? -1 : collect(v, live_percent, seal_anew, freed_bytes, e);
}
