/* disk: the disks of the servers and their working maps. A map is rows of 64 names; a row that is absent is wholly unknown, an empty
 * one wholly zero (only where all 64 lie inside the disk). */
#include "base/bytes.h"
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

int vault_name_check(const char *what, const char *name, struct err *e)
{
    size_t size = strlen(name);
    bool fine = size > 0 && size <= LIMIT_NAME_BYTES && name[0] != '.';

    for (size_t i = 0; i < size && fine; i++)
        fine = name[i] >= ' ' && name[i] <= '~' && name[i] != '/';
    return fine ? 0 : err_set(e, ERR_INVALID, "%s: a name has 1 to %d printable ASCII characters, no slash, and no dot at its start",
                              what, LIMIT_NAME_BYTES);
}

int vault_disk_check(const char *id, struct err *e)
{
    size_t size = strlen(id);
    bool fine = size > 0 && size < VAULT_DISK_ID_SIZE;

    for (size_t i = 0; i < size && fine; i++)
        fine = id[i] >= ' ' && id[i] <= '~';
    return fine ? 0 : err_set(e, ERR_INVALID, "a disk's id has 1 to %d printable ASCII characters", VAULT_DISK_ID_SIZE - 1);
}

MDB_val disk_key(const char *server, const char *id, char bytes[static DISK_KEY_SIZE])
{
    size_t server_size = strlen(server) + 1, id_size = strlen(id);

    memcpy(bytes, server, server_size);
    memcpy(bytes + server_size, id, id_size);
    return index_val(bytes, server_size + id_size);
}

struct work_key work_key_make(uint32_t disk, uint64_t leaf)
{
    struct work_key key;

    MUST(leaf <= UINT32_MAX);
    put_be32(key.bytes, disk);
    put_be32(key.bytes + 4, (uint32_t)leaf);
    return key;
}

uint32_t work_key_disk(MDB_val key) { return key.mv_size == 8 ? get_be32(key.mv_data) : 0; }
uint64_t work_key_leaf(MDB_val key) { return key.mv_size == 8 ? get_be32((const uint8_t *)key.mv_data + 4) : 0; }

static int leaf_decode(MDB_val value, struct tree_node *out, struct err *e)
{
    if (value.mv_size == 0)
        memset(out, 0, sizeof *out);
    else if (value.mv_size == sizeof *out)
        memcpy(out, value.mv_data, sizeof *out);
    else
        return err_set(e, ERR_CORRUPT, "the vault's index has a map row of %zu bytes", value.mv_size);
    return 0;
}

/* 1 there, 0 absent (then *out is all unknown), -1 */
int work_leaf_read(struct vault *v, MDB_txn *txn, uint32_t disk, uint64_t leaf, struct tree_node *out, struct err *e)
{
    struct work_key key = work_key_make(disk, leaf);
    MDB_val value;
    int found = index_get(&v->index, txn, INDEX_WORK, index_val(&key, sizeof key), &value, e);

    if (found == 1)
        return leaf_decode(value, out, e) < 0 ? -1 : 1;
    if (found == 0)
        memset(out, 0xff, sizeof *out);
    return found;
}

int vault_map_get(struct vault *v, const struct vault_disk *d, uint64_t index, struct vault_hash *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    const struct vault_hash *pending;
    struct tree_node leaf;

    if (index >= d->chunk_count)
        return err_set(e, ERR_INVALID, "chunk %llu lies outside disk %s", (unsigned long long)index, d->id);
    pthread_mutex_lock(&v->append_lock);
    pending = pending_map_get(&v->pending, d->number, index);
    if (pending)
        *out = *pending;
    pthread_mutex_unlock(&v->append_lock);
    if (pending) {
        seal_reveal(v->seal, out);
        return 0;
    }
    /* What was pending a moment ago is in the index by now. */
    if (index_begin(&v->index, false, &txn, e) < 0 || work_leaf_read(v, txn, d->number, index / TREE_FANOUT, &leaf, e) < 0)
        return -1;
    *out = leaf.child[index % TREE_FANOUT];
    seal_reveal(v->seal, out);
    return 0;
}

static uint64_t leaf_chunks(uint64_t chunk_count, uint64_t leaf)
{
    uint64_t left = chunk_count - leaf * TREE_FANOUT;

    return left < TREE_FANOUT ? left : TREE_FANOUT;
}

static int leaf_write(struct vault *v, MDB_txn *txn, const struct vault_disk *d, uint64_t leaf, const struct tree_node *n, struct err *e)
{
    struct work_key key = work_key_make(d->number, leaf);
    bool empty = tree_node_is_zero(n) && leaf_chunks(d->chunk_count, leaf) == TREE_FANOUT;

    return index_put(&v->index, txn, INDEX_WORK, index_val(&key, sizeof key), index_val(n, empty ? 0 : sizeof *n), e);
}

/* ---- applying changes ---- */

/* Changes of one row are gathered before it is written: a session mostly walks along a disk. */
struct writer {
    struct vault *v;
    MDB_txn *txn;
    struct vault_disk *disk; /* NULL: none loaded */
    uint64_t leaf;
    bool was_there, changed;
    struct tree_node node;
    int64_t known_added;
};

static int writer_store(struct writer *w, struct err *e)
{
    struct work_key key;

    if (!w->disk || !w->changed)
        return 0;
    w->changed = false;
    if (leaf_write(w->v, w->txn, w->disk, w->leaf, &w->node, e) < 0)
        return -1;
    if (!w->was_there && tree_node_is_zero(&w->node))
        return 0; /* an absent row is zero in every tree, so this is no difference */
    key = work_key_make(w->disk->number, w->leaf);
    return index_put(&w->v->index, w->txn, INDEX_DIRTY, index_val(&key, sizeof key), index_val("", 0), e);
}

static int disk_row_get(struct vault *v, MDB_txn *txn, const char *server, const char *id, struct disk_row *out, struct err *e)
{
    char bytes[DISK_KEY_SIZE];
    MDB_val value;
    int found = index_get(&v->index, txn, INDEX_DISK, disk_key(server, id, bytes), &value, e);

    if (found != 1)
        return found;
    if (value.mv_size != sizeof *out)
        return err_set(e, ERR_CORRUPT, "the vault's index has a disk row of %zu bytes", value.mv_size);
    memcpy(out, value.mv_data, sizeof *out);
    return 1;
}

static int disk_row_put(struct vault *v, MDB_txn *txn, const char *server, const char *id, const struct disk_row *row, struct err *e)
{
    char bytes[DISK_KEY_SIZE];

    return index_put(&v->index, txn, INDEX_DISK, disk_key(server, id, bytes), index_val(row, sizeof *row), e);
}

/* Ends work on the loaded disk: its count of known chunks. The copy in memory follows only when the transaction holds, see below. */
static int writer_leave_disk(struct writer *w, struct err *e)
{
    struct disk_row row;
    int found;

    if (writer_store(w, e) < 0)
        return -1;
    if (!w->disk || w->known_added == 0)
        return 0;
    found = disk_row_get(w->v, w->txn, w->disk->server, w->disk->id, &row, e);
    if (found != 1)
        return found;
    row.known_count += (uint64_t)w->known_added; /* it may be less than 0: two's complement */
    MUST(row.known_count <= w->disk->chunk_count);
    w->known_added = 0;
    return disk_row_put(w->v, w->txn, w->disk->server, w->disk->id, &row, e);
}

static int writer_go(struct writer *w, struct vault_disk *d, uint64_t leaf, struct err *e)
{
    int found;

    if (w->disk == d && w->leaf == leaf)
        return 0;
    if ((w->disk == d ? writer_store(w, e) : writer_leave_disk(w, e)) < 0)
        return -1;
    found = work_leaf_read(w->v, w->txn, d->number, leaf, &w->node, e);
    if (found < 0)
        return -1;
    w->disk = d;
    w->leaf = leaf;
    w->was_there = found == 1;
    return 0;
}

static int writer_set(struct writer *w, struct vault_disk *d, const struct pending_set *s, struct err *e)
{
    /* A disk that was cut meanwhile: what lies outside is gone. */
    uint64_t end = s->first + s->count < d->chunk_count ? s->first + s->count : d->chunk_count;

    for (uint64_t at = s->first; at < end; at++) {
        struct vault_hash *slot;

        if (writer_go(w, d, at / TREE_FANOUT, e) < 0)
            return -1;
        slot = &w->node.child[at % TREE_FANOUT];
        if (vault_hash_same(slot, &s->hash))
            continue;
        w->known_added += vault_hash_is_unknown(slot) - vault_hash_is_unknown(&s->hash);
        *slot = s->hash;
        w->changed = true;
    }
    return 0;
}

static int is_number(MDB_val key, MDB_val value, void *user, struct err *e)
{
    uint32_t *number = user;
    struct disk_row row;

    (void)key;
    if (value.mv_size != sizeof row)
        return err_set(e, ERR_CORRUPT, "the vault's index has a disk row of %zu bytes", value.mv_size);
    memcpy(&row, value.mv_data, sizeof row);
    if (row.number == *number)
        *number = 0;
    return *number == 0;
}

/* One that memory does not know was dropped meanwhile, and needs nothing; but the index must say so, too: else changes would be lost that are acknowledged. */
static int must_be_dropped(struct vault *v, MDB_txn *txn, uint32_t number, struct err *e)
{
    uint32_t left = number; /* numbers begin at 1 */

    if (index_each(&v->index, txn, INDEX_DISK, index_val("", 0), is_number, &left, e) < 0)
        return -1;
    if (left)
        return 0;
    v->disks_stale = true;
    return err_set(e, ERR_IO, "a change of disk %u can't be written: the vault's list of disks is not whole", number);
}

int work_apply(struct vault *v, MDB_txn *txn, const struct pending_set *sets, size_t count, struct err *e)
{
    struct writer w = {.v = v, .txn = txn};
    uint32_t dropped = 0;

    for (size_t i = 0; i < count; i++) {
        struct vault_disk *d = disk_by_number(v, sets[i].disk);

        if (d ? writer_set(&w, d, &sets[i], e) < 0 : sets[i].disk != dropped && must_be_dropped(v, txn, sets[i].disk, e) < 0)
            return -1;
        if (!d)
            dropped = sets[i].disk;
    }
    return writer_leave_disk(&w, e);
}

/* ---- the disks ---- */

static void copy_name(char *to, size_t size, const char *name)
{
    MUST(strlen(name) < size);
    memcpy(to, name, strlen(name) + 1);
}

static void disk_fill(struct vault_disk *d, const char *server, const char *id, const struct disk_row *row)
{
    copy_name(d->server, sizeof d->server, server);
    copy_name(d->id, sizeof d->id, id);
    d->number = row->number;
    d->size_bytes = row->size_bytes;
    d->chunk_count = chunks_of(row->size_bytes);
    d->known_count = row->known_count;
}

struct disks {
    struct vault_disk *list;
    size_t count;
};

static int load_disk(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct disks *l = user;
    char names[DISK_KEY_SIZE + 1] = {0};
    struct disk_row row;

    if (value.mv_size != sizeof row || key.mv_size >= sizeof names || !memchr(key.mv_data, 0, key.mv_size))
        return err_set(e, ERR_CORRUPT, "the vault's index has a damaged disk row");
    memcpy(names, key.mv_data, key.mv_size);
    memcpy(&row, value.mv_data, sizeof row);
    l->list = xrealloc(l->list, (l->count + 1) * sizeof *l->list);
    disk_fill(&l->list[l->count++], names, names + strlen(names) + 1, &row);
    return 0;
}

int disks_load(struct vault *v, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct disks now = {0};

    v->disks_stale = true;
    if (index_begin(&v->index, false, &txn, e) < 0 || index_each(&v->index, txn, INDEX_DISK, index_val("", 0), load_disk, &now, e) < 0) {
        free(now.list);
        return -1;
    }
    free(v->disks);
    v->disks = now.list;
    v->disk_count = now.count;
    v->disks_stale = false;
    return 0;
}

struct resize {
    struct vault *v;
    MDB_txn *txn;
    struct disk_row *row;
    uint64_t old_chunks, new_chunks;
    uint32_t old_tail, new_tail; /* sizes of the last chunks */
    struct vault_disk disk;
    uint64_t *leaves;
    size_t leaf_count;
};

static int collect_leaf(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct resize *z = user;

    (void)value;
    (void)e;
    z->leaves = xrealloc(z->leaves, (z->leaf_count + 1) * sizeof *z->leaves);
    z->leaves[z->leaf_count++] = work_key_leaf(key);
    return 0;
}

static void forget_chunk(struct tree_node *n, uint64_t leaf, uint64_t index)
{
    if (index / TREE_FANOUT == leaf)
        n->child[index % TREE_FANOUT] = vault_hash_unknown;
}

static int resize_leaf(struct resize *z, uint64_t leaf, struct err *e)
{
    struct work_key key = work_key_make(z->row->number, leaf);
    struct tree_node before, n;
    uint64_t inside;

    if (leaf * TREE_FANOUT >= z->new_chunks)
        return index_del(&z->v->index, z->txn, INDEX_WORK, index_val(&key, sizeof key), e);
    if (work_leaf_read(z->v, z->txn, z->row->number, leaf, &n, e) < 0)
        return -1;
    before = n;
    inside = leaf_chunks(z->new_chunks, leaf);
    for (uint64_t i = inside; i < TREE_FANOUT; i++)
        n.child[i] = vault_hash_unknown;
    if (z->old_chunks <= z->new_chunks && z->old_tail != chunk_size_at(z->row->size_bytes, z->old_chunks - 1))
        forget_chunk(&n, leaf, z->old_chunks - 1);
    if (z->new_chunks < z->old_chunks && z->new_tail != VAULT_CHUNK_BYTES)
        forget_chunk(&n, leaf, z->new_chunks - 1);
    for (uint64_t i = 0; i < inside; i++)
        z->row->known_count += !vault_hash_is_unknown(&n.child[i]);
    /* Most stay as they are: of 10 TiB they are 5 GiB in one transaction. */
    if (memcmp(&n, &before, sizeof n) != 0 && leaf_write(z->v, z->txn, &z->disk, leaf, &n, e) < 0)
        return -1;
    return index_put(&z->v->index, z->txn, INDEX_DIRTY, index_val(&key, sizeof key), index_val("", 0), e);
}

/* Cuts or grows the map; the next point's tree is built anew from all of it. */
static int resize_map(struct vault *v, MDB_txn *txn, struct disk_row *row, uint64_t size_bytes, struct err *e)
{
    struct resize z = {.v = v, .txn = txn, .row = row, .old_chunks = chunks_of(row->size_bytes), .new_chunks = chunks_of(size_bytes)};
    struct work_key key = work_key_make(row->number, 0);
    MDB_val prefix = index_val(&key, 4);
    int r;

    z.old_tail = chunk_size_at(row->size_bytes, z.old_chunks - 1);
    z.new_tail = chunk_size_at(size_bytes, z.new_chunks - 1);
    row->size_bytes = size_bytes;
    row->depth = tree_depth(z.new_chunks);
    row->root = vault_hash_zero;
    row->known_count = 0;
    disk_fill(&z.disk, "", "", row);
    r = index_del_prefix(&v->index, txn, INDEX_DIRTY, prefix, e);
    if (r == 0)
        r = index_each(&v->index, txn, INDEX_WORK, prefix, collect_leaf, &z, e);
    for (size_t i = 0; r == 0 && i < z.leaf_count; i++)
        r = resize_leaf(&z, z.leaves[i], e);
    free(z.leaves);
    return r;
}

int disk_map_anew(struct vault *v, MDB_txn *txn, const char *server, const char *id, struct err *e)
{
    struct disk_row row;
    int found = disk_row_get(v, txn, server, id, &row, e);

    if (found != 1)
        return found;
    return resize_map(v, txn, &row, row.size_bytes, e) < 0 ? -1 : disk_row_put(v, txn, server, id, &row, e);
}

struct opening {
    const char *server, *id;
    uint64_t size_bytes;
    struct disk_row row;
};

static int open_row(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    struct opening *o = user;
    int found = disk_row_get(v, txn, o->server, o->id, &o->row, e);
    uint64_t number;

    if (found < 0)
        return -1;
    if (found == 0) {
        if (meta_next(v, txn, "next_disk", &number, e) < 0)
            return -1;
        o->row = (struct disk_row){.number = (uint32_t)number, .size_bytes = o->size_bytes,
                                   .depth = tree_depth(chunks_of(o->size_bytes))};
    } else if (o->row.size_bytes != o->size_bytes && resize_map(v, txn, &o->row, o->size_bytes, e) < 0) {
        return -1;
    }
    return disk_row_put(v, txn, o->server, o->id, &o->row, e);
}

int vault_disk_open(struct vault *v, const char *server, const char *disk, uint64_t size_bytes, struct vault_disk *out, struct err *e)
{
    struct opening o = {.server = server, .id = disk, .size_bytes = size_bytes};
    int r;

    if (vault_name_check("server", server, e) < 0 || vault_disk_check(disk, e) < 0)
        return -1;
    if (size_bytes == 0 || chunks_of(size_bytes) / TREE_FANOUT >= UINT32_MAX)
        return err_set(e, ERR_INVALID, "disk %s has %llu bytes", disk, (unsigned long long)size_bytes);
    pthread_mutex_lock(&v->commit_lock);
    r = vault_flush(v, NULL, NULL, e); /* older changes first, under the old size */
    if (r == 0)
        r = vault_flush(v, open_row, &o, e);
    if (r == 0)
        r = disks_load(v, e);
    pthread_mutex_unlock(&v->commit_lock);
    if (r == 0)
        disk_fill(out, server, disk, &o.row);
    return r;
}

static int by_name(const void *a, const void *b)
{
    const struct vault_disk *x = a, *y = b;
    int by_server = strcmp(x->server, y->server);

    return by_server ? by_server : strcmp(x->id, y->id);
}

int vault_disk_list(struct vault *v, const char *server, struct vault_disk **out, struct err *e)
{
    struct vault_disk *list;
    int count = 0, r;

    pthread_mutex_lock(&v->commit_lock);
    r = disks_load(v, e); /* known_count moves with every flush */
    list = xcalloc(v->disk_count, sizeof *list);
    for (size_t i = 0; r == 0 && i < v->disk_count; i++)
        if (!server || strcmp(v->disks[i].server, server) == 0)
            list[count++] = v->disks[i];
    pthread_mutex_unlock(&v->commit_lock);
    if (r < 0) {
        free(list);
        return -1;
    }
    qsort(list, (size_t)count, sizeof *list, by_name);
    *out = list;
    return count;
}

static int drop_row(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    struct opening *o = user;
    char bytes[DISK_KEY_SIZE];
    struct work_key key;
    int found = disk_row_get(v, txn, o->server, o->id, &o->row, e);

    if (found != 1)
        return found;
    key = work_key_make(o->row.number, 0);
    if (index_del_prefix(&v->index, txn, INDEX_WORK, index_val(&key, 4), e) < 0 ||
        index_del_prefix(&v->index, txn, INDEX_DIRTY, index_val(&key, 4), e) < 0)
        return -1;
    return index_del(&v->index, txn, INDEX_DISK, disk_key(o->server, o->id, bytes), e);
}

int vault_disk_drop(struct vault *v, const char *server, const char *disk, struct err *e)
{
    struct opening o = {.server = server, .id = disk};
    int r;

    if (vault_name_check("server", server, e) < 0 || vault_disk_check(disk, e) < 0)
        return -1;
    pthread_mutex_lock(&v->commit_lock);
    r = vault_flush(v, drop_row, &o, e);
    if (r == 0)
        r = disks_load(v, e);
    pthread_mutex_unlock(&v->commit_lock);
    return r;
}

int vault_disk_read(struct vault *v, const struct vault_disk *d, uint64_t first, size_t count, struct vault_hash *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct tree_node n;

    if (first > d->chunk_count || count > d->chunk_count - first)
        return err_set(e, ERR_INVALID, "chunks outside disk %s", d->id);
    if (index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    for (uint64_t at = first; at < first + count; at++) {
        if ((at == first || at % TREE_FANOUT == 0) && work_leaf_read(v, txn, d->number, at / TREE_FANOUT, &n, e) < 0)
            return -1;
        out[at - first] = n.child[at % TREE_FANOUT];
        seal_reveal(v->seal, &out[at - first]);
    }
    return 0;
}
