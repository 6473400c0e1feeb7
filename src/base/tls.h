/* tls: TLS 1.3 streams over connected sockets, both ends with a certificate of the same CA (mutual). Who the other end is, is its
 * certificate's common name, as the factory signed it: "agent:SERVER", "replicator:NAME". No host names, no DNS.
 *
 * A stream may be read by one thread while another writes; two writers (or two readers) need a lock of their own. */
#pragma once

#include "base/mem.h"

#define TLS_NAME_SIZE 256

struct tls_context;
struct tls_stream;

enum tls_side { TLS_CLIENT, TLS_SERVER };

/* PEM texts. The key must fit the certificate. Keeps no reference to the texts. One context serves any number of streams and threads. */
int tls_context_new(enum tls_side side, const char *certificate_pem, const char *key_pem, const char *ca_pem, struct tls_context **out,
                    struct err *e);
/* The same from files. */
int tls_context_open(enum tls_side side, const char *certificate_path, const char *key_path, const char *ca_path,
                     struct tls_context **out, struct err *e);
void tls_context_free(struct tls_context **c); /* for CLEANUP */

/* Shakes hands over a connected socket within timeout_ms. Takes the descriptor: it is closed with the stream, and on failure, too.
 * peer_prefix ("replicator:"): the other end's name must begin with it; ERR_DENIED otherwise. A certificate that the CA did not
 * sign, or outside its time, is ERR_UNAUTHENTICATED. */
int tls_open(const struct tls_context *c, int fd, const char *peer_prefix, int timeout_ms, struct tls_stream **out, struct err *e);
/* The same; where the other end's certificate is refused for its time alone (its signature holds), stale says whose it is; "" in all other cases. */
int tls_open_telling(const struct tls_context *c, int fd, const char *peer_prefix, int timeout_ms, char stale[static TLS_NAME_SIZE],
                     struct tls_stream **out, struct err *e);
void tls_close(struct tls_stream **s);         /* says goodbye where that doesn't block; for CLEANUP */
const char *tls_peer_name(const struct tls_stream *s);
const char *tls_cipher(const struct tls_stream *s); /* by OpenSSL's name: what the client would have first */
const char *tls_peer_serial(const struct tls_stream *s); /* its certificate's number: hexadecimal, lower case, without leading zero bytes */

/* Reads what there is, at least a byte: the count, or 0 at the end, or -1 (ERR_TIMEOUT after timeout_ms; negative: none). */
int64_t tls_read(struct tls_stream *s, void *bytes, size_t size, int timeout_ms, struct err *e);
/* Exactly size bytes: 1, 0 at the end before the first byte, -1. The time limit holds for each wait, not for the whole. */
int tls_read_all(struct tls_stream *s, void *bytes, size_t size, int timeout_ms, struct err *e);
int tls_write_all(struct tls_stream *s, const void *bytes, size_t size, int timeout_ms, struct err *e);
bool tls_has_room(const struct tls_stream *s); /* a small write would not wait: the kernel takes something now, or the connection is over */
/* Makes every pending and later call of any thread return soon with ERR_UNREACHABLE or the end. */
void tls_cut(struct tls_stream *s);

/* Has the machine lost the address that this connection was made from? Then nothing will come over it any more; TCP itself notices only
 * after minutes. false where it can't be told. */
bool tls_is_stranded(const struct tls_stream *s);

/* What holds up what is sent, by the kernel's count since the connection began. */
struct tls_flow {
    int64_t busy_us; /* there was something on its way or waiting to be */
    int64_t held_us; /* of it: the other end had no room for it, or this one's own buffer was full: not the network */
    int64_t rtt_us;
};
bool tls_flow(const struct tls_stream *s, struct tls_flow *out); /* false where it can't be told (no TCP) */

/* A connected TCP socket (no delay, keep-alive) to a numeric IPv4 or IPv6 address within timeout_ms: the descriptor, or -1. */
int tls_dial(const char *address, int port, int timeout_ms, struct err *e);
