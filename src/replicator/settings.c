/* settings: how servers are to be replicated, as the factory last said it: how often points are taken, which stay, how much may travel and
 * when. The last good word holds until there is another: over restarts, and while the factory is down. */
#include "base/file.h"
#include "base/log.h"
#include "replicator/private.h"

#include <stdlib.h>
#include <string.h>

#define ACTIVE_US (5 * US_PER_S) /* who had something to send that long ago has its share still: not every second another one */
#define SITE "site"

/* ---- reading what was said ---- */

static void settings_clear(struct settings *s)
{
    zone_free(&s->own.zone);
    for (int i = 0; i < s->share_count; i++)
        zone_free(&s->shares[i].limit.zone);
    *s = (struct settings){0};
}

/* A text member, NULL where there is none; one of another type is a fault. */
static const char *text_of(const json_t *said, const char *name, struct err *faults)
{
    const json_t *value = json_object_get(said, name);

    if (value && !json_is_string(value))
        err_also(faults, ERR_INVALID, "%s is no text", name);
    return json_string_value(value);
}

static int64_t int_of(const json_t *said, const char *name, int64_t least, int64_t most, struct err *faults)
{
    const json_t *value = json_object_get(said, name);
    int64_t number = json_integer_value(value);

    if (!value)
        return 0;
    if (!json_is_integer(value) || number < least || number > most)
        err_also(faults, ERR_INVALID, "%s is no whole number from %lld to %lld", name, (long long)least, (long long)most);
    return number;
}

/* what: whose, for people. */
static void read_calendar(const json_t *said, const char *what, struct limit_calendar *l, struct err *faults)
{
    const char *bandwidth = text_of(said, "bandwidth", faults), *zone = text_of(said, "time_zone", faults);
    struct err why = {0};

    if (bandwidth && calendar_parse(bandwidth, &l->calendar, &why) < 0)
        err_also(faults, ERR_INVALID, "%sbandwidth: %s", what, why.message);
    if (zone && zone_open(zone, &l->zone, &why) < 0)
        err_also(faults, ERR_INVALID, "%stime_zone: %s", what, why.message);
}

static void read_shares(const json_t *shared, struct settings *s, struct err *faults)
{
    const char *key;
    json_t *limit;

    if (shared && !json_is_object(shared))
        err_also(faults, ERR_INVALID, "shared is no object");
    json_object_foreach((json_t *)(uintptr_t)shared, key, limit) {
        CLEANUP(free_ptr) char *what = xasprintf("shared %.140s: ", key);
        struct share *share = &s->shares[s->share_count];

        if (s->share_count == SHARES_MAX || strlen(key) >= sizeof share->key) {
            err_also(faults, ERR_LIMIT, "shared: more than %d limits, or a key that is too long", SHARES_MAX);
            return;
        }
        memcpy(share->key, key, strlen(key) + 1);
        s->share_count++;
        read_calendar(limit, what, &share->limit, faults);
    }
}

/* Everything or nothing: every fault is named, and what can't be read changes nothing. */
static int read_settings(const json_t *said, struct settings *out, struct err *e)
{
    static const char *const known[] = {"bandwidth", "copy_rate", "cpu_percent", "group_points", "point_interval_s", "read_rate", "rescan_freeze_s", "rescan_points_s", "retention", "shared", "time_zone"};
    CLEANUP(settings_clear) struct settings s = {0};
    const char *name, *retention, *read_rate, *copy_rate, *group;
    struct err faults = {0}, why = {0};
    json_t *value;

    if (!json_is_object(said))
        return err_set(e, ERR_INVALID, "no object");
    json_object_foreach((json_t *)(uintptr_t)said, name, value) {
        bool is_known = false;

        for (size_t i = 0; i < ARRAY_COUNT(known); i++)
            is_known = is_known || strcmp(name, known[i]) == 0;
        if (!is_known)
            err_also(&faults, ERR_INVALID, "%.60s is not known to this replicator", name);
    }
    s.point_interval_us = int_of(said, "point_interval_s", 1, 86400, &faults) * US_PER_S;
    s.rescan_freeze_us = int_of(said, "rescan_freeze_s", 0, 14400, &faults) * US_PER_S;
    s.rescan_points_us = int_of(said, "rescan_points_s", 0, 2592000, &faults) * US_PER_S;
    s.cpu_percent = int_of(said, "cpu_percent", 1, 6400, &faults);
    retention = text_of(said, "retention", &faults);
    if (retention && ladder_parse(retention, &s.ladder, &why) < 0)
        err_also(&faults, ERR_INVALID, "retention: %s", why.message);
    read_rate = text_of(said, "read_rate", &faults);
    if (read_rate && rate_parse(read_rate, &s.read_bytes_per_s, &why) < 0)
        err_also(&faults, ERR_INVALID, "read_rate: %s", why.message);
    copy_rate = text_of(said, "copy_rate", &faults);
    if (copy_rate && rate_parse(copy_rate, &s.copy_bytes_per_s, &why) < 0)
        err_also(&faults, ERR_INVALID, "copy_rate: %s", why.message);
    group = text_of(said, "group_points", &faults);
    if (group && strlen(group) >= sizeof s.group)
        err_also(&faults, ERR_INVALID, "group_points is longer than %d bytes", LIMIT_NAME_BYTES);
    else if (group)
        memcpy(s.group, group, strlen(group) + 1);
    read_calendar(said, "", &s.own, &faults);
    read_shares(json_object_get(said, "shared"), &s, &faults);
    if (faults.kind)
        return err_set(e, ERR_INVALID, "%s", faults.message);
    *out = s;
    s = (struct settings){0};
    return 0;
}

/* ---- taking it, and keeping it ---- */

/* True where something holds now that did not before. */
static bool take_peer(struct peer *p, json_t *said)
{
    struct settings s = {0};
    struct err why = {0};
    bool same, refused, taken = false;

    pthread_mutex_lock(&p->lock);
    same = p->settings_said && json_equal(said, p->settings_said);
    refused = p->settings_refused && json_equal(said, p->settings_refused);
    if (same) { /* also where something else was refused meanwhile */
        json_free(&p->settings_refused);
        p->settings_refused = NULL;
        err_clear(&p->settings_trouble);
    } else if (!refused) {
        taken = read_settings(said, &s, &why) == 0;
        json_free(&p->settings_refused);
        p->settings_refused = taken ? NULL : json_incref(said);
        p->settings_trouble = why;
    }
    if (taken) {
        settings_clear(&p->settings);
        p->settings = s;
        json_free(&p->settings_said);
        p->settings_said = json_incref(said);
    }
    pthread_mutex_unlock(&p->lock);
    if (why.kind)
        log_err(&why, "%s: its settings are not taken, those of before stay", p->server);
    return taken;
}

/* {GROUP: {SERVER: REPLICATOR}}: what is said otherwise can't be gone by. */
static bool is_of_groups(const json_t *said)
{
    const char *group, *server;
    json_t *members, *at;

    if (!json_is_object(said))
        return false;
    json_object_foreach((json_t *)(uintptr_t)said, group, members) {
        if (!json_is_object(members))
            return false;
        json_object_foreach(members, server, at)
            if (!json_is_string(at))
                return false;
    }
    return true;
}

/* What is said of the fleet, and not of one server: it stands beside the servers' settings. True where it is another word than before. */
static bool take_fleet(struct replicator *r, const json_t *answer)
{
    json_t *said = json_object_get(answer, "groups"), *before;
    bool changed;

    said = is_of_groups(said) ? json_incref(said) : NULL;
    pthread_mutex_lock(&r->fleet_lock);
    before = r->groups_said;
    changed = said != before && !(said && before && json_equal(said, before));
    r->groups_said = said;
    pthread_mutex_unlock(&r->fleet_lock);
    json_free(&before);
    return changed;
}

json_t *settings_groups(struct replicator *r)
{
    json_t *said;

    pthread_mutex_lock(&r->fleet_lock);
    said = json_incref(r->groups_said);
    pthread_mutex_unlock(&r->fleet_lock);
    return said;
}

void settings_free(struct replicator *r) { json_free(&r->groups_said); }

static int keep(struct replicator *r, struct err *e)
{
    CLEANUP(json_free) json_t *all = json_pack("{s:{}}", "servers"), *groups = settings_groups(r);
    CLEANUP(free_ptr) char *text = NULL;

    if (groups)
        json_object_set(all, "groups", groups);

    for (struct peer *p = peers_first(r); p; p = p->next) {
        pthread_mutex_lock(&p->lock);
        if (p->settings_said && !p->gone)
            json_object_set(json_object_get(all, "servers"), p->server, p->settings_said);
        pthread_mutex_unlock(&p->lock);
    }
    text = json_text(all);
    return file_write(r->settings_path, text, strlen(text), 0600, e) < 0 ? err_wrap(e, "keeping the servers' settings") : 0;
}

/* A person's order to the factory, each once: what was ordered here after it stays. True where it is a new one. */
static bool take_order(struct peer *p, json_t *said)
{
    CLEANUP(json_free) json_t *order = json_incref(json_object_get(said, "order"));
    int64_t at_us = json_get_int(order, "at_us", 0);
    bool fresh;

    json_object_del(said, "order"); /* it is no setting */
    pthread_mutex_lock(&p->lock);
    fresh = at_us > p->order_us;
    if (fresh) {
        p->order_us = at_us;
        p->paused = json_get_bool(order, "paused", false);
        p->paused_us = at_us;
        snprintf(p->paused_by, sizeof p->paused_by, "%s", json_get_string(order, "by", ""));
    }
    pthread_mutex_unlock(&p->lock);
    return fresh;
}

/* True where a setting changed. *ordered: and where an order is new. */
static bool take_all(struct replicator *r, const json_t *answer, bool *ordered)
{
    json_t *said;
    const char *server;
    bool changed = take_fleet(r, answer);

    json_object_foreach(json_object_get(answer, "servers"), server, said) {
        struct peer *p = peer_find(r, server, false);

        *ordered = (p && take_order(p, said)) || *ordered;
        changed = (p && take_peer(p, said)) || changed;
    }
    return changed;
}

int settings_take(struct replicator *r, const json_t *answer, struct err *e)
{
    bool ordered = false;
    int result;

    pthread_mutex_lock(&r->settings_lock);
    result = take_all(r, answer, &ordered) ? keep(r, e) : 0;
    pthread_mutex_unlock(&r->settings_lock);
    return ordered && peers_save(r, e) < 0 ? -1 : result; /* agents are told with their limits, within a second */
}

int settings_load(struct replicator *r, struct err *e)
{
    CLEANUP(json_free) json_t *kept = NULL;
    bool ordered = false; /* orders are kept elsewhere */

    if (!file_exists(r->settings_path))
        return 0;
    if (json_read_file(r->settings_path, &kept, e) < 0)
        return err_wrap(e, "the servers' settings: mend or remove the file, the factory says them again");
    take_all(r, kept, &ordered);
    return 0;
}

void settings_release(struct peer *p)
{
    settings_clear(&p->settings);
    json_free(&p->settings_said);
    json_free(&p->settings_refused);
}

/* ---- what follows from it ---- */

int64_t settings_point_interval_us(const struct peer *p)
{
    return p->settings.point_interval_us ? p->settings.point_interval_us : p->r->options.point_interval_us;
}

void settings_ladder(struct peer *p, struct vault_rung rungs[static LADDER_RUNGS_MAX], struct vault_ladder *out)
{
    *out = vault_ladder_default;
    pthread_mutex_lock(&p->lock);
    if (p->settings.ladder.rung_count) {
        for (size_t i = 0; i < p->settings.ladder.rung_count; i++)
            rungs[i] = (struct vault_rung){p->settings.ladder.rungs[i].span_us, p->settings.ladder.rungs[i].step_us};
        out->rung_count = p->settings.ladder.rung_count;
        out->rungs = rungs;
    }
    pthread_mutex_unlock(&p->lock);
}

/* The lower of two limits; 0 is none. */
static int64_t lower(int64_t a, int64_t b) { return !a ? b : !b ? a : a < b ? a : b; }

void settings_share_out(int64_t limit, int64_t *rates, size_t count)
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
    bool active, pause, told_nothing;
    struct {
        char key[sizeof ((struct share *)0)->key];
        int64_t rate;
    } shares[SHARES_MAX];
    int share_count;
};

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
    *a = (struct asker){.p = p, .pause = rate == RATE_PAUSE, .active = has_work(p), .told_nothing = !p->settings_said};
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
    settings_share_out(limit, rates, active);
    for (size_t i = 0; i < count; i++)
        if (shares(&askers[i], key))
            askers[i].rate = askers[i].active && !askers[i].pause ? rates[next++] : lower(askers[i].rate, limit / (int64_t)(active + 1) + 1);
}

/* Each key once; the site's last, so that what a wave leaves over goes to others. */
static void divide_all(struct asker *askers, size_t count)
{
    for (int site = 0; site <= 1; site++)
        for (size_t i = 0; i < count; i++)
            for (int s = 0; s < askers[i].share_count; s++) {
                const char *key = askers[i].shares[s].key;
                bool done = (strcmp(key, SITE) == 0) != site;

                for (size_t before = 0; before < i && !done; before++)
                    for (int other = 0; other < askers[before].share_count; other++)
                        done = done || strcmp(askers[before].shares[other].key, key) == 0;
                if (!done)
                    divide(askers, count, key, askers[i].shares[s].rate);
            }
}

static void reckon(struct replicator *r)
{
    CLEANUP(free_ptr) struct asker *askers = NULL;
    int64_t now_us = clock_read_us(r->clock);
    size_t count = 0, room = 0;

    for (struct peer *p = peers_first(r); p; p = p->next)
        room++;
    askers = xcalloc(room + 1, sizeof *askers);
    for (struct peer *p = peers_first(r); p && count < room; p = p->next)
        ask(p, now_us, &askers[count++]);
    divide_all(askers, count);
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
void settings_tell(struct peer *p)
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

void settings_apply(struct replicator *r)
{
    reckon(r);
    for (struct peer *p = peers_first(r); p; p = p->next)
        settings_tell(p);
}

int64_t settings_greeting(struct peer *p)
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

json_t *settings_json(const struct peer *p)
{
    const struct err *why = &p->settings_trouble;
    json_t *j = json_pack("{s:I, s:I, s:I, s:I, s:b}", "point_interval_ms", (json_int_t)(settings_point_interval_us(p) / US_PER_MS),
                          "limit_bytes_per_s", (json_int_t)p->limit.value, "read_bytes_per_s", (json_int_t)p->limit.read_bytes_per_s,
                          "cpu_percent", (json_int_t)p->limit.cpu_percent, "paused_by_calendar", p->calendar_pause);

    json_object_set_new(j, "rescan_freeze_ms", json_integer(p->settings.rescan_freeze_us / US_PER_MS));
    json_object_set_new(j, "rescan_points_ms", json_integer(p->settings.rescan_points_us / US_PER_MS));
    json_object_set_new(j, "group", p->settings.group[0] ? json_string(p->settings.group) : json_null());
    json_object_set_new(j, "together", json_boolean(p->together));
    json_object_set_new(j, "error", why->kind ? json_pack("{s:s, s:s}", "kind", err_meaning(why->kind)->name, "message", why->message) : json_null());
    return j;
}
