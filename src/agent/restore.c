#include "agent/restore.h"

#include "agent/engine.h"
#include "agent/target.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/zip.h"
#include "wire/conn.h"

#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define SILENCE_US (60 * US_PER_S)
#define WRITE_TIMEOUT_MS 60000
#define REPORT_TIMEOUT_MS 30000
#define SAY_EVERY_US (5 * US_PER_S)
#define PASSES_MOST 4      /* a disk that does not keep what is written to it is found in the second */
#define RETRY_FIRST_MS 500
#define RETRY_MOST_MS 15000
#define RUN_CHUNKS 16      /* read at once */
#define OPEN_OFFERS 16     /* whose DATA is on its way; the replicator sends fewer */

/* How far a pass over all disks has come. */
struct place {
    int disk;      /* which the next OFFER must be for, and from which chunk on: so nothing is left out */
    int64_t chunk;
    int64_t seen_bytes, different; /* before it */
};

struct open_offer {
    uint64_t number;
    int pending;
    struct place after; /* its last chunk */
    struct wire_need need;
    struct wire_offer *offer;
};

struct restore {
    const struct agent_config *config;
    const struct restore_order *order;
    const atomic_bool *stop;
    struct restore_outcome *out;
    struct tls_context *tls;
    struct zip *zip;
    struct wire_conn *conn;
    struct wire_restoring *about;
    struct target targets[LIMIT_DISKS_PER_SERVER];
    int target_count;       /* 0: not mapped yet */
    uint8_t *run, *chunk, *zeros; /* RUN_CHUNKS, one, one; aligned */
    /* this pass */
    struct place at, done;  /* done: all before it is on the disks as the point has it; a connection that breaks is followed by one from there on */
    uint64_t last_number, acked; /* of this connection */
    struct open_offer open[OPEN_OFFERS];
    int open_first, open_count;
    int64_t said_us;
};

/* ---- disks ---- */

static void targets_close(struct restore *r)
{
    for (int i = 0; i < r->target_count; i++)
        target_close(&r->targets[i]);
    r->target_count = 0;
}

/* Every disk of the point has its place, and each place is free: else nothing is begun. */
static int map_disks(struct restore *r, struct err *e)
{
    const char *list = r->order->onto;

    for (int i = 0; i < r->about->disk_count; i++) {
        struct target *t = &r->targets[i];

        *t = (struct target){.about = r->about->disks[i], .fd = -1};
        r->target_count = i + 1;
        if ((list ? target_name_next(t, &list, e) : target_name_by_identity(t, r->config, e)) < 0 || target_open(t, r->order->dry_run, e) < 0)
            return -1;
        for (int k = 0; k < i; k++)
            if (strcmp(r->targets[k].name, t->name) == 0)
                return err_set(e, ERR_INVALID, "%s is named twice", t->name);
        log_info("%s takes disk %s, %lld bytes", t->name, t->about.id, (long long)t->about.size_bytes);
    }
    if (list && *list)
        return err_set(e, ERR_INVALID, "--onto names more disks than the point has (%lld)", (long long)r->about->disk_count);
    return 0;
}

/* A point that another try finds must be the one that was begun. */
static int same_as_before(const struct restore *r, struct err *e)
{
    if (strcmp(r->about->point, r->out->point) != 0 || r->about->disk_count != r->target_count)
        return err_set(e, ERR_CONFLICT, "the replicator offers recovery point %s now, and %s was begun", r->about->point, r->out->point);
    for (int i = 0; i < r->target_count; i++)
        if (strcmp(r->about->disks[i].id, r->targets[i].about.id) != 0 || r->about->disks[i].size_bytes != r->targets[i].about.size_bytes)
            return err_set(e, ERR_CONFLICT, "the disks of recovery point %s are others than before", r->about->point);
    return 0;
}

/* A replicator that does not know of it begins with the first disk. */
static int go_on(struct restore *r, struct err *e)
{
    bool from_done = r->about->from_disk == r->done.disk && r->about->from_chunk == r->done.chunk;

    if (!from_done && (r->about->from_disk || r->about->from_chunk))
        return err_set(e, ERR_PROTOCOL, "RESTORING from chunk %lld of disk %lld, which was not asked for", (long long)r->about->from_chunk, (long long)r->about->from_disk);
    r->at = r->done = from_done ? r->done : (struct place){0};
    return 0;
}

/* ---- the stream ---- */

static bool all_zero(const uint8_t *bytes) { return !bytes[0] && memcmp(bytes, bytes + 1, WIRE_CHUNK_SIZE - 1) == 0; }

/* Whether the chunk is as offered. bytes: NULL where it can't be read. */
static bool is_same(const struct wire_entry *entry, const uint8_t *bytes)
{
    uint8_t hash[HASH_SHA256_SIZE];

    if (!bytes)
        return false;
    if (entry->zero)
        return all_zero(bytes);
    hash_sha256(bytes, WIRE_CHUNK_SIZE, hash);
    return memcmp(hash, entry->hash, sizeof hash) == 0;
}

static int look_at_chunk(struct restore *r, struct target *t, struct open_offer *o, unsigned i, const uint8_t *bytes, struct err *e)
{
    const struct wire_entry *entry = &o->offer->entries[i];

    r->at.seen_bytes += (int64_t)target_chunk_size(t, entry->chunk);
    if (is_same(entry, bytes)) {
        target_same(t, entry->chunk, bytes);
        return 0;
    }
    r->at.different += (int64_t)target_chunk_size(t, entry->chunk);
    if (r->order->dry_run)
        return 0;
    if (entry->zero)
        return target_write(t, entry->chunk, r->zeros, e);
    wire_need_set(&o->need, i);
    o->pending++;
    return 0;
}

static int acknowledge(struct restore *r, struct err *e)
{
    struct wire_ack ack = {.offer = r->acked};

    while (r->open_count && r->open[r->open_first].pending == 0) {
        ack.offer = r->open[r->open_first].number;
        r->done = r->open[r->open_first].after;
        r->open_first = (r->open_first + 1) % OPEN_OFFERS;
        r->open_count--;
    }
    if (ack.offer > r->acked) {
        CLEANUP(buf_release) struct buf frame = {.limit_bytes = WIRE_PAYLOAD_LIMIT};

        r->acked = ack.offer;
        wire_ack_encode(&ack, &frame);
        return wire_send_buf(r->conn, WIRE_ACK, &frame, e);
    }
    return 0;
}

/* Offers come without a gap: disk after disk, chunk after chunk. So what was seen whole is whole. */
static int check_offer(const struct restore *r, const struct wire_offer *o, struct err *e)
{
    if (o->number != r->last_number + 1 || o->disk != r->at.disk || r->open_count == OPEN_OFFERS)
        return err_set(e, ERR_PROTOCOL, "offer %llu for disk %u where %llu for disk %d was expected", (unsigned long long)o->number, o->disk,
                       (unsigned long long)r->last_number + 1, r->at.disk);
    for (unsigned i = 0; i < o->count; i++)
        if (o->entries[i].chunk != r->at.chunk + i || o->entries[i].chunk >= r->targets[r->at.disk].chunk_count || o->entries[i].pages)
            return err_set(e, ERR_PROTOCOL, "an offer of chunk %u where %lld was expected", o->entries[i].chunk, (long long)(r->at.chunk + i));
    return 0;
}

static int take_offer(struct restore *r, const struct wire_frame *f, struct err *e)
{
    struct open_offer *o = &r->open[(r->open_first + r->open_count) % OPEN_OFFERS];
    CLEANUP(buf_release) struct buf frame = {.limit_bytes = WIRE_PAYLOAD_LIMIT};
    struct target *t;

    if (r->at.disk >= r->target_count)
        return err_set(e, ERR_PROTOCOL, "an offer behind the last disk's end");
    if (r->open_count == OPEN_OFFERS || wire_offer_decode(f->payload, f->size, o->offer, e) < 0 || check_offer(r, o->offer, e) < 0)
        return e->kind ? -1 : err_set(e, ERR_PROTOCOL, "more than %d offers wait", OPEN_OFFERS);
    t = &r->targets[r->at.disk];
    o->number = o->offer->number;
    o->pending = 0;
    o->need = (struct wire_need){.offer = o->number, .count = o->offer->count};
    for (unsigned i = 0, count; i < o->offer->count; i += count) {
        bool readable;

        count = o->offer->count - i < RUN_CHUNKS ? o->offer->count - i : RUN_CHUNKS;
        readable = target_read(t, o->offer->entries[i].chunk, count, r->run); /* where not, writing may mend it, and the next pass looks again */
        for (unsigned k = 0; k < count; k++)
            if (look_at_chunk(r, t, o, i + k, readable ? r->run + (size_t)k * WIRE_CHUNK_SIZE : NULL, e) < 0)
                return -1;
    }
    r->last_number = o->number;
    r->at.chunk += o->offer->count;
    if (r->at.chunk == t->chunk_count) {
        r->at.chunk = 0;
        r->at.disk++;
    }
    o->after = r->at;
    r->open_count++;
    wire_need_encode(&o->need, &frame);
    return wire_send_buf(r->conn, WIRE_NEED, &frame, e) < 0 ? -1 : acknowledge(r, e);
}

static struct open_offer *offer_of(struct restore *r, uint64_t number)
{
    for (int i = 0; i < r->open_count; i++)
        if (r->open[(r->open_first + i) % OPEN_OFFERS].number == number)
            return &r->open[(r->open_first + i) % OPEN_OFFERS];
    return NULL;
}

static int take_data(struct restore *r, const struct wire_frame *f, struct err *e)
{
    struct wire_data_chunk c;
    struct wire_data data;
    struct open_offer *o;

    if (wire_data_decode(f->payload, f->size, &data, e) < 0)
        return -1;
    o = offer_of(r, data.offer);
    if (!o)
        return err_set(e, ERR_PROTOCOL, "DATA for offer %llu, which does not wait for any", (unsigned long long)data.offer);
    while (wire_data_next(&data, &c)) {
        const struct wire_entry *entry = &o->offer->entries[c.entry < o->offer->count ? c.entry : 0];

        if (c.entry >= o->offer->count || !wire_needs(&o->need, c.entry) || c.raw_size != WIRE_CHUNK_SIZE)
            return err_set(e, ERR_PROTOCOL, "DATA for entry %u, which was not asked for", c.entry);
        if (wire_data_unpack(r->zip, &c, entry->hash, r->chunk, e) < 0 || target_write(&r->targets[o->offer->disk], entry->chunk, r->chunk, e) < 0)
            return -1;
        r->out->received_bytes += c.stored_size;
        o->need.bitmap[c.entry / 8] &= (uint8_t)~(1u << (c.entry % 8));
        o->pending--;
    }
    return acknowledge(r, e);
}

static int refused(const struct wire_frame *f, struct err *e)
{
    struct wire_failure why;

    if (wire_json_decode(WIRE_REFUSE, f->payload, f->size, &why, sizeof why, e) < 0)
        return -1;
    return err_set(e, wire_failure_kind(&why), "the replicator refuses: %s", why.message);
}

static int next_frame(struct restore *r, struct wire_frame *f, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + SILENCE_US;
    bool closed = false;

    for (;;) {
        int got = wire_recv(r->conn, f, 500, &closed, e);

        if (got < 0)
            return -1;
        if (atomic_load(r->stop))
            return err_set(e, ERR_CANCELLED, "stopped");
        if (closed)
            return err_set(e, ERR_UNREACHABLE, "the replicator closed the connection");
        if (got && f->type == WIRE_REFUSE)
            return refused(f, e);
        if (got)
            return 0;
        if (clock_monotonic_us() > until_us)
            return err_set(e, ERR_TIMEOUT, "the replicator has been silent for a minute");
    }
}

static void say_progress(struct restore *r)
{
    if (clock_monotonic_us() - r->said_us < SAY_EVERY_US)
        return;
    r->said_us = clock_monotonic_us();
    log_info("%s: %lld of %lld MiB looked at, %lld MiB differed", r->targets[r->at.disk < r->target_count ? r->at.disk : r->target_count - 1].name,
             (long long)(r->at.seen_bytes >> 20), (long long)(r->out->total_bytes >> 20), (long long)(r->at.different >> 20));
}

/* ---- passes ---- */

static int begin(struct restore *r, struct err *e)
{
    CLEANUP(free_ptr) struct wire_restore *ask = xcalloc(1, sizeof *ask);
    struct wire_frame f;

    ask->version = WIRE_VERSION;
    snprintf(ask->agent_version, sizeof ask->agent_version, "%s", AGENT_VERSION);
    snprintf(ask->server, sizeof ask->server, "%s", r->config->server);
    snprintf(ask->point, sizeof ask->point, "%s", *r->out->point ? r->out->point : strcmp(r->order->point, "newest") == 0 ? "" : r->order->point);
    ask->from_disk = r->done.disk;
    ask->from_chunk = r->done.chunk;
    if (wire_send_message(r->conn, WIRE_RESTORE, ask, e) < 0 || next_frame(r, &f, e) < 0)
        return -1;
    if (f.type != WIRE_RESTORING)
        return err_set(e, ERR_PROTOCOL, "%s where RESTORING was expected", wire_type_name(f.type));
    if (wire_json_decode(WIRE_RESTORING, f.payload, f.size, r->about, sizeof *r->about, e) < 0)
        return -1;
    if (r->about->version != WIRE_VERSION || r->about->disk_count < 1)
        return err_set(e, ERR_PROTOCOL, "RESTORING with version %lld and %lld disks", (long long)r->about->version, (long long)r->about->disk_count);
    if (r->target_count)
        return same_as_before(r, e) < 0 ? -1 : go_on(r, e);
    if (map_disks(r, e) < 0) {
        targets_close(r);
        return -1;
    }
    snprintf(r->out->point, sizeof r->out->point, "%s", r->about->point);
    r->out->at_us = r->about->at_us;
    r->out->disk_count = r->target_count;
    for (int i = 0; i < r->target_count; i++) {
        r->out->total_bytes += r->targets[i].about.size_bytes;
        memcpy(r->out->names[i], r->targets[i].name, sizeof r->out->names[i]);
    }
    return 0;
}

static int follow(struct restore *r, struct err *e)
{
    while (r->at.disk < r->target_count || r->open_count) {
        struct wire_frame f;

        if (next_frame(r, &f, e) < 0)
            return -1;
        if (f.type == WIRE_OFFER ? take_offer(r, &f, e) < 0 : f.type == WIRE_DATA ? take_data(r, &f, e) < 0
            : err_set(e, ERR_PROTOCOL, "%s is not for whoever restores", wire_type_name(f.type)) < 0)
            return -1;
        say_progress(r);
    }
    return 0;
}

static struct wire_conn *dial(const struct agent_config *c, struct tls_context *tls, struct err *e)
{
    CLEANUP(tls_close) struct tls_stream *stream = NULL;
    int fd = link_dial(c, e);

    if (fd < 0 || tls_open(tls, fd, "replicator:", WRITE_TIMEOUT_MS, &stream, e) < 0)
        return NULL;
    return wire_conn_new(&stream, WRITE_TIMEOUT_MS);
}

/* What is left of going over all disks, over one connection. */
static int pass(struct restore *r, struct err *e)
{
    int result;

    if (r->target_count && r->done.disk == r->target_count) /* it broke with the last ACK */
        return targets_finish(r->targets, r->target_count, e);
    r->conn = dial(r->config, r->tls, e);
    if (!r->conn)
        return -1;
    r->last_number = r->acked = 0;
    r->open_first = r->open_count = 0;
    result = begin(r, e) < 0 || (!r->order->find_only && (follow(r, e) < 0 || targets_finish(r->targets, r->target_count, e) < 0)) ? -1 : 0;
    wire_conn_free(&r->conn);
    return result;
}

static bool may_try_again(const struct err *e)
{
    return e->kind == ERR_UNREACHABLE || e->kind == ERR_TIMEOUT;
}

static int pass_over_breaks(struct restore *r, struct err *e)
{
    int wait_ms = RETRY_FIRST_MS;

    r->at = r->done = (struct place){0};
    for (;;) {
        int64_t seen = r->done.seen_bytes;
        struct err why = {0};

        if (pass(r, &why) == 0)
            return 0;
        if (!r->target_count || !may_try_again(&why) || atomic_load(r->stop)) {
            *e = why;
            return -1;
        }
        log_err(&why, "the restore goes on in %d ms, from %lld MiB on", wait_ms, (long long)(r->done.seen_bytes >> 20));
        clock_sleep_us(wait_ms * US_PER_MS);
        wait_ms = r->done.seen_bytes > seen ? RETRY_FIRST_MS : wait_ms * 2 > RETRY_MOST_MS ? RETRY_MOST_MS : wait_ms * 2;
    }
}

static int64_t written_bytes(const struct restore *r)
{
    int64_t bytes = 0;

    for (int i = 0; i < r->target_count; i++)
        bytes += r->targets[i].written_bytes;
    return bytes;
}

/* Passes until one finds nothing that differs: what was written is read again, past the cache, and compared. One that has written is none of these: what it
 * wrote before its link broke it found the same after, and a disk's first chunk it wrote last. */
static int pass_until_same(struct restore *r, struct err *e)
{
    while (r->out->passes < PASSES_MOST) {
        int64_t before = written_bytes(r);

        if (pass_over_breaks(r, e) < 0)
            return -1;
        if (!r->out->passes++)
            r->out->different_bytes = r->at.different;
        if ((!r->at.different && written_bytes(r) == before) || r->order->dry_run)
            return 0;
    }
    return err_set(e, ERR_CORRUPT, "after %d passes %lld bytes still differ: a disk does not keep what is written to it, or somebody else writes", PASSES_MOST,
                   (long long)r->at.different);
}

static void read_tables(struct restore *r)
{
    for (int i = 0; i < r->target_count; i++)
        (void)ioctl(r->targets[i].fd, BLKRRPART); /* a disk of one filesystem has none */
}

static int open_tls(const struct agent_config *c, struct tls_context **out, struct err *e)
{
    CLEANUP(free_ptr) char *certificate = xasprintf("%s/cert.pem", c->folder);
    CLEANUP(free_ptr) char *key = xasprintf("%s/key.pem", c->folder);
    CLEANUP(free_ptr) char *ca = xasprintf("%s/ca.pem", c->folder);

    return tls_context_open(TLS_CLIENT, certificate, key, ca, out, e);
}

int restore_run(const struct agent_config *c, const struct restore_order *order, const atomic_bool *stop, struct restore_outcome *out, struct err *e)
{
    CLEANUP(free_ptr) struct restore *r = xcalloc(1, sizeof *r);
    int result;

    *out = (struct restore_outcome){0};
    r->config = c;
    r->order = order;
    r->stop = stop;
    r->out = out;
    r->said_us = clock_monotonic_us();
    if (open_tls(c, &r->tls, e) < 0)
        return -1;
    r->zip = zip_new(1);
    r->about = xcalloc(1, sizeof *r->about);
    r->run = target_buffer(RUN_CHUNKS * WIRE_CHUNK_SIZE);
    r->chunk = target_buffer(WIRE_CHUNK_SIZE);
    r->zeros = target_buffer(WIRE_CHUNK_SIZE);
    for (int i = 0; i < OPEN_OFFERS; i++)
        r->open[i].offer = xcalloc(1, sizeof *r->open[i].offer);
    result = pass_until_same(r, e);
    if (result == 0 && !order->dry_run && !order->find_only)
        read_tables(r);
    out->written_bytes = written_bytes(r);
    targets_close(r);
    for (int i = 0; i < OPEN_OFFERS; i++)
        free(r->open[i].offer);
    free(r->run);
    free(r->chunk);
    free(r->zeros);
    free(r->about);
    zip_free(&r->zip);
    tls_context_free(&r->tls);
    return result;
}

/* ---- a word about it ---- */

int restore_report(const struct agent_config *c, const char *point, const char *state, const char *message, struct err *e)
{
    CLEANUP(tls_context_free) struct tls_context *tls = NULL;
    CLEANUP(wire_conn_free) struct wire_conn *conn = NULL;
    struct wire_rescue said = {.version = WIRE_VERSION};
    struct wire_simple heard;
    struct wire_frame f;
    bool closed;
    int got;

    snprintf(said.agent_version, sizeof said.agent_version, "%s", AGENT_VERSION);
    snprintf(said.server, sizeof said.server, "%s", c->server);
    snprintf(said.point, sizeof said.point, "%.*s", (int)sizeof said.point - 1, point);
    snprintf(said.state, sizeof said.state, "%s", state);
    snprintf(said.message, sizeof said.message, "%.*s", (int)sizeof said.message - 1, message);
    if (open_tls(c, &tls, e) < 0)
        return -1;
    conn = dial(c, tls, e);
    if (!conn || wire_send_message(conn, WIRE_RESCUE, &said, e) < 0)
        return -1;
    got = wire_recv(conn, &f, REPORT_TIMEOUT_MS, &closed, e);
    if (got < 0)
        return -1;
    if (got == 0)
        return err_set(e, closed ? ERR_UNREACHABLE : ERR_TIMEOUT, "the replicator does not answer");
    if (f.type == WIRE_REFUSE)
        return refused(&f, e);
    if (f.type != WIRE_HEARD)
        return err_set(e, ERR_PROTOCOL, "%s where HEARD was expected", wire_type_name(f.type));
    return wire_json_decode(WIRE_HEARD, f.payload, f.size, &heard, sizeof heard, e) < 0 ? -1 : heard.value == 1;
}
