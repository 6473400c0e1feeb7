#include "workflow/fleet.h"

#include "inventory/inventory.h"

#include <string.h>

void fleet_wave_release(struct fleet_wave *wave)
{
    json_free(&wave->settings);
}

int fleet_wave(struct store_tx *tx, const char *wave, struct fleet_wave *out, struct err *e)
{
    struct fleet_wave found = {0};
    int rc = inventory_wave_window(tx, wave, &found.opens_us, &found.closes_us, &found.settings, e);

    if (rc > 0) {
        if (!found.settings)
            found.settings = json_object();
        *out = found;
    }
    return rc;
}

int fleet_wave_json(struct store_tx *tx, const char *wave, json_t **out, struct err *e)
{
    return inventory_wave_json(tx, wave, out, e);
}

struct names {
    struct arena *arena;
    const char **list;
    int count, room;
};

static int add_name(void *user, const char *server)
{
    struct names *n = user;

    if (n->count == n->room) {
        const char **more = arena_alloc(n->arena, sizeof *more * (size_t)(n->room = n->room ? 2 * n->room : 16));

        for (int i = 0; i < n->count; i++)
            more[i] = n->list[i];
        n->list = more;
    }
    n->list[n->count++] = arena_strdup(n->arena, server);
    return 0;
}

int fleet_servers(struct store_tx *tx, struct arena *arena, const char *wave, const char *const **names, struct err *e)
{
    struct names found = {.arena = arena};

    if (inventory_wave_servers(tx, wave, add_name, &found, e) < 0)
        return -1;
    *names = found.list;
    return found.count;
}

int fleet_server(struct store_tx *tx, const char *server, json_t **out, struct err *e)
{
    return inventory_server_json(tx, server, out, e);
}

int fleet_set_lifecycle(struct store_tx *tx, const char *server, const char *lifecycle, const char *actor, int64_t now_us,
                        struct err *e)
{
    return inventory_server_move(tx, server, NULL, lifecycle, &(struct inventory_by){actor, now_us}, e);
}

int fleet_set_facts(struct store_tx *tx, const char *server, const json_t *facts, const char *actor, int64_t now_us, struct err *e)
{
    return inventory_server_set_facts(tx, server, facts, &(struct inventory_by){actor, now_us}, e);
}

int fleet_pin_host_key(struct store_tx *tx, const char *server, const char *host_key, const char *actor, int64_t now_us, struct err *e)
{
    CLEANUP(free_ptr) char *pinned = NULL;
    int rc = inventory_host_key(tx, server, &pinned, e);

    if (rc <= 0)
        return rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no server %s", server);
    if (pinned && strcmp(pinned, host_key) != 0)
        return err_set(e, ERR_INVALID, "the host key of %s is not the one that was pinned", server);
    return pinned ? 0 : inventory_server_set_host_key(tx, server, host_key, &(struct inventory_by){actor, now_us}, e);
}

int fleet_set_instance(struct store_tx *tx, const char *server, const json_t *instance, const char *actor, int64_t now_us,
                       struct err *e)
{
    return inventory_server_set_instance(tx, server, instance, &(struct inventory_by){actor, now_us}, e);
}

int fleet_set_stage(struct store_tx *tx, const char *wave, const char *stage, const char *health, const char *run, const char *actor,
                    int64_t now_us, struct err *e)
{
    return inventory_wave_set_stage(tx, wave, stage, health, run, &(struct inventory_by){actor, now_us}, e);
}
