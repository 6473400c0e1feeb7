/* first: a connection's first frame, which says what it is, and for whom. */
#include "base/log.h"
#include "replicator/session.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_TIMEOUT_MS 15000

/* Who speaks which version for which server: the first frame says so, the certificate must bear it out. */
static int check_first(const struct session *s, int64_t version, const char *server, struct err *e)
{
    const char *peer = wire_conn_peer(s->conn);

    if (version != WIRE_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "the agent speaks version %lld of the protocol, this replicator version %d: push the agent again",
                       (long long)version, WIRE_VERSION);
    if (strncmp(peer, "agent:", 6) != 0 || strcmp(peer + 6, server) != 0)
        return err_set(e, ERR_DENIED, "the certificate is %s's, the agent says it is server %s", peer, server);
    return vault_name_check("server", server, e);
}

static int hear_copy(struct session *s, const struct wire_frame *f, struct wire_copy *out, struct err *e)
{
    const char *peer = wire_conn_peer(s->conn);

    if (wire_json_decode(WIRE_COPY, f->payload, f->size, out, sizeof *out, e) < 0)
        return -1;
    if (out->version != WIRE_COPY_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "the replicator %s copies by version %lld, this one by version %d: bring both to one release", out->replicator,
                       (long long)out->version, WIRE_COPY_VERSION);
    if (strncmp(peer, "replicator:", 11) != 0 || strcmp(peer + 11, out->replicator) != 0)
        return err_set(e, ERR_DENIED, "the certificate is %s's, and the replicator %s is to copy", peer, out->replicator);
    return vault_name_check("server", out->server, e);
}

/* A disk that is named twice would be fed by two: its map would be neither. */
static int check_hello(const struct wire_hello *hello, struct err *e)
{
    if (hello->disk_count < 1 || !hello->epoch[0])
        return err_set(e, ERR_PROTOCOL, "HELLO without disks or epoch");
    for (int64_t i = 0; i < hello->disk_count; i++)
        for (int64_t k = 0; k < i; k++)
            if (strcmp(hello->disks[i].id, hello->disks[k].id) == 0)
                return err_set(e, ERR_PROTOCOL, "HELLO names the disk %s twice", hello->disks[i].id);
    return 0;
}

int first_hear(struct session *s, struct first *other, struct err *e)
{
    struct wire_frame f;
    bool closed;
    int got = wire_recv(s->conn, &f, FIRST_TIMEOUT_MS, &closed, e);

    if (got < 0)
        return -1;
    if (got == 0)
        return err_set(e, closed ? ERR_UNREACHABLE : ERR_TIMEOUT, "no HELLO came");
    if (f.type == WIRE_RESTORE) {
        other->restore = xcalloc(1, sizeof *other->restore);
        return wire_json_decode(WIRE_RESTORE, f.payload, f.size, other->restore, sizeof *other->restore, e) < 0
                   ? -1 : check_first(s, other->restore->version, other->restore->server, e);
    }
    if (f.type == WIRE_RESCUE) {
        other->rescue = xcalloc(1, sizeof *other->rescue);
        return wire_json_decode(WIRE_RESCUE, f.payload, f.size, other->rescue, sizeof *other->rescue, e) < 0
                   ? -1 : check_first(s, other->rescue->version, other->rescue->server, e);
    }
    if (f.type == WIRE_REFUSE) {
        other->trouble = xcalloc(1, sizeof *other->trouble);
        return wire_json_decode(WIRE_REFUSE, f.payload, f.size, other->trouble, sizeof *other->trouble, e);
    }
    if (f.type == WIRE_COPY) {
        other->copy = xcalloc(1, sizeof *other->copy);
        return hear_copy(s, &f, other->copy, e);
    }
    if (f.type != WIRE_HELLO)
        return err_set(e, ERR_PROTOCOL, "%s where HELLO was expected", wire_type_name(f.type));
    if (wire_json_decode(WIRE_HELLO, f.payload, f.size, &s->hello, sizeof s->hello, e) < 0 || check_first(s, s->hello.version, s->hello.server, e) < 0)
        return -1;
    return check_hello(&s->hello, e);
}

int first_note_trouble(struct session *s, const struct wire_failure *why, struct err *e)
{
    const char *peer = wire_conn_peer(s->conn);
    struct peer *p;

    if (strncmp(peer, "agent:", 6) != 0 || vault_name_check("server", peer + 6, NULL) < 0)
        return err_set(e, ERR_PROTOCOL, "REFUSE where HELLO was expected, from %s", peer);
    log_warn("%s: its agent can't replicate: %s", peer + 6, why->message);
    p = peer_find(s->r, peer + 6, true);
    pthread_mutex_lock(&p->lock);
    err_clear(&p->stands);
    err_set(&p->stands, wire_failure_kind(why), "%s", why->message);
    p->stands_us = clock_now_us();
    p->stopped = false;
    pthread_mutex_unlock(&p->lock);
    return 0;
}
