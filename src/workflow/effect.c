/* effect: what a task's start and success mean for its server. */
#include "workflow/engine.h"

#include <string.h>

enum effect_when { ON_START, ON_DONE };

/* Where a server stands in its life follows from its tasks. */
static const struct {
    const char *task;
    enum effect_when when;
    const char *lifecycle;
} lifecycles[] = {
    {"verify_replication", ON_DONE, "READY_FOR_TEST"}, {"launch_test", ON_START, "TESTING"},
    {"terminate_test", ON_DONE, "READY_FOR_CUTOVER"},  {"quiesce", ON_START, "CUTTING_OVER"},
    {"open_door", ON_DONE, "CUTOVER"},                 {"finalize", ON_DONE, "DISCONNECTED"},
    {"drop_staged", ON_DONE, "ARCHIVED"},
};

/* What is running for a server follows from its tasks, too. kind NULL: as it was; door NULL: it has none any more. */
static const struct {
    const char *task, *kind, *door;
} instances[] = {
    {"launch_test", "test", "isolated"}, {"terminate_test", NULL, NULL}, {"launch_cutover", "cutover", "closed"},
    {"open_door", NULL, "open"},         {"stop_instance", NULL, NULL},
};

static int move_server(struct change *c, const struct task *t, enum effect_when when, struct err *e)
{
    for (size_t i = 0; t->server && i < ARRAY_COUNT(lifecycles); i++)
        if (lifecycles[i].when == when && strcmp(lifecycles[i].task, t->plan->name) == 0) {
            change_forget_server(c);
            return fleet_set_lifecycle(c->tx, t->server, lifecycles[i].lifecycle, c->actor, c->now_us, e);
        }
    return 0;
}

/* What a task did, it did: where the server's life doesn't allow the move any more, that is written down, and the task is done. */
static int move_server_after(struct change *c, const struct task *t, struct err *e)
{
    struct err why = {0};

    if (move_server(c, t, ON_DONE, &why) == 0)
        return 0;
    if (why.kind != ERR_WRONG_STATE) {
        if (e)
            *e = why;
        return -1;
    }
    return task_event(c, t, "task.lifecycle_kept", json_pack("{s:s}", "reason", why.message), e);
}

static int keep_facts(struct change *c, const struct task *t, const json_t *result, struct err *e)
{
    const json_t *facts = json_object_get(result, "facts");

    if (strcmp(t->plan->name, "prerequisites") != 0 || !json_is_object(facts))
        return 0;
    change_forget_server(c);
    return fleet_set_facts(c->tx, t->server, facts, c->actor, c->now_us, e);
}

/* The step takes an unknown key only where the wave says so; what it took is pinned from then on. */
static int keep_host_key(struct change *c, const struct task *t, const json_t *result, struct err *e)
{
    const char *key = json_get_string(result, "host_key", NULL);

    if (strcmp(t->plan->name, "prerequisites") != 0 || !key)
        return 0;
    change_forget_server(c);
    return fleet_pin_host_key(c->tx, t->server, key, c->actor, c->now_us, e);
}

/* The result's "instance" is its name, or an object that has it. */
static json_t *instance_of(const json_t *result, const json_t *before, const char *kind, const char *door)
{
    const json_t *given = json_object_get(result, "instance");
    const char *name = json_is_string(given) ? json_string_value(given) : json_get_string(given, "name", NULL);

    if (!name)
        name = json_get_string(before, "name", NULL);
    if (!kind)
        kind = json_get_string(before, "kind", "cutover");
    return name ? json_pack("{s:s, s:s, s:s, s:s}", "name", name, "kind", kind, "door", door, "state", "running") : NULL;
}

static int keep_instance(struct change *c, const struct task *t, const json_t *result, struct err *e)
{
    for (size_t i = 0; i < ARRAY_COUNT(instances); i++) {
        CLEANUP(json_free) json_t *made = NULL;
        const json_t *server;

        if (strcmp(instances[i].task, t->plan->name) != 0)
            continue;
        if (change_server(c, t->server, &server, e) < 0)
            return -1;
        if (instances[i].door
            && !(made = instance_of(result, json_object_get(server, "instance"), instances[i].kind, instances[i].door)))
            return 0;
        change_forget_server(c);
        return fleet_set_instance(c->tx, t->server, made, c->actor, c->now_us, e);
    }
    return 0;
}

int effect_started(struct change *c, const struct task *t, struct err *e)
{
    return move_server(c, t, ON_START, e);
}

int effect_done(struct change *c, const struct task *t, struct err *e)
{
    CLEANUP(json_free) json_t *result = t->result ? json_loads(t->result, 0, NULL) : NULL;

    if (!t->server)
        return 0;
    if (t->state == TASK_SUCCEEDED && (keep_facts(c, t, result, e) < 0 || keep_host_key(c, t, result, e) < 0 || keep_instance(c, t, result, e) < 0))
        return err_wrap(e, "what \"%s\" of %s found", t->plan->title, t->server);
    return move_server_after(c, t, e);
}

int effect_taken_back(struct change *c, const char *server, struct err *e)
{
    change_forget_server(c);
    return fleet_set_lifecycle(c->tx, server, "READY_FOR_CUTOVER", c->actor, c->now_us, e) < 0
            || fleet_set_instance(c->tx, server, NULL, c->actor, c->now_us, e) < 0
        ? -1
        : 0;
}
