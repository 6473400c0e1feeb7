/* A stand-in for inventory/ until it lands. */
#include "inventory/inventory.h"
#include "world.h"

static void table(struct store_tx *tx)
{
    struct err e = {0};

    world_need((int)store_run(tx, &e, "CREATE TABLE IF NOT EXISTS f_wave (name TEXT PRIMARY KEY, settings TEXT, opens BIGINT, closes BIGINT)", ""), &e);
    world_need((int)store_run(tx, &e, "CREATE TABLE IF NOT EXISTS f_server (name TEXT PRIMARY KEY, wave TEXT, attributes TEXT, lifecycle TEXT, facts TEXT, instance TEXT)", ""), &e);
}

static void run(struct world *x, const char *sql, const char *a, const char *b, const char *c)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    struct err e = {0};

    world_need(store_begin(x->store, STORE_WRITE, &tx, &e), &e);
    table(tx);
    world_need((int)store_run(tx, &e, sql, "sss", a, b, c), &e);
    world_need(store_commit(&tx, &e), &e);
}

void world_wave(struct world *x, const char *wave, const char *settings)
{
    run(x, "INSERT INTO f_wave VALUES ($1, $2, 0, 0 + ($3 = 'x'))", wave, settings, "");
}

void world_window(struct world *x, const char *wave, int64_t opens_us, int64_t closes_us)
{
    CLEANUP(free_ptr) char *a = xasprintf("%lld", (long long)opens_us), *b = xasprintf("%lld", (long long)closes_us);

    run(x, "UPDATE f_wave SET opens = CAST($1 AS BIGINT), closes = CAST($2 AS BIGINT) WHERE name = $3", a, b, wave);
}

void world_server(struct world *x, const char *wave, const char *server, const char *attributes)
{
    run(x, "INSERT INTO f_server VALUES ($1, $2, $3, 'NOT_READY', NULL, NULL)", server, wave, attributes);
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

int inventory_wave_window(struct store_tx *tx, const char *wave, int64_t *opens_us, int64_t *closes_us, json_t **settings, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT settings, opens, closes FROM f_wave WHERE name = $1", "s", wave);

    if (rc < 0 || (rc = store_next(rows, e)) <= 0)
        return rc;
    *settings = json_loads(store_text(rows, 0), 0, NULL);
    *opens_us = store_int(rows, 1);
    *closes_us = store_int(rows, 2);
    return 1;
}

int inventory_wave_servers(struct store_tx *tx, const char *wave, int (*each)(void *user, const char *server), void *user, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT name FROM f_server WHERE wave = $1 ORDER BY name", "s", wave), count = 0;

    while (rc >= 0 && (rc = store_next(rows, e)) > 0 && ++count)
        each(user, store_text(rows, 0));
    return rc < 0 ? -1 : count;
}

int inventory_server_json(struct store_tx *tx, const char *server, json_t **out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT wave, attributes, lifecycle, facts, instance FROM f_server WHERE name = $1", "s", server);

    if (rc < 0 || (rc = store_next(rows, e)) <= 0)
        return rc;
    *out = json_pack("{s:s, s:s, s:o, s:s, s:o, s:o}", "name", server, "wave", store_text(rows, 0), "attributes",
                     json_loads(store_text(rows, 1), 0, NULL), "lifecycle", store_text(rows, 2), "facts",
                     store_text(rows, 3) ? json_loads(store_text(rows, 3), 0, NULL) : json_null(), "instance",
                     store_text(rows, 4) ? json_loads(store_text(rows, 4), 0, NULL) : json_null());
    return 1;
}

int inventory_server_move(struct store_tx *tx, const char *server, const char *from, const char *to, const struct inventory_by *by, struct err *e)
{
    (void)from, (void)by;
    return store_run(tx, e, "UPDATE f_server SET lifecycle = $1 WHERE name = $2", "ss", to, server) < 0 ? -1 : 0;
}

int inventory_server_set_facts(struct store_tx *tx, const char *server, const json_t *facts, const struct inventory_by *by, struct err *e)
{
    CLEANUP(free_ptr) char *text = json_text(facts);

    (void)by;
    return store_run(tx, e, "UPDATE f_server SET facts = $1 WHERE name = $2", "ss", text, server) < 0 ? -1 : 0;
}

int inventory_server_set_instance(struct store_tx *tx, const char *server, const json_t *instance, const struct inventory_by *by, struct err *e)
{
    CLEANUP(free_ptr) char *text = instance ? json_text(instance) : NULL;

    (void)by;
    return store_run(tx, e, "UPDATE f_server SET instance = $1 WHERE name = $2", "ss", text, server) < 0 ? -1 : 0;
}

int inventory_wave_set_stage(struct store_tx *tx, const char *wave, const char *stage, const char *health, const char *run_id,
                             const struct inventory_by *by, struct err *e)
{
    (void)tx, (void)wave, (void)stage, (void)health, (void)run_id, (void)by, (void)e;
    return 0;
}

int inventory_wave_json(struct store_tx *tx, const char *wave, json_t **out, struct err *e)
{
    int64_t opens, closes;
    json_t *settings = NULL;
    int rc = inventory_wave_window(tx, wave, &opens, &closes, &settings, e);

    json_decref(settings);
    if (rc > 0)
        *out = json_pack("{s:s, s:s}", "name", wave, "title", "A <wave> & more");
    return rc;
}
