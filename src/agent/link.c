/* The connection to the replicator: dialling, HELLO and WELCOME, and the thread that hears what it says. */
#include "agent/engine.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIAL_TIMEOUT_MS 10000
#define GREET_TIMEOUT_MS 30000 /* handshake and WELCOME: a busy machine is slow at both */
#define WRITE_TIMEOUT_MS 60000
#define SILENCE_US (30 * US_PER_S)
#define RECEIVER_STACK_BYTES (256u << 10)

static int say_hello(struct agent *a, struct wire_conn *c, struct err *e)
{
    struct wire_hello *hello = xcalloc(1, sizeof *hello);
    int result;

    hello->version = WIRE_VERSION;
    snprintf(hello->agent_version, sizeof hello->agent_version, "%s", AGENT_VERSION);
    snprintf(hello->server, sizeof hello->server, "%s", a->config->server);
    snprintf(hello->boot_id, sizeof hello->boot_id, "%s", a->boot_id);
    snprintf(hello->tracker, sizeof hello->tracker, "%s", a->tracker ? "ebpf" : "rescan");
    snprintf(hello->epoch, sizeof hello->epoch, "%s", a->epoch);
    hello->disk_count = a->disk_count;
    for (int i = 0; i < a->disk_count; i++) {
        snprintf(hello->disks[i].id, sizeof hello->disks[i].id, "%s", a->disks[i].info.id);
        snprintf(hello->disks[i].name, sizeof hello->disks[i].name, "%s", a->disks[i].info.name);
        hello->disks[i].size_bytes = a->disks[i].info.size_bytes;
    }
    result = wire_send_message(c, WIRE_HELLO, hello, e);
    free(hello);
    return result;
}

/* The other end's REFUSE as an error of ours. */
static int refused(const struct wire_frame *f, struct err *e)
{
    struct wire_failure why;

    if (wire_json_decode(WIRE_REFUSE, f->payload, f->size, &why, sizeof why, e) < 0)
        return -1;
    return err_set(e, wire_failure_kind(&why), "the replicator refuses: %s", why.message);
}

static int hear_welcome(struct agent *a, struct wire_conn *c, struct err *e)
{
    struct wire_frame f;
    bool closed;
    int got = wire_recv(c, &f, GREET_TIMEOUT_MS, &closed, e);

    if (got < 0)
        return -1;
    if (got == 0)
        return err_set(e, closed ? ERR_UNREACHABLE : ERR_TIMEOUT, closed ? "the replicator closed the connection"
                                                                          : "the replicator does not answer HELLO");
    if (f.type == WIRE_REFUSE)
        return refused(&f, e);
    if (f.type != WIRE_WELCOME)
        return err_set(e, ERR_PROTOCOL, "%s where WELCOME was expected", wire_type_name(f.type));
    if (wire_json_decode(WIRE_WELCOME, f.payload, f.size, a->welcome, sizeof *a->welcome, e) < 0)
        return -1;
    if (a->welcome->version != WIRE_VERSION || a->welcome->disk_count != a->disk_count)
        return err_set(e, ERR_PROTOCOL, "WELCOME with version %lld and %lld disks", (long long)a->welcome->version,
                       (long long)a->welcome->disk_count);
    for (int i = 0; i < a->disk_count; i++)
        if (strcmp(a->welcome->disks[i].id, a->disks[i].info.id) != 0)
            return err_set(e, ERR_PROTOCOL, "WELCOME names disk %d \"%s\"", i, a->welcome->disks[i].id);
    return 0;
}

/* Under lock. One is asked for at a time, so whoever asks for another one has given up the one that waits still (while all is hashed, that may be for
 * hours): it is not to be taken any more. Its request, or -1. */
static int64_t drop_point(struct agent *a)
{
    for (unsigned i = 0; i < a->command_count; i++) {
        const struct command *c = &a->commands[(a->command_first + i) % COMMANDS_MAX];
        int64_t request = c->take_point.request;

        if (c->type != WIRE_TAKE_POINT)
            continue;
        engine_drop_command(a, i);
        return request;
    }
    return -1;
}

static void say_given_up(struct agent *a, int64_t request, struct err *e)
{
    struct wire_failure failure = {.request = request, .message = "another point was asked for before this one was begun"};

    snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(ERR_CANCELLED)->name);
    wire_send_message(a->conn, WIRE_POINT_FAILED, &failure, e);
}

static void queue_command(struct agent *a, const struct command *c, struct err *e)
{
    int64_t given_up;

    pthread_mutex_lock(&a->lock);
    given_up = c->type == WIRE_TAKE_POINT ? drop_point(a) : -1;
    if (a->command_count == COMMANDS_MAX)
        err_set(e, ERR_PROTOCOL, "more than %d commands wait", COMMANDS_MAX);
    else
        a->commands[(a->command_first + a->command_count++) % COMMANDS_MAX] = *c;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    if (given_up >= 0)
        say_given_up(a, given_up, e);
}

static void hear_command(struct agent *a, const struct wire_frame *f, struct err *e)
{
    struct command c = {.type = f->type};
    int result;

    if (f->type == WIRE_HASH) {
        c.hash = xcalloc(1, sizeof *c.hash);
        result = wire_json_decode(f->type, f->payload, f->size, c.hash, sizeof *c.hash, e);
    } else if (f->type == WIRE_MOVE) {
        result = wire_json_decode(f->type, f->payload, f->size, &c.move, sizeof c.move, e);
    } else if (f->type == WIRE_TAKE_POINT) {
        result = wire_json_decode(f->type, f->payload, f->size, &c.take_point, sizeof c.take_point, e);
    } else {
        result = wire_json_decode(f->type, f->payload, f->size, &c.simple, sizeof c.simple, e);
    }
    if (result == 0)
        queue_command(a, &c, e);
    if (f->type == WIRE_HASH && e->kind)
        free(c.hash);
}

/* Not queued: whoever shares a limit is told of another one at any time, and as often, also while all is hashed or a point takes long. */
static void hear_limit(struct agent *a, const struct wire_frame *f, struct err *e)
{
    struct wire_limit limit;

    if (wire_json_decode(f->type, f->payload, f->size, &limit, sizeof limit, e) < 0)
        return;
    pthread_mutex_lock(&a->lock);
    link_limit(a, &limit);
    pthread_mutex_unlock(&a->lock);
}

static void hear_offers(struct agent *a, const struct wire_frame *f, struct err *e)
{
    struct wire_need need;
    struct wire_ack ack;

    if (f->type == WIRE_NEED && wire_need_decode(f->payload, f->size, &need, e) == 0)
        pipeline_need(a, &need, e);
    else if (f->type == WIRE_ACK && wire_ack_decode(f->payload, f->size, &ack, e) == 0)
        pipeline_ack(a, ack.offer, e);
}

static void hear(struct agent *a, const struct wire_frame *f, struct err *e)
{
    struct wire_simple simple;

    switch (f->type) {
    case WIRE_NEED:
    case WIRE_ACK: hear_offers(a, f, e); break;
    case WIRE_TAKE_POINT:
    case WIRE_THAW:
    case WIRE_HASH:
    case WIRE_PAUSE:
    case WIRE_RESUME:
    case WIRE_MOVE:
    case WIRE_DETACH: hear_command(a, f, e); break;
    case WIRE_LIMIT: hear_limit(a, f, e); break;
    case WIRE_POINT_GO: /* not queued: a point is waiting for it */
        if (wire_json_decode(f->type, f->payload, f->size, &simple, sizeof simple, e) == 0)
            step_hear(a, &simple);
        break;
    case WIRE_PING:
        if (wire_json_decode(WIRE_PING, f->payload, f->size, &simple, sizeof simple, e) == 0)
            wire_send_message(a->conn, WIRE_PONG, &simple, e);
        break;
    case WIRE_POINT_DONE: /* the point is the replicator's matter from POINT_COMMIT on */
        atomic_store(&a->pointed, true);
        break;
    case WIRE_PONG:
    case WIRE_POINT_FAILED: break;
    case WIRE_REFUSE: refused(f, e); break;
    default: err_set(e, ERR_PROTOCOL, "%s is not for an agent", wire_type_name(f->type));
    }
}

/* Sends nothing: a send may hang behind another on a dead connection, and this is what ends it. PINGs are the reporter's. The source's
 * address is given up at cutover: every second that this goes unseen is downtime. */
static void check_alive(struct agent *a, struct err *e)
{
    if (clock_monotonic_us() - a->last_heard_us > SILENCE_US)
        err_set(e, ERR_TIMEOUT, "the replicator has been silent for 30 s");
    else
        wire_conn_stands(a->conn, e);
}

static void *receive(void *user)
{
    struct agent *a = user;
    struct err e = {0};

    while (!e.kind) {
        struct wire_frame f;
        bool closed;
        int got = wire_recv(a->conn, &f, 500, &closed, &e);

        if (got > 0) {
            a->last_heard_us = clock_monotonic_us();
            hear(a, &f, &e);
        } else if (got == 0 && closed) {
            err_set(&e, ERR_UNREACHABLE, "the replicator closed the connection");
        }
        if (!e.kind)
            check_alive(a, &e);
    }
    if (e.kind == ERR_PROTOCOL) {
        struct wire_failure why = {0};

        snprintf(why.kind, sizeof why.kind, "%s", err_meaning(e.kind)->name);
        snprintf(why.message, sizeof why.message, "%.500s", e.message);
        wire_send_message(a->conn, WIRE_REFUSE, &why, NULL);
    }
    agent_broken(a, &e);
    return NULL;
}

static int start_receiver(struct agent *a, struct err *e)
{
    pthread_attr_t attributes;
    int reason;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, RECEIVER_STACK_BYTES);
    a->last_heard_us = clock_monotonic_us();
    reason = pthread_create(&a->receiver, &attributes, receive, a);
    pthread_attr_destroy(&attributes);
    if (reason)
        return err_errno(e, reason, "can't start the receiver");
    a->receiver_runs = true;
    return 0;
}

void link_pace_reading(struct agent *a)
{
    pace_set(&a->read_pace, pace_lower(a->read_limit, a->read_back_off), clock_monotonic_us());
}

void link_limit(struct agent *a, const struct wire_limit *l)
{
    int64_t now_us = clock_monotonic_us(), sent = a->send_pace.per_s, read = a->read_pace.per_s;

    a->told = *l;
    pace_set(&a->send_pace, pace_lower(l->value, a->config->bytes_per_s), now_us);
    a->read_limit = pace_lower(l->read_bytes_per_s, a->config->read_bytes_per_s);
    link_pace_reading(a);
    pace_set(&a->cpu_pace, pace_lower(l->cpu_percent, a->config->cpu_percent) * US_PER_S / 100, now_us);
    a->rate_void |= a->send_pace.per_s != sent || a->read_pace.per_s != read;
}

void link_greeted(struct agent *a, int64_t bytes_per_s)
{
    struct wire_limit l = a->told; /* LIMIT comes with the first STATUS: until then nothing is read without one */

    l.value = bytes_per_s;
    link_limit(a, &l);
}

/* Why all is offered again, unless that is known already. */
static void say_why(struct agent *a, bool same, bool whole)
{
    if (a->pass != PASS_DONE && a->note.kind[0])
        return;
    if (!whole && !a->reported_ack)
        return; /* the first sync needs no reason */
    if (!a->reported_ack)
        note_set(a, "agent_restarted", "the agent started anew, and does not know what was written before");
    else if (!whole)
        note_set(a, "state_lost", "the replicator does not hold all of the disks any more");
    else if (same || strcmp(a->welcome->epoch, a->epoch) == 0)
        note_set(a, "state_lost", "the replicator has lost what it had acknowledged");
    else
        note_set(a, "state_lost", "the copy was fed by another agent meanwhile, or the vault was restored");
}

/* What the replicator holds decides whether we go on or offer everything again. */
static void resume(struct agent *a)
{
    bool same = strcmp(a->welcome->epoch, a->epoch) == 0 && (uint64_t)a->welcome->applied >= a->reported_ack;
    bool whole = true;

    for (int i = 0; i < a->disk_count; i++)
        whole &= a->welcome->disks[i].whole;
    if (!same || (a->pass == PASS_DONE && !whole)) {
        say_why(a, same, whole);
        engine_set_pass(a, PASS_RUNNING);
        for (int i = 0; i < a->disk_count; i++) {
            todo_all(a, i);
            if (a->disks[i].sums)
                for (int64_t chunk = 0; chunk < a->disks[i].chunk_count; chunk++)
                    track_sums_forget(a->disks[i].sums, chunk);
        }
        a->rescan_pass = a->kept->rescan_pass = whole;
        a->reported_ack = 0; /* after all is to do: until then the replicator's 0 is seen to be too little */
        __atomic_store_n(&a->kept->reported_ack, 0, __ATOMIC_SEQ_CST);
    }
    a->paused = false; /* the replicator says it again where it still holds */
    a->window = (uint64_t)a->welcome->window_offers;
    link_greeted(a, a->welcome->limit_bytes_per_s);
    a->send_pace.free_us = 0;
    atomic_store(&a->todo_bytes, todo_bytes(a));
}

int link_dial_within(const struct agent_config *c, int timeout_ms, struct err *e)
{
    return c->proxy.port ? proxy_dial(&c->proxy, c->replicator_address, (int)c->replicator_port, timeout_ms, e)
                         : tls_dial(c->replicator_address, (int)c->replicator_port, timeout_ms, e);
}

int link_dial(const struct agent_config *c, struct err *e) { return link_dial_within(c, DIAL_TIMEOUT_MS, e); }

void link_say_trouble(struct agent *a, const struct err *why)
{
    CLEANUP(tls_close) struct tls_stream *stream = NULL;
    CLEANUP(wire_conn_free) struct wire_conn *c = NULL;
    struct wire_failure failure = {0};
    struct wire_frame f;
    bool closed;
    int fd = link_dial(a->config, NULL);

    if (fd < 0 || tls_open(a->tls, fd, "replicator:", GREET_TIMEOUT_MS, &stream, NULL) < 0)
        return;
    c = wire_conn_new(&stream, WRITE_TIMEOUT_MS);
    snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(why->kind)->name);
    snprintf(failure.message, sizeof failure.message, "%.500s", why->message);
    if (wire_send_message(c, WIRE_REFUSE, &failure, NULL) == 0)
        wire_recv(c, &f, DIAL_TIMEOUT_MS, &closed, NULL); /* it closes, once it has heard */
}

int link_open(struct agent *a, struct err *e)
{
    CLEANUP(tls_close) struct tls_stream *stream = NULL;
    CLEANUP(wire_conn_free) struct wire_conn *c = NULL;
    int fd = link_dial(a->config, e);

    if (fd < 0)
        return -1;
    if (tls_open(a->tls, fd, "replicator:", GREET_TIMEOUT_MS, &stream, e) < 0)
        return err_wrap(e, "%s port %lld", a->config->replicator_address, (long long)a->config->replicator_port);
    c = wire_conn_new(&stream, WRITE_TIMEOUT_MS);
    if (say_hello(a, c, e) < 0 || hear_welcome(a, c, e) < 0)
        return -1;
    pthread_mutex_lock(&a->lock);
    resume(a);
    flow_begin(a, c);
    a->conn = c;
    c = NULL;
    a->broken = a->moved = false;
    a->unreached_us = 0;
    atomic_store(&a->pointed, false);
    err_clear(&a->link_error);
    a->command_first = a->command_count = 0;
    pthread_mutex_unlock(&a->lock);
    if (start_receiver(a, e) < 0) {
        agent_broken(a, e);
        return -1;
    }
    return 0;
}

void link_close(struct agent *a)
{
    if (!a->conn)
        return;
    wire_conn_cut(a->conn);
    if (a->receiver_runs)
        pthread_join(a->receiver, NULL);
    a->receiver_runs = false;
    pthread_mutex_lock(&a->lock);
    a->broken = true;
    for (; a->command_count; a->command_count--, a->command_first = (a->command_first + 1) % COMMANDS_MAX)
        if (a->commands[a->command_first].type == WIRE_HASH)
            free(a->commands[a->command_first].hash);
    pthread_mutex_unlock(&a->lock);
    pipeline_requeue(a); /* waits until nobody uses the connection */
    pthread_mutex_lock(&a->lock);
    atomic_fetch_add(&a->bytes_sent, wire_conn_sent_bytes(a->conn));
    wire_conn_free(&a->conn);
    pthread_mutex_unlock(&a->lock);
}

void link_say_bye(struct agent *a, enum err_kind kind, const char *message)
{
    struct wire_failure bye = {0};

    if (!a->conn || a->broken)
        return;
    snprintf(bye.kind, sizeof bye.kind, "%s", err_meaning(kind)->name);
    snprintf(bye.message, sizeof bye.message, "%s", message);
    wire_send_message(a->conn, WIRE_BYE, &bye, NULL);
}
