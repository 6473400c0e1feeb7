/* forget: a disk that forgets. From forget_start on, everything that this process does to the files below a folder (open, write, truncate, sync, link,
 * rename, remove; by whichever library, the calls are ours by name) is done and written down, and at a seeded operation the power goes:
 *
 * - each write since the last flush of its file is there, or is not, or is torn: any of its 512-byte sectors. The file may have its new size all the
 *   same, with zeros where sectors are missing. Cuts of a file's size, the same. A write through O_DSYNC is there, and no other with it.
 * - each name made, moved or taken away since the last flush of its folder is there or is not: none, all, the first ones (as in a journal), or
 *   any of them. Flushing a file does not flush its name.
 * - a sector is never half written, and nothing that was flushed changes.
 *
 * What is read meanwhile is what was written: the real folder. At the cut it is made what the disk then holds, and the process ends. Before that, all that was
 * written down is held against the real folder: a change by a way that is not followed here (a mapping, say) ends the process with FORGET_BLIND.
 * Faults: for some operations the disk is full, or fails; a flush that fails drops any part of what it was to flush, and says so once: the file reads
 * as before, by the next process, too, and no later flush brings that part, but where it is written again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { FORGET_CUT = 77, FORGET_BLIND = 78, FORGET_KILLED = 79 }; /* exit statuses */

struct forget_plan {
    uint64_t seed;
    uint64_t cut_at;                    /* the operation in which the power goes, from 1; 0: never */
    bool at_through;                    /* from cut_at on, at the first write through (of an index's commit) */
    bool killed;                        /* the process is killed then instead: what it wrote is read on, and is not on the disk yet */
    uint64_t fault_from, fault_count;   /* operations that fail; count 0: none */
    int fault;                          /* ENOSPC (flushes work), EIO (everything fails), EROFS (everything but flushes) */
};

struct forget_count {
    uint64_t operations, flushes, lost, torn, kept, names_lost, faults;
};

/* What lies below the folder now is on the disk, but for what a killed process left. *counts (may lie in shared memory) is kept up to date. Once a
 * process. What the disk holds then is kept in FOLDER.disk and FOLDER.nodes. */
void forget_start(const char *folder, const struct forget_plan *plan, struct forget_count *counts);
/* So many operations fail after the next ones, as the plan could have said. */
void forget_fail(uint64_t after, uint64_t count, int fault);
/* The power goes now, whatever the plan says. */
_Noreturn void forget_cut(void);
/* The process ends now, and is remembered as killed. */
_Noreturn void forget_kill(void);
