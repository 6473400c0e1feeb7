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

/* ---- the back-off ---- */

#define SLOWLY (GENTLE_FLOOR + GENTLE_FLOOR / 4)
#define READING (INT64_C(1) << 20)       /* bytes a second: below, it is not us */
#define RISE_LEAST_US (US_PER_MS / 2)    /* twice of very little is still very little */
#define LOOKS 2                          /* the first still holds what was under way */
#define FIRST_IOS_LEAST 1000

void gentle_init(struct gentle *g, int64_t ios, int64_t io_us, int64_t now_us)
{
    *g = (struct gentle){.stalled_without = -1};
    if (ios >= FIRST_IOS_LEAST) {
        g->without_us = io_us / ios;
        g->without_at_us = now_us;
    }
}

/* Three parts of what was, one of what is. */
static int64_t blend(int64_t was, int64_t is) { return was > 0 ? (3 * was + is) / 4 : is; }

static void note_without(struct gentle *g, const struct gentle_sample *s)
{
    if (s->stalled >= 0)
        g->stalled_without = g->stalled_without < 0 ? s->stalled : (3 * g->stalled_without + s->stalled) / 4;
    if (g->latency_us)
        g->without_us = blend(g->without_us, g->latency_us);
    g->without_at_us = s->now_us;
}

/* What was looked for is what it is now, whatever it was. */
static void see_without(struct gentle *g, const struct gentle_sample *s)
{
    if (g->latency_us)
        g->without_us = 0;
    g->stalled_without = -1;
    note_without(g, s);
}

static bool rises(const struct gentle *g, const struct gentle_sample *s)
{
    bool longer = g->latency_us && g->without_us && g->latency_us > 2 * g->without_us && g->latency_us > g->without_us + RISE_LEAST_US;

    return longer || (s->stalled >= 0 && g->stalled_without >= 0 && s->stalled > g->stalled_without + GENTLE_STALL_RISE);
}

static void back_off(struct gentle *g, int64_t own_rate)
{
    if (!g->rate)
        g->from = own_rate;
    g->rate = (g->rate && g->rate < own_rate ? g->rate : own_rate) / 2;
    if (g->rate < GENTLE_FLOOR)
        g->rate = GENTLE_FLOOR;
}

static void come_on(struct gentle *g)
{
    if (!g->rate)
        return;
    g->rate += GENTLE_STEP;
    if (g->rate >= g->from)
        g->rate = 0;
}

int64_t gentle_look(struct gentle *g, const struct gentle_sample *s)
{
    int64_t own_rate = s->own_bytes * US_PER_S / (s->span_us > 0 ? s->span_us : 1);
    bool reading = own_rate >= READING, slowly = own_rate <= SLOWLY;
    int64_t known_us; /* for how long what it is like without us counts */

    g->latency_us = s->ios >= GENTLE_LEAST_IOS ? s->io_us / s->ios : 0;
    if (g->looking) {
        if (!--g->looking && slowly)
            see_without(g, s);
    } else if (slowly) {
        note_without(g, s);
        if (!reading || !rises(g, s))
            come_on(g);
    } else {
        if (g->latency_us)
            g->with_us = blend(g->with_us, g->latency_us);
        if (g->latency_us && g->latency_us < g->without_us) /* we make nothing quicker: without us it takes no longer than this */
            g->without_us = blend(g->without_us, g->latency_us);
        known_us = g->rate && rises(g, s) ? GENTLE_DOUBT_US : GENTLE_AGED_US;
        if (g->latency_us && (!g->without_us || s->now_us - g->without_at_us > known_us))
            g->looking = LOOKS;
        else if (rises(g, s))
            back_off(g, own_rate);
        else
            come_on(g);
    }
    return g->looking ? GENTLE_FLOOR : g->rate;
}
