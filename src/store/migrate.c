/* migrate: brings the schema to this program's version. Each migration that the database lacks runs once, in order of number,
 * in a transaction with its row in schema_version; a number that this program doesn't know means a newer program was here. */
#include "store/backend.h"

#include "base/clock.h"

#include <string.h>

#define AUTO_ID "AUTO_ID"

/* Migrations are written in the dialect that all backends speak, but for the word AUTO_ID. */
static void in_dialect(const struct store_backend *backend, const char *sql, struct buf *out)
{
    for (const char *found; (found = strstr(sql, AUTO_ID)); sql = found + strlen(AUTO_ID)) {
        buf_add(out, sql, (size_t)(found - sql));
        buf_puts(out, backend->auto_id);
    }
    buf_puts(out, sql);
    MUST(!out->over);
}

static bool known(int64_t number)
{
    for (const struct store_migration *m = store_migrations; m->sql; m++)
        if (m->number == number)
            return true;
    return false;
}

static int refuse_newer(struct store_tx *tx, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT version, name FROM schema_version ORDER BY version", "");

    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        if (!known(store_int(rows, 0)))
            return err_set(e, ERR_WRONG_STATE,
                           "the database has migration %lld (%s), which this program does not know: run the newer slipway that made"
                           " it, or restore a backup from before",
                           (long long)store_int(rows, 0), store_text(rows, 1));
    return rc < 0 ? -1 : 0;
}

static int make_version_table(struct store *s, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    if (store_begin(s, STORE_WRITE, &tx, e) < 0
        || store_run(tx, e, "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY, name TEXT NOT NULL,"
                            " applied_at_us BIGINT NOT NULL)", "") < 0
        || refuse_newer(tx, e) < 0)
        return -1;
    return store_commit(&tx, e);
}

static int apply(struct store *s, const struct store_migration *m, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(buf_release) struct buf sql;
    int64_t there;
    int rc;

    buf_init(&sql, 0);
    if (store_begin(s, STORE_WRITE, &tx, e) < 0)
        return -1;
    rc = store_one_int(tx, &there, e, "SELECT version FROM schema_version WHERE version = $1", "i", (int64_t)m->number);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    in_dialect(store_backend_of(s), m->sql, &sql);
    if (store_script(tx, sql.data, e) < 0
        || store_run(tx, e, "INSERT INTO schema_version (version, name, applied_at_us) VALUES ($1, $2, $3)", "isi",
                     (int64_t)m->number, m->name, clock_now_us()) < 0)
        return -1;
    return store_commit(&tx, e);
}

int store_migrate(struct store *s, struct err *e)
{
    if (make_version_table(s, e) < 0)
        return err_wrap(e, "looking at the database's version");
    for (const struct store_migration *m = store_migrations; m->sql; m++)
        if (apply(s, m, e) < 0)
            return err_wrap(e, "migrating the database: %04d_%s", m->number, m->name);
    return 0;
}
