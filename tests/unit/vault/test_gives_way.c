/* While space is given back writers get on: of the time that they are held for it they get back as much, so that they are not let in for one turn between two segments. */
#include "base/clock.h"
#include "tap.h"
#include "vault/vault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define PAIRS 600 /* chunks of each of two servers, side by side: 75 MiB in segments of 1 MiB */
#define TURNS_LEAST 20 /* for each segment; 11 by the lock alone, 60 with it, where this was written */

static struct vault *v;
static atomic_bool stop;
static atomic_uint stored;

static void fill(uint8_t bytes[static VAULT_CHUNK_BYTES], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < VAULT_CHUNK_BYTES; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

static void put(const struct vault_disk *d, uint64_t index, uint64_t seed)
{
    uint8_t bytes[VAULT_CHUNK_BYTES];
    struct vault_hash hash;

    fill(bytes, seed);
    MUST(vault_store(v, bytes, NULL, &hash, NULL, NULL) == 0 && vault_map(v, d, index, &hash, NULL) == 1);
}

static void *write_on(void *user)
{
    const struct vault_disk *d = user;

    for (uint64_t i = 0; !atomic_load(&stop); i++) {
        put(d, i % PAIRS, 1000000 + i % 64);
        atomic_fetch_add(&stored, 1);
    }
    return NULL;
}

int main(void)
{
    const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1 << 20};
    CLEANUP(vault_report_release) struct vault_report report = {0};
    char dir[] = "/tmp/vault-way.XXXXXX", command[64];
    struct vault_disk stays, goes, written;
    unsigned before, during;
    uint64_t freed = 0;
    pthread_t writer;
    struct err e = {0};

    MUST(mkdtemp(dir) && vault_open(dir, &options, &v, &e) == 0);
    MUST(vault_disk_open(v, "stays", "d", PAIRS * (uint64_t)VAULT_CHUNK_BYTES, &stays, &e) == 0 &&
         vault_disk_open(v, "goes", "d", PAIRS * (uint64_t)VAULT_CHUNK_BYTES, &goes, &e) == 0 &&
         vault_disk_open(v, "written", "d", PAIRS * (uint64_t)VAULT_CHUNK_BYTES, &written, &e) == 0);
    for (uint64_t i = 0; i < PAIRS; i++) {
        put(&stays, i, i);
        put(&goes, i, 10000 + i);
    }
    MUST(vault_point_commit(v, "stays", 0, "crash", 0, NULL, &e) == 0 && vault_server_drop(v, "goes", &e) == 0);
    MUST(pthread_create(&writer, NULL, write_on, &written) == 0);
    while (atomic_load(&stored) < 100)
        usleep(1000);
    before = atomic_load(&stored);
    is_int(vault_compact(v, 90, false, &freed, &e), 0, "space is given back beside a writer: %s", e.message);
    during = atomic_load(&stored) - before;
    atomic_store(&stop, true);
    pthread_join(writer, NULL);
    ok(freed > (PAIRS - 50) * (uint64_t)VAULT_CHUNK_BYTES, "of all segments, half empty: %llu MiB", (unsigned long long)(freed >> 20));
    ok(during > TURNS_LEAST * (freed >> 20), "and it got on: %u chunks meanwhile, of %llu segments", during, (unsigned long long)(freed >> 20));
    ok(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0, "scrub finds nothing");
    vault_close(&v);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ok(system(command) == 0, "cleared");
    return tap_done();
}
