/* templates: what a run consists of, as data. A template's tasks stand in the order in which people read them; `after` says what
 * each waits for. A task of a server waits for the same server's tasks and for tasks of the wave; a task of the wave waits for all
 * servers'. tests/unit/workflow/test_templates.c holds the tables to their rules. */
#pragma once

#include <stdbool.h>

enum task_scope { SCOPE_SERVER, SCOPE_WAVE };

enum task_kind {
    KIND_STEP,   /* a runner runs `step` */
    KIND_PERSON, /* somebody decides */
    KIND_WINDOW, /* until the wave's cutover window is open */
    KIND_TIME,   /* until delay_s after what it waits for */
};

enum task_flag {
    TASK_NEEDED = 1,     /* can't be skipped */
    TASK_WINDOWED = 2,   /* starts only while the window is open, whatever was decided before */
    TASK_ASKS = 4,       /* a step that a person must release */
    TASK_ON_DEMAND = 8,  /* is not made with the run: a way back adds it */
    TASK_PAST_POINT = 16 /* belongs to the cutover of a server: a way back takes it back */
};

#define TEMPLATE_AFTER_MAX 4

struct template_task {
    const char *name;     /* unique within the template; also its name in contexts and paths */
    const char *title;
    const char *phase;    /* build, validate, cutover, post, back, pre */
    enum task_scope scope;
    enum task_kind kind;
    const char *step;     /* of KIND_STEP */
    const char *label;    /* "source" (+ ":" and the server's network), "replicator", "target", "factory" */
    const char *after[TEMPLATE_AFTER_MAX];
    unsigned flags;       /* enum task_flag */
    int timeout_s;        /* of one attempt */
    int attempts;         /* how many may fail in a retryable way */
    const char *params;   /* JSON object text for the step, or NULL */
    const char *ask_if;   /* KIND_PERSON: "door=ask": asks only where the server's attribute says so; else it decides itself */
    const char *delay_setting; /* the wave's setting that gives delay_s another value */
    int delay_s;          /* how long after what it waits for it is due; 0: at once */
};

struct template {
    const char *name, *title;
    const struct template_task *tasks; /* ends with name NULL */
};

extern const struct template *const template_table[]; /* ends with NULL */
const struct template *template_find(const char *name);
/* NULL where the template has no such task. */
const struct template_task *template_task_find(const struct template *t, const char *name);
/* Its place in the template, from 0. */
int template_task_index(const struct template *t, const struct template_task *task);
