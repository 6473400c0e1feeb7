/* compared: what a comparison has got of its source, as files: it goes on after a cut link, and after a restart of this program or of whoever asked. */
#pragma once

#include "replicator/private.h"

struct compared {
    char *folder;  /* of this point */
    int run_fd;    /* held locked: one comparison of a point at a time */
    int64_t run;   /* of HASH */
    size_t count;
    int fd[LIMIT_DISKS_PER_SERVER]; /* one SHA-256 for each chunk of the point's disk, without a gap from the first on */
};

/* What was left within the last hour by a comparison of the point that did not come to its end, else nothing yet. ERR_CONFLICT where one goes on. */
int compared_open(const char *home, const char *point, size_t disks, struct compared **out, struct err *e);
int64_t compared_chunks(const struct compared *c, size_t disk); /* how many are there */
void compared_end(struct compared *c);      /* it has come to its end: nothing is to be left */
void compared_free(struct compared **held); /* for CLEANUP */

/* count hashes from first on came for such a file: those after them count no more. ERR_PROTOCOL where some before them lack. */
int compared_put(int fd, int64_t first, uint32_t count, const uint8_t *hashes, struct err *e);
