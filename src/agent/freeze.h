/* freeze: filesystems stand still, and always move again. A process of its own (forked at the start, locked in memory, which touches
 * no file) does both the freezing and the thawing: it thaws when told, at its deadline, and when the agent is gone. So a killed or hung agent leaves nothing
 * frozen. Should that process itself be killed, the agent notices and thaws; should both be, the next start does (agent_thaw_left).
 *
 * For one thread (but freezer_expired). Doesn't log. */
#pragma once

#include "base/mem.h"

struct freezer;
struct freeze_result {
    int64_t frozen_us;  /* from the first filesystem's FIFREEZE to the last one's thaw */
    bool expired;       /* the deadline ended it, not the caller */
};

/* Before the process has threads. marker: a file on a tmpfs that names what is frozen while it is ("" : none). */
int freezer_start(const char *marker, struct freezer **out, struct err *e);
void freezer_stop(struct freezer **f); /* thaws what is frozen; for CLEANUP */

/* Freezes the filesystems of these descriptors, in order, or none: a filesystem that can't freeze is skipped (*frozen counts those that
 * are). Ends by itself deadline_us after the first one froze; ERR_TIMEOUT where freezing alone took longer. The paths are for the marker. */
int freezer_freeze(struct freezer *f, const int *fds, const char *const *paths, int count, int64_t deadline_us, int *frozen, struct err *e);
/* Moves the deadline: from now on. */
int freezer_extend(struct freezer *f, int64_t deadline_us, struct err *e);
/* In reverse order. Fine when nothing is frozen. After it nothing is, whatever it returns. */
int freezer_thaw(struct freezer *f, struct freeze_result *out, struct err *e);
/* Has the deadline ended the freeze that is on? (Or the process died, and we thawed.) */
bool freezer_expired(struct freezer *f);
int freezer_pid(const struct freezer *f);
