/* people: what a person decides about a task. */
#include "workflow/engine.h"

#include "base/limits.h"

#include <string.h>

int people_decided(struct change *c, const struct task *t, const char **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    char at[CLOCK_TEXT_SIZE];
    int rc = store_query(c->tx, &rows, e,
                         "SELECT decision, actor, at_us FROM decision WHERE task = $1 AND round = $2 ORDER BY number DESC LIMIT 1", "si",
                         t->id, t->round);

    if (rc >= 0 && (rc = store_next(rows, e)) > 0)
        *out = change_printf(c, "%s by %s at %s", strcmp(store_text(rows, 0), "approve") == 0 ? "approved" : "rejected",
                             store_text(rows, 1), clock_format(store_int(rows, 2), at));
    return rc;
}

static int note_decision(struct change *c, const struct task *t, const char *decision, const char *note, struct err *e)
{
    int64_t number = 0;

    if (note && strlen(note) > LIMIT_EVIDENCE_TEXT_BYTES)
        return err_set(e, ERR_LIMIT, "the note has more than %d bytes", LIMIT_EVIDENCE_TEXT_BYTES);
    if (store_one_int(c->tx, &number, e, "SELECT MAX(number) FROM decision WHERE task = $1", "s", t->id) < 0
        || store_run(c->tx, e, "INSERT INTO decision (task, number, round, at_us, actor, decision, note) VALUES ($1, $2, $3, $4, $5, $6, $7)",
                     "siiisss", t->id, number + 1, t->round, c->now_us, c->actor, decision, note) < 0)
        return -1;
    return task_event(c, t, "task.decided", json_pack("{s:s, s:s?}", "decision", decision, "note", note), e);
}

static bool waits_for_person(const struct task *t)
{
    return t->state == TASK_WAITING && t->wait_kind && strcmp(t->wait_kind, "person") == 0 && !t->released;
}

/* Why it can't be decided now: ERR_CONFLICT where somebody was quicker, else ERR_WRONG_STATE. */
static int check_decidable(struct change *c, const struct task *t, struct err *e)
{
    const char *decided;
    int rc;

    if (waits_for_person(t))
        return 0;
    rc = people_decided(c, t, &decided, e);
    if (rc < 0)
        return -1;
    if (rc > 0)
        return err_set(e, ERR_CONFLICT, "\"%s\" was %s", t->plan->title, decided);
    return err_set(e, ERR_WRONG_STATE, "\"%s\"%s%s is %s: it does not wait for a person%s%s", t->plan->title, t->server ? " of " : "",
                   t->server ? t->server : "", task_state_name(t->state), t->wait_what ? "; it waits for " : "",
                   t->wait_what ? t->wait_what : "");
}

int people_approve(struct change *c, struct task *t, const char *note, struct err *e)
{
    struct obstacle o;
    int open;

    if (check_decidable(c, t, e) < 0)
        return -1;
    if (t->plan->flags & TASK_WINDOWED) {
        if ((open = settle_window(c, t->wave, &o, e)) < 0)
            return -1;
        if (!open)
            return err_set(e, ERR_WRONG_STATE, "outside the cutover window: it waits for %s", o.what);
    }
    if (note_decision(c, t, "approve", note, e) < 0)
        return -1;
    t->released = true;
    return settle_task(c, t, e) < 0 || settle(c, t->run, t->server, e) < 0 ? -1 : 0;
}

static int reject(struct change *c, struct task *t, const char *note, struct err *e)
{
    if (check_decidable(c, t, e) < 0 || note_decision(c, t, "reject", note, e) < 0)
        return -1;
    t->error_kind = err_meaning(ERR_DENIED)->name;
    t->error_message = change_printf(c, "rejected by %s%s%s", c->actor, note && *note ? ": " : "", note ? note : "");
    return task_move(c, t, MOVE_FAIL, e) < 0 || settle_run_status(c, t->run, e) < 0 ? -1 : 0;
}

int workflow_decide(struct workflow *w, const char *task, bool approve, const char *note, const char *actor, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    struct err why = {0};
    struct task t;

    if (change_begin(w, actor, &c, e) < 0 || task_need(&c, task, &t, e) < 0)
        return -1;
    if ((approve ? people_approve(&c, &t, note, &why) : reject(&c, &t, note, &why)) < 0) {
        CLEANUP(free_ptr) char *what = xasprintf("%s %s", approve ? "approve" : "reject", t.plan->name);
        CLEANUP(free_ptr) char *wave = xstrdup(t.wave), *server = xstrdup(t.server);

        change_release(&c);
        if (why.kind == ERR_WRONG_STATE)
            refuse(w, what, wave, server, actor, &why);
        if (e)
            *e = why;
        return -1;
    }
    return change_commit(&c, e);
}

int people_retry(struct change *c, struct task *t, struct err *e)
{
    t->failures = t->lost = t->not_before_us = t->finished_us = 0;
    if (t->plan->kind == KIND_PERSON)
        t->released = false;
    return task_move(c, t, MOVE_RETRY, e) < 0 || settle(c, t->run, t->server, e) < 0 ? -1 : 0;
}

int workflow_retry(struct workflow *w, const char *task, const char *actor, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    struct obstacle o;
    struct task t;
    int open = 1;

    if (change_begin(w, actor, &c, e) < 0 || task_need(&c, task, &t, e) < 0)
        return -1;
    if (t.state != TASK_FAILED)
        return err_set(e, ERR_WRONG_STATE, "\"%s\" is %s: only what FAILED can be tried again", t.plan->title, task_state_name(t.state));
    if (t.plan->kind == KIND_STEP && t.plan->flags & TASK_WINDOWED && (open = settle_window(&c, t.wave, &o, e)) < 0)
        return -1;
    if (!open)
        return err_set(e, ERR_WRONG_STATE, "outside the cutover window, \"%s\" is not tried again: take server %s back, or wait for %s",
                       t.plan->title, t.server, o.what);
    return people_retry(&c, &t, e) < 0 ? -1 : change_commit(&c, e);
}

int workflow_skip(struct workflow *w, const char *task, const char *reason, const char *actor, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    struct task t;

    if (!reason || strlen(reason) < 3 || strlen(reason) > LIMIT_EVIDENCE_TEXT_BYTES)
        return err_set(e, ERR_INVALID, "say why it is skipped: the report names it (3 to %d bytes)", LIMIT_EVIDENCE_TEXT_BYTES);
    if (change_begin(w, actor, &c, e) < 0 || task_need(&c, task, &t, e) < 0)
        return -1;
    if (t.plan->flags & TASK_NEEDED)
        return err_set(e, ERR_WRONG_STATE, "\"%s\" can't be skipped: what comes after depends on it", t.plan->title);
    /* It would let what comes after it go before what comes before it. */
    if (t.state == TASK_PENDING)
        return err_set(e, ERR_WRONG_STATE, "\"%s\" can't be skipped before its turn: other tasks come first", t.plan->title);
    t.reason = reason;
    if (task_move(&c, &t, MOVE_SKIP, e) < 0 || settle(&c, t.run, t.server, e) < 0)
        return -1;
    return change_commit(&c, e);
}

int workflow_cancel_task(struct workflow *w, const char *task, const char *actor, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    struct err why;
    struct task t;

    if (change_begin(w, actor, &c, e) < 0 || task_need(&c, task, &t, e) < 0)
        return -1;
    if (t.state == TASK_RUNNING && t.cancel_cause)
        return err_set(e, ERR_CONFLICT, "\"%s\" was told to stop already, by %s", t.plan->title, t.cancel_by ? t.cancel_by : "somebody");
    if (t.state == TASK_RUNNING)
        return lease_cancel(&c, &t, "task", e) < 0 ? -1 : change_commit(&c, e);
    if (t.state != TASK_READY && !(t.state == TASK_WAITING && strcmp(t.wait_kind, "time") == 0 && t.plan->kind == KIND_STEP))
        return err_set(e, ERR_WRONG_STATE, "\"%s\" is %s: there is nothing to stop", t.plan->title, task_state_name(t.state));
    err_set(&why, ERR_CANCELLED, "cancelled by %s", actor);
    t.error_kind = err_meaning(why.kind)->name;
    t.error_message = why.message;
    if (task_move(&c, &t, MOVE_FAIL, e) < 0 || settle_run_status(&c, t.run, e) < 0)
        return -1;
    return change_commit(&c, e);
}
