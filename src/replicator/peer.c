/* peer: the source servers, and what is asked of their agents. */
#include "replicator/private.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BEAT_US (2 * US_PER_S) /* how often who waits is told that we do */

static void copy_name(char *to, size_t size, const char *from)
{
    MUST(strlen(from) < size);
    memcpy(to, from, strlen(from) + 1);
}

static struct peer *make_peer(struct replicator *r, const char *server)
{
    struct peer *p = xcalloc(1, sizeof *p);
    pthread_condattr_t attributes;

    p->r = r;
    copy_name(p->server, sizeof p->server, server);
    MUST(pthread_condattr_init(&attributes) == 0 && pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
         pthread_cond_init(&p->changed, &attributes) == 0 && pthread_mutex_init(&p->lock, NULL) == 0 && pthread_mutex_init(&p->telling, NULL) == 0);
    pthread_condattr_destroy(&attributes);
    p->since_us = clock_now_us();
    /* 1 … 2^31-1 (wire.md); a number from before a restart should not meet one of ours. */
    p->next_request = (p->since_us / US_PER_S & 0xfffff) << 10;
    p->next = r->peers;
    r->peers = p;
    return p;
}

struct peer *peer_find(struct replicator *r, const char *server, bool make)
{
    struct peer *p;

    pthread_mutex_lock(&r->lock);
    for (p = r->peers; p && strcmp(p->server, server) != 0; p = p->next)
        ;
    if (!p && make)
        p = make_peer(r, server);
    pthread_mutex_unlock(&r->lock);
    return p;
}

struct peer *peers_first(struct replicator *r)
{
    struct peer *p;

    pthread_mutex_lock(&r->lock);
    p = r->peers;
    pthread_mutex_unlock(&r->lock);
    return p;
}

int peer_need(struct replicator *r, const char *server, struct peer **out, struct err *e)
{
    *out = peer_find(r, server, false);
    return *out ? 0 : err_set(e, ERR_NOT_FOUND, "this replicator knows no server %.128s", server);
}

void peers_free(struct replicator *r)
{
    while (r->peers) {
        struct peer *p = r->peers;

        r->peers = p->next;
        settings_release(p);
        missing_release(&p->missing);
        pthread_mutex_destroy(&p->lock);
        pthread_mutex_destroy(&p->telling);
        pthread_cond_destroy(&p->changed);
        free(p);
    }
}

/* ---- what is kept over restarts ---- */

static int load_marks(struct replicator *r, struct err *e)
{
    CLEANUP(json_free) json_t *marks = NULL;
    const char *server;
    json_t *mark;

    if (!file_exists(r->marks_path))
        return 0;
    if (json_read_file(r->marks_path, &marks, e) < 0)
        return -1;
    json_object_foreach(marks, server, mark) {
        struct peer *p = vault_name_check("server", server, NULL) == 0 ? peer_find(r, server, true) : NULL;

        if (p) {
            p->paused = json_get_bool(mark, "paused", false);
            p->paused_us = json_get_int(mark, "paused_us", 0);
            snprintf(p->paused_by, sizeof p->paused_by, "%s", json_get_string(mark, "paused_by", ""));
            p->detached = json_get_bool(mark, "detached", false);
            p->order_us = json_get_int(mark, "order_us", 0);
            snprintf(p->rescue_point, sizeof p->rescue_point, "%s", json_get_string(mark, "rescue_point", ""));
            snprintf(p->rescue_state, sizeof p->rescue_state, "%s", json_get_string(mark, "rescue_state", ""));
            snprintf(p->rescue_message, sizeof p->rescue_message, "%s", json_get_string(mark, "rescue_message", ""));
            p->rescue_us = json_get_int(mark, "rescue_us", 0);
            p->rescue_boot = json_get_bool(mark, "rescue_boot", false);
            missing_load(&p->missing, json_object_get(mark, "missing"));
        }
    }
    return 0;
}

int peers_save(struct replicator *r, struct err *e)
{
    CLEANUP(json_free) json_t *marks = json_object();
    CLEANUP(free_ptr) char *text = NULL;
    int result;

    pthread_mutex_lock(&r->lock);
    for (struct peer *p = r->peers; p; p = p->next) {
        pthread_mutex_lock(&p->lock);
        if (p->paused || p->detached || p->order_us || *p->rescue_state || p->missing.count)
            json_object_set_new(marks, p->server, json_pack("{s:b, s:s, s:I, s:b, s:I, s:s, s:s, s:s, s:I, s:b, s:o}", "paused", p->paused, "paused_by", p->paused_by,
                                                            "paused_us", (json_int_t)p->paused_us, "detached", p->detached, "order_us",
                                                            (json_int_t)p->order_us, "rescue_point", p->rescue_point, "rescue_state",
                                                            p->rescue_state, "rescue_message", p->rescue_message, "rescue_us",
                                                            (json_int_t)p->rescue_us, "rescue_boot", p->rescue_boot, "missing",
                                                            missing_kept(&p->missing)));
        pthread_mutex_unlock(&p->lock);
    }
    text = json_text(marks);
    result = file_write(r->marks_path, text, strlen(text), 0600, e);
    pthread_mutex_unlock(&r->lock);
    return result;
}

int peer_find_newest(struct peer *p, const char *was, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *newest = NULL;
    int count = vault_point_list(p->r->vault, p->server, 1, &newest, e);

    if (count < 0)
        return -1;
    pthread_mutex_lock(&p->lock);
    if (strcmp(p->newest, was) == 0) { /* else another one has come meanwhile */
        copy_name(p->newest, sizeof p->newest, count ? newest->id : "");
        p->newest_at_us = count ? newest->at_us : 0;
        p->newest_unreadable = count ? newest->unreadable : (struct vault_unreadable){0};
    }
    pthread_mutex_unlock(&p->lock);
    return 0;
}

int peers_forget_dropped(struct replicator *r, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *there = xcalloc(1, sizeof *there);

    for (struct peer *p = peers_first(r); p; p = p->next) {
        char newest[VAULT_POINT_ID_SIZE];
        int found;

        pthread_mutex_lock(&p->lock);
        memcpy(newest, p->newest, sizeof newest);
        pthread_mutex_unlock(&p->lock);
        found = newest[0] ? vault_point_get(r->vault, newest, there, e) : 1;
        if (found < 0 || (found == 0 && peer_find_newest(p, newest, e) < 0))
            return -1;
        pthread_mutex_lock(&p->lock);
        p->offers_since_point += found == 0;
        pthread_mutex_unlock(&p->lock);
    }
    return 0;
}

static int load_peer(struct replicator *r, const char *server, struct err *e)
{
    struct peer *p = peer_find(r, server, true);
    struct vault_feed feed = {0};

    if (peer_find_newest(p, "", e) < 0 || vault_feed_get(r->vault, server, &feed, e) < 0)
        return -1;
    p->stored_bytes = feed.stored_bytes;
    return 0;
}

int peers_load(struct replicator *r, struct err *e)
{
    CLEANUP(free_ptr) char(*servers)[LIMIT_NAME_BYTES + 1] = NULL;
    int count = vault_server_list(r->vault, &servers, e);

    if (count < 0)
        return -1;
    for (int i = 0; i < count; i++)
        if (load_peer(r, servers[i], e) < 0)
            return -1;
    return load_marks(r, e);
}

/* ---- sending ---- */

int peer_absent(const struct peer *p, struct err *e)
{
    return err_set(e, ERR_UNREACHABLE, "the agent of %s is not connected: check `systemctl status slipway-agent` there", p->server);
}

/* One thread sends to all of them: an agent that takes nothing must not hold up what the others are told. HASH alone may be large: whoever asks for it waits for
 * its own agent only. */
int peer_send(struct peer *p, unsigned type, const void *message, size_t size, struct err *e)
{
    struct session *s;
    int result;

    pthread_mutex_lock(&p->lock);
    s = p->greeted ? p->session : NULL;
    p->session_users += s != NULL;
    pthread_mutex_unlock(&p->lock);
    if (!s)
        return peer_absent(p, e);
    result = type == WIRE_HASH ? wire_send_json(session_conn(s), type, message, size, e) : wire_send_soon(session_conn(s), type, message, size, e);
    pthread_mutex_lock(&p->lock);
    p->session_users--;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return result;
}

/* ---- requests ---- */

/* lock held; false when the deadline has passed */
static bool wait_until(struct peer *p, int64_t deadline_us)
{
    struct timespec t = {.tv_sec = deadline_us / US_PER_S, .tv_nsec = deadline_us % US_PER_S * 1000};

    return pthread_cond_timedwait(&p->changed, &p->lock, &t) != ETIMEDOUT;
}

/* lock held; HASHES name a disk by its place in HELLO: in that of the session that is asked. Should another one take its place, the slot is lost with it. */
static int aim_hashes(const struct peer *p, const struct ask *a, struct slot *s, struct err *e)
{
    const struct wire_hash *wanted = a->message;

    if (!p->session)
        return peer_absent(p, e);
    for (int64_t i = 0; i < wanted->disk_count; i++) {
        int64_t d = 0;

        while (d < p->hello.disk_count && strcmp(p->hello.disks[d].id, wanted->disks[i].id) != 0)
            d++;
        if (d == p->hello.disk_count)
            return err_set(e, ERR_CONFLICT, "the source has no disk %s any more", wanted->disks[i].id);
        s->hash_fd[d] = a->hash_fd[i];
    }
    return 0;
}

static void slot_clear(struct peer *p, struct slot *s) /* lock held */
{
    free(s->hashed);
    *s = (struct slot){0};
    pthread_cond_broadcast(&p->changed);
}

static int slot_take(struct peer *p, const struct ask *a, int64_t deadline_us, struct err *e)
{
    struct slot *s = &p->slots[a->kind];
    int result = 0;

    pthread_mutex_lock(&p->lock);
    while (s->busy && result == 0)
        if (!wait_until(p, deadline_us) && s->busy)
            result = err_set(e, ERR_TIMEOUT, "another request to the agent of %s has not been answered yet", p->server);
    if (result == 0) {
        p->next_request = p->next_request % INT32_MAX + 1;
        *s = (struct slot){.busy = true, .quiet = a->quiet, .in_step = a->in_step, .request = p->next_request, .asked_us = clock_monotonic_us(),
                           .asked_wall_us = clock_now_us()};
        *a->request_at = s->request;
        if (a->kind == SLOT_POINT && !a->in_step)
            p->point_asks[p->next_ask++ % POINT_ASKS_KEPT] = s->request;
        for (size_t i = 0; i < LIMIT_DISKS_PER_SERVER; i++)
            s->hash_fd[i] = -1;
        if (a->hash_fd && aim_hashes(p, a, s, e) < 0) {
            slot_clear(p, s);
            result = -1;
        }
    }
    pthread_mutex_unlock(&p->lock);
    return result;
}

int slot_ask(struct peer *p, const struct ask *a, int64_t deadline_us, struct err *e)
{
    if (slot_take(p, a, deadline_us, e) < 0)
        return -1;
    if (peer_send(p, a->type, a->message, a->size, e) == 0)
        return 0;
    pthread_mutex_lock(&p->lock);
    (void)point_ask_answered(p, *a->request_at); /* it was never asked */
    if (p->slots[a->kind].request == *a->request_at) /* a quiet one that was lost with its link is somebody else's by now, perhaps */
        slot_clear(p, &p->slots[a->kind]);
    pthread_mutex_unlock(&p->lock);
    return -1;
}

int slot_wait(struct peer *p, enum slot_kind kind, int64_t deadline_us, struct talk *t, struct err *e)
{
    struct slot *s = &p->slots[kind];
    int64_t now_us = clock_monotonic_us(), bytes_done = 0, bytes_total = 0;
    bool done = false;
    int result = 0;

    while (!done && now_us < deadline_us && result == 0) {
        int64_t beat_us = now_us + BEAT_US < deadline_us ? now_us + BEAT_US : deadline_us;

        pthread_mutex_lock(&p->lock);
        while (!s->done && wait_until(p, beat_us))
            ;
        done = s->done;
        bytes_done = s->bytes_done;
        bytes_total = s->bytes_total;
        if (done && s->e.kind)
            result = err_set(e, s->e.kind, "%s", s->e.message);
        pthread_mutex_unlock(&p->lock);
        now_us = clock_monotonic_us();
        if (!done && t && talk_progress(t, bytes_done, bytes_total, bytes_total ? "bytes" : ""))
            result = err_set(e, ERR_CANCELLED, "whoever asked went away");
    }
    if (!done && result == 0)
        result = err_set(e, ERR_TIMEOUT, "the agent of %s has not answered in time", p->server);
    return result;
}

void slot_leave(struct peer *p, enum slot_kind kind)
{
    pthread_mutex_lock(&p->lock);
    slot_clear(p, &p->slots[kind]);
    pthread_mutex_unlock(&p->lock);
}

struct slot *slot_answered(struct peer *p, enum slot_kind kind, int64_t request)
{
    struct slot *s = &p->slots[kind];

    return s->busy && !s->done && s->request == request ? s : NULL;
}

bool point_ask_answered(struct peer *p, int64_t request)
{
    for (size_t i = 0; i < POINT_ASKS_KEPT && request; i++)
        if (p->point_asks[i] == request) {
            p->point_asks[i] = 0;
            return true;
        }
    return false;
}

bool slot_committed(struct peer *p, int64_t request)
{
    struct slot *s;
    bool asked;

    pthread_mutex_lock(&p->lock);
    s = slot_answered(p, SLOT_POINT, request);
    asked = point_ask_answered(p, request) || (s && s->in_step && !s->committed);
    if (s)
        s->committed = true;
    pthread_mutex_unlock(&p->lock);
    return asked;
}

void slot_finish(struct peer *p, struct slot *s)
{
    s->done = true;
    if (s->quiet)
        *s = (struct slot){0};
    pthread_cond_broadcast(&p->changed);
    group_stir(p->r);
}

void peer_link_lost(struct peer *p, const struct err *why)
{
    for (size_t kind = 0; kind < SLOT_COUNT; kind++) {
        struct slot *s = &p->slots[kind];

        if (!s->busy || s->done)
            continue;
        err_set(&s->e, ERR_UNREACHABLE, "the connection to the agent of %s was lost: %.800s", p->server, why->message);
        s->lost = true;
        slot_finish(p, s);
    }
}

void peer_people(struct peer *p, int more)
{
    pthread_mutex_lock(&p->lock);
    p->people += more;
    pthread_mutex_unlock(&p->lock);
    limits_tell(p);
}

static int ask_for_point(struct peer *p, const struct wire_take_point *wanted, int64_t timeout_ms, struct talk *t,
                         char point[static VAULT_POINT_ID_SIZE], struct err *e)
{
    struct wire_take_point ask = *wanted;
    struct ask a = {SLOT_POINT, WIRE_TAKE_POINT, &ask, sizeof ask, &ask.request, NULL, false, false};
    int64_t deadline_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    struct wire_simple thaw = {0};
    int result;

    /* The agent gives up a little earlier than we do, so that it is its words that are heard. */
    ask.timeout_ms = timeout_ms > 4000 ? timeout_ms - 2000 : timeout_ms / 2 + 1;
    if (slot_ask(p, &a, deadline_us, e) < 0)
        return -1;
    result = slot_wait(p, SLOT_POINT, deadline_us, t, e);
    if (result == 0 && wanted->hold && t && talk_is_gone(t)) /* since slot_wait looked last */
        result = err_set(e, ERR_CANCELLED, "whoever asked went away");
    if (result == 0)
        copy_name(point, VAULT_POINT_ID_SIZE, p->slots[SLOT_POINT].point);
    slot_leave(p, SLOT_POINT);
    /* It may have frozen the source by now, and nobody would thaw it. Request 0: nobody waits for the answer. */
    if (result < 0 && wanted->hold)
        (void)peer_send(p, WIRE_THAW, &thaw, sizeof thaw, NULL);
    return result;
}

int peer_take_point(struct peer *p, const struct wire_take_point *wanted, int64_t timeout_ms, struct talk *t,
                    char point[static VAULT_POINT_ID_SIZE], struct err *e)
{
    int result;

    peer_people(p, 1);
    result = ask_for_point(p, wanted, timeout_ms, t, point, e);
    peer_people(p, -1);
    return result;
}

int peer_thaw(struct peer *p, int64_t timeout_ms, struct talk *t, struct wire_thawed *out, struct err *e)
{
    struct wire_simple ask = {0};
    struct ask a = {SLOT_THAW, WIRE_THAW, &ask, sizeof ask, &ask.request, NULL, false, false};
    int64_t deadline_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    int result;

    if (slot_ask(p, &a, deadline_us, e) < 0)
        return -1;
    result = slot_wait(p, SLOT_THAW, deadline_us, t, e);
    if (result == 0)
        *out = p->slots[SLOT_THAW].thawed;
    slot_leave(p, SLOT_THAW);
    return result;
}
