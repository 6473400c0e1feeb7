/* tick: what time brings, a transaction for each run, so that one that can't go on keeps no other from it. */
#include "workflow/engine.h"

#include <stdlib.h>
#include <string.h>

#define LOOK_US (5 * US_PER_S) /* so soon counts what changes how long a wait lasts: a hold period that was made shorter, a clock that was set */

static int64_t real_monotonic_us(void *user)
{
    (void)user;
    return clock_monotonic_us();
}
static const struct clock monotonic_real = {.now_us = real_monotonic_us};

int workflow_open(const struct workflow_settings *settings, struct workflow **out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct workflow *w;
    int64_t last;

    if (store_begin(settings->store, STORE_READ, &tx, e) < 0
        || store_one_int(tx, &last, e, "SELECT last FROM workflow_number WHERE kind = 'task'", "") < 0)
        return err_wrap(e, "opening the workflow (is the database migrated?)");
    w = xcalloc(1, sizeof *w);
    w->settings = *settings;
    if (!w->settings.clock)
        w->settings.clock = &clock_real;
    if (!w->settings.monotonic)
        w->settings.monotonic = &monotonic_real;
    if (!w->settings.lease_us)
        w->settings.lease_us = WORKFLOW_LEASE_MS * US_PER_MS;
    w->ticked_us = clock_read_us(w->settings.monotonic);
    pthread_mutex_init(&w->lock, NULL);
    *out = w;
    return 0;
}

void workflow_close(struct workflow **w)
{
    if (!*w)
        return;
    pthread_mutex_destroy(&(*w)->lock);
    free((*w)->leases);
    free(*w);
    *w = NULL;
}

static int tick_leases(struct workflow *w, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    int rc;

    if (change_begin(w, "factory", &c, e) < 0)
        return -1;
    pthread_mutex_lock(&w->lock);
    rc = lease_tick(&c, e);
    pthread_mutex_unlock(&w->lock);
    return rc < 0 || change_commit(&c, e) < 0 ? -1 : c.moved;
}

/* A server that was allowed to cut over again and has not begun: the permission was for the window that closed. */
static int close_server(struct change *c, const char *run, const char *server, bool *at_gate, struct err *e)
{
    struct task quiesce, again;
    int rc = task_find(c->tx, c->arena, run, server, "quiesce", &quiesce, e), has_again;

    if (rc <= 0)
        return rc;
    if (quiesce.started_us || (quiesce.state != TASK_PENDING && quiesce.state != TASK_READY && quiesce.state != TASK_WAITING))
        return 0;
    if ((has_again = task_find(c->tx, c->arena, run, server, "cut_over_again", &again, e)) < 0)
        return -1;
    if (has_again && !task_done(&again))
        return 0;
    if (!has_again)
        *at_gate = true;
    if (has_again && task_reset(c, &again, again.round, e) < 0)
        return -1;
    return quiesce.state == TASK_PENDING ? 0 : task_reset(c, &quiesce, quiesce.round, e);
}

/* The servers whose quiesce has not begun. */
static int not_begun(struct change *c, const char *run, const char ***out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    const char **names;
    int64_t room = 0;
    int count = 0, rc = 0;

    if (store_one_int(c->tx, &room, e, "SELECT COUNT(*) FROM task WHERE run = $1 AND name = 'quiesce' AND state IN ('PENDING', 'READY', 'WAITING')", "s",
                      run) < 0
        || store_query(c->tx, &rows, e, "SELECT server FROM task WHERE run = $1 AND name = 'quiesce' AND state IN ('PENDING', 'READY', 'WAITING')"
                                        " ORDER BY server", "s", run) < 0)
        return -1;
    names = arena_alloc(c->arena, sizeof *names * (size_t)(room + 1));
    while (count < room && (rc = store_next(rows, e)) > 0)
        names[count++] = arena_strdup(c->arena, store_text(rows, 0));
    *out = names;
    return rc < 0 ? -1 : count;
}

/* When the window closes, what has not begun waits for the next one, and for another go: that one was given for this window. */
static int close_window(struct change *c, const struct run *r, struct err *e)
{
    struct task window, go;
    struct obstacle o;
    const char **servers;
    bool at_gate = false;
    int rc = task_find(c->tx, c->arena, r->id, NULL, "window", &window, e), count;

    if (rc <= 0 || window.state != TASK_SUCCEEDED)
        return rc < 0 ? -1 : 0;
    if ((rc = settle_window(c, r->wave, &o, e)) != 0)
        return rc < 0 ? -1 : 0;
    if (task_find(c->tx, c->arena, r->id, NULL, "go_no_go", &go, e) <= 0
        || (count = not_begun(c, r->id, &servers, e)) < 0)
        return -1;
    for (int i = 0; i < count; i++)
        if (close_server(c, r->id, servers[i], &at_gate, e) < 0)
            return -1;
    if (!at_gate)
        return 0;
    if (task_reset(c, &window, window.round, e) < 0
        || (go.state != TASK_PENDING && task_reset(c, &go, go.round, e) < 0))
        return -1;
    return 0;
}

static int tick_run(struct workflow *w, const char *id, int64_t due_us, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    struct run r;

    if (change_begin(w, "factory", &c, e) < 0 || run_load(c.tx, c.arena, id, &r, e) <= 0)
        return -1;
    if (strcmp(r.state, "RUNNING") != 0)
        return 0;
    if (strcmp(r.template, "wave_migration") == 0 && close_window(&c, &r, e) < 0)
        return -1;
    if ((c.moved ? settle(&c, id, NULL, e) : settle_waiting(&c, id, due_us, e)) < 0 || change_commit(&c, e) < 0)
        return err_wrap(e, "run %s", id);
    return c.moved;
}

/* Runs in which something waits for a window, an event or a time that is there, or in which a window that was open may have closed. */
static int runs_to_look_at(struct store_tx *tx, struct arena *arena, int64_t due_us, const char ***out, struct err *e)
{
    static const char which[] = " FROM run r WHERE r.state = 'RUNNING' AND EXISTS (SELECT 1 FROM task t WHERE t.run = r.id"
                                " AND ((t.state = 'WAITING' AND t.wait_kind <> 'person' AND (t.wait_kind <> 'time' OR t.wait_until_us <= $1))"
                                " OR (t.name IN ('go_no_go', 'quiesce', 'cut_over_again') AND t.state IN ('READY', 'WAITING'))))";
    CLEANUP(free_ptr) char *counted = xasprintf("SELECT COUNT(*)%s", which), *listed = xasprintf("SELECT r.id%s ORDER BY r.number", which);
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    const char **ids;
    int64_t room = 0;
    int count = 0, rc = 0;

    if (store_one_int(tx, &room, e, counted, "i", due_us) < 0 || store_query(tx, &rows, e, listed, "i", due_us) < 0)
        return -1;
    ids = arena_alloc(arena, sizeof *ids * (size_t)(room + 1));
    while (count < room && (rc = store_next(rows, e)) > 0)
        ids[count++] = arena_strdup(arena, store_text(rows, 0));
    *out = ids;
    return rc < 0 ? -1 : count;
}

/* Until when a time must be for this tick to look at what waits for it: until now, and every few seconds whenever. */
static int64_t due(struct workflow *w)
{
    int64_t mono_us = clock_read_us(w->settings.monotonic), due_us = clock_read_us(w->settings.clock);

    pthread_mutex_lock(&w->lock);
    if (!w->looked_us || mono_us - w->looked_us >= LOOK_US) {
        w->looked_us = mono_us;
        due_us = INT64_MAX;
    }
    pthread_mutex_unlock(&w->lock);
    return due_us;
}

int workflow_tick(struct workflow *w, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t due_us = due(w);
    const char **ids;
    int moved = tick_leases(w, e), count, rc = 0;

    if (moved < 0)
        return err_wrap(e, "looking at the leases");
    if (store_begin(w->settings.store, STORE_READ, &tx, e) < 0
        || (count = runs_to_look_at(tx, arena, due_us, &ids, e)) < 0)
        return -1;
    store_rollback(&tx);
    for (int i = 0; i < count; i++) {
        int one = tick_run(w, ids[i], due_us, rc < 0 ? NULL : e);

        if (one < 0)
            rc = -1;
        else
            moved += one;
    }
    return rc < 0 ? -1 : moved;
}
