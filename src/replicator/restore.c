/* restore: a recovery point on its way back to disks (docs/formats/wire.md, "The way back"). One thread, one point, lent for as long as the connection
 * stands: every chunk of every disk is offered in order, and what the other end lacks is sent. It may stand beside the session of the server's agent. */
#include "base/log.h"
#include "replicator/session.h"

#include <stdlib.h>
#include <string.h>

#define RESTORE_OFFER_CHUNKS 128u /* 8 MiB: its reading and hashing must fit well into the other end's patience */
#define RESTORE_WINDOW 4u
#define DATA_BYTES (2u << 20)     /* a frame is sent when it holds as much */
#define RESTORE_SILENCE_US (60 * US_PER_S)

struct restore {
    struct replicator *r;
    struct wire_conn *conn;
    struct wire_restoring about;
    struct vault_image *images[LIMIT_DISKS_PER_SERVER];
    struct wire_offer *window; /* RESTORE_WINDOW, by number */
    uint64_t offered, answered, acked; /* numbers: of the last OFFER, of the last NEED, of the last ACK */
    int64_t disk;              /* to offer next */
    uint64_t chunk;
    struct zip *zip;
    uint8_t *raw, *packed;     /* a chunk each */
    uint64_t sent_bytes;
};

static void restore_release(struct restore *t)
{
    for (int i = 0; i < LIMIT_DISKS_PER_SERVER; i++)
        vault_image_free(&t->images[i]);
    zip_free(&t->zip);
    free(t->window);
    free(t->raw);
    free(t->packed);
}

static uint64_t chunks_of(const struct restore *t, int64_t disk)
{
    return ((uint64_t)t->about.disks[disk].size_bytes + WIRE_CHUNK_SIZE - 1) / WIRE_CHUNK_SIZE;
}

/* ---- which point, which disks ---- */

static int find_point(struct replicator *r, const struct wire_restore *q, struct vault_point *out, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *newest = NULL;
    int found;

    if (*q->point)
        found = vault_point_get(r->vault, q->point, out, e);
    else if ((found = vault_point_list(r->vault, q->server, 1, &newest, e)) == 1)
        *out = *newest;
    if (found < 0)
        return -1;
    if (found == 0)
        return err_set(e, ERR_NOT_FOUND, *q->point ? "there is no recovery point %s" : "there is no recovery point%s of this server", q->point);
    if (strcmp(out->server, q->server) != 0)
        return err_set(e, ERR_DENIED, "recovery point %s is another server's", out->id);
    return 0;
}

static bool is_wanted(const struct wire_restore *q, const char *disk)
{
    for (int64_t i = 0; i < q->disk_count; i++)
        if (strcmp(q->disks[i].id, disk) == 0)
            return true;
    return q->disk_count == 0;
}

static int open_images(struct restore *t, const struct wire_restore *q, const struct vault_point *point, struct err *e)
{
    int64_t count = 0;

    for (size_t i = 0; i < point->disk_count; i++) {
        struct wire_disk *d = &t->about.disks[count];

        if (!is_wanted(q, point->disks[i].id))
            continue;
        if (vault_image_open(t->r->vault, point->id, point->disks[i].id, &t->images[count], e) < 0)
            return -1;
        memcpy(d->id, point->disks[i].id, strlen(point->disks[i].id) + 1);
        d->size_bytes = (int64_t)point->disks[i].size_bytes;
        count++;
    }
    if (!count || (q->disk_count && count != q->disk_count))
        return err_set(e, ERR_NOT_FOUND, "recovery point %s does not hold all of the disks that were asked for", point->id);
    t->about.version = WIRE_VERSION;
    snprintf(t->about.replicator, sizeof t->about.replicator, "%s", t->r->options.name);
    memcpy(t->about.point, point->id, sizeof point->id);
    t->about.at_us = point->at_us;
    t->about.disk_count = count;
    return 0;
}

/* ---- the stream ---- */

static int offer_next(struct restore *t, struct err *e)
{
    struct wire_offer *o = &t->window[(t->offered + 1) % RESTORE_WINDOW];
    CLEANUP(buf_release) struct buf frame = {.limit_bytes = WIRE_PAYLOAD_LIMIT};

    memset(o, 0, sizeof *o);
    o->number = t->offered + 1;
    o->disk = (uint16_t)t->disk;
    for (; o->count < RESTORE_OFFER_CHUNKS && t->chunk < chunks_of(t, t->disk); t->chunk++) {
        struct wire_entry *entry = &o->entries[o->count++];
        struct vault_hash name;

        if (vault_image_hash(t->images[t->disk], t->chunk, &name, e) < 0)
            return -1;
        entry->chunk = (uint32_t)t->chunk;
        entry->zero = vault_hash_is_zero(&name);
        if (!entry->zero)
            memcpy(entry->hash, name.bytes, sizeof entry->hash);
    }
    if (t->chunk == chunks_of(t, t->disk)) {
        t->chunk = 0;
        t->disk++;
    }
    t->offered++;
    wire_offer_encode(o, &frame);
    return wire_send_buf(t->conn, WIRE_OFFER, &frame, e);
}

static int send_data(struct restore *t, struct buf *frame, struct err *e)
{
    if (!wire_data_count(frame))
        return 0;
    t->sent_bytes += frame->size_bytes;
    return wire_send_buf(t->conn, WIRE_DATA, frame, e);
}

/* What lies behind the disk's end is zero bytes. The image checks what it reads against the chunk's name. */
static int read_chunk(struct restore *t, const struct wire_offer *o, unsigned entry, struct err *e)
{
    uint64_t from = (uint64_t)o->entries[entry].chunk * WIRE_CHUNK_SIZE, size = (uint64_t)t->about.disks[o->disk].size_bytes;
    size_t there = from + WIRE_CHUNK_SIZE > size ? (size_t)(size - from) : WIRE_CHUNK_SIZE;

    memset(t->raw + there, 0, WIRE_CHUNK_SIZE - there);
    return vault_image_read(t->images[o->disk], t->raw, there, from, e);
}

static int send_needed(struct restore *t, const struct wire_offer *o, const struct wire_need *need, struct err *e)
{
    CLEANUP(buf_release) struct buf frame = {.limit_bytes = WIRE_PAYLOAD_LIMIT};

    wire_data_begin(&frame, o->number);
    for (unsigned i = 0; i < o->count; i++) {
        struct wire_data_chunk c = {.entry = (uint16_t)i, .codec = WIRE_ZSTD, .bytes = t->packed, .raw_size = WIRE_CHUNK_SIZE};

        if (!wire_needs(need, i))
            continue;
        if (o->entries[i].zero)
            return err_set(e, ERR_PROTOCOL, "NEED asks for the zero chunk %u", o->entries[i].chunk);
        if (read_chunk(t, o, i, e) < 0)
            return -1;
        c.stored_size = (uint32_t)zip_pack(t->zip, t->raw, WIRE_CHUNK_SIZE, t->packed);
        if (!c.stored_size) {
            c.codec = WIRE_RAW;
            c.bytes = t->raw;
            c.stored_size = WIRE_CHUNK_SIZE;
        }
        MUST(wire_data_add(&frame, &c) == 0);
        if (frame.size_bytes < DATA_BYTES)
            continue;
        if (send_data(t, &frame, e) < 0)
            return -1;
        buf_release(&frame);
        frame = (struct buf){.limit_bytes = WIRE_PAYLOAD_LIMIT};
        wire_data_begin(&frame, o->number);
    }
    return send_data(t, &frame, e);
}

static int hear_need(struct restore *t, const struct wire_frame *f, struct err *e)
{
    struct wire_need need;
    const struct wire_offer *o;

    if (wire_need_decode(f->payload, f->size, &need, e) < 0)
        return -1;
    o = &t->window[need.offer % RESTORE_WINDOW];
    if (need.offer != t->answered + 1 || need.offer > t->offered || need.count != o->count)
        return err_set(e, ERR_PROTOCOL, "NEED for offer %llu where %llu was expected", (unsigned long long)need.offer, (unsigned long long)t->answered + 1);
    t->answered++;
    return send_needed(t, o, &need, e);
}

static int hear_ack(struct restore *t, const struct wire_frame *f, struct err *e)
{
    struct wire_ack ack;

    if (wire_ack_decode(f->payload, f->size, &ack, e) < 0)
        return -1;
    if (ack.offer <= t->acked || ack.offer > t->answered)
        return err_set(e, ERR_PROTOCOL, "ACK %llu after %llu", (unsigned long long)ack.offer, (unsigned long long)t->acked);
    t->acked = ack.offer;
    return 0;
}

static int hear(struct restore *t, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + RESTORE_SILENCE_US;
    struct wire_frame f;
    bool closed = false;
    int got = 0;

    while (got == 0) {
        got = wire_recv(t->conn, &f, 500, &closed, e);
        if (got < 0)
            return -1;
        if (closed)
            return err_set(e, ERR_UNREACHABLE, "the other end closed the connection");
        if (atomic_load(&t->r->stopping))
            return err_set(e, ERR_CANCELLED, "the replicator stops");
        if (!got && clock_monotonic_us() > until_us)
            return err_set(e, ERR_TIMEOUT, "the other end has been silent for a minute");
    }
    switch (f.type) {
    case WIRE_NEED: return hear_need(t, &f, e);
    case WIRE_ACK: return hear_ack(t, &f, e);
    case WIRE_BYE:
    case WIRE_REFUSE: return err_set(e, ERR_UNREACHABLE, "the other end ended the connection");
    default: return err_set(e, ERR_PROTOCOL, "%s is not for a replicator that restores", wire_type_name(f.type));
    }
}

static int stream(struct restore *t, struct err *e)
{
    while (t->disk < t->about.disk_count || t->acked < t->offered) {
        if (t->disk < t->about.disk_count && t->offered - t->acked < RESTORE_WINDOW) {
            if (offer_next(t, e) < 0)
                return -1;
        } else if (hear(t, e) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- the whole ---- */

static int serve(struct restore *t, const struct wire_restore *q, const struct vault_point *point, struct err *e)
{
    if (open_images(t, q, point, e) < 0 || wire_send_message(t->conn, WIRE_RESTORING, &t->about, e) < 0)
        return -1;
    log_info("%s: recovery point %s goes back to disks", q->server, point->id);
    if (stream(t, e) < 0)
        return err_wrap(e, "restoring %s", point->id);
    log_info("%s: recovery point %s: the other end has every chunk; %llu MiB were sent", q->server, point->id, (unsigned long long)(t->sent_bytes >> 20));
    return 0;
}

int restore_serve(struct replicator *r, struct wire_conn *conn, const struct wire_restore *q, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *point = xcalloc(1, sizeof *point);
    CLEANUP(free_ptr) struct restore *t = xcalloc(1, sizeof *t);
    int result;

    if (find_point(r, q, point, e) < 0 || nbd_server_lend(r->nbd, point->id, e) < 0)
        return -1;
    t->r = r;
    t->conn = conn;
    t->window = xcalloc(RESTORE_WINDOW, sizeof *t->window);
    t->zip = zip_new(1);
    t->raw = xmalloc(WIRE_CHUNK_SIZE);
    t->packed = xmalloc(WIRE_CHUNK_SIZE);
    result = serve(t, q, point, e);
    restore_release(t);
    (void)nbd_server_return(r->nbd, point->id, NULL);
    return result;
}
