#include "vault/sieve.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 64u
#define BLOCK_BITS 6     /* that a name sets */
#define BIT_INDEX_BITS 9 /* one of 512 */
#define SIEVE_BYTES_A_NAME 8
#define SET_BYTES 128u
#define SEEN_BYTES_A_NAME 64

/* MurmurHash3's last step (Appleby): each bit of x changes half of the result's. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 33) * UINT64_C(0xff51afd7ed558ccd);
    x = (x ^ x >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}

/* x's share of count (Lemire: Fast Random Integer Generation in an Interval, 2019). */
static uint64_t place_in(uint64_t x, uint64_t count) { return (uint64_t)((unsigned __int128)x * count >> 64); }

/* How many units of that size there are to be: at least one, in bytes_most at most. */
static uint64_t units(size_t bytes_most, uint64_t name_count, unsigned bytes_a_name, unsigned unit_bytes)
{
    uint64_t most = bytes_most / unit_bytes, wanted = name_count < UINT64_MAX / bytes_a_name ? (name_count * bytes_a_name + unit_bytes - 1) / unit_bytes : most;
    uint64_t count = wanted < most ? wanted : most;

    return count ? count : 1;
}

void hash_sieve_make(struct hash_sieve *s, size_t bytes_most, uint64_t name_count, uint64_t salt)
{
    s->block_count = units(bytes_most, name_count, SIEVE_BYTES_A_NAME, BLOCK_BYTES);
    s->blocks = xcalloc(s->block_count, sizeof *s->blocks);
    s->salt = mix(salt + 1);
}

void hash_sieve_release(struct hash_sieve *s)
{
    free(s->blocks);
    *s = (struct hash_sieve){0};
}

/* The name's block, and its bits in there. */
static uint64_t *find_block(const struct hash_sieve *s, const struct vault_hash *hash, uint64_t bits[static 8])
{
    uint64_t half[2], which;

    memcpy(half, hash->bytes, sizeof half);
    memset(bits, 0, 8 * sizeof *bits);
    which = mix(half[1] ^ s->salt);
    for (int i = 0; i < BLOCK_BITS; i++, which >>= BIT_INDEX_BITS)
        bits[which >> 6 & 7] |= UINT64_C(1) << (which & 63);
    return s->blocks[place_in(mix(half[0] ^ s->salt), s->block_count)];
}

bool hash_sieve_add(struct hash_sieve *s, const struct vault_hash *hash)
{
    uint64_t bits[8], *block = find_block(s, hash, bits), fresh = 0;

    for (int i = 0; i < 8; i++) {
        fresh |= bits[i] & ~block[i];
        block[i] |= bits[i];
    }
    return fresh != 0;
}

bool hash_sieve_has(const struct hash_sieve *s, const struct vault_hash *hash)
{
    uint64_t bits[8], missing = 0;
    const uint64_t *block = find_block(s, hash, bits);

    for (int i = 0; i < 8; i++)
        missing |= bits[i] & ~block[i];
    return missing == 0;
}

void hash_seen_make(struct hash_seen *s, size_t bytes_most, uint64_t name_count)
{
    s->set_count = units(bytes_most, name_count, SEEN_BYTES_A_NAME, SET_BYTES);
    s->sets = xcalloc(s->set_count, sizeof *s->sets);
    s->turn = 0;
}

void hash_seen_release(struct hash_seen *s)
{
    free(s->sets);
    *s = (struct hash_seen){0};
}

void hash_seen_forget(struct hash_seen *s) { memset(s->sets, 0, s->set_count * sizeof *s->sets); }

bool hash_seen_add(struct hash_seen *s, const struct vault_hash *hash)
{
    uint64_t half[2], (*set)[2];
    unsigned way = 0;

    memcpy(half, hash->bytes, sizeof half);
    half[1] |= half[0] == 0; /* both 0 mark an empty place */
    set = s->sets[place_in(mix(half[0]), s->set_count)];
    for (; way < 8 && (set[way][0] || set[way][1]); way++)
        if (set[way][0] == half[0] && set[way][1] == half[1])
            return false;
    memcpy(set[way < 8 ? way : s->turn++ % 8], half, sizeof half);
    return true;
}
