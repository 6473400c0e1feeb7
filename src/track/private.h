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

struct tracker {
    struct track_array arrays[ARRAYS];
    int programs[PROGRAMS], links[PROGRAMS];
    uint64_t *dirty, *whole, *slots, *todo; /* in the arrays, as what follows */
    struct track_counters *counters;        /* TRACK_DISKS_MAX of each processor, one processor after the other */
    struct track_ledger *ledger;
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
/* Whether the kernel has what is needed: 0, or -1 with all that is missing. absent: a bit for each of its needs that a test takes away. */
#define TRACKER_NEEDS 4
int tracker_needs(unsigned absent, struct err *e);
int tracker_fail(struct err *e, int reason, const char *what);

static inline const struct track_balance *tracker_balance(const struct track_followed *f) { return &f->balance[f->newest & 1]; }
