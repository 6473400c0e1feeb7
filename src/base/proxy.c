#include "base/proxy.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool is_numeric(const char *address)
{
    struct in6_addr any;

    return inet_pton(AF_INET, address, &any) == 1 || inet_pton(AF_INET6, address, &any) == 1;
}

/* "ADDRESS:PORT" or "[ADDRESS]:PORT". */
static int parse_place(const char *text, struct proxy *p, struct err *e)
{
    bool bracket = *text == '[';
    const char *colon = bracket ? strstr(text, "]:") : strrchr(text, ':');
    size_t size = colon ? (size_t)(colon - text) - bracket : 0;
    char *end;
    long port;

    if (!colon || !size || size >= sizeof p->address)
        return err_set(e, ERR_INVALID, "a proxy is http://ADDRESS:PORT");
    memcpy(p->address, text + bracket, size);
    p->address[size] = '\0';
    port = strtol(colon + 1 + bracket, &end, 10);
    if (!is_numeric(p->address) || (strchr(p->address, ':') && !bracket))
        return err_set(e, ERR_INVALID, "a proxy's address is numeric, IPv6 in brackets: \"%.60s\" is not", p->address);
    if (end == colon + 1 + bracket || (*end && strcmp(end, "/") != 0) || port < 1 || port > 65535)
        return err_set(e, ERR_INVALID, "a proxy's port is a number from 1 to 65535");
    p->port = (int)port;
    return 0;
}

int proxy_parse(const char *text, struct proxy *out, struct err *e)
{
    struct proxy p = {0};
    const char *at;

    if (strncmp(text, "http://", 7) != 0)
        return err_set(e, ERR_INVALID, "a proxy is http://ADDRESS:PORT, spoken to in the clear: what goes through it is TLS");
    text += 7;
    at = strrchr(text, '@');
    if (at) {
        if (at == text || (size_t)(at - text) >= sizeof p.login || !memchr(text, ':', (size_t)(at - text)))
            return err_set(e, ERR_INVALID, "before the @ of a proxy stands USER:PASSWORD, at most %zu bytes", sizeof p.login - 1);
        memcpy(p.login, text, (size_t)(at - text));
        text = at + 1;
    }
    if (parse_place(text, &p, e) < 0)
        return -1;
    *out = p;
    return 0;
}

/* ---- the request ---- */

static void add_login(const struct proxy *p, struct buf *request)
{
    char coded[4 * ((sizeof p->login + 2) / 3) + 1];

    if (!*p->login)
        return;
    EVP_EncodeBlock((unsigned char *)coded, (const unsigned char *)p->login, (int)strlen(p->login));
    buf_printf(request, "Proxy-Authorization: Basic %s\r\n", coded);
}

static int ask(int fd, const struct proxy *p, const char *address, int port, int64_t until_us, struct err *e)
{
    CLEANUP(buf_release) struct buf request = {.limit_bytes = PROXY_ANSWER_LIMIT};
    CLEANUP(free_ptr) char *place = strchr(address, ':') ? xasprintf("[%s]:%d", address, port) : xasprintf("%s:%d", address, port);

    buf_printf(&request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", place, place);
    add_login(p, &request);
    buf_puts(&request, "\r\n");
    for (size_t done = 0; done < request.size_bytes;) {
        ssize_t n = send(fd, request.data + done, request.size_bytes - done, MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return err_errno(e, errno, "asking the proxy");
        if (n < 0 && fd_wait(fd, POLLOUT, until_us, "the proxy", e) < 0)
            return -1;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* ---- the answer ---- */

/* "HTTP/1.1 407 Proxy Authentication Required" (RFC 9112 4); any 2xx opens the way. */
static int judge(const char *line, size_t size, struct err *e)
{
    int code = 0;

    if (size < 12 || strncmp(line, "HTTP/1.", 7) != 0 || line[8] != ' ')
        return err_set(e, ERR_PROTOCOL, "what answers is no HTTP proxy");
    for (int i = 9; i < 12; i++)
        code = line[i] >= '0' && line[i] <= '9' ? code * 10 + (line[i] - '0') : 10000;
    if (code < 100 || code > 599)
        return err_set(e, ERR_PROTOCOL, "the proxy answers without a status");
    if (code / 100 == 2)
        return 0;
    if (code == 407)
        return err_set(e, ERR_UNAUTHENTICATED, "the proxy wants another login (407): give it as http://USER:PASSWORD@ADDRESS:PORT");
    if (code == 403 || code == 405)
        return err_set(e, ERR_DENIED, "the proxy refuses to connect there (%d): it must allow CONNECT to the replicator's address and port", code);
    return err_set(e, ERR_UNREACHABLE, "the proxy can't connect there (%d)", code);
}

int proxy_answer(const char *text, size_t *size, struct err *e)
{
    const char *end = memmem(text, *size, "\r\n\r\n", 4), *line_end = memmem(text, *size, "\r\n", 2);

    if (memchr(text, '\0', *size))
        return err_set(e, ERR_PROTOCOL, "what answers is no HTTP proxy");
    if (line_end && judge(text, (size_t)(line_end - text), e) < 0)
        return -1;
    if (!end && *size >= PROXY_ANSWER_LIMIT)
        return err_set(e, ERR_PROTOCOL, "the proxy's answer does not end within %u bytes", PROXY_ANSWER_LIMIT);
    if (!end)
        return 0;
    *size = (size_t)(end - text) + 4;
    return 1;
}

/* Takes no byte that comes after the answer: it is looked at first, and taken as far as it goes. */
static int hear(int fd, int64_t until_us, struct err *e)
{
    char text[PROXY_ANSWER_LIMIT], rest[PROXY_ANSWER_LIMIT];
    size_t held = 0;

    for (;;) {
        ssize_t seen = recv(fd, rest, sizeof text - held, MSG_PEEK);
        size_t size;
        int whole;

        if (seen == 0)
            return err_set(e, ERR_UNREACHABLE, "the proxy closed the connection");
        if (seen < 0 && errno != EAGAIN && errno != EINTR)
            return err_errno(e, errno, "hearing the proxy");
        if (seen < 0) {
            if (fd_wait(fd, POLLIN, until_us, "the proxy", e) < 0)
                return -1;
            continue;
        }
        memcpy(text + held, rest, (size_t)seen);
        size = held + (size_t)seen;
        whole = proxy_answer(text, &size, e);
        if (whole < 0)
            return -1;
        if (recv(fd, rest, size - held, 0) < 0)
            return err_errno(e, errno, "hearing the proxy");
        if (whole)
            return 0;
        held = size;
    }
}

int proxy_dial(const struct proxy *p, const char *address, int port, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    int fd = tls_dial(p->address, p->port, timeout_ms, e);

    if (fd < 0)
        return err_wrap(e, "the proxy");
    if (ask(fd, p, address, port, until_us, e) < 0 || hear(fd, until_us, e) < 0) {
        close(fd);
        return err_wrap(e, "through the proxy %s port %d", p->address, p->port);
    }
    return fd;
}
