/* What small changes at random places cost: stored bytes for each byte changed while all points are kept, maps and documents included; and what is left
 * when the points have expired and their space was collected. Every point is compared with what the disk held. */
#include "base/clock.h"
#include "tap.h"
#include "vault/vault.h"

#include <sys/stat.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define PAGE VAULT_PAGE_BYTES
#define CHUNKS 256u
#define CHANGES 97u /* between two points: as many for each chunk as 5,000 a second every 5 s on 4 GiB */

static char dir[64];
static struct vault *v;
static struct vault_disk disk;
static uint32_t version[CHUNKS * VAULT_CHUNK_PAGES]; /* what each page holds */
static struct vault_hash name[CHUNKS];
static uint64_t dice = 88172645463325252u;

static uint64_t roll(uint64_t below)
{
    dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
    return dice % below;
}

/* A page's content: it does not compress. */
static void fill_page(uint8_t *bytes, size_t page, uint32_t number)
{
    uint64_t x = (page + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)number * UINT64_C(0xc2b2ae3d27d4eb4f);

    for (size_t i = 0; i < PAGE; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

static void fill_chunk(uint8_t *bytes, size_t chunk, const uint32_t *versions)
{
    for (size_t i = 0; i < VAULT_CHUNK_PAGES; i++)
        fill_page(bytes + i * PAGE, chunk * VAULT_CHUNK_PAGES + i, versions[chunk * VAULT_CHUNK_PAGES + i]);
}

static bool fill_disk(void)
{
    uint8_t bytes[CHUNK];

    for (size_t i = 0; i < CHUNKS; i++) {
        fill_chunk(bytes, i, version);
        if (vault_store(v, bytes, NULL, &name[i], NULL, NULL) < 0 || vault_map(v, &disk, i, &name[i], NULL) != 1)
            return false;
    }
    return true;
}

/* What changed since the last look goes chunk by chunk, as an agent sends it. */
static bool send_changes(const uint32_t *masks, uint64_t *stored)
{
    uint8_t pages[CHUNK];

    for (size_t chunk = 0; chunk < CHUNKS; chunk++) {
        uint64_t took = 0;
        size_t size = 0;

        for (size_t i = 0; i < VAULT_CHUNK_PAGES; i++)
            if (masks[chunk] >> i & 1) {
                fill_page(pages + size, chunk * VAULT_CHUNK_PAGES + i, version[chunk * VAULT_CHUNK_PAGES + i]);
                size += PAGE;
            }
        if (size && (vault_store_delta(v, &name[chunk], masks[chunk], pages, &name[chunk], &took, NULL) != 1 ||
                     vault_map(v, &disk, chunk, &name[chunk], NULL) != 1))
            return false;
        *stored += took;
    }
    return true;
}

static uint64_t stored_bytes(void)
{
    struct vault_stat s = {0};

    return vault_sync(v, NULL) == 0 && vault_stat(v, &s, NULL) == 0 ? s.stored_bytes : 0;
}

static bool holds(const char *point, const uint32_t *versions)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct err e = {0};

    if (vault_image_open(v, point, "d", &image, &e) < 0)
        return false;
    for (size_t i = 0; i < CHUNKS; i++) {
        fill_chunk(wanted, i, versions);
        if (vault_image_read(image, bytes, CHUNK, i * CHUNK, &e) < 0 || memcmp(bytes, wanted, CHUNK) != 0) {
            printf("# chunk %zu: %s\n", i, e.kind ? e.message : "other bytes");
            return false;
        }
    }
    return true;
}

struct kept {
    char id[VAULT_POINT_ID_SIZE];
    uint32_t version[CHUNKS * VAULT_CHUNK_PAGES];
};

static bool whole(const struct kept *kept, size_t count)
{
    CLEANUP(vault_report_release) struct vault_report check = {0}, scrub = {0};
    bool fine = vault_check(v, &check, NULL) == 0 && check.finding_count == 0 && vault_scrub(v, NULL, NULL, &scrub, NULL) == 0 && scrub.finding_count == 0;

    if (check.told_count || scrub.told_count)
        printf("# %s\n", check.told_count ? check.findings[0].text : scrub.findings[0].text);
    for (size_t i = 0; i < count && fine; i++)
        fine = holds(kept[i].id, kept[i].version);
    return fine;
}

/* So many points with changes between them: stored for each byte changed, in hundredths. */
static unsigned live(size_t points, struct kept *kept)
{
    uint64_t before = stored_bytes(), chunks = 0, changed = 0;
    int64_t begun_us = clock_monotonic_us();

    for (size_t at = 0; at < points; at++) {
        uint32_t masks[CHUNKS] = {0};
        struct vault_point p;

        for (size_t i = 0; i < CHANGES; i++) {
            size_t page = roll(CHUNKS * VAULT_CHUNK_PAGES);

            version[page]++;
            masks[page / VAULT_CHUNK_PAGES] |= 1u << page % VAULT_CHUNK_PAGES;
            changed += PAGE;
        }
        if (!send_changes(masks, &chunks) || vault_point_commit(v, "web01", 0, "crash", 0, &p, NULL) < 0)
            return 0;
        memcpy(kept[at].id, p.id, sizeof p.id);
        memcpy(kept[at].version, version, sizeof version);
    }
    printf("# %zu points, %llu KiB changed: chunks %.3f, all %.3f stored a byte, %lld ms\n", points, (unsigned long long)changed >> 10, (double)chunks / changed,
           (double)(stored_bytes() - before) / changed, (long long)((clock_monotonic_us() - begun_us) / 1000));
    return (unsigned)((stored_bytes() - before) * 100 / changed);
}

/* All but the newest expire: how much is left for each byte that the disk holds, in hundredths. */
static unsigned expire(void)
{
    const struct vault_ladder ladder = {.keep_last = 1};
    uint64_t freed = 0, all = 0;

    if (vault_expire(v, "web01", &ladder, NULL) <= 0)
        return 0;
    if (vault_gc(v, &all, NULL) < 0)
        return 0;
    printf("# collected: %llu KiB given back, %llu KiB stored\n", (unsigned long long)all >> 10, (unsigned long long)stored_bytes() >> 10);
    if (vault_compact(v, 95, false, &freed, NULL) < 0)
        return 0;
    printf("# compacted: %llu KiB given back, %llu KiB stored\n", (unsigned long long)freed >> 10, (unsigned long long)stored_bytes() >> 10);
    return (unsigned)(stored_bytes() * 100 / (CHUNKS * (uint64_t)CHUNK));
}

int main(void)
{
    const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1, .cache_bytes = 8 << 20};
    CLEANUP(free_ptr) struct kept *kept = xcalloc(120, sizeof *kept);
    CLEANUP(free_ptr) char *remove = NULL;
    unsigned ratio;

    snprintf(dir, sizeof dir, "/tmp/slipway-changes.%d", (int)getpid());
    if (vault_open(dir, &options, &v, NULL) < 0 || vault_disk_open(v, "web01", "d", CHUNKS * (uint64_t)CHUNK, &disk, NULL) < 0 || !fill_disk())
        abort();
    ratio = live(12, kept);
    ok(ratio > 0 && ratio <= 150, "a minute of changes, all points kept: %u.%02u bytes stored a byte changed", ratio / 100, ratio % 100);
    ok(whole(kept, 12), "all 12 points hold what they must, and check and scrub find nothing");
    ratio = expire();
    ok(ratio > 0 && ratio <= 110, "one point left: %u.%02u bytes stored a byte of it", ratio / 100, ratio % 100);
    ok(whole(kept + 11, 1), "which holds what it must");
    ratio = live(120, kept);
    ok(ratio > 0 && ratio <= 150, "ten minutes: %u.%02u", ratio / 100, ratio % 100);
    ok(whole(kept, 3) && whole(kept + 60, 3) && whole(kept + 117, 3), "of the 120 points the first, middle and last hold");
    ratio = expire();
    ok(ratio > 0 && ratio <= 110, "one point left: %u.%02u bytes stored a byte of it", ratio / 100, ratio % 100);
    ok(whole(kept + 119, 1), "which holds what it must");
    vault_close(&v);
    remove = xasprintf("rm -rf '%s'", dir);
    if (system(remove) != 0)
        ok(false, "the folder goes");
    return tap_done();
}
