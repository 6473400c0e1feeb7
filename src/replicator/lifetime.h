/* lifetime: how old recovery points are by the time that passed while this replicator ran, not by what a clock says that can be set. A clock that jumps ahead
 * must not make all points old at once, for what retention drops nothing brings back. So time is kept in stretches, in each of which the wall clock went as
 * the time did; a restart, and a clock that is set, begin another one, in which the count goes on. While nobody runs nothing grows older.
 * Pure: without clocks and files, but for what is kept as JSON. */
#pragma once

#include "base/json.h"

#include <stdint.h>

#define LIFETIME_STRETCHES_MAX 64
#define LIFETIME_JUMP_US (INT64_C(30) * 1000000) /* the wall clock against the time that passed: more than that is a jump */
#define LIFETIME_AWAY_US (INT64_C(300) * 1000000) /* a restart that took no longer is none */

struct lifetime {
    int count; /* the last one goes on */
    struct stretch {
        int64_t wall_us;   /* where the wall clock stood as it began */
        int64_t ran_us;    /* how long the replicator had run by then, over all its lives */
        int64_t length_us;
    } stretches[LIFETIME_STRETCHES_MAX];
    int64_t began_us, ticked_us; /* of the last one, and of the last call, by the clock that does not jump; not kept */
};

/* A life begins; or goes on, where l has one that began. -1 ERR_INVALID: none of ours. */
int lifetime_read(struct lifetime *l, const json_t *kept, struct err *e);
json_t *lifetime_json(const struct lifetime *l);
void lifetime_begin(struct lifetime *l, int64_t wall_us, int64_t monotonic_us);
/* To be called now and then. How far the wall clock jumped since the last call, ahead (> 0) or back; 0: it went as the time did. */
int64_t lifetime_tick(struct lifetime *l, int64_t wall_us, int64_t monotonic_us);
/* How long the replicator has run since the wall clock stood there. Where it stood there more than once, the latest counts: too young, never too old. */
int64_t lifetime_age_us(const struct lifetime *l, int64_t wall_us);
