/* What is particular to SQLite; what every store promises is in tests/conformance/store. */
#include "base/file.h"
#include "base/mem.h"
#include "store/store.h"
#include "tap.h"

#include <sys/stat.h>

static char folder[] = "/tmp/slipway-test-sqlite-XXXXXX";

static int64_t setting(const char *url, const char *sql)
{
    CLEANUP(store_close) struct store *s = NULL;
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t value = -1;

    if (store_open(url, &s, NULL) == 0 && store_begin(s, STORE_READ, &tx, NULL) == 0)
        store_one_int(tx, &value, NULL, sql, "");
    store_rollback(&tx);
    return value;
}

static void settings_are_safe(void)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/a.db", folder);
    CLEANUP(free_ptr) char *url = xasprintf("sqlite:%s", path);
    struct stat there;

    is_int(setting(url, "PRAGMA synchronous"), 2, "synchronous=FULL");
    is_int(setting(url, "PRAGMA foreign_keys"), 1, "foreign keys are held");
    is_int(setting(url, "SELECT journal_mode = 'wal' FROM pragma_journal_mode"), 1, "WAL");
    ok(stat(path, &there) == 0 && (there.st_mode & 0777) == 0600, "only its owner reads the file");
}

static void wrong_files_are_told(void)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/text", folder);
    CLEANUP(free_ptr) char *url = xasprintf("sqlite:%s", path);
    struct store *s = NULL;
    struct err e = {0};

    file_write(path, "this is a text that is no database, whatever it is called .......................................................", 110,
               0600, NULL);
    is_int(store_open(url, &s, &e), -1, "a text file is no database");
    is_int(e.kind, ERR_CORRUPT, "%s", e.message);
    is_int(store_open("sqlite:/nonexistent/x.db", &s, &e), -1, "a folder that is missing");
    is_int(e.kind, ERR_NOT_FOUND, "%s", e.message);
    is_int(store_open("oracle:x", &s, &e), -1, "a database that we don't speak");
    is_int(e.kind, ERR_INVALID, "%s", e.message);
    is_int(store_open("nothing", &s, &e), -1, "no scheme: %s", e.message);
    ok(s == NULL, "the output is untouched");
}

/* More statements than the cache holds, and the same one nested in itself. */
static void cache_holds_its_bound(void)
{
    CLEANUP(store_close) struct store *s = NULL;
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(store_rows_free) struct store_rows *outer = NULL;
    CLEANUP(store_rows_free) struct store_rows *inner = NULL;
    bool right = true;

    MUST(store_open("sqlite::memory:", &s, NULL) == 0 && store_begin(s, STORE_READ, &tx, NULL) == 0);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 300; i++) {
            CLEANUP(free_ptr) char *sql = xasprintf("SELECT %d + $1", i);
            int64_t value = -1;

            right = right && store_one_int(tx, &value, NULL, sql, "i", INT64_C(1)) == 1 && value == i + 1;
        }
    ok(right, "300 statements, twice");
    store_query(tx, &outer, NULL, "SELECT 1 UNION SELECT 2 ORDER BY 1", "");
    store_next(outer, NULL);
    store_query(tx, &inner, NULL, "SELECT 1 UNION SELECT 2 ORDER BY 1", "");
    ok(store_next(inner, NULL) == 1 && store_int(inner, 0) == 1, "a statement inside itself starts anew");
    ok(store_next(outer, NULL) == 1 && store_int(outer, 0) == 2, "and the outer one goes on");
    is_int(store_run(tx, NULL, "SELECT 1; SELECT 2", ""), -1, "two statements at once are refused");
}

static void backup_is_a_whole_copy(void)
{
    CLEANUP(store_close) struct store *s = NULL;
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(free_ptr) char *source = xasprintf("sqlite:%s/source.db", folder);
    CLEANUP(free_ptr) char *path = xasprintf("%s/backup", folder);
    CLEANUP(free_ptr) char *wal = xasprintf("%s-wal", path);
    CLEANUP(free_ptr) char *url = xasprintf("sqlite:%s", path);
    struct err e = {0};

    MUST(store_open(source, &s, NULL) == 0 && store_begin(s, STORE_WRITE, &tx, NULL) == 0);
    store_run(tx, NULL, "CREATE TABLE t (name TEXT)", "");
    store_run(tx, NULL, "INSERT INTO t (name) VALUES ('kept')", "");
    store_commit(&tx, NULL);
    MUST(store_begin(s, STORE_WRITE, &tx, NULL) == 0);
    store_run(tx, NULL, "INSERT INTO t (name) VALUES ('open')", "");
    is_int(store_backup(s, path, &e), 0, "a backup beside an open write: %s", e.message);
    store_commit(&tx, NULL);
    ok(!file_exists(wal), "is one file");
    is_int(setting(url, "SELECT COUNT(*) FROM t WHERE name = 'kept'"), 1, "what was committed is in it");
    is_int(setting(url, "SELECT COUNT(*) FROM t"), 1, "what was not is not");
}

/* max_page_count stands for a disk that is full. */
static void a_full_disk_loses_nothing(void)
{
    CLEANUP(store_close) struct store *s = NULL;
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(free_ptr) char *url = xasprintf("sqlite:%s/full.db", folder);
    struct err e = {0};
    int64_t pages;

    MUST(store_open(url, &s, NULL) == 0 && store_begin(s, STORE_WRITE, &tx, NULL) == 0);
    store_run(tx, NULL, "CREATE TABLE t (raw BLOB)", "");
    store_run(tx, NULL, "INSERT INTO t (raw) VALUES (zeroblob(1000))", "");
    is_int(store_commit(&tx, &e), 0, "a row");
    MUST(store_begin(s, STORE_WRITE, &tx, NULL) == 0);
    store_one_int(tx, &pages, NULL, "PRAGMA max_page_count = 20", "");
    is_int(store_run(tx, &e, "INSERT INTO t (raw) VALUES (zeroblob(1000000))", ""), -1, "no room for another");
    is_int(e.kind, ERR_NO_SPACE, "%s", e.message);
    is_int(store_commit(&tx, &e), -1, "the transaction is lost");
    MUST(store_begin(s, STORE_WRITE, &tx, NULL) == 0);
    store_one_int(tx, &pages, NULL, "PRAGMA max_page_count = 1000000", "");
    is_int(store_run(tx, &e, "INSERT INTO t (raw) VALUES (zeroblob(1000000))", ""), 1, "when there is room, it goes on");
    is_int(store_commit(&tx, &e), 0, "and is written: %s", e.message);
    is_int(setting(url, "SELECT COUNT(*) FROM t"), 2, "with what was there");
}

int main(void)
{
    CLEANUP(free_ptr) char *tidy = xasprintf("rm -rf %s", mkdtemp(folder));

    settings_are_safe();
    wrong_files_are_told();
    cache_holds_its_bound();
    backup_is_a_whole_copy();
    a_full_disk_loses_nothing();
    ok(system(tidy) == 0, "tidy");
    return tap_done();
}
