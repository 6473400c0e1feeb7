/* replication: what holds for a server's replication. What is said of the server holds before what is said of its wave, and that before the
 * factory's; a limit that servers share is the wave's and the site's own, and holds besides. */
#include "inventory/private.h"

#include <string.h>

struct sources {
    char *wave;
    json_t *server, *of_wave; /* attributes, settings; owned */
    const json_t *factory;
};

static void sources_release(struct sources *s)
{
    free_ptr(&s->wave);
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
    if (store_query(tx, &rows, e, "SELECT s.attributes, w.name, w.settings FROM server s JOIN wave w ON w.name = s.wave WHERE s.name = $1", "s",
                    server) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc <= 0)
        return rc;
    out->wave = xstrdup(store_text(rows, 1));
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

int inventory_replication_orders(struct store_tx *tx, const char *server, const json_t *factory, json_t **out, struct err *e)
{
    CLEANUP(sources_release) struct sources s = {0};
    CLEANUP(json_free) json_t *orders = json_object(), *shared = json_object();
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
    wave_key = xasprintf("wave:%s", s.wave);
    add_share(shared, wave_key, s.of_wave, factory);
    add_share(shared, "site", factory, factory);
    if (json_object_size(shared))
        json_object_set(orders, "shared", shared);
    *out = json_incref(orders);
    return 1;
}
