/* report: gathers what a wave came to. Every figure is read from where it was written down when it happened; what isn't there is null
 * here, and a reason for "failed" where the proof needs it. */
#include "workflow/report.h"
#include "workflow/engine.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PICTURES_BYTES_MOST (5u << 20) /* of all data: URIs together: the JSON must stay readable (LIMIT_JSON_BYTES) */

struct gather {
    struct store_tx *tx;
    struct arena *arena;
    struct run run;
    json_t *report, *reasons, *tasks; /* tasks: whole, in the template's order; borrowed from report */
    json_t *measured;                 /* by name; borrowed from report */
    size_t picture_bytes;
};

static void reason(struct gather *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void reason(struct gather *g, const char *format, ...)
{
    CLEANUP(free_ptr) char *text = NULL;
    va_list args;

    va_start(args, format);
    MUST(vasprintf(&text, format, args) >= 0);
    va_end(args);
    json_array_append_new(g->reasons, json_string(text));
}

/* The server's task of that name, borrowed, or NULL. */
static const json_t *task_of(const struct gather *g, const char *server, const char *name)
{
    size_t i;
    json_t *task;

    json_array_foreach(g->tasks, i, task)
        if (strcmp(json_get_string(task, "name", ""), name) == 0 && strcmp(json_get_string(task, "server", ""), server) == 0)
            return task;
    return NULL;
}

static const json_t *result_of(const struct gather *g, const char *server, const char *name, const char *member)
{
    return json_object_get(json_object_get(task_of(g, server, name), "result"), member);
}

static json_t *copy_or_null(const json_t *value)
{
    return value ? json_deep_copy(value) : json_null();
}

/* ---- Tasks ---- */

static int add_run_tasks(struct gather *g, const char *run, json_t *list, struct err *e)
{
    struct task *tasks;
    int count = task_list_all(g->tx, g->arena, run, &tasks, e);

    for (int i = 0; i < count; i++) {
        json_t *one;

        if (workflow_task_json(g->tx, tasks[i].id, true, &one, e) <= 0)
            return -1;
        json_object_del(one, "log");
        json_array_append_new(list, one);
    }
    return count < 0 ? -1 : 0;
}

/* Everything but the report itself must have been done, or left out for a reason that somebody gave. */
static void judge_tasks(struct gather *g)
{
    size_t i;
    json_t *task;

    json_array_foreach(g->tasks, i, task) {
        const char *state = json_get_string(task, "state", ""), *server = json_get_string(task, "server", NULL);
        const char *why = json_get_string(task, "reason", NULL);

        if (strcmp(json_get_string(task, "name", ""), "report") == 0 || strcmp(state, "SUCCEEDED") == 0)
            continue;
        if (strcmp(state, "SKIPPED") == 0 && why && *why)
            continue;
        reason(g, "\"%s\"%s%s is %s", json_get_string(task, "title", "?"), server ? " of " : "", server ? server : "", state);
    }
}

static json_t *brief_of(const json_t *whole)
{
    json_t *brief = json_copy((json_t *)whole);

    json_object_del(brief, "result");
    return brief;
}

/* ---- Ways back ---- */

static int add_ways_back(struct gather *g, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    json_t *list = json_array();
    int rc;

    json_object_set_new(g->report, "ways_back", list);
    rc = store_query(g->tx, &rows, e, "SELECT id FROM run WHERE parent = $1 ORDER BY number", "s", g->run.id);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *one, *tasks = json_array();
        struct run r;

        if (run_load(g->tx, g->arena, store_text(rows, 0), &r, e) <= 0)
            return -1;
        one = json_pack("{s:s, s:s, s:s, s:s, s:o}", "run", r.id, "template", r.template, "server", r.server, "state", r.state, "tasks", tasks);
        json_array_append_new(list, one);
        json_set_time(one, "started", r.started_us);
        json_set_time(one, "finished", r.finished_us);
        json_object_set_new(one, "duration_ms",
                            r.finished_us ? json_integer((r.finished_us - r.started_us) / US_PER_MS) : json_null());
        json_object_set_new(one, "actor", json_string(r.actor));
        if (add_run_tasks(g, r.id, tasks, e) < 0)
            return -1;
        if (strcmp(r.state, "SUCCEEDED") != 0 && strcmp(r.state, "CANCELLED") != 0) /* one that was called off has left the server where it was */
            reason(g, "the way back of %s is %s", r.server, r.state);
    }
    return rc;
}

static json_t *way_back_ms(const struct gather *g, const char *server)
{
    json_t *found = NULL, *one;
    size_t i;

    json_array_foreach(json_object_get(g->report, "ways_back"), i, one)
        if (strcmp(json_get_string(one, "server", ""), server) == 0 && strcmp(json_get_string(one, "state", ""), "SUCCEEDED") == 0 &&
            strcmp(json_get_string(one, "template", ""), "stay") != 0)
            found = json_object_get(one, "duration_ms");
    return copy_or_null(found);
}

/* ---- Servers ---- */

static bool is_sha256(const char *text)
{
    size_t i = 0;

    for (; text && isxdigit((unsigned char)text[i]); i++)
        ;
    return text && i == 64 && !text[i];
}

/* Both hashes computed, over every byte, and equal. */
static void judge_disk(struct gather *g, const char *server, const json_t *disk)
{
    const char *source = json_get_string(disk, "source_sha256", NULL), *target = json_get_string(disk, "target_sha256", NULL);
    const char *id = json_get_string(disk, "id", "?");
    int64_t size = json_get_int(disk, "size_bytes", -1), compared = json_get_int(disk, "bytes_compared", -2);

    if (!is_sha256(source) || !is_sha256(target))
        reason(g, "disk %s of %s: a hash was not computed", id, server);
    else if (strcasecmp(source, target) != 0)
        reason(g, "disk %s of %s: the copy is not the source", id, server);
    if (size <= 0 || compared != size)
        reason(g, "disk %s of %s: not every byte was compared", id, server);
    if (json_get_int(disk, "blocks_differing", 0) != 0)
        reason(g, "disk %s of %s: %lld blocks differ", id, server, (long long)json_get_int(disk, "blocks_differing", 0));
}

static void add_disks(struct gather *g, const char *server, json_t *object)
{
    const json_t *disks = result_of(g, server, "compare", "disks");
    size_t i;
    json_t *disk;

    json_object_set_new(object, "disks", json_is_array(disks) ? json_deep_copy(disks) : json_array());
    if (!json_array_size(disks))
        reason(g, "no disk of %s was compared", server);
    json_array_foreach(disks, i, disk)
        judge_disk(g, server, disk);
}

static void add_checks_of(struct gather *g, const char *server, const char *name, json_t *checks)
{
    const json_t *lines = json_object_get(task_of(g, server, name), "evidence");
    size_t i;
    json_t *line;

    if (!json_array_size(lines))
        reason(g, "\"%s\" of %s shows no evidence", name, server);
    json_array_foreach(lines, i, line) {
        json_t *check = json_copy(line);

        json_object_set_new(check, "task", json_string(name));
        json_array_append_new(checks, check);
        if (!json_get_bool(line, "passed", false))
            reason(g, "a check of %s did not pass (%s): %s", server, name, json_get_string(line, "name", "?"));
    }
}

/* What was changed on the cutover instance's copy, and where on its disks: the comparison is of the point before that. */
static void add_mends(const struct gather *g, const char *server, json_t *object)
{
    const json_t *mends = result_of(g, server, "launch_cutover", "mends"), *ranges = result_of(g, server, "launch_cutover", "mend_ranges");

    json_object_set_new(object, "mends", json_is_array(mends) ? json_deep_copy(mends) : json_array());
    json_object_set_new(object, "mend_ranges", copy_or_null(ranges));
}

static void add_probe(const struct gather *g, const char *server, json_t *object)
{
    static const char *const members[] = {"downtime_ms", "probes_total", "probes_failed"};
    const json_t *seen = json_object_get(json_object_get(json_object_get(g->measured, "probe"), "servers"), server);

    for (size_t i = 0; i < ARRAY_COUNT(members); i++)
        json_object_set_new(object, members[i], copy_or_null(json_object_get(seen, members[i])));
}

static int add_server(struct gather *g, const char *server, json_t *list, struct err *e)
{
    static const char *const members[] = {"application", "owner", "address", "lifecycle", "instance"};
    CLEANUP(json_free) json_t *found = NULL;
    json_t *object = json_pack("{s:s}", "name", server), *checks = json_array();
    int rc = fleet_server(g->tx, server, &found, e);

    json_array_append_new(list, object);
    json_object_set_new(object, "boot_checks", checks);
    if (rc < 0)
        return -1;
    if (rc == 0)
        reason(g, "server %s is gone from the inventory", server);
    for (size_t i = 0; i < ARRAY_COUNT(members); i++)
        json_object_set_new(object, members[i], copy_or_null(json_object_get(found, members[i])));
    add_disks(g, server, object);
    add_probe(g, server, object);
    json_object_set_new(object, "way_back_ms", way_back_ms(g, server));
    add_checks_of(g, server, "boot_test", checks);
    add_checks_of(g, server, "verify_cutover", checks);
    add_mends(g, server, object);
    json_object_set_new(object, "right_size", copy_or_null(result_of(g, server, "right_size", "advice")));
    json_object_set_new(object, "rounds", json_integer(json_get_int(task_of(g, server, "quiesce"), "round", 1)));
    return 0;
}

static int add_servers(struct gather *g, struct err *e)
{
    const char *const *names;
    json_t *list = json_array();
    int count = run_servers(g->tx, g->arena, g->run.id, &names, e);

    json_object_set_new(g->report, "servers", list);
    if (count == 0)
        reason(g, "the run has no servers");
    for (int i = 0; i < count; i++)
        if (add_server(g, names[i], list, e) < 0)
            return -1;
    return count < 0 ? -1 : 0;
}

/* ---- What was measured ---- */

static int add_measured(struct gather *g, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(g->tx, &rows, e, "SELECT name, value FROM measurement WHERE wave = $1 ORDER BY name", "s", g->run.wave);

    g->measured = json_object();
    json_object_set_new(g->report, "measurements", g->measured);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *value = json_loads(store_text(rows, 1), JSON_DECODE_ANY, NULL);

        json_object_set_new(g->measured, store_text(rows, 0), value ? value : json_null());
    }
    return rc;
}

static void add_rows(struct gather *g)
{
    const json_t *rows = json_object_get(g->measured, "rows");

    json_object_set_new(g->report, "rows", copy_or_null(rows));
    if (!rows)
        return;
    if (json_get_int(rows, "acknowledged", 0) <= 0)
        reason(g, "the rows' measurement has no acknowledged row");
    if (json_get_int(rows, "missing", -1) != 0)
        reason(g, "%lld acknowledged rows are missing", (long long)json_get_int(rows, "missing", -1));
    if (json_get_int(rows, "torn", -1) != 0)
        reason(g, "%lld rows are torn", (long long)json_get_int(rows, "torn", -1));
}

static void add_accelerator(struct gather *g)
{
    const json_t *found = json_object_get(json_object_get(g->measured, "machine"), "accelerator"), *one;
    size_t i;
    json_t *task;

    json_array_foreach(g->tasks, i, task) {
        one = json_object_get(json_object_get(task, "result"), "accelerator");
        if (json_is_string(one))
            found = one;
    }
    json_object_set_new(g->report, "accelerator", copy_or_null(found));
}

/* ---- Replication ---- */

/* The age under which a share of all samples lies: the middle of its bucket. */
static int64_t percentile(const int64_t *counts, int bucket_count, int64_t all, double share)
{
    int64_t below = 0;

    for (int i = 0; i < bucket_count; i++) {
        below += counts[i];
        if ((double)below >= share * (double)all)
            return (int64_t)llround(exp2(((double)i + 0.5) / 8));
    }
    return 0;
}

static int add_ages(struct gather *g, json_t *object, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int64_t counts[512] = {0}, all = 0, most = -1;
    int rc = store_query(g->tx, &rows, e,
                         "SELECT bucket, count FROM replication_age WHERE server IN (SELECT server FROM task WHERE run = $1)", "s",
                         g->run.id);
    json_t *ages = json_object();

    json_object_set_new(object, "newest_point_age_ms", ages);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        int64_t bucket = store_int(rows, 0);

        counts[bucket < 0 ? 0 : bucket > 511 ? 511 : bucket] += store_int(rows, 1);
        all += store_int(rows, 1);
    }
    if (rc < 0
        || store_one_int(g->tx, &most, e,
                         "SELECT MAX(age_max_ms) FROM replication_seen WHERE server IN (SELECT server FROM task WHERE run = $1)", "s",
                         g->run.id) < 0)
        return -1;
    json_object_set_new(ages, "samples", json_integer(all));
    json_object_set_new(ages, "p50", all ? json_integer(percentile(counts, 512, all, 0.50)) : json_null());
    json_object_set_new(ages, "p99", all ? json_integer(percentile(counts, 512, all, 0.99)) : json_null());
    json_object_set_new(ages, "max", most >= 0 ? json_integer(most) : json_null());
    return 0;
}

/* All initial syncs together: what they read over the time from the first one's start to the last one's end. */
static json_t *sync_rate(const struct gather *g)
{
    int64_t bytes = 0, first = INT64_MAX, last = 0, started, finished;
    size_t i;
    json_t *task;

    json_array_foreach(g->tasks, i, task) {
        const json_t *result = json_object_get(task, "result");
        int64_t read = json_get_int(json_object_get(result, "replication"), "bytes_read", 0);

        if (strcmp(json_get_string(task, "name", ""), "initial_sync") != 0 || read <= 0
            || clock_parse(json_get_string(task, "started", ""), &started, NULL) < 0
            || clock_parse(json_get_string(task, "finished", ""), &finished, NULL) < 0)
            continue;
        bytes += read;
        first = started < first ? started : first;
        last = finished > last ? finished : last;
    }
    return bytes && last > first ? json_integer((json_int_t)((double)bytes * US_PER_S / (double)(last - first))) : json_null();
}

static int add_replication(struct gather *g, struct err *e)
{
    static const char *const totals[] = {"bytes_read", "bytes_sent", "bytes_stored"};
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int64_t sums[ARRAY_COUNT(totals)] = {0}, rate_max = 0;
    json_t *object = json_object(), *servers = json_array();
    int rc = store_query(g->tx, &rows, e,
                         "SELECT server, newest, rate_max FROM replication_seen WHERE server IN (SELECT server FROM task WHERE run = $1)"
                         " ORDER BY server", "s", g->run.id);

    json_object_set_new(g->report, "replication", object);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *newest = json_loads(store_text(rows, 1), 0, NULL);

        for (size_t i = 0; i < ARRAY_COUNT(totals); i++)
            sums[i] += json_get_int(newest, totals[i], 0);
        if (store_int(rows, 2) > rate_max)
            rate_max = store_int(rows, 2);
        json_object_set_new(newest, "name", json_string(store_text(rows, 0)));
        json_array_append_new(servers, newest);
    }
    for (size_t i = 0; i < ARRAY_COUNT(totals); i++)
        json_object_set_new(object, totals[i], json_array_size(servers) ? json_integer(sums[i]) : json_null());
    json_object_set_new(object, "rate_bytes_per_s", sync_rate(g));
    if (json_is_null(json_object_get(object, "rate_bytes_per_s")) && rate_max)
        json_object_set_new(object, "rate_bytes_per_s", json_integer(rate_max));
    json_object_set_new(object, "servers", servers);
    if (json_array_size(servers) < json_array_size(json_object_get(g->report, "servers")))
        reason(g, "replication was heard of for %zu of %zu servers", json_array_size(servers),
               json_array_size(json_object_get(g->report, "servers")));
    return rc < 0 ? -1 : add_ages(g, object, e);
}

/* ---- Stages, refusals, pictures ---- */

static void add_stages(struct gather *g)
{
    static const char *const phases[] = {"build", "validate", "cutover", "post"};
    json_t *list = json_array();

    json_object_set_new(g->report, "stages", list);
    for (size_t p = 0; p < ARRAY_COUNT(phases); p++) {
        int64_t first = INT64_MAX, last = 0, at;
        bool open = false;
        size_t i;
        json_t *task, *stage;

        json_array_foreach(g->tasks, i, task) {
            if (strcmp(json_get_string(task, "phase", ""), phases[p]) != 0)
                continue;
            if (clock_parse(json_get_string(task, "started", ""), &at, NULL) == 0 && at < first)
                first = at;
            if (clock_parse(json_get_string(task, "finished", ""), &at, NULL) == 0)
                last = at > last ? at : last;
            else if (strcmp(json_get_string(task, "name", ""), "report") != 0)
                open = true;
        }
        stage = json_pack("{s:s}", "name", phases[p]);
        json_array_append_new(list, stage);
        json_set_time(stage, "started", first == INT64_MAX ? 0 : first);
        json_set_time(stage, "finished", open || first == INT64_MAX ? 0 : last);
        json_object_set_new(stage, "duration_ms",
                            open || last < first ? json_null() : json_integer((last - first) / US_PER_MS));
    }
}

static int add_refusals(struct gather *g, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    json_t *list = json_array();
    int rc = store_query(g->tx, &rows, e,
                         "SELECT at_us, actor, entity, entity_id, data FROM event WHERE wave = $1 AND kind = 'refused' AND at_us >= $2"
                         " ORDER BY id", "si", g->run.wave, g->run.started_us);

    json_object_set_new(g->report, "refusals", list);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        json_t *one = json_loads(store_text(rows, 4), 0, NULL);
        bool server = strcmp(store_text(rows, 2), "server") == 0;

        if (!one)
            continue;
        json_set_time(one, "at", store_int(rows, 0));
        json_object_set_new(one, "actor", json_string(store_text(rows, 1)));
        json_object_set_new(one, "server", server ? json_string(store_text(rows, 3)) : json_null());
        json_array_append_new(list, one);
    }
    return rc;
}

static char *base64(const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = xmalloc((size + 2) / 3 * 4 + 1), *at = text;

    for (size_t i = 0; i < size; i += 3) {
        unsigned v = (unsigned)bytes[i] << 16 | (i + 1 < size ? (unsigned)bytes[i + 1] << 8 : 0) | (i + 2 < size ? bytes[i + 2] : 0);

        *at++ = digits[v >> 18];
        *at++ = digits[v >> 12 & 63];
        *at++ = i + 1 < size ? digits[v >> 6 & 63] : '=';
        *at++ = i + 2 < size ? digits[v & 63] : '=';
    }
    *at = '\0';
    return text;
}

static int add_picture(struct gather *g, const json_t *task, const json_t *artifact, json_t *list, struct err *e)
{
    CLEANUP(free_ptr) char *media_type = NULL, *text = NULL, *uri = NULL;
    CLEANUP(free_ptr) void *bytes = NULL;
    const char *name = json_get_string(artifact, "name", "");
    json_t *one;
    size_t size = 0;

    if (workflow_artifact_read(g->tx, json_get_string(task, "id", ""), name, &media_type, &bytes, &size, e) <= 0)
        return -1;
    one = json_pack("{s:s?, s:s, s:s, s:s, s:I}", "server", json_get_string(task, "server", NULL), "task",
                    json_get_string(task, "name", ""), "name", name, "media_type", media_type, "size_bytes", (json_int_t)size);
    json_array_append_new(list, one);
    json_object_set(one, "at", json_object_get(artifact, "at"));
    g->picture_bytes += size / 3 * 4;
    if (g->picture_bytes > PICTURES_BYTES_MOST) {
        json_object_set_new(one, "data", json_null());
        return 0;
    }
    text = base64(bytes, size);
    uri = xasprintf("data:%s;base64,%s", media_type, text);
    json_object_set_new(one, "data", json_string(uri));
    return 0;
}

/* Only what a page shows as a picture, whatever a runner called it. */
static bool is_picture(const char *media_type)
{
    return strcmp(media_type, "image/png") == 0 || strcmp(media_type, "image/jpeg") == 0;
}

static int add_pictures(struct gather *g, struct err *e)
{
    json_t *list = json_array(), *task, *artifact;
    size_t i, k;

    json_object_set_new(g->report, "pictures", list);
    json_array_foreach(g->tasks, i, task)
        json_array_foreach(json_object_get(task, "artifacts"), k, artifact)
            if (is_picture(json_get_string(artifact, "media_type", "")) && add_picture(g, task, artifact, list, e) < 0)
                return -1;
    return 0;
}

/* ---- All of it ---- */

static int gather_all(struct gather *g, const char *wave, int64_t now_us, struct err *e)
{
    CLEANUP(json_free) json_t *found = NULL;
    json_t *tasks = json_array(), *task;
    size_t i;
    int rc = fleet_wave_json(g->tx, wave, &found, e);

    json_object_set_new(g->report, "tasks_whole", tasks);
    g->tasks = tasks;
    if (rc <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no wave %.100s", wave);
    if ((rc = run_newest(g->tx, g->arena, wave, &g->run, e)) <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_WRONG_STATE, "wave %s was never started: there is nothing to report", wave);
    json_object_set_new(g->report, "wave", json_pack("{s:s, s:s?}", "name", wave, "title", json_get_string(found, "title", NULL)));
    json_object_set_new(g->report, "run", json_string(g->run.id));
    json_object_set_new(g->report, "run_state", json_string(g->run.state));
    json_set_time(g->report, "started", g->run.started_us);
    json_set_time(g->report, "finished", g->run.finished_us ? g->run.finished_us : now_us);
    json_set_time(g->report, "generated", now_us);
    if (add_run_tasks(g, g->run.id, tasks, e) < 0 || add_measured(g, e) < 0 || add_ways_back(g, e) < 0 || add_servers(g, e) < 0
        || add_replication(g, e) < 0)
        return -1;
    judge_tasks(g);
    add_rows(g);
    add_accelerator(g);
    add_stages(g);
    if (add_refusals(g, e) < 0 || add_pictures(g, e) < 0)
        return -1;
    json_object_set_new(g->report, "tasks", json_array());
    json_array_foreach(tasks, i, task)
        json_array_append_new(json_object_get(g->report, "tasks"), brief_of(task));
    return 0;
}

int report_json(struct store_tx *tx, const char *wave, int64_t now_us, json_t **out, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    json_t *reasons = json_array();
    CLEANUP(json_free) json_t *report =
        json_pack("{s:s, s:i, s:s, s:o}", "format", "slipway-report", "version", 1, "result", "failed", "reasons", reasons);
    struct gather g = {.tx = tx, .arena = arena, .report = report, .reasons = reasons};

    if (gather_all(&g, wave, now_us, e) < 0)
        return err_wrap(e, "the report of wave %.100s", wave);
    json_object_del(report, "tasks_whole");
    if (!json_array_size(reasons))
        json_object_set_new(report, "result", json_string("passed"));
    *out = json_incref(report);
    return 0;
}
