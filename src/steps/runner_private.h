/* How the parts of a runner work together.
 *
 * runner.c: options, enrolment, threads (one a slot, one postman), the end.
 * supervise.c: one attempt: starts a child process for it, relays what it says, renews the lease, kills it when it must stop.
 * attempt.c: that child: runs the step. The two talk over a socket (descriptor ATTEMPT_FD of the child) in JSON lines:
 *   parent to child: the task document with "scratch_dir" and "state_dir" put in; then {"cancel":true} and answers {"stored":…}
 *   child to parent: {"evidence":{…}} {"progress":{…}} {"log":text} {"artifact":{name,media_type,path}}, at last
 *   {"finish":{outcome,error?,result}}. When the socket ends, the other side is gone: the child kills what it started, and itself.
 * finishes.c: what could not be told to the factory yet, on disk. */
#pragma once

#include "base/http.h"

#include <pthread.h>
#include <stdatomic.h>

#define ATTEMPT_FD 3
#define ATTEMPT_LINE_BYTES (LIMIT_JSON_BYTES + 65536)

struct runner {
    const char *factory_url, *name, *state_dir;
    const char *const *labels; /* NULL at the end */
    const char *program;       /* what a child is started from */
    struct http_options http;
    int parallel;
    atomic_bool stopping;      /* asked to end: claim nothing, kill what runs, report nothing: the lease runs out */
    struct finishes *finishes;
};

/* Reads JSON lines from a socket. */
struct lines {
    int fd;
    struct buf held;
};
/* 1 a line (*out is the caller's), 0 the end, -1; ERR_TIMEOUT when none came within timeout_ms (negative: waits). */
int lines_read(struct lines *l, int timeout_ms, json_t **out, struct err *e);
void lines_release(struct lines *l);
/* Sends one; never raises SIGPIPE. ERR_UNREACHABLE: the other side is gone. */
int lines_send(int fd, const json_t *line, struct err *e);

/* The child's main: an exit code. */
int attempt_main(void);

/* Runs one attempt to its end; the document is borrowed. Its finish is in r->finishes after, unless the attempt was lost. */
void supervise(struct runner *r, struct http_client *client, const json_t *document);
void runner_remove_folder(const char *path); /* an attempt's, with all in it */

/* Unreported finishes: files STATE/finishes/ATTEMPT.json, {attempt, report?:{…}, finish:{…}}. Thread-safe. */
struct finishes;
int finishes_open(const char *state_dir, struct finishes **out, struct err *e);
void finishes_close(struct finishes **f);
int finishes_keep(struct finishes *f, const char *attempt, const json_t *body, struct err *e);
/* Tells the factory; the file goes when it answered, with yes or with a final no. 0: all told. -1: the first that could not be. */
int finishes_deliver(struct finishes *f, struct http_client *client, const char *factory_url, struct err *e);
/* POSTs /v1/runner/attempts/{attempt}/{verb}. */
int runner_post(struct http_client *client, const char *factory_url, const char *attempt, const char *verb, const json_t *body,
                json_t **answer, int *status, struct err *e);
