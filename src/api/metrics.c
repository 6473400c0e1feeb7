/* /metrics: Prometheus' text format 0.0.4. */
#include "api/api.h"
#include "base/clock.h"

#include <string.h>

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: \ " and line feeds are escaped. */
static void label(struct buf *out, const char *text)
{
    for (; *text; text++)
        if (*text == '\n')
            buf_puts(out, "\\n");
        else
            buf_printf(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
}

static void route_metrics_text(const struct httpd_server *server, struct buf *out)
{
    head(out, "slipway_http_requests_total", "counter", "Requests answered, by route and class of status.");
    for (size_t i = 0; i <= api_route_count; i++) {
        const struct http_route *r = i < api_route_count ? &api_routes[i] : NULL;
        struct http_route_numbers n;

        httpd_read_route_numbers(server, i, &n);
        for (int class = 1; class < 6; class++)
            if (n.by_class[class])
                buf_printf(out, "slipway_http_requests_total{method=\"%s\",route=\"%s\",status=\"%dxx\"} %lld\n",
                           r ? httpd_method_names[r->method] : "", r ? r->path : "", class, (long long)n.by_class[class]);
    }
    head(out, "slipway_http_request_seconds", "histogram", "Time from a request's head to its answer, by route.");
    for (size_t i = 0; i < api_route_count; i++) {
        const struct http_route *r = &api_routes[i];
        struct http_route_numbers n;
        int64_t count = 0;

        httpd_read_route_numbers(server, i, &n);
        for (int class = 0; class < 6; class++)
            count += n.by_class[class];
        if (!count)
            continue;
        for (size_t k = 0; k < ARRAY_COUNT(httpd_bucket_ms); k++)
            buf_printf(out, "slipway_http_request_seconds_bucket{method=\"%s\",route=\"%s\",le=\"%g\"} %lld\n", httpd_method_names[r->method],
                       r->path, httpd_bucket_ms[k] / 1000.0, (long long)n.under_ms[k]);
        buf_printf(out, "slipway_http_request_seconds_bucket{method=\"%s\",route=\"%s\",le=\"+Inf\"} %lld\n", httpd_method_names[r->method],
                   r->path, (long long)count);
        buf_printf(out, "slipway_http_request_seconds_sum{method=\"%s\",route=\"%s\"} %.6f\n", httpd_method_names[r->method], r->path,
                   (double)n.duration_us_sum / US_PER_S);
        buf_printf(out, "slipway_http_request_seconds_count{method=\"%s\",route=\"%s\"} %lld\n", httpd_method_names[r->method], r->path,
                   (long long)count);
    }
}

static void server_metrics_text(const struct api *a, const struct httpd_server *server, struct buf *out)
{
    struct http_numbers n;

    httpd_read_numbers(server, &n);
    const struct {
        const char *name, *type, *help;
        int64_t value;
    } rows[] = {
        {"slipway_http_connections", "gauge", "Open connections.", n.connections},
        {"slipway_http_event_streams", "gauge", "Open event streams.", n.streams},
        {"slipway_http_parked", "gauge", "Long polls that wait.", n.parked},
        {"slipway_http_queued", "gauge", "Requests that wait for a worker.", n.queued},
        {"slipway_http_body_bytes", "gauge", "Request bodies in memory.", n.bodies_bytes},
        {"slipway_http_refused_total", "counter", "Requests refused for want of room.", n.refused},
        {"slipway_start_time_seconds", "gauge", "When the factory was started.", a->started_us / US_PER_S},
    };

    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        head(out, rows[i].name, rows[i].type, rows[i].help);
        buf_printf(out, "%s %lld\n", rows[i].name, (long long)rows[i].value);
    }
}

static void count_state(json_t *counts, const char *state)
{
    json_object_set_new(counts, state, json_integer(json_get_int(counts, state, 0) + 1));
}

static void counts_text(struct buf *out, const char *name, const json_t *counts)
{
    const char *state;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)counts, state, value)
        buf_printf(out, "%s{state=\"%s\"} %lld\n", name, state, (long long)json_integer_value(value));
}

/* Of the newest 500 runs; tasks of those that run. */
static int run_metrics_text(struct store_tx *tx, struct buf *out, struct err *e)
{
    CLEANUP(json_free) json_t *runs = NULL, *run_counts = json_object(), *task_counts = json_object();
    json_t *run, *task;
    size_t i, k;

    if (workflow_runs_json(tx, NULL, LIMIT_PAGE_ITEMS, NULL, &runs, e) < 0)
        return -1;
    json_array_foreach(json_object_get(runs, "items"), i, run) {
        CLEANUP(json_free) json_t *whole = NULL;
        const char *state = json_get_string(run, "state", "UNKNOWN");

        count_state(run_counts, state);
        if (strcmp(state, "RUNNING") != 0)
            continue;
        if (workflow_run_json(tx, json_get_string(run, "id", ""), true, &whole, e) < 0)
            return -1;
        json_array_foreach(json_object_get(whole, "tasks"), k, task)
            count_state(task_counts, json_get_string(task, "state", "UNKNOWN"));
    }
    head(out, "slipway_runs", "gauge", "Runs by state, of the newest 500.");
    counts_text(out, "slipway_runs", run_counts);
    head(out, "slipway_tasks", "gauge", "Tasks of running runs by state.");
    counts_text(out, "slipway_tasks", task_counts);
    return 0;
}

static const struct {
    const char *member, *metric, *help;
    double unit;
} replication_metrics[] = { /* a figure that is not known is not there */
    {"lag_ms", "slipway_replication_lag_seconds", "How far a server's replication is behind.", 1000},
    {"backlog_bytes", "slipway_replication_backlog_bytes", "What a server still has to send.", 1},
    {"churn_bytes_per_s", "slipway_replication_churn_bytes_per_second", "What is written anew on a server.", 1},
    {"rate_bytes_per_s", "slipway_replication_rate_bytes_per_second", "What gets across of a server when there is something to send.", 1},
    {"limit_bytes_per_s", "slipway_replication_limit_bytes_per_second", "The limit in force on the wire; 0: none.", 1},
    {"eta_ms", "slipway_replication_eta_seconds", "When a server's copy will have caught up.", 1000},
    {"unreadable_bytes", "slipway_replication_unreadable_bytes", "What can't be read of a server's disks: its points lack it.", 1},
    {"newest_point_age_ms", "slipway_recovery_point_age_seconds", "Age of a server's newest recovery point.", 1000},
};

static const struct {
    const char *member, *metric, *help;
} latency_metrics[] = { /* of replication.source_latency; 0: not known */
    {"without_us", "slipway_source_latency_without_agent_seconds", "What an I/O of a source's own takes while the agent does not read."},
    {"with_us", "slipway_source_latency_with_agent_seconds", "What an I/O of a source's own takes while the agent reads."},
};

static void latency_metrics_text(const json_t *servers, struct buf *out)
{
    json_t *server;
    size_t i;

    for (size_t m = 0; m < ARRAY_COUNT(latency_metrics); m++) {
        head(out, latency_metrics[m].metric, "gauge", latency_metrics[m].help);
        json_array_foreach((json_t *)(uintptr_t)servers, i, server) {
            int64_t us = json_get_int(json_object_get(json_object_get(server, "replication"), "source_latency"), latency_metrics[m].member, 0);

            if (us <= 0)
                continue;
            buf_printf(out, "%s{server=\"", latency_metrics[m].metric);
            label(out, json_get_string(server, "name", ""));
            buf_printf(out, "\"} %.6f\n", (double)us / US_PER_S);
        }
    }
}

/* slipway_replication_state{server="web01",state="BACKLOG",cause="limit_too_low",severity="error"} 1; and whether it catches up at all. */
static void replication_state_text(const json_t *servers, struct buf *out)
{
    json_t *server;
    size_t i;

    head(out, "slipway_replication_state", "gauge", "A server's state, with its cause and how grave that is (both empty where all is well).");
    json_array_foreach((json_t *)(uintptr_t)servers, i, server) {
        const json_t *replication = json_object_get(server, "replication"), *cause = json_object_get(replication, "cause");
        const char *const labels[][2] = {{"server", json_get_string(server, "name", "")}, {"state", json_get_string(replication, "state", "")},
                                         {"cause", json_get_string(cause, "kind", "")}, {"severity", json_get_string(cause, "severity", "")}};

        if (!json_is_object(replication))
            continue;
        buf_puts(out, "slipway_replication_state{");
        for (size_t k = 0; k < ARRAY_COUNT(labels); k++) {
            buf_printf(out, "%s%s=\"", k ? "," : "", labels[k][0]);
            label(out, labels[k][1]);
            buf_puts(out, "\"");
        }
        buf_puts(out, "} 1\n");
    }
    head(out, "slipway_replication_never", "gauge", "1 where more is written than gets across, so that a server's copy does not catch up.");
    json_array_foreach((json_t *)(uintptr_t)servers, i, server) {
        const json_t *replication = json_object_get(server, "replication");

        if (!json_is_object(replication))
            continue;
        buf_puts(out, "slipway_replication_never{server=\"");
        label(out, json_get_string(server, "name", ""));
        buf_printf(out, "\"} %d\n", strcmp(json_get_string(replication, "eta", ""), "never") == 0);
    }
}

static const struct {
    const char *member, *metric, *help;
    double unit;
} copy_metrics[] = { /* of servers that have a second copy */
    {"lag_ms", "slipway_copy_lag_seconds", "How much older the newest point of a server's second copy is than the newest one.", 1000},
    {"backlog_bytes", "slipway_copy_backlog_bytes", "What is still to be copied of the point under way to a server's second copy.", 1},
    {"point_age_ms", "slipway_copy_point_age_seconds", "Age of the newest point of a server's second copy.", 1000},
    {"pins_missing", "slipway_copy_pins_missing", "Points that people keep and that a server's second copy lacks.", 1},
};

static void copy_labels(struct buf *out, const char *metric, const json_t *server, const json_t *copy)
{
    buf_printf(out, "%s{server=\"", metric);
    label(out, json_get_string(server, "name", ""));
    buf_puts(out, "\",replicator=\"");
    label(out, json_get_string(copy, "to", ""));
}

static void copy_metrics_text(const json_t *servers, struct buf *out)
{
    json_t *server;
    size_t i;

    for (size_t m = 0; m < ARRAY_COUNT(copy_metrics); m++) {
        head(out, copy_metrics[m].metric, "gauge", copy_metrics[m].help);
        json_array_foreach((json_t *)(uintptr_t)servers, i, server) {
            const json_t *copy = json_object_get(json_object_get(server, "replication"), "copy"), *value = json_object_get(copy, copy_metrics[m].member);

            if (!json_is_number(value))
                continue;
            copy_labels(out, copy_metrics[m].metric, server, copy);
            buf_printf(out, "\"} %.3f\n", json_number_value(value) / copy_metrics[m].unit);
        }
    }
    head(out, "slipway_copy_state", "gauge", "The state of a server's second copy.");
    json_array_foreach((json_t *)(uintptr_t)servers, i, server) {
        const json_t *copy = json_object_get(json_object_get(server, "replication"), "copy");

        if (!json_is_object(copy))
            continue;
        copy_labels(out, "slipway_copy_state", server, copy);
        buf_puts(out, "\",state=\"");
        label(out, json_get_string(copy, "state", ""));
        buf_puts(out, "\"} 1\n");
    }
}

/* All of them, page by page: whoever is not there raises no alarm. */
static int read_servers(struct store_tx *tx, json_t *servers, struct err *e)
{
    CLEANUP(free_ptr) char *page = NULL;

    do {
        struct inventory_list list = {.limit = LIMIT_PAGE_ITEMS, .page = page};
        CLEANUP(json_free) json_t *answer = NULL;

        if (inventory_servers_json(tx, &list, &answer, e) < 0)
            return -1;
        json_array_extend(servers, json_object_get(answer, "items"));
        free(page);
        page = xstrdup(json_get_string(answer, "next", NULL));
    } while (page);
    return 0;
}

static int replication_metrics_text(struct store_tx *tx, struct buf *out, struct err *e)
{
    CLEANUP(json_free) json_t *servers = json_array();
    json_t *server;
    size_t i;

    if (read_servers(tx, servers, e) < 0)
        return -1;
    for (size_t m = 0; m < ARRAY_COUNT(replication_metrics); m++) {
        head(out, replication_metrics[m].metric, "gauge", replication_metrics[m].help);
        json_array_foreach(servers, i, server) {
            const json_t *value = json_object_get(json_object_get(server, "replication"), replication_metrics[m].member);

            if (!json_is_number(value))
                continue;
            buf_printf(out, "%s{server=\"", replication_metrics[m].metric);
            label(out, json_get_string(server, "name", ""));
            buf_printf(out, "\"} %.3f\n", json_number_value(value) / replication_metrics[m].unit);
        }
    }
    latency_metrics_text(servers, out);
    replication_state_text(servers, out);
    copy_metrics_text(servers, out);
    return 0;
}

static const struct {
    const char *member, *metric, *help;
} bucket_metrics[] = {
    {"uploaded_bytes", "slipway_vault_bucket_uploaded_bytes", "Full segments that are in the vault's bucket for certain."},
    {"uploaded_segments", "slipway_vault_bucket_uploaded_segments", "How many."},
    {"waiting_bytes", "slipway_vault_bucket_waiting_bytes", "Full segments that wait to be sent to the vault's bucket."},
    {"waiting_segments", "slipway_vault_bucket_waiting_segments", "How many."},
};

/* Of replicators whose vault has a bucket. */
static int bucket_metrics_text(struct api *a, struct store_tx *tx, struct buf *out, struct err *e)
{
    CLEANUP(json_free) json_t *list = NULL;
    json_t *one;
    size_t i;

    if (replicators_json(a, tx, &list, e) < 0)
        return -1;
    for (size_t m = 0; m <= ARRAY_COUNT(bucket_metrics); m++) {
        bool trouble = m == ARRAY_COUNT(bucket_metrics);
        const char *metric = trouble ? "slipway_vault_bucket_trouble" : bucket_metrics[m].metric;

        head(out, metric, "gauge", trouble ? "1 where the last try to send failed." : bucket_metrics[m].help);
        json_array_foreach(list, i, one) {
            const json_t *bucket = json_object_get(json_object_get(one, "vault"), "bucket");

            if (!json_is_object(bucket))
                continue;
            buf_printf(out, "%s{replicator=\"", metric);
            label(out, json_get_string(one, "name", ""));
            buf_printf(out, "\"} %lld\n", trouble ? json_is_object(json_object_get(bucket, "error")) : (long long)json_get_int(bucket, bucket_metrics[m].member, 0));
        }
    }
    return 0;
}

int metrics_text(struct api *a, const struct httpd_server *server, struct buf *out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    server_metrics_text(a, server, out);
    route_metrics_text(server, out);
    if (store_begin(a->store, STORE_READ, &tx, e) < 0)
        return -1;
    return run_metrics_text(tx, out, e) < 0 || replication_metrics_text(tx, out, e) < 0 || bucket_metrics_text(a, tx, out, e) < 0 ? -1 : 0;
}
