/* httpd: our own layer over libmicrohttpd: HTTPS (TLS 1.3) with an epoll thread pool, a table of routes, and handlers that are plain
 * functions. It knows nothing of what the routes do; api/routes.c does.
 *
 * A request's life: an I/O thread reads its head, finds its route, reads the body within the route's limit (asking `authorise` first
 * who calls where the body is large), and hands the call to a worker, which asks otherwise. The connection sleeps meanwhile, so that a slow
 * handler holds up nobody else. The worker runs the handler, which fills in the reply; the I/O thread sends it. A handler may *park*
 * its call (a long poll): it is run again after httpd_wake, or when its time is up. A handler may answer with a *stream* (server-sent
 * events), which costs no thread while it has nothing to say.
 *
 * What a call holds lives in its arena and goes with it. Everything from outside is bounded (HTTP_LIMIT_…); a connection that
 * doesn't finish its request in time is cut. */
#pragma once

#include "base/json.h"
#include "base/limits.h"
#include "identity/identity.h"

#include <sys/types.h>

#define HTTP_LIMIT_CONNECTIONS 4096
#define HTTP_LIMIT_CONNECTIONS_PER_ADDRESS 1024
#define HTTP_LIMIT_HEAD_BYTES (32u << 10)       /* request line and headers, of one request */
#define HTTP_LIMIT_BODIES_BYTES (256u << 20)    /* all bodies that are in memory at one time */
#define HTTP_LIMIT_ANONYMOUS_BODY_BYTES (64u << 10)
#define HTTP_LIMIT_QUEUE 1024                   /* calls that wait for a worker */
#define HTTP_LIMIT_SEGMENTS 12                  /* of a path */
#define HTTP_LIMIT_REPLY_HEADERS 12
#define HTTP_LIMIT_STREAMS 2048
#define HTTP_IDLE_TIMEOUT_S 60
#define HTTP_REQUEST_TIMEOUT_MS 30000           /* from a request's first byte to its last, plus a second for each 64 KiB of body */
#define HTTP_REPLY_TIMEOUT_MS 120000            /* until a reply has been taken by its client */

enum http_method { HTTP_GET, HTTP_POST, HTTP_PUT, HTTP_PATCH, HTTP_DELETE, HTTP_METHOD_COUNT };
extern const char *const httpd_method_names[HTTP_METHOD_COUNT];

enum http_access {
    ACCESS_PUBLIC,     /* anyone */
    ACCESS_VIEWER,     /* a user of any role */
    ACCESS_OPERATOR,
    ACCESS_ADMIN,
    ACCESS_RUNNER,     /* a certificate that the factory issued to a runner */
    ACCESS_REPLICATOR,
    ACCESS_READER,     /* a user of any role, or a runner: for steps that ask the factory */
    ACCESS_COUNT
};
extern const char *const httpd_access_names[ACCESS_COUNT];

enum http_input {
    INPUT_NONE,
    INPUT_JSON,        /* an object, in call->body */
    INPUT_BYTES        /* as they come, in call->bytes */
};

struct http_call;
/* 0: the reply is filled in. -1: *e becomes a problem. CALL_PARKED: see call_park. */
#define CALL_PARKED 1
typedef int http_handler(struct http_call *c, struct err *e);

struct http_route {
    enum http_method method;
    const char *path;          /* "/v1/waves/{wave}": matched segment by segment */
    http_handler *run;
    enum http_access access;
    enum http_input input;
    size_t limit_bytes;        /* of the body; 0: 1 MiB of JSON */
    const char *summary;       /* for the OpenAPI document, as are the rest: */
    const char *query;         /* "wave,limit,page": its query parameters; NULL: none */
    const char *takes, *gives; /* names of schemas (api/schemas.c), or a media type; NULL: nothing */
    int status;                /* of success; 0: 200, or 204 where gives is NULL */
    bool quick;                /* runs in the I/O thread: must not touch disk or database */
};

struct http_reply_header {
    const char *name, *value;
};

struct http_reply {
    int status; /* 0: nothing filled in yet */
    const char *media_type;
    void *bytes; /* malloc'ed and given to the layer, unless lasting */
    size_t size_bytes;
    bool lasting;
    struct http_reply_header headers[HTTP_LIMIT_REPLY_HEADERS];
    int header_count;
};

/* What a handler sees of its call; the layer's own part lies behind it (httpd_private.h). */
struct http_call {
    struct arena *arena;
    void *context;                        /* httpd_options.context */
    const struct http_route *route;
    const char *path;                     /* as sent, without the query */
    struct actor who;                     /* as `authorise` found it; zeros for a public route */
    json_t *body;                         /* INPUT_JSON */
    struct buf bytes;                     /* INPUT_BYTES */
    bool time_is_up;                      /* parked until its time: answer now */
    int64_t poll_until_us;                /* the handler's own memory between runs of a parked call; 0 at first */
    json_t *faults;                       /* a list of {field,reason} for the problem; the layer drops it */
    json_t *extra;                        /* more members for the problem; the layer drops it */
    int problem_status;                   /* other than err_meaning's: 422 for faults, 412 … ; 0: as err_meaning says */
    char request_id[20];
    struct http_reply reply;
};

/* Borrowed until the call ends; NULL where it isn't there. */
const char *call_param(const struct http_call *c, const char *name);   /* of the path template: MUST be in it */
const char *call_query(const struct http_call *c, const char *name);   /* decoded; an empty one is as one that isn't there */
const char *call_header(const struct http_call *c, const char *name);
const char *call_cookie(const struct http_call *c, const char *name);
/* The client's certificate, which TLS has proven to be its own: 1: verified against the CA, for a client, in its time: *pem is lent; 0: none
 * was shown; -1: one that is none of ours, or has expired. */
int call_certificate(struct http_call *c, const char **pem, struct err *e);
const char *call_peer_address(const struct http_call *c); /* "192.0.2.7" */
/* Whole numbers and truth values of the query: *out stays where it isn't there. ERR_INVALID names the parameter. */
int call_query_int(const struct http_call *c, const char *name, int64_t least, int64_t most, int64_t *out, struct err *e);
int call_query_bool(const struct http_call *c, const char *name, bool *out, struct err *e);
/* If-Match: 1: *version set; 0: none or "*"; -1: not a version of ours. */
int call_if_match(const struct http_call *c, int64_t *version, struct err *e);

/* Replies. All return 0, so that handlers end with them. */
int reply_json(struct http_call *c, int status, json_t *body);                        /* takes the reference */
int reply_text(struct http_call *c, int status, const char *media_type, char *text);  /* malloc'ed, taken */
int reply_bytes(struct http_call *c, int status, const char *media_type, void *bytes, size_t size); /* as above */
int reply_lasting(struct http_call *c, int status, const char *media_type, const void *bytes, size_t size);
int reply_empty(struct http_call *c, int status);
void reply_header(struct http_call *c, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
void reply_etag(struct http_call *c, int64_t version);
int reply_problem(struct http_call *c, const struct err *e);
void call_fault(struct http_call *c, const char *field, const char *reason);          /* and problem_status becomes 422 */

/* Sleeps until httpd_wake or until_us (monotonic), then runs the handler again: `return call_park(c, …);` */
int call_park(struct http_call *c, int64_t until_us);

/* A reply that goes on: read fills at most size bytes and returns their count, 0 for nothing now, -1 for the end. It is called from I/O
 * threads, never two at a time for one stream. After a 0 it is called again after call_stream_wake, which may be called from any
 * thread until close was called. Owned by the layer from then on, which always calls close. */
struct http_stream {
    ssize_t (*read)(void *user, char *bytes, size_t size);
    void (*close)(void *user);
    void *user;
};
int reply_stream(struct http_call *c, const char *media_type, const struct http_stream *stream, struct err *e);
void call_stream_wake(struct http_call *c);
bool call_is_last(const struct http_call *c);   /* the server is stopping: start nothing */
const struct httpd_server *call_server(const struct http_call *c);
bool call_peer_left(const struct http_call *c); /* the client closed its end */

struct httpd_options {
    const char *address;        /* "127.0.0.1:8443", "[::1]:0" */
    const char *key_pem, *certificate_pem; /* borrowed during httpd_start */
    const char *ca_pem;         /* whose client certificates are believed; NULL: none */
    const struct http_route *routes;
    size_t route_count;
    const struct http_route *otherwise; /* for GETs that no route matches and that are outside /v1; NULL: 404 */
    /* Fills in c->who, or refuses. Runs in a worker; for a large body in an I/O thread, before that body is taken in. */
    int (*authorise)(struct http_call *c, struct err *e);
    void *context;
    int io_threads, workers;    /* 0: 2 and 8 */
};

struct httpd_server;
int httpd_start(const struct httpd_options *options, struct httpd_server **out, struct err *e);
int httpd_port(const struct httpd_server *s);
/* No new requests; those that run are answered; streams and long polls end. For CLEANUP. */
void httpd_stop(struct httpd_server **s);
/* Runs all parked calls again. */
void httpd_wake(struct httpd_server *s);
bool httpd_stopping(const struct httpd_server *s);

/* Numbers for /metrics. */
struct http_route_numbers {
    int64_t by_class[6];        /* replies by the first digit of their status */
    int64_t duration_us_sum;
    int64_t under_ms[8];        /* cumulative counts, see httpd_bucket_ms */
};
extern const int httpd_bucket_ms[8];
struct http_numbers {
    int64_t connections, streams, parked, queued, bodies_bytes, refused;
};
void httpd_read_numbers(const struct httpd_server *s, struct http_numbers *out);
/* index < route_count; route_count itself: requests that matched no route. */
void httpd_read_route_numbers(const struct httpd_server *s, size_t index, struct http_route_numbers *out);

/* Parsers of outside bytes, on their own for tests and fuzzing. */
/* Decodes %XX into the arena; with plus, '+' is a space. NULL: a broken escape, a NUL byte, or not UTF-8. */
char *httpd_unescape(struct arena *a, const char *text, size_t size, bool plus);
/* 1: found, with the values of {…} in order in values; 0: no such path; -1: the path is not one (e). *allowed gets a bit for each method
 * that the path has (1 << method). */
int httpd_match(const struct http_route *routes, size_t count, enum http_method method, const char *path, struct arena *a,
               const struct http_route **out, char *values[HTTP_LIMIT_SEGMENTS], unsigned *allowed, struct err *e);
/* The value of a cookie in a Cookie header (RFC 6265 4.2.1) into the arena, or NULL. */
char *httpd_cookie(struct arena *a, const char *header, const char *name);
/* "HOST:PORT", "[HOST]:PORT": ERR_INVALID says what is wrong. */
int httpd_split_address(const char *text, char *host, size_t host_size, int *port, struct err *e);
