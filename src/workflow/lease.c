/* lease: what a runner reports about its attempt, and how an attempt ends: finished, told to stop, too late, or never heard of again.
 *
 * The fence decides who may report. A lease is measured by this process with a clock that does not jump: it has run out when the
 * count of renewals in the database stood still for its length. A process that starts (or slept) gives every attempt a whole lease. */
#include "workflow/engine.h"

#include "base/hash.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

#define BACK_OFF_FIRST_US (5 * US_PER_S)
#define BACK_OFF_MOST_US (300 * US_PER_S)
#define LOST_MOST 100 /* attempts that vanish before a person must look */
#define PROGRESS_EVENT_US (2 * US_PER_S)
#define LOG_LINES_MOST 500
#define EVIDENCE_LINES_MOST 2000
#define RESULT_BYTES_MOST (1u << 20)

struct attempt {
    const char *id, *task, *runner, *state;
    int64_t fence, renewals, started_us;
};

static int attempt_load(struct change *c, const char *id, struct attempt *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(c->tx, &rows, e, "SELECT id, task, runner, state, fence, renewals, started_us FROM attempt WHERE id = $1", "s",
                         id);

    if (rc < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    if (rc == 0)
        return err_set(e, ERR_CONFLICT, "there is no attempt %.40s: stop; the database may have been restored from a copy", id);
    *out = (struct attempt){arena_strdup(c->arena, store_text(rows, 0)), arena_strdup(c->arena, store_text(rows, 1)),
                            arena_strdup(c->arena, store_text(rows, 2)), arena_strdup(c->arena, store_text(rows, 3)),
                            store_int(rows, 4), store_int(rows, 5), store_int(rows, 6)};
    return 0;
}

/* The attempt, if it is this runner's under this fence. */
static int attempt_need(struct change *c, const char *id, const char *runner, int64_t fence, struct attempt *a, struct err *e)
{
    if (attempt_load(c, id, a, e) < 0)
        return -1;
    if (strcmp(a->runner, runner) != 0)
        return err_set(e, ERR_DENIED, "attempt %s was given to runner %s, not to %.100s", a->id, a->runner, runner);
    if (a->fence != fence)
        return err_set(e, ERR_CONFLICT, "attempt %s has the fence %lld, not %lld: stop", a->id, (long long)a->fence, (long long)fence);
    return 0;
}

/* The attempt and its task, while it runs. */
static int running_need(struct change *c, const char *id, const char *runner, int64_t fence, struct attempt *a, struct task *t,
                        struct err *e)
{
    if (attempt_need(c, id, runner, fence, a, e) < 0 || task_need(c, a->task, t, e) < 0)
        return -1;
    if (strcmp(a->state, "RUNNING") != 0 || t->state != TASK_RUNNING || !t->attempt || strcmp(t->attempt, a->id) != 0)
        return err_set(e, ERR_CONFLICT, "attempt %s is over (%s): stop", a->id, a->state);
    return 0;
}

/* ---- Reports ---- */

static char *line_digest(const char *name, bool passed, const char *text, char hex[static HASH_SHA256_HEX_SIZE])
{
    CLEANUP(free_ptr) char *line = xasprintf("%d %zu %s %s", passed, strlen(name), name, text);
    uint8_t digest[HASH_SHA256_SIZE];

    hash_sha256(line, strlen(line), digest);
    return hash_hex(digest, sizeof digest, hex);
}

static int add_evidence(struct change *c, const struct attempt *a, const json_t *lines, struct err *e)
{
    int64_t number = 0;
    size_t index;
    json_t *line;

    if (store_one_int(c->tx, &number, e, "SELECT MAX(number) FROM evidence WHERE task = $1", "s", a->task) < 0)
        return -1;
    json_array_foreach(lines, index, line) {
        char digest[HASH_SHA256_HEX_SIZE];
        const char *name, *text = json_get_string(line, "evidence", "");
        json_t *passed = json_object_get(line, "passed");

        if (!json_is_object(line) || json_need_string(line, "name", &name, e) < 0 || !json_is_boolean(passed))
            return err_set(e, ERR_INVALID, "line %zu of \"evidence\" must be {name, passed, evidence}", index + 1);
        if (strlen(name) > LIMIT_EVIDENCE_TEXT_BYTES || strlen(text) > LIMIT_EVIDENCE_TEXT_BYTES || number >= EVIDENCE_LINES_MOST)
            return err_set(e, ERR_LIMIT, "evidence has at most %d lines of at most %d bytes", EVIDENCE_LINES_MOST,
                           LIMIT_EVIDENCE_TEXT_BYTES);
        /* The same line again comes from a report whose answer was lost. */
        if (store_run(c->tx, e,
                      "INSERT INTO evidence (task, number, attempt, at_us, name, passed, evidence, digest)"
                      " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (attempt, digest) DO NOTHING",
                      "sisisiss", a->task, ++number, a->id, c->now_us, name, (int64_t)json_is_true(passed), text,
                      line_digest(name, json_is_true(passed), text, digest)) < 0)
            return -1;
    }
    return 0;
}

static int add_log(struct change *c, const struct attempt *a, const json_t *lines, struct err *e)
{
    int64_t number = 0;
    size_t index;
    json_t *line;

    if (store_one_int(c->tx, &number, e, "SELECT MAX(number) FROM task_log WHERE attempt = $1", "s", a->id) < 0)
        return -1;
    json_array_foreach(lines, index, line) {
        CLEANUP(free_ptr) char *text = NULL;

        if (!json_is_string(line))
            return err_set(e, ERR_INVALID, "line %zu of \"log\" must be a string", index + 1);
        text = strndup(json_string_value(line), LIMIT_EVIDENCE_TEXT_BYTES);
        if (store_run(c->tx, e, "INSERT INTO task_log (attempt, number, at_us, line) VALUES ($1, $2, $3, $4)", "siis", a->id, ++number,
                      c->now_us, text) < 0)
            return -1;
    }
    if (number > LOG_LINES_MOST
        && store_run(c->tx, e, "DELETE FROM task_log WHERE attempt = $1 AND number <= $2", "si", a->id, number - LOG_LINES_MOST) < 0)
        return -1;
    return 0;
}

static int set_progress(struct change *c, struct task *t, const json_t *progress, bool evidence, struct err *e)
{
    if (json_is_object(progress)) {
        CLEANUP(json_free) json_t *kept =
            json_pack("{s:I, s:I, s:s?, s:s?}", "done", (json_int_t)json_get_int(progress, "done", 0), "total",
                      (json_int_t)json_get_int(progress, "total", 0), "unit", json_get_string(progress, "unit", NULL), "note",
                      json_get_string(progress, "note", NULL));
        CLEANUP(free_ptr) char *text = json_text(kept);

        if (strlen(text) > LIMIT_EVIDENCE_TEXT_BYTES)
            return err_set(e, ERR_LIMIT, "the progress has more than %d bytes", LIMIT_EVIDENCE_TEXT_BYTES);
        if (t->progress && strcmp(t->progress, text) == 0 && !evidence)
            return 0;
        t->progress = change_keep(c, text);
    } else if (!evidence) {
        return 0;
    }
    /* The feed hears of it now and then; a jump of the clock backwards must not silence it. */
    if (evidence || c->now_us - t->progress_event_us >= PROGRESS_EVENT_US || c->now_us < t->progress_event_us) {
        json_t *extra = json_object();

        t->progress_event_us = c->now_us;
        if (t->progress)
            json_object_set_new(extra, "progress", json_loads(t->progress, 0, NULL));
        if (task_event(c, t, "task.progressed", extra, e) < 0)
            return -1;
    }
    return task_save(c, t, e);
}

static int check_optional(const json_t *body, const char *name, json_type type, const char *what, struct err *e)
{
    const json_t *member = json_object_get(body, name);

    if (!member || json_is_null(member) || json_typeof(member) == type)
        return 0;
    return err_set(e, ERR_INVALID, "\"%s\" must be %s", name, what);
}

static int check_report(const json_t *body, int64_t *fence, struct err *e)
{
    if (json_need_int(body, "fence", fence, e) < 0 || check_optional(body, "progress", JSON_OBJECT, "an object", e) < 0
        || check_optional(body, "evidence", JSON_ARRAY, "a list", e) < 0 || check_optional(body, "log", JSON_ARRAY, "a list", e) < 0)
        return -1;
    return 0;
}

static int renew(struct change *c, const struct attempt *a, const struct task *t, struct err *e)
{
    if (t->cancel_cause) /* it has what is left of its lease to stop */
        return 0;
    return store_run(c->tx, e, "UPDATE attempt SET renewals = renewals + 1, lease_until_us = $1 WHERE id = $2", "is",
                     c->now_us + c->w->settings.lease_us, a->id) < 0
        ? -1
        : 0;
}

int workflow_report(struct workflow *w, const char *runner, const char *attempt, const json_t *body, json_t **answer, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(free_ptr) char *actor = xasprintf("runner:%s", runner);
    const json_t *evidence = json_object_get(body, "evidence");
    struct attempt a;
    struct task t;
    int64_t fence;

    if (check_report(body, &fence, e) < 0 || change_begin(w, actor, &c, e) < 0
        || running_need(&c, attempt, runner, fence, &a, &t, e) < 0 || renew(&c, &a, &t, e) < 0 || add_evidence(&c, &a, evidence, e) < 0
        || add_log(&c, &a, json_object_get(body, "log"), e) < 0
        || set_progress(&c, &t, json_object_get(body, "progress"), json_array_size(evidence) > 0, e) < 0 || change_commit(&c, e) < 0)
        return -1;
    *answer = json_pack("{s:b, s:I}", "cancelled", t.cancel_cause != NULL, "lease_ms", (json_int_t)(w->settings.lease_us / US_PER_MS));
    return 0;
}

static bool artifact_name_ok(const char *name)
{
    size_t size = strlen(name);

    return size >= 1 && size <= 100 && name[0] != '.'
        && strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == size;
}

int workflow_artifact(struct workflow *w, const char *runner, const char *attempt, int64_t fence, const char *name,
                      const char *media_type, const void *bytes, size_t size, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(free_ptr) char *actor = xasprintf("runner:%s", runner);
    struct attempt a;
    struct task t;

    if (!artifact_name_ok(name))
        return err_set(e, ERR_INVALID, "an artifact's name has 1 to 100 of A-Z a-z 0-9 . _ - and no . first");
    if (!*media_type || strlen(media_type) > 100 || strpbrk(media_type, "\r\n"))
        return err_set(e, ERR_INVALID, "the artifact %s needs a media type, like image/png", name);
    if (size > LIMIT_ARTIFACT_BYTES)
        return err_set(e, ERR_LIMIT, "the artifact %s has %zu bytes; %u are allowed", name, size, LIMIT_ARTIFACT_BYTES);
    if (change_begin(w, actor, &c, e) < 0 || running_need(&c, attempt, runner, fence, &a, &t, e) < 0 || renew(&c, &a, &t, e) < 0
        || store_run(c.tx, e,
                     "INSERT INTO artifact (attempt, name, task, fence, at_us, media_type, size_bytes, bytes)"
                     " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (attempt, name) DO UPDATE SET at_us = excluded.at_us,"
                     " media_type = excluded.media_type, size_bytes = excluded.size_bytes, bytes = excluded.bytes",
                     "sssiisib", a.id, name, a.task, a.fence, c.now_us, media_type, (int64_t)size, bytes, size) < 0
        || task_event(&c, &t, "task.artifact_added", json_pack("{s:s, s:s}", "artifact", name, "media_type", media_type), e) < 0)
        return -1;
    return change_commit(&c, e);
}

/* ---- The end of an attempt ---- */

static int attempt_close(struct change *c, const struct task *t, const char *state, const struct err *why, const char *result,
                         struct err *e)
{
    int64_t changed = store_run(
        c->tx, e,
        "UPDATE attempt SET state = $1, finished_us = $2, error_kind = $3, error_message = $4, result = $5 WHERE id = $6 AND state ="
        " 'RUNNING'",
        "sissss", state, c->now_us, why ? err_meaning(why->kind)->name : NULL, why ? why->message : NULL, result, t->attempt);

    return changed == 1 ? 0 : changed < 0 ? -1 : err_set(e, ERR_CONFLICT, "attempt %s is over already", t->attempt);
}

static void keep_error(struct change *c, struct task *t, const struct err *why)
{
    t->error_kind = err_meaning(why->kind)->name;
    t->error_message = change_keep(c, why->message);
}

/* What may go away by itself is tried again, later each time. */
static int failed(struct change *c, struct task *t, const struct err *why, struct err *e)
{
    int64_t wait_us = BACK_OFF_FIRST_US;

    keep_error(c, t, why);
    t->failures++;
    if (!err_meaning(why->kind)->retryable || t->failures >= t->plan->attempts)
        return task_move(c, t, MOVE_FAIL, e);
    for (int64_t i = 1; i < t->failures && wait_us < BACK_OFF_MOST_US; i++)
        wait_us *= 2;
    t->not_before_us = c->now_us + (wait_us < BACK_OFF_MOST_US ? wait_us : BACK_OFF_MOST_US);
    t->wait_kind = "time";
    t->wait_what = change_printf(c, "another try after: %s", why->message);
    t->wait_until_us = t->not_before_us;
    return task_move(c, t, MOVE_BACK_OFF, e);
}

static int lost(struct change *c, struct task *t, const struct err *why, struct err *e)
{
    keep_error(c, t, why);
    if (++t->lost >= LOST_MOST)
        return task_move(c, t, MOVE_FAIL, e);
    return task_move(c, t, MOVE_LOSE, e);
}

/* It was told to stop: by a person, with its run, for a way back, or because it took too long. */
static int ended_cancelled(struct change *c, struct task *t, struct err *e)
{
    struct err why = {0};
    const char *cause = t->cancel_cause;

    if (strcmp(cause, "run") == 0 || strcmp(cause, "back") == 0)
        return task_move(c, t, MOVE_CANCEL, e);
    if (strcmp(cause, "timeout") == 0) {
        err_set(&why, ERR_TIMEOUT, "%s took longer than %d s", t->plan->title, t->plan->timeout_s);
        return failed(c, t, &why, e);
    }
    err_set(&why, ERR_CANCELLED, "cancelled by %s", t->cancel_by ? t->cancel_by : "somebody");
    keep_error(c, t, &why);
    return task_move(c, t, MOVE_FAIL, e);
}

/* Where a way back waits for this server's attempts to stop. */
static int wake_way_back(struct change *c, const struct task *t, struct err *e)
{
    struct run back;
    int rc = t->server ? run_way_back(c->tx, c->arena, t->parent ? t->parent : t->run, t->server, &back, e) : 0;

    return rc <= 0 || strcmp(back.id, t->run) == 0 ? (rc < 0 ? -1 : 0) : settle(c, back.id, t->server, e);
}

int lease_end(struct change *c, struct task *t, const char *attempt_state, const struct err *why, const json_t *result, struct err *e)
{
    CLEANUP(free_ptr) char *text = result ? json_text(result) : NULL;
    bool won = strcmp(attempt_state, "SUCCEEDED") == 0, given_up;
    int rc;

    given_up = t->cancel_cause && (!won || strcmp(t->cancel_cause, "run") == 0 || strcmp(t->cancel_cause, "back") == 0);
    if (attempt_close(c, t, attempt_state, why, text, e) < 0)
        return -1;
    if (text)
        t->result = change_keep(c, text);
    if (given_up)
        rc = ended_cancelled(c, t, e);
    else if (won)
        rc = task_move(c, t, MOVE_SUCCEED, e);
    else
        rc = strcmp(attempt_state, "LOST") == 0 ? lost(c, t, why, e) : failed(c, t, why, e);
    if (rc < 0 || wake_way_back(c, t, e) < 0)
        return -1;
    /* A door that opened may be what another server waits for. */
    return settle(c, t->run, strcmp(t->plan->name, "open_door") == 0 ? NULL : t->server, e);
}

int lease_cancel(struct change *c, struct task *t, const char *cause, struct err *e)
{
    MUST(t->state == TASK_RUNNING);
    t->cancel_cause = cause;
    t->cancel_by = c->actor;
    if (task_event(c, t, "task.told_to_stop", json_pack("{s:s}", "cause", cause), e) < 0)
        return -1;
    return task_save(c, t, e);
}

struct finish {
    int64_t fence;
    bool won;
    const json_t *result;
    struct err why;
};

static int read_finish(const json_t *body, struct finish *out, struct err *e)
{
    CLEANUP(free_ptr) char *text = NULL;
    const char *outcome;
    const json_t *error = json_object_get(body, "error");

    *out = (struct finish){.result = json_object_get(body, "result")};
    if (json_need_int(body, "fence", &out->fence, e) < 0 || json_need_string(body, "outcome", &outcome, e) < 0
        || check_optional(body, "error", JSON_OBJECT, "an object", e) < 0
        || check_optional(body, "result", JSON_OBJECT, "an object", e) < 0)
        return -1;
    out->won = strcmp(outcome, "succeeded") == 0;
    if (!out->won && strcmp(outcome, "failed") != 0)
        return err_set(e, ERR_INVALID, "\"outcome\" must be \"succeeded\" or \"failed\"");
    if (json_is_null(out->result))
        out->result = NULL;
    if (out->result && strlen(text = json_text(out->result)) > RESULT_BYTES_MOST)
        return err_set(e, ERR_LIMIT, "the result has more than %u bytes", RESULT_BYTES_MOST);
    if (!out->won)
        err_set(&out->why, err_kind_named(json_get_string(error, "kind", "internal")), "%s",
                json_get_string(error, "message", "the runner gave no reason"));
    if (!out->won && out->why.kind == ERR_NONE)
        out->why.kind = ERR_INTERNAL;
    return 0;
}

static int finish_once(struct workflow *w, const char *runner, const char *attempt, const struct finish *f, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(free_ptr) char *actor = xasprintf("runner:%s", runner);
    const char *state = f->won ? "SUCCEEDED" : "FAILED";
    struct attempt a;
    struct task t;

    if (change_begin(w, actor, &c, e) < 0 || attempt_need(&c, attempt, runner, f->fence, &a, e) < 0)
        return -1;
    if (strcmp(a.state, state) == 0)
        return 0; /* told before; the answer was lost */
    if (running_need(&c, attempt, runner, f->fence, &a, &t, e) < 0
        || lease_end(&c, &t, state, f->won ? NULL : &f->why, f->result, e) < 0)
        return -1;
    return change_commit(&c, e);
}

int workflow_finish(struct workflow *w, const char *runner, const char *attempt, const json_t *body, struct err *e)
{
    struct err why = {0};
    struct finish f;

    if (read_finish(body, &f, e) < 0)
        return -1;
    if (finish_once(w, runner, attempt, &f, &why) == 0)
        return 0;
    if (f.won && (why.kind == ERR_INVALID || why.kind == ERR_LIMIT)) {
        /* The result is not what the step promised (facts that break a rule): that is a failure of the step. */
        f.won = false;
        f.why = why;
        f.why.kind = ERR_PROTOCOL;
        f.result = NULL;
        return finish_once(w, runner, attempt, &f, e);
    }
    if (e)
        *e = why;
    return -1;
}

/* ---- Leases and time limits ---- */

/* The lease as this process saw it last, or a whole new one. */
static struct lease *lease_of(struct workflow *w, const struct attempt *a, const struct task *t, int64_t mono_us, int64_t now_us)
{
    struct lease *l;
    int64_t limit_us = (int64_t)t->plan->timeout_s * US_PER_S, ran_us = now_us - a->started_us;

    for (int i = 0; i < w->lease_count; i++)
        if (strcmp(w->leases[i].attempt, a->id) == 0)
            return &w->leases[i];
    if (w->lease_count == w->lease_room)
        w->leases = xrealloc(w->leases, sizeof *w->leases * (size_t)(w->lease_room = w->lease_room ? 2 * w->lease_room : 64));
    l = &w->leases[w->lease_count++];
    *l = (struct lease){.renewals = a->renewals, .renewed_us = mono_us};
    strncpy(l->attempt, a->id, sizeof l->attempt - 1);
    ran_us = ran_us < 0 ? 0 : ran_us > limit_us ? limit_us : ran_us;
    l->deadline_us = mono_us + limit_us - ran_us;
    return l;
}

static int look_at(struct change *c, const struct attempt *a, int64_t mono_us, struct err *e)
{
    struct workflow *w = c->w;
    struct lease *l;
    struct task t;
    bool late, out;

    if (task_need(c, a->task, &t, e) < 0)
        return -1;
    if (t.state != TASK_RUNNING || !t.attempt || strcmp(t.attempt, a->id) != 0)
        return err_set(e, ERR_INTERNAL, "attempt %s runs, and its task %s does not", a->id, t.id);
    l = lease_of(w, a, &t, mono_us, c->now_us);
    l->seen = true;
    if (l->renewals != a->renewals) {
        l->renewals = a->renewals;
        l->renewed_us = mono_us;
    }
    out = mono_us - l->renewed_us >= w->settings.lease_us;
    late = mono_us >= l->deadline_us;
    if (out) {
        struct err why;

        err_set(&why, ERR_UNREACHABLE, "runner %s was not heard of for %lld s", a->runner,
                (long long)(w->settings.lease_us / US_PER_S));
        return lease_end(c, &t, "LOST", &why, NULL, e);
    }
    return late && !t.cancel_cause ? lease_cancel(c, &t, "timeout", e) : 0;
}

static int running_attempts(struct change *c, struct attempt **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    struct attempt *list;
    int64_t room = 0;
    int count = 0, rc;

    if (store_one_int(c->tx, &room, e, "SELECT COUNT(*) FROM attempt WHERE state = 'RUNNING'", "") < 0)
        return -1;
    list = arena_alloc(c->arena, sizeof *list * (size_t)(room + 1));
    rc = store_query(c->tx, &rows, e, "SELECT id, task, runner, state, fence, renewals, started_us FROM attempt WHERE state = 'RUNNING'",
                     "");
    while (rc >= 0 && count < room && (rc = store_next(rows, e)) > 0)
        list[count++] = (struct attempt){arena_strdup(c->arena, store_text(rows, 0)), arena_strdup(c->arena, store_text(rows, 1)),
                                         arena_strdup(c->arena, store_text(rows, 2)), arena_strdup(c->arena, store_text(rows, 3)),
                                         store_int(rows, 4), store_int(rows, 5), store_int(rows, 6)};
    *out = list;
    return rc < 0 ? -1 : count;
}

/* Called with w->lock held. */
int lease_tick(struct change *c, struct err *e)
{
    struct workflow *w = c->w;
    int64_t mono_us = clock_read_us(w->settings.monotonic);
    struct attempt *list;
    int count = running_attempts(c, &list, e), kept = 0;

    if (count < 0)
        return -1;
    if (mono_us - w->ticked_us > w->settings.lease_us / 2)
        w->lease_count = 0; /* this process slept: runners may have had nobody to report to */
    w->ticked_us = mono_us;
    for (int i = 0; i < w->lease_count; i++)
        w->leases[i].seen = false;
    for (int i = 0; i < count; i++)
        if (look_at(c, &list[i], mono_us, e) < 0)
            return -1;
    for (int i = 0; i < w->lease_count; i++)
        if (w->leases[i].seen)
            w->leases[kept++] = w->leases[i];
    w->lease_count = kept;
    return 0;
}
