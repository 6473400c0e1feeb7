/* copying: which replicator keeps a second copy of a server's points, and what the two are told (docs/replication.md, "Second copies"). */
#pragma once

#include "api/api.h"
#include "api/known.h"
#include "inventory/placement.h"

/* A replicator has reported a server that replicates to it: its second copy is kept where its settings want one. factory: the factory's `replication`; k is
 * loaded when it is needed. */
int copying_settle(struct api *a, struct store_tx *tx, const char *server, const char *replicator, const json_t *factory, struct known *k, const struct inventory_by *by,
                   struct err *e);
/* What a replicator is told: {to: {SERVER: {replicator, address, port}}, from: {SERVER: NAME}}: whose points it brings where, and who may bring whose. */
int copying_orders(struct api *a, struct store_tx *tx, const char *replicator, json_t **out, struct err *e);
/* Adds to each of replicators_json's items what copies it keeps: {copies, copies_stalled, copies_lag_ms}, and their part of what is to come. */
int copying_count(struct store_tx *tx, json_t *items, struct err *e);
/* The second copy of a server whose replicator is lost: who has it, and its newest copied *point (the caller frees). ERR_WRONG_STATE, in words, where there is
 * none, or none at `to` (NULL: wherever). */
int copying_last(struct store_tx *tx, const char *server, const struct placement *p, const char *to, char name[static LIMIT_NAME_BYTES + 1], char **point, struct err *e);
