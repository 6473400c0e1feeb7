/* postgres: the store on PostgreSQL 15 or newer, so that several factories may share one database. "postgresql:CONNINFO" as libpq
 * takes it: postgresql://user@host/name?sslmode=verify-full; passwords come from ~/.pgpass or PGPASSWORD, not from the URL.
 *
 * One writer over all processes is an advisory lock of the write transaction: ids of events then grow by commit order here, too.
 * A reading transaction is REPEATABLE READ: it keeps its moment, like SQLite's. A cursor holds its whole result, so that statements
 * may run while rows are read. Make the database with LC_COLLATE "C", so that names sort as elsewhere. */
#include "store/backend.h"

#include "base/proc.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CACHE_MAX 128
#define WRITER_LOCK "736c6970776179" /* any number that nobody else uses: "slipway" */
#define DUMP_TIMEOUT_MS 3600000

/* pg_type's numbers of what we send; they never change. */
enum { TYPE_BYTEA = 17, TYPE_INT8 = 20, TYPE_TEXT = 25, TYPE_FLOAT8 = 701 };

struct postgres_database {
    char *conninfo;
};

struct prepared {
    char *sql, *types; /* NULL: free */
    int64_t used;
};

struct postgres_connection {
    PGconn *handle;
    int64_t tick;
    struct prepared cache[CACHE_MAX];
};

struct postgres_cursor {
    PGresult *result;
    int row; /* the one that is read; -1: before the first */
    void *blobs[STORE_VALUES_MAX]; /* decoded ones of this row, by column */
    size_t blob_sizes[STORE_VALUES_MAX];
};

static void clear_result(PGresult **result) { PQclear(*result); }

/* By SQLSTATE: https://www.postgresql.org/docs/15/errcodes-appendix.html */
static const struct {
    const char *prefix;
    enum err_kind kind;
} states[] = {
    {"23505", ERR_CONFLICT}, {"23503", ERR_CONFLICT}, {"23", ERR_INVALID},     {"40", ERR_TIMEOUT},      {"55P03", ERR_TIMEOUT},
    {"57014", ERR_TIMEOUT},  {"53100", ERR_NO_SPACE}, {"53", ERR_UNREACHABLE}, {"08P01", ERR_INTERNAL},  {"08", ERR_UNREACHABLE},
    {"57", ERR_UNREACHABLE}, {"28", ERR_DENIED},      {"42501", ERR_DENIED},   {"3D", ERR_NOT_FOUND},    {"54", ERR_LIMIT},
    {"58", ERR_IO},          {"XX001", ERR_CORRUPT},  {"XX002", ERR_CORRUPT},  {"22021", ERR_INVALID},
};

static int fail(const struct postgres_connection *c, const PGresult *result, struct err *e)
{
    const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *words = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    enum err_kind kind = PQstatus(c->handle) == CONNECTION_OK && state ? ERR_INTERNAL : ERR_UNREACHABLE;

    for (size_t i = 0; state && kind == ERR_INTERNAL && i < ARRAY_COUNT(states); i++)
        if (strncmp(state, states[i].prefix, strlen(states[i].prefix)) == 0) {
            kind = states[i].kind;
            break;
        }
    words = words ? words : PQerrorMessage(c->handle);
    return err_set(e, kind, "database: %.*s", (int)strcspn(words, "\n"), words);
}

static int command(struct postgres_connection *c, const char *sql, struct err *e)
{
    CLEANUP(clear_result) PGresult *result = PQexec(c->handle, sql);
    ExecStatusType status = PQresultStatus(result);

    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : fail(c, result, e);
}

static void postgres_disconnect(void *held)
{
    struct postgres_connection *c = held;

    for (size_t i = 0; i < CACHE_MAX; i++) {
        free(c->cache[i].sql);
        free(c->cache[i].types);
    }
    PQfinish(c->handle);
    free(c);
}

static bool postgres_usable(void *held)
{
    struct postgres_connection *c = held;

    return PQstatus(c->handle) == CONNECTION_OK && PQtransactionStatus(c->handle) == PQTRANS_IDLE;
}

static void be_quiet(void *user, const PGresult *notice)
{
    (void)user, (void)notice;
}

static int postgres_connect(void *held, void **out, struct err *e)
{
    struct postgres_database *database = held;
    struct postgres_connection *c = xcalloc(1, sizeof *c);
    /* The shared dialect says BLOB. Two processes may get here at once. */
    static const char settings[] =
        "SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET synchronous_commit = on; SET lock_timeout = '30s';"
        " DO $$ BEGIN CREATE DOMAIN blob AS bytea; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";

    c->handle = PQconnectdb(database->conninfo);
    PQsetNoticeReceiver(c->handle, be_quiet, NULL);
    if (PQstatus(c->handle) != CONNECTION_OK || command(c, settings, e) < 0) {
        if (PQstatus(c->handle) != CONNECTION_OK)
            err_set(e, ERR_UNREACHABLE, "database: %.*s", (int)strcspn(PQerrorMessage(c->handle), "\n"), PQerrorMessage(c->handle));
        postgres_disconnect(c);
        return -1;
    }
    *out = c;
    return 0;
}

static void postgres_close(void *held)
{
    struct postgres_database *database = held;

    free(database->conninfo);
    free(database);
}

static int postgres_open(const char *rest, void **out, struct err *e)
{
    struct postgres_database *database = xcalloc(1, sizeof *database);
    void *connection;

    database->conninfo = xasprintf("postgresql:%s", rest);
    if (postgres_connect(database, &connection, e) < 0) {
        postgres_close(database);
        return -1;
    }
    postgres_disconnect(connection);
    *out = database;
    return 0;
}

static int postgres_script(void *held, const char *sql, struct err *e)
{
    return command(held, sql, e);
}

static int postgres_begin(void *held, enum store_mode mode, struct err *e)
{
    return command(held, mode == STORE_WRITE ? "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(x'" WRITER_LOCK "'::bigint)"
                                             : "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", e);
}

static void postgres_rollback(void *held)
{
    struct postgres_connection *c = held;

    if (PQtransactionStatus(c->handle) != PQTRANS_IDLE)
        command(c, "ROLLBACK", NULL);
}

static int postgres_commit(void *held, struct err *e)
{
    struct postgres_connection *c = held;
    CLEANUP(clear_result) PGresult *result = PQexec(c->handle, "COMMIT");

    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        return fail(c, result, e);
    /* A transaction that failed answers COMMIT with ROLLBACK, and no error. */
    return strcmp(PQcmdStatus(result), "COMMIT") == 0 ? 0 : err_set(e, ERR_IO, "the database rolled the transaction back");
}

static char *types_of(const struct store_value *values, int count)
{
    char *types = xcalloc((size_t)count + 1, 1);

    for (int i = 0; i < count; i++)
        types[i] = values[i].type;
    return types;
}

/* PostgreSQL takes values that no $N stands for; a caller that gives them is mistaken. */
static int check_count(const char *sql, int count, struct err *e)
{
    int highest = 0;

    for (const char *at = sql; (at = strchr(at, '$')); at++)
        highest = atoi(at + 1) > highest ? atoi(at + 1) : highest;
    return highest == count ? 0 : err_set(e, ERR_INTERNAL, "%d values given for %d in: %s", count, highest, sql);
}

/* Prepares the statement, or finds it: its name ("s17"). */
static int prepare(struct postgres_connection *c, const char *sql, const struct store_value *values, int count, char name[static 16], struct err *e)
{
    CLEANUP(free_ptr) char *types = types_of(values, count);
    CLEANUP(clear_result) PGresult *result = NULL;
    Oid oids[STORE_VALUES_MAX];
    int place = 0;

    c->tick++;
    for (int i = 0; i < CACHE_MAX; i++) {
        if (c->cache[i].sql && strcmp(c->cache[i].sql, sql) == 0 && strcmp(c->cache[i].types, types) == 0) {
            c->cache[i].used = c->tick;
            snprintf(name, 16, "s%d", i);
            return 0;
        }
        if (c->cache[i].used < c->cache[place].used)
            place = i;
    }
    snprintf(name, 16, "s%d", place);
    if (c->cache[place].sql) {
        char forget[32];

        snprintf(forget, sizeof forget, "DEALLOCATE %s", name);
        if (command(c, forget, e) < 0)
            return -1;
        free(c->cache[place].sql);
        free(c->cache[place].types);
        c->cache[place] = (struct prepared){0};
    }
    for (int i = 0; i < count; i++)
        oids[i] = types[i] == 'i' ? TYPE_INT8 : types[i] == 'd' ? TYPE_FLOAT8 : types[i] == 's' ? TYPE_TEXT : TYPE_BYTEA;
    result = PQprepare(c->handle, name, sql, count, oids);
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        return fail(c, result, e);
    c->cache[place] = (struct prepared){xstrdup(sql), xstrdup(types), c->tick};
    return 0;
}

static void take_value(const struct store_value *value, char number[static 32], const char **text, int *length, int *format)
{
    *text = number;
    *length = (int)value->size_bytes;
    *format = value->type == 'b';
    if (value->type == 'i')
        snprintf(number, 32, "%lld", (long long)value->integer);
    else if (value->type == 'd')
        snprintf(number, 32, "%.17g", value->real);
    else
        *text = value->bytes;
}

static int postgres_start(void *held, const char *sql, const struct store_value *values, int count, void **out, struct err *e)
{
    struct postgres_connection *c = held;
    CLEANUP(clear_result) PGresult *result = NULL;
    const char *texts[STORE_VALUES_MAX];
    char numbers[STORE_VALUES_MAX][32], name[16];
    int lengths[STORE_VALUES_MAX], formats[STORE_VALUES_MAX];
    struct postgres_cursor *cursor;
    ExecStatusType status;

    if (check_count(sql, count, e) < 0 || prepare(c, sql, values, count, name, e) < 0)
        return -1;
    for (int i = 0; i < count; i++)
        take_value(&values[i], numbers[i], &texts[i], &lengths[i], &formats[i]);
    result = PQexecPrepared(c->handle, name, count, texts, lengths, formats, 0);
    status = PQresultStatus(result);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        return fail(c, result, e);
    MUST(PQnfields(result) <= STORE_VALUES_MAX);
    cursor = xcalloc(1, sizeof *cursor);
    cursor->result = result;
    cursor->row = -1;
    result = NULL;
    *out = cursor;
    return 0;
}

static void forget_blobs(struct postgres_cursor *cursor)
{
    for (int i = 0; i < PQnfields(cursor->result); i++) {
        PQfreemem(cursor->blobs[i]);
        cursor->blobs[i] = NULL;
    }
}

static int postgres_step(void *held, struct err *e)
{
    struct postgres_cursor *cursor = held;

    (void)e;
    forget_blobs(cursor);
    if (cursor->row < PQntuples(cursor->result))
        cursor->row++;
    return cursor->row < PQntuples(cursor->result);
}

static int64_t postgres_changed(void *held)
{
    struct postgres_cursor *cursor = held;

    return PQresultStatus(cursor->result) == PGRES_TUPLES_OK && strncmp(PQcmdStatus(cursor->result), "SELECT", 6) == 0
        ? 0 : strtoll(PQcmdTuples(cursor->result), NULL, 10);
}

static bool postgres_is_null(void *held, int column)
{
    struct postgres_cursor *cursor = held;

    return PQgetisnull(cursor->result, cursor->row, column) == 1;
}

static const char *postgres_text(void *held, int column)
{
    struct postgres_cursor *cursor = held;

    return postgres_is_null(held, column) ? NULL : PQgetvalue(cursor->result, cursor->row, column);
}

static int64_t postgres_integer(void *held, int column)
{
    const char *text = postgres_text(held, column);

    return !text ? 0 : *text == 't' ? 1 : strtoll(text, NULL, 10);
}

static const void *postgres_blob(void *held, int column, size_t *size)
{
    struct postgres_cursor *cursor = held;
    const char *text = postgres_text(held, column);

    *size = 0;
    if (text && !cursor->blobs[column])
        cursor->blobs[column] = PQunescapeBytea((const unsigned char *)text, &cursor->blob_sizes[column]);
    if (text)
        *size = cursor->blob_sizes[column];
    return text ? cursor->blobs[column] : NULL;
}

static void postgres_finish(void *held)
{
    struct postgres_cursor *cursor = held;

    forget_blobs(cursor);
    PQclear(cursor->result);
    free(cursor);
}

/* The connection's settings as pg_dump reads them from its environment: a password is never on a command line. */
static char **dump_environment(const char *conninfo, struct err *e)
{
    static const char *const names[][2] = {{"host", "PGHOST"}, {"hostaddr", "PGHOSTADDR"}, {"port", "PGPORT"}, {"dbname", "PGDATABASE"},
                                           {"user", "PGUSER"}, {"password", "PGPASSWORD"}, {"sslmode", "PGSSLMODE"},
                                           {"sslrootcert", "PGSSLROOTCERT"}, {"sslcert", "PGSSLCERT"}, {"sslkey", "PGSSLKEY"}};
    PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
    size_t inherited = 0, used = 0;
    char **all;

    if (!options) {
        err_set(e, ERR_INVALID, "the database's address can't be read");
        return NULL;
    }
    while (environ[inherited])
        inherited++;
    all = xcalloc(inherited + ARRAY_COUNT(names) + 1, sizeof *all);
    for (PQconninfoOption *o = options; o->keyword; o++)
        for (size_t i = 0; o->val && i < ARRAY_COUNT(names); i++)
            if (strcmp(names[i][0], o->keyword) == 0)
                all[used++] = xasprintf("%s=%s", names[i][1], o->val);
    for (size_t i = 0; i < inherited; i++) {
        bool ours = false;

        for (size_t n = 0; n < used; n++)
            ours = ours || strncmp(all[n], environ[i], strcspn(all[n], "=") + 1) == 0;
        if (!ours)
            all[used++] = xstrdup(environ[i]);
    }
    PQconninfoFree(options);
    return all;
}

static void free_list(char ***list)
{
    for (char **at = *list; at && *at; at++)
        free(*at);
    free(*list);
}

/* pg_dump's archive: one moment of the whole database, put back by pg_restore. */
static int postgres_backup(void *held, const char *path, struct err *e)
{
    struct postgres_database *database = held;
    CLEANUP(free_list) char **environment = dump_environment(database->conninfo, e);
    CLEANUP(store_copy_drop) char *part = NULL;
    CLEANUP(free_ptr) char *file = NULL;
    struct proc_options options = {.environment = (const char *const *)environment, .timeout_ms = DUMP_TIMEOUT_MS};

    if (!environment || store_copy_begin(path, &part, e) < 0)
        return -1;
    file = xasprintf("--file=%s", part);
    options.argv = (const char *const[]){"pg_dump", "--format=custom", "--no-password", file, NULL};
    return proc_must(&options, NULL, e) < 0 ? -1 : store_copy_end(part, path, e);
}

const struct store_backend store_postgres = {
    .scheme = "postgresql",
    .auto_id = "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
    .open = postgres_open,
    .close = postgres_close,
    .connect = postgres_connect,
    .disconnect = postgres_disconnect,
    .usable = postgres_usable,
    .begin = postgres_begin,
    .commit = postgres_commit,
    .rollback = postgres_rollback,
    .script = postgres_script,
    .start = postgres_start,
    .step = postgres_step,
    .changed = postgres_changed,
    .is_null = postgres_is_null,
    .integer = postgres_integer,
    .text = postgres_text,
    .blob = postgres_blob,
    .finish = postgres_finish,
    .backup = postgres_backup,
};
