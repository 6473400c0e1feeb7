/* event: each change of state writes its event row in the same transaction. The live feed, the audit trail and the console's
 * updates are read from these rows. Ids grow by commit order (there is one writer). */
#pragma once

#include "store/store.h"

struct event {
    int64_t id, at_us;      /* set by event_add and event_read */
    const char *actor;      /* "user:anna", "runner:dc1", "replicator:r1", "factory" */
    const char *kind;       /* "server.updated", "task.started": noun.past-tense-verb */
    const char *wave;       /* the wave's name that it belongs to, or NULL */
    const char *entity;     /* "server", "task", "wave", "user" … */
    const char *entity_id;  /* the name or id in the API's paths */
    const char *data;       /* JSON object text: what is, and "before" where something was; never a secret. NULL: {} */
};

/* Writes the row; now_us is the caller's clock. 0 or -1. */
int event_add(struct store_tx *tx, const struct event *what, int64_t now_us, struct err *e);
/* Calls back for events with id > after (of the wave where one is given), oldest first, at most limit. Returns the count. */
int event_read(struct store_tx *tx, int64_t after_id, const char *wave, int limit,
               int (*row)(void *user, const struct event *what), void *user, struct err *e);
int64_t event_last_id(struct store_tx *tx, struct err *e);
/* Blocks until an event newer than after_id was committed in this process, or timeout_ms; true when there may be one. */
bool event_wait(struct store *s, int64_t after_id, int timeout_ms);
