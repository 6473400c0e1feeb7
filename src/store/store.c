#include "store/backend.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define POOL_MAX 64

static const struct store_backend *const backends[] = {&store_sqlite, &store_postgres};

/* lock guards everything below it; it is never held while a backend works. */
struct store {
    const struct store_backend *backend;
    void *database;
    pthread_mutex_t lock;
    pthread_cond_t pool_changed, writer_left, event_came;
    void *idle[POOL_MAX];
    int idle_count, open_count; /* connections that wait; all there are */
    bool writing;
    pthread_t writer;
    int64_t last_event_id; /* the newest that this process knows to be committed */
};

struct store_tx {
    struct store *store;
    void *connection;
    enum store_mode mode;
    bool failed; /* a statement failed: only rolling back is left, as in PostgreSQL */
    struct store_rows *rows;
    int64_t event_id;
};

struct store_rows {
    struct store_tx *tx; /* NULL when the transaction ended first */
    void *cursor;
    struct store_rows *next, **link;
};

int store_open(const char *url, struct store **out, struct err *e)
{
    const char *colon = strchr(url, ':');
    pthread_condattr_t monotonic;
    struct store *s;
    void *database;

    for (size_t i = 0; colon && i < ARRAY_COUNT(backends); i++) {
        const struct store_backend *backend = backends[i];

        if (strlen(backend->scheme) != (size_t)(colon - url) || strncmp(url, backend->scheme, (size_t)(colon - url)) != 0)
            continue;
        if (backend->open(colon + 1, &database, e) < 0)
            return err_wrap(e, "opening the store %s", url);
        s = xcalloc(1, sizeof *s);
        s->backend = backend;
        s->database = database;
        pthread_mutex_init(&s->lock, NULL);
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&s->pool_changed, &monotonic);
        pthread_cond_init(&s->writer_left, &monotonic);
        pthread_cond_init(&s->event_came, &monotonic);
        pthread_condattr_destroy(&monotonic);
        *out = s;
        return 0;
    }
    return err_set(e, ERR_INVALID, "no store for \"%s\": write sqlite:/path/to/slipway.db or postgresql://user@host/name", url);
}

void store_close(struct store **s)
{
    struct store *held = *s;

    if (!held)
        return;
    MUST(held->idle_count == held->open_count); /* no transaction may be open */
    while (held->idle_count)
        held->backend->disconnect(held->idle[--held->idle_count]);
    held->backend->close(held->database);
    pthread_cond_destroy(&held->event_came);
    pthread_cond_destroy(&held->writer_left);
    pthread_cond_destroy(&held->pool_changed);
    pthread_mutex_destroy(&held->lock);
    free(held);
    *s = NULL;
}

int store_backup(struct store *s, const char *path, struct err *e)
{
    if (s->backend->backup(s->database, path, e) < 0)
        return err_wrap(e, "backing the store up to %s", path);
    return 0;
}

static struct timespec deadline_after_ms(int64_t duration_ms)
{
    int64_t at_us = clock_monotonic_us() + duration_ms * US_PER_MS;

    return (struct timespec){at_us / US_PER_S, at_us % US_PER_S * 1000};
}

/* Takes the one writer's place. lock is held. */
static int wait_for_writer(struct store *s, struct err *e)
{
    struct timespec deadline = deadline_after_ms(STORE_BUSY_MS);

    if (s->writing && pthread_equal(s->writer, pthread_self()))
        return err_set(e, ERR_INTERNAL, "this thread has a write transaction open already");
    while (s->writing)
        if (pthread_cond_timedwait(&s->writer_left, &s->lock, &deadline) == ETIMEDOUT && s->writing)
            return err_set(e, ERR_TIMEOUT, "another write transaction has been open for %d s", STORE_BUSY_MS / 1000);
    s->writing = true;
    s->writer = pthread_self();
    return 0;
}

static void leave_writer(struct store *s)
{
    s->writing = false;
    pthread_cond_signal(&s->writer_left);
}

/* An idle connection, or NULL where a new one may be made (already counted). lock is held. */
static int wait_for_connection(struct store *s, void **connection, struct err *e)
{
    struct timespec deadline = deadline_after_ms(STORE_BUSY_MS);

    while (!s->idle_count && s->open_count >= POOL_MAX)
        if (pthread_cond_timedwait(&s->pool_changed, &s->lock, &deadline) == ETIMEDOUT && !s->idle_count)
            return err_set(e, ERR_TIMEOUT, "all %d database connections have been in use for %d s", POOL_MAX, STORE_BUSY_MS / 1000);
    *connection = NULL;
    if (s->idle_count)
        *connection = s->idle[--s->idle_count];
    else
        s->open_count++;
    return 0;
}

/* Gives the connection (NULL: one that could not be made) and the writer's place back. */
static void give_back(struct store *s, void *connection, enum store_mode mode)
{
    if (connection && !s->backend->usable(connection)) {
        s->backend->disconnect(connection);
        connection = NULL;
    }
    pthread_mutex_lock(&s->lock);
    if (connection)
        s->idle[s->idle_count++] = connection;
    else
        s->open_count--;
    pthread_cond_signal(&s->pool_changed);
    if (mode == STORE_WRITE)
        leave_writer(s);
    pthread_mutex_unlock(&s->lock);
}

int store_begin(struct store *s, enum store_mode mode, struct store_tx **out, struct err *e)
{
    void *connection = NULL;
    struct store_tx *tx;
    int rc;

    pthread_mutex_lock(&s->lock);
    rc = mode == STORE_WRITE ? wait_for_writer(s, e) : 0;
    if (rc == 0 && (rc = wait_for_connection(s, &connection, e)) < 0 && mode == STORE_WRITE)
        leave_writer(s);
    pthread_mutex_unlock(&s->lock);
    if (rc < 0)
        return -1;
    if ((!connection && s->backend->connect(s->database, &connection, e) < 0) || s->backend->begin(connection, mode, e) < 0) {
        give_back(s, connection, mode);
        return err_wrap(e, "beginning a transaction");
    }
    tx = xcalloc(1, sizeof *tx);
    *tx = (struct store_tx){.store = s, .connection = connection, .mode = mode};
    *out = tx;
    return 0;
}

/* Rows that the caller still holds lose their cursor, so that freeing them later is fine. */
static void detach_rows(struct store_tx *tx)
{
    for (struct store_rows *rows = tx->rows, *next; rows; rows = next) {
        next = rows->next;
        tx->store->backend->finish(rows->cursor);
        *rows = (struct store_rows){0};
    }
    tx->rows = NULL;
}

int store_commit(struct store_tx **tx, struct err *e)
{
    struct store_tx *held = *tx;
    struct store *s = held->store;
    int64_t event_id = held->event_id;
    int rc;

    *tx = NULL;
    detach_rows(held);
    if (held->failed) {
        s->backend->rollback(held->connection);
        rc = err_set(e, ERR_INTERNAL, "a statement of this transaction failed before: nothing was written");
    } else if ((rc = s->backend->commit(held->connection, e)) < 0) {
        err_wrap(e, "committing");
    }
    give_back(s, held->connection, held->mode);
    free(held);
    if (rc == 0 && event_id)
        store_event_seen(s, event_id);
    return rc;
}

void store_rollback(struct store_tx **tx)
{
    struct store_tx *held = *tx;

    if (!held)
        return;
    *tx = NULL;
    detach_rows(held);
    held->store->backend->rollback(held->connection);
    give_back(held->store, held->connection, held->mode);
    free(held);
}

static int take_values(const char *types, va_list args, struct store_value values[static STORE_VALUES_MAX])
{
    int count = 0;

    for (const char *type = types ? types : ""; *type; type++) {
        struct store_value *value = &values[count++];

        MUST(count <= STORE_VALUES_MAX);
        *value = (struct store_value){.type = *type};
        switch (*type) {
        case 'i': value->integer = va_arg(args, int64_t); break;
        case 'd': value->real = va_arg(args, double); break;
        case 's':
            value->bytes = va_arg(args, const char *);
            value->size_bytes = value->bytes ? strlen(value->bytes) : 0;
            break;
        case 'b':
            value->bytes = va_arg(args, const void *);
            value->size_bytes = va_arg(args, size_t);
            break;
        default: MUST(!"a letter in types that is none of i s b d");
        }
    }
    return count;
}

static int start(struct store_tx *tx, const char *sql, const char *types, va_list args, void **cursor, struct err *e)
{
    struct store_value values[STORE_VALUES_MAX];
    int count = take_values(types, args, values);

    if (tx->failed)
        return err_set(e, ERR_INTERNAL, "a statement of this transaction failed before: roll it back");
    if (tx->store->backend->start(tx->connection, sql, values, count, cursor, e) < 0) {
        tx->failed = true;
        return -1;
    }
    return 0;
}

int64_t store_run(struct store_tx *tx, struct err *e, const char *sql, const char *types, ...)
{
    const struct store_backend *backend = tx->store->backend;
    void *cursor;
    int64_t changed;
    va_list args;
    int rc;

    va_start(args, types);
    rc = start(tx, sql, types, args, &cursor, e);
    va_end(args);
    if (rc < 0)
        return -1;
    while ((rc = backend->step(cursor, e)) > 0)
        ;
    changed = rc < 0 ? -1 : backend->changed(cursor);
    backend->finish(cursor);
    tx->failed = tx->failed || rc < 0;
    return changed;
}

int store_query(struct store_tx *tx, struct store_rows **out, struct err *e, const char *sql, const char *types, ...)
{
    struct store_rows *rows;
    void *cursor;
    va_list args;
    int rc;

    va_start(args, types);
    rc = start(tx, sql, types, args, &cursor, e);
    va_end(args);
    if (rc < 0)
        return -1;
    rows = xcalloc(1, sizeof *rows);
    *rows = (struct store_rows){.tx = tx, .cursor = cursor, .next = tx->rows, .link = &tx->rows};
    if (tx->rows)
        tx->rows->link = &rows->next;
    tx->rows = rows;
    *out = rows;
    return 0;
}

int store_next(struct store_rows *rows, struct err *e)
{
    int rc;

    if (!rows->tx)
        return err_set(e, ERR_INTERNAL, "reading rows of a transaction that has ended");
    if (rows->tx->failed)
        return err_set(e, ERR_INTERNAL, "a statement of this transaction failed before: roll it back");
    rc = rows->tx->store->backend->step(rows->cursor, e);
    rows->tx->failed = rc < 0;
    return rc;
}

void store_rows_free(struct store_rows **rows)
{
    struct store_rows *held = *rows;

    if (!held)
        return;
    *rows = NULL;
    if (held->tx) {
        held->tx->store->backend->finish(held->cursor);
        *held->link = held->next;
        if (held->next)
            held->next->link = held->link;
    }
    free(held);
}

static const struct store_backend *backend_of(const struct store_rows *rows)
{
    MUST(rows->tx);
    return rows->tx->store->backend;
}

int64_t store_int(const struct store_rows *rows, int column)
{
    return backend_of(rows)->integer(rows->cursor, column);
}

const char *store_text(const struct store_rows *rows, int column)
{
    return backend_of(rows)->text(rows->cursor, column);
}

const void *store_blob(const struct store_rows *rows, int column, size_t *size)
{
    return backend_of(rows)->blob(rows->cursor, column, size);
}

bool store_is_null(const struct store_rows *rows, int column)
{
    return backend_of(rows)->is_null(rows->cursor, column);
}

int store_one_int(struct store_tx *tx, int64_t *out, struct err *e, const char *sql, const char *types, ...)
{
    const struct store_backend *backend = tx->store->backend;
    int64_t value;
    void *cursor;
    va_list args;
    bool found;
    int rc;

    va_start(args, types);
    rc = start(tx, sql, types, args, &cursor, e);
    va_end(args);
    if (rc < 0)
        return -1;
    rc = backend->step(cursor, e);
    found = rc > 0 && !backend->is_null(cursor, 0);
    value = found ? backend->integer(cursor, 0) : 0;
    while (rc > 0) /* foreign keys are checked when an INSERT … RETURNING ends */
        rc = backend->step(cursor, e);
    backend->finish(cursor);
    tx->failed = rc < 0;
    if (rc == 0 && found)
        *out = value;
    return rc < 0 ? -1 : found;
}

const struct store_backend *store_backend_of(const struct store *s)
{
    return s->backend;
}

int store_script(struct store_tx *tx, const char *sql, struct err *e)
{
    if (tx->store->backend->script(tx->connection, sql, e) < 0) {
        tx->failed = true;
        return -1;
    }
    return 0;
}

void store_note_event(struct store_tx *tx, int64_t id)
{
    tx->event_id = id > tx->event_id ? id : tx->event_id;
}

void store_event_seen(struct store *s, int64_t id)
{
    pthread_mutex_lock(&s->lock);
    if (id > s->last_event_id) {
        s->last_event_id = id;
        pthread_cond_broadcast(&s->event_came);
    }
    pthread_mutex_unlock(&s->lock);
}

bool store_event_passed(struct store *s, int64_t after_id, int timeout_ms)
{
    struct timespec deadline = deadline_after_ms(timeout_ms);
    bool passed;

    pthread_mutex_lock(&s->lock);
    while (timeout_ms > 0 && s->last_event_id <= after_id)
        if (pthread_cond_timedwait(&s->event_came, &s->lock, &deadline) == ETIMEDOUT)
            break;
    passed = s->last_event_id > after_id;
    pthread_mutex_unlock(&s->lock);
    return passed;
}
