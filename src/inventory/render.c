/* render: waves and servers as the API shows them (docs/architecture.md), and lists: filtered, sorted and paged by the database. */
#include "inventory/private.h"

#include "base/clock.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

#define SILENCE_US (30 * US_PER_S) /* a replicator reports every second or two */
#define LIST_DEFAULT 100
#define PAGE_MAX INT64_C(1000000000)

static int set_document(json_t *object, const char *name, const char *text, struct err *e)
{
    json_t *value = NULL;

    if (text && json_read(text, strlen(text), &value, e) < 0)
        return err_wrap(e, "the stored %s", name);
    json_object_set_new(object, name, value ? value : json_null());
    return 0;
}

static void set_text(json_t *object, const char *name, const char *text)
{
    json_object_set_new(object, name, text ? json_string(text) : json_null());
}

/* ---- Waves ---- */

#define WAVE_COLUMNS "name, title, stage, health, opens_us, closes_us, time_zone, notice, run, settings, version, created_us"

static int set_counts(struct store_tx *tx, const char *wave, json_t *object, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    json_t *lifecycle = json_object();
    int64_t all = 0;
    int rc = store_query(tx, &rows, e, "SELECT lifecycle, COUNT(*) FROM server WHERE wave = $1 GROUP BY lifecycle ORDER BY lifecycle", "s", wave);

    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_object_set_new(lifecycle, store_text(rows, 0), json_integer(store_int(rows, 1)));
        all += store_int(rows, 1);
    }
    json_object_set_new(object, "server_count", json_integer(all));
    json_object_set_new(object, "lifecycle", lifecycle);
    return rc < 0 ? -1 : 0;
}

static int wave_of(struct store_tx *tx, const struct store_rows *rows, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *wave = json_object();
    json_t *window = json_null();

    set_text(wave, "name", store_text(rows, 0));
    set_text(wave, "title", store_text(rows, 1));
    set_text(wave, "stage", store_text(rows, 2));
    set_text(wave, "health", store_text(rows, 3));
    if (store_int(rows, 4)) {
        window = json_object();
        json_set_time(window, "opens", store_int(rows, 4));
        json_set_time(window, "closes", store_int(rows, 5));
        set_text(window, "time_zone", store_text(rows, 6));
        if (store_text(rows, 7))
            set_text(window, "notice", store_text(rows, 7));
    }
    json_object_set_new(wave, "window", window);
    set_text(wave, "run", store_text(rows, 8));
    if (set_document(wave, "settings", store_text(rows, 9), e) < 0 || set_counts(tx, store_text(rows, 0), wave, e) < 0)
        return -1;
    json_object_set_new(wave, "version", json_integer(store_int(rows, 10)));
    json_set_time(wave, "created", store_int(rows, 11));
    *out = json_incref(wave);
    return 0;
}

int inventory_wave_json(struct store_tx *tx, const char *wave, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT " WAVE_COLUMNS " FROM wave WHERE name = $1", "s", wave) < 0)
        return -1;
    rc = store_next(rows, e);
    return rc <= 0 ? rc : wave_of(tx, rows, out, e) < 0 ? -1 : 1;
}

/* ---- Servers ---- */

#define SERVER_COLUMNS                                                                                                                   \
    "s.name, s.wave, s.application, s.owner, s.address, s.port, s.lifecycle, s.attributes, s.facts, s.instance, s.host_key, s.version,"  \
    " s.updated_us, r.document, r.reported_us"
#define SERVER_FROM " FROM server s LEFT JOIN server_replication r ON r.server = s.name"

static int set_disks(struct store_tx *tx, const char *server, json_t *object, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    json_t *disks = json_array();
    int rc = store_query(tx, &rows, e, "SELECT id, name, size_bytes FROM disk WHERE server = $1 ORDER BY position", "s", server);

    json_object_set_new(object, "disks", disks);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        json_array_append_new(disks, json_pack("{s:s, s:s, s:I}", "id", store_text(rows, 0), "name", store_text(rows, 1), "size_bytes",
                                               (json_int_t)store_int(rows, 2)));
    return rc < 0 ? -1 : 0;
}

/* A point grows older between two reports, and while the replicator is silent, too. */
static void set_point_age(json_t *replication)
{
    const char *at = json_get_string(replication, "newest_point_at", NULL);
    int64_t at_us, age_us;

    if (!json_is_object(replication) || !at || clock_parse(at, &at_us, NULL) < 0)
        return;
    age_us = clock_now_us() - at_us;
    json_object_set_new(replication, "newest_point_age_ms", json_integer(age_us > 0 ? age_us / US_PER_MS : 0));
}

/* Nobody has said anything of this server for a while: what was said last is no state of now. The other causes are the replicator's own words
 * (replicator/cause.c); this one it can't say. */
static void set_silence(json_t *replication, int64_t reported_us)
{
    char since[CLOCK_TEXT_SIZE];

    if (clock_now_us() - reported_us < SILENCE_US || strcmp(json_get_string(replication, "state", ""), "DISCONNECTED") == 0)
        return;
    if (strcmp(json_get_string(replication, "state", ""), "UNKNOWN") != 0) /* what could not be read then is no better known now */
        json_object_set_new(replication, "state", json_string("STALLED"));
    json_object_set_new(replication, "eta_ms", json_null());
    json_object_set_new(replication, "eta", json_null());
    json_object_set_new(replication, "bottleneck", json_null());
    json_object_set_new(replication, "cause",
                        json_pack("{s:s, s:s, s:o, s:s}", "kind", "replicator_silent", "severity", "error", "text",
                                  json_sprintf("its replicator has not reported since %.19sZ; what is shown is of then", clock_format(reported_us, since)),
                                  "advice", "check that `slipway replicator` runs (`slipway replicator list`), and that it reaches this factory"));
}

static int server_of(struct store_tx *tx, const struct store_rows *rows, json_t **out, struct err *e)
{
    static const char *const texts[] = {"name", "wave", "application", "owner", "address"};
    CLEANUP(json_free) json_t *server = json_object();

    for (int i = 0; i < (int)ARRAY_COUNT(texts); i++)
        set_text(server, texts[i], store_text(rows, i));
    json_object_set_new(server, "port", json_integer(store_int(rows, 5)));
    set_text(server, "lifecycle", store_text(rows, 6));
    if (set_document(server, "attributes", store_text(rows, 7), e) < 0 || set_document(server, "facts", store_text(rows, 8), e) < 0
        || set_disks(tx, store_text(rows, 0), server, e) < 0 || set_document(server, "replication", store_text(rows, 13), e) < 0
        || set_document(server, "instance", store_text(rows, 9), e) < 0)
        return -1;
    if (json_is_object(json_object_get(server, "replication")))
        json_object_del(json_object_get(server, "replication"), "points"); /* lists would be long with them */
    set_point_age(json_object_get(server, "replication"));
    if (!store_is_null(rows, 14)) {
        json_set_time(json_object_get(server, "replication"), "reported", store_int(rows, 14));
        set_silence(json_object_get(server, "replication"), store_int(rows, 14));
    }
    set_text(server, "host_key", store_text(rows, 10));
    json_object_set_new(server, "version", json_integer(store_int(rows, 11)));
    json_set_time(server, "updated", store_int(rows, 12));
    *out = json_incref(server);
    return 0;
}

int inventory_server_json(struct store_tx *tx, const char *server, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT " SERVER_COLUMNS SERVER_FROM " WHERE s.name = $1", "s", server) < 0)
        return -1;
    rc = store_next(rows, e);
    return rc <= 0 ? rc : server_of(tx, rows, out, e) < 0 ? -1 : 1;
}

int inventory_server_points(struct store_tx *tx, const char *server, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *replication = NULL;
    json_t *points;
    int rc;

    if (store_query(tx, &rows, e, "SELECT r.document FROM server s LEFT JOIN server_replication r ON r.server = s.name WHERE s.name = $1", "s", server) < 0)
        return -1;
    rc = store_next(rows, e);
    if (rc <= 0)
        return rc;
    if (!store_is_null(rows, 0) && json_read(store_text(rows, 0), strlen(store_text(rows, 0)), &replication, e) < 0)
        return err_wrap(e, "the replication of %s", server);
    points = json_object_get(replication, "points");
    *out = json_is_array(points) ? json_incref(points) : json_array();
    return 1;
}

/* ---- Lists ---- */

/* Each sort is a statement's end of its own: nothing of a request gets into SQL. */
struct sort {
    const char *name, *sql;
};
static const struct sort wave_sorts[] = {
    {"name", "name"}, {"-name", "name DESC"}, {"title", "title, name"}, {"-title", "title DESC, name"}, {"stage", "stage, name"},
    {"-stage", "stage DESC, name"}, {"health", "health, name"}, {"-health", "health DESC, name"}, {"created", "created_us, name"},
    {"-created", "created_us DESC, name"}, {"opens", "COALESCE(opens_us, 0), name"}, {"-opens", "COALESCE(opens_us, 0) DESC, name"}, {0},
};
static const struct sort server_sorts[] = {
    {"name", "s.name"}, {"-name", "s.name DESC"}, {"wave", "s.wave, s.name"}, {"-wave", "s.wave DESC, s.name"},
    {"application", "COALESCE(s.application, ''), s.name"}, {"-application", "COALESCE(s.application, '') DESC, s.name"},
    {"owner", "COALESCE(s.owner, ''), s.name"}, {"-owner", "COALESCE(s.owner, '') DESC, s.name"}, {"address", "s.address, s.name"},
    {"-address", "s.address DESC, s.name"}, {"lifecycle", "s.lifecycle, s.name"}, {"-lifecycle", "s.lifecycle DESC, s.name"},
    {"updated", "s.updated_us, s.name"}, {"-updated", "s.updated_us DESC, s.name"}, {0},
};

static int find_sort(const struct sort *sorts, const char *name, const char **sql, struct err *e)
{
    CLEANUP(buf_release) struct buf known = {0};

    for (const struct sort *s = sorts; s->name; s++)
        if (strcmp(s->name, name && *name ? name : "name") == 0) {
            *sql = s->sql;
            return 0;
        }
    buf_init(&known, 0);
    for (const struct sort *s = sorts; s->name; s++)
        if (s->name[0] != '-')
            buf_printf(&known, "%s%s", known.size_bytes ? ", " : "", s->name);
    return err_set(e, ERR_INVALID, "sort \"%.60s\" is not known: %s, or one of them with - before it", name, known.data);
}

/* "page" is where the next page begins. */
static int read_page(const char *page, int64_t *offset, struct err *e)
{
    char *end;

    *offset = page && *page ? strtoll(page, &end, 10) : 0;
    if (page && *page && (*end || *offset < 0 || *offset > PAGE_MAX || page[0] < '0' || page[0] > '9'))
        return err_set(e, ERR_INVALID, "page \"%.60s\" is none: take it from \"next\" of the page before", page);
    return 0;
}

/* %q% for LIKE … ESCAPE '\', in lower case (of ASCII; LIKE does the same). */
static char *like_of(const char *q)
{
    struct buf pattern;

    buf_init(&pattern, 0);
    buf_puts(&pattern, "%");
    for (; q && *q; q++) {
        char c = *q >= 'A' && *q <= 'Z' ? (char)(*q + 32) : *q;

        buf_printf(&pattern, strchr("%_\\", c) ? "\\%c" : "%c", c);
    }
    buf_puts(&pattern, "%");
    return buf_take(&pattern);
}

/* The answer's frame. items' reference is taken. */
static json_t *list_of(json_t *items, bool more, int64_t next, int64_t total)
{
    CLEANUP(free_ptr) char *page = xasprintf("%lld", (long long)next);

    return json_pack("{s:o, s:s?, s:I}", "items", items, "next", more ? page : NULL, "total", (json_int_t)total);
}

typedef int row_reader(struct store_tx *tx, const struct store_rows *rows, json_t **out, struct err *e);

/* sql takes $1 the pattern, $2 wave, $3 lifecycle ("": any), and, for rows, $4 limit, $5 offset. */
static int read_list(struct store_tx *tx, const struct inventory_list *list, const char *count_sql, const char *sql, row_reader *read, json_t **out,
                     struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *items = json_array();
    CLEANUP(free_ptr) char *like = like_of(list->q);
    const char *wave = list->wave ? list->wave : "", *lifecycle = list->lifecycle ? list->lifecycle : "";
    int64_t limit = list->limit > 0 ? list->limit : LIST_DEFAULT, offset, total = 0;
    int rc;

    limit = limit > LIMIT_PAGE_ITEMS ? LIMIT_PAGE_ITEMS : limit;
    if (read_page(list->page, &offset, e) < 0
        || store_one_int(tx, &total, e, count_sql, "sss", like, wave, lifecycle) < 0
        || store_query(tx, &rows, e, sql, "sssii", like, wave, lifecycle, limit, offset) < 0)
        return -1;
    while ((rc = store_next(rows, e)) > 0) {
        json_t *item;

        if (read(tx, rows, &item, e) < 0)
            return -1;
        json_array_append_new(items, item);
    }
    if (rc < 0)
        return -1;
    offset += (int64_t)json_array_size(items);
    *out = list_of(json_incref(items), offset < total && json_array_size(items) > 0, offset, total);
    return 0;
}

#define WAVE_WHERE                                                                                                                       \
    " FROM wave WHERE (LOWER(name) LIKE $1 ESCAPE '\\' OR LOWER(title) LIKE $1 ESCAPE '\\') AND ($2 = '' OR name = $2)"                  \
    " AND ($3 = '' OR stage = $3)"

int inventory_waves_json(struct store_tx *tx, const struct inventory_list *list, json_t **out, struct err *e)
{
    CLEANUP(free_ptr) char *sql = NULL;
    const char *sort;

    if (find_sort(wave_sorts, list->sort, &sort, e) < 0)
        return -1;
    sql = xasprintf("SELECT " WAVE_COLUMNS WAVE_WHERE " ORDER BY %s LIMIT $4 OFFSET $5", sort);
    return read_list(tx, list, "SELECT COUNT(*)" WAVE_WHERE, sql, wave_of, out, e);
}

#define SERVER_WHERE                                                                                                                     \
    " WHERE (LOWER(s.name) LIKE $1 ESCAPE '\\' OR LOWER(s.address) LIKE $1 ESCAPE '\\' OR LOWER(COALESCE(s.owner, '')) LIKE $1"          \
    " ESCAPE '\\' OR LOWER(COALESCE(s.application, '')) LIKE $1 ESCAPE '\\') AND ($2 = '' OR s.wave = $2)"                               \
    " AND ($3 = '' OR s.lifecycle = $3)"

/* A document is kept as json_text writes it, and within its strings the quotes are escaped; of its objects only a cause has a severity. Silence is as of set_silence. */
#define SERVER_TROUBLED                                                                                                                  \
    "(r.document LIKE '%\"cause\":{%' AND r.document NOT LIKE '%\"cause\":{\"kind\":\"%\",\"severity\":\"info\",\"text\":\"%'"

int inventory_servers_json(struct store_tx *tx, const struct inventory_list *list, json_t **out, struct err *e)
{
    CLEANUP(free_ptr) char *troubled = NULL, *count_sql = NULL, *sql = NULL;
    const char *sort;

    if (find_sort(server_sorts, list->sort, &sort, e) < 0)
        return -1;
    troubled = list->trouble ? xasprintf(" AND %s OR (r.reported_us <= %lld AND r.state <> 'DISCONNECTED'))", SERVER_TROUBLED,
                                         (long long)(clock_now_us() - SILENCE_US)) : xstrdup("");
    count_sql = xasprintf("SELECT COUNT(*)%s%s", SERVER_FROM SERVER_WHERE, troubled);
    sql = xasprintf("SELECT %s%s ORDER BY %s LIMIT $4 OFFSET $5", SERVER_COLUMNS SERVER_FROM SERVER_WHERE, troubled, sort);
    return read_list(tx, list, count_sql, sql, server_of, out, e);
}

int inventory_applications_json(struct store_tx *tx, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *items = json_array();
    int rc = store_query(tx, &rows, e, "SELECT a.name, a.owner, (SELECT COUNT(*) FROM server s WHERE s.application = a.name) FROM application a"
                                       " ORDER BY a.name", "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        json_array_append_new(items, json_pack("{s:s, s:s?, s:I}", "name", store_text(rows, 0), "owner", store_text(rows, 1), "server_count",
                                               (json_int_t)store_int(rows, 2)));
    if (rc < 0)
        return -1;
    *out = json_incref(items);
    return 0;
}
