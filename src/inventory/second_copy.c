#include "inventory/second_copy.h"
#include "inventory/private.h"

#include <stdio.h>
#include <string.h>

int second_copy_get(struct store_tx *tx, const char *server, struct second_copy *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT replicator, since_us FROM second_copy WHERE server = $1", "s", server);

    if (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        snprintf(out->replicator, sizeof out->replicator, "%s", store_text(rows, 0));
        out->since_us = store_int(rows, 1);
    }
    return rc;
}

int second_copy_set(struct store_tx *tx, const char *server, const char *replicator, const char *why, const struct inventory_by *by, struct err *e)
{
    struct second_copy before = {0};
    int found = second_copy_get(tx, server, &before, e);

    if (found < 0)
        return -1;
    if (found && strcmp(before.replicator, replicator) == 0)
        return store_run(tx, e, "UPDATE second_copy SET why = $1 WHERE server = $2 AND why <> $1", "ss", why, server) < 0 ? -1 : 0;
    if (store_run(tx, e, "INSERT INTO second_copy (server, replicator, why, since_us) VALUES ($1, $2, $3, $4)"
                  " ON CONFLICT (server) DO UPDATE SET replicator = excluded.replicator, why = excluded.why, since_us = excluded.since_us",
                  "sssi", server, replicator, why, by->now_us) < 0)
        return -1;
    return inventory_server_event(tx, "server.copied", server, json_pack("{s:s?, s:s}", "replicator", replicator[0] ? replicator : NULL, "why", why), by, e);
}

int second_copy_end(struct store_tx *tx, const char *server, const struct inventory_by *by, struct err *e)
{
    struct second_copy before = {0};
    int found = second_copy_get(tx, server, &before, e);

    if (found <= 0)
        return found;
    if (store_run(tx, e, "DELETE FROM second_copy WHERE server = $1", "s", server) < 0)
        return -1;
    return inventory_server_event(tx, "server.copy_ended", server, json_pack("{s:s?}", "replicator", before.replicator[0] ? before.replicator : NULL), by, e);
}

int second_copy_json(struct store_tx *tx, const char *server, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT replicator, since_us, why FROM second_copy WHERE server = $1", "s", server);

    if (rc < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    *out = rc == 0 ? json_null() : json_pack("{s:s?, s:s}", "replicator", *store_text(rows, 0) ? store_text(rows, 0) : NULL, "why", store_text(rows, 2));
    if (rc)
        json_set_time(*out, "since", store_int(rows, 1));
    return 0;
}
