#include "agent/memory.h"

#include "agent/bits.h"
#include "agent/engine.h"

#define MIB (INT64_C(1) << 20)
#define PROGRAM_BYTES (18 * MIB)          /* itself, OpenSSL's and its own small things, the freezer's process, the pages' slots here and in the kernel */
#define PACKING_BYTES (8 * MIB)           /* zstd's window and tables, while what is sent is one stream (flow.c) */
#define WORKER_BYTES (4 * MIB)            /* a frame of 2 MiB, zstd, its stack, what malloc makes of them */
#define SUMS_BYTES_A_CHUNK 17             /* without a tracker */
#define BUFFERS_LEAST (8 * MIB)
#define BLOCKS_LEAST_BYTES (2 * MIB)      /* beyond BITS_BLOCKS_LEAST a disk: a terabyte with marks here and there */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* What is the same whatever else there is. */
static int64_t fixed_bytes(const struct memory_wants *w)
{
    int64_t marks = w->mark_bits ? w->chunk_count * w->mark_bits / 8 : w->chunk_count * SUMS_BYTES_A_CHUNK;
    int64_t tables = w->chunk_count / BITS_BLOCK_COUNT * 20 + w->disk_count * BITS_BLOCKS_LEAST * BITS_BLOCK_BYTES; /* what bits keeps in any case */

    return PROGRAM_BYTES + PACKING_BYTES + marks + tables;
}

/* How much of left goes to the chunks to do: as much as they may ever need, where there is room for all; else half, but no less than the
 * least, of either. */
static int64_t spare_bytes(int64_t left, int64_t wanted, int64_t all, int64_t floor)
{
    int64_t spare = left - wanted > left / 2 ? left - wanted : left / 2;

    spare = least(spare > floor ? spare : floor, all);
    return least(spare, left - least(BUFFERS_LEAST, wanted));
}

int memory_plan(const struct agent_config *c, const struct memory_wants *w, struct memory_plan *out, struct err *e)
{
    int64_t bound = c->memory_bound_mib * MIB, wanted = c->memory_mib * MIB, fixed = fixed_bytes(w), left, spare;
    int64_t all = (w->chunk_count / BITS_BLOCK_COUNT + w->disk_count) * BITS_BLOCK_BYTES, spare_floor = least(all, BLOCKS_LEAST_BYTES);
    int64_t floor = fixed + 2 * WORKER_BYTES + least(BUFFERS_LEAST, wanted) + spare_floor;
    int workers = w->cores < 2 ? 2 : w->cores > WORKERS_MAX ? WORKERS_MAX : w->cores;

    if (bound < floor)
        return err_set(e, ERR_LIMIT, "%d disks of %lld GiB in all need at least %lld MiB of memory%s, and the setting memory_bound_mib allows %lld: set it higher",
                       w->disk_count, (long long)(w->disk_bytes >> 30), (long long)((floor + MIB - 1) / MIB),
                       w->mark_bits ? "" : " (for checksums: changes can't be followed here)", (long long)c->memory_bound_mib);
    while (workers > 2 && fixed + workers * WORKER_BYTES + least(2 * BUFFERS_LEAST, wanted) + least(all, 4 * spare_floor) > bound)
        workers--;
    left = bound - fixed - workers * WORKER_BYTES;
    spare = spare_bytes(left, wanted, all, spare_floor);
    *out = (struct memory_plan){.workers = workers, .buffers_bytes = least(wanted, left - spare), .spare_blocks = spare / BITS_BLOCK_BYTES,
                                .chunk_count = w->chunk_count};
    out->total_bytes = fixed + workers * WORKER_BYTES + out->buffers_bytes + spare;
    MUST(out->total_bytes <= bound);
    return 0;
}
