/* life: what happens to a server: its lifecycle, and what steps and the replicator found out about it. None of this raises its version:
 * that counts what people set. */
#include "inventory/private.h"

#include "base/clock.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

#define FACTS_MAX (1u << 20)
#define REPLICATION_MAX 16384

/* The allowed moves. Where a person takes a server back, it goes up this list's stairs again. */
static const struct transition {
    const char *from, *to;
} transitions[] = {
    {"NOT_READY", "READY_FOR_TEST"},           /* replication is continuous */
    {"READY_FOR_TEST", "TESTING"},             /* a test instance is launched */
    {"TESTING", "READY_FOR_CUTOVER"},          /* signed off, and the test instance is gone */
    {"READY_FOR_CUTOVER", "CUTTING_OVER"},     /* quiesce begins */
    {"CUTTING_OVER", "CUTOVER"},               /* the door is open */
    {"CUTOVER", "DISCONNECTED"},               /* finalized */
    {"DISCONNECTED", "ARCHIVED"},              /* decommissioned, staged data dropped */
    {"READY_FOR_TEST", "NOT_READY"},           /* replication has to start over */
    {"READY_FOR_TEST", "READY_FOR_CUTOVER"},   /* the test was skipped, with a reason */
    {"TESTING", "READY_FOR_TEST"},             /* the test failed or was broken off */
    {"READY_FOR_CUTOVER", "TESTING"},          /* tested again */
    {"READY_FOR_CUTOVER", "READY_FOR_TEST"},
    {"CUTTING_OVER", "READY_FOR_CUTOVER"},     /* the way back, before the door opened */
    {"CUTOVER", "READY_FOR_CUTOVER"},          /* the way back, after */
    {"NOT_READY", "ARCHIVED"},                 /* left out of the migration */
};

static const char *const states[] = {"NOT_READY", "READY_FOR_TEST", "TESTING", "READY_FOR_CUTOVER", "CUTTING_OVER", "CUTOVER",
                                     "DISCONNECTED", "ARCHIVED", NULL};
const char *const replication_states[] = {"INITIATING", "INITIAL_SYNC", "BACKLOG", "CREATING_SNAPSHOT", "CONTINUOUS", "PAUSED", "RESCAN",
                                          "STALLED", "STOPPED", "DISCONNECTED", "UNKNOWN", NULL}; /* the last: what its replicator says can't be read */

/* One text column of a server and its wave: 1, 0 no such server, -1. The caller frees. */
static int read_column(struct store_tx *tx, const char *sql, const char *server, char **wave, char **value, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    if (store_query(tx, &rows, e, sql, "s", server) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc == 0)
        return err_set(e, ERR_NOT_FOUND, "there is no server %s", server);
    if (rc > 0) {
        *wave = xstrdup(store_text(rows, 0));
        *value = xstrdup(store_text(rows, 1));
    }
    return rc;
}

static bool may_move(const char *from, const char *to)
{
    for (size_t i = 0; i < ARRAY_COUNT(transitions); i++)
        if (strcmp(transitions[i].from, from) == 0 && strcmp(transitions[i].to, to) == 0)
            return true;
    return false;
}

int inventory_server_move(struct store_tx *tx, const char *server, const char *from, const char *to, const struct inventory_by *by,
                          struct err *e)
{
    CLEANUP(free_ptr) char *wave = NULL;
    CLEANUP(free_ptr) char *is = NULL;
    json_t *fields;

    if (!named_in(to, states))
        return err_set(e, ERR_INTERNAL, "%s is no lifecycle state", to);
    if (read_column(tx, "SELECT wave, lifecycle FROM server WHERE name = $1", server, &wave, &is, e) < 0)
        return -1;
    if (strcmp(is, to) == 0)
        return 0;
    if (from && strcmp(is, from) != 0)
        return err_set(e, ERR_WRONG_STATE, "the server %s is %s, not %s", server, is, from);
    if (!may_move(is, to))
        return err_set(e, ERR_WRONG_STATE, "the server %s is %s and can't become %s from there", server, is, to);
    if (store_run(tx, e, "UPDATE server SET lifecycle = $1, updated_us = $2 WHERE name = $3", "sis", to, by->now_us, server) < 0)
        return -1;
    fields = json_object();
    fields_add(fields, "lifecycle", json_string(is), json_string(to));
    return inventory_event(tx, by, "server.moved", wave, "server", server, json_pack("{s:o}", "fields", fields), e);
}

static json_t *parse_or_null(const char *text)
{
    json_t *value = NULL;

    return text && json_read(text, strlen(text), &value, NULL) == 0 ? value : json_null();
}

static int write_disks(struct store_tx *tx, const char *server, const json_t *disks, struct err *e)
{
    const json_t *disk;
    size_t i;

    if (store_run(tx, e, "DELETE FROM disk WHERE server = $1", "s", server) < 0)
        return -1;
    if (json_array_size(disks) > LIMIT_DISKS_PER_SERVER)
        return err_set(e, ERR_LIMIT, "the server %s has %zu disks; at most %d can be moved", server, json_array_size(disks), LIMIT_DISKS_PER_SERVER);
    json_array_foreach(disks, i, disk) {
        const char *id, *name;
        int64_t size_bytes, added;

        if (json_need_string(disk, "id", &id, e) < 0 || json_need_string(disk, "name", &name, e) < 0
            || json_need_int(disk, "size_bytes", &size_bytes, e) < 0)
            return err_wrap(e, "disk %zu of the server %s", i + 1, server);
        added = store_run(tx, e, "INSERT INTO disk (server, id, position, name, size_bytes) VALUES ($1, $2, $3, $4, $5)"
                                 " ON CONFLICT (server, id) DO NOTHING", "ssisi", server, id, (int64_t)i, name, size_bytes);
        if (added <= 0)
            return added < 0 ? -1 : err_set(e, ERR_INVALID, "two disks of the server %s have the id %s", server, id);
    }
    return 0;
}

int inventory_server_set_facts(struct store_tx *tx, const char *server, const json_t *facts, const struct inventory_by *by, struct err *e)
{
    CLEANUP(free_ptr) char *wave = NULL;
    CLEANUP(free_ptr) char *was = NULL;
    CLEANUP(free_ptr) char *text = json_is_object(facts) ? json_text(facts) : NULL;
    CLEANUP(json_free) json_t *before = NULL;
    CLEANUP(json_free) json_t *fields = json_object();
    const char *key;
    json_t *value;

    if (facts && !json_is_null(facts) && !text)
        return err_set(e, ERR_INVALID, "facts are a JSON object");
    if (text && strlen(text) > FACTS_MAX)
        return err_set(e, ERR_LIMIT, "the facts of the server %s have more than %u bytes", server, FACTS_MAX);
    if (read_column(tx, "SELECT wave, facts FROM server WHERE name = $1", server, &wave, &was, e) < 0)
        return -1;
    before = parse_or_null(was);
    json_object_foreach(before, key, value)
        fields_add(fields, key, json_incref(value), json_incref(json_object_get(facts, key)));
    json_object_foreach((json_t *)(uintptr_t)facts, key, value)
        if (!json_object_get(before, key))
            fields_add(fields, key, NULL, json_incref(value));
    if (!json_object_size(fields) && (text || !was))
        return 0;
    if (store_run(tx, e, "UPDATE server SET facts = $1, updated_us = $2 WHERE name = $3", "sis", text, by->now_us, server) < 0
        || write_disks(tx, server, json_object_get(facts, "disks"), e) < 0)
        return -1;
    return inventory_event(tx, by, "server.facts", wave, "server", server, json_pack("{s:O}", "fields", fields), e);
}

static int check_instance(const json_t *instance, struct err *e)
{
    static const char *const kinds[] = {"test", "cutover", NULL}, *const doors[] = {"isolated", "closed", "open", NULL};
    const char *name, *kind, *door, *state;

    if (json_need_string(instance, "name", &name, e) < 0 || json_need_string(instance, "kind", &kind, e) < 0
        || json_need_string(instance, "door", &door, e) < 0 || json_need_string(instance, "state", &state, e) < 0)
        return err_wrap(e, "the instance");
    if (!named_in(kind, kinds) || !named_in(door, doors) || strlen(name) > LIMIT_NAME_BYTES || strlen(state) > LIMIT_NAME_BYTES)
        return err_set(e, ERR_INVALID, "an instance has the kind test or cutover, not \"%.40s\", and the door isolated, closed or open, not"
                                       " \"%.40s\"", kind, door);
    return 0;
}

int inventory_server_set_instance(struct store_tx *tx, const char *server, const json_t *instance, const struct inventory_by *by,
                                  struct err *e)
{
    CLEANUP(free_ptr) char *wave = NULL;
    CLEANUP(free_ptr) char *was = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    CLEANUP(json_free) json_t *kept = NULL;
    json_t *fields = NULL;

    if (instance && !json_is_null(instance)) {
        if (check_instance(instance, e) < 0)
            return -1;
        kept = json_pack("{s:s, s:s, s:s, s:s}", "name", json_get_string(instance, "name", ""), "kind", json_get_string(instance, "kind", ""),
                         "door", json_get_string(instance, "door", ""), "state", json_get_string(instance, "state", ""));
        text = json_text(kept);
    }
    if (read_column(tx, "SELECT wave, instance FROM server WHERE name = $1", server, &wave, &was, e) < 0)
        return -1;
    if ((!text && !was) || (text && was && strcmp(text, was) == 0))
        return 0;
    if (store_run(tx, e, "UPDATE server SET instance = $1, updated_us = $2 WHERE name = $3", "sis", text, by->now_us, server) < 0)
        return -1;
    fields = json_object();
    fields_add(fields, "instance", parse_or_null(was), json_incref(kept));
    return inventory_event(tx, by, "server.instance", wave, "server", server, json_pack("{s:o}", "fields", fields), e);
}

int inventory_server_set_host_key(struct store_tx *tx, const char *server, const char *host_key, const struct inventory_by *by,
                                  struct err *e)
{
    CLEANUP(free_ptr) char *wave = NULL;
    CLEANUP(free_ptr) char *was = NULL;
    json_t *fields;

    if (host_key && !is_fingerprint(host_key))
        return err_set(e, ERR_INVALID, "a host key is pinned by its fingerprint, SHA256: and 43 characters, as ssh-keygen -l prints it");
    if (read_column(tx, "SELECT wave, host_key FROM server WHERE name = $1", server, &wave, &was, e) < 0)
        return -1;
    if ((!host_key && !was) || (host_key && was && strcmp(host_key, was) == 0))
        return 0;
    if (store_run(tx, e, "UPDATE server SET host_key = $1, updated_us = $2 WHERE name = $3", "sis", host_key, by->now_us, server) < 0)
        return -1;
    fields = json_object();
    fields_add(fields, "host_key", was ? json_string(was) : NULL, host_key ? json_string(host_key) : NULL);
    return inventory_event(tx, by, host_key ? "server.trusted" : "server.distrusted", wave, "server", server,
                           json_pack("{s:o}", "fields", fields), e);
}

int inventory_host_key(struct store_tx *tx, const char *server, char **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT host_key FROM server WHERE name = $1", "s", server) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc > 0)
        *out = xstrdup(store_text(rows, 0));
    return rc;
}

/* An error as text, whether the report has it as text or as {kind, message}. */
static const char *error_text(const json_t *replication)
{
    const json_t *error = json_object_get(replication, "error");

    return json_is_object(error) ? json_get_string(error, "message", "unknown") : json_string_value(error);
}

static const char *cause_kind(const json_t *replication) { return json_get_string(json_object_get(replication, "cause"), "kind", NULL); }

static json_t *text_or_null(const char *text) { return text ? json_string(text) : NULL; }

/* What was reported last: 1, 0 no such server; *was is NULL where nothing was. */
static int last_report(struct store_tx *tx, const char *server, char **wave, json_t **was, struct err *e)
{
    CLEANUP(free_ptr) char *text = NULL;
    int rc = read_column(tx, "SELECT s.wave, r.document FROM server s LEFT JOIN server_replication r ON r.server = s.name WHERE s.name = $1",
                         server, wave, &text, e);

    return rc < 0 || !text ? rc : json_read(text, strlen(text), was, e) < 0 ? -1 : rc;
}

int inventory_server_set_replication(struct store_tx *tx, const char *server, const json_t *replication, const struct inventory_by *by,
                                     struct err *e)
{
    CLEANUP(free_ptr) char *text = json_is_object(replication) ? json_text(replication) : NULL;
    CLEANUP(free_ptr) char *wave = NULL;
    CLEANUP(json_free) json_t *was = NULL;
    const char *state = json_get_string(replication, "state", ""), *error = error_text(replication);
    json_t *fields;
    int rc;

    if (!text || !named_in(state, replication_states))
        return err_set(e, ERR_INVALID, "the replication of %s: \"%.40s\" is no replication state", server, state);
    if (strlen(text) > REPLICATION_MAX)
        return err_set(e, ERR_LIMIT, "the replication of %s has more than %d bytes", server, REPLICATION_MAX);
    if (last_report(tx, server, &wave, &was, e) < 0)
        return -1;
    if (store_run(tx, e, "INSERT INTO server_replication (server, state, error, document, reported_us) VALUES ($1, $2, $3, $4, $5) ON CONFLICT"
                         " (server) DO UPDATE SET state = excluded.state, error = excluded.error, document = excluded.document,"
                         " reported_us = excluded.reported_us", "ssssi", server, state, error, text, by->now_us) < 0)
        return -1;
    fields = json_object();
    fields_add(fields, "state", text_or_null(json_get_string(was, "state", NULL)), json_string(state));
    fields_add(fields, "error", text_or_null(error_text(was)), text_or_null(error));
    fields_add(fields, "cause", text_or_null(cause_kind(was)), text_or_null(cause_kind(replication)));
    rc = json_object_size(fields) > 0;
    if (!rc) {
        json_decref(fields);
        return 0;
    }
    return inventory_event(tx, by, "server.replication", wave, "server", server, json_pack("{s:o}", "fields", fields), e) < 0 ? -1 : 1;
}
