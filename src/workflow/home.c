/* home: the way back that loses nothing. What the launched machine has written since its door opened is brought onto the source's disks before the source
 * serves again (template way_home); until the launched machine is stopped, it can be called off: then that one goes on serving (template stay). */
#include "workflow/engine.h"

#include <string.h>

static int bring_home(struct change *c, const char *server, char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    int64_t round = 1;
    struct task door;
    struct run r;

    if (back_check(c, server, &r, &door, e) < 0)
        return -1;
    if (!door.started_us)
        return err_set(e, ERR_WRONG_STATE, "the door of %s was not opened: no client has written to its copy, and going back loses nothing (slipway server back %s)", server,
                       server);
    if (back_stop_cutover(c, &r, server, &round, e) < 0)
        return -1;
    return run_make(c, "way_home", r.wave, server, r.id, round, run, e) < 0 || settle_run_status(c, r.id, e) < 0 ? -1 : 0;
}

/* The way home of the server that goes on, while its launched machine can still be kept. */
static int need_home(struct change *c, const char *server, struct run *wave, struct run *home, struct err *e)
{
    char at[CLOCK_TEXT_SIZE];
    struct task ignored, stop;
    int rc;

    if (action_task(c, server, "quiesce", wave, &ignored, e) < 0 || (rc = run_way_back(c->tx, c->arena, wave->id, server, home, e)) < 0)
        return -1;
    if (rc == 0)
        return err_set(e, ERR_WRONG_STATE, "server %s is not being taken back", server);
    if (strcmp(home->template, "stay") == 0)
        return err_set(e, ERR_CONFLICT, "the launched machine of %s is being kept already: run %s, by %s since %s", server, home->id, home->actor,
                       clock_format(home->started_us, at));
    if (strcmp(home->template, "way_home") != 0)
        return err_set(e, ERR_WRONG_STATE, "server %s is being taken back without what was written since: that goes to its end (retry what failed)", server);
    if ((rc = task_find(c->tx, c->arena, home->id, server, "stop_instance", &stop, e)) <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_CORRUPT, "run %s has no task that stops the launched machine", home->id);
    if (stop.started_us || task_done(&stop))
        return err_set(e, ERR_WRONG_STATE, "the launched machine of %s was stopped at %s: the source has all of it on its disks, and serves next", server,
                       clock_format(stop.started_us, at));
    return 0;
}

static int stay(struct change *c, const char *server, char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    struct run wave, home;
    struct task *list;
    int count;

    if (need_home(c, server, &wave, &home, e) < 0 || (count = task_list(c->tx, c->arena, home.id, server, &list, e)) < 0)
        return -1;
    for (int i = 0; i < count; i++) {
        struct task *t = &list[i];

        if (t->state == TASK_RUNNING ? lease_cancel(c, t, "run", e) < 0
                                     : (!task_done(t) && t->state != TASK_CANCELLED && task_move(c, t, MOVE_CANCEL, e) < 0))
            return -1;
    }
    if (run_make(c, "stay", wave.wave, server, wave.id, count ? list[0].round : 1, run, e) < 0)
        return -1;
    return settle_run_status(c, home.id, e) < 0 || settle_run_status(c, wave.id, e) < 0 ? -1 : 0;
}

/* In a transaction; a refusal is remembered. */
static int act(struct workflow *w, const char *what, const char *server, const char *actor,
               int (*does)(struct change *c, const char *server, char run[static WORKFLOW_ID_SIZE], struct err *e), char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(free_ptr) char *wave = NULL;
    char made[WORKFLOW_ID_SIZE];
    struct err why = {0};
    const json_t *found;

    if (change_begin(w, actor, &c, &why) == 0 && does(&c, server, made, &why) == 0 && change_commit(&c, &why) == 0) {
        memcpy(run, made, sizeof made);
        return 0;
    }
    if (c.tx && change_server(&c, server, &found, NULL) == 0)
        wave = xstrdup(json_get_string(found, "wave", NULL));
    change_release(&c);
    if (why.kind == ERR_WRONG_STATE)
        refuse(w, what, wave, server, actor, &why);
    if (e)
        *e = why;
    return -1;
}

int workflow_server_home(struct workflow *w, const char *server, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    return act(w, "back", server, actor, bring_home, run, e);
}

int workflow_server_stay(struct workflow *w, const char *server, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e)
{
    return act(w, "stay", server, actor, stay, run, e);
}

/* In a round of its own: an attempt that was told to stop may have come to its end all the same. So a door that was being opened may be open, and
 * that is not forgotten: a way back asks since when clients may have written. */
static int go_on(struct change *c, struct task *t, struct err *e)
{
    int64_t opened_us = strcmp(t->plan->name, "open_door") == 0 ? t->started_us : 0;

    if (task_reset(c, t, t->round + 1, e) < 0)
        return -1;
    t->started_us = opened_us;
    return opened_us ? task_save(c, t, e) : 0;
}

/* What the way home had stopped of the server's cutover goes on. */
int home_stayed(struct change *c, const struct run *r, struct err *e)
{
    struct task *list;
    int count = task_list(c->tx, c->arena, r->parent, r->server, &list, e);

    for (int i = 0; i < count; i++)
        if (task_past_point(&list[i]) && list[i].state == TASK_CANCELLED && go_on(c, &list[i], e) < 0)
            return err_wrap(e, "after %s stayed", r->server);
    return count < 0 ? -1 : settle(c, r->parent, r->server, e);
}
