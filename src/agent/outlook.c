#include "agent/outlook.h"

#include "base/clock.h"
#include "base/mem.h"

#define WINDOW_US (30 * US_PER_S)
#define RATE_WINDOW_MOST_US (120 * US_PER_S)
#define CHURN_WINDOW_MOST_US (600 * US_PER_S)
#define RECENT_US (10 * US_PER_S)
#define SPAN_LEAST_US (2 * US_PER_S)    /* no figure from less */
#define BUSY_LEAST_US (200 * US_PER_MS) /* no rate from less */
#define NEVER_AFTER_US (15 * US_PER_S)
#define KEPT_AFTER_US (5 * US_PER_S)
#define ETA_MOST_MS (INT64_C(10) * 365 * 86400 * 1000)

void outlook_reset(struct outlook *o) { *o = (struct outlook){.rate = OUTLOOK_UNKNOWN, .churn = OUTLOOK_UNKNOWN}; }

void outlook_forget_rate(struct outlook *o, int64_t now_us)
{
    o->rate_from_us = now_us;
    o->rate = OUTLOOK_UNKNOWN;
}

void outlook_end_pass(struct outlook *o, int64_t now_us) { o->rate_from_us = now_us; }

static const struct outlook_sample *at(const struct outlook *o, int index) { return &o->samples[(o->first + index) % OUTLOOK_SAMPLES]; }

/* The oldest sample that is not older than from_us. */
static const struct outlook_sample *since(const struct outlook *o, int64_t from_us)
{
    int low = 0, high = o->count - 1;

    while (low < high) {
        int middle = (low + high) / 2;

        if (at(o, middle)->at_us < from_us)
            low = middle + 1;
        else
            high = middle;
    }
    return at(o, low);
}

static int64_t within(int64_t value, int64_t least, int64_t most) { return value < least ? least : value > most ? most : value; }

/* count of something a second, over a time; in floating point, for a product of bytes and microseconds is beyond 64 bits. */
static int64_t per_s(int64_t count, int64_t time_us) { return count <= 0 ? 0 : (int64_t)((double)count * US_PER_S / (double)time_us); }

static int64_t rate_of(const struct outlook *o, const struct outlook_sample *now, int64_t lag_us)
{
    int64_t from_us = now->at_us - within(lag_us, WINDOW_US, RATE_WINDOW_MOST_US);
    const struct outlook_sample *then = since(o, from_us > o->rate_from_us ? from_us : o->rate_from_us);

    return now->busy_us - then->busy_us < BUSY_LEAST_US ? o->rate : per_s(now->acked_bytes - then->acked_bytes, now->busy_us - then->busy_us);
}

static int64_t churn_of(const struct outlook *o, const struct outlook_sample *now, int64_t lag_us)
{
    const struct outlook_sample *then = since(o, now->at_us - within(lag_us, WINDOW_US, CHURN_WINDOW_MOST_US));
    const struct outlook_sample *recent = since(o, now->at_us - RECENT_US);

    if (now->at_us - then->at_us < SPAN_LEAST_US)
        return OUTLOOK_UNKNOWN;
    if (now->at_us - recent->at_us >= RECENT_US - US_PER_S && per_s(now->written - recent->written, now->at_us - recent->at_us) <
                                                                  per_s(now->written - then->written, now->at_us - then->at_us) / 10)
        then = recent;
    return per_s(now->churned_bytes - then->churned_bytes, now->at_us - then->at_us);
}

void outlook_feed(struct outlook *o, const struct outlook_sample *s, int64_t lag_us)
{
    if (o->count == OUTLOOK_SAMPLES) {
        o->first = (o->first + 1) % OUTLOOK_SAMPLES;
        o->count--;
    }
    o->samples[(o->first + o->count++) % OUTLOOK_SAMPLES] = *s;
    o->rate = rate_of(o, s, lag_us);
    o->churn = churn_of(o, s, lag_us);
}

/* Since when a condition holds: 0 where it doesn't. */
static int64_t holds_since(int64_t since_us, bool holds, int64_t now_us) { return !holds ? 0 : since_us ? since_us : now_us; }

static void judge(struct outlook *o, bool behind, int64_t now_us)
{
    bool known = o->rate > 0 && o->churn >= 0;

    o->outrun_since_us = holds_since(o->outrun_since_us, behind && known && o->churn >= o->rate, now_us);
    o->kept_since_us = holds_since(o->kept_since_us, known && o->churn < o->rate / 10 * 9, now_us);
    if (o->outrun_since_us && now_us - o->outrun_since_us >= NEVER_AFTER_US)
        o->never = true;
    else if (!behind || (o->kept_since_us && now_us - o->kept_since_us >= KEPT_AFTER_US))
        o->never = false;
}

int64_t outlook_eta_ms(struct outlook *o, int64_t backlog_bytes, bool behind, int64_t now_us)
{
    int64_t speed;
    double ms;

    judge(o, behind, now_us);
    if (backlog_bytes <= 0)
        return 0;
    if (o->never)
        return OUTLOOK_NEVER;
    speed = o->rate - (behind && o->churn > 0 ? o->churn : 0);
    if (o->rate <= 0 || speed <= 0)
        return OUTLOOK_UNKNOWN;
    ms = (double)backlog_bytes * 1000 / (double)speed;
    return ms > (double)ETA_MOST_MS ? ETA_MOST_MS : (int64_t)ms;
}
