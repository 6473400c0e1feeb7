/* restore: a recovery point on its way back to disks (docs/formats/wire.md, "The way back"). One thread, one point, lent for as long as the connection
 * stands: every chunk of every disk is offered in order, and what the other end lacks is sent. It may stand beside the session of the server's agent. */
#include "base/log.h"
#include "replicator/sender.h"
#include "replicator/session.h"

#include <stdlib.h>
#include <string.h>

#define RESTORE_OFFER_CHUNKS 128u /* 8 MiB: its reading and hashing must fit well into the other end's patience */
#define RESTORE_WINDOW 4u
#define DATA_BYTES (2u << 20)     /* a frame is sent when it holds as much */
#define RESTORE_SILENCE_US (60 * US_PER_S)

struct restore {
    struct replicator *r;
    struct wire_restoring about;
    struct sender sender;
};

/* ---- which point, which disks ---- */

/* A server may have its own points, and those of the machine that was launched for it: what that one has written comes home so. */
static bool is_of(const struct vault_point *point, const char *server)
{
    size_t size = strlen(server);

    return strncmp(point->server, server, size) == 0 && (!point->server[size] || strcmp(point->server + size, COPY_SUFFIX) == 0);
}

static int find_point(struct replicator *r, const struct wire_restore *q, struct vault_point *out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *newest = NULL;
    int found;

    if (*q->point)
        found = vault_point_get(r->vault, q->point, out, e);
    else if ((found = vault_point_list(r->vault, q->server, 1, &newest, e)) == 1)
        *out = *newest;
    if (found < 0)
        return -1;
    if (found == 0)
        return err_set(e, ERR_NOT_FOUND, *q->point ? "there is no recovery point %s" : "there is no recovery point%s of this server", q->point);
    if (!is_of(out, q->server))
        return err_set(e, ERR_DENIED, "recovery point %s is another server's", out->id);
    return 0;
}

static bool is_wanted(const struct wire_restore *q, const char *disk)
{
    for (int64_t i = 0; i < q->disk_count; i++)
        if (strcmp(q->disks[i].id, disk) == 0)
            return true;
    return q->disk_count == 0;
}

static int open_images(struct restore *t, const struct wire_restore *q, const struct vault_point *point, struct err *e)
{
    int64_t count = 0;

    for (size_t i = 0; i < point->disk_count; i++) {
        struct wire_disk *d = &t->about.disks[count];

        if (!is_wanted(q, point->disks[i].id))
            continue;
        if (vault_image_open(t->r->vault, point->id, point->disks[i].id, &t->sender.images[count], e) < 0)
            return -1;
        memcpy(d->id, point->disks[i].id, strlen(point->disks[i].id) + 1);
        d->size_bytes = (int64_t)point->disks[i].size_bytes;
        count++;
    }
    if (!count || (q->disk_count && count != q->disk_count))
        return err_set(e, ERR_NOT_FOUND, "recovery point %s does not hold all of the disks that were asked for", point->id);
    t->about.version = WIRE_VERSION;
    snprintf(t->about.replicator, sizeof t->about.replicator, "%s", t->r->options.name);
    memcpy(t->about.point, point->id, sizeof point->id);
    t->about.at_us = point->at_us;
    t->about.disk_count = count;
    t->sender.disk_count = (size_t)count;
    return 0;
}

/* Whoever restores has seen what lies before it, over a connection that broke. */
static int begin_at(struct restore *t, const struct wire_restore *q, struct err *e)
{
    const struct wire_disk *d = &t->about.disks[q->from_disk];

    if (q->from_disk >= t->about.disk_count || q->from_chunk > (d->size_bytes - 1) / WIRE_CHUNK_SIZE)
        return err_set(e, ERR_PROTOCOL, "RESTORE from chunk %lld of disk %lld, which is none", (long long)q->from_chunk, (long long)q->from_disk);
    t->sender.disk = (size_t)q->from_disk;
    t->sender.chunk = (uint64_t)q->from_chunk;
    t->about.from_disk = q->from_disk;
    t->about.from_chunk = q->from_chunk;
    return 0;
}

/* ---- the stream ---- */

static int may_go_on(struct restore *t, struct err *e)
{
    if (atomic_load(&t->r->stopping))
        return err_set(e, ERR_CANCELLED, "the replicator stops");
    return revoked_check(t->r, t->sender.conn, e);
}

static int hear(struct restore *t, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + RESTORE_SILENCE_US;
    struct wire_frame f;
    bool closed = false;
    int got = 0;

    while (got == 0) {
        got = wire_recv(t->sender.conn, &f, 500, &closed, e);
        if (got < 0)
            return -1;
        if (closed)
            return err_set(e, ERR_UNREACHABLE, "the other end closed the connection");
        if (may_go_on(t, e) < 0)
            return -1;
        if (!got && clock_monotonic_us() > until_us)
            return err_set(e, ERR_TIMEOUT, "the other end has been silent for a minute");
    }
    got = sender_hear(&t->sender, &f, e);
    if (got)
        return got < 0 ? -1 : 0;
    if (f.type == WIRE_BYE || f.type == WIRE_REFUSE)
        return err_set(e, ERR_UNREACHABLE, "the other end ended the connection");
    return err_set(e, ERR_PROTOCOL, "%s is not for a replicator that restores", wire_type_name(f.type));
}

static int stream(struct restore *t, struct err *e)
{
    if (sender_begin(&t->sender, 0, e) < 0)
        return -1;
    while (!sender_is_done(&t->sender))
        if (sender_may_offer(&t->sender) ? sender_offer(&t->sender, e) < 0 : hear(t, e) < 0)
            return -1;
    return 0;
}

/* ---- the whole ---- */

static int serve(struct restore *t, const struct wire_restore *q, const struct vault_point *point, struct err *e)
{
    if (open_images(t, q, point, e) < 0 || begin_at(t, q, e) < 0 || wire_send_message(t->sender.conn, WIRE_RESTORING, &t->about, e) < 0)
        return -1;
    log_info("%s: recovery point %s goes back to disks%s", q->server, point->id, q->from_disk || q->from_chunk ? ", from where the connection before broke" : "");
    if (stream(t, e) < 0)
        return err_wrap(e, "restoring %s", point->id);
    log_info("%s: recovery point %s: the other end has every chunk; %llu MiB were sent", q->server, point->id, (unsigned long long)(t->sender.sent_bytes >> 20));
    return 0;
}

int restore_serve(struct replicator *r, struct wire_conn *conn, const struct wire_restore *q, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = xcalloc(1, sizeof *point);
    CLEANUP(free_ptr) struct restore *t = xcalloc(1, sizeof *t);
    int result;

    if (find_point(r, q, point, e) < 0 || nbd_server_lend(r->nbd, point->id, e) < 0)
        return -1;
    t->r = r;
    t->sender = (struct sender){.conn = conn, .offer_chunks = RESTORE_OFFER_CHUNKS, .window_offers = RESTORE_WINDOW, .data_bytes = DATA_BYTES};
    result = serve(t, q, point, e);
    sender_release(&t->sender);
    (void)nbd_server_return(r->nbd, point->id, NULL);
    return result;
}

/* ---- what the machine says of it ---- */

int rescue_hear(struct replicator *r, struct wire_conn *conn, const struct wire_rescue *said, struct err *e)
{
    static const char *const states[] = {"restoring", "failed", "done"};
    struct wire_simple heard = {0};
    bool known = false, is_same, is_done = strcmp(said->state, "done") == 0;
    struct peer *p;

    for (size_t i = 0; i < ARRAY_COUNT(states); i++)
        known |= strcmp(said->state, states[i]) == 0;
    if (!known || strlen(said->point) >= sizeof p->rescue_point)
        return err_set(e, ERR_PROTOCOL, "a machine that restores itself says \"%.31s\" of recovery point \"%.63s\"", said->state, said->point);
    if (peer_need(r, said->server, &p, e) < 0)
        return -1;
    pthread_mutex_lock(&p->lock);
    is_same = strcmp(p->rescue_point, said->point) == 0 && strcmp(p->rescue_state, said->state) == 0; /* it says it again and again */
    snprintf(p->rescue_point, sizeof p->rescue_point, "%.*s", (int)sizeof p->rescue_point - 1, said->point);
    memcpy(p->rescue_state, said->state, sizeof p->rescue_state);
    memcpy(p->rescue_message, said->message, sizeof p->rescue_message);
    p->rescue_us = clock_now_us();
    p->rescue_boot = p->rescue_boot && is_done;
    heard.value = p->rescue_boot;
    pthread_mutex_unlock(&p->lock);
    if (!is_same)
        log_info("%s: the source in rescue says of recovery point %s: %s: %s", said->server, said->point, said->state, said->message);
    return peers_save(r, e) < 0 ? -1 : wire_send_message(conn, WIRE_HEARD, &heard, e);
}
