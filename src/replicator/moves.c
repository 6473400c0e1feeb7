/* moves: where the factory wants servers to replicate to. A server whose place is another replicator is told so while its agent is here; its
 * points stay as they are. */
#include "base/log.h"
#include "replicator/private.h"

#include <string.h>

#define AGAIN_US (10 * US_PER_S)          /* an order that has had no answer */
#define AGAIN_REFUSED_US (30 * US_PER_S)  /* one that the agent could not follow */

struct place place_read(const struct replicator *r, const json_t *said)
{
    const char *name = json_get_string(said, "replicator", ""), *address = json_get_string(said, "address", "");
    int64_t port = json_get_int(said, "port", 0);
    struct place p = {0};

    if (!*name || !*address || strcmp(name, r->options.name) == 0 || strlen(name) >= sizeof p.replicator || strlen(address) >= sizeof p.address ||
        port < 1 || port > 65535)
        return p; /* here, or nowhere that one can go to */
    memcpy(p.replicator, name, strlen(name) + 1);
    memcpy(p.address, address, strlen(address) + 1);
    p.port = port;
    return p;
}

bool place_same(const struct place *a, const struct place *b)
{
    return strcmp(a->replicator, b->replicator) == 0 && strcmp(a->address, b->address) == 0 && a->port == b->port;
}

static void take(struct peer *p, const struct place *place)
{
    pthread_mutex_lock(&p->lock);
    if (!place_same(&p->place, place)) {
        p->place = *place;
        p->move_due_us = 0;
        err_clear(&p->move_trouble);
    }
    pthread_mutex_unlock(&p->lock);
}

/* The agent is asked while it is free: no person waits for a point of it, and its source is not held. */
static bool is_due(struct peer *p, struct wire_move *out)
{
    int64_t now_us = clock_monotonic_us();
    bool due;

    pthread_mutex_lock(&p->lock);
    due = p->place.replicator[0] && p->session && p->greeted && !p->detached && !p->people && !(p->has_status && p->status.held) && now_us >= p->move_due_us;
    if (due) {
        p->move_due_us = now_us + AGAIN_US;
        out->port = p->place.port;
        memcpy(out->replicator, p->place.replicator, sizeof p->place.replicator);
        memcpy(out->address, p->place.address, sizeof p->place.address);
    }
    pthread_mutex_unlock(&p->lock);
    return due;
}

void moves_take(struct replicator *r, const json_t *answer)
{
    const json_t *places = json_object_get(answer, "places");

    if (!json_is_object(places))
        return; /* a factory that knows of none */
    for (struct peer *p = peers_first(r); p; p = p->next) {
        struct place place = place_read(r, json_object_get(places, p->server));
        struct wire_move order = {0};

        take(p, &place);
        if (is_due(p, &order) && peer_send(p, WIRE_MOVE, &order, sizeof order, NULL) == 0)
            log_info("%s: its agent is told to go to the replicator %s at %s port %lld", p->server, order.replicator, order.address, (long long)order.port);
    }
}

int moves_refused(struct peer *p, const struct wire_failure *why)
{
    pthread_mutex_lock(&p->lock);
    p->move_due_us = clock_monotonic_us() + AGAIN_REFUSED_US;
    err_set(&p->move_trouble, wire_failure_kind(why), "%s", why->message);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

json_t *moves_json(const struct peer *p)
{
    if (!p->place.replicator[0])
        return json_null();
    return json_pack("{s:s, s:s?}", "to", p->place.replicator, "error", p->move_trouble.kind ? p->move_trouble.message : NULL);
}
