/* The engine: keeps the replicator's map equal to the disks, and does what the replicator asks. */
#include "agent/engine.h"
#include "agent/hooks.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BACKOFF_FIRST_MS 200
#define BACKOFF_MOST_MS 15000
#define BACKOFF_REFUSED_MS 15000
#define SLICE_MODEST_NS 100000 /* the least that there is */
#define IOPRIO_BEST_EFFORT_LOWEST (2 << 13 | 7)

/* ---- waiting ---- */

int engine_wait(struct agent *a, int64_t deadline_us, struct err *e)
{
    struct timespec until;
    int64_t now_us = clock_monotonic_us(), wake_us = now_us + TAKE_INTERVAL_US;

    if (atomic_load(a->stop))
        return err_set(e, ERR_CANCELLED, "the agent is stopping");
    if (a->broken)
        return err_set(e, ERR_UNREACHABLE, "the link to the replicator broke");
    if (a->step_request && a->step_told == WIRE_GIVE_UP)
        return err_set(e, ERR_CANCELLED, "given up: the point of another server of its group did not come about");
    if (deadline_us >= 0 && now_us >= deadline_us)
        return err_set(e, ERR_TIMEOUT, "its time is over");
    if (deadline_us >= 0 && deadline_us < wake_us)
        wake_us = deadline_us;
    until = (struct timespec){wake_us / US_PER_S, wake_us % US_PER_S * 1000};
    pthread_cond_timedwait(&a->changed, &a->lock, &until);
    return 0;
}

/* ---- marks ---- */

void engine_writes(struct agent *a, uint64_t *writes)
{
    for (int i = 0; i < a->disk_count; i++)
        writes[i] = a->tracker ? track_writes(a->tracker, i) : track_writes_by_stat(a->disks[i].info.name);
}

bool engine_still(struct agent *a, const uint64_t *writes)
{
    uint64_t now[LIMIT_DISKS_PER_SERVER];

    engine_writes(a, now);
    for (int i = 0; i < a->disk_count; i++)
        if (now[i] != writes[i] || now[i] == TRACK_WRITES_UNKNOWN || (a->tracker && track_check(a->tracker, i) != 1))
            return false;
    return true;
}

struct marking {
    struct agent *a;
    int disk;
    int64_t bytes; /* of pages and whole chunks */
};

static void mark_todo(int64_t chunk, uint32_t pages, void *user)
{
    struct marking *m = user;

    m->bytes += (int64_t)__builtin_popcount(pages) * WIRE_PAGE_SIZE;
    todo_mark(m->a, m->disk, chunk, pages);
}

static void set_taking_marks(struct agent *a, bool taking)
{
    pthread_mutex_lock(&a->lock);
    a->taking_marks = taking;
    if (!taking)
        a->waiting_bytes = 0;
    pthread_mutex_unlock(&a->lock);
}

int engine_take(struct agent *a, struct err *e)
{
    int64_t bytes = 0;
    bool lost = false;

    if (!a->tracker)
        return 0;
    set_taking_marks(a, true);
    for (int i = 0; i < a->disk_count; i++) {
        struct agent_disk *d = &a->disks[i];
        struct marking m = {.a = a, .disk = i};

        /* It has grown, or a write went unseen: read all of it, and look at its size now. */
        if (track_take(a->tracker, i, mark_todo, &m, e) < 0) {
            log_err(e, "disk %s is read again", d->info.name);
            todo_all(a, i);
            pthread_mutex_lock(&a->lock);
            a->rescan_pass |= a->pass == PASS_DONE; /* the replicator has all, as it was */
            a->kept->rescan_pass = a->rescan_pass;
            engine_set_pass(a, PASS_RUNNING);
            note_set(a, "marks_lost", "disk %s is read again: %.300s", d->info.name, e->message);
            pthread_mutex_unlock(&a->lock);
            a->next_disk_check_us = 0;
            lost = true;
            continue;
        }
        bytes += m.bytes;
    }
    atomic_fetch_add(&a->bytes_marked, bytes);
    atomic_store(&a->todo_bytes, todo_bytes(a));
    set_taking_marks(a, false);
    return lost ? -1 : 0;
}

int engine_fill_all(struct agent *a, int64_t deadline_us, struct err *e)
{
    int result = 0;
    bool done;

    do {
        while (pipeline_fill(a, false))
            ;
        pthread_mutex_lock(&a->lock);
        done = !todo_total(a) && pipeline_all_at_least(a, OFFER_OFFERED);
        if (!done)
            result = engine_wait(a, deadline_us, e);
        pthread_mutex_unlock(&a->lock);
    } while (!done && !result);
    return result;
}

void engine_set_pass(struct agent *a, enum pass pass)
{
    a->pass = pass;
    a->scan_begin_us = 0; /* what was begun before is part of another reading now */
    a->kept->pass_done = pass == PASS_DONE;
}

/* Under lock: all that was to do is there, so all of it could be read. */
static void end_trouble(struct agent *a)
{
    if (a->trouble_of_reading)
        err_clear(&a->trouble);
    a->trouble_of_reading = false;
}

/* The pass over every chunk is done when nothing is to do and what was offered is acknowledged. 1 when it is done. */
int engine_advance_pass(struct agent *a)
{
    int done;

    pthread_mutex_lock(&a->lock);
    if (a->pass == PASS_RUNNING && !todo_total(a)) {
        engine_set_pass(a, PASS_DRAINING);
        a->pass_watermark = a->next_number - 1;
    }
    if (a->pass == PASS_DRAINING && a->acked >= a->pass_watermark) {
        engine_set_pass(a, PASS_DONE);
        a->rescan_pass = a->kept->rescan_pass = false;
        a->pass_ended = true;
        end_trouble(a);
        a->synced_at_us = a->kept->synced_at_us = clock_monotonic_us();
    }
    done = a->pass == PASS_DONE;
    pthread_mutex_unlock(&a->lock);
    return done;
}

void engine_scan(struct agent *a)
{
    int64_t now_us = clock_monotonic_us();

    for (int i = 0; i < a->disk_count; i++)
        todo_all(a, i);
    a->next_scan_us = now_us + a->config->rescan_interval_s * US_PER_S;
    pthread_mutex_lock(&a->lock);
    a->scan_begin_us = a->take_watermark_us = now_us;
    a->take_watermark = UINT64_MAX; /* set when todo is empty: see set_watermark */
    a->scan_begin_read = atomic_load(&a->bytes_read);
    pthread_mutex_unlock(&a->lock);
}

void engine_scanned(struct agent *a)
{
    a->scan_us = clock_monotonic_us() - a->scan_begin_us;
    a->scan_paced = (a->read_pace.per_s || a->cpu_pace.per_s) && !a->urgent_reads;
    a->scan_begin_us = 0;
}

/* What going by checksums costs the source is said each time. */
static void say_scanned(const struct agent *a)
{
    log_info("all disks were read for what has changed: %lld MiB in %lld ms",
             (long long)((atomic_load(&a->bytes_read) - a->scan_begin_read) >> 20), (long long)(a->scan_us / US_PER_MS));
}

/* Takes marks when all that were taken before are on their way; so the map's age is known: everything that had completed by
 * synced_at_us is acknowledged. */
static void take_regularly(struct agent *a)
{
    int64_t now_us = clock_monotonic_us();
    bool scanned = false;
    struct err e = {0};

    pthread_mutex_lock(&a->lock);
    if (a->take_watermark_us && a->acked >= a->take_watermark && !todo_total(a)) {
        a->synced_at_us = a->kept->synced_at_us = a->take_watermark_us;
        scanned = a->scan_begin_us;
        if (scanned)
            engine_scanned(a);
        a->take_watermark_us = 0;
        end_trouble(a);
    }
    pthread_mutex_unlock(&a->lock);
    if (scanned)
        say_scanned(a);
    if (a->pass != PASS_DONE || todo_total(a) || now_us - a->last_take_us < TAKE_INTERVAL_US || a->take_watermark_us)
        return;
    a->last_take_us = now_us;
    if (engine_take(a, &e) < 0)
        return;
    if (!a->tracker) {
        if (now_us >= a->next_scan_us && pipeline_may_read_again(a))
            engine_scan(a);
        return;
    }
    while (pipeline_fill(a, false))
        ;
    pthread_mutex_lock(&a->lock);
    a->take_watermark_us = now_us;
    a->take_watermark = UINT64_MAX; /* set when todo is empty: see set_watermark */
    pthread_mutex_unlock(&a->lock);
}

static void set_watermark(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    if (a->take_watermark_us && a->take_watermark == UINT64_MAX && !todo_total(a))
        a->take_watermark = a->next_number - 1;
    pthread_mutex_unlock(&a->lock);
}

/* ---- commands ---- */

void engine_drop_command(struct agent *a, unsigned at)
{
    for (a->command_count--; at < a->command_count; at++)
        a->commands[(a->command_first + at) % COMMANDS_MAX] = a->commands[(a->command_first + at + 1) % COMMANDS_MAX];
}

static bool next_command(struct agent *a, struct command *c)
{
    bool got;

    pthread_mutex_lock(&a->lock);
    got = a->command_count > 0;
    if (got) {
        *c = a->commands[a->command_first];
        a->command_first = (a->command_first + 1) % COMMANDS_MAX;
        a->command_count--;
    }
    pthread_mutex_unlock(&a->lock);
    return got;
}

static void obey(struct agent *a, const struct command *c)
{
    switch (c->type) {
    case WIRE_TAKE_POINT: point_take(a, &c->take_point); break;
    case WIRE_THAW: point_thaw(a, c->simple.request, true); break;
    case WIRE_HASH:
        hashing_run(a, c->hash);
        free(c->hash);
        break;
    case WIRE_PAUSE:
    case WIRE_RESUME:
        pthread_mutex_lock(&a->lock);
        a->paused = c->type == WIRE_PAUSE;
        pthread_mutex_unlock(&a->lock);
        break;
    case WIRE_MOVE: move_obey(a, &c->move); break;
    case WIRE_DETACH:
        pthread_mutex_lock(&a->lock);
        a->detached = true;
        pthread_mutex_unlock(&a->lock);
        break;
    default: must_failed("a queued command's type", __FILE__, __LINE__);
    }
}

/* ---- the loop ---- */

/* Sleeps unless stopped; the hold's deadline is watched meanwhile. */
static void pause_ms(struct agent *a, int ms)
{
    int64_t until_us = clock_monotonic_us() + ms * US_PER_MS;

    while (!atomic_load(a->stop) && clock_monotonic_us() < until_us) {
        point_check_hold(a);
        clock_sleep_us(100 * US_PER_MS);
    }
}

/* 0 while the link holds, -1 when it broke or all is over. */
static int turn(struct agent *a)
{
    struct command c;
    int result;

    point_check_hold(a);
    while (!a->detached && !a->moved && next_command(a, &c))
        obey(a, &c);
    if (a->detached || a->moved)
        return -1;
    move_settle(a);
    watch_check(a);
    if (!a->conn)
        return -1;
    burden_look(a);
    if (!a->paused && !a->held) {
        unreadable_look(a);
        engine_advance_pass(a);
        take_regularly(a);
        while (pipeline_fill(a, false))
            ;
        set_watermark(a);
    }
    pthread_mutex_lock(&a->lock);
    result = a->command_count ? 0 : engine_wait(a, -1, NULL);
    if (a->broken)
        result = -1;
    pthread_mutex_unlock(&a->lock);
    return result;
}

/* Log lines go to a journal on a disk that may be frozen: while held, nothing is said. */
static void say_link_error(struct agent *a, const struct err *e, struct err *last)
{
    if (!a->held && strcmp(e->message, last->message) != 0)
        log_err(e, "the replicator at %s port %lld", a->config->replicator_address, (long long)a->config->replicator_port);
    *last = *e;
}

/* Why there is no connection, for `slipway-agent status`, too. */
static void no_link(struct agent *a, const struct err *e, struct err *last)
{
    pthread_mutex_lock(&a->lock);
    a->broken = true;
    a->link_error = *e;
    pthread_mutex_unlock(&a->lock);
    say_link_error(a, e, last);
    link_close(a);
}

static void run_loop(struct agent *a)
{
    int backoff_ms = BACKOFF_FIRST_MS;
    struct err last = {0};

    while (!atomic_load(a->stop) && !a->detached) {
        struct err e = {0};
        int64_t begin_us;

        if (!a->set_up || link_open(a, &e) < 0) {
            if (!a->set_up)
                link_say_trouble(a, &a->trouble);
            else
                no_link(a, &e, &last);
            if (a->set_up && move_fall_back(a))
                backoff_ms = BACKOFF_FIRST_MS;
            pause_ms(a, e.kind == ERR_DENIED || e.kind == ERR_WRONG_STATE ? BACKOFF_REFUSED_MS : backoff_ms);
            backoff_ms = backoff_ms * 2 > BACKOFF_MOST_MS ? BACKOFF_MOST_MS : backoff_ms * 2;
            watch_check(a);
            continue;
        }
        if (!a->held)
            log_info("connected to %s at %s port %lld (%s)", wire_conn_peer(a->conn), a->config->replicator_address, (long long)a->config->replicator_port,
                     wire_conn_cipher(a->conn));
        begin_us = clock_monotonic_us();
        while (turn(a) == 0)
            ;
        if (a->detached || atomic_load(a->stop))
            break;
        if (a->conn && !a->moved)
            say_link_error(a, &a->link_error, &last);
        link_close(a);
        if (a->moved)
            continue;
        backoff_ms = clock_monotonic_us() - begin_us > 10 * US_PER_S ? BACKOFF_FIRST_MS : backoff_ms;
        pause_ms(a, backoff_ms);
        backoff_ms = backoff_ms * 2 > BACKOFF_MOST_MS ? BACKOFF_MOST_MS : backoff_ms * 2;
    }
}

static int open_identity(struct agent *a, struct err *e)
{
    CLEANUP(free_ptr) char *certificate = xasprintf("%s/cert.pem", a->config->folder);
    CLEANUP(free_ptr) char *key = xasprintf("%s/key.pem", a->config->folder);
    CLEANUP(free_ptr) char *ca = xasprintf("%s/ca.pem", a->config->folder);
    CLEANUP(buf_release) struct buf boot_id = {0};

    if (file_read("/proc/sys/kernel/random/boot_id", 256, &boot_id, e) < 0)
        return -1;
    snprintf(a->boot_id, sizeof a->boot_id, "%.36s", boot_id.data);
    return tls_context_open(TLS_CLIENT, certificate, key, ca, &a->tls, e);
}

/* The source's own work goes first: also what wakes up while one of our threads has the processor, which a kernel that deals in slices (6.6 on) lets have its
 * 3 ms out. From 6.12 on a thread may ask for shorter ones (sched_setattr(2)); an older kernel takes no notice of that. Threads hand it on. */
static void be_modest(void)
{
    const struct { /* struct sched_attr in its first version; the C library has none */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } modest = {.size = sizeof modest, .policy = SCHED_OTHER, .nice = NICE_MODEST, .runtime_ns = SLICE_MODEST_NS};

    setpriority(PRIO_PROCESS, 0, NICE_MODEST);
    syscall(SYS_sched_setattr, 0, &modest, 0);
    syscall(SYS_ioprio_set, 1, 0, IOPRIO_BEST_EFFORT_LOWEST);
}

static struct agent *make(struct agent_config *c, const atomic_bool *stop)
{
    struct agent *a = xcalloc(1, sizeof *a);
    pthread_condattr_t monotonic;

    a->config = a->place = c;
    a->stop = stop;
    a->next_number = a->next_to_offer = 1;
    a->own_kept = a->kept = xcalloc(1, sizeof *a->own_kept);
    a->pages = xcalloc(TRACK_SLOT_COUNT, sizeof *a->pages);
    a->welcome = xcalloc(1, sizeof *a->welcome);
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->changed, &monotonic);
    pthread_cond_init(&a->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return a;
}

static void unmake(struct agent **at)
{
    struct agent *a = *at;

    reporter_stop(a);
    if (a->held)
        point_thaw(a, 0, false);
    link_close(a);
    pipeline_stop(a);
    freezer_stop(&a->freezer);
    watch_end(a);
    tls_context_free(&a->tls);
    free(a->welcome);
    free(a->pages);
    free(a->own_kept);
    hashed_free(a);
    pthread_cond_destroy(&a->changed);
    pthread_cond_destroy(&a->work);
    pthread_mutex_destroy(&a->lock);
    free_ptr(at);
}

/* One arena for all threads: each other one would lock 64 MiB of addresses. */
static void be_small(void) { mallopt(M_ARENA_MAX, 1); }

static void lock_in_memory(void)
{
    if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
        log_warn("can't lock the agent in memory (%s): a held freeze may stall it", strerror(errno));
}

void agent_let_go(const struct agent_config *c)
{
    if (agent_thaw_left(c->runtime_dir) > 0)
        log_warn("thawed what an agent before this one had left frozen");
    hook_left(c);
}

int agent_run(const struct agent_config *given, const atomic_bool *stop, struct err *e)
{
    struct agent_config own = *given, *c = &own; /* a move changes it */
    CLEANUP(free_ptr) char *marker = xasprintf("%s/frozen", c->runtime_dir);
    CLEANUP(free_ptr) char *detached = xasprintf("%s/detached", c->folder);
    CLEANUP(unmake) struct agent *a = make(c, stop);

    if (file_make_dirs(c->runtime_dir, 0755, e) < 0)
        return -1;
    agent_let_go(c);
    if (file_exists(detached)) {
        log_info("%s was detached: remove %s to start replication again", c->server, detached);
        return 0;
    }
    if (freezer_start(marker, &a->freezer, e) < 0)
        return -1;
    be_modest();
    be_small();
    if (open_identity(a, e) < 0)
        return -1;
    if (watch_begin(a, e) < 0) {
        link_say_trouble(a, e);
        return -1;
    }
    if (pipeline_start(a, e) < 0 || reporter_start(a, e) < 0)
        return -1;
    lock_in_memory();
    log_info("agent %s for %s: changes by %s", AGENT_VERSION, c->server, a->tracker ? "eBPF" : "checksum");
    run_loop(a);
    if (a->held)
        point_thaw(a, 0, false);
    link_say_bye(a, a->detached ? ERR_NONE : ERR_CANCELLED, a->detached ? "detached" : "the agent stops");
    if (a->detached)
        kept_forget(c); /* replication is over */
    if (a->detached)
        return file_write(detached, "", 0, 0644, e);
    return 0;
}
