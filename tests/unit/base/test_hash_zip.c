#include "base/hash.h"
#include "base/zip.h"
#include "tap.h"

static void test_hash(void)
{
    char hex[HASH_SHA256_HEX_SIZE], xxh_hex[2 * HASH_XXH_SIZE + 1];
    uint8_t sum[HASH_SHA256_SIZE], again[HASH_SHA256_SIZE], xxh[HASH_XXH_SIZE];
    CLEANUP(hash_free) struct hash *h = hash_new();
    struct err e = {0};

    hash_sha256("abc", 3, sum);
    is_str(hash_hex(sum, sizeof sum, hex), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "SHA-256 of abc (FIPS 180-2)");
    hash_add(h, "a", 1);
    hash_add(h, "bc", 2);
    hash_end(h, again);
    ok(memcmp(sum, again, sizeof sum) == 0, "in pieces it is the same");
    hash_end(h, again);
    is_str(hash_hex(again, sizeof again, hex), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "and begins anew");
    hash_xxh("", 0, xxh);
    is_str(hash_hex(xxh, sizeof xxh, xxh_hex), "99aa06d3014798d86001c324468d497f", "XXH3-128 of nothing");
    is_int(hash_unhex("00fF", again, 2, &e), 0, "hexadecimal digits of either case");
    ok(again[0] == 0 && again[1] == 0xff, "have their value");
    is_int(hash_unhex("00f", again, 2, &e), -1, "too few digits are refused");
    is_int(hash_unhex("00g0", again, 2, &e), -1, "other characters are refused");
}

static void test_zip(void)
{
    CLEANUP(zip_free) struct zip *z = zip_new(1);
    static uint8_t text[65536], noise[65536], packed[65536], back[65536 + 1];
    struct err e = {0};
    uint32_t state = 1;
    size_t size;

    for (size_t i = 0; i < sizeof text; i++) {
        state = state * 1664525 + 1013904223;
        text[i] = (uint8_t)"abcdefgh"[i / 7 % 8];
        noise[i] = (uint8_t)(state >> 24);
    }
    size = zip_pack(z, text, sizeof text, packed);
    ok(size > 0 && size < 4000, "text shrinks to %zu bytes", size);
    back[65536] = 77;
    is_int(zip_unpack(z, packed, size, back, 65536, &e), 0, "it comes back");
    ok(memcmp(text, back, 65536) == 0 && back[65536] == 77, "the same, and nothing after it is touched");
    is_int(zip_unpack(z, packed, size, back, 65535, &e), -1, "a larger block than expected is refused");
    is_int(zip_unpack(z, packed, size - 1, back, 65536, &e), -1, "a cut block is refused");
    is_int(e.kind, ERR_CORRUPT, "as corrupt");
    is_int((long long)zip_pack(z, noise, sizeof noise, packed), 0, "noise stays as it is");
}

int main(void)
{
    test_hash();
    test_zip();
    return tap_done();
}
