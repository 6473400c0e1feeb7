/* sse: GET /v1/events: server-sent events (WHATWG HTML 9.2). One thread reads the event table for all clients; a client is a position
 * in the table and a bounded buffer, and costs no thread. A client that doesn't read fast enough falls behind and is caught up from the
 * table: nothing is lost, and memory stays bounded. Broadcasts that aren't in the table (`replication`) are dropped for a client
 * whose buffer is full: the next one says all. */
#pragma once

#include "api/httpd.h"
#include "store/event.h"

#define SSE_BUFFER_BYTES (256u << 10) /* of one client */
#define SSE_HEARTBEAT_S 15
#define SSE_LIFETIME_S 600            /* then it must connect, and sign in, again: browsers do by themselves */

struct sse;
struct clock;

/* on_events is called from sse's thread after new events were committed, at most ten times a second. */
int sse_start(struct store *s, void (*on_events)(void *user), void *user, struct sse **out, struct err *e);
/* Ends its thread: on_events isn't called after. Then httpd_stop ends the clients, then sse_free. */
void sse_stop(struct sse *hub);
void sse_free(struct sse **hub); /* for CLEANUP; no client may be left */
/* Answers c with the stream of events with id > after_id (< 0: from now on), of the wave where one is given. */
int sse_subscribe(struct sse *hub, struct http_call *c, int64_t after_id, const char *wave, struct err *e);
/* To every client (of that wave, or without a filter), without an id. json is one line. */
void sse_broadcast(struct sse *hub, const char *name, const char *wave, const char *json);

/* {id,at,actor,kind,wave,entity,entity_id,data} */
json_t *sse_event_json(const struct event *what);
/* The value of Last-Event-ID: 0 and *id, or -1. */
int sse_parse_id(const char *text, int64_t *id, struct err *e);
