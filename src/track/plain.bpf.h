/* The plain tracker's maps and how it marks: for kernels from 4.18 on. No loops (5.3), no constants beside the program (5.2), no operations that return what was there (5.12). */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>

#include "track/arrays.bpf.h"
#include "track/plain_shared.h"

ARRAY(control, struct plain_control, 1, 0);
ARRAY(places, struct plain_place, TRACK_PLACES, 0);

/* Of each disk: on which side its marks are set. */
ARRAY(sides, __u64, TRACK_DISKS_MAX, 0);

/* The next two: one side, then the other; sized before loading. */
ARRAY(blocks, struct plain_block, 1, 0);
ARRAY(summaries, struct plain_summary, 1, 0);

/* One for each; sized before loading. */
ARRAY(processors, struct plain_processor, 1, 0);

static __always_inline struct plain_processor *this_processor(void)
{
    __u32 number = bpf_get_smp_processor_id();

    return bpf_map_lookup_elem(&processors, &number);
}

/* In one instruction, so that an interrupt's comes before or after it. */
static __always_inline void add(__u64 *counter, __u64 more) { __sync_fetch_and_add(counter, more); }

/* A byte of an array of a power of two. The compiler must not find out that the mask is not needed: the verifier doesn't. */
static __always_inline void set(unsigned char *array, __u32 size, __u32 index)
{
    asm volatile("" : "+r"(index));
    *(volatile unsigned char *)(array + (index & (size - 1))) = 1;
}

/* first to last of an array, both included, at most limit of them (a constant: there is no loop in what is loaded). */
static __always_inline void set_all(unsigned char *array, __u32 size, __u32 first, __u32 last, const __u32 limit)
{
#pragma unroll
    for (__u32 i = 0; i < limit; i++) {
        if (first + i > last)
            break;
        set(array, size, first + i);
    }
}

/* The same of what is numbered through from one array to the next, and lies in two of them at most. */
static __always_inline void set_across(unsigned char *in_first, unsigned char *in_last, const __u32 size, __u64 first, __u64 last, const __u32 limit)
{
    bool across = first / size != last / size;

    set_all(in_first, size, first & (size - 1), across ? size - 1 : last & (size - 1), limit);
    if (across)
        set_all(in_last, size, 0, last & (size - 1), limit);
}

/* Marks what was written. A large range (over 4 MiB: a discard, mostly) by its spans, a very large one by its blocks: that may be more than was written, and never less. 0: it can't be marked: it
 * lies beyond the disk's size as we know it, which has grown; or is over 4 GiB in one piece, and there is no such thing. */
static __always_inline int mark(const struct plain_control *c, const struct plain_place *place, __u64 sector, __u32 sector_count)
{
    __u64 first = sector >> TRACK_CHUNK_SHIFT, last = (sector + sector_count - 1) >> TRACK_CHUNK_SHIFT;
    __u64 first_block = first >> PLAIN_BLOCK_SHIFT, last_block = last >> PLAIN_BLOCK_SHIFT;
    __u32 index = place->index, on_side, at, at_last;
    __u64 *side = bpf_map_lookup_elem(&sides, &index);
    struct plain_summary *summary, *summary_last;
    struct plain_block *block, *block_last;

    if (!sector_count)
        return 1;
    if (!side || last >= place->chunk_count || last < first || last - first >= TRACK_REQUEST_CHUNKS_MAX)
        return 0;
    on_side = *(volatile __u64 *)side & 1;
    at = on_side * c->summary_count + place->first_summary + (first_block >> PLAIN_SUMMARY_SHIFT);
    at_last = on_side * c->summary_count + place->first_summary + (last_block >> PLAIN_SUMMARY_SHIFT);
    summary = bpf_map_lookup_elem(&summaries, &at);
    summary_last = bpf_map_lookup_elem(&summaries, &at_last);
    at = on_side * c->block_count + place->first_block + first_block;
    at_last = on_side * c->block_count + place->first_block + last_block;
    block = bpf_map_lookup_elem(&blocks, &at);
    block_last = bpf_map_lookup_elem(&blocks, &at_last);
    if (!summary || !summary_last || !block || !block_last)
        return 0;
    if (last - first < 1 << PLAIN_SPAN_SHIFT) {
        set_across(block->chunks, block_last->chunks, PLAIN_BLOCK_CHUNKS, first, last, 1 << PLAIN_SPAN_SHIFT);
    } else if (last - first < PLAIN_BLOCK_CHUNKS) {
        set_across(block->spans, block_last->spans, PLAIN_SPANS, first >> PLAIN_SPAN_SHIFT, last >> PLAIN_SPAN_SHIFT, PLAIN_SPANS + 1);
    } else {
        set_across(summary->whole, summary_last->whole, PLAIN_SUMMARY_BLOCKS, first_block, last_block, (TRACK_REQUEST_CHUNKS_MAX >> PLAIN_BLOCK_SHIFT) + 2);
        return 1;
    }
    set(summary->touched, PLAIN_SUMMARY_BLOCKS, first_block);
    set(summary_last->touched, PLAIN_SUMMARY_BLOCKS, last_block);
    return 1;
}

static __always_inline struct plain_place *find_place(const struct plain_control *c, __u32 dev)
{
    __u32 at = dev * c->factor >> TRACK_PLACES_SHIFT;
    struct plain_place *place = bpf_map_lookup_elem(&places, &at);

    return dev && place && place->dev == dev ? place : NULL;
}

/* The index is a disk's; the mask is for the verifier. */
static __always_inline struct track_counters *counters_of(struct plain_processor *own, __u32 disk)
{
    asm volatile("" : "+r"(disk));
    return &own->disks[disk & (TRACK_DISKS_MAX - 1)];
}
