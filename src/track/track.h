/* track: which chunks of which disks have been written since they were last asked for, and how many writes have completed.
 *
 * Chunks are 64 KiB, with marks for their pages of 4 KiB where writes are small; disks are whole disks (a partition's, a logical volume's or a multi-device's writes arrive at the disk below). The
 * tracker attaches an eBPF program to the tracepoint where block requests complete; no kernel module, no reboot. What it promises:
 *
 * 1. A write that completed before track_take began is in what track_take returns (this one or an earlier), for every disk given to
 *    track_open, from the return of track_open on. Read the disk *after* taking: a mark set meanwhile belongs to the next round.
 * 2. A seqlock over disks: take a = track_writes, then track_take, then read the chunks it named, then b = track_writes. If a equals b on
 *    every disk, no write that anything could have depended on happened between the taking and b: what was read is
 *    (with everything read before) one crash-consistent moment.
 *
 * Of a command past the block layer (SG_IO) that carries data to the disk it is seen that there was one: marks were lost then. Not seen: such commands without data (FORMAT UNIT), and drivers that complete no requests (zram, brd, NVMe multipath heads): track_open refuses
 * a disk without a request queue. Where it fails with ERR_UNSUPPORTED or ERR_DENIED the caller rescans by checksum (track_sums below).
 *
 * It has three ways, of which it takes the best that the kernel has (needs.c): one that names pages and lives on when the process ends; and for older kernels two that mark whole chunks, by the kernel's types, or by what the tracepoint
 * records (plain.h). What the last can't know it counts as marks that were lost.
 *
 * Promises 1 and 2 hold where track_check says 1 after taking, before b. A tracker may be used by one thread at a time, but for track_writes and track_waiting, which any thread may call. Library: doesn't log. */
#pragma once

#include "base/mem.h"
#include "track/track_shared.h"

#define TRACK_CHUNK_SIZE 65536
#define TRACK_PAGE_SIZE 4096
#define TRACK_WRITES_UNKNOWN UINT64_MAX

struct tracker;
struct track_disk {
    char name[64]; /* "sda": its folder in /sys/block */
    int64_t size_bytes;
};

static inline int64_t track_chunks(int64_t size_bytes) { return (size_bytes + TRACK_CHUNK_SIZE - 1) / TRACK_CHUNK_SIZE; }

/* Attaches; when it returns, every later write is seen. At most TRACK_DISKS_MAX disks. */
int track_open(const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e);
/* The same, with room for track_todo, where this kernel has the best way: one that track_keep takes. */
int track_open_to_keep(const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e);
/* What this kernel lacks for the best way of following, and what that costs, in words; empty where it lacks nothing. Lives as long as the tracker. */
const char *track_lacks(const struct tracker *t);
/* Of the kernel's memory, for each chunk. The best way takes this much where it is to be kept. */
#define TRACK_MARK_BITS_KEPT 3
int track_mark_bits(const struct tracker *t);
void track_close(struct tracker **t); /* for CLEANUP. One that is kept goes on marking */

/* Keeps it, in a folder of its own below /sys/fs/bpf (which is mounted where it isn't): from now on it lives on when this process ends, however it ends, until
 * track_forget or the end of the machine. What was kept there before is forgotten. */
int track_keep(struct tracker *t, const char *folder, struct err *e);
/* The tracker that is kept there, as if this process had opened it and had never been away. Refused, with the reason, where anything doesn't fit: other disks
 * (by name, number, size, and the kernel's number for their being there), other programs, no I/O statistics; ERR_NOT_FOUND: nothing is kept. What
 * was written meanwhile is marked, and the next track_check judges all the time between, too. */
int track_adopt(const char *folder, const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e);
int track_forget(const char *folder, struct err *e); /* 0 where nothing was kept, too */
/* What lives as long as the tracker, the caller's, zero at first: TRACK_MEMORY_SIZE bytes; and of each disk a bit for each chunk that is to do. */
void *track_memory(struct tracker *t);
uint64_t *track_todo(struct tracker *t, int disk); /* NULL: it was not opened to be kept, or this kernel's can't be */

/* Visits the marked chunks of a disk in rising order and clears their marks, after it has put them into track_todo: their count. pages: bit i: bytes of page i
 * (4 KiB, of the chunk) were written, or may have been; TRACK_PAGES_ALL where no more is known than that the chunk was. -1 (ERR_CORRUPT): marks
 * were lost (the disk has grown, or track_check says so): read all of it again; the marks that there are have been taken. Who is killed before the next
 * call is told again. */
typedef void track_visit(int64_t chunk, uint32_t pages, void *user);
int64_t track_take(struct tracker *t, int disk, track_visit *visit, void *user, struct err *e);
/* Whether every write that the kernel's own I/O statistics count was seen by the tracker: 1 yes (or there are none: queue/iostats is 0); 0 it can't
 * be said in this moment (a write has been seen and is not counted yet, as one that waits for its flush); -1 no: read everything again. The kernel
 * passes over BPF programs now and then, and does not always say so. It stays at -1 until track_take has said so, too. */
int track_check(struct tracker *t, int disk);
/* From one tracker to another one of the same disk, which was opened meanwhile. 1: the first has seen every write that the kernel has counted by a certain moment, and
 * from that moment on the other one is held against what the kernel counts: what the first has marked is to be taken after that, and then it may be closed. 0: there was
 * no such moment now (something was just written): ask again. -1: marks were lost, or the kernel keeps no statistics of the disk, so that nothing proves it: read all of
 * it again. */
int track_hand_over(struct tracker *first, int disk, struct tracker *other, int others_disk);
/* A number that rises whenever a write to the disk completes, by the tracker's count and by the kernel's. */
uint64_t track_writes(const struct tracker *t, int disk);

/* Bytes that the marks of all disks name and that were not taken yet: an estimate (a chunk may be named whole and by its pages, too), which takes
 * nothing. *written: a number that rises with what is written to them, also where that marks nothing new. Any thread may call it; no I/O. */
int64_t track_waiting(const struct tracker *t, uint64_t *written);

/* The kernel's number for this disk's being there: one that is pulled and comes back has another, and nobody knows what it went through. 0: there is no such disk. */
uint64_t track_instance(const char *name);

/* Completed writes by the kernel's own I/O statistics, for where no tracker is: TRACK_WRITES_UNKNOWN where they are off. */
uint64_t track_writes_by_stat(const char *name);

/* The fallback: a remembered XXH3-128 for each chunk (16 bytes a chunk: 256 MiB a TiB). */
struct track_sums;
struct track_sums *track_sums_new(int64_t chunk_count);
void track_sums_free(struct track_sums **s); /* for CLEANUP */
/* True where the chunk isn't what it was at the last call for it (or there was none). Different chunks may be given by different threads. */
bool track_sums_changed(struct track_sums *s, int64_t chunk, const void *bytes, size_t size);
/* Forget a chunk: the next call says changed. */
void track_sums_forget(struct track_sums *s, int64_t chunk);
