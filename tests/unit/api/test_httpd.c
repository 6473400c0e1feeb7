/* The HTTP layer over a table of its own: routes, limits, problems, parking, streams, certificates, stopping. */
#include "api/httpd.h"
#include "ask.h"
#include "base/clock.h"
#include "fixture.h"
#include "tap.h"

#include <pthread.h>
#include <stdatomic.h>

static struct httpd_server *server;
static atomic_int slow_running, closed_streams;
static atomic_bool released;

/* --- handlers --- */

static int echo(struct http_call *c, struct err *e)
{
    const char *query = call_query(c, "q");
    int64_t number = 0;

    if (call_query_int(c, "n", 0, 100, &number, e) < 0)
        return -1;
    return reply_json(c, 200, json_pack("{s:s, s:s?, s:I, s:O?}", "name", call_param(c, "name"), "q", query, "n", (json_int_t)number,
                                        "body", c->body));
}

static int sized(struct http_call *c, struct err *e)
{
    (void)e;
    return reply_json(c, 200, json_pack("{s:I}", "size", (json_int_t)c->bytes.size_bytes));
}

static int faulty(struct http_call *c, struct err *e)
{
    call_fault(c, "name", "is empty");
    call_fault(c, "owner", "is not there");
    return err_set(e, ERR_INVALID, "two fields are wrong");
}

static int versioned(struct http_call *c, struct err *e)
{
    int64_t version = -1;

    if (call_if_match(c, &version, e) < 0)
        return -1;
    reply_etag(c, 7);
    return reply_json(c, 200, json_pack("{s:I}", "asked", (json_int_t)version));
}

static int slow(struct http_call *c, struct err *e)
{
    (void)e;
    slow_running++;
    clock_sleep_us(300 * US_PER_MS);
    return reply_empty(c, 204);
}

static int parks(struct http_call *c, struct err *e)
{
    int64_t wait_ms = 5000;

    if (call_query_int(c, "wait_ms", 0, 10000, &wait_ms, e) < 0)
        return -1;
    if (released)
        return reply_json(c, 200, json_pack("{s:b}", "released", 1));
    if (c->time_is_up)
        return reply_empty(c, 204);
    return call_park(c, clock_monotonic_us() + wait_ms * US_PER_MS);
}

static int certified(struct http_call *c, struct err *e)
{
    const char *pem = NULL;
    int found = call_certificate(c, &pem, e);

    if (found < 0)
        return -1;
    return reply_json(c, 200, json_pack("{s:i, s:s?}", "found", found, "pem", pem));
}

struct ticker {
    struct http_call *call;
    pthread_t thread;
    atomic_int ticks, sent;
    atomic_bool over;
};

static void *tick(void *context)
{
    struct ticker *t = context;

    for (int i = 0; i < 5 && !t->over; i++) {
        clock_sleep_us(20 * US_PER_MS);
        t->ticks++;
        call_stream_wake(t->call);
    }
    return NULL;
}

static ssize_t ticker_read(void *user, char *bytes, size_t size)
{
    struct ticker *t = user;

    if (t->sent == 5)
        return -1;
    if (t->sent == t->ticks)
        return 0;
    return snprintf(bytes, size, "tick %d\n", ++t->sent);
}

static void ticker_close(void *user)
{
    struct ticker *t = user;

    t->over = true;
    pthread_join(t->thread, NULL);
    free(t);
    closed_streams++;
}

static int streams(struct http_call *c, struct err *e)
{
    struct ticker *t = xcalloc(1, sizeof *t);
    struct http_stream stream = {ticker_read, ticker_close, t};

    t->call = c;
    if (reply_stream(c, "text/plain", &stream, e) < 0)
        return -1;
    MUST(pthread_create(&t->thread, NULL, tick, t) == 0);
    return 0;
}

static ssize_t silent_read(void *user, char *bytes, size_t size)
{
    (void)user, (void)bytes, (void)size;
    return 0;
}

static void silent_close(void *user)
{
    (void)user;
    closed_streams++;
}

static int is_silent(struct http_call *c, struct err *e)
{
    return reply_stream(c, "text/plain", &(struct http_stream){silent_read, silent_close, NULL}, e);
}

static int console(struct http_call *c, struct err *e)
{
    (void)e;
    reply_header(c, "Cache-Control", "no-cache");
    return reply_lasting(c, 200, "text/html", "<p>", 3);
}

static int authorise(struct http_call *c, struct err *e)
{
    const char *word = call_header(c, "Authorization");

    if (c->route->access == ACCESS_PUBLIC)
        return 0;
    if (!word || strcmp(word, "Bearer good") != 0)
        return err_set(e, ERR_UNAUTHENTICATED, "who are you?");
    return 0;
}

static const struct http_route routes[] = {
    {HTTP_GET, "/v1/echo/{name}", echo, ACCESS_PUBLIC, INPUT_NONE, .query = "q,n"},
    {HTTP_POST, "/v1/echo/{name}", echo, ACCESS_PUBLIC, INPUT_JSON, .query = "q,n"},
    {HTTP_PUT, "/v1/sized", sized, ACCESS_VIEWER, INPUT_BYTES, .limit_bytes = 1 << 20},
    {HTTP_POST, "/v1/faulty", faulty, ACCESS_PUBLIC, INPUT_JSON, .summary = ""},
    {HTTP_GET, "/v1/versioned", versioned, ACCESS_PUBLIC, INPUT_NONE, .summary = ""},
    {HTTP_GET, "/v1/slow", slow, ACCESS_PUBLIC, INPUT_NONE, .summary = ""},
    {HTTP_GET, "/v1/parks", parks, ACCESS_PUBLIC, INPUT_NONE, .query = "wait_ms"},
    {HTTP_GET, "/v1/streams", streams, ACCESS_PUBLIC, INPUT_NONE, .summary = ""},
    {HTTP_GET, "/v1/silent", is_silent, ACCESS_PUBLIC, INPUT_NONE, .summary = ""},
    {HTTP_GET, "/v1/certified", certified, ACCESS_PUBLIC, INPUT_NONE, .summary = ""},
    {HTTP_GET, "/quick", console, ACCESS_PUBLIC, INPUT_NONE, .quick = true},
};
static const struct http_route otherwise = {HTTP_GET, "", console, ACCESS_PUBLIC, INPUT_NONE, .quick = true};

static const struct httpd_options options = {.address = "127.0.0.1:0", .routes = routes, .route_count = ARRAY_COUNT(routes),
                                             .otherwise = &otherwise, .authorise = authorise};

/* --- tests --- */

static void test_routes(void)
{
    struct answer a = ask("GET", "/v1/echo/a%2Fb%20c?q=x%26y+z&n=5");

    is_int(a.status, 200, "a route answers");
    is_str(a.body.data, "{\"name\":\"a/b c\",\"q\":\"x&y z\",\"n\":5,\"body\":null}", "escapes are decoded after splitting");
    answer_release(&a);
    a = ask("GET", "/v1/echo/%ff");
    is_int(a.status, 400, "a path that is not UTF-8");
    answer_release(&a);
    a = ask("GET", "/v1/echo/x?q=%zz");
    is_int(a.status, 400, "a broken escape in the query");
    answer_release(&a);
    a = ask("GET", "/v1/echo/x?limt=5");
    ok(a.status == 400 && answer_has(&a, "no parameter \\\"limt\\\""), "an unknown parameter is named");
    answer_release(&a);
    a = ask("GET", "/v1/echo/x?n=101");
    is_int(a.status, 400, "a number out of range");
    answer_release(&a);
    a = ask("GET", "/v1/nothing");
    ok(a.status == 404 && answer_has(&a, "\"kind\":\"not_found\""), "no such path");
    is_str(answer_header(&a, "Content-Type"), "application/problem+json", "as a problem");
    answer_release(&a);
    a = ask("DELETE", "/v1/echo/x");
    is_int(a.status, 405, "no such method");
    is_str(answer_header(&a, "Allow"), "GET, POST", "and those that there are");
    answer_release(&a);
    a = ask("GET", "/waves/wave1");
    is_str(a.body.data, "<p>", "other paths are the console's");
    answer_release(&a);
    a = ask("HEAD", "/v1/echo/x");
    ok(a.status == 200 && a.body.size_bytes == 0, "HEAD has no body");
    answer_release(&a);
}

static void test_headers(void)
{
    struct answer a = ask("GET", "/v1/echo/x");

    is_str(answer_header(&a, "X-Content-Type-Options"), "nosniff", "nosniff");
    is_str(answer_header(&a, "Cache-Control"), "no-store", "not cached");
    ok(strstr(answer_header(&a, "Content-Security-Policy"), "frame-ancestors 'none'"), "not framed");
    ok(strstr(answer_header(&a, "Strict-Transport-Security"), "max-age="), "HTTPS only");
    is_int(strlen(answer_header(&a, "X-Request-Id")), 16, "a request id");
    answer_release(&a);
    a = ask("GET", "/quick");
    is_str(answer_header(&a, "Cache-Control"), "no-cache", "a handler may say otherwise");
    answer_release(&a);
}

static char *deep_json(int depth)
{
    char *text = xcalloc(1, (size_t)depth * 6 + 10);

    for (int i = 0; i < depth; i++)
        strcat(text, "{\"a\":");
    strcat(text, "1");
    for (int i = 0; i < depth; i++)
        strcat(text, "}");
    return text;
}

static void test_bodies(void)
{
    CLEANUP(free_ptr) char *deep = deep_json(100), *big = xmalloc(3 << 20);
    const char *signed_in = "Authorization: Bearer good";
    struct answer a = ask_json("POST", "/v1/echo/x", "{\"k\":[1,2]}");

    is_str(a.body.data, "{\"name\":\"x\",\"q\":null,\"n\":0,\"body\":{\"k\":[1,2]}}", "a JSON body");
    answer_release(&a);
    a = ask_json("POST", "/v1/echo/x", "[1]");
    is_int(a.status, 400, "not an object");
    answer_release(&a);
    a = ask_json("POST", "/v1/echo/x", "{\"a\":1,\"a\":2}");
    is_int(a.status, 400, "a key twice");
    answer_release(&a);
    a = ask_json("POST", "/v1/echo/x", deep);
    ok(a.status == 413 && answer_has(&a, "deeper"), "JSON too deep");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "POST", .path = "/v1/echo/x", .body = "{}", .headers = {"Content-Type: text/plain"}});
    is_int(a.status, 415, "another media type");
    answer_release(&a);
    memset(big, 'x', 3 << 20);
    a = ask_with(&(struct question){.method = "POST", .path = "/v1/echo/x", .body = big, .body_size = 100000});
    is_int(a.status, 413, "more than a stranger may send");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "PUT", .path = "/v1/sized", .body = big, .body_size = 1 << 20, .headers = {signed_in}});
    is_str(a.body.data, "{\"size\":1048576}", "as much as is allowed");
    answer_release(&a);
    /* The server refuses before the body comes and closes: a client that sends all the same may find its sending fail before it reads that. */
    a = ask_with(&(struct question){.method = "PUT", .path = "/v1/sized", .body = big, .body_size = (1 << 20) + 1, .headers = {signed_in}, .asks_first = true});
    is_int(a.status, 413, "a byte more, announced");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "PUT", .path = "/v1/sized", .body = big, .body_size = (1 << 20) + 1, .headers = {signed_in},
                                    .chunked = true});
    is_int(a.status, 413, "a byte more, not announced");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "PUT", .path = "/v1/sized", .body = big, .body_size = 1 << 20});
    ok(a.status == 401 || a.status == 0, "a stranger's large body is not taken in (%ld)", a.status);
    answer_release(&a);
    a = ask_with(&(struct question){.method = "PUT", .path = "/v1/sized", .body = big, .body_size = 100});
    is_int(a.status, 401, "nor a small one");
    ok(strstr(answer_header(&a, "WWW-Authenticate"), "Bearer"), "and says how to sign in");
    answer_release(&a);
    struct http_numbers n;
    for (int i = 0; i < 1000; i++) { /* the answer may be here before the call is over */
        httpd_read_numbers(server, &n);
        if (!n.bodies_bytes)
            break;
        clock_sleep_us(10 * US_PER_MS);
    }
    is_int(n.bodies_bytes, 0, "no body is held after its call");
}

static void test_problems(void)
{
    struct answer a = ask_json("POST", "/v1/faulty", "{}");

    is_int(a.status, 422, "faults");
    ok(answer_has(&a, "\"faults\":[{\"field\":\"name\",\"reason\":\"is empty\"},{\"field\":\"owner\""), "every fault is reported");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/versioned", .headers = {"If-Match: \"12\""}});
    is_str(a.body.data, "{\"asked\":12}", "If-Match");
    is_str(answer_header(&a, "ETag"), "\"7\"", "ETag");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/versioned", .headers = {"If-Match: \"12x\""}});
    is_int(a.status, 400, "an If-Match that is none");
    answer_release(&a);
}

static void *ask_thread(void *context)
{
    struct answer *a = xcalloc(1, sizeof *a);

    *a = ask(context ? "GET" : "", context);
    return a;
}

static void test_parking(void)
{
    pthread_t threads[24];
    int64_t from_us = clock_monotonic_us();
    struct answer a = ask("GET", "/v1/parks?wait_ms=200"), *found;
    int answered = 0;

    ok(a.status == 204 && clock_monotonic_us() - from_us >= 200 * US_PER_MS, "a long poll ends at its time");
    answer_release(&a);
    for (int i = 0; i < 24; i++)
        MUST(pthread_create(&threads[i], NULL, ask_thread, (void *)(uintptr_t)"/v1/parks") == 0);
    struct http_numbers n = {0};
    for (int i = 0; i < 300 && n.parked < 24; i++) {
        clock_sleep_us(10 * US_PER_MS);
        httpd_read_numbers(server, &n);
    }
    is_int(n.parked, 24, "more are parked than there are workers");
    a = ask("GET", "/v1/echo/x");
    is_int(a.status, 200, "and others are served meanwhile");
    answer_release(&a);
    released = true;
    httpd_wake(server);
    for (int i = 0; i < 24; i++) {
        MUST(pthread_join(threads[i], (void **)&found) == 0);
        answered += found->status == 200;
        answer_release(found);
        free(found);
    }
    is_int(answered, 24, "all are answered once woken");
    released = false;
}

static void test_streams(void)
{
    struct answer a = ask("GET", "/v1/streams");
    struct http_numbers n = {.streams = 1};

    is_str(a.body.data, "tick 1\ntick 2\ntick 3\ntick 4\ntick 5\n", "a stream comes as it is made");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/streams", .timeout_ms = 50});
    answer_release(&a);
    for (int i = 0; i < 2000 && n.streams; i++) {
        clock_sleep_us(10 * US_PER_MS);
        httpd_read_numbers(server, &n);
    }
    ok(n.streams == 0 && closed_streams == 2, "a client that leaves ends its stream");
}

static void test_certificates(void)
{
    struct answer a = ask("GET", "/v1/certified");

    is_str(a.body.data, "{\"found\":0,\"pem\":null}", "no certificate is fine");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/certified", .certificate = in("runner.pem"), .key = in("runner.key")});
    ok(answer_has(&a, "{\"found\":1,\"pem\":\"-----BEGIN CERTIFICATE-----\\n"), "ours is handed on");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/certified", .certificate = in("stranger.pem"), .key = in("stranger.key")});
    ok(a.status == 401 || a.status == 0, "another CA's is refused (%ld)", a.status);
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/certified", .certificate = in("wrong.pem"), .key = in("wrong.key")});
    is_int(a.status, 401, "one for a server is refused");
    answer_release(&a);
    a = ask_with(&(struct question){.method = "GET", .path = "/v1/certified", .certificate = in("late.pem"), .key = in("late.key")});
    ok(a.status == 401 && answer_has(&a, "expired"), "an expired one is refused, and told so");
    answer_release(&a);
}

static void test_tls(void)
{
    char command[500];

    snprintf(command, sizeof command, "openssl s_client -connect 127.0.0.1:%d -tls1_2 </dev/null >/dev/null 2>&1", ask_port);
    ok(system(command) != 0, "TLS 1.2 is refused");
    snprintf(command, sizeof command, "openssl s_client -connect 127.0.0.1:%d -tls1_3 </dev/null >/dev/null 2>&1", ask_port);
    ok(system(command) == 0, "TLS 1.3 is not");
}

static void test_stop(void)
{
    pthread_t threads[3];
    const char *paths[3] = {"/v1/slow", "/v1/parks", "/v1/silent"};
    struct http_numbers n = {0};
    struct answer *found[3];
    int64_t from_us;

    slow_running = closed_streams = 0;
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&threads[i], NULL, ask_thread, (void *)(uintptr_t)paths[i]) == 0);
    for (int i = 0; i < 300 && (!slow_running || !n.streams || !n.parked); i++) {
        clock_sleep_us(5 * US_PER_MS);
        httpd_read_numbers(server, &n);
    }
    from_us = clock_monotonic_us();
    httpd_stop(&server);
    ok(clock_monotonic_us() - from_us < 2500 * US_PER_MS, "stops without waiting for long polls and streams");
    for (int i = 0; i < 3; i++)
        MUST(pthread_join(threads[i], (void **)&found[i]) == 0);
    is_int(found[0]->status, 204, "a running request is answered");
    is_int(found[1]->status, 204, "a parked one ends");
    ok(found[2]->status == 200 && closed_streams == 1, "a stream ends");
    for (int i = 0; i < 3; i++) {
        answer_release(found[i]);
        free(found[i]);
    }
}

static void test_addresses(void)
{
    char host[32];
    int port = 0;
    struct err e;

    ok(httpd_split_address("127.0.0.1:8443", host, sizeof host, &port, &e) == 0 && port == 8443, "IPv4 and port");
    is_str(host, "127.0.0.1", "its host");
    ok(httpd_split_address("[::1]:0", host, sizeof host, &port, &e) == 0 && port == 0 && strcmp(host, "::1") == 0, "IPv6 and port");
    const char *bad[] = {"", ":1", "host", "host:", "host:-1", "host:65536", "host:1x", "::1:80", "[::1:80", "[]:80"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        ok(httpd_split_address(bad[i], host, sizeof host, &port, &e) < 0, "\"%s\" is none", bad[i]);
}

int main(void)
{
    fixture_start();
    fixture_serve(&options, &server);
    test_addresses();
    test_routes();
    test_headers();
    test_bodies();
    test_problems();
    test_parking();
    test_streams();
    test_certificates();
    test_tls();
    test_stop();
    fixture_end();
    return tap_done();
}
