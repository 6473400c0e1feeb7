/* repair: what is known to be damaged leaves the working maps. A chunk's place becomes unknown, so that its source is asked for it; a node of
 * the newest tree is made again from the working map, which has all that it held. What comes again has the same name, so older points that use
 * it are whole again, too. */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

struct repair {
    struct vault *v;
    MDB_txn *txn;
    struct pending_set *sets; /* places to forget */
    size_t count;
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

/* The tree of the disk's newest point. */
static int repair_tree(struct repair *r, const struct vault_disk *d, struct err *e)
{
    struct walk w = {.v = r->v, .visit = look_at_node, .visit_bad = unreadable_node, .user = r};
    char bytes[DISK_KEY_SIZE];
    struct disk_row row;
    MDB_val value;
    int found = index_get(&r->v->index, r->txn, INDEX_DISK, disk_key(d->server, d->id, bytes), &value, e);

    if (found != 1 || value.mv_size != sizeof row)
        return found < 0 ? -1 : 0;
    memcpy(&row, value.mv_data, sizeof row);
    r->node = false;
    if (walk_tree(&w, &row.root, chunks_of(row.size_bytes), e) < 0)
        return -1;
    if (!r->node)
        return 0;
    r->repaired++;
    buf_printf(&r->servers, "%s\n", d->server);
    return disk_map_anew(r->v, r->txn, d->server, d->id, e);
}

static int repair_rows(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    struct repair *r = user;
    const char *last = "";

    r->txn = txn;
    if (index_each(&v->index, txn, INDEX_WORK, index_val("", 0), collect_damaged, r, e) < 0 || work_apply(v, txn, r->sets, r->count, e) < 0)
        return -1;
    for (size_t i = 0; i < r->count; i++) {
        const struct vault_disk *d = disk_by_number(v, r->sets[i].disk);

        if (!d || strcmp(d->server, last) == 0)
            continue;
        buf_printf(&r->servers, "%s\n", d->server);
        last = d->server;
    }
    for (size_t i = 0; i < v->disk_count; i++)
        if (repair_tree(r, &v->disks[i], e) < 0)
            return -1;
    return 0;
}

int vault_forget_damaged(struct vault *v, char **servers, struct err *e)
{
    struct repair r = {.v = v};
    uint64_t found;
    int result = 0;

    if (edges_mend(v, e) < 0)
        return -1;
    buf_init(&r.servers, 1 << 20);
    pthread_mutex_lock(&v->commit_lock);
    pthread_mutex_lock(&v->append_lock);
    found = v->bad_found;
    pthread_mutex_unlock(&v->append_lock);
    if (found != v->bad_forgotten && (result = vault_flush(v, repair_rows, &r, e)) == 0 && (result = disks_load(v, e)) == 0)
        v->bad_forgotten = found;
    pthread_mutex_unlock(&v->commit_lock);
    if (result == 0 && servers)
        *servers = buf_take(&r.servers);
    buf_release(&r.servers);
    free(r.sets);
    return result < 0 ? -1 : (int)(r.count + r.repaired);
}
