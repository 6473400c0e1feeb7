/* gc: gives back the space of records that nothing uses. Marks without holding anybody up: a snapshot of the index names the roots, and a
 * barrier gathers every chunk that gets a new use meanwhile. The set of marked chunks may only err by keeping (hash_set). Then, with
 * writers held for moments: rows of unmarked records go, segments with nothing alive go, sparse ones are copied out. A kill at any
 * moment leaves at most records that are there twice or that no row names. */
#include "base/bytes.h"
#include "base/file.h"
#include "vault/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SWEEP_BATCH 4096 /* rows looked at while writers wait */

struct gc {
    struct vault *v;
    struct hash_set marked, barrier;
    uint64_t *live_bytes; /* by segment id */
    uint32_t segment_limit;
    uint64_t freed_bytes;
};

static void gc_release(struct gc *g)
{
    hash_set_release(&g->marked);
    hash_set_release(&g->barrier);
    free(g->live_bytes);
}

static int mark(const struct vault_hash *hash, int level, uint64_t first_chunk, void *user, struct err *e)
{
    struct gc *g = user;
    bool fresh = hash_set_add(&g->marked, hash);

    (void)first_chunk;
    (void)e;
    return fresh && level >= 0;
}

/* A node that can't be read keeps what is below it from being found: nothing may be taken away then. */
static int mark_tree(struct gc *g, const struct vault_hash *root, uint64_t size_bytes, struct err *e)
{
    struct walk w = {.v = g->v, .visit = mark, .user = g};

    return walk_tree(&w, root, chunks_of(size_bytes), e) < 0
               ? err_wrap(e, "space can't be given back while a map is damaged (slipway vault scrub tells more)") : 0;
}

static int mark_point(MDB_val key, MDB_val value, void *user, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    struct gc *g = user;
    struct vault_hash record;
    uint64_t sequence;

    (void)key;
    vault_hash_of(value.mv_data, value.mv_size, &record);
    hash_set_add(&g->marked, &record);
    if (point_parse(value.mv_data, value.mv_size, p, &sequence, e) < 0)
        return -1;
    for (size_t i = 0; i < p->disk_count; i++)
        if (mark_tree(g, &p->disks[i].root, p->disks[i].size_bytes, e) < 0)
            return -1;
    return 0;
}

static int mark_disk(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct disk_row row;

    (void)key;
    if (value.mv_size != sizeof row)
        return err_set(e, ERR_CORRUPT, "the vault's index has a disk row of %zu bytes", value.mv_size);
    memcpy(&row, value.mv_data, sizeof row);
    return mark_tree(user, &row.root, row.size_bytes, e);
}

static int mark_work(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct gc *g = user;

    (void)key;
    (void)e;
    for (size_t at = 0; at + VAULT_HASH_SIZE <= value.mv_size; at += VAULT_HASH_SIZE) {
        struct vault_hash hash;

        memcpy(&hash, (const uint8_t *)value.mv_data + at, sizeof hash);
        if (!vault_hash_is_zero(&hash) && !vault_hash_is_unknown(&hash))
            hash_set_add(&g->marked, &hash);
    }
    return 0;
}

struct graves {
    struct gc *g;
    MDB_txn *txn;
};

/* A grave is wanted for as long as the record that it covers may come back in a rebuild. */
static int mark_grave(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct graves *s = user;
    struct vault_hash hash;
    uint8_t segment[4];
    MDB_val row;
    uint32_t id;
    int found;

    if (key.mv_size != sizeof hash || value.mv_size != sizeof id)
        return err_set(e, ERR_CORRUPT, "the vault's index has a damaged grave row");
    memcpy(&hash, key.mv_data, sizeof hash);
    memcpy(&id, value.mv_data, sizeof id);
    put_be32(segment, id);
    found = index_get(&s->g->v->index, s->txn, INDEX_SEGMENT, index_val(segment, sizeof segment), &row, e);
    if (found == 1)
        hash_set_add(&s->g->marked, &hash);
    return found < 0 ? -1 : 0;
}

static int mark_all(struct gc *g, MDB_txn *txn, struct err *e)
{
    struct graves s = {g, txn};
    MDB_val all = index_val("", 0);
    const struct vault_index *x = &g->v->index;

    return index_each(x, txn, INDEX_POINT, all, mark_point, g, e) < 0 || index_each(x, txn, INDEX_DISK, all, mark_disk, g, e) < 0 ||
                   index_each(x, txn, INDEX_WORK, all, mark_work, g, e) < 0 || index_each(x, txn, INDEX_GRAVE, all, mark_grave, &s, e) < 0
               ? -1 : 0;
}

static void set_barrier(struct gc *g, bool on)
{
    pthread_mutex_lock(&g->v->append_lock);
    g->v->barrier = on ? &g->barrier : NULL;
    pthread_mutex_unlock(&g->v->append_lock);
}

/* From the snapshot on, the barrier sees every new use; before it, everything pending is in the snapshot. */
static int snapshot(struct gc *g, MDB_txn **txn, struct err *e)
{
    struct vault *v = g->v;
    int r;

    pthread_rwlock_wrlock(&v->gc_lock);
    pthread_mutex_lock(&v->commit_lock);
    r = vault_flush(v, NULL, NULL, e);
    if (r == 0)
        r = index_begin(&v->index, false, txn, e);
    if (r == 0) {
        set_barrier(g, true);
        /* Only segments that are full by now: no row that comes later can name them. */
        g->segment_limit = v->current.fd >= 0 ? v->current.id : v->next_segment;
    }
    pthread_mutex_unlock(&v->commit_lock);
    pthread_rwlock_unlock(&v->gc_lock);
    return r;
}

/* ---- sweeping ---- */

struct sweep {
    struct gc *g;
    struct vault_hash at, *dead;
    size_t looked_count, dead_count;
    bool more;
    struct err *e;
};

static int sweep_row(MDB_val key, MDB_val value, struct sweep *s)
{
    struct chunk_place place;
    struct vault_hash hash;

    if (key.mv_size != sizeof hash || value.mv_size != sizeof place)
        return 0;
    memcpy(&hash, key.mv_data, sizeof hash);
    memcpy(&place, value.mv_data, sizeof place);
    if (hash_set_has(&s->g->marked, &hash) || hash_set_has(&s->g->barrier, &hash)) {
        if (place.segment < s->g->segment_limit)
            s->g->live_bytes[place.segment] += RECORD_HEADER_SIZE + place.stored_size;
    } else if (place.segment < s->g->segment_limit) {
        s->dead[s->dead_count++] = hash;
    }
    s->at = hash;
    return 0;
}

/* Deletes the dead rows among the next SWEEP_BATCH. Inside the flush's transaction, with all writers held. */
static int sweep_batch(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    CLEANUP(index_cursor_close) MDB_cursor *cursor = NULL;
    struct sweep *s = user;
    struct vault_hash from = s->at;
    MDB_val key = index_val(&from, sizeof from), value;
    int code = mdb_cursor_open(txn, v->index.table[INDEX_CHUNK], &cursor);
    bool first = s->looked_count == 0;

    if (code == 0)
        code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    /* The row where the last batch ended is done already, if it still is there. */
    if (code == 0 && !first && key.mv_size == sizeof from && memcmp(key.mv_data, &from, sizeof from) == 0)
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    s->dead_count = 0;
    for (size_t i = 0; code == 0 && i < SWEEP_BATCH; i++) {
        sweep_row(key, value, s);
        s->looked_count++;
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (code && code != MDB_NOTFOUND)
        return index_fail(e, code, "read");
    s->more = code == 0;
    for (size_t i = 0; i < s->dead_count; i++) {
        MDB_val dead = index_val(&s->dead[i], sizeof s->dead[i]);

        if (index_del(&v->index, txn, INDEX_CHUNK, dead, e) < 0 || index_del(&v->index, txn, INDEX_BAD, dead, e) < 0 ||
            index_del(&v->index, txn, INDEX_GRAVE, dead, e) < 0)
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
    while (r == 0 && s.more) {
        pthread_rwlock_wrlock(&g->v->gc_lock);
        pthread_mutex_lock(&g->v->commit_lock);
        r = vault_flush(g->v, sweep_batch, &s, e);
        pthread_mutex_unlock(&g->v->commit_lock);
        pthread_rwlock_unlock(&g->v->gc_lock);
    }
    return r;
}

/* ---- segments ---- */

struct doomed {
    uint32_t id;
    uint64_t size_bytes;
    bool copy; /* something in it lives */
};

struct choosing {
    struct gc *g;
    struct doomed *list;
    size_t count;
};

static int choose_segment(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct choosing *c = user;
    struct segment_row row;
    uint32_t id;

    if (key.mv_size != 4 || value.mv_size != sizeof row)
        return err_set(e, ERR_CORRUPT, "the vault's index has a damaged segment row");
    id = get_be32(key.mv_data);
    memcpy(&row, value.mv_data, sizeof row);
    if (!row.sealed || id >= c->g->segment_limit || c->g->live_bytes[id] * 2 > row.committed)
        return 0;
    c->list = xrealloc(c->list, (c->count + 1) * sizeof *c->list);
    c->list[c->count++] = (struct doomed){id, row.committed, c->g->live_bytes[id] > 0};
    return 0;
}

/* Appends a living record again; its row moves with the next flush. */
static int copy_record(const struct record *r, uint64_t offset, const uint8_t *payload, void *user, struct err *e)
{
    struct choosing *c = user;
    struct vault *v = c->g->v;
    CLEANUP(free_ptr) uint8_t *raw = NULL, *packed = NULL;
    struct chunk_place place;
    size_t span;
    int found;

    pthread_mutex_lock(&v->append_lock);
    found = place_find(v, &r->hash, &place, e);
    pthread_mutex_unlock(&v->append_lock);
    if (found != 1 || place.segment != c->list->id || place.offset != offset)
        return found < 0 ? -1 : 0; /* dead, or lives elsewhere */
    raw = xmalloc(r->raw_size);
    if (record_unpack(r, payload, raw, e) < 0)
        return -1;
    span = record_pack(r->kind, raw, r->raw_size, &r->hash, &packed);
    pthread_mutex_lock(&v->append_lock);
    found = record_append(v, r->kind, packed, span, r->raw_size, &r->hash, e);
    pthread_mutex_unlock(&v->append_lock);
    return found;
}

static int forget_segment(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    const struct doomed *d = user;
    uint8_t key[4];

    put_be32(key, d->id);
    return index_del(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), e);
}

struct whereabouts {
    uint32_t id;
    bool found;
};

static int look_for_segment(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct whereabouts *w = user;
    struct chunk_place place;

    (void)key;
    (void)e;
    if (value.mv_size == sizeof place) {
        memcpy(&place, value.mv_data, sizeof place);
        w->found = place.segment == w->id;
    }
    return w->found;
}

/* The last word before a file goes: no row names it (a damaged record ends the copying and keeps the segment). */
static int still_named(struct vault *v, uint32_t id, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct whereabouts w = {.id = id};

    if (index_begin(&v->index, false, &txn, e) < 0 ||
        index_each(&v->index, txn, INDEX_CHUNK, index_val("", 0), look_for_segment, &w, e) < 0)
        return -1;
    return w.found;
}

static int copy_living(struct gc *g, struct doomed *d, const char *path, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct choosing c = {.g = g, .list = d};
    struct segment_state state;
    int r;

    if (fd < 0)
        return err_errno(e, errno, "can't open %s", path);
    g->v->making_room = true;
    r = segment_scan(fd, 0, copy_record, &c, &state, e);
    g->v->making_room = false;
    return r;
}

static int empty_segment(struct gc *g, struct doomed *d, struct err *e)
{
    struct vault *v = g->v;
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, d->id);
    int named;

    if (d->copy && copy_living(g, d, path, e) < 0)
        return -1;
    if (vault_flush(v, NULL, NULL, e) < 0)
        return -1;
    named = d->copy ? still_named(v, d->id, e) : 0;
    if (named)
        return named < 0 ? -1 : 0;
    if (vault_flush(v, forget_segment, d, e) < 0)
        return -1;
    if (unlink(path) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove %s", path);
    g->freed_bytes += d->size_bytes;
    return 0;
}

static int empty_segments(struct gc *g, struct err *e)
{
    struct choosing c = {.g = g};
    int r;

    {
        CLEANUP(index_abort) MDB_txn *txn = NULL;

        r = index_begin(&g->v->index, false, &txn, e);
        if (r == 0)
            r = index_each(&g->v->index, txn, INDEX_SEGMENT, index_val("", 0), choose_segment, &c, e);
    }
    /* The dead first: what they give back is room for what must be copied. */
    for (size_t n = 0; r == 0 && n < 2 * c.count; n++) {
        size_t i = n % c.count;

        if (c.list[i].copy != (n >= c.count))
            continue;
        pthread_rwlock_wrlock(&g->v->gc_lock);
        pthread_mutex_lock(&g->v->commit_lock);
        r = empty_segment(g, &c.list[i], e);
        pthread_mutex_unlock(&g->v->commit_lock);
        pthread_rwlock_unlock(&g->v->gc_lock);
    }
    free(c.list);
    return r;
}

static int run(struct gc *g, struct err *e)
{
    MDB_txn *txn = NULL;
    int r = snapshot(g, &txn, e);

    if (r == 0)
        r = mark_all(g, txn, e);
    index_abort(&txn);
    if (r == 0)
        r = sweep_rows(g, e);
    set_barrier(g, false);
    return r < 0 ? -1 : empty_segments(g, e);
}

int vault_gc(struct vault *v, uint64_t *freed_bytes, struct err *e)
{
    CLEANUP(gc_release) struct gc g = {.v = v};
    int r;

    pthread_mutex_lock(&v->gc_run_lock);
    r = run(&g, e);
    pthread_mutex_unlock(&v->gc_run_lock);
    if (r == 0 && freed_bytes)
        *freed_bytes = g.freed_bytes;
    return r < 0 ? err_wrap(e, "giving back space in the vault") : 0;
}
