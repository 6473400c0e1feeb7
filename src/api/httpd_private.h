/* httpd_private: what the files of the HTTP layer (httpd.c, call.c, reply.c, pool.c, peer.c) share. Nothing else includes it. */
#pragma once

#include "api/httpd.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

struct link;

enum call_state {
    CALL_READING,   /* the body comes in */
    CALL_WAITING,   /* with a worker, or parked; the connection sleeps */
    CALL_ANSWERED,  /* the reply can be sent */
    CALL_SENT
};

/* A call with the layer's part. `open` lies first, so that a pointer to one is a pointer to the other. */
struct call {
    struct http_call open;
    struct httpd_server *server;
    struct MHD_Connection *connection;
    struct link *link;
    enum call_state state;
    bool is_head, discards, was_parked, was_authorised;
    size_t discarded_bytes, held_bytes;    /* held: taken from the server's budget for bodies */
    struct err failed;                     /* set while reading; answered when the body has passed */
    char *values[HTTP_LIMIT_SEGMENTS];     /* of the path template, in order */
    int64_t started_us, park_until_us;
    struct call *next;                     /* in the pool's queue or its parked list */
    /* stream: guarded by stream_lock, which comes before MHD's own locks */
    pthread_mutex_t stream_lock;
    struct http_stream stream;
    bool streams, stream_queued, asleep, woken, gone; /* gone: MHD is done with the connection */
    atomic_int references;                 /* the connection's and the stream's */
    struct call *stream_next, *stream_before; /* in the server's list */
};

/* A connection: who is at its other end, and until when it has to finish what it is doing. */
struct link {
    int fd;
    char address[64];
    int certificate;                       /* 1, 0, -1 as call_certificate; -2: not looked at yet */
    char *pem;                             /* for 1 */
    int64_t certificate_ends_us;
    char why[160];                         /* for -1 */
    _Atomic int64_t deadline_us;           /* monotonic; 0: none */
    struct link *next, *before;
};

struct route_counters {
    _Atomic int64_t by_class[6], duration_us_sum, under_ms[8];
};

/* Lock order: links_lock and streams_lock are leaves, as is pool.lock; a call's stream_lock comes after streams_lock. */
struct pool {
    pthread_mutex_t lock;
    pthread_cond_t some;
    struct call *first, *last, *parked;
    int queued, parked_count, running, worker_count;
    bool stopping;
    pthread_t *workers;
};

struct httpd_server {
    struct httpd_options options;
    struct MHD_Daemon *daemon;
    int port;
    struct pool pool;
    struct route_counters *counters;       /* route_count + 1 */
    atomic_bool stopping;
    _Atomic int64_t bodies_bytes, calls, refused, connections, streams_count;
    pthread_mutex_t links_lock, streams_lock;
    struct link *links;
    struct call *streams;
    pthread_t keeper;
    bool keeper_runs;
};

/* pool.c */
int pool_start(struct httpd_server *s, int workers, struct err *e);
/* false: stopping, or the queue is full. The connection must be suspended already. */
bool pool_push(struct httpd_server *s, struct call *c);
void pool_wake(struct httpd_server *s, bool all); /* all, or only those whose time is up */
void pool_stop(struct httpd_server *s);           /* answers everything, then joins the workers */

/* call.c */
struct call *call_new(struct httpd_server *s, struct MHD_Connection *connection, const char *path);
void call_drop(struct call *c);                  /* gives a reference back; the last frees */
int call_authorise(struct call *c, struct err *e); /* once */
void call_answer(struct call *c);                /* authorises, runs the route's handler; on return either parked or the reply is filled in */
bool call_peer_is_gone(const struct call *c);

/* reply.c */
enum MHD_Result reply_send(struct call *c);
int reply_error(struct call *c, const struct err *e);
void stream_free(void *call);                    /* ends a stream that never reached, or has left, its response */

/* peer.c */
void peer_look(struct call *c);                  /* fills in the link's certificate fields, once */
