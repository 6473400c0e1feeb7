/* step: one of the three seams. A step is one predefined task of the process: what it checks, does and undoes. Adding one is a file
 * under steps/ and a line in steps/table.c.
 *
 * A step runs in a runner, away from the database. It is handed a *task document* (docs/architecture.md, "The task document") and
 * answers with evidence lines, artifacts and a result object. It must be idempotent: the same attempt may be started again
 * after its runner was killed, and then finds what it did and goes on. Every gate fails CLOSED: something missing, an API's error, an
 * empty list, an unknown state, a time-out are failures, with their cause. */
#pragma once

#include "base/json.h"

struct step; /* one running attempt */

enum step_place { STEP_AT_SOURCE, STEP_AT_REPLICATOR, STEP_AT_TARGET, STEP_AT_FACTORY };

/* How an attempt takes up its runner. What a source that serves no more waits for must find a place at once, whatever other servers are at. */
enum step_span {
    STEP_BRIEF,  /* minutes, or a person's downtime */
    STEP_LONG,   /* hours: half of the places are never given to such */
    STEP_WATCHES /* waits, for days, for what goes on without it: such have places of their own */
};

struct step_api {
    const char *name;       /* "prerequisites": the name in templates */
    const char *title;      /* "Verify prerequisites" */
    enum step_place place;  /* which runners may claim it (their labels: "source:NETWORK", "replicator", "target", "factory") */
    int timeout_ms;         /* of one attempt */
    int attempts;           /* how often in all, for retryable failures */
    /* 0: it holds / it is done. -1: e says why, for the operator, and err_meaning(e->kind)->retryable whether again. */
    int (*run)(struct step *s, struct err *e);
    /* Takes its effect back; NULL: it has none. Must cope with a run that got nowhere. */
    int (*undo)(struct step *s, struct err *e);
    enum step_span span;
};

/* The table's end has name NULL. */
extern const struct step_api *const step_table[];
const struct step_api *step_find(const char *name);

/* What a step may do. Reports are sent to the factory in the background; these calls don't fail and don't block for long. */
const json_t *step_document(const struct step *s);                        /* the whole task document, borrowed */
const char *step_string(const struct step *s, const char *path, const char *otherwise); /* "server.address", "context.final_sync.point" */
int64_t step_int(const struct step *s, const char *path, int64_t otherwise);
const json_t *step_json(const struct step *s, const char *path);          /* NULL where there is none */
int step_need_string(const struct step *s, const char *path, const char **out, struct err *e); /* ERR_INVALID names the path */
/* A line of evidence: what was looked at, whether it holds, and what was seen (text for a person; bounded). */
void step_evidence(struct step *s, const char *name, bool passed, const char *format, ...) __attribute__((format(printf, 4, 5)));
void step_progress(struct step *s, int64_t done, int64_t total, const char *unit, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
int step_artifact(struct step *s, const char *name, const char *media_type, const char *path, struct err *e); /* uploads the file */
void step_result(struct step *s, const char *key, json_t *value);         /* takes the reference; becomes context.TASK.key */
bool step_cancelled(const struct step *s);                                /* poll in loops: cancelled, or the lease was lost */
/* Sleeps, waking early on cancellation: ERR_CANCELLED then. */
int step_sleep_ms(struct step *s, int64_t duration_ms, struct err *e);
/* A folder of this attempt's own for scratch files, removed after; and one that outlives attempts on this runner. */
const char *step_scratch_dir(const struct step *s);
const char *step_state_dir(const struct step *s);
