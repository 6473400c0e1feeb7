/* gc: what vault_gc and vault_usage share: finding out what is in use. */
#pragma once

#include "vault/internal.h"
#include "vault/sieve.h"

/* All of it fits in work_memory_bytes, but for what comes anew while it runs (barrier) and the names of documents: a few of each point. */
struct gc {
    struct vault *v;
    struct hash_sieve marked;          /* chunks and nodes in use. It errs by having: what nobody uses may stay until another time */
    struct hash_seen nodes;            /* whose children are marked. It errs by lacking: else a child could be missed */
    struct hash_set documents, barrier; /* exact: a dropped point's document that was kept would outlive its grave; whose parts are marked */
    struct hash_bits uses;             /* which pages of a record's own the marked chunks take */
    struct hash_sieve uses_beyond;     /* names for which there is no room there: all of its pages are */
    uint64_t *live_bytes; /* by segment id, as the next */
    uint32_t *live_count;
    uint32_t segment_limit;
    uint64_t record_count, salt; /* as of the snapshot; of the sieves */
    unsigned live_percent; /* a segment of which less lives is copied out */
    bool seal_anew;        /* and one that is not sealed under the newest data key */
    uint64_t freed_bytes;
    int64_t held_since_us; /* monotonic */
    struct vault_point *staged; /* as of the snapshot */
    size_t staged_count;
};

/* What each takes of work_memory_bytes at most, in sixteenths. GC_LIVING: for what follows the marks, the list of what is copied out, or the names that are counted. */
enum gc_part { GC_MARKED = 8, GC_NODES = 2, GC_USES = 2, GC_USES_BEYOND = 1, GC_LIVING = 3 };
static inline size_t gc_share(const struct gc *g, enum gc_part part) { return g->v->options.work_memory_bytes / 16 * part; }

void gc_release(struct gc *g); /* for CLEANUP */
/* All writers are held from the one to the other, no longer than need be. Where one waited, it has as much time as was taken from it before they are held again: the lock
 * by itself would give it one turn. */
void gc_hold(struct gc *g);
void gc_let_go(struct gc *g);
/* Takes no gc_lock and no commit_lock before: a view of the index, from which on the barrier sees every new use. */
int gc_snapshot(struct gc *g, MDB_txn **txn, struct err *e);
void gc_set_barrier(struct gc *g, bool on);
/* Everything that the points, maps and graves of that view need. */
int gc_mark(struct gc *g, MDB_txn *txn, struct err *e);
/* The pages that are taken of a record that is there for others only; 0: it is wanted as it is, or not at all. append_lock held: vault_has
 * adds to the barrier, and takes no gc_lock. */
uint32_t gc_taken(const struct gc *g, const struct vault_hash *hash);
/* Whether a record of that kind stays, as it is or for others. append_lock held while the barrier is on. */
bool gc_wants(const struct gc *g, const struct vault_hash *hash, enum record_kind kind);
/* How much of a record lives. append_lock held while the barrier is on. */
int gc_living_bytes(const struct gc *g, MDB_txn *txn, const struct vault_hash *hash, const struct chunk_place *place, uint64_t *out, struct err *e);

/* After the sweep: segments of which too little lives go, with what lives copied out before (gc_segments.c). */
int gc_empty_segments(struct gc *g, struct err *e);
