/* Offers and the workers that carry them: read, hash, offer (in order), compress, send. */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/zip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (256u << 10) /* locked in memory, so not the usual 8 MiB */
#define PACE_PIECE_US (50 * US_PER_MS)

static struct offer *slot_of(struct agent *a, uint64_t number) { return &a->offers[number % OFFERS_MAX]; }

static void push(struct agent *a, struct job_queue *q, enum job_kind kind, struct offer *o)
{
    MUST(q->count < ARRAY_COUNT(q->jobs));
    q->jobs[(q->first + q->count++) % ARRAY_COUNT(q->jobs)] = (struct job){kind, o};
    pthread_cond_signal(&a->work);
}

static void give_batch_back(struct agent *a, struct offer *o)
{
    if (o->batch)
        a->free_batches[a->free_count++] = o->batch;
    o->batch = NULL;
}

/* Until now from begun_us on; now. */
static int64_t spend(struct agent *a, enum spent what, int64_t begun_us)
{
    int64_t now_us = clock_monotonic_us();

    atomic_fetch_add(&a->spent_us[what], now_us - begun_us);
    return now_us;
}

/* ---- filling ---- */

int pipeline_room(const struct agent *a)
{
    uint64_t open = a->next_number - 1 - a->acked;
    int64_t slots = (int64_t)(a->window < OFFERS_MAX ? a->window : OFFERS_MAX) - (int64_t)open;

    return slots <= 0 ? 0 : slots < a->free_count ? (int)slots : a->free_count;
}

int pipeline_fill(struct agent *a, bool read_only)
{
    struct offer *o = NULL;
    int disk = 0;

    while (disk < a->disk_count && !a->disks[disk].todo->count)
        disk++;
    if (disk == a->disk_count)
        return 0;
    pthread_mutex_lock(&a->lock);
    if (pipeline_room(a) > 0) {
        o = slot_of(a, a->next_number);
        MUST(o->state == OFFER_FREE);
        *o = (struct offer){.state = OFFER_FILLED, .number = a->next_number++, .disk = disk, .read_only = read_only,
                            .batch = a->free_batches[--a->free_count]};
        o->count = todo_next(a, disk, o->chunks, o->pages, BATCH_CHUNKS);
        MUST(o->count > 0);
        for (int i = 0; i < o->count; i++) {
            o->slot[i] = (uint8_t)i;
            o->bytes += wire_entry_size(&(struct wire_entry){.pages = o->pages[i]});
        }
        if (!a->busy_since_us)
            a->busy_since_us = clock_monotonic_us();
        atomic_store(&a->todo_bytes, todo_bytes(a));
        push(a, &a->later, JOB_READ, o);
    }
    pthread_mutex_unlock(&a->lock);
    return o != NULL;
}

struct offer *pipeline_fill_for_hashing(struct agent *a, int disk, int64_t first_chunk, int count)
{
    struct offer *o = NULL;

    pthread_mutex_lock(&a->lock);
    if (a->free_count > 0) {
        o = xcalloc(1, sizeof *o);
        *o = (struct offer){.state = OFFER_FILLED, .disk = disk, .count = count, .for_hashing = true,
                            .batch = a->free_batches[--a->free_count]};
        for (int i = 0; i < count; i++) {
            o->chunks[i] = (uint32_t)(first_chunk + i);
            o->slot[i] = (uint8_t)i;
        }
        push(a, &a->later, JOB_READ, o);
    }
    pthread_mutex_unlock(&a->lock);
    return o;
}

void pipeline_give_back(struct agent *a, struct offer *o)
{
    pthread_mutex_lock(&a->lock);
    give_batch_back(a, o);
    pthread_mutex_unlock(&a->lock);
    free(o);
}

void pipeline_hash_read_ones(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    for (uint64_t n = a->acked + 1; n < a->next_number; n++) {
        struct offer *o = slot_of(a, n);

        o->read_only = false;
        if (o->state == OFFER_READ) {
            o->state = OFFER_FILLED;
            push(a, &a->urgent, JOB_HASH, o);
        }
    }
    pthread_mutex_unlock(&a->lock);
}

bool pipeline_all_at_least(const struct agent *a, enum offer_state state)
{
    if (a->offering && state >= OFFER_OFFERED) /* its state says so already, but the frame is on its way */
        return false;
    for (uint64_t n = a->acked + 1; n < a->next_number; n++)
        if (a->offers[n % OFFERS_MAX].state < state)
            return false;
    return true;
}

bool pipeline_all_read(const struct agent *a)
{
    for (uint64_t n = a->acked + 1; n < a->next_number; n++)
        if (!a->offers[n % OFFERS_MAX].was_read)
            return false;
    return true;
}

/* ---- reading ---- */

/* Under lock: the source stands still, or somebody waits for a point: no pace but the network's. */
static bool in_a_hurry(const struct agent *a) { return a->urgent_reads || a->held; }

/* Waits for the turn of so many units, in pieces, so that a stop is seen, and another limit: then what is left of the wait changes with it. */
static void keep_to_pace(struct agent *a, struct pace *p, int64_t units)
{
    int64_t now_us = clock_monotonic_us(), until_us, per_s;
    bool waits = true;

    pthread_mutex_lock(&a->lock);
    per_s = p->per_s;
    until_us = now_us + pace_book(p, units, now_us);
    pthread_mutex_unlock(&a->lock);
    while (waits && (now_us = clock_monotonic_us()) < until_us && !atomic_load(a->stop)) {
        clock_sleep_us(until_us - now_us > PACE_PIECE_US ? PACE_PIECE_US : until_us - now_us);
        pthread_mutex_lock(&a->lock);
        if (p->per_s != per_s)
            until_us = p->per_s ? now_us + (int64_t)((double)(until_us - now_us) * (double)per_s / (double)p->per_s) : 0;
        per_s = p->per_s;
        /* Nobody waits for these bytes any more; or somebody waits for a point. */
        waits = !a->workers_stop && (p == &a->send_pace ? !a->broken : !in_a_hurry(a));
        pthread_mutex_unlock(&a->lock);
    }
}

static bool is_zero(const uint8_t *chunk)
{
    return chunk[0] == 0 && memcmp(chunk, chunk + 1, WIRE_CHUNK_SIZE - 1) == 0;
}

/* Hashes; where changes can't be followed, drops what is as it was, so that chunks that are offered stand first. */
static void hash_chunks(struct agent *a, struct offer *o)
{
    struct track_sums *sums = a->disks[o->disk].sums;

    o->offered = 0;
    for (int i = 0; i < o->count; i++) {
        uint8_t *chunk = o->batch + (size_t)o->slot[i] * WIRE_CHUNK_SIZE;
        size_t size = o->pages[i] ? chunks_gather(chunk, o->pages[i]) : WIRE_CHUNK_SIZE;
        int to = o->offered;
        bool changed = o->for_hashing || !sums || track_sums_changed(sums, o->chunks[i], chunk, WIRE_CHUNK_SIZE);
        uint32_t chunk_number = o->chunks[i];
        uint16_t pages = o->pages[i];
        uint8_t slot = o->slot[i];

        if (!changed)
            continue;
        /* swapped, not overwritten: a failed link puts all of them back */
        o->chunks[i] = o->chunks[to], o->slot[i] = o->slot[to], o->pages[i] = o->pages[to];
        o->chunks[to] = chunk_number, o->slot[to] = slot, o->pages[to] = pages;
        o->zero[to] = !pages && is_zero(chunk);
        if (!o->zero[to])
            hash_sha256(chunk, size, o->hash[to]);
        else if (o->for_hashing)
            memcpy(o->hash[to], a->zero_hash, HASH_SHA256_SIZE);
        o->offered++;
    }
}

/* ---- sending ---- */

void agent_broken(struct agent *a, const struct err *e)
{
    pthread_mutex_lock(&a->lock);
    if (!a->broken) {
        a->broken = true;
        a->link_error = *e;
    }
    if (a->conn)
        wire_conn_cut(a->conn);
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

/* Under lock: nothing is on its way any more. */
static void end_busy(struct agent *a)
{
    if (!a->busy_since_us || a->acked + 1 < a->next_number)
        return;
    a->busy_us += clock_monotonic_us() - a->busy_since_us;
    a->busy_since_us = 0;
}

/* Under lock: offers done at the front of the ring make room. An ACK may be heard before the sending thread is back from its send. */
static void advance_acked(struct agent *a)
{
    while (a->acked + 1 < a->next_number) {
        struct offer *o = slot_of(a, a->acked + 1);

        if (o->state != OFFER_SENT || (o->offered && o->number > a->ack_heard))
            break;
        atomic_fetch_add(&a->bytes_acked, o->bytes);
        o->state = OFFER_FREE;
        a->acked++;
    }
    end_busy(a);
}

/* One thread at a time sends the OFFERs whose turn it is; the others leave theirs to it. */
static void offer_in_order(struct agent *a, struct buf *frame)
{
    struct wire_offer *message = xmalloc(sizeof *message);
    struct err e = {0};

    pthread_mutex_lock(&a->lock);
    while (!a->offering && !a->broken && a->conn && a->next_to_offer < a->next_number) {
        struct offer *o = slot_of(a, a->next_to_offer);
        int64_t begun_us;
        int sent;

        if (o->state != OFFER_HASHED)
            break;
        a->next_to_offer++;
        if (!o->offered) {
            give_batch_back(a, o);
            o->state = OFFER_SENT;
            advance_acked(a);
            pthread_cond_broadcast(&a->changed);
            continue;
        }
        a->offering = true;
        o->state = OFFER_OFFERED;
        *message = (struct wire_offer){.number = o->number, .disk = (uint16_t)o->disk, .count = (uint16_t)o->offered};
        for (int i = 0; i < o->offered; i++) {
            message->entries[i].chunk = o->chunks[i];
            message->entries[i].zero = o->zero[i];
            message->entries[i].pages = o->pages[i];
            memcpy(message->entries[i].hash, o->hash[i], HASH_SHA256_SIZE);
        }
        pthread_mutex_unlock(&a->lock);
        frame->size_bytes = 0;
        wire_offer_encode(message, frame);
        begun_us = clock_monotonic_us();
        sent = wire_send_buf(a->conn, WIRE_OFFER, frame, &e);
        spend(a, SPENT_LINK, begun_us);
        if (sent < 0)
            agent_broken(a, &e);
        pthread_mutex_lock(&a->lock);
        a->offering = false;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    free(message);
}

void pipeline_need(struct agent *a, const struct wire_need *n, struct err *e)
{
    struct offer *o = slot_of(a, n->offer);
    bool needed = false;

    pthread_mutex_lock(&a->lock);
    if (n->offer <= a->acked || n->offer >= a->next_number || o->state != OFFER_OFFERED || n->count != o->offered) {
        err_set(e, ERR_PROTOCOL, "NEED for offer %llu, which waits for none", (unsigned long long)n->offer);
    } else {
        for (int i = 0; i < o->offered; i++) {
            if (wire_needs(n, (unsigned)i) && o->zero[i])
                err_set(e, ERR_PROTOCOL, "NEED asks for a zero chunk");
            needed |= wire_needs(n, (unsigned)i);
        }
        o->need = *n;
        o->state = needed ? OFFER_SENDING : OFFER_SENT;
        if (needed)
            push(a, &a->urgent, JOB_SEND, o);
        else
            give_batch_back(a, o);
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

int pipeline_ack(struct agent *a, uint64_t number, struct err *e)
{
    int result = 0;

    pthread_mutex_lock(&a->lock);
    for (uint64_t n = a->acked + 1; n <= number && !result; n++)
        if (n >= a->next_number || slot_of(a, n)->state < OFFER_SENDING)
            result = err_set(e, ERR_PROTOCOL, "ACK %llu, but offer %llu was not sent yet", (unsigned long long)number, (unsigned long long)n);
    if (!result && number > a->ack_heard) {
        a->ack_heard = a->reported_ack = number;
        advance_acked(a);
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    return result;
}

static int send_frame(struct agent *a, const struct buf *frame, bool packed, struct err *e)
{
    int64_t sent = (int64_t)frame->size_bytes, begun_us = clock_monotonic_us();
    int level = atomic_load(&a->pack_level), result;

    if (packed && level) {
        result = wire_send_packed(a->conn, frame, level, &sent, e); /* the link's: where it is not, flow.c ends the packing */
        begun_us = spend(a, SPENT_LINK, begun_us);
        if (result == 0)
            keep_to_pace(a, &a->send_pace, sent); /* how much it was is known only now: the next waits */
        spend(a, SPENT_LIMIT, begun_us);
    } else {
        keep_to_pace(a, &a->send_pace, sent);
        begun_us = spend(a, SPENT_LIMIT, begun_us);
        result = wire_send_buf(a->conn, WIRE_DATA, frame, e);
        spend(a, SPENT_LINK, begun_us);
    }
    return result;
}

static int send_chunks(struct agent *a, struct offer *o, struct zip *z, uint8_t *packed, struct buf *frame, struct err *e)
{
    int64_t begun_us = clock_monotonic_us();
    bool in_stream = flow_packs(a, o);

    frame->size_bytes = 0;
    wire_data_begin(frame, o->number);
    for (int i = 0; i < o->offered; i++) {
        const uint8_t *chunk = o->batch + (size_t)o->slot[i] * WIRE_CHUNK_SIZE;
        uint32_t size = wire_entry_size(&(struct wire_entry){.pages = o->pages[i]});
        struct wire_data_chunk c = {.entry = (uint16_t)i, .codec = WIRE_RAW, .stored_size = size, .bytes = chunk, .raw_size = size};
        size_t packed_size;

        if (!wire_needs(&o->need, (unsigned)i))
            continue;
        packed_size = in_stream ? 0 : zip_pack(z, chunk, size, packed);
        if (packed_size) {
            c.codec = WIRE_ZSTD;
            c.stored_size = (uint32_t)packed_size;
            c.bytes = packed;
        }
        MUST(wire_data_add(frame, &c) == 0); /* a batch's worth always fits a frame */
    }
    spend(a, SPENT_SOURCE, begun_us);
    return send_frame(a, frame, in_stream, e);
}

/* ---- the workers ---- */

struct tools { /* a worker's own */
    struct zip *zip;
    uint8_t *packed;
    struct buf frame;
};

static void after_read(struct agent *a, struct offer *o, bool failed, const struct err *e)
{
    pthread_mutex_lock(&a->lock);
    o->failed = failed;
    o->was_read = true;
    pthread_cond_broadcast(&a->changed);
    if (failed) {
        a->trouble = *e;
        a->trouble_us = clock_monotonic_us();
    }
    pthread_mutex_unlock(&a->lock);
}

static void do_read(struct agent *a, struct offer *o)
{
    int64_t begun_us = clock_monotonic_us();
    struct err e = {0};
    bool limited, held_back;

    pthread_mutex_lock(&a->lock);
    limited = !in_a_hurry(a);
    held_back = a->read_back_off && a->read_pace.per_s == a->read_back_off;
    pthread_mutex_unlock(&a->lock);
    if (limited) {
        keep_to_pace(a, &a->read_pace, o->for_hashing ? (int64_t)o->count * WIRE_CHUNK_SIZE : o->bytes);
        begun_us = spend(a, held_back ? SPENT_SOURCE : SPENT_LIMIT, begun_us);
    }
    after_read(a, o, chunks_read(a, o, &e) < 0, &e);
    spend(a, SPENT_SOURCE, begun_us);
}

static void set_state(struct agent *a, struct offer *o, enum offer_state state)
{
    pthread_mutex_lock(&a->lock);
    o->state = state;
    if (state == OFFER_SENT) {
        give_batch_back(a, o);
        advance_acked(a);
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

/* An unreadable chunk is never offered: nothing that follows may be taken for a whole state, so the link starts over after a while. */
static void hash_and_offer(struct agent *a, struct offer *o, struct tools *t)
{
    bool for_hashing = o->for_hashing; /* such an offer is the engine's to free from OFFER_HASHED on */
    int64_t begun_us = clock_monotonic_us();
    struct err e = {0};

    if (o->failed && !for_hashing) {
        err_set(&e, ERR_IO, "a disk can't be read; starting over");
        agent_broken(a, &e);
        return;
    }
    if (!o->failed)
        hash_chunks(a, o);
    spend(a, SPENT_SOURCE, begun_us);
    set_state(a, o, OFFER_HASHED);
    if (!for_hashing)
        offer_in_order(a, &t->frame);
}

static void do_job(struct agent *a, const struct job *job, struct tools *t)
{
    struct offer *o = job->offer;
    struct err e = {0};
    bool read_only;

    switch (job->kind) {
    case JOB_READ:
        do_read(a, o);
        pthread_mutex_lock(&a->lock);
        read_only = o->read_only && !o->failed;
        if (read_only)
            o->state = OFFER_READ;
        pthread_cond_broadcast(&a->changed);
        pthread_mutex_unlock(&a->lock);
        if (!read_only)
            hash_and_offer(a, o, t);
        break;
    case JOB_HASH: hash_and_offer(a, o, t); break;
    case JOB_SEND:
        if (send_chunks(a, o, t->zip, t->packed, &t->frame, &e) < 0)
            agent_broken(a, &e);
        else
            set_state(a, o, OFFER_SENT);
        break;
    }
}

static int64_t own_cpu_us(void)
{
    struct timespec used;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (int64_t)used.tv_sec * US_PER_S + used.tv_nsec / 1000;
}

/* What a job has used is booked after it, and the worker rests until its turn comes; not while a point is taken. */
static void do_job_paced(struct agent *a, const struct job *job, struct tools *t)
{
    int64_t begun_us = own_cpu_us();
    bool urgent;

    do_job(a, job, t);
    pthread_mutex_lock(&a->lock);
    urgent = in_a_hurry(a);
    pthread_mutex_unlock(&a->lock);
    if (!urgent)
        keep_to_pace(a, &a->cpu_pace, own_cpu_us() - begun_us);
}

static bool next_job(struct agent *a, struct job *job)
{
    struct job_queue *q = a->urgent.count ? &a->urgent : &a->later;

    if (!q->count)
        return false;
    *job = q->jobs[q->first];
    q->first = (q->first + 1) % ARRAY_COUNT(q->jobs);
    q->count--;
    return true;
}

void pipeline_hurry(struct agent *a, bool hurry)
{
    int nice = hurry ? NICE_HURRY : NICE_MODEST;

    setpriority(PRIO_PROCESS, 0, nice); /* the calling thread's: Linux keeps it for each thread */
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < a->worker_id_count; i++)
        setpriority(PRIO_PROCESS, (id_t)a->worker_ids[i], nice);
    pthread_mutex_unlock(&a->lock);
}

static void *work(void *user)
{
    struct agent *a = user;
    struct tools t = {.zip = zip_new(1), .packed = xmalloc(WIRE_CHUNK_SIZE), .frame = {.limit_bytes = WIRE_PAYLOAD_LIMIT}};
    struct job job;

    pthread_mutex_lock(&a->lock);
    a->worker_ids[a->worker_id_count++] = gettid();
    for (;;) {
        if (next_job(a, &job)) {
            a->busy_workers++;
            pthread_mutex_unlock(&a->lock);
            do_job_paced(a, &job, &t);
            pthread_mutex_lock(&a->lock);
            a->busy_workers--;
            pthread_cond_broadcast(&a->changed);
        } else if (a->workers_stop) {
            break;
        } else {
            pthread_cond_wait(&a->work, &a->lock);
        }
    }
    pthread_mutex_unlock(&a->lock);
    zip_free(&t.zip);
    free(t.packed);
    buf_release(&t.frame);
    return NULL;
}

/* ---- start, stop, starting over ---- */

static int make_batches(struct agent *a, struct err *e)
{
    a->batch_count = (int)(a->memory.buffers_bytes / (int64_t)BATCH_BYTES);
    a->free_batches = xcalloc((size_t)a->batch_count, sizeof *a->free_batches);
    for (; a->free_count < a->batch_count; a->free_count++)
        if (posix_memalign((void **)&a->free_batches[a->free_count], 4096, BATCH_BYTES) != 0)
            return err_set(e, ERR_LIMIT, "there is no memory for %lld MiB of buffers: set memory_mib or memory_bound_mib lower",
                           (long long)(a->memory.buffers_bytes >> 20));
    return 0;
}

int pipeline_start(struct agent *a, struct err *e)
{
    pthread_attr_t attributes;
    static const uint8_t zeros[WIRE_CHUNK_SIZE];

    hash_sha256(zeros, sizeof zeros, a->zero_hash);
    a->next_number = a->next_to_offer = 1;
    a->window = OFFERS_MAX;
    if (make_batches(a, e) < 0)
        return -1;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    while (a->worker_count < a->memory.workers) {
        int reason = pthread_create(&a->workers[a->worker_count], &attributes, work, a);

        if (reason) {
            pthread_attr_destroy(&attributes);
            return err_errno(e, reason, "can't start a worker");
        }
        a->worker_count++;
    }
    pthread_attr_destroy(&attributes);
    return 0;
}

void pipeline_stop(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    a->workers_stop = true;
    a->urgent.count = a->later.count = 0;
    pthread_cond_broadcast(&a->work);
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < a->worker_count; i++)
        pthread_join(a->workers[i], NULL);
    a->worker_count = 0;
    for (unsigned i = 0; i < OFFERS_MAX; i++)
        free(a->offers[i].batch);
    for (int i = 0; i < a->free_count; i++)
        free(a->free_batches[i]);
    free(a->free_batches);
    a->free_batches = NULL;
}

void pipeline_requeue(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    a->urgent.count = a->later.count = 0;
    while (a->busy_workers > 0)
        pthread_cond_wait(&a->changed, &a->lock);
    for (uint64_t n = a->acked + 1; n < a->next_number; n++) {
        struct offer *o = slot_of(a, n);
        struct agent_disk *d = &a->disks[o->disk];

        for (int i = 0; i < o->count; i++) {
            todo_set(a, o->disk, o->chunks[i]);
            if (d->sums)
                track_sums_forget(d->sums, o->chunks[i]);
        }
        d->cursor = 0;
        give_batch_back(a, o);
        o->state = OFFER_FREE;
    }
    a->acked = a->next_number - 1;
    a->next_to_offer = a->next_number;
    end_busy(a);
    if (a->pass == PASS_DRAINING)
        a->pass = PASS_RUNNING;
    a->take_watermark = UINT64_MAX;
    pthread_mutex_unlock(&a->lock);
    atomic_store(&a->todo_bytes, todo_bytes(a));
}
