/* group: points of several servers that stand for one instant: they become visible together, or none does. Each is staged first: its trees and
 * its document are durable, but a document that names a group counts only where the group's own document is there, too. That one comes last. */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

struct staged {
    struct staged *next;
    struct vault_point point;
    uint64_t sequence;
    struct vault_hash document;
    char text[];
};

/* ---- the document ---- */

char *group_text(const struct vault_group *g)
{
    CLEANUP(json_free) json_t *j = json_pack("{s:s, s:i, s:s, s:s, s:I, s:I}", "format", "slipway-group", "version", 1, "id", g->id, "name", g->name,
                                             "at_us", (json_int_t)g->at_us, "window_us", (json_int_t)g->window_us);
    json_t *list = json_array();
    char hash[VAULT_HASH_TEXT_SIZE];

    MUST(j);
    for (size_t i = 0; i < g->count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "id", g->points[i].id, "server", g->points[i].server, "document",
                                              vault_hash_text(&g->points[i].document, hash)));
    json_object_set_new(j, "points", list);
    return json_text(j);
}

static int copy_text(const json_t *j, const char *name, char *to, size_t size, struct err *e)
{
    const char *from;

    if (json_need_string(j, name, &from, e) < 0)
        return -1;
    if (strlen(from) >= size)
        return err_set(e, ERR_CORRUPT, "a group's %s is too long", name);
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

static int parse_point(const json_t *j, struct vault_group_point *out, struct err *e)
{
    const char *document;

    return copy_text(j, "id", out->id, sizeof out->id, e) < 0 || copy_text(j, "server", out->server, sizeof out->server, e) < 0 ||
                   json_need_string(j, "document", &document, e) < 0 || vault_hash_parse(document, &out->document, e) < 0
               ? -1 : 0;
}

static int parse_members(const json_t *j, struct vault_group *g, struct err *e)
{
    const char *format;
    int64_t version;
    json_t *points;

    if (json_need_string(j, "format", &format, e) < 0 || json_need_int(j, "version", &version, e) < 0)
        return -1;
    if (strcmp(format, "slipway-group") != 0 || version != 1)
        return err_set(e, ERR_UNSUPPORTED, "a group of format %.40s version %lld: this Slipway reads version 1", format, (long long)version);
    if (copy_text(j, "id", g->id, sizeof g->id, e) < 0 || copy_text(j, "name", g->name, sizeof g->name, e) < 0 ||
        json_need_int(j, "at_us", &g->at_us, e) < 0 || json_need_int(j, "window_us", &g->window_us, e) < 0 ||
        json_need_array(j, "points", &points, e) < 0)
        return -1;
    if (json_array_size(points) == 0 || json_array_size(points) > VAULT_GROUP_MOST)
        return err_set(e, ERR_CORRUPT, "a group of %zu points", json_array_size(points));
    for (; g->count < json_array_size(points); g->count++)
        if (parse_point(json_array_get(points, g->count), &g->points[g->count], e) < 0)
            return -1;
    return 0;
}

int group_parse(const char *text, size_t size, struct vault_group *out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
    CLEANUP(json_free) json_t *j = NULL;

    if (json_read(text, size, &j, e) < 0 || parse_members(j, g, e) < 0)
        return err_wrap(e, "a group's document");
    *out = *g;
    return 0;
}

/* ---- rows ---- */

int group_row(struct vault *v, MDB_txn *txn, const char *id, struct vault_group *out, struct err *e)
{
    MDB_val value;
    int found;

    if (*id == '\0' || strlen(id) >= VAULT_POINT_ID_SIZE)
        return 0;
    found = index_get(&v->index, txn, INDEX_GROUP, index_val(id, strlen(id)), &value, e);
    return found == 1 && group_parse(value.mv_data, value.mv_size, out, e) < 0 ? -1 : found;
}

int group_insert(struct vault *v, MDB_txn *txn, const struct vault_group *g, const char *text, struct err *e)
{
    return index_put(&v->index, txn, INDEX_GROUP, index_val(g->id, strlen(g->id)), index_val(text, strlen(text)), e);
}

int group_forget(struct vault *v, MDB_txn *txn, const char *id, struct err *e)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
    int found = group_row(v, txn, id, g, e);
    MDB_val value;

    if (found != 1)
        return found;
    for (size_t i = 0; i < g->count; i++) {
        found = index_get(&v->index, txn, INDEX_POINT, index_val(g->points[i].id, strlen(g->points[i].id)), &value, e);
        if (found)
            return found < 0 ? -1 : 0;
    }
    return index_del(&v->index, txn, INDEX_GROUP, index_val(id, strlen(id)), e);
}

int vault_group_get(struct vault *v, const char *group, struct vault_group *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    return index_begin(&v->index, false, &txn, e) < 0 ? -1 : group_row(v, txn, group, out, e);
}

/* ---- staging ---- */

void staged_keep(struct vault *v, const struct vault_point *p, uint64_t sequence, const char *text)
{
    size_t size = strlen(text) + 1;
    struct staged *s = xmalloc(sizeof *s + size);

    *s = (struct staged){.next = v->staged, .point = *p, .sequence = sequence, .document = point_record_hash(text)};
    memcpy(s->text, text, size);
    v->staged = s;
}

static struct staged **staged_find(struct vault *v, const char *id)
{
    struct staged **at = &v->staged;

    while (*at && strcmp((*at)->point.id, id) != 0)
        at = &(*at)->next;
    return at;
}

static void staged_drop(struct vault *v, const char *id)
{
    struct staged **at = staged_find(v, id), *s = *at;

    if (s)
        *at = s->next;
    free(s);
}

void staged_release(struct vault *v)
{
    while (v->staged)
        staged_drop(v, v->staged->point.id);
}

int staged_each(struct vault *v, int (*visit)(const struct vault_point *p, const struct vault_hash *document, void *user, struct err *e), void *user,
                struct err *e)
{
    for (const struct staged *s = v->staged; s; s = s->next)
        if (visit(&s->point, &s->document, user, e) < 0)
            return -1;
    return 0;
}

void vault_point_unstage(struct vault *v, const char *point)
{
    pthread_mutex_lock(&v->commit_lock);
    staged_drop(v, point);
    pthread_mutex_unlock(&v->commit_lock);
}

/* ---- all of them, or none ---- */

void vault_group_begin(struct vault *v, const char *name, int64_t at_us, struct vault_group *out)
{
    struct vault_point named = {.at_us = at_us ? at_us : clock_read_us(v->options.clock)};

    pthread_mutex_lock(&v->commit_lock);
    point_name(v, &named, v->next_point++);
    pthread_mutex_unlock(&v->commit_lock);
    *out = (struct vault_group){.at_us = named.at_us};
    snprintf(out->id, sizeof out->id, "g%.62s", named.id);
    snprintf(out->name, sizeof out->name, "%s", name);
}

struct revealing {
    const struct vault_group *group;
    const char *text;
};

static int reveal_rows(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    struct revealing *r = user;

    for (size_t i = 0; i < r->group->count; i++) {
        const struct staged *s = *staged_find(v, r->group->points[i].id);

        if (point_insert(v, txn, &s->point, s->sequence, s->text, e) < 0)
            return -1;
    }
    return group_insert(v, txn, r->group, r->text, e);
}

static int commit_locked(struct vault *v, struct vault_group *g, struct err *e)
{
    CLEANUP(free_ptr) char *text = NULL;
    struct revealing r = {.group = g};
    struct vault_hash hash;

    for (size_t i = 0; i < g->count; i++) {
        const struct staged *s = *staged_find(v, g->points[i].id);

        if (!s || strcmp(s->point.group, g->id) != 0)
            return err_set(e, ERR_WRONG_STATE, "point %.64s is not staged for group %s", g->points[i].id, g->id);
        memcpy(g->points[i].server, s->point.server, sizeof s->point.server);
        g->points[i].document = s->document;
    }
    r.text = text = group_text(g);
    hash = point_record_hash(text);
    /* Every document that this one names was made durable when it was staged. */
    if (record_add(v, RECORD_GROUP, text, strlen(text), &hash, NULL, e) < 0 || vault_flush(v, reveal_rows, &r, e) < 0)
        return -1;
    for (size_t i = 0; i < g->count; i++)
        staged_drop(v, g->points[i].id);
    return 0;
}

int vault_group_commit(struct vault *v, struct vault_group *g, struct err *e)
{
    int r;

    if (g->count == 0 || g->count > VAULT_GROUP_MOST)
        return err_set(e, ERR_INVALID, "a group has 1 to %d servers", VAULT_GROUP_MOST);
    use_begin(v);
    pthread_mutex_lock(&v->commit_lock);
    r = commit_locked(v, g, e);
    pthread_mutex_unlock(&v->commit_lock);
    use_end(v);
    return r < 0 ? err_wrap(e, "committing the points of a group") : 0;
}
