/* control_client: asks the replicator over its control socket (docs/architecture.md, "The replicator's control socket"). For the steps
 * that run beside it, and for the command line. One call, one connection. */
#pragma once

#include "base/json.h"

struct control_client {
    const char *socket_path; /* DATA/replicator/control.sock */
    int timeout_ms;          /* between two lines of the answer; 0: 60,000. The replicator says something at least every 5 s */
    /* Each progress line; NULL: none. */
    void (*progress)(int64_t done, int64_t total, const char *unit, void *user);
    bool (*cancelled)(void *user); /* asked several times a second; NULL: never */
    void *user;
};

/* Sends {"verb":…}, waits for the answer. *answer (the caller's; may be NULL) is the object with "ok":true. A refusal is the error that
 * the replicator gave, by kind. ERR_UNREACHABLE where nobody listens, ERR_TIMEOUT, ERR_CANCELLED, ERR_PROTOCOL. */
int control_client_call(const struct control_client *o, const json_t *request, json_t **answer, struct err *e);
/* The same with the request made as by json_pack: control_client_ask(&o, &answer, &e, "{s:s, s:s}", "verb", "thaw", "server", "db01"). */
int control_client_ask(const struct control_client *o, json_t **answer, struct err *e, const char *format, ...);
