#include "wire/conn.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define FRAME_TIMEOUT_US (30 * US_PER_S) /* without any movement: as long as silence between frames may last at both ends */
#define FRAME_LOOK_MS 500

struct wire_conn {
    struct tls_stream *tls;
    int write_timeout_ms;
    pthread_mutex_t sending; /* held over a whole frame; guards send_sequence and broken */
    uint32_t send_sequence;
    bool broken;             /* a frame went out in part: nothing may follow it */
    uint32_t receive_sequence; /* the receiving thread's */
    uint8_t *payload;          /* WIRE_PAYLOAD_LIMIT + 1, the receiving thread's; grown as needed */
    size_t payload_held;
    atomic_llong sent_bytes, received_bytes;
};

struct wire_conn *wire_conn_new(struct tls_stream **s, int write_timeout_ms)
{
    struct wire_conn *c = xcalloc(1, sizeof *c);

    pthread_mutex_init(&c->sending, NULL);
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
    free_ptr(&(*c)->payload);
    free_ptr(c);
}

void wire_conn_cut(struct wire_conn *c) { tls_cut(c->tls); }
const char *wire_conn_peer(const struct wire_conn *c) { return tls_peer_name(c->tls); }
int64_t wire_conn_sent_bytes(const struct wire_conn *c) { return atomic_load(&c->sent_bytes); }
int64_t wire_conn_received_bytes(const struct wire_conn *c) { return atomic_load(&c->received_bytes); }

int wire_conn_stands(const struct wire_conn *c, struct err *e)
{
    return tls_is_stranded(c->tls) ? err_set(e, ERR_UNREACHABLE, "this machine gave up the address that the connection was made from") : 0;
}

static int send_locked(struct wire_conn *c, unsigned type, const void *payload, size_t size, struct err *e)
{
    struct wire_header h = {.payload_size = (uint32_t)size, .type = (uint16_t)type, .sequence = ++c->send_sequence};
    uint8_t head[WIRE_HEADER_SIZE];

    if (c->broken)
        return err_set(e, ERR_UNREACHABLE, "the connection failed before");
    wire_header_encode(&h, head);
    c->broken = tls_write_all(c->tls, head, sizeof head, c->write_timeout_ms, e) < 0 ||
                (size && tls_write_all(c->tls, payload, size, c->write_timeout_ms, e) < 0);
    if (c->broken)
        return err_wrap(e, "sending %s", wire_type_name(type));
    atomic_fetch_add(&c->sent_bytes, (long long)(size + sizeof head));
    return 0;
}

int wire_send(struct wire_conn *c, unsigned type, const void *payload, size_t size, struct err *e)
{
    int result;

    MUST(size <= WIRE_PAYLOAD_LIMIT);
    pthread_mutex_lock(&c->sending);
    result = send_locked(c, type, payload, size, e);
    pthread_mutex_unlock(&c->sending);
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

int wire_recv(struct wire_conn *c, struct wire_frame *out, int timeout_ms, bool *closed, struct err *e)
{
    uint8_t head[WIRE_HEADER_SIZE];
    struct wire_header h;
    struct err why = {0};
    int64_t got = tls_read(c->tls, head, sizeof head, timeout_ms, &why);

    *closed = got == 0;
    if (got < 0 && why.kind == ERR_TIMEOUT)
        return 0;
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
