/* gc: gives back the space of records that nothing uses. Marks without holding anybody up: a snapshot of the index names the roots, and a
 * barrier gathers every chunk that gets a new use meanwhile. The set of marked chunks may only err by keeping (hash_set). Then, with
 * writers held for moments: rows of unmarked records go, segments with nothing alive go, sparse ones are copied out. A kill at any
 * moment leaves at most records that are there twice or that no row names.
 *
 * A record that no map names may be there for others: as a part, with some of its pages. It counts as alive by those, and is copied out with those only. */
#include "base/bytes.h"
#include "base/file.h"
#include "vault/gc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SWEEP_BATCH 4096 /* rows looked at while writers wait */

void gc_release(struct gc *g)
{
    hash_set_release(&g->marked);
    hash_set_release(&g->barrier);
    hash_bits_release(&g->uses);
    free(g->live_bytes);
    free(g->staged);
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

static int mark_trees(struct gc *g, const struct vault_point *p, struct err *e)
{
    for (size_t i = 0; i < p->disk_count; i++)
        if (mark_tree(g, &p->disks[i].root, p->disks[i].size_bytes, e) < 0)
            return -1;
    return 0;
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
    return mark_trees(g, p, e);
}

/* Its index rows come later, or never: until then nothing else names what it is made of. */
static int mark_staged(const struct vault_point *p, const struct vault_hash *document, void *user, struct err *e)
{
    struct gc *g = user;

    g->staged = xrealloc(g->staged, (g->staged_count + 1) * sizeof *g->staged);
    g->staged[g->staged_count++] = *p;
    hash_set_add(&g->marked, document);
    (void)e;
    return 0;
}

static int mark_group(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct gc *g = user;
    struct vault_hash record;

    (void)key;
    (void)e;
    vault_hash_of(value.mv_data, value.mv_size, &record);
    hash_set_add(&g->marked, &record);
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

/* What a marked chunk is made of is in use. Of a part it takes what the part's record holds itself, so once is enough. */
static int mark_parts(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct gc *g = user;
    struct record_pages p;
    struct vault_hash hash;

    if (key.mv_size != sizeof hash)
        return err_set(e, ERR_CORRUPT, "the vault's index has a damaged row of a chunk's pages");
    memcpy(&hash, key.mv_data, sizeof hash);
    if (!hash_set_has(&g->marked, &hash))
        return 0;
    if (pages_row_decode(value, &p, e) < 0)
        return -1;
    for (size_t i = 0; i < p.part_count; i++)
        hash_bits_add(&g->uses, &p.parts[i].name, p.parts[i].mask);
    return 0;
}

int gc_mark(struct gc *g, MDB_txn *txn, struct err *e)
{
    struct graves s = {g, txn};
    MDB_val all = index_val("", 0);
    const struct vault_index *x = &g->v->index;

    for (size_t i = 0; i < g->staged_count; i++)
        if (mark_trees(g, &g->staged[i], e) < 0)
            return -1;
    return index_each(x, txn, INDEX_POINT, all, mark_point, g, e) < 0 || index_each(x, txn, INDEX_GROUP, all, mark_group, g, e) < 0 ||
                   index_each(x, txn, INDEX_DISK, all, mark_disk, g, e) < 0 ||
                   index_each(x, txn, INDEX_WORK, all, mark_work, g, e) < 0 || index_each(x, txn, INDEX_GRAVE, all, mark_grave, &s, e) < 0 ||
                   index_each(x, txn, INDEX_BASE, all, mark_parts, g, e) < 0
               ? -1 : 0;
}

void gc_set_barrier(struct gc *g, bool on)
{
    pthread_mutex_lock(&g->v->append_lock);
    g->v->barrier = on ? &g->barrier : NULL;
    pthread_mutex_unlock(&g->v->append_lock);
}

/* From the snapshot on, the barrier sees every new use; before it, everything pending is in the snapshot. */
int gc_snapshot(struct gc *g, MDB_txn **txn, struct err *e)
{
    struct vault *v = g->v;
    int r;

    pthread_rwlock_wrlock(&v->gc_lock);
    pthread_mutex_lock(&v->commit_lock);
    r = vault_flush(v, NULL, NULL, e);
    if (r == 0)
        r = index_begin(&v->index, false, txn, e);
    if (r == 0)
        r = staged_each(v, mark_staged, g, e);
    if (r == 0) {
        gc_set_barrier(g, true);
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
    MDB_txn *txn;
    struct vault_hash at, *dead;
    size_t looked_count, dead_count;
    bool more;
};

/* The pages that are taken of a record that is there for others only; 0: it is wanted as it is, or not at all. append_lock held: vault_has
 * adds to the barrier, and takes no gc_lock. */
static uint32_t taken(const struct gc *g, const struct vault_hash *hash)
{
    return hash_set_has(&g->marked, hash) || hash_set_has(&g->barrier, hash) ? 0 : hash_bits_get(&g->uses, hash);
}

/* How much of the record lives. */
int gc_living_bytes(const struct gc *g, MDB_txn *txn, const struct vault_hash *hash, const struct chunk_place *place, uint64_t *out, struct err *e)
{
    struct record_pages p = {.own = RECORD_ALL_PAGES};
    uint32_t mask = taken(g, hash);
    MDB_val row;
    int found = 0;

    *out = RECORD_HEADER_SIZE + place->stored_size;
    if (!mask)
        return 0;
    found = index_get(&g->v->index, txn, INDEX_BASE, index_val(hash, sizeof *hash), &row, e);
    if (found < 0 || (found == 1 && pages_row_decode(row, &p, e) < 0))
        return -1;
    *out = *out * (unsigned)__builtin_popcount(mask & p.own) / (unsigned)__builtin_popcount(p.own);
    return 0;
}

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
    if (!hash_set_has(&s->g->marked, &hash) && !hash_set_has(&s->g->barrier, &hash) && !hash_bits_get(&s->g->uses, &hash)) {
        s->dead[s->dead_count++] = hash;
        return 0;
    }
    if (gc_living_bytes(s->g, s->txn, &hash, &place, &living, e) < 0)
        return -1;
    s->g->live_bytes[place.segment] += living;
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

struct living {
    struct vault_hash hash;
    struct chunk_place place;
};

struct doomed {
    uint32_t id;
    uint64_t size_bytes;
    bool copy;                  /* something in it lives */
    size_t first, living_count; /* in the list of the living */
};

struct choosing {
    struct gc *g;
    struct doomed *list; /* by rising id */
    size_t count;
    struct living *living; /* all that lives in them, by place */
    size_t living_count, living_held;
};

static void choosing_release(struct choosing *c)
{
    free(c->list);
    free(c->living);
}

static int choose_segment(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct choosing *c = user;
    struct segment_row row;
    uint32_t id;

    if (key.mv_size != 4 || value.mv_size != sizeof row)
        return err_set(e, ERR_CORRUPT, "the vault's index has a damaged segment row");
    id = get_be32(key.mv_data);
    memcpy(&row, value.mv_data, sizeof row);
    if (!(row.flags & SEGMENT_SEALED) || row.flags & SEGMENT_DOOMED || id >= c->g->segment_limit ||
        (c->g->live_bytes[id] * 100 >= row.committed * c->g->live_percent && !(c->g->seal_anew && row.key != seal_newest(c->g->v->seal))))
        return 0;
    c->list = xrealloc(c->list, (c->count + 1) * sizeof *c->list);
    c->list[c->count++] = (struct doomed){.id = id, .size_bytes = row.committed, .copy = c->g->live_bytes[id] > 0};
    return 0;
}

static struct doomed *find_doomed(const struct choosing *c, uint32_t id)
{
    size_t low = 0, high = c->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (c->list[middle].id == id)
            return &c->list[middle];
        if (c->list[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static int collect_living(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct choosing *c = user;
    struct doomed *d;
    struct living l;

    (void)e;
    if (key.mv_size != sizeof l.hash || value.mv_size != sizeof l.place)
        return 0;
    memcpy(&l.hash, key.mv_data, sizeof l.hash);
    memcpy(&l.place, value.mv_data, sizeof l.place);
    d = find_doomed(c, l.place.segment);
    if (!d)
        return 0;
    if (c->living_count == c->living_held) {
        c->living_held = c->living_held ? c->living_held * 2 : 256;
        c->living = xrealloc(c->living, c->living_held * sizeof *c->living);
    }
    c->living[c->living_count++] = l;
    d->living_count++;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct living *x = a, *y = b;

    if (x->place.segment != y->place.segment)
        return x->place.segment < y->place.segment ? -1 : 1;
    return x->place.offset < y->place.offset ? -1 : x->place.offset > y->place.offset;
}

/* What lives in the chosen segments is what the index says, not what a scan of the file finds: that would end at the first damaged record.
 * No row that comes later can name one of them: they are sealed. */
static int choose(struct choosing *c, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    const struct vault_index *x = &c->g->v->index;
    size_t at = 0;

    if (index_begin(x, false, &txn, e) < 0 || index_each(x, txn, INDEX_SEGMENT, index_val("", 0), choose_segment, c, e) < 0 ||
        (c->count && index_each(x, txn, INDEX_CHUNK, index_val("", 0), collect_living, c, e) < 0))
        return -1;
    if (c->living_count)
        qsort(c->living, c->living_count, sizeof *c->living, by_place);
    for (size_t i = 0; i < c->count; i++) {
        c->list[i].first = at;
        at += c->list[i].living_count;
    }
    return 0;
}

/* The record as it is to lie elsewhere: byte by byte, or with the pages that are taken of it only. 1/0 (it does not hold). */
static int pack_again(const struct gc *g, struct record *r, uint8_t **bytes, size_t *span, struct record_pages *p)
{
    uint8_t *payload = *bytes + RECORD_HEADER_SIZE;
    CLEANUP(free_ptr) uint8_t *raw = xmalloc(r->raw_size);
    uint8_t *packed;
    uint32_t mask;

    /* What has parts is as good as its sum says: they are not read for it. */
    if (record_pages_of(r, payload, p, NULL) < 0 ||
        (p->own == RECORD_ALL_PAGES ? record_unpack(r, payload, g->v->seal, raw, NULL) : record_own_pages(r, payload, p->own, g->v->seal, raw, NULL)) < 0)
        return 0;
    pthread_mutex_lock(&g->v->append_lock);
    mask = r->kind == RECORD_CHUNK ? taken(g, &r->hash) & p->own : 0;
    pthread_mutex_unlock(&g->v->append_lock);
    if (!mask || mask == p->own) {
        *span = record_frame(r, *bytes);
        return 1;
    }
    *p = (struct record_pages){.own = (uint16_t)mask};
    *span = record_pack_pages(p, raw, &r->hash, &packed);
    free(*bytes);
    *bytes = packed;
    return 1;
}

/* Appends a living record again; its row moves with the next flush. 1: it lives elsewhere now; 0: it can't be read. */
static int copy_record(struct gc *g, const struct living *l, struct err *e)
{
    size_t span = RECORD_HEADER_SIZE + l->place.stored_size; /* the place counts the padding, too */
    CLEANUP(free_ptr) uint8_t *bytes = xmalloc(span);
    struct vault *v = g->v;
    struct chunk_place now;
    struct record_pages p;
    struct err why = {0};
    struct record r;
    int found;

    pthread_mutex_lock(&v->append_lock);
    found = place_find(v, &l->hash, &now, e);
    pthread_mutex_unlock(&v->append_lock);
    if (found != 1 || now.segment != l->place.segment || now.offset != l->place.offset)
        return found < 0 ? -1 : 1; /* stored again meanwhile */
    if (segment_read(v->segment_dir, now.segment, now.offset, span, bytes, &r, &why) < 0 || r.raw_size != now.raw_size ||
        !vault_hash_same(&r.hash, &l->hash)) {
        if (why.kind == ERR_NONE || why.kind == ERR_CORRUPT || why.kind == ERR_NOT_FOUND)
            chunk_mark_bad(v, &l->hash);
        return 0; /* one that can't be read must not keep the others' space: scrub tells of it */
    }
    if (seal_open_record(v->seal, now.segment, &r, bytes + RECORD_HEADER_SIZE, &why) < 0 || !pack_again(g, &r, &bytes, &span, &p)) {
        if (why.kind != ERR_DENIED)
            chunk_mark_bad(v, &l->hash);
        return 0;
    }
    pthread_mutex_lock(&v->append_lock);
    found = record_append(v, r.kind, bytes, span, r.raw_size, &r.hash, p.own == RECORD_ALL_PAGES ? NULL : &p, e);
    pthread_mutex_unlock(&v->append_lock);
    return found < 0 ? -1 : 1;
}

static int forget_segment(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    const struct doomed *d = user;
    uint8_t key[4];

    MDB_val value;
    struct segment_row row;
    int found;

    put_be32(key, d->id);
    found = index_get(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), &value, e);
    if (found <= 0)
        return found;
    memcpy(&row, value.mv_data, sizeof row);
    if (!(row.flags & SEGMENT_SENT))
        return index_del(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), e);
    /* Its object is to go before the row: one that came back with no row would be taken in again, too. */
    row.flags |= SEGMENT_DOOMED;
    return index_put(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), index_val(&row, sizeof row), e);
}

/* 1: everything that lives was copied; 0: a record that can't be read keeps the segment. */
static int copy_living(struct choosing *c, const struct doomed *d, struct err *e)
{
    struct vault *v = c->g->v;
    int whole = 1;

    v->making_room = true;
    for (size_t i = 0; whole >= 0 && i < d->living_count; i++) {
        int copied = copy_record(c->g, &c->living[d->first + i], e);

        whole = copied < 0 ? -1 : whole && copied;
    }
    v->making_room = false;
    return whole;
}

static int empty_segment(struct choosing *c, struct doomed *d, struct err *e)
{
    struct vault *v = c->g->v;
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, d->id), *maps = xasprintf("%s/%010u.maps", v->segment_dir, d->id);
    int copied = copy_living(c, d, e);

    if (copied < 0 || vault_flush(v, NULL, NULL, e) < 0)
        return -1;
    if (!copied)
        return 0;
    /* Its row goes when it is gone for good: one that came back with no row would be taken in again, whatever it says by now. */
    if (unlink(maps) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove %s", maps);
    if (unlink(path) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove %s", path);
    if (file_sync_dir(v->segment_dir, e) < 0 || vault_flush(v, forget_segment, d, e) < 0)
        return -1;
    bucket_stir(v->bucket);
    c->g->freed_bytes += d->size_bytes;
    return 0;
}

static int empty_segments(struct gc *g, struct err *e)
{
    CLEANUP(choosing_release) struct choosing c = {.g = g};
    int r = choose(&c, e);

    /* The dead first: what they give back is room for what must be copied. */
    for (size_t n = 0; r == 0 && n < 2 * c.count; n++) {
        size_t i = n % c.count;

        if (c.list[i].copy != (n >= c.count))
            continue;
        /* What is to be copied out of it is brought before anybody waits; one that can't be had now keeps its space. */
        if (c.list[i].copy && bucket_hold(g->v, c.list[i].id, NULL) < 0)
            continue;
        pthread_rwlock_wrlock(&g->v->gc_lock);
        pthread_mutex_lock(&g->v->commit_lock);
        r = empty_segment(&c, &c.list[i], e);
        pthread_mutex_unlock(&g->v->commit_lock);
        pthread_rwlock_unlock(&g->v->gc_lock);
    }
    (void)bucket_hold(g->v, 0, NULL);
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
        r = empty_segments(g, e);
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
