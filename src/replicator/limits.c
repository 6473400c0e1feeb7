/* limits: what each agent is to keep to now, by calendars, by what it shares with others, and by who has something to send. */
#include "replicator/private.h"

#include <string.h>

#define ACTIVE_US (5 * US_PER_S) /* who had something to send that long ago has its share still: not every second another one */
#define SITE "site"

/* The lower of two limits; 0 is none. */
static int64_t lower(int64_t a, int64_t b) { return !a ? b : !b ? a : a < b ? a : b; }

void limits_share_out(int64_t limit, int64_t *rates, size_t count)
{
    CLEANUP(free_ptr) bool *settled = xcalloc(count + 1, sizeof *settled);
    int64_t left = limit, open = (int64_t)count;
    bool more = true;

    while (more) {
        more = false;
        for (size_t i = 0; i < count; i++)
            if (!settled[i] && rates[i] && rates[i] <= left / open) {
                settled[i] = more = true;
                left -= rates[i];
                open--;
            }
    }
    for (size_t i = 0; i < count; i++)
        if (!settled[i])
            rates[i] = left / open > 0 ? left / open : 1; /* 0 would be no limit */
}

/* A server while limits are reckoned. */
struct asker {
    struct peer *p;
    int64_t rate; /* 0: no limit */
    bool active, pause, told_nothing, connected;
    struct {
        char key[sizeof ((struct share *)0)->key];
        int64_t rate;
    } shares[SHARES_MAX];
    int share_count;
};

/* What of a shared limit is for the servers here: at least 1, for 0 would be no limit. */
static int64_t part_of_limit(int64_t limit, int64_t part)
{
    int64_t bytes_per_s = limit / SETTINGS_PART_WHOLE * part + limit % SETTINGS_PART_WHOLE * part / SETTINGS_PART_WHOLE;

    return bytes_per_s > 0 ? bytes_per_s : 1;
}

static int64_t rate_now(const struct limit_calendar *l, int64_t now_us) { return calendar_rate(&l->calendar, l->zone, now_us); }

/* p's lock held */
static bool has_work(struct peer *p)
{
    int64_t now_us = clock_monotonic_us();

    if (!p->session || p->paused || p->detached)
        return false;
    if (!p->has_status || p->status.backlog_bytes > 0)
        p->active_us = now_us;
    return p->active_us && now_us - p->active_us < ACTIVE_US;
}

static void ask(struct peer *p, int64_t now_us, struct asker *a)
{
    int64_t rate;

    pthread_mutex_lock(&p->lock);
    rate = rate_now(&p->settings.own, now_us);
    *a = (struct asker){.p = p, .pause = rate == RATE_PAUSE, .active = has_work(p), .told_nothing = !p->settings_said, .connected = p->session != NULL};
    a->rate = lower(rate == RATE_PAUSE ? RATE_NONE : rate, p->r->options.limit_bytes_per_s);
    for (; a->share_count < p->settings.share_count; a->share_count++) {
        const struct share *s = &p->settings.shares[a->share_count];

        memcpy(a->shares[a->share_count].key, s->key, sizeof s->key);
        a->shares[a->share_count].rate = rate_now(&s->limit, now_us);
    }
    pthread_mutex_unlock(&p->lock);
}

/* Of whom nothing was said yet shares the site's limit: that will come, and nobody knows of a wave's. */
static bool shares(const struct asker *a, const char *key)
{
    for (int i = 0; i < a->share_count; i++)
        if (strcmp(a->shares[i].key, key) == 0)
            return true;
    return a->told_nothing && strcmp(key, SITE) == 0;
}

/* Those that have something to send divide the limit; another one gets, until it is counted in, what it would get then. */
static void divide(struct asker *askers, size_t count, const char *key, int64_t limit)
{
    CLEANUP(free_ptr) int64_t *rates = xcalloc(count + 1, sizeof *rates);
    size_t active = 0, next = 0;

    if (limit == RATE_NONE)
        return;
    for (size_t i = 0; i < count; i++)
        if (shares(&askers[i], key) && limit == RATE_PAUSE)
            askers[i].pause = true;
        else if (shares(&askers[i], key) && askers[i].active && !askers[i].pause)
            rates[active++] = askers[i].rate;
    if (limit == RATE_PAUSE)
        return;
    limits_share_out(limit, rates, active);
    for (size_t i = 0; i < count; i++)
        if (shares(&askers[i], key))
            askers[i].rate = askers[i].active && !askers[i].pause ? rates[next++] : lower(askers[i].rate, limit / (int64_t)(active + 1) + 1);
}

/* Each key once; the site's last, so that what a wave leaves over goes to others. parts: of what is for other replicators' servers nothing is given out. */
static void divide_all(struct asker *askers, size_t count, const json_t *parts)
{
    for (int site = 0; site <= 1; site++)
        for (size_t i = 0; i < count; i++)
            for (int s = 0; s < askers[i].share_count; s++) {
                const char *key = askers[i].shares[s].key;
                int64_t limit = askers[i].shares[s].rate;
                bool done = (strcmp(key, SITE) == 0) != site;

                for (size_t before = 0; before < i && !done; before++)
                    for (int other = 0; other < askers[before].share_count; other++)
                        done = done || strcmp(askers[before].shares[other].key, key) == 0;
                if (!done)
                    divide(askers, count, key, limit > 0 ? part_of_limit(limit, settings_part(parts, key)) : limit);
            }
}

/* All servers as they are now; the caller frees. */
static struct asker *ask_all(struct replicator *r, size_t *count)
{
    struct asker *askers;
    int64_t now_us = clock_read_us(r->clock);
    size_t room = 0;

    *count = 0;
    for (struct peer *p = peers_first(r); p; p = p->next)
        room++;
    askers = xcalloc(room + 1, sizeof *askers);
    for (struct peer *p = peers_first(r); p && *count < room; p = p->next)
        ask(p, now_us, &askers[(*count)++]);
    return askers;
}

/* How the servers here stand to one limit that several share. */
static json_t *share_json(const struct asker *askers, size_t count, const char *key, const json_t *parts)
{
    json_int_t active = 0, idle = 0;

    for (size_t i = 0; i < count; i++)
        if (shares(&askers[i], key) && askers[i].active && !askers[i].pause)
            active++;
        else
            idle += shares(&askers[i], key) && askers[i].connected;
    return json_pack("{s:I, s:I, s:I}", "active", active, "idle", idle, "part", (json_int_t)settings_part(parts, key));
}

json_t *limits_shares(struct replicator *r)
{
    CLEANUP(json_free) json_t *parts = settings_parts(r);
    size_t count;
    CLEANUP(free_ptr) struct asker *askers = ask_all(r, &count);
    json_t *all = json_object();

    for (size_t i = 0; i < count; i++)
        for (int s = 0; s < askers[i].share_count; s++) {
            const char *key = askers[i].shares[s].key;

            if (!json_object_get(all, key))
                json_object_set_new(all, key, share_json(askers, count, key, parts));
        }
    return all;
}

static void reckon(struct replicator *r)
{
    CLEANUP(json_free) json_t *parts = settings_parts(r);
    size_t count;
    CLEANUP(free_ptr) struct asker *askers = ask_all(r, &count);

    divide_all(askers, count, parts);
    for (size_t i = 0; i < count; i++) {
        struct peer *p = askers[i].p;

        pthread_mutex_lock(&p->lock);
        p->limit.value = askers[i].rate;
        p->limit.read_bytes_per_s = p->settings.read_bytes_per_s;
        p->limit.cpu_percent = p->settings.cpu_percent;
        p->calendar_pause = askers[i].pause;
        pthread_mutex_unlock(&p->lock);
    }
}

/* Before the first STATUS the session's thread has not said WELCOME for certain. A send that fails ends the session. A pause by order stops
 * everything; the calendar's does not stop a point that somebody waits for. */
void limits_tell(struct peer *p)
{
    struct wire_limit limit = {0};
    struct wire_simple order = {0};
    bool limit_moved = false, pause_moved = false, pause = false;

    pthread_mutex_lock(&p->telling);
    pthread_mutex_lock(&p->lock);
    if (p->session && p->has_status && !p->detached) {
        pause = p->paused || (p->calendar_pause && !p->people && !p->status.held);
        limit_moved = memcmp(&p->told, &p->limit, sizeof p->told) != 0;
        pause_moved = pause != p->told_pause;
        p->told = limit = p->limit;
        p->told_pause = pause;
    }
    pthread_mutex_unlock(&p->lock);
    if (limit_moved)
        (void)peer_send(p, WIRE_LIMIT, &limit, sizeof limit, NULL);
    if (pause_moved)
        (void)peer_send(p, pause ? WIRE_PAUSE : WIRE_RESUME, &order, sizeof order, NULL);
    pthread_mutex_unlock(&p->telling);
}

void limits_apply(struct replicator *r)
{
    reckon(r);
    for (struct peer *p = peers_first(r); p; p = p->next)
        limits_tell(p);
}

int64_t limits_greeting(struct peer *p)
{
    int64_t bytes_per_s;

    reckon(p->r);
    pthread_mutex_lock(&p->lock);
    p->told = (struct wire_limit){.value = p->limit.value, .read_bytes_per_s = -1, .cpu_percent = -1}; /* what WELCOME says; the agent keeps to what it heard before */
    p->told_pause = false;
    bytes_per_s = p->limit.value;
    pthread_mutex_unlock(&p->lock);
    return bytes_per_s;
}
