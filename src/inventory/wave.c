#include "inventory/private.h"

#include "base/clock.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TITLE_MAX 256
#define NOTICE_MAX 4096

static const char *const stages[] = {"build", "validate", "cutover", "post", "done", NULL};
static const char *const healths[] = {"idle", "ok", "waiting", "attention", "failed", NULL};

static void check_members(const json_t *body, const char *const *known, const char *list, struct faults *f)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)body, key, value)
        if (!named_in(key, known))
            fault_add(f, key, "is not known here: %s", list);
}

static void check_text(const json_t *body, const char *name, size_t max, bool lines, struct faults *f)
{
    const json_t *value = json_object_get(body, name);
    const char *text = json_string_value(value);

    if (!value || json_is_null(value))
        return;
    if (!text || strlen(text) != json_string_length(value)) {
        fault_add(f, name, "must be a text");
        return;
    }
    if (strlen(text) > max)
        fault_add(f, name, "is longer than %zu bytes", max);
    for (; *text; text++)
        if (((unsigned char)*text < 32 && !(lines && *text == '\n')) || *text == 127) {
            fault_add(f, name, "has a control character (code %d)", (unsigned char)*text);
            return;
        }
}

/* Merges wanted into settings by the table; null removes. */
static void take_settings(json_t *settings, const json_t *wanted, struct faults *f)
{
    CLEANUP(free_ptr) char *known = rule_names(wave_settings);
    char reason[RULE_REASON_SIZE];
    const char *key;
    json_t *value;

    if (!wanted)
        return;
    if (!json_is_object(wanted)) {
        fault_add(f, "settings", "must be an object");
        return;
    }
    json_object_foreach((json_t *)(uintptr_t)wanted, key, value) {
        CLEANUP(free_ptr) char *field = xasprintf("settings.%s", key);
        const struct rule *r = rule_find(wave_settings, key);
        json_t *taken;

        if (!r)
            fault_add(f, field, "there is no such setting: %s", known);
        else if (rule_take(r, value, &taken, reason) < 0)
            fault_add(f, field, "%s", reason);
        else if (!taken)
            json_object_del(settings, key);
        else
            json_object_set_new(settings, key, taken);
    }
}

int wave_insert(struct store_tx *tx, const char *name, const char *title, json_t *settings, const struct inventory_by *by, struct err *e)
{
    CLEANUP(free_ptr) char *text = json_text(settings);
    json_t *fields;
    int64_t added = store_run(tx, e, "INSERT INTO wave (name, title, stage, health, settings, version, created_us) VALUES ($1, $2, 'build',"
                                     " 'idle', $3, 1, $4) ON CONFLICT (name) DO NOTHING", "sssi", name, title, text, by->now_us);

    if (added <= 0)
        return added < 0 ? -1 : err_set(e, ERR_CONFLICT, "there is a wave %s already", name);
    fields = json_object();
    fields_add(fields, "title", NULL, json_string(title));
    fields_add(fields, "settings", NULL, json_incref(settings));
    return inventory_event(tx, by, "wave.created", name, "wave", name, json_pack("{s:o, s:i}", "fields", fields, "version", 1), e);
}

int inventory_wave_create(struct store_tx *tx, const json_t *body, const struct inventory_by *by, json_t *faults, struct err *e)
{
    static const char *const known[] = {"name", "title", "settings", NULL};
    CLEANUP(json_free) json_t *settings = json_object();
    struct faults f = {.list = faults};
    const char *name = json_get_string(body, "name", "");
    char reason[RULE_REASON_SIZE];

    if (!json_is_object(body))
        return err_set(e, ERR_INVALID, "a wave is a JSON object");
    check_members(body, known, "name, title, settings", &f);
    if (!rule_check(rule_find(server_columns, "wave"), name, reason))
        fault_add(&f, "name", "%s", reason);
    check_text(body, "title", TITLE_MAX, false, &f);
    take_settings(settings, json_object_get(body, "settings"), &f);
    if (faults_end(&f, e, "the wave") < 0)
        return -1;
    return wave_insert(tx, name, json_get_string(body, "title", name), settings, by, e);
}

/* What a change starts from. */
struct wave_before {
    char *title, *time_zone, *notice, *stage, *health, *run;
    json_t *settings;
    int64_t opens_us, closes_us, version;
};

static void wave_before_release(struct wave_before *w)
{
    free(w->title);
    free(w->time_zone);
    free(w->notice);
    free(w->stage);
    free(w->health);
    free(w->run);
    json_free(&w->settings);
}

/* Loads the wave; ERR_NOT_FOUND, and ERR_CONFLICT where it is not of that version any more. */
static int load(struct store_tx *tx, const char *wave, int64_t version, struct wave_before *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    const char *settings;
    int rc;

    if (store_query(tx, &rows, e, "SELECT title, settings, opens_us, closes_us, time_zone, notice, stage, health, run, version FROM wave"
                                  " WHERE name = $1", "s", wave) < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    if (!rc)
        return err_set(e, ERR_NOT_FOUND, "there is no wave %s", wave);
    if (version != INVENTORY_ANY_VERSION && store_int(rows, 9) != version)
        return err_set(e, ERR_CONFLICT, "the wave %s was changed meanwhile (version %lld, not %lld): read it again", wave,
                       (long long)store_int(rows, 9), (long long)version);
    settings = store_text(rows, 1);
    if (json_read(settings, strlen(settings), &out->settings, e) < 0)
        return err_wrap(e, "the settings of the wave %s", wave);
    out->title = xstrdup(store_text(rows, 0));
    out->opens_us = store_int(rows, 2);
    out->closes_us = store_int(rows, 3);
    out->time_zone = xstrdup(store_text(rows, 4));
    out->notice = xstrdup(store_text(rows, 5));
    out->stage = xstrdup(store_text(rows, 6));
    out->health = xstrdup(store_text(rows, 7));
    out->run = xstrdup(store_text(rows, 8));
    out->version = store_int(rows, 9);
    return 0;
}

static int wave_event(struct store_tx *tx, const char *wave, const char *kind, json_t *fields, int64_t version, const struct inventory_by *by,
                      struct err *e)
{
    return inventory_event(tx, by, kind, wave, "wave", wave, json_pack("{s:o, s:I}", "fields", fields, "version", (json_int_t)version), e);
}

int inventory_wave_update(struct store_tx *tx, const char *wave, int64_t version, const json_t *body, const struct inventory_by *by,
                          json_t *faults, struct err *e)
{
    static const char *const known[] = {"title", "settings", NULL};
    CLEANUP(wave_before_release) struct wave_before before = {0};
    CLEANUP(json_free) json_t *settings = NULL;
    CLEANUP(json_free) json_t *fields = json_object();
    CLEANUP(free_ptr) char *text = NULL;
    struct faults f = {.list = faults};
    const char *title;

    if (!json_is_object(body))
        return err_set(e, ERR_INVALID, "a change is a JSON object");
    if (load(tx, wave, version, &before, e) < 0)
        return -1;
    settings = json_deep_copy(before.settings);
    check_members(body, known, "title, settings", &f);
    check_text(body, "title", TITLE_MAX, false, &f);
    take_settings(settings, json_object_get(body, "settings"), &f);
    if (faults_end(&f, e, "the wave") < 0)
        return -1;
    title = json_get_string(body, "title", before.title);
    fields_add(fields, "title", json_string(before.title), json_string(title));
    fields_add(fields, "settings", json_incref(before.settings), json_incref(settings));
    if (!json_object_size(fields))
        return 0;
    text = json_text(settings);
    if (store_run(tx, e, "UPDATE wave SET title = $1, settings = $2, version = version + 1 WHERE name = $3", "sss", title, text, wave) < 0)
        return -1;
    return wave_event(tx, wave, "wave.updated", json_incref(fields), before.version + 1, by, e);
}

/* A name of the tz database, where this machine has one to ask. */
static bool is_time_zone(const char *name)
{
    CLEANUP(free_ptr) char *path = xasprintf("/usr/share/zoneinfo/%s", name);

    if (!*name || strlen(name) > 64 || name[0] == '/' || strstr(name, "..")
        || name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-/")])
        return false;
    return access("/usr/share/zoneinfo", F_OK) != 0 || access(path, R_OK) == 0 || strcmp(name, "UTC") == 0;
}

static int64_t take_time(const json_t *body, const char *name, struct faults *f)
{
    const char *text = json_string_value(json_object_get(body, name));
    struct err why = {0};
    int64_t time_us = 0;

    if (!text)
        fault_add(f, name, "must be a time as 2026-11-24T20:00:00+01:00");
    else if (clock_parse(text, &time_us, &why) < 0)
        fault_add(f, name, "%.250s", why.message);
    return time_us;
}

static json_t *time_json(int64_t time_us)
{
    char text[CLOCK_TEXT_SIZE];

    return time_us ? json_string(clock_format(time_us, text)) : NULL;
}

static json_t *text_json(const char *text)
{
    return text ? json_string(text) : NULL;
}

int inventory_wave_set_window(struct store_tx *tx, const char *wave, int64_t version, const json_t *body, const struct inventory_by *by,
                              json_t *faults, struct err *e)
{
    static const char *const known[] = {"opens", "closes", "time_zone", "notice", NULL};
    CLEANUP(wave_before_release) struct wave_before before = {0};
    CLEANUP(json_free) json_t *fields = json_object();
    struct faults f = {.list = faults};
    const char *zone = json_get_string(body, "time_zone", "UTC"), *notice = json_get_string(body, "notice", NULL);
    int64_t opens_us, closes_us;

    if (!json_is_object(body))
        return err_set(e, ERR_INVALID, "a window is a JSON object");
    if (load(tx, wave, version, &before, e) < 0)
        return -1;
    check_members(body, known, "opens, closes, time_zone, notice", &f);
    opens_us = take_time(body, "opens", &f);
    closes_us = take_time(body, "closes", &f);
    if (opens_us && closes_us && closes_us <= opens_us)
        fault_add(&f, "closes", "must be after opens");
    else if (closes_us && closes_us <= by->now_us)
        fault_add(&f, "closes", "is over already");
    if (!is_time_zone(zone))
        fault_add(&f, "time_zone", "must be a name as Europe/Berlin or UTC");
    check_text(body, "notice", NOTICE_MAX, true, &f);
    if (faults_end(&f, e, "the window") < 0)
        return -1;
    fields_add(fields, "opens", time_json(before.opens_us), time_json(opens_us));
    fields_add(fields, "closes", time_json(before.closes_us), time_json(closes_us));
    fields_add(fields, "time_zone", text_json(before.time_zone), json_string(zone));
    fields_add(fields, "notice", text_json(before.notice), text_json(notice));
    if (!json_object_size(fields))
        return 0;
    if (store_run(tx, e, "UPDATE wave SET opens_us = $1, closes_us = $2, time_zone = $3, notice = $4, version = version + 1 WHERE name = $5",
                  "iisss", opens_us, closes_us, zone, notice, wave) < 0)
        return -1;
    return wave_event(tx, wave, "wave.window_set", json_incref(fields), before.version + 1, by, e);
}

int inventory_wave_set_stage(struct store_tx *tx, const char *wave, const char *stage, const char *health, const char *run,
                             const struct inventory_by *by, struct err *e)
{
    CLEANUP(wave_before_release) struct wave_before before = {0};
    CLEANUP(json_free) json_t *fields = json_object();

    if (!named_in(stage, stages) || !named_in(health, healths))
        return err_set(e, ERR_INTERNAL, "\"%s\", \"%s\" are no stage and health", stage, health);
    if (load(tx, wave, INVENTORY_ANY_VERSION, &before, e) < 0)
        return -1;
    fields_add(fields, "stage", json_string(before.stage), json_string(stage));
    fields_add(fields, "health", json_string(before.health), json_string(health));
    if (run)
        fields_add(fields, "run", text_json(before.run), json_string(run));
    if (!json_object_size(fields))
        return 0;
    if (store_run(tx, e, "UPDATE wave SET stage = $1, health = $2, run = COALESCE($3, run) WHERE name = $4", "ssss", stage, health, run, wave) < 0)
        return -1;
    return wave_event(tx, wave, "wave.moved", json_incref(fields), before.version, by, e);
}

int wave_takes_servers(struct store_tx *tx, const char *wave, char reason[static RULE_REASON_SIZE], struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT CASE WHEN run IS NOT NULL AND stage <> 'done' AND health <> 'idle' THEN 1 ELSE 0 END FROM wave WHERE name = $1", "s", wave) < 0
        || (rc = store_next(rows, e)) < 0)
        return -1;
    if (!rc)
        snprintf(reason, RULE_REASON_SIZE, "there is no wave %.100s: make it first", wave);
    else if (store_int(rows, 0))
        snprintf(reason, RULE_REASON_SIZE, "the wave %.100s has started: no server joins or leaves it until it is done", wave);
    return rc && !store_int(rows, 0);
}

int inventory_wave_window(struct store_tx *tx, const char *wave, int64_t *opens_us, int64_t *closes_us, json_t **settings, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *read = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT opens_us, closes_us, settings FROM wave WHERE name = $1", "s", wave) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc <= 0)
        return rc;
    if (settings && json_read(store_text(rows, 2), strlen(store_text(rows, 2)), &read, e) < 0)
        return err_wrap(e, "the settings of the wave %s", wave);
    if (settings)
        *settings = json_incref(read);
    if (opens_us)
        *opens_us = store_int(rows, 0);
    if (closes_us)
        *closes_us = store_int(rows, 1);
    return 1;
}
