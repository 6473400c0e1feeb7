/* workflow: durable runs of steps. A run is made from a template held as data (templates.h); its tasks wait for one another, for a
 * person, a window or a time, are leased to runners under a fencing number, retried, taken back. Everything that is known about a
 * run is in the database: any process may be killed at any moment, and nothing is lost and no effect counted twice.
 *
 * It does not run steps (runners do, away from the database, on a task document), serve HTTP (api/), or judge a server's data.
 *
 * Every call below is a transaction of its own, with its event rows in it, unless it takes a `struct store_tx`. All are thread-safe.
 * `actor` is as in events: "user:anna", "runner:dc1", "factory". Ids are text: runs "r1", tasks "t17", attempts "a" and 16 hex digits
 * (random, so that a database that was restored from a copy never gives an attempt's id twice).
 *
 * What was asked for and refused because of the state it is in (outside the window, before finalize, before the hold ended) is
 * ERR_WRONG_STATE, and is recorded as an event "refused" {what, reason}; the wave's report lists these. */
#pragma once

#include "base/clock.h"
#include "base/json.h"
#include "store/store.h"

#define WORKFLOW_ID_SIZE 24    /* of any id's text */
#define WORKFLOW_WORDS_SIZE 192 /* of the words that a way back over an open door asks for */
#define WORKFLOW_LEASE_MS 30000 /* of an attempt; a runner renews it at a third of that */

struct workflow;

/* What an attempt's document is made for. */
struct workflow_claimed {
    const char *run, *task, *step, *wave;
    const char *server; /* NULL for a task of the whole wave */
    const char *runner;
};

struct workflow_settings {
    struct store *store;
    const struct clock *clock;     /* wall clock: windows, holds, what is written down; NULL: clock_real */
    const struct clock *monotonic; /* leases and time limits, so that a jump of the wall clock ends none; NULL: CLOCK_MONOTONIC */
    int64_t lease_us;              /* 0: WORKFLOW_LEASE_MS */
    uint64_t (*random)(void *user); /* for attempts' ids; NULL: the kernel's */
    /* Adds what other rooms own to a task document: "credential", "enrolment" (for push_agent), "settings", "api_url", "ca_pem".
     * Called inside the claim's transaction: it may read and write with tx, and must not call outside. -1: the task is not given,
     * it is FAILED with that error (fails closed: a credential that is missing is named there). NULL: adds nothing. */
    int (*complete)(void *user, struct store_tx *tx, const struct workflow_claimed *what, json_t *document, struct err *e);
    void *user;
};

/* Opens the engine; the store must be migrated. Running attempts of an earlier process get a whole lease from now on. */
int workflow_open(const struct workflow_settings *settings, struct workflow **out, struct err *e);
void workflow_close(struct workflow **w); /* for CLEANUP; NULL inside is fine */

/* ---- Runs ---- */

/* Makes the wave's run of the template "wave_migration" and starts it. ERR_WRONG_STATE: the wave has no servers, or an unfinished run.
 * ERR_INVALID: the servers' `after` attributes name a server that is not there, or go in a circle. */
int workflow_start_wave(struct workflow *w, const char *wave, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e);
/* A run of the template "target_probe": launches a probe machine on the target and removes it. wave may be NULL. */
int workflow_start_probe(struct workflow *w, const char *wave, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e);
/* The same of the template "source_probe": whether a runner in the source network reaches it, and the replicator from there. */
int workflow_start_source_probe(struct workflow *w, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e);
/* A run of the template "push_again" for one server: its agent gets its replicator's address anew. One that is under way is enough: run gets its id;
 * one that has failed is tried again. It waits while the server is cut over (its address is the copy's then), and a cutover waits for it. */
int workflow_push_again(struct workflow *w, const char *server, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e);
/* No task of it starts any more; running attempts are told to stop. ERR_WRONG_STATE while a server of it is between quiesce and finalize:
 * take it back first. */
int workflow_cancel_run(struct workflow *w, const char *run, const char *actor, struct err *e);

/* Everything that time brings: leases that ran out, time limits, windows that open and close, holds that end, retries that are due.
 * Call it every second or so, and after a start. Returns the count of tasks that changed, or -1. */
int workflow_tick(struct workflow *w, struct err *e);

/* After the database was restored from a copy, before workflow_open: no runner that works on an attempt of before may report any more. */
int workflow_restored(struct store_tx *tx, struct err *e);

/* ---- Runners ---- */

struct workflow_offer {
    const char *runner;        /* its name: "dc1"; the attempt is bound to it */
    const char *const *labels; /* "source:dc1", "replicator" (beside the factory's own), "replicator:NAME" (beside that one), "target", "factory" */
    int label_count;
    const char *const *steps;  /* names of the steps that it has */
    int step_count;
};
/* Gives the most urgent ready task that fits: 1 with its document (docs/architecture.md, "The task document"; the caller frees), 0
 * when there is none now (wait with event_wait and ask again), -1. A task without the attribute `network` on its server (or the
 * setting on its wave) may go to any runner with a label "source:…". */
int workflow_claim(struct workflow *w, const struct workflow_offer *offer, json_t **document, struct err *e);

/* body {fence, progress?:{done,total,unit,note}, evidence?:[{name,passed,evidence}], log?:["…"]}; renews the lease.
 * *answer: {cancelled, lease_ms}, the caller frees. ERR_CONFLICT: the fence is old or the attempt over: the runner must stop at once. */
int workflow_report(struct workflow *w, const char *runner, const char *attempt, const json_t *body, json_t **answer, struct err *e);
/* Keeps bytes (at most LIMIT_ARTIFACT_BYTES) under the task by name; the same name again replaces them. name is [A-Za-z0-9._-]{1,100}. */
int workflow_artifact(struct workflow *w, const char *runner, const char *attempt, int64_t fence, const char *name,
                      const char *media_type, const void *bytes, size_t size, struct err *e);
/* body {fence, outcome:"succeeded"|"failed", error?:{kind,message}, result?:{}}. The same body again is fine and changes nothing;
 * another outcome, or an attempt that was given to somebody else meanwhile: ERR_CONFLICT. A failure whose kind is retryable is tried
 * again after a while (5 s, doubling, at most 5 min) as long as the task has attempts left; then it is FAILED. */
int workflow_finish(struct workflow *w, const char *runner, const char *attempt, const json_t *body, struct err *e);

/* ---- People ---- */

/* For a task that waits for a person. ERR_CONFLICT: somebody decided it meanwhile (the message says who). ERR_WRONG_STATE: it does not wait
 * for a person; go_no_go outside the window. A rejection makes it FAILED; `retry` asks again. note may be NULL. */
int workflow_decide(struct workflow *w, const char *task, bool approve, const char *note, const char *actor, struct err *e);
/* A FAILED task is given again, with all its attempts. */
int workflow_retry(struct workflow *w, const char *task, const char *actor, struct err *e);
/* A FAILED, WAITING or READY task counts as done; needs a reason of at least 3 bytes. ERR_WRONG_STATE before its turn, and for tasks that
 * the template marks as needed (quiesce, launch_cutover, open_door, finalize …): what these do can't be left out. */
int workflow_skip(struct workflow *w, const char *task, const char *reason, const char *actor, struct err *e);
/* Stops a task: a running attempt is told to stop; the task is then FAILED with kind "cancelled" and can be retried or skipped. */
int workflow_cancel_task(struct workflow *w, const char *task, const char *actor, struct err *e);

/* Cuts the wave over now: ERR_WRONG_STATE outside the window (the message says when it opens) and while a server is not ready; else the
 * window's task passes and go_no_go is approved. */
int workflow_cutover_wave(struct workflow *w, const char *wave, const char *actor, struct err *e);
/* After a way back: lets the server cut over again. The window must be open. */
int workflow_server_cutover(struct workflow *w, const char *server, const char *actor, struct err *e);
/* Opens the door of a server that waits for it (attribute door=ask). */
int workflow_server_open(struct workflow *w, const char *server, const char *actor, struct err *e);
/* Refused before acceptance. */
int workflow_server_finalize(struct workflow *w, const char *server, const char *actor, struct err *e);
/* Refused before finalize and before the hold ended. After it, decommissioning starts by itself: this only says so (0). */
int workflow_server_decommission(struct workflow *w, const char *server, const char *actor, struct err *e);
/* Takes a server back: a run of the template "way_back". Before its door was opened: at once. After: ERR_WRONG_STATE, until confirm has the
 * words that the refusal names; they are also left in words (else it is ""), e.g. "lose 12 minutes of db01". Words that were given out
 * in the last 10 minutes hold. After finalize: refused. run gets the run's id. */
int workflow_server_back(struct workflow *w, const char *server, const char *confirm, const char *actor,
                         char run[static WORKFLOW_ID_SIZE], char words[static WORKFLOW_WORDS_SIZE], struct err *e);

/* Takes a server back with what was written since its door was opened: a run of the template "way_home". ERR_WRONG_STATE where the door was not opened. Once it is
 * through the server may be cut over again, as after any way back. */
int workflow_server_home(struct workflow *w, const char *server, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e);
/* Calls that off, as long as the launched machine was not stopped: it goes on serving (a run of the template "stay"), and what the way back had stopped goes on. */
int workflow_server_stay(struct workflow *w, const char *server, const char *actor, char run[static WORKFLOW_ID_SIZE], struct err *e);

/* ---- What was measured outside ---- */

/* PUT /v1/waves/{wave}/measurements/{name}: any JSON, at most 1 MiB; the names that the report reads are in report.h. */
int workflow_measure(struct workflow *w, const char *wave, const char *name, const json_t *value, const char *actor, struct err *e);
/* Call it for each server of POST /v1/replicator/status, with its replication object: keeps the totals and a histogram of
 * newest_point_age_ms through the run, for the report. Writes no event. */
int workflow_replication_seen(struct store_tx *tx, const char *server, const json_t *replication, int64_t now_us, struct err *e);

/* ---- Reading: 1 found, 0 not there, -1. The caller frees *out. ---- */

/* {id,template,wave,server,state,stage,health,round,started,finished,actor,tasks?:[…]}; state RUNNING, SUCCEEDED or CANCELLED. */
int workflow_run_json(struct store_tx *tx, const char *run, bool with_tasks, json_t **out, struct err *e);
/* Runs, newest first: {items,next}; next is the page to ask for, or null. wave NULL: all. */
int workflow_runs_json(struct store_tx *tx, const char *wave, int limit, const char *page, json_t **out, struct err *e);
/* A task as docs/architecture.md has it; whole adds evidence, artifacts, attempts, decisions, log (its end), result. */
int workflow_task_json(struct store_tx *tx, const char *task, bool whole, json_t **out, struct err *e);
/* The bytes of an artifact (newest attempt that has one of that name); *media_type and *bytes are the caller's to free. */
int workflow_artifact_read(struct store_tx *tx, const char *task, const char *name, char **media_type, void **bytes, size_t *size,
                           struct err *e);
/* The wave's newest run of wave_migration: sets "run", "stage" and "health" in the wave's object; a wave that never ran: null, "build", "idle". */
int workflow_wave_status(struct store_tx *tx, const char *wave, json_t *object, struct err *e);
