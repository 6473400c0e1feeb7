/* What memory knows of the index, and what the index must be told: disks that can't be read for a while, and the numbers of points. */
#include "small.h"

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

int main(void)
{
    disks_unread();
    disk_unknown();
    return tap_done();
}
