/* Frames over TLS: several threads send, one receives; sequence, cut ends, time-outs. */
#include "wire/conn.h"
#include "base/clock.h"
#include "tap.h"
#include "testca.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/socket.h>

#define SENDERS 4
#define FRAMES_EACH 200

static struct wire_conn *ends[2];
static struct tls_context *contexts[2];

static void *accept_end(void *user)
{
    struct tls_stream *s = NULL;

    MUST(tls_open(contexts[1], *(int *)user, "agent:", 3000, &s, NULL) == 0);
    ends[1] = wire_conn_new(&s, 5000);
    return NULL;
}

static void connect_ends(void)
{
    struct tls_stream *s = NULL;
    pthread_t thread;
    int pair[2];

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pthread_create(&thread, NULL, accept_end, &pair[1]) == 0);
    MUST(tls_open(contexts[0], pair[0], "replicator:", 3000, &s, NULL) == 0);
    ends[0] = wire_conn_new(&s, 5000);
    pthread_join(thread, NULL);
}

static void *send_many(void *user)
{
    static uint8_t payload[SENDERS][100000];
    uintptr_t who = (uintptr_t)user;

    memset(payload[who], (int)who + 1, sizeof payload[who]);
    for (unsigned i = 0; i < FRAMES_EACH; i++)
        if (wire_send(ends[0], WIRE_STATUS, payload[who], 1 + (i * 7919u + (unsigned)who) % sizeof payload[who], NULL) < 0)
            break;
    return NULL;
}

static void test_many_senders(void)
{
    pthread_t threads[SENDERS];
    struct wire_frame frame;
    struct err e = {0};
    int count[SENDERS + 1] = {0}, torn = 0, got;
    bool closed;

    for (uintptr_t i = 0; i < SENDERS; i++)
        MUST(pthread_create(&threads[i], NULL, send_many, (void *)i) == 0);
    for (int i = 0; i < SENDERS * FRAMES_EACH; i++) {
        got = wire_recv(ends[1], &frame, 5000, &closed, &e);
        if (!(got == 1 && frame.type == WIRE_STATUS && frame.payload[0] >= 1 && frame.payload[0] <= SENDERS))
            break;
        count[frame.payload[0]]++;
        for (size_t k = 1; k < frame.size; k++)
            torn += frame.payload[k] != frame.payload[0];
    }
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
        is_int(count[i + 1], FRAMES_EACH, "all frames of sender %d came", i);
    }
    is_int(torn, 0, "no frame was torn");
    is_int(wire_conn_sent_bytes(ends[0]), wire_conn_received_bytes(ends[1]), "both ends count the same bytes");
}

/* A frame that is too large for the socket's buffer is sent by a thread of its own. */
static struct {
    struct buf data;
    bool packed;
    int64_t sent_bytes;
    int result;
} large;

static void *send_large(void *unused)
{
    large.result = large.packed ? wire_send_packed(ends[0], &large.data, 6, &large.sent_bytes, NULL) : wire_send_buf(ends[0], WIRE_DATA, &large.data, NULL);
    return unused;
}

static void pass_large(bool packed, const char *what)
{
    struct wire_frame frame = {0};
    struct err e = {0};
    pthread_t thread;
    bool closed;
    int got;

    large.packed = packed;
    MUST(pthread_create(&thread, NULL, send_large, NULL) == 0);
    got = wire_recv(ends[1], &frame, 5000, &closed, &e);
    pthread_join(thread, NULL);
    ok(large.result == 0 && got == 1 && frame.type == WIRE_DATA && frame.size == large.data.size_bytes && memcmp(frame.payload, large.data.data, frame.size) == 0, "%s", what);
}

static size_t held_bytes(void)
{
    struct mallinfo2 held = mallinfo2();

    return held.uordblks + held.hblkhd;
}

static void fill_large(void)
{
    uint32_t state = 1;

    buf_init(&large.data, WIRE_PAYLOAD_LIMIT);
    while (large.data.size_bytes < (1u << 20)) {
        state = state * 1664525 + 1013904223;
        MUST(buf_add(&large.data, &state, sizeof state) == 0);
    }
}

static void test_rest(void)
{
    struct wire_frame frame;
    struct err e = {0};
    bool closed;
    size_t before, after;

    pass_large(false, "a large frame comes");
    before = held_bytes();
    is_int(wire_recv(ends[1], &frame, 20, &closed, &e), 0, "then nothing");
    after = held_bytes();
    ok(!before || before - after >= large.data.size_bytes, "and its room is given back: %zu of %zu bytes are left", after, before);
    pass_large(false, "another comes all the same");
}

static void test_packed(void)
{
    struct wire_frame frame;
    struct err e = {0};
    int64_t first_sent;
    bool closed;
    size_t before;

    while (wire_recv(ends[1], &frame, 20, &closed, &e) > 0)
        ;
    before = held_bytes();
    pass_large(true, "a DATA comes packed, and is a DATA");
    first_sent = large.sent_bytes;
    pass_large(true, "and the same again");
    ok(large.sent_bytes < first_sent / 100, "which takes %lld bytes after %lld", (long long)large.sent_bytes, (long long)first_sent);
    is_int(wire_conn_sent_bytes(ends[0]), wire_conn_received_bytes(ends[1]), "both ends count what went over the wire");
    is_int(wire_conn_rest(ends[0], 60 * US_PER_S, &e), 0, "a stream that was used just now goes on");
    pass_large(true, "with what it knew");
    ok(large.sent_bytes < first_sent / 100, "which takes %lld bytes", (long long)large.sent_bytes);
    is_int(wire_conn_rest(ends[0], 0, &e), 0, "a stream may rest");
    is_int(wire_recv(ends[1], &frame, 2000, &closed, &e), 0, "which is no frame for anybody");
    ok(!closed && wire_recv(ends[1], &frame, 20, &closed, &e) == 0, "nor an end");
    ok(!before || held_bytes() < before + (1u << 20), "neither end keeps a window: %zu bytes, %zu before", held_bytes(), before);
    pass_large(true, "and begins anew");
    ok(large.sent_bytes > first_sent / 2, "with nothing that it knew: %lld bytes", (long long)large.sent_bytes);
}

static void test_bad_packed(void)
{
    static const struct {
        const char *bytes, *what;
        size_t size;
    } bad[] = {
        {"\0\0", "PACKED without a head", 2},
        {"\xff\xff\xff\xff", "PACKED of more than a frame's most", 4},
        {"\x04\0\0\0....", "PACKED that is no zstd", 8},
        {"\x04\0\0\0", "PACKED that gives less than it says", 4},
    };
    struct wire_frame frame;
    bool closed;

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct err e = {0};

        MUST(wire_send(ends[0], WIRE_PACKED, bad[i].bytes, bad[i].size, NULL) == 0);
        is_int(wire_recv(ends[1], &frame, 2000, &closed, &e), -1, "%s is refused", bad[i].what);
        ok(e.kind == ERR_PROTOCOL || e.kind == ERR_CORRUPT, "as such: %s", e.message);
    }
}

/* Another thread is in the midst of a frame that the other end does not take. */
static void test_soon(void)
{
    struct wire_simple said = {.request = 1}, heard = {0};
    struct wire_frame frame = {0};
    struct err e = {0};
    pthread_t thread;
    int64_t begun_us;
    int came = 0, result = 0;
    bool closed;

    large.packed = false;
    MUST(pthread_create(&thread, NULL, send_large, NULL) == 0);
    clock_sleep_us(200 * US_PER_MS);
    begun_us = clock_monotonic_us();
    for (said.value = 0; said.value < 3; said.value++)
        result |= wire_send_soon(ends[0], WIRE_PING, &said, sizeof said, &e);
    ok(result == 0 && clock_monotonic_us() - begun_us < US_PER_S, "small messages wait, and whoever has them does not: %lld us", (long long)(clock_monotonic_us() - begun_us));
    ok(wire_recv(ends[1], &frame, 5000, &closed, &e) == 1 && frame.type == WIRE_DATA && frame.size == large.data.size_bytes, "the frame comes whole");
    while (came < 3 && wire_recv(ends[1], &frame, 2000, &closed, &e) == 1 && wire_json_decode(WIRE_PING, frame.payload, frame.size, &heard, sizeof heard, &e) == 0 && heard.value == came)
        came++;
    pthread_join(thread, NULL);
    is_int(came, 3, "and they come behind it, in their order, though nobody sends anything else");
    MUST(pthread_create(&thread, NULL, send_large, NULL) == 0);
    clock_sleep_us(200 * US_PER_MS);
    while (result == 0 && said.value++ < 100000)
        result = wire_send_soon(ends[0], WIRE_PING, &said, sizeof said, &e);
    pthread_join(thread, NULL);
    ok(result < 0 && e.kind == ERR_UNREACHABLE && large.result < 0, "where more and more wait the connection is cut: %s", e.message);
    wire_conn_free(&ends[0]);
    wire_conn_free(&ends[1]);
    connect_ends();
}

static void test_ends(void)
{
    struct wire_simple ping = {1, 2}, back;
    struct wire_frame frame;
    struct err e = {0};
    bool closed = true;

    is_int(wire_recv(ends[0], &frame, 20, &closed, &e), 0, "nothing comes");
    ok(!closed, "which is not the end");
    is_int(wire_send_message(ends[1], WIRE_PING, &ping, &e), 0, "a message goes the other way");
    is_int(wire_recv(ends[0], &frame, 2000, &closed, &e), 1, "and comes");
    ok(frame.type == WIRE_PING && wire_json_decode(WIRE_PING, frame.payload, frame.size, &back, sizeof back, &e) == 0 && back.value == 2,
       "whole");
    wire_conn_free(&ends[1]);
    is_int(wire_recv(ends[0], &frame, 2000, &closed, &e), 0, "the other end closes");
    ok(closed, "which is the end");
    wire_conn_cut(ends[0]);
    is_int(wire_send_message(ends[0], WIRE_PING, &ping, &e), -1, "a cut connection sends nothing");
    wire_conn_free(&ends[0]);
}

int main(void)
{
    char *agent[2], *replicator[2];
    struct test_ca ca;

    signal(SIGPIPE, SIG_IGN);
    test_ca_make(&ca);
    test_ca_sign(&ca, "agent:a", agent);
    test_ca_sign(&ca, "replicator:r", replicator);
    MUST(tls_context_new(TLS_CLIENT, agent[0], agent[1], ca.pem, &contexts[0], NULL) == 0);
    MUST(tls_context_new(TLS_SERVER, replicator[0], replicator[1], ca.pem, &contexts[1], NULL) == 0);
    connect_ends();
    test_many_senders();
    fill_large();
    test_rest();
    test_packed();
    test_bad_packed();
    wire_conn_free(&ends[0]);
    wire_conn_free(&ends[1]);
    connect_ends(); /* the one before was sent what can't be unpacked */
    test_soon();
    buf_release(&large.data);
    test_ends();
    for (int i = 0; i < 2; i++) {
        tls_context_free(&contexts[i]);
        free(agent[i]);
        free(replicator[i]);
    }
    test_ca_release(&ca);
    return tap_done();
}
