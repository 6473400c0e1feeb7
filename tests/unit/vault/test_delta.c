/* test_delta VAULT_READ [SEED]: chunks kept as deltas, against a model that knows what every recovery point holds: through overwriting, expiry, collection, kills,
 * a lost index and damage. VAULT_READ is the reader of the format that shares no code with us. */
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
    const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1, .cache_bytes = 1 << 20};
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
    ok(kept == 1 && stored <= 2 * PAGE + 256, "one more: %llu bytes, with both pages on the same base", (unsigned long long)stored);
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

static void step(void)
{
    uint64_t chunk = roll(CHUNKS);
    int kept = 1;

    switch (roll(8)) {
    case 0:
        noise(held[chunk], CHUNK);
        kept = put_whole(chunk);
        break;
    case 1:
        memcpy(held[chunk], held[roll(CHUNKS)], CHUNK); /* two places, one name */
        kept = put_whole(chunk);
        break;
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
    failed = vault_rebuild(dir, &e) < 0;
    ok(!failed, "the index is made anew from the segments%s%s", failed ? ": " : "", failed ? e.message : "");
    open_vault();
    all_right("with the new index");
}

static void other_reader(const char *program)
{
    CLEANUP(free_ptr) char *command = NULL;
    CLEANUP(free_ptr) uint8_t *bytes = xcalloc(1, sizeof held);
    size_t last = point_count - 1;
    FILE *out;

    command = xasprintf("python3 '%s' '%s' read %s d", program, dir, points[last].id);
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
    ok(failed && e.kind == ERR_CORRUPT && strstr(e.message, "base"), "reading the delta fails and names its base: %s", e.message);
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

int main(int argc, char **argv)
{
    CLEANUP(free_ptr) char *remove = NULL;

    dice = argc > 2 ? strtoull(argv[2], NULL, 10) * 2 + 1 : UINT64_C(0x9e3779b97f4a7c15);
    snprintf(dir, sizeof dir, "/tmp/slipway-delta.%d", (int)getpid());
    open_vault();
    costs();
    live_on();
    rebuild();
    if (argc > 1)
        other_reader(argv[1]);
    damaged_base();
    vault_close(&v);
    for (size_t i = 0; i < point_count; i++)
        free(points[i].bytes);
    remove = xasprintf("rm -rf '%s'", dir);
    if (system(remove) != 0)
        ok(false, "the folder goes");
    return tap_done();
}
