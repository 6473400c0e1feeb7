/* claim: giving a ready task to a runner that asks, with the document that it works from. */
#include "workflow/engine.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static bool has_label(const struct workflow_offer *offer, const char *label)
{
    for (int i = 0; i < offer->label_count; i++)
        if (strcmp(offer->labels[i], label) == 0)
            return true;
    return false;
}

/* What touches a copy must stand beside the replicator that has it. */
static bool stands_beside(const struct workflow_offer *offer, const char *label, const char *beside)
{
    bool touches = label && (strcmp(label, "replicator") == 0 || strcmp(label, "target") == 0);

    return !touches || !beside || !*beside || has_label(offer, beside);
}

/* "source" takes any "source:NETWORK"; everything else must be the same. */
static bool label_fits(const struct workflow_offer *offer, const char *label, const char *beside)
{
    if (label && strcmp(label, "replicator") == 0 && beside && *beside)
        return true; /* stands_beside looks at it */
    for (int i = 0; label && i < offer->label_count; i++)
        if (strcmp(offer->labels[i], label) == 0
            || (strcmp(label, "source") == 0 && strncmp(offer->labels[i], "source:", strlen("source:")) == 0))
            return true;
    return false;
}

static bool step_fits(const struct workflow_offer *offer, const char *template, const char *name)
{
    const struct template *t = template_find(template);
    const struct template_task *plan = t ? template_task_find(t, name) : NULL;

    for (int i = 0; plan && plan->step && i < offer->step_count; i++)
        if (strcmp(offer->steps[i], plan->step) == 0)
            return true;
    return false;
}

/* The id of the most urgent ready task that fits (of a server that moves to another replicator, none but a push of its agent) and has a number above `after` in that order: 1, 0, -1. */
static int find_fitting(struct store_tx *tx, struct arena *arena, const struct workflow_offer *offer, const char **id, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e,
                         "SELECT t.id, t.label, r.template, t.name, p.beside FROM task t JOIN run r ON r.id = t.run LEFT JOIN placement p ON p.server = t.server"
                         " WHERE t.state = 'READY' AND r.state = 'RUNNING' AND (p.target IS NULL OR r.template = 'push_again') ORDER BY CASE t.phase WHEN 'back' THEN 0 WHEN 'cutover' THEN 1 ELSE 2 END, t.number",
                         "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        if (label_fits(offer, store_text(rows, 1), store_text(rows, 4)) && stands_beside(offer, store_text(rows, 1), store_text(rows, 4)) && step_fits(offer, store_text(rows, 2), store_text(rows, 3))) {
            *id = arena_strdup(arena, store_text(rows, 0));
            return 1;
        }
    return rc;
}

/* ---- The document ---- */

static json_t *parsed(const char *text)
{
    json_t *value = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;

    return value ? value : json_object();
}

static int add_results(struct change *c, json_t *context, const char *run, const char *server, struct err *e)
{
    struct task *list;
    int count = task_list(c->tx, c->arena, run, server, &list, e);

    for (int i = 0; i < count; i++)
        if (list[i].result)
            json_object_set_new(context, list[i].plan->name, parsed(list[i].result));
    return count < 0 ? -1 : 0;
}

static int add_context(struct change *c, const struct task *t, json_t *document, struct err *e)
{
    json_t *context = json_object();

    json_object_set_new(document, "context", context);
    if (t->parent && (add_results(c, context, t->parent, NULL, e) < 0
                      || (t->server && add_results(c, context, t->parent, t->server, e) < 0)))
        return -1;
    if (add_results(c, context, t->run, NULL, e) < 0 || (t->server && add_results(c, context, t->run, t->server, e) < 0))
        return -1;
    return 0;
}

static int add_server(struct change *c, const struct task *t, json_t *document, struct err *e)
{
    const json_t *server;
    json_t *facts;

    if (!t->server)
        return 0;
    if (change_server(c, t->server, &server, e) < 0)
        return -1;
    json_object_set_new(document, "server", json_deep_copy(server));
    facts = json_object_get(server, "facts");
    json_object_set(document, "facts", facts ? facts : json_null());
    json_object_del(json_object_get(document, "server"), "facts");
    return 0;
}

static int make_document(struct change *c, const struct task *t, const char *attempt, const char *runner, json_t *document,
                         struct err *e)
{
    const struct workflow_settings *s = &c->w->settings;
    struct workflow_claimed what = {t->run, t->id, t->plan->step, t->wave, t->server, runner};

    json_object_set_new(document, "attempt", json_string(attempt));
    json_object_set_new(document, "fence", json_integer(t->fence + 1));
    json_object_set_new(document, "lease_ms", json_integer(s->lease_us / US_PER_MS));
    json_object_set_new(document, "timeout_ms", json_integer((json_int_t)t->plan->timeout_s * 1000));
    json_object_set_new(document, "task", json_pack("{s:s, s:s, s:s, s:s, s:o}", "id", t->id, "name", t->plan->name, "step",
                                                    t->plan->step, "phase", t->plan->phase, "params", parsed(t->plan->params)));
    json_object_set_new(document, "run", json_pack("{s:s, s:s, s:I}", "id", t->run, "template", t->template->name, "round",
                                                   (json_int_t)t->round));
    json_object_set_new(document, "wave", json_null());
    if (t->wave) {
        const struct fleet_wave *wave;

        if (change_wave(c, t->wave, &wave, e) < 0)
            return -1;
        json_object_set_new(document, "wave", json_pack("{s:s, s:O}", "name", t->wave, "settings", wave->settings));
    }
    if (add_server(c, t, document, e) < 0 || add_context(c, t, document, e) < 0)
        return -1;
    return s->complete ? s->complete(s->user, c->tx, &what, document, e) : 0;
}

/* ---- Giving ---- */

static void new_attempt_id(struct workflow *w, char id[static WORKFLOW_ID_SIZE])
{
    uint64_t number;

    if (w->settings.random)
        number = w->settings.random(w->settings.user);
    else
        MUST(getrandom(&number, sizeof number, 0) == (ssize_t)sizeof number);
    snprintf(id, WORKFLOW_ID_SIZE, "a%016llx", (unsigned long long)number);
}

static int give(struct change *c, struct task *t, const char *attempt, const char *runner, struct err *e)
{
    t->attempt = change_keep(c, attempt);
    t->fence++;
    if (!t->started_us)
        t->started_us = c->now_us;
    t->finished_us = 0;
    t->progress = t->error_kind = t->error_message = NULL;
    t->progress_event_us = 0;
    if (store_run(c->tx, e,
                  "INSERT INTO attempt (id, task, round, fence, runner, state, renewals, lease_until_us, started_us, finished_us)"
                  " VALUES ($1, $2, $3, $4, $5, 'RUNNING', 0, $6, $7, 0)",
                  "ssiisii", attempt, t->id, t->round, t->fence, runner, c->now_us + c->w->settings.lease_us, c->now_us) < 0)
        return -1;
    return task_move(c, t, MOVE_START, e);
}

/* What could not be made into a document is the task's failure, not the runner's. */
static int fail_ungiven(struct change *c, struct task *t, const struct err *why, struct err *e)
{
    t->error_kind = err_meaning(why->kind)->name;
    t->error_message = change_keep(c, why->message);
    return task_move(c, t, MOVE_FAIL, e) < 0 || settle_run_status(c, t->run, e) < 0 ? -1 : 0;
}

/* In a transaction of its own, after the one that would have given it was rolled back. */
static int fail_later(struct workflow *w, const char *actor, const char *id, const struct err *why, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    struct task t;

    if (change_begin(w, actor, &c, e) < 0 || task_need(&c, id, &t, e) < 0)
        return -1;
    if (t.state != TASK_READY)
        return 2;
    return fail_ungiven(&c, &t, why, e) < 0 || change_commit(&c, e) < 0 ? -1 : 2;
}

/* In one transaction: 1 given, 0 nothing fits, 2 something fit but could not be given: ask again. */
static int claim_once(struct workflow *w, const struct workflow_offer *offer, json_t **document, struct err *e)
{
    CLEANUP(change_release) struct change c = {0};
    CLEANUP(json_free) json_t *made = json_object();
    CLEANUP(free_ptr) char *actor = xasprintf("runner:%s", offer->runner);
    char attempt[WORKFLOW_ID_SIZE];
    struct obstacle o;
    struct err why = {0};
    struct task t;
    const char *id;
    int rc;

    if (change_begin(w, actor, &c, e) < 0 || (rc = find_fitting(c.tx, c.arena, offer, &id, e)) < 0)
        return -1;
    if (rc == 0)
        return 0;
    if (task_need(&c, id, &t, e) < 0 || settle_obstacle(&c, &t, &o, e) < 0)
        return -1;
    if (o.kind) /* the window closed since it was readied */
        return settle_task(&c, &t, e) < 0 || settle_run_status(&c, t.run, e) < 0 || change_commit(&c, e) < 0 ? -1 : 2;
    new_attempt_id(w, attempt);
    if (make_document(&c, &t, attempt, offer->runner, made, &why) < 0)
        return fail_ungiven(&c, &t, &why, e) < 0 || change_commit(&c, e) < 0 ? -1 : 2;
    if (give(&c, &t, attempt, offer->runner, &why) < 0) {
        CLEANUP(free_ptr) char *task = xstrdup(t.id);

        change_release(&c);
        if (why.kind == ERR_WRONG_STATE) /* the server's life does not allow it */
            return fail_later(w, actor, task, &why, e);
        if (e)
            *e = why;
        return -1;
    }
    if (settle_run_status(&c, t.run, e) < 0 || change_commit(&c, e) < 0)
        return -1;
    *document = made;
    made = NULL;
    return 1;
}

static int anything_fits(struct workflow *w, const struct workflow_offer *offer, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(arena_free) struct arena *arena = arena_new();
    const char *id;

    return store_begin(w->settings.store, STORE_READ, &tx, e) < 0 ? -1 : find_fitting(tx, arena, offer, &id, e);
}

int workflow_claim(struct workflow *w, const struct workflow_offer *offer, json_t **document, struct err *e)
{
    int rc = anything_fits(w, offer, e); /* so that an idle runner's asking writes nothing */

    while (rc > 0) {
        rc = claim_once(w, offer, document, e);
        if (rc != 2)
            break;
    }
    return rc < 0 ? err_wrap(e, "looking for a task for runner %s", offer->runner) : rc;
}
