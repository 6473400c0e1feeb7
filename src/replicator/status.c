/* status: the replication object of docs/architecture.md, made from what the agent says and what the vault holds. */
#include "replicator/cause.h"
#include "replicator/orders.h"
#include "replicator/private.h"

#include <stdlib.h>
#include <string.h>

#define STAT_EVERY_US US_PER_S
#define COUNT_SHARE 20 /* counting takes no more than this part of the time */
#define TAKEOVERS_US (60 * US_PER_S)
#define REFUSED_US (60 * US_PER_S) /* one that is refused dials again within 15 s */
#define FAILED_US (60 * US_PER_S)  /* so does one whose session ended by our vault's failing */
#define BUSY_SHARE 0.8 /* of the session's time: then it is us who are waited for */
#define ETA_UNKNOWN (-1) /* in STATUS */
#define ETA_NEVER (-2)

/* lock held */
static int takeovers(const struct peer *p)
{
    int64_t now_us = clock_now_us();
    int count = 0;

    for (int i = 0; i < TAKEOVERS_KEPT; i++)
        count += p->takeover_us[i] && now_us - p->takeover_us[i] < TAKEOVERS_US;
    return count;
}

/* lock held; what is wrong on our side. Where the vault fails an agent comes only to be sent off by that again. */
static const struct err *trouble_of(const struct peer *p)
{
    return !p->trouble.kind && p->failed_us && clock_now_us() - p->failed_us < FAILED_US ? &p->failed : &p->trouble;
}

/* What our side knows before the agent's own state counts. */
static const char *state_of(const struct peer *p)
{
    if (p->detached && !p->session)
        return "DISCONNECTED";
    if (!p->session && p->stopped)
        return "STOPPED";
    if (!p->session || trouble_of(p)->kind || takeovers(p) > 1)
        return "STALLED";
    if (p->paused)
        return "PAUSED";
    return p->has_status ? p->status.state : "INITIATING";
}

/* lock held */
static bool stands(const struct peer *p) { return p->stands_us && clock_now_us() - p->stands_us < REFUSED_US; }

static json_t *error_json(const struct peer *p)
{
    char since[CLOCK_TEXT_SIZE];

    if (p->detached)
        return json_null();
    if (!p->session && stands(p))
        return json_pack("{s:s, s:s}", "kind", err_meaning(p->stands.kind)->name, "message", p->stands.message);
    if (trouble_of(p)->kind)
        return json_pack("{s:s, s:s}", "kind", err_meaning(trouble_of(p)->kind)->name, "message", trouble_of(p)->message);
    if (!p->session)
        return json_pack("{s:s, s:o}", "kind", err_meaning(ERR_UNREACHABLE)->name, "message",
                         json_sprintf("the agent is not connected (since %s): check that the source runs, that slipway-agent.service is "
                                      "active there, and that it reaches this replicator", clock_format(p->since_us, since)));
    if (p->has_status && p->status.error_kind[0])
        return json_pack("{s:s, s:s}", "kind", p->status.error_kind, "message", p->status.error);
    return json_null();
}

/* lock held */
static struct cause_facts facts_of(const struct peer *p)
{
    return (struct cause_facts){
        .now_us = clock_now_us(), .detached = p->detached, .connected = p->session != NULL, .stopped = p->stopped, .since_us = p->since_us,
        .takeovers = takeovers(p), .rivals = {p->rivals[0], p->rivals[1]},
        .refused = p->refused_us && clock_now_us() - p->refused_us < REFUSED_US ? p->refused_address : NULL,
        .turned_away = p->turned_away_us && clock_now_us() - p->turned_away_us < REFUSED_US ? &p->turned_away : NULL, .stands = stands(p) ? &p->stands : NULL, .paused = p->paused, .paused_by = p->paused_by,
        .paused_us = p->paused_us, .trouble = trouble_of(p), .missing = &p->missing, .status = &p->status, .busy = p->busy_share > BUSY_SHARE,
        .paused_by_calendar = p->calendar_pause && !p->paused, .settings_trouble = &p->settings_trouble,
        .moved_to = p->place.replicator, .limit_said_bytes_per_s = p->limit.value, .point_trouble = &p->point_trouble, .group = p->settings.group, .group_trouble = &p->group_trouble, .newest_at_us = p->newest_at_us,
        .pointed_us = p->pointed_us, .point_interval_us = settings_point_interval_us(p), .rescan_freeze_us = p->settings.rescan_freeze_us, .rescan_points_us = p->settings.rescan_points_us,
        .copied_to = p->copy_to.replicator, .copy_trouble = &p->copied.trouble, .copy_trouble_us = p->copied.trouble_us, .copy_lag_us = copies_lag_us(p)};
}

static json_t *integer_or_null(int64_t value) { return value < 0 ? json_null() : json_integer(value); }

/* lock held */
static json_t *rescue_json(const struct peer *p)
{
    json_t *j;

    if (!*p->rescue_state)
        return json_null();
    j = json_pack("{s:s, s:s, s:s}", "point", p->rescue_point, "state", p->rescue_state, "message", p->rescue_message);
    json_set_time(j, "at", p->rescue_us);
    return j;
}

/* lock held */
static json_t *replication_json(struct peer *p)
{
    json_t *j = json_pack("{s:s, s:s}", "server", p->server, "state", state_of(p));
    const struct wire_status *s = &p->status;
    bool pointed = p->newest[0], current = p->session && p->has_status;
    struct cause_facts facts = facts_of(p);
    const char *bottleneck;

    json_object_set_new(j, "connected", json_boolean(p->session != NULL));
    json_object_set_new(j, "tracker", p->has_status ? json_string(s->tracker) : json_null());
    json_object_set_new(j, "rescan", rescanned_json(p));
    json_object_set_new(j, "bytes_total", json_integer(s->bytes_total));
    json_object_set_new(j, "bytes_done", json_integer(s->bytes_done));
    json_object_set_new(j, "bytes_read", json_integer(s->bytes_read));
    json_object_set_new(j, "bytes_sent", json_integer(s->bytes_sent));
    json_object_set_new(j, "bytes_stored", json_integer((json_int_t)p->stored_bytes));
    json_object_set_new(j, "backlog_bytes", json_integer(s->backlog_bytes));
    json_object_set_new(j, "lag_ms", json_integer(s->lag_ms));
    json_object_set_new(j, "eta_ms", integer_or_null(current ? s->eta_ms : ETA_UNKNOWN));
    json_object_set_new(j, "eta", current && s->eta_ms == ETA_NEVER ? json_string("never") : json_null());
    json_object_set_new(j, "rate_bytes_per_s", integer_or_null(s->state[0] ? s->rate_bytes_per_s : -1));
    json_object_set_new(j, "churn_bytes_per_s", integer_or_null(s->state[0] ? s->churn_bytes_per_s : -1));
    json_object_set_new(j, "limit_bytes_per_s", json_integer(s->limit_bytes_per_s));
    bottleneck = current ? cause_bottleneck(&facts) : NULL;
    json_object_set_new(j, "bottleneck", bottleneck ? json_string(bottleneck) : json_null());
    json_object_set_new(j, "held", json_boolean(p->session && p->has_status && s->held));
    json_object_set_new(j, "newest_point", pointed ? json_string(p->newest) : json_null());
    json_set_time(j, "newest_point_at", pointed ? p->newest_at_us : 0);
    json_object_set_new(j, "newest_point_age_ms", pointed ? json_integer((clock_now_us() - p->newest_at_us) / US_PER_MS) : json_null());
    json_object_set_new(j, "newest_point_unreadable_bytes", pointed ? json_integer((json_int_t)p->newest_unreadable.bytes) : json_null());
    json_object_set_new(j, "unreadable_bytes", json_integer(s->unreadable_bytes));
    json_object_set_new(j, "disks_missing", missing_json(&p->missing));
    json_object_set_new(j, "pointed", json_boolean(p->session && p->pointed));
    json_object_set_new(j, "move", moves_json(p));
    json_object_set_new(j, "copy", copies_json(p));
    json_object_set_new(j, "copied_from", p->copy_from[0] ? json_string(p->copy_from) : json_null());
    json_object_set_new(j, "settings", settings_json(p));
    json_object_set_new(j, "source_latency", json_pack("{s:I, s:I, s:I, s:I}", "now_us", (json_int_t)s->source_latency_us, "without_us",
                                                       (json_int_t)s->source_latency_without_us, "with_us", (json_int_t)s->source_latency_with_us,
                                                       "backoff_bytes_per_s", (json_int_t)s->backoff_bytes_per_s));
    json_object_set_new(j, "rescue", rescue_json(p));
    json_object_set_new(j, "error", error_json(p));
    json_object_set_new(j, "cause", cause_json(&facts));
    return j;
}

json_t *peer_json(struct peer *p, json_t *windows)
{
    CLEANUP(free_ptr) struct vault_point *points = NULL;
    json_t *list = json_array(), *j;
    int count = vault_point_list(p->r->vault, p->server, POINTS_IN_STATUS, &points, NULL);

    for (int i = 0; i < count; i++) {
        json_t *point = vault_point_json(&points[i]);

        (void)orders_set_window(p->r->vault, point, windows, NULL); /* a group that can't be read is said where its points are asked for */
        json_array_append_new(list, point);
    }
    pthread_mutex_lock(&p->lock);
    j = replication_json(p);
    pthread_mutex_unlock(&p->lock);
    json_object_set_new(j, "points", list);
    return j;
}

static bool is_gone(struct peer *p)
{
    bool gone;

    pthread_mutex_lock(&p->lock);
    gone = p->gone;
    pthread_mutex_unlock(&p->lock);
    return gone;
}

/* Not more often than every second. Free room and damage are of now, and nobody waits for a walk over the index: how many chunks there are is as status_count
 * saw it last. */
static struct vault_stat recent_stat(struct replicator *r)
{
    int64_t now_us = clock_monotonic_us();
    struct vault_stat s;

    pthread_mutex_lock(&r->stat_lock);
    if (now_us >= r->stat_due_us && vault_stat_now(r->vault, &r->stat, NULL) == 0)
        r->stat_due_us = now_us + STAT_EVERY_US;
    s = r->stat;
    pthread_mutex_unlock(&r->stat_lock);
    return s;
}

void status_count(struct replicator *r)
{
    int64_t begun_us = clock_monotonic_us();
    struct vault_stat s = {0};

    if (begun_us < r->count_due_us || vault_stat(r->vault, &s, NULL) < 0)
        return;
    r->count_due_us = begun_us + COUNT_SHARE * (clock_monotonic_us() - begun_us);
    pthread_mutex_lock(&r->stat_lock);
    r->stat.chunk_count = s.chunk_count;
    r->stat.raw_bytes = s.raw_bytes;
    pthread_mutex_unlock(&r->stat_lock);
}

static json_t *vault_json(struct replicator *r)
{
    struct vault_stat s = recent_stat(r);
    json_t *j = vault_stat_json(&s);

    json_object_set_new(j, "write_bytes_per_s", json_integer(r->write_bytes_per_s));
    json_object_set_new(j, "read_errors", json_integer((json_int_t)nbd_server_read_errors(r->nbd)));
    return j;
}

json_t *status_json(struct replicator *r, const char *server)
{
    CLEANUP(json_free) json_t *windows = json_object();
    json_t *j = json_pack("{s:[]}", "servers"), *list = json_object_get(j, "servers");

    for (struct peer *p = peers_first(r); p; p = p->next)
        if ((!server || strcmp(server, p->server) == 0) && !is_gone(p))
            json_array_append_new(list, peer_json(p, windows));
    json_object_set_new(j, "vault", vault_json(r));
    json_object_set_new(j, "shares", limits_shares(r));
    json_object_set_new(j, "control_socket", json_string(r->control_told));
    if (r->options.advertise_address[0]) {
        json_object_set_new(j, "address", json_string(r->options.advertise_address));
        json_object_set_new(j, "port", json_integer(r->options.advertise_port));
    }
    return j;
}
