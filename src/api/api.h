/* api: what the handlers of the routes share. The routes are a table (routes.c); handlers live in routes_NAME.c and are thin: read
 * the request, call one function of a room below within one transaction, answer. */
#pragma once

#include "api/httpd.h"
#include "api/sse.h"
#include "identity/identity.h"
#include "inventory/inventory.h"
#include "store/event.h"
#include "workflow/workflow.h"

#include <pthread.h>

#define API_COOKIE "slipway_session"
#define API_LIMIT_LOGINS 2           /* passwords hashed at a time; others wait without a worker */
#define API_LOGIN_WAIT_MS 15000

struct children;
struct clocks;

/* Lives from before httpd_start to after httpd_stop. */
struct api {
    struct store *store;
    struct identity *identity;
    struct workflow *workflow;
    struct sse *sse;
    struct httpd_server *httpd;
    const char *data_dir;              /* absolute */
    const char *url;                   /* as children and runners on this machine reach it: "https://127.0.0.1:8443" */
    struct children *children;         /* NULL: none */
    struct clocks *clocks;             /* of runners */
    int64_t started_us;                /* wall clock */
    _Atomic int logins;                /* that hash a password now */
    _Atomic int64_t written_us;        /* monotonic: when a transaction was committed only to see whether it can be; 0: never */
    pthread_mutex_t backup_lock;       /* one backup at a time; held over slow calls, so never taken by anything else */
};

extern const struct http_route api_routes[];
extern const size_t api_route_count;
extern const struct http_route api_console_route;
int api_authorise(struct http_call *c, struct err *e);

static inline struct api *api_of(const struct http_call *c) { return c->context; }

/* Transactions of a handler. */
int api_read(const struct http_call *c, struct store_tx **tx, struct err *e);
int api_write(const struct http_call *c, struct store_tx **tx, struct err *e);
struct inventory_by api_by(const struct http_call *c);
/* For functions that tell faults: pass api_faults(c), and on failure return api_failed(c, e): they become the problem's (422). */
json_t *api_faults(struct http_call *c);
int api_failed(struct http_call *c, struct err *e);
/* The answer of a look-up: found 1, 0, -1; 404 says what is missing. ETag from the object's version. Takes the object. */
int api_reply_found(struct http_call *c, int found, json_t *object, const char *what, const char *name, struct err *e);
/* {items,next:null} where result is not -1; takes the items (by their address: the call that makes them may stand in the arguments). */
int api_reply_items(struct http_call *c, int result, json_t **items);
int api_list_query(const struct http_call *c, struct inventory_list *list, struct err *e);

/* A transaction was committed just now. */
int api_can_write(struct api *a, struct err *e);

/* settings.c: the factory's settings, one document with a version. */
int settings_read(struct store_tx *tx, json_t **out, int64_t *version, struct err *e);
/* Members of body replace those there are; null removes one. version 0: any. */
int settings_write(struct store_tx *tx, const json_t *body, int64_t version, const struct inventory_by *by, json_t *faults,
                   struct err *e);
/* complete.c: workflow_settings.complete; user is the struct api. */
int api_complete_document(void *user, struct store_tx *tx, const struct workflow_claimed *what, json_t *document, struct err *e);
/* replicators.c: what replicators last said of themselves. */
int replicators_keep(struct store_tx *tx, const char *name, const json_t *status, int64_t now_us, struct err *e);
int replicators_list(struct api *a, struct store_tx *tx, json_t **items, struct err *e);
/* With what each has been given (placing_describe): every server is read for it. */
int replicators_json(struct api *a, struct store_tx *tx, json_t **items, struct err *e);
/* doctor.c: {passed, checks:[…]} */
/* The newest run of that template, with its tasks and their evidence, or *out stays NULL. */
int doctor_last_run(struct store_tx *tx, const char *template, json_t **out, struct err *e);
int doctor_json(struct api *a, json_t **out, struct err *e);
/* backup.c: a folder with the database and the keys; *path is the caller's. */
int backup_make(struct api *a, const char *actor, char **path, struct err *e);
/* openapi.c, metrics.c */
json_t *openapi_document(const struct http_route *routes, size_t count);
int metrics_text(struct api *a, const struct httpd_server *server, struct buf *out, struct err *e); /* all of it or nothing: a figure that is missing raises no alarm */
