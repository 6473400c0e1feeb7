/* What replicators say: each server's replication goes into the inventory and to whoever listens; what a replicator tells of itself and
 * its vault is kept as its last word. */
#include "api/api.h"
#include "api/copying.h"
#include "api/placing.h"
#include "api/routes.h"
#include "api/sharing.h"
#include "base/clock.h"
#include "base/limits.h"

#include <string.h>

#define POINTS_KEPT 8 /* of each server: as many as a replicator says */

int replicators_keep(struct store_tx *tx, const char *name, const json_t *status, int64_t now_us, struct err *e)
{
    CLEANUP(free_ptr) char *text = json_text(status);

    return store_run(tx, e, "INSERT INTO replicator_status (name, seen_us, status) VALUES ($1, $2, $3)"
                     " ON CONFLICT (name) DO UPDATE SET seen_us = excluded.seen_us, status = excluded.status",
                     "sis", name, now_us, text) < 0 ? -1 : 0;
}

static int add_status(struct store_tx *tx, json_t *item, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    json_t *status;
    int found;

    if (store_query(tx, &rows, e, "SELECT seen_us, status FROM replicator_status WHERE name = $1", "s", json_get_string(item, "name", "")) < 0)
        return -1;
    found = store_next(rows, e);
    if (found <= 0)
        return found;
    json_set_time(item, "status_at", store_int(rows, 0));
    status = json_loads(store_text(rows, 1), 0, NULL);
    if (status)
        json_object_update_missing(item, status);
    json_decref(status);
    return 0;
}

int replicators_list(struct api *a, struct store_tx *tx, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *items = NULL;
    json_t *item;
    size_t index;

    if (identity_peers_json(a->identity, tx, ACTOR_REPLICATOR, &items, e) < 0)
        return -1;
    json_array_foreach(items, index, item)
        if (add_status(tx, item, e) < 0)
            return -1;
    *out = json_incref(items);
    return 0;
}

int replicators_json(struct api *a, struct store_tx *tx, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *items = NULL;

    if (replicators_list(a, tx, &items, e) < 0 || placing_describe(tx, items, e) < 0)
        return -1;
    *out = json_incref(items);
    return 0;
}

int route_replicators(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *items = NULL;

    if (api_read(c, &tx, e) < 0)
        return -1;
    return api_reply_items(c, replicators_json(api_of(c), tx, &items, e), &items);
}

static void set_cause(json_t *replication, const char *kind, enum err_kind error, json_t *text, const char *advice)
{
    json_object_set_new(replication, "state", json_string("UNKNOWN"));
    json_object_set_new(replication, "error", json_pack("{s:s, s:O}", "kind", err_meaning(error)->name, "message", text));
    json_object_set_new(replication, "cause", json_pack("{s:s, s:s, s:o, s:s}", "kind", kind, "severity", "error", "text", text, "advice", advice));
}

/* In the place of what is too long to be kept: none of it is shown, which it says. */
static json_t *too_long(const json_t *said, size_t size)
{
    json_t *replication = json_pack("{s:b}", "connected", json_get_bool(said, "connected", false));

    set_cause(replication, "report_too_long", ERR_LIMIT,
              json_sprintf("its replicator says %zu bytes of this server's replication, and at most %d are kept: none of it is shown", size,
                           LIMIT_EVIDENCE_TEXT_BYTES),
              "ask the replicator itself on its machine (`slipway vault`, `slipway point list`); this is a mistake of Slipway's, and worth a report");
    return replication;
}

/* Of the newest points what people look for: when, and how each was taken. */
static json_t *points_of(const json_t *said)
{
    static const char *const members[] = {"id", "at", "consistency", "freeze_ms", "group", "group_window_us"};
    json_t *points = json_array(), *point;
    size_t i;

    json_array_foreach(json_object_get(said, "points"), i, point) {
        json_t *kept = json_object();

        if (i == POINTS_KEPT)
            break;
        for (size_t m = 0; m < ARRAY_COUNT(members); m++) {
            json_t *value = json_object_get(point, members[m]);

            json_object_set_new(kept, members[m], json_is_integer(value) || json_is_string(value) ? json_incref(value) : json_null());
        }
        json_array_append_new(points, kept);
    }
    return points;
}

/* What is kept of it. The caller frees. */
static json_t *kept_of(const json_t *said)
{
    CLEANUP(json_free) json_t *replication = json_copy((json_t *)(uintptr_t)said);
    CLEANUP(free_ptr) char *text = NULL, *with_points = NULL;

    json_object_del(replication, "server"); /* the rest is its replication */
    json_object_del(replication, "points");
    text = json_text(replication);
    if (strlen(text) > LIMIT_EVIDENCE_TEXT_BYTES)
        return too_long(said, strlen(text));
    json_object_set_new(replication, "points", points_of(said));
    with_points = json_text(replication);
    if (strlen(with_points) > LIMIT_EVIDENCE_TEXT_BYTES)
        json_object_del(replication, "points"); /* `slipway point list` has them */
    return json_incref(replication);
}

/* Its state is none here: of a newer replicator. */
static void without_state(const json_t *said, json_t **replication)
{
    const char *state = json_get_string(*replication, "state", "");
    bool is_name = *state && strlen(state) <= LIMIT_NAME_BYTES && strspn(state, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == strlen(state);
    CLEANUP(free_ptr) char *text = NULL;

    set_cause(*replication, "state_unknown", ERR_UNSUPPORTED,
              json_sprintf("its replicator says a state of it that this factory does not know: %s", is_name ? state : "no name of one"),
              "bring this factory to the release of its replicator: as long as its state is not known nothing goes on that rests on it");
    json_object_del(*replication, "points");
    text = json_text(*replication);
    if (strlen(text) <= LIMIT_EVIDENCE_TEXT_BYTES)
        return;
    json_decref(*replication);
    *replication = too_long(said, strlen(text));
}

/* Its second copy is kept where it is wanted, as soon as the server is seen. */
static int settle_copies(struct http_call *c, struct store_tx *tx, const json_t *servers, const struct inventory_by *by, struct err *e)
{
    CLEANUP(known_release) struct known k = {0};
    CLEANUP(json_free) json_t *settings = NULL;
    json_t *said;
    int64_t version;
    size_t index;

    if (settings_read(tx, &settings, &version, e) < 0)
        return -1;
    json_array_foreach(servers, index, said)
        if (copying_settle(api_of(c), tx, json_get_string(said, "server", ""), c->who.name, json_object_get(settings, "replication"), &k, by, e) < 0)
            return err_wrap(e, "the second copy of %.128s", json_get_string(said, "server", ""));
    return 0;
}

/* One server's part: 1 kept, 0 not one of ours, -1. */
static int keep_server(struct store_tx *tx, const char *replicator, const char *beside, const json_t *said, const struct inventory_by *by, struct err *e)
{
    CLEANUP(json_free) json_t *replication = NULL;
    const char *server;
    int counts;

    server = json_get_string(said, "server", NULL);
    if (!server)
        return 0; /* whose it is nobody can tell */
    counts = placing_seen(tx, replicator, beside, said, by, e);
    if (counts == 0)
        return 1; /* another replicator has it by now: here lie points of before */
    replication = kept_of(said);
    if (counts > 0 && (counts = inventory_server_set_replication(tx, server, replication, by, e)) < 0 && e->kind == ERR_INVALID) {
        err_clear(e); /* what can't be read of one server is that server's trouble alone */
        without_state(said, &replication);
        counts = inventory_server_set_replication(tx, server, replication, by, e);
    }
    if (counts < 0) {
        if (e->kind != ERR_NOT_FOUND)
            return err_wrap(e, "the server %s", server);
        err_clear(e);
        return 0;
    }
    return workflow_replication_seen(tx, server, replication, by->now_us, e) < 0 ? -1 : 1;
}

/* The console sees a server's replication move without asking. What is sent is what GET /v1/servers/{server} would say now. */
static void broadcast(struct http_call *c, const json_t *servers)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *said;
    size_t index;

    if (api_read(c, &tx, NULL) < 0)
        return;
    json_array_foreach(servers, index, said) {
        CLEANUP(json_free) json_t *server = NULL;
        CLEANUP(free_ptr) char *text = NULL;
        json_t *replication;

        if (inventory_server_json(tx, json_get_string(said, "server", ""), &server, NULL) <= 0)
            continue;
        replication = json_object_get(server, "replication");
        if (!json_is_object(replication))
            continue;
        json_object_set(replication, "server", json_object_get(server, "name"));
        text = json_text(replication);
        sse_broadcast(api_of(c)->sse, "replication", json_get_string(server, "wave", NULL), text);
    }
}

/* Who is of the group that these orders name: a replicator knows only of those that it has. */
static int add_group(struct store_tx *tx, const char *server, const json_t *orders, const json_t *factory, json_t *groups, struct err *e)
{
    const char *group = json_get_string(orders, "group_points", NULL);
    json_t *members;
    int found;

    if (!group || json_object_get(groups, group))
        return 0;
    found = inventory_replication_group(tx, server, factory, &members, e);
    if (found > 0)
        json_object_set_new(groups, group, members);
    return found < 0 ? -1 : 0;
}

/* What holds for those servers now: the replicator keeps it until it is told otherwise. What is new in the orders stands beside them, for a replicator refuses
 * orders with something that it does not know, and passes over what else an answer has. */
static int add_orders(struct http_call *c, const json_t *servers, json_t *answer, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *settings = NULL;
    json_t *all = json_object(), *groups = json_object(), *said, *orders, *places, *copies, *revoked;
    int64_t version;
    size_t index;

    json_object_set_new(answer, "servers", all);
    json_object_set_new(answer, "groups", groups);
    if (api_read(c, &tx, e) < 0 || settings_read(tx, &settings, &version, e) < 0)
        return -1;
    json_array_foreach(servers, index, said) {
        const char *server = json_get_string(said, "server", "");
        int found = inventory_replication_orders(tx, server, json_object_get(settings, "replication"), &orders, e);

        if (found < 0)
            return -1;
        if (found)
            json_object_set_new(all, server, orders);
        if (found && add_group(tx, server, orders, json_object_get(settings, "replication"), groups, e) < 0)
            return -1;
    }
    if (placing_orders(api_of(c), tx, c->who.name, servers, &places, e) < 0)
        return -1;
    json_object_set_new(answer, "places", places);
    if (copying_orders(api_of(c), tx, c->who.name, &copies, e) < 0)
        return -1;
    json_object_set_new(answer, "copies", copies);
    if (identity_revoked_json(api_of(c)->identity, tx, json_get_string(c->body, "revoked_version", ""), &revoked, e) < 0)
        return -1;
    if (revoked)
        json_object_set_new(answer, "revoked", revoked);
    return 0;
}

int route_replicator_status(struct http_call *c, struct err *e)
{
    CLEANUP(json_free) json_t *answer = json_object();
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *own = json_copy(c->body), *unknown = json_array(), *parts = NULL;
    CLEANUP(free_ptr) char *beside = NULL;
    struct inventory_by by = api_by(c);
    json_t *servers, *said;
    size_t index;

    if (json_need_array(c->body, "servers", &servers, e) < 0 || identity_seen(api_of(c)->identity, &c->who, e) < 0 || api_write(c, &tx, e) < 0 ||
        placing_beside(tx, c->who.name, &beside, e) < 0)
        return -1;
    json_array_foreach(servers, index, said) {
        int kept = keep_server(tx, c->who.name, beside, said, &by, e);

        if (kept < 0)
            return -1;
        if (!kept)
            json_array_append(unknown, json_object_get(said, "server"));
    }
    json_object_del(own, "servers");
    json_object_del(own, "revoked_version");
    if (sharing_divide(tx, c->who.name, json_object_get(own, "shares"), by.now_us, &parts, e) < 0 || replicators_keep(tx, c->who.name, own, by.now_us, e) < 0 || settle_copies(c, tx, servers, &by, e) < 0 || store_commit(&tx, e) < 0)
        return -1;
    broadcast(c, servers);
    json_object_set(answer, "unknown", unknown);
    json_object_set(answer, "parts", parts);
    return add_orders(c, servers, answer, e) < 0 ? -1 : reply_json(c, 200, json_incref(answer));
}
