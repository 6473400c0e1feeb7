/* run: making runs, their status and their end. */
#include "workflow/engine.h"

#include <stdio.h>
#include <string.h>

#define RUN_COLUMNS "SELECT id, template, wave, server, parent, state, stage, health, actor, started_us, finished_us FROM run"

static void read_run(const struct store_rows *rows, struct arena *arena, struct run *out)
{
    const char **texts[] = {&out->id, &out->template, &out->wave, &out->server, &out->parent, &out->state, &out->stage, &out->health,
                            &out->actor};

    *out = (struct run){0};
    for (int i = 0; i < (int)ARRAY_COUNT(texts); i++)
        *texts[i] = store_is_null(rows, i) ? NULL : arena_strdup(arena, store_text(rows, i));
    out->started_us = store_int(rows, (int)ARRAY_COUNT(texts));
    out->finished_us = store_int(rows, (int)ARRAY_COUNT(texts) + 1);
}

int run_load(struct store_tx *tx, struct arena *arena, const char *id, struct run *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, RUN_COLUMNS " WHERE id = $1", "s", id);

    if (rc >= 0 && (rc = store_next(rows, e)) > 0)
        read_run(rows, arena, out);
    return rc;
}

int run_newest(struct store_tx *tx, struct arena *arena, const char *wave, struct run *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, RUN_COLUMNS " WHERE wave = $1 AND template = 'wave_migration' ORDER BY number DESC LIMIT 1", "s",
                         wave);

    if (rc >= 0 && (rc = store_next(rows, e)) > 0)
        read_run(rows, arena, out);
    return rc;
}

int run_way_back(struct store_tx *tx, struct arena *arena, const char *parent, const char *server, struct run *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, RUN_COLUMNS " WHERE parent = $1 AND server = $2 AND state = 'RUNNING' ORDER BY number DESC LIMIT 1", "ss", parent,
                         server);

    if (rc >= 0 && (rc = store_next(rows, e)) > 0)
        read_run(rows, arena, out);
    return rc;
}

int run_servers(struct store_tx *tx, struct arena *arena, const char *run, const char *const **names, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    const char **list;
    int64_t room = 0;
    int count = 0, rc;

    if (store_one_int(tx, &room, e, "SELECT COUNT(DISTINCT server) FROM task WHERE run = $1", "s", run) < 0
        || store_query(tx, &rows, e, "SELECT DISTINCT server FROM task WHERE run = $1 AND server IS NOT NULL ORDER BY server", "s",
                       run) < 0)
        return -1;
    list = arena_alloc(arena, sizeof *list * (size_t)(room + 1));
    while ((rc = store_next(rows, e)) > 0 && count < room)
        list[count++] = arena_strdup(arena, store_text(rows, 0));
    *names = list;
    return rc < 0 ? -1 : count;
}

int run_event(struct change *c, const char *run, const char *wave, const char *kind, json_t *data, struct err *e)
{
    CLEANUP(json_free) json_t *held = data;
    CLEANUP(free_ptr) char *text = held ? json_text(held) : NULL;

    return event_add(c->tx,
                     &(struct event){.actor = c->actor, .kind = kind, .wave = wave, .entity = "run", .entity_id = run, .data = text},
                     c->now_us, e);
}

static int make_tasks(struct change *c, const struct template *template, const char *run, const char *const *servers, int server_count,
                      int64_t round, struct err *e)
{
    for (const struct template_task *plan = template->tasks; plan->name; plan++) {
        struct task t = {.run = run, .template = template, .plan = plan, .round = round};

        if (plan->flags & TASK_ON_DEMAND)
            continue;
        for (int i = 0; i < (plan->scope == SCOPE_WAVE ? 1 : server_count); i++) {
            t.server = plan->scope == SCOPE_WAVE ? NULL : servers[i];
            if (task_insert(c, &t, e) < 0)
                return -1;
        }
    }
    return 0;
}

static int run_insert(struct change *c, const char *template, const char *wave, const char *server, const char *parent,
                      char id[static WORKFLOW_ID_SIZE], struct err *e)
{
    int64_t number = 0;

    if (store_one_int(c->tx, &number, e, "UPDATE workflow_number SET last = last + 1 WHERE kind = 'run' RETURNING last", "") <= 0)
        return err_wrap(e, "numbering a run");
    snprintf(id, WORKFLOW_ID_SIZE, "r%lld", (long long)number);
    if (store_run(c->tx, e,
                  "INSERT INTO run (id, number, template, wave, server, parent, state, stage, health, actor, started_us, finished_us)"
                  " VALUES ($1, $2, $3, $4, $5, $6, 'RUNNING', '', 'ok', $7, $8, 0)",
                  "sisssssi", id, number, template, wave, server, parent, c->actor, c->now_us) < 0)
        return -1;
    return run_event(c, id, wave, "run.started", json_pack("{s:s, s:s?}", "template", template, "server", server), e);
}

/* A run of one server, or (server NULL) of all the wave's, or of none where the template has no task of a server. */
int run_make(struct change *c, const char *template_name, const char *wave, const char *server, const char *parent, int64_t round,
             char id[static WORKFLOW_ID_SIZE], struct err *e)
{
    const struct template *template = template_find(template_name);
    const char *const one[] = {server};
    const char *const *servers = one;
    int count = server ? 1 : 0;

    MUST(template);
    if (!server && wave && (count = fleet_servers(c->tx, c->arena, wave, &servers, e)) < 0)
        return -1;
    if (run_insert(c, template_name, wave, server, parent, id, e) < 0
        || make_tasks(c, template, id, servers, count, round, e) < 0)
        return -1;
    return settle(c, id, NULL, e);
}

/* ---- The order of a wave's servers ---- */

struct order {
    struct change *c;
    const char *const *names;
    char *marks; /* 0 not seen, 1 on the way, 2 done */
    int count;
};

static int order_visit(struct order *o, int index, struct err *e)
{
    const json_t *server;
    char *list, *rest;

    if (o->marks[index] == 2)
        return 0;
    if (o->marks[index] == 1)
        return err_set(e, ERR_INVALID, "the attributes \"after\" go in a circle at server %s: break it in one of them",
                       o->names[index]);
    o->marks[index] = 1;
    if (change_server(o->c, o->names[index], &server, e) < 0)
        return -1;
    list = arena_strdup(o->c->arena, json_get_string(json_object_get(server, "attributes"), "after", ""));
    for (char *name = strtok_r(list, ", ", &rest); name; name = strtok_r(NULL, ", ", &rest)) {
        int next = 0;

        while (next < o->count && strcmp(o->names[next], name) != 0)
            next++;
        if (next < o->count) {
            if (order_visit(o, next, e) < 0)
                return -1;
        } else if (change_server(o->c, name, &server, e) < 0) { /* of another wave: it must be there */
            return err_wrap(e, "the attribute \"after\" of server %s", o->names[index]);
        }
    }
    o->marks[index] = 2;
    return 0;
}

static int check_order(struct change *c, const char *const *names, int count, struct err *e)
{
    struct order o = {c, names, arena_alloc(c->arena, (size_t)count + 1), count};

    for (int i = 0; i < count; i++)
        if (order_visit(&o, i, e) < 0) {
            if (e && e->kind == ERR_NOT_FOUND)
                e->kind = ERR_INVALID;
            return -1;
        }
    return 0;
}

/* ---- Starting and cancelling ---- */

bool run_not_cut_over(const char *lifecycle)
{
    static const char *const early[] = {"NOT_READY", "READY_FOR_TEST", "TESTING", "READY_FOR_CUTOVER"};

    for (size_t i = 0; i < ARRAY_COUNT(early); i++)
        if (strcmp(early[i], lifecycle) == 0)
            return true;
    return false;
}

/* A server that was cut over, or is on its way in another run, is not started again. */
static int check_servers(struct change *c, const char *const *names, int count, struct err *e)
{
    for (int i = 0; i < count; i++) {
        const json_t *server;
        const char *lifecycle;

        if (change_server(c, names[i], &server, e) < 0)
            return -1;
        lifecycle = json_get_string(server, "lifecycle", "unknown");
        if (!run_not_cut_over(lifecycle))
            return err_set(e, ERR_WRONG_STATE, "server %s is %s: only servers that were not cut over can be migrated", names[i],
                           lifecycle);
    }
    return 0;
}

/* What an earlier run measured is not this one's. */
static int forget_measured(struct change *c, const char *wave, const char *const *names, int count, struct err *e)
{
    if (store_run(c->tx, e, "DELETE FROM measurement WHERE wave = $1", "s", wave) < 0)
        return -1;
    for (int i = 0; i < count; i++)
        if (store_run(c->tx, e, "DELETE FROM replication_age WHERE server = $1", "s", names[i]) < 0
            || store_run(c->tx, e, "DELETE FROM replication_seen WHERE server = $1", "s", names[i]) < 0)
            return -1;
    return 0;
}

int workflow_start_wave(struct workflow *w, const char *wave, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    const struct fleet_wave *found;
    const char *const *names;
    char id[WORKFLOW_ID_SIZE];
    struct run last;
    int count, rc;

    if (change_begin(w, actor, &c, e) < 0 || change_wave(&c, wave, &found, e) < 0 || (rc = run_newest(c.tx, c.arena, wave, &last, e)) < 0
        || (count = fleet_servers(c.tx, c.arena, wave, &names, e)) < 0)
        return -1;
    if (rc > 0 && strcmp(last.state, "RUNNING") == 0)
        return err_set(e, ERR_WRONG_STATE, "wave %s runs already (%s, started by %s)", wave, last.id, last.actor);
    if (count == 0)
        return err_set(e, ERR_WRONG_STATE, "wave %s has no servers: import or assign some first", wave);
    if (check_servers(&c, names, count, e) < 0 || check_order(&c, names, count, e) < 0
        || (rc > 0 && forget_measured(&c, wave, names, count, e) < 0)
        || run_make(&c, "wave_migration", wave, NULL, NULL, 1, id, e) < 0 || change_commit(&c, e) < 0)
        return err_wrap(e, "starting wave %s", wave);
    memcpy(run, id, sizeof id);
    return 0;
}

int workflow_start_probe(struct workflow *w, const char *wave, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    const struct fleet_wave *found;
    char id[WORKFLOW_ID_SIZE];

    if (change_begin(w, actor, &c, e) < 0 || (wave && change_wave(&c, wave, &found, e) < 0)
        || run_make(&c, "target_probe", wave, NULL, NULL, 1, id, e) < 0 || change_commit(&c, e) < 0)
        return err_wrap(e, "starting a probe of the target");
    memcpy(run, id, sizeof id);
    return 0;
}

int workflow_start_source_probe(struct workflow *w, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    char id[WORKFLOW_ID_SIZE];

    if (change_begin(w, actor, &c, e) < 0 || run_make(&c, "source_probe", NULL, NULL, NULL, 1, id, e) < 0 || change_commit(&c, e) < 0)
        return err_wrap(e, "starting a probe of the source network");
    memcpy(run, id, sizeof id);
    return 0;
}

/* One that has failed did not do what is asked for: it is tried again. */
static int push_on(struct change *c, const char *id, const char *server, struct err *e)
{
    struct task push;
    int rc = task_find(c->tx, c->arena, id, server, "push_agent", &push, e);

    return rc <= 0 ? rc : push.state == TASK_FAILED ? people_retry(c, &push, e) : 0;
}

int workflow_push_again(struct workflow *w, const char *server, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    char id[WORKFLOW_ID_SIZE];
    const json_t *found;
    int rc;

    if (change_begin(w, actor, &c, e) < 0 || change_server(&c, server, &found, e) < 0 ||
        store_query(c.tx, &rows, e, "SELECT id FROM run WHERE server = $1 AND template = 'push_again' AND state = 'RUNNING'", "s", server) < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    snprintf(id, sizeof id, "%s", rc ? store_text(rows, 0) : "");
    store_rows_free(&rows);
    if ((rc ? push_on(&c, id, server, e) : run_make(&c, "push_again", json_get_string(found, "wave", NULL), server, NULL, 1, id, e)) < 0 || change_commit(&c, e) < 0)
        return err_wrap(e, "pushing the agent of %s again", server);
    memcpy(run, id, sizeof id);
    return 0;
}

/* No server may be left between quiesce and finalize by a run that nobody works on any more. */
static int check_cancel(const struct task *list, int count, struct err *e)
{
    for (int i = 0; i < count; i++) {
        const struct task *t = &list[i], *end = NULL;

        if (strcmp(t->plan->name, "quiesce") != 0 || (!t->started_us && t->state != TASK_RUNNING))
            continue;
        for (int k = 0; k < count && !end; k++)
            if (strcmp(list[k].plan->name, "finalize") == 0 && strcmp(list[k].server, t->server) == 0)
                end = &list[k];
        if (!end || !task_done(end))
            return err_set(e, ERR_WRONG_STATE, "server %s is in the middle of its cutover: take it back or finalize it first",
                           t->server);
    }
    return 0;
}

int workflow_cancel_run(struct workflow *w, const char *run, const char *actor, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    struct task *list;
    struct run r;
    int count, rc;

    if (change_begin(w, actor, &c, e) < 0 || (rc = run_load(c.tx, c.arena, run, &r, e)) < 0)
        return -1;
    if (rc == 0)
        return err_set(e, ERR_NOT_FOUND, "there is no run %.40s", run);
    if (strcmp(r.state, "RUNNING") != 0)
        return err_set(e, ERR_WRONG_STATE, "run %s is %s already", r.id, r.state);
    if (r.parent)
        return err_set(e, ERR_WRONG_STATE, "run %s takes server %s back: a way back goes to its end (retry what failed)", r.id, r.server);
    if ((count = task_list_all(c.tx, c.arena, run, &list, e)) < 0 || check_cancel(list, count, e) < 0)
        return -1;
    for (int i = 0; i < count; i++) {
        struct task *t = &list[i];

        if (t->state == TASK_RUNNING ? lease_cancel(&c, t, "run", e) < 0
                                     : (!task_done(t) && t->state != TASK_CANCELLED && task_move(&c, t, MOVE_CANCEL, e) < 0))
            return -1;
    }
    return settle_run_status(&c, run, e) < 0 || change_commit(&c, e) < 0 ? -1 : 0;
}
