#include "api/copying.h"

#include "inventory/second_copy.h"

#include <stdio.h>
#include <string.h>

#define ANY "any"

static bool is_revoked(const json_t *item) { return strcmp(json_get_string(item, "state", ""), "revoked") == 0; }

/* It is worth nothing where the server replicates to, or goes to. */
static bool is_apart(const char *replicator, const char *placed, const char *target)
{
    return *replicator && strcmp(replicator, placed) != 0 && strcmp(replicator, target) != 0;
}

/* ---- where it is kept ---- */

static int settle_named(struct store_tx *tx, const struct known *k, const char *server, const struct placement *p, const char *wanted, const struct inventory_by *by,
                        struct err *e)
{
    const json_t *item = json_find(k->items, "name", wanted);
    CLEANUP(free_ptr) char *why = NULL;
    bool is_here = strcmp(wanted, p->replicator) == 0, is_there = item && !is_revoked(item);

    why = is_here    ? xasprintf("it replicates to %s itself: name another one in copy_to, or any", wanted)
          : is_there ? xstrdup("named in copy_to")
                     : xasprintf("there is no replicator %s, which is named in copy_to", wanted);
    return second_copy_set(tx, server, is_there && !is_here ? wanted : "", why, by, e);
}

static void count_copy(json_t *item, const char *document, int64_t disk_bytes)
{
    CLEANUP(json_free) json_t *r = document ? json_loads(document, 0, NULL) : NULL;
    const json_t *copy = json_object_get(r, "copy");
    bool is_this = strcmp(json_get_string(copy, "to", ""), json_get_string(item, "name", "")) == 0;
    int64_t total = json_get_int(r, "bytes_total", 0), lag_ms = is_this ? json_get_int(copy, "lag_ms", 0) : 0;

    total = total > 0 ? total : disk_bytes;
    known_add(item, "copies", 1);
    known_add(item, "copies_stalled", is_this && strcmp(json_get_string(copy, "state", ""), "STALLED") == 0);
    if (lag_ms > json_get_int(item, "copies_lag_ms", 0))
        json_object_set_new(item, "copies_lag_ms", json_integer(lag_ms));
    known_add(item, "to_come_bytes", !is_this ? total : json_get_string(copy, "point", NULL) || json_get_int(copy, "bytes_total", 0) ? json_get_int(copy, "backlog_bytes", 0) : total);
    if (json_get_int(r, "churn_bytes_per_s", 0) > 0)
        known_add(item, "churn_bytes_per_s", json_get_int(r, "churn_bytes_per_s", 0));
}

/* What was given to one counts when the next is chosen. */
static int count_given(struct store_tx *tx, struct known *k, const char *server, const char *name, struct err *e)
{
    CLEANUP(free_ptr) char *document = NULL;
    int64_t bytes;

    if (known_read(tx, server, &document, &bytes, e) < 0)
        return -1;
    count_copy(json_find(k->items, "name", name), document, bytes);
    known_changed(k, name);
    return 0;
}

/* It stays where it is for as long as it can; a drained one keeps what has no other place. */
static int settle_any(struct api *a, struct store_tx *tx, struct known *k, const char *server, const struct placement *p, const struct second_copy *have,
                      const struct inventory_by *by, struct err *e)
{
    const json_t *item = json_find(k->items, "name", have->replicator);
    bool is_kept = item && !is_revoked(item) && strcmp(have->replicator, p->replicator) != 0;
    CLEANUP(free_ptr) char *why = NULL;
    struct err none = {0};
    const char *name;

    if (is_kept && !json_get_bool(item, "drained", false))
        return 0;
    if (known_load(a, tx, k, e) < 0)
        return -1;
    if (known_choose(tx, k, server, NULL, p->replicator, &name, &why, &none) == 0)
        return second_copy_set(tx, server, name, why, by, e) < 0 ? -1 : count_given(tx, k, server, name, e);
    if (none.kind != ERR_NO_SPACE && none.kind != ERR_UNREACHABLE)
        return err_set(e, none.kind, "%s", none.message);
    return is_kept ? 0 : second_copy_set(tx, server, "", none.message, by, e);
}

int copying_settle(struct api *a, struct store_tx *tx, const char *server, const char *replicator, const json_t *factory, struct known *k, const struct inventory_by *by,
                   struct err *e)
{
    CLEANUP(free_ptr) char *wanted = NULL;
    struct second_copy have = {0};
    struct placement p = {0};
    int found = placement_get(tx, server, &p, e);

    if (found <= 0 || strcmp(p.replicator, replicator) != 0)
        return found < 0 ? -1 : 0; /* it is on its way here: the one before says it still */
    if (inventory_replication_copy_to(tx, server, factory, &wanted, e) < 0 || (found = second_copy_get(tx, server, &have, e)) < 0)
        return -1;
    if (!wanted || !wanted[0])
        return found ? second_copy_end(tx, server, by, e) : 0;
    if (known_look(a, tx, k, e) < 0)
        return -1;
    return strcmp(wanted, ANY) == 0 ? settle_any(a, tx, k, server, &p, &have, by, e) : settle_named(tx, k, server, &p, wanted, by, e);
}

/* ---- what replicators are told ---- */

/* {to: {SERVER: NAME}, from: {SERVER: NAME}} */
static int read_orders(struct store_tx *tx, const char *replicator, json_t *to, json_t *from, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e,
                         "SELECT c.server, c.replicator, p.replicator, COALESCE(p.target, '') FROM second_copy c JOIN placement p ON p.server = c.server"
                         " JOIN server s ON s.name = c.server WHERE s.lifecycle <> 'ARCHIVED' AND (c.replicator = $1 OR p.replicator = $1)", "s", replicator);

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        const char *server = store_text(rows, 0), *kept_at = store_text(rows, 1), *placed = store_text(rows, 2);

        if (!is_apart(kept_at, placed, store_text(rows, 3)))
            continue;
        if (strcmp(kept_at, replicator) == 0)
            json_object_set_new(from, server, json_string(placed));
        else
            json_object_set_new(to, server, json_string(kept_at));
    }
    return rc < 0 ? -1 : 0;
}

int copying_orders(struct api *a, struct store_tx *tx, const char *replicator, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *names = json_object(), *to = json_object(), *placed = json_object(), *from = json_object();
    CLEANUP(known_release) struct known k = {0};
    const char *server;
    json_t *name;

    if (read_orders(tx, replicator, names, placed, e) < 0 || (json_object_size(names) + json_object_size(placed) && known_look(a, tx, &k, e) < 0))
        return -1;
    json_object_foreach(placed, server, name) { /* whose certificates were ended brings nothing */
        const json_t *item = json_find(k.items, "name", json_string_value(name));

        if (item && !is_revoked(item))
            json_object_set(from, server, name);
    }
    json_object_foreach(names, server, name) {
        const json_t *item = json_find(k.items, "name", json_string_value(name));

        if (item && !is_revoked(item) && json_object_get(item, "address"))
            json_object_set_new(to, server, json_pack("{s:O, s:O, s:O}", "replicator", name, "address", json_object_get(item, "address"), "port",
                                                      json_object_get(item, "port")));
    }
    *out = json_pack("{s:O, s:O}", "to", to, "from", from);
    return 0;
}

/* ---- what is said of it ---- */

int copying_count(struct store_tx *tx, json_t *items, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e,
                         "SELECT c.replicator, p.replicator, COALESCE(p.target, ''), r.document,"
                         " CAST(COALESCE((SELECT SUM(d.size_bytes) FROM disk d WHERE d.server = c.server), 0) AS BIGINT) FROM second_copy c"
                         " JOIN placement p ON p.server = c.server JOIN server s ON s.name = c.server LEFT JOIN server_replication r ON r.server = c.server"
                         " WHERE s.lifecycle <> 'ARCHIVED'", "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *item = json_find(items, "name", store_text(rows, 0));

        if (item && is_apart(store_text(rows, 0), store_text(rows, 1), store_text(rows, 2)))
            count_copy(item, store_is_null(rows, 3) ? NULL : store_text(rows, 3), store_int(rows, 4));
    }
    return rc < 0 ? -1 : 0;
}

/* The newest copied point, by the last word of the replicator that copied; NULL: none. The caller frees. */
static int read_point(struct store_tx *tx, const char *server, const char *kept_at, char **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *r = NULL;
    const json_t *copy;
    int rc = store_query(tx, &rows, e, "SELECT document FROM server_replication WHERE server = $1", "s", server);

    if (rc < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    r = rc ? json_loads(store_text(rows, 0), 0, NULL) : NULL;
    copy = json_object_get(r, "copy");
    if (strcmp(json_get_string(copy, "to", ""), kept_at) == 0 && json_get_string(copy, "point", NULL))
        *out = xstrdup(json_get_string(copy, "point", ""));
    return 0;
}

int copying_last(struct store_tx *tx, const char *server, const struct placement *p, const char *to, char name[static LIMIT_NAME_BYTES + 1], char **point, struct err *e)
{
    struct second_copy have = {0};
    int found = second_copy_get(tx, server, &have, e);

    if (found < 0)
        return -1;
    if (!found || !have.replicator[0] || strcmp(have.replicator, p->replicator) == 0)
        return err_set(e, ERR_WRONG_STATE, "no second copy of %.128s is kept: its points are lost with %s. Give it to another replicator (without --lost): all is copied anew", server,
                       p->replicator);
    if (to && strcmp(to, have.replicator) != 0)
        return err_set(e, ERR_WRONG_STATE, "its second copy is on %s, not on %.128s", have.replicator, to);
    if (read_point(tx, server, have.replicator, point, e) < 0)
        return -1;
    if (!*point)
        return err_set(e, ERR_WRONG_STATE, "no point of %.128s had been copied to %s yet: give it to another replicator (without --lost)", server, have.replicator);
    memcpy(name, have.replicator, sizeof have.replicator);
    return 0;
}
