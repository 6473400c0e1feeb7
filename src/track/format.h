/* format: where the fields lie in what a tracepoint records, by its format file (/sys/kernel/tracing/events/block/block_rq_complete/format): text of the kernel's own, which differs from one to the next. Inside of track. */
#pragma once

#include "base/err.h"

#include <stddef.h>

struct track_format {
    int id;                                        /* the tracepoint's number */
    int dev_at, sector_at, count_at, operation_at; /* of 4, 8, 4 and at least 4 bytes, within the first 256 */
};

/* ERR_PROTOCOL where anything that is needed is missing, there twice, of another size, or beyond the first 256 bytes: nothing is guessed. */
int format_parse(const char *text, size_t size_bytes, struct track_format *out, struct err *e);
