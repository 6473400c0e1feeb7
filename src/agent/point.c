/* Recovery points: one moment of all disks.
 *
 * The optimistic way first: count writes, take marks, read what they name, count again: equal counts mean that what was read is a
 * moment (track.h, promise 2). Otherwise, and where the filesystems' own consistency is wanted: converge until the residue is small, sync,
 * freeze, take the last marks, read them into memory (same check: raw writers don't know of frozen filesystems), thaw, then hash and
 * send. Never longer than the budget: over it, thaw, drain, try again.
 *
 * Where changes can't be followed nothing says what the residue is: all disks are read while they stand still, and sent as they are read. Only where
 * whoever asks allows for that long (hold, or a budget of its own), and then once: a second attempt would cost the source as much again. */
#include "agent/engine.h"
#include "agent/hooks.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define SMALL_RESIDUE_CHUNKS 48
#define CONVERGE_ROUNDS 12
#define OPTIMISTIC_FIRST_WAIT_US (10 * US_PER_MS)
#define OPTIMISTIC_MOST_WAIT_US (200 * US_PER_MS)
#define READY_ROUND_US (500 * US_PER_MS) /* how often the rest is sent while others are waited for */

/* ---- draining ---- */

static int wait_for_pass(struct agent *a, int64_t deadline_us, struct err *e)
{
    while (!engine_advance_pass(a)) {
        int result;

        while (pipeline_fill(a, false))
            ;
        pthread_mutex_lock(&a->lock);
        result = engine_wait(a, deadline_us, e);
        pthread_mutex_unlock(&a->lock);
        if (result < 0)
            return e->kind != ERR_TIMEOUT ? -1 : err_set(e, ERR_TIMEOUT, "not every chunk has reached the replicator yet: %lld MiB to go",
                           (long long)(todo_total(a) * WIRE_CHUNK_SIZE >> 20));
    }
    return 0;
}

/* Until no batch is in use: the residue needs the room. */
static int wait_for_room(struct agent *a, int64_t deadline_us, struct err *e)
{
    int result = 0;

    pthread_mutex_lock(&a->lock);
    while (!result && !pipeline_all_at_least(a, OFFER_SENT))
        result = engine_wait(a, deadline_us, e);
    pthread_mutex_unlock(&a->lock);
    return result;
}

static int wait_for_reads(struct agent *a, int64_t deadline_us, struct err *e)
{
    int result = 0;

    pthread_mutex_lock(&a->lock);
    while (!result && !pipeline_all_read(a))
        result = engine_wait(a, deadline_us, e);
    pthread_mutex_unlock(&a->lock);
    return result;
}

/* Rounds of taking and sending, until a round is small or no smaller than the one before. */
static int converge(struct agent *a, int64_t deadline_us, struct err *e)
{
    int64_t before = INT64_MAX;

    for (int round = 0; round < CONVERGE_ROUNDS; round++) {
        int64_t count;

        if (engine_take(a, e) < 0)
            return -1;
        count = todo_total(a);
        if (engine_fill_all(a, deadline_us, e) < 0)
            return -1;
        if (count <= SMALL_RESIDUE_CHUNKS || (round > 2 && count > before * 3 / 4))
            break;
        before = count;
    }
    return wait_for_room(a, deadline_us, e);
}

/* What was read is a moment of the disks that are followed. It is one of all disks where these are all that there are: a disk that came before the moment is there
 * now, one that went before it is not. So this is looked at after the moment; where nothing is
 * held, after the thaw, too, so that no freeze grows longer. */
static int commit(struct agent *a, struct wire_point *p, int64_t deadline_us, struct err *e)
{
    if (watch_confirm(a, e) < 0)
        return -1;
    if (engine_fill_all(a, deadline_us, e) < 0)
        return -1;
    unreadable_mark_point(a, p);
    return wire_send_message(a->conn, WIRE_POINT_COMMIT, p, e);
}

/* ---- the optimistic way ---- */

/* Everything that marks name, in memory or on its way, from one moment: 1; 0 where a write completed meanwhile. */
static int read_moment(struct agent *a, int64_t deadline_us, uint64_t *writes, struct err *e)
{
    bool all_filled;

    engine_writes(a, writes);
    if (engine_take(a, e) < 0)
        return -1;
    do {
        int result = 0;

        while (pipeline_fill(a, false))
            ;
        pthread_mutex_lock(&a->lock);
        all_filled = !todo_total(a);
        if (!all_filled)
            result = engine_wait(a, deadline_us, e);
        pthread_mutex_unlock(&a->lock);
        if (result < 0)
            return -1;
    } while (!all_filled);
    if (wait_for_reads(a, deadline_us, e) < 0)
        return -1;
    return engine_still(a, writes);
}

/* 1 committed, 0 no quiet moment until quit_us, -1. */
static int try_optimistic(struct agent *a, struct wire_point *p, int64_t quit_us, int64_t deadline_us, struct err *e)
{
    int64_t wait_us = OPTIMISTIC_FIRST_WAIT_US;
    uint64_t writes[LIMIT_DISKS_PER_SERVER];

    for (;;) {
        int got = read_moment(a, deadline_us, writes, e);

        p->attempts++;
        if (got < 0)
            return -1;
        if (got) {
            p->at_us = clock_now_us();
            p->consistency = WIRE_CRASH;
            return commit(a, p, deadline_us, e) < 0 ? -1 : 1;
        }
        if (clock_monotonic_us() > quit_us)
            return 0;
        if (engine_fill_all(a, deadline_us, e) < 0)
            return -1;
        clock_sleep_us(wait_us);
        wait_us = wait_us * 2 > OPTIMISTIC_MOST_WAIT_US ? OPTIMISTIC_MOST_WAIT_US : wait_us * 2;
    }
}

/* ---- frozen ---- */

/* What a freeze makes of a point: the owner's program had its say first, or not. */
static int64_t frozen_kind(const struct agent *a) { return a->config->before_freeze[0] ? WIRE_APPLICATION : WIRE_FROZEN; }

/* The last marks into memory while all stands still: 0, or -1 (ERR_TIMEOUT: this attempt didn't fit). streaming: sent as it is read. all: nothing says
 * what was written, so all is read. */
static int copy_residue(struct agent *a, bool streaming, bool all, int64_t deadline_us, uint64_t *writes, struct err *e)
{
    for (;;) {
        engine_writes(a, writes);
        if (all)
            engine_scan(a);
        if (engine_take(a, e) < 0)
            return -1;
        if (streaming) {
            if (engine_fill_all(a, deadline_us, e) < 0)
                return -1;
        } else {
            while (pipeline_fill(a, true))
                ;
            if (todo_total(a))
                return err_set(e, ERR_TIMEOUT, "%lld chunks were left, more than the buffers hold", (long long)todo_total(a));
            if (wait_for_reads(a, deadline_us, e) < 0)
                return -1;
        }
        if (freezer_expired(a->freezer))
            return err_set(e, ERR_TIMEOUT, "the freeze reached its limit");
        if (engine_still(a, writes))
            return 0;
        if (clock_monotonic_us() >= deadline_us)
            return err_set(e, ERR_TIMEOUT, "something went on writing, past the frozen filesystems");
        all = !a->tracker; /* what was read before that write is of another moment */
    }
}

static void set_held(struct agent *a, bool held)
{
    pthread_mutex_lock(&a->lock);
    a->held = held;
    pthread_mutex_unlock(&a->lock);
}

/* What the point will hold is read, and nothing was written since `writes` were counted. So it must still be once the replicator has heard
 * the same of all servers of the group: then there was an instant at which all stood still. */
static int stand_still(struct agent *a, const uint64_t *writes, int64_t deadline_us, struct err *e)
{
    if (step_say(a, WIRE_STILL, e) < 0)
        return -1;
    if (step_wait(a, WIRE_COMMIT, deadline_us, e) < 0)
        return e->kind != ERR_TIMEOUT ? -1 : err_set(e, ERR_TIMEOUT, "the other servers of the group did not stand still in time");
    return engine_still(a, writes) ? 0 : err_set(e, ERR_TIMEOUT, "something was written before all servers of the group stood still");
}

/* All that was read is offered: the next reading is due an interval later, and this one says how long the source stands still for such a point. */
static void end_reading_all(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    if (a->scan_begin_us)
        engine_scanned(a);
    a->take_watermark = a->next_number - 1;
    pthread_mutex_unlock(&a->lock);
}

/* No pace but the network's, for somebody waits. Not while everything is to be read first: that has its time, as without a point. */
static void set_hurry(struct agent *a, bool hurry)
{
    pthread_mutex_lock(&a->lock);
    a->urgent_reads = hurry;
    pthread_mutex_unlock(&a->lock);
}

/* One attempt. 1 committed (and held where that was asked for), 0 it didn't fit the budget (e says why), -1. */
static int attempt_frozen(struct agent *a, const struct wire_take_point *r, struct wire_point *p, struct filesystems *f, int64_t budget_us,
                          int64_t deadline_us, struct err *e)
{
    int64_t limit_us = r->hold ? (r->hold_limit_ms ? r->hold_limit_ms : a->config->hold_limit_ms) * US_PER_MS : budget_us;
    int64_t begin_us = clock_monotonic_us(), end_us = r->hold ? deadline_us : begin_us + budget_us;
    struct freeze_result thawed = {0};
    uint64_t writes[LIMIT_DISKS_PER_SERVER];
    struct err hook_error = {0};
    int frozen = 0, result;

    if (!a->tracker && deadline_us < end_us)
        end_us = deadline_us; /* nobody stands still for what nobody waits for */
    workers_hurry(a, true);
    set_hurry(a, true);
    if (freezer_freeze(a->freezer, f->fds, f->paths, f->count, limit_us, &frozen, e) < 0) {
        workers_hurry(a, false);
        return hook_after_thaw(a->config, NULL) == 0 && e->kind == ERR_TIMEOUT ? 0 : -1;
    }
    result = copy_residue(a, r->hold || !a->tracker, !a->tracker, end_us, writes, e);
    p->at_us = clock_now_us();
    if (result == 0 && !a->tracker)
        end_reading_all(a);
    if (result == 0 && r->group)
        result = stand_still(a, writes, end_us, e);
    if (result < 0 || !r->hold) {
        struct err thaw_error = {0};

        if (freezer_thaw(a->freezer, &thawed, &thaw_error) < 0) {
            *e = thaw_error;
            result = -1;
        }
        pipeline_hash_read_ones(a);
    }
    workers_hurry(a, false);
    set_hurry(a, a->tracker);
    /* The application goes on before its last changes are sent. */
    if ((result < 0 || !r->hold) && hook_after_thaw(a->config, &hook_error) < 0) {
        *e = result < 0 ? *e : hook_error;
        return -1;
    }
    if (result < 0)
        return e->kind == ERR_TIMEOUT && !r->hold ? 0 : -1;
    if (thawed.expired) {
        err_set(e, ERR_TIMEOUT, "the freeze reached its limit of %lld ms", (long long)(limit_us / US_PER_MS));
        return 0;
    }
    p->consistency = frozen_kind(a);
    p->freeze_ms = ((r->hold ? clock_monotonic_us() - begin_us : thawed.frozen_us) + US_PER_MS - 1) / US_PER_MS;
    p->held = r->hold;
    if (r->hold) {
        memcpy(a->held_writes, writes, sizeof writes);
        a->held_at_us = p->at_us;
        a->held_since_us = begin_us;
        set_held(a, true);
    }
    return commit(a, p, deadline_us, e) < 0 ? -1 : 1;
}

/* As little as can be is left to write and to copy when the filesystems stop. */
static int prepare_freeze(struct agent *a, const struct filesystems *f, int64_t deadline_us, struct err *e)
{
    filesystems_sync(f);
    if (converge(a, deadline_us, e) < 0)
        return -1;
    if (hook_before_freeze(a->config, e) == 0) {
        filesystems_sync(f);
        if (converge(a, deadline_us, e) == 0)
            return 0;
    }
    (void)hook_after_thaw(a->config, NULL); /* what it had stopped, even half, goes on */
    return -1;
}

static int give_up(const struct wire_point *p, int64_t budget_us, const struct err *last, struct err *e)
{
    return err_set(e, ERR_TIMEOUT, "%lld attempts to freeze and copy the last changes within %lld ms failed; the last: %.600s",
                   (long long)p->attempts, (long long)(budget_us / US_PER_MS), last->message);
}

static int64_t freeze_budget_us(const struct agent *a, const struct wire_take_point *r)
{
    return (r->freeze_budget_ms ? r->freeze_budget_ms : a->config->freeze_budget_ms) * US_PER_MS;
}

/* Without a tracker only the kernel's statistics tell that the source stood still: where it keeps none, it would stand still in vain. */
static int check_statistics(struct agent *a, struct err *e)
{
    uint64_t writes[LIMIT_DISKS_PER_SERVER];

    engine_writes(a, writes);
    for (int i = 0; i < a->disk_count; i++)
        if (writes[i] == TRACK_WRITES_UNKNOWN)
            return err_set(e, ERR_UNSUPPORTED, "changes can't be followed here, and the kernel does not count what is written to %s: nothing would prove that it "
                           "stood still for a point. Write 1 into /sys/block/%s/queue/iostats", a->disks[i].info.name, a->disks[i].info.name);
    return 0;
}

/* What speaks against a freeze from the start. */
static int check_freeze(struct agent *a, const struct wire_take_point *r, struct err *e)
{
    if (r->consistency == WIRE_APPLICATION && !a->config->before_freeze[0])
        return err_set(e, ERR_WRONG_STATE, "no program of the owner's is set for %s (its attribute before_freeze): no point is application-consistent",
                       a->config->server);
    if (!a->tracker && check_statistics(a, e) < 0)
        return -1;
    if (a->tracker || r->hold)
        return 0;
    if (r->group || !r->freeze_budget_ms)
        return err_set(e, ERR_UNSUPPORTED, "changes can't be followed here (%.200s), so the source stands still for a point for as long as reading all disks takes: only where "
                       "that is allowed, or the point is held%s", a->tracker_reason, r->group ? ", and never together with other servers" : "");
    if (a->scan_us && !a->scan_paced && a->scan_us > r->freeze_budget_ms * US_PER_MS)
        return err_set(e, ERR_WRONG_STATE, "changes can't be followed here, so the source stands still for a point for as long as reading all disks takes: that took %lld s the "
                       "last time, and %lld s are allowed", (long long)(a->scan_us / US_PER_S), (long long)(r->freeze_budget_ms / 1000));
    return 0;
}

static int take_frozen(struct agent *a, const struct wire_take_point *r, struct wire_point *p, int64_t deadline_us, struct err *e)
{
    int64_t budget_us = freeze_budget_us(a, r);
    CLEANUP(filesystems_release) struct filesystems *f = NULL;
    struct err why = {0};
    int result = 0;

    if (check_freeze(a, r, e) < 0 || filesystems_open(a, &f, e) < 0)
        return -1;
    for (int64_t pause_us = 50 * US_PER_MS; result == 0; pause_us = pause_us * 2 > 2 * US_PER_S ? 2 * US_PER_S : pause_us * 2) {
        if (prepare_freeze(a, f, deadline_us, e) < 0)
            return e->kind == ERR_TIMEOUT && p->attempts ? give_up(p, budget_us, &why, e) : -1;
        p->attempts++;
        err_clear(&why);
        result = attempt_frozen(a, r, p, f, budget_us, deadline_us, &why);
        if (result < 0)
            *e = why;
        if (result == 0 && (!a->tracker || clock_monotonic_us() + pause_us >= deadline_us))
            return give_up(p, budget_us, &why, e);
        if (result == 0)
            clock_sleep_us(pause_us);
    }
    return result;
}

/* ---- in step with other servers ---- */

/* Little is left to send, and is kept so until all of the group have come as far. */
static int wait_ready(struct agent *a, const struct filesystems *f, int64_t deadline_us, struct err *e)
{
    int result = step_say(a, WIRE_READY, e);

    while (result == 0) {
        int64_t until_us = clock_monotonic_us() + READY_ROUND_US;
        struct err why = {0};

        result = step_wait(a, WIRE_STILL, until_us < deadline_us ? until_us : deadline_us, &why);
        if (result < 0 && (why.kind != ERR_TIMEOUT || clock_monotonic_us() >= deadline_us))
            return why.kind != ERR_TIMEOUT ? (*e = why, -1) : err_set(e, ERR_TIMEOUT, "the other servers of the group were not ready in time");
        if (f)
            filesystems_sync(f);
        if (converge(a, deadline_us, e) < 0)
            return -1;
        if (result == 0)
            return 0;
        result = 0;
    }
    return result;
}

static int take_still_in_step(struct agent *a, struct wire_point *p, int64_t deadline_us, struct err *e)
{
    uint64_t writes[LIMIT_DISKS_PER_SERVER];
    int got;

    if (!a->tracker)
        return err_set(e, ERR_UNSUPPORTED, "changes can't be followed here (%.300s): no point without a freeze", a->tracker_reason);
    if (converge(a, deadline_us, e) < 0 || wait_ready(a, NULL, deadline_us, e) < 0)
        return -1;
    got = read_moment(a, deadline_us, writes, e);
    if (got <= 0)
        return got < 0 ? -1 : err_set(e, ERR_TIMEOUT, "something was written while the last changes were read");
    p->at_us = clock_now_us();
    p->consistency = WIRE_CRASH;
    return stand_still(a, writes, deadline_us, e) < 0 ? -1 : commit(a, p, deadline_us, e);
}

static int take_frozen_in_step(struct agent *a, const struct wire_take_point *r, struct wire_point *p, int64_t deadline_us, struct err *e)
{
    CLEANUP(filesystems_release) struct filesystems *f = NULL;

    if (check_freeze(a, r, e) < 0 || filesystems_open(a, &f, e) < 0 || prepare_freeze(a, f, deadline_us, e) < 0)
        return -1;
    if (wait_ready(a, f, deadline_us, e) < 0) {
        (void)hook_after_thaw(a->config, NULL);
        return -1;
    }
    return attempt_frozen(a, r, p, f, freeze_budget_us(a, r), deadline_us, e) == 1 ? 0 : -1;
}

/* One attempt: whether there is another is for the replicator to say, to all of the group. */
static int take_in_step(struct agent *a, const struct wire_take_point *r, struct wire_point *p, int64_t deadline_us, struct err *e)
{
    if (r->hold || r->consistency == WIRE_ANY)
        return err_set(e, ERR_INVALID, "a point of a group is crash, frozen or application, and never held");
    p->attempts = 1;
    return r->consistency == WIRE_CRASH ? take_still_in_step(a, p, deadline_us, e) : take_frozen_in_step(a, r, p, deadline_us, e);
}

/* The link was cut between a held point and its proof: everything stands still yet, so the same moment is taken again. */
static int take_held_again(struct agent *a, const struct wire_take_point *r, struct wire_point *p, int64_t deadline_us, struct err *e)
{
    uint64_t writes[LIMIT_DISKS_PER_SERVER];

    if (r->hold && r->hold_limit_ms && freezer_extend(a->freezer, r->hold_limit_ms * US_PER_MS, e) < 0)
        return -1;
    if (copy_residue(a, true, !a->tracker && !engine_still(a, a->held_writes), deadline_us, writes, e) < 0)
        return -1;
    p->at_us = memcmp(writes, a->held_writes, (size_t)a->disk_count * sizeof *writes) == 0 ? a->held_at_us : clock_now_us();
    memcpy(a->held_writes, writes, sizeof writes);
    a->held_at_us = p->at_us;
    p->consistency = frozen_kind(a);
    p->held = true;
    p->attempts = 1;
    return commit(a, p, deadline_us, e) < 0 ? -1 : 1;
}

/* ---- the commands ---- */

/* Until when a quiet moment is hoped for: no longer than whoever asked wants to wait for it, and half of the time is left for a freeze. */
static int64_t hope_until_us(const struct agent *a, const struct wire_take_point *r, int64_t deadline_us)
{
    int64_t now_us = clock_monotonic_us(), most_us = (deadline_us - now_us) / 2;

    if (r->hope_ms && r->hope_ms * US_PER_MS < most_us)
        most_us = r->hope_ms * US_PER_MS;
    return now_us + hope_us(&a->hope, most_us);
}

static int take_once(struct agent *a, const struct wire_take_point *r, struct wire_point *p, int64_t deadline_us, struct err *e)
{
    bool may_freeze = r->consistency != WIRE_CRASH, must_freeze = r->consistency >= WIRE_FROZEN || r->hold;
    int result = 0;

    if (r->hold && !may_freeze)
        return err_set(e, ERR_INVALID, "a point that never freezes can't be held");
    if (a->paused)
        return err_set(e, ERR_WRONG_STATE, "replication is paused");
    if (a->held)
        return r->group ? err_set(e, ERR_WRONG_STATE, "the source is held at another point") : take_held_again(a, r, p, deadline_us, e);
    set_hurry(a, false); /* marks may have been lost since the last time */
    if (watch_confirm(a, e) < 0 || wait_for_pass(a, deadline_us, e) < 0) /* no freeze for nothing */
        return -1;
    set_hurry(a, a->tracker); /* without one, what comes before the freeze has its time, too */
    if (r->group)
        return take_in_step(a, r, p, deadline_us, e);
    if (!must_freeze && a->tracker) {
        result = try_optimistic(a, p, may_freeze ? hope_until_us(a, r, deadline_us) : deadline_us, deadline_us, e);
        if (result >= 0)
            hope_learn(&a->hope, result == 1);
    } else if (!may_freeze) {
        return err_set(e, ERR_UNSUPPORTED, "changes can't be followed here (%.300s): no point without a freeze", a->tracker_reason);
    }
    if (result == 0 && may_freeze)
        result = take_frozen(a, r, p, deadline_us, e);
    else if (result == 0)
        return err_set(e, ERR_TIMEOUT, "no moment without a write came within %lld attempts", (long long)p->attempts);
    return result < 0 ? -1 : 0;
}

/* Where marks were lost meanwhile, everything is read again, and then the point is taken. */
static int take(struct agent *a, const struct wire_take_point *r, struct wire_point *p, struct err *e)
{
    int64_t deadline_us = clock_monotonic_us() + r->timeout_ms * US_PER_MS;

    for (;;) {
        struct err why = {0};

        if (take_once(a, r, p, deadline_us, &why) >= 0)
            return 0;
        if (why.kind != ERR_CORRUPT || a->pass == PASS_DONE || clock_monotonic_us() >= deadline_us) {
            *e = why;
            return -1;
        }
        log_info("point %lld: again, after everything was read", (long long)r->request);
    }
}

static void set_taking(struct agent *a, bool taking)
{
    pthread_mutex_lock(&a->lock);
    a->taking_point = taking;
    a->urgent_reads &= taking;
    pthread_mutex_unlock(&a->lock);
}

void point_take(struct agent *a, const struct wire_take_point *r)
{
    struct wire_point p = {.request = r->request, .consistency = r->consistency >= WIRE_FROZEN ? r->consistency : WIRE_CRASH, .group = r->group};
    struct wire_failure failure = {.request = r->request};
    bool was_held = a->held;
    struct err e = {0};

    set_taking(a, true);
    step_begin(a, r->group ? r->request : 0);
    if (wire_send_message(a->conn, WIRE_POINT_BEGIN, &p, &e) == 0 && take(a, r, &p, &e) < 0) {
        /* A hold that nobody was told of must not go on. */
        if (a->held && !was_held)
            point_thaw(a, 0, false);
        snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(e.kind)->name);
        snprintf(failure.message, sizeof failure.message, "%.500s", e.message);
        wire_send_message(a->conn, WIRE_POINT_FAILED, &failure, NULL);
        if (!a->held)
            log_err(&e, "point %lld", (long long)r->request);
    }
    step_end(a);
    set_taking(a, false);
}

void point_thaw(struct agent *a, int64_t request, bool answer)
{
    struct wire_thawed thawed = {.request = request, .was_held = a->held};
    struct freeze_result result = {0};
    struct err e = {0};

    if (a->held) {
        thawed.still = engine_still(a, a->held_writes);
        freezer_thaw(a->freezer, &result, &e);
        thawed.was_held = !result.expired;
        thawed.still &= !result.expired;
        thawed.held_ms = result.frozen_us / US_PER_MS;
        set_held(a, false);
        log_info("thawed after %lld ms", (long long)thawed.held_ms);
        if (hook_after_thaw(a->config, &e) < 0)
            log_err(&e, "after thawing");
    }
    if (answer)
        wire_send_message(a->conn, WIRE_THAWED, &thawed, NULL);
}

void point_check_hold(struct agent *a)
{
    if (a->held && freezer_expired(a->freezer)) {
        point_thaw(a, 0, false);
        log_warn("the held point's limit was reached without a thaw: the filesystems move again");
    }
}
