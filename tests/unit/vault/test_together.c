/* Points that wait for the index's one writer are committed together: one commit for all of them, and what is wrong with one is wrong with none of the others. */
#include "base/clock.h"
#include "tap.h"
#include "vault/internal.h"

#include <stdlib.h>
#include <unistd.h>

#define SERVERS 12
#define UNFINISHED 7 /* whose disk lacks a chunk */
#define CHUNKS 40

static struct vault *v;
static char dir[64];

struct one {
    pthread_t thread;
    char server[16];
    int result;
    struct vault_point point;
    struct err e;
};

static void fill(uint8_t bytes[static VAULT_CHUNK_BYTES], int server, uint64_t round, uint64_t chunk)
{
    uint64_t x = (round * 1000 + (uint64_t)server * 100 + chunk) * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < VAULT_CHUNK_BYTES; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

static void write_round(int server, const char *name, uint64_t round, uint64_t count)
{
    uint8_t bytes[VAULT_CHUNK_BYTES];
    struct vault_hash hash;
    struct vault_disk d;

    MUST(vault_disk_open(v, name, "d", (uint64_t)CHUNKS * VAULT_CHUNK_BYTES, &d, NULL) == 0);
    for (uint64_t c = 0; c < count; c++) {
        fill(bytes, server, round, c);
        vault_hash_of(bytes, sizeof bytes, &hash);
        MUST(vault_store(v, bytes, &hash, NULL, NULL, NULL) == 0 && vault_map(v, &d, c, &hash, NULL) == 1);
    }
}

static bool reads_as(const struct vault_point *p, int server, uint64_t round, uint64_t newer_count)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[VAULT_CHUNK_BYTES], wanted[VAULT_CHUNK_BYTES];

    if (vault_image_open(v, p->id, "d", &image, NULL) < 0)
        return false;
    for (uint64_t c = 0; c < CHUNKS; c++) {
        fill(wanted, server, c < newer_count ? round : 0, c);
        if (vault_image_read(image, bytes, sizeof bytes, c * VAULT_CHUNK_BYTES, NULL) < 0 || memcmp(bytes, wanted, sizeof bytes) != 0)
            return false;
    }
    return true;
}

static void *commit(void *user)
{
    struct one *o = user;

    o->result = vault_point_commit(v, o->server, 0, "crash", 0, &o->point, &o->e);
    return NULL;
}

static size_t waiting(void)
{
    size_t count = 0;

    pthread_mutex_lock(&v->append_lock);
    for (const struct committing *c = v->committing; c; c = c->next)
        count++;
    pthread_mutex_unlock(&v->append_lock);
    return count;
}

static size_t commits(void)
{
    MDB_envinfo info;

    MUST(mdb_env_info(v->index.env, &info) == 0);
    return info.me_last_txnid;
}

/* All of them while somebody else has the index: how many commits it took. */
static size_t commit_all(struct one *all, size_t count)
{
    size_t before;

    pthread_mutex_lock(&v->commit_lock);
    for (size_t i = 0; i < count; i++) {
        MUST(pthread_create(&all[i].thread, NULL, commit, &all[i]) == 0);
        while (waiting() <= i)
            usleep(1000);
    }
    before = commits();
    pthread_mutex_unlock(&v->commit_lock);
    for (size_t i = 0; i < count; i++)
        pthread_join(all[i].thread, NULL);
    return commits() - before;
}

static void open_vault(void)
{
    const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1 << 20};
    struct err e = {0};

    if (vault_open(dir, &options, &v, &e) < 0)
        printf("# %s\n", e.message);
    MUST(v);
}

static void test_servers(void)
{
    struct one all[SERVERS] = {0};
    size_t count;
    bool fine = true;

    for (int i = 0; i < SERVERS; i++) {
        snprintf(all[i].server, sizeof all[i].server, "s%d", i);
        write_round(i, all[i].server, 0, i == UNFINISHED ? CHUNKS - 1 : CHUNKS);
    }
    count = commit_all(all, SERVERS);
    is_int(count, 1, "the points of %d servers that waited are one commit", SERVERS - 1);
    for (int i = 0; i < SERVERS; i++)
        fine &= i == UNFINISHED || (all[i].result == 0 && reads_as(&all[i].point, i, 0, CHUNKS));
    ok(fine, "each is there, and is its own server's");
    ok(all[UNFINISHED].result < 0 && all[UNFINISHED].e.kind == ERR_WRONG_STATE && strstr(all[UNFINISHED].e.message, "s7") && strstr(all[UNFINISHED].e.message, "1 of 40"),
       "the one that lacks a chunk is refused by name: %s", all[UNFINISHED].e.message);
    for (int i = 0; i < SERVERS; i++)
        write_round(i, all[i].server, 1, i == UNFINISHED ? CHUNKS : 5);
    count = commit_all(all, SERVERS);
    fine = true;
    for (int i = 0; i < SERVERS; i++)
        fine &= all[i].result == 0 && reads_as(&all[i].point, i, 1, i == UNFINISHED ? CHUNKS : 5);
    ok(count == 1 && fine, "so are the next ones, that one's, too");
    vault_close(&v);
    open_vault();
    fine = true;
    for (int i = 0; i < SERVERS; i++)
        fine &= reads_as(&all[i].point, i, 1, i == UNFINISHED ? CHUNKS : 5);
    ok(fine, "and all are there after the vault was closed and opened");
}

/* Nobody commits a server's points side by side, but the vault must not rely on it. */
static void test_one_server(void)
{
    struct one all[3] = {0};
    size_t count;
    bool fine = true;

    for (int i = 0; i < 3; i++)
        snprintf(all[i].server, sizeof all[i].server, "s0");
    write_round(0, "s0", 2, 9);
    count = commit_all(all, 3);
    for (int i = 0; i < 3; i++)
        fine &= all[i].result == 0 && reads_as(&all[i].point, 0, 2, 9);
    ok(count == 3 && fine && strcmp(all[0].point.id, all[1].point.id) != 0 && strcmp(all[1].point.id, all[2].point.id) != 0,
       "three points of one server come one after the other (%zu commits)", count);
}

/* ---- many leaves ---- */

#define LEAVES 1100
#define KINDS 64 /* of chunks */

static size_t nodes, stored_held; /* map nodes that were stored; while all others waited */

int __real_record_add(struct vault *w, enum record_kind kind, const void *raw, size_t raw_size, const struct vault_hash *hash, uint64_t *stored_bytes, struct err *e);
int __wrap_record_add(struct vault *w, enum record_kind kind, const void *raw, size_t raw_size, const struct vault_hash *hash, uint64_t *stored_bytes, struct err *e);
int __wrap_record_add(struct vault *w, enum record_kind kind, const void *raw, size_t raw_size, const struct vault_hash *hash, uint64_t *stored_bytes, struct err *e)
{
    struct chunk_place place;
    bool held = pthread_mutex_trylock(&w->commit_lock) != 0;

    if (!held)
        pthread_mutex_unlock(&w->commit_lock);
    pthread_mutex_lock(&w->append_lock);
    nodes += kind == RECORD_NODE;
    stored_held += held && kind == RECORD_NODE && place_find(w, hash, &place, NULL) == 0;
    pthread_mutex_unlock(&w->append_lock);
    return __real_record_add(w, kind, raw, raw_size, hash, stored_bytes, e);
}

static size_t rows_written; /* of working maps */

int __real_index_put(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, MDB_val value, struct err *e);
int __wrap_index_put(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, MDB_val value, struct err *e);
int __wrap_index_put(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val key, MDB_val value, struct err *e)
{
    rows_written += t == INDEX_WORK;
    return __real_index_put(x, txn, t, key, value, e);
}

static struct vault_hash kinds[KINDS];

static size_t kind_at(uint64_t chunk) { return (size_t)((chunk + 1) * UINT64_C(0x9e3779b97f4a7c15) >> 40) % KINDS; }

static void map_all(const struct vault_disk *d, uint64_t but)
{
    for (uint64_t c = 0; c < d->chunk_count; c++)
        if (c != but)
            MUST(vault_map(v, d, c, &kinds[kind_at(c)], NULL) == 1);
}

static bool maps_as(const struct vault_point *p, uint64_t chunk_count)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    struct vault_hash hash;

    if (vault_image_open(v, p->id, "d", &image, NULL) < 0)
        return false;
    for (uint64_t c = 0; c < chunk_count; c++)
        if (vault_image_hash(image, c, &hash, NULL) < 0 || !vault_hash_same(&hash, &kinds[kind_at(c)]))
            return false;
    return true;
}

/* A disk's first point: most of its tree is stored before the others wait. */
static void test_many_leaves(void)
{
    const uint64_t chunk_count = LEAVES * TREE_FANOUT - 7, lacking = 5 * TREE_FANOUT + 3;
    uint8_t bytes[VAULT_CHUNK_BYTES];
    struct vault_point p = {0};
    struct vault_disk d;
    struct err e = {0};

    for (size_t i = 0; i < KINDS; i++) {
        fill(bytes, 50, 99, i);
        MUST(vault_store(v, bytes, NULL, &kinds[i], NULL, NULL) == 0);
    }
    MUST(vault_disk_open(v, "large", "d", chunk_count * VAULT_CHUNK_BYTES, &d, NULL) == 0);
    map_all(&d, lacking);
    MUST(vault_sync(v, NULL) == 0);
    nodes = 0;
    ok(vault_point_commit(v, "large", 0, "crash", 0, &p, &e) < 0 && e.kind == ERR_WRONG_STATE, "a large disk that lacks a chunk: %s", e.message);
    is_int(nodes, 0, "for which nothing is stored");
    MUST(vault_map(v, &d, lacking, &kinds[kind_at(lacking)], NULL) == 1); /* pending when the point is asked for */
    stored_held = 0;
    err_clear(&e);
    ok(vault_point_commit(v, "large", 0, "crash", 0, &p, &e) == 0 && maps_as(&p, chunk_count), "its first point %s", e.message);
    ok(stored_held <= LEAVES / TREE_FANOUT + 2, "%zu map nodes of %d were stored while all others waited", stored_held, LEAVES);
    rows_written = 0;
    MUST(vault_disk_open(v, "large", "d", (chunk_count + 100) * VAULT_CHUNK_BYTES, &d, NULL) == 0);
    is_int(rows_written, 0, "and none of its map is written again when it grows");
    for (uint64_t c = chunk_count; c < d.chunk_count; c++)
        MUST(vault_map(v, &d, c, &kinds[kind_at(c)], NULL) == 1);
    ok(vault_point_commit(v, "large", 0, "crash", 0, &p, &e) == 0 && maps_as(&p, d.chunk_count), "which it has in its next point, whole %s", e.message);
    rows_written = 0;
    MUST(vault_disk_open(v, "large", "d", (chunk_count - 1) * VAULT_CHUNK_BYTES, &d, NULL) == 0);
    ok(rows_written == 1 && vault_point_commit(v, "large", 0, "crash", 0, &p, &e) == 0 && maps_as(&p, d.chunk_count), "and cut, too: %zu row is written %s", rows_written, e.message);
}

static void *sync_it(void *user)
{
    *(int *)user = vault_sync(v, NULL);
    return NULL;
}

/* Whoever only wants what is pending on the disk takes the points along. */
static void test_with_sync(void)
{
    struct one all[2] = {{.server = "s1"}, {.server = "s2"}};
    pthread_t syncs[3];
    int synced[3] = {-1, -1, -1};
    size_t before, count;

    write_round(1, "s1", 3, CHUNKS);
    write_round(2, "s2", 3, CHUNKS);
    pthread_mutex_lock(&v->commit_lock);
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&syncs[i], NULL, sync_it, &synced[i]) == 0);
    for (size_t i = 0; i < 2; i++) {
        MUST(pthread_create(&all[i].thread, NULL, commit, &all[i]) == 0);
        while (waiting() <= i)
            usleep(1000);
    }
    before = commits();
    pthread_mutex_unlock(&v->commit_lock);
    for (int i = 0; i < 3; i++)
        pthread_join(syncs[i], NULL);
    for (size_t i = 0; i < 2; i++)
        pthread_join(all[i].thread, NULL);
    count = commits() - before;
    ok(count == 1 && !synced[0] && !synced[1] && !synced[2], "three syncs and two points that waited are one commit (%zu)", count);
    ok(all[0].result == 0 && all[1].result == 0 && reads_as(&all[0].point, 1, 3, CHUNKS) && reads_as(&all[1].point, 2, 3, CHUNKS), "and the points are there");
}

static void test_none(void)
{
    struct one all[2] = {{.server = "x1"}, {.server = "x2"}};

    commit_all(all, 2);
    ok(all[0].result < 0 && all[1].result < 0 && strstr(all[0].e.message, "x1") && strstr(all[1].e.message, "x2") && all[0].e.kind == ERR_WRONG_STATE,
       "where none can be, each hears why: %s", all[1].e.message);
}

int main(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    char command[128];

    snprintf(dir, sizeof dir, "/tmp/vault-together.XXXXXX");
    MUST(mkdtemp(dir));
    open_vault();
    test_servers();
    test_one_server();
    test_with_sync();
    test_many_leaves();
    test_none();
    ok(vault_sync(v, NULL) == 0, "a sync after points that came to nothing is one");
    ok(vault_check(v, &report, NULL) == 0 && report.finding_count == 0, "the vault is sound");
    vault_close(&v);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ok(system(command) == 0, "cleared");
    return tap_done();
}
