/* bucket: the vault's full segments in an S3-compatible store, and their files here as a cache before it. Threads of its own send what is full, some at once; one
 * removes what nothing uses, brings whole what is read much, and drops files that have been verified there, the least recently used first; one holds the claim to
 * write there.
 *
 * What is dropped here leaves its maps: NNNNNNNNNN.maps holds the segment's records but its chunks, each at its own offset, so that points are
 * made, points are looked through and space is given back without the network. Only chunks are read from the store. The segment's row in the
 * index (enum segment_flag) says how far it is: SENT before the first byte travels, KEPT when the store has it for certain.
 *
 * Locks: the bucket's own is the last of all, and nothing is asked of the store under any. */
#pragma once

#include "vault/index.h"
#include "vault/record.h"
#include "vault/vault.h"

struct bucket;
struct vault;

/* Reads credentials; asks nobody yet. */
int bucket_open(struct vault *v, const struct vault_bucket *options, struct bucket **out, struct err *e);
/* It is this vault's, and nobody else writes there: ERR_CONFLICT where somebody does, perhaps after a while (bucket_claim.c). The vault's own vault.json is there.
 * taken_over: it came from the bucket: a store that does not answer is a failure. */
int bucket_begin(struct bucket *b, bool taken_over, struct err *e);
int bucket_may_append(struct bucket *b, struct err *e); /* ERR_CONFLICT: somebody else is this vault now */
int bucket_start(struct bucket *b, struct err *e); /* its threads; the index is open */
void bucket_close(struct bucket **b);              /* NULL inside is fine */
void bucket_want(struct bucket *b, uint32_t segment); /* its file is to be brought whole, in the place of one that is damaged */
void bucket_mended(struct bucket *b, uint32_t segment); /* its file was damaged, and may be sent now; NULL is fine */
void bucket_stir(struct bucket *b);                /* there may be something to do; NULL is fine */
/* {"url","bucket","prefix"}: for vault.json */
json_t *bucket_place(const struct bucket *b);

/* ---- reading ---- */
enum read_flag {
    READ_CACHED = 1,  /* of unpacked chunks */
    READ_HERE = 2,    /* asks no store: ERR_UNREACHABLE */
    READ_BRIEFLY = 4, /* asks it once, and not while it is in trouble: ERR_UNREACHABLE */
    READ_PERHAPS = 8, /* it may have been given back meanwhile: that the index does not have it is no damage */
};
/* The record at that place, whose segment has no file here (or a damaged one): from the maps, or from the store, waiting as long as the options
 * say (ERR_UNREACHABLE, whatever the store's reason). scratch: header and stored bytes. ERR_NOT_FOUND: it is not kept there either, or not any more: look its place up again. ERR_CORRUPT: the
 * store gave the wrong bytes twice. */
int bucket_read(struct vault *v, const struct chunk_place *place, unsigned how, uint8_t *scratch, struct record *out, struct err *e);
void bucket_used(struct bucket *b, uint32_t segment); /* its file was read; NULL is fine */

/* The file at path is a whole sealed segment of this vault, with what its row (may be NULL) says: 0; ERR_CORRUPT. */
int segment_look(const struct vault *v, uint32_t id, const char *path, const struct segment_row *row, struct err *e);
int bucket_missing(const struct vault *v, struct err *e); /* ERR_UNREACHABLE: words on a bucket that is needed and not open */
/* Whether something of the vault may lie in a bucket, as the index says: 1/0/-1. */
int bucket_was_used(struct vault *v, struct err *e);

/* ---- vault_gc ---- */
/* The segment's file is here, whole, and stays until another is held (0: none). One that never was in a bucket is here. ERR_UNREACHABLE: it lies in a bucket that is
 * not open. */
int bucket_hold(struct vault *v, uint32_t segment, struct err *e);

/* ---- making an index anew ---- */
/* vault.json as it lies there: 1/0/-1. */
int bucket_superblock(struct bucket *b, struct buf *out, struct err *e);
/* Numbers of the segments in the bucket, added to *ids; what it can't tell is an error. */
int bucket_list(struct bucket *b, uint32_t **ids, size_t *count, struct err *e);
/* The segment's file, as it lies there, in the place of what is here. whole: or not at all, where it is damaged there (ERR_CORRUPT). */
int bucket_fetch(struct bucket *b, uint32_t segment, bool whole, struct err *e);
/* The pins as they lie there become this vault's file of them: 1; 0: none lie there; -1. */
int bucket_pins_take(struct bucket *b, struct err *e);
/* Its row says that it is there: whole (where the file here is), or something of it. Drops files where there are too many. */
int bucket_found(struct bucket *b, uint32_t segment, struct err *e);

/* Sets flags in the segment's row where it is there and not doomed (1; else 0), in a transaction of its own. */
int row_flag(struct vault *v, uint32_t id, uint16_t set, struct err *e);

struct vault_stat;
void bucket_stat(struct bucket *b, struct vault_stat *s);
