#include "cmdb/cmdb.h"
#include "cmdb/dialect.h"

#include <stdio.h>
#include <string.h>

struct cmdb {
    const struct cmdb_dialect *dialect;
    void *held;
};

static const struct cmdb_dialect *const dialects[] = {&cmdb_netbox, &cmdb_program};

int cmdb_copy(char out[static CMDB_TEXT_SIZE], const char *text, const char *what, struct err *e)
{
    if (!text || !*text)
        return err_set(e, ERR_PROTOCOL, "the CMDB's record has no %s", what);
    if (strlen(text) >= CMDB_TEXT_SIZE)
        return err_set(e, ERR_PROTOCOL, "the CMDB's %s is longer than %d bytes", what, CMDB_TEXT_SIZE - 1);
    strcpy(out, text);
    return 0;
}

int cmdb_open(const json_t *settings, const char *token, struct cmdb **out, struct err *e)
{
    const char *kind;

    if (json_need_string(settings, "kind", &kind, e) < 0)
        return err_wrap(e, "the setting cmdb");
    for (size_t i = 0; i < ARRAY_COUNT(dialects); i++) {
        void *held;

        if (strcmp(dialects[i]->kind, kind) != 0)
            continue;
        held = dialects[i]->open(settings, token ? token : "", e);
        if (!held)
            return err_wrap(e, "the setting cmdb");
        *out = xcalloc(1, sizeof **out);
        **out = (struct cmdb){dialects[i], held};
        return 0;
    }
    return err_set(e, ERR_INVALID, "the setting cmdb: there is no kind \"%s\"; \"netbox\" and \"program\" are known", kind);
}

void cmdb_close(struct cmdb **c)
{
    if (!*c)
        return;
    (*c)->dialect->close((*c)->held);
    free_ptr(c);
}

int cmdb_check(struct cmdb *c, struct buf *evidence, struct err *e) { return c->dialect->check(c->held, evidence, e); }

int cmdb_find(struct cmdb *c, const char *name, const char *id, struct cmdb_record *out, struct err *e)
{
    struct cmdb_record found = {0};

    if (c->dialect->find(c->held, name, id, &found, e) < 0)
        return err_wrap(e, "looking for %s in the CMDB", name);
    /* A CMDB that answers with another machine than the one asked for must not get that one retired. */
    if (strcmp(found.name, name) != 0)
        return err_set(e, ERR_CONFLICT, "the CMDB's record %s is called \"%s\", not \"%s\"; correct the attribute cmdb_id", found.id, found.name, name);
    *out = found;
    return 0;
}

int cmdb_retire(struct cmdb *c, const struct cmdb_record *record, const struct cmdb_note *note, struct cmdb_record *out, struct err *e)
{
    struct cmdb_record after = {0};

    MUST(note->mark[0] && !strchr(note->mark, '\n'));
    if (c->dialect->retire(c->held, record, note, &after, e) < 0)
        return err_wrap(e, "retiring %s in the CMDB", record->name);
    if (strcmp(after.id, record->id) != 0 || strcmp(after.name, record->name) != 0)
        return err_set(e, ERR_PROTOCOL, "the CMDB answered for the record %s (%s) where %s (%s) was retired", after.id, after.name, record->id, record->name);
    *out = after;
    return 0;
}
