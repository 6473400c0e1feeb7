/* place: which replicator a server is given to, from what replicators report. Pure: figures in, a choice and its reasons in words out. */
#pragma once

#include "base/mem.h"

#include <stdint.h>

struct place_candidate {
    const char *name;
    bool living;               /* it has reported of late */
    bool draining;             /* it takes no more servers */
    bool addressed;            /* it is known where agents reach it */
    int server_count;          /* that are given to it, or move there */
    int group_count;           /* of these: with whose points the server's own are taken together */
    int64_t free_bytes;        /* of its vault; negative: not told */
    int64_t total_bytes;
    int64_t to_come_bytes;     /* of its servers' disks: what is not copied yet */
    int64_t churn_bytes_per_s; /* of its servers together, by their agents */
    int64_t write_bytes_per_s; /* what its disk does; 0: not known */
};

/* Shares of 100, both with a server of need_bytes more: of its room (0 where it has not told), and of what its disk can write. */
int place_fullness(const struct place_candidate *c, int64_t need_bytes, int room_percent);
int place_business(const struct place_candidate *c);

/* Of those that have room the one that has the most servers of its group, for only there they have points of one instant. Of those that are alike in that the
 * one whose scarcer share, of room and of writing, is the smallest; of those that are near, the one with the fewest servers. need_bytes: the server's disks; room_percent: how much of a disk's bytes is
 * reckoned to take room (compression, zeros, what several servers share). why gets one sentence: the choice, then the others. -1 where none living
 * has room: ERR_NO_SPACE where one lacks only that, else ERR_UNREACHABLE, with what to do. */
int place_choose(const struct place_candidate *list, int count, int64_t need_bytes, int room_percent, struct buf *why, struct err *e);
