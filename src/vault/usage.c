/* usage: what a vault holds and how much of it is in use, for people: one look at everything that is known. */
#include "vault/gc.h"

#include <string.h>
#include <sys/stat.h>

struct counting {
    struct gc *g;
    MDB_txn *txn;
    struct vault_usage *u;
    struct hash_sieve distinct;
};

static int count_row(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct counting *c = user;
    struct record_pages p = {.own = RECORD_ALL_PAGES};
    struct chunk_place place;
    struct vault_hash hash;
    uint64_t living;
    MDB_val row;
    int divided;

    if (!chunk_row(key, value, &hash, &place))
        return 0;
    if (gc_wants(c->g, &hash, place.kind)) {
        if (gc_living_bytes(c->g, c->txn, &hash, &place, &living, e) < 0)
            return -1;
        c->u->living_bytes += living;
    }
    if (place.kind != RECORD_CHUNK)
        return 0;
    divided = index_get(&c->g->v->index, c->txn, INDEX_BASE, key, &row, e);
    if (divided < 0 || (divided == 1 && pages_row_decode(row, &p, e) < 0))
        return -1;
    c->u->whole_count += divided == 0;
    c->u->divided_count += divided == 1;
    c->u->page_bytes += (uint64_t)__builtin_popcount(p.own) * VAULT_PAGE_BYTES;
    c->u->packed_bytes += RECORD_HEADER_SIZE + place.stored_size;
    return 0;
}

static int count_work(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct counting *c = user;

    (void)key;
    (void)e;
    for (size_t at = 0; at + VAULT_HASH_SIZE <= value.mv_size; at += VAULT_HASH_SIZE) {
        struct vault_hash hash;

        memcpy(&hash, (const uint8_t *)value.mv_data + at, sizeof hash);
        if (vault_hash_is_zero(&hash) || vault_hash_is_unknown(&hash))
            continue;
        c->u->mapped_count++;
        c->u->distinct_count += hash_sieve_add(&c->distinct, &hash);
    }
    return 0;
}

static int count_point(MDB_val key, MDB_val value, void *user, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    const struct vault_ladder *l = &vault_ladder_default;
    struct counting *c = user;
    uint64_t sequence;
    size_t rung = 0;

    (void)key;
    if (point_parse(value.mv_data, value.mv_size, p, &sequence, e) < 0)
        return -1;
    while (rung < l->rung_count && rung + 1 < VAULT_AGES && clock_read_us(c->g->v->options.clock) - p->at_us > l->rungs[rung].span_us)
        rung++;
    c->u->points[rung]++;
    return 0;
}

static int count_all(struct counting *c, struct err *e)
{
    const struct vault_index *x = &c->g->v->index;
    MDB_val all = index_val("", 0);

    return gc_mark(c->g, c->txn, e) < 0 || index_each(x, c->txn, INDEX_CHUNK, all, count_row, c, e) < 0 ||
           index_each(x, c->txn, INDEX_WORK, all, count_work, c, e) < 0 || index_each(x, c->txn, INDEX_POINT, all, count_point, c, e) < 0 ? -1 : 0;
}

int vault_usage(struct vault *v, struct vault_usage *out, struct err *e)
{
    CLEANUP(gc_release) struct gc g = {.v = v};
    CLEANUP(free_ptr) char *path = xasprintf("%s/data.mdb", v->index_dir);
    struct vault_usage u = {0};
    struct counting c = {.g = &g, .u = &u};
    struct stat st;
    int r;

    pthread_mutex_lock(&v->gc_run_lock);
    r = gc_snapshot(&g, &c.txn, e);
    gc_set_barrier(&g, false); /* nothing is taken away: what comes meanwhile does not matter */
    if (r == 0) {
        hash_sieve_make(&c.distinct, gc_share(&g, GC_LIVING), g.record_count, g.salt);
        r = count_all(&c, e);
    }
    index_abort(&c.txn);
    pthread_mutex_unlock(&v->gc_run_lock);
    hash_sieve_release(&c.distinct);
    if (r < 0)
        return err_wrap(e, "counting what the vault holds");
    u.index_bytes = stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
    *out = u;
    return 0;
}

json_t *vault_usage_json(const struct vault_usage *u)
{
    json_t *ages = json_array(), *j = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "chunks_whole", (json_int_t)u->whole_count, "chunks_divided",
                                                (json_int_t)u->divided_count, "page_bytes", (json_int_t)u->page_bytes, "packed_bytes", (json_int_t)u->packed_bytes,
                                                "living_bytes", (json_int_t)u->living_bytes, "mapped_chunks", (json_int_t)u->mapped_count, "distinct_chunks",
                                                (json_int_t)u->distinct_count, "index_bytes", (json_int_t)u->index_bytes);

    for (size_t i = 0; i < VAULT_AGES; i++)
        json_array_append_new(ages, json_integer((json_int_t)u->points[i]));
    json_object_set_new(j, "points_by_age", ages);
    return j;
}
