/* copy_plan: which point is copied next, and what is offered of it. The newest that there is once the one before has been copied; before it, oldest first,
 * those that are pinned. What was under way when a connection or a program ended goes on where it was: the epoch that the other end names tells what it was. */
#include "replicator/copy.h"
#include "replicator/orders.h"

#include <stdlib.h>
#include <string.h>

#define LOOK_FIRST 256 /* of a server's newest points; more where the one that is there is older */

/* ---- pins of ours ---- */

/* Of a server's points that we have pinned only these stay so. */
static int let_go(struct replicator *r, const char *server, const char *stays, const char *stays_too, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    CLEANUP(free_ptr) char(*ids)[VAULT_POINT_ID_SIZE] = NULL;
    int count = vault_pin_list(r->vault, COPY_PIN, &ids, e);

    for (int i = 0; i < count; i++) {
        int found;

        if (strcmp(ids[i], stays) == 0 || strcmp(ids[i], stays_too) == 0)
            continue;
        found = vault_point_get(r->vault, ids[i], p, e);
        if (found < 0 || (found && strcmp(p->server, server) == 0 && vault_point_unpin(r->vault, ids[i], COPY_PIN, e) < 0))
            return -1;
    }
    return count < 0 ? -1 : 0;
}

int copy_release(struct replicator *r, const char *server, struct err *e) { return let_go(r, server, "", "", e); }

static int hold(struct replicator *r, const char *point, struct err *e)
{
    int pinned = point[0] ? vault_point_pinned(r->vault, point, COPY_PIN, e) : 1;

    return pinned < 0 ? -1 : pinned ? 0 : vault_point_pin(r->vault, point, COPY_PIN, e);
}

/* ---- which one ---- */

/* The same way from one point to another has the same epoch, whoever works it out when. */
static void epoch_of(const struct copier *c, const char *base, const char *point, char out[static WIRE_TOKEN_SIZE])
{
    CLEANUP(free_ptr) char *text = xasprintf("%s\n%s\n%s\n%llu", c->r->options.name, base, point, (unsigned long long)(base[0] ? 0 : c->salt));
    uint8_t digest[HASH_SHA256_SIZE];
    char hex[HASH_SHA256_HEX_SIZE];

    hash_sha256(text, strlen(text), digest);
    snprintf(out, WIRE_TOKEN_SIZE, "%.40s", hash_hex(digest, sizeof digest, hex));
}

/* 1: people or machines pin it; 0; -1 */
static int is_wanted(struct copier *c, const char *point, struct err *e)
{
    CLEANUP(free_ptr) char(*reasons)[VAULT_PIN_REASON_SIZE] = NULL;
    int count = vault_point_pins(c->r->vault, point, &reasons, e), wanted = 0;

    for (int i = 0; i < count; i++)
        wanted |= strcmp(reasons[i], COPY_PIN) != 0 && strcmp(reasons[i], VAULT_LENT_PIN) != 0;
    return count < 0 ? -1 : wanted;
}

static bool can_be_read(struct copier *c, const char *point, struct err *why)
{
    return strcmp(point, c->avoid) != 0 && vault_point_usable(c->r->vault, point, why) == 0;
}

/* Of the first count points, newest first: an index, or -1 where none will do. pinned: those after a copied one, where the pinned ones count. */
static int choose(struct copier *c, const struct vault_point *points, int count, bool pinned, struct err *e)
{
    struct err why = {0};

    for (int i = count - 1; i >= 0 && pinned; i--) {
        int wanted = is_wanted(c, points[i].id, e);

        if (wanted < 0)
            return -1;
        if (wanted && can_be_read(c, points[i].id, NULL))
            return i;
    }
    for (int i = 0; i < count; i++)
        if (can_be_read(c, points[i].id, why.kind ? NULL : &why))
            return i;
    return err_set(e, why.kind ? why.kind : ERR_CORRUPT, "no newer point can be read here%s%s", why.kind ? ": " : "", why.message);
}

/* The way that the other end was on when it stopped: an index, or -1. */
static int find_way(struct copier *c, const struct vault_point *points, int count, const char *base)
{
    char epoch[WIRE_TOKEN_SIZE];

    for (int i = 0; i < count && c->there.epoch[0]; i++) {
        epoch_of(c, base, points[i].id, epoch);
        if (strcmp(epoch, c->there.epoch) == 0 && strcmp(points[i].id, c->avoid) != 0)
            return i;
    }
    return -1;
}

static void note_there(struct copier *c, const struct vault_point *there)
{
    pthread_mutex_lock(&c->p->lock);
    memcpy(c->p->copied.point, c->there.point, sizeof c->p->copied.point);
    c->p->copied.at_us = there ? there->at_us : c->p->copied.at_us;
    pthread_mutex_unlock(&c->p->lock);
}

static bool is_current(struct copier *c)
{
    bool current;

    pthread_mutex_lock(&c->p->lock);
    current = !c->p->newest[0] || (strcmp(c->p->newest, c->there.point) == 0 && strcmp(c->p->copied.point, c->there.point) == 0);
    pthread_mutex_unlock(&c->p->lock);
    return current;
}

/* from: the index of the point that is there, or count where that is none of these. */
static int take(struct copier *c, const struct vault_point *points, int from, bool known, struct copy_plan *out, struct err *e)
{
    int at = c->whole ? -1 : known ? find_way(c, points, from, c->there.point) : -1;
    bool has_base = at >= 0;

    if (at < 0)
        at = find_way(c, points, from, "");
    if (at < 0) {
        at = choose(c, points, from, known, e);
        has_base = known && c->there.exact && !c->whole;
    }
    if (at < 0)
        return -1;
    out->point = points[at];
    out->has_base = has_base;
    if (has_base)
        out->base = points[from];
    epoch_of(c, has_base ? out->base.id : "", out->point.id, out->epoch);
    return hold(c->r, out->point.id, e) < 0 || hold(c->r, known ? points[from].id : "", e) < 0 ||
                   let_go(c->r, c->p->server, out->point.id, known ? points[from].id : "", e) < 0
               ? -1 : 1;
}

/* The newest points down to the one that is there; *from: its index, or the count where it is none of ours. Returns the count; the caller frees. */
static int list_newer(struct copier *c, struct vault_point **out, int *from, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *there = xcalloc(1, sizeof *there);
    int known = c->there.point[0] ? vault_point_get(c->r->vault, c->there.point, there, e) : 0, count = 0;

    if (known < 0)
        return -1;
    for (size_t limit = LOOK_FIRST; ; limit *= 4) {
        count = vault_point_list(c->r->vault, c->p->server, limit, out, e);
        for (*from = 0; *from < count && strcmp((*out)[*from].id, c->there.point) != 0; ++*from)
            ;
        if (count < 0 || *from < count || !known || (size_t)count < limit)
            return count;
        free_ptr(out);
    }
}

int copy_plan_next(struct copier *c, struct copy_plan *out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *points = NULL;
    int count, from;

    if (is_current(c))
        return 0;
    count = list_newer(c, &points, &from, e);
    if (count <= 0)
        return count;
    note_there(c, from < count ? &points[from] : NULL);
    if (from == 0)
        return 0;
    return take(c, points, from, from < count, out, e);
}

/* ---- what is said of it ---- */

static int64_t consistency_of(const char *name)
{
    int64_t c = WIRE_APPLICATION;

    while (c > WIRE_CRASH && strcmp(name, wire_consistency_name(c)) != 0)
        c--;
    return c;
}

static void describe_marks(const struct vault_point *p, struct wire_copy_point *out)
{
    out->unreadable_bytes = (int64_t)p->unreadable.bytes;
    for (size_t i = 0; i < p->unreadable.range_count; i++)
        for (size_t d = 0; d < p->disk_count; d++)
            if (strcmp(p->disks[d].id, p->unreadable.ranges[i].disk) == 0)
                out->ranges[out->range_count++] = (struct wire_range){(int64_t)d, (int64_t)p->unreadable.ranges[i].first_sector,
                                                                      (int64_t)p->unreadable.ranges[i].sector_count};
}

static void describe_group(struct copier *c, const struct vault_point *p, struct wire_copy_point *out)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);

    if (!p->group[0] || vault_group_get(c->r->vault, p->group, g, NULL) != 1)
        return;
    memcpy(out->group, g->id, sizeof g->id);
    memcpy(out->group_name, g->name, sizeof g->name);
    out->group_at_us = g->at_us;
    out->group_window_us = g->window_us;
    for (; out->member_count < (int64_t)g->count; out->member_count++) {
        struct wire_member *m = &out->members[out->member_count];

        memcpy(m->point, g->points[out->member_count].id, sizeof m->point);
        memcpy(m->server, g->points[out->member_count].server, sizeof m->server);
    }
}

void copy_plan_describe(struct copier *c, const struct copy_plan *plan, struct wire_copy_point *out)
{
    const struct vault_point *p = &plan->point;

    memcpy(out->epoch, plan->epoch, sizeof out->epoch);
    memcpy(out->point, p->id, sizeof p->id);
    if (plan->has_base)
        memcpy(out->base, plan->base.id, sizeof plan->base.id);
    out->at_us = p->at_us;
    out->consistency = consistency_of(p->consistency);
    out->freeze_ms = p->freeze_ms;
    describe_marks(p, out);
    describe_group(c, p, out);
    for (; out->disk_count < (int64_t)p->disk_count; out->disk_count++) {
        memcpy(out->disks[out->disk_count].id, p->disks[out->disk_count].id, sizeof out->disks[0].id);
        out->disks[out->disk_count].size_bytes = (int64_t)p->disks[out->disk_count].size_bytes;
    }
}

int copy_plan_pins(struct copier *c, json_t **out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *points = NULL;
    CLEANUP(json_free) json_t *pins = json_array();
    int count = vault_point_list(c->r->vault, c->p->server, 0, &points, e);

    for (int i = 0; i < count; i++) {
        CLEANUP(free_ptr) char(*reasons)[VAULT_PIN_REASON_SIZE] = NULL;
        int reason_count = vault_point_pins(c->r->vault, points[i].id, &reasons, e);

        if (reason_count < 0)
            return -1;
        for (int k = 0; k < reason_count; k++)
            if (strncmp(reasons[k], KEPT_PREFIX, strlen(KEPT_PREFIX)) == 0)
                json_array_append_new(pins, json_pack("{s:s, s:s}", "point", points[i].id, "reason", reasons[k] + strlen(KEPT_PREFIX)));
    }
    if (count < 0)
        return -1;
    *out = json_incref(pins);
    return 0;
}

int copy_plan_kept(struct copier *c, const struct wire_pin *pin, struct err *e)
{
    char reason[VAULT_PIN_REASON_SIZE];

    snprintf(reason, sizeof reason, KEPT_PREFIX "%.*s", (int)(sizeof reason - sizeof KEPT_PREFIX), pin->reason);
    return vault_point_pinned(c->r->vault, pin->point, reason, e);
}
