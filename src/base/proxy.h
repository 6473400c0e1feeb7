/* proxy: a TCP connection through an HTTP proxy, by CONNECT (RFC 9110 9.3.6). What travels is the caller's own TLS: the proxy sees nothing but
 * sizes and times. */
#pragma once

#include "base/err.h"

#include <stddef.h>

#define PROXY_ANSWER_LIMIT 8192u /* bytes of status line and header fields */

struct proxy {
    char address[64]; /* numeric: a static program has no resolver */
    int port;
    char login[160];  /* "user:password" for Basic authentication (RFC 7617); "": none */
};

/* "http://[USER:PASSWORD@]ADDRESS:PORT", an IPv6 address in brackets; the port is needed. ERR_INVALID says what is wrong. */
int proxy_parse(const char *text, struct proxy *out, struct err *e);

/* The same promise as tls_dial, to address (numeric, or a name that the proxy knows) and port. ERR_UNREACHABLE where the proxy can't be reached or
 * can't reach it, ERR_UNAUTHENTICATED where it wants another login, ERR_DENIED where it refuses, ERR_PROTOCOL where it speaks no HTTP. */
int proxy_dial(const struct proxy *p, const char *address, int port, int timeout_ms, struct err *e);

/* What the proxy has answered so far: 1 the way is open, and *size bytes of the text were its answer; 0: there must come more; -1 as above. */
int proxy_answer(const char *text, size_t *size, struct err *e);
