/* gc: segments of which little lives, or nothing: what lives is copied out, and they go. */
#include "base/bytes.h"
#include "base/file.h"
#include "vault/gc.h"
#include "vault/places.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct doomed {
    uint32_t id, row_count; /* how many rows name it */
    uint64_t size_bytes;
    size_t first, living_count; /* among those that live in the group's */
    struct vault_hash *buried;  /* of these, documents that are not copied */
    size_t buried_count;
};

struct choosing {
    struct gc *g;
    struct doomed *list; /* by rising id */
    size_t count, from, to; /* the group that is being emptied */
    struct places living;   /* all that lives in it, by place */
    bool left_away;         /* something stays, for it lies in a bucket that is not open */
};

static void choosing_release(struct choosing *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->list[i].buried);
    free(c->list);
    places_release(&c->living);
}

/* The row says that it is in the bucket, and may be there alone. */
static bool is_away(const struct vault *v, uint32_t id, const struct segment_row *row)
{
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, id);

    return row->flags & SEGMENT_KEPT && !file_exists(path);
}

static int choose_segment(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct choosing *c = user;
    struct segment_row row;
    uint32_t id;

    if (segment_row_read(key, value, &id, &row, e) < 0)
        return -1;
    if (!(row.flags & SEGMENT_SEALED) || row.flags & SEGMENT_DOOMED || id >= c->g->segment_limit ||
        (c->g->live_bytes[id] * 100 >= row.committed * c->g->live_percent && !(c->g->seal_anew && row.key != seal_newest(c->g->v->seal))))
        return 0;
    if (!c->g->v->bucket && is_away(c->g->v, id, &row)) {
        c->left_away = true;
        return 0;
    }
    c->list = xrealloc(c->list, (c->count + 1) * sizeof *c->list);
    c->list[c->count++] = (struct doomed){.id = id, .size_bytes = row.committed, .row_count = c->g->live_count[id]};
    return 0;
}

static int choose(struct choosing *c, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    const struct vault_index *x = &c->g->v->index;

    return index_begin(x, false, &txn, e) < 0 ? -1 : index_each(x, txn, INDEX_SEGMENT, index_val("", 0), choose_segment, c, e);
}

/* Among the group's. */
static struct doomed *find_doomed(const struct choosing *c, uint32_t id)
{
    size_t low = c->from, high = c->to;

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
    struct vault_hash hash;
    struct chunk_place place;
    struct doomed *d;

    (void)e;
    if (!chunk_row(key, value, &hash, &place))
        return 0;
    d = find_doomed(c, place.segment);
    if (d) {
        places_add(&c->living, &hash, &place);
        d->living_count++;
    }
    return 0;
}

/* The next segments of which all that lives has room in memory at once; false: there are none. */
static bool next_group(struct choosing *c)
{
    size_t row_count = 0, most = gc_share(c->g, GC_LIVING) / PLACED_BYTES;

    for (c->from = c->to; c->to < c->count && (c->to == c->from || row_count + c->list[c->to].row_count <= most); c->to++)
        row_count += c->list[c->to].row_count;
    places_make(&c->living, row_count);
    return c->from < c->to;
}

/* What lives in the group is what the index says, not what a scan of the files finds: that would end at the first damaged record.
 * No row that comes later can name one of them: they are sealed. */
static int collect_group(struct choosing *c, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    const struct vault_index *x = &c->g->v->index;
    size_t at = 0;

    if (index_begin(x, false, &txn, e) < 0 || index_each(x, txn, INDEX_CHUNK, index_val("", 0), collect_living, c, e) < 0)
        return -1;
    places_sort(&c->living);
    for (size_t i = c->from; i < c->to; i++) {
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
    mask = r->kind == RECORD_CHUNK ? gc_taken(g, &r->hash) & p->own : 0;
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

/* What its file lacks is lacking: a bucket that has it whole would be asked, by whoever reads it. */
static bool is_here_alone(struct vault *v, uint32_t segment)
{
    struct segment_row row;

    return segment_row_get(v, segment, &row, NULL) == 1 && !(row.flags & SEGMENT_KEPT);
}

/* The document of a point that was dropped since the view that was marked. Its grave is kept for as long as this segment is: elsewhere it would outlive it, and the point
 * would be there again when the index is made anew. 1/0/-1 */
static int is_buried(const struct gc *g, const struct record *r, const uint8_t *payload, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    CLEANUP(free_ptr) char *text = xcalloc(1, r->raw_size + 1);
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    uint8_t bytes[VAULT_HASH_SIZE + VAULT_POINT_ID_SIZE];
    struct vault_hash grave;
    uint64_t sequence;
    MDB_val row;
    size_t size;

    if (r->kind != RECORD_POINT || record_unpack(r, payload, g->v->seal, text, NULL) < 0 || point_parse(text, r->raw_size, p, &sequence, NULL) < 0)
        return 0;
    grave = grave_hash(&r->hash, p->id, bytes, &size);
    return index_begin(&g->v->index, false, &txn, e) < 0 ? -1 : index_get(&g->v->index, txn, INDEX_GRAVE, index_val(&grave, sizeof grave), &row, e);
}

static int leave_buried(struct doomed *d, const struct vault_hash *hash)
{
    d->buried = xrealloc(d->buried, (d->buried_count + 1) * sizeof *hash);
    d->buried[d->buried_count++] = *hash;
    return 1;
}

/* In the transaction with the copies. */
static int forget_buried(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    const struct doomed *d = user;

    for (size_t i = 0; i < d->buried_count; i++) {
        MDB_val key = index_val(&d->buried[i], sizeof d->buried[i]);

        if (index_del(&v->index, txn, INDEX_CHUNK, key, e) < 0 || index_del(&v->index, txn, INDEX_BAD, key, e) < 0)
            return -1;
    }
    return 0;
}

/* Appends a living record again; its row moves with the next flush. 1: it lives elsewhere now, or is buried; 0: it can't be read. */
static int copy_record(struct gc *g, struct doomed *d, const struct placed *l, struct err *e)
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
        if ((why.kind == ERR_NONE || why.kind == ERR_CORRUPT || why.kind == ERR_NOT_FOUND) && is_here_alone(v, now.segment))
            chunk_mark_bad(v, &l->hash);
        return 0; /* one that can't be read must not keep the others' space: scrub tells of it */
    }
    if (seal_open_record(v->seal, now.segment, &r, bytes + RECORD_HEADER_SIZE, &why) < 0 || !pack_again(g, &r, &bytes, &span, &p)) {
        if (why.kind != ERR_DENIED)
            chunk_mark_bad(v, &l->hash);
        return 0;
    }
    found = is_buried(g, &r, bytes + RECORD_HEADER_SIZE, e);
    if (found)
        return found < 0 ? -1 : leave_buried(d, &l->hash);
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

/* Points' documents, or all that is none. 1: all of it was copied; 0: a record that can't be read keeps the segment. */
static int copy_kind(struct choosing *c, struct doomed *d, bool points, struct err *e)
{
    int whole = 1;

    for (size_t i = 0; whole >= 0 && i < d->living_count; i++) {
        const struct placed *l = &c->living.list[d->first + i];
        int copied = (l->place.kind == RECORD_POINT) == points ? copy_record(c->g, d, l, e) : 1;

        whole = copied < 0 ? -1 : whole && copied;
    }
    return whole;
}

/* As copy_kind. A point's document is not copied out of a segment that stays: its grave is kept for as long as one segment, and it would lie in two. */
static int copy_living(struct choosing *c, struct doomed *d, struct err *e)
{
    struct vault *v = c->g->v;
    int whole;

    v->making_room = true;
    whole = copy_kind(c, d, false, e);
    if (whole == 1)
        whole = copy_kind(c, d, true, e);
    v->making_room = false;
    return whole;
}

static int empty_segment(struct choosing *c, struct doomed *d, struct err *e)
{
    struct vault *v = c->g->v;
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, d->id), *maps = xasprintf("%s/%010u.maps", v->segment_dir, d->id);
    int copied = copy_living(c, d, e);

    if (copied < 0 || vault_flush(v, forget_buried, d, e) < 0)
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

/* With writers held: for one at a time. */
static int empty(struct choosing *c, struct doomed *d, struct err *e)
{
    int r;

    gc_hold(c->g);
    r = empty_segment(c, d, e);
    gc_let_go(c->g);
    return r;
}

static int empty_group(struct choosing *c, struct err *e)
{
    int r = collect_group(c, e);

    for (size_t i = c->from; r == 0 && i < c->to; i++)
        /* What is to be copied out of it is brought before anybody waits; one that can't be had now keeps its space. */
        if (c->list[i].row_count && bucket_hold(c->g->v, c->list[i].id, NULL) == 0)
            r = empty(c, &c->list[i], e);
    return r;
}

int gc_empty_segments(struct gc *g, struct err *e)
{
    CLEANUP(choosing_release) struct choosing c = {.g = g};
    int r = choose(&c, e);

    /* The dead first: what they give back is room for what must be copied. */
    for (size_t i = 0; r == 0 && i < c.count; i++)
        if (!c.list[i].row_count)
            r = empty(&c, &c.list[i], e);
    while (r == 0 && next_group(&c))
        r = empty_group(&c, e);
    (void)bucket_hold(g->v, 0, NULL);
    /* What is here was given back; that the rest was, too, must not be believed. */
    return r == 0 && c.left_away ? bucket_missing(g->v, e) : r;
}
