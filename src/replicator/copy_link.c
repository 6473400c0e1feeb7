/* copy_link: a copier's connection to the second replicator: dialled as an agent dials, and heard. And what is told of how it goes. */
#include "base/log.h"
#include "replicator/copy.h"

#include <stdlib.h>
#include <string.h>

#define DIAL_TIMEOUT_MS 10000
#define GREET_TIMEOUT_MS 15000
#define WRITE_TIMEOUT_MS 30000
#define SILENCE_US (60 * US_PER_S)
#define REST_PIECE_US (200 * US_PER_MS)

bool copier_goes_on(struct copier *c)
{
    bool same;

    pthread_mutex_lock(&c->p->lock);
    same = c->dropping || (!c->p->copy_held && place_same(&c->p->copy_to, &c->to));
    pthread_mutex_unlock(&c->p->lock);
    return same && !atomic_load(&c->r->stopping);
}

void copier_rest(struct copier *c, int64_t duration_us)
{
    int64_t until_us = clock_monotonic_us() + duration_us, left_us;

    while ((left_us = until_us - clock_monotonic_us()) > 0 && copier_goes_on(c))
        clock_sleep_us(left_us < REST_PIECE_US ? left_us : REST_PIECE_US);
}

/* ---- what is told ---- */

void copier_trouble_over(struct copier *c)
{
    pthread_mutex_lock(&c->p->lock);
    err_clear(&c->p->copied.trouble);
    pthread_mutex_unlock(&c->p->lock);
}

void copier_note_trouble(struct copier *c, const struct err *why)
{
    struct copied *told = &c->p->copied;
    bool is_new;

    pthread_mutex_lock(&c->p->lock);
    is_new = told->trouble.kind != why->kind;
    if (!told->trouble.kind)
        told->trouble_us = clock_now_us();
    told->trouble = *why;
    pthread_mutex_unlock(&c->p->lock);
    if (is_new)
        log_err(why, "%s: its second copy at %s waits", c->p->server, c->to.replicator);
}

void copier_note_way(struct copier *c, const struct copy_plan *plan, uint64_t total_chunks, uint64_t done_chunks)
{
    struct copied *told = &c->p->copied;

    pthread_mutex_lock(&c->p->lock);
    snprintf(told->under_way, sizeof told->under_way, "%s", plan ? plan->point.id : "");
    told->whole = plan && !plan->has_base;
    told->bytes_total = (int64_t)total_chunks * WIRE_CHUNK_SIZE;
    told->bytes_done = (int64_t)done_chunks * WIRE_CHUNK_SIZE;
    pthread_mutex_unlock(&c->p->lock);
}

void copier_note_done(struct copier *c, const struct copy_plan *plan)
{
    memcpy(c->there.point, plan->point.id, sizeof plan->point.id);
    memcpy(c->there.epoch, plan->epoch, sizeof plan->epoch);
    c->there.exact = true;
    c->whole = false;
    c->avoid[0] = '\0';
    pthread_mutex_lock(&c->p->lock);
    memcpy(c->p->copied.point, plan->point.id, sizeof plan->point.id);
    c->p->copied.at_us = plan->point.at_us;
    err_clear(&c->p->copied.trouble);
    pthread_mutex_unlock(&c->p->lock);
    copier_note_way(c, NULL, 0, 0);
}

/* ---- hearing ---- */

static int hear_failure(const struct copier *c, const struct wire_frame *f, struct err *e)
{
    struct wire_failure why;

    if (wire_json_decode(f->type, f->payload, f->size, &why, sizeof why, e) < 0)
        return -1;
    return err_set(e, wire_failure_kind(&why), "the replicator %s: %s", c->to.replicator, why.message);
}

static int hear_ping(struct copier *c, const struct wire_frame *f, struct err *e)
{
    struct wire_simple ping;

    return wire_json_decode(WIRE_PING, f->payload, f->size, &ping, sizeof ping, e) < 0 ? -1 : wire_send_message(c->conn, WIRE_PONG, &ping, e);
}

static int hear_waits(struct copier *c, const struct wire_frame *f, struct err *e)
{
    struct err why = {0};

    (void)hear_failure(c, f, &why);
    if (why.kind == ERR_PROTOCOL)
        return err_set(e, why.kind, "%s", why.message);
    copier_note_trouble(c, &why);
    return 0;
}

/* 1: a frame that means something; 0: none within the time; -1: it ends, by what the other end says, too. */
int copier_hear(struct copier *c, struct wire_frame *f, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;

    for (;;) {
        int64_t left_us = until_us - clock_monotonic_us();
        int left_ms = left_us > 0 ? (int)(left_us / US_PER_MS) + 1 : 0, got;
        bool closed = false;

        if (!copier_goes_on(c))
            return err_set(e, ERR_CANCELLED, "the copy ends");
        got = wire_recv(c->conn, f, left_ms < COPIER_LOOK_MS ? left_ms : COPIER_LOOK_MS, &closed, e);
        if (got < 0)
            return -1;
        if (closed)
            return err_set(e, ERR_UNREACHABLE, "the replicator %s closed the connection", c->to.replicator);
        if (got == 0 && clock_monotonic_us() - c->heard_us > SILENCE_US)
            return err_set(e, ERR_TIMEOUT, "the replicator %s has been silent for a minute", c->to.replicator);
        if (got == 0 && left_ms == 0)
            return 0;
        if (got == 0)
            continue;
        c->heard_us = clock_monotonic_us();
        switch (f->type) {
        case WIRE_PING:
            if (hear_ping(c, f, e) < 0)
                return -1;
            break;
        case WIRE_PONG: break;
        case WIRE_COPY_WAITS:
            if (hear_waits(c, f, e) < 0)
                return -1;
            break;
        case WIRE_BYE:
        case WIRE_REFUSE: return hear_failure(c, f, e);
        default: return 1;
        }
    }
}

/* The answer to a request, of that type; POINT_FAILED is its failure. request and value (may be NULL) are of struct wire_simple. */
static int hear_one_of(struct copier *c, unsigned type, unsigned or_type, struct wire_frame *f, struct err *e)
{
    int got;

    while ((got = copier_hear(c, f, GREET_TIMEOUT_MS, e)) == 0)
        ; /* silence ends it */
    if (got < 0)
        return -1;
    if (f->type == WIRE_POINT_FAILED)
        return hear_failure(c, f, e);
    return f->type == type || f->type == or_type ? 0 : err_set(e, ERR_PROTOCOL, "%s where %s was expected", wire_type_name(f->type), wire_type_name(type));
}

int copier_hear_pinned(struct copier *c, struct wire_copy_pinned *out, struct err *e)
{
    struct wire_frame f;

    if (hear_one_of(c, WIRE_COPY_PINNED, 0, &f, e) < 0 || wire_json_decode(f.type, f.payload, f.size, out, sizeof *out, e) < 0)
        return -1;
    return out->request == c->request ? 0 : err_set(e, ERR_PROTOCOL, "COPY_PINNED of another request");
}

int copier_hear_answer(struct copier *c, unsigned type, unsigned or_type, unsigned *got_type, int64_t *value, struct err *e)
{
    struct wire_frame f;

    if (hear_one_of(c, type, or_type, &f, e) < 0)
        return -1;
    if (got_type)
        *got_type = f.type;
    if (f.type == WIRE_POINT_DONE) {
        struct wire_point_done done;

        return wire_json_decode(f.type, f.payload, f.size, &done, sizeof done, e) < 0 ? -1
               : done.request == c->request ? 0 : err_set(e, ERR_PROTOCOL, "POINT_DONE of another point");
    } else {
        struct wire_simple said;

        if (wire_json_decode(f.type, f.payload, f.size, &said, sizeof said, e) < 0)
            return -1;
        if (said.request != c->request)
            return err_set(e, ERR_PROTOCOL, "%s of another request", wire_type_name(f.type));
        if (value)
            *value = said.value;
        return 0;
    }
}

/* ---- the connection ---- */

static int greet(struct copier *c, struct err *e)
{
    struct wire_copy q = {.version = WIRE_COPY_VERSION};
    struct wire_frame f;
    int got;

    snprintf(q.replicator, sizeof q.replicator, "%s", c->r->options.name);
    memcpy(q.server, c->p->server, sizeof q.server);
    if (wire_send_message(c->conn, WIRE_COPY, &q, e) < 0 || (got = copier_hear(c, &f, GREET_TIMEOUT_MS, e)) < 0)
        return -1;
    if (got == 0)
        return err_set(e, ERR_TIMEOUT, "the replicator %s does not answer COPY", c->to.replicator);
    if (f.type != WIRE_COPYING)
        return err_set(e, ERR_PROTOCOL, "%s where COPYING was expected", wire_type_name(f.type));
    return wire_json_decode(WIRE_COPYING, f.payload, f.size, &c->there, sizeof c->there, e);
}

int copier_dial(struct copier *c, struct err *e)
{
    CLEANUP(tls_close) struct tls_stream *stream = NULL;
    CLEANUP(free_ptr) char *wanted = xasprintf("replicator:%s", c->to.replicator);
    int fd = tls_dial(c->to.address, (int)c->to.port, DIAL_TIMEOUT_MS, e);

    if (fd < 0 || tls_open(c->r->dialling, fd, "replicator:", GREET_TIMEOUT_MS, &stream, e) < 0)
        return err_wrap(e, "the replicator %s at %s port %lld", c->to.replicator, c->to.address, (long long)c->to.port);
    if (strcmp(tls_peer_name(stream), wanted) != 0)
        return err_set(e, ERR_DENIED, "%s port %lld is %s, not %s", c->to.address, (long long)c->to.port, tls_peer_name(stream), wanted);
    c->conn = wire_conn_new(&stream, WRITE_TIMEOUT_MS);
    pthread_mutex_lock(&c->p->lock);
    c->p->copy_conn = c->conn;
    pthread_mutex_unlock(&c->p->lock);
    c->heard_us = clock_monotonic_us();
    return revoked_check(c->r, c->conn, e) < 0 ? -1 : greet(c, e);
}

void copier_hang_up(struct copier *c)
{
    sender_release(&c->sender);
    pthread_mutex_lock(&c->p->lock);
    c->p->copy_conn = NULL;
    pthread_mutex_unlock(&c->p->lock);
    wire_conn_free(&c->conn);
    json_free(&c->pins_told);
    c->pins_told = NULL;
    c->pins_due_us = 0;
    copier_note_way(c, NULL, 0, 0);
}
