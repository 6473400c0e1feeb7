/* copy: a server's points on their way to a second replicator: what copy_plan.c (which one is next) and copy_out.c (how it gets there) share. One thread a server. */
#pragma once

#include "replicator/sender.h"

struct copier {
    struct replicator *r;
    struct peer *p;
    struct place to;
    struct wire_conn *conn;
    struct wire_copying there; /* its answer to COPY, kept up with what was committed since */
    int64_t request, heard_us;
    bool dropping;                   /* all of the server is to go from there: no order stops that */
    bool whole;                      /* all of the next point is offered: what is there was not what was thought */
    uint64_t salt;                   /* of epochs of whole points: another one where the last did not lead to a point */
    char avoid[VAULT_POINT_ID_SIZE]; /* a point that can't be read here; "": none */
    json_t *pins_told;               /* NULL: nothing over this connection */
    int64_t pins_due_us, free_us;    /* monotonic */
    struct sender sender;
};

/* What is to be copied next, and what from. */
struct copy_plan {
    struct vault_point point, base;
    bool has_base; /* only what differs from base is offered */
    char epoch[WIRE_TOKEN_SIZE];
};

/* copy_link.c */
#define COPIER_LOOK_MS 300 /* for an end, or a newer point */
bool copier_goes_on(struct copier *c); /* its order stands, and the replicator does not stop */
void copier_rest(struct copier *c, int64_t duration_us); /* or less, where it does not go on */
int copier_dial(struct copier *c, struct err *e); /* COPY is answered: c->there */
void copier_hang_up(struct copier *c);            /* one that was never dialled is fine */
/* 1: a frame that means something; 0: none within the time; -1: it ends, by what the other end says, too. */
int copier_hear(struct copier *c, struct wire_frame *f, int timeout_ms, struct err *e);
/* The answer to the last request: a struct wire_simple of that type, or (or_type, *got_type) POINT_DONE. POINT_FAILED is its failure. value may be NULL. */
int copier_hear_answer(struct copier *c, unsigned type, unsigned or_type, unsigned *got_type, int64_t *value, struct err *e);
int copier_hear_pinned(struct copier *c, struct wire_copy_pinned *out, struct err *e);
void copier_note_trouble(struct copier *c, const struct err *why);
void copier_trouble_over(struct copier *c);
void copier_note_way(struct copier *c, const struct copy_plan *plan, uint64_t total_chunks, uint64_t done_chunks); /* plan NULL: none is under way */
void copier_note_done(struct copier *c, const struct copy_plan *plan);

/* copy_plan.c */
/* 1: *out; 0: what is newest is there; -1. Pins the two points, and lets go of those before. */
int copy_plan_next(struct copier *c, struct copy_plan *out, struct err *e);
/* What people keep: [{point, reason}], the caller's. */
int copy_plan_pins(struct copier *c, json_t **out, struct err *e);
int copy_plan_kept(struct copier *c, const struct wire_pin *pin, struct err *e); /* by a person; 1/0/-1 */
void copy_plan_describe(struct copier *c, const struct copy_plan *plan, struct wire_copy_point *out); /* with its group, where it is of one */
