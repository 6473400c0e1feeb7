#include "workflow/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int change_begin(struct workflow *w, const char *actor, struct change *out, struct err *e)
{
    struct change c = {.w = w, .now_us = clock_read_us(w->settings.clock)};

    if (store_begin(w->settings.store, STORE_WRITE, &c.tx, e) < 0)
        return -1;
    c.arena = arena_new();
    c.actor = arena_strdup(c.arena, actor);
    *out = c;
    return 0;
}

int change_commit(struct change *c, struct err *e)
{
    return store_commit(&c->tx, e);
}

void change_release(struct change *c)
{
    store_rollback(&c->tx);
    fleet_wave_release(&c->wave);
    json_free(&c->server);
    arena_free(&c->arena);
    *c = (struct change){0};
}

int change_wave(struct change *c, const char *wave, const struct fleet_wave **out, struct err *e)
{
    if (!wave)
        return err_set(e, ERR_NOT_FOUND, "the run belongs to no wave");
    if (!c->wave_name || strcmp(c->wave_name, wave) != 0) {
        int rc;

        fleet_wave_release(&c->wave);
        c->wave_name = NULL;
        rc = fleet_wave(c->tx, wave, &c->wave, e);
        if (rc <= 0)
            return rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no wave %.100s", wave);
        c->wave_name = change_keep(c, wave);
    }
    *out = &c->wave;
    return 0;
}

int change_server(struct change *c, const char *server, const json_t **out, struct err *e)
{
    if (!c->server_name || strcmp(c->server_name, server) != 0) {
        int rc;

        change_forget_server(c);
        rc = fleet_server(c->tx, server, &c->server, e);
        if (rc <= 0)
            return rc < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no server %.100s", server);
        c->server_name = change_keep(c, server);
    }
    *out = c->server;
    return 0;
}

void change_forget_server(struct change *c)
{
    json_free(&c->server);
    c->server_name = NULL;
}

const char *change_keep(struct change *c, const char *text)
{
    return text ? arena_strdup(c->arena, text) : NULL;
}

const char *change_printf(struct change *c, const char *format, ...)
{
    CLEANUP(free_ptr) char *text = NULL;
    va_list args;

    va_start(args, format);
    MUST(vasprintf(&text, format, args) >= 0);
    va_end(args);
    return arena_strdup(c->arena, text);
}
