/* The vault's care in little memory: sets of names that err to one side only, and giving space back, scrubbing and checking with them. */
#include "tap.h"
#include "vault/sieve.h"
#include "vault/vault.h"

#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define NAMES 100000

static char dir[64];

static struct vault_hash name_of(uint64_t number)
{
    struct vault_hash hash;

    vault_hash_of(&number, sizeof number, &hash);
    return hash;
}

/* How many of so many names from first on are there. */
static int held(const struct hash_sieve *s, uint64_t first, int count)
{
    int found = 0;

    for (int i = 0; i < count; i++) {
        struct vault_hash hash = name_of(first + (uint64_t)i);

        found += hash_sieve_has(s, &hash);
    }
    return found;
}

static void fill_sieve(struct hash_sieve *s, size_t bytes_most, uint64_t salt)
{
    hash_sieve_make(s, bytes_most, NAMES, salt);
    for (uint64_t i = 0; i < NAMES; i++) {
        struct vault_hash hash = name_of(i);

        hash_sieve_add(s, &hash);
    }
}

static void a_sieve_lacks_nothing(void)
{
    struct hash_sieve s = {0}, other = {0};
    int wrong, both = 0;

    fill_sieve(&s, SIZE_MAX, 0);
    is_int(s.block_count, NAMES * 8 / 64, "a sieve takes 64 bits for each name");
    is_int(held(&s, 0, NAMES), NAMES, "and has each that was added");
    wrong = held(&s, NAMES, 1000000);
    ok(wrong < 20, "of a million others %d", wrong);
    hash_sieve_release(&s);
    fill_sieve(&s, NAMES, 1);
    is_int(s.block_count, NAMES / 64, "of a byte for each name it takes no more");
    is_int(held(&s, 0, NAMES), NAMES, "and lacks none for that");
    wrong = held(&s, NAMES, NAMES);
    ok(wrong > NAMES / 100 && wrong < NAMES / 25, "of as many others it has %d", wrong);
    fill_sieve(&other, NAMES, 2);
    for (uint64_t i = 0; i < NAMES; i++) {
        struct vault_hash hash = name_of(NAMES + i);

        both += hash_sieve_has(&s, &hash) && hash_sieve_has(&other, &hash);
    }
    ok(both < wrong / 10, "another salt errs for others (%d of %d for the same ones)", both, wrong);
    hash_sieve_release(&s);
    hash_sieve_release(&other);
    fill_sieve(&s, 1, 3);
    ok(s.block_count == 1 && held(&s, 0, NAMES) == NAMES, "one of a single block has all");
    hash_sieve_release(&s);
}

static int add_all(struct hash_seen *s, uint64_t first, int count)
{
    int fresh = 0;

    for (int i = 0; i < count; i++) {
        struct vault_hash hash = name_of(first + (uint64_t)i);

        fresh += hash_seen_add(s, &hash);
    }
    return fresh;
}

static void what_was_seen_may_be_forgotten(void)
{
    struct hash_seen s = {0};
    int again;

    hash_seen_make(&s, SIZE_MAX, NAMES);
    is_int(add_all(&s, 0, NAMES), NAMES, "names that were not seen are new");
    again = add_all(&s, 0, NAMES);
    ok(again < NAMES / 1000, "and then are not (%d of %d were forgotten)", again, NAMES);
    hash_seen_release(&s);
    hash_seen_make(&s, NAMES * 16 / 2, NAMES);
    ok(s.set_count * sizeof *s.sets <= NAMES * 16 / 2, "with room for half of them it takes no more");
    is_int(add_all(&s, 0, NAMES), NAMES, "each is new at first");
    again = add_all(&s, 0, 1000) + add_all(&s, NAMES - 1000, 1000);
    ok(again > 500 && again < 1500, "some are new again (%d of 2000)", again);
    hash_seen_release(&s);
}

static void bits_stay_within(void)
{
    struct vault_hash first = name_of(0), last;
    struct hash_bits b = {0};
    int added = 0;

    ok(!hash_bits_add(&b, &first, 1, 1023) && b.slot_count == 0, "bits take no less than 1024 slots");
    for (uint64_t i = 0; i < NAMES; i++) {
        last = name_of(i);
        added += hash_bits_add(&b, &last, 1, 4096);
    }
    ok(b.slot_count == 4096 && added == 2048, "and no more than they may (%d of them)", added);
    ok(hash_bits_add(&b, &first, 6, 4096) && hash_bits_get(&b, &first) == 7 && hash_bits_get(&b, &last) == 0, "a name that is there takes more bits");
    hash_bits_release(&b);
}

/* ---- a vault ---- */

static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i + 8 <= CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

static void put(struct vault *v, const struct vault_disk *d, uint64_t index, uint64_t seed)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    fill(bytes, seed);
    if (vault_store(v, bytes, NULL, &hash, NULL, NULL) < 0 || vault_map(v, d, index, &hash, NULL) != 1)
        abort();
}

/* One page is another one: kept as that page, and the chunk of before is a part of it. */
static void put_page(struct vault *v, const struct vault_disk *d, uint64_t index, uint64_t seed)
{
    struct vault_hash base, hash;
    uint8_t bytes[CHUNK];

    fill(bytes, seed);
    if (vault_map_get(v, d, index, &base, NULL) < 0 || vault_store_delta(v, &base, 1u << seed % VAULT_CHUNK_PAGES, bytes, &hash, NULL, NULL) != 1 ||
        vault_map(v, d, index, &hash, NULL) != 1)
        abort();
}

#define CHUNKS 600
#define ROUNDS 4

/* Points of a disk whose chunks change between them but for every eighth: those of the first half whole, the others by a page. */
static struct vault *make_vault(size_t work_memory_bytes, struct vault_point points[ROUNDS])
{
    const struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1 << 20, .work_memory_bytes = work_memory_bytes, .scrub_threads = 2};
    struct vault *v = NULL;
    struct vault_disk d;

    snprintf(dir, sizeof dir, "/tmp/vault-test.XXXXXX");
    if (!mkdtemp(dir) || vault_open(dir, &options, &v, NULL) < 0 || vault_disk_open(v, "s", "d", CHUNKS * (uint64_t)CHUNK, &d, NULL) < 0)
        abort();
    for (uint64_t round = 0; round < ROUNDS; round++) {
        for (uint64_t i = 0; i < CHUNKS; i++)
            if (round == 0 || i % 8)
                round && i >= CHUNKS / 2 ? put_page(v, &d, i, 1000 * round + i) : put(v, &d, i, 1000 * round + i);
        if (vault_point_commit(v, "s", 0, "crash", 0, &points[round], NULL) < 0)
            abort();
    }
    return v;
}

static void remove_vault(struct vault **v)
{
    char command[128];

    vault_close(v);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command) != 0)
        abort();
}

static bool whole(struct vault *v, const struct vault_point *p, uint64_t *looked_at)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct err e = {0};
    bool holds = vault_verify_point(v, p->id, NULL, NULL, &report, &e) == 0 && report.finding_count == 0;

    if (!holds)
        tap_note("%s", report.told_count ? report.findings[0].text : e.message);
    *looked_at = report.looked_at;
    return holds;
}

static bool sound(struct vault *v, uint64_t *scrubbed)
{
    CLEANUP(vault_report_release) struct vault_report check = {0}, scrub = {0};
    bool holds = vault_check(v, &check, NULL) == 0 && check.finding_count == 0 && vault_scrub(v, NULL, NULL, &scrub, NULL) == 0 && scrub.finding_count == 0;

    if (check.told_count + scrub.told_count)
        tap_note("%s", (check.told_count ? check : scrub).findings[0].text);
    *scrubbed = scrub.looked_at;
    return holds;
}

/* What giving space back twice gives back, of two points that are dropped; what is left holds. */
static uint64_t give_back(size_t work_memory_bytes, uint64_t *record_count)
{
    struct vault_point points[ROUNDS];
    uint64_t looked_at, freed = 0, more = 0;
    struct vault *v = make_vault(work_memory_bytes, points);
    struct vault_usage usage = {0};
    struct err e = {0};
    int result = vault_usage(v, &usage, &e);

    ok(sound(v, record_count), "in %zu bytes: a vault is sound", work_memory_bytes);
    ok(result == 0 && usage.mapped_count == CHUNKS && usage.distinct_count <= CHUNKS && usage.divided_count > 0, "and is counted, %llu of its chunks as pages",
       (unsigned long long)usage.divided_count);
    ok(vault_point_drop(v, points[0].id, &e) == 0 && vault_point_drop(v, points[1].id, &e) == 0, "two points are dropped");
    result = vault_gc(v, &freed, &e) < 0 || vault_gc(v, &more, &e) < 0;
    ok(result == 0, "space is given back, twice: %llu and %llu bytes %s", (unsigned long long)freed, (unsigned long long)more, e.message);
    ok(whole(v, &points[2], &looked_at) && whole(v, &points[3], &looked_at), "the other two are whole");
    ok(looked_at >= CHUNKS, "all of it was looked at");
    ok(vault_point_get(v, points[0].id, &points[0], &e) == 0 && sound(v, &looked_at), "and the vault is sound");
    vault_close(&v);
    ok(vault_rebuild(dir, NULL, &e) == 0 && vault_open(dir, NULL, &v, &e) == 0, "its index is made anew");
    ok(vault_point_get(v, points[0].id, &points[0], &e) == 0 && vault_point_get(v, points[1].id, &points[1], &e) == 0, "and what was dropped does not come back");
    ok(whole(v, &points[2], &looked_at) && whole(v, &points[3], &looked_at), "what was not is whole");
    remove_vault(&v);
    return freed + more;
}

static void care_in_little_memory(void)
{
    uint64_t records, records_too, most = give_back(0, &records), some = give_back(16384, &records_too), least = give_back(1, &records_too);

    is_int(records_too, records, "a scrub reads each record once, however many it has room for");
    ok(some > most / 2 && some <= most, "with ten bits for a name little is kept for too long");
    ok(least <= some, "with next to none more is, and nothing is lost");
}

int main(void)
{
    a_sieve_lacks_nothing();
    what_was_seen_may_be_forgotten();
    bits_stay_within();
    care_in_little_memory();
    return tap_done();
}
