/* Damage that is found while the index is being written: by a commit that builds on a damaged node, and by the repair of maps. It is said, remembered, and healed. */
#include "base/file.h"
#include "tap.h"
#include "vault/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 300 /* a root and five leaves */
#define STEP 10    /* between chunks that are no zeros */
#define HANGS_S 120 /* a thread that waits for itself would wait for ever */

static char dir[64];
static struct vault *v;
static struct vault_disk disk;

static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

static void put(uint64_t index, uint64_t seed)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    fill(bytes, seed);
    MUST(vault_store(v, bytes, NULL, &hash, NULL, NULL) == 0 && vault_map(v, &disk, index, &hash, NULL) == 1);
}

static void open_it(void)
{
    static const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1, .cache_bytes = CHUNK};
    struct err e = {0};

    ok(vault_open(dir, &options, &v, &e) == 0 && vault_disk_open(v, "web01", "d", CHUNKS * (uint64_t)CHUNK, &disk, &e) == 0, "the vault opens %s", e.message);
}

/* A vault with one point, closed. */
static void begin(void)
{
    snprintf(dir, sizeof dir, "/tmp/vault-damage.XXXXXX");
    MUST(mkdtemp(dir));
    open_it();
    MUST(vault_map_zero(v, &disk, 0, CHUNKS, NULL) == 0);
    for (uint64_t i = 0; i < CHUNKS; i += STEP)
        put(i, 1000 + i);
    MUST(vault_point_commit(v, "web01", 0, "crash", 0, NULL, NULL) == 0);
    vault_close(&v);
}

static void end(void)
{
    char command[96];

    vault_close(&v);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    MUST(system(command) == 0);
}

struct damaging {
    int fd;
    enum record_kind kind;
    int first, count; /* of that kind */
};

static int damage_record(const struct record *r, uint64_t offset, const uint8_t *payload, void *user, struct err *e)
{
    struct damaging *d = user;
    uint8_t byte = payload[6] ^ 0x55;

    if (r->kind != d->kind || d->first-- > 0 || d->count-- <= 0)
        return 0;
    return fd_pwrite_all(d->fd, &byte, 1, (int64_t)offset + RECORD_HEADER_SIZE + 6, e);
}

static void damage(enum record_kind kind, int first, int count)
{
    for (uint32_t id = 1; id < 100; id++) {
        char folder[80];
        CLEANUP(free_ptr) char *path = NULL;
        CLEANUP(close_fd) int fd = -1;
        struct segment_state state;
        struct damaging d = {.kind = kind, .first = first, .count = count};

        snprintf(folder, sizeof folder, "%s/segments", dir);
        path = segment_path(folder, id);
        d.fd = fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            continue;
        (void)segment_scan(fd, 0, damage_record, &d, &state, NULL);
        first = d.first;
        count = d.count;
    }
    ok(count <= 0 || count > 1000, "records are damaged");
}

static uint64_t rows(void)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    uint64_t count = 0;

    MUST(index_begin(&v->index, false, &txn, NULL) == 0 && index_count(&v->index, txn, INDEX_BAD, &count, NULL) == 0);
    return count;
}

static void found_by_a_commit(void)
{
    struct err e = {0};
    uint64_t remembered;

    begin();
    damage(RECORD_NODE, 0, 100000);
    open_it();
    put(5, 77);
    is_int(vault_point_commit(v, "web01", 0, "crash", 0, NULL, &e), -1, "no point is built on a damaged node");
    is_int(e.kind, ERR_CORRUPT, "and it says why: %s", e.message);
    remembered = rows();
    ok(remembered >= 1, "what was found is in the index");
    vault_close(&v);
    open_it();
    is_int(rows(), remembered, "and stays there");
    err_clear(&e);
    ok(vault_forget_damaged(v, NULL, &e) > 0, "the tree is made again from the map %s", e.message);
    put(5, 77); /* a vault that closes has synced it; here it is the same again */
    is_int(vault_point_commit(v, "web01", 0, "crash", 0, NULL, &e), 0, "and the next point is there: %s", e.message);
    end();
}

/* A chunk is known to be damaged, so that maps are repaired; a node is found by that. */
static void found_by_a_repair(void)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;
    struct err e = {0};

    begin();
    damage(RECORD_CHUNK, 3, 1);
    damage(RECORD_NODE, 0, 100000);
    open_it();
    for (uint64_t i = 0; i < CHUNKS; i += STEP) {
        fill(bytes, 1000 + i);
        vault_hash_of(bytes, CHUNK, &hash);
        (void)record_get(v, &hash, bytes, CHUNK, NULL);
    }
    is_int(rows(), 1, "a chunk is known to be damaged");
    is_int(vault_forget_damaged(v, NULL, &e), 2, "its place is forgotten, and the tree is made again: %s", e.message);
    ok(rows() >= 2, "the node that was found by that is in the index");
    put(3 * STEP, 1000 + 3 * STEP);
    is_int(vault_point_commit(v, "web01", 0, "crash", 0, NULL, &e), 0, "with the chunk the next point is there: %s", e.message);
    end();
}

/* The index can't be written for a while: what was found then is written later. */
static void written_later(void)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct vault_hash name = {{1, 2, 3}};
    struct err e = {0};

    begin();
    open_it();
    MUST(index_begin(&v->index, true, &txn, NULL) == 0);
    chunk_mark_bad(v, &name);
    index_abort(&txn);
    is_int(rows(), 0, "found while a transaction is open: not written with it");
    is_int(vault_sync(v, &e), 0, "a sync with nothing else to write: %s", e.message);
    is_int(rows(), 1, "writes it");
    end();
}

int main(void)
{
    alarm(HANGS_S);
    found_by_a_commit();
    found_by_a_repair();
    written_later();
    return tap_done();
}
