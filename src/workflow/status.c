/* status: a run's stage, health and end, from its tasks. */
#include "workflow/engine.h"

#include <string.h>

static int count_of(struct change *c, const char *run, const char *where, int64_t *out, struct err *e)
{
    CLEANUP(free_ptr) char *sql =
        xasprintf("SELECT COUNT(*) FROM task t JOIN run r ON r.id = t.run WHERE (r.id = $1 OR (r.parent = $1 AND r.state = 'RUNNING'))"
                  " AND %s", where);

    return store_one_int(c->tx, out, e, sql, "s", run) < 0 ? -1 : 0;
}

/* The phase of the first task that isn't done; "done" where all are. */
static int stage_of(struct change *c, const struct run *r, const char **out, struct err *e)
{
    int64_t position = 0;
    int rc = store_one_int(c->tx, &position, e,
                           "SELECT MIN(position) FROM task WHERE run = $1 AND state NOT IN ('SUCCEEDED', 'SKIPPED')", "s", r->id);

    if (rc >= 0)
        *out = rc == 0 ? "done" : template_find(r->template)->tasks[position].phase;
    return rc < 0 ? -1 : 0;
}

static int health_of(struct change *c, const struct run *r, const char **out, struct err *e)
{
    int64_t failed, stuck, waiting, back = 0;

    if (count_of(c, r->id, "t.state = 'FAILED'", &failed, e) < 0
        || count_of(c, r->id, "t.state = 'WAITING' AND t.wait_kind = 'window' AND t.wait_until_us = 0", &stuck, e) < 0
        || count_of(c, r->id, "t.state = 'WAITING' AND t.wait_kind IN ('person', 'window')", &waiting, e) < 0
        || store_one_int(c->tx, &back, e, "SELECT COUNT(*) FROM run WHERE parent = $1 AND state = 'RUNNING'", "s", r->id) < 0)
        return -1;
    *out = failed ? "failed" : stuck || back ? "attention" : waiting ? "waiting" : "ok";
    return 0;
}

static int finish(struct change *c, const struct run *r, bool cancelled, struct err *e)
{
    const char *state = cancelled ? "CANCELLED" : "SUCCEEDED";

    if (store_run(c->tx, e, "UPDATE run SET state = $1, finished_us = $2 WHERE id = $3 AND state = 'RUNNING'", "sis", state, c->now_us,
                  r->id) != 1)
        return err_wrap(e, "ending run %s", r->id);
    return run_event(c, r->id, r->wave, "run.finished", json_pack("{s:s, s:s, s:s?}", "state", state, "template", r->template, "server",
                                                                  r->server), e);
}

static int note_status(struct change *c, const struct run *r, const char *stage, const char *health, struct err *e)
{
    if (strcmp(stage, r->stage) == 0 && strcmp(health, r->health) == 0)
        return 0;
    if (store_run(c->tx, e, "UPDATE run SET stage = $1, health = $2 WHERE id = $3", "sss", stage, health, r->id) < 0)
        return -1;
    if (strcmp(r->template, "wave_migration") != 0)
        return 0;
    if (fleet_set_stage(c->tx, r->wave, stage, health, r->id, c->actor, c->now_us, e) < 0)
        return -1;
    return event_add(c->tx,
                     &(struct event){.actor = c->actor, .kind = "wave.stage_changed", .wave = r->wave, .entity = "wave",
                                     .entity_id = r->wave,
                                     .data = change_printf(c, "{\"stage\":\"%s\",\"health\":\"%s\",\"before\":{\"stage\":\"%s\",\"health\":\"%s\"}}",
                                                           stage, health, r->stage, r->health)},
                     c->now_us, e);
}

int settle_run_status(struct change *c, const char *run, struct err *e)
{
    const char *stage, *health;
    int64_t open = 0, cancelled = 0;
    struct run r;
    int rc = run_load(c->tx, c->arena, run, &r, e);

    if (rc <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_INTERNAL, "run %s is gone", run);
    if (strcmp(r.state, "RUNNING") != 0)
        return 0;
    /* A way back that goes on will leave tasks to do. */
    if (store_one_int(c->tx, &open, e,
                      "SELECT COUNT(*) FROM task t JOIN run r ON r.id = t.run WHERE (r.id = $1 OR (r.parent = $1 AND r.state = 'RUNNING'))"
                      " AND t.state NOT IN ('SUCCEEDED', 'SKIPPED', 'CANCELLED')",
                      "s", run) < 0
        || store_one_int(c->tx, &cancelled, e, "SELECT COUNT(*) FROM task WHERE run = $1 AND state = 'CANCELLED'", "s", run) < 0
        || stage_of(c, &r, &stage, e) < 0)
        return -1;
    if (open == 0 && finish(c, &r, cancelled > 0, e) < 0)
        return -1;
    if (health_of(c, &r, &health, e) < 0 || note_status(c, &r, stage, open == 0 && cancelled ? "idle" : health, e) < 0)
        return -1;
    if (!r.parent)
        return 0;
    if (open == 0 && !cancelled)
        return strcmp(r.template, "stay") == 0 ? home_stayed(c, &r, e) : back_finished(c, &r, e); /* which settle the parent */
    return settle_run_status(c, r.parent, e);
}
