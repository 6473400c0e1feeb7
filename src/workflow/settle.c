/* settle: what stands between a task and its being ready. Nothing here starts anything: a task that is ready is given to a runner
 * that asks (lease.c). */
#include "workflow/engine.h"

#include <stdlib.h>
#include <string.h>

int settle_window(struct change *c, const char *wave, struct obstacle *out, struct err *e)
{
    const struct fleet_wave *w;
    char opens[CLOCK_TEXT_SIZE], closes[CLOCK_TEXT_SIZE];

    if (change_wave(c, wave, &w, e) < 0)
        return -1;
    if (!w->opens_us || !w->closes_us) {
        *out = (struct obstacle){.kind = "window", .what = "a cutover window: none is set"};
        return 0;
    }
    clock_format(w->opens_us, opens);
    clock_format(w->closes_us, closes);
    if (c->now_us < w->opens_us) {
        *out = (struct obstacle){"window", change_printf(c, "the cutover window: it opens at %s", opens), w->opens_us};
        return 0;
    }
    if (c->now_us >= w->closes_us) {
        *out = (struct obstacle){"window", change_printf(c, "a new cutover window: the last one closed at %s", closes), 0};
        return 0;
    }
    *out = (struct obstacle){0};
    return 1;
}

/* Whether the server's door is open: its own task where the same run has it, else by its lifecycle. 1, 0, -1. */
static int door_is_open(struct change *c, const char *run, const char *server, struct err *e)
{
    static const char *const open_in[] = {"CUTOVER", "DISCONNECTED", "ARCHIVED"};
    CLEANUP(json_free) json_t *found = NULL;
    struct task door;
    int rc = task_find(c->tx, c->arena, run, server, "open_door", &door, e);

    if (rc != 0)
        return rc < 0 ? -1 : task_done(&door);
    rc = fleet_server(c->tx, server, &found, e);
    if (rc <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no server %.100s, named in an attribute after", server);
    for (size_t i = 0; i < ARRAY_COUNT(open_in); i++)
        if (strcmp(json_get_string(found, "lifecycle", ""), open_in[i]) == 0)
            return 1;
    return 0;
}

/* The servers of the attribute `after` whose doors are not open yet. */
static int obstacle_after(struct change *c, const struct task *t, struct obstacle *out, struct err *e)
{
    const json_t *server;
    char *list, *rest, *name;

    if (change_server(c, t->server, &server, e) < 0)
        return -1;
    list = arena_strdup(c->arena, json_get_string(json_object_get(server, "attributes"), "after", ""));
    for (name = strtok_r(list, ", ", &rest); name; name = strtok_r(NULL, ", ", &rest)) {
        int open = door_is_open(c, t->run, name, e);

        if (open < 0)
            return -1;
        if (!open) {
            *out = (struct obstacle){"event", change_printf(c, "the door of %s", name), 0};
            return 0;
        }
    }
    return 0;
}

/* Its services are not stopped for a copy that lacks a disk (replicator/missing.h), nor where nobody can read whether it does. */
static int obstacle_disks(struct change *c, const struct task *t, struct obstacle *out, struct err *e)
{
    const json_t *server, *missing;

    if (change_server(c, t->server, &server, e) < 0)
        return -1;
    missing = json_object_get(json_object_get(server, "replication"), "disks_missing");
    if (strcmp(json_get_string(json_object_get(server, "replication"), "state", ""), "UNKNOWN") == 0)
        *out = (struct obstacle){"event", change_printf(c, "what the replicator says of %s to be readable (slipway server show %s)", t->server, t->server), 0};
    else if (json_array_size(missing))
        *out = (struct obstacle){"event", change_printf(c, "the disk %s to be there, or its loss to be accepted (slipway replication accept %s)",
                                                        json_get_string(json_array_get(missing, 0), "id", "that is missing"), t->server), 0};
    return 0;
}

/* Nor before an agent that is being pushed again is there: who shall take its last change? */
static int obstacle_push(struct change *c, const struct task *t, struct obstacle *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(c->tx, &rows, e, "SELECT id FROM run WHERE server = $1 AND template = 'push_again' AND state = 'RUNNING'", "s", t->server);

    if (rc >= 0 && (rc = store_next(rows, e)) > 0)
        *out = (struct obstacle){"event", change_printf(c, "its agent to be pushed again (slipway run show %s)", store_text(rows, 0)), 0};
    return rc < 0 ? -1 : 0;
}

/* An agent is pushed to a server's address. From quiesce on the source gives that up to its copy, and an agent there would speak for the server. */
static int obstacle_cut_over(struct change *c, const struct task *t, struct obstacle *out, struct err *e)
{
    const json_t *server;
    const char *lifecycle;

    if (change_server(c, t->server, &server, e) < 0)
        return -1;
    lifecycle = json_get_string(server, "lifecycle", "unknown");
    if (!run_not_cut_over(lifecycle))
        *out = (struct obstacle){"event", change_printf(c, "%s to be taken back: it is %s, and its address its copy's (slipway run cancel %s gives this up)", t->server, lifecycle,
                                                        t->run), 0};
    return 0;
}

/* A way back starts when nothing of the server's cutover runs any more, and nothing of a way home that was called off. */
static int obstacle_running(struct change *c, const struct task *t, struct obstacle *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    struct task running;
    int rc;

    rc = store_query(c->tx, &rows, e,
                     "SELECT t.id FROM task t JOIN run r ON r.id = t.run WHERE (r.id = $1 OR r.parent = $1) AND r.id <> $2 AND t.server = $3 AND t.state = 'RUNNING'"
                     " ORDER BY t.number", "sss", t->parent, t->run, t->server);
    while (rc >= 0 && (rc = store_next(rows, e)) > 0) {
        if (task_load(c->tx, c->arena, store_text(rows, 0), &running, e) <= 0)
            return -1;
        if (!running.parent && !task_past_point(&running))
            continue;
        *out = (struct obstacle){"event", change_printf(c, "\"%s\" to stop", running.plan->title), 0};
        return 0;
    }
    return rc < 0 ? -1 : 0;
}

static int obstacle_delay(struct change *c, const struct task *t, struct obstacle *out, struct err *e)
{
    int64_t delay_s = t->plan->delay_s;

    if (t->plan->delay_setting && t->wave) {
        const struct fleet_wave *wave;

        if (change_wave(c, t->wave, &wave, e) < 0)
            return -1;
        delay_s = json_get_int(wave->settings, t->plan->delay_setting, delay_s);
    }
    if (delay_s > 0 && c->now_us < t->due_us + delay_s * US_PER_S)
        *out = (struct obstacle){"time", t->plan->kind == KIND_TIME ? "the hold period" : "enough to have been measured",
                                 t->due_us + delay_s * US_PER_S};
    return 0;
}

/* "door=ask": whether a person is asked for this server. */
static int asks(struct change *c, const struct task *t, bool *out, struct err *e)
{
    const char *condition = t->plan->ask_if, *equals = condition ? strchr(condition, '=') : NULL;
    CLEANUP(free_ptr) char *name = NULL;
    const json_t *server;

    *out = t->plan->kind == KIND_PERSON || t->plan->flags & TASK_ASKS;
    if (!equals)
        return 0;
    if (change_server(c, t->server, &server, e) < 0)
        return -1;
    name = xstrdup(condition);
    name[equals - condition] = '\0';
    *out = strcmp(json_get_string(json_object_get(server, "attributes"), name, ""), equals + 1) == 0;
    return 0;
}

int settle_obstacle(struct change *c, struct task *t, struct obstacle *out, struct err *e)
{
    bool person;

    *out = (struct obstacle){0};
    if (t->not_before_us > c->now_us) {
        *out = (struct obstacle){"time", change_printf(c, "another try after: %s", t->error_message ? t->error_message : "a failure"),
                                 t->not_before_us};
        return 0;
    }
    if (obstacle_delay(c, t, out, e) < 0 || asks(c, t, &person, e) < 0)
        return -1;
    if (!out->kind && person && !t->released)
        *out = (struct obstacle){"person", t->plan->title, 0};
    if (!out->kind && strcmp(t->plan->name, "quiesce") == 0 && !t->started_us && obstacle_after(c, t, out, e) < 0)
        return -1;
    if (!out->kind && strcmp(t->plan->name, "quiesce") == 0 && !t->started_us && obstacle_disks(c, t, out, e) < 0)
        return -1;
    if (!out->kind && strcmp(t->plan->name, "quiesce") == 0 && !t->started_us && obstacle_push(c, t, out, e) < 0)
        return -1;
    if (!out->kind && strcmp(t->template->name, "push_again") == 0 && obstacle_cut_over(c, t, out, e) < 0)
        return -1;
    if (!out->kind && (t->plan->kind == KIND_WINDOW || (t->plan->kind == KIND_STEP && t->plan->flags & TASK_WINDOWED && !t->started_us))
        && settle_window(c, t->wave, out, e) < 0)
        return -1;
    if (!out->kind && t->parent && !t->plan->after[0] && obstacle_running(c, t, out, e) < 0)
        return -1;
    return 0;
}

/* "source:dc1" for the server's network, "source" where any will do. */
static int label_of(struct change *c, const struct task *t, const char **out, struct err *e)
{
    const char *network = NULL;

    *out = t->plan->label;
    if (strcmp(t->plan->label, "source") != 0)
        return 0;
    if (t->server) {
        const json_t *server;

        if (change_server(c, t->server, &server, e) < 0)
            return -1;
        network = json_get_string(json_object_get(server, "attributes"), "network", NULL);
    }
    if (!network && t->wave) {
        const struct fleet_wave *wave;

        if (change_wave(c, t->wave, &wave, e) < 0)
            return -1;
        network = json_get_string(wave->settings, "network", NULL);
    }
    if (network && *network)
        *out = change_printf(c, "source:%s", network);
    return 0;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static int wait_for(struct change *c, struct task *t, const struct obstacle *o, struct err *e)
{
    if (t->state == TASK_WAITING && same_text(t->wait_kind, o->kind) && same_text(t->wait_what, o->what)
        && t->wait_until_us == o->until_us)
        return 0;
    if (t->plan->kind != KIND_STEP && !t->started_us) /* a step starts when a runner has it */
        t->started_us = c->now_us;
    t->wait_kind = change_keep(c, o->kind);
    t->wait_what = change_keep(c, o->what);
    t->wait_until_us = o->until_us;
    return task_move(c, t, MOVE_WAIT, e);
}

int settle_task(struct change *c, struct task *t, struct err *e)
{
    struct obstacle o;

    if (!t->due_us)
        t->due_us = c->now_us;
    if (settle_obstacle(c, t, &o, e) < 0)
        return -1;
    if (o.kind)
        return wait_for(c, t, &o, e);
    if (t->state == TASK_READY)
        return 0;
    if (t->plan->kind == KIND_STEP)
        return label_of(c, t, &t->label, e) < 0 ? -1 : task_move(c, t, MOVE_READY, e);
    if (!t->started_us)
        t->started_us = c->now_us;
    return task_move(c, t, MOVE_SUCCEED, e);
}

/* Whether `name` is done for the server; for a task of the wave: for all servers, at least one. 1, 0, -1. */
static int done_for_all(struct change *c, const struct task *t, const char *name, struct err *e)
{
    int64_t all = 0, done = 0;

    if (store_one_int(c->tx, &all, e, "SELECT COUNT(*) FROM task WHERE run = $1 AND name = $2", "ss", t->run, name) < 0
        || store_one_int(c->tx, &done, e,
                         "SELECT COUNT(*) FROM task WHERE run = $1 AND name = $2 AND state IN ('SUCCEEDED', 'SKIPPED')", "ss", t->run,
                         name) < 0)
        return -1;
    return all > 0 && done == all;
}

static const struct task *on_board(const struct task *board, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(board[i].plan->name, name) == 0)
            return &board[i];
    return NULL;
}

struct board {
    struct task *own, *wave; /* of one server (none for the wave), and of the wave */
    int own_count, wave_count;
};

static int dependencies_done(struct change *c, const struct board *b, const struct task *t, struct err *e)
{
    /* What a way back added stands for everything else that the task waits for. */
    for (int i = 0; i < TEMPLATE_AFTER_MAX && t->plan->after[i]; i++) {
        const struct task *before = on_board(b->own, b->own_count, t->plan->after[i]);

        if (before && before->plan->flags & TASK_ON_DEMAND)
            return task_done(before);
    }
    for (int i = 0; i < TEMPLATE_AFTER_MAX && t->plan->after[i]; i++) {
        const struct template_task *plan = template_task_find(t->template, t->plan->after[i]);
        const struct task *before;

        if (plan->flags & TASK_ON_DEMAND)
            continue;
        if (plan->scope == SCOPE_SERVER && !t->server) {
            int rc = done_for_all(c, t, plan->name, e);

            if (rc <= 0)
                return rc;
            continue;
        }
        before = plan->scope == SCOPE_WAVE ? on_board(b->wave, b->wave_count, plan->name)
                                           : on_board(b->own, b->own_count, plan->name);
        if (!before || !task_done(before))
            return 0;
    }
    return 1;
}

/* One pass is enough: what a task waits for stands before it. */
static int settle_list(struct change *c, const struct board *b, struct task *list, int count, struct err *e)
{
    for (int i = 0; i < count; i++) {
        struct task *t = &list[i];
        int rc;

        if (t->state == TASK_WAITING && strcmp(t->wait_kind, "person") == 0 && !t->released)
            continue;
        if (t->state != TASK_PENDING && t->state != TASK_WAITING)
            continue;
        rc = t->state == TASK_WAITING ? 1 : dependencies_done(c, b, t, e);
        if (rc < 0 || (rc > 0 && settle_task(c, t, e) < 0))
            return err_wrap(e, "%s%s%s", t->plan->title, t->server ? " of " : "", t->server ? t->server : "");
    }
    return 0;
}

/* Returns whether a task of the wave got done. */
static int settle_wave(struct change *c, const char *run, struct err *e)
{
    struct board b = {0};
    int before = 0, after = 0;

    if ((b.wave_count = task_list(c->tx, c->arena, run, NULL, &b.wave, e)) < 0)
        return -1;
    for (int i = 0; i < b.wave_count; i++)
        before += task_done(&b.wave[i]);
    if (settle_list(c, &b, b.wave, b.wave_count, e) < 0)
        return -1;
    for (int i = 0; i < b.wave_count; i++)
        after += task_done(&b.wave[i]);
    return after > before;
}

static int settle_server(struct change *c, const char *run, const char *server, struct err *e)
{
    struct board b = {0};

    if ((b.own_count = task_list(c->tx, c->arena, run, server, &b.own, e)) < 0
        || (b.wave_count = task_list(c->tx, c->arena, run, NULL, &b.wave, e)) < 0)
        return -1;
    return settle_list(c, &b, b.own, b.own_count, e);
}

/* After a task of the wave got done: all servers, until nothing of the wave moves any more. */
static int settle_all(struct change *c, const char *run, struct err *e)
{
    const char *const *names;
    int wave_moved, count = run_servers(c->tx, c->arena, run, &names, e);

    if (count < 0)
        return -1;
    do {
        for (int i = 0; i < count; i++)
            if (settle_server(c, run, names[i], e) < 0)
                return -1;
    } while ((wave_moved = settle_wave(c, run, e)) > 0);
    return wave_moved;
}

int settle(struct change *c, const char *run, const char *server, struct err *e)
{
    int wave_moved;

    if (server && settle_server(c, run, server, e) < 0)
        return -1;
    if ((wave_moved = settle_wave(c, run, e)) < 0)
        return -1;
    if ((wave_moved || !server) && settle_all(c, run, e) < 0)
        return -1;
    return settle_run_status(c, run, e);
}

/* The servers of which something waits for the window or another server, or for a time that is there. */
static int waiting_servers(struct change *c, const char *run, int64_t due_us, const char ***out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    const char **names;
    int64_t room = 0;
    int count = 0, rc = 0;

    if (store_one_int(c->tx, &room, e,
                      "SELECT COUNT(DISTINCT server) FROM task WHERE run = $1 AND state = 'WAITING' AND wait_kind <> 'person' AND (wait_kind <> 'time'"
                      " OR wait_until_us <= $2)", "si", run, due_us) < 0
        || store_query(c->tx, &rows, e,
                       "SELECT DISTINCT server FROM task WHERE run = $1 AND state = 'WAITING' AND wait_kind <> 'person' AND (wait_kind <> 'time'"
                       " OR wait_until_us <= $2) AND server IS NOT NULL ORDER BY server", "si", run, due_us) < 0)
        return -1;
    names = arena_alloc(c->arena, sizeof *names * (size_t)(room + 1));
    while (count < room && (rc = store_next(rows, e)) > 0)
        names[count++] = arena_strdup(c->arena, store_text(rows, 0));
    *out = names;
    return rc < 0 ? -1 : count;
}

int settle_waiting(struct change *c, const char *run, int64_t due_us, struct err *e)
{
    const char **names;
    int moved = c->moved, wave_moved, count = waiting_servers(c, run, due_us, &names, e);

    if (count < 0)
        return -1;
    for (int i = 0; i < count; i++)
        if (settle_server(c, run, names[i], e) < 0)
            return -1;
    if ((wave_moved = settle_wave(c, run, e)) < 0 || (wave_moved && settle_all(c, run, e) < 0))
        return -1;
    return c->moved == moved ? 0 : settle_run_status(c, run, e);
}
