/* The reporter: every second what the agent is doing, to the replicator and into a file on a tmpfs (`slipway-agent status`). */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

#define REPORTER_STACK_BYTES (256u << 10)
#define LAG_OF_BACKLOG_US (10 * US_PER_S)
#define TROUBLE_US (60 * US_PER_S)
#define METER_US (2 * US_PER_S)
#define PING_US (10 * US_PER_S)

static int64_t meter_update(struct meter *m, int64_t total, int64_t now_us)
{
    if (!m->last_us) {
        m->last_us = now_us;
        m->last_total = total;
    } else if (now_us - m->last_us >= METER_US) {
        int64_t now_rate = (total - m->last_total) * US_PER_S / (now_us - m->last_us);

        m->rate = (m->rate + now_rate) / 2;
        m->last_us = now_us;
        m->last_total = total;
    }
    return m->rate;
}

static const char *state_name(const struct agent *a, int64_t now_us, int64_t lag_us)
{
    if (a->detached)
        return "STOPPED";
    if (a->trouble.kind && now_us - a->trouble_us < TROUBLE_US)
        return "STALLED";
    if (!a->conn || a->broken)
        return a->epoch[0] && a->reported_ack ? "DISCONNECTED" : "INITIATING";
    if (a->paused)
        return "PAUSED";
    if (a->pass != PASS_DONE)
        return a->rescan_pass ? "RESCAN" : "INITIAL_SYNC";
    if (a->taking_point)
        return "CREATING_SNAPSHOT";
    return lag_us > LAG_OF_BACKLOG_US && !a->held ? "BACKLOG" : "CONTINUOUS";
}

static void describe_trouble(const struct agent *a, int64_t now_us, struct wire_status *s)
{
    const struct err *e = a->trouble.kind && now_us - a->trouble_us < TROUBLE_US ? &a->trouble : a->broken ? &a->link_error : NULL;

    if (e && e->kind) {
        snprintf(s->error_kind, sizeof s->error_kind, "%s", err_meaning(e->kind)->name);
        snprintf(s->error, sizeof s->error, "%.500s", e->message);
    }
}

/* Under lock. */
static void describe(struct agent *a, struct wire_status *s)
{
    int64_t now_us = clock_monotonic_us(), open_chunks = 0, backlog, lag_us = 0;

    for (uint64_t n = a->acked + 1; n < a->next_number; n++)
        open_chunks += a->offers[n % OFFERS_MAX].count;
    backlog = (atomic_load(&a->todo_chunks) + open_chunks) * WIRE_CHUNK_SIZE;
    s->bytes_total = atomic_load(&a->bytes_total);
    if (backlog > s->bytes_total)
        backlog = s->bytes_total;
    if (a->synced_at_us && (backlog || a->take_watermark_us))
        lag_us = now_us - a->synced_at_us;
    snprintf(s->state, sizeof s->state, "%s", state_name(a, now_us, lag_us));
    snprintf(s->tracker, sizeof s->tracker, "%s", a->tracker ? "ebpf" : "rescan");
    s->bytes_read = atomic_load(&a->bytes_read);
    s->bytes_sent = atomic_load(&a->bytes_sent) + (a->conn ? wire_conn_sent_bytes(a->conn) : 0);
    s->backlog_bytes = backlog;
    s->bytes_done = a->pass == PASS_DONE ? s->bytes_total : s->bytes_total - backlog;
    s->lag_ms = lag_us / US_PER_MS;
    s->rate_bytes_per_s = meter_update(&a->rate, atomic_load(&a->bytes_acked), now_us);
    s->churn_bytes_per_s = meter_update(&a->churn, atomic_load(&a->bytes_marked), now_us);
    s->eta_ms = !backlog ? 0 : s->rate_bytes_per_s > 0 ? backlog * 1000 / s->rate_bytes_per_s : -1;
    s->held = a->held;
    describe_trouble(a, now_us, s);
}

static void write_file(const struct agent *a, const struct wire_status *s)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/status.json", a->config->runtime_dir);
    CLEANUP(buf_release) struct buf text = {0};

    wire_json_encode(WIRE_STATUS, s, sizeof *s, &text);
    buf_puts(&text, "\n");
    file_write(path, text.data, text.size_bytes, 0644, NULL); /* no status is no reason to stop */
}

static void report(struct agent *a)
{
    struct wire_status s = {0};
    bool send;

    pthread_mutex_lock(&a->lock);
    describe(a, &s);
    send = a->conn && !a->broken;
    a->busy_workers += send; /* keeps the connection: see pipeline_requeue */
    pthread_mutex_unlock(&a->lock);
    write_file(a, &s);
    if (!send)
        return;
    wire_send_message(a->conn, WIRE_STATUS, &s, NULL);
    if (clock_monotonic_us() - a->last_ping_us > PING_US) { /* so that there is something to hear */
        a->last_ping_us = clock_monotonic_us();
        wire_send_message(a->conn, WIRE_PING, &(struct wire_simple){0}, NULL);
    }
    pthread_mutex_lock(&a->lock);
    a->busy_workers--;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void *report_regularly(void *user)
{
    struct agent *a = user;

    for (;;) {
        bool stop;

        report(a);
        for (int i = 0; i < 10; i++) {
            clock_sleep_us(100 * US_PER_MS);
            pthread_mutex_lock(&a->lock);
            stop = a->reporter_stop;
            pthread_mutex_unlock(&a->lock);
            if (stop)
                return NULL;
        }
    }
}

int reporter_start(struct agent *a, struct err *e)
{
    pthread_attr_t attributes;
    int reason;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, REPORTER_STACK_BYTES);
    reason = pthread_create(&a->reporter, &attributes, report_regularly, a);
    pthread_attr_destroy(&attributes);
    if (reason)
        return err_errno(e, reason, "can't start the reporter");
    a->reporter_runs = true;
    return 0;
}

void reporter_stop(struct agent *a)
{
    if (!a->reporter_runs)
        return;
    pthread_mutex_lock(&a->lock);
    a->reporter_stop = true;
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->reporter, NULL);
    a->reporter_runs = false;
}
