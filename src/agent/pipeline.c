/* Offers, from the filling to the acknowledgement, in their order. What is done to each on its way is the workers' (workers.c). */
#include "agent/engine.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LOOK_EVERY_US (50 * US_PER_MS)
#define STATUS_WAIT_US (1200 * US_PER_MS) /* it comes every second */

static struct offer *slot_of(struct agent *a, uint64_t number) { return &a->offers[number % OFFERS_MAX]; }
static struct kept_offer *kept_of(struct agent *a, uint64_t number) { return &a->kept->offers[number % OFFERS_MAX]; }

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
int64_t pipeline_spend(struct agent *a, enum spent what, int64_t begun_us)
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
    struct stretch *s;
    int disk = 0;

    pthread_mutex_lock(&a->lock);
    s = pipeline_room(a) > 0 ? order_next(a, &disk) : NULL;
    if (s) {
        o = slot_of(a, a->next_number);
        MUST(o->state == OFFER_FREE);
        *o = (struct offer){.state = OFFER_FILLED, .number = a->next_number++, .disk = disk, .stretch = s, .read_only = read_only,
                            .batch = a->free_batches[--a->free_count]};
        a->kept->next_number = a->next_number;
        kept_of(a, o->number)->disk = (uint32_t)disk;
        o->count = todo_next(a, disk, s, kept_of(a, o->number), o->chunks, o->pages, BATCH_CHUNKS);
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

bool pipeline_may_read_again(struct agent *a)
{
    bool may;

    pthread_mutex_lock(&a->lock);
    may = a->tracker || pipeline_all_at_least(a, OFFER_HASHED);
    pthread_mutex_unlock(&a->lock);
    return may;
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

/* Under lock. */
void pipeline_set_trouble(struct agent *a, const struct err *e)
{
    a->trouble = *e;
    a->trouble_us = clock_monotonic_us();
    a->trouble_of_reading = true;
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
        kept_done(kept_of(a, o->number));
        a->acked++;
    }
    end_busy(a);
}

/* The other end hears why with a STATUS, before the link starts over. */
void pipeline_break_after_status(struct agent *a, const struct err *e)
{
    int64_t until_us = clock_monotonic_us() + STATUS_WAIT_US;
    bool waits = true;

    while (waits && clock_monotonic_us() < until_us && !atomic_load(a->stop)) {
        clock_sleep_us(LOOK_EVERY_US);
        pthread_mutex_lock(&a->lock);
        waits = !a->broken && !a->workers_stop;
        pthread_mutex_unlock(&a->lock);
    }
    agent_broken(a, e);
}

/* One thread at a time sends the OFFERs whose turn it is; the others leave theirs to it. */
void pipeline_offer_in_order(struct agent *a, struct buf *frame)
{
    struct wire_offer *message = xmalloc(sizeof *message);
    struct err e = {0};
    bool failed = false;

    pthread_mutex_lock(&a->lock);
    while (!a->offering && !a->broken && a->conn && a->next_to_offer < a->next_number) {
        struct offer *o = slot_of(a, a->next_to_offer);
        int64_t begun_us;
        int sent;

        if (o->state != OFFER_HASHED)
            break;
        if (unreadable_apply(a, o, &e) < 0) {
            pipeline_set_trouble(a, &e);
            failed = true;
            break;
        }
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
        pipeline_spend(a, SPENT_LINK, begun_us);
        if (sent < 0)
            agent_broken(a, &e);
        pthread_mutex_lock(&a->lock);
        a->offering = false;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    if (failed)
        pipeline_break_after_status(a, &e);
    free(message);
}

void pipeline_need(struct agent *a, const struct wire_need *n, struct err *e)
{
    struct offer *o = slot_of(a, n->offer);
    int needed = 0;

    pthread_mutex_lock(&a->lock);
    if (n->offer <= a->acked || n->offer >= a->next_number || o->state != OFFER_OFFERED || n->count != o->offered) {
        err_set(e, ERR_PROTOCOL, "NEED for offer %llu, which waits for none", (unsigned long long)n->offer);
    } else {
        bool of_zeroes = false;

        for (int i = 0; i < o->offered; i++) {
            of_zeroes |= wire_needs(n, (unsigned)i) && o->zero[i];
            needed += wire_needs(n, (unsigned)i);
        }
        if (o->batch) /* else that was known before: pipeline_hashed */
            order_learn(o->stretch, needed, o->offered);
        o->need = *n;
        o->state = needed ? OFFER_SENDING : OFFER_SENT;
        if (of_zeroes)
            err_set(e, ERR_PROTOCOL, "NEED asks for a zero chunk");
        else if (needed)
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
        __atomic_store_n(&a->kept->reported_ack, number, __ATOMIC_SEQ_CST);
        advance_acked(a);
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    return result;
}

void pipeline_set_state(struct agent *a, struct offer *o, enum offer_state state)
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

bool pipeline_one_sends(const struct agent *a) { return atomic_load(&a->pack_level) > 0; }

bool pipeline_hashed(struct agent *a, struct offer *o)
{
    bool nothing = true, left;

    for (int i = 0; i < o->offered; i++)
        nothing &= o->zero[i];
    pthread_mutex_lock(&a->lock);
    o->state = OFFER_HASHED;
    if (nothing && !o->for_hashing && !o->failed) {
        order_learn(o->stretch, 0, o->offered);
        give_batch_back(a, o);
    }
    left = pipeline_one_sends(a) && a->writing > 0; /* who has the connection offers what there is when it is done: waiting for it would be no reading */
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    return !left;
}

/* ---- start, stop, starting over ---- */

/* Pages of their own: what is given back is the machine's again at once. */
int pipeline_have_buffers(struct agent *a, struct err *e)
{
    for (; a->free_count < a->batch_count; a->free_count++) {
        void *batch = mmap(NULL, BATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (batch == MAP_FAILED)
            return err_set(e, ERR_LIMIT, "there is no memory for %lld MiB of buffers: set memory_mib or memory_bound_mib lower",
                           (long long)(a->memory.buffers_bytes >> 20));
        a->free_batches[a->free_count] = batch;
    }
    return 0;
}

void pipeline_lend_buffers(struct agent *a)
{
    while (a->free_count > 0)
        munmap(a->free_batches[--a->free_count], BATCH_BYTES);
}

static int make_batches(struct agent *a, struct err *e)
{
    a->batch_count = (int)(a->memory.buffers_bytes / (int64_t)BATCH_BYTES);
    a->free_batches = xcalloc((size_t)a->batch_count, sizeof *a->free_batches);
    return pipeline_have_buffers(a, e);
}

int pipeline_start(struct agent *a, struct err *e)
{
    static const uint8_t zeros[WIRE_CHUNK_SIZE];

    hash_sha256(zeros, sizeof zeros, a->zero_hash);
    a->window = OFFERS_MAX;
    return make_batches(a, e) < 0 ? -1 : workers_start(a, e);
}

void pipeline_stop(struct agent *a)
{
    workers_stop(a);
    for (unsigned i = 0; i < OFFERS_MAX; i++) {
        give_batch_back(a, &a->offers[i]);
        unreadable_drop(&a->offers[i]);
    }
    pipeline_lend_buffers(a);
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
        order_rewind(d);
        give_batch_back(a, o);
        unreadable_drop(o);
        o->state = OFFER_FREE;
        kept_done(kept_of(a, n));
    }
    a->acked = a->next_number - 1;
    a->next_to_offer = a->next_number;
    end_busy(a);
    if (a->pass == PASS_DRAINING)
        engine_set_pass(a, PASS_RUNNING);
    a->take_watermark = UINT64_MAX;
    pthread_mutex_unlock(&a->lock);
    atomic_store(&a->todo_bytes, todo_bytes(a));
}
