/* The vault from outside: chunks, maps, points, space, damage, resume. */
#include "base/file.h"
#include "tap.h"
#include "vault/vault.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define SMALL_SEGMENTS (512u << 10)

static char dir[64];
static int64_t fake_now_us = INT64_C(1790000000) * US_PER_S;
static int64_t fake_now(void *user) { (void)user; return fake_now_us; }
static const struct clock fake_clock = {fake_now, NULL};
static const struct vault_options options = {.scrub_threads = 3, .segment_bytes = SMALL_SEGMENTS, .guard_bytes = 1 << 20, .clock = &fake_clock};

static void fresh_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/vault-test.XXXXXX");
    if (!mkdtemp(dir))
        abort();
}

static void remove_dir(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command) != 0)
        abort();
}

static int stop_at_once(uint64_t done, uint64_t total, void *user)
{
    (void)done;
    (void)total;
    (void)user;
    return 1;
}

static struct vault *open_vault(void)
{
    struct vault *v = NULL;
    struct err e = {0};

    if (!ok(vault_open(dir, &options, &v, &e) == 0, "the vault opens"))
        printf("# %s\n", e.message);
    return v;
}

/* A chunk's content by seed: 0 is zeros, even ones compress well, odd ones do not. */
static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    memset(bytes, 0, CHUNK);
    for (size_t i = 0; seed && i + 8 <= CHUNK; i += seed % 2 ? 8 : 512) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

static int put(struct vault *v, const struct vault_disk *d, uint64_t index, uint64_t seed, struct err *e)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    fill(bytes, seed);
    if (vault_store(v, bytes, NULL, &hash, NULL, e) < 0)
        return -1;
    return vault_map(v, d, index, &hash, e) == 1 ? 0 : -1;
}

static bool image_holds(struct vault *v, const char *point, const char *disk, uint64_t index, uint64_t seed)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct err e = {0};
    uint64_t size = CHUNK;

    fill(wanted, seed);
    if (vault_image_open(v, point, disk, &image, &e) < 0)
        return false;
    if (index * CHUNK + size > vault_image_size(image))
        size = vault_image_size(image) - index * CHUNK;
    if (vault_image_read(image, bytes, size, index * CHUNK, &e) < 0) {
        printf("# %s\n", e.message);
        return false;
    }
    return memcmp(bytes, wanted, size) == 0;
}

static void chunks_maps_and_points(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    struct vault_disk d, d2;
    struct vault_point p, p2;
    struct vault_stat st;
    struct err e = {0};
    uint64_t stored = 1;
    uint8_t bytes[CHUNK];

    fresh_dir();
    v = open_vault();
    is_int(vault_disk_open(v, "web01", "vda", 300 * (uint64_t)CHUNK + 4096, &d, &e), 0, "a disk");
    is_int(d.chunk_count, 301, "its last chunk is short");
    is_int(vault_point_commit(v, "web01", 0, "crash", 0, &p, &e), -1, "no point while chunks were never received");
    is_int(e.kind, ERR_WRONG_STATE, "and it says why: %s", e.message);
    is_int(vault_map_zero(v, &d, 0, 301, &e), 0, "all zero");
    is_int(put(v, &d, 0, 1, &e), 0, "incompressible");
    is_int(put(v, &d, 7, 2, &e), 0, "compressible");
    is_int(put(v, &d, 300, 4, &e), 0, "the last");
    fill(bytes, 1);
    is_int(vault_store(v, bytes, NULL, NULL, &stored, &e), 0, "the same again");
    is_int(stored, 0, "costs nothing");
    is_int(vault_store(v, bytes, &vault_hash_unknown, NULL, NULL, &e), -1, "bytes that are not what was offered are refused");
    is_int(e.kind, ERR_CORRUPT, "as corrupt");
    is_int(vault_point_commit(v, "web01", 0, "crash", 3, &p, &e), 0, "a point: %s", e.message);
    is_int(p.bytes, 2 * CHUNK + 4096, "its bytes are what differs from zeros");
    ok(image_holds(v, p.id, "vda", 0, 1) && image_holds(v, p.id, "vda", 7, 2) && image_holds(v, p.id, "vda", 300, 4) &&
       image_holds(v, p.id, "vda", 299, 0), "it reads back");

    is_int(put(v, &d, 7, 9, &e), 0, "a change");
    is_int(vault_point_commit(v, "web01", 0, "frozen", 40, &p2, &e), 0, "a second point");
    is_int(p2.bytes, CHUNK, "differs by one chunk");
    ok(image_holds(v, p.id, "vda", 7, 2) && image_holds(v, p2.id, "vda", 7, 9), "both hold their own");
    is_int(vault_disk_open(v, "db01", "vda", 64 * (uint64_t)CHUNK, &d2, &e), 0, "another server's disk");
    is_int(vault_map_zero(v, &d2, 0, 64, &e), 0, "zeros");
    is_int(vault_stat(v, &st, &e), 0, "figures");
    is_int(st.chunk_count, 4, "four distinct chunks");
    is_int(st.point_count, 2, "two points");
    is_int(st.disk_count, 2, "two disks");
    {
        struct vault_point *list = NULL;
        int count = vault_point_list(v, "web01", 0, &list, &e);

        is_int(count, 2, "two listed");
        ok(count == 2 && strcmp(list[0].id, p2.id) == 0 && strcmp(list[0].consistency, "frozen") == 0, "newest first");
        free(list);
    }
    is_int(vault_map(v, &d, 301, &vault_hash_zero, &e), -1, "outside the disk");
    is_int(vault_map(v, &d, 3, &p.disks[0].root, &e), 0, "a name that is no chunk's is not there");
    vault_close(&v);
    v = open_vault();
    ok(image_holds(v, p.id, "vda", 0, 1) && image_holds(v, p2.id, "vda", 7, 9), "after opening again, too");
    vault_close(&v);
    is_int(vault_rebuild(dir, NULL, &e), 0, "the index can be made anew: %s", e.message);
    v = open_vault();
    ok(image_holds(v, p.id, "vda", 7, 2) && image_holds(v, p2.id, "vda", 7, 9) && image_holds(v, p2.id, "vda", 300, 4),
       "with the same points");
    remove_dir();
}

static void extents_skip_zeros(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    struct vault_disk d;
    struct vault_point p;
    struct err e = {0};
    uint64_t length = 0;
    bool zero = false;

    fresh_dir();
    v = open_vault();
    /* 1.5 TiB: only zeros but two chunks */
    is_int(vault_disk_open(v, "big", "vda", UINT64_C(3) << 39, &d, &e), 0, "a large disk");
    is_int(vault_map_zero(v, &d, 0, d.chunk_count, &e), 0, "of zeros");
    is_int(put(v, &d, 70000, 3, &e), 0, "but one");
    is_int(put(v, &d, d.chunk_count - 1, 5, &e), 0, "and the last");
    is_int(vault_point_commit(v, "big", 0, "crash", 0, &p, &e), 0, "a point");
    is_int(vault_image_open(v, p.id, "vda", &image, &e), 0, "opens");
    is_int(vault_image_extent(image, 12345, UINT64_MAX, &length, &zero, &e), 0, "extent");
    ok(zero && length == 70000 * (uint64_t)CHUNK - 12345, "zero up to the chunk");
    is_int(vault_image_extent(image, 70000 * (uint64_t)CHUNK, UINT64_MAX, &length, &zero, &e), 0, "extent");
    ok(!zero && length == CHUNK, "the chunk");
    is_int(vault_image_extent(image, 70001 * (uint64_t)CHUNK, UINT64_MAX, &length, &zero, &e), 0, "extent");
    ok(zero && length == (d.chunk_count - 70002) * CHUNK, "zero up to the last");
    is_int(vault_image_extent(image, (d.chunk_count - 1) * CHUNK, UINT64_MAX, &length, &zero, &e), 0, "extent");
    ok(!zero && length == CHUNK, "the last");
    remove_dir();
}

static void resizing(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    struct vault_disk d;
    struct vault_point p;
    struct err e = {0};

    fresh_dir();
    v = open_vault();
    is_int(vault_disk_open(v, "s", "d", 100 * (uint64_t)CHUNK + 512, &d, &e), 0, "a disk");
    for (uint64_t i = 0; i < 101; i++)
        put(v, &d, i, i + 1, &e);
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &p, &e), 0, "a point");
    is_int(vault_disk_open(v, "s", "d", 5000 * (uint64_t)CHUNK, &d, &e), 0, "grown");
    is_int(d.known_count, 100, "all but the old last, which was cut, are known");
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &p, &e), -1, "no point before the rest came");
    vault_map_zero(v, &d, 101, 4899, &e);
    put(v, &d, 100, 777, &e);
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &p, &e), 0, "a point of the grown disk");
    ok(image_holds(v, p.id, "d", 0, 1) && image_holds(v, p.id, "d", 99, 100) && image_holds(v, p.id, "d", 100, 777) &&
       image_holds(v, p.id, "d", 4999, 0), "it holds all");
    is_int(vault_disk_open(v, "s", "d", 80 * (uint64_t)CHUNK, &d, &e), 0, "shrunk");
    is_int(d.known_count, 80, "what is left is known");
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &p, &e), 0, "a point of the shrunk disk");
    ok(image_holds(v, p.id, "d", 79, 80), "it holds the rest");
    remove_dir();
}

static void feeds_and_resume(void)
{
    struct vault *v;
    struct vault_feed feed = {.epoch = "e1", .applied = 41}, got;
    struct vault_hash hashes[4];
    struct vault_disk d;
    struct err e = {0};

    fresh_dir();
    v = open_vault();
    is_int(vault_feed_get(v, "s", &got, &e), 0, "no feed yet");
    vault_disk_open(v, "s", "d", 4 * (uint64_t)CHUNK, &d, &e);
    put(v, &d, 1, 11, &e);
    is_int(vault_feed_set(v, "s", &feed, &e), 0, "a feed");
    is_int(vault_sync(v, &e), 0, "synced");
    vault_close(&v);
    v = open_vault();
    ok(vault_feed_get(v, "s", &got, &e) == 1 && strcmp(got.epoch, "e1") == 0 && got.applied == 41, "is there after opening again");
    is_int(vault_disk_open(v, "s", "d", 4 * (uint64_t)CHUNK, &d, &e), 0, "the disk again");
    is_int(d.known_count, 1, "knows one chunk");
    is_int(vault_disk_read(v, &d, 0, 4, hashes, &e), 0, "the map");
    ok(vault_hash_is_unknown(&hashes[0]) && !vault_hash_is_unknown(&hashes[1]), "says which");
    is_int(vault_server_drop(v, "s", &e), 0, "dropped");
    is_int(vault_feed_get(v, "s", &got, &e), 0, "with its feed");
    vault_close(&v);
    remove_dir();
}

static uint64_t segment_bytes(void)
{
    char path[128];
    uint64_t total = 0;
    struct dirent *entry;
    struct stat st;
    DIR *listing;

    snprintf(path, sizeof path, "%s/segments", dir);
    listing = opendir(path);
    while (listing && (entry = readdir(listing)))
        if (fstatat(dirfd(listing), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            total += (uint64_t)st.st_size;
    if (listing)
        closedir(listing);
    return total;
}

static void space_comes_back(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    struct vault_disk d;
    struct vault_point first, p, keep;
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct err e = {0};
    uint64_t before, freed = 0;

    fresh_dir();
    v = open_vault();
    vault_disk_open(v, "s", "d", 64 * (uint64_t)CHUNK, &d, &e);
    for (int round = 0; round < 6; round++) {
        for (uint64_t i = 0; i < 64; i++)
            put(v, &d, i, 1 + 2 * (i + 100 * (uint64_t)round * (i % 8 != 0)), &e);
        fake_now_us += 1000;
        vault_point_commit(v, "s", 0, "crash", 0, round == 0 ? &first : round == 3 ? &keep : &p, &e);
    }
    before = segment_bytes();
    is_int(vault_gc(v, &freed, &e), 0, "nothing to give back: %s", e.message);
    is_int(freed, 0, "while all is used");
    is_int(vault_point_pin(v, keep.id, "export", &e), 0, "a pin");
    is_int(vault_point_drop(v, keep.id, &e), -1, "a pinned point is not dropped");
    is_int(vault_server_drop(v, "s", &e), -1, "nor its server");
    is_int(e.kind, ERR_WRONG_STATE, "and says so: %s", e.message);
    fake_now_us += 4 * 86400 * US_PER_S;
    {
        struct vault_ladder ladder = vault_ladder_default;

        ladder.keep_last = 1;
        is_int(vault_expire(v, "s", &ladder, &e), 4, "four of six expire: the pinned and the newest stay");
    }
    is_int(vault_gc(v, &freed, &e), 0, "space: %s", e.message);
    ok(freed > 0 && segment_bytes() < before * 2 / 3, "comes back (%llu of %llu)", (unsigned long long)segment_bytes(),
       (unsigned long long)before);
    ok(image_holds(v, keep.id, "d", 8, 17) && image_holds(v, keep.id, "d", 9, 1 + 2 * 309) && image_holds(v, p.id, "d", 9, 1 + 2 * 509),
       "what stays reads well");
    is_int(vault_check(v, &report, &e), 0, "check");
    is_int(report.finding_count, 0, "finds nothing: %s", report.finding_count ? report.findings[0].text : "");
    is_int(vault_point_get(v, first.id, &first, &e), 0, "the first point is gone");
    is_int(put(v, &d, 5, 1001, &e), 0, "writing goes on");
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &p, &e), 0, "and points");
    ok(image_holds(v, p.id, "d", 5, 1001) && image_holds(v, p.id, "d", 6, 1 + 2 * 506), "hold all");
    vault_close(&v);
    is_int(vault_rebuild(dir, NULL, &e), 0, "a rebuild");
    v = open_vault();
    is_int(vault_point_get(v, first.id, &first, &e), 0, "brings no dropped point back");
    is_int(vault_point_get(v, keep.id, &keep, &e), 1, "and loses none");
    ok(image_holds(v, keep.id, "d", 9, 1 + 2 * 309), "which reads well");
    remove_dir();
}

static void ladder_thins(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    struct vault_disk d;
    struct err e = {0};
    struct vault_point *list = NULL;
    int count;

    fresh_dir();
    v = open_vault();
    vault_disk_open(v, "s", "d", CHUNK, &d, &e);
    for (int i = 0; i < 400; i++) {
        fake_now_us += 30 * US_PER_S;
        put(v, &d, 0, (uint64_t)i + 1, &e);
        vault_point_commit(v, "s", 0, "crash", 0, NULL, &e);
        if (i % 50 == 49)
            ok(vault_expire(v, "s", &vault_ladder_default, &e) >= 0, "expiry while it goes on");
    }
    count = vault_point_list(v, "s", 0, &list, &e);
    /* 200 minutes: 20 in the last 10 minutes, one a minute for the other 50, one an hour for the 2 hours before. */
    ok(count >= 70 && count <= 78, "%d of 400 points stay", count);
    ok(count > 0 && fake_now_us - list[0].at_us < US_PER_S, "the newest among them");
    free(list);
    remove_dir();
}

/* Flips one bit of the stored bytes of the chunk: looks for its record by name. */
static bool flip_chunk(const struct vault_hash *hash)
{
    CLEANUP(buf_release) struct buf b = {0};
    char path[160];
    bool flipped = false;

    buf_init(&b, 0);
    for (int id = 1; id < 40 && !flipped; id++) {
        uint8_t *found;

        snprintf(path, sizeof path, "%s/segments/%010d.seg", dir, id);
        buf_release(&b);
        buf_init(&b, 0);
        if (file_read(path, 64 << 20, &b, NULL) < 0)
            continue;
        found = memmem(b.data, b.size_bytes, hash->bytes, VAULT_HASH_SIZE);
        if (found) {
            int fd = open(path, O_WRONLY);
            uint8_t byte = found[48 + 10] ^ 4; /* the header has 48 bytes from the hash on, then the payload */

            flipped = pwrite(fd, &byte, 1, (char *)found - b.data + 48 + 10) == 1;
            close(fd);
        }
    }
    return flipped;
}

static void damage_is_named(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct vault_hash hash;
    struct vault_disk d;
    struct vault_point p;
    struct err e = {0};
    uint8_t bytes[CHUNK];

    fresh_dir();
    v = open_vault();
    vault_disk_open(v, "s", "d", 40 * (uint64_t)CHUNK, &d, &e);
    for (uint64_t i = 0; i < 40; i++)
        put(v, &d, i, 2 * i + 1, &e);
    vault_point_commit(v, "s", 0, "crash", 0, &p, &e);
    is_int(vault_verify_point(v, p.id, NULL, NULL, &report, &e), 0, "verified");
    is_int(report.finding_count, 0, "whole");
    fill(bytes, 2 * 20 + 1);
    vault_hash_of(bytes, CHUNK, &hash);
    ok(flip_chunk(&hash), "a bit flips");
    is_int(vault_image_open(v, p.id, "d", &image, &e), 0, "the point opens");
    is_int(vault_image_read(image, bytes, CHUNK, 19 * (uint64_t)CHUNK, &e), 0, "other chunks read");
    is_int(vault_image_read(image, bytes, CHUNK, 20 * (uint64_t)CHUNK, &e), -1, "this one does not");
    is_int(e.kind, ERR_CORRUPT, "as corrupt");
    ok(strstr(e.message, p.id) && strstr(e.message, "disk d"), "by name: %s", e.message);
    is_int(vault_verify_point(v, p.id, NULL, NULL, &report, &e), 0, "verified");
    is_int(report.finding_count, 1, "one finding: %s", report.findings[0].text);
    is_int(vault_point_usable(v, p.id, &e), -1, "not to be launched: %s", e.message);
    is_int(vault_scrub(v, NULL, NULL, &report, &e), 0, "scrubbed");
    is_int(report.finding_count, 2, "the chunk and the point that uses it: %s", report.findings[1].text);
    is_int(vault_check(v, &report, &e), 0, "check reads no chunk");
    ok(report.finding_count == 1 && strstr(report.findings[0].text, p.id), "and knows what was found: %s", report.findings[0].text);
    is_int(vault_has(v, &hash, &e), 0, "a damaged chunk counts as absent");
    vault_close(&v);
    v = open_vault();
    is_int(vault_has(v, &hash, &e), 0, "after opening again, too");
    fill(bytes, 2 * 20 + 1);
    is_int(vault_store(v, bytes, &hash, NULL, NULL, &e), 0, "it is sent again");
    is_int(vault_sync(v, &e), 0, "synced");
    is_int(vault_point_usable(v, p.id, &e), 0, "and the point is whole again");
    ok(image_holds(v, p.id, "d", 20, 41), "and reads well");
    is_int(vault_scrub(v, NULL, NULL, &report, &e), 0, "scrubbed");
    is_int(report.finding_count, 0, "nothing is left");
    remove_dir();
}

static bool flip_seed(uint64_t seed)
{
    struct vault_hash hash;
    uint8_t bytes[CHUNK];

    fill(bytes, seed);
    vault_hash_of(bytes, CHUNK, &hash);
    return flip_chunk(&hash);
}

/* What was found damaged leaves the maps: a chunk is wanted again, a map's node is made again. */
static void damage_is_repaired(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(vault_report_release) struct vault_report report = {0};
    CLEANUP(free_ptr) char *servers = NULL, *none = NULL;
    struct vault_hash name;
    struct vault_disk d;
    struct vault_point p, next;
    struct err e = {0};

    fresh_dir();
    v = open_vault();
    vault_disk_open(v, "s", "d", 300 * (uint64_t)CHUNK, &d, &e);
    vault_map_zero(v, &d, 0, 300, &e);
    for (uint64_t i = 0; i < 300; i += 10)
        put(v, &d, i, 2 * i + 1, &e);
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &p, &e), 0, "a point");
    is_int(vault_forget_damaged(v, &none, &e), 0, "without damage nothing is forgotten");
    ok(vault_scrub(v, stop_at_once, NULL, &report, &e) < 0 && e.kind == ERR_CANCELLED, "a scrub that is stopped is not one that found nothing");
    err_clear(&e);
    ok(flip_seed(2 * 20 + 1) && vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 2, "a chunk is damaged, and found");
    is_int(vault_forget_damaged(v, &servers, &e), 1, "its place is forgotten: %s", e.message);
    ok(servers && strcmp(servers, "s\n") == 0, "and its server named");
    ok(vault_map_get(v, &d, 20, &name, &e) == 0 && vault_hash_is_unknown(&name) && vault_disk_open(v, "s", "d", d.size_bytes, &d, &e) == 0 && d.known_count == 299,
       "it is unknown, and counted so");
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &next, &e), -1, "no point is made over it: %s", e.message);
    is_int(vault_forget_damaged(v, NULL, &e), 0, "nothing more is to be done");
    ok(put(v, &d, 20, 2 * 20 + 1, &e) == 0 && vault_point_commit(v, "s", 0, "crash", 0, &next, &e) == 0, "it comes again, and a point is made");
    ok(vault_point_usable(v, p.id, &e) == 0 && image_holds(v, p.id, "d", 20, 41) && image_holds(v, next.id, "d", 20, 41), "both points hold");
    vault_close(&v);
    ok(flip_chunk(&p.disks[0].root), "the root of the map is damaged");
    v = open_vault();
    err_clear(&e);
    ok(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 3 && vault_point_usable(v, p.id, NULL) < 0, "which is found, and the points are not to be used");
    is_int(vault_forget_damaged(v, NULL, &e), 1, "the map is to be made again: %s", e.message);
    is_int(vault_disk_open(v, "s", "d", 300 * (uint64_t)CHUNK, &d, &e), 0, "the disk");
    is_int((long long)d.known_count, 300, "everything is known");
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &next, &e), 0, "the next point makes it: %s", e.message);
    ok(vault_hash_same(&next.disks[0].root, &p.disks[0].root), "the same map");
    ok(vault_point_usable(v, p.id, &e) == 0 && image_holds(v, p.id, "d", 20, 41) && image_holds(v, next.id, "d", 290, 581), "and all points hold");
    ok(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0, "scrub finds nothing any more");
    remove_dir();
}

/* 64 chunks fill segments; all but every eighth are replaced, and the point of before is dropped: the segments are sparse. */
static void make_sparse(struct vault *v, struct vault_disk *d, struct vault_point *p)
{
    struct vault_point before;
    struct err e = {0};

    vault_disk_open(v, "s", "d", 64 * (uint64_t)CHUNK, d, &e);
    for (uint64_t i = 0; i < 64; i++)
        put(v, d, i, 1 + 2 * i, &e);
    is_int(vault_point_commit(v, "s", 0, "crash", 0, &before, &e), 0, "a point: %s", e.message);
    fake_now_us += 1000;
    for (uint64_t i = 0; i < 64; i++)
        if (i % 8)
            put(v, d, i, 1 + 2 * (100 + i), &e);
    is_int(vault_point_commit(v, "s", 0, "crash", 0, p, &e), 0, "another one: %s", e.message);
    is_int(vault_point_drop(v, before.id, &e), 0, "the first is dropped: %s", e.message);
}

/* Damage among the dead keeps no space; damage among the living keeps its own segment and no other. */
static void damage_keeps_no_space(void)
{
    uint64_t sound = 0, freed = 0;
    struct vault_point p;
    struct vault_disk d;
    struct err e = {0};

    for (int damage = 0; damage < 3; damage++) {
        CLEANUP(vault_close) struct vault *v = NULL;
        bool whole = true;

        fresh_dir();
        v = open_vault();
        make_sparse(v, &d, &p);
        ok(damage == 0 || flip_seed(1 + 2 * (damage == 1 ? 14 : 8)), "%s", damage ? damage == 1 ? "a dead chunk is damaged, and a living one lies behind it" : "a living one is" : "no damage");
        is_int(vault_gc(v, &freed, &e), 0, "space: %s", e.message);
        if (damage == 0)
            sound = freed;
        else if (damage == 1)
            is_int(freed, sound, "as much comes back as without damage");
        else
            ok(freed > sound / 2 && freed < sound, "all but its segment comes back (%llu of %llu)", (unsigned long long)freed, (unsigned long long)sound);
        for (uint64_t i = 0; i < 64; i++)
            whole &= (damage == 2 && i == 8) || image_holds(v, p.id, "d", i, 1 + 2 * (i % 8 ? 100 + i : i));
        ok(whole, "what lives reads well");
        is_int(vault_point_usable(v, p.id, &e), damage == 2 ? -1 : 0, "and the damage is known only where something needs it");
        is_int(vault_gc(v, &freed, &e), 0, "again: %s", e.message);
        is_int(freed, 0, "gives nothing: it does not copy round and round");
        remove_dir();
    }
}

/* Two points have a map's node in common, and below it a chunk is damaged: a scrub names both, an index that is made anew has neither, but has the third, which does without. */
static void damage_below_a_common_node(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct vault_point points[3];
    struct vault_disk d;
    struct err e = {0};

    fresh_dir();
    v = open_vault();
    vault_disk_open(v, "s", "d", 300 * (uint64_t)CHUNK, &d, &e);
    for (uint64_t i = 0; i < 300; i++)
        put(v, &d, i, 2 * i + 1, &e);
    for (uint64_t n = 0; n < 3; n++) {
        put(v, &d, n < 2 ? 290 : 20, 1001 + 2 * n, &e);
        is_int(vault_point_commit(v, "s", 0, "crash", 0, &points[n], &e), 0, "a point: %s", e.message);
    }
    ok(flip_seed(41), "a chunk of two of three points is damaged");
    ok(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 3 && strstr(report.findings[1].text, points[0].id) && strstr(report.findings[2].text, points[1].id),
       "a scrub names it, and both");
    vault_close(&v);
    is_int(vault_rebuild(dir, NULL, &e), 0, "a rebuild: %s", e.message);
    v = open_vault();
    ok(vault_point_get(v, points[0].id, &points[0], &e) == 0 && vault_point_get(v, points[1].id, &points[1], &e) == 0, "brings neither of the two back");
    ok(vault_point_get(v, points[2].id, &points[2], &e) == 1 && image_holds(v, points[2].id, "d", 20, 1005) && image_holds(v, points[2].id, "d", 21, 43), "and the third, which is whole");
    remove_dir();
}

static void one_process_only(void)
{
    struct vault *v, *other = NULL;
    struct err e = {0};

    fresh_dir();
    v = open_vault();
    is_int(vault_open(dir, &options, &other, &e), -1, "a second opener is held off");
    is_int(e.kind, ERR_CONFLICT, "%s", e.message);
    vault_close(&v);
    remove_dir();
}

int main(void)
{
    chunks_maps_and_points();
    extents_skip_zeros();
    resizing();
    feeds_and_resume();
    space_comes_back();
    ladder_thins();
    damage_is_named();
    damage_is_repaired();
    damage_keeps_no_space();
    damage_below_a_common_node();
    one_process_only();
    return tap_done();
}
