#include "workflow/engine.h"

#include <string.h>

static const char *const state_names[TASK_STATE_COUNT] = {"PENDING",   "READY",  "RUNNING", "WAITING",
                                                          "SUCCEEDED", "FAILED", "SKIPPED", "CANCELLED"};
#define BIT(state) (1u << TASK_##state)

/* Every way in which a task changes: from which states, to which, and the event that says so. */
static const struct {
    unsigned from;
    enum task_state to;
    const char *event;
} moves[MOVE_COUNT] = {
    [MOVE_READY] = {BIT(PENDING) | BIT(WAITING), TASK_READY, "task.readied"},
    [MOVE_WAIT] = {BIT(PENDING) | BIT(READY) | BIT(WAITING), TASK_WAITING, "task.waited"},
    [MOVE_START] = {BIT(READY), TASK_RUNNING, "task.started"},
    [MOVE_SUCCEED] = {BIT(PENDING) | BIT(WAITING) | BIT(RUNNING), TASK_SUCCEEDED, "task.succeeded"},
    [MOVE_FAIL] = {BIT(READY) | BIT(WAITING) | BIT(RUNNING), TASK_FAILED, "task.failed"},
    [MOVE_BACK_OFF] = {BIT(RUNNING), TASK_WAITING, "task.backed_off"},
    [MOVE_LOSE] = {BIT(RUNNING), TASK_READY, "task.lost"},
    [MOVE_SKIP] = {BIT(READY) | BIT(WAITING) | BIT(FAILED), TASK_SKIPPED, "task.skipped"},
    [MOVE_CANCEL] = {BIT(PENDING) | BIT(READY) | BIT(WAITING) | BIT(RUNNING) | BIT(FAILED), TASK_CANCELLED, "task.cancelled"},
    [MOVE_RETRY] = {BIT(FAILED), TASK_PENDING, "task.retried"},
    [MOVE_AGAIN] = {BIT(PENDING) | BIT(READY) | BIT(WAITING) | BIT(SUCCEEDED) | BIT(FAILED) | BIT(SKIPPED) | BIT(CANCELLED), TASK_PENDING,
                    "task.reset"},
};

const char *task_state_name(enum task_state state)
{
    MUST(state < TASK_STATE_COUNT);
    return state_names[state];
}

#define COLUMNS \
    "t.id, t.run, r.wave, r.parent, t.server, r.template, t.name, t.state, t.round, t.due_us, t.not_before_us, t.released," \
    " t.wait_kind, t.wait_what, t.wait_until_us, t.label, t.fence, t.attempt, t.failures, t.lost, t.started_us, t.finished_us," \
    " t.progress, t.progress_event_us, t.error_kind, t.error_message, t.result, t.reason, t.cancel_cause, t.cancel_by" \
    " FROM task t JOIN run r ON r.id = t.run"

static int state_named(const char *name, enum task_state *out)
{
    for (int i = 0; name && i < TASK_STATE_COUNT; i++)
        if (strcmp(state_names[i], name) == 0) {
            *out = (enum task_state)i;
            return 0;
        }
    return -1;
}

/* The row's texts are copied: they live only until the next row. */
static int read_row(const struct store_rows *rows, struct arena *arena, struct task *out, struct err *e)
{
    struct task t = {0};
    int column = 0;
    const char *template, *name, *state;

#define TEXT_COLUMN() (store_is_null(rows, column) ? (column++, NULL) : arena_strdup(arena, store_text(rows, column++)))
#define INT_COLUMN() store_int(rows, column++)
    t.id = TEXT_COLUMN(), t.run = TEXT_COLUMN(), t.wave = TEXT_COLUMN(), t.parent = TEXT_COLUMN(), t.server = TEXT_COLUMN();
    template = TEXT_COLUMN(), name = TEXT_COLUMN(), state = TEXT_COLUMN();
    t.round = INT_COLUMN(), t.due_us = INT_COLUMN(), t.not_before_us = INT_COLUMN(), t.released = INT_COLUMN() != 0;
    t.wait_kind = TEXT_COLUMN(), t.wait_what = TEXT_COLUMN(), t.wait_until_us = INT_COLUMN();
    t.label = TEXT_COLUMN(), t.fence = INT_COLUMN(), t.attempt = TEXT_COLUMN();
    t.failures = INT_COLUMN(), t.lost = INT_COLUMN(), t.started_us = INT_COLUMN(), t.finished_us = INT_COLUMN();
    t.progress = TEXT_COLUMN(), t.progress_event_us = INT_COLUMN();
    t.error_kind = TEXT_COLUMN(), t.error_message = TEXT_COLUMN(), t.result = TEXT_COLUMN(), t.reason = TEXT_COLUMN();
    t.cancel_cause = TEXT_COLUMN(), t.cancel_by = TEXT_COLUMN();
#undef TEXT_COLUMN
#undef INT_COLUMN
    t.template = template_find(template);
    t.plan = t.template ? template_task_find(t.template, name) : NULL;
    if (!t.plan)
        return err_set(e, ERR_CORRUPT, "task %s is %s of the template %s, which this program does not have", t.id, name, template);
    if (state_named(state, &t.state) < 0)
        return err_set(e, ERR_CORRUPT, "task %s is in the state \"%s\", which this program does not know", t.id, state);
    *out = t;
    return 0;
}

/* Reads what is left of rows into an array in the arena. */
static int read_rows(struct store_rows *rows, struct arena *arena, struct task **out, struct err *e)
{
    struct task *list = NULL;
    int count = 0, room = 0, rc;

    while ((rc = store_next(rows, e)) > 0) {
        if (count == room) {
            struct task *more = arena_alloc(arena, sizeof *more * (size_t)(room = room ? 2 * room : 32));

            if (count)
                memcpy(more, list, sizeof *list * (size_t)count);
            list = more;
        }
        if (read_row(rows, arena, &list[count], e) < 0)
            return -1;
        count++;
    }
    if (rc < 0)
        return -1;
    *out = list;
    return count;
}

int task_load(struct store_tx *tx, struct arena *arena, const char *id, struct task *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc;

    if (store_query(tx, &rows, e, "SELECT " COLUMNS " WHERE t.id = $1", "s", id) < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    return rc == 0 ? 0 : read_row(rows, arena, out, e) < 0 ? -1 : 1;
}

int task_need(struct change *c, const char *id, struct task *out, struct err *e)
{
    int rc = task_load(c->tx, c->arena, id, out, e);

    return rc > 0 ? 0 : rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no task %.40s", id);
}

int task_list(struct store_tx *tx, struct arena *arena, const char *run, const char *server, struct task **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = server ? store_query(tx, &rows, e, "SELECT " COLUMNS " WHERE t.run = $1 AND t.server = $2 ORDER BY t.position", "ss", run,
                                  server)
                    : store_query(tx, &rows, e, "SELECT " COLUMNS " WHERE t.run = $1 AND t.server IS NULL ORDER BY t.position", "s",
                                  run);

    return rc < 0 ? -1 : read_rows(rows, arena, out, e);
}

int task_list_all(struct store_tx *tx, struct arena *arena, const char *run, struct task **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;

    if (store_query(tx, &rows, e, "SELECT " COLUMNS " WHERE t.run = $1 ORDER BY t.position, t.server", "s", run) < 0)
        return -1;
    return read_rows(rows, arena, out, e);
}

int task_find(struct store_tx *tx, struct arena *arena, const char *run, const char *server, const char *name, struct task *out,
              struct err *e)
{
    struct task *list;
    int count = task_list(tx, arena, run, server, &list, e);

    for (int i = 0; i < count; i++)
        if (strcmp(list[i].plan->name, name) == 0) {
            *out = list[i];
            return 1;
        }
    return count < 0 ? -1 : 0;
}

int task_insert(struct change *c, const struct task *t, struct err *e)
{
    int64_t number = 0;

    if (store_one_int(c->tx, &number, e, "UPDATE workflow_number SET last = last + 1 WHERE kind = 'task' RETURNING last", "") <= 0)
        return err_wrap(e, "numbering a task");
    return store_run(c->tx, e,
                     "INSERT INTO task (id, number, run, position, name, phase, server, state, round, due_us, not_before_us, released,"
                     " wait_until_us, fence, failures, lost, started_us, finished_us, progress_event_us)"
                     " VALUES ($1, $2, $3, $4, $5, $6, $7, 'PENDING', $8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
                     "sisisssi", change_printf(c, "t%lld", (long long)number), number, t->run,
                     (int64_t)template_task_index(t->template, t->plan), t->plan->name, t->plan->phase, t->server, t->round) < 0
        ? -1
        : 0;
}

static int write_row(struct change *c, const struct task *t, enum task_state before, int64_t fence_before, struct err *e)
{
    int64_t changed = store_run(
        c->tx, e,
        "UPDATE task SET state = $1, round = $2, due_us = $3, not_before_us = $4, released = $5, wait_kind = $6, wait_what = $7,"
        " wait_until_us = $8, label = $9, fence = $10, attempt = $11, failures = $12, lost = $13, started_us = $14,"
        " finished_us = $15, progress = $16, progress_event_us = $17, error_kind = $18, error_message = $19, result = $20,"
        " reason = $21, cancel_cause = $22, cancel_by = $23 WHERE id = $24 AND state = $25 AND fence = $26",
        "siiiissisisiiiisissssssssi", state_names[t->state], t->round, t->due_us, t->not_before_us,
        (int64_t)t->released, t->wait_kind, t->wait_what, t->wait_until_us, t->label, t->fence, t->attempt, t->failures, t->lost,
        t->started_us, t->finished_us, t->progress, t->progress_event_us, t->error_kind, t->error_message, t->result, t->reason,
        t->cancel_cause, t->cancel_by, t->id, state_names[before], fence_before);

    if (changed < 0)
        return -1;
    return changed == 1 ? 0 : err_set(e, ERR_CONFLICT, "%s was changed by somebody else meanwhile: look again", t->plan->title);
}

int task_save(struct change *c, const struct task *t, struct err *e)
{
    return write_row(c, t, t->state, t->fence, e);
}

int task_event(struct change *c, const struct task *t, const char *kind, json_t *extra, struct err *e)
{
    CLEANUP(json_free) json_t *data = json_pack("{s:s, s:s?, s:s, s:s, s:I}", "name", t->plan->name, "server", t->server, "state",
                                                state_names[t->state], "run", t->run, "round", (json_int_t)t->round);
    CLEANUP(json_free) json_t *more = extra;
    CLEANUP(free_ptr) char *text = NULL;

    MUST(data);
    if (more)
        json_object_update(data, more);
    text = json_text(data);
    return event_add(c->tx,
                     &(struct event){.actor = c->actor, .kind = kind, .wave = t->wave, .entity = "task", .entity_id = t->id,
                                     .data = text},
                     c->now_us, e);
}

static json_t *move_data(const struct task *t, enum task_state before, enum task_move move)
{
    json_t *data = json_pack("{s:s}", "before", state_names[before]);

    if (t->state == TASK_WAITING) {
        json_t *waits = json_pack("{s:s?, s:s?}", "kind", t->wait_kind, "what", t->wait_what);

        json_set_time(waits, "until", t->wait_until_us);
        json_object_set_new(data, "waits_for", waits);
    }
    if (t->error_kind && (move == MOVE_FAIL || move == MOVE_BACK_OFF || move == MOVE_LOSE))
        json_object_set_new(data, "error", json_pack("{s:s, s:s?}", "kind", t->error_kind, "message", t->error_message));
    if (move == MOVE_START || move == MOVE_LOSE)
        json_object_set_new(data, "attempt", json_integer(t->fence));
    if (move == MOVE_SKIP)
        json_object_set_new(data, "reason", json_string(t->reason ? t->reason : ""));
    return data;
}

int task_reset(struct change *c, struct task *t, int64_t round, struct err *e)
{
    t->round = round;
    t->due_us = t->not_before_us = t->failures = t->lost = t->started_us = t->finished_us = t->progress_event_us = 0;
    t->released = false;
    t->label = t->attempt = t->progress = t->error_kind = t->error_message = t->result = t->reason = NULL;
    return task_move(c, t, MOVE_AGAIN, e);
}

int task_move(struct change *c, struct task *t, enum task_move move, struct err *e)
{
    enum task_state before = t->state;
    int64_t fence_before = t->fence - (move == MOVE_START);

    MUST(move < MOVE_COUNT);
    if (!(moves[move].from & 1u << before))
        return err_set(e, ERR_WRONG_STATE, "%s%s%s is %s: that is not possible now", t->plan->title, t->server ? " of " : "",
                       t->server ? t->server : "", state_names[before]);
    t->state = moves[move].to;
    if (t->state != TASK_WAITING) {
        t->wait_kind = t->wait_what = NULL;
        t->wait_until_us = 0;
    }
    if (t->state != TASK_RUNNING)
        t->cancel_cause = t->cancel_by = NULL;
    if (move == MOVE_SUCCEED || move == MOVE_FAIL || move == MOVE_SKIP || move == MOVE_CANCEL)
        t->finished_us = c->now_us;
    if (write_row(c, t, before, fence_before, e) < 0 || task_event(c, t, moves[move].event, move_data(t, before, move), e) < 0)
        return -1;
    c->moved++;
    if (move == MOVE_START)
        return effect_started(c, t, e);
    if (move == MOVE_SUCCEED || move == MOVE_SKIP)
        return effect_done(c, t, e);
    return 0;
}
