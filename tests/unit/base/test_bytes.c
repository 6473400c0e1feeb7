#include "base/bytes.h"
#include "base/mem.h"
#include "tap.h"

int main(void)
{
    uint8_t b[16];

    memset(b, 0xee, sizeof b);
    put_le16(b + 1, 0x0102);
    put_be16(b + 3, 0x0102);
    ok(memcmp(b, "\xee\x02\x01\x01\x02\xee", 6) == 0, "16 bits, at any address, and nothing beside them");
    ok(get_le16(b + 1) == 0x0102 && get_be16(b + 3) == 0x0102, "come back");
    put_le32(b + 1, 0x01020304);
    put_be32(b + 5, 0x01020304);
    ok(memcmp(b, "\xee\x04\x03\x02\x01\x01\x02\x03\x04\xee", 10) == 0, "32 bits");
    ok(get_le32(b + 1) == 0x01020304 && get_be32(b + 5) == 0x01020304, "come back");
    put_le64(b + 1, UINT64_C(0xf102030405060708));
    ok(memcmp(b, "\xee\x08\x07\x06\x05\x04\x03\x02\xf1\xee", 10) == 0 && get_le64(b + 1) == UINT64_C(0xf102030405060708), "64 bits, the top one set");
    put_be64(b + 1, UINT64_C(0xf102030405060708));
    ok(memcmp(b, "\xee\xf1\x02\x03\x04\x05\x06\x07\x08\xee", 10) == 0 && get_be64(b + 1) == UINT64_C(0xf102030405060708), "in both orders");
    return tap_done();
}
