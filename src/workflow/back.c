/* back: the way back of a server: what its cutover did is undone by a run of the template way_back; then its part of the wave's run from
 * quiesce on is as before, in a new round, and waits for somebody to let it cut over again. */
#include "workflow/engine.h"

#include <stdio.h>
#include <string.h>

#define WORDS_HOLD_MINUTES 10

static void words_for(const char *server, int64_t minutes, char words[static WORKFLOW_WORDS_SIZE])
{
    snprintf(words, WORKFLOW_WORDS_SIZE, "lose %lld minute%s of %s", (long long)minutes, minutes == 1 ? "" : "s", server);
}

/* Words that were given out a little while ago name fewer minutes than now. */
static bool confirmed(const char *server, int64_t minutes, const char *confirm)
{
    char words[WORKFLOW_WORDS_SIZE];

    for (int64_t said = minutes; confirm && said > 0 && said >= minutes - WORDS_HOLD_MINUTES; said--) {
        words_for(server, said, words);
        if (strcmp(words, confirm) == 0)
            return true;
    }
    return false;
}

/* How much the instance wrote since its door opened, where somebody measured it: in words, or "". */
static const char *written(struct change *c, const struct run *r, const char *server, struct err *e)
{
    CLEANUP(json_free) json_t *result = NULL;
    struct task sized;
    int64_t bytes;

    if (task_find(c->tx, c->arena, r->id, server, "right_size", &sized, e) <= 0 || !sized.result)
        return "";
    result = json_loads(sized.result, 0, NULL);
    bytes = json_get_int(result, "disk_written_bytes", -1);
    return bytes < 0 ? "" : change_printf(c, " (it had written %lld bytes when it was measured)", (long long)bytes);
}

/* After the door was opened, clients may have written to the copy: going back loses that, and only words that say so do it. */
static int check_door(struct change *c, const struct run *r, const struct task *door, const char *confirm,
                      char words[static WORKFLOW_WORDS_SIZE], struct err *e)
{
    char at[CLOCK_TEXT_SIZE];
    int64_t minutes;

    if (!door->started_us)
        return 0;
    minutes = c->now_us > door->started_us ? (c->now_us - door->started_us + 60 * US_PER_S - 1) / (60 * US_PER_S) : 1;
    if (confirmed(door->server, minutes, confirm))
        return 0;
    words_for(door->server, minutes, words);
    return err_set(e, ERR_WRONG_STATE,
                   "the door of %s was opened at %s: what its clients wrote in the %lld minute%s since%s would be lost by going back;"
                   " bring it home (--bring-changes), or, if losing it is meant, repeat this with the words \"%s\"",
                   door->server, clock_format(door->started_us, at), (long long)minutes, minutes == 1 ? "" : "s",
                   written(c, r, door->server, e), words);
}

int back_check(struct change *c, const char *server, struct run *r, struct task *door, struct err *e)
{
    struct task quiesce, finalize;
    struct run back;
    char at[CLOCK_TEXT_SIZE];
    int rc;

    if (action_task(c, server, "quiesce", r, &quiesce, e) < 0 || action_task(c, server, "open_door", r, door, e) < 0
        || action_task(c, server, "finalize", r, &finalize, e) < 0
        || (rc = run_way_back(c->tx, c->arena, r->id, server, &back, e)) < 0)
        return -1;
    if (rc > 0)
        return err_set(e, ERR_CONFLICT, "server %s is being taken back already: run %s, by %s since %s", server, back.id, back.actor,
                       clock_format(back.started_us, at));
    if (finalize.started_us || task_done(&finalize))
        return err_set(e, ERR_WRONG_STATE, "server %s was finalized at %s: there is no way back after that", server,
                       clock_format(finalize.started_us, at));
    if (!quiesce.started_us)
        return err_set(e, ERR_WRONG_STATE, "there is nothing to take back: the source of %s serves", server);
    if (strcmp(r->state, "RUNNING") != 0)
        return err_set(e, ERR_WRONG_STATE, "run %s of wave %s is %s", r->id, r->wave, r->state);
    return 0;
}

int back_stop_cutover(struct change *c, const struct run *r, const char *server, int64_t *round, struct err *e)
{
    struct task *list;
    int count = task_list(c->tx, c->arena, r->id, server, &list, e);

    if (count < 0)
        return -1;
    for (int i = 0; i < count; i++) {
        struct task *t = &list[i];

        if (!task_past_point(t))
            continue;
        if (t->round > *round)
            *round = t->round;
        if (t->state == TASK_RUNNING ? lease_cancel(c, t, "back", e) < 0
                                     : (!task_done(t) && t->state != TASK_CANCELLED && task_move(c, t, MOVE_CANCEL, e) < 0))
            return -1;
    }
    return 0;
}

static int take_back(struct change *c, const char *server, const char *confirm, char run[static WORKFLOW_ID_SIZE],
                     char words[static WORKFLOW_WORDS_SIZE], struct err *e)
{
    int64_t round = 1;
    struct task door;
    struct run r;

    if (back_check(c, server, &r, &door, e) < 0 || check_door(c, &r, &door, confirm, words, e) < 0 || back_stop_cutover(c, &r, server, &round, e) < 0)
        return -1;
    return run_make(c, "way_back", r.wave, server, r.id, round, run, e) < 0 || settle_run_status(c, r.id, e) < 0 ? -1 : 0;
}

int workflow_server_back(struct workflow *w, const char *server, const char *confirm, const char *actor,
                         char run[static WORKFLOW_ID_SIZE], char words[static WORKFLOW_WORDS_SIZE], struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(free_ptr) char *wave = NULL;
    char made[WORKFLOW_ID_SIZE];
    struct err why = {0};
    const json_t *found;

    words[0] = '\0';
    if (change_begin(w, actor, &c, &why) == 0 && take_back(&c, server, confirm, made, words, &why) == 0
        && change_commit(&c, &why) == 0) {
        memcpy(run, made, sizeof made);
        return 0;
    }
    if (c.tx && change_server(&c, server, &found, NULL) == 0)
        wave = xstrdup(json_get_string(found, "wave", NULL));
    change_release(&c);
    if (why.kind == ERR_WRONG_STATE)
        refuse(w, "back", wave, server, actor, &why);
    if (e)
        *e = why;
    return -1;
}

/* ---- Afterwards ---- */

/* The task that lets the server cut over again is made at its first way back. */
static int add_again(struct change *c, const struct run *r, int64_t round, struct err *e)
{
    const struct template *template = template_find("wave_migration");
    struct task again;
    int rc = task_find(c->tx, c->arena, r->parent, r->server, "cut_over_again", &again, e);

    if (rc != 0)
        return rc < 0 ? -1 : 0;
    again = (struct task){.run = r->parent, .server = r->server, .template = template,
                          .plan = template_task_find(template, "cut_over_again"), .round = round};
    return task_insert(c, &again, e);
}

int back_finished(struct change *c, const struct run *r, struct err *e)
{
    struct task *list;
    int64_t round = 0;
    int count = task_list(c->tx, c->arena, r->parent, r->server, &list, e);

    if (count < 0)
        return -1;
    for (int i = 0; i < count; i++)
        if (task_past_point(&list[i]) && list[i].round > round)
            round = list[i].round;
    for (int i = 0; i < count; i++)
        if (task_past_point(&list[i]) && task_reset(c, &list[i], round + 1, e) < 0)
            return -1;
    if (add_again(c, r, round + 1, e) < 0 || effect_taken_back(c, r->server, e) < 0)
        return err_wrap(e, "after taking %s back", r->server);
    return settle(c, r->parent, r->server, e);
}
