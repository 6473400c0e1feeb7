/* session: one agent's connection, from HELLO to its end. One thread hears; another makes durable and acknowledges. */
#include "replicator/session.h"
#include "base/log.h"
#include "base/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HANDSHAKE_TIMEOUT_MS 15000
#define WRITE_TIMEOUT_MS 60000
#define SILENCE_US (30 * US_PER_S)
#define PING_US (8 * US_PER_S)
#define TAKEOVER_US (15 * US_PER_S)
#define ALIVE_US (5 * US_PER_S)   /* whoever was heard since: STATUS comes every second */
#define SHARE_EVERY_US (1 * US_PER_S)
#define SHARE_FADE 0.8            /* of the share of time, a second later */
#define GATHER_US 4000     /* how long acknowledgements are gathered before a sync */
#define NO_ROOM_WAIT_MS 500

struct wire_conn *session_conn(struct session *s) { return s->conn; }

void session_give_way(struct session *s)
{
    atomic_store(&s->gives_way, true);
    wire_conn_cut(s->conn);
}

/* ---- no room ---- */

void session_trouble_over(struct session *s)
{
    pthread_mutex_lock(&s->p->lock);
    err_clear(&s->p->trouble);
    pthread_mutex_unlock(&s->p->lock);
}

int session_wait_for_room(struct session *s, const struct err *why)
{
    bool ending, told;

    pthread_mutex_lock(&s->p->lock);
    told = s->p->trouble.kind == why->kind;
    s->p->trouble = *why;
    pthread_mutex_unlock(&s->p->lock);
    if (!told)
        log_err(why, "%s waits", s->p->server);
    if (s->copies)
        copy_in_waits(s, why);
    clock_sleep_us(NO_ROOM_WAIT_MS * US_PER_MS);
    pthread_mutex_lock(&s->lock);
    ending = s->ending;
    pthread_mutex_unlock(&s->lock);
    return ending || atomic_load(&s->gives_way) || atomic_load(&s->r->stopping) ? -1 : 0;
}

/* The vault fails: the session ends by that, and with the agent away nobody would look for the reason here. */
static void note_failed(struct session *s, const struct err *why)
{
    pthread_mutex_lock(&s->p->lock);
    s->p->failed = *why;
    s->p->failed_us = clock_now_us();
    pthread_mutex_unlock(&s->p->lock);
}

static void failed_over(struct session *s)
{
    pthread_mutex_lock(&s->p->lock);
    s->p->failed_us = 0;
    pthread_mutex_unlock(&s->p->lock);
}

/* ---- acknowledging ---- */

static int acknowledge(struct session *s, uint64_t number, struct err *e)
{
    CLEANUP(buf_release) struct buf payload = {0};
    struct wire_ack ack = {.offer = number};

    buf_init(&payload, 64);
    wire_ack_encode(&ack, &payload);
    return wire_send_buf(s->conn, WIRE_ACK, &payload, e);
}

/* The number up to which all is applied and nothing acknowledged; 0 after a while without any. */
static uint64_t wait_for_applied(struct session *s, bool *ending)
{
    int64_t until_us = clock_monotonic_us() + PING_US;
    struct timespec t = {.tv_sec = until_us / US_PER_S, .tv_nsec = until_us % US_PER_S * 1000};
    uint64_t number;

    pthread_mutex_lock(&s->lock);
    while (s->applied == s->acked && !s->ending && pthread_cond_timedwait(&s->changed, &s->lock, &t) == 0)
        ;
    number = s->applied == s->acked ? 0 : s->applied;
    *ending = s->ending;
    pthread_mutex_unlock(&s->lock);
    return number;
}

static uint64_t applied_now(struct session *s)
{
    uint64_t number;

    pthread_mutex_lock(&s->lock);
    number = s->applied;
    pthread_mutex_unlock(&s->lock);
    return number;
}

static int sync_and_acknowledge(struct session *s, struct err *e)
{
    struct err why = {0};
    bool waited = false;
    uint64_t number;

    clock_sleep_us(GATHER_US);
    number = applied_now(s);
    while (vault_sync(s->r->vault, &why) < 0) {
        if (why.kind != ERR_NO_SPACE) {
            note_failed(s, &why);
            return err_set(e, why.kind, "%s", why.message);
        }
        if (session_wait_for_room(s, &why) < 0)
            return err_set(e, ERR_CANCELLED, "stopping");
        err_clear(&why);
        waited = true;
    }
    failed_over(s);
    if (waited)
        session_trouble_over(s);
    if (acknowledge(s, number, e) < 0)
        return -1;
    pthread_mutex_lock(&s->lock);
    s->acked = number;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void *acknowledge_all(void *user)
{
    struct session *s = user;
    struct err e = {0};
    bool ending = false;

    while (!ending && !e.kind) {
        uint64_t number = wait_for_applied(s, &ending);
        struct wire_simple ping = {0};

        if (ending)
            break;
        if (number)
            sync_and_acknowledge(s, &e);
        else
            wire_send_message(s->conn, WIRE_PING, &ping, &e);
    }
    if (e.kind && e.kind != ERR_UNREACHABLE && e.kind != ERR_CANCELLED)
        log_err(&e, "%s", s->hello.server);
    if (e.kind) { /* the hearing thread ends, too, and waits for no acknowledgement */
        pthread_mutex_lock(&s->lock);
        s->ending = true;
        pthread_mutex_unlock(&s->lock);
        wire_conn_cut(s->conn);
    }
    return NULL;
}

/* ---- beginning ---- */

static void refuse(struct session *s, const struct err *why)
{
    struct wire_failure failure = {0};

    snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(why->kind)->name);
    snprintf(failure.message, sizeof failure.message, "%.500s", why->message);
    wire_send_message(s->conn, WIRE_REFUSE, &failure, NULL);
}

/* p->lock held. An agent takes the place of one that is alive and has another epoch: one that has lost its link comes with the same. */
static void note_takeover(struct peer *p, const struct session *s)
{
    const struct session *other = p->session;

    if (!other || strcmp(other->hello.epoch, s->hello.epoch) == 0 ||
        clock_monotonic_us() - atomic_load(&other->heard_us) > ALIVE_US)
        return;
    memmove(p->takeover_us, p->takeover_us + 1, sizeof p->takeover_us - sizeof p->takeover_us[0]);
    p->takeover_us[TAKEOVERS_KEPT - 1] = clock_now_us();
    log_warn("%s: an agent at %s takes the place of the one at %s", p->server, s->address, other->address);
}

/* p->lock held. Two machines have this server's name, and the one that has the place lives: frames of it came a moment ago. A source that was booted
 * anew is another boot, too, but what it left behind is silent (docs/replication.md, "Two machines of one name"). */
static int refuse_rival(struct peer *p, const struct session *s, struct err *e)
{
    const struct session *other = p->session;

    if (strcmp(p->preferred_boot, s->hello.boot_id) == 0 || !other || strcmp(other->hello.boot_id, s->hello.boot_id) == 0 ||
        clock_monotonic_us() - atomic_load(&other->heard_us) > ALIVE_US) {
        p->preferred_boot[0] = '\0';
        return 0;
    }
    memcpy(p->refused_address, s->address, sizeof p->refused_address);
    memcpy(p->refused_boot, s->hello.boot_id, sizeof p->refused_boot);
    p->refused_us = clock_now_us();
    return err_set(e, ERR_CONFLICT, "another machine replicates as %s, from %s: stop slipway-agent on the one that is not this server", p->server, other->address);
}

/* Takes the server's place; a session that still has it (its agent lost it without our seeing) is ended, and so is another replicator's that copies. */
static int take_place(struct session *s, struct err *e)
{
    struct peer *p = peer_find(s->r, s->hello.server, true);
    int64_t until_us = clock_monotonic_us() + TAKEOVER_US;
    struct timespec t = {.tv_sec = until_us / US_PER_S, .tv_nsec = until_us % US_PER_S * 1000};
    int result = 0;

    pthread_mutex_lock(&p->lock);
    result = refuse_rival(p, s, e);
    if (result == 0)
        note_takeover(p, s);
    while ((p->session || p->copying) && result == 0) {
        session_give_way(p->session ? p->session : p->copying);
        if (pthread_cond_timedwait(&p->changed, &p->lock, &t) == ETIMEDOUT && (p->session || p->copying))
            result = err_set(e, ERR_CONFLICT, "another connection of %s does not end", p->server);
    }
    if (result == 0) {
        atomic_store(&s->heard_us, clock_monotonic_us());
        s->p = p;
        p->session = s;
        p->greeted = false;
        p->hello = s->hello;
        p->has_status = false;
        p->offers_since_point = 1; /* what came before is not known to be in a point */
        p->pointed = false;
        p->move_due_us = 0;
        p->turned_away_us = p->stands_us = 0;
        p->since_us = clock_now_us();
        p->was_connected = true;
        p->gone = p->stopped = p->has_left = false;
        p->busy_share = 0;
        memcpy(p->rivals[0], p->rivals[1], sizeof p->rivals[0]);
        memcpy(p->rivals[1], s->address, sizeof p->rivals[1]);
        err_clear(&p->trouble);
    }
    pthread_mutex_unlock(&p->lock);
    return result;
}

static void leave_place(struct session *s, const struct err *why)
{
    struct peer *p = s->p;

    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    if (s->copies) {
        p->copying = NULL;
    } else {
        peer_link_lost(p, why);
        p->session = NULL;
        p->since_us = clock_now_us();
    }
    err_clear(&p->trouble);
    while (p->session_users)
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static bool names_disk(const struct wire_hello *hello, const char *id)
{
    for (int64_t i = 0; i < hello->disk_count; i++)
        if (strcmp(hello->disks[i].id, id) == 0)
            return true;
    return false;
}

/* What the server had and its agent does not name, before it is let go. */
static int learn_missing(struct session *s, struct err *e)
{
    CLEANUP(free_ptr) struct missing_disk *had = xcalloc(2 * LIMIT_DISKS_PER_SERVER, sizeof *had);
    CLEANUP(free_ptr) struct vault_disk *held = NULL;
    CLEANUP(free_ptr) struct vault_point *newest = NULL;
    int count = vault_disk_list(s->r->vault, s->hello.server, &held, e), points = vault_point_list(s->r->vault, s->hello.server, 1, &newest, e), had_count = 0, missing;
    bool differs;

    if (count < 0 || points < 0)
        return -1;
    for (int i = 0; i < count && i < LIMIT_DISKS_PER_SERVER; i++, had_count++) {
        memcpy(had[had_count].id, held[i].id, sizeof held[i].id);
        had[had_count].size_bytes = (int64_t)held[i].size_bytes;
    }
    for (size_t i = 0; points && i < newest->disk_count; i++, had_count++) {
        memcpy(had[had_count].id, newest->disks[i].id, sizeof newest->disks[i].id);
        had[had_count].size_bytes = (int64_t)newest->disks[i].size_bytes;
    }
    pthread_mutex_lock(&s->p->lock);
    differs = missing_learn(&s->p->missing, &s->hello, had, had_count, clock_now_us());
    missing = missing_count(&s->p->missing);
    pthread_mutex_unlock(&s->p->lock);
    if (differs && missing)
        log_warn("%s: %d disks that it had are not named by its agent", s->hello.server, missing);
    return differs ? peers_save(s->r, e) : 0;
}

/* The server's disks are those of HELLO from now on. */
int session_open_disks(struct session *s, struct err *e)
{
    CLEANUP(free_ptr) struct vault_disk *held = NULL;
    int count = vault_disk_list(s->r->vault, s->hello.server, &held, e);

    if (count < 0)
        return -1;
    for (int i = 0; i < count; i++) {
        if (names_disk(&s->hello, held[i].id))
            continue;
        log_info("%s: disk %s is gone from the source", s->hello.server, held[i].id);
        if (vault_disk_drop(s->r->vault, s->hello.server, held[i].id, e) < 0)
            return -1;
    }
    for (int64_t i = 0; i < s->hello.disk_count; i++)
        if (vault_disk_open(s->r->vault, s->hello.server, s->hello.disks[i].id, (uint64_t)s->hello.disks[i].size_bytes, &s->disks[i],
                            e) < 0)
            return -1;
    return 0;
}

static void newest_points(struct session *s, struct wire_welcome *w)
{
    CLEANUP(free_ptr) struct vault_point *newest = NULL;

    if (vault_point_list(s->r->vault, s->hello.server, 1, &newest, NULL) != 1)
        return;
    for (int64_t i = 0; i < w->disk_count; i++)
        for (size_t d = 0; d < newest->disk_count; d++)
            if (strcmp(newest->disks[d].id, w->disks[i].id) == 0)
                memcpy(w->disks[i].point, newest->id, sizeof newest->id);
}

static int welcome(struct session *s, struct err *e)
{
    CLEANUP(free_ptr) struct wire_welcome *w = xcalloc(1, sizeof *w);
    struct vault_feed feed = {0}, next = {0};

    if (learn_missing(s, e) < 0 || session_open_disks(s, e) < 0 || vault_feed_get(s->r->vault, s->hello.server, &feed, e) < 0)
        return -1;
    w->version = WIRE_VERSION;
    snprintf(w->replicator, sizeof w->replicator, "%s", s->r->options.name);
    snprintf(w->epoch, sizeof w->epoch, "%s", feed.epoch);
    w->applied = (int64_t)feed.applied;
    w->window_offers = WINDOW_OFFERS;
    w->limit_bytes_per_s = limits_greeting(s->p);
    w->disk_count = s->hello.disk_count;
    for (int64_t i = 0; i < w->disk_count; i++) {
        memcpy(w->disks[i].id, s->hello.disks[i].id, sizeof w->disks[i].id);
        w->disks[i].whole = s->disks[i].known_count == s->disks[i].chunk_count;
        w->disks[i].chunks_known = (int64_t)s->disks[i].known_count;
    }
    newest_points(s, w);
    if (strcmp(feed.epoch, s->hello.epoch) != 0) {
        memcpy(next.epoch, s->hello.epoch, sizeof next.epoch);
        next.stored_bytes = feed.stored_bytes;
        if (vault_feed_set(s->r->vault, s->hello.server, &next, e) < 0 || vault_sync(s->r->vault, e) < 0)
            return -1;
        feed = next;
    }
    s->last_number = s->applied = s->acked = feed.applied;
    return wire_send_message(s->conn, WIRE_WELCOME, w, e);
}

/* Orders that were given while the agent was away, and until it has been told: a fresh link is not paused. From then on whoever gives one sends it. */
static int repeat_orders(struct session *s, struct err *e)
{
    struct wire_simple order = {0};
    bool paused = false, pause, detach;

    for (;;) {
        pthread_mutex_lock(&s->p->lock);
        pause = s->p->paused || s->p->calendar_pause;
        detach = s->p->detached;
        s->p->greeted = detach || pause == paused;
        s->p->told_pause = paused;
        pthread_mutex_unlock(&s->p->lock);
        if (detach)
            return wire_send_message(s->conn, WIRE_DETACH, &order, e);
        if (pause == paused)
            return 0;
        if (wire_send_message(s->conn, pause ? WIRE_PAUSE : WIRE_RESUME, &order, e) < 0)
            return -1;
        paused = pause;
    }
}

/* ---- hearing ---- */

/* How much of the time goes to what we do with what comes, as against waiting for it. */
struct shares {
    int64_t begun_us, busy_us;
};

static void count_share(struct session *s, struct shares *c, int64_t got_us)
{
    int64_t now_us = clock_monotonic_us();

    c->busy_us += now_us - got_us;
    if (now_us - c->begun_us < SHARE_EVERY_US)
        return;
    pthread_mutex_lock(&s->p->lock);
    s->p->busy_share = s->p->busy_share * SHARE_FADE + (1 - SHARE_FADE) * (double)c->busy_us / (double)(now_us - c->begun_us);
    pthread_mutex_unlock(&s->p->lock);
    *c = (struct shares){.begun_us = now_us};
}

static int hear_all(struct session *s, struct err *e)
{
    struct shares shares = {.begun_us = clock_monotonic_us()};

    atomic_store(&s->heard_us, clock_monotonic_us());
    while (!atomic_load(&s->r->stopping)) {
        struct wire_frame f;
        bool closed;
        int got = wire_recv(s->conn, &f, 500, &closed, e);
        int64_t got_us = clock_monotonic_us();

        if (got < 0 || (got == 1 && session_hear(s, &f, e) < 0))
            return -1;
        if (got == 0 && closed)
            return err_set(e, ERR_UNREACHABLE, "the other end closed the connection");
        count_share(s, &shares, got_us);
        if (got == 1)
            atomic_store(&s->heard_us, clock_monotonic_us());
        else if (got_us - atomic_load(&s->heard_us) > SILENCE_US)
            return err_set(e, ERR_TIMEOUT, "the other end has been silent for 30 s");
    }
    return err_set(e, ERR_CANCELLED, "the replicator stops");
}

/* ---- the whole ---- */

int session_begin(struct session *s, struct err *e)
{
    int reason = pthread_create(&s->acker, NULL, acknowledge_all, s);

    if (reason)
        return err_errno(e, reason, "can't start a thread");
    s->acker_runs = true;
    return 0;
}

static int run(struct session *s, struct err *e)
{
    struct first other = {0};
    CLEANUP(free_ptr) struct wire_restore *restore = NULL;
    CLEANUP(free_ptr) struct wire_rescue *rescue = NULL;
    CLEANUP(free_ptr) struct wire_copy *copy = NULL;
    CLEANUP(free_ptr) struct wire_failure *trouble = NULL;
    int heard = first_hear(s, &other, e);

    restore = other.restore;
    rescue = other.rescue;
    copy = other.copy;
    trouble = other.trouble;
    if (heard < 0)
        return -1;
    if (revoked_check(s->r, s->conn, e) < 0) {
        revoked_note(s->r, wire_conn_peer(s->conn), e);
        return -1;
    }
    if (trouble)
        return first_note_trouble(s, trouble, e);
    if (restore)
        return restore_serve(s->r, s->conn, restore, e);
    if (rescue)
        return rescue_hear(s->r, s->conn, rescue, e);
    if (copy) {
        if (copy_in_begin(s, copy, e) < 0)
            return -1;
    } else {
        if (take_place(s, e) < 0 || welcome(s, e) < 0 || repeat_orders(s, e) < 0)
            return -1;
        log_info("%s: the agent is connected, %lld disks, tracker %s", s->hello.server, (long long)s->hello.disk_count, s->hello.tracker);
    }
    return session_begin(s, e) < 0 ? -1 : hear_all(s, e);
}

static void end_session(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    wire_conn_cut(s->conn);
    if (s->acker_runs)
        pthread_join(s->acker, NULL);
}

static struct session *new_session(struct replicator *r, struct tls_stream **stream)
{
    struct session *s = xcalloc(1, sizeof *s);
    pthread_condattr_t attributes;

    s->r = r;
    s->conn = wire_conn_new(stream, WRITE_TIMEOUT_MS);
    s->zip = zip_new(1);
    s->chunk = xmalloc(WIRE_CHUNK_SIZE);
    s->last = &s->first;
    MUST(pthread_condattr_init(&attributes) == 0 && pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
         pthread_cond_init(&s->changed, &attributes) == 0 && pthread_mutex_init(&s->lock, NULL) == 0);
    pthread_condattr_destroy(&attributes);
    return s;
}

/* Which of the two it is, and for whom it speaks, is held against its first frame. */
static int check_role(const struct tls_stream *stream, struct err *e)
{
    const char *name = tls_peer_name(stream);

    if (strncmp(name, "agent:", 6) == 0 || strncmp(name, "replicator:", 11) == 0)
        return 0;
    return err_set(e, ERR_DENIED, "the other end is \"%s\" where \"agent:…\" or \"replicator:…\" was expected", name);
}

void session_serve(struct replicator *r, int fd)
{
    CLEANUP(tls_close) struct tls_stream *stream = NULL;
    char stale[TLS_NAME_SIZE];
    struct session *s;
    struct err e = {0};

    if (tls_open_telling(r->tls, fd, "", HANDSHAKE_TIMEOUT_MS, stale, &stream, &e) < 0 || check_role(stream, &e) < 0) {
        revoked_note(r, stale, &e);
        log_err(&e, "a connection was refused");
        return;
    }
    s = new_session(r, &stream);
    net_peer_text(fd, s->address, sizeof s->address);
    run(s, &e); /* only a restored point, and a word about one, end it without an error */
    if (e.kind && e.kind != ERR_UNREACHABLE && e.kind != ERR_CANCELLED)
        refuse(s, &e);
    if (!e.kind || e.kind == ERR_UNREACHABLE || e.kind == ERR_CANCELLED)
        log_info("%s: the connection ends: %s", wire_conn_peer(s->conn), e.kind ? e.message : "all is said");
    else
        log_err(&e, "%s: the connection ends", wire_conn_peer(s->conn));
    end_session(s);
    if (s->p && e.kind == ERR_IO)
        note_failed(s, &e);
    leave_place(s, &e);
    wire_conn_free(&s->conn);
    offers_release(s);
    zip_free(&s->zip);
    free(s->chunk);
    free(s->copy);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
