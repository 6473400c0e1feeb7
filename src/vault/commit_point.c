/* commit_point: working maps become trees, and trees a point. Only what is below a changed row is built anew. Points that wait for the index's one writer become
 * known together: a commit costs a disk three flushes, however many points are in it. */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EARLY_LEAST 1024 /* changed leaves; fewer are stored in the commit */
#define EARLY_TURN 64    /* leaves for which a collection waits */

struct builder {
    struct vault *v;
    MDB_txn *txn;       /* of the flush; read from only */
    MDB_cursor *dirty;
    bool dirty_left;    /* the cursor stands on a row of this disk */
    uint64_t dirty_leaf;
    const struct vault_disk *disk;
    uint64_t changed_bytes;
};

static int dirty_move(struct builder *b, MDB_cursor_op op, MDB_val key, struct err *e)
{
    MDB_val value;
    int code = mdb_cursor_get(b->dirty, &key, &value, op);

    if (code && code != MDB_NOTFOUND)
        return index_fail(e, code, "read");
    b->dirty_left = code == 0 && work_key_disk(key) == b->disk->number;
    b->dirty_leaf = b->dirty_left ? work_key_leaf(key) : 0;
    return 0;
}

static int load_node(struct builder *b, const struct vault_hash *hash, struct tree_node *n, struct err *e)
{
    if (vault_hash_is_zero(hash)) {
        memset(n, 0, sizeof *n);
        return 0;
    }
    return record_get_here(b->v, hash, n, sizeof *n, e) < 0 ? -1 : tree_node_parse(n, sizeof *n, n, e);
}

static int store_node(struct builder *b, const struct tree_node *n, struct vault_hash *out, struct err *e)
{
    if (tree_node_is_zero(n)) {
        *out = vault_hash_zero;
        return 0;
    }
    vault_hash_of(n, sizeof *n, out);
    seal_name(b->v->seal, out);
    return record_add(b->v, RECORD_NODE, n, sizeof *n, out, NULL, e);
}

static int build_leaf(struct builder *b, uint64_t leaf, const struct vault_hash *old, struct vault_hash *out, struct err *e)
{
    struct tree_node before, now;

    if (load_node(b, old, &before, e) < 0 || work_leaf_read(b->v, b->txn, b->disk->number, leaf, &now, e) < 0)
        return -1;
    for (unsigned i = 0; i < TREE_FANOUT; i++) {
        uint64_t at = leaf * TREE_FANOUT + i;

        if (at >= b->disk->chunk_count)
            now.child[i] = vault_hash_zero;
        else if (vault_hash_is_unknown(&now.child[i]))
            return err_set(e, ERR_WRONG_STATE, "chunk %llu of disk %s was never received", (unsigned long long)at, b->disk->id);
        else if (!vault_hash_same(&now.child[i], &before.child[i]))
            b->changed_bytes += chunk_size_at(b->disk->size_bytes, at);
    }
    if (dirty_move(b, MDB_NEXT, index_val("", 0), e) < 0)
        return -1;
    return store_node(b, &now, out, e);
}

/* The node of `level` that starts at leaf first_leaf, anew where a row below it is dirty. */
static int build(struct builder *b, unsigned level, uint64_t first_leaf, const struct vault_hash *old, struct vault_hash *out,
                 struct err *e)
{
    uint64_t leaves_below_child = level ? tree_span(level - 1) : 0;
    struct tree_node n;

    if (!b->dirty_left || b->dirty_leaf >= first_leaf + tree_span(level)) {
        *out = *old;
        return 0;
    }
    if (level == 0)
        return build_leaf(b, first_leaf, old, out, e);
    if (load_node(b, old, &n, e) < 0)
        return -1;
    for (unsigned i = 0; i < TREE_FANOUT && b->dirty_left; i++)
        if (build(b, level - 1, first_leaf + i * leaves_below_child, &n.child[i], &n.child[i], e) < 0)
            return -1;
    return store_node(b, &n, out, e);
}

static int build_disk(struct builder *b, struct vault_point_disk *out, struct err *e)
{
    struct work_key key = work_key_make(b->disk->number, 0);
    char bytes[DISK_KEY_SIZE];
    struct vault_hash old;
    struct disk_row row;
    MDB_val value;

    if (index_get(&b->v->index, b->txn, INDEX_DISK, disk_key(b->disk->server, b->disk->id, bytes), &value, e) != 1 ||
        value.mv_size != sizeof row)
        return err_set(e, ERR_CORRUPT, "the vault's index lost disk %s", b->disk->id);
    memcpy(&row, value.mv_data, sizeof row);
    if (row.known_count != b->disk->chunk_count)
        return err_set(e, ERR_WRONG_STATE, "disk %s: %llu of %llu chunks were never received: the initial sync is not complete", b->disk->id,
                       (unsigned long long)(b->disk->chunk_count - row.known_count), (unsigned long long)b->disk->chunk_count);
    old = row.root;
    b->changed_bytes = 0;
    if (dirty_move(b, MDB_SET_RANGE, index_val(&key, sizeof key), e) < 0 ||
        build(b, row.depth - 1, 0, &old, &out->root, e) < 0)
        return err_wrap(e, "disk %s", b->disk->id);
    snprintf(out->id, sizeof out->id, "%s", b->disk->id);
    out->size_bytes = b->disk->size_bytes;
    out->changed_bytes = b->changed_bytes;
    return 0;
}

static int build_disks(struct vault *v, MDB_txn *txn, struct vault_point *p, struct err *e)
{
    CLEANUP(index_cursor_close) MDB_cursor *cursor = NULL;
    struct builder b = {.v = v};
    int code = mdb_cursor_open(txn, v->index.table[INDEX_DIRTY], &cursor);

    if (code)
        return index_fail(e, code, "read");
    b.txn = txn;
    b.dirty = cursor;
    for (size_t i = 0; i < v->disk_count; i++) {
        if (strcmp(v->disks[i].server, p->server) != 0)
            continue;
        if (p->disk_count == LIMIT_DISKS_PER_SERVER)
            return err_set(e, ERR_LIMIT, "server %s has more than %d disks", p->server, LIMIT_DISKS_PER_SERVER);
        b.disk = &v->disks[i];
        if (build_disk(&b, &p->disks[p->disk_count++], e) < 0)
            return -1;
        p->bytes += p->disks[p->disk_count - 1].changed_bytes;
    }
    return p->disk_count ? 0 : err_set(e, ERR_WRONG_STATE, "server %s has no disk in this vault", p->server);
}

void point_name(struct vault *v, struct vault_point *p, uint64_t sequence)
{
    time_t seconds = (time_t)(p->at_us / US_PER_S);
    char moment[24];
    struct tm t;

    gmtime_r(&seconds, &t);
    MUST(strftime(moment, sizeof moment, "%Y%m%dT%H%M%S", &t) > 0);
    snprintf(p->id, sizeof p->id, "%s%03uZ-%llu-%02x%02x", moment, (unsigned)(p->at_us / US_PER_MS % 1000) % 1000u,
             (unsigned long long)sequence, v->id[0], v->id[1]);
}

/* The maps' trees are those of the point from now on. */
static int root_rows(struct vault *v, MDB_txn *txn, const struct committing *c, struct err *e)
{
    for (size_t i = 0; i < c->point->disk_count; i++) {
        char bytes[DISK_KEY_SIZE];
        MDB_val key = disk_key(c->point->server, c->point->disks[i].id, bytes), value;
        struct disk_row row;
        struct work_key dirty;

        if (index_get(&v->index, txn, INDEX_DISK, key, &value, e) != 1 || value.mv_size != sizeof row)
            return err_set(e, ERR_CORRUPT, "the vault's index lost disk %s", c->point->disks[i].id);
        memcpy(&row, value.mv_data, sizeof row);
        row.root = c->point->disks[i].root;
        dirty = work_key_make(row.number, 0);
        if (index_put(&v->index, txn, INDEX_DISK, key, index_val(&row, sizeof row), e) < 0 ||
            index_del_prefix(&v->index, txn, INDEX_DIRTY, index_val(&dirty, 4), e) < 0)
            return -1;
    }
    return 0;
}

static int point_rows(struct vault *v, MDB_txn *txn, const struct committing *c, struct err *e)
{
    return root_rows(v, txn, c, e) < 0 || point_insert(v, txn, c->point, c->sequence, c->text, e) < 0 ? -1
           : c->group ? group_insert(v, txn, c->group, c->group_text, e) : 0;
}

/* The group's document comes with each of its points that is copied here: it is stored once. */
static int add_group(struct vault *v, struct committing *c, struct err *e)
{
    struct vault_hash hash;

    if (!c->group)
        return 0;
    c->group_text = group_text(c->group);
    hash = point_record_hash(c->group_text);
    return record_add(v, RECORD_GROUP, c->group_text, strlen(c->group_text), &hash, NULL, e);
}

/* Trees, then the point's document. */
static int build_point(struct vault *v, MDB_txn *txn, struct committing *c, struct err *e)
{
    struct vault_hash hash;

    if (build_disks(v, txn, c->point, e) < 0)
        return -1;
    c->sequence = v->next_point++; /* one that comes to nothing leaves a gap, no more */
    if (!c->point->copied)
        point_name(v, c->point, c->sequence);
    c->text = point_text(c->point, c->sequence);
    if (strlen(c->text) > RECORD_RAW_LIMIT)
        return err_set(e, ERR_LIMIT, "the point's document has %zu bytes", strlen(c->text));
    hash = point_record_hash(c->text);
    return record_add(v, RECORD_POINT, c->text, strlen(c->text), &hash, NULL, e) < 0 ? -1 : add_group(v, c, e);
}

/* ---- those that wait, together ---- */

static bool is_staged(const struct committing *c) { return c->point->group[0] && !c->point->copied; }

/* What is wrong with one holds up none of the others. */
static int build_points(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    int result = -1;

    for (struct committing *c = user; c; c = c->next) {
        c->result = build_point(v, txn, c, &c->why);
        result = c->result == 0 ? 0 : result;
    }
    return result < 0 ? err_set(e, ((struct committing *)user)->why.kind, "no point could be built") : 0;
}

static int points_rows(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    for (const struct committing *c = user; c; c = c->next)
        if (c->result == 0 && (is_staged(c) ? root_rows(v, txn, c, e) : point_rows(v, txn, c, e)) < 0)
            return -1;
    return 0;
}

static bool has_server(const struct committing *c, const char *server)
{
    while (c && strcmp(c->point->server, server) != 0)
        c = c->next;
    return c;
}

/* All that wait, in their order; of a server one at a time, for the next one is built on it. */
static struct committing *take_waiting(struct vault *v)
{
    struct committing *taken = NULL, **end = &taken, **at = &v->committing;

    pthread_mutex_lock(&v->append_lock);
    while (*at) {
        struct committing *c = *at;

        if (has_server(taken, c->point->server)) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        c->next = NULL;
        *end = c;
        end = &c->next;
    }
    pthread_mutex_unlock(&v->append_lock);
    return taken;
}

int commit_waiting(struct vault *v)
{
    struct committing *taken = take_waiting(v);
    struct err e = {0};
    int r = taken ? vault_flush_built(v, build_points, points_rows, taken, &e) : -1;

    for (struct committing *c = taken; c; c = c->next) {
        if (c->result == 0 && r < 0) {
            c->why = e;
            c->result = -1;
        }
        if (c->result == 0 && is_staged(c))
            staged_keep(v, c->point, c->sequence, c->text);
        c->done = true;
    }
    return r;
}

static void wait_behind_others(struct vault *v, struct committing *c)
{
    struct committing **at = &v->committing;

    pthread_mutex_lock(&v->append_lock);
    while (*at)
        at = &(*at)->next;
    *at = c;
    pthread_mutex_unlock(&v->append_lock);
}

/* ---- beside everybody ---- */

/* Leaves that differ from the newest point's tree, of all disks of a server. */
struct dirty_leaf {
    uint32_t disk;
    uint64_t leaf, chunk_count; /* of the disk */
};

struct early {
    struct vault *v;
    MDB_txn *txn;
    uint64_t chunk_count;
    struct dirty_leaf *list;
    size_t count;
    bool unfinished; /* something was never received, as far as the index knows */
};

static int add_dirty(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct early *l = user;

    (void)value;
    (void)e;
    if ((l->count & (l->count + 1)) == 0)
        l->list = xrealloc(l->list, 2 * (l->count + 1) * sizeof *l->list);
    l->list[l->count++] = (struct dirty_leaf){work_key_disk(key), work_key_leaf(key), l->chunk_count};
    return 0;
}

static int add_disk(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct early *l = user;
    struct work_key dirty;
    struct disk_row row;

    (void)key;
    if (value.mv_size != sizeof row)
        return err_set(e, ERR_CORRUPT, "the vault's index has a disk row of %zu bytes", value.mv_size);
    memcpy(&row, value.mv_data, sizeof row);
    l->chunk_count = chunks_of(row.size_bytes);
    l->unfinished = l->unfinished || row.known_count != l->chunk_count;
    dirty = work_key_make(row.number, 0);
    return index_each(&l->v->index, l->txn, INDEX_DIRTY, index_val(&dirty, 4), add_dirty, l, e);
}

static int find_dirty(struct early *l, const char *server)
{
    int r = index_begin(&l->v->index, false, &l->txn, NULL);

    l->count = 0;
    l->unfinished = false;
    if (r == 0)
        r = index_each(&l->v->index, l->txn, INDEX_DISK, index_val(server, strlen(server) + 1), add_disk, l, NULL);
    index_abort(&l->txn);
    return r;
}

/* As its point will have it. One of which something was never received is left to whoever says so. */
static int store_leaf(struct vault *v, const struct dirty_leaf *l, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct builder b = {.v = v};
    struct tree_node now;
    struct vault_hash hash;

    if (index_begin(&v->index, false, &txn, e) < 0 || work_leaf_read(v, txn, l->disk, l->leaf, &now, e) < 0)
        return -1;
    index_abort(&txn);
    for (unsigned i = 0; i < TREE_FANOUT; i++) {
        if (l->leaf * TREE_FANOUT + i >= l->chunk_count)
            now.child[i] = vault_hash_zero;
        if (vault_hash_is_unknown(&now.child[i]))
            return 0;
    }
    return store_node(&b, &now, &hash, e);
}

/* Where many leaves have changed (before a disk's first point all: of 10 TiB 2.6 million), most of the work of a commit is to pack and store them, and
 * all servers would wait for it. So that is done before: what is there when the tree is built is not stored again. Nobody is told of a failure here: the
 * commit itself meets what is wrong. */
static void leaves_early(struct vault *v, const char *server)
{
    struct early l = {.v = v};
    int r = find_dirty(&l, server);

    if (r == 0 && l.count >= EARLY_LEAST && l.unfinished) /* the rest may be pending */
        r = vault_sync(v, NULL) < 0 ? -1 : find_dirty(&l, server);
    for (size_t i = 0; r == 0 && l.count >= EARLY_LEAST && !l.unfinished && i < l.count;) {
        use_begin(v);
        for (size_t turn = 0; r == 0 && turn < EARLY_TURN && i < l.count; turn++, i++)
            r = store_leaf(v, &l.list[i], NULL);
        use_end(v);
        if (r == 0)
            r = sync_when_much(v, NULL);
    }
    free(l.list);
}

/* group: a copied point's; NULL, or without an id: none. */
static int commit_one(struct vault *v, struct vault_point *p, const struct vault_group *group, struct err *e)
{
    struct committing c = {.point = p, .group = group && group->id[0] ? group : NULL};

    leaves_early(v, p->server);
    use_begin(v);
    wait_behind_others(v, &c);
    pthread_mutex_lock(&v->commit_lock);
    while (!c.done) /* whoever had the lock before may have taken it along */
        (void)commit_waiting(v);
    pthread_mutex_unlock(&v->commit_lock);
    use_end(v);
    free(c.text);
    free(c.group_text);
    if (c.result < 0)
        return err_set(e, c.why.kind, "committing a recovery point of %s: %s", p->server, c.why.message);
    return 0;
}

static int commit(struct vault *v, const char *group, const char *server, int64_t at_us, const char *consistency, int64_t freeze_ms,
                  const struct vault_unreadable *unreadable, struct vault_point *out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

    if (vault_name_check("server", server, e) < 0)
        return -1;
    if (strlen(consistency) >= sizeof p->consistency)
        return err_set(e, ERR_INVALID, "a point's consistency is a word of at most 15 characters");
    snprintf(p->server, sizeof p->server, "%s", server);
    snprintf(p->consistency, sizeof p->consistency, "%s", consistency);
    snprintf(p->group, sizeof p->group, "%s", group);
    p->at_us = at_us ? at_us : clock_read_us(v->options.clock);
    p->freeze_ms = freeze_ms;
    if (unreadable)
        p->unreadable = *unreadable;
    if (commit_one(v, p, NULL, e) < 0)
        return -1;
    if (out)
        *out = *p;
    return 0;
}

int vault_point_commit(struct vault *v, const char *server, int64_t at_us, const char *consistency, int64_t freeze_ms,
                       struct vault_point *out, struct err *e)
{
    return commit(v, "", server, at_us, consistency, freeze_ms, NULL, out, e);
}

int vault_point_commit_marked(struct vault *v, const char *server, int64_t at_us, const char *consistency, int64_t freeze_ms,
                              const struct vault_unreadable *unreadable, struct vault_point *out, struct err *e)
{
    return commit(v, "", server, at_us, consistency, freeze_ms, unreadable, out, e);
}

int vault_point_stage(struct vault *v, const struct vault_group *g, const char *server, const char *consistency, int64_t freeze_ms,
                      const struct vault_unreadable *unreadable, struct vault_point *out, struct err *e)
{
    return commit(v, g->id, server, g->at_us, consistency, freeze_ms, unreadable, out, e);
}

/* ---- copies of another vault's points ---- */

static int check_copied(struct vault *v, const struct vault_copied *c, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *there = xcalloc(1, sizeof *there);
    CLEANUP(free_ptr) struct vault_point *newest = NULL;
    int found = vault_name_check("server", c->server, e) < 0 ? -1 : vault_point_get(v, c->id, there, e), count;

    if (found)
        return found < 0 ? -1 : err_set(e, ERR_CONFLICT, "a recovery point %s is here already", c->id);
    if (!c->id[0] || c->at_us <= 0)
        return err_set(e, ERR_INVALID, "a copied point without an id or a moment");
    count = vault_point_list(v, c->server, 1, &newest, e);
    if (count > 0 && newest->at_us > c->at_us && strcmp(newest->id, c->base) != 0)
        return err_set(e, ERR_CONFLICT, "a later point of %s is here (%s): %s is not copied over it", c->server, newest->id, c->id);
    return count < 0 ? -1 : 0;
}

int vault_point_commit_copied(struct vault *v, const struct vault_copied *c, struct vault_point *out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

    if (check_copied(v, c, e) < 0)
        return -1;
    memcpy(p->id, c->id, sizeof p->id);
    memcpy(p->server, c->server, sizeof p->server);
    memcpy(p->consistency, c->consistency, sizeof p->consistency);
    memcpy(p->group, c->group.id, sizeof p->group);
    p->at_us = c->at_us;
    p->freeze_ms = c->freeze_ms;
    p->unreadable = c->unreadable;
    p->copied = true;
    if (commit_one(v, p, &c->group, e) < 0)
        return -1;
    if (out)
        *out = *p;
    return 0;
}

static int found_dirty(MDB_val key, MDB_val value, void *user, struct err *e)
{
    (void)key;
    (void)value;
    (void)e;
    *(bool *)user = true;
    return 1;
}

/* commit_lock held, and nothing pending. 1/0/-1 */
static int disk_is(struct vault *v, MDB_txn *txn, const struct vault_disk *d, const struct vault_point *p, struct err *e)
{
    struct work_key dirty = work_key_make(d->number, 0);
    char bytes[DISK_KEY_SIZE];
    struct disk_row row;
    MDB_val value;
    bool changed = false;
    size_t i = 0;

    while (i < p->disk_count && strcmp(p->disks[i].id, d->id) != 0)
        i++;
    if (i == p->disk_count || p->disks[i].size_bytes != d->size_bytes)
        return 0;
    if (index_get(&v->index, txn, INDEX_DISK, disk_key(d->server, d->id, bytes), &value, e) != 1 || value.mv_size != sizeof row)
        return err_set(e, ERR_CORRUPT, "the vault's index lost disk %s", d->id);
    memcpy(&row, value.mv_data, sizeof row);
    if (!vault_hash_same(&row.root, &p->disks[i].root) || row.known_count != d->chunk_count)
        return 0;
    return index_each(&v->index, txn, INDEX_DIRTY, index_val(&dirty, 4), found_dirty, &changed, e) < 0 ? -1 : !changed;
}

static int map_is(struct vault *v, const char *server, const struct vault_point *p, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    size_t count = 0;

    if (vault_flush(v, NULL, NULL, e) < 0 || index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    for (size_t i = 0; i < v->disk_count; i++) {
        int is = strcmp(v->disks[i].server, server) == 0 ? disk_is(v, txn, &v->disks[i], p, e) : 2;

        if (is <= 0)
            return is;
        count += is == 1;
    }
    return count == p->disk_count;
}

int vault_map_is(struct vault *v, const char *server, const char *point, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    int is = vault_point_get(v, point, p, e);

    if (is != 1 || strcmp(p->server, server) != 0)
        return is < 0 ? -1 : 0;
    pthread_mutex_lock(&v->commit_lock);
    is = map_is(v, server, p, e);
    pthread_mutex_unlock(&v->commit_lock);
    return is;
}
