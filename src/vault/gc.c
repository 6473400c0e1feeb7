/* gc: gives back the space of records that nothing uses. Marks without holding anybody up: a snapshot of the index names the roots, and a
 * barrier gathers every chunk that gets a new use meanwhile. The set of marked chunks may only err by keeping (hash_sieve). Then, with
 * writers held for moments: rows of unmarked records go, segments with nothing alive go, sparse ones are copied out. A kill at any
 * moment leaves at most records that are there twice or that no row names.
 *
 * A record that no map names may be there for others: as a part, with some of its pages. It counts as alive by those, and is copied out with those only. */
#include "vault/gc.h"

#include "base/clock.h"

#include <string.h>

#define LOOK_BATCH 65536 /* rows looked at in one view of the index: an old view keeps pages from being used again */
#define DEAD_BATCH 4096  /* rows that go in one transaction, while writers wait */

void gc_hold(struct gc *g)
{
    pthread_rwlock_wrlock(&g->v->gc_lock);
    pthread_mutex_lock(&g->v->commit_lock);
    g->held_since_us = clock_monotonic_us();
}

void gc_let_go(struct gc *g)
{
    int64_t held_us = clock_monotonic_us() - g->held_since_us;
    bool waited = atomic_load(&g->v->waiting_users) > 0;

    pthread_mutex_unlock(&g->v->commit_lock);
    pthread_rwlock_unlock(&g->v->gc_lock);
    if (waited)
        clock_sleep_us(held_us);
}

struct sweep {
    struct gc *g;
    struct vault_hash at, *dead; /* the row that was looked at last; those among the rows that nobody wants */
    size_t dead_count;
    bool begun, ended;
};

/* 1: somebody wants it, and its segment has it among those that live; 0: it may go; or it lies in none that is looked at, and stays. */
static int look_at_row(struct gc *g, MDB_txn *txn, const struct vault_hash *hash, const struct chunk_place *place, struct err *e)
{
    uint64_t living = 0;
    int wanted;

    /* vault_has adds to the barrier, and is not held up. */
    pthread_mutex_lock(&g->v->append_lock);
    wanted = gc_wants(g, hash, place->kind);
    if (wanted && gc_living_bytes(g, txn, hash, place, &living, e) < 0)
        wanted = -1;
    pthread_mutex_unlock(&g->v->append_lock);
    if (wanted > 0) {
        g->live_bytes[place->segment] += living;
        g->live_count[place->segment]++;
    }
    return wanted;
}

static bool is_looked_at(const struct gc *g, MDB_val key, MDB_val value, struct vault_hash *hash, struct chunk_place *place)
{
    return chunk_row(key, value, hash, place) && place->segment < g->segment_limit;
}

static int look_at_rows(struct sweep *s, MDB_txn *txn, MDB_cursor *cursor, struct err *e)
{
    struct vault_hash from = s->at;
    MDB_val key = index_val(&from, sizeof from), value;
    int code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);

    if (code == 0 && s->begun && key.mv_size == sizeof from && memcmp(key.mv_data, &from, sizeof from) == 0)
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    for (size_t i = 0; code == 0 && i < LOOK_BATCH && s->dead_count < DEAD_BATCH; i++) {
        struct chunk_place place;
        struct vault_hash hash;
        int wanted = is_looked_at(s->g, key, value, &hash, &place) ? look_at_row(s->g, txn, &hash, &place, e) : 1;

        if (wanted < 0)
            return -1;
        if (!wanted)
            s->dead[s->dead_count++] = hash;
        memcpy(&s->at, key.mv_data, key.mv_size < sizeof s->at ? key.mv_size : sizeof s->at);
        s->begun = true;
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    s->ended = code == MDB_NOTFOUND;
    return code && !s->ended ? index_fail(e, code, "read") : 0;
}

/* Some rows further; those that nobody wants are gathered, and nobody is held up. */
static int look_on(struct sweep *s, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    CLEANUP(index_cursor_close) MDB_cursor *cursor = NULL;
    int code;

    if (index_begin(&s->g->v->index, false, &txn, e) < 0)
        return -1;
    code = mdb_cursor_open(txn, s->g->v->index.table[INDEX_CHUNK], &cursor);
    return code ? index_fail(e, code, "read") : look_at_rows(s, txn, cursor, e);
}

/* Deletes what was gathered and is still wanted by nobody. Inside the flush's transaction, with all writers held. vault_has goes on: who is told by
 * it that a chunk is there, and then maps it, is told that it is gone, and sends it again. */
static int delete_dead(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    struct sweep *s = user;

    for (size_t i = 0; i < s->dead_count; i++) {
        MDB_val dead = index_val(&s->dead[i], sizeof s->dead[i]), value;
        struct chunk_place place;
        struct vault_hash hash;
        int found = index_get(&v->index, txn, INDEX_CHUNK, dead, &value, e);
        int wanted = found == 1 && is_looked_at(s->g, dead, value, &hash, &place) ? look_at_row(s->g, txn, &hash, &place, e) : 1;

        if (found < 0 || wanted < 0)
            return -1;
        if (!wanted && (index_del(&v->index, txn, INDEX_CHUNK, dead, e) < 0 || index_del(&v->index, txn, INDEX_BAD, dead, e) < 0 ||
                        index_del(&v->index, txn, INDEX_GRAVE, dead, e) < 0 || index_del(&v->index, txn, INDEX_BASE, dead, e) < 0))
            return -1;
    }
    s->dead_count = 0;
    return 0;
}

static int flush_dead(struct sweep *s, struct err *e)
{
    int r;

    gc_hold(s->g);
    r = vault_flush(s->g->v, delete_dead, s, e);
    gc_let_go(s->g);
    return r;
}

static int sweep_rows(struct gc *g, struct err *e)
{
    CLEANUP(free_ptr) struct vault_hash *dead = xcalloc(DEAD_BATCH, sizeof *dead);
    struct sweep s = {.g = g, .dead = dead};
    int r = 0;

    g->live_bytes = xcalloc((size_t)g->segment_limit + 1, sizeof *g->live_bytes);
    g->live_count = xcalloc((size_t)g->segment_limit + 1, sizeof *g->live_count);
    while (r == 0 && !s.ended) {
        r = look_on(&s, e);
        if (r == 0 && (s.dead_count == DEAD_BATCH || (s.ended && s.dead_count)))
            r = flush_dead(&s, e);
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
