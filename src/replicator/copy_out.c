/* copy_out: a server's points go to a second replicator (docs/replication.md, "Second copies"). One thread a server, which dials the other one as an agent
 * does; of all of them only some read and send at a time, at a lower priority than what agents are served with. */
#include "base/log.h"
#include "replicator/copy.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DROP_WAIT_US (60 * US_PER_S)
#define PINS_EVERY_US (3 * US_PER_S)
#define MANAGE_EVERY_US (500 * US_PER_MS)
#define AGAIN_FIRST_US (1 * US_PER_S)
#define AGAIN_MOST_US (30 * US_PER_S)
#define COPY_OFFER_CHUNKS 32u     /* 2 MiB; all that is on its way should find room between the two ends, so that we hear the other end while it waits */
#define COPY_WINDOW 4u
#define DATA_BYTES (512u << 10)
#define TURNS 2                   /* copies that read and send at a time */
#define BUSY_SHARE 0.8            /* of an agent's session's time: then it is us who are waited for, and copies take half of theirs */
#define PACE_MOST_US (15 * US_PER_S) /* for one frame: the other end takes longer silence for an end */

/* ---- turns and pace ---- */

static void take_turn(struct replicator *r)
{
    pthread_mutex_lock(&r->turns_lock);
    while (r->turns >= TURNS)
        pthread_cond_wait(&r->turn_free, &r->turns_lock);
    r->turns++;
    pthread_mutex_unlock(&r->turns_lock);
}

static void leave_turn(struct replicator *r)
{
    pthread_mutex_lock(&r->turns_lock);
    r->turns--;
    pthread_cond_signal(&r->turn_free);
    pthread_mutex_unlock(&r->turns_lock);
}

/* A turn is left while the network or the limit lets us wait. */
static void sends(void *user) { leave_turn(((struct copier *)user)->r); }

static void pace(struct copier *c, size_t bytes)
{
    int64_t now_us = clock_monotonic_us(), rate, wait_us;

    pthread_mutex_lock(&c->p->lock);
    rate = c->p->settings.copy_bytes_per_s;
    pthread_mutex_unlock(&c->p->lock);
    if (!rate)
        return;
    c->free_us = (c->free_us > now_us ? c->free_us : now_us) + (int64_t)((double)bytes * US_PER_S / (double)rate);
    wait_us = c->free_us - now_us;
    if (wait_us > PACE_MOST_US) {
        wait_us = PACE_MOST_US;
        c->free_us = now_us + wait_us;
    }
    copier_rest(c, wait_us);
}

static void sent(void *user, size_t bytes)
{
    struct copier *c = user;

    pace(c, bytes);
    take_turn(c->r);
}

static bool agents_wait(struct replicator *r)
{
    bool busy = false;

    for (struct peer *p = peers_first(r); p && !busy; p = p->next) {
        pthread_mutex_lock(&p->lock);
        busy = p->session && p->busy_share > BUSY_SHARE;
        pthread_mutex_unlock(&p->lock);
    }
    return busy;
}

/* ---- pins ---- */

/* Says what is kept here, and what has ended; hears what it has of us beside that. */
static int say_pins(struct copier *c, struct wire_copy_pins *q, struct wire_copy_pinned *answer, struct err *e)
{
    q->request = ++c->request;
    return wire_send_message(c->conn, WIRE_COPY_PINS, q, e) < 0 || copier_hear_pinned(c, answer, e) < 0 ? err_wrap(e, "pins") : 0;
}

/* A pin there that is none here has ended only where we have its point: else it is of a replicator before us, and whoever kept it there keeps it. */
static int take_ended(struct copier *c, const struct wire_copy_pinned *answer, struct wire_copy_pins *q, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

    for (int64_t i = 0; i < answer->unsaid_count; i++) {
        int found = vault_point_get(c->r->vault, answer->unsaid[i].point, p, e);
        int kept = found == 1 ? copy_plan_kept(c, &answer->unsaid[i], e) : 1;

        if (found < 0 || kept < 0)
            return -1;
        if (!kept)
            q->ended[q->ended_count++] = answer->unsaid[i];
    }
    return 0;
}

static int tell_pins(struct copier *c, struct err *e)
{
    CLEANUP(free_ptr) struct wire_copy_pins *q = xcalloc(1, sizeof *q);
    CLEANUP(free_ptr) struct wire_copy_pinned *answer = xcalloc(1, sizeof *answer);
    CLEANUP(json_free) json_t *pins = NULL;
    int64_t more;
    json_t *pin;
    size_t i;

    if (clock_monotonic_us() < c->pins_due_us)
        return 0;
    c->pins_due_us = clock_monotonic_us() + PINS_EVERY_US;
    if (copy_plan_pins(c, &pins, e) < 0)
        return -1;
    if (c->pins_told && json_equal(pins, c->pins_told))
        return 0;
    json_array_foreach(pins, i, pin)
        if (q->pin_count < WIRE_PINS_MOST) {
            snprintf(q->pins[q->pin_count].point, sizeof q->pins[0].point, "%s", json_get_string(pin, "point", ""));
            snprintf(q->pins[q->pin_count++].reason, sizeof q->pins[0].reason, "%s", json_get_string(pin, "reason", ""));
        }
    more = (int64_t)json_array_size(pins) - q->pin_count;
    if (say_pins(c, q, answer, e) < 0 || take_ended(c, answer, q, e) < 0 || (q->ended_count && say_pins(c, q, answer, e) < 0))
        return -1;
    json_free(&c->pins_told);
    c->pins_told = json_incref(pins);
    pthread_mutex_lock(&c->p->lock);
    c->p->copied.pins_missing = answer->value + more;
    pthread_mutex_unlock(&c->p->lock);
    return 0;
}

/* ---- one point ---- */

static int open_images(struct copier *c, const struct copy_plan *plan, struct err *e)
{
    struct sender *s = &c->sender;

    for (size_t i = 0; i < plan->point.disk_count; i++) {
        const struct vault_point_disk *d = &plan->point.disks[i];

        if (vault_image_open(c->r->vault, plan->point.id, d->id, &s->images[i], e) < 0)
            return -1;
        s->disk_count++;
        for (size_t b = 0; plan->has_base && b < plan->base.disk_count; b++)
            if (strcmp(plan->base.disks[b].id, d->id) == 0 && plan->base.disks[b].size_bytes == d->size_bytes &&
                vault_image_open(c->r->vault, plan->base.id, d->id, &s->bases[i], e) < 0)
                return -1;
    }
    return 0;
}

/* How many chunks are to be offered, all in all. */
static int count_chunks(struct sender *s, uint64_t *total, struct err *e)
{
    for (size_t i = 0; i < s->disk_count; i++) {
        uint32_t chunks[WIRE_OFFER_CHUNKS];
        uint64_t from = 0;
        int count = 0;

        if (!s->bases[i]) {
            *total += (vault_image_size(s->images[i]) + WIRE_CHUNK_SIZE - 1) / WIRE_CHUNK_SIZE;
            continue;
        }
        while ((count = vault_image_differing(s->images[i], s->bases[i], from, chunks, WIRE_OFFER_CHUNKS, e)) > 0) {
            *total += (uint64_t)count;
            from = (uint64_t)chunks[count - 1] + 1;
        }
        if (count < 0)
            return -1;
    }
    return 0;
}

/* One offer, or one answer with all that it asks for. */
static int move_on(struct copier *c, struct err *e)
{
    int64_t begun_us, took_us;
    struct wire_frame f;
    int result = 1;

    if (!sender_may_offer(&c->sender)) {
        int got = copier_hear(c, &f, COPIER_LOOK_MS, e);

        if (got <= 0)
            return got;
        take_turn(c->r);
        begun_us = clock_monotonic_us();
        result = sender_hear(&c->sender, &f, e);
        if (result == 0)
            result = err_set(e, ERR_PROTOCOL, "%s is not for a replicator that copies", wire_type_name(f.type));
    } else {
        take_turn(c->r);
        begun_us = clock_monotonic_us();
        result = copier_goes_on(c) ? sender_offer(&c->sender, e) : err_set(e, ERR_CANCELLED, "the copy ends");
    }
    took_us = clock_monotonic_us() - begun_us;
    leave_turn(c->r);
    if (result >= 0 && took_us > US_PER_MS && agents_wait(c->r))
        copier_rest(c, took_us < US_PER_S ? took_us : US_PER_S);
    return result < 0 ? -1 : 0;
}

static int stream(struct copier *c, const struct copy_plan *plan, uint64_t applied, struct err *e)
{
    struct sender *s = &c->sender;
    uint64_t total = 0, acked;

    if (count_chunks(s, &total, e) < 0 || sender_begin(s, applied, e) < 0)
        return -1;
    copier_note_way(c, plan, total, s->acked_chunks);
    while (!sender_is_done(s)) {
        acked = s->acked;
        if (move_on(c, e) < 0)
            return -1;
        if (s->acked == acked)
            continue;
        copier_note_way(c, plan, total, s->acked_chunks);
        copier_trouble_over(c);
    }
    return 0;
}

static int bring(struct copier *c, const struct copy_plan *plan, struct err *e)
{
    CLEANUP(free_ptr) struct wire_copy_point *q = xcalloc(1, sizeof *q);
    struct wire_simple commit = {0};
    unsigned answer = 0;
    int64_t applied = 0;

    q->request = commit.request = ++c->request;
    copy_plan_describe(c, plan, q);
    if (open_images(c, plan, e) < 0 || wire_send_message(c->conn, WIRE_COPY_POINT, q, e) < 0 ||
        copier_hear_answer(c, WIRE_COPY_GO, WIRE_POINT_DONE, &answer, &applied, e) < 0)
        return -1;
    if (answer == WIRE_POINT_DONE)
        return 0; /* it is there; its answer was lost */
    return stream(c, plan, (uint64_t)applied, e) < 0 || wire_send_message(c->conn, WIRE_COPY_COMMIT, &commit, e) < 0 ||
                   copier_hear_answer(c, WIRE_POINT_DONE, WIRE_POINT_DONE, NULL, NULL, e) < 0
               ? -1 : 0;
}

/* Where what is there is not what was thought, all is offered next; a point that can't be read here is left out. */
static void learn(struct copier *c, const struct copy_plan *plan, const struct err *why)
{
    if (why->kind == ERR_WRONG_STATE) {
        c->salt = c->whole ? c->salt + 1 : (uint64_t)clock_now_us();
        c->whole = true;
    } else if (why->kind == ERR_CORRUPT) {
        memcpy(c->avoid, plan->point.id, sizeof c->avoid);
    }
}

/* One of those that were missing may have come. */
static void pins_again(struct copier *c)
{
    bool missing;

    pthread_mutex_lock(&c->p->lock);
    missing = c->p->copied.pins_missing > 0;
    pthread_mutex_unlock(&c->p->lock);
    if (!missing)
        return;
    json_free(&c->pins_told);
    c->pins_told = NULL;
    c->pins_due_us = 0;
}

static int copy_point(struct copier *c, const struct copy_plan *plan, struct err *e)
{
    int result;

    c->sender = (struct sender){.conn = c->conn, .offer_chunks = COPY_OFFER_CHUNKS, .window_offers = COPY_WINDOW, .data_bytes = DATA_BYTES, .sends = sends, .sent = sent, .user = c};
    copier_note_way(c, plan, 0, 0);
    result = bring(c, plan, e);
    sender_release(&c->sender);
    if (result == 0) {
        copier_note_done(c, plan);
        pins_again(c);
    } else {
        learn(c, plan, e);
    }
    return result < 0 ? err_wrap(e, "copying recovery point %s", plan->point.id) : 0;
}

/* ---- the life of one server's copy ---- */

static int idle(struct copier *c, struct err *e)
{
    struct wire_frame f;
    int got = copier_hear(c, &f, COPIER_LOOK_MS, e);

    copier_trouble_over(c);
    return got > 0 ? err_set(e, ERR_PROTOCOL, "%s where nothing was asked", wire_type_name(f.type)) : got;
}

static int copy_on(struct copier *c, struct err *e)
{
    CLEANUP(free_ptr) struct copy_plan *plan = xcalloc(1, sizeof *plan);

    while (copier_goes_on(c)) {
        int next;

        if (tell_pins(c, e) < 0)
            return -1;
        next = copy_plan_next(c, plan, e);
        if (next < 0 || (next ? copy_point(c, plan, e) : idle(c, e)) < 0)
            return -1;
    }
    return 0;
}

/* 0 where it copied something over this connection: then the next try is soon. */
static int one_connection(struct copier *c, struct err *e)
{
    char before[WIRE_TOKEN_SIZE];
    int64_t sent_bytes = 0;
    bool moved;

    if (copier_dial(c, e) == 0) {
        memcpy(before, c->there.point, sizeof before);
        (void)copy_on(c, e);
        moved = strcmp(before, c->there.point) != 0;
        sent_bytes = wire_conn_sent_bytes(c->conn);
    } else {
        moved = false;
    }
    copier_hang_up(c);
    if (e->kind && e->kind != ERR_CANCELLED)
        copier_note_trouble(c, e);
    return moved || sent_bytes > (int64_t)DATA_BYTES ? 0 : -1;
}

static void *copy_all(void *user)
{
    struct copier *c = user;
    int64_t again_us = AGAIN_FIRST_US;
    bool ended;

    copies_behave();
    log_info("%s: its points are copied to the replicator %s", c->p->server, c->to.replicator);
    while (copier_goes_on(c)) {
        struct err e = {0};
        bool whole = c->whole;

        if (one_connection(c, &e) == 0 || (c->whole && !whole))
            again_us = AGAIN_FIRST_US;
        copier_rest(c, again_us);
        again_us = 2 * again_us > AGAIN_MOST_US ? AGAIN_MOST_US : 2 * again_us;
    }
    pthread_mutex_lock(&c->p->lock);
    ended = !c->p->copy_to.replicator[0] && !atomic_load(&c->r->stopping);
    pthread_mutex_unlock(&c->p->lock);
    if (ended && copy_release(c->r, c->p->server, NULL) < 0)
        log_warn("%s: what was pinned for its second copy stays so", c->p->server);
    pthread_mutex_lock(&c->p->lock);
    c->p->copy_runs = false;
    pthread_cond_broadcast(&c->p->changed);
    pthread_mutex_unlock(&c->p->lock);
    atomic_fetch_sub(&c->r->copiers, 1);
    free(c);
    return NULL;
}

static struct copier *due(struct replicator *r, struct peer *p)
{
    struct copier *c = NULL;

    pthread_mutex_lock(&p->lock);
    if (p->copy_to.replicator[0] && !p->copy_runs && !p->copy_held && !p->gone) {
        c = xcalloc(1, sizeof *c);
        *c = (struct copier){.r = r, .p = p, .to = p->copy_to};
        p->copy_runs = true;
    }
    pthread_mutex_unlock(&p->lock);
    return c;
}

static void start(struct copier *c)
{
    pthread_t thread;

    atomic_fetch_add(&c->r->copiers, 1);
    if (pthread_create(&thread, NULL, copy_all, c) == 0) {
        pthread_detach(thread);
        return;
    }
    log_warn("%s: no thread can be started for its second copy", c->p->server);
    atomic_fetch_sub(&c->r->copiers, 1);
    pthread_mutex_lock(&c->p->lock);
    c->p->copy_runs = false;
    pthread_mutex_unlock(&c->p->lock);
    free(c);
}

/* What was pinned for copies that were ended while we were away. */
static void release_ended(struct replicator *r)
{
    for (struct peer *p = peers_first(r); p; p = p->next) {
        bool ended;

        pthread_mutex_lock(&p->lock);
        ended = !p->copy_to.replicator[0];
        pthread_mutex_unlock(&p->lock);
        if (ended && copy_release(r, p->server, NULL) < 0)
            log_warn("%s: what was pinned for its second copy stays so", p->server);
    }
}

void *care_copies(void *replicator)
{
    struct replicator *r = replicator;

    release_ended(r);
    while (!atomic_load(&r->stopping)) {
        copies_apply(r);
        for (struct peer *p = peers_first(r); p; p = p->next) {
            struct copier *c = due(r, p);

            if (c)
                start(c);
        }
        clock_sleep_us(MANAGE_EVERY_US);
    }
    while (atomic_load(&r->copiers)) { /* they see that we stop, once nothing is sent any more */
        for (struct peer *p = peers_first(r); p; p = p->next) {
            pthread_mutex_lock(&p->lock);
            if (p->copy_conn)
                wire_conn_cut(p->copy_conn);
            pthread_mutex_unlock(&p->lock);
        }
        clock_sleep_us(20 * US_PER_MS);
    }
    return NULL;
}

/* ---- the end of all of it ---- */

static int drop_there(struct copier *c, struct err *e)
{
    struct wire_simple q = {.request = ++c->request};

    return copier_dial(c, e) < 0 || wire_send_message(c->conn, WIRE_COPY_DROP, &q, e) < 0 || copier_hear_answer(c, WIRE_COPY_DROPPED, 0, NULL, NULL, e) < 0 ? -1 : 0;
}

/* The server's copier has ended: then the other end's place is ours. */
static int await_end(struct peer *p, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + DROP_WAIT_US;
    bool runs = true;

    while (runs && clock_monotonic_us() < until_us) {
        pthread_mutex_lock(&p->lock);
        runs = p->copy_runs;
        pthread_mutex_unlock(&p->lock);
        if (runs)
            clock_sleep_us(20 * US_PER_MS);
    }
    return runs ? err_set(e, ERR_TIMEOUT, "the copying of %s to its second replicator does not end", p->server) : 0;
}

int copy_drop(struct peer *p, struct err *e)
{
    CLEANUP(free_ptr) struct copier *c = xcalloc(1, sizeof *c);
    int result;

    pthread_mutex_lock(&p->lock);
    *c = (struct copier){.r = p->r, .p = p, .to = p->copy_to, .dropping = true};
    p->copy_held = c->to.replicator[0] != '\0';
    pthread_mutex_unlock(&p->lock);
    if (!c->to.replicator[0])
        return 0;
    result = await_end(p, e);
    if (result == 0) {
        result = drop_there(c, e);
        copier_hang_up(c);
    }
    return result < 0 ? err_wrap(e, "its second copy at %s is to go first (end it with copy_to none where that replicator is gone for good)", c->to.replicator)
                      : copy_release(p->r, p->server, e);
}

void copy_drop_over(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    p->copy_held = false;
    p->copied = (struct copied){0};
    pthread_mutex_unlock(&p->lock);
}
