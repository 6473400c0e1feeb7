/* track_shared: what the tracker's two halves (kernel and user space) agree on. Included by both; no other includes. */
#pragma once

#define TRACK_DISKS_MAX 64
#define TRACK_CHUNK_SHIFT 7              /* sectors of 512 bytes to chunks of 64 KiB */
#define TRACK_REQUEST_CHUNKS_MAX 65600   /* a request has at most 4 GiB: 65,536 chunks and where it isn't aligned one more */

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
static inline unsigned int track_slot(unsigned long long tag)
{
    return (unsigned int)((tag >> TRACK_TAG_SHIFT) * 0x9e3779b97f4a7c15ULL >> 40) & (TRACK_SLOT_COUNT - 1); /* and its neighbour, with the lowest bit flipped */
}

struct track_place {
    unsigned int first_word;
    unsigned int index; /* of the disk, into counters */
    unsigned long long chunk_count;
};

/* A cache line each, so that disks don't fight. */
struct track_counters {
    unsigned long long writes; /* completions that may have changed the disk; by each of the programs that ran */
    unsigned long long lost;   /* of them, those whose chunks could not be marked: everything must be read again */
    unsigned long long sectors; /* of 512 bytes, of all of them but commands past the block layer; by each of the programs that ran */
    unsigned long long pad[5];
};
