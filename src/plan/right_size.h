/* right_size: advice on a machine's size from samples of its measured use. Pure functions: samples in, advice out. It measures nothing and
 * changes nothing. Advice names the figures that it rests on, and says "keep" where they don't carry more. */
#pragma once

#include "base/json.h"

#include <stdint.h>

struct use_sample {
    int64_t at_us;
    double cpu_share;            /* 0-1 of all CPUs since the sample before; negative: unknown */
    int64_t memory_used_bytes;   /* negative: unknown */
};

struct machine_size {
    int cpu_count;
    int64_t memory_bytes;
};

/* The value below which `share` (0-1) of them lies, by nearest rank; negative ones are left out. -1 where none is left. Doesn't change the list. */
double plan_percentile(const double *values, int count, double share);

/* Appends an object for "cpu" and one for "memory" to advice:
 *   {what, now, advised, change:"keep"|"smaller"|"larger", reason, samples, span_s, p50, p95, max}
 * now and advised in CPUs or bytes; p50, p95, max as shares (cpu) or bytes (memory), null where nothing was measured.
 * Aims: the CPUs' p95 at 60 % or less; the memory's greatest use at 75 % or less. Never below 1 CPU and 512 MiB; never smaller than half of
 * now at once; smaller only from at least 10 samples over at least `enough_s` seconds (a machine that slept all night was not measured). */
void plan_right_size(const struct use_sample *samples, int count, struct machine_size now, int64_t enough_s, json_t *advice);
