/* A vault whose disk is full: refused by name, nothing corrupt, goes on when there is room. Needs root for a small tmpfs of its own. */
#include "base/clock.h"
#include "mounts.h"
#include "tap.h"
#include "vault/vault.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES

static char dir[64];

static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i + 8 <= CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

static int put(struct vault *v, const struct vault_disk *d, uint64_t index, uint64_t seed, struct err *e)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    fill(bytes, seed);
    return vault_store(v, bytes, NULL, &hash, NULL, e) < 0 || vault_map(v, d, index, &hash, e) != 1 ? -1 : 0;
}

static bool holds(struct vault *v, const char *point, uint64_t count, uint64_t seed)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    bool same = vault_image_open(v, point, "d", &image, NULL) == 0;

    for (uint64_t i = 0; i < count && same; i++) {
        fill(wanted, seed + i);
        same = vault_image_read(image, bytes, CHUNK, i * CHUNK, NULL) == 0 && memcmp(bytes, wanted, CHUNK) == 0;
    }
    return same;
}

static struct vault *open_vault(uint64_t guard_bytes)
{
    const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = guard_bytes};
    struct vault *v = NULL;
    struct err e = {0};

    ok(vault_open(dir, &options, &v, &e) == 0, "the vault opens: %s", e.message);
    return v;
}

static int write_filler(const char *name, size_t leave_bytes)
{
    char path[96], block[4096] = {1};
    size_t written = 0;
    int fd;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while (write(fd, block, sizeof block) == sizeof block)
        written += sizeof block;
    if (ftruncate(fd, (off_t)(written > leave_bytes ? written - leave_bytes : 0)) < 0)
        abort();
    close(fd);
    return 0;
}

static void remove_filler(const char *name)
{
    char path[96];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
}

/* Not one block is left: the index has pages of its own to write to, the file of pins has none. */
static void unpinned_full(struct vault *v, const char *point)
{
    struct err e = {0};

    write_filler("rest", 0);
    is_int(vault_point_unpin(v, point, "kept", &e), -1, "a pin ends on a full disk, and the file of pins can't be written");
    ok(e.kind == ERR_NO_SPACE && strstr(e.message, "the pin has ended"), "which is said: %s", e.message);
    is_int(vault_point_pinned(v, point, "kept", NULL), 0, "ended it has");
    remove_filler("rest");
    err_clear(&e);
    is_int(vault_point_unpin(v, point, "kept", &e), 0, "asked again, with room for the file, it is done: %s", e.message);
}

static void guarded(void)
{
    CLEANUP(vault_close) struct vault *v = open_vault(UINT64_C(1) << 50);
    struct vault_disk d;
    struct err e = {0};

    is_int(vault_disk_open(v, "guard", "d", CHUNK, &d, &e), 0, "a disk: %s", e.message);
    is_int(put(v, &d, 0, 1, &e), -1, "below the guard nothing is stored");
    is_int(e.kind, ERR_NO_SPACE, "and it says why: %s", e.message);
    is_int(vault_map_zero(v, &d, 0, 1, &e), 0, "zeros cost nothing");
}

/* Below the guard nothing comes in; what makes room still goes. */
static void room_is_made(void)
{
    struct vault *v = open_vault(1);
    struct vault_point first, p;
    struct vault_disk d;
    struct err e = {0};
    uint64_t freed = 0;

    vault_disk_open(v, "room", "d", 64 * (uint64_t)CHUNK, &d, &e);
    for (uint64_t round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < 64; i++)
            put(v, &d, i, 20000 + (round && i % 4 ? 1000 : 0) + i, &e);
        vault_point_commit(v, "room", 0, "crash", 0, round ? &p : &first, &e);
    }
    vault_close(&v);
    v = open_vault(UINT64_C(1) << 50);
    is_int(vault_disk_open(v, "room", "d", 64 * (uint64_t)CHUNK, &d, &e), 0, "the disk opens");
    is_int(put(v, &d, 0, 1, &e), -1, "nothing comes in");
    is_int(vault_point_drop(v, first.id, &e), 0, "a point can be dropped: %s", e.message);
    is_int(vault_gc(v, &freed, &e), 0, "and its space comes back: %s", e.message);
    ok(freed > 0, "%llu bytes", (unsigned long long)freed);
    {
        CLEANUP(vault_report_release) struct vault_report report = {0};

        is_int(vault_check(v, &report, &e), 0, "check");
        is_int(report.finding_count, 0, "finds nothing");
    }
    is_int(vault_server_drop(v, "room", &e), 0, "a server can be dropped: %s", e.message);
    vault_close(&v);
}

/* Fills up for real, with no guard to speak of. */
static void full(void)
{
    struct vault *v = open_vault(1);
    struct vault_point first, p;
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct vault_disk d;
    struct err e = {0};
    uint64_t stored = 0;

    vault_disk_open(v, "s", "d", 512 * (uint64_t)CHUNK, &d, &e);
    vault_map_zero(v, &d, 0, 512, &e);
    for (uint64_t i = 0; i < 64; i++)
        put(v, &d, i, 1000 + i, &e);
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &first, &e), 0, "a point: %s", e.message);
    is_int(vault_point_pin(v, first.id, "kept", &e), 0, "which is pinned: %s", e.message);
    write_filler("filler", 3 << 20);
    for (; stored < 448 && put(v, &d, 64 + stored, 5000 + stored, &e) == 0; stored++)
        ;
    ok(stored > 0 && stored < 448 && e.kind == ERR_NO_SPACE, "after %llu chunks it is full: %s", (unsigned long long)stored, e.message);
    err_clear(&e);
    if (vault_sync(v, &e) < 0)
        is_int(e.kind, ERR_NO_SPACE, "a sync says so, too: %s", e.message);
    err_clear(&e);
    if (vault_point_commit(v, "s", 0, "crash", 0, &p, &e) < 0)
        is_int(e.kind, ERR_NO_SPACE, "and a point: %s", e.message);
    ok(holds(v, first.id, 64, 1000), "what was there reads well");
    unpinned_full(v, first.id);
    vault_close(&v);
    v = open_vault(1);
    ok(holds(v, first.id, 64, 1000), "also after opening again, still full");
    remove_filler("filler");
    is_int(vault_disk_open(v, "s", "d", 512 * (uint64_t)CHUNK, &d, &e), 0, "with room the disk opens");
    for (uint64_t i = 0; i < 128; i++)
        put(v, &d, i, 9000 + i, &e);
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &p, &e), 0, "with room it goes on: %s", e.message);
    ok(holds(v, p.id, 128, 9000) && holds(v, first.id, 64, 1000), "and both points read well");
    is_int(vault_check(v, &report, &e), 0, "check");
    is_int(report.finding_count, 0, "finds nothing");
    vault_close(&v);
}

/* A limit that cuts a record in the middle. */
static void torn(void)
{
    struct rlimit old, low = {.rlim_cur = 700000, .rlim_max = RLIM_INFINITY};
    struct vault *v = open_vault(1);
    struct vault_point p;
    struct vault_disk d;
    struct err e = {0};
    uint64_t stored = 0;

    vault_disk_open(v, "torn", "d", 64 * (uint64_t)CHUNK, &d, &e);
    vault_map_zero(v, &d, 0, 64, &e);
    vault_sync(v, &e);
    getrlimit(RLIMIT_FSIZE, &old);
    setrlimit(RLIMIT_FSIZE, &low);
    for (; stored < 64 && put(v, &d, stored, 100 + stored, &e) == 0; stored++)
        ;
    setrlimit(RLIMIT_FSIZE, &old);
    ok(stored < 64 && e.kind != ERR_NONE, "an append that was cut fails: %s", e.message);
    for (; stored < 64; stored++)
        put(v, &d, stored, 100 + stored, &e);
    is_int(vault_point_commit(v, "torn", 0, "crash", 0, &p, &e), 0, "and goes on after: %s", e.message);
    vault_close(&v);
    v = open_vault(1);
    ok(holds(v, p.id, 64, 100), "nothing of the torn piece is left");
    vault_close(&v);
}

int main(void)
{
    if (geteuid() != 0 || mounts_of_our_own("") < 0) {
        printf("1..0 # SKIP needs root for a small file system of its own\n");
        return 0;
    }
    signal(SIGXFSZ, SIG_IGN);
    snprintf(dir, sizeof dir, "/tmp/vault-space.XXXXXX");
    if (!mkdtemp(dir) || mount("tmpfs", dir, "tmpfs", 0, "size=40m") < 0)
        abort();
    guarded();
    room_is_made();
    full();
    torn();
    umount(dir);
    rmdir(dir);
    return tap_done();
}
