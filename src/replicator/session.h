/* session: one agent's connection: what session.c and offers.c share. Everything but what `lock` guards is the session thread's own. */
#pragma once

#include "base/zip.h"
#include "replicator/private.h"

#define WINDOW_OFFERS 64

/* An OFFER that is not applied yet; entries[] holds only the offer's count. */
struct offer {
    struct offer *next;
    unsigned missing;      /* asked for and not here yet */
    struct wire_need need; /* which */
    uint8_t **pages;       /* by entry: the new pages of a chunk, once they are here; NULL where no entry has any */
    struct wire_offer offer;
};

struct session {
    struct replicator *r;
    struct peer *p;
    struct wire_conn *conn;
    char address[LIMIT_ADDRESS_BYTES]; /* the agent's */
    atomic_llong heard_us;  /* monotonic: the last frame */
    struct wire_hello hello;
    struct vault_disk disks[LIMIT_DISKS_PER_SERVER]; /* in HELLO's order */
    struct zip *zip;
    uint8_t *chunk; /* room for one */
    struct offer *first, **last;
    unsigned offer_count;
    uint64_t last_number;   /* of the last OFFER that came */
    struct hash_set asked;  /* chunks asked for since the queue was empty: not asked for again */
    bool barrier;           /* a POINT_COMMIT waits for the offers up to barrier_after */
    uint64_t barrier_after;
    int64_t barrier_us;     /* wall: when it came */
    struct wire_point point;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    pthread_t acker;
    bool acker_runs, ending;
    uint64_t applied, acked;
};

/* restore.c: a point on its way back to disks; the life of a connection that began with RESTORE. 0: the other end has said that it holds all. */
int restore_serve(struct replicator *r, struct wire_conn *conn, const struct wire_restore *q, struct err *e);

/* offers.c */
int offers_take(struct session *s, const struct wire_frame *f, struct err *e);      /* an OFFER */
int offers_data(struct session *s, const struct wire_frame *f, struct err *e);      /* a DATA */
int offers_point(struct session *s, const struct wire_frame *f, struct err *e);     /* a POINT_COMMIT */
void offers_release(struct session *s);
/* The vault is full: says so in the peer's trouble, waits a while. -1 when the session should end. */
int session_wait_for_room(struct session *s, const struct err *why);
void session_trouble_over(struct session *s);
