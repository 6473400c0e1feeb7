/* part: how much of a limit that servers share each of their replicators may give out. Pure: figures in, a part out. */
#pragma once

#include <stdint.h>

#define PART_WHOLE 1000000 /* parts are millionths of the limit */

/* A replicator that has servers of those that share the limit. */
struct part_holder {
    int64_t active; /* of its servers: have something to send */
    int64_t idle;   /* are connected, and have nothing to send now */
    int64_t held;   /* the most that it may go by now: what it last said, and what it was given in answer to that */
};

/* What all[self] may go by from now on; its own `held` is what it says that it goes by. By its share of the active servers; who has idle ones only gets a
 * little, so that one that begins to send is not stopped before it is counted in. It grows no further than what the others don't hold, so that whoever is to
 * have less must have said that it goes by that: while each gets its answers, or goes on with its last one, all of them together never hold more than the
 * whole. A sum that is too much already (of replicators that knew of no parts) ends as each comes down to its own. */
int64_t part_give(const struct part_holder *all, int count, int self);
