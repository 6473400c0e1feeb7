/* Damage that is found while the index is being written: by a commit that builds on a damaged node, and by the repair of maps. It is said, remembered, and healed. */
#include "small.h"

#include <errno.h>
#include <sys/syscall.h>

#define CHUNKS 300 /* a root and five leaves */
#define STEP 10    /* between chunks that are no zeros */
#define SEED 1000
#define ALL 100000
#define PAGE 4096u
#define HANGS_S 120 /* a thread that waits for itself would wait for ever */

/* What the disk can't read: some bytes of a segment, or all. */
static char unreadable_path[128];
static uint64_t unreadable_from, unreadable_to;
static int unreadable_times = -1; /* then it reads them again; -1: never */

ssize_t pread(int fd, void *bytes, size_t size, off_t offset)
{
    char link[64], path[128];
    ssize_t length;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = *unreadable_path ? readlink(link, path, sizeof path - 1) : 0;
    path[length > 0 ? length : 0] = '\0';
    if (length <= 0 || strcmp(path, unreadable_path) != 0 || unreadable_times == 0 || (uint64_t)offset >= unreadable_to ||
        (uint64_t)offset + size <= unreadable_from)
        return (ssize_t)syscall(SYS_pread64, fd, bytes, size, offset);
    unreadable_times -= unreadable_times > 0;
    errno = EIO;
    return -1;
}

/* What goes on beside a repair, when it has looked through the maps. */
static void (*beside)(void);
static bool held; /* others were, while it did */

int __real_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e);
int __wrap_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e);
int __wrap_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e)
{
    int r = __real_index_each(x, txn, t, prefix, visit, user, e);

    if (t != INDEX_WORK || !beside)
        return r;
    held = index_writes_here() || pthread_mutex_trylock(&v->commit_lock) != 0;
    if (!held) {
        pthread_mutex_unlock(&v->commit_lock);
        beside();
    }
    beside = NULL;
    return r;
}

/* The page in the midst of a chunk's record. */
static void make_unreadable(const struct vault_hash *hash)
{
    struct chunk_place place;

    MUST(place_find(v, hash, &place, NULL) == 1);
    snprintf(unreadable_path, sizeof unreadable_path, "%s/segments/%010u.seg", dir, place.segment);
    unreadable_from = (place.offset + place.stored_size / 2) / PAGE * PAGE;
    unreadable_to = unreadable_from + PAGE;
    unreadable_times = -1;
}

/* A vault with one point, closed. */
static void begin_with_point(void)
{
    begin(CHUNKS, STEP, SEED);
    (void)point();
    vault_close(&v);
}

static void found_by_a_commit(void)
{
    struct err e = {0};
    uint64_t remembered;

    begin_with_point();
    damage(RECORD_NODE, 0, ALL);
    open_it(CHUNKS);
    MUST(put(5, 77) == 1);
    is_int(vault_point_commit(v, "web01", 0, "crash", 0, NULL, &e), -1, "no point is built on a damaged node");
    is_int(e.kind, ERR_CORRUPT, "and it says why: %s", e.message);
    remembered = rows(INDEX_BAD);
    ok(remembered >= 1, "what was found is in the index");
    vault_close(&v);
    open_it(CHUNKS);
    is_int(rows(INDEX_BAD), remembered, "and stays there");
    err_clear(&e);
    ok(vault_forget_damaged(v, NULL, &e) > 0, "the tree is made again from the map %s", e.message);
    is_int(vault_point_commit(v, "web01", 0, "crash", 0, NULL, &e), 0, "and the next point is there: %s", e.message);
    end();
}

/* A chunk is known to be damaged, so that maps are repaired; a node is found by that. */
static void found_by_a_repair(void)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;
    struct err e = {0};

    begin_with_point();
    damage(RECORD_CHUNK, 3, 1);
    damage(RECORD_NODE, 0, ALL);
    open_it(CHUNKS);
    for (uint64_t i = 0; i < CHUNKS; i += STEP) {
        fill(bytes, SEED + i);
        vault_hash_of(bytes, CHUNK, &hash);
        (void)record_get(v, &hash, bytes, CHUNK, NULL);
    }
    is_int(rows(INDEX_BAD), 1, "a chunk is known to be damaged");
    is_int(vault_forget_damaged(v, NULL, &e), 2, "its place is forgotten, and the tree is made again: %s", e.message);
    ok(rows(INDEX_BAD) >= 2, "the node that was found by that is in the index");
    MUST(put(3 * STEP, SEED + 3 * STEP) == 1);
    is_int(vault_point_commit(v, "web01", 0, "crash", 0, NULL, &e), 0, "with the chunk the next point is there: %s", e.message);
    end();
}

/* The index can't be written for a while: what was found then is written later. */
static void written_later(void)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct vault_hash name = {{1, 2, 3}};
    struct err e = {0};

    begin_with_point();
    open_it(CHUNKS);
    MUST(index_begin(&v->index, true, &txn, NULL) == 0);
    chunk_mark_bad(v, &name);
    index_abort(&txn);
    is_int(rows(INDEX_BAD), 0, "found while a transaction is open: not written with it");
    is_int(vault_sync(v, &e), 0, "a sync with nothing else to write: %s", e.message);
    is_int(rows(INDEX_BAD), 1, "writes it");
    end();
}

static struct vault_hash hash_of_seed(uint64_t seed)
{
    struct vault_hash hash;
    uint8_t bytes[CHUNK];

    fill(bytes, seed);
    vault_hash_of(bytes, CHUNK, &hash);
    return hash;
}

static void maps_go_on(void)
{
    MUST(put(5 * STEP, 77) == 1 && put(6 * STEP, SEED + 6 * STEP) == 1 && vault_sync(v, NULL) == 0);
}

/* Damage in three places: two get new content while the maps are looked through. */
static void repaired_beside_others(void)
{
    struct vault_hash name, new = hash_of_seed(77), asked = hash_of_seed(SEED + 7 * STEP);
    uint8_t bytes[CHUNK];
    struct err e = {0};

    begin_with_point();
    open_it(CHUNKS);
    for (uint64_t i = 5; i < 8; i++) {
        name = hash_of_seed(SEED + i * STEP);
        chunk_mark_bad(v, &name);
    }
    beside = maps_go_on;
    is_int(vault_forget_damaged(v, NULL, &e), 1, "one place is forgotten: %s", e.message);
    ok(!held, "nobody is held while all maps are looked through");
    ok(vault_map_get(v, &disk, 5 * STEP, &name, NULL) == 0 && vault_hash_same(&name, &new), "what came meanwhile stays");
    ok(vault_map_get(v, &disk, 7 * STEP, &name, NULL) == 0 && vault_hash_is_unknown(&name), "what did not is unknown");
    MUST(put(7 * STEP, SEED + 7 * STEP) == 1);
    ok(vault_point_commit(v, "web01", 0, "crash", 0, NULL, &e) == 0 && record_get(v, &asked, bytes, CHUNK, &e) == 0, "and with it there is a point: %s", e.message);
    end();
}

static void new_root(void) { MUST(put(5, 77) == 1 && vault_point_commit(v, SERVER, 0, "crash", 0, NULL, NULL) == 0); }

/* A tree with a damaged node: a point is made of it while all trees are looked through, which takes the node along. */
static void tree_goes_on(void)
{
    struct tree_node node;
    struct vault_point p = {0};
    struct err e = {0};

    begin(CHUNKS, STEP, SEED);
    p = point();
    MUST(record_get(v, &p.disks[0].root, &node, sizeof node, NULL) == 0);
    chunk_mark_bad(v, &node.child[3]);
    beside = new_root;
    is_int(vault_forget_damaged(v, NULL, &e), 1, "a point came while its disk's tree was found to be damaged: %s", e.message);
    ok(!held, "which nobody is held for");
    is_int(vault_point_commit(v, SERVER, 0, "crash", 0, &p, &e), 0, "the next one is made anew from all of its map: %s", e.message);
    is_int(rows(INDEX_BAD), 0, "with which the node is there again");
    end();
}

/* A disk that can't read a place has lost what lay there; one that reads nothing, or not at once, says nothing about it. */
static void not_read(void)
{
    struct vault_hash hash = hash_of_seed(SEED + 5 * STEP);
    struct err e = {0};
    uint8_t bytes[CHUNK];

    begin_with_point();
    open_it(CHUNKS);
    make_unreadable(&hash);
    unreadable_times = 1;
    is_int(record_get(v, &hash, bytes, CHUNK, &e), 0, "what is read at the second try is there: %s", e.message);
    vault_close(&v);
    open_it(CHUNKS);
    unreadable_times = -1;
    unreadable_from = 0;
    unreadable_to = UINT64_MAX;
    ok(record_get(v, &hash, bytes, CHUNK, &e) < 0 && e.kind == ERR_IO, "a disk that reads nothing: %s", e.message);
    is_int(rows(INDEX_BAD), 0, "nothing counts as damaged");
    make_unreadable(&hash);
    err_clear(&e);
    ok(record_get(v, &hash, bytes, CHUNK, &e) < 0 && e.kind == ERR_CORRUPT, "a place that can't be read: %s", e.message);
    is_int(rows(INDEX_BAD), 1, "is damage");
    is_int(vault_has(v, &hash, NULL), 0, "the chunk is wanted again");
    err_clear(&e);
    is_int(vault_forget_damaged(v, NULL, &e), 1, "of its source: %s", e.message);
    MUST(put(5 * STEP, SEED + 5 * STEP) == 1);
    ok(vault_sync(v, &e) == 0 && record_get(v, &hash, bytes, CHUNK, &e) == 0, "and there when it has come: %s", e.message);
    end();
    *unreadable_path = '\0';
}

/* The index is made anew of all that can be read. */
static void not_read_anew(void)
{
    struct vault_hash hash = hash_of_seed(SEED + 5 * STEP), other = hash_of_seed(SEED + 6 * STEP);
    struct err e = {0};
    uint8_t bytes[CHUNK];

    begin_with_point();
    open_it(CHUNKS);
    make_unreadable(&hash);
    vault_close(&v);
    ok(vault_rebuild(dir, &options, &e) == 0, "the index is made anew beside a place that can't be read: %s", e.message);
    open_it(CHUNKS);
    ok(record_get(v, &other, bytes, CHUNK, &e) == 0, "what lies behind it is there: %s", e.message);
    is_int(vault_has(v, &hash, NULL), 0, "what lay there is not");
    end();
    *unreadable_path = '\0';
}

int main(void)
{
    alarm(HANGS_S);
    not_read();
    not_read_anew();
    repaired_beside_others();
    tree_goes_on();
    found_by_a_commit();
    found_by_a_repair();
    written_later();
    return tap_done();
}
