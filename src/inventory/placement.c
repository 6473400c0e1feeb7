#include "inventory/placement.h"
#include "inventory/private.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

#define SEEN_LONG_US (15 * US_PER_S) /* an agent that nobody has had for so long is the placed replicator's to report */

static void copy_name(char to[static LIMIT_NAME_BYTES + 1], const char *from) { snprintf(to, LIMIT_NAME_BYTES + 1, "%s", from ? from : ""); }

int placement_get(struct store_tx *tx, const char *server, struct placement *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT replicator, target, seen_at, seen_us, since_us FROM placement WHERE server = $1", "s", server);

    if (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        copy_name(out->replicator, store_text(rows, 0));
        copy_name(out->target, store_is_null(rows, 1) ? "" : store_text(rows, 1));
        copy_name(out->seen_at, store_text(rows, 2));
        out->seen_us = store_int(rows, 3);
        out->since_us = store_int(rows, 4);
    }
    return rc;
}

const char *placement_wanted(const struct placement *p) { return p->target[0] ? p->target : p->replicator; }

int placement_set(struct store_tx *tx, const char *server, const char *replicator, const char *beside, const char *why, const struct inventory_by *by, struct err *e)
{
    if (store_run(tx, e, "INSERT INTO placement (server, replicator, beside, target, why, since_us, seen_at, seen_us) VALUES ($1, $2, $3, NULL, $4, $5, '', 0)"
                  " ON CONFLICT (server) DO UPDATE SET replicator = excluded.replicator, beside = excluded.beside, target = NULL, why = excluded.why,"
                  " since_us = excluded.since_us", "ssssi", server, replicator, beside, why, by->now_us) < 0)
        return -1;
    return inventory_server_event(tx, "server.placed", server, json_pack("{s:s, s:s}", "replicator", replicator, "why", why), by, e);
}

int placement_move(struct store_tx *tx, const char *server, const char *target, const char *why, const struct inventory_by *by, struct err *e)
{
    struct placement p;
    bool stays;
    int found = placement_get(tx, server, &p, e);

    if (found <= 0)
        return found < 0 ? -1 : err_set(e, ERR_WRONG_STATE, "the server %.128s replicates to nobody yet", server);
    if (strcmp(placement_wanted(&p), target) == 0)
        return 0;
    stays = strcmp(target, p.replicator) == 0;
    if (store_run(tx, e, "UPDATE placement SET target = $1, why = $2, since_us = $3 WHERE server = $4", "ssis", stays ? NULL : target, why, by->now_us, server) < 0)
        return -1;
    return inventory_server_event(tx, stays ? "server.staying" : "server.moving", server,
                json_pack("{s:s, s:s, s:s}", "from", stays ? p.target : p.replicator, "to", target, "why", why), by, e);
}

static int is_known(struct store_tx *tx, const char *server, struct err *e)
{
    int64_t count = 0;

    return store_one_int(tx, &count, e, "SELECT COUNT(*) FROM server WHERE name = $1", "s", server) < 0 ? -1 : count > 0;
}

static int arrived(struct store_tx *tx, const struct placement_report *r, const struct placement *p, const struct inventory_by *by, struct err *e)
{
    if (store_run(tx, e, "UPDATE placement SET replicator = $1, beside = $2, target = NULL, since_us = $3 WHERE server = $4", "ssis", r->replicator, r->beside, by->now_us,
                  r->server) < 0)
        return -1;
    return inventory_server_event(tx, "server.moved", r->server, json_pack("{s:s, s:s}", "from", p->replicator, "to", r->replicator), by, e);
}

int placement_seen(struct store_tx *tx, const struct placement_report *r, const struct inventory_by *by, struct err *e)
{
    struct placement p = {0};
    int found = placement_get(tx, r->server, &p, e);
    bool is_target, is_its;

    if (found < 0)
        return -1;
    if (!found) {
        int known = is_known(tx, r->server, e);

        if (known <= 0)
            return known < 0 ? -1 : 1; /* nobody's: whoever keeps the report says so */
        if (r->connected && placement_set(tx, r->server, r->replicator, r->beside, "its agent is there", by, e) < 0)
            return -1;
        copy_name(p.replicator, r->replicator);
    }
    is_target = strcmp(r->replicator, p.target) == 0;
    is_its = strcmp(r->replicator, p.replicator) == 0;
    if (!r->connected) /* who had it last; the placed one where nobody has had it for long */
        return strcmp(r->replicator, p.seen_at) == 0 || (is_its && by->now_us - p.seen_us > SEEN_LONG_US);
    if (!is_target && !is_its)
        return 0;
    if (store_run(tx, e, "UPDATE placement SET seen_at = $1, seen_us = $2 WHERE server = $3", "sis", r->replicator, by->now_us, r->server) < 0)
        return -1;
    return is_target && r->pointed && arrived(tx, r, &p, by, e) < 0 ? -1 : 1;
}

int placement_json(struct store_tx *tx, const char *server, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT replicator, target, since_us, why FROM placement WHERE server = $1", "s", server);

    if (rc < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    *out = rc == 0 ? json_null() : json_pack("{s:s, s:s?, s:s}", "replicator", store_text(rows, 0), "to", store_is_null(rows, 1) ? NULL : store_text(rows, 1), "why",
                                             store_text(rows, 3));
    if (rc)
        json_set_time(*out, "since", store_int(rows, 2));
    return 0;
}
