/* private: the tracker's inside, shared by track.c, keep.c and their tests. A tracker is nothing but open files of the kernel's: it is the same whether
 * it was made just now or found where it was kept. */
#pragma once

#include "track/track.h"

#define PROGRAMS TRACK_PROGRAMS

enum { ARRAY_DIRTY, ARRAY_WHOLE, ARRAY_SLOTS, ARRAY_COUNTERS, ARRAY_TODO, ARRAY_LEDGER, ARRAY_MEMORY, ARRAYS };
struct track_array {
    int fd;
    void *at;
    size_t size_bytes;
};

/* From the best to what needs least. */
enum track_way { TRACK_WAY_BEST, TRACK_WAY_TYPES, TRACK_WAY_FORMAT, TRACK_WAYS };
struct plain;
struct track_format;

/* More was seen of a disk than is counted: since when (by the monotonic clock; 0: it is not so), and all that was seen and counted by then. */
struct track_ahead {
    int64_t since_us;
    uint64_t counts;
};

struct tracker {
    enum track_way way;
    char lacks[900];     /* why it is not the best one, and what that costs; empty: it is */
    struct plain *plain; /* NULL: the best way. Else there is nothing in the arrays but ledger and memory, which are the process's own */
    struct track_array arrays[ARRAYS];
    int programs[PROGRAMS], links[PROGRAMS];
    uint64_t *dirty, *whole, *slots, *todo; /* in the arrays, as what follows */
    struct track_counters *counters;        /* TRACK_DISKS_MAX of each processor, one processor after the other */
    struct track_ledger *ledger;
    struct track_ahead ahead[TRACK_DISKS_MAX]; /* this process's */
};

extern const char *const track_array_names[ARRAYS];

struct tracker *tracker_new(void);
/* Each file's array into our memory. */
int tracker_map(struct tracker *t, struct err *e);
/* What the disk is called by the kernel, and whether it is the one that it was. Refuses what completes no requests. */
int tracker_look(const struct track_disk *disk, struct track_followed *f, struct err *e);
/* Of the programs that this process would load. */
uint64_t tracker_programs_hash(void);
/* Sectors by the kernel's statistics now: TRACK_WRITES_UNKNOWN where it keeps none. */
uint64_t tracker_sectors_by_stat(const char *name);
/* Of the disks' numbers times it, no two have the same highest bits. */
int tracker_find_factor(const struct track_ledger *l, unsigned *factor, struct err *e);
/* What the kernel offers, asked one by one: a bit for each need that there is (NEED_FORMAT is not asked for where the best way has all), or -1 (ERR_DENIED). absent: bits of those that a test takes away. */
enum { NEED_BPF, NEED_TYPES, NEED_MAPPED, NEED_ATOMICS, NEED_BARRIER, NEED_FORMAT, TRACKER_NEEDS };
int tracker_offers(unsigned absent, struct err *e);
bool tracker_may(enum track_way way, int offers);
/* -1, with all that no way can do without. */
int tracker_say_missing(int offers, struct err *e);
/* Into t->lacks: what a better way would need, and what its lack costs. failed: why a way that should have gone did not. */
void tracker_say_lacks(struct tracker *t, int offers, const char *failed);
/* track_open, on a kernel without these. */
int tracker_open(const struct track_disk *disks, int disk_count, bool with_todo, unsigned absent, struct tracker **out, struct err *e);
/* The layout of the tracepoint's record; tracefs is mounted where it isn't. */
int tracker_read_format(struct track_format *out, struct err *e);
/* Mounts a filesystem of the kernel's where it is not mounted yet. */
bool tracker_mounted(const char *path, unsigned long magic);
int tracker_mount(const char *kind, const char *path, unsigned long magic, struct err *e);
int tracker_fail(struct err *e, int reason, const char *what);

static inline const struct track_balance *tracker_balance(const struct track_followed *f) { return &f->balance[f->newest & 1]; }
/* All that the programs have counted, and what is held against it. */
struct track_counters tracker_counted(const struct tracker *t, int disk);
struct track_balance tracker_weighed(const struct tracker *t, int disk);
void tracker_set_balance(struct track_followed *f, const struct track_balance *b);
