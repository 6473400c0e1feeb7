/* What memory knows of the index, and what the index must be told: disks that can't be read for a while, and the numbers of points. */
#include "small.h"

#include <errno.h>
#include <sys/wait.h>

#define CHUNKS 64
#define SEED 1000
#define READERS 2048 /* more than LMDB has room for */

static MDB_txn *held[READERS];

/* Nobody else can look into the index meanwhile. */
static void hold_readers(void)
{
    for (int i = 0; i < READERS; i++)
        if (index_begin(&v->index, false, &held[i], NULL) < 0)
            held[i] = NULL;
    MUST(!held[READERS - 1]);
}

static void let_readers_go(void)
{
    for (int i = 0; i < READERS; i++)
        index_abort(&held[i]);
}

static bool maps(uint64_t index, uint64_t seed)
{
    uint8_t bytes[CHUNK];
    struct vault_hash wanted, found;

    fill(bytes, seed);
    vault_hash_of(bytes, CHUNK, &wanted);
    return vault_map_get(v, &disk, index, &found, NULL) == 0 && vault_hash_same(&wanted, &found);
}

static void disks_unread(void)
{
    struct vault_disk *list;
    struct err e = {0};

    begin(CHUNKS, 1, SEED);
    MUST(vault_sync(v, NULL) == 0);
    hold_readers();
    is_int(vault_disk_list(v, NULL, &list, &e), -1, "the disks can't be read: %s", e.message);
    let_readers_go();
    MUST(put(7, 77) == 1);
    is_int(vault_sync(v, NULL), 0, "a sync is acknowledged");
    ok(maps(7, 77), "and what it was for is in the map");
    MUST(put(8, 88) == 1);
    hold_readers();
    (void)vault_disk_list(v, NULL, &list, NULL);
    err_clear(&e);
    is_int(vault_sync(v, &e), -1, "while they can't be read none is: %s", e.message);
    let_readers_go();
    is_int(vault_sync(v, NULL), 0, "but then");
    ok(maps(8, 88), "as whole");
    end();
}

/* Memory and the index do not agree on what disks there are. */
static void disk_unknown(void)
{
    struct err e = {0};

    begin(CHUNKS, 1, SEED);
    MUST(vault_sync(v, NULL) == 0 && put(7, 77) == 1);
    v->disk_count = 0;
    is_int(vault_sync(v, &e), -1, "a change of a disk that is not known is not acknowledged: %s", e.message);
    is_int(vault_sync(v, NULL), 0, "until it is");
    ok(maps(7, 77), "and it is there");
    MUST(put(8, 88) == 1 && vault_disk_drop(v, SERVER, "d", NULL) == 0 && put(9, 99) == 1);
    is_int(vault_sync(v, NULL), 0, "one of a disk that was dropped needs nothing");
    end();
}

/* ---- numbers of points ---- */

static int commits_fail; /* so many of those of the index that come */

int __real_mdb_txn_commit(MDB_txn *txn);
int __wrap_mdb_txn_commit(MDB_txn *txn);
int __wrap_mdb_txn_commit(MDB_txn *txn)
{
    if (commits_fail == 0)
        return __real_mdb_txn_commit(txn);
    commits_fail--;
    mdb_txn_abort(txn);
    return ENOSPC;
}

static unsigned long long number_of(const char *id) { return strtoull(strchr(id, '-') + 1, NULL, 10); }

/* Every point that is there is listed, and can be dropped. */
static void all_listed(int count)
{
    CLEANUP(free_ptr) struct vault_point *list = NULL;
    struct err e = {0};

    is_int(vault_point_list(v, SERVER, 0, &list, &e), count, "%d points are listed %s", count, e.message);
    is_int(rows(INDEX_POINT), count, "and no others are there");
}

/* The point's document becomes durable with what is written next. */
static void number_of_a_failed_one(void)
{
    struct vault_point before, after;
    struct err e = {0};

    begin(CHUNKS, 1, SEED);
    before = point();
    MUST(put(1, 7) == 1);
    commits_fail = 1;
    is_int(vault_point_commit(v, SERVER, 0, "crash", 0, NULL, &e), -1, "the index can't be written: %s", e.message);
    is_int(vault_sync(v, NULL), 0, "but then it is");
    vault_close(&v);
    open_it(CHUNKS);
    after = point();
    ok(number_of(after.id) > number_of(before.id) + 1, "the number of the point that came to nothing is not used again");
    vault_close(&v);
    err_clear(&e);
    is_int(vault_rebuild(dir, &options, &e), 0, "the index is made anew %s", e.message);
    open_it(CHUNKS);
    all_listed(3);
    end();
}

/* A process that ends in a commit: the document of a group's point does not count, and its number is used. */
static void number_of_a_killed_one(void)
{
    struct vault_point after;
    int status = -1;
    pid_t child;

    begin(CHUNKS, 1, SEED);
    vault_close(&v);
    child = fork();
    if (child == 0) {
        struct vault_group g;

        MUST(vault_open(dir, &options, &v, NULL) == 0);
        for (int i = 0; i < 3; i++)
            vault_group_begin(v, "shop", 0, &g);
        commits_fail = 1;
        _exit(vault_point_stage(v, &g, SERVER, "crash", 0, NULL, &after, NULL) == -1 ? 0 : 1);
    }
    MUST(waitpid(child, &status, 0) == child);
    is_int(status, 0, "a process ends in a commit");
    open_it(CHUNKS);
    after = point();
    is_int(number_of(after.id), 5, "the number that it used is not used again");
    all_listed(1);
    end();
}

/* Vaults in which it was: neither point hides the other. */
static void number_used_twice(void)
{
    struct vault_point one, two;

    begin(CHUNKS, 1, SEED);
    MUST(vault_point_commit(v, SERVER, INT64_C(1790000000000000), "crash", 0, &one, NULL) == 0);
    v->next_point = number_of(one.id);
    MUST(put(1, 7) == 1 && vault_point_commit(v, SERVER, INT64_C(1790000001000000), "crash", 0, &two, NULL) == 0);
    is_int(number_of(two.id), number_of(one.id), "two points of one number");
    all_listed(2);
    vault_close(&v);
    is_int(vault_rebuild(dir, &options, NULL), 0, "the index is made anew");
    open_it(CHUNKS);
    all_listed(2);
    ok(vault_point_drop(v, one.id, NULL) == 0 && vault_point_get(v, two.id, &one, NULL) == 1, "one is dropped");
    all_listed(1);
    is_int(vault_point_drop(v, two.id, NULL), 0, "and the other");
    all_listed(0);
    is_int(rows(INDEX_ORDER), 0, "nothing is left of them");
    end();
}

int main(void)
{
    number_of_a_failed_one();
    number_of_a_killed_one();
    number_used_twice();
    disks_unread();
    disk_unknown();
    return tap_done();
}
