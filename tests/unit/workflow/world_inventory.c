/* The world's waves and servers, made through inventory/ as anybody makes them. */
#include "inventory/inventory.h"
#include "world.h"

static const struct inventory_by by = {"user:test", 1};

static void need_commit(struct store_tx **tx, int rc, struct err *e)
{
    world_need(rc, e);
    world_need(store_commit(tx, e), e);
}

void world_wave(struct world *x, const char *wave, const char *settings)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *body =
        json_pack("{s:s, s:s, s:o}", "name", wave, "title", "A <wave> & more", "settings", json_loads(settings, 0, NULL));
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    need_commit(&tx, inventory_wave_create(tx, body, &by, NULL, &e), &e);
}

void world_window(struct world *x, const char *wave, int64_t opens_us, int64_t closes_us)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    char opens[CLOCK_TEXT_SIZE], closes[CLOCK_TEXT_SIZE];
    CLEANUP(json_free) json_t *body = json_pack("{s:s, s:s, s:s}", "opens", clock_format(opens_us, opens), "closes",
                                                clock_format(closes_us, closes), "time_zone", "UTC");
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    need_commit(&tx, inventory_wave_set_window(tx, wave, INVENTORY_ANY_VERSION, body, &by, NULL, &e), &e);
}

void world_server(struct world *x, const char *wave, const char *server, const char *attributes)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *body = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "name", server, "wave", wave, "application", "Shop", "owner",
                                                "Bob Example", "address", "192.0.2.11", "attributes", json_loads(attributes, 0, NULL));
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    need_commit(&tx, inventory_server_create(tx, body, &by, NULL, &e), &e);
}

void world_replication(struct world *x, const char *server, const char *replication)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *object = json_loads(replication, 0, NULL);
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    need_commit(&tx, inventory_server_set_replication(tx, server, object, &by, &e), &e);
}

char *world_server_member(struct world *x, const char *server, const char *member)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *found = NULL;
    struct err e = {0};

    world_need(store_begin(x->store, STORE_READ, &tx, &e), &e);
    world_need(inventory_server_json(tx, server, &found, &e), &e);
    return json_dumps(json_object_get(found, member), JSON_COMPACT | JSON_ENCODE_ANY);
}
