/* children: the processes that `slipway serve` supervises: this same binary as runner and as replicator. One that ends is started
 * again, after a while that doubles (0.5 s to 30 s) until it has run for a minute. When serve is killed, the kernel kills them
 * (PR_SET_PDEATHSIG); when it is stopped, they are asked to end and given time. */
#pragma once

#include "base/err.h"

#include <stddef.h>

#define CHILDREN_MAX 4
#define CHILD_ARGUMENTS_MAX 40

struct children;

struct child_plan {
    const char *name;                             /* "runner": for logs and health */
    const char *arguments[CHILD_ARGUMENTS_MAX];   /* after the program's name; ends with NULL; copied */
};

int children_start(const struct child_plan *plans, int count, struct children **out, struct err *e);
/* SIGTERM, then after grace_ms SIGKILL. For CLEANUP with children_end. */
void children_stop(struct children *c, int grace_ms);
void children_end(struct children **c);
/* Whether all run now, and have for two seconds; why says which doesn't. */
bool children_up(struct children *c, char *why, size_t why_size);
