/* target: a disk that a recovery point is brought back to. What is written to it is such that nobody boots from it before all of the point's disks are
 * whole: its first chunk is zero on it until then, and kept in memory. */
#pragma once

#include "agent/config.h"
#include "wire/wire.h"

struct target {
    struct wire_disk about; /* as the point has it */
    char name[64];          /* of ours */
    int fd;                 /* -1: not open */
    int64_t chunk_count;
    int64_t written_bytes;
    bool shut;              /* the first chunk is zero on the disk until all else is there */
    bool first_known;
    uint8_t *first;         /* what the first chunk is to be; aligned */
};

/* Zero bytes, for O_DIRECT; freed by free. */
uint8_t *target_buffer(size_t size_bytes);

/* t->name: the next of *list, names separated by commas, which is advanced; or that of the disk whose identity about has. -1: there is none. */
int target_name_next(struct target *t, const char **list, struct err *e);
int target_name_by_identity(struct target *t, const struct agent_config *c, struct err *e);

/* ERR_CONFLICT where somebody uses it (but for a dry run, which only reads), ERR_INVALID where the point's disk does not fit. */
int target_open(struct target *t, bool dry_run, struct err *e);
void target_close(struct target *t); /* one that is not open, too */

/* Bytes of the chunk that lie on the disk. */
size_t target_chunk_size(const struct target *t, int64_t chunk);
/* run: of count chunks, aligned; what lies behind the disk's end counts as zero bytes. false: a sector can't be read. */
bool target_read(const struct target *t, int64_t chunk, unsigned count, uint8_t *run);
void target_same(struct target *t, int64_t chunk, const uint8_t *bytes); /* the disk has it so, and it stays */
int target_write(struct target *t, int64_t chunk, const uint8_t *bytes, struct err *e); /* a chunk that differs; bytes are aligned */

/* All of them are whole, each one's first chunk known: they may be booted from. None before all: one of them may be what boots, and the others its data. */
int targets_finish(struct target *t, int count, struct err *e);
