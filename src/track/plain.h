/* plain: the tracker for kernels without what the best way needs (needs.c): by the kernel's types but without operations that return what was there (5.6 on), or by what the tracepoint records (4.18 on). It marks whole chunks, and ends
 * with its process. Inside of track. */
#pragma once

#include "track/private.h"

struct plain;

/* The programs of a way as they were compiled. */
const void *plain_programs(enum track_way way, size_t *size_bytes);
/* mapped: the kernel has maps that can be had as memory. */
int plain_open(const struct track_ledger *l, enum track_way way, bool mapped, struct plain **out, struct err *e);
void plain_close(struct plain **p);                                             /* for CLEANUP */
struct track_counters plain_counted(const struct plain *p, int disk);           /* any thread */
int64_t plain_waiting(const struct plain *p, int disk_count);                   /* chunks; any thread */
/* As track_take: the count, or -1 where they could not be had. */
int64_t plain_take(struct plain *p, int disk, track_visit *visit, void *user);
/* Whether everything that the tracepoint was called for was seen: 1 yes, -1 no, 0 it can't be said in this moment. */
int plain_roll_call(struct plain *p);

/* The rolls of all processors as they are now; -1: they can't be read. */
struct plain_roll;
typedef int roll_read(const void *user, struct plain_roll *out);
struct roll;
struct roll *roll_new(roll_read *read, const void *user, unsigned processor_count);
void roll_free(struct roll **r);
void roll_begin(struct roll *r); /* what was called before the program that answers was there is not owed */
int roll_call(struct roll *r);

/* Waits until no program is at work any more that was when this was called. -1: the kernel won't. */
int plain_wait_for_programs(void);
