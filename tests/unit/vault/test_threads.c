/* Writers, readers, expiry, space recovery and rotation beside each other in an encrypted vault: nothing that is in use goes away. */
#include "base/clock.h"
#include "tap.h"
#include "vault/vault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 96
#define WRITERS 3
#define RUN_US (3 * US_PER_S)
#define RUN_MOST_US (90 * US_PER_S) /* on a busy machine */

static struct vault *v;
static atomic_bool stop;
static atomic_int failures;
static atomic_uint points_made, points_read, collections;
static char dir[64];

static void fail(const char *what, const struct err *e)
{
    printf("# %s: %s\n", what, e->message);
    atomic_fetch_add(&failures, 1);
    atomic_store(&stop, true);
}

#define ROUNDS 8 /* then they begin again */

/* A chunk at a round: a quarter of its pages is another one than at the round before. A point that mixes rounds shows. Servers share content. */
static void fill(uint8_t bytes[static CHUNK], uint64_t round, uint64_t chunk)
{
    memset(bytes, 0, CHUNK);
    for (uint64_t page = 0; page < VAULT_CHUNK_PAGES; page++) {
        uint64_t x = ((round % ROUNDS + page % 4) / 4 % (ROUNDS / 4) * 100000 + chunk * 16 + page) * UINT64_C(0x9e3779b97f4a7c15) + 1;

        for (size_t i = 0; i + 8 <= VAULT_PAGE_BYTES; i += 64) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            memcpy(bytes + page * VAULT_PAGE_BYTES + i, &x, 8);
        }
    }
}

/* The pages that are new, one after the other: which. */
static uint32_t new_pages(const uint8_t *before, const uint8_t *now, uint8_t *pages)
{
    uint32_t mask = 0;

    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++)
        if (memcmp(before + i * VAULT_PAGE_BYTES, now + i * VAULT_PAGE_BYTES, VAULT_PAGE_BYTES) != 0) {
            memcpy(pages, now + i * VAULT_PAGE_BYTES, VAULT_PAGE_BYTES);
            pages += VAULT_PAGE_BYTES;
            mask |= 1u << i;
        }
    return mask;
}

/* As a session does: new pages over what the map holds; where that is not to be had: ask, send what lacks, map; a chunk that a collection took between is
 * sent again. 1/0/-1 */
static int write_chunk(const struct vault_disk *d, uint64_t before_round, uint64_t round, uint64_t chunk, int attempt, struct err *e)
{
    uint8_t before[CHUNK], bytes[CHUNK], pages[CHUNK];
    struct vault_hash hash, near;
    int kept = 0, has;

    fill(bytes, round, chunk);
    if (before_round && attempt == 0 && vault_map_get(v, d, chunk, &near, e) == 0) {
        fill(before, before_round, chunk);
        kept = vault_store_delta(v, &near, new_pages(before, bytes, pages), pages, &hash, NULL, e);
    }
    vault_hash_of(bytes, CHUNK, &hash);
    has = kept ? kept : attempt ? 0 : vault_has(v, &hash, e);
    if (has < 0 || (has == 0 && vault_store(v, bytes, &hash, NULL, NULL, e) < 0))
        return -1;
    return vault_map(v, d, chunk, &hash, e);
}

static int write_round(const struct vault_disk *d, uint64_t before, uint64_t round, struct err *e)
{
    for (uint64_t c = 0; c < CHUNKS; c++) {
        int mapped = 0;

        for (int attempt = 0; attempt < 10 && mapped == 0; attempt++)
            mapped = write_chunk(d, before, round, c, attempt, e);
        if (mapped != 1)
            return mapped < 0 ? -1 : err_set(e, ERR_INTERNAL, "a chunk does not stay");
    }
    return 0;
}

static void *writer(void *user)
{
    char server[16];
    struct vault_point p;
    struct vault_disk d;
    struct err e = {0};
    uint64_t before = 0;

    snprintf(server, sizeof server, "s%d", *(int *)user);
    if (vault_disk_open(v, server, "d", CHUNKS * (uint64_t)CHUNK, &d, &e) < 0)
        fail("a disk", &e);
    for (uint64_t round = 800, i = 0; !atomic_load(&stop); round += i++ % 7 < 4 ? 1 : (uint64_t)-1) { /* to and fro: what was dropped just now comes back */
        if (write_round(&d, before, round, &e) < 0 || vault_point_commit(v, server, 0, "crash", 0, &p, &e) < 0)
            fail("writing", &e);
        before = round;
        atomic_fetch_add(&points_made, 1);
    }
    return NULL;
}

static void read_point(const char *id)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct err e = {0};
    uint64_t round = UINT64_MAX;

    if (vault_point_pin(v, id, "test", &e) < 0)
        return; /* it expired meanwhile */
    if (vault_image_open(v, id, "d", &image, &e) < 0)
        fail("opening a point", &e);
    for (uint64_t c = 0; image && c < CHUNKS && !e.kind; c++) {
        if (vault_image_read(image, bytes, CHUNK, c * CHUNK, &e) < 0)
            fail("reading a point", &e);
        for (uint64_t r = 0; r < ROUNDS && round == UINT64_MAX; r++) {
            fill(wanted, r, c);
            if (memcmp(bytes, wanted, CHUNK) == 0)
                round = r;
        }
        fill(wanted, round, c);
        if (!e.kind && memcmp(bytes, wanted, CHUNK) != 0) {
            err_set(&e, ERR_CORRUPT, "chunk %llu of %s is of another round", (unsigned long long)c, id);
            fail("a point", &e);
        }
    }
    atomic_fetch_add(&points_read, 1);
    if (vault_point_unpin(v, id, "test", &e) < 0)
        fail("unpinning", &e);
}

static void *reader(void *user)
{
    (void)user;
    for (unsigned i = 0; !atomic_load(&stop); i++) {
        CLEANUP(free_ptr) struct vault_point *list = NULL;
        char server[16];
        struct err e = {0};
        int count;

        snprintf(server, sizeof server, "s%u", i % WRITERS);
        count = vault_point_list(v, server, 0, &list, &e);
        if (count < 0)
            fail("listing", &e);
        if (count > 0)
            read_point(list[i % (unsigned)count].id);
    }
    return NULL;
}

static void *collector(void *user)
{
    const struct vault_ladder ladder = {.keep_last = 1};
    struct vault_usage usage;

    (void)user;
    while (!atomic_load(&stop)) {
        struct err e = {0};

        for (int i = 0; i < WRITERS; i++) {
            char server[16];

            snprintf(server, sizeof server, "s%d", i);
            if (vault_expire(v, server, &ladder, &e) < 0 && e.kind != ERR_WRONG_STATE) /* pinned in this very moment */
                fail("expiring", &e);
        }
        err_clear(&e);
        if (atomic_load(&collections) % 3 == 0 ? vault_compact(v, 100, atomic_load(&collections) % 2 == 0, NULL, &e) < 0 : vault_gc(v, NULL, &e) < 0)
            fail("collecting", &e);
        if (vault_rotate(v, NULL, &e) < 0 || vault_usage(v, &usage, &e) < 0 || vault_forget_damaged(v, NULL, &e) != 0)
            fail("caring", &e);
        atomic_fetch_add(&collections, 1);
    }
    return NULL;
}

static bool enough(void) { return atomic_load(&points_made) > 20 && atomic_load(&points_read) > 10 && atomic_load(&collections) > 3; }

int main(void)
{
    const struct vault_key key = {{1}};
    const struct vault_options options = {.scrub_threads = 3, .segment_bytes = 512 << 10, .guard_bytes = 1 << 20, .cache_bytes = 2 << 20, .keys = &key, .key_count = 1};
    CLEANUP(vault_report_release) struct vault_report held = {0};
    struct vault_report *report = &held;
    pthread_t threads[WRITERS + 2];
    int numbers[WRITERS];
    char command[96];
    struct err e = {0};

    snprintf(dir, sizeof dir, "/tmp/vault-threads.XXXXXX");
    if (!mkdtemp(dir))
        abort();
    is_int(vault_open(dir, &options, &v, &e), 0, "a vault");
    for (int i = 0; i < WRITERS; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, writer, &numbers[i]);
    }
    pthread_create(&threads[WRITERS], NULL, reader, NULL);
    pthread_create(&threads[WRITERS + 1], NULL, collector, NULL);
    for (int64_t begun_us = clock_monotonic_us(); !atomic_load(&stop) && clock_monotonic_us() - begun_us < RUN_MOST_US;) {
        clock_sleep_us(50 * US_PER_MS);
        if (clock_monotonic_us() - begun_us > RUN_US && enough())
            break;
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < ARRAY_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    is_int(atomic_load(&failures), 0, "nothing failed");
    ok(enough(), "%u points made, %u read, %u collections",
       atomic_load(&points_made), atomic_load(&points_read), atomic_load(&collections));
    ok(vault_scrub(v, NULL, NULL, report, &e) == 0 && report->finding_count == 0, "scrub finds nothing");
    ok(vault_check(v, report, &e) == 0 && report->finding_count == 0, "nor does check: %s", report->finding_count ? report->findings[0].text : "");
    vault_close(&v);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) == 0 ? tap_done() : 1;
}
