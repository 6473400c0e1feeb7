/* The suite that every store passes. Usage: test_store URL_PREFIX, of which the test makes URLs of new databases by appending a
 * number: "sqlite:/folder/db" gives sqlite:/folder/db0 …; without one, SQLite's in a folder of its own. */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "store/event.h"
#include "tap.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/slipway-test-store-XXXXXX";
static const char *prefix;

static char *new_url(void)
{
    static int number;

    return prefix ? xasprintf("%s%d", prefix, number++) : xasprintf("sqlite:%s/db%d", folder, number++);
}

static struct store *open_or_die(const char *url)
{
    struct store *s = NULL;
    struct err e = {0};

    if (store_open(url, &s, &e) < 0 || store_migrate(s, &e) < 0) {
        printf("Bail out! %s\n", e.message);
        exit(1);
    }
    return s;
}

static struct store_tx *begin_or_die(struct store *s, enum store_mode mode)
{
    struct store_tx *tx = NULL;
    struct err e = {0};

    if (store_begin(s, mode, &tx, &e) < 0) {
        printf("Bail out! %s\n", e.message);
        exit(1);
    }
    return tx;
}

static struct store *new_store(void)
{
    CLEANUP(free_ptr) char *url = new_url();
    struct store *s = open_or_die(url);
    struct store_tx *tx = begin_or_die(s, STORE_WRITE);

    store_run(tx, NULL, "CREATE TABLE parent (name TEXT PRIMARY KEY, note TEXT)", "");
    store_run(tx, NULL, "CREATE TABLE child (id BIGINT PRIMARY KEY, parent TEXT NOT NULL REFERENCES parent (name), raw BLOB)", "");
    ok(store_commit(&tx, NULL) == 0, "a new database takes tables");
    return s;
}

static int64_t count_of(struct store *s, const char *sql)
{
    struct store_tx *tx = begin_or_die(s, STORE_READ);
    int64_t count = -1;

    store_one_int(tx, &count, NULL, sql, "");
    store_rollback(&tx);
    return count;
}

static void values_come_back_as_they_went(void)
{
    CLEANUP(store_close) struct store *s = new_store();
    CLEANUP(store_rollback) struct store_tx *tx = begin_or_die(s, STORE_WRITE);
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    static const char raw[] = {0, 1, 2, 0, (char)0xff};
    struct err e = {0};
    size_t size = 0;
    const void *blob;

    is_int(store_run(tx, &e, "INSERT INTO parent (name, note) VALUES ($1, $2), ($3, $4)", "ssss", "a", "a 'quoted' \xc3\xa4", "b",
                     NULL), 2, "two rows in one statement: %s", e.message);
    is_int(store_run(tx, &e, "INSERT INTO child (id, parent, raw) VALUES ($2, $1, $3)", "sib", "a", INT64_MAX, raw, sizeof raw), 1,
           "values by number, whatever the order in the text: %s", e.message);
    is_int(store_run(tx, &e, "UPDATE parent SET note = note WHERE name = $1", "s", "nobody"), 0, "no row changed is 0");
    is_int(store_query(tx, &rows, &e, "SELECT p.name, p.note, c.id, c.raw FROM parent p LEFT JOIN child c ON c.parent = p.name"
                                      " ORDER BY p.name", ""), 0, "a query: %s", e.message);
    is_int(store_next(rows, &e), 1, "the first row");
    is_str(store_text(rows, 1), "a 'quoted' \xc3\xa4", "text");
    ok(store_int(rows, 2) == INT64_MAX, "64-bit integers");
    blob = store_blob(rows, 3, &size);
    ok(size == sizeof raw && memcmp(blob, raw, size) == 0, "bytes, with zeros");
    is_int(store_next(rows, &e), 1, "the second row");
    ok(store_is_null(rows, 1) && !store_text(rows, 1) && store_is_null(rows, 2), "nulls");
    is_int(store_next(rows, &e), 0, "the end");
    is_int(store_commit(&tx, &e), 0, "a transaction may end before its rows are freed");
    is_int(store_next(rows, &e), -1, "which can't be read then");
}

static void one_int(void)
{
    CLEANUP(store_close) struct store *s = new_store();
    CLEANUP(store_rollback) struct store_tx *tx = begin_or_die(s, STORE_WRITE);
    struct err e = {0};
    int64_t value = 7;

    is_int(store_one_int(tx, &value, &e, "SELECT 3 FROM parent", ""), 0, "no row is 0");
    is_int(store_one_int(tx, &value, &e, "SELECT MAX(id) FROM child", ""), 0, "null is 0");
    is_int(value, 7, "the output is untouched then");
    is_int(store_run(tx, &e, "INSERT INTO parent (name) VALUES ($1)", "s", "p"), 1, "a parent");
    is_int(store_one_int(tx, &value, &e, "INSERT INTO child (id, parent) VALUES ($1, $2) RETURNING id", "is", INT64_C(9), "p"), 1,
           "INSERT RETURNING");
    is_int(value, 9, "gives its value");
    is_int(store_one_int(tx, &value, &e, "INSERT INTO child (id, parent) VALUES ($1, $2) RETURNING id", "is", INT64_C(10), "q"), -1,
           "and is refused for a foreign key");
    is_int(e.kind, ERR_CONFLICT, "as a conflict: %s", e.message);
}

static void failures_are_told_apart(void)
{
    CLEANUP(store_close) struct store *s = new_store();
    struct store_tx *tx = begin_or_die(s, STORE_WRITE);
    struct err e = {0};

    is_int(store_run(tx, &e, "INSERT INTO parent (name) VALUES ($1)", "s", "a"), 1, "one row");
    is_int(store_run(tx, &e, "INSERT INTO parent (name) VALUES ($1)", "s", "a"), -1, "the same key again");
    is_int(e.kind, ERR_CONFLICT, "is a conflict: %s", e.message);
    is_int(store_run(tx, &e, "INSERT INTO parent (name) VALUES ($1)", "s", "b"), -1, "after a failure nothing more runs");
    is_int(store_commit(&tx, &e), -1, "and the commit is refused");
    ok(tx == NULL, "the transaction is gone all the same");
    is_int(count_of(s, "SELECT COUNT(*) FROM parent"), 0, "nothing was written");
    tx = begin_or_die(s, STORE_WRITE);
    is_int(store_run(tx, &e, "INSERT INTO child (id, parent) VALUES (1, 'none')", ""), -1, "a foreign key that leads nowhere");
    is_int(e.kind, ERR_CONFLICT, "is a conflict: %s", e.message);
    store_rollback(&tx);
    tx = begin_or_die(s, STORE_WRITE);
    is_int(store_run(tx, &e, "INSERT INTO parent (name) VALUES ($1)", "ss", "a", "b"), -1, "too many values");
    is_int(e.kind, ERR_INTERNAL, "are our own mistake: %s", e.message);
    store_rollback(&tx);
    tx = begin_or_die(s, STORE_READ);
    is_int(store_run(tx, &e, "INSERT INTO parent (name) VALUES ('x')", ""), -1, "a read transaction doesn't write");
    store_rollback(&tx);
    is_int(count_of(s, "SELECT COUNT(*) FROM parent"), 0, "nothing was written");
}

static void reads_see_the_last_commit_and_keep_it(void)
{
    CLEANUP(store_close) struct store *s = new_store();
    CLEANUP(store_rollback) struct store_tx *reader = NULL;
    CLEANUP(store_rollback) struct store_tx *writer = begin_or_die(s, STORE_WRITE);
    int64_t count = -1;
    struct store_tx *second = NULL;
    struct err e = {0};

    store_run(writer, NULL, "INSERT INTO parent (name) VALUES ('a')", "");
    is_int(count_of(s, "SELECT COUNT(*) FROM parent"), 0, "an open write is not seen");
    is_int(store_begin(s, STORE_WRITE, &second, &e), -1, "a thread has one write transaction: %s", e.message);
    is_int(store_commit(&writer, &e), 0, "committed");
    is_int(count_of(s, "SELECT COUNT(*) FROM parent"), 1, "a committed one is");
    reader = begin_or_die(s, STORE_READ);
    store_one_int(reader, &count, NULL, "SELECT COUNT(*) FROM parent", "");
    writer = begin_or_die(s, STORE_WRITE);
    store_run(writer, NULL, "INSERT INTO parent (name) VALUES ('b')", "");
    is_int(store_commit(&writer, &e), 0, "a reader stops no writer");
    store_one_int(reader, &count, NULL, "SELECT COUNT(*) FROM parent", "");
    is_int(count, 1, "and keeps its moment");
}

static void *add_many(void *user)
{
    struct store *s = user;

    for (int i = 0; i < 50; i++) {
        struct store_tx *tx = begin_or_die(s, STORE_WRITE);
        int64_t n = 0;

        store_one_int(tx, &n, NULL, "SELECT COUNT(*) FROM parent", "");
        store_run(tx, NULL, "INSERT INTO parent (name, note) VALUES ($1, NULL)", "s", (char[]){(char)('A' + n % 26), (char)('A' + n / 26), 0});
        store_commit(&tx, NULL);
    }
    return NULL;
}

static void threads_write_one_after_another(void)
{
    CLEANUP(store_close) struct store *s = new_store();
    pthread_t threads[8];

    for (size_t i = 0; i < ARRAY_COUNT(threads); i++)
        pthread_create(&threads[i], NULL, add_many, s);
    for (size_t i = 0; i < ARRAY_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    is_int(count_of(s, "SELECT COUNT(*) FROM parent"), 50 * (int)ARRAY_COUNT(threads), "no write of %zu threads is lost", ARRAY_COUNT(threads));
}

/* A child that writes pairs of rows, and says on fd what was committed. */
static void write_pairs(const char *url, int64_t first, int64_t limit, int fd)
{
    CLEANUP(store_close) struct store *s = open_or_die(url);

    for (int64_t id = first; id < first + limit; id++) {
        struct store_tx *tx = begin_or_die(s, STORE_WRITE);

        if (store_run(tx, NULL, "INSERT INTO child (id, parent) VALUES ($1, 'p')", "i", id * 2) != 1
            || store_run(tx, NULL, "INSERT INTO child (id, parent) VALUES ($1, 'p')", "i", id * 2 + 1) != 1
            || store_commit(&tx, NULL) < 0 || fd_write_all(fd, &id, sizeof id, NULL) < 0)
            _exit(1);
    }
}

static void prepare_pairs(const char *url)
{
    CLEANUP(store_close) struct store *s = open_or_die(url);
    struct store_tx *tx = begin_or_die(s, STORE_WRITE);

    store_run(tx, NULL, "CREATE TABLE parent (name TEXT PRIMARY KEY, note TEXT)", "");
    store_run(tx, NULL, "CREATE TABLE child (id BIGINT PRIMARY KEY, parent TEXT NOT NULL REFERENCES parent (name))", "");
    store_run(tx, NULL, "INSERT INTO parent (name) VALUES ('p')", "");
    ok(store_commit(&tx, NULL) == 0, "a database for pairs");
}

static pid_t start_child(const char *url, int64_t first, int64_t limit, int *fd)
{
    int ends[2];
    pid_t pid;

    MUST(pipe(ends) == 0);
    fflush(stdout);
    pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        write_pairs(url, first, limit, ends[1]);
        _exit(0);
    }
    close(ends[1]);
    *fd = ends[0];
    return pid;
}

static void a_kill_loses_nothing_committed(void)
{
    CLEANUP(free_ptr) char *url = new_url();
    int64_t acknowledged = 0, first = 0;
    bool whole = true, kept = true, some = true;

    prepare_pairs(url);
    for (int round = 0; round < 12; round++) {
        CLEANUP(store_close) struct store *s = NULL;
        CLEANUP(close_fd) int fd = -1;
        pid_t pid = start_child(url, first, 1000000, &fd);
        int64_t id, before = acknowledged;

        while (acknowledged - before < 3 && fd_read_all(fd, &id, sizeof id, NULL) == 1)
            acknowledged++;
        clock_sleep_us((round * 7919) % 9000);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (fd_read_all(fd, &id, sizeof id, NULL) == 1) /* what it said before it died */
            acknowledged++;
        s = open_or_die(url);
        some = some && acknowledged > before;
        kept = kept && count_of(s, "SELECT COUNT(*) FROM child") >= acknowledged * 2;
        whole = whole && count_of(s, "SELECT COUNT(*) FROM child WHERE id % 2 = 0 AND id + 1 NOT IN (SELECT id FROM child)") == 0
            && count_of(s, "SELECT COUNT(*) FROM child") % 2 == 0;
        first = count_of(s, "SELECT MAX(id) FROM child") / 2 + 1;
    }
    ok(some, "each of 12 writers committed before it was killed (%lld in all)", (long long)acknowledged);
    ok(kept, "every acknowledged commit is there");
    ok(whole, "and no half transaction");
}

static void two_processes_write(void)
{
    CLEANUP(free_ptr) char *url = new_url();
    CLEANUP(store_close) struct store *s = NULL;
    CLEANUP(close_fd) int one_fd = -1;
    CLEANUP(close_fd) int two_fd = -1;
    int one_status = -1, two_status = -1;
    pid_t one, two;

    prepare_pairs(url);
    one = start_child(url, 0, 150, &one_fd);
    two = start_child(url, 1000, 150, &two_fd);
    waitpid(one, &one_status, 0);
    waitpid(two, &two_status, 0);
    ok(one_status == 0 && two_status == 0, "two processes that write at once both finish");
    s = open_or_die(url);
    is_int(count_of(s, "SELECT COUNT(*) FROM child"), 600, "with all their rows");
}

static int note_event(void *user, const struct event *what)
{
    struct buf *seen = user;

    buf_printf(seen, "%s/%s/%s/%s ", what->kind, what->entity_id, what->wave ? what->wave : "-", what->data);
    return 0;
}

static void add_event(struct store *s, const char *kind, const char *wave, bool commit)
{
    struct store_tx *tx = begin_or_die(s, STORE_WRITE);
    struct event event = {.actor = "user:anna", .kind = kind, .wave = wave, .entity = "server", .entity_id = "db01"};

    is_int(event_add(tx, &event, 5, NULL), 0, "the event %s", kind);
    if (commit)
        store_commit(&tx, NULL);
    else
        store_rollback(&tx);
}

static void *add_later(void *user)
{
    clock_sleep_us(100 * US_PER_MS);
    add_event(user, "server.moved", "w2", true);
    return NULL;
}

static void events_are_read_in_order_and_wake(void)
{
    CLEANUP(store_close) struct store *s = new_store();
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(buf_release) struct buf seen;
    int64_t last, started_us;
    pthread_t thread;

    buf_init(&seen, 0);
    ok(!event_wait(s, 0, 0), "no event yet");
    add_event(s, "server.created", "w1", true);
    add_event(s, "server.lost", "w1", false);
    add_event(s, "server.updated", NULL, true);
    tx = begin_or_die(s, STORE_READ);
    is_int(event_read(tx, 0, NULL, 100, note_event, &seen, NULL), 2, "events that were committed");
    is_str(seen.data, "server.created/db01/w1/{} server.updated/db01/-/{} ", "in order");
    is_int(event_read(tx, 0, NULL, 1, note_event, &seen, NULL), 1, "at most the limit");
    is_int(event_read(tx, 0, "w1", 100, note_event, &seen, NULL), 1, "of one wave");
    last = event_last_id(tx, NULL);
    is_int(event_read(tx, last, NULL, 100, note_event, &seen, NULL), 0, "none after the last");
    store_rollback(&tx);
    ok(event_wait(s, last - 1, 0), "there is one after the one before");
    started_us = clock_monotonic_us();
    ok(!event_wait(s, last, 50), "a wait ends without an event");
    ok(clock_monotonic_us() - started_us >= 49 * US_PER_MS, "after its time");
    pthread_create(&thread, NULL, add_later, s);
    started_us = clock_monotonic_us();
    ok(event_wait(s, last, 20000), "a commit wakes the waiter");
    ok(clock_monotonic_us() - started_us < 10 * US_PER_S, "at once");
    pthread_join(thread, NULL);
}

static void migrations_run_once_and_newer_is_refused(void)
{
    CLEANUP(free_ptr) char *url = new_url();
    CLEANUP(store_close) struct store *s = open_or_die(url);
    struct store_tx *tx;
    struct err e = {0};
    int64_t count = count_of(s, "SELECT COUNT(*) FROM schema_version");

    ok(count > 0, "the schema has a version");
    is_int(store_migrate(s, &e), 0, "migrating again does nothing");
    is_int(count_of(s, "SELECT COUNT(*) FROM schema_version"), count, "to the version");
    tx = begin_or_die(s, STORE_WRITE);
    store_run(tx, NULL, "INSERT INTO schema_version (version, name, applied_at_us) VALUES (9999, 'later', 0)", "");
    store_commit(&tx, NULL);
    is_int(store_migrate(s, &e), -1, "a newer schema is refused");
    is_int(e.kind, ERR_WRONG_STATE, "with what to do: %s", e.message);
}

static void backups_are_new_files(void)
{
    CLEANUP(store_close) struct store *s = new_store();
    CLEANUP(free_ptr) char *path = xasprintf("%s/backup", folder);
    CLEANUP(free_ptr) char *part = xasprintf("%s.part", path);
    CLEANUP(store_rollback) struct store_tx *tx = begin_or_die(s, STORE_WRITE);
    struct err e = {0};

    store_run(tx, NULL, "INSERT INTO parent (name) VALUES ('open')", "");
    is_int(store_backup(s, path, &e), 0, "a backup beside an open write: %s", e.message);
    ok(file_exists(path) && !file_exists(part), "is there, and nothing beside it");
    is_int(store_backup(s, path, &e), -1, "it replaces no file");
    is_int(e.kind, ERR_CONFLICT, "and says so: %s", e.message);
    is_int(store_backup(s, "/nonexistent/folder/x", &e), -1, "a folder that is missing is told: %s", e.message);
}

int main(int argc, char **argv)
{
    CLEANUP(free_ptr) char *remove = NULL;

    MUST(mkdtemp(folder));
    prefix = argc > 1 ? argv[1] : NULL;
    values_come_back_as_they_went();
    one_int();
    failures_are_told_apart();
    reads_see_the_last_commit_and_keep_it();
    threads_write_one_after_another();
    a_kill_loses_nothing_committed();
    two_processes_write();
    events_are_read_in_order_and_wake();
    migrations_run_once_and_newer_is_refused();
    backups_are_new_files();
    remove = xasprintf("rm -rf %s", folder);
    ok(system(remove) == 0, "tidy");
    return tap_done();
}
