/* clock: time is int64_t microseconds since 1970-01-01 UTC; text is RFC 3339 in UTC with milliseconds. */
#pragma once

#include "base/err.h"

#include <stdint.h>

#define CLOCK_TEXT_SIZE 32
#define US_PER_MS INT64_C(1000)
#define US_PER_S INT64_C(1000000)

/* Clock and randomness are passed in, so that a test can live a three-week wave in a second. */
struct clock {
    int64_t (*now_us)(void *user);
    void *user;
};
extern const struct clock clock_real;
static inline int64_t clock_read_us(const struct clock *c) { return c->now_us(c->user); }

int64_t clock_now_us(void);       /* wall clock */
int64_t clock_monotonic_us(void); /* for durations and time limits */
int64_t clock_boot_us(void);      /* the same, and it goes on while the machine is suspended: for what others count on, too */
void clock_sleep_us(int64_t duration_us);
char *clock_format(int64_t time_us, char text[static CLOCK_TEXT_SIZE]); /* "2026-11-24T20:34:02.123Z"; returns text */
/* RFC 3339 with any offset ("2026-11-24T21:34:02+01:00"), seconds' fraction optional. ERR_INVALID says what is wrong. */
int clock_parse(const char *text, int64_t *time_us, struct err *e);
/* "90s", "15m", "4h", "3d", "250ms" to microseconds. */
int clock_parse_duration(const char *text, int64_t *duration_us, struct err *e);
