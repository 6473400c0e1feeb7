/* care: what goes on by itself: points on schedule, limits by calendar, expiry and space, telling the factory. */
#include "base/http.h"
#include "base/log.h"
#include "replicator/private.h"

#include <stdlib.h>
#include <string.h>

#define POINTS_LOOK_US (100 * US_PER_MS)
#define POINT_TIMEOUT_MS 30000
#define POINT_STUCK_US (60 * US_PER_S)
#define EXPIRE_EVERY_US (20 * US_PER_S)
#define SPACE_EVERY_US (300 * US_PER_S)
#define SPACE_URGENT_EVERY_US (10 * US_PER_S)
#define LIMITS_EVERY_US (200 * US_PER_MS)
#define FACTORY_EVERY_US (1 * US_PER_S)
#define FACTORY_TIMEOUT_MS 5000

static struct peer *first_peer(struct replicator *r)
{
    struct peer *p;

    pthread_mutex_lock(&r->lock);
    p = r->peers;
    pthread_mutex_unlock(&r->lock);
    return p;
}

/* Sleeps in pieces, so that a stop is quick. */
static void rest(struct replicator *r, int64_t duration_us)
{
    int64_t until_us = clock_monotonic_us() + duration_us;

    while (!atomic_load(&r->stopping) && clock_monotonic_us() < until_us)
        clock_sleep_us(100 * US_PER_MS < duration_us ? 100 * US_PER_MS : duration_us);
}

/* ---- points on schedule ---- */

static bool point_is_due(struct peer *p)
{
    int64_t now_us = clock_monotonic_us();
    struct slot *s = &p->slots[SLOT_POINT];
    bool due;

    pthread_mutex_lock(&p->lock);
    if (s->busy && s->quiet && now_us - s->asked_us > POINT_STUCK_US)
        *s = (struct slot){0}; /* never answered */
    due = p->session && p->has_status && !p->paused && !p->detached && !p->status.held && !s->busy &&
          (strcmp(p->status.state, "CONTINUOUS") == 0 || strcmp(p->status.state, "BACKLOG") == 0) &&
          (!p->last_try_us || now_us - p->last_try_us >= settings_point_interval_us(p));
    if (due)
        p->last_try_us = now_us;
    pthread_mutex_unlock(&p->lock);
    return due;
}

void *care_points(void *replicator)
{
    struct replicator *r = replicator;

    while (!atomic_load(&r->stopping)) {
        for (struct peer *p = first_peer(r); p; p = p->next) {
            struct wire_take_point take = {.consistency = WIRE_ANY, .timeout_ms = POINT_TIMEOUT_MS};
            struct ask a = {SLOT_POINT, WIRE_TAKE_POINT, &take, sizeof take, &take.request, NULL, true, false};

            /* The answer is the session's; whoever asks in person meanwhile waits for it. */
            if (point_is_due(p))
                (void)slot_ask(p, &a, clock_monotonic_us() + US_PER_S, NULL);
        }
        rest(r, POINTS_LOOK_US);
    }
    return NULL;
}

/* ---- limits ---- */

void *care_limits(void *replicator)
{
    struct replicator *r = replicator;

    while (!atomic_load(&r->stopping)) {
        settings_apply(r);
        rest(r, LIMITS_EVERY_US);
    }
    return NULL;
}

/* ---- expiry and space ---- */

static bool no_room(struct replicator *r)
{
    bool found = false;

    for (struct peer *p = first_peer(r); p; p = p->next) {
        pthread_mutex_lock(&p->lock);
        found = found || p->trouble.kind == ERR_NO_SPACE || p->point_trouble.kind == ERR_NO_SPACE;
        pthread_mutex_unlock(&p->lock);
    }
    return found;
}

static void expire_all(struct replicator *r)
{
    for (struct peer *p = first_peer(r); p; p = p->next) {
        struct vault_rung rungs[LADDER_RUNGS_MAX];
        struct vault_ladder ladder;
        struct err e = {0};

        settings_ladder(p, rungs, &ladder);
        if (vault_expire(r->vault, p->server, &ladder, &e) < 0 && e.kind != ERR_NO_SPACE)
            log_err(&e, "expiring points of %s", p->server);
    }
}

int care_repair(struct replicator *r, struct err *e)
{
    CLEANUP(free_ptr) char *servers = NULL;
    char *rest_of = NULL;
    int count = vault_forget_damaged(r->vault, &servers, e);

    for (char *server = count > 0 ? strtok_r(servers, "\n", &rest_of) : NULL; server; server = strtok_r(NULL, "\n", &rest_of)) {
        struct peer *p = peer_find(r, server, false);

        log_warn("%s: what is damaged in the vault is asked for again", server);
        if (!p)
            continue;
        pthread_mutex_lock(&p->lock);
        p->offers_since_point++; /* the next point is one of its own, also where nothing has changed: its map is made anew */
        if (p->session)
            wire_conn_cut(session_conn(p->session));
        pthread_mutex_unlock(&p->lock);
    }
    return count;
}

void *care_space(void *replicator)
{
    struct replicator *r = replicator;
    int64_t given_us = clock_monotonic_us();

    while (!atomic_load(&r->stopping)) {
        int64_t every_us = no_room(r) ? SPACE_URGENT_EVERY_US : SPACE_EVERY_US;
        uint64_t freed = 0;
        struct err e = {0};

        rest(r, every_us < EXPIRE_EVERY_US ? every_us : EXPIRE_EVERY_US);
        expire_all(r);
        if (care_repair(r, &e) < 0)
            log_err(&e, "damage in the vault");
        err_clear(&e);
        if (atomic_load(&r->stopping) || clock_monotonic_us() - given_us < every_us)
            continue;
        given_us = clock_monotonic_us();
        if (vault_gc(r->vault, &freed, &e) < 0)
            log_err(&e, "space");
        else if (freed)
            log_info("%llu MiB given back", (unsigned long long)(freed >> 20));
    }
    return NULL;
}

/* ---- the factory ---- */

/* Its answer says how the servers are to be replicated. */
static int tell_factory(struct replicator *r, struct http_client *client, const char *url, struct err *e)
{
    CLEANUP(json_free) json_t *body = status_json(r, NULL), *answer = NULL;
    struct http_request request = {.method = "POST", .url = url, .timeout_ms = FACTORY_TIMEOUT_MS};

    return http_json(client, &request, body, &answer, NULL, e) < 0 ? -1 : settings_take(r, answer, e);
}

void *care_factory(void *replicator)
{
    struct replicator *r = replicator;
    CLEANUP(free_ptr) char *url = xasprintf("%s/v1/replicator/status", r->options.factory_url);
    CLEANUP(http_close) struct http_client *client = NULL;
    struct http_options options = {.ca_file = r->ca_file, .certificate_file = r->certificate_file, .key_file = r->key_file,
                                   .connect_timeout_ms = FACTORY_TIMEOUT_MS};
    struct err last = {0}, e = {0};

    if (http_open(&options, &client, &e) < 0) {
        log_err(&e, "the factory can't be told anything");
        return NULL;
    }
    while (!atomic_load(&r->stopping)) {
        err_clear(&e);
        tell_factory(r, client, url, &e);
        if (e.kind && e.kind != last.kind)
            log_err(&e, "telling the factory (replication goes on)");
        else if (!e.kind && last.kind)
            log_info("the factory is told again");
        last = e;
        rest(r, FACTORY_EVERY_US);
    }
    return NULL;
}
