/* fakereplicator: the other end of the wire for the agent's tests: holds chunks by hash in memory, applies offers in order, keeps
 * points as copies of its map. Strict: anything that wire.md forbids fails the test. */
#pragma once

#include "base/clock.h"
#include "base/zip.h"
#include "wire/conn.h"
#include "tap.h"
#include "testca.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#define FAKE_BUCKETS 65536
#define FAKE_POINTS 64

struct blob {
    uint8_t hash[HASH_SHA256_SIZE];
    struct blob *next;
    uint8_t bytes[];
};
struct pending {
    struct pending *next;
    struct wire_offer *offer; /* NULL: a point */
    struct wire_point point;
    struct wire_need left; /* what was asked for and hasn't come */
    int left_count;
    uint8_t *pages[WIRE_OFFER_CHUNKS]; /* new pages, by entry */
};
struct fake_disk {
    struct wire_disk info;
    int64_t chunk_count;
    struct blob **map; /* NULL: unknown; &fake_zero */
    int64_t quiet_offered; /* how often one of its first chunks (fake's quiet_chunks) was offered */
    int64_t known_offered; /* and how often one that there was already */
};
struct fake_point {
    struct wire_point info;
    int disk_count;
    struct fake_disk disks[4];
};

static struct blob fake_zero;

struct fake {
    struct test_ca ca;
    char *pem[2];
    struct tls_context *tls;
    int listener, port;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool stop; /* written by another thread than those that look */
    struct wire_conn *conn;
    int connections;
    char server_name[64];

    struct blob *buckets[FAKE_BUCKETS];
    char epoch[WIRE_TOKEN_SIZE];
    int64_t applied;
    struct fake_disk disks[4];
    int disk_count;
    struct pending *first, **last;

    int64_t quiet_chunks;
    int64_t chunks_offered, chunks_received, pages_received, data_frames, duplicates;
    int cut_after_offers;      /* > 0: the connection is cut after that many */
    bool keep_quiet;           /* no ACKs */
    bool ask_for_zeroes;       /* once, against the protocol: for the first that is offered next */
    struct fake_point points[FAKE_POINTS];
    int point_count;
    struct wire_failure failure; /* the last POINT_FAILED or HASH_FAILED */
    int failures;
    struct wire_thawed thawed;
    int thaw_count;
    struct wire_hash_done hashed;
    int hash_count;
    int64_t hashes_received;
    uint8_t *hashes;           /* of disk 0's chunks */
    struct wire_status status;
    int statuses;
    struct wire_failure refusal; /* what the agent said before it left */
    int refusals;
    struct wire_failure excuse; /* what it said instead of HELLO */
    int excuses;
    struct wire_failure bye;
    int byes;
    int begins;
    int64_t at_request; /* of the last POINT_AT */
    int at_step;
    int64_t next_request;
    int64_t hope_ms;    /* of the points that are asked for */
    char fault[256];           /* what the agent did wrong */
};

static void fake_fault(struct fake *f, const char *what)
{
    if (!f->fault[0])
        snprintf(f->fault, sizeof f->fault, "%.200s", what);
}

static struct blob **fake_find(struct fake *f, const uint8_t *hash)
{
    struct blob **at = &f->buckets[hash[0] << 8 | hash[1]];

    while (*at && memcmp((*at)->hash, hash, HASH_SHA256_SIZE) != 0)
        at = &(*at)->next;
    return at;
}

static struct blob *fake_keep(struct fake *f, const uint8_t *bytes)
{
    uint8_t hash[HASH_SHA256_SIZE];
    struct blob **at;

    hash_sha256(bytes, WIRE_CHUNK_SIZE, hash);
    at = fake_find(f, hash);
    if (!*at) {
        *at = xcalloc(1, sizeof **at + WIRE_CHUNK_SIZE);
        memcpy((*at)->hash, hash, sizeof hash);
        memcpy((*at)->bytes, bytes, WIRE_CHUNK_SIZE);
    }
    return *at;
}

/* The chunk with some pages anew. */
static struct blob *fake_lay_over(struct fake *f, const struct blob *base, uint32_t pages, const uint8_t *from)
{
    uint8_t bytes[WIRE_CHUNK_SIZE] = {0};

    if (!base)
        fake_fault(f, "pages of a chunk that was never offered whole");
    else if (base != &fake_zero)
        memcpy(bytes, base->bytes, sizeof bytes);
    for (; pages; pages &= pages - 1, from += WIRE_PAGE_SIZE)
        memcpy(bytes + (size_t)__builtin_ctz(pages) * WIRE_PAGE_SIZE, from, WIRE_PAGE_SIZE);
    return fake_keep(f, bytes);
}

static void fake_free(struct pending *p)
{
    for (unsigned i = 0; i < ARRAY_COUNT(p->pages); i++)
        free(p->pages[i]);
    free(p->offer);
    free(p);
}

static void fake_snapshot(struct fake *f, const struct wire_point *p)
{
    struct fake_point *to = &f->points[f->point_count];

    MUST(f->point_count < FAKE_POINTS);
    to->info = *p;
    to->disk_count = f->disk_count;
    for (int i = 0; i < f->disk_count; i++) {
        to->disks[i] = f->disks[i];
        to->disks[i].map = xcalloc((size_t)f->disks[i].chunk_count, sizeof(struct blob *));
        for (int64_t k = 0; k < f->disks[i].chunk_count; k++)
            if (!(to->disks[i].map[k] = f->disks[i].map[k]))
                fake_fault(f, "a point was committed while a chunk was never offered");
    }
    f->point_count++;
}

static void fake_apply(struct fake *f)
{
    while (f->first && !f->first->left_count) {
        struct pending *p = f->first;
        CLEANUP(buf_release) struct buf frame = {0};

        if (p->offer) {
            for (unsigned i = 0; i < p->offer->count; i++) {
                const struct wire_entry *entry = &p->offer->entries[i];
                struct blob **at = &f->disks[p->offer->disk].map[entry->chunk];

                *at = entry->zero    ? &fake_zero
                      : entry->pages ? fake_lay_over(f, *at, entry->pages, p->pages[i])
                                     : *fake_find(f, entry->hash);
            }
            f->applied = (int64_t)p->offer->number;
            wire_ack_encode(&(struct wire_ack){p->offer->number}, &frame);
            if (!f->keep_quiet)
                wire_send_buf(f->conn, WIRE_ACK, &frame, NULL);
        } else {
            struct wire_point_done done = {.request = p->point.request};

            fake_snapshot(f, &p->point);
            snprintf(done.point, sizeof done.point, "p-%d", f->point_count);
            wire_send_message(f->conn, WIRE_POINT_DONE, &done, NULL);
        }
        f->first = p->next;
        if (!f->first)
            f->last = &f->first;
        fake_free(p);
    }
}

static void fake_queue(struct fake *f, struct pending *p)
{
    *f->last = p;
    f->last = &p->next;
}

static void fake_hear_offer(struct fake *f, const struct wire_frame *frame)
{
    struct pending *p = xcalloc(1, sizeof *p);
    struct wire_need need = {0};
    CLEANUP(buf_release) struct buf out = {0};

    p->offer = xcalloc(1, sizeof *p->offer);
    if (wire_offer_decode(frame->payload, frame->size, p->offer, NULL) < 0)
        return fake_fault(f, "an OFFER that doesn't decode");
    if ((int64_t)p->offer->number <= f->applied || p->offer->disk >= f->disk_count)
        fake_fault(f, "an OFFER with an old number or an unknown disk");
    need.offer = p->offer->number;
    need.count = p->offer->count;
    for (unsigned i = 0; i < need.count; i++)
        if (p->offer->entries[i].chunk >= f->disks[p->offer->disk].chunk_count)
            return fake_fault(f, "an OFFER past the disk's end");
        else if (!p->offer->entries[i].zero && (p->offer->entries[i].pages || !*fake_find(f, p->offer->entries[i].hash)))
            wire_need_set(&need, i), p->left_count++;
    for (unsigned i = 0; f->ask_for_zeroes && i < need.count; i++)
        if (p->offer->entries[i].zero) {
            wire_need_set(&need, i), p->left_count++;
            f->ask_for_zeroes = false;
        }
    p->left = need;
    f->chunks_offered += need.count;
    for (unsigned i = 0; i < need.count; i++) {
        struct fake_disk *d = &f->disks[p->offer->disk];

        d->quiet_offered += p->offer->entries[i].chunk < f->quiet_chunks;
        d->known_offered += d->map[p->offer->entries[i].chunk] != NULL;
    }
    fake_queue(f, p);
    wire_need_encode(&need, &out);
    wire_send_buf(f->conn, WIRE_NEED, &out, NULL);
    if (f->cut_after_offers && --f->cut_after_offers == 0)
        wire_conn_cut(f->conn);
}

static void fake_hear_data(struct fake *f, struct zip *z, const struct wire_frame *frame)
{
    struct wire_data data;
    struct wire_data_chunk c;
    struct pending *p = f->first;

    if (wire_data_decode(frame->payload, frame->size, &data, NULL) < 0)
        return fake_fault(f, "a DATA that doesn't decode");
    while (p && (!p->offer || p->offer->number != data.offer))
        p = p->next;
    if (!p)
        return fake_fault(f, "DATA for an offer that isn't open");
    f->data_frames++;
    while (wire_data_next(&data, &c)) {
        const uint8_t *hash = c.entry < p->offer->count ? p->offer->entries[c.entry].hash : NULL;
        struct blob **at = hash ? fake_find(f, hash) : NULL, *b;
        struct err e = {0};

        if (!at)
            return fake_fault(f, "DATA for an entry that there isn't");
        if (!wire_needs(&p->left, c.entry))
            return fake_fault(f, "DATA that wasn't asked for");
        p->left.bitmap[c.entry / 8] &= (uint8_t)~(1u << c.entry % 8);
        p->left_count--;
        if (c.raw_size != wire_entry_size(&p->offer->entries[c.entry]))
            return fake_fault(f, "DATA of another size than was offered");
        if (p->offer->entries[c.entry].pages) {
            f->pages_received += c.raw_size / WIRE_PAGE_SIZE;
            p->pages[c.entry] = xmalloc(WIRE_CHUNK_SIZE);
            if (wire_data_unpack(z, &c, hash, p->pages[c.entry], &e) < 0)
                return fake_fault(f, e.message);
            continue;
        }
        f->chunks_received++;
        if (*at) {
            f->duplicates++;
            continue;
        }
        b = xcalloc(1, sizeof *b + WIRE_CHUNK_SIZE);
        memcpy(b->hash, hash, sizeof b->hash);
        if (wire_data_unpack(z, &c, hash, b->bytes, &e) < 0)
            return fake_fault(f, e.message);
        *at = b;
    }
}

static void fake_hear(struct fake *f, struct zip *z, const struct wire_frame *frame)
{
    struct wire_point point;
    struct wire_simple ping;
    struct wire_hashes hashes;
    const void *at = frame->payload;

    switch (frame->type) {
    case WIRE_OFFER: fake_hear_offer(f, frame); break;
    case WIRE_DATA: fake_hear_data(f, z, frame); break;
    case WIRE_POINT_BEGIN: f->begins++; break;
    case WIRE_POINT_COMMIT:
        if (wire_json_decode(WIRE_POINT_COMMIT, at, frame->size, &point, sizeof point, NULL) == 0) {
            struct pending *p = xcalloc(1, sizeof *p);

            p->point = point;
            fake_queue(f, p);
        } else {
            fake_fault(f, "a POINT_COMMIT that doesn't decode");
        }
        break;
    case WIRE_POINT_AT:
        if (wire_json_decode(WIRE_POINT_AT, at, frame->size, &ping, sizeof ping, NULL) < 0 || (ping.value != WIRE_READY && ping.value != WIRE_STILL))
            fake_fault(f, "a POINT_AT that is none");
        f->at_request = ping.request;
        f->at_step = (int)ping.value;
        break;
    case WIRE_POINT_FAILED:
    case WIRE_HASH_FAILED:
        wire_json_decode(frame->type, at, frame->size, &f->failure, sizeof f->failure, NULL);
        f->failures++;
        break;
    case WIRE_THAWED: f->thaw_count += wire_json_decode(WIRE_THAWED, at, frame->size, &f->thawed, sizeof f->thawed, NULL) == 0; break;
    case WIRE_HASHES:
        if (wire_hashes_decode(at, frame->size, &hashes, NULL) == 0) {
            f->hashes_received += hashes.count;
            if (hashes.disk == 0 && f->hashes)
                memcpy(f->hashes + (size_t)hashes.first_chunk * HASH_SHA256_SIZE, hashes.hashes, (size_t)hashes.count * HASH_SHA256_SIZE);
        } else {
            fake_fault(f, "a HASHES that doesn't decode");
        }
        break;
    case WIRE_HASH_DONE: f->hash_count += wire_json_decode(WIRE_HASH_DONE, at, frame->size, &f->hashed, sizeof f->hashed, NULL) == 0; break;
    case WIRE_STATUS: f->statuses += wire_json_decode(WIRE_STATUS, at, frame->size, &f->status, sizeof f->status, NULL) == 0; break;
    case WIRE_PING:
        if (wire_json_decode(WIRE_PING, at, frame->size, &ping, sizeof ping, NULL) == 0)
            wire_send_message(f->conn, WIRE_PONG, &ping, NULL);
        break;
    case WIRE_PONG: break;
    case WIRE_REFUSE: f->refusals += wire_json_decode(WIRE_REFUSE, at, frame->size, &f->refusal, sizeof f->refusal, NULL) == 0; break;
    case WIRE_BYE: f->byes += wire_json_decode(WIRE_BYE, at, frame->size, &f->bye, sizeof f->bye, NULL) == 0; break;
    default: fake_fault(f, wire_type_name(frame->type));
    }
}

/* While no agent is there: it holds nothing of any disk. */
__attribute__((unused)) static void fake_forget_disks(struct fake *f)
{
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < f->disk_count; i++) {
        free(f->disks[i].map);
        f->disks[i] = (struct fake_disk){0};
    }
    f->disk_count = 0;
    pthread_mutex_unlock(&f->lock);
}

/* The disks are those of HELLO now, by their identity; what is not named has no map any more. */
static void fake_take_disks(struct fake *f, const struct wire_hello *hello)
{
    struct fake_disk now[ARRAY_COUNT(f->disks)] = {0};

    MUST(hello->disk_count <= (int64_t)ARRAY_COUNT(now));
    for (int64_t i = 0; i < hello->disk_count; i++) {
        for (int k = 0; k < f->disk_count && !now[i].map; k++)
            if (strcmp(f->disks[k].info.id, hello->disks[i].id) == 0) {
                now[i] = f->disks[k];
                f->disks[k].map = NULL;
            }
        now[i].info = hello->disks[i];
    }
    for (int k = 0; k < f->disk_count; k++)
        free(f->disks[k].map);
    memcpy(f->disks, now, sizeof now);
    f->disk_count = (int)hello->disk_count;
}

static bool fake_greet(struct fake *f, struct wire_conn *c)
{
    struct wire_hello *hello = xcalloc(1, sizeof *hello);
    struct wire_welcome *welcome = xcalloc(1, sizeof *welcome);
    struct wire_frame frame = {0};
    bool closed, fine = wire_recv(c, &frame, 5000, &closed, NULL) == 1 && frame.type == WIRE_HELLO &&
                        wire_json_decode(WIRE_HELLO, frame.payload, frame.size, hello, sizeof *hello, NULL) == 0;

    if (!fine && frame.type == WIRE_REFUSE)
        f->excuses += wire_json_decode(WIRE_REFUSE, frame.payload, frame.size, &f->excuse, sizeof f->excuse, NULL) == 0;
    if (fine) {
        *welcome = (struct wire_welcome){.version = WIRE_VERSION, .applied = f->applied, .window_offers = 64, .disk_count = hello->disk_count};
        memcpy(welcome->epoch, f->epoch, sizeof f->epoch);
        fake_take_disks(f, hello);
        for (int i = 0; i < hello->disk_count; i++) {
            struct fake_disk *d = &f->disks[i];
            int64_t chunks = (hello->disks[i].size_bytes + WIRE_CHUNK_SIZE - 1) / WIRE_CHUNK_SIZE;

            if (chunks != d->chunk_count) {
                d->map = xrealloc(d->map, (size_t)chunks * sizeof *d->map);
                for (int64_t k = d->chunk_count; k < chunks; k++)
                    d->map[k] = NULL;
                d->chunk_count = chunks;
            }
            memcpy(welcome->disks[i].id, d->info.id, sizeof d->info.id);
            for (int64_t k = 0; k < chunks; k++)
                welcome->disks[i].chunks_known += d->map[k] != NULL;
            welcome->disks[i].whole = welcome->disks[i].chunks_known == chunks;
        }
        if (strcmp(f->epoch, hello->epoch) != 0)
            f->applied = 0;
        memcpy(f->epoch, hello->epoch, sizeof f->epoch);
        fine = wire_send_message(c, WIRE_WELCOME, welcome, NULL) == 0;
    }
    free(hello);
    free(welcome);
    return fine;
}

static void fake_serve(struct fake *f, struct wire_conn *c)
{
    CLEANUP(zip_free) struct zip *z = zip_new(1);
    struct wire_frame frame;
    bool closed = false;
    int got = 0, excuses;

    pthread_mutex_lock(&f->lock);
    excuses = f->excuses;
    if (!fake_greet(f, c) && f->excuses == excuses)
        fake_fault(f, "no HELLO that decodes");
    if (f->excuses > excuses) {
        pthread_cond_broadcast(&f->changed);
        pthread_mutex_unlock(&f->lock);
        return;
    }
    f->conn = c;
    f->connections++;
    pthread_mutex_unlock(&f->lock);
    while (got >= 0 && !closed) {
        got = wire_recv(c, &frame, 100, &closed, NULL);
        pthread_mutex_lock(&f->lock);
        if (got > 0)
            fake_hear(f, z, &frame);
        fake_apply(f);
        if (f->stop)
            got = -1;
        pthread_cond_broadcast(&f->changed);
        pthread_mutex_unlock(&f->lock);
    }
    pthread_mutex_lock(&f->lock);
    f->conn = NULL;
    while (f->first) { /* what wasn't applied is forgotten */
        struct pending *p = f->first;

        f->first = p->next;
        fake_free(p);
    }
    f->last = &f->first;
    pthread_mutex_unlock(&f->lock);
}

static void *fake_run(void *user)
{
    struct fake *f = user;

    for (;;) {
        struct tls_stream *s = NULL;
        CLEANUP(wire_conn_free) struct wire_conn *c = NULL;
        int fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
            return NULL;
        if (tls_open(f->tls, fd, "agent:", 5000, &s, NULL) < 0)
            continue;
        snprintf(f->server_name, sizeof f->server_name, "%s", tls_peer_name(s));
        c = wire_conn_new(&s, 5000);
        fake_serve(f, c);
        if (f->stop)
            return NULL;
    }
}

/* Writes the agent's identity into folder. */
__attribute__((unused)) static struct fake *fake_start(const char *folder)
{
    struct fake *f = xcalloc(1, sizeof *f);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    char *agent[2], path[300];
    const char *names[] = {"cert.pem", "key.pem", "ca.pem"};

    test_ca_make(&f->ca);
    test_ca_sign(&f->ca, "replicator:r1", f->pem);
    test_ca_sign(&f->ca, "agent:web01", agent);
    for (int i = 0; i < 3; i++) {
        const char *text = i < 2 ? agent[i] : f->ca.pem;
        FILE *file;

        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        file = fopen(path, "w");
        MUST(file && fputs(text, file) >= 0 && fclose(file) == 0);
    }
    free(agent[0]);
    free(agent[1]);
    MUST(tls_context_new(TLS_SERVER, f->pem[0], f->pem[1], f->ca.pem, &f->tls, NULL) == 0);
    f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(bind(f->listener, (struct sockaddr *)&address, size) == 0 && listen(f->listener, 8) == 0);
    MUST(getsockname(f->listener, (struct sockaddr *)&address, &size) == 0);
    f->port = ntohs(address.sin_port);
    f->last = &f->first;
    f->next_request = 1;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    MUST(pthread_create(&f->thread, NULL, fake_run, f) == 0);
    return f;
}

/* What was said of the agent's state counts no more. */
__attribute__((unused)) static void fake_forget_statuses(struct fake *f)
{
    pthread_mutex_lock(&f->lock);
    f->statuses = 0;
    pthread_mutex_unlock(&f->lock);
}

__attribute__((unused)) static void fake_forget_points(struct fake *f)
{
    for (int i = 0; i < f->point_count; i++)
        for (int k = 0; k < f->points[i].disk_count; k++)
            free(f->points[i].disks[k].map);
    f->point_count = 0;
}

__attribute__((unused)) static void fake_stop(struct fake *f)
{
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    if (f->conn)
        wire_conn_cut(f->conn);
    pthread_mutex_unlock(&f->lock);
    shutdown(f->listener, SHUT_RDWR);
    close(f->listener);
    pthread_join(f->thread, NULL);
    fake_forget_points(f);
    for (int i = 0; i < 4; i++)
        free(f->disks[i].map);
    for (int i = 0; i < FAKE_BUCKETS; i++)
        for (struct blob *b = f->buckets[i], *next; b; b = next) {
            next = b->next;
            free(b);
        }
    tls_context_free(&f->tls);
    test_ca_release(&f->ca);
    free(f->pem[0]);
    free(f->pem[1]);
    free(f->hashes);
    free(f);
}

/* Waits until a counter reaches a value. */
__attribute__((unused)) static bool fake_wait(struct fake *f, const int *counter, int value, int timeout_ms)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    bool reached;

    for (;;) {
        pthread_mutex_lock(&f->lock);
        reached = *counter >= value;
        pthread_mutex_unlock(&f->lock);
        if (reached || clock_monotonic_us() > until_us)
            return reached;
        clock_sleep_us(5000);
    }
}

__attribute__((unused)) static bool fake_wait_state(struct fake *f, const char *state, int timeout_ms)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    bool reached;

    for (;;) {
        pthread_mutex_lock(&f->lock);
        reached = f->statuses && strcmp(f->status.state, state) == 0 && f->conn;
        pthread_mutex_unlock(&f->lock);
        if (reached || clock_monotonic_us() > until_us)
            return reached;
        clock_sleep_us(5000);
    }
}

__attribute__((unused)) static void fake_send(struct fake *f, unsigned type, const void *message, size_t size)
{
    pthread_mutex_lock(&f->lock);
    if (f->conn)
        wire_send_json(f->conn, type, message, size, NULL);
    pthread_mutex_unlock(&f->lock);
}

/* The point, or NULL: f->failure says why (or time is over). */
__attribute__((unused)) static struct fake_point *fake_point(struct fake *f, int consistency, bool hold, int budget_ms, int timeout_ms)
{
    struct wire_take_point take = {.request = f->next_request++, .consistency = consistency, .hold = hold, .timeout_ms = timeout_ms,
                                   .freeze_budget_ms = budget_ms, .hope_ms = f->hope_ms};
    int64_t until_us = clock_monotonic_us() + (timeout_ms + 10000) * US_PER_MS;
    int points, failures;

    pthread_mutex_lock(&f->lock);
    points = f->point_count;
    failures = f->failures;
    pthread_mutex_unlock(&f->lock);
    fake_send(f, WIRE_TAKE_POINT, &take, sizeof take);
    while (clock_monotonic_us() < until_us) {
        bool done, failed;

        pthread_mutex_lock(&f->lock);
        done = f->point_count > points;
        failed = f->failures > failures;
        pthread_mutex_unlock(&f->lock);
        if (done)
            return &f->points[points];
        if (failed)
            return NULL;
        clock_sleep_us(2000);
    }
    return NULL;
}

/* A point in step with other servers, as far as the step; false where it failed before. */
__attribute__((unused)) static bool fake_step(struct fake *f, int consistency, bool hold, int budget_ms, int step)
{
    struct wire_take_point take = {.request = f->next_request++, .consistency = consistency, .hold = hold, .timeout_ms = 30000,
                                   .freeze_budget_ms = budget_ms, .group = true};
    struct wire_simple go = {.request = take.request, .value = WIRE_STILL};
    int failures;
    int64_t until_us = clock_monotonic_us() + 40 * US_PER_S;
    bool there = false, failed = false;

    pthread_mutex_lock(&f->lock);
    failures = f->failures;
    f->at_step = 0;
    pthread_mutex_unlock(&f->lock);
    fake_send(f, WIRE_TAKE_POINT, &take, sizeof take);
    if (step == WIRE_STILL && fake_wait(f, &f->at_step, WIRE_READY, 30000))
        fake_send(f, WIRE_POINT_GO, &go, sizeof go);
    while (!there && !failed && clock_monotonic_us() < until_us) {
        pthread_mutex_lock(&f->lock);
        there = f->at_step == step && f->at_request == take.request;
        failed = f->failures > failures;
        pthread_mutex_unlock(&f->lock);
        clock_sleep_us(1000);
    }
    return there;
}

__attribute__((unused)) static void fake_go(struct fake *f, int64_t step)
{
    struct wire_simple go = {.request = f->next_request - 1, .value = step};

    fake_send(f, WIRE_POINT_GO, &go, sizeof go);
}

/* The content of a point's disk, size_bytes long; the caller frees. */
__attribute__((unused)) static uint8_t *fake_image(const struct fake_point *p, int disk)
{
    const struct fake_disk *d = &p->disks[disk];
    uint8_t *image = xcalloc((size_t)d->chunk_count, WIRE_CHUNK_SIZE);

    for (int64_t k = 0; k < d->chunk_count; k++)
        if (d->map[k] && d->map[k] != &fake_zero)
            memcpy(image + k * WIRE_CHUNK_SIZE, d->map[k]->bytes, WIRE_CHUNK_SIZE);
    return image;
}
