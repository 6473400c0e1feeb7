#include "inventory/private.h"

#include "inventory/csv.h"

#include <string.h>

/* A cell that a spreadsheet would run gets an apostrophe, which makes it text there and is taken off by inventory_import. */
static void write_cell(struct buf *out, bool first, const char *text)
{
    CLEANUP(free_ptr) char *safe = text && *text && strchr("=+-@\t\r", *text) ? xasprintf("'%s", text) : NULL;

    if (!first)
        buf_puts(out, ",");
    csv_write(out, safe ? safe : text ? text : "");
}

static void write_attribute(struct buf *out, const json_t *value)
{
    char number[32];

    snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
    if (json_is_integer(value)) {
        buf_puts(out, ",");
        buf_puts(out, number);
        return;
    }
    write_cell(out, false, json_string_value(value));
}

static int write_server(struct buf *out, const struct store_rows *rows, struct err *e)
{
    CLEANUP(json_free) json_t *attributes = NULL;

    for (int i = 0; i < 6; i++)
        write_cell(out, i == 0, store_text(rows, i));
    if (json_read(store_text(rows, 6), strlen(store_text(rows, 6)), &attributes, e) < 0)
        return err_wrap(e, "the attributes of the server %s", store_text(rows, 2));
    for (const struct rule *r = server_attributes; r->name; r++)
        write_attribute(out, json_object_get(attributes, r->name));
    buf_puts(out, "\r\n");
    return out->over ? err_set(e, ERR_LIMIT, "the export has more than %zu bytes: export a wave at a time", out->limit_bytes) : 0;
}

int inventory_export(struct store_tx *tx, const char *wave, struct buf *out, struct err *e)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    int rc = store_query(tx, &rows, e, "SELECT wave, application, name, owner, address, port, attributes FROM server WHERE ($1 = '' OR wave = $1)"
                                       " ORDER BY wave, name", "s", wave ? wave : "");

    buf_puts(out, "wave,application,server,owner,address,port");
    for (const struct rule *r = server_attributes; r->name; r++)
        buf_printf(out, ",%s", r->name);
    buf_puts(out, "\r\n");
    while (rc >= 0 && (rc = store_next(rows, e)) > 0)
        if (write_server(out, rows, e) < 0)
            return -1;
    return rc < 0 ? -1 : 0;
}
