/* replication: what holds for a server's replication. What is said of the server holds before what is said of its wave, and that before the
 * factory's; a limit that servers share is the wave's and the site's own, and holds besides. */
#include "inventory/private.h"

#include <string.h>

struct sources {
    char *wave, *application; /* "": of none */
    json_t *server, *of_wave; /* attributes, settings; owned */
    const json_t *factory;
};

static void sources_release(struct sources *s)
{
    free_ptr(&s->wave);
    free_ptr(&s->application);
    json_free(&s->server);
    json_free(&s->of_wave);
}

static int read_document(const char *text, const char *what, const char *name, json_t **out, struct err *e)
{
    return json_read(text, strlen(text), out, e) < 0 ? err_wrap(e, "the %s of %s", what, name) : 0;
}

static int sources_load(struct store_tx *tx, const char *server, const json_t *factory, struct sources *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    out->factory = factory;
    if (store_query(tx, &rows, e, "SELECT s.attributes, w.name, w.settings, coalesce(s.application, '') FROM server s JOIN wave w ON w.name = s.wave WHERE s.name = $1", "s",
                    server) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc <= 0)
        return rc;
    out->wave = xstrdup(store_text(rows, 1));
    out->application = xstrdup(store_text(rows, 3));
    if (read_document(store_text(rows, 0), "attributes", server, &out->server, e) < 0 ||
        read_document(store_text(rows, 2), "settings", out->wave, &out->of_wave, e) < 0)
        return -1;
    return 1;
}

/* The value that is said there, a new reference; NULL where none is, and where no rule would take it now. */
static json_t *taken(const struct rule *r, const json_t *values)
{
    char reason[RULE_REASON_SIZE];
    json_t *value = NULL;

    return rule_take(r, json_object_get(values, r->name), &value, reason) == 0 ? value : NULL;
}

static json_t *value_of(const struct sources *s, const struct rule *r, const char **source)
{
    const struct {
        const char *name;
        const json_t *values;
    } from[] = {{"server", s->server}, {"wave", s->of_wave}, {"factory", s->factory}};
    json_t *value = NULL;

    for (size_t i = 0; !value && i < ARRAY_COUNT(from); i++) {
        value = taken(r, from[i].values);
        if (value)
            *source = from[i].name;
    }
    return value;
}

static bool is_shared(const struct rule *r) { return strcmp(r->name, "shared_bandwidth") == 0; }

static void show(json_t *all, const char *name, json_t *value, const char *source)
{
    json_object_set_new(all, name, json_pack("{s:o?, s:s}", "value", value, "source", value ? source : "default"));
}

int inventory_replication_settings(struct store_tx *tx, const char *server, const json_t *factory, json_t **out, struct err *e)
{
    CLEANUP(sources_release) struct sources s = {0};
    CLEANUP(json_free) json_t *all = json_object();
    const struct rule *shared = rule_find(replication_settings, "shared_bandwidth");
    char reason[RULE_REASON_SIZE];
    int rc = sources_load(tx, server, factory, &s, e);

    if (rc <= 0)
        return rc;
    for (const struct rule *r = replication_settings; r->name; r++) {
        const char *source = "default";
        json_t *value = is_shared(r) ? NULL : value_of(&s, r, &source);

        if (!value && r->otherwise)
            MUST(rule_take_text(r, r->otherwise, &value, reason) == 0);
        if (!is_shared(r))
            show(all, r->name, value, source);
    }
    show(all, "wave_bandwidth", taken(shared, s.of_wave), "wave");
    show(all, "site_bandwidth", taken(shared, s.factory), "factory");
    *out = json_incref(all);
    return 1;
}

/* The replicator knows of no applications: it is told the name that the server's points have in common with others', where they are to. */
static void name_group(json_t *orders, const char *application)
{
    const char *of = json_get_string(orders, "group_points", "none");

    if (strcmp(of, "application") == 0 && application[0])
        json_object_set_new(orders, "group_points", json_string(application));
    else
        json_object_del(orders, "group_points");
}

/* One of an application's servers, as the query below has it. */
static int add_member(const struct store_rows *rows, const json_t *factory, json_t *members, struct err *e)
{
    CLEANUP(sources_release) struct sources s = {.factory = factory};
    CLEANUP(json_free) json_t *of = NULL;
    const char *server = store_text(rows, 0), *source;

    if (read_document(store_text(rows, 1), "attributes", server, &s.server, e) < 0 || read_document(store_text(rows, 2), "settings of the wave", server, &s.of_wave, e) < 0)
        return -1;
    of = value_of(&s, rule_find(replication_settings, "group_points"), &source);
    return of && strcmp(json_string_value(of), "application") == 0 ? json_object_set_new(members, server, json_string(store_text(rows, 3))) : 0;
}

int inventory_replication_group(struct store_tx *tx, const char *server, const json_t *factory, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(sources_release) struct sources s = {0};
    CLEANUP(json_free) json_t *members = json_object(), *of = NULL;
    const char *source;
    int rc = sources_load(tx, server, factory, &s, e);

    if (rc <= 0)
        return rc;
    of = value_of(&s, rule_find(replication_settings, "group_points"), &source);
    if (of && strcmp(json_string_value(of), "application") == 0 && s.application[0]) {
        rc = store_query(tx, &rows, e,
                         "SELECT s.name, s.attributes, w.settings, COALESCE(p.target, p.replicator) FROM server s JOIN wave w ON w.name = s.wave"
                         " JOIN placement p ON p.server = s.name WHERE s.application = $1 AND s.lifecycle NOT IN ('DISCONNECTED', 'ARCHIVED') ORDER BY s.name", "s", s.application);
        while (rc >= 0 && (rc = store_next(rows, e)) > 0)
            if (add_member(rows, factory, members, e) < 0)
                return -1;
        if (rc < 0)
            return -1;
    }
    *out = json_incref(members);
    return 1;
}

static void add_share(json_t *shared, const char *key, const json_t *own, const json_t *factory)
{
    const struct rule *zone = rule_find(replication_settings, "time_zone");
    json_t *limit = taken(rule_find(replication_settings, "shared_bandwidth"), own), *time_zone;

    if (!limit)
        return;
    time_zone = taken(zone, own);
    if (!time_zone)
        time_zone = taken(zone, factory);
    json_object_set_new(shared, key, json_pack("{s:o, s:o*}", "bandwidth", limit, "time_zone", time_zone));
}

int inventory_replication_copy_to(struct store_tx *tx, const char *server, const json_t *factory, char **out, struct err *e)
{
    CLEANUP(sources_release) struct sources s = {0};
    CLEANUP(json_free) json_t *value = NULL;
    const char *source, *name;
    int rc = sources_load(tx, server, factory, &s, e);

    if (rc <= 0)
        return rc;
    value = value_of(&s, rule_find(replication_settings, "copy_to"), &source);
    name = json_string_value(value);
    *out = xstrdup(name && strcmp(name, "none") != 0 ? name : "");
    return 1;
}

/* *out: a new reference, or NULL where nobody gave one. */
static int read_order(struct store_tx *tx, const char *server, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    *out = NULL;
    if (store_query(tx, &rows, e, "SELECT paused, actor, at_us FROM replication_order WHERE server = $1", "s", server) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc > 0)
        *out = json_pack("{s:b, s:s, s:I}", "paused", (int)store_int(rows, 0), "by", store_text(rows, 1), "at_us", (json_int_t)store_int(rows, 2));
    return rc < 0 ? -1 : 0;
}

int inventory_replication_pause(struct store_tx *tx, const char *server, bool paused, const struct inventory_by *by, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(free_ptr) char *wave = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT wave FROM server WHERE name = $1", "s", server) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no server %.100s", server);
    wave = xstrdup(store_text(rows, 0));
    store_rows_free(&rows);
    if (store_run(tx, e, "INSERT INTO replication_order (server, paused, actor, at_us) VALUES ($1, $2, $3, $4) ON CONFLICT (server) DO UPDATE SET"
                         " paused = excluded.paused, actor = excluded.actor, at_us = CASE WHEN excluded.at_us > replication_order.at_us THEN excluded.at_us"
                         " ELSE replication_order.at_us + 1 END", "sisi", server, (int64_t)paused, by->actor, by->now_us) < 0)
        return -1;
    return inventory_event(tx, by, paused ? "server.paused" : "server.resumed", wave, "server", server, json_object(), e);
}

int inventory_replication_orders(struct store_tx *tx, const char *server, const json_t *factory, json_t **out, struct err *e)
{
    CLEANUP(sources_release) struct sources s = {0};
    CLEANUP(json_free) json_t *orders = json_object(), *shared = json_object(), *order = NULL;
    CLEANUP(free_ptr) char *wave_key = NULL;
    const char *source;
    int rc = sources_load(tx, server, factory, &s, e);

    if (rc <= 0)
        return rc;
    for (const struct rule *r = replication_settings; r->name; r++) {
        json_t *value = is_shared(r) ? NULL : value_of(&s, r, &source);

        if (value)
            json_object_set_new(orders, r->name, value);
    }
    json_object_del(orders, "copy_to"); /* where that is, is said by name and address, and for certain (second_copy.h) */
    name_group(orders, s.application);
    wave_key = xasprintf("wave:%s", s.wave);
    add_share(shared, wave_key, s.of_wave, factory);
    add_share(shared, "site", factory, factory);
    if (json_object_size(shared))
        json_object_set(orders, "shared", shared);
    if (read_order(tx, server, &order, e) < 0)
        return -1;
    if (order)
        json_object_set(orders, "order", order);
    *out = json_incref(orders);
    return 1;
}
