/* move: to another replicator while running, by order of the one before. Until a first point is committed at the new one, the one before is
 * kept in the settings, too: where one of the two can't be had for a while, the other is tried. At every moment config.json names the one that
 * is dialled, so that a kill at any moment leaves the agent with exactly one. All of it is the engine's thread's. */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define TRY_TIMEOUT_MS 5000 /* dialling, and then the handshake: no marks are taken meanwhile */
#define FALL_BACK_US (30 * US_PER_S)

static int keep(const struct agent_config *c, struct err *e)
{
    CLEANUP(json_free) json_t *object = NULL;
    CLEANUP(free_ptr) char *text = NULL;

    if (json_read_file(c->path, &object, e) < 0)
        return -1;
    json_object_set_new(object, "replicator_address", json_string(c->replicator_address));
    json_object_set_new(object, "replicator_port", json_integer(c->replicator_port));
    json_object_del(object, "other_replicator_address");
    json_object_del(object, "other_replicator_port");
    if (c->other_replicator_port) {
        json_object_set_new(object, "other_replicator_address", json_string(c->other_replicator_address));
        json_object_set_new(object, "other_replicator_port", json_integer(c->other_replicator_port));
    }
    text = json_text(object);
    return file_write(c->path, text, strlen(text), 0600, e);
}

/* All or nothing: what is dialled from now on is what the file says. */
static int take(struct agent *a, const struct agent_config *next, struct err *e)
{
    if (keep(next, e) < 0)
        return err_wrap(e, "keeping the replicator's address in %s", next->path);
    memcpy(a->place->replicator_address, next->replicator_address, sizeof next->replicator_address);
    a->place->replicator_port = next->replicator_port;
    memcpy(a->place->other_replicator_address, next->other_replicator_address, sizeof next->other_replicator_address);
    a->place->other_replicator_port = next->other_replicator_port;
    return 0;
}

static void set_place(struct agent_config *c, const char *address, int64_t port)
{
    MUST(strlen(address) < sizeof c->replicator_address);
    memcpy(c->other_replicator_address, c->replicator_address, sizeof c->other_replicator_address);
    c->other_replicator_port = c->replicator_port;
    memcpy(c->replicator_address, address, strlen(address) + 1);
    c->replicator_port = port;
}

/* Before the one that works is let go: the other answers there, and is who the order says. */
static int try_replicator(struct agent *a, const struct agent_config *next, const char *name, struct err *e)
{
    CLEANUP(tls_close) struct tls_stream *stream = NULL;
    CLEANUP(free_ptr) char *wanted = xasprintf("replicator:%s", name);
    int fd = link_dial_within(next, TRY_TIMEOUT_MS, e);

    if (fd < 0)
        return -1;
    if (tls_open(a->tls, fd, "replicator:", TRY_TIMEOUT_MS, &stream, e) < 0)
        return err_wrap(e, "%s port %lld", next->replicator_address, (long long)next->replicator_port);
    if (strcmp(tls_peer_name(stream), wanted) != 0)
        return err_set(e, ERR_DENIED, "%s port %lld is %s, not %s", next->replicator_address, (long long)next->replicator_port,
                       tls_peer_name(stream), wanted);
    return 0;
}

static int go(struct agent *a, const struct wire_move *m, struct err *e)
{
    struct agent_config next = *a->place;

    if (a->held)
        return err_set(e, ERR_WRONG_STATE, "the source is held at a point");
    if (strcmp(m->address, next.replicator_address) == 0 && m->port == next.replicator_port)
        return err_set(e, ERR_CONFLICT, "%s port %lld is this replicator's own address", m->address, (long long)m->port);
    set_place(&next, m->address, m->port);
    return try_replicator(a, &next, m->replicator, e) < 0 || take(a, &next, e) < 0 ? -1 : 0;
}

void move_obey(struct agent *a, const struct wire_move *m)
{
    struct wire_failure no = {.request = m->request};
    CLEANUP(free_ptr) char *words = NULL;
    struct err e = {0};

    if (go(a, m, &e) < 0) {
        log_err(&e, "moving to the replicator %s", m->replicator);
        snprintf(no.kind, sizeof no.kind, "%s", err_meaning(e.kind)->name);
        snprintf(no.message, sizeof no.message, "%.500s", e.message);
        if (a->conn)
            wire_send_message(a->conn, WIRE_MOVE_FAILED, &no, NULL);
        return;
    }
    log_info("moving to the replicator %s at %s port %lld", m->replicator, m->address, (long long)m->port);
    words = xasprintf("moves to the replicator %s", m->replicator);
    link_say_bye(a, ERR_NONE, words);
    a->moved = true;
}

void move_settle(struct agent *a)
{
    struct agent_config next = *a->place;
    struct err e = {0};

    if (a->held || !atomic_exchange(&a->pointed, false) || !next.other_replicator_port)
        return;
    next.other_replicator_address[0] = '\0';
    next.other_replicator_port = 0;
    if (take(a, &next, &e) < 0)
        log_err(&e, "the replicator before this one is kept in mind"); /* the next point tries again */
    else
        log_info("a point is committed at %s port %lld: the replicator before is let go", next.replicator_address, (long long)next.replicator_port);
}

bool move_fall_back(struct agent *a)
{
    struct agent_config next = *a->place;
    int64_t now_us = clock_monotonic_us();
    struct err e = {0};

    if (!a->unreached_us)
        a->unreached_us = now_us;
    if (a->held || !next.other_replicator_port || now_us - a->unreached_us < FALL_BACK_US)
        return false;
    a->unreached_us = now_us;
    set_place(&next, a->place->other_replicator_address, a->place->other_replicator_port);
    if (take(a, &next, &e) < 0) {
        log_err(&e, "going back to the replicator before");
        return false;
    }
    log_warn("%s port %lld can't be had and has no point yet: back to %s port %lld", next.other_replicator_address,
             (long long)next.other_replicator_port, next.replicator_address, (long long)next.replicator_port);
    return true;
}
