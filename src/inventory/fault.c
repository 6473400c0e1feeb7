#include "inventory/private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *cut_json(char *text)
{
    json_t *json;

    for (size_t length = strlen(text); !(json = json_string(text)) && length;)
        text[--length] = 0;
    return json;
}

void fault_add(struct faults *f, const char *field, const char *format, ...)
{
    char reason[RULE_REASON_SIZE];
    va_list args;

    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    if (!f->count++)
        snprintf(f->first, sizeof f->first, "%.150s %s", field, reason);
    if (f->list)
        json_array_append_new(f->list, json_pack("{s:s, s:o}", "field", field, "reason", cut_json(reason)));
}

int faults_end(const struct faults *f, struct err *e, const char *what)
{
    if (!f->count)
        return 0;
    if (f->count == 1)
        return err_set(e, ERR_INVALID, "%s: %s", what, f->first);
    return err_set(e, ERR_INVALID, "%s: %s (and %d more fault%s)", what, f->first, f->count - 1, f->count == 2 ? "" : "s");
}

int inventory_event(struct store_tx *tx, const struct inventory_by *by, const char *kind, const char *wave, const char *entity,
                    const char *id, json_t *data, struct err *e)
{
    CLEANUP(json_free) json_t *held = data;
    CLEANUP(free_ptr) char *text = data ? json_text(data) : NULL;
    struct event event = {.actor = by->actor, .kind = kind, .wave = wave, .entity = entity, .entity_id = id, .data = text};

    return event_add(tx, &event, by->now_us, e);
}

void fields_add(json_t *fields, const char *name, json_t *before, json_t *after)
{
    CLEANUP(json_free) json_t *old = before ? before : json_null();
    CLEANUP(json_free) json_t *new = after ? after : json_null();

    if (!json_equal(old, new))
        json_object_set_new(fields, name, json_pack("{s:O, s:O}", "before", old, "after", new));
}

bool named_in(const char *text, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(*list, text) == 0)
            return true;
    return false;
}

int inventory_server_event(struct store_tx *tx, const char *kind, const char *server, json_t *data, const struct inventory_by *by, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    CLEANUP(json_free) json_t *held = data;
    int rc = store_query(tx, &rows, e, "SELECT wave FROM server WHERE name = $1", "s", server);

    if (rc < 0 || (rc = store_next(rows, e)) < 0)
        return -1;
    return rc == 0 ? err_set(e, ERR_NOT_FOUND, "there is no server %.128s", server)
                   : inventory_event(tx, by, kind, store_text(rows, 0), "server", server, json_incref(held), e);
}
