/* copy_in: another replicator brings a server's points here (docs/formats/wire.md, "Second copies"). Its offers are taken as an agent's are, chunk by chunk,
 * each verified; what is different is who may send them, that the points have their ids and moments already, and that the server's agent goes first. */
#include "base/log.h"
#include "replicator/orders.h"
#include "replicator/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TAKE_PLACE_US (15 * US_PER_S)
#define SETTLE_LOOK_US (1 * US_PER_MS)
#define WAITS_EVERY_US (2 * US_PER_S)

_Static_assert(sizeof KEPT_PREFIX == sizeof COPIED_PREFIX, "a reason that fits there fits here");
_Static_assert(WIRE_GROUP_MOST >= VAULT_GROUP_MOST, "a group's members fit into COPY_POINT");

static int fail(struct session *s, int64_t request, const struct err *why, struct err *e)
{
    struct wire_failure failure = {.request = request};

    snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(why->kind)->name);
    snprintf(failure.message, sizeof failure.message, "%.500s", why->message);
    return wire_send_message(s->conn, WIRE_POINT_FAILED, &failure, e);
}

void copy_in_waits(struct session *s, const struct err *why)
{
    struct wire_failure failure = {0};
    int64_t now_us = clock_monotonic_us();
    bool due;

    pthread_mutex_lock(&s->lock);
    due = !s->waits_told_us || now_us - s->waits_told_us > WAITS_EVERY_US;
    if (due)
        s->waits_told_us = now_us;
    pthread_mutex_unlock(&s->lock);
    if (!due)
        return;
    snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(why->kind)->name);
    snprintf(failure.message, sizeof failure.message, "%.500s", why->message);
    (void)wire_send_message(s->conn, WIRE_COPY_WAITS, &failure, NULL); /* a connection that is gone ends the session elsewhere */
}

/* ---- beginning ---- */

/* An older connection that copies gives way; the server's agent never does. */
static int take_place(struct session *s, struct peer *p, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + TAKE_PLACE_US;
    struct timespec t = {.tv_sec = until_us / US_PER_S, .tv_nsec = until_us % US_PER_S * 1000};
    int result = 0;

    pthread_mutex_lock(&p->lock);
    while (result == 0 && (p->session || p->copying)) {
        if (p->session) {
            result = err_set(e, ERR_CONFLICT, "the agent of %s replicates to this replicator: nobody else brings points of it here", p->server);
            break;
        }
        session_give_way(p->copying);
        if (pthread_cond_timedwait(&p->changed, &p->lock, &t) == ETIMEDOUT && p->copying)
            result = err_set(e, ERR_CONFLICT, "another connection that copies points of %s does not end", p->server);
    }
    if (result == 0) {
        s->p = p;
        p->copying = s;
        p->gone = false;
        p->busy_share = 0;
        err_clear(&p->trouble);
    }
    pthread_mutex_unlock(&p->lock);
    return result;
}

static int say_copying(struct session *s, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *newest = NULL;
    struct wire_copying answer = {.version = WIRE_COPY_VERSION, .window_offers = WINDOW_OFFERS};
    struct vault_feed feed = {0};
    int count = vault_point_list(s->r->vault, s->p->server, 1, &newest, e), exact = 0;

    if (count < 0 || vault_feed_get(s->r->vault, s->p->server, &feed, e) < 0 ||
        (count && (exact = vault_map_is(s->r->vault, s->p->server, newest->id, e)) < 0))
        return -1;
    snprintf(answer.replicator, sizeof answer.replicator, "%s", s->r->options.name);
    if (count)
        memcpy(answer.point, newest->id, sizeof newest->id);
    answer.exact = exact == 1;
    memcpy(answer.epoch, feed.epoch, sizeof feed.epoch);
    return wire_send_message(s->conn, WIRE_COPYING, &answer, e);
}

int copy_in_begin(struct session *s, const struct wire_copy *q, struct err *e)
{
    struct peer *p;

    s->copies = true;
    if (copies_may(s->r, q->replicator, q->server, e) < 0)
        return -1;
    p = peer_find(s->r, q->server, true);
    pthread_mutex_lock(&p->lock);
    snprintf(p->copy_from, sizeof p->copy_from, "%s", q->replicator);
    pthread_mutex_unlock(&p->lock);
    memcpy(s->hello.server, q->server, sizeof s->hello.server);
    atomic_store(&s->heard_us, clock_monotonic_us());
    copies_behave();
    if (take_place(s, p, e) < 0 || say_copying(s, e) < 0)
        return -1;
    log_info("%s: %s copies its points here", p->server, q->replicator);
    return 0;
}

/* ---- a point ---- */

/* All that was applied is acknowledged: the numbers may begin anew. Offers come after this only. */
static int settle(struct session *s, struct err *e)
{
    bool settled = false, ending = false;

    if (s->first || s->barrier)
        return err_set(e, ERR_PROTOCOL, "COPY_POINT before the offers of the one before are applied");
    while (!settled && !ending) {
        pthread_mutex_lock(&s->lock);
        settled = s->applied == s->acked;
        ending = s->ending || atomic_load(&s->gives_way) || atomic_load(&s->r->stopping);
        pthread_mutex_unlock(&s->lock);
        if (!settled)
            clock_sleep_us(SETTLE_LOOK_US);
    }
    return settled ? 0 : err_set(e, ERR_CANCELLED, "stopping");
}

/* 1: it is here already; 0: it may come; -1. */
static int look(struct session *s, const struct wire_copy_point *c, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *there = xcalloc(1, sizeof *there);
    CLEANUP(free_ptr) struct vault_point *newest = NULL;
    int found = copies_may(s->r, wire_conn_peer(s->conn) + strlen("replicator:"), s->p->server, e) < 0 ? -1 : vault_point_get(s->r->vault, c->point, there, e);

    if (found < 0)
        return -1;
    if (found)
        return strcmp(there->server, s->p->server) == 0 ? 1 : err_set(e, ERR_CONFLICT, "recovery point %s is here, of another server", c->point);
    found = vault_point_list(s->r->vault, s->p->server, 1, &newest, e);
    if (found == 1 && newest->at_us > c->at_us && strcmp(newest->id, c->base) != 0)
        return err_set(e, ERR_CONFLICT, "a later point of %s is here (%s): %s is not copied over it", s->p->server, newest->id, c->point);
    return found < 0 ? -1 : 0;
}

static void take_disks(struct session *s, const struct wire_copy_point *c)
{
    memcpy(s->hello.epoch, c->epoch, sizeof s->hello.epoch);
    s->hello.disk_count = c->disk_count;
    memcpy(s->hello.disks, c->disks, sizeof s->hello.disks);
}

/* The working map is made ready for the offers towards it: it is the base, or what of these offers was applied before, or all is offered. */
static int prepare(struct session *s, const struct wire_copy_point *c, uint64_t *applied, struct err *e)
{
    struct vault_feed feed = {0}, next = {0};
    int fits;

    if (vault_feed_get(s->r->vault, s->p->server, &feed, e) < 0)
        return -1;
    fits = strcmp(feed.epoch, c->epoch) == 0 || !c->base[0] ? 1 : vault_map_is(s->r->vault, s->p->server, c->base, e);
    if (fits < 1)
        return fits < 0 ? -1 : err_set(e, ERR_WRONG_STATE, "the copy here is not recovery point %s any more: all of it must be offered", c->base);
    take_disks(s, c);
    if (session_open_disks(s, e) < 0)
        return -1;
    if (strcmp(feed.epoch, c->epoch) == 0) {
        *applied = feed.applied;
        return 0;
    }
    memcpy(next.epoch, c->epoch, sizeof next.epoch);
    next.stored_bytes = feed.stored_bytes;
    return vault_feed_set(s->r->vault, s->p->server, &next, e) < 0 ? -1 : vault_sync(s->r->vault, e);
}

static int check_point(const struct wire_copy_point *c, struct err *e)
{
    if (!c->epoch[0] || !c->point[0] || c->disk_count < 1 || c->consistency == WIRE_ANY)
        return err_set(e, ERR_PROTOCOL, "COPY_POINT without epoch, point or disks, or of no consistency");
    for (int64_t i = 0; i < c->disk_count; i++)
        for (int64_t k = 0; k < i; k++)
            if (strcmp(c->disks[i].id, c->disks[k].id) == 0)
                return err_set(e, ERR_PROTOCOL, "COPY_POINT names disk %s twice", c->disks[i].id);
    for (int64_t i = 0; c->group[0] && i < c->member_count; i++)
        if (!c->members[i].point[0] || vault_name_check("server", c->members[i].server, NULL) < 0)
            return err_set(e, ERR_PROTOCOL, "COPY_POINT of a group with a member that has no name");
    return (c->group[0] != '\0') == (c->member_count > 0) && c->member_count <= VAULT_GROUP_MOST
               ? 0 : err_set(e, ERR_PROTOCOL, "COPY_POINT of a group with %lld members", (long long)c->member_count);
}

static int take_point(struct session *s, struct wire_copy_point *c, struct wire_simple *go, bool *there, struct err *e)
{
    uint64_t applied = 0;
    int found = look(s, c, e);

    *there = found == 1;
    if (found)
        return found < 0 ? -1 : 0;
    if (prepare(s, c, &applied, e) < 0) {
        s->hello.disk_count = 0;
        return -1;
    }
    pthread_mutex_lock(&s->lock);
    s->applied = s->acked = applied;
    pthread_mutex_unlock(&s->lock);
    s->last_number = applied;
    go->value = (int64_t)applied;
    return 0;
}

int copy_in_point(struct session *s, const struct wire_frame *f, struct err *e)
{
    CLEANUP(free_ptr) struct wire_copy_point *c = xcalloc(1, sizeof *c);
    struct wire_simple go = {0};
    struct wire_point marks = {0};
    struct err why = {0};
    bool there = false;

    if (wire_json_decode(WIRE_COPY_POINT, f->payload, f->size, c, sizeof *c, e) < 0 || check_point(c, e) < 0 || settle(s, e) < 0)
        return -1;
    free(s->copy);
    s->copy = NULL;
    if (take_point(s, c, &go, &there, &why) < 0)
        return fail(s, c->request, &why, e);
    if (there) {
        struct wire_point_done done = {.request = c->request};

        memcpy(done.point, c->point, sizeof done.point);
        return wire_send_message(s->conn, WIRE_POINT_DONE, &done, e);
    }
    marks.unreadable_bytes = c->unreadable_bytes;
    marks.range_count = c->range_count;
    memcpy(marks.ranges, c->ranges, sizeof marks.ranges);
    if (offers_unreadable(s, &marks, &s->unreadable, e) < 0)
        return -1;
    go.request = c->request;
    s->copy = c;
    c = NULL;
    return wire_send_message(s->conn, WIRE_COPY_GO, &go, e);
}

int copy_in_commit(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_simple commit;

    if (wire_json_decode(WIRE_COPY_COMMIT, f->payload, f->size, &commit, sizeof commit, e) < 0)
        return -1;
    if (!s->copy || s->barrier || commit.request != s->copy->request)
        return err_set(e, ERR_PROTOCOL, "COPY_COMMIT of no point that is on its way");
    return offers_barrier(s, e);
}

static void fill(const struct session *s, struct vault_copied *out)
{
    const struct wire_copy_point *c = s->copy;

    memcpy(out->id, c->point, sizeof out->id);
    memcpy(out->base, c->base, sizeof out->base);
    memcpy(out->server, s->p->server, sizeof out->server);
    snprintf(out->consistency, sizeof out->consistency, "%s", wire_consistency_name(c->consistency));
    out->at_us = c->at_us;
    out->freeze_ms = c->freeze_ms;
    out->unreadable = s->unreadable;
    memcpy(out->group.id, c->group, sizeof out->group.id);
    memcpy(out->group.name, c->group_name, sizeof out->group.name);
    out->group.at_us = c->group_at_us;
    out->group.window_us = c->group_window_us;
    for (; out->group.count < (size_t)c->member_count; out->group.count++) {
        struct vault_group_point *member = &out->group.points[out->group.count];

        memcpy(member->id, c->members[out->group.count].point, sizeof member->id);
        memcpy(member->server, c->members[out->group.count].server, sizeof member->server);
    }
}

static void note(struct session *s, const struct vault_point *made)
{
    struct peer *p = s->p;

    pthread_mutex_lock(&p->lock);
    memcpy(p->newest, made->id, sizeof p->newest);
    p->newest_at_us = made->at_us;
    p->newest_unreadable = made->unreadable;
    p->gone = false;
    err_clear(&p->point_trouble);
    pthread_mutex_unlock(&p->lock);
}

int copy_in_committed(struct session *s, struct err *e)
{
    CLEANUP(free_ptr) struct vault_copied *c = xcalloc(1, sizeof *c);
    CLEANUP(free_ptr) struct vault_point *made = xcalloc(1, sizeof *made);
    struct wire_point_done done = {.request = s->copy->request};
    struct err why = {0};
    int result;

    fill(s, c);
    result = vault_point_commit_copied(s->r->vault, c, made, &why);
    free(s->copy);
    s->copy = NULL;
    s->hello.disk_count = 0; /* no offer fits until the next point begins */
    if (result < 0)
        return fail(s, done.request, &why, e);
    note(s, made);
    memcpy(done.point, made->id, sizeof made->id);
    return wire_send_message(s->conn, WIRE_POINT_DONE, &done, e);
}

/* ---- pins, and the end ---- */

static bool is_said(const struct wire_copy_pins *said, const char *point, const char *reason)
{
    for (int64_t i = 0; i < said->pin_count; i++)
        if (strcmp(said->pins[i].point, point) == 0 && strcmp(said->pins[i].reason, reason) == 0)
            return true;
    return false;
}

/* All of the copier's pins of this server's points. visit's reason is without what we put before it. */
static int each_pin(struct session *s, int visit(struct session *s, const char *point, const char *reason, void *user, struct err *e), void *user, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *points = NULL;
    int count = vault_point_list(s->r->vault, s->p->server, 0, &points, e);

    for (int i = 0; i < count; i++) {
        CLEANUP(free_ptr) char(*reasons)[VAULT_PIN_REASON_SIZE] = NULL;
        int reason_count = vault_point_pins(s->r->vault, points[i].id, &reasons, e);

        if (reason_count < 0)
            return -1;
        for (int k = 0; k < reason_count; k++)
            if (strncmp(reasons[k], COPIED_PREFIX, strlen(COPIED_PREFIX)) == 0 && visit(s, points[i].id, reasons[k] + strlen(COPIED_PREFIX), user, e) < 0)
                return -1;
    }
    return count < 0 ? -1 : 0;
}

static void copied_reason(const char *reason, char out[static VAULT_PIN_REASON_SIZE])
{
    snprintf(out, VAULT_PIN_REASON_SIZE, COPIED_PREFIX "%.*s", (int)(VAULT_PIN_REASON_SIZE - sizeof COPIED_PREFIX), reason);
}

static int unpin(struct session *s, const char *point, const char *reason, void *user, struct err *e)
{
    char ours[VAULT_PIN_REASON_SIZE];

    (void)user;
    copied_reason(reason, ours);
    return vault_point_unpin(s->r->vault, point, ours, e);
}

static int unpin_ended(struct session *s, const struct wire_copy_pins *said, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

    for (int64_t i = 0; i < said->ended_count; i++) {
        int found = vault_point_get(s->r->vault, said->ended[i].point, p, e);

        if (found < 0 || (found && strcmp(p->server, s->p->server) == 0 && unpin(s, p->id, said->ended[i].reason, NULL, e) < 0))
            return -1;
    }
    return 0;
}

struct unsaid {
    const struct wire_copy_pins *said;
    struct wire_copy_pinned *answer;
};

static int collect_unsaid(struct session *s, const char *point, const char *reason, void *user, struct err *e)
{
    struct unsaid *u = user;
    struct wire_pin *next = &u->answer->unsaid[u->answer->unsaid_count];

    (void)s;
    (void)e;
    if (is_said(u->said, point, reason) || u->answer->unsaid_count == WIRE_PINS_MOST)
        return 0;
    snprintf(next->point, sizeof next->point, "%s", point);
    snprintf(next->reason, sizeof next->reason, "%s", reason);
    u->answer->unsaid_count++;
    return 0;
}

static int pin_all(struct session *s, const struct wire_copy_pins *said, int64_t *missing, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

    for (int64_t i = 0; i < said->pin_count; i++) {
        char reason[VAULT_PIN_REASON_SIZE];
        int found = vault_point_get(s->r->vault, said->pins[i].point, p, e);

        if (found < 0)
            return -1;
        if (!found || strcmp(p->server, s->p->server) != 0) {
            ++*missing;
            continue;
        }
        copied_reason(said->pins[i].reason, reason);
        if (vault_point_pin(s->r->vault, p->id, reason, e) < 0)
            return -1;
    }
    return 0;
}

int copy_in_pins(struct session *s, const struct wire_frame *f, struct err *e)
{
    CLEANUP(free_ptr) struct wire_copy_pins *said = xcalloc(1, sizeof *said);
    CLEANUP(free_ptr) struct wire_copy_pinned *answer = xcalloc(1, sizeof *answer);
    struct unsaid unsaid = {said, answer};
    struct err why = {0};

    if (wire_json_decode(WIRE_COPY_PINS, f->payload, f->size, said, sizeof *said, e) < 0)
        return -1;
    answer->request = said->request;
    if (unpin_ended(s, said, &why) < 0 || pin_all(s, said, &answer->value, &why) < 0 || each_pin(s, collect_unsaid, &unsaid, &why) < 0)
        return fail(s, said->request, &why, e);
    return wire_send_message(s->conn, WIRE_COPY_PINNED, answer, e);
}

int copy_in_drop(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_simple q;
    struct err why = {0};

    if (wire_json_decode(WIRE_COPY_DROP, f->payload, f->size, &q, sizeof q, e) < 0 || settle(s, e) < 0)
        return -1;
    if (copies_may(s->r, wire_conn_peer(s->conn) + strlen("replicator:"), s->p->server, &why) < 0 || each_pin(s, unpin, NULL, &why) < 0 ||
        vault_server_drop(s->r->vault, s->p->server, &why) < 0)
        return fail(s, q.request, &why, e);
    free(s->copy);
    s->copy = NULL;
    s->hello.disk_count = 0;
    peer_forget(s->p);
    log_info("%s: its points are dropped, with those at %s", s->p->server, wire_conn_peer(s->conn));
    return wire_send_message(s->conn, WIRE_COPY_DROPPED, &q, e);
}
