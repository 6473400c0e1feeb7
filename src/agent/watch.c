/* watch: the disks that the agent follows: they are found, opened, followed by a tracker (that of the agent before, a new one, or none), and looked for again. */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DISK_CHECK_US (10 * US_PER_S)

/* A disk's part of what there is for the chunks to do. */
static int64_t blocks_of(const struct agent *a, int64_t chunk_count)
{
    int64_t most = bits_blocks(chunk_count), part;

    part = BITS_BLOCKS_LEAST + (int64_t)((double)a->memory.spare_blocks * (double)chunk_count / (double)a->memory.chunk_count);
    return part < most ? part : most > BITS_BLOCKS_LEAST ? most : BITS_BLOCKS_LEAST;
}

static int open_disk(struct agent *a, int disk, struct err *e)
{
    struct agent_disk *d = &a->disks[disk];
    char path[80];
    int sector_bytes;

    snprintf(path, sizeof path, "/dev/%s", d->info.name);
    d->fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (d->fd < 0)
        return err_errno(e, errno, "can't open %s", path);
    d->chunk_count = track_chunks(d->info.size_bytes);
    d->request_bytes = disks_request_bytes(d->info.name);
    d->sector_bytes = ioctl(d->fd, BLKSSZGET, &sector_bytes) == 0 ? sector_bytes : 4096;
    d->todo = bits_new(d->chunk_count, blocks_of(a, d->chunk_count));
    order_begin(d);
    if (a->tracker)
        d->kept_todo = track_todo(a->tracker, disk);
    else
        d->sums = track_sums_new(d->chunk_count);
    return 0;
}

static void close_disk(struct agent_disk *d)
{
    if (d->fd >= 0)
        close(d->fd);
    bits_free(&d->todo);
    track_sums_free(&d->sums);
    *d = (struct agent_disk){.fd = -1};
}

static void close_disks(struct agent *a)
{
    for (int i = 0; i < a->disk_count; i++)
        close_disk(&a->disks[i]);
    a->disk_count = 0;
}

static int new_epoch(struct agent *a, struct err *e)
{
    uint8_t random[16];

    if (RAND_bytes(random, sizeof random) != 1)
        return err_set(e, ERR_INTERNAL, "there are no random bytes");
    pthread_mutex_lock(&a->lock);
    hash_hex(random, sizeof random, a->epoch);
    engine_set_pass(a, PASS_RUNNING);
    a->reported_ack = a->kept->reported_ack = 0;
    a->take_watermark_us = 0;
    a->outlook_void = true;
    pthread_mutex_unlock(&a->lock);
    return 0;
}

/* reason: why it is NULL. */
static void set_tracker(struct agent *a, struct tracker *t, const char *reason)
{
    pthread_mutex_lock(&a->lock);
    a->tracker = t;
    snprintf(a->tracker_reason, sizeof a->tracker_reason, "%.250s", reason);
    a->kept = t ? track_memory(t) : a->own_kept;
    pthread_mutex_unlock(&a->lock);
}

/* What there is memory for. Buffers and workers stay as they were made at the start. */
static int plan_for(const struct agent *a, const struct disk *disks, int count, int mark_bits, struct memory_plan *plan, struct err *e)
{
    struct agent_config c = *a->config;
    struct memory_wants w = {.disk_count = count, .mark_bits = mark_bits, .cores = (int)sysconf(_SC_NPROCESSORS_ONLN)};

    for (int i = 0; i < count; i++) {
        w.disk_bytes += disks[i].size_bytes;
        w.chunk_count += track_chunks(disks[i].size_bytes);
    }
    if (a->batch_count) {
        c.memory_mib = (int64_t)a->batch_count * (int64_t)BATCH_BYTES >> 20;
        w.cores = a->worker_count;
    }
    if (memory_plan(&c, &w, plan, e) < 0)
        return -1;
    if (a->batch_count && plan->buffers_bytes < (int64_t)a->batch_count * (int64_t)BATCH_BYTES)
        return err_set(e, ERR_LIMIT, "the disks have grown: there is too little memory for them beside the buffers. Restart the agent, or set memory_bound_mib higher");
    return 0;
}

static int plan_memory(struct agent *a, const struct disk *disks, int count, struct err *e)
{
    if (plan_for(a, disks, count, a->tracker ? track_mark_bits(a->tracker) : 0, &a->memory, e) < 0)
        return -1;
    if (a->memory.buffers_bytes < a->config->memory_mib << 20)
        log_warn("%lld MiB of buffers, not %lld: the disks need the rest of the %lld MiB that memory_bound_mib allows", (long long)(a->memory.buffers_bytes >> 20),
                 (long long)a->config->memory_mib, (long long)a->config->memory_bound_mib);
    return 0;
}

/* Keeping the tracker for the agent after this one takes a bit more for each chunk. */
static bool may_keep(const struct agent *a, const struct disk *disks, int count)
{
    struct memory_plan plan;
    struct err e = {0};

    if (!a->config->tracker_dir[0])
        return false;
    if (plan_for(a, disks, count, TRACK_MARK_BITS_KEPT, &plan, &e) == 0)
        return true;
    log_warn("the tracker is not kept for the agent after this one, which will read everything again: memory_bound_mib does not allow for it");
    return false;
}

/* What was known before these disks goes on with them: what the agent before this one left, or, where they have changed, this one's own. */
static struct tracker *inherit(struct agent *a, struct tracker *old, const struct disk *disks, int count, const struct track_disk *tracked)
{
    struct carried c = {.disks = disks, .count = count};
    struct tracker *t = NULL;
    struct err e = {0};

    if (!a->epoch[0]) { /* this process has had none yet */
        if (kept_adopt(a, disks, count, tracked, &t, &e) == 0)
            return t;
        if (e.kind != ERR_NOT_FOUND)
            log_err(&e, "the tracker that the agent before this one left is of no use, so everything is read again");
    } else if (a->tracked_count) {
        if (carry_over(a, old, &c, tracked, &t, &e) == 0)
            return t;
        log_err(&e, "what is known of the disks can't be carried over, so everything is read again");
    }
    return NULL;
}

/* The tracker, before anything is read: one that goes on from before (1), or a new one. Where there can be none, says why once, and all goes on by checksums. */
static int attach(struct agent *a, const struct disk *disks, int count)
{
    struct track_disk tracked[LIMIT_DISKS_PER_SERVER] = {0};
    CLEANUP(track_close) struct tracker *old = a->tracker;
    bool keep = may_keep(a, disks, count);
    struct tracker *t = NULL;
    struct err e = {0};

    set_tracker(a, NULL, a->config->rescan_only ? "the setting tracker is rescan" : "the disks are being set up");
    pthread_mutex_lock(&a->lock); /* the reporter looks into it */
    memset(a->own_kept, 0, sizeof *a->own_kept);
    pthread_mutex_unlock(&a->lock);
    if (a->config->rescan_only) {
        kept_forget(a->config);
        return 0;
    }
    for (int i = 0; i < count; i++) {
        memcpy(tracked[i].name, disks[i].name, sizeof tracked[i].name);
        tracked[i].size_bytes = disks[i].size_bytes;
    }
    if (keep && (t = inherit(a, old, disks, count, tracked))) {
        set_tracker(a, t, "");
        return 1;
    }
    if (!keep && a->tracked_count)
        log_warn("everything is read again: only with a tracker that outlives the agent what is known of the disks is carried over");
    track_close(&old);
    kept_forget(a->config);
    if ((keep ? track_open_to_keep : track_open)(tracked, count, &t, &e) < 0)
        log_warn("changes can't be followed, so disks are compared by checksum every %lld s: %s", (long long)a->config->rescan_interval_s,
                 e.message);
    else if (track_lacks(t)[0])
        log_warn("changes are followed, but not in the best way: %s", track_lacks(t));
    set_tracker(a, t, e.message);
    return 0;
}

static void set_tracked(struct agent *a, const struct disk *disks, int count)
{
    memcpy(a->tracked, disks, sizeof *disks * (size_t)count);
    a->tracked_count = count;
}

static int set_up(struct agent *a, struct err *e)
{
    struct disk found[LIMIT_DISKS_PER_SERVER];
    int64_t total = 0;
    int count, goes_on;

    if (disks_find_again(a->config, a->known, a->known_count, found, LIMIT_DISKS_PER_SERVER, &count, e) < 0)
        return -1;
    memcpy(a->known, found, sizeof *found * (size_t)count);
    a->known_count = count;
    close_disks(a);
    memset(a->pages, 0, TRACK_SLOT_COUNT * sizeof *a->pages); /* by the disks' numbers of before; without them a chunk is offered whole */
    goes_on = attach(a, found, count);
    set_tracked(a, found, goes_on ? count : 0);
    if (plan_memory(a, found, count, e) < 0 || pipeline_have_buffers(a, e) < 0)
        return -1;
    for (int i = 0; i < count; i++) {
        a->disks[i] = (struct agent_disk){.info = found[i], .fd = -1};
        a->disk_count = i + 1;
        if (open_disk(a, i, e) < 0)
            return -1;
        if (!goes_on)
            todo_all(a, i);
        total += found[i].size_bytes;
        log_info("disk %s (%s): %lld bytes", found[i].name, found[i].id, (long long)found[i].size_bytes);
    }
    atomic_store(&a->bytes_total, total);
    burden_begin(a);
    if (goes_on)
        kept_go_on(a);
    else if (new_epoch(a, e) == 0)
        kept_begin(a);
    else
        return -1;
    set_tracked(a, found, count);
    return 0;
}

int watch_begin(struct agent *a, struct err *e)
{
    a->set_up = set_up(a, e) == 0;
    if (a->set_up)
        return 0;
    close_disks(a); /* half of them, of an epoch before: not to be told of to anybody */
    return -1;
}

/* A disk that can't be had stalls replication, in words. */
static void set_trouble(struct agent *a, const struct err *e)
{
    pthread_mutex_lock(&a->lock);
    a->trouble = *e;
    a->trouble_us = clock_monotonic_us();
    a->trouble_of_reading = false;
    pthread_mutex_unlock(&a->lock);
}

static void clear_trouble(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    err_clear(&a->trouble);
    a->trouble_of_reading = false;
    pthread_mutex_unlock(&a->lock);
}

static void followed(const struct agent *a, struct disk *disks)
{
    for (int i = 0; i < a->disk_count; i++)
        disks[i] = a->disks[i].info;
}

static bool disks_have_changed(struct agent *a, const struct disk *found, int count)
{
    CLEANUP(buf_release) struct buf words = {0};
    struct disk was[LIMIT_DISKS_PER_SERVER];

    followed(a, was);
    buf_init(&words, WIRE_TEXT_SIZE - 1);
    if (!disks_difference(was, a->disk_count, found, count, &words))
        return false;
    log_warn("the disks have changed: %s", words.data);
    pthread_mutex_lock(&a->lock);
    note_set(a, "disks_changed", "%s", words.data);
    pthread_mutex_unlock(&a->lock);
    return true;
}

/* Said once, as long as it is the same. */
static void log_trouble(struct agent *a, const struct err *e, const char *what)
{
    bool said;

    pthread_mutex_lock(&a->lock);
    said = strcmp(a->trouble.message, e->message) == 0;
    pthread_mutex_unlock(&a->lock);
    if (!said)
        log_err(e, "%s", what);
}

/* Has a disk grown, come or gone? Then everything is set up anew under the new sizes, and said HELLO to; what is known of the disks that are as they were goes on (carry.c). */
void watch_check(struct agent *a)
{
    struct disk found[LIMIT_DISKS_PER_SERVER];
    struct err e = {0};
    int count;

    if (clock_monotonic_us() < a->next_disk_check_us || a->held)
        return;
    a->next_disk_check_us = clock_monotonic_us() + DISK_CHECK_US;
    if (disks_find_again(a->config, a->known, a->known_count, found, LIMIT_DISKS_PER_SERVER, &count, &e) < 0) {
        log_trouble(a, &e, "looking for disks");
        set_trouble(a, &e);
        return;
    }
    if (a->set_up && !disks_have_changed(a, found, count))
        return;
    link_close(a);
    if (watch_begin(a, &e) == 0) {
        clear_trouble(a);
        return;
    }
    log_trouble(a, &e, "setting up the disks");
    set_trouble(a, &e);
    a->next_disk_check_us = 0;
}

int watch_confirm(struct agent *a, struct err *e)
{
    CLEANUP(buf_release) struct buf words = {0};
    struct disk was[LIMIT_DISKS_PER_SERVER];
    int changed;

    followed(a, was);
    buf_init(&words, WIRE_TEXT_SIZE - 1);
    changed = disks_look(a->config, was, a->disk_count, &words, e);
    if (changed)
        a->next_disk_check_us = 0;
    if (changed > 0)
        return err_set(e, ERR_CONFLICT, "the disks are not those that are followed: %.400s", words.data);
    return changed;
}

void watch_end(struct agent *a)
{
    close_disks(a);
    track_close(&a->tracker);
}
