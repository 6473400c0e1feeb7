/* missing: disks that a server's copy had, and that its agent names no more. The points from then on lack them, so it is said until a disk is back, or
 * a person has accepted that it is gone. Kept over restarts with the other marks (peer.c): the disk's working map is dropped, and the points that have it go with
 * time, so nothing else would tell. */
#pragma once

#include "base/err.h"
#include "base/json.h"
#include "base/limits.h"
#include "wire/wire.h"

struct missing_disk {
    char id[WIRE_ID_SIZE];
    int64_t size_bytes, since_us; /* since_us: wall, of the first HELLO without it */
    bool accepted;                /* by a person */
};
struct missing {
    int count; /* at most LIMIT_DISKS_PER_SERVER */
    struct missing_disk *disks; /* owned */
};

#define MISSING_TOLD 4 /* in words and in JSON: an object has its limit */

void missing_release(struct missing *m);
int missing_count(const struct missing *m); /* that nobody has accepted; m may be NULL */
/* A HELLO: what is missing from then on. `had`: the disks of the copy as it was, those of the working maps and of the newest point (their since_us and accepted don't count). Says
 * whether it differs from before. */
bool missing_learn(struct missing *m, const struct wire_hello *hello, const struct missing_disk *had, int had_count, int64_t now_us);
int missing_accept(struct missing *m); /* all of it: how many were not accepted before */
/* [{id, size_bytes, since}] of those that nobody has accepted, the first MISSING_TOLD. */
json_t *missing_json(const struct missing *m);
/* As it is kept: [{id, size_bytes, since_us, accepted}]. What can't be read is left out. */
json_t *missing_kept(const struct missing *m);
void missing_load(struct missing *m, const json_t *kept);
