/* What concerns the factory as a whole: events, doctor, backups, health, numbers, its documents and the console. */
#include "api/api.h"
#include "api/children.h"
#include "api/console.h"
#include "api/routes.h"
#include "base/clock.h"

#include <string.h>

/* --- events --- */

int route_events(struct http_call *c, struct err *e)
{
    const char *last = call_header(c, "Last-Event-ID");
    int64_t after_id = -1;

    if (call_query_int(c, "after", 0, INT64_MAX, &after_id, e) < 0 || (last && *last && sse_parse_id(last, &after_id, e) < 0))
        return -1;
    return sse_subscribe(api_of(c)->sse, c, after_id, call_query(c, "wave"), e);
}

static int add_event(void *items, const struct event *what)
{
    json_t *object = sse_event_json(what);

    if (object)
        json_array_append_new(items, object);
    return 0;
}

int route_audit(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *items = json_array();
    int64_t after_id = 0, limit = 100, last_id = 0;
    bool newest = false;
    json_t *next;
    int count;

    if (call_query_int(c, "after", 0, INT64_MAX, &after_id, e) < 0 || call_query_int(c, "page", 0, INT64_MAX, &after_id, e) < 0 ||
        call_query_int(c, "limit", 1, LIMIT_PAGE_ITEMS, &limit, e) < 0 || call_query_bool(c, "newest", &newest, e) < 0 || api_read(c, &tx, e) < 0)
        return -1;
    newest = newest && !call_query(c, "page"); /* which goes on where the page before ended */
    if (newest && (last_id = event_last_id(tx, e)) < 0)
        return -1;
    if (newest && last_id > limit && after_id < last_id - limit)
        after_id = last_id - limit;
    count = event_read(tx, after_id, call_query(c, "wave"), (int)limit, add_event, items, e);
    if (count < 0)
        return -1;
    next = count == limit ? json_sprintf("%lld", (long long)json_get_int(json_array_get(items, (size_t)count - 1), "id", 0)) : json_null();
    return reply_json(c, 200, json_pack("{s:O, s:o}", "items", items, "next", next));
}

/* --- lists --- */

int route_applications(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    json_t *items = NULL;

    if (api_read(c, &tx, e) < 0)
        return -1;
    return api_reply_items(c, inventory_applications_json(tx, &items, e), &items);
}

/* The target that the settings chose, and how its last probe went. */
int route_targets(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *settings = NULL, *probe = NULL, *items = json_array();
    const char *name;
    int64_t version;

    if (api_read(c, &tx, e) < 0 || settings_read(tx, &settings, &version, e) < 0 || doctor_last_run(tx, "target_probe", &probe, e) < 0)
        return -1;
    name = json_get_string(json_object_get(settings, "target"), "name", NULL);
    if (name)
        json_array_append_new(items, json_pack("{s:s, s:s, s:O?, s:O?}", "name", name, "state",
                                               probe ? json_get_string(probe, "state", "unknown") : "NOT_PROBED", "last_seen",
                                               probe ? json_object_get(probe, "finished") : NULL, "probe", probe));
    return api_reply_items(c, 0, &items);
}

int route_doctor(struct http_call *c, struct err *e)
{
    json_t *answer = NULL;

    return doctor_json(api_of(c), &answer, e) < 0 ? -1 : reply_json(c, 200, answer);
}

/* --- backups --- */

int route_backup(struct http_call *c, struct err *e)
{
    CLEANUP(free_ptr) char *path = NULL;

    return backup_make(api_of(c), c->who.text, &path, e) < 0 ? -1 : reply_json(c, 201, json_pack("{s:s}", "path", path));
}

int route_backups(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *items = json_array();
    int found;

    if (api_read(c, &tx, e) < 0 ||
        store_query(tx, &rows, e, "SELECT path, at_us, actor, size_bytes FROM backup ORDER BY at_us DESC LIMIT 200", "") < 0)
        return -1;
    while ((found = store_next(rows, e)) > 0) {
        json_t *item = json_pack("{s:s, s:s, s:I}", "path", store_text(rows, 0), "actor", store_text(rows, 2), "size_bytes",
                                 (json_int_t)store_int(rows, 3));

        json_set_time(item, "at", store_int(rows, 1));
        json_array_append_new(items, item);
    }
    return api_reply_items(c, found, &items);
}

/* --- health --- */

int route_health(struct http_call *c, struct err *e)
{
    (void)e;
    return reply_json(c, 200, json_pack("{s:s}", "status", "ok"));
}

/* The writer can be had and a transaction of it commits: what a full disk or a lost file would break. Once a second at the most. */
int api_can_write(struct api *a, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    if (a->written_us && clock_monotonic_us() - a->written_us < US_PER_S)
        return 0;
    if (store_begin(a->store, STORE_WRITE, &tx, e) < 0 ||
        store_run(tx, e, "INSERT INTO factory_beat (id, at_us) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at_us = excluded.at_us", "i",
                  clock_now_us()) < 0 || store_commit(&tx, e) < 0)
        return -1;
    a->written_us = clock_monotonic_us();
    return 0;
}

int route_ready(struct http_call *c, struct err *e)
{
    struct api *a = api_of(c);
    char why[200];

    if (api_can_write(a, e) < 0) {
        c->problem_status = 503;
        return err_wrap(e, "the store can't be written");
    }
    if (a->children && !children_up(a->children, why, sizeof why)) {
        c->problem_status = 503;
        return err_set(e, ERR_WRONG_STATE, "%s", why);
    }
    return reply_json(c, 200, json_pack("{s:s}", "status", "ready"));
}

int route_metrics(struct http_call *c, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};

    if (metrics_text(api_of(c), call_server(c), &text, e) < 0)
        return -1;
    return reply_text(c, 200, "text/plain; version=0.0.4; charset=utf-8", buf_take(&text));
}

static char *openapi_text;

static void make_openapi(void)
{
    CLEANUP(json_free) json_t *document = openapi_document(api_routes, api_route_count);

    openapi_text = json_text(document);
}

/* Made once; it can't change. */
int route_openapi(struct http_call *c, struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)e;
    pthread_once(&once, make_openapi);
    return reply_lasting(c, 200, "application/json", openapi_text, strlen(openapi_text));
}

/* --- the console --- */

/* RFC 9110 12.5.3, as far as it concerns one coding that browsers on HTTPS all take. */
static bool takes_encoding(const struct http_call *c, const char *encoding)
{
    const char *accepted = call_header(c, "Accept-Encoding"), *at = accepted ? strstr(accepted, encoding) : NULL;

    return at && (at == accepted || strchr(", ", at[-1])) && (!at[strlen(encoding)] || strchr(",; ", at[strlen(encoding)])) &&
        strncmp(at + strlen(encoding), ";q=0", 5) != 0;
}

int route_console(struct http_call *c, struct err *e)
{
    const struct console_file *file = console_find(c->path);
    const char *known = call_header(c, "If-None-Match");

    if (!file)
        return err_set(e, ERR_NOT_FOUND, "the console has no %.200s", c->path);
    if (file->encoding && !takes_encoding(c, file->encoding)) {
        c->problem_status = 406;
        return err_set(e, ERR_UNSUPPORTED, "the console is kept compressed (%s): send Accept-Encoding: %s", file->encoding, file->encoding);
    }
    /* Vite puts a digest of the content into the names under /assets. */
    reply_header(c, "Cache-Control", strncmp(file->path, "/assets/", 8) == 0 ? "public, max-age=31536000, immutable" : "no-cache");
    reply_header(c, "ETag", "%s", file->etag);
    reply_header(c, "Vary", "Accept-Encoding");
    reply_header(c, "Content-Security-Policy",
                 "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
                 "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'");
    if (known && strstr(known, file->etag))
        return reply_empty(c, 304);
    if (file->encoding)
        reply_header(c, "Content-Encoding", "%s", file->encoding);
    return reply_lasting(c, 200, file->media_type, file->bytes, (size_t)(file->end - file->bytes));
}
