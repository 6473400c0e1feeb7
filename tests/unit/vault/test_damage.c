/* Damage that is found while the index is being written: by a commit that builds on a damaged node, and by the repair of maps. It is said, remembered, and healed. */
#include "small.h"

#define CHUNKS 300 /* a root and five leaves */
#define STEP 10    /* between chunks that are no zeros */
#define SEED 1000
#define ALL 100000
#define HANGS_S 120 /* a thread that waits for itself would wait for ever */

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

int main(void)
{
    alarm(HANGS_S);
    found_by_a_commit();
    found_by_a_repair();
    written_later();
    return tap_done();
}
