/* render: runs and tasks as the API's JSON. */
#include "workflow/engine.h"

#include "base/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_LINES_SHOWN 200

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

static json_t *document_or_null(const char *text)
{
    json_t *value = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;

    return value ? value : json_null();
}

static json_t *waits_json(const struct task *t)
{
    json_t *waits;

    if (t->state != TASK_WAITING)
        return json_null();
    waits = json_object();
    json_object_set_new(waits, "kind", text_or_null(t->wait_kind));
    json_object_set_new(waits, "what", text_or_null(t->wait_what));
    json_set_time(waits, "until", t->wait_until_us);
    return waits;
}

static json_t *error_json(const char *kind, const char *message)
{
    return kind ? json_pack("{s:s, s:s}", "kind", kind, "message", message ? message : "") : json_null();
}

/* What the newest attempts showed: {TASK: [lines, lines that did not pass]}, of one task or of all of a run. */
static int count_evidence(struct store_tx *tx, const char *task, const char *run, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *counts = json_object();
    CLEANUP(free_ptr) char *sql =
        xasprintf("SELECT t.id, COUNT(*), SUM(CASE e.passed WHEN 0 THEN 1 ELSE 0 END) FROM task t JOIN evidence e ON e.attempt = t.attempt"
                  " WHERE %s = $1 GROUP BY t.id", task ? "t.id" : "t.run");
    int rc = store_query(tx, &rows, e, sql, "s", task ? task : run);

    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        json_object_set_new(counts, store_text(rows, 0),
                            json_pack("[I, I]", (json_int_t)store_int(rows, 1), (json_int_t)store_int(rows, 2)));
    if (rc < 0)
        return -1;
    *out = json_incref(counts);
    return 0;
}

static json_t *brief(const struct task *t, const json_t *counts)
{
    const json_t *count = json_object_get(counts, t->id);
    json_t *o = json_object();
    bool errs = t->state == TASK_FAILED || t->state == TASK_WAITING || t->state == TASK_READY;

    json_object_set_new(o, "id", json_string(t->id));
    json_object_set_new(o, "run", json_string(t->run));
    json_object_set_new(o, "name", json_string(t->plan->name));
    json_object_set_new(o, "title", json_string(t->plan->title));
    json_object_set_new(o, "phase", json_string(t->plan->phase));
    json_object_set_new(o, "step", text_or_null(t->plan->step));
    json_object_set_new(o, "label", text_or_null(t->label));
    json_object_set_new(o, "wave", text_or_null(t->wave));
    json_object_set_new(o, "server", text_or_null(t->server));
    json_object_set_new(o, "state", json_string(task_state_name(t->state)));
    json_object_set_new(o, "waits_for", waits_json(t));
    json_object_set_new(o, "round", json_integer(t->round));
    json_object_set_new(o, "attempt", json_integer(t->fence));
    json_set_time(o, "started", t->started_us);
    json_set_time(o, "finished", t->finished_us);
    json_object_set_new(o, "progress", document_or_null(t->progress));
    json_object_set_new(o, "error", error_json(errs ? t->error_kind : NULL, t->error_message));
    json_object_set_new(o, "reason", text_or_null(t->reason));
    json_object_set_new(o, "evidence_count", json_integer(json_integer_value(json_array_get(count, 0))));
    json_object_set_new(o, "evidence_failed", json_integer(json_integer_value(json_array_get(count, 1))));
    return o;
}

/* ---- The whole task ---- */

/* Calls `add` for each row of a query about one id; appends what it gives. */
static int collect(struct store_tx *tx, json_t *object, const char *member, const char *sql, const char *id,
                   json_t *(*add)(const struct store_rows *rows), struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    json_t *list = json_array();
    int rc = 0;

    json_object_set_new(object, member, list);
    if (!id)
        return 0;
    rc = store_query(tx, &rows, e, sql, "s", id);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        json_array_append_new(list, add(rows));
    return rc;
}

static json_t *evidence_json(const struct store_rows *rows)
{
    json_t *line = json_pack("{s:s, s:b, s:s}", "name", store_text(rows, 1), "passed", (int)store_int(rows, 2), "evidence",
                             store_text(rows, 3));

    json_set_time(line, "at", store_int(rows, 0));
    return line;
}

static json_t *artifact_json(const struct store_rows *rows)
{
    json_t *line = json_pack("{s:s, s:s, s:I}", "name", store_text(rows, 1), "media_type", store_text(rows, 2), "size_bytes",
                             (json_int_t)store_int(rows, 3));

    json_set_time(line, "at", store_int(rows, 0));
    return line;
}

static json_t *attempt_json(const struct store_rows *rows)
{
    json_t *line = json_pack("{s:s, s:I, s:I, s:s, s:s}", "id", store_text(rows, 0), "number", (json_int_t)store_int(rows, 1), "round",
                             (json_int_t)store_int(rows, 2), "runner", store_text(rows, 3), "state", store_text(rows, 4));

    json_set_time(line, "started", store_int(rows, 5));
    json_set_time(line, "finished", store_int(rows, 6));
    json_object_set_new(line, "error", error_json(store_text(rows, 7), store_text(rows, 8)));
    return line;
}

static json_t *decision_json(const struct store_rows *rows)
{
    json_t *line = json_pack("{s:s, s:s, s:s?, s:I}", "actor", store_text(rows, 1), "decision", store_text(rows, 2), "note",
                             store_text(rows, 3), "round", (json_int_t)store_int(rows, 4));

    json_set_time(line, "at", store_int(rows, 0));
    return line;
}

static json_t *log_json(const struct store_rows *rows)
{
    return json_string(store_text(rows, 0));
}

static int add_whole(struct store_tx *tx, const struct task *t, json_t *o, struct err *e)
{
    json_object_set_new(o, "result", document_or_null(t->result));
    if (collect(tx, o, "evidence", "SELECT at_us, name, passed, evidence FROM evidence WHERE attempt = $1 ORDER BY number", t->attempt,
                evidence_json, e) < 0
        || collect(tx, o, "artifacts",
                   "SELECT at_us, name, media_type, size_bytes FROM artifact a WHERE task = $1 AND fence = (SELECT MAX(fence) FROM"
                   " artifact b WHERE b.task = a.task AND b.name = a.name) ORDER BY name",
                   t->id, artifact_json, e) < 0
        || collect(tx, o, "attempts",
                   "SELECT id, fence, round, runner, state, started_us, finished_us, error_kind, error_message FROM attempt WHERE"
                   " task = $1 ORDER BY fence",
                   t->id, attempt_json, e) < 0
        || collect(tx, o, "decisions", "SELECT at_us, actor, decision, note, round FROM decision WHERE task = $1 ORDER BY number", t->id,
                   decision_json, e) < 0
        || collect(tx, o, "log", "SELECT line FROM task_log WHERE attempt = $1 ORDER BY number", t->attempt, log_json, e) < 0)
        return -1;
    while (json_array_size(json_object_get(o, "log")) > LOG_LINES_SHOWN)
        json_array_remove(json_object_get(o, "log"), 0);
    return 0;
}

int workflow_task_json(struct store_tx *tx, const char *task, bool whole, json_t **out, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    CLEANUP(json_free) json_t *o = NULL, *counts = NULL;
    struct task t;
    int rc = task_load(tx, arena, task, &t, e);

    if (rc <= 0)
        return rc;
    if (count_evidence(tx, t.id, NULL, &counts, e) < 0)
        return err_wrap(e, "reading task %s", t.id);
    o = brief(&t, counts);
    if (whole && add_whole(tx, &t, o, e) < 0)
        return err_wrap(e, "reading task %s", t.id);
    *out = json_incref(o);
    return 1;
}

int workflow_artifact_read(struct store_tx *tx, const char *task, const char *name, char **media_type, void **bytes, size_t *size,
                           struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    const void *held;
    size_t held_size;
    int rc = store_query(tx, &rows, e, "SELECT media_type, bytes FROM artifact WHERE task = $1 AND name = $2 ORDER BY fence DESC LIMIT 1",
                         "ss", task, name);

    if (rc < 0 || (rc = store_next(rows, e)) <= 0)
        return rc;
    held = store_blob(rows, 1, &held_size);
    *bytes = xmalloc(held_size + 1);
    memcpy(*bytes, held_size ? held : "", held_size);
    ((char *)*bytes)[held_size] = '\0';
    *size = held_size;
    *media_type = xstrdup(store_text(rows, 0));
    return 1;
}

/* ---- Runs ---- */

static json_t *run_object(const struct run *r)
{
    json_t *o = json_object();

    json_object_set_new(o, "id", json_string(r->id));
    json_object_set_new(o, "template", json_string(r->template));
    json_object_set_new(o, "title", json_string(template_find(r->template) ? template_find(r->template)->title : r->template));
    json_object_set_new(o, "wave", text_or_null(r->wave));
    json_object_set_new(o, "server", text_or_null(r->server));
    json_object_set_new(o, "parent", text_or_null(r->parent));
    json_object_set_new(o, "state", json_string(r->state));
    json_object_set_new(o, "stage", json_string(r->stage));
    json_object_set_new(o, "health", json_string(r->health));
    json_object_set_new(o, "actor", json_string(r->actor));
    json_set_time(o, "started", r->started_us);
    json_set_time(o, "finished", r->finished_us);
    return o;
}

static int add_tasks(struct store_tx *tx, struct arena *arena, const char *run, json_t *o, struct err *e)
{
    CLEANUP(json_free) json_t *counts = NULL;
    json_t *list = json_array();
    struct task *tasks;
    int count = task_list_all(tx, arena, run, &tasks, e);

    json_object_set_new(o, "tasks", list);
    if (count < 0 || count_evidence(tx, NULL, run, &counts, e) < 0)
        return -1;
    for (int i = 0; i < count; i++)
        json_array_append_new(list, brief(&tasks[i], counts));
    return 0;
}

int workflow_run_json(struct store_tx *tx, const char *run, bool with_tasks, json_t **out, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    CLEANUP(json_free) json_t *o = NULL;
    struct run r;
    int rc = run_load(tx, arena, run, &r, e);

    if (rc <= 0)
        return rc;
    o = run_object(&r);
    if (with_tasks && add_tasks(tx, arena, r.id, o, e) < 0)
        return err_wrap(e, "reading run %s", r.id);
    *out = json_incref(o);
    return 1;
}

int workflow_runs_json(struct store_tx *tx, const char *wave, int limit, const char *page, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(arena_free) struct arena *arena = arena_new();
    json_t *items = json_array();
    CLEANUP(json_free) json_t *o = json_pack("{s:o, s:n}", "items", items, "next");
    int64_t before = page ? strtoll(page, NULL, 10) : INT64_MAX, last = 0;
    int rc, wanted = limit < 1 ? 100 : limit > LIMIT_PAGE_ITEMS ? LIMIT_PAGE_ITEMS : limit;

    if (before <= 0)
        return err_set(e, ERR_INVALID, "\"%.40s\" is not a page of runs: take it from \"next\"", page);
    rc = wave ? store_query(tx, &rows, e, "SELECT id, number FROM run WHERE wave = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
                            "sii", wave, before, (int64_t)wanted + 1)
              : store_query(tx, &rows, e, "SELECT id, number FROM run WHERE number < $1 ORDER BY number DESC LIMIT $2", "ii", before,
                            (int64_t)wanted + 1);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        char text[WORKFLOW_ID_SIZE];
        struct run r;

        if ((int)json_array_size(items) == wanted) {
            snprintf(text, sizeof text, "%lld", (long long)last);
            json_object_set_new(o, "next", json_string(text));
            break;
        }
        last = store_int(rows, 1);
        if (run_load(tx, arena, store_text(rows, 0), &r, e) <= 0)
            return -1;
        json_array_append_new(items, run_object(&r));
    }
    if (rc < 0)
        return -1;
    *out = json_incref(o);
    return 0;
}

int workflow_wave_status(struct store_tx *tx, const char *wave, json_t *object, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    struct run r = {.stage = "build", .health = "idle"};
    int rc = run_newest(tx, arena, wave, &r, e);

    if (rc < 0)
        return -1;
    json_object_set_new(object, "run", text_or_null(r.id));
    json_object_set_new(object, "stage", json_string(r.stage));
    json_object_set_new(object, "health", json_string(r.health));
    return rc;
}
