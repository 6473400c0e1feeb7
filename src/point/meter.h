/* meter: tells a person how far long work is, how fast it goes and when it will be done: on a terminal as one line that is drawn over, else
 * as a line every ten seconds. Short work says nothing. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define POINT_METER_SIZE 96

struct point_meter {
    FILE *to;          /* NULL: nothing is told */
    const char *what;  /* borrowed: "loop0: copying" */
    int64_t began_us, told_us; /* monotonic */
    bool drawn;        /* a line stands on the terminal */
};

void point_meter_begin(struct point_meter *m, FILE *to, const char *what);
/* done and total in bytes; total 0: not known. Cheap: it may be called as often as one likes. */
void point_meter_show(struct point_meter *m, int64_t done, int64_t total);
void point_meter_end(struct point_meter *m); /* leaves the terminal's line empty */

/* "1.2 of 4.0 GiB, 30 %, 210 MiB/s, 14 s to go"; returns out. */
char *point_meter_text(int64_t done, int64_t total, int64_t elapsed_us, char out[static POINT_METER_SIZE]);
