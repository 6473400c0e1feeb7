/* A call: its memory, what it was asked with, and running its handler. */
#include "api/httpd_private.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/rand.h>
#include <string.h>

const int httpd_bucket_ms[8] = {1, 5, 20, 100, 500, 2000, 10000, 60000};

static struct call *inner(const struct http_call *c)
{
    return (struct call *)(uintptr_t)c;
}

struct call *call_new(struct httpd_server *s, struct MHD_Connection *connection, const char *path)
{
    const union MHD_ConnectionInfo *socket = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct call *c = xcalloc(1, sizeof *c);
    unsigned char random[8];

    MUST(socket && socket->socket_context);
    c->server = s;
    c->connection = connection;
    c->link = socket->socket_context;
    c->open.arena = arena_new();
    c->open.context = s->options.context;
    c->open.path = arena_strdup(c->open.arena, path);
    buf_init(&c->open.bytes, 1);
    MUST(RAND_bytes(random, sizeof random) == 1);
    hash_hex(random, sizeof random, c->open.request_id);
    c->started_us = clock_monotonic_us();
    c->references = 1;
    pthread_mutex_init(&c->stream_lock, NULL);
    s->calls++;
    return c;
}

void call_drop(struct call *c)
{
    struct httpd_server *s = c->server;

    if (atomic_fetch_sub(&c->references, 1) > 1)
        return;
    json_free(&c->open.body);
    json_free(&c->open.faults);
    json_free(&c->open.extra);
    buf_release(&c->open.bytes);
    if (!c->open.reply.lasting)
        free(c->open.reply.bytes);
    arena_free(&c->open.arena);
    pthread_mutex_destroy(&c->stream_lock);
    s->bodies_bytes -= (int64_t)c->held_bytes;
    free(c);
    s->calls--;
}

bool call_peer_is_gone(const struct call *c)
{
    struct tcp_info info;
    socklen_t size = sizeof info;

    if (getsockopt(c->link->fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return true;
    return info.tcpi_state != TCP_ESTABLISHED;
}

bool call_is_last(const struct http_call *c)
{
    return inner(c)->server->stopping;
}

const struct httpd_server *call_server(const struct http_call *c)
{
    return inner(c)->server;
}

bool call_peer_left(const struct http_call *c)
{
    return call_peer_is_gone(inner(c));
}

/* --- what it was asked with --- */

const char *call_param(const struct http_call *c, const char *name)
{
    const char *template = c->route->path;
    size_t length = strlen(name);
    int which = 0;

    for (const char *open = strchr(template, '{'); open; open = strchr(open + 1, '{'), which++)
        if (strncmp(open + 1, name, length) == 0 && open[1 + length] == '}')
            return inner(c)->values[which];
    must_failed("the parameter is in the route's path", name, 0);
}

const char *call_query(const struct http_call *c, const char *name)
{
    const char *text = MHD_lookup_connection_value(inner(c)->connection, MHD_GET_ARGUMENT_KIND, name);

    return text && *text ? httpd_unescape(c->arena, text, strlen(text), true) : NULL;
}

const char *call_header(const struct http_call *c, const char *name)
{
    return MHD_lookup_connection_value(inner(c)->connection, MHD_HEADER_KIND, name);
}

const char *call_cookie(const struct http_call *c, const char *name)
{
    const char *header = call_header(c, "Cookie");

    return header ? httpd_cookie(c->arena, header, name) : NULL;
}

const char *call_peer_address(const struct http_call *c)
{
    return inner(c)->link->address;
}

int call_certificate(struct http_call *open, const char **pem, struct err *e)
{
    struct call *c = inner(open);

    if (c->link->certificate == -2)
        peer_look(c);
    if (c->link->certificate < 0)
        return err_set(e, ERR_UNAUTHENTICATED, "your certificate is refused: %s", c->link->why);
    if (c->link->certificate == 0)
        return 0;
    if (clock_now_us() > c->link->certificate_ends_us)
        return err_set(e, ERR_UNAUTHENTICATED, "your certificate has expired: enrol again");
    *pem = c->link->pem;
    return 1;
}

int call_query_int(const struct http_call *c, const char *name, int64_t least, int64_t most, int64_t *out, struct err *e)
{
    const char *text = call_query(c, name);
    long long value;
    char *end;

    if (!text || !*text)
        return 0;
    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno || *end || value < least || value > most)
        return err_set(e, ERR_INVALID, "\"%s\" must be a whole number from %lld to %lld", name, (long long)least, (long long)most);
    *out = value;
    return 0;
}

int call_query_bool(const struct http_call *c, const char *name, bool *out, struct err *e)
{
    const char *text = call_query(c, name);

    if (!text || !*text)
        return 0;
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        return err_set(e, ERR_INVALID, "\"%s\" must be true or false", name);
    *out = text[0] == 't';
    return 0;
}

int call_if_match(const struct http_call *c, int64_t *version, struct err *e)
{
    const char *text = call_header(c, "If-Match");
    long long value;
    char *end;

    if (!text || strcmp(text, "*") == 0)
        return 0;
    errno = 0;
    value = text[0] == '"' && text[1] >= '0' && text[1] <= '9' ? strtoll(text + 1, &end, 10) : -1;
    if (value < 0 || errno || strcmp(end, "\"") != 0)
        return err_set(e, ERR_INVALID, "If-Match must be the ETag that the resource was read with, as in \"7\"");
    *version = value;
    return 1;
}

int call_park(struct http_call *open, int64_t until_us)
{
    inner(open)->park_until_us = until_us > 0 ? until_us : 1;
    return CALL_PARKED;
}

/* --- running it --- */

static int read_json(struct http_call *c, struct err *e)
{
    const char *type = call_header(c, "Content-Type");

    if (c->body || c->route->input != INPUT_JSON)
        return 0;
    if (!c->bytes.size_bytes) {
        c->body = json_object();
        return 0;
    }
    if (!type || (strncasecmp(type, "application/json", 16) != 0 && strncasecmp(type, "application/merge-patch+json", 28) != 0)) {
        c->problem_status = 415;
        return err_set(e, ERR_INVALID, "the body must be sent as Content-Type: application/json");
    }
    if (json_read(c->bytes.data, c->bytes.size_bytes, &c->body, e) < 0)
        return -1;
    if (!json_is_object(c->body))
        return err_set(e, ERR_INVALID, "the body must be a JSON object");
    buf_release(&c->bytes);
    return 0;
}

static void count(struct call *c)
{
    struct httpd_server *s = c->server;
    size_t index = s->options.route_count;
    int64_t took_us = clock_monotonic_us() - c->started_us;
    struct route_counters *n;

    if (c->open.route >= s->options.routes && c->open.route < s->options.routes + s->options.route_count)
        index = (size_t)(c->open.route - s->options.routes);
    n = &s->counters[index];
    n->by_class[c->open.reply.status / 100 % 6]++;
    n->duration_us_sum += took_us;
    for (size_t i = 0; i < ARRAY_COUNT(httpd_bucket_ms); i++)
        if (took_us <= httpd_bucket_ms[i] * US_PER_MS)
            n->under_ms[i]++;
}

int call_authorise(struct call *c, struct err *e)
{
    if (c->was_authorised)
        return 0;
    c->was_authorised = true;
    return c->server->options.authorise ? c->server->options.authorise(&c->open, e) : 0;
}

void call_answer(struct call *c)
{
    struct err e = {0};
    int result = call_authorise(c, &e);

    if (result == 0)
        result = read_json(&c->open, &e);
    if (result == 0)
        result = c->open.route->run(&c->open, &e);
    if (result == CALL_PARKED && !c->open.time_is_up)
        return;
    c->park_until_us = 0;
    if (result < 0)
        reply_error(c, &e);
    else if (!c->open.reply.status)
        reply_empty(&c->open, 204);
    if (c->open.reply.status >= 500)
        log_warn("request %s: %s %s: %d: %s", c->open.request_id, httpd_method_names[c->open.route->method], c->open.path,
                 c->open.reply.status, e.message);
    count(c);
}

int reply_error(struct call *c, const struct err *e)
{
    reply_problem(&c->open, e);
    if (c->state == CALL_READING)
        count(c);
    return -1;
}

/* --- numbers --- */

void httpd_read_numbers(const struct httpd_server *s, struct http_numbers *out)
{
    struct pool *p = (struct pool *)(uintptr_t)&s->pool;

    pthread_mutex_lock(&p->lock);
    out->parked = p->parked_count;
    out->queued = p->queued;
    pthread_mutex_unlock(&p->lock);
    out->connections = s->connections;
    out->streams = s->streams_count;
    out->bodies_bytes = s->bodies_bytes;
    out->refused = s->refused;
}

void httpd_read_route_numbers(const struct httpd_server *s, size_t index, struct http_route_numbers *out)
{
    const struct route_counters *n = &s->counters[index];

    MUST(index <= s->options.route_count);
    for (size_t i = 0; i < ARRAY_COUNT(out->by_class); i++)
        out->by_class[i] = n->by_class[i];
    for (size_t i = 0; i < ARRAY_COUNT(out->under_ms); i++)
        out->under_ms[i] = n->under_ms[i];
    out->duration_us_sum = n->duration_us_sum;
}
