/* conn: frames over a TLS stream. Any thread may send (frames are whole, in the order of their sequence); one thread receives. */
#pragma once

#include "base/tls.h"
#include "wire/wire.h"

struct wire_conn;
struct wire_frame {
    unsigned type;
    size_t size;
    const uint8_t *payload; /* the connection's: until the next wire_recv */
};

/* Takes *s (NULL after). write_timeout_ms bounds each wait of a send. */
struct wire_conn *wire_conn_new(struct tls_stream **s, int write_timeout_ms);
void wire_conn_free(struct wire_conn **c); /* no other thread may be in it; for CLEANUP */
/* Makes every call of any thread on it fail soon. */
void wire_conn_cut(struct wire_conn *c);
/* -1 ERR_UNREACHABLE where this machine gave up the address that the connection was made from (tls_is_stranded): nothing more comes. */
int wire_conn_stands(const struct wire_conn *c, struct err *e);
bool wire_conn_flow(const struct wire_conn *c, struct tls_flow *out); /* tls.h */
const char *wire_conn_peer(const struct wire_conn *c);
const char *wire_conn_cipher(const struct wire_conn *c); /* tls_cipher */
const char *wire_conn_serial(const struct wire_conn *c); /* of the other end's certificate: tls_peer_serial */

/* Thread-safe. The payload is a whole encoded message. */
int wire_send(struct wire_conn *c, unsigned type, const void *payload, size_t size, struct err *e);
int wire_send_buf(struct wire_conn *c, unsigned type, const struct buf *payload, struct err *e);
int wire_send_json(struct wire_conn *c, unsigned type, const void *message, size_t message_size, struct err *e);
/* The same for a small message of a thread that others wait for, too: it never waits for the other end. Where that takes nothing now, or another thread is in
 * the midst of a send, the message waits and goes out, in order, before whatever is sent next, or with the next wire_recv. Where too much waits already:
 * -1 ERR_UNREACHABLE, and the connection is cut. */
int wire_send_soon(struct wire_conn *c, unsigned type, const void *message, size_t message_size, struct err *e);
/* wire_send_buf for a DATA whose chunks are as they are, packed (PACKED) with what was sent like this before in mind; the level is the stream's from its
 * beginning. *sent_bytes: what went out. Others wait meanwhile. */
int wire_send_packed(struct wire_conn *c, const struct buf *data, int level, int64_t *sent_bytes, struct err *e);
/* Ends the stream where nothing was packed for a while, so that neither end keeps its window; idle_us 0: at once. */
int wire_conn_rest(struct wire_conn *c, int64_t idle_us, struct err *e);
/* wire_send_message(c, WIRE_STATUS, &status, e) */
#define wire_send_message(c, type, message, e) wire_send_json((c), (type), (message), sizeof *(message), (e))

/* The next frame: 1, or 0 where nothing came within timeout_ms (or only the end of what was packed) or the other end closed between two frames
 * (*closed says which), or -1. A started frame gets 60 s to arrive whole. */
int wire_recv(struct wire_conn *c, struct wire_frame *out, int timeout_ms, bool *closed, struct err *e);

int64_t wire_conn_sent_bytes(const struct wire_conn *c);
int64_t wire_conn_received_bytes(const struct wire_conn *c);
