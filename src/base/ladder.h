/* ladder: which recovery points stay, as people write it: "10m all, 1h 1m, 1d 1h, 3d 1d": all of the last ten minutes, one a minute for an hour,
 * one an hour for a day, one a day for three days. Spans and steps rise, a step is not longer than its span. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define LADDER_RUNGS_MAX 8

struct ladder_rung {
    int64_t span_us, step_us; /* step 0: all */
};
struct ladder {
    size_t rung_count; /* 0: nobody said anything */
    struct ladder_rung rungs[LADDER_RUNGS_MAX];
};

/* ERR_INVALID names every fault. */
int ladder_parse(const char *text, struct ladder *out, struct err *e);
