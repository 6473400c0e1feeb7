/* settings: how servers are to be replicated, as the factory last said it: how often points are taken, which stay, how much may travel and
 * when (limits.c makes rates of that). The last good word holds until there is another: over restarts, and while the factory is down. */
#include "base/file.h"
#include "base/log.h"
#include "replicator/private.h"

#include <stdlib.h>
#include <string.h>

#define PART_KEPT 50000    /* a part that moves by less is not written down for that alone: it may do so every second */

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

/* {KEY: millionths} */
static bool is_of_parts(const json_t *said)
{
    const char *key;
    json_t *part;

    if (!json_is_object(said))
        return false;
    json_object_foreach((json_t *)(uintptr_t)said, key, part)
        if (!json_is_integer(part) || json_integer_value(part) < 0 || json_integer_value(part) > SETTINGS_PART_WHOLE)
            return false;
    return true;
}

int64_t settings_part(const json_t *parts, const char *key) { return json_get_int(parts, key, SETTINGS_PART_WHOLE); }

/* Whether the parts are far from those that are kept; settings_lock held. */
static bool parts_moved(const struct replicator *r, const json_t *parts)
{
    bool moved = json_object_size(parts) != json_object_size(r->parts_kept);
    const char *key;
    json_t *part;

    json_object_foreach((json_t *)(uintptr_t)parts, key, part)
        moved = moved || !json_object_get(r->parts_kept, key) || llabs(json_integer_value(part) - settings_part(r->parts_kept, key)) > PART_KEPT;
    return moved;
}

/* What is said of the fleet, and not of one server: it stands beside the servers' settings. True where it is to be written down. */
static bool take_fleet(struct replicator *r, const json_t *answer)
{
    json_t *groups = json_object_get(answer, "groups"), *parts = json_object_get(answer, "parts"), *groups_before, *parts_before;
    bool changed;

    groups = is_of_groups(groups) ? json_incref(groups) : NULL;
    parts = is_of_parts(parts) ? json_incref(parts) : NULL;
    pthread_mutex_lock(&r->fleet_lock);
    groups_before = r->groups_said;
    parts_before = r->parts_said;
    r->groups_said = groups;
    r->parts_said = parts;
    pthread_mutex_unlock(&r->fleet_lock);
    changed = groups != groups_before && !(groups && groups_before && json_equal(groups, groups_before));
    json_free(&groups_before);
    json_free(&parts_before);
    return parts_moved(r, parts) || changed;
}

json_t *settings_groups(struct replicator *r)
{
    json_t *said;

    pthread_mutex_lock(&r->fleet_lock);
    said = json_incref(r->groups_said);
    pthread_mutex_unlock(&r->fleet_lock);
    return said;
}

json_t *settings_parts(struct replicator *r)
{
    json_t *said;

    pthread_mutex_lock(&r->fleet_lock);
    said = json_incref(r->parts_said);
    pthread_mutex_unlock(&r->fleet_lock);
    return said;
}

void settings_free(struct replicator *r)
{
    json_free(&r->groups_said);
    json_free(&r->parts_said);
    json_free(&r->parts_kept);
}

static int keep(struct replicator *r, struct err *e)
{
    CLEANUP(json_free) json_t *all = json_pack("{s:{}}", "servers"), *groups = settings_groups(r), *parts = settings_parts(r);
    CLEANUP(free_ptr) char *text = NULL;

    if (groups)
        json_object_set(all, "groups", groups);
    if (parts)
        json_object_set(all, "parts", parts);

    for (struct peer *p = peers_first(r); p; p = p->next) {
        pthread_mutex_lock(&p->lock);
        if (p->settings_said && !p->gone)
            json_object_set(json_object_get(all, "servers"), p->server, p->settings_said);
        pthread_mutex_unlock(&p->lock);
    }
    text = json_text(all);
    if (file_write(r->settings_path, text, strlen(text), 0600, e) < 0)
        return err_wrap(e, "keeping the servers' settings");
    json_free(&r->parts_kept);
    r->parts_kept = json_incref(parts);
    return 0;
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

_Static_assert(LADDER_RUNGS_MAX <= VAULT_RUNGS_MOST, "a ladder fits");

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
