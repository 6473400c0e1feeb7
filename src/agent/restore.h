/* restore: a recovery point back onto this machine's disks: only what differs is fetched and written (docs/agent.md, "The way back"). For a machine that runs
 * from a rescue medium, or disks that nothing uses: a disk that is mounted, swapped on, or under LVM or md is refused before anything is written. */
#pragma once

#include "agent/config.h"

#include <stdatomic.h>

struct restore_order {
    const char *point;  /* an id; "newest" */
    const char *onto;   /* names of the disks that take the point's, separated by commas, in the order of the point's list; NULL: by identity */
    bool dry_run;       /* look only: nothing is written */
    bool find_only;     /* ask for the point and find the disks that take it, no more; with dry_run they may be in use */
};
struct restore_outcome {
    char point[64];
    int64_t at_us;          /* the point's moment */
    int disk_count;
    char names[LIMIT_DISKS_PER_SERVER][64]; /* of ours, in the order of the point's disks */
    int64_t total_bytes, different_bytes, written_bytes, received_bytes;
    int passes;             /* over all disks; the last one found nothing different (but for a dry run) */
};

/* 0 only after a whole pass over every disk, read past the cache, found each chunk as the point has it. A link that breaks is made anew and goes on.
 * While a disk is half done its first chunk is zero, so that nobody boots from it. *stop ends it (ERR_CANCELLED). Logs its progress. */
int restore_run(const struct agent_config *c, const struct restore_order *order, const atomic_bool *stop, struct restore_outcome *out, struct err *e);

/* Tells the replicator how it goes with a machine that restores itself: state is "restoring", "failed" or "done", message says why or how much. 0 only
 * when the replicator has written it down. 1: and the machine is to boot from its disks now. One try. */
int restore_report(const struct agent_config *c, const char *point, const char *state, const char *message, struct err *e);
