/* Holds the templates to their rules: names, orders, steps that exist, no circle, nothing that could start unasked. */
#include "base/json.h"
#include "tap.h"
#include "workflow/templates.h"

/* docs/architecture.md, "The wave's template": every step that a runner can be asked for. */
static const char *const known_steps[] = {
    "prerequisites", "push_agent", "initial_sync", "verify_replication", "validate_launch", "launch_test", "boot_test",
    "terminate_test", "quiesce", "final_sync", "launch_cutover", "verify_cutover", "open_door", "compare", "finalize", "cmdb_retire",
    "decommission", "drop_staged", "right_size", "report", "stop_instance", "restore_source", "verify_source", "keep_source", "push_copy", "sync_copy", "check_rescue", "last_change", "leave_source", "restore_disks",
    "boot_source", "let_go", "resume_copy", "target_probe", "source_probe"};
static const char *const known_labels[] = {"source", "replicator", "target", "factory"};
static const char *const known_phases[] = {"pre", "build", "validate", "cutover", "post", "back"};

static bool among(const char *word, const char *const *words, size_t count)
{
    for (size_t i = 0; word && i < count; i++)
        if (strcmp(word, words[i]) == 0)
            return true;
    return false;
}
#define AMONG(word, words) among(word, words, ARRAY_COUNT(words))

static void check_step(const struct template *t, const struct template_task *task)
{
    bool step = task->kind == KIND_STEP;

    ok(step == (task->step != NULL) && step == (task->label != NULL), "%s/%s: a step and a label exactly where a runner runs it",
       t->name, task->name);
    if (step) {
        ok(AMONG(task->step, known_steps), "%s/%s: the step is known", t->name, task->name);
        ok(AMONG(task->label, known_labels), "%s/%s: the label is known", t->name, task->name);
        ok(task->timeout_s > 0 && task->attempts > 0, "%s/%s: bounded in time and attempts", t->name, task->name);
    }
    ok(!(task->flags & TASK_ASKS) || step, "%s/%s: only a step is released by a person", t->name, task->name);
    ok(!task->ask_if || (task->kind == KIND_PERSON && strchr(task->ask_if, '=')), "%s/%s: ask_if names an attribute and a value",
       t->name, task->name);
    ok(task->kind != KIND_TIME || task->delay_s > 0, "%s/%s: a time has a length", t->name, task->name);
}

/* Everything in `after` stands earlier in the table, so there is no circle; the first task waits for nothing. */
static void check_order(const struct template *t, const struct template_task *task)
{
    int index = template_task_index(t, task);

    for (int i = 0; i < TEMPLATE_AFTER_MAX && task->after[i]; i++) {
        const struct template_task *before = template_task_find(t, task->after[i]);

        ok(before && template_task_index(t, before) < index, "%s/%s: waits for %s, which stands before it", t->name, task->name,
           task->after[i]);
    }
    ok(index == 0 || task->after[0] || task->flags & TASK_ON_DEMAND, "%s/%s: only the first waits for nothing", t->name, task->name);
    ok(index > 0 || !task->after[0], "%s/%s: the first waits for nothing", t->name, task->name);
}

static void check_template(const struct template *t)
{
    for (const struct template_task *task = t->tasks; task->name; task++) {
        ok(task == template_task_find(t, task->name), "%s/%s: the name is its own", t->name, task->name);
        ok(task->title && AMONG(task->phase, known_phases), "%s/%s: title and phase", t->name, task->name);
        check_step(t, task);
        check_order(t, task);
        if (task->params) {
            CLEANUP(json_free) json_t *params = NULL;

            ok(json_read(task->params, strlen(task->params), &params, NULL) == 0 && json_is_object(params), "%s/%s: params are JSON",
               t->name, task->name);
        }
    }
}

/* Whether `task` can only run after `gate`, over any number of tasks between. */
static bool comes_after(const struct template *t, const struct template_task *task, const char *gate)
{
    for (int i = 0; i < TEMPLATE_AFTER_MAX && task->after[i]; i++)
        if (strcmp(task->after[i], gate) == 0 || comes_after(t, template_task_find(t, task->after[i]), gate))
            return true;
    return false;
}

static void check_gates(void)
{
    static const char *const gates[][2] = {
        {"sign_off", "boot_test"}, {"go_no_go", "window"}, {"quiesce", "go_no_go"}, {"open_door", "verify_cutover"},
        {"finalize", "acceptance"}, {"decommission", "finalize"}, {"decommission", "hold"}, {"cmdb_retire", "finalize"},
        {"drop_staged", "decommission"}, {"drop_staged", "right_size"}, {"report", "drop_staged"}};
    static const char *const home_gates[][2] = {
        {"push_copy", "keep_source"},   {"check_rescue", "sync_copy"},     {"last_change", "check_rescue"},  {"leave_source", "last_change"}, {"restore_disks", "leave_source"},
        {"stop_instance", "restore_disks"}, {"boot_source", "stop_instance"}, {"restore_source", "boot_source"}, {"let_go", "accept_home"},   {"let_go", "initial_sync"}};
    const struct template *wave = template_find("wave_migration"), *home = template_find("way_home");

    for (size_t i = 0; i < ARRAY_COUNT(gates); i++)
        ok(comes_after(wave, template_task_find(wave, gates[i][0]), gates[i][1]), "%s never comes before %s", gates[i][0], gates[i][1]);
    ok(template_task_find(wave, "quiesce")->flags & TASK_WINDOWED, "quiesce looks at the window itself");
    for (const struct template_task *task = template_task_find(wave, "quiesce"); task->name; task++)
        ok(task->scope == SCOPE_WAVE || task->flags & TASK_PAST_POINT, "%s is taken back with its server", task->name);
    for (size_t i = 0; i < ARRAY_COUNT(home_gates); i++)
        ok(comes_after(home, template_task_find(home, home_gates[i][0]), home_gates[i][1]), "on the way home %s never comes before %s", home_gates[i][0], home_gates[i][1]);
    for (const struct template_task *task = home->tasks; task->name; task++)
        ok(task->flags & TASK_NEEDED || strcmp(task->name, "verify_source") == 0, "on the way home %s can't be skipped", task->name);
    ok(!template_find("no such template") && !template_task_find(wave, "no such task"), "unknown names are not found");
}

int main(void)
{
    for (int i = 0; template_table[i]; i++) {
        ok(template_find(template_table[i]->name) == template_table[i], "%s is found", template_table[i]->name);
        check_template(template_table[i]);
    }
    check_gates();
    return tap_done();
}
