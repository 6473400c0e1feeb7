#include "wire/conn.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/zip.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define FRAME_TIMEOUT_US (30 * US_PER_S) /* without any movement: as long as silence between frames may last at both ends */
#define FRAME_LOOK_MS 500
#define PACKED_HEAD_SIZE 4
#define WAITING_LIMIT (64u << 10) /* of messages that wait for the other end to take something */
#define SOON_TIMEOUT_MS 1000      /* for a small message where there was room: one that does not go out then never will */
#define PAYLOAD_KEPT_BYTES (64u << 10) /* while nothing comes: most connections of a replicator rest most of the time */

struct wire_conn {
    struct tls_stream *tls;
    int write_timeout_ms;
    pthread_mutex_t sending; /* held over a whole frame; guards what follows it up to packed */
    uint32_t send_sequence;
    bool broken;             /* a frame went out in part: nothing may follow it */
    struct zip_stream *packing; /* NULL: no stream is open */
    int64_t packed_at_us;
    struct buf packed;
    pthread_mutex_t waits; /* guards what follows it; taken after sending, never held while anything is sent */
    struct buf waiting;    /* messages of wire_send_soon, each behind its head */
    uint32_t receive_sequence; /* the receiving thread's */
    uint8_t *payload;          /* WIRE_PAYLOAD_LIMIT + 1, the receiving thread's; grown as needed, given back while nothing comes */
    size_t payload_held;
    struct zip_stream *unpacking; /* the receiving thread's; NULL: nothing is remembered */
    uint8_t *unpacked;            /* as payload */
    size_t unpacked_held;
    atomic_llong sent_bytes, received_bytes;
};

struct wire_conn *wire_conn_new(struct tls_stream **s, int write_timeout_ms)
{
    struct wire_conn *c = xcalloc(1, sizeof *c);

    pthread_mutex_init(&c->sending, NULL);
    pthread_mutex_init(&c->waits, NULL);
    c->tls = *s;
    *s = NULL;
    c->write_timeout_ms = write_timeout_ms;
    return c;
}

void wire_conn_free(struct wire_conn **c)
{
    if (!*c)
        return;
    tls_close(&(*c)->tls);
    pthread_mutex_destroy(&(*c)->sending);
    pthread_mutex_destroy(&(*c)->waits);
    buf_release(&(*c)->waiting);
    free_ptr(&(*c)->payload);
    free_ptr(&(*c)->unpacked);
    zip_stream_free(&(*c)->packing);
    zip_stream_free(&(*c)->unpacking);
    buf_release(&(*c)->packed);
    free_ptr(c);
}

void wire_conn_cut(struct wire_conn *c) { tls_cut(c->tls); }
const char *wire_conn_peer(const struct wire_conn *c) { return tls_peer_name(c->tls); }
const char *wire_conn_cipher(const struct wire_conn *c) { return tls_cipher(c->tls); }
const char *wire_conn_serial(const struct wire_conn *c) { return tls_peer_serial(c->tls); }
int64_t wire_conn_sent_bytes(const struct wire_conn *c) { return atomic_load(&c->sent_bytes); }
int64_t wire_conn_received_bytes(const struct wire_conn *c) { return atomic_load(&c->received_bytes); }

bool wire_conn_flow(const struct wire_conn *c, struct tls_flow *out) { return tls_flow(c->tls, out); }

int wire_conn_stands(const struct wire_conn *c, struct err *e)
{
    return tls_is_stranded(c->tls) ? err_set(e, ERR_UNREACHABLE, "this machine gave up the address that the connection was made from") : 0;
}

static int send_within(struct wire_conn *c, unsigned type, const void *payload, size_t size, int timeout_ms, struct err *e)
{
    struct wire_header h = {.payload_size = (uint32_t)size, .type = (uint16_t)type, .sequence = ++c->send_sequence};
    uint8_t head[WIRE_HEADER_SIZE];

    if (c->broken)
        return err_set(e, ERR_UNREACHABLE, "the connection failed before");
    wire_header_encode(&h, head);
    c->broken = tls_write_all(c->tls, head, sizeof head, timeout_ms, e) < 0 || (size && tls_write_all(c->tls, payload, size, timeout_ms, e) < 0);
    if (c->broken)
        return err_wrap(e, "sending %s", wire_type_name(type));
    atomic_fetch_add(&c->sent_bytes, (long long)(size + sizeof head));
    return 0;
}

static int send_locked(struct wire_conn *c, unsigned type, const void *payload, size_t size, struct err *e)
{
    return send_within(c, type, payload, size, c->write_timeout_ms, e);
}

/* ---- what waits ---- */

struct waiting_head {
    uint32_t type, size;
};

static bool anything_waits(struct wire_conn *c)
{
    bool any;

    pthread_mutex_lock(&c->waits);
    any = c->waiting.size_bytes > 0;
    pthread_mutex_unlock(&c->waits);
    return any;
}

/* The first one; the caller frees. Under `sending`, so that nobody else takes it. */
static char *take_waiting(struct wire_conn *c, struct waiting_head *head)
{
    char *payload;
    size_t size;

    pthread_mutex_lock(&c->waits);
    MUST(c->waiting.size_bytes >= sizeof *head);
    memcpy(head, c->waiting.data, sizeof *head);
    size = sizeof *head + head->size;
    payload = xmalloc(head->size + 1);
    memcpy(payload, c->waiting.data + sizeof *head, head->size);
    c->waiting.size_bytes -= size;
    memmove(c->waiting.data, c->waiting.data + size, c->waiting.size_bytes);
    if (c->waiting.size_bytes == 0)
        buf_release(&c->waiting);
    pthread_mutex_unlock(&c->waits);
    return payload;
}

/* Under `sending`. patient: who sends may wait for the other end; else only what it has room for goes out. */
static int send_waiting(struct wire_conn *c, bool patient, struct err *e)
{
    struct waiting_head head;

    while (anything_waits(c) && (patient || tls_has_room(c->tls))) {
        CLEANUP(free_ptr) char *payload = take_waiting(c, &head);

        if (send_within(c, head.type, payload, head.size, patient ? c->write_timeout_ms : SOON_TIMEOUT_MS, e) < 0)
            return -1;
    }
    return 0;
}

/* What others left while this thread sent is its to send: they did not wait for it. */
static void end_sending(struct wire_conn *c, bool patient)
{
    do {
        (void)send_waiting(c, patient, NULL);
        pthread_mutex_unlock(&c->sending);
    } while (anything_waits(c) && (patient || tls_has_room(c->tls)) && pthread_mutex_trylock(&c->sending) == 0);
}

static int begin_sending(struct wire_conn *c, struct err *e)
{
    pthread_mutex_lock(&c->sending);
    return send_waiting(c, true, e);
}

/* Where the other end takes something again, and nobody is about to send. */
static void send_what_waits(struct wire_conn *c)
{
    if (anything_waits(c) && pthread_mutex_trylock(&c->sending) == 0)
        end_sending(c, false);
}

static int let_wait(struct wire_conn *c, unsigned type, const struct buf *payload, struct err *e)
{
    struct waiting_head head = {.type = type, .size = (uint32_t)payload->size_bytes};
    bool full;

    pthread_mutex_lock(&c->waits);
    full = c->waiting.size_bytes + sizeof head + payload->size_bytes > WAITING_LIMIT;
    c->waiting.limit_bytes = 2 * WAITING_LIMIT;
    if (!full)
        MUST(buf_add(&c->waiting, &head, sizeof head) == 0 && buf_add(&c->waiting, payload->data, payload->size_bytes) == 0);
    pthread_mutex_unlock(&c->waits);
    if (!full)
        return 0;
    wire_conn_cut(c);
    return err_set(e, ERR_UNREACHABLE, "%s takes nothing: %u KiB of messages wait for it already", wire_conn_peer(c), WAITING_LIMIT >> 10);
}

int wire_send_soon(struct wire_conn *c, unsigned type, const void *message, size_t message_size, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {.limit_bytes = WAITING_LIMIT};
    int result = 0;

    wire_json_encode(type, message, message_size, &text);
    MUST(!text.over);
    if (let_wait(c, type, &text, e) < 0)
        return -1;
    if (pthread_mutex_trylock(&c->sending) == 0) {
        result = send_waiting(c, false, e);
        end_sending(c, false);
    }
    return result;
}

/* ---- sending ---- */

int wire_send(struct wire_conn *c, unsigned type, const void *payload, size_t size, struct err *e)
{
    int result;

    MUST(size <= WIRE_PAYLOAD_LIMIT);
    result = begin_sending(c, e) < 0 ? -1 : send_locked(c, type, payload, size, e);
    end_sending(c, true);
    return result;
}

int wire_send_buf(struct wire_conn *c, unsigned type, const struct buf *payload, struct err *e)
{
    MUST(!payload->over);
    return wire_send(c, type, payload->data, payload->size_bytes, e);
}

int wire_send_json(struct wire_conn *c, unsigned type, const void *message, size_t message_size, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {.limit_bytes = WIRE_PAYLOAD_LIMIT};

    wire_json_encode(type, message, message_size, &text);
    return wire_send_buf(c, type, &text, e);
}

/* ---- packed ---- */

/* Under the lock: size bytes (0: only the end of the stream) as a frame. */
static int send_packed_locked(struct wire_conn *c, const void *bytes, size_t size, struct err *e)
{
    uint8_t head[PACKED_HEAD_SIZE];

    put_le32(head, (uint32_t)size);
    c->packed.size_bytes = 0;
    c->packed.limit_bytes = PACKED_HEAD_SIZE + ZIP_STREAM_BOUND(WIRE_PAYLOAD_LIMIT);
    MUST(buf_add(&c->packed, head, sizeof head) == 0);
    zip_stream_pack(c->packing, bytes, size, size == 0, &c->packed);
    return send_locked(c, WIRE_PACKED, c->packed.data, c->packed.size_bytes, e);
}

int wire_send_packed(struct wire_conn *c, const struct buf *data, int level, int64_t *sent_bytes, struct err *e)
{
    int result;

    MUST(!data->over && data->size_bytes > 0 && PACKED_HEAD_SIZE + ZIP_STREAM_BOUND(data->size_bytes) <= WIRE_PAYLOAD_LIMIT);
    result = begin_sending(c, e);
    if (!c->packing)
        c->packing = zip_stream_new(level);
    result = result < 0 ? -1 : send_packed_locked(c, data->data, data->size_bytes, e);
    *sent_bytes = (int64_t)(c->packed.size_bytes + WIRE_HEADER_SIZE);
    c->packed_at_us = clock_monotonic_us();
    end_sending(c, true);
    return result;
}

int wire_conn_rest(struct wire_conn *c, int64_t idle_us, struct err *e)
{
    int result = begin_sending(c, e);

    if (result == 0 && c->packing && clock_monotonic_us() - c->packed_at_us >= idle_us) {
        result = send_packed_locked(c, NULL, 0, e);
        zip_stream_free(&c->packing);
        buf_release(&c->packed);
    }
    end_sending(c, true);
    return result;
}

/* What a PACKED held becomes the frame: 1; 0 where it was the stream's end. */
static int unpack(struct wire_conn *c, struct wire_frame *f, struct err *e)
{
    size_t raw_size = f->size >= PACKED_HEAD_SIZE ? get_le32(f->payload) : SIZE_MAX;

    if (raw_size > WIRE_PAYLOAD_LIMIT)
        return err_set(e, ERR_PROTOCOL, "PACKED of %zu bytes gives no frame", f->size);
    if (raw_size + 1 > c->unpacked_held) {
        c->unpacked_held = raw_size + 1;
        c->unpacked = xrealloc(c->unpacked, c->unpacked_held);
    }
    if (!c->unpacking)
        c->unpacking = zip_stream_unpacker();
    if (zip_stream_unpack(c->unpacking, f->payload + PACKED_HEAD_SIZE, f->size - PACKED_HEAD_SIZE, c->unpacked, raw_size, e) < 0)
        return err_wrap(e, "PACKED");
    c->unpacked[raw_size] = 0;
    *f = (struct wire_frame){.type = WIRE_DATA, .size = raw_size, .payload = c->unpacked};
    return raw_size > 0;
}

/* ---- receiving ---- */

/* The rest of a frame. A machine that gave up the address that the connection was made from hears no more of it: that is seen at once. */
static int receive_rest(struct wire_conn *c, uint8_t *bytes, size_t size, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + FRAME_TIMEOUT_US;

    for (size_t done = 0; done < size;) {
        struct err why = {0};
        int64_t got = tls_read(c->tls, bytes + done, size - done, FRAME_LOOK_MS, &why);

        if (got > 0) {
            done += (size_t)got;
            until_us = clock_monotonic_us() + FRAME_TIMEOUT_US;
        } else if (got == 0) {
            return err_set(e, ERR_UNREACHABLE, "the connection ended inside a frame");
        } else if (why.kind != ERR_TIMEOUT || clock_monotonic_us() > until_us) {
            return err_set(e, why.kind, "%s", why.message);
        } else if (wire_conn_stands(c, e) < 0) {
            return -1;
        }
    }
    return 0;
}

static int receive_payload(struct wire_conn *c, const struct wire_header *h, struct err *e)
{
    if (h->payload_size + 1 > c->payload_held) {
        c->payload_held = h->payload_size + 1;
        c->payload = xrealloc(c->payload, c->payload_held);
    }
    c->payload[h->payload_size] = 0;
    if (receive_rest(c, c->payload, h->payload_size, e) < 0)
        return err_wrap(e, "receiving %s", wire_type_name(h->type));
    return 0;
}

/* What the largest frames needed is given back while nothing comes. */
static void give_back(struct wire_conn *c)
{
    if (c->unpacking && zip_stream_ended(c->unpacking))
        zip_stream_free(&c->unpacking);
    free_ptr(&c->unpacked);
    c->unpacked_held = 0;
    if (c->payload_held <= PAYLOAD_KEPT_BYTES)
        return;
    free_ptr(&c->payload);
    c->payload_held = 0;
}

static int receive_frame(struct wire_conn *c, struct wire_frame *out, int timeout_ms, bool *closed, struct err *e)
{
    uint8_t head[WIRE_HEADER_SIZE];
    struct wire_header h;
    struct err why = {0};
    int64_t got = tls_read(c->tls, head, sizeof head, timeout_ms, &why);

    *closed = got == 0;
    if (got < 0 && why.kind == ERR_TIMEOUT) {
        give_back(c);
        return 0;
    }
    if (got < 0) {
        if (e)
            *e = why;
        return -1;
    }
    if (got == 0)
        return 0;
    if (receive_rest(c, head + got, sizeof head - (size_t)got, e) < 0)
        return err_wrap(e, "receiving a frame's header");
    if (wire_header_decode(head, &h, e) < 0)
        return -1;
    if (h.sequence != c->receive_sequence + 1)
        return err_set(e, ERR_PROTOCOL, "frame %u came where %u was expected", h.sequence, c->receive_sequence + 1);
    if (receive_payload(c, &h, e) < 0)
        return -1;
    c->receive_sequence = h.sequence;
    atomic_fetch_add(&c->received_bytes, (long long)(h.payload_size + sizeof head));
    *out = (struct wire_frame){.type = h.type, .size = h.payload_size, .payload = c->payload};
    return 1;
}

int wire_recv(struct wire_conn *c, struct wire_frame *out, int timeout_ms, bool *closed, struct err *e)
{
    int got;

    send_what_waits(c);
    got = receive_frame(c, out, timeout_ms, closed, e);

    return got == 1 && out->type == WIRE_PACKED ? unpack(c, out, e) : got;
}
