/* Server-sent events over a real server: live, resumed, filtered, many, slow, and after a restore. */
#include "api/sse.h"
#include "ask.h"
#include "base/clock.h"
#include "fixture.h"
#include "tap.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static struct httpd_server *server;
static struct store *store;
static struct sse *hub;
static atomic_int woken;

static int events(struct http_call *c, struct err *e)
{
    const char *last = call_header(c, "Last-Event-ID");
    int64_t after_id = -1;

    if (last && sse_parse_id(last, &after_id, e) < 0)
        return -1;
    return sse_subscribe(hub, c, after_id, call_query(c, "wave"), e);
}

static const struct httpd_options *options(void)
{
    static const struct http_route routes[] = {
        {HTTP_GET, "/v1/events", events, ACCESS_PUBLIC, INPUT_NONE, .query = "wave"},
    };
    static const struct httpd_options o = {.address = "127.0.0.1:0", .routes = routes, .route_count = 1};

    return &o;
}

static void on_events(void *user)
{
    (void)user;
    woken++;
    httpd_wake(server);
}

static void add(const char *wave, const char *kind, const char *data)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct err e;

    MUST(store_begin(store, STORE_WRITE, &tx, &e) == 0);
    MUST(event_add(tx, &(struct event){.actor = "factory", .kind = kind, .wave = wave, .entity = "wave", .entity_id = wave, .data = data},
                   clock_now_us(), &e) == 0);
    MUST(store_commit(&tx, &e) == 0);
}

/* A client in a thread of its own that collects until it has seen `enough` or its time is up. */
struct listener {
    pthread_t thread;
    const char *path, *last_id, *enough;
    struct buf seen;
    bool pauses;
};

static size_t hear(char *bytes, size_t size, size_t count, void *user)
{
    struct listener *l = user;

    if (l->pauses)
        clock_sleep_us(2 * US_PER_MS);
    buf_add(&l->seen, bytes, size * count);
    return strstr(l->seen.data, l->enough) ? 0 : size * count;
}

static void *listen_thread(void *context)
{
    struct listener *l = context;
    struct curl_slist *headers = NULL;
    CURL *curl = curl_easy_init();
    char url[300], text[100];

    snprintf(url, sizeof url, "https://127.0.0.1:%d%s", ask_port, l->path);
    snprintf(text, sizeof text, "Last-Event-ID: %s", l->last_id ? l->last_id : "");
    if (l->last_id)
        headers = curl_slist_append(headers, text);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CAINFO, ask_ca);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, hear);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, l);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 20000L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_perform(curl);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return NULL;
}

static void hear_start(struct listener *l)
{
    MUST(pthread_create(&l->thread, NULL, listen_thread, l) == 0);
}

static void wait_for_streams(int count)
{
    struct http_numbers n = {0};

    for (int i = 0; i < 1000; i++) {
        httpd_read_numbers(server, &n);
        if (n.streams == count)
            return;
        clock_sleep_us(10 * US_PER_MS);
    }
    ok(0, "there are %lld streams, not %d", (long long)n.streams, count);
}

static const char *heard(struct listener *l)
{
    pthread_join(l->thread, NULL);
    return l->seen.data ? l->seen.data : "";
}

static void test_live_and_filtered(void)
{
    struct listener all = {.path = "/v1/events", .enough = "\"last\""}, one = {.path = "/v1/events?wave=w2", .enough = "\"last\""};
    const char *text;

    add("w1", "wave.created", "{\"old\":1}");
    hear_start(&all);
    hear_start(&one);
    wait_for_streams(2);
    add("w1", "wave.updated", "{\"n\":1}");
    add("w2", "wave.updated", "{\"n\":\"last\"}");
    text = heard(&all);
    ok(!strstr(text, "old"), "a new client hears what is new");
    ok(strstr(text, "id: 2\nevent: wave.updated\ndata: {\"id\":2,\"at\":") && strstr(text, "\"data\":{\"n\":1}}\n\n"), "as id, kind and object");
    ok(strstr(text, "\"last\""), "to the newest");
    text = heard(&one);
    ok(strstr(text, "id: 3") && !strstr(text, "id: 2"), "a filter lets only its wave through");
    ok(woken > 0, "the hook was called");
    buf_release(&all.seen);
    buf_release(&one.seen);
}

static void test_resume(void)
{
    struct listener l = {.path = "/v1/events", .last_id = "1", .enough = "\"last\""};
    struct listener beyond = {.path = "/v1/events", .last_id = "99999", .enough = "event: reset"};
    struct answer a = ask_with(&(struct question){.method = "GET", .path = "/v1/events", .headers = {"Last-Event-ID: 1; drop"}});
    const char *text;

    is_int(a.status, 400, "a Last-Event-ID that is none");
    answer_release(&a);
    hear_start(&l);
    text = heard(&l);
    ok(strstr(text, "id: 2\n") && strstr(text, "id: 3\n") && !strstr(text, "id: 1\n"), "resumes right after the last id");
    buf_release(&l.seen);
    hear_start(&beyond);
    ok(strstr(heard(&beyond), "event: reset"), "an id from before a restore is told so");
    buf_release(&beyond.seen);
}

/* Far more than a client's buffer: everything comes, in order, once. */
static void test_catch_up(void)
{
    struct listener l = {.path = "/v1/events", .last_id = "3", .enough = "\"the end\"", .pauses = true};
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(free_ptr) char *big = xmalloc(2100);
    int64_t wanted = 4;
    struct err e;

    buf_init(&l.seen, 64 << 20);
    memset(big, 'x', 2099);
    memcpy(big, "{\"x\":\"", 6);
    memcpy(big + 2090, "\"}", 3);
    MUST(store_begin(store, STORE_WRITE, &tx, &e) == 0);
    for (int i = 0; i < 1000; i++)
        MUST(event_add(tx, &(struct event){.actor = "a", .kind = "k", .entity = "e", .entity_id = "i", .data = big}, 1, &e) == 0);
    MUST(store_commit(&tx, &e) == 0);
    wait_for_streams(0);
    hear_start(&l);
    wait_for_streams(1);
    add("w1", "wave.updated", "{\"n\":\"the end\"}");
    heard(&l);
    for (const char *at = l.seen.data; (at = strstr(at, "\nid: ")); at++)
        if (strtoll(at + 5, NULL, 10) == wanted)
            wanted++;
        else
            ok(0, "event %lld came out of order", (long long)wanted);
    is_int(wanted, 1005, "2 MB of missed events come in order, once each (%zu bytes)", l.seen.size_bytes);
    buf_release(&l.seen);
}

static void test_many(void)
{
    struct listener *many = xcalloc(60, sizeof *many);
    int complete = 0;

    wait_for_streams(0);
    for (int i = 0; i < 60; i++) {
        many[i] = (struct listener){.path = "/v1/events", .enough = "\"bye\""};
        hear_start(&many[i]);
    }
    wait_for_streams(60);
    for (int i = 0; i < 20; i++)
        add("w1", "wave.updated", "{\"n\":0}");
    sse_broadcast(hub, "replication", NULL, "{\"server\":\"db01\"}");
    add("w1", "wave.updated", "{\"n\":\"bye\"}");
    for (int i = 0; i < 60; i++) {
        const char *text = heard(&many[i]);
        int count = 0;

        for (const char *at = text; (at = strstr(at, "\nid: ")); at++)
            count++;
        complete += count == 21 && strstr(text, "event: replication\ndata: {\"server\":\"db01\"}\n\n");
        buf_release(&many[i].seen);
    }
    is_int(complete, 60, "sixty clients hear all of it, with eight workers");
    free(many);
}

int main(void)
{
    struct err e = {0};

    fixture_start();
    MUST(store_open("sqlite::memory:", &store, &e) == 0 && store_migrate(store, &e) == 0);
    MUST(sse_start(store, on_events, NULL, &hub, &e) == 0);
    fixture_serve(options(), &server);
    test_live_and_filtered();
    test_resume();
    test_catch_up();
    test_many();
    sse_stop(hub);
    httpd_stop(&server);
    sse_free(&hub);
    store_close(&store);
    fixture_end();
    return tap_done();
}
