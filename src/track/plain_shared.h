/* plain_shared: what the two halves of the plain tracker agree on: the one for kernels without what the other needs (needs.c). Included by both.
 *
 * Its marks are bytes that are stored, for a bit would take an operation that old kernels don't have, and no loop is needed to set them. There are two sides of all marks. The programs mark on one of them; who takes marks
 * lets them go over to the other, waits until none is at work that began before, and has the first for itself. */
#pragma once

#include "track/track_shared.h"

#define PLAIN_BLOCK_CHUNKS 4096u /* 256 MiB of a disk */
#define PLAIN_BLOCK_SHIFT 12
#define PLAIN_SPAN_SHIFT 6 /* chunks to spans of 4 MiB */
#define PLAIN_SPANS (PLAIN_BLOCK_CHUNKS >> PLAIN_SPAN_SHIFT)
#define PLAIN_SUMMARY_SHIFT 9
#define PLAIN_SUMMARY_BLOCKS (1u << PLAIN_SUMMARY_SHIFT) /* 128 GiB of a disk */

#define PLAIN_RECORD_SIZE 256u /* of what the tracepoint records: what we read lies within */

/* Other than 0: this chunk is marked; all chunks of this span are. */
struct plain_block {
    unsigned char chunks[PLAIN_BLOCK_CHUNKS], spans[PLAIN_SPANS];
};
/* There are marks in this block; all its chunks are marked. */
struct plain_summary {
    unsigned char touched[PLAIN_SUMMARY_BLOCKS], whole[PLAIN_SUMMARY_BLOCKS];
};
/* Where a disk's marks are, on either side; looked for as a track_place is. */
struct plain_place {
    unsigned int dev, index, first_block, first_summary;
    unsigned long long chunk_count;
    unsigned int many_ranges, pad; /* a discard of it may be of several ranges */
};
struct plain_control {
    unsigned int factor, block_count, summary_count; /* of one side */
    unsigned int dev_at, sector_at, count_at, operation_at; /* where these lie in a tracepoint's record (format.h) */
    unsigned int pad;
};
/* How often the tracepoint was reached, and how often its record was seen (roll.c). */
struct plain_roll {
    unsigned long long called, answered;
};
/* What a processor has counted. */
struct plain_processor {
    struct plain_roll roll;
    unsigned long long lost, pad[5]; /* commands past the block layer that may have been for any disk */
    struct track_counters disks[TRACK_DISKS_MAX];
};

#define PLAIN_MARK_BITS 17 /* of memory for a chunk, at most: a byte on either side, and what is above them */
