/* model: what a disk must hold at a moment, for sectors that are written by lanes.
 *
 * A lane is one thread's sequence of writes: the next is issued only after the last was acknowledged. Each lane owns sectors that nobody else
 * writes; every sector of a write carries the lane, the write's number and the sector's own place in all of its 512 bytes, or is zero where
 * the write was one of zeros. So an image of the disk tells which writes it holds, and an exact moment of a disk holds of each lane
 *
 * - every write that was acknowledged before the point was asked for, and none that had not been issued when it was answered;
 * - with write n every write before n: n was issued after they were acknowledged. Of n itself a part, if it was in flight;
 * - between lanes: no write that was issued after another lane's write was acknowledged, without that one.
 *
 * One thread checks (model_*); each lane's thread calls lane_*. */
#pragma once

#include "base/mem.h"

#include <stdatomic.h>

#define SECTOR 512u
#define LANES_MAX 32

struct lane_write {
    uint32_t first, count; /* sectors of the lane's area */
    bool zero;
    uint64_t issued_at;              /* ticks of one clock for all lanes */
    _Atomic uint64_t acknowledged_at; /* 0: not yet */
};

struct lane {
    unsigned number;
    uint64_t seed;
    uint32_t *places; /* of the area's sectors on the disk */
    uint32_t size;    /* sectors of the area */
    struct lane_write *log; /* a ring, by the write's number */
    _Atomic uint32_t issued, acknowledged, forgotten; /* numbers; the first write is 1; the log holds those after forgotten */
    bool last_was_zero; /* the lane's: zeros never follow zeros, so that an image leaves few numbers in doubt */
    /* the checker's */
    uint32_t *held, *trial; /* a sector: twice the number that it must hold, + 1 where that is zero */
    uint32_t *seen;         /* a sector: what the image holds */
    uint32_t acknowledged_before, issued_after;
};

enum fault_kind { FAULT_LOST, FAULT_TORN, FAULT_ALIEN, FAULT_FUTURE, FAULT_ORDER, FAULT_KINDS };
extern const char *const fault_names[FAULT_KINDS];

struct verdict {
    uint64_t faults[FAULT_KINDS];
    uint64_t sectors;   /* that were looked at */
    uint64_t in_flight; /* lanes of whose last write the image holds a part */
    uint64_t torn;      /* sectors inside which such a write was torn: allowed */
    char words[512];    /* the first faults */
};

struct lane *lane_new(unsigned number, uint64_t seed, const uint32_t *places, uint32_t size);
/* The number of a new write; 0 while the log is full (no point was checked for long). */
uint32_t lane_issue(struct lane *l, uint32_t first, uint32_t count, bool zero);
void lane_acknowledge(struct lane *l, uint32_t number);
/* The bytes of a write's sectors. */
void lane_stamp(const struct lane *l, uint32_t number, uint32_t first, uint32_t count, void *bytes);

void model_begin(struct lane **lanes, int count); /* before a point is asked for */
void model_end(struct lane **lanes, int count);   /* when it was answered */
/* The image of the point (the whole disk). Points must be checked in their order. */
void model_check(struct lane **lanes, int count, const uint8_t *image, struct verdict *out);
