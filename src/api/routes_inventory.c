/* Waves, servers, imports: over inventory/, with what workflow/ knows of them. */
#include "api/api.h"
#include "api/routes.h"
#include "base/clock.h"
#include "inventory/placement.h"
#include "inventory/second_copy.h"
#include "workflow/report.h"

#include <string.h>

/* --- waves --- */

int route_waves(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *answer = NULL;
    struct inventory_list list;
    json_t *wave;
    size_t index;

    if (api_list_query(c, &list, e) < 0 || api_read(c, &tx, e) < 0 || inventory_waves_json(tx, &list, &answer, e) < 0)
        return -1;
    json_array_foreach(json_object_get(answer, "items"), index, wave)
        if (workflow_wave_status(tx, json_get_string(wave, "name", ""), wave, e) < 0)
            return -1;
    return reply_json(c, 200, json_incref(answer));
}

static int reply_wave(struct http_call *c, struct store_tx *tx, const char *name, int status, struct err *e)
{
    CLEANUP(json_free) json_t *wave = NULL;
    int found = inventory_wave_json(tx, name, &wave, e);

    if (found > 0 && workflow_wave_status(tx, name, wave, e) < 0)
        return -1;
    if (api_reply_found(c, found, found > 0 ? json_incref(wave) : NULL, "wave", name, e) < 0)
        return -1;
    c->reply.status = status;
    return 0;
}

int route_wave(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    return api_read(c, &tx, e) < 0 ? -1 : reply_wave(c, tx, call_param(c, "wave"), 200, e);
}

int route_wave_create(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_by by = api_by(c);

    if (api_write(c, &tx, e) < 0 || inventory_wave_create(tx, c->body, &by, api_faults(c), e) < 0 ||
        reply_wave(c, tx, json_get_string(c->body, "name", ""), 201, e) < 0 || store_commit(&tx, e) < 0)
        return api_failed(c, e);
    return 0;
}

typedef int wave_change(struct store_tx *tx, const char *wave, int64_t version, const json_t *body, const struct inventory_by *by,
                        json_t *faults, struct err *e);

static int change_wave(struct http_call *c, wave_change *change, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_by by = api_by(c);
    int64_t version = INVENTORY_ANY_VERSION;

    if (call_if_match(c, &version, e) < 0 || api_write(c, &tx, e) < 0 ||
        change(tx, call_param(c, "wave"), version, c->body, &by, api_faults(c), e) < 0 ||
        reply_wave(c, tx, call_param(c, "wave"), 200, e) < 0 || store_commit(&tx, e) < 0)
        return api_failed(c, e);
    return 0;
}

int route_wave_update(struct http_call *c, struct err *e)
{
    return change_wave(c, inventory_wave_update, e);
}

int route_wave_window(struct http_call *c, struct err *e)
{
    return change_wave(c, inventory_wave_set_window, e);
}

int route_wave_start(struct http_call *c, struct err *e)
{
    char run[WORKFLOW_ID_SIZE];

    if (workflow_start_wave(api_of(c)->workflow, call_param(c, "wave"), c->who.text, run, e) < 0)
        return -1;
    return reply_json(c, 202, json_pack("{s:s}", "run", run));
}

int route_wave_cutover(struct http_call *c, struct err *e)
{
    return workflow_cutover_wave(api_of(c)->workflow, call_param(c, "wave"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_measure(struct http_call *c, struct err *e)
{
    return workflow_measure(api_of(c)->workflow, call_param(c, "wave"), call_param(c, "name"), c->body, c->who.text, e) < 0 ?
        -1 : reply_empty(c, 204);
}

int route_wave_report(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *report = NULL;

    if (api_read(c, &tx, e) < 0 || report_json(tx, call_param(c, "wave"), clock_now_us(), &report, e) < 0)
        return -1;
    return reply_json(c, 200, report);
}

int route_wave_report_html(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *report = NULL;
    CLEANUP(buf_release) struct buf page = {0};

    if (api_read(c, &tx, e) < 0 || report_json(tx, call_param(c, "wave"), clock_now_us(), &report, e) < 0 ||
        report_html(report, &page, e) < 0)
        return -1;
    /* One file: its styles and pictures are in it; it has no scripts, and none may run. */
    reply_header(c, "Content-Security-Policy",
                 "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; sandbox");
    return reply_text(c, 200, "text/html; charset=utf-8", buf_take(&page));
}

/* --- servers --- */

int route_servers(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_list list;
    json_t *answer = NULL;

    if (api_list_query(c, &list, e) < 0 || call_query_bool(c, "trouble", &list.trouble, e) < 0 || api_read(c, &tx, e) < 0)
        return -1;
    list.wave = call_query(c, "wave");
    list.lifecycle = call_query(c, "lifecycle");
    return inventory_servers_json(tx, &list, &answer, e) < 0 ? -1 : reply_json(c, 200, answer);
}

/* Where it replicates to; what holds for that, and who says so. */
static int add_settings(struct store_tx *tx, const char *name, json_t *server, struct err *e)
{
    CLEANUP(json_free) json_t *factory = NULL;
    json_t *settings = NULL, *placement = NULL, *copy = NULL;
    int64_t version;

    if (settings_read(tx, &factory, &version, e) < 0 || placement_json(tx, name, &placement, e) < 0)
        return -1;
    json_object_set_new(server, "placement", placement);
    if (second_copy_json(tx, name, &copy, e) < 0)
        return -1;
    json_object_set_new(server, "copy", copy);
    if (inventory_replication_settings(tx, name, json_object_get(factory, "replication"), &settings, e) < 0)
        return -1;
    return json_object_set_new(server, "replication_settings", settings ? settings : json_null());
}

/* Of one server only: lists would be long with them. */
static int add_points(struct store_tx *tx, const char *name, json_t *server, struct err *e)
{
    json_t *points = NULL;

    if (inventory_server_points(tx, name, &points, e) < 0)
        return -1;
    return json_object_set_new(server, "points", points ? points : json_array());
}

static int reply_server(struct http_call *c, struct store_tx *tx, const char *name, int status, struct err *e)
{
    json_t *server = NULL;
    int found = inventory_server_json(tx, name, &server, e);

    if (found > 0 && (add_settings(tx, name, server, e) < 0 || add_points(tx, name, server, e) < 0)) {
        json_decref(server);
        return -1;
    }
    if (api_reply_found(c, found, server, "server", name, e) < 0)
        return -1;
    c->reply.status = status;
    return 0;
}

int route_server(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    return api_read(c, &tx, e) < 0 ? -1 : reply_server(c, tx, call_param(c, "server"), 200, e);
}

int route_server_create(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_by by = api_by(c);

    if (api_write(c, &tx, e) < 0 || inventory_server_create(tx, c->body, &by, api_faults(c), e) < 0 ||
        reply_server(c, tx, json_get_string(c->body, "name", ""), 201, e) < 0 || store_commit(&tx, e) < 0)
        return api_failed(c, e);
    return 0;
}

/* The SSH host key that an operator has compared; null forgets it. It has a function of its own below. */
static int pin_host_key(struct store_tx *tx, const char *server, const json_t *key, const struct inventory_by *by, struct err *e)
{
    if (!key)
        return 0;
    if (!json_is_string(key) && !json_is_null(key))
        return err_set(e, ERR_INVALID, "\"host_key\" must be the key's fingerprint, \"SHA256:…\" (ssh-keyscan HOST | ssh-keygen -lf -), or null");
    return inventory_server_set_host_key(tx, server, json_string_value(key), by, e);
}

int route_server_update(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *key = json_incref(json_object_get(c->body, "host_key"));
    struct inventory_by by = api_by(c);
    const char *server = call_param(c, "server");
    int64_t version = INVENTORY_ANY_VERSION;

    json_object_del(c->body, "host_key");
    if (call_if_match(c, &version, e) < 0 || api_write(c, &tx, e) < 0 ||
        inventory_server_update(tx, server, version, c->body, &by, api_faults(c), e) < 0 || pin_host_key(tx, server, key, &by, e) < 0 ||
        reply_server(c, tx, server, 200, e) < 0 || store_commit(&tx, e) < 0)
        return api_failed(c, e);
    return 0;
}

/* --- what one asks of a server --- */

/* An order that its replicator fetches, within a second or two. */
static int order_pause(struct http_call *c, bool paused, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct inventory_by by = api_by(c);

    if (api_write(c, &tx, e) < 0 || inventory_replication_pause(tx, call_param(c, "server"), paused, &by, e) < 0 || store_commit(&tx, e) < 0)
        return -1;
    return reply_empty(c, 204);
}

int route_server_pause(struct http_call *c, struct err *e) { return order_pause(c, true, e); }
int route_server_resume(struct http_call *c, struct err *e) { return order_pause(c, false, e); }

typedef int server_action(struct workflow *w, const char *server, const char *actor, struct err *e);

static int act(struct http_call *c, server_action *action, struct err *e)
{
    return action(api_of(c)->workflow, call_param(c, "server"), c->who.text, e) < 0 ? -1 : reply_empty(c, 204);
}

int route_server_cutover(struct http_call *c, struct err *e)
{
    return act(c, workflow_server_cutover, e);
}

int route_server_open(struct http_call *c, struct err *e)
{
    return act(c, workflow_server_open, e);
}

int route_server_finalize(struct http_call *c, struct err *e)
{
    return act(c, workflow_server_finalize, e);
}

int route_server_decommission(struct http_call *c, struct err *e)
{
    return act(c, workflow_server_decommission, e);
}

int route_server_back(struct http_call *c, struct err *e)
{
    const json_t *confirm = json_object_get(c->body, "confirm"), *bring = json_object_get(c->body, "bring_changes");
    char run[WORKFLOW_ID_SIZE] = "", words[WORKFLOW_WORDS_SIZE] = "";

    if (confirm && !json_is_string(confirm) && !json_is_null(confirm))
        return err_set(e, ERR_INVALID, "\"confirm\" must be the words of the refusal");
    if (bring && !json_is_boolean(bring))
        return err_set(e, ERR_INVALID, "\"bring_changes\" must be true or false");
    if (json_is_true(bring) && json_is_string(confirm))
        return err_set(e, ERR_INVALID, "say either that the changes are brought home (\"bring_changes\"), or the words that lose them (\"confirm\")");
    if (json_is_true(bring))
        return workflow_server_home(api_of(c)->workflow, call_param(c, "server"), c->who.text, run, e) < 0 ? -1 : reply_json(c, 202, json_pack("{s:s}", "run", run));
    if (workflow_server_back(api_of(c)->workflow, call_param(c, "server"), json_string_value(confirm), c->who.text, run, words, e) < 0) {
        if (*words)
            c->extra = json_pack("{s:s}", "confirm", words);
        return -1;
    }
    return reply_json(c, 202, json_pack("{s:s}", "run", run));
}

int route_server_stay(struct http_call *c, struct err *e)
{
    char run[WORKFLOW_ID_SIZE] = "";

    return workflow_server_stay(api_of(c)->workflow, call_param(c, "server"), c->who.text, run, e) < 0 ? -1 : reply_json(c, 202, json_pack("{s:s}", "run", run));
}
