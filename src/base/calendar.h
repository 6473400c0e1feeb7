/* calendar: how much may travel, and when, as people write it:
 *
 *   RATE                    20Mbit/s, 500kbit/s, 1Gbit/s, 10MB/s, 8MiB/s, … (k, M, G: thousands; Ki, Mi, Gi: 1024s); none or 0: no limit
 *   CALENDAR                100Mbit/s; mon-fri 08:00-18:00 20Mbit/s; sat,sun pause
 *
 * A calendar's parts are separated by semicolons: [DAYS] [HH:MM-HH:MM] RATE. One part may have neither: it holds where no other does (else
 * there is no limit then). Of several that hold at once the last one counts. A time over midnight (22:00-06:00) belongs to the day on which
 * it begins. `pause`: nothing travels. Times are those of a clock on the wall, in a zone that is named apart. */
#pragma once

#include "base/zone.h"

#include <stdint.h>

#define RATE_NONE 0
#define RATE_PAUSE (-1)
#define RATE_LEAST 1024 /* bytes a second: whoever wants less wants a pause */
#define RATE_MOST (INT64_C(1) << 40)
#define CALENDAR_RULES_MAX 32

struct calendar_rule {
    unsigned days;        /* bit 0: Monday */
    int from_min, to_min; /* minutes of the day; from > to: over midnight */
    int64_t rate;
};
struct calendar {
    int64_t otherwise; /* bytes a second, RATE_NONE or RATE_PAUSE */
    int rule_count;
    struct calendar_rule rules[CALENDAR_RULES_MAX];
};

/* ERR_INVALID in words; of a calendar, every fault is named. */
int rate_parse(const char *text, int64_t *bytes_per_s, struct err *e);
int calendar_parse(const char *text, struct calendar *out, struct err *e);
/* Bytes a second, RATE_NONE or RATE_PAUSE. z NULL: UTC. */
int64_t calendar_rate(const struct calendar *c, const struct zone *z, int64_t now_us);
