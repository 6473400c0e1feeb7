/* engine: what the files of workflow/ share. Inside this room only.
 *
 *   task.c    a task's row, the table of its states and moves, the one function that changes it
 *   settle.c  what stands between a task and its being ready; a run's stage, health and end
 *   run.c     making runs, cancelling them
 *   lease.c   claim, report, artifact, finish; leases and time limits
 *   tick.c    what time brings
 *   people.c  decide, retry, skip, cancel
 *   action.c  cutover, door, finalize, decommission · back.c the way back · home.c with what was written since
 *   effect.c  what a task's start and success mean for its server
 *   render.c  JSON for the API · report.c, report_html.c the wave's report
 *   fleet.c   the border to inventory/ */
#pragma once

#include "store/event.h"
#include "workflow/fleet.h"
#include "workflow/templates.h"
#include "workflow/workflow.h"

#include <pthread.h>

/* A running attempt as this process has seen it, by the clock that does not jump. */
struct lease {
    char attempt[WORKFLOW_ID_SIZE];
    int64_t renewals;
    int64_t renewed_us;  /* when that count was first seen */
    int64_t deadline_us; /* of its time limit */
    bool seen;
};

struct workflow {
    struct workflow_settings settings;
    pthread_mutex_t lock; /* leases, lease_count, lease_room, ticked_us, looked_us; never held over a transaction's begin */
    struct lease *leases;
    int lease_count, lease_room;
    int64_t ticked_us;
    int64_t looked_us; /* when a tick last looked at all that waits, due or not; 0: not yet */
};

/* One transaction that changes runs. Everything loaded in it lives in its arena. */
struct change {
    struct workflow *w;
    struct store_tx *tx;
    struct arena *arena;
    int64_t now_us;
    const char *actor;
    int moved; /* tasks whose state changed */
    /* The last wave and server that were looked at. */
    const char *wave_name;
    struct fleet_wave wave;
    const char *server_name;
    json_t *server;
};
int change_begin(struct workflow *w, const char *actor, struct change *out, struct err *e);
int change_commit(struct change *c, struct err *e);
void change_release(struct change *c); /* for CLEANUP: rolls back what was not committed */
/* Borrowed until the next call. ERR_NOT_FOUND where there is none. */
int change_wave(struct change *c, const char *wave, const struct fleet_wave **out, struct err *e);
int change_server(struct change *c, const char *server, const json_t **out, struct err *e);
void change_forget_server(struct change *c); /* after it was changed */
const char *change_keep(struct change *c, const char *text); /* in the arena; NULL gives NULL */
const char *change_printf(struct change *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

enum task_state {
    TASK_PENDING, TASK_READY, TASK_RUNNING, TASK_WAITING, TASK_SUCCEEDED, TASK_FAILED, TASK_SKIPPED, TASK_CANCELLED, TASK_STATE_COUNT
};
const char *task_state_name(enum task_state state);

struct task {
    const char *id, *run, *wave, *parent, *server; /* wave, parent of its run; server NULL: of the whole wave */
    const struct template *template;
    const struct template_task *plan;
    enum task_state state;
    int64_t round, due_us, not_before_us;
    bool released;
    const char *wait_kind, *wait_what;
    int64_t wait_until_us;
    const char *label;
    int64_t fence;
    const char *attempt;
    int64_t failures, lost, started_us, finished_us;
    const char *progress;
    int64_t progress_event_us;
    const char *error_kind, *error_message, *result, *reason, *cancel_cause, *cancel_by;
};
static inline bool task_done(const struct task *t) { return t->state == TASK_SUCCEEDED || t->state == TASK_SKIPPED; }
static inline bool task_past_point(const struct task *t) { return t->plan->flags & TASK_PAST_POINT; }

/* 1 found, 0 not, -1. ERR_CORRUPT for a row that this program's templates don't know. */
int task_load(struct store_tx *tx, struct arena *arena, const char *id, struct task *out, struct err *e);
int task_need(struct change *c, const char *id, struct task *out, struct err *e); /* ERR_NOT_FOUND where there is none */
/* The server's task of that name in the run; server NULL: the wave's. 1, 0, -1. */
int task_find(struct store_tx *tx, struct arena *arena, const char *run, const char *server, const char *name, struct task *out,
              struct err *e);
/* The tasks of a run, of one server, or (server NULL) of the wave alone, in the template's order. Returns the count. */
int task_list(struct store_tx *tx, struct arena *arena, const char *run, const char *server, struct task **out, struct err *e);
/* All tasks of a run, by position, then server. */
int task_list_all(struct store_tx *tx, struct arena *arena, const char *run, struct task **out, struct err *e);
int task_insert(struct change *c, const struct task *t, struct err *e);

enum task_move {
    MOVE_READY, MOVE_WAIT, MOVE_START, MOVE_SUCCEED, MOVE_FAIL, MOVE_BACK_OFF, MOVE_LOSE, MOVE_SKIP, MOVE_CANCEL, MOVE_RETRY,
    MOVE_AGAIN, MOVE_COUNT
};
/* Changes the task's state, writes its row as t has it and its event. ERR_WRONG_STATE where the table doesn't allow the move,
 * ERR_CONFLICT where the row isn't what t was loaded from. */
int task_move(struct change *c, struct task *t, enum task_move move, struct err *e);
/* MOVE_AGAIN, with nothing left of what it did (attempts, evidence and artifacts stay in their tables). */
int task_reset(struct change *c, struct task *t, int64_t round, struct err *e);
/* Writes the row without a move: progress, cancellation. */
int task_save(struct change *c, const struct task *t, struct err *e);
/* Writes an event about the task; extra (may be NULL) is merged into its data and freed. */
int task_event(struct change *c, const struct task *t, const char *kind, json_t *extra, struct err *e);

/* What a task waits for; kind NULL: nothing. */
struct obstacle {
    const char *kind, *what;
    int64_t until_us;
};
int settle_obstacle(struct change *c, struct task *t, struct obstacle *out, struct err *e);
/* Moves a PENDING task whose dependencies are done, or a WAITING one, as far as it can go now. */
int settle_task(struct change *c, struct task *t, struct err *e);
/* After something of the server (NULL: the wave) changed: all that can move now, and the run's stage, health and end. */
int settle(struct change *c, const char *run, const char *server, struct err *e);
/* What windows, other servers and times until due_us (INT64_MAX: all of them, whenever) let move now, of what waits for them. */
int settle_waiting(struct change *c, const char *run, int64_t due_us, struct err *e);
/* Whether the wave's cutover window is open: 1, or 0 with what and until when. */
int settle_window(struct change *c, const char *wave, struct obstacle *out, struct err *e);
int settle_run_status(struct change *c, const char *run, struct err *e);

struct run {
    const char *id, *template, *wave, *server, *parent, *state, *stage, *health, *actor;
    int64_t started_us, finished_us;
};
int run_load(struct store_tx *tx, struct arena *arena, const char *id, struct run *out, struct err *e);
/* The newest run of wave_migration of the wave: 1, 0, -1. */
int run_newest(struct store_tx *tx, struct arena *arena, const char *wave, struct run *out, struct err *e);
/* The newest running way back of the server under the wave's run (way_back, way_home, stay): 1, 0, -1. */
int run_way_back(struct store_tx *tx, struct arena *arena, const char *parent, const char *server, struct run *out, struct err *e);
int run_make(struct change *c, const char *template, const char *wave, const char *server, const char *parent, int64_t round,
             char id[static WORKFLOW_ID_SIZE], struct err *e);
int run_servers(struct store_tx *tx, struct arena *arena, const char *run, const char *const **names, struct err *e);
/* A server of that lifecycle is still served by its source. */
bool run_not_cut_over(const char *lifecycle);
int run_event(struct change *c, const char *run, const char *wave, const char *kind, json_t *data, struct err *e);

int effect_started(struct change *c, const struct task *t, struct err *e);
int effect_done(struct change *c, const struct task *t, struct err *e); /* SUCCEEDED or SKIPPED */
int effect_taken_back(struct change *c, const char *server, struct err *e);

/* The attempt of a task is over: attempts' row, then the task's next move by its outcome and by what it was told. */
int lease_end(struct change *c, struct task *t, const char *attempt_state, const struct err *why, const json_t *result,
              struct err *e);
/* Tells a running attempt to stop. */
int lease_cancel(struct change *c, struct task *t, const char *cause, struct err *e);
/* Leases that ran out and time limits, by the monotonic clock. */
int lease_tick(struct change *c, struct err *e);

/* The server's task of that name in its newest wave's run, and the run. ERR_WRONG_STATE where there is none. */
int action_task(struct change *c, const char *server, const char *name, struct run *r, struct task *out, struct err *e);
/* Whether the server can be taken back, but for what its clients would lose; its wave's run and its task open_door. */
int back_check(struct change *c, const char *server, struct run *r, struct task *door, struct err *e);
/* Nothing of the server's cutover starts any more; what runs is told to stop, and the way back waits for that. *round: where it is raised to theirs. */
int back_stop_cutover(struct change *c, const struct run *r, const char *server, int64_t *round, struct err *e);
int back_finished(struct change *c, const struct run *r, struct err *e);
int home_stayed(struct change *c, const struct run *r, struct err *e); /* a run of stay is through */
/* A refusal is remembered outside the transaction that was refused. Returns -1, *e as it was. */
int refuse(struct workflow *w, const char *what, const char *wave, const char *server, const char *actor, struct err *why);
/* Approves a task that waits for a person, inside c. */
int people_approve(struct change *c, struct task *t, const char *note, struct err *e);
/* A FAILED task is given again, with all its attempts, inside c. */
int people_retry(struct change *c, struct task *t, struct err *e);
/* Who decided the task last, in words ("approved by user:anna at …"), or NULL: 1, 0, -1. */
int people_decided(struct change *c, const struct task *t, const char **out, struct err *e);
