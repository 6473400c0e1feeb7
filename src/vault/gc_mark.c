/* gc: what is in use: marked from a snapshot of the index, with the barrier for what comes into use meanwhile. */
#include "base/bytes.h"
#include "vault/gc.h"

#include <stdlib.h>
#include <string.h>

#define USES_SLOT_BYTES 36 /* 24, and half as much again while it grows */

void gc_release(struct gc *g)
{
    hash_sieve_release(&g->marked);
    hash_seen_release(&g->nodes);
    hash_set_release(&g->documents);
    hash_set_release(&g->barrier);
    hash_bits_release(&g->uses);
    hash_sieve_release(&g->uses_beyond);
    free(g->live_bytes);
    free(g->live_count);
    free(g->staged);
}

static int mark(const struct vault_hash *hash, int level, uint64_t first_chunk, void *user, struct err *e)
{
    struct gc *g = user;

    (void)first_chunk;
    (void)e;
    hash_sieve_add(&g->marked, hash);
    return level >= 0 && hash_seen_add(&g->nodes, hash);
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
    hash_set_add(&g->documents, &record);
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
    hash_set_add(&g->documents, document);
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
    hash_set_add(&g->documents, &record);
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
            hash_sieve_add(&g->marked, &hash);
    }
    return 0;
}

struct graves {
    struct gc *g;
    MDB_txn *txn;
    uint32_t first_doomed; /* the first segment whose object is to be removed still; UINT32_MAX: none */
};

static int find_doomed(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct graves *s = user;
    struct segment_row row;
    uint32_t id;

    if (segment_row_read(key, value, &id, &row, e) < 0)
        return -1;
    if (row.flags & SEGMENT_DOOMED)
        s->first_doomed = id;
    return s->first_doomed != UINT32_MAX;
}

/* A grave is wanted for as long as the record that it covers may come back in a rebuild: from the segment that it lies in, or from one that it was copied out of and that
 * lies in the bucket still, which has a lower number. */
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
    if (found == 1 || s->first_doomed < id)
        hash_set_add(&s->g->documents, &hash);
    return found < 0 ? -1 : 0;
}

static void use_pages(struct gc *g, const struct vault_hash *hash, uint32_t pages)
{
    if (hash_bits_add(&g->uses, hash, pages, gc_share(g, GC_USES) / USES_SLOT_BYTES))
        return;
    if (!g->uses_beyond.blocks)
        hash_sieve_make(&g->uses_beyond, gc_share(g, GC_USES_BEYOND), g->record_count, g->salt);
    hash_sieve_add(&g->uses_beyond, hash);
}

static uint32_t used_pages(const struct gc *g, const struct vault_hash *hash)
{
    return g->uses_beyond.blocks && hash_sieve_has(&g->uses_beyond, hash) ? RECORD_ALL_PAGES : hash_bits_get(&g->uses, hash);
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
    if (!hash_sieve_has(&g->marked, &hash))
        return 0;
    if (pages_row_decode(value, &p, e) < 0)
        return -1;
    for (size_t i = 0; i < p.part_count; i++)
        use_pages(g, &p.parts[i].name, p.parts[i].mask);
    return 0;
}

int gc_mark(struct gc *g, MDB_txn *txn, struct err *e)
{
    struct graves s = {g, txn, UINT32_MAX};
    MDB_val all = index_val("", 0);
    const struct vault_index *x = &g->v->index;

    for (size_t i = 0; i < g->staged_count; i++)
        if (mark_trees(g, &g->staged[i], e) < 0)
            return -1;
    return index_each(x, txn, INDEX_POINT, all, mark_point, g, e) < 0 || index_each(x, txn, INDEX_GROUP, all, mark_group, g, e) < 0 ||
                   index_each(x, txn, INDEX_DISK, all, mark_disk, g, e) < 0 ||
                   index_each(x, txn, INDEX_WORK, all, mark_work, g, e) < 0 || index_each(x, txn, INDEX_SEGMENT, all, find_doomed, &s, e) < 0 ||
                   index_each(x, txn, INDEX_GRAVE, all, mark_grave, &s, e) < 0 ||
                   index_each(x, txn, INDEX_BASE, all, mark_parts, g, e) < 0
               ? -1 : 0;
}

void gc_set_barrier(struct gc *g, bool on)
{
    pthread_mutex_lock(&g->v->append_lock);
    g->v->barrier = on ? &g->barrier : NULL;
    pthread_mutex_unlock(&g->v->append_lock);
}

/* Another salt each time: what is kept by mistake once goes the next time. */
static int make_sets(struct gc *g, MDB_txn *txn, struct err *e)
{
    if (index_count(&g->v->index, txn, INDEX_CHUNK, &g->record_count, e) < 0)
        return -1;
    g->salt = g->v->gc_count++;
    hash_sieve_make(&g->marked, gc_share(g, GC_MARKED), g->record_count, g->salt);
    hash_seen_make(&g->nodes, gc_share(g, GC_NODES), g->record_count);
    return 0;
}

/* From the snapshot on, the barrier sees every new use; before it, everything pending is in the snapshot. */
int gc_snapshot(struct gc *g, MDB_txn **txn, struct err *e)
{
    struct vault *v = g->v;
    int r;

    gc_hold(g);
    r = vault_flush(v, NULL, NULL, e);
    if (r == 0)
        r = index_begin(&v->index, false, txn, e);
    if (r == 0)
        r = make_sets(g, *txn, e);
    if (r == 0)
        r = staged_each(v, mark_staged, g, e);
    if (r == 0) {
        gc_set_barrier(g, true);
        /* Only segments that are full by now: no row that comes later can name them. */
        g->segment_limit = v->current.fd >= 0 ? v->current.id : v->next_segment;
    }
    gc_let_go(g);
    return r;
}

/* ---- what is marked ---- */

uint32_t gc_taken(const struct gc *g, const struct vault_hash *hash)
{
    return hash_sieve_has(&g->marked, hash) || hash_set_has(&g->barrier, hash) ? 0 : used_pages(g, hash);
}

bool gc_wants(const struct gc *g, const struct vault_hash *hash, enum record_kind kind)
{
    bool marked = kind == RECORD_CHUNK || kind == RECORD_NODE ? hash_sieve_has(&g->marked, hash) || used_pages(g, hash) : hash_set_has(&g->documents, hash);

    return marked || hash_set_has(&g->barrier, hash);
}

int gc_living_bytes(const struct gc *g, MDB_txn *txn, const struct vault_hash *hash, const struct chunk_place *place, uint64_t *out, struct err *e)
{
    struct record_pages p = {.own = RECORD_ALL_PAGES};
    uint32_t mask = gc_taken(g, hash);
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
