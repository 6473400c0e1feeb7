/* track_shared: what the tracker's two halves (kernel and user space) agree on. Included by both; no other includes. */
#pragma once

#define TRACK_DISKS_MAX 64
#define TRACK_CHUNK_SHIFT 7              /* sectors of 512 bytes to chunks of 64 KiB */
#define TRACK_REQUEST_CHUNKS_MAX 65600   /* a request has at most 4 GiB: 65,536 chunks and where it isn't aligned one more */

struct track_place {
    unsigned int first_word;
    unsigned int index; /* of the disk, into counters */
    unsigned long long chunk_count;
};

/* A cache line each, so that disks don't fight. */
struct track_counters {
    unsigned long long writes; /* completed requests that may have changed the disk */
    unsigned long long lost;   /* of them, those whose chunks could not be marked: everything must be read again */
    unsigned long long pad[6];
};
