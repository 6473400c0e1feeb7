/* internal: what the files of vault/ share; nothing outside the room includes it. */
#pragma once

#include "vault/bucket.h"
#include "vault/cache.h"
#include "vault/index.h"
#include "vault/seal.h"
#include "vault/segment.h"
#include "vault/tree.h"
#include "vault/vault.h"

#include <pthread.h>
#include <stdatomic.h>

struct pending_chunk {
    struct vault_hash hash;
    struct chunk_place place;
    struct record_pages *pages; /* NULL: the record holds all of it */
};

/* A change of a working map: one chunk, or a run of zeros. */
struct pending_set {
    uint32_t disk;
    uint64_t first, count;
    struct vault_hash hash;
};

struct pending_feed {
    char server[LIMIT_NAME_BYTES + 1];
    struct vault_feed feed;
};

/* Appended and not yet in the index. */
struct pending {
    struct pending_chunk *chunks;
    size_t chunk_count, chunk_held;
    uint32_t *slots; /* open addressing by hash: index into chunks + 1 */
    size_t slot_count;
    struct pending_set *sets;
    size_t set_count, set_held, range_count; /* range_count: those of more than one chunk */
    uint32_t *set_slots; /* open addressing by disk and chunk: index of the latest of one chunk + 1 */
    size_t set_slot_count;
    struct pending_feed *feeds;
    size_t feed_count;
};

/* A point that is being dropped: its grave is appended. */
struct drop {
    char id[VAULT_POINT_ID_SIZE];
    struct vault_hash record, grave;
};

/* A point that is to be committed, on the stack of who commits it: among those that wait, and then of commit_lock's holder. */
struct committing {
    struct committing *next;
    struct vault_point *point;
    char *text; /* owned */
    uint64_t sequence;
    const struct vault_group *group; /* of a copied point, with its document; NULL: none */
    char *group_text; /* owned */
    bool done;        /* result, and why, are known */
    int result;
    struct err why;
};

struct vault {
    char *dir, *segment_dir, *index_dir;
    struct vault_options options;
    struct vault_index index;
    struct cache *cache;
    uint8_t id[VAULT_ID_SIZE];
    struct seal *seal; /* NULL: it is not encrypted */
    struct vault_anew anew; /* as it was opened */
    struct bucket *bucket; /* NULL: it is not open, or there is none */
    json_t *bucket_place;  /* vault.json's word on it; NULL: there is none */
    char *bucket_text;     /* the same for people */
    int lock_fd;

    /* Locks, in precedence order: */
    pthread_mutex_t gc_run_lock; /* one gc at a time */
    pthread_rwlock_t gc_lock;    /* shared by what adds a use of a chunk (use_begin); alone for what takes unused ones away (gc_hold) */
    pthread_mutex_t commit_lock; /* the one writer of the index */
    pthread_mutex_t append_lock; /* guards the rest */

    struct vault_disk *disks; /* guarded by commit_lock, as is next_point */
    size_t disk_count;
    bool disks_stale; /* they may not be the index's: loading them failed */
    uint64_t next_point, next_point_known; /* known: what the index says: a number is never used again, so it comes with whatever may make its document durable */
    struct staged *staged; /* group.c's; guarded by commit_lock, too */
    struct drop *drops;    /* their rows go with the next transaction, whoever it is for; guarded by commit_lock, too */
    size_t drop_count;
    pthread_mutex_t loan_lock; /* guards what follows; the last of all */
    struct loan {
        char point[VAULT_POINT_ID_SIZE];
        int count;
    } *loans;
    size_t loan_count;
    atomic_ullong pins_written; /* how often pins.json has changed since this vault was opened */
    json_t *pins_waiting;  /* pins whose points are not there, as in pins.json: such a point may come back with its segment; guarded by commit_lock, too */

    char *superblock; /* vault.json's text, as it opened the vault or was written since */
    struct segment current;
    struct segment *full; /* sealed, not synced yet */
    size_t full_count;
    uint32_t next_segment;
    struct pending pending;
    struct committing *committing; /* points that wait to be committed; commit_point.c's */
    uint64_t gc_count;        /* guarded by gc_run_lock */
    struct hash_set *barrier; /* while vault_gc marks: every chunk that got a new use meanwhile */
    struct hash_set bad;      /* chunks found damaged: treated as absent until they are sent again */
    struct vault_hash *bad_unwritten; /* of these, what the index does not say yet */
    size_t bad_unwritten_count;
    uint64_t bad_found, bad_forgotten; /* how often damage was found; bad_found when the maps were last freed of it */
    atomic_uint waiting_users; /* for gc_lock, shared */
    atomic_bool edges_bad;    /* a header or trailer was found damaged that edges_mend can write anew */
    bool making_room;         /* vault_gc copies the living out of a sparse segment, with all writers held */
    bool broken;              /* an fsync failed: what the kernel dropped is not known, so nothing is written until reopened */
};

/* Around what adds a use of a chunk. */
static inline void use_begin(struct vault *v)
{
    atomic_fetch_add(&v->waiting_users, 1);
    pthread_rwlock_rdlock(&v->gc_lock);
    atomic_fetch_sub(&v->waiting_users, 1);
}
static inline void use_end(struct vault *v) { pthread_rwlock_unlock(&v->gc_lock); }

/* append.c: called with append_lock held */
int place_find(struct vault *v, const struct vault_hash *hash, struct chunk_place *out, struct err *e); /* 1/0/-1, bad ones too */
/* What the chunk's record holds, and its parts. 1: not all of it by itself; 0: all (or the chunk is not there); -1. delta.c, as what follows. */
int pages_find(struct vault *v, const struct vault_hash *hash, struct record_pages *out, struct err *e);
/* Whether all parts are there and hold the pages that they are named for: 1/0/-1. damaged: those known to be damaged do, too. */
int pages_are_there(struct vault *v, const struct record_pages *p, bool damaged, struct err *e);
size_t pages_row_size(const struct record_pages *p);
int pages_row_decode(MDB_val value, struct record_pages *out, struct err *e);
/* Whether the chunk is there, whole as far as is known, and of that size (with all of its parts): 1/0/-1. Marks it used for a running gc. */
int have(struct vault *v, const struct vault_hash *hash, size_t raw_size, struct err *e);
/* pages: NULL where the record holds all of it. */
int record_append(struct vault *v, enum record_kind kind, const uint8_t *packed, size_t span, size_t raw_size, const struct vault_hash *hash,
                  const struct record_pages *pages, struct err *e);
/* vault_gc must neither take away nor shrink what is used from now on. */
void note_use(struct vault *v, const struct vault_hash *hash, const struct record_pages *pages);
/* Packs and appends where it is not there yet; takes append_lock itself. *stored_bytes may be NULL. */
int record_add(struct vault *v, enum record_kind kind, const void *raw, size_t raw_size, const struct vault_hash *hash,
               uint64_t *stored_bytes, struct err *e);
/* The same for a payload that is packed already (NULL: pack it). */
int record_add_packed(struct vault *v, enum record_kind kind, const void *raw, size_t raw_size, const void *packed, size_t packed_size,
                      const struct vault_hash *hash, uint64_t *stored_bytes, struct err *e);
/* Reads a whole record by hash into bytes (raw_size; ERR_CORRUPT where the index says another size), through the cache. */
int record_get(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, struct err *e);
/* The same without asking the bucket: ERR_UNREACHABLE where it lies there. For those who hold others up. */
int record_get_here(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, struct err *e);
/* The same, asking it once: for those who can do without. */
int record_get_briefly(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, struct err *e);
/* The same for those who walk over what nobody holds for them: it may have been given back meanwhile, so that the index does not have it is no
 * damage. As the next two. */
int record_get_perhaps(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, struct err *e);
/* The same for a record whose size is not known before; the caller frees *bytes. */
int record_get_any(struct vault *v, const struct vault_hash *hash, uint8_t **bytes, size_t *size, struct err *e);
/* A record's stored bytes to raw bytes; its parts' pages are read from the vault. One whose own bytes do not hold is
 * marked bad. Takes append_lock itself. how: enum read_flag. */
int record_restore(struct vault *v, const struct record *r, const void *payload, void *raw, unsigned how, struct err *e);
/* Reads and checks what the vault has of it, past the cache: all of it, or its own pages where it is there for others only. */
int record_check(struct vault *v, const struct vault_hash *hash, size_t *size, struct err *e);

/* bad.c */
/* Known to be damaged from now on. In the index, too: at once, or where a transaction that writes is open on this thread, when vault_flush ends; a write that
 * fails is tried again with the next one. Takes append_lock itself. */
void chunk_mark_bad(struct vault *v, const struct vault_hash *hash);
void bad_write(struct vault *v); /* what the index does not say yet; no transaction that writes is open on this thread */
/* With append_lock held: those that were bad and came again are good now. */
void bad_forget(struct vault *v, const struct pending_chunk *chunks, size_t count);

int sync_when_much(struct vault *v, struct err *e); /* without append_lock: what is pending must not grow without end */

/* Ends the segment that is being filled, so that vault_gc can look at it; takes append_lock itself. */
int current_seal(struct vault *v, struct err *e);

/* commit.c: with commit_lock held. Syncs segments and writes everything pending, and what extra adds, in one transaction. */
typedef int flush_extra(struct vault *v, MDB_txn *txn, void *user, struct err *e);
int vault_flush(struct vault *v, flush_extra *extra, void *user, struct err *e);
/* The same where records are made from the index's rows as they are with everything pending: build, which appends them, finds these rows in the transaction. It
 * writes nothing there itself. One commit for both: each costs a disk three flushes. */
int vault_flush_built(struct vault *v, flush_extra *build, flush_extra *extra, void *user, struct err *e);
/* The points that wait, with everything pending: 0; -1: none waits, or nothing was committed, and who waits knows why. commit_point.c, with commit_lock held */
int commit_waiting(struct vault *v);
int meta_next(struct vault *v, MDB_txn *txn, const char *name, uint64_t *value, struct err *e); /* reads, then counts up */
int next_point_put(struct vault *v, MDB_txn *txn, struct err *e); /* where the index does not know it yet */
int segment_row_put(struct vault *v, MDB_txn *txn, const struct segment *s, bool sealed, struct err *e);
int segment_row_get(struct vault *v, uint32_t id, struct segment_row *out, struct err *e); /* 1/0/-1 */
int segment_row_read(MDB_val key, MDB_val value, uint32_t *id, struct segment_row *out, struct err *e); /* one that a walk over INDEX_SEGMENT meets */
struct vault_disk *disk_by_number(struct vault *v, uint32_t number);

/* pending.c */
void pending_release(struct pending *p);
void pending_add(struct pending *p, const struct vault_hash *hash, const struct chunk_place *place, const struct record_pages *pages);
const struct pending_chunk *pending_find(const struct pending *p, const struct vault_hash *hash);
/* NULL: nothing is pending for the chunk. */
const struct vault_hash *pending_map_get(const struct pending *p, uint32_t disk, uint64_t chunk);
void pending_set_map(struct pending *p, uint32_t disk, uint64_t first, uint64_t count, const struct vault_hash *hash);
void pending_done(struct pending *p, size_t chunk_count, size_t set_count, size_t feed_count); /* forgets the first ones */

/* disk.c */
struct work_key { uint8_t bytes[8]; };
struct work_key work_key_make(uint32_t disk, uint64_t leaf);
uint32_t work_key_disk(MDB_val key);
uint64_t work_key_leaf(MDB_val key);
int work_leaf_read(struct vault *v, MDB_txn *txn, uint32_t disk, uint64_t leaf, struct tree_node *out, struct err *e);
#define DISK_KEY_SIZE (LIMIT_NAME_BYTES + 1 + VAULT_DISK_ID_SIZE)
MDB_val disk_key(const char *server, const char *id, char bytes[static DISK_KEY_SIZE]);
int disks_load(struct vault *v, struct err *e); /* where it fails what was loaded before stays, and each flush tries again before it writes */
/* The disk's next tree is made from all rows of its working map, and none of what is stored of it by now. */
int disk_map_anew(struct vault *v, MDB_txn *txn, const char *server, const char *id, struct err *e);
int work_apply(struct vault *v, MDB_txn *txn, const struct pending_set *sets, size_t count, struct err *e);

/* point.c */
int point_parse(const char *text, size_t size, struct vault_point *out, uint64_t *sequence, struct err *e);
char *point_text(const struct vault_point *p, uint64_t sequence); /* the caller frees */
int point_insert(struct vault *v, MDB_txn *txn, const struct vault_point *p, uint64_t sequence, const char *text, struct err *e);
struct vault_hash point_record_hash(const char *text);
void point_name(struct vault *v, struct vault_point *p, uint64_t sequence); /* commit_point.c: sets its id */
/* As vault_point_drop: all, or none where one is pinned or not there. Where the index can't be written then, or not all graves can, those that have one go with the next
 * flush that succeeds. */
int points_drop(struct vault *v, char (*ids)[VAULT_POINT_ID_SIZE], size_t count, struct err *e);
void drop_begin(struct vault *v, const struct drop *d); /* its grave is pending; as what follows, with commit_lock held */
int drops_finish(struct vault *v, MDB_txn *txn, struct err *e); /* takes their rows away; the places of all records are in the transaction */
/* Takes a point's rows away where it is there and not pinned; without the grave that points_drop digs. */
int point_remove(struct vault *v, MDB_txn *txn, const char *id, struct err *e);
int point_pinned(struct vault *v, MDB_txn *txn, const char *point, struct err *e); /* 1/0/-1 */

struct vault_hash grave_hash(const struct vault_hash *record, const char *id, uint8_t payload[static VAULT_HASH_SIZE + VAULT_POINT_ID_SIZE],
                             size_t *size);
/* A grave's payload: 32 bytes record hash of the point, then its id. */
int grave_parse(const uint8_t *payload, size_t size, struct vault_hash *record, char id[static VAULT_POINT_ID_SIZE], struct err *e);

/* pin.c: the row's key, which lies in key. */
int pin_key(const char *point, const char *reason, char key[static VAULT_POINT_ID_SIZE + VAULT_PIN_REASON_SIZE], MDB_val *out, struct err *e);
/* pin_file.c: DIR/pins.json */
#define PINS_LIMIT (32u << 20) /* its bytes, written and read: a pin takes less than 200, but where its reason is of odd characters */
char *pins_path(const struct vault *v); /* the caller frees */
/* *out: [{"point","reason"}], the caller's. ERR_CORRUPT, and ERR_UNSUPPORTED where it is a later version's. */
int pins_parse(const uint8_t vault_id[static VAULT_ID_SIZE], const struct buf *text, json_t **out, struct err *e);
/* With commit_lock held. 1, and *out is [{"point","reason"}], the caller's; 0: there is no file; -1: it can't be read, ERR_UNSUPPORTED: it is a later version's. */
int pins_read(struct vault *v, json_t **out, struct err *e);
/* The file has the index's pins, and one more (a row's key; NULL: none), durably when this returns. */
int pins_write(struct vault *v, const MDB_val *added, struct err *e);
/* As it opens, with all points in the index: kept (NULL: no file) are what pins_read gave. The rows are made of them where the index is made anew; else the index is right. */
int pins_settle(struct vault *v, const json_t *kept, bool anew, struct err *e);
char *json_sum(const json_t *j); /* SHA-256 of its compact text, in hexadecimal digits; the caller frees */

/* group.c */
int group_parse(const char *text, size_t size, struct vault_group *out, struct err *e);
char *group_text(const struct vault_group *g); /* the caller frees */
int group_row(struct vault *v, MDB_txn *txn, const char *id, struct vault_group *out, struct err *e); /* 1/0/-1 */
int group_insert(struct vault *v, MDB_txn *txn, const struct vault_group *g, const char *text, struct err *e);
int group_forget(struct vault *v, MDB_txn *txn, const char *id, struct err *e); /* where none of its points is left */
/* With commit_lock held. */
void staged_keep(struct vault *v, const struct vault_point *p, uint64_t sequence, const char *text);
int staged_each(struct vault *v, int (*visit)(const struct vault_point *p, const struct vault_hash *document, void *user, struct err *e), void *user,
                struct err *e);
void staged_release(struct vault *v);

/* walk.c: visits every name below a root once, top down; zero children are left out. visit returns 1 to go below a node (ignored for
 * chunks, level -1), 0 to leave its subtree out, -1 on failure. A node that can't be read is reported by visit_bad (NULL: fails). */
struct walk {
    struct vault *v;
    int (*visit)(const struct vault_hash *hash, int level, uint64_t first_chunk, void *user, struct err *e);
    int (*visit_bad)(const struct vault_hash *hash, int level, uint64_t first_chunk, const struct err *why, void *user);
    void *user;
    bool perhaps; /* the root may be of a point that is dropped meanwhile */
};
int walk_tree(const struct walk *w, const struct vault_hash *root, uint64_t chunk_count, struct err *e);

/* A row of INDEX_CHUNK; false: it is damaged. vault.c */
bool chunk_row(MDB_val key, MDB_val value, struct vault_hash *hash, struct chunk_place *place);
int records_count(struct vault *v, uint64_t *count, struct err *e); /* that the index knows; vault.c */

/* edges.c: the header and trailer of each segment that is here, as findings. */
int edges_check(struct vault *v, struct vault_report *out, struct err *e);
/* Those that were found damaged are written anew, from the rows; one whose segment is kept in the bucket comes from there. Quick where none was. */
int edges_mend(struct vault *v, struct err *e);
int header_mend(struct vault *v, int fd, uint32_t id, uint32_t key, struct err *e); /* of the segment in fd, durably */

/* recover.c */
int segments_recover(struct vault *v, struct err *e);

static inline uint64_t chunks_of(uint64_t size_bytes) { return (size_bytes + VAULT_CHUNK_BYTES - 1) / VAULT_CHUNK_BYTES; }
/* How much of a chunk lies on the disk: the last one of a disk is filled up with zeros. */
static inline uint32_t chunk_size_at(uint64_t size_bytes, uint64_t index)
{
    uint64_t left = size_bytes - index * VAULT_CHUNK_BYTES;

    return left < VAULT_CHUNK_BYTES ? (uint32_t)left : VAULT_CHUNK_BYTES;
}
