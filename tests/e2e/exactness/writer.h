/* writer: the parts of the program that writes to a disk in every way and knows what it must hold (main: writer.c). */
#pragma once

#include "model.h"

#include <pthread.h>

struct random {
    uint64_t state;
};
uint64_t random_next(struct random *r);
uint32_t random_below(struct random *r, uint32_t limit); /* limit > 0 */

/* The gate before every write: shut in the writer's own rhythm (a disk that is never quiet has no crash-consistent points), or by order. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool resting, hushed, ending;
    int busy; /* writers inside that no frozen filesystem can stop */
};
bool gate_enter(struct gate *g, bool counted); /* false: the end */
void gate_leave(struct gate *g, bool counted);

/* Where a lane's area lies: pieces on one node, each written as a whole or in part, never across two. */
struct piece {
    uint64_t offset; /* bytes, in the node */
    uint32_t first, count; /* sectors of the lane's area */
};

struct lane_writer {
    struct lane *lane;
    struct gate *gate;
    struct random random;
    const char *node;
    int direct, buffered; /* the node, opened twice */
    struct piece *pieces;
    uint32_t piece_count;
    uint32_t most;  /* sectors of one write of data */
    bool zeroes;    /* may discard and zero: not in a file, whose place on the disk must stay */
    bool counted;   /* for the gate */
    uint8_t *block; /* aligned */
    uint64_t zero_writes;
};
void *lane_run(void *lane_writer);

/* Files of all kinds in a folder of a mounted filesystem: creates, writes, maps, punches, truncates, renames, removes, trims. */
struct churn {
    struct gate *gate;
    struct random random;
    const char *folder;
    uint64_t operations;
};
void *churn_run(void *churn);

_Noreturn void die(const char *what); /* with errno: a writer that can't write proves nothing */
