/* What the files of inventory/ share. Inside this room only.
 *
 *   rule.c      what a field may hold: the tables · names.c a table of names
 *   wave.c      waves · server.c servers' fields · life.c lifecycle, facts, instance, host key, replication
 *   render.c    JSON and lists · replication.c what holds for a server's replication
 *   csv.c       RFC 4180 · import.c · export.c */
#pragma once

#include "base/mem.h"
#include "inventory/inventory.h"
#include "inventory/rule.h"
#include "store/event.h"

/* Faults of one input: counted always, listed where there is a list. */
struct faults {
    json_t *list;        /* borrowed, may be NULL */
    int count;
    char first[RULE_REASON_SIZE + 160];
};
void fault_add(struct faults *f, const char *field, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The text as JSON, shortened to where it is UTF-8: a buffer's end may have cut a character in two. */
json_t *cut_json(char *text);
/* 0 where there was none; else ERR_INVALID: "WHAT: first fault (and N more)". */
int faults_end(const struct faults *f, struct err *e, const char *what);

/* Writes an event; takes the reference of data. */
int inventory_event(struct store_tx *tx, const struct inventory_by *by, const char *kind, const char *wave, const char *entity,
                    const char *id, json_t *data, struct err *e);
/* The same of a server, whose wave is looked up; data is taken. ERR_NOT_FOUND. */
int inventory_server_event(struct store_tx *tx, const char *kind, const char *server, json_t *data, const struct inventory_by *by, struct err *e);
/* fields[name] = {before, after}; takes both references (NULL: null). Nothing where they are equal. */
void fields_add(json_t *fields, const char *name, json_t *before, json_t *after);

#define AFTER_DEPTH_MAX 1000 /* servers that wait for one another, in a row */
#define PORT_SSH 22

/* A server's fields, as people set them. Texts are borrowed, NULL where there is none. */
struct server_fields {
    const char *wave, *application, *owner, *address;
    int64_t port;
    json_t *attributes; /* an object, owned: server_fields_release */
};
void server_fields_release(struct server_fields *f); /* for CLEANUP */
struct server_before {
    struct server_fields fields;
    int64_t version;
    char *texts[4]; /* what fields' texts point to */
};
void server_before_release(struct server_before *b); /* for CLEANUP */
int server_load(struct store_tx *tx, const char *name, struct server_before *out, struct err *e); /* 1, 0, -1 */
/* What changes, as {field: {before, after}}; before NULL: a new one. The caller frees. */
json_t *server_diff(const struct server_fields *before, const struct server_fields *after);
/* Writes the row (before_version 0: a new one), the application where it is new, and the event with `fields` (borrowed). */
int server_write(struct store_tx *tx, const char *name, const struct server_fields *after, int64_t before_version, json_t *fields,
                 const struct inventory_by *by, struct err *e);
/* Whether the wave is there and takes servers (it has not started): 1 yes, 0 no and why, -1. */
int wave_takes_servers(struct store_tx *tx, const char *wave, char reason[static RULE_REASON_SIZE], struct err *e);
int wave_insert(struct store_tx *tx, const char *name, const char *title, json_t *settings, const struct inventory_by *by, struct err *e);
/* Sets the column of that name. */
void server_set_column(struct server_fields *f, const char *name, const char *text, int64_t number);
extern const char *const replication_states[]; /* ends with NULL */
bool named_in(const char *text, const char *const *list);
