/* session: one connection, of an agent or of another replicator that copies: what session.c, hearing.c, offers.c and copy_in.c share. Everything but what `lock`
 * guards is the session thread's own. */
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
    size_t pages_bytes;    /* of them, so far */
    struct wire_offer offer;
};

struct session {
    struct replicator *r;
    struct peer *p;
    struct wire_conn *conn;
    char address[LIMIT_ADDRESS_BYTES]; /* the agent's */
    atomic_llong heard_us;  /* monotonic: the last frame */
    atomic_bool gives_way;  /* another connection takes its place */
    struct wire_hello hello;
    struct vault_disk disks[LIMIT_DISKS_PER_SERVER]; /* in HELLO's order */
    struct zip *zip;
    uint8_t *chunk; /* room for one */
    struct offer *first, **last;
    unsigned offer_count;
    size_t pages_bytes;     /* of all of these offers */
    uint64_t last_number;   /* of the last OFFER that came */
    struct hash_set asked;  /* chunks asked for since the queue was empty: not asked for again */
    bool barrier;           /* a POINT_COMMIT waits for the offers up to barrier_after */
    uint64_t barrier_after;
    int64_t barrier_us;     /* wall: when it came */
    struct wire_point point;
    struct vault_unreadable unreadable; /* of that point */
    bool copies;                  /* another replicator copies points here: there is no agent and no HELLO */
    struct wire_copy_point *copy; /* the one that it brings; NULL: none now */
    int64_t waits_told_us;        /* monotonic: when it was last told that we wait */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    pthread_t acker;
    bool acker_runs, ending;
    uint64_t applied, acked;
};

/* restore.c: a point on its way back to disks; the life of a connection that began with RESTORE. 0: the other end has said that it holds all. */
int restore_serve(struct replicator *r, struct wire_conn *conn, const struct wire_restore *q, struct err *e);

/* first.c: the first frame: HELLO, which goes to s->hello, or one of these, which is made then (and is the caller's, also where it is refused). */
struct first {
    struct wire_restore *restore;
    struct wire_rescue *rescue;
    struct wire_copy *copy;
    struct wire_failure *trouble; /* an agent that has no disks to name says why */
};
int first_hear(struct session *s, struct first *other, struct err *e);
/* Whose agent it is that has this trouble only the certificate says. */
int first_note_trouble(struct session *s, const struct wire_failure *why, struct err *e);

/* offers.c */
int offers_take(struct session *s, const struct wire_frame *f, struct err *e);      /* an OFFER */
int offers_data(struct session *s, const struct wire_frame *f, struct err *e);      /* a DATA */
int offers_point(struct session *s, const struct wire_frame *f, struct err *e);     /* a POINT_COMMIT */
void offers_release(struct session *s);
int offers_barrier(struct session *s, struct err *e); /* what is committed comes after all offers so far, and before all others */
/* What a point's marks say, its disks by their identities; checked, for it goes into a document. */
int offers_unreadable(const struct session *s, const struct wire_point *p, struct vault_unreadable *out, struct err *e);

/* hearing.c */
int session_hear(struct session *s, const struct wire_frame *f, struct err *e); /* any frame but the first */

/* session.c */
int session_open_disks(struct session *s, struct err *e); /* the server's disks are those of s->hello from now on */
void session_give_way(struct session *s);                 /* it ends, also where it waits for room; p->lock held */
int session_begin(struct session *s, struct err *e);      /* from now on what is applied is acknowledged */

/* copy_in.c: a connection that began with COPY */
int copy_in_begin(struct session *s, const struct wire_copy *q, struct err *e);
int copy_in_point(struct session *s, const struct wire_frame *f, struct err *e);
int copy_in_commit(struct session *s, const struct wire_frame *f, struct err *e);
int copy_in_pins(struct session *s, const struct wire_frame *f, struct err *e);
int copy_in_drop(struct session *s, const struct wire_frame *f, struct err *e);
int copy_in_committed(struct session *s, struct err *e); /* all offers before COPY_COMMIT are applied */
void copy_in_waits(struct session *s, const struct err *why); /* any thread's: the other end is told, now and then */
/* The vault is full: says so in the peer's trouble, waits a while. -1 when the session should end. */
int session_wait_for_room(struct session *s, const struct err *why);
void session_trouble_over(struct session *s);
/* What a machine that restores itself says: 0 when it is written down, over restarts, too, and answered. */
int rescue_hear(struct replicator *r, struct wire_conn *conn, const struct wire_rescue *said, struct err *e);
