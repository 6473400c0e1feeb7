/* Imports and exports of servers as CSV. */
#include "api/api.h"
#include "api/routes.h"
#include "base/clock.h"

/* The first few faults in words, for those who read no further than "detail". */
static void tell_faults(const json_t *faults, struct buf *out)
{
    const json_t *fault;
    size_t index;

    json_array_foreach(faults, index, fault) {
        if (index == 3) {
            buf_puts(out, "; …");
            break;
        }
        buf_printf(out, "%sline %lld: %s", index ? "; " : "", (long long)json_get_int(fault, "line", 0), json_get_string(fault, "reason", "?"));
    }
}

int route_import(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *answer = NULL;
    CLEANUP(buf_release) struct buf told = {0};
    struct inventory_import_options options = {.dry_run = false, .create_waves = false};
    struct inventory_by by = api_by(c);
    int64_t faults;

    if (call_query_bool(c, "dry_run", &options.dry_run, e) < 0 || call_query_bool(c, "create_waves", &options.create_waves, e) < 0 ||
        (options.dry_run ? api_read(c, &tx, e) : api_write(c, &tx, e)) < 0 ||
        inventory_import(tx, c->bytes.data ? c->bytes.data : "", c->bytes.size_bytes, &options, &by, &answer, e) < 0)
        return -1;
    faults = json_get_int(answer, "faults_total", (int64_t)json_array_size(json_object_get(answer, "faults")));
    if (faults) {
        tell_faults(json_object_get(answer, "faults"), &told);
        c->faults = json_incref(json_object_get(answer, "faults"));
        c->problem_status = 422;
        return err_set(e, ERR_INVALID, "the file has %lld fault%s and was not imported: %s", (long long)faults, faults > 1 ? "s" : "", told.data);
    }
    if (!options.dry_run && store_commit(&tx, e) < 0)
        return -1;
    return reply_json(c, 200, json_incref(answer));
}

int route_export(struct http_call *c, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(buf_release) struct buf csv = {0};

    if (api_read(c, &tx, e) < 0 || inventory_export(tx, call_query(c, "wave"), &csv, e) < 0)
        return -1;
    reply_header(c, "Content-Disposition", "attachment; filename=\"servers.csv\"");
    return reply_text(c, 200, "text/csv; charset=utf-8", csv.data ? buf_take(&csv) : xstrdup(""));
}
