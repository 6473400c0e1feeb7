#include "replicator/orders.h"
#include "base/http.h"

#include <stdlib.h>
#include <string.h>

int orders_need_point(struct vault *v, const json_t *q, struct vault_point **out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    const char *id;
    int found;

    if (json_need_string(q, "point", &id, e) < 0)
        return -1;
    found = vault_point_get(v, id, p, e);
    if (found != 1)
        return found < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no recovery point %.100s", id);
    *out = p;
    p = NULL;
    return 0;
}

char *orders_uri(const char *nbd_path, const char *prefix, const char *point, const char *disk)
{
    CLEANUP(free_ptr) char *point_part = http_escape(point), *disk_part = http_escape(disk);
    CLEANUP(buf_release) struct buf b = {0};

    buf_init(&b, 8192);
    buf_printf(&b, "nbd+unix:///%s%s/%s?socket=", prefix, point_part, disk_part);
    for (const char *at = nbd_path; *at; at++)
        if (strchr("&#%+? ", *at))
            buf_printf(&b, "%%%02X", (unsigned char)*at);
        else
            buf_add(&b, at, 1);
    return buf_take(&b);
}

json_t *orders_disks(const char *nbd_path, const char *prefix, const struct vault_point *p)
{
    json_t *disks = json_array();

    for (size_t i = 0; i < p->disk_count; i++) {
        CLEANUP(free_ptr) char *uri = orders_uri(nbd_path, prefix, p->id, p->disks[i].id);
        CLEANUP(free_ptr) char *name = xasprintf("%s%s/%s", prefix, p->id, p->disks[i].id);

        json_array_append_new(disks, json_pack("{s:s, s:s, s:s, s:s, s:I}", "id", p->disks[i].id, "nbd_uri", uri, "nbd_socket", nbd_path,
                                               "nbd_export", name, "size_bytes", (json_int_t)p->disks[i].size_bytes));
    }
    return disks;
}

int orders_set_window(struct vault *v, json_t *point, json_t *windows, struct err *e)
{
    const char *group = json_get_string(point, "group", NULL);
    json_t *window = group ? json_object_get(windows, group) : NULL;

    if (!group)
        return 0;
    if (!window) {
        CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
        int found = vault_group_get(v, group, g, e);

        if (found < 0)
            return -1;
        window = found ? json_integer((json_int_t)g->window_us) : json_null();
        json_object_set_new(windows, group, window);
    }
    return json_object_set(point, "group_window_us", window);
}

/* What a list of points tells of each: its group's window, why it is pinned, too, and what changed on each disk. */
static json_t *told(struct vault *v, const struct vault_point *p, json_t *windows, struct err *e)
{
    CLEANUP(json_free) json_t *j = vault_point_json(p);
    char(*reasons)[VAULT_PIN_REASON_SIZE] = NULL;
    int count = vault_point_pins(v, p->id, &reasons, e);
    json_t *pins = json_array();

    json_object_set_new(j, "pins", pins);
    for (int i = 0; i < count; i++)
        json_array_append_new(pins, json_string(reasons[i]));
    free(reasons);
    for (size_t i = 0; i < p->disk_count; i++)
        json_object_set_new(json_array_get(json_object_get(j, "disks"), i), "changed_bytes", json_integer((json_int_t)p->disks[i].changed_bytes));
    return count < 0 || orders_set_window(v, j, windows, e) < 0 ? NULL : json_incref(j);
}

/* ---- the verbs ---- */

/* Those that are older than `before`, not more than `limit`; `next` is the last one's id where more follow. */
static int give_points(struct orders *o, const struct vault_point *points, int count, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(json_free) json_t *windows = json_object();
    const char *before = json_get_string(q, "before", NULL);
    int64_t limit = json_get_int(q, "limit", 0);
    json_t *list = json_array();
    int at = 0;

    json_object_set_new(answer, "points", list);
    while (before && at < count && strcmp(points[at].id, before) != 0)
        at++;
    if (before && at++ == count)
        return err_set(e, ERR_NOT_FOUND, "there is no recovery point %.100s (any more): begin the list anew", before);
    for (; at < count && (limit <= 0 || (int64_t)json_array_size(list) < limit); at++) {
        json_t *j = told(o->vault, &points[at], windows, e);

        if (!j)
            return -1;
        json_array_append_new(list, j);
    }
    return json_object_set_new(answer, "next", at < count && at > 0 ? json_string(points[at - 1].id) : json_null());
}

/* Those of a group that are there yet, and what is known of it. */
static int group_points(struct orders *o, const char *id, struct vault_point **out, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
    CLEANUP(free_ptr) struct vault_point *points = xcalloc(VAULT_GROUP_MOST, sizeof *points);
    json_t *told_group;
    int count = 0, found = vault_group_get(o->vault, id, g, e);

    if (found != 1)
        return found < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no group %.100s", id);
    for (size_t i = 0; i < g->count && found >= 0; i++) {
        found = vault_point_get(o->vault, g->points[i].id, &points[count], e);
        count += found == 1;
    }
    told_group = json_pack("{s:s, s:s, s:I, s:I}", "id", g->id, "name", g->name, "window_us", (json_int_t)g->window_us, "points",
                           (json_int_t)g->count);
    json_set_time(told_group, "at", g->at_us);
    json_object_set_new(answer, "group", told_group);
    *out = points;
    points = NULL;
    return found < 0 ? -1 : count;
}

static int do_points(struct orders *o, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *points = NULL;
    const char *server, *group = json_get_string(q, "group", NULL);
    int count;

    if (group)
        count = group_points(o, group, &points, answer, e);
    else if (json_object_get(q, "point"))
        count = orders_need_point(o->vault, q, &points, e) < 0 ? -1 : 1;
    else
        count = json_need_string(q, "server", &server, e) < 0 ? -1 : vault_point_list(o->vault, server, 0, &points, e);
    return count < 0 ? -1 : give_points(o, points, count, q, answer, e);
}

static int do_servers(struct orders *o, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) char(*servers)[LIMIT_NAME_BYTES + 1] = NULL;
    int count = vault_server_list(o->vault, &servers, e);
    json_t *list = json_array();

    (void)q;
    json_object_set_new(answer, "servers", list);
    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_string(servers[i]));
    return count < 0 ? -1 : 0;
}

static int do_verify(struct orders *o, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    CLEANUP(free_ptr) struct vault_point *point = NULL;

    if (orders_need_point(o->vault, q, &point, e) < 0 || vault_verify_point(o->vault, point->id, o->progress, o->user, &report, e) < 0)
        return -1;
    if (report.finding_count)
        return err_set(e, ERR_CORRUPT, "recovery point %s: %llu finding(s): %.400s", point->id, (unsigned long long)report.finding_count,
                       report.findings[0].text);
    json_object_set_new(answer, "chunks", json_integer((json_int_t)report.looked_at));
    return json_object_set_new(answer, "bytes", json_integer((json_int_t)report.bytes));
}

static int do_lend(struct orders *o, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = NULL;

    if (o->lent[0])
        return err_set(e, ERR_WRONG_STATE, "recovery point %s is on loan to you: end that first", o->lent);
    if (orders_need_point(o->vault, q, &point, e) < 0 || nbd_server_lend(o->nbd, point->id, e) < 0)
        return -1;
    memcpy(o->lent, point->id, sizeof o->lent);
    return json_object_set_new(answer, "disks", orders_disks(o->nbd_path, NBD_LENT_PREFIX, point));
}

static int do_usable(struct orders *o, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = NULL;

    (void)answer;
    return orders_need_point(o->vault, q, &point, e) < 0 ? -1 : vault_point_usable(o->vault, point->id, e);
}

/* A person's reason as it is kept. */
static int kept_reason(const json_t *q, char out[static VAULT_PIN_REASON_SIZE], struct err *e)
{
    const char *reason;

    if (json_need_string(q, "reason", &reason, e) < 0)
        return -1;
    if (!reason[0] || strlen(KEPT_PREFIX) + strlen(reason) >= VAULT_PIN_REASON_SIZE)
        return err_set(e, ERR_INVALID, "a reason to keep a point is 1 to %zu bytes long", VAULT_PIN_REASON_SIZE - strlen(KEPT_PREFIX) - 1);
    snprintf(out, VAULT_PIN_REASON_SIZE, "%s%s", KEPT_PREFIX, reason);
    return 0;
}

static int do_pin(struct orders *o, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = NULL;
    char reason[VAULT_PIN_REASON_SIZE];

    (void)answer;
    if (orders_need_point(o->vault, q, &point, e) < 0 || kept_reason(q, reason, e) < 0)
        return -1;
    return vault_point_pin(o->vault, point->id, reason, e);
}

/* By the reason that is given, or by all that people gave, also where it was copied from; never a machine's or a reader's. */
static int do_unpin(struct orders *o, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = NULL;
    CLEANUP(free_ptr) char(*reasons)[VAULT_PIN_REASON_SIZE] = NULL;
    char wanted[VAULT_PIN_REASON_SIZE] = KEPT_PREFIX;
    bool all = !json_object_get(q, "reason");
    int count, ended = 0;

    if (orders_need_point(o->vault, q, &point, e) < 0 || (!all && kept_reason(q, wanted, e) < 0))
        return -1;
    count = vault_point_pins(o->vault, point->id, &reasons, e);
    for (int i = 0; i < count; i++) {
        if (all ? strncmp(reasons[i], wanted, strlen(wanted)) != 0 && strncmp(reasons[i], COPIED_PREFIX, strlen(COPIED_PREFIX)) != 0 : strcmp(reasons[i], wanted) != 0)
            continue;
        if (vault_point_unpin(o->vault, point->id, reasons[i], e) < 0)
            return -1;
        ended++;
    }
    if (count >= 0 && ended == 0)
        return err_set(e, ERR_NOT_FOUND, "recovery point %s is not pinned by %s%s", point->id, all ? "a person" : wanted + strlen(KEPT_PREFIX),
                       count ? " (`slipway point show` tells by what)" : "");
    return count < 0 ? -1 : json_object_set_new(answer, "ended", json_integer(ended));
}

static int do_drop_point(struct orders *o, const json_t *q, json_t *answer, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = NULL;
    CLEANUP(free_ptr) char(*reasons)[VAULT_PIN_REASON_SIZE] = NULL;
    int count;

    (void)answer;
    if (orders_need_point(o->vault, q, &point, e) < 0)
        return -1;
    count = vault_point_pins(o->vault, point->id, &reasons, e);
    if (count > 0)
        return err_set(e, ERR_WRONG_STATE, "recovery point %s is pinned (%s): %s", point->id, reasons[0],
                       strcmp(reasons[0], VAULT_EXPORT_PIN) == 0 ? "a machine runs from it: terminate it, or let it be filled in, first"
                       : strcmp(reasons[0], VAULT_LENT_PIN) == 0 ? "somebody reads it: wait until that is done"
                       : strcmp(reasons[0], COPY_PIN) == 0 ? "its second copy is made of it, or goes on from it: wait until a newer point is copied"
                                                                 : "`slipway point unpin` first");
    return count < 0 ? -1 : vault_point_drop(o->vault, point->id, e);
}

static const struct {
    const char *verb;
    int (*run)(struct orders *o, const json_t *q, json_t *answer, struct err *e);
} verbs[] = {
    {"points", do_points}, {"servers", do_servers}, {"verify", do_verify}, {"lend", do_lend},
    {"usable", do_usable}, {"pin", do_pin},         {"unpin", do_unpin},   {"drop_point", do_drop_point},
};

int orders_run(struct orders *o, const char *verb, const json_t *q, json_t *answer, struct err *e)
{
    for (size_t i = 0; i < ARRAY_COUNT(verbs); i++)
        if (strcmp(verb, verbs[i].verb) == 0)
            return verbs[i].run(o, q, answer, e) < 0 ? -1 : 1;
    return 0;
}

void orders_end(struct orders *o)
{
    if (o->lent[0])
        (void)nbd_server_return(o->nbd, o->lent, NULL);
    o->lent[0] = '\0';
}
