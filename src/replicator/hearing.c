/* hearing: what comes over a connection after its first frame, by type: from an agent, or from another replicator that copies. */
#include "replicator/compared.h"
#include "replicator/session.h"

#include <stdlib.h>

static int hear_status(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_status status;

    if (wire_json_decode(WIRE_STATUS, f->payload, f->size, &status, sizeof status, e) < 0)
        return -1;
    pthread_mutex_lock(&s->p->lock);
    s->p->status = status;
    s->p->has_status = true;
    pthread_mutex_unlock(&s->p->lock);
    return 0;
}

static int hear_failure(struct session *s, const struct wire_frame *f, struct err *e)
{
    enum slot_kind kind = f->type == WIRE_POINT_FAILED ? SLOT_POINT : SLOT_HASH;
    struct wire_failure failure;
    struct slot *slot;

    if (wire_json_decode(f->type, f->payload, f->size, &failure, sizeof failure, e) < 0)
        return -1;
    pthread_mutex_lock(&s->p->lock);
    if (kind == SLOT_POINT)
        (void)point_ask_answered(s->p, failure.request);
    slot = slot_answered(s->p, kind, failure.request);
    if (slot) {
        err_set(&slot->e, wire_failure_kind(&failure), "the agent of %s: %s", s->p->server, failure.message);
        if (kind == SLOT_POINT)
            s->p->point_trouble = slot->e;
        slot_finish(s->p, slot);
    }
    pthread_mutex_unlock(&s->p->lock);
    return 0;
}

/* A point of a group has come to a step. */
static int hear_at(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_simple at, give_up = {.value = WIRE_GIVE_UP};
    struct slot *slot;

    if (wire_json_decode(WIRE_POINT_AT, f->payload, f->size, &at, sizeof at, e) < 0)
        return -1;
    if (at.value != WIRE_READY && at.value != WIRE_STILL)
        return err_set(e, ERR_PROTOCOL, "POINT_AT with step %lld", (long long)at.value);
    pthread_mutex_lock(&s->p->lock);
    slot = slot_answered(s->p, SLOT_POINT, at.request);
    if (slot && slot->in_step) {
        slot->step = at.value;
        slot->step_us = clock_monotonic_us();
    }
    pthread_mutex_unlock(&s->p->lock);
    group_stir(s->r);
    if (slot)
        return 0;
    give_up.request = at.request; /* nobody waits for it any more */
    return wire_send_message(s->conn, WIRE_POINT_GO, &give_up, e);
}

static int hear_thawed(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_thawed thawed;
    struct slot *slot;

    if (wire_json_decode(WIRE_THAWED, f->payload, f->size, &thawed, sizeof thawed, e) < 0)
        return -1;
    pthread_mutex_lock(&s->p->lock);
    slot = slot_answered(s->p, SLOT_THAW, thawed.request);
    if (slot) {
        slot->thawed = thawed;
        slot_finish(s->p, slot);
    }
    pthread_mutex_unlock(&s->p->lock);
    return 0;
}

static int hear_hashes(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_hashes h;
    struct slot *slot;

    if (wire_hashes_decode(f->payload, f->size, &h, e) < 0)
        return -1;
    if (h.disk >= s->hello.disk_count || (uint64_t)h.first_chunk + h.count > s->disks[h.disk].chunk_count)
        return err_set(e, ERR_PROTOCOL, "HASHES for chunks that are none");
    pthread_mutex_lock(&s->p->lock);
    slot = slot_answered(s->p, SLOT_HASH, h.request);
    if (slot)
        slot->bytes_done += (int64_t)h.count * WIRE_CHUNK_SIZE;
    if (slot && slot->hash_fd[h.disk] >= 0 && compared_put(slot->hash_fd[h.disk], h.first_chunk, h.count, h.hashes, &slot->e) < 0)
        slot_finish(s->p, slot);
    pthread_mutex_unlock(&s->p->lock);
    return 0;
}

static int hear_hash_done(struct session *s, const struct wire_frame *f, struct err *e)
{
    CLEANUP(free_ptr) struct wire_hash_done *done = xcalloc(1, sizeof *done);
    struct slot *slot;

    if (wire_json_decode(WIRE_HASH_DONE, f->payload, f->size, done, sizeof *done, e) < 0)
        return -1;
    pthread_mutex_lock(&s->p->lock);
    slot = slot_answered(s->p, SLOT_HASH, done->request);
    if (slot) {
        slot->hashed = done;
        done = NULL;
        slot_finish(s->p, slot);
    }
    pthread_mutex_unlock(&s->p->lock);
    return 0;
}

static int hear_move_failed(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_failure why;

    return wire_json_decode(WIRE_MOVE_FAILED, f->payload, f->size, &why, sizeof why, e) < 0 ? -1 : moves_refused(s->p, &why);
}

static int hear_ping(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_simple ping;

    return wire_json_decode(WIRE_PING, f->payload, f->size, &ping, sizeof ping, e) < 0
               ? -1 : wire_send_message(s->conn, WIRE_PONG, &ping, e);
}

static int hear_end(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_failure why;

    if (wire_json_decode(f->type, f->payload, f->size, &why, sizeof why, e) < 0)
        return -1;
    pthread_mutex_lock(&s->p->lock);
    s->p->has_left = !s->copies && f->type == WIRE_BYE;
    s->p->stopped = !s->copies && f->type == WIRE_BYE && err_kind_named(why.kind) == ERR_CANCELLED;
    pthread_mutex_unlock(&s->p->lock);
    return err_set(e, ERR_UNREACHABLE, "%s ended the connection: %s", wire_conn_peer(s->conn), why.message);
}

static int hear_nothing(struct session *s, const struct wire_frame *f, struct err *e)
{
    (void)s;
    (void)f;
    (void)e;
    return 0;
}

enum { AGENT = 1, COPIER = 2 };
static const struct {
    unsigned type, from;
    int (*hear)(struct session *s, const struct wire_frame *f, struct err *e);
} hearers[] = {
    {WIRE_OFFER, AGENT | COPIER, offers_take},
    {WIRE_DATA, AGENT | COPIER, offers_data},
    {WIRE_POINT_BEGIN, AGENT, hear_nothing},
    {WIRE_POINT_AT, AGENT, hear_at},
    {WIRE_POINT_COMMIT, AGENT, offers_point},
    {WIRE_POINT_FAILED, AGENT, hear_failure},
    {WIRE_THAWED, AGENT, hear_thawed},
    {WIRE_HASHES, AGENT, hear_hashes},
    {WIRE_HASH_DONE, AGENT, hear_hash_done},
    {WIRE_HASH_FAILED, AGENT, hear_failure},
    {WIRE_STATUS, AGENT, hear_status},
    {WIRE_MOVE_FAILED, AGENT, hear_move_failed},
    {WIRE_COPY_POINT, COPIER, copy_in_point},
    {WIRE_COPY_COMMIT, COPIER, copy_in_commit},
    {WIRE_COPY_PINS, COPIER, copy_in_pins},
    {WIRE_COPY_DROP, COPIER, copy_in_drop},
    {WIRE_PING, AGENT | COPIER, hear_ping},
    {WIRE_PONG, AGENT | COPIER, hear_nothing},
    {WIRE_BYE, AGENT | COPIER, hear_end},
    {WIRE_REFUSE, AGENT | COPIER, hear_end},
};

int session_hear(struct session *s, const struct wire_frame *f, struct err *e)
{
    for (size_t i = 0; i < ARRAY_COUNT(hearers); i++)
        if (hearers[i].type == f->type && hearers[i].from & (s->copies ? COPIER : AGENT))
            return hearers[i].hear(s, f, e);
    return err_set(e, ERR_PROTOCOL, "%s is not for a replicator%s", wire_type_name(f->type), s->copies ? " that keeps a second copy" : "");
}
