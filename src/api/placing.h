/* placing: which replicator a server is given to, and how it gets to another. */
#pragma once

#include "api/api.h"

/* Adds to each of replicators_json's items what it has been given: {drained, servers, moving_in, to_come_bytes, churn_bytes_per_s, full_percent,
 * busy_percent, address, port}. */
int placing_describe(struct store_tx *tx, json_t *items, struct err *e);
/* For a task's document: settings.replicator becomes the server's own: {name, address, port, control_socket, why}. push_agent places a server that is
 * nowhere yet; it fails where no replicator can take it, and where the one that has it does not report. */
int placing_complete(struct api *a, struct store_tx *tx, const struct workflow_claimed *what, json_t *settings, struct err *e);
/* The label of runners beside it, "" for the factory's own. The caller frees. */
int placing_beside(struct store_tx *tx, const char *replicator, char **out, struct err *e);
/* A replicator (and its label, as above) reports a server: 1 what it says counts, 0 another's does, -1. */
int placing_seen(struct store_tx *tx, const char *replicator, const char *beside, const json_t *said, const struct inventory_by *by, struct err *e);
/* {SERVER: {replicator, address, port}} of those servers that are to go elsewhere, where that one is up. */
int placing_orders(struct api *a, struct store_tx *tx, const char *replicator, const json_t *servers, json_t **out, struct err *e);
