/* call: the other end of the replicator's control socket (docs/architecture.md): a JSON line asks, any number of progress lines and one
 * answer come back. For steps beside a replicator, for `slipway vault` and `slipway point`. */
#pragma once

#include "base/json.h"

struct replicator_call {
    const char *socket_path;
    int64_t timeout_ms;
    bool (*cancelled)(void *user);                             /* asked twice a second; NULL: never */
    void (*progress)(int64_t done, int64_t total, const char *unit, void *user); /* NULL: passed over */
    void *user;
};

/* *answer is the whole "ok" object; the caller frees. ERR_UNREACHABLE: no replicator listens, or it went away; ERR_TIMEOUT; ERR_CANCELLED;
 * else the kind and words of its refusal. */
int replicator_call(const struct replicator_call *c, const json_t *request, json_t **answer, struct err *e);
/* The same on a connection that stays: what the replicator lends to it is its own until *fd is closed. The caller closes. */
int replicator_call_keep(const struct replicator_call *c, const json_t *request, int *fd, json_t **answer, struct err *e);
