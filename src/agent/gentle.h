/* gentle: how the agent keeps the source from feeling it: paces for what it sends, reads and reckons, and a back-off of its reading when the
 * source's own I/O takes longer than it does without. Knows nothing of the agent: disks are looked at in burden.c. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A limit in units a second (bytes, microseconds of a processor). Under the agent's lock. */
struct pace {
    int64_t per_s;   /* 0: none */
    int64_t free_us; /* monotonic: when the next units may go */
};
/* Another limit: what was booked under the old one counts on under the new one. */
void pace_set(struct pace *p, int64_t per_s, int64_t now_us);
/* Books units; returns how long whoever books them is to wait for its turn. */
int64_t pace_book(struct pace *p, int64_t units, int64_t now_us);
/* The lower of two limits; 0 is none. */
int64_t pace_lower(int64_t a, int64_t b);

#define GENTLE_FLOOR (INT64_C(4) << 20) /* bytes a second that the agent always reads, where it is allowed that much: so it always comes on */
#define GENTLE_STEP (INT64_C(8) << 20)  /* by which it reads more, each look, after it has backed off */
#define GENTLE_LEAST_IOS 8              /* of the source's own between two looks: fewer say nothing */
#define GENTLE_AGED_US (INT64_C(120) * 1000000) /* when what the source is like without us is looked at anew */
#define GENTLE_DOUBT_US (INT64_C(15) * 1000000) /* the same while we hold back: what the source does may have changed */
#define GENTLE_STALL_RISE 200           /* of a thousand: so much more stalling than without us counts as a rise */

/* What happened since the last look. */
struct gentle_sample {
    int64_t now_us, span_us;
    int64_t ios, io_us; /* the source's own: reads and writes that completed, and how long they took, all together */
    int64_t own_bytes;  /* that we read */
    int64_t stalled;    /* of a thousand: the time in which something but us waited for I/O (PSI); -1: not known */
};

/* The controller: additive increase, multiplicative decrease. */
struct gentle {
    int64_t latency_us;               /* of the last look; 0: the source did too little to tell */
    int64_t without_us, with_us;      /* the same while we rest or read slowly, and while we read; 0: not known */
    int64_t without_at_us;            /* when that was last seen */
    int64_t stalled_without;          /* of a thousand; -1: not known */
    int64_t rate;                     /* what reading is held to; 0: no back-off */
    int64_t from;                     /* what was read when it began */
    int looking;                      /* looks left in which we read slowly only to see what the source is like then */
};

/* What the disks did from the machine's start to ours is a first idea of what they are like without us. */
void gentle_init(struct gentle *g, int64_t ios, int64_t io_us, int64_t now_us);
/* Bytes a second that may be read until the next look; 0: as many as there are. */
int64_t gentle_look(struct gentle *g, const struct gentle_sample *s);
