/* memory: what the agent may take, and what for. All of it is taken at the start and locked; on the source nothing more is to be had later. */
#pragma once

#include "agent/config.h"

#define MEMORY_MIB 64        /* of buffers, where nothing else is set */
#define MEMORY_BOUND_MIB 128 /* all in all, likewise */

struct memory_wants {
    int64_t disk_bytes, chunk_count; /* of all disks */
    int disk_count;
    int mark_bits;                   /* of the tracker, in the kernel, for each chunk; 0: there is none, and checksums are held */
    int cores;
};
struct memory_plan {
    int workers;
    int64_t buffers_bytes; /* for chunks on their way */
    int64_t spare_blocks;  /* for the chunks to do (bits.h), of all disks, beyond BITS_BLOCKS_LEAST for each */
    int64_t chunk_count;   /* of all disks */
    int64_t total_bytes;   /* at most, all in all */
};

/* Within config's memory_bound_mib: fewer workers first, then less for chunks to do and for buffers. ERR_LIMIT says how much it must be at
 * least. */
int memory_plan(const struct agent_config *c, const struct memory_wants *w, struct memory_plan *out, struct err *e);
