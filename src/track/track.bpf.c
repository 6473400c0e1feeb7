/* The change tracker's half in the kernel: when a request that may have changed a disk completes, its chunks' bits are set (and before, which of their pages), then
 * the disk's counter rises. Both before the writer learns that its write is done (the tracepoint fires before the bios' end_io), so a write
 * that depended on it comes later. That order (bits, then counter) is what track.h's promises rest on.
 *
 * Atomics are used in their fetching forms: the others are unordered on some machines (arm64). */
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h> /* bpf_core_field_exists */
#include <bpf/bpf_helpers.h>

#include "track/track_shared.h"

/* What we read of the kernel's own structs; where the fields lie is found out when this is loaded (CO-RE). */
#define KERNELS __attribute__((preserve_access_index))
struct gendisk {
    int major, first_minor;
} KERNELS;
struct request_queue {
    struct gendisk *disk; /* from 5.15 on */
} KERNELS;
struct request {
    struct request_queue *q;
    __u64 __sector;
    __u32 cmd_flags;
} KERNELS;
struct request___before_5_17 {
    struct gendisk *rq_disk;
} KERNELS;

#define OP_MASK 0xffu
#define OP_PASS_THROUGH 32u /* operations from here on are the drivers' own: their sector says nothing */

/* The disks that are followed, each at the place that its dev_t hashes to and no other one: the factor is chosen so before loading. */
const volatile struct track_place places[TRACK_PLACES];
const volatile __u32 places_factor = 1;
/* Whether a load is never done before one that stands before it (x86). Only then what is marked already may be left as it is: see mark. */
const volatile __u8 loads_in_order;

/* One bit a chunk, all disks one after the other; sized before loading. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} dirty SEC(".maps");

/* The same: of these chunks no page is known. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} whole SEC(".maps");

/* The next three are user space's own, beside the marks, so that they live as long. Chunks to do: a bit each, sized as dirty is. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} todo SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct track_ledger);
} ledger SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct track_memory);
} memory SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, TRACK_SLOT_COUNT);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} slots SEC(".maps");

/* TRACK_DISKS_MAX for each processor; sized before loading. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct track_counters);
} counters SEC(".maps");

static __always_inline void or(__u64 *held, __u64 bits)
{
    __u64 before = __sync_fetch_and_or(held, bits);

    asm volatile("" ::"r"(before)); /* used, so that the fetching form is chosen */
}

/* A mark that is there need not be set again: whoever takes it has yet to read the disk, which holds what was written by now. The second and third program
 * come by here right after the first, and pay for a look only. */
static __always_inline void mark(void *map, __u32 word, __u64 bits)
{
    __u64 *held = bpf_map_lookup_elem(map, &word);

    if (held && (!loads_in_order || (*(volatile __u64 *)held & bits) != bits))
        or(held, bits);
}

static __always_inline void mark_word(void *map, __u32 word)
{
    __u64 *held = bpf_map_lookup_elem(map, &word);

    if (held)
        or(held, ~0ULL);
}

static __always_inline void add(__u64 *counter, __u64 more)
{
    __u64 before = __sync_fetch_and_add(counter, more);

    asm volatile("" ::"r"(before));
}

static __always_inline void mark_range(void *map, __u32 first_word, __u32 last_word, __u64 from_first, __u64 to_last)
{
    if (first_word == last_word) {
        mark(map, first_word, from_first & to_last);
        return;
    }
    mark(map, first_word, from_first);
    mark(map, last_word, to_last);
    /* Whole words between; a branch on first and last in here costs the verifier its million instructions. */
    for (__u32 i = 1; i < TRACK_REQUEST_CHUNKS_MAX / 64 + 2; i++) {
        if (first_word + i >= last_word)
            break;
        mark_word(map, first_word + i);
    }
}

/* 1: the pages are marked in this slot; 0: it is another chunk's, or too many want it at once. */
static __always_inline int mark_slot(__u32 index, __u64 tag, __u64 pages)
{
    __u64 *slot = bpf_map_lookup_elem(&slots, &index);

    if (!slot)
        return 0;
    for (int i = 0; i < 4; i++) {
        __u64 held = *(volatile __u64 *)slot;

        if (held && held >> TRACK_TAG_SHIFT != tag >> TRACK_TAG_SHIFT)
            return 0;
        if (loads_in_order && held == (tag | held | pages))
            return 1;
        if (__sync_val_compare_and_swap(slot, held, tag | held | pages) == held)
            return 1;
    }
    return 0;
}

/* Loads from the kernel's structs as it does itself: this kind of program knows its arguments' types. */
static __always_inline __u32 disk_of(struct request *rq)
{
    struct request_queue *queue = rq->q;
    struct gendisk *disk;

    if (bpf_core_field_exists(queue->disk))
        disk = queue->disk;
    else
        disk = ((struct request___before_5_17 *)rq)->rq_disk;
    return disk ? (__u32)disk->major << 20 | (__u32)disk->first_minor : 0;
}

static __always_inline int completed(unsigned long long *arguments, int program)
{
    struct request *rq = (struct request *)arguments[0];
    __u32 sector_count = (__u32)arguments[2] >> 9, operation = rq->cmd_flags & OP_MASK, dev, index;
    const volatile struct track_place *place;
    struct track_counters *counted;
    __u64 sector;

    /* Operations with the lowest bit move data to the disk, or may change it. */
    if (!sector_count || !(operation & 1))
        return 0;
    dev = disk_of(rq);
    place = &places[dev * places_factor >> TRACK_PLACES_SHIFT];
    if (!dev || place->dev != dev)
        return 0;
    index = bpf_get_smp_processor_id() * TRACK_DISKS_MAX + place->index;
    counted = bpf_map_lookup_elem(&counters, &index);
    if (!counted)
        return 0;
    sector = rq->__sector;

    __u64 first = sector >> TRACK_CHUNK_SHIFT, last = (sector + sector_count - 1) >> TRACK_CHUNK_SHIFT;

    /* Beyond the disk's size as we know it: it has grown. Beyond 4 GiB in one request: no such thing, but then everything is suspect; as it is when
     * somebody sends the disk a command of its own, past the block layer. */
    if (operation >= OP_PASS_THROUGH || last >= place->chunk_count || last - first >= TRACK_REQUEST_CHUNKS_MAX) {
        add(&counted->lost, 1);
        if (operation < OP_PASS_THROUGH)
            add(&counted->sectors[program], sector_count);
        return 0;
    }

    __u32 first_word = place->first_word + (first >> 6), last_word = place->first_word + (last >> 6);
    __u64 from_first = ~0ULL << (first & 63), to_last = ~0ULL >> (63 - (last & 63));

    /* Which pages, before the mark that says that there are some (track_take looks the other way round). */
    if (first == last) {
        __u64 first_page = sector >> TRACK_PAGE_SHIFT & 15, last_page = (sector + sector_count - 1) >> TRACK_PAGE_SHIFT & 15;
        __u64 pages = (TRACK_PAGES_ALL << first_page) & (TRACK_PAGES_ALL >> (15 - last_page)), tag = track_tag(place->index, first);
        __u32 slot = track_slot(tag);

        if (!mark_slot(slot, tag, pages) && !mark_slot(slot ^ 1, tag, pages))
            mark(&whole, first_word, from_first & to_last);
    } else {
        mark_range(&whole, first_word, last_word, from_first, to_last);
    }
    mark_range(&dirty, first_word, last_word, from_first, to_last);
    add(&counted->sectors[program], sector_count);
    return 0;
}

/* Three times the same. The kernel passes over a program that is at work on the same processor already, and a request may complete in an interrupt
 * while another's completion is being handled: in a task, in a soft and in a hard interrupt, and no deeper. One of the three is always free. (As an
 * ordinary tracepoint's program it would be passed over whenever any other program is at work there, somebody else's, too.) */
SEC("tp_btf/block_rq_complete")
int completed_first(unsigned long long *arguments) { return completed(arguments, 0); }
SEC("tp_btf/block_rq_complete")
int completed_second(unsigned long long *arguments) { return completed(arguments, 1); }
SEC("tp_btf/block_rq_complete")
int completed_third(unsigned long long *arguments) { return completed(arguments, 2); }

char _license[] SEC("license") = "GPL";
