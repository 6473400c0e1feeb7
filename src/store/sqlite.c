/* sqlite: the store on one SQLite file in WAL mode. Readers see a snapshot and stop nobody; the writer's commit is on disk when
 * it returns (synchronous=FULL). "sqlite::memory:" is a file of its own in memory-backed storage, so that tests meet the same
 * locking as production; it goes when the store is closed. */
#include "store/backend.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CACHE_MAX 128

struct sqlite_database {
    char *path;
    char *scratch_dir; /* of "sqlite::memory:", else NULL */
};

struct cached {
    uint64_t hash;
    int64_t used; /* the connection's tick at the last use */
    sqlite3_stmt *statement;
    bool busy;
};

struct sqlite_connection {
    sqlite3 *handle;
    enum store_mode mode;
    int64_t tick;
    struct cached cache[CACHE_MAX];
    int cache_count;
};

struct sqlite_cursor {
    struct sqlite_connection *connection;
    sqlite3_stmt *statement;
    struct cached *cached; /* NULL: not in the cache, finalized at the end */
    int total_before;
};

static enum err_kind kind_of(int code)
{
    switch (code) {
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_ROWID:
    case SQLITE_CONSTRAINT_FOREIGNKEY: return ERR_CONFLICT;
    }
    switch (code & 0xff) {
    case SQLITE_CONSTRAINT: return ERR_INVALID;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return ERR_TIMEOUT;
    case SQLITE_FULL: return ERR_NO_SPACE;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN: return ERR_IO;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return ERR_CORRUPT;
    case SQLITE_PERM:
    case SQLITE_READONLY: return ERR_DENIED;
    case SQLITE_TOOBIG: return ERR_LIMIT;
    default: return ERR_INTERNAL;
    }
}

static int fail(sqlite3 *handle, struct err *e)
{
    int system_errno = sqlite3_system_errno(handle), code = sqlite3_extended_errcode(handle);

    if (((code & 0xff) == SQLITE_CANTOPEN || (code & 0xff) == SQLITE_IOERR) && system_errno)
        return err_errno(e, system_errno, "database: %s", sqlite3_errmsg(handle));
    return err_set(e, kind_of(code), "database: %s", sqlite3_errmsg(handle));
}

static int make_scratch(struct sqlite_database *database, struct err *e)
{
    static const char *const places[] = {"/dev/shm", "/tmp"};

    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        database->scratch_dir = xasprintf("%s/slipway-store-XXXXXX", places[i]);
        if (mkdtemp(database->scratch_dir)) {
            database->path = xasprintf("%s/slipway.db", database->scratch_dir);
            return 0;
        }
        free(database->scratch_dir);
        database->scratch_dir = NULL;
    }
    return err_errno(e, errno, "making a folder in %s", places[ARRAY_COUNT(places) - 1]);
}

static void sqlite_close(void *held)
{
    struct sqlite_database *database = held;
    static const char *const suffixes[] = {"", "-wal", "-shm"};

    for (size_t i = 0; database->scratch_dir && i < ARRAY_COUNT(suffixes); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("%s%s", database->path, suffixes[i]);

        unlink(path);
    }
    if (database->scratch_dir)
        rmdir(database->scratch_dir);
    free(database->scratch_dir);
    free(database->path);
    free(database);
}

static void sqlite_disconnect(void *held)
{
    struct sqlite_connection *connection = held;

    for (int i = 0; i < connection->cache_count; i++)
        sqlite3_finalize(connection->cache[i].statement);
    sqlite3_close(connection->handle);
    free(connection);
}

static bool sqlite_usable(void *held)
{
    struct sqlite_connection *connection = held;

    return sqlite3_get_autocommit(connection->handle) != 0;
}

static int sqlite_connect(void *held, void **out, struct err *e)
{
    struct sqlite_database *database = held;
    struct sqlite_connection *connection = xcalloc(1, sizeof *connection);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    const char *settings = database->scratch_dir
        ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF"
        : "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF";

    if (sqlite3_open_v2(database->path, &connection->handle, flags, NULL) != SQLITE_OK
        || sqlite3_busy_timeout(connection->handle, STORE_BUSY_MS) != SQLITE_OK
        || sqlite3_exec(connection->handle, settings, NULL, NULL, NULL) != SQLITE_OK) {
        fail(connection->handle, e);
        sqlite_disconnect(connection);
        return -1;
    }
    *out = connection;
    return 0;
}

/* The file holds sealed secrets and hashes: nobody but its owner reads it. SQLite gives -wal and -shm the same mode. */
static int make_file(const char *path, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);

    return fd < 0 ? err_errno(e, errno, "%s", path) : 0;
}

static int sqlite_open(const char *rest, void **out, struct err *e)
{
    struct sqlite_database *database = xcalloc(1, sizeof *database);
    void *connection;
    int rc;

    if (strcmp(rest, ":memory:") == 0) {
        rc = make_scratch(database, e);
    } else if (!*rest) {
        rc = err_set(e, ERR_INVALID, "no path after sqlite:");
    } else {
        database->path = xstrdup(rest);
        rc = make_file(database->path, e);
    }
    if (rc == 0 && (rc = sqlite_connect(database, &connection, e)) == 0) /* so that a wrong file is told now */
        sqlite_disconnect(connection);
    if (rc < 0) {
        sqlite_close(database);
        return -1;
    }
    *out = database;
    return 0;
}

static int sqlite_script(void *held, const char *sql, struct err *e)
{
    struct sqlite_connection *connection = held;

    return sqlite3_exec(connection->handle, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(connection->handle, e);
}

static int sqlite_begin(void *held, enum store_mode mode, struct err *e)
{
    struct sqlite_connection *connection = held;

    connection->mode = mode;
    return sqlite_script(connection, mode == STORE_WRITE ? "BEGIN IMMEDIATE" : "BEGIN", e);
}

static void sqlite_rollback(void *held)
{
    struct sqlite_connection *connection = held;

    if (!sqlite3_get_autocommit(connection->handle)) /* some failures have rolled back already */
        sqlite3_exec(connection->handle, "ROLLBACK", NULL, NULL, NULL);
}

static int sqlite_commit(void *held, struct err *e)
{
    struct sqlite_connection *connection = held;

    if (sqlite3_get_autocommit(connection->handle))
        return err_set(e, ERR_IO, "the database rolled the transaction back");
    if (sqlite_script(connection, "COMMIT", e) < 0) {
        sqlite_rollback(connection);
        return -1;
    }
    return 0;
}

static uint64_t hash_of(const char *sql)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

    for (; *sql; sql++)
        hash = (hash ^ (unsigned char)*sql) * UINT64_C(1099511628211);
    return hash;
}

/* A free place of the cache: a new one, or the one of the statement that was not used for longest. NULL: all are busy. */
static struct cached *cache_place(struct sqlite_connection *connection)
{
    struct cached *oldest = NULL;

    if (connection->cache_count < CACHE_MAX)
        return &connection->cache[connection->cache_count++];
    for (int i = 0; i < CACHE_MAX; i++)
        if (!connection->cache[i].busy && (!oldest || connection->cache[i].used < oldest->used))
            oldest = &connection->cache[i];
    if (oldest)
        sqlite3_finalize(oldest->statement);
    return oldest;
}

static int find_statement(struct sqlite_connection *connection, const char *sql, struct sqlite_cursor *cursor, struct err *e)
{
    uint64_t hash = hash_of(sql);
    const char *tail;

    connection->tick++;
    for (int i = 0; i < connection->cache_count; i++) {
        struct cached *cached = &connection->cache[i];

        if (cached->busy || cached->hash != hash || strcmp(sqlite3_sql(cached->statement), sql) != 0)
            continue;
        cached->busy = true;
        cached->used = connection->tick;
        cursor->cached = cached;
        cursor->statement = cached->statement;
        return 0;
    }
    if (sqlite3_prepare_v3(connection->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &cursor->statement, &tail) != SQLITE_OK)
        return fail(connection->handle, e);
    if (!cursor->statement || tail[strspn(tail, " \n\t;")]) {
        sqlite3_finalize(cursor->statement);
        return err_set(e, ERR_INTERNAL, "not one statement: %s", sql);
    }
    cursor->cached = cache_place(connection);
    if (cursor->cached)
        *cursor->cached = (struct cached){.hash = hash, .used = connection->tick, .statement = cursor->statement, .busy = true};
    return 0;
}

static int bind(sqlite3_stmt *statement, int index, const struct store_value *value)
{
    switch (value->type) {
    case 'i': return sqlite3_bind_int64(statement, index, value->integer);
    case 'd': return sqlite3_bind_double(statement, index, value->real);
    case 's':
        if (!value->bytes)
            return sqlite3_bind_null(statement, index);
        return sqlite3_bind_text64(statement, index, value->bytes, value->size_bytes, SQLITE_TRANSIENT, SQLITE_UTF8);
    default:
        if (!value->bytes)
            return sqlite3_bind_null(statement, index);
        return sqlite3_bind_blob64(statement, index, value->bytes, value->size_bytes, SQLITE_TRANSIENT);
    }
}

/* $1 is a name to SQLite, numbered in order of first use: bound by name, so that the order in the text does not matter. */
static int bind_all(sqlite3_stmt *statement, const struct store_value *values, int count, struct err *e)
{
    if (sqlite3_bind_parameter_count(statement) != count)
        return err_set(e, ERR_INTERNAL, "%d values given for %d in: %s", count, sqlite3_bind_parameter_count(statement),
                       sqlite3_sql(statement));
    for (int i = 0; i < count; i++) {
        char name[16];
        int index;

        snprintf(name, sizeof name, "$%d", i + 1);
        index = sqlite3_bind_parameter_index(statement, name);
        if (!index)
            return err_set(e, ERR_INTERNAL, "no %s in: %s", name, sqlite3_sql(statement));
        if (bind(statement, index, &values[i]) != SQLITE_OK)
            return fail(sqlite3_db_handle(statement), e);
    }
    return 0;
}

static void sqlite_finish(void *held)
{
    struct sqlite_cursor *cursor = held;

    if (cursor->cached) {
        sqlite3_reset(cursor->statement);
        sqlite3_clear_bindings(cursor->statement);
        cursor->cached->busy = false;
    } else {
        sqlite3_finalize(cursor->statement);
    }
    free(cursor);
}

static int sqlite_start(void *held, const char *sql, const struct store_value *values, int count, void **out, struct err *e)
{
    struct sqlite_connection *connection = held;
    struct sqlite_cursor *cursor = xcalloc(1, sizeof *cursor);
    int rc;

    cursor->connection = connection;
    if (find_statement(connection, sql, cursor, e) < 0) {
        free(cursor);
        return -1;
    }
    rc = connection->mode == STORE_READ && !sqlite3_stmt_readonly(cursor->statement)
        ? err_set(e, ERR_INTERNAL, "a read transaction cannot run: %s", sql)
        : bind_all(cursor->statement, values, count, e);
    if (rc < 0) {
        sqlite_finish(cursor);
        return -1;
    }
    cursor->total_before = sqlite3_total_changes(connection->handle);
    *out = cursor;
    return 0;
}

static int sqlite_step(void *held, struct err *e)
{
    struct sqlite_cursor *cursor = held;

    switch (sqlite3_step(cursor->statement)) {
    case SQLITE_ROW: return 1;
    case SQLITE_DONE: return 0;
    default: return fail(cursor->connection->handle, e);
    }
}

static int64_t sqlite_changed(void *held)
{
    struct sqlite_cursor *cursor = held;

    /* sqlite3_changes keeps the last statement's count over one that changes nothing by itself. */
    return sqlite3_total_changes(cursor->connection->handle) == cursor->total_before
        ? 0 : sqlite3_changes64(cursor->connection->handle);
}

static bool sqlite_is_null(void *cursor, int column)
{
    return sqlite3_column_type(((struct sqlite_cursor *)cursor)->statement, column) == SQLITE_NULL;
}

static int64_t sqlite_integer(void *cursor, int column)
{
    return sqlite3_column_int64(((struct sqlite_cursor *)cursor)->statement, column);
}

static const char *sqlite_text(void *cursor, int column)
{
    return (const char *)sqlite3_column_text(((struct sqlite_cursor *)cursor)->statement, column);
}

static const void *sqlite_blob(void *cursor, int column, size_t *size)
{
    sqlite3_stmt *statement = ((struct sqlite_cursor *)cursor)->statement;
    const void *bytes = sqlite3_column_blob(statement, column);

    *size = (size_t)sqlite3_column_bytes(statement, column);
    return bytes;
}

static void handle_close(sqlite3 **handle)
{
    sqlite3_close(*handle);
}

/* One step of all pages: the copy is of one moment; writers go on in the WAL meanwhile. */
static int copy_pages(sqlite3 *from, sqlite3 *to, struct err *e)
{
    sqlite3_backup *backup = sqlite3_backup_init(to, "main", from, "main");
    int rc;

    if (!backup)
        return fail(to, e);
    do
        rc = sqlite3_backup_step(backup, -1);
    while (rc == SQLITE_BUSY || rc == SQLITE_LOCKED);
    sqlite3_backup_finish(backup);
    return rc == SQLITE_DONE ? 0 : fail(to, e);
}

/* A copy that isn't whole is no backup. */
static int check_copy(sqlite3 *handle, struct err *e)
{
    sqlite3_stmt *statement;
    const char *found;
    int rc;

    if (sqlite3_prepare_v2(handle, "PRAGMA quick_check(1)", -1, &statement, NULL) != SQLITE_OK)
        return fail(handle, e);
    found = sqlite3_step(statement) == SQLITE_ROW ? (const char *)sqlite3_column_text(statement, 0) : NULL;
    rc = found && strcmp(found, "ok") == 0 ? 0 : err_set(e, ERR_CORRUPT, "the copy fails its check: %s", found ? found : "no answer");
    sqlite3_finalize(statement);
    return rc;
}

static int write_copy(struct sqlite_database *database, const char *path, struct err *e)
{
    CLEANUP(handle_close) sqlite3 *from = NULL;
    CLEANUP(handle_close) sqlite3 *to = NULL;

    if (sqlite3_open_v2(database->path, &from, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return fail(from, e);
    if (sqlite3_open_v2(path, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return fail(to, e);
    sqlite3_busy_timeout(from, STORE_BUSY_MS);
    if (copy_pages(from, to, e) < 0)
        return -1;
    /* One self-contained file: no -wal beside it. The next store_open sets WAL again. */
    if (sqlite3_exec(to, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL) != SQLITE_OK)
        return fail(to, e);
    return check_copy(to, e);
}

static int sqlite_backup(void *held, const char *path, struct err *e)
{
    CLEANUP(store_copy_drop) char *part = NULL;

    if (store_copy_begin(path, &part, e) < 0 || write_copy(held, part, e) < 0)
        return -1;
    return store_copy_end(part, path, e);
}

const struct store_backend store_sqlite = {
    .scheme = "sqlite",
    .auto_id = "INTEGER PRIMARY KEY AUTOINCREMENT",
    .open = sqlite_open,
    .close = sqlite_close,
    .connect = sqlite_connect,
    .disconnect = sqlite_disconnect,
    .usable = sqlite_usable,
    .begin = sqlite_begin,
    .commit = sqlite_commit,
    .rollback = sqlite_rollback,
    .script = sqlite_script,
    .start = sqlite_start,
    .step = sqlite_step,
    .changed = sqlite_changed,
    .is_null = sqlite_is_null,
    .integer = sqlite_integer,
    .text = sqlite_text,
    .blob = sqlite_blob,
    .finish = sqlite_finish,
    .backup = sqlite_backup,
};
