/* The reporter: every second, and when a pass over the disks has ended, what the agent is doing, to the replicator and into a file on a tmpfs
 * (`slipway-agent status`). */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define REPORTER_STACK_BYTES (256u << 10)
#define LAG_OF_BACKLOG_US (10 * US_PER_S)
#define TROUBLE_US (60 * US_PER_S)
#define FADE 0.9 /* of what the time went to, a second later */
#define SHARE_LEAST 0.1 /* of a worker: below, nothing is held up */
#define NOTE_US (120 * US_PER_S)
#define TICK_US (100 * US_PER_MS)
#define PING_US (10 * US_PER_S)

/* Under lock. Feeds the outlook; the marks that wait in the kernel are part of what has changed. */
static void look_out(struct agent *a, int64_t now_us, int64_t lag_us)
{
    struct outlook_sample s = {.at_us = now_us, .acked_bytes = atomic_load(&a->bytes_acked), .busy_us = a->busy_us};
    uint64_t written = 0;

    if (a->busy_since_us)
        s.busy_us += now_us - a->busy_since_us;
    if (a->outlook_void)
        outlook_reset(&a->outlook);
    else if (a->rate_void)
        outlook_forget_rate(&a->outlook, now_us);
    else if (a->pass_ended)
        outlook_end_pass(&a->outlook, now_us);
    a->outlook_void = a->rate_void = a->pass_ended = false;
    if (a->taking_marks) /* the next second tells */
        return;
    if (a->tracker)
        a->waiting_bytes = track_waiting(a->tracker, &written);
    s.churned_bytes = atomic_load(&a->bytes_marked) + a->waiting_bytes;
    s.written = (int64_t)written;
    outlook_feed(&a->outlook, &s, lag_us);
    if (!a->tracker)
        a->outlook.churn = OUTLOOK_UNKNOWN;
}

/* Under lock: what most of the workers' time went to of late; "" where they were idle. */
static const char *bottleneck(struct agent *a)
{
    static const char *const names[SPENT_COUNT] = {
        [SPENT_SOURCE] = "source", [SPENT_LIMIT] = "limit", [SPENT_LINK] = "link", [SPENT_REPLICATOR] = "replicator"};
    int most = 0;

    for (int i = 0; i < SPENT_COUNT; i++) {
        int64_t spent_us = atomic_load(&a->spent_us[i]);

        a->weights[i] = a->weights[i] * FADE + (double)(spent_us - a->weighed_us[i]) / US_PER_S;
        a->weighed_us[i] = spent_us;
        most = a->weights[i] > a->weights[most] ? i : most;
    }
    return a->weights[most] < SHARE_LEAST / (1 - FADE) ? "" : names[most];
}

/* Under lock: over it the copy is behind. By checksum it is as old as the begin of the last whole reading: an interval and two readings, at most, and as
 * much again before something is wrong. The first reading takes what it takes. */
static int64_t usual_lag_us(const struct agent *a)
{
    if (a->tracker)
        return LAG_OF_BACKLOG_US;
    return a->scan_us ? LAG_OF_BACKLOG_US + 2 * (a->config->rescan_interval_s * US_PER_S + 2 * a->scan_us) : INT64_MAX;
}

/* Under lock: the copy is not whole, or not up with the disks. */
static bool is_behind(const struct agent *a, int64_t lag_us) { return !a->held && (a->pass != PASS_DONE || lag_us > usual_lag_us(a)); }

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
    if (is_behind(a, lag_us)) /* though points are tried meanwhile */
        return "BACKLOG";
    return a->taking_point ? "CREATING_SNAPSHOT" : "CONTINUOUS";
}

static void describe_trouble(const struct agent *a, int64_t now_us, struct wire_status *s)
{
    const struct err *e = a->trouble.kind && now_us - a->trouble_us < TROUBLE_US ? &a->trouble : a->broken ? &a->link_error : NULL;

    if (e && e->kind) {
        snprintf(s->error_kind, sizeof s->error_kind, "%s", err_meaning(e->kind)->name);
        snprintf(s->error, sizeof s->error, "%.500s", e->message);
    }
}

void note_set(struct agent *a, const char *kind, const char *format, ...)
{
    va_list args;

    snprintf(a->note.kind, sizeof a->note.kind, "%s", kind);
    va_start(args, format);
    vsnprintf(a->note.text, sizeof a->note.text, format, args);
    va_end(args);
    a->note.at_us = clock_monotonic_us();
}

/* Under lock. */
static void describe_note(struct agent *a, int64_t now_us, struct wire_status *s)
{
    bool lasts = strcmp(a->note.kind, "disks_changed") == 0 && now_us - a->note.at_us < NOTE_US;

    snprintf(s->tracker_reason, sizeof s->tracker_reason, "%s", a->tracker ? "" : a->tracker_reason);
    s->rescan_interval_s = a->config->rescan_interval_s;
    s->scan_ms = (a->scan_us + US_PER_MS - 1) / US_PER_MS;
    if (a->pass == PASS_DONE && !lasts)
        a->note.kind[0] = '\0';
    if (a->note.kind[0]) {
        snprintf(s->note_kind, sizeof s->note_kind, "%s", a->note.kind);
        snprintf(s->note, sizeof s->note, "%s", a->note.text);
    }
}

/* Under lock. */
static void describe_unreadable(const struct agent *a, struct wire_status *s)
{
    CLEANUP(buf_release) struct buf words = {0};
    struct unreadable_told told;

    unreadable_tell(a, &told);
    s->unreadable_bytes = told.bytes;
    if (!told.bytes)
        return;
    buf_init(&words, sizeof s->unreadable - 1);
    unreadable_say(a, &told, &words);
    snprintf(s->unreadable, sizeof s->unreadable, "%s", words.data);
}

/* Under lock: of the chunks that are to do or on their way, what of them will travel at most. */
static int64_t open_bytes(const struct agent *a)
{
    int64_t bytes = atomic_load(&a->todo_bytes);

    for (uint64_t n = a->acked + 1; n < a->next_number; n++)
        bytes += a->offers[n % OFFERS_MAX].bytes;
    return bytes;
}

/* Under lock. */
static void describe(struct agent *a, struct wire_status *s)
{
    int64_t now_us = clock_monotonic_us(), open, lag_us = 0;
    bool moves = a->conn && !a->broken && !a->paused && !a->held;

    open = open_bytes(a);
    if (a->synced_at_us && (open || a->take_watermark_us || a->waiting_bytes || (!a->tracker && !a->held)))
        lag_us = now_us - a->synced_at_us;
    look_out(a, now_us, lag_us);
    snprintf(s->state, sizeof s->state, "%s", state_name(a, now_us, lag_us));
    snprintf(s->tracker, sizeof s->tracker, "%s", a->tracker ? "ebpf" : "rescan");
    snprintf(s->bottleneck, sizeof s->bottleneck, "%s", bottleneck(a));
    if (!moves || !is_behind(a, lag_us))
        s->bottleneck[0] = '\0';
    s->bytes_total = atomic_load(&a->bytes_total);
    s->bytes_read = atomic_load(&a->bytes_read);
    s->bytes_sent = atomic_load(&a->bytes_sent) + (a->conn ? wire_conn_sent_bytes(a->conn) : 0);
    s->backlog_bytes = open + a->waiting_bytes;
    s->bytes_done = a->pass == PASS_DONE ? s->bytes_total : open > s->bytes_total ? 0 : s->bytes_total - open;
    s->lag_ms = lag_us / US_PER_MS;
    s->rate_bytes_per_s = a->outlook.rate;
    s->churn_bytes_per_s = a->outlook.churn;
    s->limit_bytes_per_s = a->send_pace.per_s;
    s->eta_ms = moves ? outlook_eta_ms(&a->outlook, s->backlog_bytes, is_behind(a, lag_us), now_us) : s->backlog_bytes ? OUTLOOK_UNKNOWN : 0;
    s->source_latency_us = a->gentle.latency_us;
    s->source_latency_without_us = a->gentle.without_us;
    s->source_latency_with_us = a->gentle.with_us;
    s->backoff_bytes_per_s = a->gentle.rate;
    s->held = a->held;
    describe_note(a, now_us, s);
    describe_unreadable(a, s);
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

/* Keeps the connection while it looks: see pipeline_requeue. */
static void look_at_flow(struct agent *a)
{
    bool look;

    pthread_mutex_lock(&a->lock);
    look = a->conn && !a->broken;
    a->busy_workers += look;
    pthread_mutex_unlock(&a->lock);
    if (!look)
        return;
    flow_look(a);
    pthread_mutex_lock(&a->lock);
    a->busy_workers--;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

/* Under lock: offers are on their way, and there is nothing for us to do about them. */
static bool waits_for_answers(const struct agent *a)
{
    return a->busy_since_us && !a->busy_workers && !a->urgent.count && !a->later.count && a->conn && !a->broken;
}

static void *report_regularly(void *user)
{
    struct agent *a = user;

    for (;;) {
        bool stop, news = false;

        report(a);
        for (int i = 0; i < 10 && !news; i++) {
            clock_sleep_us(TICK_US);
            look_at_flow(a);
            pthread_mutex_lock(&a->lock);
            stop = a->reporter_stop;
            news = a->pass_ended; /* the first point waits for that word */
            if (waits_for_answers(a))
                atomic_fetch_add(&a->spent_us[SPENT_REPLICATOR], TICK_US * a->worker_count);
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
