#include "api/sse.h"

#include "base/clock.h"
#include "base/log.h"

#include <pthread.h>
#include <string.h>

#define BATCH_EVENTS 200

struct client {
    struct sse *hub;
    int64_t serial;
    struct http_call *call;
    char *wave;                   /* filter, or NULL */
    int64_t after_id;             /* the last event that it was given or that its filter passed over */
    int64_t opened_us, quiet_since_us;
    char *bytes;                  /* size_bytes from taken_bytes on are waiting */
    size_t size_bytes, taken_bytes, held_bytes;
    bool over;                    /* ends once it was given what waits */
    int64_t turn;                 /* the catch-up turn that looked at it last */
    struct client *next;
};

/* lock comes before a call's stream_lock and is not held while the database is read. */
struct sse {
    struct store *store;
    void (*on_events)(void *user);
    void *user;
    pthread_t thread;
    pthread_mutex_t lock;
    struct client *clients;
    int64_t last_id;              /* of the thread's tail; under lock */
    int64_t serials;              /* under lock, too */
    int64_t turns;                /* the thread's own */
    bool stopping;
};

struct line {
    int64_t id;
    const char *wave, *text; /* in the batch's arena */
};

struct batch {
    struct arena *arena;
    struct line lines[BATCH_EVENTS];
    int count;
};

json_t *sse_event_json(const struct event *what)
{
    char at[CLOCK_TEXT_SIZE];
    json_t *data = json_loads(what->data ? what->data : "{}", 0, NULL);

    return json_pack("{s:I, s:s, s:s, s:s, s:s?, s:s, s:s, s:o}", "id", (json_int_t)what->id, "at", clock_format(what->at_us, at),
                     "actor", what->actor, "kind", what->kind, "wave", what->wave, "entity", what->entity, "entity_id", what->entity_id,
                     "data", data ? data : json_object());
}

int sse_parse_id(const char *text, int64_t *id, struct err *e)
{
    size_t digits = strspn(text, "0123456789");

    if (!digits || digits > 18 || text[digits])
        return err_set(e, ERR_INVALID, "Last-Event-ID must be the id of an event, a whole number");
    *id = strtoll(text, NULL, 10);
    return 0;
}

/* --- buffers; under lock --- */

static bool has_room(const struct client *c, size_t size)
{
    return c->size_bytes - c->taken_bytes + size <= SSE_BUFFER_BYTES;
}

static void put(struct client *c, const char *text, size_t size)
{
    if (c->taken_bytes) {
        c->size_bytes -= c->taken_bytes;
        memmove(c->bytes, c->bytes + c->taken_bytes, c->size_bytes);
        c->taken_bytes = 0;
    }
    if (c->size_bytes + size > c->held_bytes) {
        c->held_bytes = (c->size_bytes + size) * 2;
        c->bytes = xrealloc(c->bytes, c->held_bytes);
    }
    memcpy(c->bytes + c->size_bytes, text, size);
    c->size_bytes += size;
    c->quiet_since_us = clock_monotonic_us();
}

static bool wants(const struct client *c, const char *wave)
{
    return !c->wave || (wave && strcmp(c->wave, wave) == 0);
}

/* As many lines as fit; all are considered up to the client's new after_id. */
static void give(struct client *c, const struct batch *b)
{
    size_t before = c->size_bytes - c->taken_bytes;

    for (int i = 0; i < b->count; i++) {
        const struct line *l = &b->lines[i];

        if (l->id <= c->after_id)
            continue;
        if (wants(c, l->wave)) {
            size_t size = strlen(l->text);

            if (!has_room(c, size) && c->size_bytes > c->taken_bytes)
                break;
            put(c, l->text, size);
        }
        c->after_id = l->id;
    }
    if (c->size_bytes - c->taken_bytes > before)
        call_stream_wake(c->call);
}

/* --- the stream's side --- */

static ssize_t client_read(void *user, char *bytes, size_t size)
{
    struct client *c = user;
    struct sse *hub = c->hub;
    size_t waiting;
    bool over;

    pthread_mutex_lock(&hub->lock);
    waiting = c->size_bytes - c->taken_bytes;
    if (waiting > size)
        waiting = size;
    if (waiting)
        memcpy(bytes, c->bytes + c->taken_bytes, waiting);
    c->taken_bytes += waiting;
    if (c->taken_bytes == c->size_bytes) {
        free(c->bytes); /* a quiet client holds nothing */
        c->bytes = NULL;
        c->size_bytes = c->taken_bytes = c->held_bytes = 0;
    }
    over = c->over;
    pthread_mutex_unlock(&hub->lock);
    return !waiting && over ? -1 : (ssize_t)waiting;
}

static void client_close(void *user)
{
    struct client *c = user;
    struct sse *hub = c->hub;

    pthread_mutex_lock(&hub->lock);
    for (struct client **at = &hub->clients; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    pthread_mutex_unlock(&hub->lock);
    free(c->bytes);
    free(c->wave);
    free(c);
}

int sse_subscribe(struct sse *hub, struct http_call *call, int64_t after_id, const char *wave, struct err *e)
{
    struct client *c = xcalloc(1, sizeof *c);
    struct http_stream stream = {client_read, client_close, c};
    static const char hello[] = "retry: 1000\n\n";

    c->hub = hub;
    c->call = call;
    c->wave = xstrdup(wave);
    c->opened_us = clock_monotonic_us();
    pthread_mutex_lock(&hub->lock);
    c->serial = ++hub->serials;
    c->after_id = after_id >= 0 ? after_id : hub->last_id;
    put(c, hello, sizeof hello - 1);
    if (c->after_id > hub->last_id) { /* the database was restored from an older copy: what the client knows is no longer true */
        static const char reset[] = "event: reset\ndata: {}\n\n";

        c->after_id = hub->last_id;
        put(c, reset, sizeof reset - 1);
    }
    if (reply_stream(call, "text/event-stream", &stream, e) < 0) {
        pthread_mutex_unlock(&hub->lock);
        free(c->bytes);
        free(c->wave);
        free(c);
        return -1;
    }
    c->next = hub->clients;
    hub->clients = c;
    pthread_mutex_unlock(&hub->lock);
    return 0;
}

void sse_broadcast(struct sse *hub, const char *name, const char *wave, const char *json)
{
    CLEANUP(free_ptr) char *text = xasprintf("event: %s\ndata: %s\n\n", name, json);
    size_t size = strlen(text);

    pthread_mutex_lock(&hub->lock);
    for (struct client *c = hub->clients; c; c = c->next)
        if (wants(c, wave) && has_room(c, size)) {
            put(c, text, size);
            call_stream_wake(c->call);
        }
    pthread_mutex_unlock(&hub->lock);
}

/* --- the thread --- */

static int collect(void *user, const struct event *what)
{
    struct batch *b = user;
    json_t *object = sse_event_json(what);
    CLEANUP(free_ptr) char *data = object ? json_text(object) : xstrdup("{}");

    json_decref(object);
    b->lines[b->count++] = (struct line){what->id, arena_strdup(b->arena, what->wave),
                                         arena_printf(b->arena, "id: %lld\nevent: %s\ndata: %s\n\n", (long long)what->id, what->kind, data)};
    return b->count == BATCH_EVENTS;
}

static int read_batch(struct sse *hub, int64_t after_id, const char *wave, struct batch *b, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    b->count = 0;
    if (store_begin(hub->store, STORE_READ, &tx, e) < 0 || event_read(tx, after_id, wave, BATCH_EVENTS, collect, b, e) < 0)
        return -1;
    return 0;
}

/* The new end of the table, once for all who stand there. */
static int read_tail(struct sse *hub, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    struct batch b = {.arena = arena};

    if (read_batch(hub, hub->last_id, NULL, &b, e) < 0)
        return -1;
    if (!b.count)
        return 0;
    pthread_mutex_lock(&hub->lock);
    for (struct client *c = hub->clients; c; c = c->next)
        if (c->after_id >= hub->last_id)
            give(c, &b);
    hub->last_id = b.lines[b.count - 1].id;
    pthread_mutex_unlock(&hub->lock);
    return b.count;
}

/* Somebody who is behind, has room, and wasn't looked at in this turn. Under lock. */
static struct client *next_behind(struct sse *hub)
{
    for (struct client *c = hub->clients; c; c = c->next)
        if (c->turn != hub->turns && c->after_id < hub->last_id && has_room(c, SSE_BUFFER_BYTES / 2))
            return c;
    return NULL;
}

/* One batch for each client that is behind; true where there is more to do. */
static bool catch_up(struct sse *hub)
{
    bool more = false;

    hub->turns++;
    for (;;) {
        CLEANUP(arena_free) struct arena *arena = arena_new();
        struct batch b = {.arena = arena};
        int64_t serial, after_id, seen_id;
        struct client *c;
        const char *wave;

        pthread_mutex_lock(&hub->lock);
        c = next_behind(hub);
        if (!c) {
            pthread_mutex_unlock(&hub->lock);
            return more;
        }
        c->turn = hub->turns;
        serial = c->serial;
        after_id = c->after_id;
        seen_id = hub->last_id;
        wave = arena_strdup(arena, c->wave);
        pthread_mutex_unlock(&hub->lock);
        if (read_batch(hub, after_id, wave, &b, NULL) < 0)
            return false;
        pthread_mutex_lock(&hub->lock);
        for (c = hub->clients; c && c->serial != serial; c = c->next) { }
        if (c) {
            give(c, &b);
            /* A short batch was the end of what its filter lets through. */
            if (b.count < BATCH_EVENTS && (!b.count || c->after_id == b.lines[b.count - 1].id) && c->after_id < seen_id)
                c->after_id = seen_id;
            more |= c->after_id < hub->last_id && has_room(c, SSE_BUFFER_BYTES / 2);
        }
        pthread_mutex_unlock(&hub->lock);
    }
}

static void keep_alive(struct sse *hub)
{
    int64_t now_us = clock_monotonic_us();

    pthread_mutex_lock(&hub->lock);
    for (struct client *c = hub->clients; c; c = c->next) {
        /* A sleeping connection isn't watched by libmicrohttpd: who has left is found here. */
        c->over |= now_us - c->opened_us > SSE_LIFETIME_S * US_PER_S || call_peer_left(c->call);
        if (now_us - c->quiet_since_us > SSE_HEARTBEAT_S * US_PER_S && has_room(c, 3))
            put(c, ":\n\n", 3);
        else if (!c->over)
            continue;
        call_stream_wake(c->call);
    }
    pthread_mutex_unlock(&hub->lock);
}

static void *run(void *context)
{
    struct sse *hub = context;
    int64_t woken_us = 0, said_us = 0, kept_us = 0;
    bool owes_wake = false, more = false;

    while (!__atomic_load_n(&hub->stopping, __ATOMIC_ACQUIRE)) {
        struct err e = {0};
        int count;

        event_wait(hub->store, hub->last_id, more ? 0 : owes_wake ? 100 : 500);
        count = read_tail(hub, &e);
        if (count < 0) {
            if (clock_monotonic_us() - said_us > 60 * US_PER_S)
                log_err(&e, "reading new events");
            said_us = clock_monotonic_us();
            clock_sleep_us(500 * US_PER_MS);
            continue;
        }
        owes_wake |= count > 0;
        if (owes_wake && clock_monotonic_us() - woken_us > 100 * US_PER_MS) {
            hub->on_events(hub->user);
            woken_us = clock_monotonic_us();
            owes_wake = false;
        }
        more = catch_up(hub);
        if (clock_monotonic_us() - kept_us > US_PER_S) {
            keep_alive(hub);
            kept_us = clock_monotonic_us();
        }
    }
    return NULL;
}

int sse_start(struct store *s, void (*on_events)(void *user), void *user, struct sse **out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t last_id;
    struct sse *hub;

    if (store_begin(s, STORE_READ, &tx, e) < 0 || (last_id = event_last_id(tx, e)) < 0)
        return -1;
    hub = xcalloc(1, sizeof *hub);
    hub->store = s;
    hub->on_events = on_events;
    hub->user = user;
    hub->last_id = last_id;
    pthread_mutex_init(&hub->lock, NULL);
    if (pthread_create(&hub->thread, NULL, run, hub) != 0) {
        pthread_mutex_destroy(&hub->lock);
        free(hub);
        return err_set(e, ERR_LIMIT, "can't start a thread");
    }
    *out = hub;
    return 0;
}

void sse_stop(struct sse *hub)
{
    if (hub && !__atomic_exchange_n(&hub->stopping, true, __ATOMIC_ACQ_REL))
        pthread_join(hub->thread, NULL);
}

void sse_free(struct sse **held)
{
    struct sse *hub = *held;

    if (!hub)
        return;
    sse_stop(hub);
    MUST(!hub->clients);
    pthread_mutex_destroy(&hub->lock);
    free(hub);
    *held = NULL;
}
