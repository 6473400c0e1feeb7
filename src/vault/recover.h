/* recover: what recover.c (which segments there are, the points, the index as a whole) and recover_segment.c (one segment) share. */
#pragma once

#include "vault/check.h"
#include "vault/internal.h"
#include "vault/sieve.h"

/* Documents met on the way; looked at when every record is in. */
struct note {
    uint8_t *bytes;
    size_t size;
    struct vault_hash hash;
    enum record_kind kind;
};

struct recovery {
    struct vault *v;
    uint32_t *ids;
    size_t id_count;
    struct note *notes;
    size_t note_count;
    json_t *pins; /* what pins.json says; NULL: there is none */
    bool fresh;   /* the index is made anew: no row says what of a segment was acknowledged, so all that is damaged may have been */
    uint32_t id;  /* of the segment being read */
    uint32_t key; /* of its records, as the last one says: number of a data key, or 0 */
    struct hash_seen whole; /* nodes below which nothing is missing: most of what points name they have in common */
    uint32_t *there; /* segments in the bucket, looked for where the index is made anew; sorted */
    size_t there_count;
};

int by_id(const void *a, const void *b); /* for qsort and bsearch of ids */
/* Takes in the segment r->id, from here or from the bucket. last: it is the newest, and may be gone on with. */
int recover_anywhere(struct recovery *r, bool last, struct err *e);
