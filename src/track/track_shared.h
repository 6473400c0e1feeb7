/* track_shared: what the tracker's two halves (kernel and user space) agree on. Included by both; no other includes. */
#pragma once

#define TRACK_DISKS_MAX 64
#define TRACK_PROGRAMS 3
#define TRACK_CHUNK_SHIFT 7              /* sectors of 512 bytes to chunks of 64 KiB */
#define TRACK_REQUEST_CHUNKS_MAX 65600   /* a request has at most 4 GiB: 65,536 chunks and where it isn't aligned one more */

#define SCSI_GENERIC_MAJOR 21u /* /dev/sg0: another name of a disk, with a number of its own */

/* Finer marks, for small writes: a slot holds a tag (disk, chunk; above TRACK_TAG_SHIFT; no slot in use is 0) and a bit for each page of the chunk. A chunk has two
 * slots in which it may be; where both are another's, it is marked as a whole. */
#define TRACK_PAGE_SHIFT 3 /* sectors to pages of 4 KiB */
#define TRACK_PAGES_ALL 0xffffu
#define TRACK_SLOT_COUNT 65536u /* a power of two */
#define TRACK_TAG_SHIFT 16
static inline unsigned long long track_tag(unsigned int disk, unsigned long long chunk)
{
    return ((unsigned long long)(disk + 1) << 40 | (chunk & 0xffffffffffULL)) << TRACK_TAG_SHIFT;
}
/* Neighbours lie side by side, so that what is written together shares cache lines and pages; each 4 GiB of a disk begin somewhere else. */
static inline unsigned int track_slot(unsigned long long tag)
{
    unsigned long long own = tag >> TRACK_TAG_SHIFT;

    return (unsigned int)(own + ((own >> 16) * 0x9e3779b97f4a7c15ULL >> 40)) & (TRACK_SLOT_COUNT - 1); /* and its neighbour, with the lowest bit flipped */
}

/* Where a disk is looked for: the highest bits of its dev_t times a factor. */
#define TRACK_PLACES 1024
#define TRACK_PLACES_SHIFT 22 /* 32 bits to the 10 of a place */
struct track_place {
    unsigned int dev; /* the kernel's own dev_t; 0: none */
    unsigned int index; /* of the disk */
    unsigned int first_word, pad;
    unsigned long long chunk_count;
};

/* Of a disk on a processor: a cache line each, so that neither fight. */
struct track_counters {
    unsigned long long sectors[TRACK_PROGRAMS]; /* by each of the programs, of completions that may have changed the disk, but commands past the block layer */
    unsigned long long lost;                    /* completions whose chunks could not be marked: everything must be read again */
    unsigned long long unclear;                 /* completions of which is not known whether they were writes: their sectors are among those above (the plain tracker's) */
    unsigned long long pad[3];
};

/* Sectors written and discarded by the kernel's statistics; by each of our programs; and how often each was passed over: when these last agreed. */
struct track_balance {
    unsigned long long by_stat, sectors[TRACK_PROGRAMS], passed_over[TRACK_PROGRAMS], unclear;
};

/* What user space knows of a disk. The process may be killed between any two stores: the order of them is what keeps it true (keep.c). */
struct track_followed {
    char name[64];
    unsigned long long size_bytes, instance; /* instance: the kernel's number for this disk's being there */
    struct track_place place;
    struct track_balance balance[2];
    unsigned int newest;        /* which balance holds */
    unsigned int unseen;        /* a write was not seen, and track_take has not said so yet */
    unsigned int untold;        /* track_take has said so: until it is called again, whoever was told may not have acted on it */
    unsigned int pad;
    unsigned long long lost_seen;
    long long unclear_since_us; /* by the monotonic clock; 0: nothing is unclear */
};
struct track_ledger {
    unsigned long long programs; /* a hash of them, and of the maps' layout */
    unsigned int disk_count, processor_count;
    struct track_followed disks[TRACK_DISKS_MAX];
};

#define TRACK_MEMORY_SIZE 65536
struct track_memory {
    unsigned char bytes[TRACK_MEMORY_SIZE];
};
