#include "workflow/templates.h"

#include <stddef.h>
#include <string.h>

/* Times are generous bounds of one attempt: they catch what hangs, they are no plan. None is shorter than the step's own: a source whose changes can't be followed
 * stands still for as long as all of its disks are read, and being told to stop in the midst of that would cost it the same again. */
#define MINUTE 60
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

/* Columns of a step: name, title, phase, step = name, where it runs. */
#define STEP(task, text, in_phase, where) \
    .name = task, .title = text, .phase = in_phase, .kind = KIND_STEP, .step = task, .label = where

static const struct template_task wave_migration[] = {
    /* build */
    {STEP("prerequisites", "Verify prerequisites", "build", "source"), .timeout_s = 5 * MINUTE, .attempts = 3},
    {STEP("push_agent", "Push the agent", "build", "source"), .after = {"prerequisites"}, .timeout_s = 20 * MINUTE, .attempts = 3},
    {STEP("initial_sync", "Initial sync", "build", "replicator"), .after = {"push_agent"}, .timeout_s = 14 * DAY, .attempts = 10},
    {STEP("verify_replication", "Verify replication status", "build", "replicator"), .after = {"initial_sync"},
     .timeout_s = 23 * HOUR, .attempts = 5},
    /* validate */
    {STEP("validate_launch", "Validate launch settings", "validate", "target"), .after = {"verify_replication"},
     .timeout_s = 5 * MINUTE, .attempts = 3},
    {STEP("launch_test", "Launch the test instance", "validate", "target"), .after = {"validate_launch"},
     .timeout_s = 18 * HOUR, .attempts = 3},
    {STEP("boot_test", "Boot-up test", "validate", "target"), .after = {"launch_test"}, .timeout_s = 30 * MINUTE, .attempts = 2},
    {.name = "sign_off", .title = "Owner's sign-off", .phase = "validate", .kind = KIND_PERSON, .after = {"boot_test"}},
    {STEP("terminate_test", "Terminate the test instance", "validate", "target"), .after = {"sign_off"},
     .timeout_s = 10 * MINUTE, .attempts = 5},
    /* cutover */
    {.name = "window", .title = "Cutover window", .phase = "cutover", .scope = SCOPE_WAVE, .kind = KIND_WINDOW,
     .after = {"terminate_test"}, .flags = TASK_NEEDED},
    {.name = "go_no_go", .title = "Go or no-go", .phase = "cutover", .scope = SCOPE_WAVE, .kind = KIND_PERSON, .after = {"window"},
     .flags = TASK_NEEDED | TASK_WINDOWED},
    {.name = "cut_over_again", .title = "Cut over again", .phase = "cutover", .kind = KIND_PERSON,
     .flags = TASK_NEEDED | TASK_WINDOWED | TASK_ON_DEMAND | TASK_PAST_POINT},
    {STEP("quiesce", "Quiesce the source", "cutover", "source"), .after = {"go_no_go", "cut_over_again"},
     .flags = TASK_NEEDED | TASK_WINDOWED | TASK_PAST_POINT, .timeout_s = 10 * MINUTE, .attempts = 3},
    {STEP("final_sync", "Send the last change", "cutover", "replicator"), .after = {"quiesce"},
     .flags = TASK_NEEDED | TASK_PAST_POINT, .timeout_s = 18 * HOUR, .attempts = 3},
    {STEP("launch_cutover", "Launch the cutover instance", "cutover", "target"), .after = {"final_sync"},
     .flags = TASK_NEEDED | TASK_PAST_POINT, .timeout_s = 30 * MINUTE, .attempts = 3},
    {STEP("verify_cutover", "Verify behind the closed door", "cutover", "target"), .after = {"launch_cutover"},
     .flags = TASK_PAST_POINT, .timeout_s = 30 * MINUTE, .attempts = 2},
    {.name = "door", .title = "May the door open?", .phase = "cutover", .kind = KIND_PERSON, .after = {"verify_cutover"},
     .flags = TASK_NEEDED | TASK_PAST_POINT, .ask_if = "door=ask"},
    {STEP("open_door", "Open the door", "cutover", "target"), .after = {"door"}, .flags = TASK_NEEDED | TASK_PAST_POINT,
     .timeout_s = 5 * MINUTE, .attempts = 5},
    {STEP("compare", "Compare source and copy", "cutover", "replicator"), .after = {"open_door"}, .flags = TASK_PAST_POINT,
     .timeout_s = 12 * HOUR, .attempts = 3},
    {.name = "acceptance", .title = "Owner's acceptance", .phase = "cutover", .kind = KIND_PERSON, .after = {"compare"},
     .flags = TASK_NEEDED | TASK_PAST_POINT},
    {STEP("finalize", "Finalize", "cutover", "replicator"), .after = {"acceptance"},
     .flags = TASK_NEEDED | TASK_ASKS | TASK_PAST_POINT, .timeout_s = 10 * MINUTE, .attempts = 5},
    /* post */
    {STEP("cmdb_retire", "Retire the CMDB record", "post", "factory"), .after = {"finalize"}, .flags = TASK_PAST_POINT,
     .timeout_s = 5 * MINUTE, .attempts = 5},
    {.name = "hold", .title = "Hold period", .phase = "post", .kind = KIND_TIME, .after = {"finalize"},
     .flags = TASK_NEEDED | TASK_PAST_POINT, .delay_setting = "hold_s", .delay_s = 7 * DAY},
    {STEP("decommission", "Decommission the source", "post", "source"), .after = {"hold"}, .flags = TASK_PAST_POINT,
     .timeout_s = 30 * MINUTE, .attempts = 5},
    {STEP("right_size", "Right-size from measured use", "post", "target"), .after = {"open_door"}, .flags = TASK_PAST_POINT,
     .timeout_s = 2 * HOUR, .attempts = 3, .delay_setting = "right_size_after_s", .delay_s = 10 * MINUTE},
    /* right_size first: the instance must be filled in before what it is filled from goes. */
    {STEP("drop_staged", "Drop the staged data", "post", "replicator"), .after = {"decommission", "right_size"},
     .flags = TASK_PAST_POINT, .timeout_s = 2 * HOUR, .attempts = 5},
    {STEP("report", "The wave's report", "post", "factory"), .scope = SCOPE_WAVE,
     .after = {"drop_staged", "cmdb_retire", "right_size"}, .timeout_s = 5 * MINUTE, .attempts = 5},
    {.name = NULL},
};

static const struct template_task way_back[] = {
    {STEP("stop_instance", "Stop the cutover instance", "back", "target"), .flags = TASK_NEEDED, .timeout_s = 10 * MINUTE,
     .attempts = 5},
    {STEP("restore_source", "Let the source serve again", "back", "source"), .after = {"stop_instance"}, .flags = TASK_NEEDED,
     .timeout_s = 30 * MINUTE, .attempts = 5},
    {STEP("verify_source", "Verify the source", "back", "source"), .after = {"restore_source"}, .timeout_s = 15 * MINUTE,
     .attempts = 5},
    {.name = NULL},
};

/* Nothing is taken from the launched machine before the source is ready for it, nor from the source before the launched machine's last change is kept; the one is
 * stopped when the other has all of it, and before it boots. */
static const struct template_task way_home[] = {
    {STEP("keep_source", "Keep what the source was", "back", "replicator"), .flags = TASK_NEEDED, .timeout_s = 10 * MINUTE, .attempts = 5},
    {STEP("push_copy", "Push an agent to the launched machine", "back", "target"), .after = {"keep_source"}, .flags = TASK_NEEDED, .timeout_s = 30 * MINUTE,
     .attempts = 5},
    {STEP("sync_copy", "Sync the launched machine", "back", "replicator"), .after = {"push_copy"}, .flags = TASK_NEEDED, .timeout_s = 14 * DAY, .attempts = 10},
    {STEP("check_rescue", "Can the source take it?", "back", "source"), .after = {"sync_copy"}, .flags = TASK_NEEDED, .timeout_s = 15 * MINUTE, .attempts = 5},
    {STEP("last_change", "Stop its services, take its last change", "back", "target"), .after = {"check_rescue"}, .flags = TASK_NEEDED, .timeout_s = 3 * HOUR,
     .attempts = 5},
    {STEP("leave_source", "The source leaves its system", "back", "source"), .after = {"last_change"}, .flags = TASK_NEEDED, .timeout_s = 15 * MINUTE, .attempts = 5},
    {STEP("restore_disks", "Restore the source's disks", "back", "replicator"), .after = {"leave_source"}, .flags = TASK_NEEDED, .timeout_s = 14 * DAY, .attempts = 10},
    {STEP("stop_instance", "Stop the launched machine", "back", "target"), .after = {"restore_disks"}, .flags = TASK_NEEDED, .timeout_s = 10 * MINUTE, .attempts = 5,
     .params = "{\"keep\":true}"},
    {STEP("boot_source", "Let the source boot", "back", "replicator"), .after = {"stop_instance"}, .flags = TASK_NEEDED, .timeout_s = 10 * MINUTE, .attempts = 5},
    {STEP("restore_source", "Let the source serve again", "back", "source"), .after = {"boot_source"}, .flags = TASK_NEEDED, .timeout_s = 30 * MINUTE, .attempts = 5,
     .params = "{\"rescued\":true}"},
    {STEP("verify_source", "Verify the source", "back", "source"), .after = {"restore_source"}, .timeout_s = 15 * MINUTE, .attempts = 5},
    {STEP("push_agent", "Push the agent", "back", "source"), .after = {"verify_source"}, .flags = TASK_NEEDED, .timeout_s = 20 * MINUTE, .attempts = 5},
    {STEP("initial_sync", "Sync the source again", "back", "replicator"), .after = {"push_agent"}, .flags = TASK_NEEDED, .timeout_s = 14 * DAY, .attempts = 10},
    {.name = "accept_home", .title = "Owner's acceptance of what came home", .phase = "back", .kind = KIND_PERSON, .after = {"verify_source"}, .flags = TASK_NEEDED},
    {STEP("let_go", "Remove the launched machine", "back", "target"), .after = {"accept_home", "initial_sync"}, .flags = TASK_NEEDED, .timeout_s = 15 * MINUTE,
     .attempts = 5},
    {.name = NULL},
};

static const struct template_task stay[] = {
    {STEP("resume_copy", "The launched machine serves on", "back", "target"), .flags = TASK_NEEDED, .timeout_s = 30 * MINUTE, .attempts = 5},
    {.name = NULL},
};

static const struct template_task target_probe[] = {
    {STEP("target_probe", "Launch and remove a probe machine", "pre", "target"), .scope = SCOPE_WAVE, .timeout_s = 10 * MINUTE,
     .attempts = 1},
    {.name = NULL},
};

static const struct template_task source_probe[] = {
    {STEP("source_probe", "Reach the source network and the replicator", "pre", "source"), .scope = SCOPE_WAVE, .timeout_s = 2 * MINUTE,
     .attempts = 1},
    {.name = NULL},
};

/* Where the replicator that has a server's agent is lost, nobody can tell the agent on the wire where to go. */
static const struct template_task push_again[] = {
    {STEP("push_agent", "Push the agent again, to its replicator", "build", "source"), .timeout_s = 20 * MINUTE, .attempts = 5},
    {.name = NULL},
};

static const struct template templates[] = {
    {"wave_migration", "Migrate a wave", wave_migration},
    {"way_back", "Take a server back", way_back},
    {"way_home", "Take a server back with what was written since", way_home},
    {"stay", "Keep the launched machine", stay},
    {"target_probe", "Probe the target", target_probe},
    {"source_probe", "Probe a source network", source_probe},
    {"push_again", "Push an agent again", push_again},
};
const struct template *const template_table[] = {&templates[0], &templates[1], &templates[2], &templates[3], &templates[4], &templates[5], &templates[6], NULL};

const struct template *template_find(const char *name)
{
    for (int i = 0; template_table[i]; i++)
        if (strcmp(template_table[i]->name, name) == 0)
            return template_table[i];
    return NULL;
}

const struct template_task *template_task_find(const struct template *t, const char *name)
{
    for (const struct template_task *task = t->tasks; task->name; task++)
        if (strcmp(task->name, name) == 0)
            return task;
    return NULL;
}

int template_task_index(const struct template *t, const struct template_task *task)
{
    return (int)(task - t->tasks);
}
