/* Writers, readers, expiry and space recovery beside each other: nothing that is in use goes away. */
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

static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    memset(bytes, 0, CHUNK);
    for (size_t i = 0; i + 8 <= CHUNK; i += 64) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

/* Every chunk of a point holds the seed of its round, so that a point that mixes rounds shows. Servers share content. */
static uint64_t seed_of(uint64_t round, uint64_t chunk) { return 1 + round % 16 * 1000 + chunk; }

static int write_round(const struct vault_disk *d, uint64_t round, struct err *e)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    for (uint64_t c = 0; c < CHUNKS; c++) {
        int mapped = 0;

        fill(bytes, seed_of(round, c));
        vault_hash_of(bytes, CHUNK, &hash);
        /* As a session does: ask, send what lacks, map; a chunk that a collection took between is sent again. */
        for (int attempt = 0; attempt < 10 && mapped == 0; attempt++) {
            int has = attempt ? 0 : vault_has(v, &hash, e);

            if (has < 0 || (has == 0 && vault_store(v, bytes, &hash, NULL, NULL, e) < 0))
                return -1;
            mapped = vault_map(v, d, c, &hash, e);
        }
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

    snprintf(server, sizeof server, "s%d", *(int *)user);
    if (vault_disk_open(v, server, "d", CHUNKS * (uint64_t)CHUNK, &d, &e) < 0)
        fail("a disk", &e);
    for (uint64_t round = (uint64_t)*(int *)user; !atomic_load(&stop); round++) {
        if (write_round(&d, round, &e) < 0 || vault_point_commit(v, server, 0, "crash", 0, &p, &e) < 0)
            fail("writing", &e);
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
        for (uint64_t r = 0; r < 16 && round == UINT64_MAX; r++) {
            fill(wanted, seed_of(r, c));
            if (memcmp(bytes, wanted, CHUNK) == 0)
                round = r;
        }
        fill(wanted, seed_of(round, c));
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
    const struct vault_ladder ladder = {.keep_last = 3};

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
        if (vault_gc(v, NULL, &e) < 0)
            fail("collecting", &e);
        atomic_fetch_add(&collections, 1);
    }
    return NULL;
}

static bool enough(void) { return atomic_load(&points_made) > 20 && atomic_load(&points_read) > 10 && atomic_load(&collections) > 3; }

int main(void)
{
    const struct vault_options options = {.segment_bytes = 512 << 10, .guard_bytes = 1 << 20, .cache_bytes = 2 << 20};
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
