/* step_run: the other side of steps/step.h: makes a running attempt out of a task document and a *sink* that takes what the step
 * says. The runner's child process uses it, and so do tests and `slipway runner --try`, which need no factory. */
#pragma once

#include "steps/step.h"

#include <stdatomic.h>

/* Calls come from whatever thread of the step speaks, one at a time. */
struct step_sink {
    /* One of {"evidence":{name,passed,evidence}}, {"progress":{done,total,unit,note}}, {"log":text}; borrowed. */
    void (*line)(void *user, const json_t *line);
    int (*artifact)(void *user, const char *name, const char *media_type, const char *path, struct err *e); /* NULL: always succeeds */
    void *user;
};

/* Takes the document's reference. The folders must exist; the strings are copied. */
struct step *step_new(json_t *document, const char *scratch_dir, const char *state_dir, const struct step_sink *sink);
void step_free(struct step **s); /* for CLEANUP */
/* Finds the step that the document names and runs it (or its undo, where the document has "undo": true), in this thread.
 * A step that reported a failed line of evidence and returned 0 all the same has failed: ERR_INTERNAL, gates fail closed. */
int step_execute(struct step *s, struct err *e);
/* Makes step_cancelled true and wakes step_sleep_ms; from any thread. */
void step_cancel(struct step *s);
const json_t *step_results(const struct step *s); /* the result object so far; borrowed */

/* Text of the outside as a JSON string: bytes that are not UTF-8 become '?'. */
json_t *step_text(const char *bytes, size_t size);
