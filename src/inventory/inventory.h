/* inventory: what is to be moved: waves, applications, servers, their disks, facts and attributes, and what is known of their
 * replication and instances. Attributes and wave settings are data: tables of names, types and rules (rule.h).
 *
 * It starts nothing and decides nothing (workflow/ does); it holds what others find out, and refuses what breaks a rule.
 *
 * Every change takes the caller's write transaction and writes its event row (actor, what it was before, as data.fields:
 * {FIELD: {before, after}}). A version counts what people set (fields, window, settings), not what happens to a wave or server while it
 * runs, so that nobody's If-Match breaks by itself. `faults` (may be NULL) is an array that gets {field,reason} for every fault of the input; the error then is ERR_INVALID. */
#pragma once

#include "base/json.h"
#include "store/store.h"

#define INVENTORY_ANY_VERSION 0 /* no If-Match: whatever version it has */

/* Who changes it, and when. actor as in events: "user:anna". */
struct inventory_by {
    const char *actor;
    int64_t now_us;
};

/* ---- Reading. JSON as docs/architecture.md has it; the caller frees *out. 1 found, 0 not there, -1. ---- */

int inventory_wave_json(struct store_tx *tx, const char *wave, json_t **out, struct err *e);
int inventory_server_json(struct store_tx *tx, const char *server, json_t **out, struct err *e);
/* The newest recovery points as its replicator last said, newest first: [] where it said nothing of them. */
int inventory_server_points(struct store_tx *tx, const char *server, json_t **out, struct err *e);

struct inventory_list {
    int limit;             /* 0: 100; at most LIMIT_PAGE_ITEMS */
    const char *page;      /* of an earlier answer's "next"; NULL: the first */
    const char *sort;      /* "name", "-name" (descending) and the other columns; NULL: name */
    const char *q;         /* part of a name, address, owner or application, in any case */
    const char *wave;      /* servers only */
    const char *lifecycle; /* servers only: "CUTOVER" */
    bool trouble;          /* servers only: those whose replication has a cause that is more than "info", also where nothing was heard of them for a while */
};
/* {items, next, total}: 0 or -1; ERR_INVALID for an unknown sort or page, listing what there is. */
int inventory_waves_json(struct store_tx *tx, const struct inventory_list *list, json_t **out, struct err *e);
int inventory_servers_json(struct store_tx *tx, const struct inventory_list *list, json_t **out, struct err *e);
/* [{name,owner,server_count}] */
int inventory_applications_json(struct store_tx *tx, json_t **out, struct err *e);
/* The names of a wave's servers in order; the callback may stop with non-zero. Returns the count, or -1. */
int inventory_wave_servers(struct store_tx *tx, const char *wave, int (*each)(void *user, const char *server), void *user,
                           struct err *e);
/* The window's ends, 0 and 0 where none is set, and the settings (the caller frees; either may be NULL). 1, 0, -1. */
int inventory_wave_window(struct store_tx *tx, const char *wave, int64_t *opens_us, int64_t *closes_us, json_t **settings, struct err *e);
/* The pinned SSH host key ("SHA256:…"), or NULL where none is pinned; the caller frees. 1 found, 0 no such server, -1. */
int inventory_host_key(struct store_tx *tx, const char *server, char **out, struct err *e);

/* ---- Waves ---- */

/* body {name, title?, settings?}. ERR_CONFLICT: there is one. */
int inventory_wave_create(struct store_tx *tx, const json_t *body, const struct inventory_by *by, json_t *faults, struct err *e);
/* body {title?, settings?: {name: value|null}}; members that are missing stay. ERR_CONFLICT where the version moved. */
int inventory_wave_update(struct store_tx *tx, const char *wave, int64_t version, const json_t *body, const struct inventory_by *by,
                          json_t *faults, struct err *e);
/* body {opens, closes, time_zone, notice?}, times RFC 3339. */
int inventory_wave_set_window(struct store_tx *tx, const char *wave, int64_t version, const json_t *body, const struct inventory_by *by,
                              json_t *faults, struct err *e);
/* stage build|validate|cutover|post|done, health idle|ok|waiting|attention|failed; run may be NULL (stays). No event
 * where nothing changed. */
int inventory_wave_set_stage(struct store_tx *tx, const char *wave, const char *stage, const char *health, const char *run,
                             const struct inventory_by *by, struct err *e);

/* ---- Servers ---- */

/* body {name, wave, application?, owner?, address, port?, attributes?}. */
int inventory_server_create(struct store_tx *tx, const json_t *body, const struct inventory_by *by, json_t *faults, struct err *e);
/* The same members, all optional but name, which stays; attributes are merged, null removes one. */
int inventory_server_update(struct store_tx *tx, const char *server, int64_t version, const json_t *body, const struct inventory_by *by,
                            json_t *faults, struct err *e);
/* Moves it through its life by the table of allowed transitions; ERR_WRONG_STATE for any other. Where it is already there: 0, no event.
 * from NULL: wherever it is; else ERR_WRONG_STATE unless it is there. */
int inventory_server_move(struct store_tx *tx, const char *server, const char *from, const char *to, const struct inventory_by *by,
                          struct err *e);
/* facts of `prerequisites`; its disks become the server's disks. NULL or json null: none. */
int inventory_server_set_facts(struct store_tx *tx, const char *server, const json_t *facts, const struct inventory_by *by, struct err *e);
/* {name, kind:"test|cutover", door:"isolated|closed|open", state}, or NULL: it has none. */
int inventory_server_set_instance(struct store_tx *tx, const char *server, const json_t *instance, const struct inventory_by *by,
                                  struct err *e);
/* "SHA256:…", or NULL: forgets it. */
int inventory_server_set_host_key(struct store_tx *tx, const char *server, const char *host_key, const struct inventory_by *by,
                                  struct err *e);
/* The replication object of a report (its `points`, the newest of them, are kept beside it: inventory_server_points); an event only where its state, error or cause's kind changed ("server.replication"). Returns 1 where it did, 0,
 * -1. ERR_NOT_FOUND: no such server; ERR_INVALID: not a replication object. newest_point_age_ms is counted from newest_point_at when read. */
int inventory_server_set_replication(struct store_tx *tx, const char *server, const json_t *replication, const struct inventory_by *by,
                                     struct err *e);

/* ---- How servers are replicated: settings of the server, of its wave, of the factory (its `replication`, may be NULL) ---- */

/* What holds and who says so: {bandwidth:{value, source:"server|wave|factory|default"}, …, wave_bandwidth, site_bandwidth (what all of them
 * may send together)}; value null: nobody has set any. 1, 0, -1. */
int inventory_replication_settings(struct store_tx *tx, const char *server, const json_t *factory, json_t **out, struct err *e);
/* What its replicator is told: {NAME: value} of those that somebody has set, and shared:{KEY:{bandwidth, time_zone?}} where it shares a limit
 * with all that have the same KEY ("wave:NAME", "site"); order:{paused, by, at_us}: a person's last. 1 (the caller frees *out), 0, -1. */
int inventory_replication_orders(struct store_tx *tx, const char *server, const json_t *factory, json_t **out, struct err *e);

/* Those that have their points together with this server's, itself among them: {SERVER: the replicator that its agent is to be at}. Who replicates to nobody
 * yet, or no more, is not of them; empty where this server has points of its own. 1 (the caller frees *out), 0 no such server, -1. */
int inventory_replication_group(struct store_tx *tx, const char *server, const json_t *factory, json_t **out, struct err *e);

/* Whose second copy it is to have: a replicator's name, "any", or "": none. 1 (the caller frees *out), 0, -1. */
int inventory_replication_copy_to(struct store_tx *tx, const char *server, const json_t *factory, char **out, struct err *e);

/* A person's order to its replication, for its replicator to fetch. ERR_NOT_FOUND. */
int inventory_replication_pause(struct store_tx *tx, const char *server, bool paused, const struct inventory_by *by, struct err *e);

/* ---- CSV ---- */

struct inventory_import_options {
    bool dry_run;      /* only the preview; the transaction may be a read */
    bool create_waves; /* else an unknown wave is a fault */
};
/* Reads RFC 4180 CSV (UTF-8, header needed), tells what would change and every fault with its line, and, with no fault and not
 * dry_run, changes it. *out: {applied, counts:{create,update,same}, changes:[…], changes_total, faults:[{line,column,reason}],
 * faults_total}; at most 1,000 of either list. 0 also with faults: look at "applied". -1: only where the database failed. */
int inventory_import(struct store_tx *tx, const char *csv, size_t size, const struct inventory_import_options *options,
                     const struct inventory_by *by, json_t **out, struct err *e);
/* The servers (of a wave, or all) as CSV that inventory_import reads; cells that a spreadsheet would run are made text. */
int inventory_export(struct store_tx *tx, const char *wave, struct buf *out, struct err *e);
