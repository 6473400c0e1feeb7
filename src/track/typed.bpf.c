/* The plain tracker's program where the kernel describes its types (5.6 on): it loads from them as the kernel does, and knows each of a discard's ranges. Such kernels pass over a raw tracepoint's program never
 * (before 6.1), or where it was at work on the processor already, which the balance shows (track_check): so there is one of it. */
#include "track/kernel.bpf.h"
#include "track/plain.bpf.h"

/* Judged by the verifier once, apart from who calls it (it is not static), so that a loop may call it. */
__attribute__((noinline)) int mark_sectors(__u64 sector, __u32 sector_count, __u32 dev)
{
    __u32 zero = 0;
    const struct plain_control *c = bpf_map_lookup_elem(&control, &zero);
    const struct plain_place *place = c ? find_place(c, dev) : NULL;

    return place ? mark(c, place, sector, sector_count) : 0;
}

/* A discard may be of several ranges, each a bio of its own: of the request itself only the first's begin and the sum of all are known. */
static __always_inline int mark_bios(struct bio *bio, __u32 dev)
{
    for (int i = 0; i < DISCARD_BIOS_MAX && bio; i++, bio = bio->bi_next)
        if (!mark_sectors(bio->bi_iter.bi_sector, bio->bi_iter.bi_size >> 9, dev))
            return 0;
    return !bio;
}

SEC("tp_btf/block_rq_complete")
int completed(unsigned long long *arguments)
{
    struct request *rq = (struct request *)arguments[0];
    __u32 size_bytes = (__u32)arguments[2], sector_count = size_bytes >> 9, operation = rq->cmd_flags & OP_MASK, dev, zero = 0;
    const struct plain_control *c = bpf_map_lookup_elem(&control, &zero);
    struct plain_processor *own = this_processor();
    const struct plain_place *place;
    struct track_counters *counted;

    /* Operations with the lowest bit move data to the disk, or may change it. */
    if (!c || !own || !size_bytes || !(operation & 1) || (!sector_count && operation < OP_PASS_THROUGH))
        return 0;
    dev = disk_of(rq);
    if (operation >= OP_PASS_THROUGH && (!dev || dev >> 20 == SCSI_GENERIC_MAJOR)) {
        if (!COMMANDS_HAVE_DISKS) /* else it is for a controller */
            add(&own->lost, 1);
        return 0;
    }
    place = find_place(c, dev);
    if (!place)
        return 0;
    counted = counters_of(own, place->index);
    /* Somebody sends the disk a command of its own, past the block layer: everything is suspect. */
    if (operation >= OP_PASS_THROUGH) {
        add(&counted->lost, 1);
        return 0;
    }
    if (!(operation == OP_DISCARD && rq->bio ? mark_bios(rq->bio, dev) : mark_sectors(rq->__sector, sector_count, dev)))
        add(&counted->lost, 1);
    add(&counted->sectors[0], sector_count); /* after the marks: track.h's promises rest on it */
    return 0;
}

char _license[] SEC("license") = "GPL";
