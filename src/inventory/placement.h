/* placement: to which replicator a server replicates, and where it moves to. Chosen by api/ (over plan/place.h); here it is kept, with its
 * events, and held against what replicators report. */
#pragma once

#include "base/limits.h"
#include "inventory/inventory.h"

struct placement {
    char replicator[LIMIT_NAME_BYTES + 1]; /* whose points are launched */
    char target[LIMIT_NAME_BYTES + 1];     /* where it moves to; "": it does not */
    char seen_at[LIMIT_NAME_BYTES + 1];    /* which replicator last had its agent; "": none yet */
    int64_t seen_us, since_us;
};
/* 1, 0 where it is nowhere yet, -1. */
int placement_get(struct store_tx *tx, const char *server, struct placement *out, struct err *e);
/* Where its agent is to be: the target while it moves. */
const char *placement_wanted(const struct placement *p);

/* Places it (event server.placed). beside: the label of runners that stand beside that replicator, "" where "replicator" is enough. */
int placement_set(struct store_tx *tx, const char *server, const char *replicator, const char *beside, const char *why, const struct inventory_by *by, struct err *e);
/* Begins a move (server.moving), or, to where it is, ends one (server.staying). It must be placed. */
int placement_move(struct store_tx *tx, const char *server, const char *target, const char *why, const struct inventory_by *by, struct err *e);

struct placement_report {
    const char *server, *replicator;
    const char *beside; /* of that replicator, as above */
    bool connected;     /* its agent is there */
    bool pointed;       /* and a point was committed since it came */
};
/* A replicator reports a server: ends a move with the first point at its target (server.moved), and places a server that was nowhere. 1: what is
 * reported is the server's replication of now; 0: another replicator's word counts; -1. */
int placement_seen(struct store_tx *tx, const struct placement_report *r, const struct inventory_by *by, struct err *e);

/* {replicator, to, since, why}, or null. */
int placement_json(struct store_tx *tx, const char *server, json_t **out, struct err *e);
