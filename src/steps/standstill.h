/* standstill: what a point costs a server whose changes can't be followed (docs/agent.md, "Without a tracker"): it stands still for as long as reading all of its
 * disks takes. How long that is, whether somebody has allowed it (the setting rescan_freeze_s), and a point within that. */
#pragma once

#include "steps/step.h"

struct standstill {
    bool needed;         /* its changes can't be followed; else all below is 0 */
    int64_t disk_bytes;
    int64_t reading_ms;  /* of all disks, the last time; 0: not known yet */
    int64_t interval_ms; /* from the begin of one reading to that of the next, where it takes no longer itself */
    int64_t allowed_ms;  /* 0: nobody has allowed it */
};

#define STANDSTILL_WAIT_MOST_MS (17 * 3600 * 1000) /* for a point, at most */
#define STANDSTILL_HELD_MOST_MS (18 * 3600 * 1000) /* the source for one that is held, until it was compared */

/* From a server's replication object. */
struct standstill standstill_of(const json_t *server);
/* Of the step's server, of whose agent that is known: where it is not connected it is waited for, up to five minutes. */
int standstill_look(struct step *s, struct standstill *out, struct err *e);
/* How long reading all disks takes: as the last time, or by a guess. */
int64_t standstill_estimate_ms(const struct standstill *t);
/* "256 GiB are read while it stands still, about 43 min"; the caller's. */
char *standstill_words(const struct standstill *t);
/* A point of now of the step's server, after which it goes on: *answer as of the verb "point", the caller's. Where nobody has allowed it: a failed line of evidence, and
 * ERR_WRONG_STATE. What did not fit into its time is not tried again by itself: it cost the source that time. */
int standstill_point(struct step *s, const struct standstill *t, json_t **answer, struct err *e);
