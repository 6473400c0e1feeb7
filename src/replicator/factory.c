/* What a replicator asks of its factory, and tells it. */
#include "base/hash.h"
#include "base/http.h"
#include "base/log.h"
#include "replicator/private.h"

#include <string.h>

#define EVERY_US (1 * US_PER_S)
#define TIMEOUT_MS 5000

static int open_client(struct replicator *r, struct http_client **client, struct err *e)
{
    struct http_options options = {.ca_file = r->ca_file, .certificate_file = r->certificate_file, .key_file = r->key_file, .connect_timeout_ms = TIMEOUT_MS};

    return http_open(&options, client, e);
}

static int ask(struct replicator *r, struct http_client *client, const char *method, const char *path, const json_t *body, json_t **answer, struct err *e)
{
    CLEANUP(free_ptr) char *url = xasprintf("%s%s", r->options.factory_url, path);
    struct http_request request = {.method = method, .url = url, .timeout_ms = TIMEOUT_MS};

    return http_json(client, &request, body, answer, NULL, e);
}

/* ---- the vault's keys ---- */

static int read_keys(const json_t *answer, struct vault_key **keys, size_t *count, struct err *e)
{
    const json_t *list = json_object_get(answer, "keys"), *one;
    size_t i;

    *keys = xcalloc(json_array_size(list) + 1, sizeof **keys);
    *count = json_array_size(list);
    json_array_foreach(list, i, one) {
        const char *hex = json_string_value(one);

        if (!hex || strlen(hex) != 2 * VAULT_KEY_SIZE || hash_unhex(hex, (*keys)[i].bytes, VAULT_KEY_SIZE, NULL) < 0)
            return err_set(e, ERR_INVALID, "the factory's answer has a key that is not %u hexadecimal digits", 2 * VAULT_KEY_SIZE);
    }
    return 0;
}

int factory_keys(struct replicator *r, bool make, struct vault_key **keys, size_t *count, struct err *e)
{
    CLEANUP(http_close) struct http_client *client = NULL;
    CLEANUP(json_free) json_t *body = make ? json_object() : NULL, *answer = NULL;

    if (open_client(r, &client, e) < 0 || ask(r, client, make ? "POST" : "GET", "/v1/replicator/vault-keys", body, &answer, e) < 0)
        return err_wrap(e, "the vault's key, which the factory keeps");
    if (read_keys(answer, keys, count, e) < 0) {
        factory_keys_free(keys, *count);
        return -1;
    }
    return 0;
}

void factory_keys_free(struct vault_key **keys, size_t count)
{
    if (*keys)
        explicit_bzero(*keys, count * sizeof **keys);
    free(*keys);
    *keys = NULL;
}

/* ---- its state ---- */

static int (*const takers[])(struct replicator *r, const json_t *answer, struct err *e) = {revoked_take, settings_take, copies_take};

/* The answer says how the servers are to be replicated. */
static int tell(struct replicator *r, struct http_client *client, struct err *e)
{
    CLEANUP(json_free) json_t *body = status_json(r, NULL), *answer = NULL;

    json_object_set_new(body, "revoked_version", revoked_version(r));
    if (ask(r, client, "POST", "/v1/replicator/status", body, &answer, e) < 0)
        return -1;
    moves_take(r, answer);
    /* Each says only that it could not be kept: the others are taken all the same. */
    for (size_t i = 0; i < ARRAY_COUNT(takers); i++) {
        struct err why = {0};

        if (takers[i](r, answer, &why) < 0 && !e->kind)
            *e = why;
    }
    return e->kind ? -1 : 0;
}

void *care_factory(void *replicator)
{
    struct replicator *r = replicator;
    CLEANUP(http_close) struct http_client *client = NULL;
    struct err last = {0}, e = {0};

    if (open_client(r, &client, &e) < 0) {
        log_err(&e, "the factory can't be told anything");
        return NULL;
    }
    while (!atomic_load(&r->stopping)) {
        err_clear(&e);
        tell(r, client, &e);
        if (e.kind && e.kind != last.kind)
            log_err(&e, "telling the factory (replication goes on)");
        else if (!e.kind && last.kind)
            log_info("the factory is told again");
        last = e;
        replicator_rest(r, EVERY_US);
    }
    return NULL;
}
