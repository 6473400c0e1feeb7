/* care: what goes on by itself: points on schedule, limits by calendar, expiry and space, telling the factory. */
#include "base/file.h"
#include "base/log.h"
#include "replicator/private.h"

#include <stdlib.h>
#include <string.h>

#define POINTS_LOOK_US (100 * US_PER_MS)
#define POINT_TIMEOUT_MS 30000
#define POINT_STUCK_US (30 * US_PER_S) /* after its time is over */
#define AT_POINT_LONG_US (POINT_TIMEOUT_MS * US_PER_MS + POINT_STUCK_US)
#define GROUP_TIMEOUT_MS 10000
#define GROUP_AGAIN_US (10 * US_PER_S) /* after one that came to nothing: meanwhile its servers have points of their own */
#define EXPIRE_EVERY_US (20 * US_PER_S)
#define SPACE_EVERY_US (300 * US_PER_S)
#define SPACE_SHARE 4 /* giving space back takes no more than this part of the time, as long as there is room */
#define SPACE_URGENT_EVERY_US (10 * US_PER_S)
#define LIMITS_EVERY_US (200 * US_PER_MS)

/* Sleeps in pieces, so that a stop is quick. */
void replicator_rest(struct replicator *r, int64_t duration_us)
{
    int64_t until_us = clock_monotonic_us() + duration_us;

    while (!atomic_load(&r->stopping) && clock_monotonic_us() < until_us)
        clock_sleep_us(100 * US_PER_MS < duration_us ? 100 * US_PER_MS : duration_us);
}

/* ---- points on schedule ---- */

/* lock held */
static bool is_asked(const struct peer *p) { return p->slots[SLOT_POINT].busy || strcmp(p->status.state, "CREATING_SNAPSHOT") == 0; }

static bool is_ready(const struct peer *p)
{
    static const char *const ready[] = {"CONTINUOUS", "BACKLOG", "CREATING_SNAPSHOT"};

    for (size_t i = 0; p->has_status && i < ARRAY_COUNT(ready); i++)
        if (strcmp(p->status.state, ready[i]) == 0)
            return true;
    return false;
}

/* Others wait for a point of its own for as long as one of the clock's may take, and no longer. */
static bool is_at_point_for_long(struct peer *p, int64_t now_us)
{
    if (!is_asked(p))
        p->at_point_us = 0;
    else if (!p->at_point_us)
        p->at_point_us = now_us;
    return p->at_point_us && now_us - p->at_point_us > AT_POINT_LONG_US;
}

const char *care_why_no_point(struct peer *p, bool grouped, int64_t now_us)
{

    if (!p->session)
        return "is not connected";
    if (p->paused || p->detached)
        return "is paused";
    if (p->status.held)
        return "is held still at a point of its own";
    if (grouped && rescanned(p))
        return "stands still for longer than others can be asked to, for its changes can't be followed";
    if (grouped && is_at_point_for_long(p, now_us))
        return "has been at a point of its own for more than a minute";
    if (is_ready(p))
        return NULL;
    return p->calendar_pause ? "is paused by a calendar" : "has not been read to its end yet";
}

/* lock held */
static bool is_time(const struct peer *p, int64_t now_us) { return !p->last_try_us || now_us - p->last_try_us >= settings_point_interval_us(p); }

/* lock held; a scheduled point that hopes for a quiet moment until the next one is due has the newest one grow old */
static int64_t hope_ms(const struct peer *p) { return settings_point_interval_us(p) / US_PER_MS / 2; }

/* lock held; *out: how it is taken */
static bool wants_own(const struct peer *p, int64_t now_us, struct wire_take_point *out)
{
    if (rescanned(p))
        return rescanned_due(p, now_us, out);
    *out = (struct wire_take_point){.consistency = WIRE_ANY, .timeout_ms = POINT_TIMEOUT_MS, .hope_ms = hope_ms(p)};
    return is_time(p, now_us);
}

static bool point_is_due(struct peer *p, struct wire_take_point *out)
{
    int64_t now_us = clock_monotonic_us();
    struct slot *s = &p->slots[SLOT_POINT];
    bool due;

    pthread_mutex_lock(&p->lock);
    if (s->busy && s->quiet && !s->committed && now_us - s->asked_us > p->try_stuck_us)
        *s = (struct slot){0}; /* never answered */
    due = !p->together && !care_why_no_point(p, false, now_us) && !is_asked(p) && wants_own(p, now_us, out);
    if (due) {
        p->last_try_us = now_us;
        p->try_stuck_us = out->timeout_ms * US_PER_MS + POINT_STUCK_US;
    }
    pthread_mutex_unlock(&p->lock);
    return due;
}

void *care_points(void *replicator)
{
    struct replicator *r = replicator;

    while (!atomic_load(&r->stopping)) {
        for (struct peer *p = peers_first(r); p; p = p->next) {
            struct wire_take_point take;
            struct ask a = {SLOT_POINT, WIRE_TAKE_POINT, &take, sizeof take, &take.request, NULL, true, false};

            /* The answer is the session's; whoever asks in person meanwhile waits for it. */
            if (point_is_due(p, &take))
                (void)slot_ask(p, &a, clock_monotonic_us() + US_PER_S, NULL);
        }
        replicator_rest(r, POINTS_LOOK_US);
    }
    return NULL;
}

/* ---- points of groups on schedule ---- */

/* A server that is to have its points together with the others of that group. */
struct member {
    struct peer *p;
    char group[LIMIT_NAME_BYTES + 1];
};

static int by_group(const void *a, const void *b) { return strcmp(((const struct member *)a)->group, ((const struct member *)b)->group); }

/* Whoever has left for good, or never was of a group, has points of its own; so has whom the factory does not count among its group (any more). groups:
 * settings_groups'. */
static bool is_member(struct peer *p, const json_t *groups, struct member *out)
{
    const json_t *said;
    bool is;

    pthread_mutex_lock(&p->lock);
    said = json_object_get(groups, p->settings.group);
    is = p->settings.group[0] && !p->gone && !p->detached && !p->copy_from[0] && /* of a copy another replicator takes the points */
         (!said || json_object_get(said, p->server));
    out->p = p;
    memcpy(out->group, p->settings.group, sizeof out->group);
    p->together = p->together && is;
    if (!is)
        err_clear(&p->group_trouble);
    pthread_mutex_unlock(&p->lock);
    return is;
}

/* All of them, group by group; the caller frees. */
static struct member *find_members(struct replicator *r, const json_t *groups, size_t *count)
{
    struct member *found;
    size_t room = 0;

    *count = 0;
    for (struct peer *p = peers_first(r); p; p = p->next)
        room++;
    found = xcalloc(room + 1, sizeof *found);
    for (struct peer *p = peers_first(r); p && *count < room; p = p->next)
        *count += is_member(p, groups, &found[*count]);
    qsort(found, *count, sizeof *found, by_group);
    return found;
}

/* How a group is: what keeps its servers apart; whether one of their points came to nothing a moment ago, somebody asks them for another, and it is
 * time for one. */
struct finding {
    struct err apart;
    bool failed, busy, due;
};

static bool is_among(const char *server, const struct member *members, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(members[i].p->server, server) == 0)
            return true;
    return false;
}

/* Whoever the factory counts among them and has no agent here: it is another replicator's, or is yet to come. */
static void say_absent(const struct replicator *r, const char *server, const json_t *said, struct err *apart)
{
    const char *at = json_get_string(said, server, "");

    if (strcmp(at, r->options.name) == 0)
        err_also(apart, ERR_UNREACHABLE, "%s has not come to %s yet", server, at);
    else
        err_also(apart, ERR_UNREACHABLE, "%s replicates to %s, not to %s", server, at, r->options.name);
}

/* How many they are in all; *apart gets those that were never here. */
static size_t look_at_others(const struct member *members, size_t count, const json_t *said, struct err *apart)
{
    const char *server;
    json_t *at;

    json_object_foreach((json_t *)(uintptr_t)said, server, at)
        if (!is_among(server, members, count))
            say_absent(members->p->r, server, said, apart);
    return said ? json_object_size(said) : count;
}

/* said: {SERVER: REPLICATOR} of the group, by the factory; NULL where it says nothing of it. */
static struct finding look_at_members(const struct member *members, size_t count, const json_t *said)
{
    struct finding f = {0};
    int64_t now_us = clock_monotonic_us();
    size_t all = look_at_others(members, count, said, &f.apart);

    for (size_t i = 0; i < count; i++) {
        struct peer *p = members[i].p;
        const char *no_point;

        pthread_mutex_lock(&p->lock);
        no_point = care_why_no_point(p, true, now_us);
        if (!p->session && said && strcmp(json_get_string(said, p->server, ""), p->r->options.name) != 0)
            say_absent(p->r, p->server, said, &f.apart); /* it was here, and has moved */
        else if (no_point && all > 1)
            err_also(&f.apart, ERR_UNREACHABLE, "%s %s", p->server, no_point);
        f.failed = f.failed || (p->group_failed_us && now_us - p->group_failed_us < GROUP_AGAIN_US);
        f.busy = f.busy || p->group_taking || is_asked(p);
        f.due = f.due || is_time(p, now_us);
        pthread_mutex_unlock(&p->lock);
    }
    if (all > VAULT_GROUP_MOST)
        err_set(&f.apart, ERR_LIMIT, "they are %zu, and at most %d can stand still at once", all, VAULT_GROUP_MOST);
    return f;
}

/* Each takes over what was found; true where all are to have a point together now. */
static bool decide(const struct member *members, size_t count, const struct finding *f)
{
    bool together = count > 1 && !f->apart.kind && !f->failed, now = together && f->due && !f->busy;

    for (size_t i = 0; i < count; i++) {
        struct peer *p = members[i].p;

        pthread_mutex_lock(&p->lock);
        p->together = together;
        if (f->apart.kind || count == 1)
            p->group_failed_us = 0; /* once they can, it is tried at once */
        if (!p->group_failed_us)
            p->group_trouble = care_why_no_point(p, true, clock_monotonic_us()) ? (struct err){0} : f->apart; /* who keeps the others has a cause of its own */
        p->group_taking = p->group_taking || now;
        p->last_try_us = now ? clock_monotonic_us() : p->last_try_us;
        pthread_mutex_unlock(&p->lock);
    }
    return now;
}

/* A point of them all, on its way. */
struct together {
    struct replicator *r;
    char group[LIMIT_NAME_BYTES + 1];
    struct peer *peers[VAULT_GROUP_MOST];
    size_t count;
    int64_t hope_ms; /* of whose points come the most often */
};

/* As much of it as the vault keeps, without half a letter (UTF-8) at its end. */
static void label_of(const char *group, char out[static VAULT_GROUP_NAME_SIZE])
{
    size_t size = strlen(group);

    if (size >= VAULT_GROUP_NAME_SIZE)
        for (size = VAULT_GROUP_NAME_SIZE - 1; size && (group[size] & 0xc0) == 0x80; size--)
            ;
    memcpy(out, group, size);
    out[size] = '\0';
}

static void *take_together(void *user)
{
    struct together *t = user;
    char label[VAULT_GROUP_NAME_SIZE];
    const struct group_wanted wanted = {.name = label, .consistency = WIRE_ANY, .timeout_ms = GROUP_TIMEOUT_MS, .hope_ms = t->hope_ms};
    CLEANUP(json_free) json_t *made = NULL;
    struct err e = {0};
    bool told = false;
    int result;

    label_of(t->group, label);
    result = group_take(t->r, t->peers, t->count, &wanted, NULL, &made, &e);
    for (size_t i = 0; i < t->count; i++) {
        struct peer *p = t->peers[i];

        pthread_mutex_lock(&p->lock);
        p->group_taking = false;
        told = told || p->group_failed_us;
        p->group_failed_us = result < 0 ? clock_monotonic_us() : 0;
        p->group_trouble = result < 0 ? e : (struct err){0}; /* a first attempt may have left its own there */
        pthread_mutex_unlock(&p->lock);
    }
    if (result < 0 && !told && !atomic_load(&t->r->stopping))
        log_err(&e, "%s: no point of all of its servers; each has its own meanwhile", t->group);
    atomic_fetch_sub(&t->r->groups, 1);
    free(t);
    return NULL;
}

static void begin_together(struct replicator *r, const struct member *members, size_t count)
{
    struct together *t = xcalloc(1, sizeof *t);
    pthread_t thread;

    t->r = r;
    memcpy(t->group, members->group, sizeof t->group);
    for (; t->count < count; t->count++) {
        struct peer *p = members[t->count].p;

        pthread_mutex_lock(&p->lock);
        t->hope_ms = t->count == 0 || hope_ms(p) < t->hope_ms ? hope_ms(p) : t->hope_ms;
        pthread_mutex_unlock(&p->lock);
        t->peers[t->count] = p;
    }
    atomic_fetch_add(&r->groups, 1);
    if (pthread_create(&thread, NULL, take_together, t) == 0)
        pthread_detach(thread);
    else
        take_together(t); /* the other groups wait meanwhile */
}

/* A server whose points are taken together with its group's has none of its own. Where one of them can't have any, or they could not be brought to stand
 * still at once, each of the others goes on alone, so that none is without points for long. So it is, too, where one of them is another replicator's: a
 * group's points are those of all of it. */
void *care_groups(void *replicator)
{
    struct replicator *r = replicator;

    while (!atomic_load(&r->stopping)) {
        size_t count, end;
        CLEANUP(json_free) json_t *groups = settings_groups(r);
        CLEANUP(free_ptr) struct member *members = find_members(r, groups, &count);

        for (size_t i = 0; i < count; i = end) {
            struct finding found;

            for (end = i + 1; end < count && by_group(&members[i], &members[end]) == 0; end++)
                ;
            found = look_at_members(&members[i], end - i, json_object_get(groups, members[i].group));
            if (decide(&members[i], end - i, &found))
                begin_together(r, &members[i], end - i);
        }
        replicator_rest(r, POINTS_LOOK_US);
    }
    while (atomic_load(&r->groups)) /* they see that we stop */
        clock_sleep_us(20 * US_PER_MS);
    return NULL;
}

/* ---- limits ---- */

void *care_limits(void *replicator)
{
    struct replicator *r = replicator;

    while (!atomic_load(&r->stopping)) {
        limits_apply(r);
        replicator_rest(r, LIMITS_EVERY_US);
    }
    return NULL;
}

/* ---- how long it has run ---- */

static int life_save(struct replicator *r, struct err *e)
{
    CLEANUP(json_free) json_t *kept = lifetime_json(&r->lifetime);
    CLEANUP(free_ptr) char *text = json_text(kept);

    return file_write(r->lifetime_path, text, strlen(text), 0600, e) < 0 ? err_wrap(e, "keeping how long the replicator has run") : 0;
}

int life_load(struct replicator *r, struct err *e)
{
    CLEANUP(json_free) json_t *kept = NULL;

    if (file_exists(r->lifetime_path) && (json_read_file(r->lifetime_path, &kept, e) < 0 || lifetime_read(&r->lifetime, kept, e) < 0))
        return err_wrap(e, "%s: mend or remove it; without it points are as old as the clock says", r->lifetime_path);
    lifetime_begin(&r->lifetime, clock_now_us(), clock_monotonic_us());
    life_save(r, NULL); /* on a full disk the replicator starts, too */
    return 0;
}

static void live_on(struct replicator *r)
{
    int64_t jumped_us = lifetime_tick(&r->lifetime, clock_now_us(), clock_monotonic_us());
    struct err e = {0};

    if (jumped_us)
        log_warn("the clock was set %s by %lld s: the points of before grow older as the time passes, and none expires for that", jumped_us > 0 ? "ahead" : "back",
                 (long long)(jumped_us > 0 ? jumped_us : -jumped_us) / (long long)US_PER_S);
    if (life_save(r, &e) < 0 && e.kind != ERR_NO_SPACE)
        log_err(&e, "retention");
}

static int64_t age_of(void *replicator, int64_t at_us)
{
    const struct replicator *r = replicator;

    return lifetime_age_us(&r->lifetime, at_us);
}

/* ---- expiry and space ---- */

static bool no_room(struct replicator *r)
{
    bool found = false;

    for (struct peer *p = peers_first(r); p; p = p->next) {
        pthread_mutex_lock(&p->lock);
        found = found || p->trouble.kind == ERR_NO_SPACE || p->point_trouble.kind == ERR_NO_SPACE;
        pthread_mutex_unlock(&p->lock);
    }
    return found;
}

bool care_may_expire(struct peer *p)
{
    bool may;

    pthread_mutex_lock(&p->lock);
    may = p->settings_said || !p->r->options.factory_url;
    pthread_mutex_unlock(&p->lock);
    return may;
}

/* For the points of its groups, which stay as long as those of the others do. */
static bool ladder_of(void *replicator, const char *server, struct vault_rung rungs[static VAULT_RUNGS_MOST], struct vault_ladder *out)
{
    struct peer *p = peer_find(replicator, server, false);

    if (!p || !care_may_expire(p))
        return false;
    settings_ladder(p, rungs, out);
    return true;
}

static void expire_all(struct replicator *r)
{
    for (struct peer *p = peers_first(r); p; p = p->next) {
        struct vault_rung rungs[LADDER_RUNGS_MAX];
        struct vault_ladder ladder;
        struct err e = {0};

        if (!care_may_expire(p))
            continue;
        settings_ladder(p, rungs, &ladder);
        ladder.age_us = age_of;
        ladder.of = ladder_of;
        ladder.user = r;
        if (vault_expire(r->vault, p->server, &ladder, &e) < 0 && e.kind != ERR_NO_SPACE)
            log_err(&e, "expiring points of %s", p->server);
    }
}

int care_repair(struct replicator *r, struct err *e)
{
    CLEANUP(free_ptr) char *servers = NULL;
    char *rest_of = NULL;
    int count = vault_forget_damaged(r->vault, &servers, e);

    for (char *server = count > 0 ? strtok_r(servers, "\n", &rest_of) : NULL; server; server = strtok_r(NULL, "\n", &rest_of)) {
        struct peer *p = peer_find(r, server, false);

        log_warn("%s: what is damaged in the vault is asked for again", server);
        if (!p)
            continue;
        pthread_mutex_lock(&p->lock);
        p->offers_since_point++; /* the next point is one of its own, also where nothing has changed: its map is made anew */
        if (p->session)
            wire_conn_cut(session_conn(p->session));
        if (p->copying)
            wire_conn_cut(session_conn(p->copying));
        pthread_mutex_unlock(&p->lock);
    }
    return count;
}

int64_t care_space_every_us(bool no_room, int64_t took_us)
{
    return no_room ? SPACE_URGENT_EVERY_US : SPACE_SHARE * took_us > SPACE_EVERY_US ? SPACE_SHARE * took_us : SPACE_EVERY_US;
}

void *care_space(void *replicator)
{
    struct replicator *r = replicator;
    int64_t given_us = clock_monotonic_us(), took_us = 0;

    while (!atomic_load(&r->stopping)) {
        int64_t every_us = care_space_every_us(no_room(r), took_us);
        uint64_t freed = 0;
        struct err e = {0};

        status_count(r);
        replicator_rest(r, every_us < EXPIRE_EVERY_US ? every_us : EXPIRE_EVERY_US);
        live_on(r);
        expire_all(r);
        if (care_repair(r, &e) < 0)
            log_err(&e, "damage in the vault");
        err_clear(&e);
        if (atomic_load(&r->stopping) || clock_monotonic_us() - given_us < every_us)
            continue;
        given_us = clock_monotonic_us();
        if (vault_gc(r->vault, &freed, &e) < 0)
            log_err(&e, "space");
        else if (freed)
            log_info("%llu MiB given back", (unsigned long long)(freed >> 20));
        took_us = clock_monotonic_us() - given_us;
    }
    return NULL;
}
