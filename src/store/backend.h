/* backend: what stands behind store.h, one table of functions and one file for each database (sqlite.c, postgres.c). store.c does what is
 * common to all: the pool, the one writer, values, transactions that failed, event signals. Private to this room. */
#pragma once

#include "base/mem.h"
#include "store/store.h"

#define STORE_VALUES_MAX 64
#define STORE_BUSY_MS 30000 /* how long a writer waits for another before ERR_TIMEOUT */

struct store_value {
    char type; /* as in store_run's types: i s b d; a NULL pointer in s or b is null */
    int64_t integer;
    double real;
    const void *bytes;
    size_t size_bytes;
};

/* database, connection and cursor are the backend's own. A connection is used by one thread at a time; a cursor lives inside
 * its connection's transaction. Members are listed in the order of a life. */
struct store_backend {
    const char *scheme;   /* what goes before the first ':' of the url */
    const char *auto_id;  /* what a migration's AUTO_ID becomes: a growing 64-bit primary key */
    int (*open)(const char *rest, void **database, struct err *e);
    void (*close)(void *database);
    int (*connect)(void *database, void **connection, struct err *e);
    void (*disconnect)(void *connection);
    bool (*usable)(void *connection); /* false: close it and take another one */
    int (*begin)(void *connection, enum store_mode mode, struct err *e);
    int (*commit)(void *connection, struct err *e); /* on failure the transaction is gone */
    void (*rollback)(void *connection);
    int (*script)(void *connection, const char *sql, struct err *e); /* many statements, for migrations */
    /* Prepares (or finds) the statement and binds; refuses to change in a STORE_READ transaction (ERR_INTERNAL). */
    int (*start)(void *connection, const char *sql, const struct store_value *values, int count, void **cursor, struct err *e);
    int (*step)(void *cursor, struct err *e); /* 1 a row, 0 the end, -1 */
    int64_t (*changed)(void *cursor);         /* rows changed, after the end */
    bool (*is_null)(void *cursor, int column);
    int64_t (*integer)(void *cursor, int column);
    const char *(*text)(void *cursor, int column);
    const void *(*blob)(void *cursor, int column, size_t *size);
    void (*finish)(void *cursor);
    int (*backup)(void *database, const char *path, struct err *e);
};

extern const struct store_backend store_sqlite, store_postgres;

/* The migrations of src/store/migrations, embedded at build, in order of number; sql NULL ends the table. */
struct store_migration {
    int number;
    const char *name;
    const char *sql;
};
extern const struct store_migration store_migrations[];

/* A backup's new file: *part (the caller drops it in any case) is written first, and named path when it is whole; path must be free. */
int store_copy_begin(const char *path, char **part, struct err *e);
int store_copy_end(const char *part, const char *path, struct err *e);
void store_copy_drop(char **part); /* for CLEANUP: removes what is left of it */

/* For migrate.c and event.c, inside store.c: */
const struct store_backend *store_backend_of(const struct store *s);
int store_script(struct store_tx *tx, const char *sql, struct err *e);
void store_note_event(struct store_tx *tx, int64_t id);               /* signalled at commit */
bool store_event_passed(struct store *s, int64_t after_id, int timeout_ms); /* waits on the signal */
void store_event_seen(struct store *s, int64_t id);                   /* another process wrote it */
