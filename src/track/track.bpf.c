/* The change tracker's half in the kernel: when a request that may have changed a disk completes, its chunks' bits are set (and before, which of their pages), then
 * the disk's counter rises. Both before the writer learns that its write is done (the tracepoint fires before the bios' end_io), so a write
 * that depended on it comes later. That order (bits, then counter) is what track.h's promises rest on.
 *
 * Atomics are used in their fetching forms: the others are unordered on some machines (arm64). */
#include "track/arrays.bpf.h"
#include "track/kernel.bpf.h"
#include "track/track_shared.h"

/* The disks that are followed, each at the place that its dev_t hashes to and no other one: the factor is chosen so before loading. */
const volatile struct track_place places[TRACK_PLACES];
const volatile __u32 places_factor = 1;
/* Whether a load is never done before one that stands before it (x86). Only then what is marked already may be left as it is: see mark. */
const volatile __u8 loads_in_order;

/* One bit a chunk, all disks one after the other; sized before loading. */
ARRAY(dirty, __u64, 1, BPF_F_MMAPABLE);

/* The same: of these chunks no page is known. */
ARRAY(whole, __u64, 1, BPF_F_MMAPABLE);

/* The next three are user space's own, beside the marks, so that they live as long. Chunks to do: a bit each, sized as dirty is. */
ARRAY(todo, __u64, 1, BPF_F_MMAPABLE);
ARRAY(ledger, struct track_ledger, 1, BPF_F_MMAPABLE);
ARRAY(memory, struct track_memory, 1, BPF_F_MMAPABLE);

ARRAY(slots, __u64, TRACK_SLOT_COUNT, BPF_F_MMAPABLE);

/* TRACK_DISKS_MAX for each processor; sized before loading. */
ARRAY(counters, struct track_counters, 1, BPF_F_MMAPABLE);

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

/* 0: it can't be marked: it lies beyond the disk's size as we know it, which has grown; or is over 4 GiB in one piece, and there is no such thing. Judged by
 * the verifier once, apart from who calls it (it is not static), so that a loop may call it. */
__attribute__((noinline)) int mark_sectors(__u64 sector, __u32 sector_count, __u32 disk, __u32 disk_word, __u64 chunk_count)
{
    __u64 first = sector >> TRACK_CHUNK_SHIFT, last = (sector + sector_count - 1) >> TRACK_CHUNK_SHIFT;

    if (!sector_count)
        return 1;
    if (last >= chunk_count || last < first || last - first >= TRACK_REQUEST_CHUNKS_MAX)
        return 0;

    __u32 first_word = disk_word + (first >> 6), last_word = disk_word + (last >> 6);
    __u64 from_first = ~0ULL << (first & 63), to_last = ~0ULL >> (63 - (last & 63));

    /* Which pages, before the mark that says that there are some (track_take looks the other way round). */
    if (first == last) {
        __u64 first_page = sector >> TRACK_PAGE_SHIFT & 15, last_page = (sector + sector_count - 1) >> TRACK_PAGE_SHIFT & 15;
        __u64 pages = (TRACK_PAGES_ALL << first_page) & (TRACK_PAGES_ALL >> (15 - last_page)), tag = track_tag(disk, first);
        __u32 slot = track_slot(tag);

        if (!mark_slot(slot, tag, pages) && !mark_slot(slot ^ 1, tag, pages))
            mark(&whole, first_word, from_first & to_last);
    } else {
        mark_range(&whole, first_word, last_word, from_first, to_last);
    }
    mark_range(&dirty, first_word, last_word, from_first, to_last);
    return 1;
}

/* A discard may be of several ranges, each a bio of its own (NVMe takes 256 at once): of the request itself only the first's begin and the sum of all are known. */
static __always_inline int mark_bios(struct bio *bio, __u32 disk, __u32 disk_word, __u64 chunk_count)
{
    for (int i = 0; i < DISCARD_BIOS_MAX && bio; i++, bio = bio->bi_next)
        if (!mark_sectors(bio->bi_iter.bi_sector, bio->bi_iter.bi_size >> 9, disk, disk_word, chunk_count))
            return 0;
    return !bio;
}

/* A command past the block layer, and the kernel (before 5.15) does not say for which disk: it may have been any. */
static __always_inline void lose_all(void)
{
    __u32 first = bpf_get_smp_processor_id() * TRACK_DISKS_MAX;

    for (__u32 i = 0; i < TRACK_DISKS_MAX; i++) {
        __u32 index = first + i;
        struct track_counters *counted = bpf_map_lookup_elem(&counters, &index);

        if (counted)
            add(&counted->lost, 1);
    }
}

static __always_inline int completed(unsigned long long *arguments, int program)
{
    struct request *rq = (struct request *)arguments[0];
    __u32 size_bytes = (__u32)arguments[2], sector_count = size_bytes >> 9, operation = rq->cmd_flags & OP_MASK, dev, index;
    const volatile struct track_place *place;
    struct track_counters *counted;
    int marked;

    /* Operations with the lowest bit move data to the disk, or may change it. */
    if (!size_bytes || !(operation & 1) || (!sector_count && operation < OP_PASS_THROUGH))
        return 0;
    dev = disk_of(rq);
    if (operation >= OP_PASS_THROUGH && (!dev || dev >> 20 == SCSI_GENERIC_MAJOR)) {
        if (!COMMANDS_HAVE_DISKS) /* else it is for a controller */
            lose_all();
        return 0;
    }
    place = &places[dev * places_factor >> TRACK_PLACES_SHIFT];
    if (!dev || place->dev != dev)
        return 0;
    index = bpf_get_smp_processor_id() * TRACK_DISKS_MAX + place->index;
    counted = bpf_map_lookup_elem(&counters, &index);
    if (!counted)
        return 0;
    /* Somebody sends the disk a command of its own, past the block layer: everything is suspect. */
    if (operation >= OP_PASS_THROUGH) {
        add(&counted->lost, 1);
        return 0;
    }
    marked = operation == OP_DISCARD && rq->bio ? mark_bios(rq->bio, place->index, place->first_word, place->chunk_count)
                                                : mark_sectors(rq->__sector, sector_count, place->index, place->first_word, place->chunk_count);
    if (!marked)
        add(&counted->lost, 1);
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
