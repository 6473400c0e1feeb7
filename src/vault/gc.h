/* gc: what vault_gc and vault_usage share: finding out what is in use. */
#pragma once

#include "vault/internal.h"

struct gc {
    struct vault *v;
    struct hash_set marked, barrier;
    struct hash_bits uses; /* which pages of a record's own the marked chunks take */
    uint64_t *live_bytes; /* by segment id */
    uint32_t segment_limit;
    unsigned live_percent; /* a segment of which less lives is copied out */
    bool seal_anew;        /* and one that is not sealed under the newest data key */
    uint64_t freed_bytes;
    struct vault_point *staged; /* as of the snapshot */
    size_t staged_count;
};

void gc_release(struct gc *g); /* for CLEANUP */
/* Takes no gc_lock and no commit_lock before: a view of the index, from which on the barrier sees every new use. */
int gc_snapshot(struct gc *g, MDB_txn **txn, struct err *e);
void gc_set_barrier(struct gc *g, bool on);
/* Everything that the points, maps and graves of that view need. */
int gc_mark(struct gc *g, MDB_txn *txn, struct err *e);
/* How much of a record lives. append_lock held while the barrier is on. */
int gc_living_bytes(const struct gc *g, MDB_txn *txn, const struct vault_hash *hash, const struct chunk_place *place, uint64_t *out, struct err *e);
