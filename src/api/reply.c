/* Replies: what handlers fill in, problems (RFC 9457), streams, and handing it all to libmicrohttpd. */
#include "api/httpd_private.h"
#include "base/clock.h"

#include <string.h>

static struct call *inner(const struct http_call *c)
{
    return (struct call *)(uintptr_t)c;
}

static void reply_clear(struct http_reply *r)
{
    if (!r->lasting)
        free(r->bytes);
    r->bytes = NULL;
    r->size_bytes = 0;
    r->lasting = false;
}

static int reply_set(struct http_call *c, int status, const char *media_type, void *bytes, size_t size, bool lasting)
{
    struct http_reply *r = &c->reply;

    reply_clear(r);
    r->status = status;
    r->media_type = media_type;
    r->bytes = bytes;
    r->size_bytes = size;
    r->lasting = lasting;
    return 0;
}

int reply_bytes(struct http_call *c, int status, const char *media_type, void *bytes, size_t size)
{
    return reply_set(c, status, media_type, bytes, size, false);
}

int reply_text(struct http_call *c, int status, const char *media_type, char *text)
{
    return reply_set(c, status, media_type, text, strlen(text), false);
}

int reply_lasting(struct http_call *c, int status, const char *media_type, const void *bytes, size_t size)
{
    return reply_set(c, status, media_type, (void *)(uintptr_t)bytes, size, true);
}

int reply_json(struct http_call *c, int status, json_t *body)
{
    char *text = json_text(body);

    json_decref(body);
    return reply_text(c, status, "application/json", text);
}

int reply_empty(struct http_call *c, int status)
{
    return reply_set(c, status, NULL, NULL, 0, false);
}

void reply_header(struct http_call *c, const char *name, const char *format, ...)
{
    struct http_reply *r = &c->reply;
    char text[2048];
    va_list args;

    MUST(r->header_count < HTTP_LIMIT_REPLY_HEADERS);
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    r->headers[r->header_count++] = (struct http_reply_header){name, arena_strdup(c->arena, text)};
}

void reply_etag(struct http_call *c, int64_t version)
{
    reply_header(c, "ETag", "\"%lld\"", (long long)version);
}

void call_fault(struct http_call *c, const char *field, const char *reason)
{
    if (!c->faults)
        c->faults = json_array();
    json_array_append_new(c->faults, json_pack("{s:s, s:s}", "field", field, "reason", reason));
    c->problem_status = 422;
}

/* A message may have been cut within a letter, or quote bytes of the other end's. */
static json_t *readable(const char *text)
{
    json_t *whole = json_string(text);
    CLEANUP(free_ptr) char *copy = NULL;

    if (whole)
        return whole;
    copy = xstrdup(text);
    for (char *at = copy; *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    return json_string(copy);
}

int reply_problem(struct http_call *c, const struct err *e)
{
    const struct err_meaning *meaning = err_meaning(e->kind == ERR_NONE ? ERR_INTERNAL : e->kind);
    int status = c->problem_status ? c->problem_status : meaning->http_status;
    json_t *problem = json_pack("{s:o, s:s, s:i, s:o, s:s, s:o}", "type",
                                json_sprintf("urn:slipway:problem:%s", meaning->name), "title", meaning->title, "status", status,
                                "detail", readable(e->message), "kind", meaning->name, "instance", json_sprintf("urn:slipway:request:%s", c->request_id));

    MUST(problem);
    if (c->faults)
        json_object_set(problem, "faults", c->faults);
    if (c->extra)
        json_object_update_missing(problem, c->extra);
    if (status == 401)
        reply_header(c, "WWW-Authenticate", "Bearer realm=\"slipway\"");
    reply_json(c, status, problem);
    c->reply.media_type = "application/problem+json";
    return 0;
}

/* --- streams --- */

static ssize_t stream_read(void *context, uint64_t position, char *bytes, size_t size)
{
    struct call *c = context;

    (void)position;
    for (;;) {
        ssize_t count;
        bool again;

        if (c->server->stopping)
            return MHD_CONTENT_READER_END_OF_STREAM;
        c->link->deadline_us = clock_monotonic_us() + HTTP_REPLY_TIMEOUT_MS * US_PER_MS;
        count = c->stream.read(c->stream.user, bytes, size);
        if (count < 0)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (count > 0)
            return count;
        pthread_mutex_lock(&c->stream_lock);
        again = c->woken || c->server->stopping;
        c->woken = false;
        if (!again) {
            c->asleep = true;
            c->link->deadline_us = 0;
            MHD_suspend_connection(c->connection);
        }
        pthread_mutex_unlock(&c->stream_lock);
        if (!again)
            return 0;
    }
}

void call_stream_wake(struct http_call *open)
{
    struct call *c = inner(open);

    pthread_mutex_lock(&c->stream_lock);
    if (c->asleep && !c->gone) {
        c->asleep = false;
        MHD_resume_connection(c->connection);
    } else {
        c->woken = true;
    }
    pthread_mutex_unlock(&c->stream_lock);
}

void stream_free(void *context)
{
    struct call *c = context;
    struct httpd_server *s = c->server;

    pthread_mutex_lock(&s->streams_lock);
    if (c->stream_before)
        c->stream_before->stream_next = c->stream_next;
    else
        s->streams = c->stream_next;
    if (c->stream_next)
        c->stream_next->stream_before = c->stream_before;
    pthread_mutex_unlock(&s->streams_lock);
    c->stream.close(c->stream.user);
    s->streams_count--;
    call_drop(c);
}

int reply_stream(struct http_call *open, const char *media_type, const struct http_stream *stream, struct err *e)
{
    struct call *c = inner(open);
    struct httpd_server *s = c->server;

    if (atomic_fetch_add(&s->streams_count, 1) >= HTTP_LIMIT_STREAMS) {
        s->streams_count--;
        s->refused++;
        open->problem_status = 503;
        return err_set(e, ERR_LIMIT, "%d event streams are open already, the most there may be: close some", HTTP_LIMIT_STREAMS);
    }
    c->stream = *stream;
    c->streams = true;
    c->references++;
    pthread_mutex_lock(&s->streams_lock);
    c->stream_next = s->streams;
    if (s->streams)
        s->streams->stream_before = c;
    s->streams = c;
    pthread_mutex_unlock(&s->streams_lock);
    return reply_set(open, 200, media_type, NULL, 0, false);
}

/* --- to the wire --- */

/* For everything that isn't the console or a report, which set their own: */
static const char api_policy[] = "default-src 'none'; frame-ancestors 'none'";

static bool has_header(const struct http_reply *r, const char *name)
{
    for (int i = 0; i < r->header_count; i++)
        if (strcasecmp(r->headers[i].name, name) == 0)
            return true;
    return false;
}

static void add_headers(struct MHD_Response *response, const struct call *c)
{
    const struct http_reply *r = &c->open.reply;

    if (r->media_type)
        MHD_add_response_header(response, "Content-Type", r->media_type);
    MHD_add_response_header(response, "X-Request-Id", c->open.request_id);
    MHD_add_response_header(response, "Strict-Transport-Security", "max-age=31536000");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    MHD_add_response_header(response, "X-Frame-Options", "DENY");
    MHD_add_response_header(response, "Cross-Origin-Opener-Policy", "same-origin");
    if (!has_header(r, "Content-Security-Policy"))
        MHD_add_response_header(response, "Content-Security-Policy", api_policy);
    if (!has_header(r, "Cache-Control"))
        MHD_add_response_header(response, "Cache-Control", "no-store");
    for (int i = 0; i < r->header_count; i++)
        MHD_add_response_header(response, r->headers[i].name, r->headers[i].value);
}

enum MHD_Result reply_send(struct call *c)
{
    struct http_reply *r = &c->open.reply;
    struct MHD_Response *response;
    enum MHD_Result result;

    if (c->streams && r->status == 200) {
        c->stream_queued = true; /* the response calls stream_free from here on */
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 << 10, stream_read, c, stream_free);
    } else {
        response = MHD_create_response_from_buffer(r->size_bytes, r->bytes, r->lasting ? MHD_RESPMEM_PERSISTENT : MHD_RESPMEM_MUST_FREE);
        if (response) /* which owns the bytes now */
            r->bytes = NULL;
    }
    if (!response) {
        c->stream_queued = false;
        return MHD_NO;
    }
    add_headers(response, c);
    result = MHD_queue_response(c->connection, (unsigned)r->status, response);
    MHD_destroy_response(response);
    return result;
}
