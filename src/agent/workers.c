/* The workers, and what they do to an offer: read, hash, compress, send. */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/zip.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (256u << 10) /* locked in memory, so not the usual 8 MiB */
#define PACE_PIECE_US (50 * US_PER_MS)

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

/* Where one sends, it is what all wait for: what the others do meanwhile holds up nothing. */
static int64_t spend_sending(struct agent *a, enum spent what, int64_t begun_us)
{
    int64_t now_us = pipeline_spend(a, what, begun_us);

    if (pipeline_one_sends(a))
        atomic_fetch_add(&a->spent_us[what], (now_us - begun_us) * (a->worker_count - 1));
    return now_us;
}

static void set_writing(struct agent *a, int by)
{
    pthread_mutex_lock(&a->lock);
    a->writing += by;
    pthread_mutex_unlock(&a->lock);
}

/* A frame in the stream is known by its size only after it: so the next one waits, and any other before it is sent. */
static int send_frame(struct agent *a, struct buf *frame, bool packed, struct err *e)
{
    int64_t sent = (int64_t)frame->size_bytes, begun_us = clock_monotonic_us();
    int level = packed ? atomic_load(&a->pack_level) : 0, result;

    if (!level)
        keep_to_pace(a, &a->send_pace, sent);
    begun_us = spend_sending(a, SPENT_LIMIT, begun_us);
    set_writing(a, 1);
    result = level ? wire_send_packed(a->conn, frame, level, &sent, e) : wire_send_buf(a->conn, WIRE_DATA, frame, e);
    set_writing(a, -1);
    begun_us = spend_sending(a, SPENT_LINK, begun_us); /* packing, too: where it is not the link's, flow.c ends it */
    if (result < 0)
        return -1;
    pipeline_offer_in_order(a, frame); /* what was left to us: see pipeline_hashed */
    if (level) {
        keep_to_pace(a, &a->send_pace, sent);
        spend_sending(a, SPENT_LIMIT, begun_us);
    }
    return 0;
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
    pipeline_spend(a, SPENT_SOURCE, begun_us);
    return send_frame(a, frame, in_stream, e);
}

/* ---- the jobs ---- */

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
    if (failed)
        pipeline_set_trouble(a, e);
    pthread_mutex_unlock(&a->lock);
}

bool workers_read_turn(struct agent *a, int64_t bytes, int64_t *waited_us)
{
    int64_t begun_us = clock_monotonic_us();
    bool paced, held_back;

    pthread_mutex_lock(&a->lock);
    paced = a->read_pace.per_s && !in_a_hurry(a);
    held_back = a->read_back_off && a->read_pace.per_s == a->read_back_off;
    pthread_mutex_unlock(&a->lock);
    if (!paced)
        return false;
    keep_to_pace(a, &a->read_pace, bytes);
    *waited_us += pipeline_spend(a, held_back ? SPENT_SOURCE : SPENT_LIMIT, begun_us) - begun_us;
    return true;
}

static void do_read(struct agent *a, struct offer *o)
{
    int64_t begun_us = clock_monotonic_us(), waited_us = 0;
    struct err e = {0};

    after_read(a, o, chunks_read(a, o, &waited_us, &e) < 0, &e);
    pipeline_spend(a, SPENT_SOURCE, begun_us + waited_us);
}

/* What can't be read, and can't be marked, is never offered: nothing that follows may be taken for a whole state, so the link starts over after a while. */
static void hash_and_offer(struct agent *a, struct offer *o, struct tools *t)
{
    bool for_hashing = o->for_hashing; /* such an offer is the engine's to free from OFFER_HASHED on */
    int64_t begun_us = clock_monotonic_us();
    struct err e = {0};

    if (o->failed && !for_hashing) {
        err_set(&e, ERR_IO, "a disk can't be read; starting over");
        pipeline_break_after_status(a, &e);
        return;
    }
    if (!o->failed)
        hash_chunks(a, o);
    pipeline_spend(a, SPENT_SOURCE, begun_us);
    if (pipeline_hashed(a, o) && !for_hashing)
        pipeline_offer_in_order(a, &t->frame);
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
            pipeline_set_state(a, o, OFFER_SENT);
        pthread_mutex_lock(&a->lock);
        a->senders--;
        pthread_mutex_unlock(&a->lock);
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
    bool to_send = a->urgent.count && a->urgent.jobs[a->urgent.first].kind == JOB_SEND;
    struct job_queue *q = a->urgent.count && !(to_send && a->senders && pipeline_one_sends(a)) ? &a->urgent : &a->later;

    if (!q->count)
        return false;
    *job = q->jobs[q->first];
    q->first = (q->first + 1) % ARRAY_COUNT(q->jobs);
    q->count--;
    a->senders += job->kind == JOB_SEND;
    return true;
}

void workers_hurry(struct agent *a, bool hurry)
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

int workers_start(struct agent *a, struct err *e)
{
    pthread_attr_t attributes;

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

void workers_stop(struct agent *a)
{
    pthread_mutex_lock(&a->lock);
    a->workers_stop = true;
    a->urgent.count = a->later.count = 0;
    pthread_cond_broadcast(&a->work);
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < a->worker_count; i++)
        pthread_join(a->workers[i], NULL);
    a->worker_count = 0;
}
