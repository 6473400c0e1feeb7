/* fleet: what the workflow knows and says about waves and servers: the one place of this room that meets inventory/. Inside this room only. */
#pragma once

#include "base/json.h"
#include "base/mem.h"
#include "store/store.h"

struct fleet_wave {
    json_t *settings;          /* an object, the caller's: fleet_wave_release */
    int64_t opens_us, closes_us; /* the cutover window; both 0: none is set */
};
void fleet_wave_release(struct fleet_wave *wave); /* for CLEANUP */

/* 1 found, 0 no such wave, -1. */
int fleet_wave(struct store_tx *tx, const char *wave, struct fleet_wave *out, struct err *e);
/* The wave as the API has it: 1 found (the caller frees), 0, -1. */
int fleet_wave_json(struct store_tx *tx, const char *wave, json_t **out, struct err *e);
/* The names of the wave's servers, sorted, in the arena. Returns the count, or -1. */
int fleet_servers(struct store_tx *tx, struct arena *arena, const char *wave, const char *const **names, struct err *e);
/* A server as a task document has it, and "wave", "facts", "instance" beside: 1 found (the caller frees), 0 no such server, -1. */
int fleet_server(struct store_tx *tx, const char *server, json_t **out, struct err *e);

int fleet_set_lifecycle(struct store_tx *tx, const char *server, const char *lifecycle, const char *actor, int64_t now_us,
                        struct err *e);
int fleet_set_facts(struct store_tx *tx, const char *server, const json_t *facts, const char *actor, int64_t now_us, struct err *e);
/* Where none is pinned yet; another than the pinned one: ERR_INVALID. */
int fleet_pin_host_key(struct store_tx *tx, const char *server, const char *host_key, const char *actor, int64_t now_us, struct err *e);
/* instance {name,kind,door,state}, or NULL: it has none. */
int fleet_set_instance(struct store_tx *tx, const char *server, const json_t *instance, const char *actor, int64_t now_us,
                       struct err *e);
/* Stage and health of the wave, for its row in lists. */
int fleet_set_stage(struct store_tx *tx, const char *wave, const char *stage, const char *health, const char *run, const char *actor,
                    int64_t now_us, struct err *e);
