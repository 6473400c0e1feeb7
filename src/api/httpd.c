/* The I/O side: libmicrohttpd's daemon, its callbacks, and the keeper that cuts connections which take too long. */
#include "api/httpd_private.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* TLS 1.3 alone (RFC 8446); its suites are all AEADs with forward secrecy. */
static const char tls_priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3";

/* Paths are decoded by httpd_unescape, after they were split: %2F is not a separator. */
static size_t keep_escapes(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context;
    (void)connection;
    return strlen(text);
}

static void mhd_says(void *context, const char *format, va_list args)
{
    char text[512];

    (void)context;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = '\0';
    log_debug("http: %s", text);
}

/* --- connections --- */

static void address_text(const struct sockaddr *from, char *text, size_t size)
{
    if (!from || getnameinfo(from, from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in),
                             text, (socklen_t)size, NULL, 0, NI_NUMERICHOST) != 0)
        snprintf(text, size, "unknown");
}

static void link_open(struct httpd_server *s, struct MHD_Connection *connection, void **socket_context)
{
    const union MHD_ConnectionInfo *fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *from = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    struct link *l = xcalloc(1, sizeof *l);

    l->fd = fd ? fd->connect_fd : -1;
    l->certificate = -2;
    address_text(from ? from->client_addr : NULL, l->address, sizeof l->address);
    l->deadline_us = clock_monotonic_us() + HTTP_REQUEST_TIMEOUT_MS * US_PER_MS;
    pthread_mutex_lock(&s->links_lock);
    l->next = s->links;
    if (s->links)
        s->links->before = l;
    s->links = l;
    pthread_mutex_unlock(&s->links_lock);
    s->connections++;
    *socket_context = l;
}

static void link_close(struct httpd_server *s, void **socket_context)
{
    struct link *l = *socket_context;

    if (!l)
        return;
    pthread_mutex_lock(&s->links_lock);
    if (l->before)
        l->before->next = l->next;
    else
        s->links = l->next;
    if (l->next)
        l->next->before = l->before;
    pthread_mutex_unlock(&s->links_lock);
    s->connections--;
    gnutls_free(l->pem);
    free(l);
    *socket_context = NULL;
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        link_open(context, connection, socket_context);
    else
        link_close(context, socket_context);
}

/* MHD's own time-out only knows silence; who sends a byte now and then is cut here. And parked calls get their turn. */
static void *keeper(void *context)
{
    struct httpd_server *s = context;

    while (!s->stopping) {
        int64_t now_us = clock_monotonic_us();

        pthread_mutex_lock(&s->links_lock);
        for (struct link *l = s->links; l; l = l->next) {
            int64_t deadline_us = l->deadline_us;

            if (deadline_us && now_us > deadline_us) {
                shutdown(l->fd, SHUT_RDWR);
                l->deadline_us = 0;
            }
        }
        pthread_mutex_unlock(&s->links_lock);
        pool_wake(s, false);
        clock_sleep_us(50 * US_PER_MS);
    }
    return NULL;
}

/* --- a request --- */

static void call_fail(struct call *c, const struct err *e)
{
    if (c->failed.kind == ERR_NONE)
        c->failed = *e;
    c->discards = true;
}

/* -1: unknown (chunked). */
static int64_t announced_bytes(const struct call *c)
{
    const char *text = call_header(&c->open, "Content-Length");
    char *end;
    long long size;

    if (!text)
        return call_header(&c->open, "Transfer-Encoding") ? -1 : 0;
    errno = 0;
    size = strtoll(text, &end, 10);
    return errno || end == text || *end || size < 0 ? INT64_MAX : size;
}

static int find_route(struct call *c, const char *method, struct err *e)
{
    const struct httpd_options *o = &c->server->options;
    unsigned allowed = 0;
    int found = 0, which = 0;

    c->is_head = strcmp(method, "HEAD") == 0;
    while (which < HTTP_METHOD_COUNT && strcmp(method, httpd_method_names[which]) != 0)
        which++;
    if (c->is_head)
        which = HTTP_GET;
    found = httpd_match(o->routes, o->route_count, (enum http_method)which, c->open.path, c->open.arena, &c->open.route, c->values,
                       &allowed, e);
    if (found < 0)
        return -1;
    if (found)
        return 0;
    if (allowed) {
        char list[64] = "";

        for (int m = 0; m < HTTP_METHOD_COUNT; m++)
            if (allowed & (1u << m))
                snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", *list ? ", " : "", httpd_method_names[m]);
        reply_header(&c->open, "Allow", "%s", list);
        c->open.problem_status = 405;
        return err_set(e, ERR_UNSUPPORTED, "%s has no %.16s; it has %s", c->open.path, method, list);
    }
    if (o->otherwise && which == HTTP_GET && strncmp(c->open.path, "/v1", 3) != 0) {
        c->open.route = o->otherwise;
        return 0;
    }
    return err_set(e, ERR_NOT_FOUND, "there is nothing at %.200s; /openapi.json lists what there is", c->open.path);
}

struct query_check {
    struct call *c;
    struct err *e;
    bool failed;
};

static bool is_listed(const char *list, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = list; at && *at; at += strspn(at, ",")) {
        size_t next = strcspn(at, ",");

        if (next == length && memcmp(at, name, length) == 0)
            return true;
        at += next;
    }
    return false;
}

static enum MHD_Result check_parameter(void *context, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct query_check *check = context;
    struct http_call *c = &check->c->open;

    (void)kind;
    if (!is_listed(c->route->query, name))
        err_set(check->e, ERR_INVALID, "%s has no parameter \"%.64s\"; it has: %s", c->route->path, name,
                c->route->query ? c->route->query : "none");
    else if (value && !httpd_unescape(c->arena, value, strlen(value), true))
        err_set(check->e, ERR_INVALID, "the parameter \"%s\" must be UTF-8 with whole %%XX escapes", name);
    else
        return MHD_YES;
    check->failed = true;
    return MHD_NO;
}

/* A misspelt parameter is an error, not silence. */
static int check_query(struct call *c, struct err *e)
{
    struct query_check check = {c, e, false};

    if (c->open.route != c->server->options.otherwise)
        MHD_get_connection_values(c->connection, MHD_GET_ARGUMENT_KIND, check_parameter, &check);
    return check.failed ? -1 : 0;
}

static size_t route_limit(const struct http_route *r)
{
    return r->limit_bytes ? r->limit_bytes : 1u << 20;
}

static int check_head(struct call *c, const char *method, struct err *e)
{
    int64_t announced = announced_bytes(c);
    size_t limit;

    if (find_route(c, method, e) < 0 || check_query(c, e) < 0)
        return -1;
    limit = route_limit(c->open.route);
    if (c->open.route->access == ACCESS_PUBLIC && limit > HTTP_LIMIT_ANONYMOUS_BODY_BYTES)
        limit = HTTP_LIMIT_ANONYMOUS_BODY_BYTES;
    c->open.bytes.limit_bytes = limit;
    if (announced > 0 && c->open.route->input == INPUT_NONE && announced > 1024)
        return err_set(e, ERR_LIMIT, "%s takes no body", c->open.path);
    if (announced > (int64_t)limit)
        return err_set(e, ERR_LIMIT, "the body has %lld bytes; %zu are allowed", (long long)announced, limit);
    /* A stranger's large body isn't taken in. */
    if ((announced < 0 || announced > HTTP_LIMIT_ANONYMOUS_BODY_BYTES) && call_authorise(c, e) < 0)
        return -1;
    c->link->deadline_us = clock_monotonic_us() + HTTP_REQUEST_TIMEOUT_MS * US_PER_MS +
        (announced > 0 ? announced : (int64_t)limit) / 65536 * US_PER_S;
    return 0;
}

/* The first callback of a request: its head is there. */
static enum MHD_Result on_head(struct httpd_server *s, struct MHD_Connection *connection, const char *path, const char *method,
                               void **held)
{
    struct call *c = call_new(s, connection, path);
    struct err e = {0};

    *held = c;
    if (check_head(c, method, &e) == 0)
        return MHD_YES;
    call_fail(c, &e);
    /* A small body is let pass, so that the client reads the answer instead of a reset; for a large one MHD closes after it. */
    if (announced_bytes(c) >= 0 && announced_bytes(c) <= 256 << 10)
        return MHD_YES;
    reply_error(c, &c->failed);
    c->state = CALL_SENT;
    return reply_send(c);
}

static enum MHD_Result on_body(struct call *c, const char *bytes, size_t *size)
{
    struct httpd_server *s = c->server;
    size_t count = *size;
    struct err e = {0};

    *size = 0;
    if (c->discards || c->open.route->input == INPUT_NONE) {
        c->discarded_bytes += count;
        return c->discarded_bytes > 1u << 20 ? MHD_NO : MHD_YES;
    }
    if (c->open.bytes.size_bytes + count > c->open.bytes.limit_bytes) {
        err_set(&e, ERR_LIMIT, "the body has more than the %zu bytes that are allowed", c->open.bytes.limit_bytes);
        call_fail(c, &e);
        return MHD_YES;
    }
    c->held_bytes += count;
    if (atomic_fetch_add(&s->bodies_bytes, (int64_t)count) + (int64_t)count > HTTP_LIMIT_BODIES_BYTES) {
        s->refused++;
        c->open.problem_status = 503;
        err_set(&e, ERR_LIMIT, "the factory is holding as many request bodies as it can: try again in a moment");
        reply_header(&c->open, "Retry-After", "2");
        call_fail(c, &e);
        return MHD_YES;
    }
    buf_add(&c->open.bytes, bytes, count);
    return MHD_YES;
}

/* The request is complete. */
static enum MHD_Result on_whole(struct call *c)
{
    struct httpd_server *s = c->server;
    struct err e = {0};

    if (c->failed.kind == ERR_NONE && c->open.route->quick && !s->stopping) {
        call_answer(c);
    } else if (c->failed.kind == ERR_NONE) {
        c->link->deadline_us = 0;
        c->state = CALL_WAITING;
        MHD_suspend_connection(c->connection);
        if (pool_push(s, c))
            return MHD_YES;
        s->refused++;
        c->open.problem_status = 503;
        reply_header(&c->open, "Retry-After", "2");
        err_set(&e, ERR_LIMIT, s->stopping ? "the factory is stopping" : "the factory has more requests than it can take: try again");
        reply_error(c, &e);
        c->state = CALL_ANSWERED;
        MHD_resume_connection(c->connection);
        return MHD_YES;
    } else {
        reply_error(c, &c->failed);
    }
    c->state = CALL_SENT;
    return reply_send(c);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *upload, size_t *upload_size, void **held)
{
    struct call *c = *held;

    (void)version;
    if (!c)
        return on_head(context, connection, path, method, held);
    if (*upload_size)
        return on_body(c, upload, upload_size);
    if (c->state == CALL_READING)
        return on_whole(c);
    if (c->state == CALL_ANSWERED) {
        c->state = CALL_SENT;
        return reply_send(c);
    }
    return MHD_YES; /* woken without cause: goes on sleeping where it waits */
}

static void on_completed(void *context, struct MHD_Connection *connection, void **held, enum MHD_RequestTerminationCode code)
{
    struct call *c = *held;

    (void)context;
    (void)connection;
    (void)code;
    if (!c)
        return;
    *held = NULL;
    c->link->deadline_us = 0; /* between requests MHD's idle time-out holds */
    pthread_mutex_lock(&c->stream_lock);
    c->gone = true;
    pthread_mutex_unlock(&c->stream_lock);
    if (c->streams && !c->stream_queued)
        stream_free(c);
    call_drop(c);
}

/* --- start and stop --- */

int httpd_split_address(const char *text, char *host, size_t host_size, int *port, struct err *e)
{
    const char *colon = strrchr(text, ':'), *from = text, *to = colon;
    char *end;
    long number;

    if (!colon || colon == text)
        return err_set(e, ERR_INVALID, "\"%.100s\" is no address: give HOST:PORT or [IPV6]:PORT", text);
    if (*text == '[') {
        from++;
        to--;
        if (*to != ']' || to <= from)
            return err_set(e, ERR_INVALID, "\"%.100s\" is no address: the ] is missing", text);
    } else if (memchr(text, ':', (size_t)(colon - text))) {
        return err_set(e, ERR_INVALID, "\"%.100s\" is no address: write an IPv6 address as [ADDRESS]:PORT", text);
    }
    number = strtol(colon + 1, &end, 10);
    if (end == colon + 1 || *end || number < 0 || number > 65535 || colon[1] == '-' || colon[1] == '+')
        return err_set(e, ERR_INVALID, "\"%.100s\" is no address: the port must be 0-65535", text);
    if ((size_t)(to - from) >= host_size)
        return err_set(e, ERR_INVALID, "the host name in the address is too long");
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = '\0';
    *port = (int)number;
    return 0;
}

static int listen_at(const char *address, int *port, struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    CLEANUP(close_fd) int fd = -1;
    struct sockaddr_storage bound;
    socklen_t bound_size = sizeof bound;
    char host[256], service[8];
    int result, held;

    if (httpd_split_address(address, host, sizeof host, port, e) < 0)
        return -1;
    snprintf(service, sizeof service, "%d", *port);
    result = getaddrinfo(host, service, &hints, &found);
    if (result != 0)
        return err_set(e, ERR_INVALID, "the address %s: %s", address, gai_strerror(result));
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    result = fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &bound_size) < 0;
    freeaddrinfo(found);
    if (result)
        return err_errno(e, errno, "can't listen on %s", address);
    *port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port : ((struct sockaddr_in *)&bound)->sin_port);
    held = fd;
    fd = -1;
    return held;
}

static int start_daemon(struct httpd_server *s, int listen_fd, struct err *e)
{
    const struct httpd_options *o = &s->options;
    struct MHD_OptionItem trust[] = {{o->ca_pem ? MHD_OPTION_HTTPS_MEM_TRUST : MHD_OPTION_END, 0, (void *)(uintptr_t)o->ca_pem},
                                     {MHD_OPTION_END, 0, NULL}};

    s->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_TLS | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, s,
        MHD_OPTION_EXTERNAL_LOGGER, mhd_says, NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)(o->io_threads ? o->io_threads : 2),
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_LIMIT_CONNECTIONS,
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)HTTP_LIMIT_CONNECTIONS_PER_ADDRESS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_LIMIT_HEAD_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_TIMEOUT_S,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_HTTPS_MEM_KEY, o->key_pem, MHD_OPTION_HTTPS_MEM_CERT, o->certificate_pem,
        MHD_OPTION_HTTPS_PRIORITIES, tls_priorities, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_ARRAY, trust, MHD_OPTION_END);
    if (!s->daemon)
        return err_set(e, ERR_INTERNAL, "can't start the HTTPS server on %s: its key or certificate may be damaged", o->address);
    return 0;
}

static void server_free(struct httpd_server *s)
{
    pthread_mutex_destroy(&s->links_lock);
    pthread_mutex_destroy(&s->streams_lock);
    pthread_mutex_destroy(&s->pool.lock);
    pthread_cond_destroy(&s->pool.some);
    free(s->counters);
    free(s);
}

int httpd_start(const struct httpd_options *options, struct httpd_server **out, struct err *e)
{
    struct httpd_server *s;
    int port = 0, listen_fd;

    MUST(options->key_pem && options->certificate_pem && options->routes);
    listen_fd = listen_at(options->address, &port, e);
    if (listen_fd < 0)
        return -1;
    s = xcalloc(1, sizeof *s);
    s->options = *options;
    s->port = port;
    s->counters = xcalloc(options->route_count + 1, sizeof *s->counters);
    pthread_mutex_init(&s->links_lock, NULL);
    pthread_mutex_init(&s->streams_lock, NULL);
    if (pool_start(s, options->workers ? options->workers : 8, e) < 0) {
        close(listen_fd);
        server_free(s);
        return -1;
    }
    s->keeper_runs = pthread_create(&s->keeper, NULL, keeper, s) == 0;
    if (!s->keeper_runs || start_daemon(s, listen_fd, e) < 0) {
        if (!s->keeper_runs)
            err_set(e, ERR_LIMIT, "can't start a thread");
        close(listen_fd);
        httpd_stop(&s);
        return -1;
    }
    *out = s;
    return 0;
}

int httpd_port(const struct httpd_server *s)
{
    return s->port;
}

bool httpd_stopping(const struct httpd_server *s)
{
    return s->stopping;
}

void httpd_wake(struct httpd_server *s)
{
    pool_wake(s, true);
}

static void end_streams(struct httpd_server *s)
{
    pthread_mutex_lock(&s->streams_lock);
    for (struct call *c = s->streams; c; c = c->stream_next)
        call_stream_wake(&c->open);
    pthread_mutex_unlock(&s->streams_lock);
}

void httpd_stop(struct httpd_server **held)
{
    struct httpd_server *s = *held;
    int listen_fd = -1;

    if (!s)
        return;
    s->stopping = true;
    if (s->daemon)
        listen_fd = MHD_quiesce_daemon(s->daemon);
    pool_stop(s);
    end_streams(s);
    for (int waits = 0; s->calls > 0 && waits < 100; waits++) /* replies on their way: 2 s */
        clock_sleep_us(20 * US_PER_MS);
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    if (listen_fd >= 0)
        close(listen_fd);
    if (s->keeper_runs)
        pthread_join(s->keeper, NULL);
    server_free(s);
    *held = NULL;
}
