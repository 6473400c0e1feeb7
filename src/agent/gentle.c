#include "agent/gentle.h"

#include "base/clock.h"

int64_t pace_lower(int64_t a, int64_t b) { return !a ? b : !b ? a : a < b ? a : b; }

/* units at per_s, in microseconds; a day at most: by then there is another limit, or another agent. */
static int64_t duration_us(int64_t units, int64_t per_s)
{
    double us = (double)units * (double)US_PER_S / (double)per_s;

    return us > 86400e6 ? INT64_C(86400) * US_PER_S : (int64_t)us;
}

void pace_set(struct pace *p, int64_t per_s, int64_t now_us)
{
    int64_t booked_us = p->free_us - now_us;

    if (per_s == p->per_s)
        return;
    if (booked_us > 0 && p->per_s && per_s)
        p->free_us = now_us + duration_us((int64_t)((double)booked_us * (double)p->per_s / (double)US_PER_S), per_s);
    else
        p->free_us = 0;
    p->per_s = per_s;
}

int64_t pace_book(struct pace *p, int64_t units, int64_t now_us)
{
    int64_t wait_us;

    if (!p->per_s)
        return 0;
    if (p->free_us < now_us)
        p->free_us = now_us;
    wait_us = p->free_us - now_us;
    p->free_us += duration_us(units, p->per_s);
    return wait_us;
}
