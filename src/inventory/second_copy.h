/* second_copy: which replicator keeps a second copy of a server's recovery points. Chosen by api/ (over plan/place.h); here it is kept, with its events. */
#pragma once

#include "base/limits.h"
#include "inventory/inventory.h"

struct second_copy {
    char replicator[LIMIT_NAME_BYTES + 1]; /* "": one is wanted, and none can take it */
    int64_t since_us;
};
/* 1, 0 where none is wanted, -1. */
int second_copy_get(struct store_tx *tx, const char *server, struct second_copy *out, struct err *e);
/* It is kept there from now on (event server.copied), or nowhere for now (replicator ""). The same again only changes the words. */
int second_copy_set(struct store_tx *tx, const char *server, const char *replicator, const char *why, const struct inventory_by *by, struct err *e);
/* None is kept any more (event server.copy_ended where one was). */
int second_copy_end(struct store_tx *tx, const char *server, const struct inventory_by *by, struct err *e);
/* {replicator (null: none can take it), since, why}, or null. */
int second_copy_json(struct store_tx *tx, const char *server, json_t **out, struct err *e);
