#include "base/zip.h"
#include "wire/wire.h"
#include "tap.h"

static struct buf out = {.limit_bytes = WIRE_PAYLOAD_LIMIT};

static void test_header(void)
{
    struct wire_header h = {0x00123456, WIRE_DATA, 0, 0xfffffffe}, back = {0};
    uint8_t bytes[WIRE_HEADER_SIZE];
    struct err e = {0};

    wire_header_encode(&h, bytes);
    ok(memcmp(bytes, "\x56\x34\x12\x00\x03\x00\x00\x00\xfe\xff\xff\xff", 12) == 0, "a header's bytes are little-endian, in order");
    is_int(wire_header_decode(bytes, &back, &e), 0, "it decodes");
    ok(back.payload_size == h.payload_size && back.type == h.type && back.sequence == h.sequence, "to the same");
    bytes[3] = 0x01;
    is_int(wire_header_decode(bytes, &back, &e), -1, "over the limit: %s", e.message);
    bytes[3] = 0;
    bytes[4] = 99;
    is_int(wire_header_decode(bytes, &back, &e), -1, "an unknown type is refused");
    bytes[4] = 3;
    bytes[6] = 1;
    is_int(wire_header_decode(bytes, &back, &e), -1, "unknown flags are refused");
}

static void test_offer(void)
{
    static struct wire_offer offer, back;
    struct err e = {0};

    offer = (struct wire_offer){.number = 7, .disk = 3, .count = WIRE_OFFER_CHUNKS};
    for (unsigned i = 0; i < WIRE_OFFER_CHUNKS; i++) {
        offer.entries[i].chunk = UINT32_MAX - 2 * (WIRE_OFFER_CHUNKS - i);
        offer.entries[i].zero = i % 3 == 0;
        if (i % 3)
            hash_sha256(&i, sizeof i, offer.entries[i].hash);
    }
    wire_offer_encode(&offer, &out);
    is_int(out.size_bytes, 12 + 40 * 1024, "a full offer has 40 bytes for each chunk");
    is_int(wire_offer_decode(out.data, out.size_bytes, &back, &e), 0, "it decodes");
    ok(memcmp(&offer, &back, sizeof back) == 0, "to the same");
    is_int(wire_offer_decode(out.data, out.size_bytes - 1, &back, &e), -1, "a byte less is refused");
    memcpy(out.data + 12 + 40, out.data + 12, 4);
    is_int(wire_offer_decode(out.data, out.size_bytes, &back, &e), -1, "a chunk named twice is refused: %s", e.message);
    is_int(e.kind, ERR_PROTOCOL, "as a protocol error");
    ok(memcmp(&offer, &back, sizeof back) == 0, "and the output is untouched");
    buf_release(&out);
}

static void test_need_ack_hashes(void)
{
    struct wire_need need = {.offer = UINT64_C(1) << 40, .count = 13}, need_back;
    struct wire_ack ack = {.offer = 99}, ack_back;
    uint8_t sums[3 * HASH_SHA256_SIZE];
    struct wire_hashes hashes = {.request = 5, .disk = 1, .first_chunk = 9, .count = 3, .hashes = sums}, hashes_back;
    struct err e = {0};

    wire_need_set(&need, 0);
    wire_need_set(&need, 12);
    wire_need_encode(&need, &out);
    is_int(wire_need_decode(out.data, out.size_bytes, &need_back, &e), 0, "NEED decodes");
    ok(wire_needs(&need_back, 0) && !wire_needs(&need_back, 1) && wire_needs(&need_back, 12) && need_back.offer == need.offer, "to the same");
    out.data[out.size_bytes - 1] |= 0x20;
    is_int(wire_need_decode(out.data, out.size_bytes, &need_back, &e), -1, "a bit after the last is refused");
    buf_release(&out);
    wire_ack_encode(&ack, &out);
    ok(wire_ack_decode(out.data, out.size_bytes, &ack_back, &e) == 0 && ack_back.offer == 99, "ACK decodes to the same");
    buf_release(&out);
    memset(sums, 7, sizeof sums);
    wire_hashes_encode(&hashes, &out);
    ok(wire_hashes_decode(out.data, out.size_bytes, &hashes_back, &e) == 0 && hashes_back.count == 3 && hashes_back.first_chunk == 9 &&
       memcmp(hashes_back.hashes, sums, sizeof sums) == 0, "HASHES decodes to the same");
    is_int(wire_hashes_decode(out.data, out.size_bytes - 32, &hashes_back, &e), -1, "a hash less is refused");
    buf_release(&out);
}

static void test_data(void)
{
    CLEANUP(zip_free) struct zip *z = zip_new(1);
    static uint8_t text[WIRE_CHUNK_SIZE], packed[WIRE_CHUNK_SIZE], back[WIRE_CHUNK_SIZE];
    uint8_t hash[HASH_SHA256_SIZE];
    struct wire_data_chunk chunk = {.entry = 4, .codec = WIRE_RAW, .stored_size = WIRE_CHUNK_SIZE, .bytes = text, .raw_size = WIRE_CHUNK_SIZE}, got;
    struct wire_data data;
    struct err e = {0};

    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(i >> 8);
    hash_sha256(text, sizeof text, hash);
    wire_data_begin(&out, 12);
    is_int(wire_data_add(&out, &chunk), 0, "a raw chunk");
    chunk = (struct wire_data_chunk){5, WIRE_ZSTD, (uint32_t)zip_pack(z, text, sizeof text, packed), packed, sizeof text};
    is_int(wire_data_add(&out, &chunk), 0, "a packed chunk of %u bytes", chunk.stored_size);
    is_int(wire_data_count(&out), 2, "are two");
    is_int(wire_data_decode(out.data, out.size_bytes, &data, &e), 0, "DATA decodes: %s", e.message);
    ok(wire_data_next(&data, &got) && got.entry == 4 && wire_data_unpack(z, &got, hash, back, &e) == 0, "the first is whole");
    ok(wire_data_next(&data, &got) && got.entry == 5 && wire_data_unpack(z, &got, hash, back, &e) == 0, "the second is whole");
    ok(memcmp(back, text, sizeof text) == 0, "and the same");
    hash[0] ^= 1;
    is_int(wire_data_unpack(z, &got, hash, back, &e), -1, "another hash than offered is refused");
    is_int(e.kind, ERR_CORRUPT, "as corrupt");
    is_int(wire_data_decode(out.data, out.size_bytes - 1, &data, &e), -1, "a cut frame is refused");
    buf_release(&out);
    hash_sha256(text, 2 * WIRE_PAGE_SIZE, hash);
    wire_data_begin(&out, 13);
    chunk = (struct wire_data_chunk){1, WIRE_RAW, 2 * WIRE_PAGE_SIZE, text, 2 * WIRE_PAGE_SIZE};
    is_int(wire_data_add(&out, &chunk), 0, "two pages of a chunk");
    ok(wire_data_decode(out.data, out.size_bytes, &data, &e) == 0 && wire_data_next(&data, &got) && got.raw_size == 2 * WIRE_PAGE_SIZE &&
       wire_data_unpack(z, &got, hash, back, &e) == 0 && memcmp(back, text, 2 * WIRE_PAGE_SIZE) == 0, "come as they are");
    out.data[12 + 4] = 1;
    is_int(wire_data_decode(out.data, out.size_bytes, &data, &e), -1, "a size that is no number of pages is refused");
    buf_release(&out);
    wire_data_begin(&out, 14);
    chunk = (struct wire_data_chunk){0, WIRE_RAW, WIRE_CHUNK_SIZE, text, WIRE_CHUNK_SIZE};
    for (unsigned i = 0; i < 200 && wire_data_add(&out, &chunk) == 0; i++)
        ;
    ok(out.size_bytes <= WIRE_PAYLOAD_LIMIT && !out.over && wire_data_count(&out) > 120, "a full frame takes no more");
    is_int(wire_data_decode(out.data, out.size_bytes, &data, &e), 0, "and decodes");
    buf_release(&out);
}

static void test_status(void)
{
    static const char old[] = "{\"state\":\"CONTINUOUS\",\"tracker\":\"ebpf\",\"bytes_total\":9,\"bytes_read\":8,\"bytes_sent\":7,\"bytes_done\":9,\"backlog_bytes\":0,"
        "\"lag_ms\":0,\"eta_ms\":-1,\"rate_bytes_per_s\":5,\"churn_bytes_per_s\":4,\"held\":false,\"error_kind\":\"\",\"error\":\"\"}";
    struct wire_point p = {.request = 4, .consistency = WIRE_FROZEN, .at_us = 5, .unreadable_bytes = 1024, .range_count = 2,
                           .ranges = {{.disk = 0, .first_sector = 8, .sector_count = 1}, {.disk = 3, .first_sector = 1, .sector_count = 1}}}, point;
    struct wire_status s = {.state = "BACKLOG", .tracker = "rescan", .eta_ms = -2, .rate_bytes_per_s = -1, .churn_bytes_per_s = -1, .limit_bytes_per_s = 6,
                            .bottleneck = "limit", .tracker_reason = "none", .rescan_interval_s = 300, .note_kind = "marks_lost", .note = "two", .unreadable_bytes = 512, .unreadable = "one", .scan_ms = 9}, back;
    struct err e = {0};

    wire_json_encode(WIRE_STATUS, &s, sizeof s, &out);
    is_int(wire_json_decode(WIRE_STATUS, out.data, out.size_bytes, &back, sizeof back, &e), 0, "STATUS decodes: %s", e.message);
    ok(memcmp(&s, &back, sizeof s) == 0, "to the same, never and unknown, too");
    buf_release(&out);
    is_int(wire_json_decode(WIRE_STATUS, old, sizeof old - 1, &back, sizeof back, &e), -1, "one that lacks members is refused: %s", e.message);
    wire_json_encode(WIRE_POINT_COMMIT, &p, sizeof p, &out);
    is_int(wire_json_decode(WIRE_POINT_COMMIT, out.data, out.size_bytes, &point, sizeof point, &e), 0, "a marked POINT_COMMIT decodes: %s", e.message);
    ok(memcmp(&p, &point, sizeof p) == 0, "to the same, its ranges, too");
    buf_release(&out);
}

static void test_copy(void)
{
    static struct wire_copy_point p, back;
    static struct wire_copy_pins pins, pins_back;
    static struct wire_copy_pinned pinned;
    struct err e = {0};

    p = (struct wire_copy_point){.request = 1, .epoch = "e", .point = "p", .base = "b", .at_us = 5, .consistency = WIRE_FROZEN, .freeze_ms = 2, .unreadable_bytes = 512, .range_count = 1,
                                 .ranges = {{.disk = 0, .first_sector = 8, .sector_count = 1}}, .group = "g", .group_name = "shop", .group_at_us = 4, .group_window_us = 3,
                                 .member_count = 2, .members = {{"p", "web01"}, {"q", "db01"}}, .disk_count = 1, .disks = {{.id = "d", .size_bytes = 4096}}};
    wire_json_encode(WIRE_COPY_POINT, &p, sizeof p, &out);
    is_int(wire_json_decode(WIRE_COPY_POINT, out.data, out.size_bytes, &back, sizeof back, &e), 0, "COPY_POINT decodes: %s", e.message);
    ok(memcmp(&p, &back, sizeof p) == 0, "to the same: group, marks and disks");
    buf_release(&out);
    p.at_us = 0;
    wire_json_encode(WIRE_COPY_POINT, &p, sizeof p, &out);
    is_int(wire_json_decode(WIRE_COPY_POINT, out.data, out.size_bytes, &back, sizeof back, &e), -1, "one without a moment is refused: %s", e.message);
    buf_release(&out);
    pins = (struct wire_copy_pins){.request = 2, .pin_count = 1, .pins = {{"p", "audit"}}, .ended_count = 1, .ended = {{"q", "audit"}}};
    wire_json_encode(WIRE_COPY_PINS, &pins, sizeof pins, &out);
    ok(wire_json_decode(WIRE_COPY_PINS, out.data, out.size_bytes, &pins_back, sizeof pins_back, &e) == 0 && memcmp(&pins, &pins_back, sizeof pins) == 0, "COPY_PINS decodes to the same");
    buf_release(&out);
    MUST(buf_puts(&out, "{\"request\":1,\"value\":0}") == 0);
    ok(wire_json_decode(WIRE_COPY_PINNED, out.data, out.size_bytes, &pinned, sizeof pinned, &e) == 0 && pinned.unsaid_count == 0, "a COPY_PINNED from before unsaid decodes, too");
    buf_release(&out);
}

static void test_json(void)
{
    static struct wire_hello hello, hello_back;
    struct wire_take_point take = {3, WIRE_APPLICATION, true, 5000, 200, 0, true, 2500}, take_back;
    static struct wire_hash_done done, done_back;
    struct err e = {0};

    hello = (struct wire_hello){.version = 1, .agent_version = "0.1.0", .server = "db01", .boot_id = "b", .tracker = "ebpf", .epoch = "e",
                                .disk_count = 2};
    for (int i = 0; i < 2; i++) {
        snprintf(hello.disks[i].id, sizeof hello.disks[i].id, "serial:%d", i);
        snprintf(hello.disks[i].name, sizeof hello.disks[i].name, "vd%c", 'a' + i);
        hello.disks[i].size_bytes = (i + 1) * INT64_C(1000000512);
    }
    wire_json_encode(WIRE_HELLO, &hello, sizeof hello, &out);
    is_int(wire_json_decode(WIRE_HELLO, out.data, out.size_bytes, &hello_back, sizeof hello_back, &e), 0, "HELLO decodes: %s", e.message);
    ok(memcmp(&hello, &hello_back, sizeof hello) == 0, "to the same");
    buf_release(&out);
    wire_json_encode(WIRE_TAKE_POINT, &take, sizeof take, &out);
    is_str(out.data, "{\"request\":3,\"consistency\":\"application\",\"hold\":true,\"timeout_ms\":5000,\"freeze_budget_ms\":200,\"hold_limit_ms\":0,"
           "\"group\":true,\"hope_ms\":2500}",
           "TAKE_POINT as in the document");
    is_int(wire_json_decode(WIRE_TAKE_POINT, out.data, out.size_bytes, &take_back, sizeof take_back, &e), 0, "decodes");
    ok(take_back.request == 3 && take_back.consistency == WIRE_APPLICATION && take_back.hold && take_back.group && take_back.timeout_ms == 5000 &&
       take_back.freeze_budget_ms == 200 && take_back.hope_ms == 2500, "to the same");
    buf_release(&out);
    MUST(buf_puts(&out, "{\"request\":3,\"consistency\":\"any\",\"hold\":false,\"timeout_ms\":5000,\"freeze_budget_ms\":0,\"hold_limit_ms\":0,\"group\":false}") == 0);
    ok(wire_json_decode(WIRE_TAKE_POINT, out.data, out.size_bytes, &take_back, sizeof take_back, &e) == 0 && take_back.hope_ms == 0,
       "what a replicator from before hope_ms says decodes, too");
    buf_release(&out);
    done = (struct wire_hash_done){.request = 1, .still = true, .disk_count = 1, .disks = {{.id = "d", .size_bytes = 512}}};
    hash_sha256("", 0, done.disks[0].sha256);
    wire_json_encode(WIRE_HASH_DONE, &done, sizeof done, &out);
    ok(wire_json_decode(WIRE_HASH_DONE, out.data, out.size_bytes, &done_back, sizeof done_back, &e) == 0 &&
       memcmp(&done, &done_back, sizeof done) == 0, "HASH_DONE decodes to the same");
    buf_release(&out);
}

static void test_move(void)
{
    static const char unfit[] = "{\"request\":1,\"replicator\":\"staging2\",\"address\":\"192.0.2.20\",\"port\":0}";
    static struct wire_move move = {.request = 1, .replicator = "staging2", .address = "192.0.2.20", .port = 8444}, back;
    struct err e = {0};

    wire_json_encode(WIRE_MOVE, &move, sizeof move, &out);
    is_str(out.data, "{\"request\":1,\"replicator\":\"staging2\",\"address\":\"192.0.2.20\",\"port\":8444}", "MOVE as in the document");
    ok(wire_json_decode(WIRE_MOVE, out.data, out.size_bytes, &back, sizeof back, &e) == 0 && memcmp(&move, &back, sizeof move) == 0, "decodes to the same");
    buf_release(&out);
    is_int(wire_json_decode(WIRE_MOVE, unfit, sizeof unfit - 1, &back, sizeof back, &e), -1, "to no port there is no way");
}

/* What an agent says of a failed program is the program's own words, and they are cut. */
static void test_words(void)
{
    static const struct {
        const char *said, *heard;
    } words[] = {
        {"the disk is voll: für \xe2\x82\xac", "the disk is voll: für \xe2\x82\xac"},
        {"cut in the midst of \xe2\x82", "cut in the midst of ??"},
        {"\x82\xac begins in the midst", "?? begins in the midst"},
        {"Latin: Ger\xe4t gest\xf6rt", "Latin: Ger?t gest?rt"},
        {"half a pair \xed\xa0\x80, too long \xc0\xaf, none \xff\xf0\x9f\x98\x80", "half a pair ???, too long ??, none ?\xf0\x9f\x98\x80"},
    };
    struct wire_failure failure = {.request = 1, .kind = "io"}, back;
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        snprintf(failure.message, sizeof failure.message, "%s", words[i].said);
        wire_json_encode(WIRE_POINT_FAILED, &failure, sizeof failure, &out);
        is_int(wire_json_decode(WIRE_POINT_FAILED, out.data, out.size_bytes, &back, sizeof back, &e), 0, "a failure decodes, whatever its words are: %s", e.message);
        ok(strcmp(back.message, words[i].heard) == 0, "what is no UTF-8 is a question mark, and all else is as it was said");
        buf_release(&out);
    }
}

static void test_bad_json(void)
{
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"", "nothing"},
        {"[]", "a list"},
        {"{\"request\":1}", "a missing member"},
        {"{\"request\":\"1\",\"value\":0}", "text for a number"},
        {"{\"request\":1,\"value\":-1}", "a negative value"},
        {"{\"request\":1,\"value\":1152921504606846977}", "a number over its bound"},
        {"{\"request\":1,\"request\":1,\"value\":0}", "a member twice"},
        {"{\"request\":1,\"value\":0} x", "something after it"},
    };
    static const char good[] = "{\"request\":1,\"value\":5,\"read_bytes_per_s\":0,\"cpu_percent\":3,\"new\":{}}";
    struct wire_limit simple = {7, 7, 7, 7};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        is_int(wire_json_decode(WIRE_LIMIT, bad[i].text, strlen(bad[i].text), &simple, sizeof simple, &e), -1, "%s is refused: %s",
               bad[i].why, e.message);
        is_int(e.kind, ERR_PROTOCOL, "as a protocol error");
    }
    ok(simple.request == 7 && simple.value == 7, "the output is untouched");
    is_int(wire_json_decode(WIRE_LIMIT, good, sizeof good, &simple, sizeof simple, &e), -1, "a NUL at the end is refused");
    is_int(wire_json_decode(WIRE_LIMIT, good, sizeof good - 1, &simple, sizeof simple, &e), 0, "unknown members are ignored");
    ok(simple.value == 5 && simple.read_bytes_per_s == 0 && simple.cpu_percent == 3, "and the others are taken");
    is_int(wire_json_decode(WIRE_LIMIT, "{\"request\":1,\"value\":5,\"cpu_percent\":3}", 39, &simple, sizeof simple, &e), -1, "none may be missing");
}

int main(void)
{
    test_header();
    test_offer();
    test_need_ack_hashes();
    test_data();
    test_status();
    test_copy();
    test_json();
    test_move();
    test_words();
    test_bad_json();
    return tap_done();
}
