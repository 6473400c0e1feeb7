/* gentle: how the agent keeps the source from feeling it: paces for what it sends, reads and reckons. */
#pragma once

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
