/* output: a file that is under its name only when it is whole. Until then it lies beside it as NAME.part, which one process at a time may
 * write, with the programs that it gives the lock (keep_fd in base/proc.h); what a killed one left there is written over. Only its owner may read it: what lies on a disk is nobody else's business. */
#pragma once

#include "base/mem.h"

struct point_output {
    char *path, *part; /* part: where to write */
    int fd;            /* of part: it holds the lock */
    bool force, made;
};

/* ERR_CONFLICT where the file exists (unless force) or another process writes it. On failure *o needs no end. */
int point_output_begin(struct point_output *o, const char *path, bool force, struct err *e);
/* On the disk to its last byte, and no longer in memory: who reads it next reads the disk. */
int point_output_settle(struct point_output *o, struct err *e);
/* Settles, and gives it its name; a file that came there meanwhile is replaced only with force. */
int point_output_finish(struct point_output *o, struct err *e);
/* Removes what is not finished; for CLEANUP (of {.fd = -1}, too). */
void point_output_end(struct point_output *o);
/* ERR_CONFLICT where the file exists and is not to be replaced. */
int point_output_check(const char *path, bool force, struct err *e);
/* ERR_NO_SPACE where the folder's file system has less than that free. */
int point_output_room(const char *folder, uint64_t size_bytes, struct err *e);
