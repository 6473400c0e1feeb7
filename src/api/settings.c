/* The factory's settings: one JSON document with a version. What it may hold is a table. */
#include "api/api.h"
#include "api/routes.h"
#include "base/clock.h"
#include "inventory/rule.h"

#include <string.h>

struct member {
    const char *name;
    json_type type;
    bool needed;
};

#define TEXT(name_, needed_) {name_, JSON_STRING, needed_}
#define NUMBER(name_, needed_) {name_, JSON_INTEGER, needed_}

/* Members that are not named here are kept as they are: a target and a CMDB have settings of their own. */
static const struct setting {
    const char *name, *what;
    struct member members[6];
} known[] = {
    {"replicator", "where agents reach the replicator", {TEXT("address", true), NUMBER("port", true), TEXT("control", false), TEXT("name", false),
                                                             NUMBER("room_percent", false)}},
    {"target", "where machines are launched", {TEXT("name", true), {"settings", JSON_OBJECT, false}}},
    {"cmdb", "the source CMDB", {TEXT("kind", true), TEXT("url", false), TEXT("token_credential", false)}},
    {"credential", "the credential of servers that name none", {TEXT("name", true)}},
    {"sources", "source networks: {NETWORK:{probe:\"HOST:PORT\"}}", {{NULL, JSON_NULL, false}}},
    {"replication", "how servers are replicated where neither they nor their wave say", {{NULL, JSON_NULL, false}}},
    {"backup", "how old the newest backup may be for doctor", {NUMBER("max_age_s", false)}},
};

static const char *type_name(json_type type)
{
    return type == JSON_STRING ? "a text" : type == JSON_INTEGER ? "a whole number" : type == JSON_OBJECT ? "an object" : "of another type";
}

static void fault(json_t *faults, const char *field, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void fault(json_t *faults, const char *field, const char *format, ...)
{
    char text[RULE_REASON_SIZE];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_array_append_new(faults, json_pack("{s:s, s:s}", "field", field, "reason", text));
}

static const struct setting *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(known); i++)
        if (strcmp(known[i].name, name) == 0)
            return &known[i];
    return NULL;
}

/* The rows that waves and servers have, too. null: it is removed. */
static void check_replication(const json_t *value, json_t *faults)
{
    CLEANUP(free_ptr) char *names = rule_names(replication_settings);
    char reason[RULE_REASON_SIZE], field[100];
    const char *name;
    json_t *member;

    json_object_foreach((json_t *)(uintptr_t)value, name, member) {
        const struct rule *r = rule_find(replication_settings, name);
        json_t *taken = NULL;

        snprintf(field, sizeof field, "replication.%.60s", name);
        if (!r)
            fault(faults, field, "there is no such setting; there are: %s", names);
        else if (!json_is_null(member) && rule_take(r, member, &taken, reason) < 0)
            fault(faults, field, "%s", reason);
        json_decref(taken);
    }
}

static void check(const char *name, const json_t *value, json_t *faults)
{
    const struct setting *s = find(name);

    if (!s) {
        char all[200] = "";

        for (size_t i = 0; i < ARRAY_COUNT(known); i++)
            snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", known[i].name);
        fault(faults, name, "there is no such setting; there are: %s", all);
        return;
    }
    if (json_is_null(value))
        return;
    if (!json_is_object(value)) {
        fault(faults, name, "must be an object: %s", s->what);
        return;
    }
    for (const struct member *m = s->members; m < s->members + ARRAY_COUNT(s->members) && m->name; m++) {
        const json_t *member = json_object_get(value, m->name);
        char field[100];

        snprintf(field, sizeof field, "%s.%s", name, m->name);
        if (!member || json_is_null(member)) {
            if (m->needed)
                fault(faults, field, "is missing; it must be %s", type_name(m->type));
        } else if (json_typeof(member) != m->type) {
            fault(faults, field, "must be %s", type_name(m->type));
        }
    }
    if (strcmp(name, "replication") == 0)
        check_replication(value, faults);
    if (strcmp(name, "replicator") == 0 && json_is_integer(json_object_get(value, "port")) &&
        (json_get_int(value, "port", 0) < 1 || json_get_int(value, "port", 0) > 65535))
        fault(faults, "replicator.port", "must be from 1 to 65535");
    if (strcmp(name, "replicator") == 0 && json_is_integer(json_object_get(value, "room_percent")) &&
        (json_get_int(value, "room_percent", 0) < 1 || json_get_int(value, "room_percent", 0) > 200))
        fault(faults, "replicator.room_percent", "must be from 1 to 200");
}

int settings_read(struct store_tx *tx, json_t **out, int64_t *version, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    json_t *document = NULL;
    int found;

    if (store_query(tx, &rows, e, "SELECT version, document FROM factory_settings WHERE id = 1", "") < 0 || (found = store_next(rows, e)) < 0)
        return -1;
    *version = found ? store_int(rows, 0) : 1;
    if (found)
        document = json_loads(store_text(rows, 1), 0, NULL);
    *out = document ? document : json_object();
    return 0;
}

/* Its members are settings of their own, as a wave's and a server's are: nobody loses one by setting another (RFC 7396: what is not named stays,
 * null removes). */
static void merge(json_t *now, const char *name, const json_t *value)
{
    json_t *held = json_is_object(json_object_get(now, name)) ? json_copy(json_object_get(now, name)) : json_object(), *member;
    const char *key;

    json_object_foreach((json_t *)(uintptr_t)value, key, member) {
        if (json_is_null(member))
            json_object_del(held, key);
        else
            json_object_set(held, key, member);
    }
    json_object_set_new(now, name, held);
}

int settings_write(struct store_tx *tx, const json_t *body, int64_t version, const struct inventory_by *by, json_t *faults, struct err *e)
{
    CLEANUP(json_free) json_t *now = NULL, *before = json_object(), *data = NULL;
    CLEANUP(free_ptr) char *text = NULL, *event_text = NULL;
    int64_t held = 0;
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)body, name, value)
        check(name, value, faults);
    if (json_array_size(faults))
        return err_set(e, ERR_INVALID, "the settings were not changed");
    if (settings_read(tx, &now, &held, e) < 0)
        return -1;
    if (version && version != held)
        return err_set(e, ERR_CONFLICT, "the settings were changed meanwhile (version %lld): read them again", (long long)held);
    json_object_foreach((json_t *)(uintptr_t)body, name, value) {
        json_object_set(before, name, json_object_get(now, name) ? json_object_get(now, name) : json_null());
        if (json_is_null(value))
            json_object_del(now, name);
        else if (strcmp(name, "replication") == 0)
            merge(now, name, value);
        else
            json_object_set(now, name, value);
    }
    text = json_text(now);
    data = json_pack("{s:O, s:O}", "changed", body, "before", before);
    event_text = json_text(data);
    if (store_run(tx, e, "INSERT INTO factory_settings (id, version, document) VALUES (1, $1, $2)"
                  " ON CONFLICT (id) DO UPDATE SET version = excluded.version, document = excluded.document", "is", held + 1, text) < 0)
        return -1;
    return event_add(tx, &(struct event){.actor = by->actor, .kind = "setting.updated", .entity = "setting", .entity_id = "factory",
                                         .data = event_text}, by->now_us, e);
}

static int reply_settings(struct http_call *c, struct store_tx *tx, struct err *e)
{
    int64_t version;
    json_t *settings;

    if (settings_read(tx, &settings, &version, e) < 0)
        return -1;
    reply_etag(c, version);
    return reply_json(c, 200, settings);
}

int route_settings(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    return api_read(c, &tx, e) < 0 ? -1 : reply_settings(c, tx, e);
}

int route_settings_put(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_by by = api_by(c);
    int64_t version = 0;

    if (call_if_match(c, &version, e) < 0 || api_write(c, &tx, e) < 0 || settings_write(tx, c->body, version, &by, api_faults(c), e) < 0 ||
        reply_settings(c, tx, e) < 0 || store_commit(&tx, e) < 0)
        return api_failed(c, e);
    return 0;
}
