/* test_delta [VAULT_READ VERSION_1 [SEED]]: chunks kept as their new pages, against a model that knows what every recovery point holds: through overwriting, expiry, collection, kills,
 * a lost index and damage. VAULT_READ is the reader of the format that shares no code with us, VERSION_1 a vault as an older Slipway left it.
 * With VAULT_SEALED in the environment the vault is encrypted. */
#include "base/clock.h"
#include "tap.h"
#include "vault/vault.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define PAGE VAULT_PAGE_BYTES
#define CHUNKS 48
#define POINTS 24

static const struct vault_key key = {{1, 2, 3}};
static struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1, .cache_bytes = 1 << 20, .keys = &key};
static char dir[64];
static struct vault *v;
static struct vault_disk disk;
static uint8_t held[CHUNKS][CHUNK]; /* what the disk holds */
static struct vault_hash name[CHUNKS];
static struct {
    char id[VAULT_POINT_ID_SIZE];
    uint8_t *bytes;
} points[POINTS];
static size_t point_count;
static uint64_t dice = 1;

static uint64_t roll(uint64_t below)
{
    dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
    return dice % below;
}

static void noise(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i += 8) {
        uint64_t x = roll(UINT64_MAX);

        memcpy(bytes + i, &x, 8);
    }
}

static void open_vault(void)
{
    struct err e = {0};

    if (vault_open(dir, &options, &v, &e) < 0 || vault_disk_open(v, "web01", "d", (uint64_t)CHUNKS * CHUNK, &disk, &e) < 0) {
        ok(false, "the vault opens: %s", e.message);
        exit(tap_done());
    }
}

static bool map(uint64_t chunk, const struct vault_hash *hash)
{
    name[chunk] = *hash;
    return vault_map(v, &disk, chunk, hash, NULL) == 1;
}

static bool put_whole(uint64_t chunk)
{
    struct vault_hash hash;

    return vault_store(v, held[chunk], NULL, &hash, NULL, NULL) == 0 && map(chunk, &hash);
}

/* Some pages anew: 1; what the vault says. */
static int change(uint64_t chunk, unsigned pages, uint64_t *stored)
{
    struct vault_hash hash;
    uint8_t sent[CHUNK];
    uint32_t mask = 0;
    size_t size = 0;
    int kept;

    while ((unsigned)__builtin_popcount(mask) < pages)
        mask |= 1u << roll(VAULT_CHUNK_PAGES);
    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++)
        if (mask >> i & 1) {
            noise(held[chunk] + i * PAGE, PAGE);
            memcpy(sent + size, held[chunk] + i * PAGE, PAGE);
            size += PAGE;
        }
    kept = vault_store_delta(v, &name[chunk], mask, sent, &hash, stored, NULL);
    return kept == 1 ? map(chunk, &hash) ? 1 : -1 : kept;
}

static bool commit(void)
{
    struct vault_point p;
    struct err e = {0};

    if (point_count == POINTS) {
        free(points[0].bytes);
        memmove(points, points + 1, (POINTS - 1) * sizeof *points);
        point_count--;
    }
    if (vault_point_commit(v, "web01", 0, "crash", 0, &p, &e) < 0) {
        ok(false, "a point: %s", e.message);
        return false;
    }
    memcpy(points[point_count].id, p.id, sizeof p.id);
    points[point_count].bytes = xmalloc(sizeof held);
    memcpy(points[point_count++].bytes, held, sizeof held);
    return true;
}

static bool point_holds(size_t i, struct err *e)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    CLEANUP(free_ptr) uint8_t *bytes = xmalloc(sizeof held);

    return vault_image_open(v, points[i].id, "d", &image, e) == 0 && vault_image_read(image, bytes, sizeof held, 0, e) == 0 &&
           memcmp(bytes, points[i].bytes, sizeof held) == 0;
}

/* How many of the points that are there hold what they must; the others have expired. */
static size_t points_right(size_t *there)
{
    size_t right = 0;

    *there = 0;
    for (size_t i = 0; i < point_count; i++) {
        struct vault_point p;
        struct err e = {0};

        if (vault_point_get(v, points[i].id, &p, NULL) != 1)
            continue;
        ++*there;
        if (point_holds(i, &e))
            right++;
        else
            printf("# point %zu: %s\n", i, e.kind ? e.message : "other bytes");
    }
    return right;
}

static void all_right(const char *when)
{
    CLEANUP(vault_report_release) struct vault_report check = {0}, scrub = {0};
    size_t there, right = points_right(&there);
    bool failed;

    ok(there >= 3 && right == there, "%s: %zu of %zu points hold what they must", when, right, there);
    failed = vault_check(v, &check, NULL) < 0;
    ok(!failed && check.finding_count == 0, "%s: vault check finds nothing%s%s", when, check.told_count ? ": " : "",
       check.told_count ? check.findings[0].text : "");
    failed = vault_scrub(v, NULL, NULL, &scrub, NULL) < 0;
    ok(!failed && scrub.finding_count == 0, "%s: vault scrub finds nothing%s%s", when,
       scrub.told_count ? ": " : "", scrub.told_count ? scrub.findings[0].text : "");
}

static void costs(void)
{
    uint64_t stored = 0;
    struct vault_hash hash;
    uint8_t zeros[PAGE] = {0};
    int kept;

    noise(held[0], CHUNK);
    ok(put_whole(0), "a chunk is stored");
    kept = change(0, 1, &stored);
    ok(kept == 1 && stored > PAGE && stored < PAGE + 256, "one page of it anew costs %llu bytes", (unsigned long long)stored);
    kept = change(0, 1, &stored);
    ok(kept == 1 && stored <= PAGE + 256, "one more: %llu bytes", (unsigned long long)stored);
    for (int i = 0; i < 100 && kept == 1; i++)
        kept = change(0, 1, &stored);
    ok(kept == 1 && stored > PAGE && stored <= PAGE + 1024, "the hundredth of them: %llu bytes, with the names of all that the others lie in", (unsigned long long)stored);
    kept = change(0, 12, &stored);
    ok(kept == 1 && stored > CHUNK, "many are kept whole: %llu bytes", (unsigned long long)stored);
    memset(held[1], 0, CHUNK);
    ok(vault_map_zero(v, &disk, 1, CHUNKS - 1, NULL) == 0, "zeros");
    name[1] = vault_hash_zero;
    ok(change(1, 1, &stored) == 1, "a page in a chunk of zeros");
    memset(held[2], 0, CHUNK);
    memcpy(held[2] + 3 * PAGE, held[1], PAGE);
    ok(put_whole(2) && vault_store_delta(v, &name[2], 1u << 3, zeros, &hash, &stored, NULL) == 1 && vault_hash_is_zero(&hash) && stored == 0,
       "a chunk that becomes zeros is stored nowhere");
    memset(held[2], 0, CHUNK);
    ok(map(2, &hash), "and is mapped as such");
    ok(vault_store_delta(v, &vault_hash_unknown, 1, zeros, &hash, &stored, NULL) == 0, "on a chunk that was never received nothing can lie");
    hash = name[0];
    hash.bytes[5] ^= 1;
    ok(vault_store_delta(v, &hash, 1, zeros, &hash, &stored, NULL) == 0, "nor on one that the vault has not");
}

/* A chunk becomes again what it was at an older point, wholly or in a page: its name comes back. */
static int go_back(uint64_t chunk)
{
    const uint8_t *old = points[roll(point_count)].bytes + chunk * CHUNK;
    size_t at = roll(VAULT_CHUNK_PAGES) * PAGE;
    struct vault_hash hash;
    int kept;

    if (roll(2)) {
        memcpy(held[chunk], old, CHUNK);
        return put_whole(chunk);
    }
    memcpy(held[chunk] + at, old + at, PAGE);
    kept = vault_store_delta(v, &name[chunk], 1u << at / PAGE, old + at, &hash, NULL, NULL);
    return kept == 1 ? map(chunk, &hash) ? 1 : -1 : kept;
}

static void step(void)
{
    uint64_t chunk = roll(CHUNKS);
    int kept = 1;

    switch (roll(10)) {
    case 0:
        noise(held[chunk], CHUNK);
        kept = put_whole(chunk);
        break;
    case 1:
        memcpy(held[chunk], held[roll(CHUNKS)], CHUNK); /* two places, one name */
        kept = put_whole(chunk);
        break;
    case 2:
    case 3: kept = point_count ? go_back(chunk) : 1; break;
    default: kept = change(chunk, 1 + (unsigned)roll(4), NULL);
    }
    if (kept != 1)
        ok(false, "a change of chunk %llu is taken: %d", (unsigned long long)chunk, kept);
}

static void live_on(void)
{
    const struct vault_ladder ladder = {.keep_last = 6};
    uint64_t freed = 0, freed_all = 0;
    bool fine = true;

    for (uint64_t i = 0; i < CHUNKS; i++)
        fine = fine && put_whole(i);
    for (int round = 0; round < 40 && fine; round++) {
        for (int i = 0; i < 60; i++)
            step();
        fine = commit();
        if (round % 5 == 4) {
            fine = fine && vault_expire(v, "web01", &ladder, NULL) >= 0 && vault_gc(v, &freed, NULL) == 0;
            freed_all += freed;
        }
        if (round % 10 == 9) {
            vault_close(&v);
            open_vault();
        }
    }
    ok(fine && freed_all > 0, "2,400 changes, 40 points, expiry and collection between: %llu KiB given back", (unsigned long long)(freed_all >> 10));
    all_right("after that");
}

static void rebuild(void)
{
    struct err e = {0};
    bool failed;

    vault_close(&v);
    failed = vault_rebuild(dir, &options, &e) < 0;
    ok(!failed, "the index is made anew from the segments%s%s", failed ? ": " : "", failed ? e.message : "");
    open_vault();
    all_right("with the new index");
}

/* The option for the reader: the key in a file; the caller frees. */
static char *key_option(void)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/key", dir);
    FILE *f = fopen(path, "w");

    for (size_t i = 0; f && i < sizeof key.bytes; i++)
        fprintf(f, "%02x", key.bytes[i]);
    if (!f || fclose(f) != 0)
        abort();
    return xasprintf("--key-file '%s'", path);
}

static void other_reader(const char *program)
{
    CLEANUP(free_ptr) char *command = NULL, *option = options.key_count ? key_option() : xstrdup("");
    CLEANUP(free_ptr) uint8_t *bytes = xcalloc(1, sizeof held);
    size_t last = point_count - 1;
    FILE *out;

    command = xasprintf("python3 '%s' %s '%s' read %s d", program, option, dir, points[last].id);
    vault_close(&v);
    out = popen(command, "r");
    ok(out && fread(bytes, 1, sizeof held, out) == sizeof held && memcmp(bytes, points[last].bytes, sizeof held) == 0,
       "the independent reader reads the same from the segments");
    if (out)
        pclose(out);
    open_vault();
}

/* Flips a byte in the payload of the record with that name: where its header lies in one of the segments. */
static bool damage(const struct vault_hash *hash)
{
    CLEANUP(free_ptr) char *folder = xasprintf("%s/segments", dir);
    bool done_it = false;
    struct dirent *entry;
    DIR *list = opendir(folder);

    while (list && (entry = readdir(list))) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, entry->d_name);
        CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CLOEXEC);
        struct stat st;
        uint8_t head[64], byte;

        for (off_t at = 64; fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && at + 64 < st.st_size; at += 8) {
            if (pread(fd, head, sizeof head, at) != sizeof head || memcmp(head, "SREC", 4) != 0 || memcmp(head + 16, hash->bytes, 32) != 0)
                continue;
            if (pread(fd, &byte, 1, at + 70) != 1)
                abort();
            byte ^= 0x40;
            done_it = pwrite(fd, &byte, 1, at + 70) == 1;
        }
    }
    if (list)
        closedir(list);
    return done_it;
}

static void damaged_base(void)
{
    CLEANUP(vault_report_release) struct vault_report scrub = {0};
    struct vault_hash base;
    struct err e = {0};
    size_t last;
    bool failed;
    uint8_t page[PAGE], whole[CHUNK];

    for (uint64_t i = 0; i < CHUNKS; i++) /* the new index knows of no working map */
        put_whole(i);
    noise(held[7], CHUNK);
    memcpy(whole, held[7], CHUNK);
    ok(put_whole(7), "a chunk");
    base = name[7];
    ok(change(7, 1, NULL) == 1 && commit(), "a delta on it, in a point");
    last = point_count - 1;
    vault_close(&v);
    ok(damage(&base), "the base is damaged on the disk");
    open_vault();
    failed = !point_holds(last, &e);
    ok(failed && e.kind == ERR_CORRUPT && strstr(e.message, "a part of chunk"), "reading what lies on it fails and names it: %s", e.message);
    err_clear(&e);
    ok(vault_point_usable(v, points[last].id, &e) < 0 && e.kind == ERR_CORRUPT, "the point is not to be used");
    ok(vault_has(v, &name[7], NULL) == 0, "the delta counts as absent, too");
    failed = vault_scrub(v, NULL, NULL, &scrub, NULL) < 0;
    ok(!failed && scrub.finding_count >= 2, "scrub names what is damaged and the points: %zu findings",
       (size_t)scrub.finding_count);
    noise(page, PAGE);
    ok(vault_store_delta(v, &name[7], 1, page, &base, NULL, NULL) == 0, "nothing new may lie on it");
    ok(vault_store(v, whole, NULL, &base, NULL, NULL) == 0, "the base comes again");
    err_clear(&e);
    failed = vault_sync(v, NULL) < 0 || vault_point_usable(v, points[last].id, &e) < 0 || !point_holds(last, &e);
    ok(!failed, "and the point holds again%s%s", failed ? ": " : "", failed ? e.message : "");
}

static bool put_page(uint64_t chunk, unsigned page)
{
    struct vault_hash hash;

    return vault_store_delta(v, &name[chunk], 1u << page, held[chunk] + page * PAGE, &hash, NULL, NULL) == 1 && map(chunk, &hash);
}

/* A chunk of which only what others need is left comes again: as a change of another chunk, and what needs it must not lose by that. */
static void comes_back(void)
{
    CLEANUP(free_ptr) uint8_t *left = xmalloc(CHUNK);
    struct vault_hash left_name;
    struct err e = {0};
    bool fine;

    noise(held[20], CHUNK);
    fine = put_whole(20);
    noise(held[20] + 3 * PAGE, PAGE);
    fine = fine && put_page(20, 3);
    memcpy(left, held[20], CHUNK);
    left_name = name[20];
    noise(held[20] + 5 * PAGE, PAGE);
    fine = fine && put_page(20, 5) && commit() && vault_compact(v, 100, false, NULL, &e) == 0;
    ok(fine && vault_has(v, &left_name, NULL) == 0, "of a chunk that nothing names only what others need is left%s%s", e.kind ? ": " : "", e.message);
    memcpy(held[21], left, CHUNK);
    noise(held[21] + 9 * PAGE, PAGE);
    fine = put_whole(21);
    memcpy(held[21] + 9 * PAGE, left + 9 * PAGE, PAGE);
    fine = fine && put_page(21, 9) && vault_hash_same(&name[21], &left_name) && commit() && vault_compact(v, 100, false, NULL, &e) == 0;
    ok(fine && point_holds(point_count - 1, &e) && point_holds(point_count - 2, &e), "it comes again, and both hold%s%s", e.kind ? ": " : "", e.message);
    vault_close(&v);
    fine = vault_rebuild(dir, &options, &e) == 0;
    open_vault();
    ok(fine && point_holds(point_count - 1, &e) && point_holds(point_count - 2, &e), "and with a new index%s%s", e.kind ? ": " : "", e.message);
}

/* Byte i of page p of chunk c of VERSION_1: its three points; the newest has pages 3 and 6 of chunks 0 and 1 anew. */
static void old_chunk(size_t chunk, int point, uint8_t *bytes)
{
    memset(bytes, 0, CHUNK);
    for (size_t p = 0; chunk < 3 && p < VAULT_CHUNK_PAGES; p++)
        for (size_t i = 0; i < PAGE; i++)
            bytes[p * PAGE + i] = (uint8_t)(chunk * 64 + p * 4 + (i >> 8) + (chunk < 2 && p == 3 && point >= 1 ? 1 : chunk < 2 && p == 6 && point == 2 ? 2 : 0));
}

static bool old_points_hold(void)
{
    static const char *const ids[] = {"20260921T141320000Z-1-cb3d", "20260921T141325000Z-2-cb3d", "20260921T141330000Z-3-cb3d"};
    uint8_t bytes[CHUNK], wanted[CHUNK];

    for (int point = 0; point < 3; point++)
        for (size_t chunk = 0; chunk < 4; chunk++) {
            CLEANUP(vault_image_free) struct vault_image *image = NULL;

            old_chunk(chunk, point, wanted);
            if (vault_image_open(v, ids[point], "d", &image, NULL) < 0 || vault_image_read(image, bytes, CHUNK, chunk * CHUNK, NULL) < 0 ||
                memcmp(bytes, wanted, CHUNK) != 0)
                return false;
        }
    return true;
}

static void version_1(const char *archive)
{
    CLEANUP(free_ptr) char *unpack = xasprintf("rm -rf '%s' && mkdir '%s' && tar -xzf '%s' -C '%s' --strip-components=1", dir, dir, archive, dir);
    uint8_t bytes[CHUNK];
    struct vault_hash hash;
    struct err e = {0};

    for (int rebuilt = 0; rebuilt < 2; rebuilt++) {
        if (system(unpack) != 0 || (rebuilt && vault_rebuild(dir, NULL, &e) < 0) || vault_open(dir, NULL, &v, &e) < 0) {
            ok(false, "a vault of version 1 opens: %s", e.message);
            return;
        }
        ok(old_points_hold(), "a vault of version 1 reads, %s", rebuilt ? "from its segments alone" : "with its index");
        if (vault_disk_open(v, "web01", "d", 4 * CHUNK, &disk, &e) < 0)
            abort();
        for (size_t i = 0; i < 3; i++) {
            old_chunk(i, 2, bytes);
            if (vault_store(v, bytes, NULL, &hash, NULL, &e) < 0 || vault_map(v, &disk, i, &hash, &e) != 1)
                abort();
            memset(bytes + 5 * PAGE, 7, PAGE);
            ok(vault_store_delta(v, &hash, 1u << 5, bytes + 5 * PAGE, &hash, NULL, &e) == 1 && vault_map(v, &disk, i, &hash, &e) == 1, "a page on what it held");
        }
        ok(vault_map_zero(v, &disk, 3, 1, &e) == 0 && vault_point_commit(v, "web01", 0, "crash", 0, NULL, &e) == 0 && vault_gc(v, NULL, &e) == 0 && old_points_hold(),
           "it is gone on with, and the old points hold%s%s", e.kind ? ": " : "", e.message);
        vault_close(&v);
    }
}

int main(int argc, char **argv)
{
    CLEANUP(free_ptr) char *remove = NULL;

    dice = argc > 3 ? strtoull(argv[3], NULL, 10) * 2 + 1 : UINT64_C(0x9e3779b97f4a7c15);
    options.key_count = getenv("VAULT_SEALED") != NULL;
    snprintf(dir, sizeof dir, "/tmp/slipway-delta.%d", (int)getpid());
    open_vault();
    costs();
    live_on();
    comes_back();
    rebuild();
    if (argc > 1)
        other_reader(argv[1]);
    if (!options.key_count) /* it looks for a name in the segments */
        damaged_base();
    vault_close(&v);
    if (argc > 2)
        version_1(argv[2]);
    for (size_t i = 0; i < point_count; i++)
        free(points[i].bytes);
    remove = xasprintf("rm -rf '%s'", dir);
    if (system(remove) != 0)
        ok(false, "the folder goes");
    return tap_done();
}
