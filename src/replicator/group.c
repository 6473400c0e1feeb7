/* group: points of several servers that stand for one instant (docs/replication.md, "Groups"). No clock is trusted for that: every agent says
 * that it stands still; once all have said so they are told to commit; and each commits only if nothing was written on it from before it said
 * so until after it was told. So at any moment between the last word and the first order all of them stood still. */
#include "replicator/private.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BEAT_US (300 * US_PER_MS)
#define PAUSE_FIRST_US (10 * US_PER_MS)
#define PAUSE_MOST_US (500 * US_PER_MS)
#define GIVE_UP_WAIT_US (10 * US_PER_S) /* an agent that does not answer then is asked again, and queues it */

struct group {
    struct replicator *r;
    struct talk *t;
    const struct group_wanted *wanted;
    struct peer *peers[VAULT_GROUP_MOST];
    size_t count, asked_count; /* asked: their slots are ours */
    struct vault_group *made;
    int64_t consistency, deadline_us, attempts;
};

void group_stir(struct replicator *r)
{
    pthread_mutex_lock(&r->stir_lock);
    r->stirs++;
    pthread_cond_broadcast(&r->stirred);
    pthread_mutex_unlock(&r->stir_lock);
}

static uint64_t stirs_now(struct replicator *r)
{
    uint64_t now;

    pthread_mutex_lock(&r->stir_lock);
    now = r->stirs;
    pthread_mutex_unlock(&r->stir_lock);
    return now;
}

/* Until something has changed since `seen`, or until then. */
static void await_stir(struct replicator *r, uint64_t seen, int64_t until_us)
{
    struct timespec t = {.tv_sec = until_us / US_PER_S, .tv_nsec = until_us % US_PER_S * 1000};

    pthread_mutex_lock(&r->stir_lock);
    while (r->stirs == seen && pthread_cond_timedwait(&r->stirred, &r->stir_lock, &t) == 0)
        ;
    pthread_mutex_unlock(&r->stir_lock);
}

/* ---- where the members are ---- */

/* 1: come to the step (WIRE_COMMIT: its point is staged); 0: not yet; -1: it has failed. */
static int look_at(struct peer *p, int64_t step, struct err *e)
{
    const struct slot *s = &p->slots[SLOT_POINT];
    int result;

    pthread_mutex_lock(&p->lock);
    if (s->done && s->e.kind)
        result = err_set(e, s->e.kind, "%s", s->e.message);
    else
        result = step == WIRE_COMMIT ? s->done : s->step >= step;
    pthread_mutex_unlock(&p->lock);
    return result;
}

static int await_all(struct group *g, int64_t step, struct err *e)
{
    for (;;) {
        uint64_t seen = stirs_now(g->r);
        int64_t now_us = clock_monotonic_us();
        const struct peer *late = NULL;

        for (size_t i = 0; i < g->count; i++) {
            int result = look_at(g->peers[i], step, e);

            if (result < 0)
                return -1;
            late = result == 0 ? g->peers[i] : late;
        }
        if (!late)
            return 0;
        if (now_us >= g->deadline_us)
            return err_set(e, ERR_TIMEOUT, "the agent of %s has not answered in time", late->server);
        await_stir(g->r, seen, now_us + BEAT_US < g->deadline_us ? now_us + BEAT_US : g->deadline_us);
        if (atomic_load(&g->r->stopping) || (g->t && talk_progress(g->t, 0, 0, "")))
            return err_set(e, ERR_CANCELLED, "whoever asked went away");
    }
}

static int tell(struct group *g, size_t i, int64_t step, struct err *e)
{
    struct peer *p = g->peers[i];
    struct wire_simple go = {.value = step};

    pthread_mutex_lock(&p->lock);
    go.request = p->slots[SLOT_POINT].request;
    pthread_mutex_unlock(&p->lock);
    return peer_send(p, WIRE_POINT_GO, &go, sizeof go, e);
}

static int tell_all(struct group *g, int64_t step, struct err *e)
{
    for (size_t i = 0; i < g->count; i++)
        if (tell(g, i, step, e) < 0)
            return -1;
    return 0;
}

/* ---- one attempt ---- */

/* In the order of their names, whoever gave them: two groups that share servers don't wait for each other. */
static int ask_all(struct group *g, struct err *e)
{
    while (g->asked_count < g->count) {
        struct wire_take_point take = {.consistency = g->consistency, .group = true, .freeze_budget_ms = g->wanted->freeze_budget_ms};
        struct ask a = {SLOT_POINT, WIRE_TAKE_POINT, &take, sizeof take, &take.request, NULL, .in_step = true};
        int64_t left_ms = (g->deadline_us - clock_monotonic_us()) / US_PER_MS;

        take.timeout_ms = left_ms > 1 ? left_ms : 1;
        if (slot_ask(g->peers[g->asked_count], &a, g->deadline_us, e) < 0)
            return -1;
        g->asked_count++;
    }
    return 0;
}

/* All stand still. From here on what they commit is taken; and they are told to. */
static int release(struct group *g, struct err *e)
{
    int64_t last_us = 0, now_us;
    int result;

    vault_group_begin(g->r->vault, g->wanted->name, clock_now_us(), g->made);
    for (size_t i = 0; i < g->count; i++) {
        struct slot *s = &g->peers[i]->slots[SLOT_POINT];

        pthread_mutex_lock(&g->peers[i]->lock);
        last_us = s->step_us > last_us ? s->step_us : last_us;
        s->group = g->made;
        pthread_mutex_unlock(&g->peers[i]->lock);
    }
    result = await_all(g, WIRE_STILL, e); /* again: none has failed meanwhile */
    now_us = clock_monotonic_us();
    g->made->window_us = now_us - last_us;
    return result < 0 ? -1 : tell_all(g, WIRE_COMMIT, e);
}

static int reveal(struct group *g, struct err *e)
{
    for (size_t i = 0; i < g->count; i++) {
        pthread_mutex_lock(&g->peers[i]->lock);
        memcpy(g->made->points[i].id, g->peers[i]->slots[SLOT_POINT].point, VAULT_POINT_ID_SIZE);
        pthread_mutex_unlock(&g->peers[i]->lock);
    }
    g->made->count = g->count;
    if (vault_group_commit(g->r->vault, g->made, e) < 0)
        return -1;
    for (size_t i = 0; i < g->count; i++) {
        struct peer *p = g->peers[i];
        struct wire_point_done done = {0};

        pthread_mutex_lock(&p->lock);
        memcpy(p->newest, g->made->points[i].id, VAULT_POINT_ID_SIZE);
        p->newest_at_us = g->made->at_us;
        p->newest_unreadable = p->slots[SLOT_POINT].unreadable;
        p->pointed = true;
        p->pointed_us = clock_now_us();
        err_clear(&p->point_trouble);
        done.request = p->slots[SLOT_POINT].request;
        memcpy(done.point, p->newest, VAULT_POINT_ID_SIZE);
        pthread_mutex_unlock(&p->lock);
        (void)peer_send(p, WIRE_POINT_DONE, &done, sizeof done, NULL);
    }
    return 0;
}

/* Nothing of this attempt stays. What an agent sends later finds nobody who asked. */
static void give_up(struct group *g)
{
    int64_t until_us = clock_monotonic_us() + GIVE_UP_WAIT_US;

    for (size_t i = 0; i < g->asked_count; i++)
        (void)tell(g, i, WIRE_GIVE_UP, NULL);
    for (size_t i = 0; i < g->asked_count; i++) {
        uint64_t seen = stirs_now(g->r);

        while (look_at(g->peers[i], WIRE_COMMIT, NULL) == 0 && clock_monotonic_us() < until_us) {
            await_stir(g->r, seen, clock_monotonic_us() + BEAT_US);
            seen = stirs_now(g->r);
        }
    }
}

/* why: the attempt failed; then whoever had committed is told that it came to nothing. */
static void leave_all(struct group *g, const struct err *why)
{
    for (size_t i = 0; i < g->asked_count; i++) {
        struct wire_failure failure = {0};
        struct slot *s = &g->peers[i]->slots[SLOT_POINT];
        char point[VAULT_POINT_ID_SIZE];

        /* In one: a point that is staged later finds no slot, and its session unstages it. */
        pthread_mutex_lock(&g->peers[i]->lock);
        memcpy(point, s->point, sizeof point);
        failure.request = s->request;
        *s = (struct slot){0};
        pthread_cond_broadcast(&g->peers[i]->changed);
        pthread_mutex_unlock(&g->peers[i]->lock);
        if (!why || !point[0])
            continue;
        vault_point_unstage(g->r->vault, point);
        snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(why->kind)->name);
        snprintf(failure.message, sizeof failure.message, "%.500s", why->message);
        (void)peer_send(g->peers[i], WIRE_POINT_FAILED, &failure, sizeof failure, NULL);
    }
    g->asked_count = 0;
}

static int attempt(struct group *g, struct err *e)
{
    int result = ask_all(g, e) < 0 || await_all(g, WIRE_READY, e) < 0 || tell_all(g, WIRE_STILL, e) < 0 || await_all(g, WIRE_STILL, e) < 0 ||
                         release(g, e) < 0 || await_all(g, WIRE_COMMIT, e) < 0 || reveal(g, e) < 0
                     ? -1 : 0;

    g->attempts++;
    if (result < 0)
        give_up(g);
    leave_all(g, result < 0 ? e : NULL);
    return result;
}

/* ---- until one comes about ---- */

static int by_name(const void *a, const void *b) { return strcmp((*(struct peer *const *)a)->server, (*(struct peer *const *)b)->server); }

static int rest(struct group *g, int64_t pause_us, struct err *e)
{
    if (clock_monotonic_us() + pause_us >= g->deadline_us)
        return -1;
    clock_sleep_us(pause_us);
    return atomic_load(&g->r->stopping) || (g->t && talk_progress(g->t, 0, 0, "")) ? err_set(e, ERR_CANCELLED, "whoever asked went away") : 0;
}

/* What a group has learned of moments at which none of its servers writes is kept with the first of them. */
static int64_t hope_now_us(struct group *g)
{
    int64_t us, most_ms = g->wanted->timeout_ms / 2;

    if (g->wanted->hope_ms && g->wanted->hope_ms < most_ms)
        most_ms = g->wanted->hope_ms;
    pthread_mutex_lock(&g->peers[0]->lock);
    us = hope_us(&g->peers[0]->group_hope, most_ms * US_PER_MS);
    pthread_mutex_unlock(&g->peers[0]->lock);
    return us;
}

static void learn_hope(struct group *g, bool came)
{
    pthread_mutex_lock(&g->peers[0]->lock);
    hope_learn(&g->peers[0]->group_hope, came);
    pthread_mutex_unlock(&g->peers[0]->lock);
}

/* Only what did not fit into its time is tried again: "any" without a freeze first. */
static int try_on(struct group *g, struct err *e)
{
    int64_t pause_us = PAUSE_FIRST_US, freeze_from_us = clock_monotonic_us() + hope_now_us(g);

    for (;;) {
        struct err why = {0};

        if (attempt(g, &why) == 0) {
            if (g->consistency == WIRE_CRASH)
                learn_hope(g, true);
            return 0;
        }
        *e = why;
        if (why.kind != ERR_TIMEOUT)
            return -1;
        if (rest(g, pause_us, e) < 0)
            return e->kind == ERR_TIMEOUT ? err_set(e, ERR_TIMEOUT, "%lld attempt(s) to have all %zu servers stand still at once failed; the last: %.700s",
                                                    (long long)g->attempts, g->count, why.message) : -1;
        pause_us = 2 * pause_us > PAUSE_MOST_US ? PAUSE_MOST_US : 2 * pause_us;
        if (g->wanted->consistency == WIRE_ANY && g->consistency == WIRE_CRASH && clock_monotonic_us() > freeze_from_us) {
            learn_hope(g, false);
            g->consistency = WIRE_FROZEN;
        }
    }
}

static int order_of(const char *consistency)
{
    for (int64_t c = WIRE_CRASH; c <= WIRE_APPLICATION; c++)
        if (strcmp(consistency, wire_consistency_name(c)) == 0)
            return (int)c;
    return WIRE_CRASH;
}

/* The group is what the least of its points is. */
static int describe(const struct group *g, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:[]}", "id", g->made->id, "name", g->made->name, "window_us",
                                             (json_int_t)g->made->window_us, "attempts", (json_int_t)g->attempts, "points");
    int least = WIRE_APPLICATION;

    MUST(j);
    for (size_t i = 0; i < g->count; i++) {
        CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

        if (vault_point_get(g->r->vault, g->made->points[i].id, p, e) != 1)
            return err_set(e, ERR_INTERNAL, "recovery point %s was made and is not there", g->made->points[i].id);
        least = order_of(p->consistency) < least ? order_of(p->consistency) : least;
        json_array_append_new(json_object_get(j, "points"), vault_point_json(p));
    }
    json_set_time(j, "at", g->made->at_us);
    json_object_set_new(j, "consistency", json_string(wire_consistency_name(least)));
    *out = json_incref(j);
    return 0;
}

int group_take(struct replicator *r, struct peer *const *peers, size_t count, const struct group_wanted *w, struct talk *t, json_t **out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_group *made = xcalloc(1, sizeof *made);
    struct group g = {.r = r, .t = t, .wanted = w, .count = count, .made = made, .deadline_us = clock_monotonic_us() + w->timeout_ms * US_PER_MS,
                      .consistency = w->consistency == WIRE_ANY ? WIRE_CRASH : w->consistency};
    int result;

    if (count < 1 || count > VAULT_GROUP_MOST)
        return err_set(e, ERR_INVALID, "a group has 1 to %d servers", VAULT_GROUP_MOST);
    memcpy(g.peers, peers, count * sizeof *peers);
    qsort(g.peers, count, sizeof *g.peers, by_name);
    for (size_t i = 1; i < count; i++)
        if (g.peers[i] == g.peers[i - 1])
            return err_set(e, ERR_INVALID, "server %s is named twice", g.peers[i]->server);
    for (size_t i = 0; t && i < count; i++)
        peer_people(g.peers[i], 1);
    result = try_on(&g, e);
    for (size_t i = 0; t && i < count; i++)
        peer_people(g.peers[i], -1);
    return result < 0 ? -1 : describe(&g, out, e);
}
