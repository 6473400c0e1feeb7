/* A store in memory with a wave in it, and JSON written with ' for ". */
#pragma once

#include "base/clock.h"
#include "base/mem.h"
#include "inventory/inventory.h"
#include "store/event.h"
#include "tap.h"

static struct store *fleet_store;
static struct inventory_by fleet_by = {"user:anna", INT64_C(1800000000) * US_PER_S};

__attribute__((unused)) static json_t *quoted(const char *text)
{
    CLEANUP(free_ptr) char *copy = xstrdup(text);
    json_t *out = NULL;
    struct err e = {0};

    for (char *at = copy; *at; at++)
        if (*at == '\'')
            *at = '"';
    if (json_read(copy, strlen(copy), &out, &e) < 0) {
        printf("Bail out! %s: %s\n", text, e.message);
        exit(1);
    }
    return out;
}

__attribute__((unused)) static struct store_tx *fleet_begin(enum store_mode mode)
{
    struct store_tx *tx = NULL;
    struct err e = {0};

    if (store_begin(fleet_store, mode, &tx, &e) < 0) {
        printf("Bail out! %s\n", e.message);
        exit(1);
    }
    return tx;
}

__attribute__((unused)) static void fleet_open(void)
{
    struct err e = {0};

    if (store_open("sqlite::memory:", &fleet_store, &e) < 0 || store_migrate(fleet_store, &e) < 0) {
        printf("Bail out! %s\n", e.message);
        exit(1);
    }
}

/* Each makes a transaction of its own: rc of the call; the commit must succeed where it did. */
#define IN_TX(call)                                                                                                                      \
    ({                                                                                                                                   \
        struct store_tx *tx = fleet_begin(STORE_WRITE);                                                                                  \
        int in_rc = (call);                                                                                                              \
        if (in_rc < 0)                                                                                                                   \
            store_rollback(&tx);                                                                                                         \
        else                                                                                                                             \
            MUST(store_commit(&tx, NULL) == 0);                                                                                          \
        in_rc;                                                                                                                           \
    })

__attribute__((unused)) static int make_wave(const char *json, json_t *faults, struct err *e)
{
    CLEANUP(json_free) json_t *body = quoted(json);

    return IN_TX(inventory_wave_create(tx, body, &fleet_by, faults, e));
}

__attribute__((unused)) static int make_server(const char *json, json_t *faults, struct err *e)
{
    CLEANUP(json_free) json_t *body = quoted(json);

    return IN_TX(inventory_server_create(tx, body, &fleet_by, faults, e));
}

__attribute__((unused)) static int change_server(const char *server, int64_t version, const char *json, json_t *faults, struct err *e)
{
    CLEANUP(json_free) json_t *body = quoted(json);

    return IN_TX(inventory_server_update(tx, server, version, body, &fleet_by, faults, e));
}

__attribute__((unused)) static json_t *get_server(const char *server)
{
    struct store_tx *tx = fleet_begin(STORE_READ);
    json_t *out = NULL;
    struct err e = {0};

    if (inventory_server_json(tx, server, &out, &e) < 0)
        printf("# %s\n", e.message);
    store_rollback(&tx);
    return out;
}

__attribute__((unused)) static json_t *get_wave(const char *wave)
{
    struct store_tx *tx = fleet_begin(STORE_READ);
    json_t *out = NULL;

    inventory_wave_json(tx, wave, &out, NULL);
    store_rollback(&tx);
    return out;
}

static int fleet_note_event(void *user, const struct event *what)
{
    buf_init(user, 0);
    buf_printf(user, "%s %s %s %s %s", what->actor, what->kind, what->wave ? what->wave : "-", what->entity_id, what->data);
    return 0;
}

/* The newest event's row as a line; the caller frees. */
__attribute__((unused)) static char *last_event(void)
{
    struct store_tx *tx = fleet_begin(STORE_READ);
    struct buf line;

    buf_init(&line, 0);
    event_read(tx, event_last_id(tx, NULL) - 1, NULL, 1, fleet_note_event, &line, NULL);
    store_rollback(&tx);
    return buf_take(&line);
}

__attribute__((unused)) static int64_t event_count(void)
{
    struct store_tx *tx = fleet_begin(STORE_READ);
    int64_t last = event_last_id(tx, NULL);

    store_rollback(&tx);
    return last;
}

/* A member of a document by path: "attributes.cpu". */
__attribute__((unused)) static const char *text_at(const json_t *object, const char *path)
{
    static char number[32];
    CLEANUP(free_ptr) char *copy = xstrdup(path);
    char *rest = copy;

    for (char *part; (part = strsep(&rest, "."));)
        object = json_object_get(object, part);
    if (!json_is_integer(object))
        return json_string_value(object);
    snprintf(number, sizeof number, "%lld", (long long)json_integer_value(object));
    return number;
}
