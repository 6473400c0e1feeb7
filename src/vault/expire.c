/* expire: which points stay. A group's stay together: for as long as the ladder of one of its servers keeps one.
 *
 * A point stands for the time from its moment to that of the server's next one, and the newest for now: while nothing changes no points are made, so one may stand for
 * hours. Of each step of a rung, as far as it is younger than the rung's span, the oldest point that stood in it stays. Points come oldest first, so a point is that of
 * some step where the last step that it stood in is not that of the point before. So each step's beginning has the point that was current then, and each step has one
 * at most: one that stood in many steps is that of all of them.
 * What a rung lets go is never current at a step's beginning that is still to be kept. So that the point before it seems to stand for longer, once it is gone, changes nothing. */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

static const struct vault_rung default_rungs[] = {
    {600 * US_PER_S, 0}, {3600 * US_PER_S, 60 * US_PER_S}, {86400 * US_PER_S, 3600 * US_PER_S},
    {3 * 86400 * US_PER_S, 86400 * US_PER_S}};
const struct vault_ladder vault_ladder_default = {.keep_last = 3, .rung_count = ARRAY_COUNT(default_rungs), .rungs = default_rungs};

/* A server's points, newest first, and which of them its ladder keeps. */
struct kept {
    struct kept *next;
    char server[LIMIT_NAME_BYTES + 1];
    struct vault_ladder ladder;
    struct vault_rung rungs[VAULT_RUNGS_MOST]; /* of another server's ladder */
    bool all;                                  /* nothing of it expires */
    struct vault_point *points;
    bool *keep;
    int count;
};

struct expiry {
    struct vault *v;
    const char *server; /* whose points expire */
    const struct vault_ladder *ladder;
    int64_t now_us;
    struct kept *servers;
};

static void expiry_release(struct expiry *x)
{
    while (x->servers) {
        struct kept *k = x->servers;

        x->servers = k->next;
        free(k->points);
        free(k->keep);
        free(k);
    }
}

/* Of a point that stood until end_us; points come oldest first, and bucket[] holds the last step that the one before stood in, on each rung. Where a clock was set
 * back the steps go back, too: another step than that before is a new one. */
static bool ladder_keeps(const struct vault_ladder *l, int64_t end_us, int64_t age_us, int64_t *bucket)
{
    bool keep = false;

    for (size_t i = 0; i < l->rung_count; i++) {
        int64_t step = l->rungs[i].step_us ? (end_us - 1) / l->rungs[i].step_us : 0;

        if (age_us > l->rungs[i].span_us)
            continue;
        keep = keep || l->rungs[i].step_us == 0 || step != bucket[i];
        bucket[i] = step;
    }
    return keep;
}

static int64_t age_of(const struct expiry *x, int64_t at_us) { return x->ladder->age_us ? x->ladder->age_us(x->ladder->user, at_us) : x->now_us - at_us; }

/* The newest stands for the steps that are still to come, too. */
static void climb(const struct expiry *x, struct kept *k)
{
    CLEANUP(free_ptr) int64_t *bucket = xmalloc((k->ladder.rung_count + 1) * sizeof *bucket);

    for (size_t i = 0; i <= k->ladder.rung_count; i++)
        bucket[i] = INT64_MIN;
    for (int i = k->count - 1; i > 0; i--)
        k->keep[i] = k->all || ladder_keeps(&k->ladder, k->points[i - 1].at_us, age_of(x, k->points[i - 1].at_us), bucket) || (size_t)i < k->ladder.keep_last;
    if (k->count)
        k->keep[0] = k->all || k->ladder.rung_count || k->ladder.keep_last;
}

static struct kept *look_at(struct expiry *x, const char *server, struct err *e)
{
    struct kept *k = x->servers;

    while (k && strcmp(k->server, server) != 0)
        k = k->next;
    if (k)
        return k;
    k = xcalloc(1, sizeof *k);
    snprintf(k->server, sizeof k->server, "%s", server);
    k->count = vault_point_list(x->v, server, 0, &k->points, e);
    if (k->count < 0) {
        free(k);
        return NULL;
    }
    k->keep = xcalloc((size_t)k->count + 1, sizeof *k->keep);
    k->ladder = *x->ladder;
    if (x->ladder->of && strcmp(server, x->server) != 0)
        k->all = !x->ladder->of(x->ladder->user, server, k->rungs, &k->ladder);
    climb(x, k);
    k->next = x->servers;
    x->servers = k;
    return k;
}

/* Whether a point stays on its own account: 1/0/-1. */
static int stays_alone(struct expiry *x, const struct kept *k, int i, struct err *e)
{
    return k->keep[i] ? 1 : vault_point_pinned(x->v, k->points[i].id, NULL, e);
}

/* Whether one of its group's does. */
static int stays_for_others(struct expiry *x, const struct vault_point *p, struct err *e)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
    int stays = p->group[0] ? vault_group_get(x->v, p->group, g, e) : 0;

    if (stays != 1)
        return stays;
    stays = 0;
    for (size_t m = 0; m < g->count && stays == 0; m++) {
        const struct kept *k = look_at(x, g->points[m].server, e);

        if (!k)
            return -1;
        for (int i = 0; i < k->count && stays == 0; i++)
            if (strcmp(k->points[i].id, g->points[m].id) == 0)
                stays = stays_alone(x, k, i, e);
    }
    return stays;
}

int vault_expire(struct vault *v, const char *server, const struct vault_ladder *ladder, struct err *e)
{
    CLEANUP(expiry_release) struct expiry x = {.v = v, .server = server, .ladder = ladder, .now_us = clock_read_us(v->options.clock)};
    const struct kept *k = look_at(&x, server, e);
    CLEANUP(free_ptr) char(*ids)[VAULT_POINT_ID_SIZE] = NULL;
    size_t count = 0;

    if (!k)
        return -1;
    ids = xcalloc((size_t)k->count + 1, sizeof *ids);
    for (int i = k->count - 1; i >= 0; i--) {
        int stays = stays_alone(&x, k, i, e);

        if (stays == 0)
            stays = stays_for_others(&x, &k->points[i], e);
        if (stays < 0)
            return -1;
        if (!stays)
            memcpy(ids[count++], k->points[i].id, sizeof ids[0]);
    }
    return count && points_drop(v, ids, count, e) < 0 ? -1 : (int)count;
}
