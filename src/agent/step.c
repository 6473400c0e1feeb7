/* In step with other servers: a point of a group (docs/replication.md, "Groups"). The agent says how far it has come and waits to be told to
 * go on; the replicator tells all of the group, or none. */
#include "agent/engine.h"

#include "base/clock.h"

static void set_request(struct agent *a, int64_t request)
{
    pthread_mutex_lock(&a->lock);
    a->step_request = request;
    a->step_told = -1;
    pthread_mutex_unlock(&a->lock);
}

void step_begin(struct agent *a, int64_t request) { set_request(a, request); }
void step_end(struct agent *a) { set_request(a, 0); }

void step_hear(struct agent *a, const struct wire_simple *go)
{
    pthread_mutex_lock(&a->lock);
    if (go->request == a->step_request)
        a->step_told = go->value;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

int step_say(struct agent *a, enum wire_step step, struct err *e)
{
    struct wire_simple at = {.request = a->step_request, .value = step};

    return wire_send_message(a->conn, WIRE_POINT_AT, &at, e);
}

int step_wait(struct agent *a, enum wire_step step, int64_t deadline_us, struct err *e)
{
    int result = 0;

    pthread_mutex_lock(&a->lock);
    while (result == 0 && a->step_told < (int64_t)step)
        result = engine_wait(a, deadline_us, e);
    pthread_mutex_unlock(&a->lock);
    return result;
}
