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

/* Blocks that are much alike, but not in themselves: noise, with a few bytes of each changed. */
static void make_block(uint8_t *block, size_t size, unsigned number)
{
    uint32_t state = 1;

    for (size_t i = 0; i < size; i++) {
        state = state * 1664525 + 1013904223;
        block[i] = (uint8_t)(state >> 24);
    }
    block[number] ^= 1;
}

static void test_stream(void)
{
    CLEANUP(zip_stream_free) struct zip_stream *s = zip_stream_new(3), *u = zip_stream_unpacker(), *other = zip_stream_unpacker();
    CLEANUP(buf_release) struct buf first = {0}, second = {0}, end = {0}, anew = {0};
    static uint8_t block[65536], back[65536 + 1];
    struct err e = {0};

    ok(zip_stream_ended(u), "a stream that has not begun remembers nothing");
    make_block(block, sizeof block, 0);
    zip_stream_pack(s, block, sizeof block, false, &first);
    ok(first.size_bytes > 65536 && first.size_bytes <= ZIP_STREAM_BOUND(65536), "noise takes what it takes: %zu bytes", first.size_bytes);
    is_int(zip_stream_unpack(u, first.data, first.size_bytes, back, 65536, &e), 0, "it comes back at once");
    ok(memcmp(block, back, 65536) == 0 && !zip_stream_ended(u), "the same, and is remembered");
    make_block(block, sizeof block, 9);
    zip_stream_pack(s, block, sizeof block, false, &second);
    ok(second.size_bytes < 1000, "what is nearly as before takes %zu bytes", second.size_bytes);
    back[65536] = 77;
    is_int(zip_stream_unpack(other, second.data, second.size_bytes, back, 65536, &e), -1, "out of order it is refused");
    is_int(e.kind, ERR_CORRUPT, "as corrupt");
    is_int(zip_stream_unpack(u, second.data, second.size_bytes, back, 65536, &e), 0, "in order it comes back");
    ok(memcmp(block, back, 65536) == 0 && back[65536] == 77, "the same, and nothing after it is touched");
    zip_stream_pack(s, NULL, 0, true, &end);
    is_int(zip_stream_unpack(u, end.data, end.size_bytes, back, 0, &e), 0, "an end");
    ok(zip_stream_ended(u), "ends it");
    zip_stream_pack(s, block, sizeof block, false, &anew);
    ok(anew.size_bytes > 65536, "what follows knows of nothing before");
    is_int(zip_stream_unpack(u, anew.data, anew.size_bytes, back, 65535, &e), -1, "more than was expected is refused");
}

/* A stream whose window is larger than ours would make whoever unpacks it hold as much. */
static void test_window(void)
{
    static const uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x60, 0x01, 0x00, 0x00}; /* RFC 8878 3.1.1: window 4 MiB, an empty last block */
    static const uint8_t ours[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, 0x01, 0x00, 0x00};  /* 2 MiB */
    CLEANUP(zip_stream_free) struct zip_stream *u = zip_stream_unpacker(), *v = zip_stream_unpacker();
    struct err e = {0};
    uint8_t back;

    is_int(zip_stream_unpack(v, ours, sizeof ours, &back, 0, &e), 0, "a window of 2 MiB is fine");
    is_int(zip_stream_unpack(u, frame, sizeof frame, &back, 0, &e), -1, "a larger one is refused");
}

int main(void)
{
    test_hash();
    test_zip();
    test_stream();
    test_window();
    return tap_done();
}
