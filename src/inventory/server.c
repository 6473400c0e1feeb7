#include "inventory/private.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

void server_fields_release(struct server_fields *f)
{
    json_free(&f->attributes);
}

void server_before_release(struct server_before *b)
{
    server_fields_release(&b->fields);
    for (size_t i = 0; i < ARRAY_COUNT(b->texts); i++)
        free(b->texts[i]);
}

int server_load(struct store_tx *tx, const char *name, struct server_before *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *attributes = NULL;
    const char *text;
    int rc;

    if (store_query(tx, &rows, e, "SELECT wave, application, owner, address, port, attributes, version FROM server WHERE name = $1", "s",
                    name) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc <= 0)
        return rc;
    text = store_text(rows, 5);
    if (json_read(text, strlen(text), &attributes, e) < 0)
        return err_wrap(e, "the attributes of the server %s", name);
    for (int i = 0; i < 4; i++)
        out->texts[i] = xstrdup(store_text(rows, i));
    out->fields = (struct server_fields){out->texts[0], out->texts[1], out->texts[2], out->texts[3], store_int(rows, 4),
                                         json_incref(attributes)};
    out->version = store_int(rows, 6);
    return 1;
}

static json_t *text_json(const char *text)
{
    return text ? json_string(text) : NULL;
}

json_t *server_diff(const struct server_fields *before, const struct server_fields *after)
{
    static const struct server_fields none;
    const struct server_fields *old = before ? before : &none;
    json_t *fields = json_object(), *value;
    const char *key;

    fields_add(fields, "wave", text_json(old->wave), text_json(after->wave));
    fields_add(fields, "application", text_json(old->application), text_json(after->application));
    fields_add(fields, "owner", text_json(old->owner), text_json(after->owner));
    fields_add(fields, "address", text_json(old->address), text_json(after->address));
    fields_add(fields, "port", before ? json_integer(old->port) : NULL, json_integer(after->port));
    json_object_foreach(old->attributes, key, value)
        if (!json_object_get(after->attributes, key))
            fields_add(fields, key, json_incref(value), NULL);
    json_object_foreach(after->attributes, key, value)
        fields_add(fields, key, json_incref(json_object_get(old->attributes, key)), json_incref(value));
    return fields;
}

static int need_application(struct store_tx *tx, const struct server_fields *f, const struct inventory_by *by, struct err *e)
{
    int64_t added;

    if (!f->application)
        return 0;
    added = store_run(tx, e, "INSERT INTO application (name, owner, created_us) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING", "ssi",
                      f->application, f->owner, by->now_us);
    if (added <= 0)
        return (int)added;
    return inventory_event(tx, by, "application.created", f->wave, "application", f->application,
                           json_pack("{s:s?}", "owner", f->owner), e);
}

int server_write(struct store_tx *tx, const char *name, const struct server_fields *after, int64_t before_version, json_t *fields,
                 const struct inventory_by *by, struct err *e)
{
    CLEANUP(free_ptr) char *attributes = json_text(after->attributes);
    int64_t changed;

    if (need_application(tx, after, by, e) < 0)
        return -1;
    if (before_version)
        changed = store_run(tx, e, "UPDATE server SET wave = $1, application = $2, owner = $3, address = $4, port = $5, attributes = $6,"
                                   " version = version + 1, updated_us = $7 WHERE name = $8 AND version = $9", "ssssisisi", after->wave,
                            after->application, after->owner, after->address, after->port, attributes, by->now_us, name, before_version);
    else
        changed = store_run(tx, e, "INSERT INTO server (name, wave, application, owner, address, port, attributes, lifecycle, version,"
                                   " created_us, updated_us) VALUES ($1, $2, $3, $4, $5, $6, $7, 'NOT_READY', 1, $8, $8)"
                                   " ON CONFLICT (name) DO NOTHING", "sssssisi", name, after->wave, after->application, after->owner,
                            after->address, after->port, attributes, by->now_us);
    if (changed <= 0)
        return changed < 0 ? -1 : err_set(e, ERR_CONFLICT, before_version ? "the server %s was changed meanwhile: read it again"
                                                                          : "there is a server %s already", name);
    return inventory_event(tx, by, before_version ? "server.updated" : "server.created", after->wave, "server", name,
                           json_pack("{s:O, s:I}", "fields", fields, "version", (json_int_t)(before_version + 1)), e);
}

void server_set_column(struct server_fields *f, const char *name, const char *text, int64_t number)
{
    if (strcmp(name, "wave") == 0)
        f->wave = text;
    else if (strcmp(name, "application") == 0)
        f->application = text;
    else if (strcmp(name, "owner") == 0)
        f->owner = text;
    else if (strcmp(name, "address") == 0)
        f->address = text;
    else if (strcmp(name, "port") == 0)
        f->port = number ? number : PORT_SSH;
}

static void take_attributes(struct server_fields *f, const json_t *wanted, struct faults *faults)
{
    CLEANUP(free_ptr) char *known = rule_names(server_attributes);
    char reason[RULE_REASON_SIZE];
    const char *key;
    json_t *value;

    if (!json_is_object(wanted)) {
        fault_add(faults, "attributes", "must be an object");
        return;
    }
    json_object_foreach((json_t *)(uintptr_t)wanted, key, value) {
        CLEANUP(free_ptr) char *field = xasprintf("attributes.%s", key);
        const struct rule *r = rule_find(server_attributes, key);
        json_t *taken;

        if (!r)
            fault_add(faults, field, "there is no such attribute: %s", known);
        else if (rule_take(r, value, &taken, reason) < 0)
            fault_add(faults, field, "%s", reason);
        else if (!taken)
            json_object_del(f->attributes, key);
        else
            json_object_set_new(f->attributes, key, taken);
    }
}

/* Takes the body's members into f by the tables. keep holds what f's texts point to. */
static void take_body(struct server_fields *f, const json_t *body, struct arena *keep, struct faults *faults)
{
    char reason[RULE_REASON_SIZE];
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)body, key, value) {
        const struct rule *r = rule_find(server_columns, key);
        CLEANUP(json_free) json_t *taken = NULL;

        if (strcmp(key, "attributes") == 0)
            take_attributes(f, value, faults);
        else if (!r)
            fault_add(faults, key, "is not known here: wave, application, owner, address, port, attributes");
        else if (rule_take(r, value, &taken, reason) < 0)
            fault_add(faults, key, "%s", reason);
        else
            server_set_column(f, key, arena_strdup(keep, json_string_value(taken)), json_integer_value(taken));
    }
}

/* Follows `after` from name: a server that is missing, in another wave, or name itself again is a fault. */
struct walk {
    int depth;
    struct store_tx *tx;
    struct arena *arena;
    const char *start, *wave;
    json_t *seen;
};

static int walk_after(struct walk *w, const char *list, struct faults *f, struct err *e)
{
    char *rest = arena_strdup(w->arena, list ? list : "");

    if (list && ++w->depth > AFTER_DEPTH_MAX) {
        fault_add(f, "attributes.after", "makes a chain of more than %d servers", AFTER_DEPTH_MAX);
        return 0;
    }
    for (char *name; (name = strsep(&rest, ", "));) {
        CLEANUP(server_before_release) struct server_before other = {0};
        int rc;

        if (!*name || json_object_get(w->seen, name))
            continue;
        if (strcmp(name, w->start) == 0) {
            fault_add(f, "attributes.after", "goes in a circle: %s would wait for itself", name);
            return 0;
        }
        rc = server_load(w->tx, name, &other, e);
        if (rc < 0)
            return -1;
        if (!rc || strcmp(other.fields.wave, w->wave) != 0) {
            fault_add(f, "attributes.after", "names %.100s, which is no server of the wave %.100s", name, w->wave);
            return 0;
        }
        json_object_set_new(w->seen, name, json_true());
        if (walk_after(w, json_get_string(other.fields.attributes, "after", NULL), f, e) < 0)
            return -1;
        if (f->count)
            return 0;
    }
    w->depth -= list != NULL;
    return 0;
}

static int check_after(struct store_tx *tx, const char *name, const struct server_fields *after, struct faults *f, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    CLEANUP(json_free) json_t *seen = json_object();
    struct walk w = {.tx = tx, .arena = arena, .start = name, .wave = after->wave, .seen = seen};

    return walk_after(&w, json_get_string(after->attributes, "after", NULL), f, e);
}

/* The rules that need the database: the wave takes it (and the old one lets it go), `after` leads somewhere. */
static int check_place(struct store_tx *tx, const char *name, const struct server_fields *before, const struct server_fields *after,
                       struct faults *f, struct err *e)
{
    char reason[RULE_REASON_SIZE];
    int rc;

    if (f->count) /* what follows would only repeat it */
        return 0;
    for (int side = 0; side < 2; side++) {
        const char *wave = side ? before && strcmp(before->wave, after->wave) != 0 ? before->wave : NULL
                         : !before || strcmp(before->wave, after->wave) != 0 ? after->wave : NULL;

        rc = wave ? wave_takes_servers(tx, wave, reason, e) : 1;
        if (rc < 0)
            return -1;
        if (!rc)
            fault_add(f, "wave", "%s", reason);
    }
    return f->count ? 0 : check_after(tx, name, after, f, e);
}

int inventory_server_create(struct store_tx *tx, const json_t *body, const struct inventory_by *by, json_t *faults, struct err *e)
{
    CLEANUP(server_fields_release) struct server_fields after = {.port = PORT_SSH, .attributes = json_object()};
    CLEANUP(arena_free) struct arena *keep = arena_new();
    CLEANUP(json_free) json_t *fields = NULL;
    const char *name = json_get_string(body, "name", "");
    struct faults f = {.list = faults};
    char reason[RULE_REASON_SIZE];

    if (!json_is_object(body))
        return err_set(e, ERR_INVALID, "a server is a JSON object");
    take_body(&after, body, keep, &f);
    if (!json_is_string(json_object_get(body, "name")) && !json_object_get(body, "name"))
        fault_add(&f, "name", "is missing");
    for (const char *const *need = (const char *const[]){"wave", "address", NULL}; *need; need++)
        if (!json_object_get(body, *need) && !rule_check(rule_find(server_columns, *need), "", reason))
            fault_add(&f, *need, "%s", reason);
    if (check_place(tx, name, NULL, &after, &f, e) < 0 || faults_end(&f, e, "the server") < 0)
        return -1;
    fields = server_diff(NULL, &after);
    return server_write(tx, name, &after, 0, fields, by, e);
}

int inventory_server_update(struct store_tx *tx, const char *server, int64_t version, const json_t *body, const struct inventory_by *by,
                            json_t *faults, struct err *e)
{
    CLEANUP(server_before_release) struct server_before before = {0};
    CLEANUP(server_fields_release) struct server_fields after = {0};
    CLEANUP(arena_free) struct arena *keep = arena_new();
    CLEANUP(json_free) json_t *fields = NULL;
    struct faults f = {.list = faults};
    int rc;

    if (!json_is_object(body))
        return err_set(e, ERR_INVALID, "a change is a JSON object");
    rc = server_load(tx, server, &before, e);
    if (rc <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no server %s", server);
    if (version != INVENTORY_ANY_VERSION && version != before.version)
        return err_set(e, ERR_CONFLICT, "the server %s was changed meanwhile (version %lld, not %lld): read it again", server,
                       (long long)before.version, (long long)version);
    after = before.fields;
    after.attributes = json_deep_copy(before.fields.attributes);
    take_body(&after, body, keep, &f);
    if (json_object_get(body, "name") && strcmp(json_get_string(body, "name", ""), server) != 0)
        fault_add(&f, "name", "can't be changed");
    if (check_place(tx, server, &before.fields, &after, &f, e) < 0 || faults_end(&f, e, "the server") < 0)
        return -1;
    fields = server_diff(&before.fields, &after);
    return json_object_size(fields) ? server_write(tx, server, &after, before.version, fields, by, e) : 0;
}

int inventory_wave_servers(struct store_tx *tx, const char *wave, int (*each)(void *user, const char *server), void *user,
                           struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int count = 0, rc = store_query(tx, &rows, e, "SELECT name FROM server WHERE wave = $1 ORDER BY name", "s", wave);

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        count++;
        if (each(user, store_text(rows, 0)) != 0)
            break;
    }
    return rc < 0 ? -1 : count;
}
