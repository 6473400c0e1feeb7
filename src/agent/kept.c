/* What outlives the agent: the tracker, pinned in the kernel, and beside it what is to do, what is on its way, and how far the replicator is. An agent
 * that is stopped, killed or replaced costs no reading of everything: the next one goes on in the same epoch, where all fits. Where anything does
 * not, it begins anew: new tracker, new epoch, every chunk to do.
 *
 * The agent may be killed between any two stores (src/track/keep.c). A chunk is to do before its mark is cleared, and on its way before it is to do no longer; it
 * is taken off when the replicator has it durably, after the number that proves that was written down. A number is taken before it is used. */
#include "agent/engine.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_FORMAT 2

void kept_add(struct kept_offer *o, uint32_t chunk)
{
    o->chunks[o->count] = chunk;
    __atomic_store_n(&o->count, o->count + 1, __ATOMIC_SEQ_CST);
}

void kept_done(struct kept_offer *o) { __atomic_store_n(&o->count, 0, __ATOMIC_SEQ_CST); }

static uint64_t layout(void) { return (uint64_t)KEPT_FORMAT << 32 | sizeof(struct kept); }

static int check(const struct agent *a, const struct kept *k, const struct disk *disks, int count, struct err *e)
{
    if (k->layout != layout())
        return err_set(e, ERR_CONFLICT, "the agent before was of another version");
    if (strncmp(k->server, a->config->server, sizeof k->server) != 0)
        return err_set(e, ERR_CONFLICT, "the agent before was another server's");
    if (!k->epoch[0] || k->epoch[sizeof k->epoch - 1] || !k->next_number || k->reported_ack >= k->next_number)
        return err_set(e, ERR_CORRUPT, "what the agent before left can't be");
    for (int i = 0; i < count; i++)
        if (strncmp(k->ids[i], disks[i].id, sizeof k->ids[i]) != 0)
            return err_set(e, ERR_CONFLICT, "%s is another disk than it was", disks[i].name);
    if (k->unreadable_count > UNREADABLE_MOST)
        return err_set(e, ERR_CORRUPT, "what the agent before left can't be");
    for (uint32_t i = 0; i < k->unreadable_count; i++)
        if (k->unreadable[i].disk >= (unsigned)count || k->unreadable[i].chunk >= track_chunks(disks[k->unreadable[i].disk].size_bytes))
            return err_set(e, ERR_CORRUPT, "what the agent before left can't be");
    for (unsigned i = 0; i < OFFERS_MAX; i++) {
        const struct kept_offer *o = &k->offers[i];

        if (o->count > BATCH_CHUNKS || (o->count && o->disk >= (unsigned)count))
            return err_set(e, ERR_CORRUPT, "what the agent before left can't be");
        for (unsigned c = 0; c < o->count; c++)
            if (o->chunks[c] >= track_chunks(disks[o->disk].size_bytes))
                return err_set(e, ERR_CORRUPT, "what the agent before left can't be");
    }
    return 0;
}

int kept_adopt(struct agent *a, const struct disk *disks, int count, const struct track_disk *tracked, struct tracker **out, struct err *e)
{
    CLEANUP(track_close) struct tracker *t = NULL;

    if (track_adopt(a->config->tracker_dir, tracked, count, &t, e) < 0 || check(a, track_memory(t), disks, count, e) < 0)
        return -1;
    *out = t;
    t = NULL;
    return 0;
}

void kept_go_on(struct agent *a)
{
    struct kept *k = a->kept;
    bool same_agent = a->epoch[0];
    int64_t under_way = 0;

    for (int i = 0; i < a->disk_count; i++)
        todo_kept(a, i);
    for (unsigned i = 0; i < OFFERS_MAX; i++) {
        for (unsigned c = 0; c < k->offers[i].count; c++, under_way++)
            todo_set(a, (int)k->offers[i].disk, k->offers[i].chunks[c]);
        kept_done(&k->offers[i]);
    }
    unreadable_kept(a);
    pthread_mutex_lock(&a->lock);
    memcpy(a->epoch, k->epoch, sizeof a->epoch);
    a->next_number = a->next_to_offer = k->next_number;
    a->acked = k->next_number - 1;
    a->reported_ack = k->reported_ack;
    a->synced_at_us = k->synced_at_us;
    a->rescan_pass = k->rescan_pass;
    a->pass = k->pass_done ? PASS_DONE : PASS_RUNNING;
    a->take_watermark_us = 0;
    a->outlook_void = true;
    pthread_mutex_unlock(&a->lock);
    atomic_store(&a->todo_bytes, todo_bytes(a));
    log_info("goes on where %s was: of %lld chunks that are to do, %lld were under way", same_agent ? "it" : "the agent before it", (long long)todo_total(a),
             (long long)under_way);
}

/* What could not be read of disks that go on; of the others all is read, and then it is known. */
static void inherit_unreadable(struct kept *to, const struct kept *from, const struct carried *c)
{
    for (uint32_t i = 0; i < from->unreadable_count; i++)
        for (int now = 0; now < c->count; now++)
            if (c->origin[now] == (int)from->unreadable[i].disk) {
                to->unreadable[to->unreadable_count] = from->unreadable[i];
                to->unreadable[to->unreadable_count++].disk = (uint32_t)now;
            }
}

void kept_inherit(struct kept *to, struct kept *from, const struct carried *c)
{
    to->layout = from->layout;
    memcpy(to->server, from->server, sizeof to->server);
    memcpy(to->epoch, from->epoch, sizeof to->epoch);
    for (int i = 0; i < c->count; i++)
        memcpy(to->ids[i], c->disks[i].id, sizeof to->ids[i]);
    to->next_number = from->next_number;
    to->reported_ack = from->reported_ack;
    to->synced_at_us = from->synced_at_us;
    to->pass_done = from->pass_done && !c->begins_anew;
    to->rescan_pass = from->pass_done ? c->begins_anew && c->rescan : from->rescan_pass && c->rescan;
    for (unsigned i = 0; i < OFFERS_MAX; i++)
        MUST(!from->offers[i].count); /* no job is at work, and the link is closed: they are to do again */
    inherit_unreadable(to, from, c);
    __atomic_store_n(&from->layout, 0, __ATOMIC_SEQ_CST);
}

void kept_begin(struct agent *a)
{
    struct kept *k = a->kept;
    struct err e = {0};

    k->layout = layout();
    snprintf(k->server, sizeof k->server, "%s", a->config->server);
    for (int i = 0; i < a->disk_count; i++)
        snprintf(k->ids[i], sizeof k->ids[i], "%s", a->disks[i].info.id);
    k->next_number = a->next_number;
    memcpy(k->epoch, a->epoch, sizeof k->epoch);
    if (!a->tracker || !track_todo(a->tracker, 0))
        return;
    if (track_keep(a->tracker, a->config->tracker_dir, &e) == 0)
        return;
    log_err(&e, "the tracker can't be kept for the agent after this one, which will read everything again");
    kept_forget(a->config);
}

int agent_forget_tracker(const char *tracker_dir, struct err *e) { return tracker_dir[0] ? track_forget(tracker_dir, e) : 0; }

void kept_forget(const struct agent_config *c)
{
    struct err e = {0};

    if (agent_forget_tracker(c->tracker_dir, &e) < 0)
        log_err(&e, "the tracker that was kept can't be ended");
}
