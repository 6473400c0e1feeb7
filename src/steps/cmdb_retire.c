/* cmdb_retire: the server's record in the source CMDB says that it was moved, with what proves it. The record is never deleted. */
#include "cmdb/cmdb.h"
#include "steps/step.h"

#include <string.h>

/* What is written beside the record: where the server went, what was compared. */
static char *evidence_text(const struct step *s)
{
    CLEANUP(buf_release) struct buf text = {0};
    const json_t *disks = step_json(s, "context.compare.disks"), *disk;
    size_t i;

    buf_printf(&text, "The server %s was migrated in the wave %s.\n", step_string(s, "server.name", ""), step_string(s, "wave.name", ""));
    buf_printf(&text, "Cutover point %s, taken at %s.\n", step_string(s, "context.final_sync.point", "unknown"), step_string(s, "context.final_sync.at", "an unknown time"));
    json_array_foreach(disks, i, disk)
        buf_printf(&text, "Disk %s: SHA-256 of the source %s, of the copy %s.\n", json_get_string(disk, "id", ""), json_get_string(disk, "source_sha256", "unknown"),
                   json_get_string(disk, "target_sha256", "unknown"));
    buf_printf(&text, "It runs as %s.\n", step_string(s, "context.launch_cutover.instance", "an instance whose name is unknown"));
    return buf_take(&text);
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(cmdb_close) struct cmdb *c = NULL;
    CLEANUP(free_ptr) char *text = NULL, *mark = NULL;
    const json_t *settings = step_json(s, "settings.cmdb");
    struct cmdb_record record, after;
    struct cmdb_note note;
    const char *server;

    if (!settings)
        return err_set(e, ERR_INVALID, "no CMDB is set; set one (`slipway settings set cmdb`), or skip this task and say why");
    if (step_need_string(s, "server.name", &server, e) < 0 || cmdb_open(settings, step_string(s, "credential.secret", ""), &c, e) < 0 ||
        cmdb_find(c, server, step_string(s, "server.attributes.cmdb_id", NULL), &record, e) < 0)
        return -1;
    step_evidence(s, "record found", true, "%s/%s \"%s\", status %s", record.kind, record.id, record.name, record.status);
    text = evidence_text(s);
    mark = xasprintf("Retired by Slipway, run %s", step_string(s, "run.id", "unknown"));
    note = (struct cmdb_note){.mark = mark, .text = text};
    if (cmdb_retire(c, &record, &note, &after, e) < 0)
        return -1;
    step_evidence(s, "record retired", true, "%s/%s: status %s, read back, with the evidence in a note beside it", after.kind, after.id, after.status);
    step_result(s, "record", json_string(after.id));
    step_result(s, "status", json_string(after.status));
    return 0;
}

const struct step_api step_cmdb_retire = {
    .name = "cmdb_retire", .title = "Retire the CMDB record", .place = STEP_AT_FACTORY, .timeout_ms = 300000, .attempts = 5, .run = run};
