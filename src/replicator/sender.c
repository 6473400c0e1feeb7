#include "replicator/sender.h"

#include <stdlib.h>
#include <string.h>

void sender_release(struct sender *s)
{
    for (int i = 0; i < LIMIT_DISKS_PER_SERVER; i++) {
        vault_image_free(&s->images[i]);
        vault_image_free(&s->bases[i]);
    }
    zip_free(&s->zip);
    free(s->window);
    free(s->raw);
    free(s->packed);
    *s = (struct sender){0};
}

/* ---- offers ---- */

/* The chunks of the next offer, and of which disk: their count, 0 where there is none left, -1. */
static int next_chunks(struct sender *s, size_t *disk, uint32_t *chunks, struct err *e)
{
    int count = 0;

    for (; count == 0 && s->disk < s->disk_count; s->disk += count == 0) {
        *disk = s->disk;
        count = vault_image_differing(s->images[s->disk], s->bases[s->disk], s->chunk, chunks, s->offer_chunks, e);
        s->chunk = count > 0 ? (uint64_t)chunks[count - 1] + 1 : 0;
    }
    return count;
}

int sender_begin(struct sender *s, uint64_t applied, struct err *e)
{
    uint32_t chunks[WIRE_OFFER_CHUNKS];
    size_t disk;

    MUST(s->offer_chunks <= WIRE_OFFER_CHUNKS && s->window_offers <= SENDER_WINDOW_MOST && !s->window);
    s->window = xcalloc(s->window_offers, sizeof *s->window);
    s->zip = zip_new(1);
    s->raw = xmalloc(WIRE_CHUNK_SIZE);
    s->packed = xmalloc(WIRE_CHUNK_SIZE);
    for (uint64_t n = 0; n < applied; n++) {
        int count = next_chunks(s, &disk, chunks, e);

        if (count <= 0)
            return count < 0 ? -1 : err_set(e, ERR_PROTOCOL, "%llu offers were applied where there are %llu", (unsigned long long)applied, (unsigned long long)n);
        s->acked_chunks += (uint64_t)count;
    }
    s->offered = s->answered = s->acked = applied;
    return 0;
}

int sender_offer(struct sender *s, struct err *e)
{
    struct wire_offer *o = &s->window[(s->offered + 1) % s->window_offers];
    CLEANUP(buf_release) struct buf frame = {.limit_bytes = WIRE_PAYLOAD_LIMIT};
    uint32_t chunks[WIRE_OFFER_CHUNKS];
    size_t disk = 0;
    int count = next_chunks(s, &disk, chunks, e);

    if (count <= 0) {
        s->all_offered = count == 0;
        return count;
    }
    memset(o, 0, sizeof *o);
    o->number = s->offered + 1;
    o->disk = (uint16_t)disk;
    for (; o->count < count; o->count++) {
        struct wire_entry *entry = &o->entries[o->count];
        struct vault_hash name;

        if (vault_image_hash(s->images[disk], chunks[o->count], &name, e) < 0)
            return -1;
        entry->chunk = chunks[o->count];
        entry->zero = vault_hash_is_zero(&name);
        if (!entry->zero)
            memcpy(entry->hash, name.bytes, sizeof entry->hash);
    }
    s->offered++;
    wire_offer_encode(o, &frame);
    return wire_send_buf(s->conn, WIRE_OFFER, &frame, e);
}

/* ---- data ---- */

static int send_data(struct sender *s, struct buf *frame, struct err *e)
{
    int result;

    if (!wire_data_count(frame))
        return 0;
    s->sent_bytes += frame->size_bytes;
    if (s->sends)
        s->sends(s->user);
    result = wire_send_buf(s->conn, WIRE_DATA, frame, e);
    if (s->sent)
        s->sent(s->user, frame->size_bytes);
    return result;
}

/* What lies behind the disk's end is zero bytes. The image checks what it reads against the chunk's name. */
static int read_chunk(struct sender *s, const struct wire_offer *o, unsigned entry, struct err *e)
{
    uint64_t from = (uint64_t)o->entries[entry].chunk * WIRE_CHUNK_SIZE, size = vault_image_size(s->images[o->disk]);
    size_t there = from + WIRE_CHUNK_SIZE > size ? (size_t)(size - from) : WIRE_CHUNK_SIZE;

    memset(s->raw + there, 0, WIRE_CHUNK_SIZE - there);
    return vault_image_read(s->images[o->disk], s->raw, there, from, e);
}

static int send_needed(struct sender *s, const struct wire_offer *o, const struct wire_need *need, struct err *e)
{
    CLEANUP(buf_release) struct buf frame = {.limit_bytes = WIRE_PAYLOAD_LIMIT};

    wire_data_begin(&frame, o->number);
    for (unsigned i = 0; i < o->count; i++) {
        struct wire_data_chunk c = {.entry = (uint16_t)i, .codec = WIRE_ZSTD, .bytes = s->packed, .raw_size = WIRE_CHUNK_SIZE};

        if (!wire_needs(need, i))
            continue;
        if (o->entries[i].zero)
            return err_set(e, ERR_PROTOCOL, "NEED asks for the zero chunk %u", o->entries[i].chunk);
        if (read_chunk(s, o, i, e) < 0)
            return -1;
        c.stored_size = (uint32_t)zip_pack(s->zip, s->raw, WIRE_CHUNK_SIZE, s->packed);
        if (!c.stored_size) {
            c.codec = WIRE_RAW;
            c.bytes = s->raw;
            c.stored_size = WIRE_CHUNK_SIZE;
        }
        MUST(wire_data_add(&frame, &c) == 0);
        if (frame.size_bytes < s->data_bytes)
            continue;
        if (send_data(s, &frame, e) < 0)
            return -1;
        buf_release(&frame);
        frame = (struct buf){.limit_bytes = WIRE_PAYLOAD_LIMIT};
        wire_data_begin(&frame, o->number);
    }
    return send_data(s, &frame, e);
}

/* ---- answers ---- */

static int hear_need(struct sender *s, const struct wire_frame *f, struct err *e)
{
    struct wire_need need;
    const struct wire_offer *o;

    if (wire_need_decode(f->payload, f->size, &need, e) < 0)
        return -1;
    o = &s->window[need.offer % s->window_offers];
    if (need.offer != s->answered + 1 || need.offer > s->offered || need.count != o->count)
        return err_set(e, ERR_PROTOCOL, "NEED for offer %llu where %llu was expected", (unsigned long long)need.offer, (unsigned long long)s->answered + 1);
    s->answered++;
    return send_needed(s, o, &need, e) < 0 ? -1 : 1;
}

static int hear_ack(struct sender *s, const struct wire_frame *f, struct err *e)
{
    struct wire_ack ack;

    if (wire_ack_decode(f->payload, f->size, &ack, e) < 0)
        return -1;
    if (ack.offer <= s->acked || ack.offer > s->answered)
        return err_set(e, ERR_PROTOCOL, "ACK %llu after %llu", (unsigned long long)ack.offer, (unsigned long long)s->acked);
    for (; s->acked < ack.offer; s->acked++)
        s->acked_chunks += s->window[(s->acked + 1) % s->window_offers].count;
    return 1;
}

int sender_hear(struct sender *s, const struct wire_frame *f, struct err *e)
{
    return f->type == WIRE_NEED ? hear_need(s, f, e) : f->type == WIRE_ACK ? hear_ack(s, f, e) : 0;
}
