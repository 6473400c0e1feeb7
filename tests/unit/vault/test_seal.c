/* test_seal VAULT_READ: encryption at rest: what the disk tells, who gets in, rotation, and a vault that was begun without. */
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "tap.h"
#include "vault/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 24u

static const struct vault_key first = {{1, 1}}, second = {{2, 2}}, wrong = {{3, 3}};
static char dir[64];
static uint8_t held[CHUNKS][CHUNK];
static const char mark[] = "forty-two bytes that nothing else would say";

static struct vault *open_with(const struct vault_key *keys, size_t count, struct err *e)
{
    const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1, .keys = keys, .key_count = count};
    struct vault *v = NULL;

    return vault_open(dir, &options, &v, e) < 0 ? NULL : v;
}

/* Noise with the mark in it: it is stored as it is. */
static void fill(uint8_t *bytes, uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
    for (size_t i = 0; i < CHUNK; i += VAULT_PAGE_BYTES)
        memcpy(bytes + i + 100, mark, sizeof mark);
}

/* All chunks anew, then a page of each on top; a point. */
static bool live(struct vault *v, uint64_t seed, struct vault_point *p)
{
    struct vault_disk d;
    struct err e = {0};
    bool fine = vault_disk_open(v, "web01", "d", CHUNKS * (uint64_t)CHUNK, &d, &e) == 0;

    for (uint64_t i = 0; i < CHUNKS && fine; i++) {
        struct vault_hash hash;

        fill(held[i], seed + i);
        fine = vault_store(v, held[i], NULL, &hash, NULL, &e) == 0 && vault_map(v, &d, i, &hash, &e) == 1;
        held[i][5 * VAULT_PAGE_BYTES] ^= 1;
        fine = fine && vault_store_delta(v, &hash, 1u << 5, held[i] + 5 * VAULT_PAGE_BYTES, &hash, NULL, &e) == 1 && vault_map(v, &d, i, &hash, &e) == 1 &&
               vault_has(v, &hash, &e) == 1;
    }
    fine = fine && vault_point_commit(v, "web01", 0, "crash", 0, p, &e) == 0;
    if (!fine)
        printf("# %s\n", e.message);
    return fine;
}

static bool holds(struct vault *v, const char *point, uint64_t seed)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct vault_hash name, sha;
    struct err e = {0};
    bool same = vault_image_open(v, point, "d", &image, &e) == 0;

    for (uint64_t i = 0; i < CHUNKS && same; i++) {
        fill(wanted, seed + i);
        wanted[5 * VAULT_PAGE_BYTES] ^= 1;
        vault_hash_of(wanted, CHUNK, &sha);
        same = vault_image_read(image, bytes, CHUNK, i * CHUNK, &e) == 0 && memcmp(bytes, wanted, CHUNK) == 0 && vault_image_hash(image, i, &name, &e) == 0 &&
               vault_hash_same(&name, &sha);
    }
    if (!same)
        printf("# %s\n", e.message);
    return same;
}

/* How many files below the folder have the bytes in them. */
static int files_with(const char *below, const void *bytes, size_t size)
{
    CLEANUP(free_ptr) char *folder = xasprintf("%s/%s", dir, below);
    DIR *list = opendir(folder);
    struct dirent *entry;
    int count = 0;

    while (list && (entry = readdir(list))) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, entry->d_name);
        CLEANUP(buf_release) struct buf b = {0};

        buf_init(&b, 1 << 28);
        if (entry->d_type == DT_REG && file_read(path, 1 << 28, &b, NULL) == 0 && b.size_bytes)
            count += memmem(b.data, b.size_bytes, bytes, size) != NULL;
    }
    if (list)
        closedir(list);
    return count;
}

static void fresh(void)
{
    CLEANUP(free_ptr) char *command = xasprintf("rm -rf '%s'", dir);

    if (system(command) != 0)
        abort();
}

static char *sum_of_all(void)
{
    CLEANUP(free_ptr) char *command = xasprintf("cd '%s' && find vault.json vault.json.copy segments index/data.mdb -type f | sort | xargs sha256sum | sha256sum", dir);
    char line[128] = "";
    FILE *f = popen(command, "r");

    if (!f || !fgets(line, sizeof line, f))
        abort();
    pclose(f);
    return xstrdup(line);
}

/* Each sealed record's nonce, with its segment: none twice. */
struct nonces {
    struct hash_set seen;
    size_t count, twice;
    uint32_t segment;
};

static int see_nonce(const struct record *r, uint64_t offset, const uint8_t *payload, void *user, struct err *e)
{
    struct nonces *n = user;
    struct vault_hash hash = {0};

    (void)offset;
    (void)e;
    memcpy(hash.bytes, payload + 4, 12);
    memcpy(hash.bytes + 12, &n->segment, 4);
    n->count += r->sealed;
    n->twice += !hash_set_add(&n->seen, &hash);
    return 0;
}

static void look_at_nonces(void)
{
    CLEANUP(free_ptr) char *folder = xasprintf("%s/segments", dir);
    DIR *list = opendir(folder);
    struct nonces n = {0};
    struct dirent *entry;

    while (list && (entry = readdir(list))) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, entry->d_name);
        CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct segment_state state;

        n.segment = segment_id_of_name(entry->d_name);
        if (n.segment && segment_scan(fd, 0, see_nonce, &n, &state, NULL) < 0)
            ok(false, "%s is read", path);
    }
    if (list)
        closedir(list);
    ok(n.count > 100 && n.twice == 0, "%zu sealed records, %zu nonces twice", n.count, n.twice);
    hash_set_release(&n.seen);
}

static void what_the_disk_tells(void)
{
    struct vault_hash sha;
    struct vault_point p;
    struct err e = {0};
    struct vault *v;

    for (int sealed = 0; sealed < 2; sealed++) {
        fresh();
        v = open_with(&first, (size_t)sealed, &e);
        ok(v && live(v, 100, &p) && holds(v, p.id, 100), "a vault %s a key", sealed ? "with" : "without");
        vault_close(&v);
        vault_hash_of(held[3], CHUNK, &sha);
        if (sealed) {
            ok(files_with("segments", mark, sizeof mark) == 0 && files_with("index", mark, sizeof mark) == 0, "no file holds what the chunks hold");
            ok(files_with("segments", sha.bytes, 32) == 0 && files_with("index", sha.bytes, 32) == 0, "nor a chunk's SHA-256");
        } else {
            ok(files_with("segments", mark, sizeof mark) > 0 && files_with("segments", sha.bytes, 32) > 0 && files_with("index", sha.bytes, 32) > 0, "tells its content and names");
        }
    }
}

static void who_gets_in(void)
{
    const struct vault_key both[2] = {second, first};
    CLEANUP(free_ptr) char *before = sum_of_all(), *after = NULL;
    struct err e = {0};
    struct vault *v = open_with(NULL, 0, &e);

    ok(!v && e.kind == ERR_DENIED, "without its key it does not open: %s", e.message);
    err_clear(&e);
    v = open_with(&wrong, 1, &e);
    ok(!v && e.kind == ERR_DENIED, "nor with another: %s", e.message);
    after = sum_of_all();
    ok(strcmp(before, after) == 0, "and nothing was changed");
    err_clear(&e);
    v = open_with(both, 2, &e);
    ok(v != NULL, "one of several opens it%s%s", e.kind ? ": " : "", e.message);
    vault_close(&v);
}

static void rotation(const char *reader)
{
    struct vault_point a, b, c;
    struct vault_stat s = {0};
    struct err e = {0};
    struct vault *v;

    fresh();
    v = open_with(&first, 1, &e);
    ok(v && live(v, 100, &a) && vault_rotate(v, NULL, &e) == 0 && live(v, 200, &b), "a new data key between two points");
    vault_close(&v);
    v = open_with(&first, 1, &e);
    ok(v && holds(v, a.id, 100) && holds(v, b.id, 200), "both hold after opening again");
    ok(v && vault_stat(v, &s, &e) == 0 && s.data_keys == 2 && s.plain_bytes == 0 && s.names_hidden, "it says that it has two data keys, nothing plain, hidden names");
    ok(v && vault_rotate(v, &second, &e) == 0 && live(v, 300, &c), "another key to open it with");
    vault_close(&v);
    v = open_with(&first, 1, &e);
    ok(!v && e.kind == ERR_DENIED, "the one before does not open it any more");
    err_clear(&e);
    v = open_with(&second, 1, &e);
    ok(v && holds(v, a.id, 100) && holds(v, b.id, 200) && holds(v, c.id, 300), "the new one does, and all three points hold");
    ok(v && vault_point_drop(v, b.id, &e) == 0 && vault_compact(v, 100, false, NULL, &e) == 0 && holds(v, a.id, 100) && holds(v, c.id, 300), "also when what lives was moved%s%s",
       e.kind ? ": " : "", e.message);
    vault_close(&v);
    look_at_nonces();
    {
        const struct vault_options options = {.keys = &second, .key_count = 1};
        CLEANUP(vault_report_release) struct vault_report check = {0}, scrub = {0};
        CLEANUP(free_ptr) char *key = xasprintf("%s/key", dir), *words = NULL;
        char digits[65];

        ok(vault_rebuild(dir, &options, &e) == 0, "the index is made anew from the segments%s%s", e.kind ? ": " : "", e.message);
        v = open_with(&second, 1, &e);
        ok(v && holds(v, a.id, 100) && holds(v, c.id, 300), "and the points hold");
        ok(v && vault_check(v, &check, &e) == 0 && check.finding_count == 0 && vault_scrub(v, NULL, NULL, &scrub, &e) == 0 && scrub.finding_count == 0 && scrub.looked_at > 0,
           "check and scrub find nothing");
        vault_close(&v);
        hash_hex(second.bytes, 32, digits);
        if (file_write(key, digits, 64, 0600, &e) < 0)
            abort();
        words = xasprintf("python3 '%s' --key-file '%s' '%s' points | grep -q %s && ! python3 '%s' --key-file /dev/null '%s' points 2> /dev/null", reader, key, dir, c.id, reader, dir);
        ok(system(words) == 0, "the independent reader lists them with the key, and not without");
    }
}

static void begun_without(void)
{
    struct vault_point a, b;
    struct vault_stat s = {0};
    struct err e = {0};
    struct vault *v;

    fresh();
    v = open_with(NULL, 0, &e);
    ok(v && live(v, 100, &a), "a vault without a key");
    vault_close(&v);
    v = open_with(&first, 1, &e);
    ok(v && holds(v, a.id, 100) && live(v, 200, &b), "gone on with under one");
    ok(vault_sync(v, &e) == 0 && vault_stat(v, &s, &e) == 0 && s.data_keys == 1 && s.plain_bytes > 1 << 20 && s.plain_bytes < s.stored_bytes && !s.names_hidden,
       "it says how much is not encrypted, and that its names are not hidden");
    ok(vault_compact(v, 50, false, NULL, &e) == 0 && vault_stat(v, &s, &e) == 0 && s.plain_bytes > 0, "what lives wholly is not moved without being asked");
    ok(vault_compact(v, 0, true, NULL, &e) == 0 && vault_stat(v, &s, &e) == 0 && s.plain_bytes == 0, "and is moved when asked%s%s", e.kind ? ": " : "", e.message);
    ok(holds(v, a.id, 100) && holds(v, b.id, 200), "both points hold");
    vault_close(&v);
    ok(files_with("segments", mark, sizeof mark) == 0, "and no segment holds what the chunks hold");
    v = open_with(NULL, 0, &e);
    ok(!v && e.kind == ERR_DENIED, "it does not open without the key any more");
}

static void one_record(void)
{
    CLEANUP(seal_free) struct seal *s = NULL;
    CLEANUP(free_ptr) uint8_t *packed = NULL, *once = NULL, *twice = NULL;
    const uint8_t id[VAULT_ID_SIZE] = {9};
    struct vault_hash name;
    struct record r, changed;
    struct err e = {0};
    int64_t begun_us;
    size_t span;

    if (seal_new(id, &first, true, 1, &s, &e) < 0)
        abort();
    fill(held[0], 1);
    vault_hash_of(held[0], CHUNK, &name);
    seal_name(s, &name);
    (void)record_pack(RECORD_CHUNK, held[0], CHUNK, &name, &packed);
    span = seal_record(s, 7, packed, &once);
    ok(seal_record(s, 7, packed, &twice) == span && memcmp(once, twice, span) != 0, "sealed twice it is not the same");
    ok(record_decode(once, &r, &e) == 0 && r.sealed && record_payload_intact(&r, once + RECORD_HEADER_SIZE), "its header stands");
    changed = r;
    changed.kind = RECORD_NODE;
    memcpy(twice, once, span);
    ok(seal_open_record(s, 7, &changed, twice + RECORD_HEADER_SIZE, &e) < 0 && e.kind == ERR_CORRUPT, "with another header it does not open");
    changed = r;
    memcpy(twice, once, span);
    ok(seal_open_record(s, 8, &changed, twice + RECORD_HEADER_SIZE, &e) < 0, "nor in another segment");
    changed = r;
    memcpy(twice, once, span);
    twice[RECORD_HEADER_SIZE + 4000] ^= 1;
    ok(seal_open_record(s, 7, &changed, twice + RECORD_HEADER_SIZE, &e) < 0, "nor with a bit changed");
    ok(seal_open_record(s, 7, &r, once + RECORD_HEADER_SIZE, &e) == 0 && record_unpack(&r, once + RECORD_HEADER_SIZE, s, held[1], &e) == 0 && memcmp(held[0], held[1], CHUNK) == 0,
       "as it is it does");
    begun_us = clock_monotonic_us();
    for (int i = 0; i < 4000; i++) {
        free(once);
        (void)seal_record(s, 7, packed, &once);
    }
    printf("# sealing a whole chunk: %.2f GB/s\n", 4000.0 * CHUNK / 1000 / (double)(clock_monotonic_us() - begun_us));
}

static void lost_superblock(void)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/vault.json", dir), *copy = xasprintf("%s/vault.json.copy", dir);
    struct err e = {0};
    struct vault *v;

    unlink(copy);
    v = open_with(&first, 1, &e);
    vault_close(&v);
    ok(file_exists(copy), "a copy of vault.json that is missing is made");
    unlink(path);
    v = open_with(&first, 1, &e);
    ok(!v && e.kind == ERR_CORRUPT && strstr(e.message, "copy it back"), "without vault.json it is refused, with what to do: %s", e.message);
    err_clear(&e);
    ok(rename(copy, path) == 0 && (v = open_with(&first, 1, &e)) != NULL, "with the copy it opens%s%s", e.kind ? ": " : "", e.message);
    MUST(unlink(copy) == 0 && mkdir(copy, 0700) == 0);
    ok(vault_rotate(v, NULL, &e) < 0, "no new data key is used that only one file would know (%s)", e.message);
    MUST(rmdir(copy) == 0);
    is_int(vault_rotate(v, NULL, NULL), 0, "where both can be written, it is");
    vault_close(&v);
}

int main(int argc, char **argv)
{
    snprintf(dir, sizeof dir, "/tmp/slipway-seal.%d", (int)getpid());
    one_record();
    what_the_disk_tells();
    who_gets_in();
    rotation(argc > 1 ? argv[1] : "tools/vault_read.py");
    begun_without();
    lost_superblock();
    fresh();
    return tap_done();
}
