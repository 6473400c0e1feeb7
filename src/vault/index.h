/* index: the vault's LMDB environment: where each chunk lies, the disks' working maps, the points. All of it but the working maps can
 * be made again: from the segments, and the pins from the file beside it (pin_file.c). Keys with numbers hold them big-endian, so that LMDB's order is theirs. */
#pragma once

#include "vault/hash.h"

#include <lmdb.h>

enum index_table {
    INDEX_CHUNK,   /* hash → struct chunk_place */
    INDEX_DISK,    /* server NUL disk → struct disk_row */
    INDEX_WORK,    /* disk number u32, leaf u32 → 64 hashes; an empty value: all zero */
    INDEX_DIRTY,   /* disk number u32, leaf u32 → nothing: differs from the disk's root */
    INDEX_POINT,   /* point id → the document as in its record */
    INDEX_GROUP,   /* group id → its document as in its record: for as long as one of its points is there */
    INDEX_ORDER,   /* server NUL sequence u64 → point id: in the order of commits, whatever the clock did */
    INDEX_FEED,    /* server → struct vault_feed */
    INDEX_PIN,     /* point id NUL reason → nothing */
    INDEX_SEGMENT, /* segment u32 → struct segment_row */
    INDEX_GRAVE,   /* hash of a grave's record → u32: the segment that holds the record of the point it covers */
    INDEX_BAD,     /* hash of a chunk found damaged → time i64 */
    INDEX_BASE,    /* hash of a chunk whose record does not hold all of it → struct record_pages, without unused parts; of version 1: base, mask */
    INDEX_META,    /* "vault_id", "next_segment", "next_disk", "next_point" */
    INDEX_TABLES
};

struct chunk_place {
    uint32_t segment, offset, stored_size, raw_size;
    uint32_t kind;
};

struct disk_row {
    uint32_t number, depth;
    uint64_t size_bytes, known_count; /* chunks of the working map that are not unknown */
    struct vault_hash root;           /* of the newest committed point, in a tree of that depth */
};

/* What a segment's row says of it. */
enum segment_flag {
    SEGMENT_SEALED = 1, /* it is full and never changes */
    SEGMENT_SENT = 2,   /* something of it may be in the bucket */
    SEGMENT_KEPT = 4,   /* it is there, whole: its file may go */
    SEGMENT_DOOMED = 8, /* nothing in it is in use and its file is gone; the object is to go, and then the row */
    SEGMENT_AGAIN = 16, /* it was sent more than once: what became of a time before nobody knows */
};

struct segment_row {
    uint64_t committed; /* the index holds nothing that lies after */
    uint32_t record_count;
    uint16_t flags, key; /* key: of the data its number, 0: it is not encrypted */
};

struct vault_index {
    MDB_env *env;
    MDB_dbi table[INDEX_TABLES];
};

/* Makes it where it is not there; its name is for the caller to sync. What it holds then is durable. */
int index_open(const char *dir, struct vault_index *out, struct err *e);
void index_close(struct vault_index *x);
/* One that writes waits for every other one, of this thread too: so a thread has one of them at most, and must not begin another (index_writes_here). */
int index_begin(const struct vault_index *x, bool write, MDB_txn **out, struct err *e);
bool index_writes_here(void); /* this thread has a transaction open that writes */
int index_commit(MDB_txn **txn, struct err *e); /* *txn is NULL after, whatever happened */
void index_abort(MDB_txn **txn);                /* for CLEANUP */
void index_cursor_close(MDB_cursor **cursor);   /* for CLEANUP; before the transaction's end */

/* 1/0/-1; *value lies in the index until the transaction ends. */
int index_get(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, MDB_val *value, struct err *e);
int index_put(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, MDB_val value, struct err *e);
int index_del(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, struct err *e); /* absent is fine */
/* Rows whose key starts with prefix, in order. The visitor returns 0 to go on, 1 to stop, -1 on failure. */
typedef int index_visit(MDB_val key, MDB_val value, void *user, struct err *e);
int index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user,
               struct err *e);
int index_del_prefix(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, struct err *e);
int index_count(const struct vault_index *x, MDB_txn *txn, enum index_table t, uint64_t *count, struct err *e);
const char *index_table_name(enum index_table t);
/* What a table takes, in whole pages; those that are free are no table's. */
int index_table_bytes(const struct vault_index *x, MDB_txn *txn, enum index_table t, uint64_t *bytes, struct err *e);
int index_fail(struct err *e, int code, const char *what);

static inline MDB_val index_val(const void *bytes, size_t size) { return (MDB_val){size, (void *)bytes}; }
