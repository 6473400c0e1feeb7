/* store: the database, the only truth of the control plane. One interface; SQLite or PostgreSQL
 * behind it (backend.h). Rooms above write plain SQL in the dialect that both speak: $1, $2 … for values, in order of first use;
 * TEXT, BIGINT, BLOB; INSERT … ON CONFLICT; RETURNING. Times are BIGINT microseconds UTC. Booleans are 0/1. Documents are TEXT JSON.
 *
 * A write transaction holds the one writer of the process (and SQLite's, over processes: a busy wait of 30 s); keep it short and
 * never call outside while it is open. Reads see the last commit. synchronous=FULL: committed means on disk.
 *
 * Thread-safe: every transaction takes a connection of its own from a pool. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct store;
struct store_tx;
struct store_rows;

enum store_mode { STORE_READ, STORE_WRITE };

/* url: "sqlite:/path/to/slipway.db" (made where missing, mode 0600) or "sqlite::memory:" for tests (an own database in
 * memory-backed storage, gone at store_close), or "postgresql://user@host/name" (a database that is there). Does not migrate. A store is opened after fork(2), never carried over it. */
int store_open(const char *url, struct store **out, struct err *e);
void store_close(struct store **s); /* for CLEANUP; no transaction may be open */
/* Brings the schema to this program's version, each migration in a transaction of its own; refuses a newer schema. */
int store_migrate(struct store *s, struct err *e);
/* A consistent copy of the whole database while it is in use, to a new file: of SQLite a database file, of PostgreSQL pg_dump's. */
int store_backup(struct store *s, const char *path, struct err *e);

/* A thread has at most one write transaction open (ERR_INTERNAL otherwise). After a statement failed, the transaction only takes
 * store_rollback: further statements and store_commit fail (so a half is never committed). Where a conflict is normal, ask with
 * ON CONFLICT DO NOTHING and look at the count. */
int store_begin(struct store *s, enum store_mode mode, struct store_tx **out, struct err *e);
int store_commit(struct store_tx **tx, struct err *e); /* *tx becomes NULL in any case; on failure nothing was written */
void store_rollback(struct store_tx **tx);             /* for CLEANUP; NULL inside is fine */

/* types has a letter for each value: i int64_t · s const char * (NULL: null) · b const void *, size_t · d double.
 * store_run returns the count of changed rows. A violated UNIQUE or foreign key is ERR_CONFLICT. */
int64_t store_run(struct store_tx *tx, struct err *e, const char *sql, const char *types, ...);
/* Rows are read with store_next: 1 a row, 0 the end, -1 an error. Text and blobs live until the next store_next. INSERT …
 * RETURNING is done when store_next has given 0. The transaction may end before its rows are freed; they can't be read then. */
int store_query(struct store_tx *tx, struct store_rows **out, struct err *e, const char *sql, const char *types, ...);
int store_next(struct store_rows *rows, struct err *e);
void store_rows_free(struct store_rows **rows); /* for CLEANUP */
int64_t store_int(const struct store_rows *rows, int column);
const char *store_text(const struct store_rows *rows, int column); /* NULL for null */
const void *store_blob(const struct store_rows *rows, int column, size_t *size);
bool store_is_null(const struct store_rows *rows, int column);
/* The first column of the first row: 1, or 0 where there is no row (or null), or -1. */
int store_one_int(struct store_tx *tx, int64_t *out, struct err *e, const char *sql, const char *types, ...);
