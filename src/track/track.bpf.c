/* The change tracker's half in the kernel: when a request that may have changed a disk completes, its chunks' bits are set, then the disk's
 * write counter rises. Both before the writer learns that its write is done (the tracepoint fires before the bios' end_io), so a write
 * that depended on it comes later. That order (bits, then counter) is what track.h's promises rest on.
 *
 * Atomics are used in their fetching forms: the others are unordered on some machines (arm64). */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "track/track_shared.h"

/* block_rq_complete up to nr_sector, as its `format` file gives it; track.c checks these offsets there before it loads this. */
struct complete {
    __u64 common;
    __u32 dev, pad;
    __u64 sector;
    __u32 sector_count;
};

const volatile __u32 rwbs_offset = 32;

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, TRACK_DISKS_MAX);
    __type(key, __u32); /* the kernel's own dev_t */
    __type(value, struct track_place);
} places SEC(".maps");

/* One bit a chunk, all disks one after the other; sized before loading. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} dirty SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, TRACK_DISKS_MAX);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct track_counters);
} counters SEC(".maps");

static __always_inline void mark(__u32 word, __u64 bits)
{
    __u64 *held = bpf_map_lookup_elem(&dirty, &word);

    if (held) {
        __u64 before = __sync_fetch_and_or(held, bits);
        asm volatile("" ::"r"(before)); /* used, so that the fetching form is chosen */
    }
}

static __always_inline void add_one(__u64 *counter)
{
    __u64 before = __sync_fetch_and_add(counter, 1);

    asm volatile("" ::"r"(before));
}

SEC("tracepoint/block/block_rq_complete")
int completed(struct complete *e)
{
    __u32 dev = e->dev, index;
    struct track_place *place;
    struct track_counters *counted;
    char rwbs[2];

    if (!e->sector_count)
        return 0;
    place = bpf_map_lookup_elem(&places, &dev);
    if (!place)
        return 0;
    bpf_probe_read_kernel(rwbs, sizeof rwbs, (char *)e + rwbs_offset);
    if ((rwbs[0] == 'F' ? rwbs[1] : rwbs[0]) == 'R') /* 'F' first: a flush before it */
        return 0;
    index = place->index;
    counted = bpf_map_lookup_elem(&counters, &index);
    if (!counted)
        return 0;

    __u64 first = e->sector >> TRACK_CHUNK_SHIFT, last = (e->sector + e->sector_count - 1) >> TRACK_CHUNK_SHIFT;

    /* Beyond the disk's size as we know it: it has grown. Beyond 4 GiB in one request: no such thing, but then everything is suspect. */
    if (last >= place->chunk_count || last - first >= TRACK_REQUEST_CHUNKS_MAX) {
        add_one(&counted->lost);
        add_one(&counted->writes);
        return 0;
    }

    __u32 first_word = place->first_word + (first >> 6), last_word = place->first_word + (last >> 6);
    __u64 from_first = ~0ULL << (first & 63), to_last = ~0ULL >> (63 - (last & 63));

    if (first_word == last_word) {
        mark(first_word, from_first & to_last);
    } else {
        mark(first_word, from_first);
        mark(last_word, to_last);
        /* Whole words between; a branch on first and last in here costs the verifier its million instructions. */
        for (__u32 i = 1; i < TRACK_REQUEST_CHUNKS_MAX / 64 + 2; i++) {
            if (first_word + i >= last_word)
                break;
            mark(first_word + i, ~0ULL);
        }
    }
    add_one(&counted->writes);
    return 0;
}

char _license[] SEC("license") = "GPL";
