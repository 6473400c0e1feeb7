/* sender: chunks of a point's disks on their way over a connection: offered in order, disk after disk, with numbers from 1 on and never with pages; what
 * the other end lacks is sent. Used by one thread. Who takes part, and what else is said, is its user's matter. */
#pragma once

#include "base/zip.h"
#include "replicator/private.h"

#define SENDER_WINDOW_MOST 16u

struct sender {
    struct wire_conn *conn;                              /* borrowed */
    struct vault_image *images[LIMIT_DISKS_PER_SERVER];  /* owned, as the bases are; set before sender_begin */
    struct vault_image *bases[LIMIT_DISKS_PER_SERVER];   /* of the same sizes: only what differs from them is offered. NULL: every chunk is */
    size_t disk_count;
    unsigned offer_chunks, window_offers; /* in one offer; without ACK */
    size_t data_bytes;                    /* a frame is sent when it holds as much */
    void (*sends)(void *user);              /* before each frame of DATA, and after it; NULL: nobody */
    void (*sent)(void *user, size_t bytes);
    void *user;

    struct wire_offer *window;         /* by number */
    uint64_t offered, answered, acked; /* numbers: of the last OFFER, of the last NEED, of the last ACK */
    size_t disk;                       /* to offer next; may be set before sender_begin: what lies before it is not offered */
    uint64_t chunk;
    bool all_offered;
    struct zip *zip;
    uint8_t *raw, *packed; /* a chunk each */
    uint64_t sent_bytes, acked_chunks; /* what was skipped counts as acknowledged */
};

/* applied: as many offers were applied there before, and are left out (the same point, base and offer_chunks make the same offers). */
int sender_begin(struct sender *s, uint64_t applied, struct err *e);
void sender_release(struct sender *s); /* {0} is fine; for CLEANUP */
/* Sends the next offer. Only where sender_may_offer. */
int sender_offer(struct sender *s, struct err *e);
static inline bool sender_may_offer(const struct sender *s) { return !s->all_offered && s->offered - s->acked < s->window_offers; }
static inline bool sender_is_done(const struct sender *s) { return s->all_offered && s->acked == s->offered; }
/* NEED and ACK. 1: it was one of them; 0: it is not the sender's; -1. */
int sender_hear(struct sender *s, const struct wire_frame *f, struct err *e);
