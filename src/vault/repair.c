/* repair: what is known to be damaged leaves the working maps. A chunk's place becomes unknown, so that its source is asked for it; a node of
 * the newest tree is made again from the working map, which has all that it held. What comes again has the same name, so older points that use
 * it are whole again, too.
 *
 * All maps are looked through for it, of many TiB for minutes: in a view of the index, beside everybody. Whatever is mapped after damage is known is no
 * such chunk, and no node that is made anew is such a one; so what this finds is all there is, and only that is looked at again, and changed, while
 * others wait. */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

/* A disk whose tree has a damaged node, in the view. */
struct suspect {
    struct vault_disk disk;
    struct vault_hash root;
};

struct repair {
    struct vault *v;
    MDB_txn *txn;
    struct pending_set *sets; /* places to forget */
    size_t count;
    struct vault_disk *disks; /* to be looked at */
    size_t disk_count;
    struct suspect *suspects;
    size_t suspect_count;
    struct buf servers;
    uint64_t repaired;
    bool node; /* the tree that is being looked at has a damaged one */
};

/* Known to be, and not come again since. */
static bool is_bad(struct vault *v, const struct vault_hash *hash) { return hash_set_has(&v->bad, hash) && !pending_find(&v->pending, hash); }

/* Its record, or one that it takes pages of. */
static int is_damaged(struct vault *v, const struct vault_hash *hash, struct err *e)
{
    struct record_pages p;
    bool damaged;
    int divided;

    pthread_mutex_lock(&v->append_lock);
    damaged = is_bad(v, hash);
    divided = damaged ? 0 : pages_find(v, hash, &p, e);
    for (size_t i = 0; divided == 1 && !damaged && i < p.part_count; i++)
        damaged = is_bad(v, &p.parts[i].name);
    pthread_mutex_unlock(&v->append_lock);
    return divided < 0 ? -1 : damaged;
}

static int collect_damaged(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct repair *r = user;

    for (size_t i = 0; (i + 1) * VAULT_HASH_SIZE <= value.mv_size; i++) {
        struct vault_hash hash;
        int damaged;

        memcpy(&hash, (const uint8_t *)value.mv_data + i * VAULT_HASH_SIZE, sizeof hash);
        damaged = vault_hash_is_zero(&hash) || vault_hash_is_unknown(&hash) ? 0 : is_damaged(r->v, &hash, e);
        if (damaged < 0)
            return -1;
        if (!damaged)
            continue;
        r->sets = xrealloc(r->sets, (r->count + 1) * sizeof *r->sets);
        r->sets[r->count++] = (struct pending_set){work_key_disk(key), work_key_leaf(key) * TREE_FANOUT + i, 1, vault_hash_unknown};
    }
    return 0;
}

static int look_at_node(const struct vault_hash *hash, int level, uint64_t first_chunk, void *user, struct err *e)
{
    struct repair *r = user;

    (void)first_chunk;
    (void)e;
    if (level < 0 || r->node)
        return 0;
    pthread_mutex_lock(&r->v->append_lock);
    r->node = is_bad(r->v, hash);
    pthread_mutex_unlock(&r->v->append_lock);
    return !r->node;
}

static int unreadable_node(const struct vault_hash *hash, int level, uint64_t first_chunk, const struct err *why, void *user)
{
    (void)hash;
    (void)level;
    (void)first_chunk;
    ((struct repair *)user)->node = why->kind == ERR_CORRUPT;
    return 0;
}

/* *root: of the tree of the disk's newest point. 1/0/-1 */
static int root_of(const struct repair *r, const struct vault_disk *d, struct vault_hash *root, struct err *e)
{
    char bytes[DISK_KEY_SIZE];
    struct disk_row row;
    MDB_val value;
    int found = index_get(&r->v->index, r->txn, INDEX_DISK, disk_key(d->server, d->id, bytes), &value, e);

    if (found != 1 || value.mv_size != sizeof row)
        return found < 0 ? -1 : 0;
    memcpy(&row, value.mv_data, sizeof row);
    *root = row.root;
    return row.number == d->number && row.size_bytes == d->size_bytes;
}

/* perhaps: the tree may be given back meanwhile. 1/0/-1 */
static int tree_is_damaged(struct repair *r, const struct vault_disk *d, const struct vault_hash *root, bool perhaps, struct err *e)
{
    struct walk w = {.v = r->v, .visit = look_at_node, .visit_bad = unreadable_node, .user = r, .perhaps = perhaps};

    r->node = false;
    return walk_tree(&w, root, d->chunk_count, e) < 0 ? -1 : r->node;
}

/* ---- beside everybody ---- */

static int look_at_tree(struct repair *r, const struct vault_disk *d, struct err *e)
{
    struct suspect s = {.disk = *d};
    int found = root_of(r, d, &s.root, e);

    if (found == 1)
        found = tree_is_damaged(r, d, &s.root, true, e);
    if (found != 1)
        return found;
    r->suspects = xrealloc(r->suspects, (r->suspect_count + 1) * sizeof s);
    r->suspects[r->suspect_count++] = s;
    return 0;
}

static int look_through(struct repair *r, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    if (index_begin(&r->v->index, false, &txn, e) < 0 || index_each(&r->v->index, txn, INDEX_WORK, index_val("", 0), collect_damaged, r, e) < 0)
        return -1;
    r->txn = txn;
    for (size_t i = 0; i < r->disk_count; i++)
        if (look_at_tree(r, &r->disks[i], e) < 0)
            return -1;
    return 0;
}

/* ---- while others wait ---- */

/* Of the places those stay that hold something damaged still. */
static int look_again(struct repair *r, struct err *e)
{
    size_t count = 0;

    for (size_t i = 0; i < r->count; i++) {
        struct pending_set *s = &r->sets[i];
        const struct vault_hash *now;
        struct tree_node leaf;
        int damaged;

        if (work_leaf_read(r->v, r->txn, s->disk, s->first / TREE_FANOUT, &leaf, e) < 0)
            return -1;
        now = &leaf.child[s->first % TREE_FANOUT];
        damaged = vault_hash_is_zero(now) || vault_hash_is_unknown(now) ? 0 : is_damaged(r->v, now, e);
        if (damaged < 0)
            return -1;
        if (damaged)
            r->sets[count++] = *s;
    }
    r->count = count;
    return 0;
}

static int repair_tree(struct repair *r, const struct suspect *s, struct err *e)
{
    struct vault_hash root;
    int damaged = root_of(r, &s->disk, &root, e);

    if (damaged == 1 && !vault_hash_same(&root, &s->root)) /* a point came meanwhile */
        damaged = tree_is_damaged(r, &s->disk, &root, false, e);
    if (damaged != 1)
        return damaged;
    r->repaired++;
    buf_printf(&r->servers, "%s\n", s->disk.server);
    return disk_map_anew(r->v, r->txn, s->disk.server, s->disk.id, e);
}

static int repair_rows(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    struct repair *r = user;
    const char *last = "";

    r->txn = txn;
    if (look_again(r, e) < 0 || work_apply(v, txn, r->sets, r->count, e) < 0)
        return -1;
    for (size_t i = 0; i < r->count; i++) {
        const struct vault_disk *d = disk_by_number(v, r->sets[i].disk);

        if (!d || strcmp(d->server, last) == 0)
            continue;
        buf_printf(&r->servers, "%s\n", d->server);
        last = d->server;
    }
    for (size_t i = 0; i < r->suspect_count; i++)
        if (repair_tree(r, &r->suspects[i], e) < 0)
            return -1;
    return 0;
}

/* ---- the whole ---- */

/* All that was mapped before the damage was known is in the index after. 1; 0: none was found since the last time; -1 */
static int begin_repair(struct repair *r, uint64_t *found, struct err *e)
{
    struct vault *v = r->v;
    int result;

    pthread_mutex_lock(&v->commit_lock);
    pthread_mutex_lock(&v->append_lock);
    *found = v->bad_found;
    pthread_mutex_unlock(&v->append_lock);
    result = *found == v->bad_forgotten ? 0 : vault_flush(v, NULL, NULL, e) < 0 ? -1 : 1;
    if (result == 1) {
        r->disk_count = v->disk_count;
        r->disks = xcalloc(v->disk_count, sizeof *r->disks);
        if (v->disk_count)
            memcpy(r->disks, v->disks, v->disk_count * sizeof *r->disks);
    }
    pthread_mutex_unlock(&v->commit_lock);
    return result;
}

static int end_repair(struct repair *r, uint64_t found, struct err *e)
{
    struct vault *v = r->v;
    int result = 0;

    pthread_mutex_lock(&v->commit_lock);
    if (r->count || r->suspect_count)
        result = vault_flush(v, repair_rows, r, e) < 0 || disks_load(v, e) < 0 ? -1 : 0;
    if (result == 0)
        v->bad_forgotten = found;
    pthread_mutex_unlock(&v->commit_lock);
    return result;
}

static int repair(struct repair *r, struct err *e)
{
    uint64_t found;
    int result = begin_repair(r, &found, e);

    return result != 1 ? result : look_through(r, e) < 0 ? -1 : end_repair(r, found, e);
}

int vault_forget_damaged(struct vault *v, char **servers, struct err *e)
{
    struct repair r = {.v = v};
    int result;

    if (edges_mend(v, e) < 0)
        return -1;
    buf_init(&r.servers, 1 << 20);
    result = repair(&r, e);
    if (result == 0 && servers)
        *servers = buf_take(&r.servers);
    buf_release(&r.servers);
    free(r.sets);
    free(r.disks);
    free(r.suspects);
    return result < 0 ? -1 : (int)(r.count + r.repaired);
}
