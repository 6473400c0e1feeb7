/* What the tracker's programs read of the kernel's own structs; where the fields lie is found out when they are loaded (CO-RE). */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h> /* bpf_core_field_exists */
#include <bpf/bpf_helpers.h>

#define KERNELS __attribute__((preserve_access_index))
struct gendisk {
    int major, first_minor;
} KERNELS;
struct request_queue {
    struct gendisk *disk; /* from 5.15 on */
} KERNELS;
struct bvec_iter {
    __u64 bi_sector; /* of the whole disk */
    unsigned int bi_size;
} KERNELS;
struct bio {
    struct bio *bi_next;
    struct bvec_iter bi_iter;
} KERNELS;
struct request {
    struct request_queue *q;
    struct bio *bio; /* the first that has not ended */
    __u64 __sector;
    __u32 cmd_flags;
} KERNELS;
struct request___before_5_17 {
    struct gendisk *rq_disk;
} KERNELS;

#define OP_MASK 0xffu
#define OP_DISCARD 3u
#define DISCARD_BIOS_MAX 512 /* twice as many as any driver takes at once */
#define OP_PASS_THROUGH 32u /* operations from here on are the drivers' own: their sector says nothing */

/* Whether the kernel says of a command past the block layer which disk it is for. Where it doesn't, it may have been any. */
#define COMMANDS_HAVE_DISKS bpf_core_field_exists(struct request_queue, disk)

/* Loads from the kernel's structs as it does itself: these kinds of programs know their arguments' types. */
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
