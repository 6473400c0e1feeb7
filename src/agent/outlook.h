/* outlook: what a server's copy keeps up with, and when it will have caught up. Pure arithmetic over counters that are read about once a second;
 * no clock, no locks, no I/O.
 *
 * The formula is that of live migration's pre-copy (Clark et al., "Live Migration of Virtual Machines", NSDI 2005): what is sent while the writer goes on
 * converges only where changes are made slower than they are sent, and then
 *
 *     eta = backlog / (rate - churn)
 *
 * also during a pass over all chunks: `left` of it takes left / rate; by then there is (waiting + churn * left / rate) of changes, gone after that divided by
 * (rate - churn); the sum is (left + waiting) / (rate - churn).
 *
 * - *rate*: bytes of disk content made durable, by the time in which something was on its way, over the last 30 s, or over the lag where that is longer, 2 min at
 *   most. Where nearly nothing was on its way (less than 200 ms) the last known rate stands.
 * - *churn*: bytes newly marked, over the last 30 s, or over the lag where that is longer, 10 min at most: one place that is written again and again is marked once
 *   a round, so that only a whole round (the lag is one to two) tells what is to be sent. Where the source's writing, marked already or not, has
 *   fallen below a tenth of what it was over that time, the last 10 s alone count: a writer that has stopped is believed.
 * - *never*: churn was at least the rate for 15 s in a row, while the copy was behind. It is taken back when churn has been below nine tenths of the rate for 5 s, or
 *   when the copy is no longer behind. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define OUTLOOK_UNKNOWN (-1)
#define OUTLOOK_NEVER (-2)
#define OUTLOOK_SAMPLES 620 /* at one a second: ten minutes and some */

/* Counters that only rise, but for what outlook_reset is for. */
struct outlook_sample {
    int64_t at_us;         /* monotonic */
    int64_t acked_bytes;   /* content made durable */
    int64_t busy_us;       /* time in which something was on its way */
    int64_t churned_bytes; /* marked, taken or not */
    int64_t written;       /* a measure of all writing, also where it marks nothing new */
};

struct outlook {
    struct outlook_sample samples[OUTLOOK_SAMPLES]; /* a ring */
    int first, count;
    int64_t rate_from_us;   /* samples before it don't count for the rate */
    int64_t rate, churn;    /* bytes a second; OUTLOOK_UNKNOWN */
    int64_t outrun_since_us, kept_since_us; /* 0: not so now */
    bool never;
};

void outlook_reset(struct outlook *o); /* before the first sample, and when a counter starts anew */
void outlook_forget_rate(struct outlook *o, int64_t now_us); /* the limit has changed */
/* A pass is over: of its chunks many did not travel, and changes will be slower. The rate stands until there is one of changes alone. */
void outlook_end_pass(struct outlook *o, int64_t now_us);
/* lag_us: for how long the copy has been behind; 0: not known. Sets rate and churn. */
void outlook_feed(struct outlook *o, const struct outlook_sample *s, int64_t lag_us);
/* behind: there is a pass over all chunks, or the lag is long: then churn counts. Milliseconds, OUTLOOK_UNKNOWN or OUTLOOK_NEVER. */
int64_t outlook_eta_ms(struct outlook *o, int64_t backlog_bytes, bool behind, int64_t now_us);
