/* A recovery point becomes an instance, and goes again. */
#include "base/file.h"
#include "steps/control.h"
#include "steps/launch.h"
#include "target/mend.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXPORT_TIMEOUT_MS 60000
#define MEND_TIMEOUT_MS (15 * 60 * 1000)

/* The record of a launch: {task,point,mends,mend_ranges,mended:[paths or null]}; kept on this runner beside the instances. */
static const char *record_path(const struct launch *l) { return arena_printf(l->arena, "%s/%s.json", l->folder, l->instance); }

/* The record of this very task, or an empty one. Owned by the caller. */
static json_t *read_record(const struct step *s, const struct launch *l)
{
    json_t *record = NULL;

    if (json_read_file(record_path(l), &record, NULL) == 0 &&
        strcmp(json_get_string(record, "task", ""), step_string(s, "task.id", "?")) == 0)
        return record;
    json_decref(record);
    return json_pack("{s:s}", "task", step_string(s, "task.id", "?"));
}

static int write_record(const struct launch *l, const json_t *record, struct err *e)
{
    CLEANUP(free_ptr) char *text = json_text(record);

    return file_write(record_path(l), text, strlen(text), 0600, e);
}

const char *launch_chosen_point(struct step *s, struct launch *l)
{
    CLEANUP(json_free) json_t *record = read_record(s, l);

    return arena_strdup(l->arena, json_get_string(record, "point", NULL));
}

int launch_choose_point(struct step *s, struct launch *l, const char *point, struct err *e)
{
    CLEANUP(json_free) json_t *record = json_pack("{s:s,s:s}", "task", step_string(s, "task.id", "?"), "point", point);

    return write_record(l, record, e);
}

static const char *overlay_path(const struct launch *l, int disk)
{
    return arena_printf(l->arena, "%s/%s-%d.mended.qcow2", l->folder, l->instance, disk);
}

static bool is_cancelled(void *user) { return step_cancelled(user); }

/* Opens the copy and mends it; the record gets what was done. */
static int mend(struct step *s, struct launch *l, json_t *record, struct err *e)
{
    struct mend_disk *disks = arena_alloc(l->arena, sizeof *disks * (size_t)l->spec.disk_count);
    const char *accelerator = l->api->accelerator(l->target, e);
    struct mend_request request = {.disks = disks, .disk_count = l->spec.disk_count, .disk_bus = l->spec.disk_bus, .facts = step_json(s, "facts"),
                                   .kvm = accelerator && strcmp(accelerator, "kvm") == 0, .timeout_ms = MEND_TIMEOUT_MS,
                                   .cancelled = is_cancelled, .user = s};
    CLEANUP(json_free) json_t *lines = json_array(), *mends = json_array(), *ranges = json_array();
    int result;

    for (int i = 0; i < l->spec.disk_count; i++) {
        const json_t *known = json_find(step_json(s, "facts.disks"), "id", l->spec.disks[i].id);

        disks[i] = (struct mend_disk){.id = l->spec.disks[i].id, .source_name = json_get_string(known, "name", ""), .nbd_uri = l->spec.disks[i].nbd_uri,
                                      .overlay_path = overlay_path(l, i), .size_bytes = l->spec.disks[i].size_bytes};
    }
    result = mend_run(&request, lines, mends, e);
    launch_evidence(s, lines);
    for (int i = 0; result == 0 && json_array_size(mends) && i < l->spec.disk_count; i++)
        result = mend_ranges(&disks[i], ranges, e);
    json_object_set(record, "mends", mends);
    json_object_set(record, "mend_ranges", ranges);
    return result;
}

/* Mends where the source's facts ask for a look; sets the overlays of the spec. */
static int mend_if_asked(struct step *s, struct launch *l, json_t *record, struct err *e)
{
    CLEANUP(json_free) json_t *reasons = json_array();
    json_t *text;
    size_t i;

    if (mend_reasons(step_json(s, "facts"), l->spec.disk_bus, reasons) == 0) {
        step_evidence(s, "mends", true, "none needed: the copy's disks, drivers, interfaces and firmware are as at the source");
        json_object_set_new(record, "mends", json_array());
        json_object_set_new(record, "mend_ranges", json_array());
    } else if (!json_object_get(record, "mends")) {
        json_array_foreach(reasons, i, text)
            step_evidence(s, "look into the copy", true, "%s", json_string_value(text));
        step_progress(s, 0, 0, "", "the copy is looked into, and mended where it must be");
        if (mend(s, l, record, e) < 0 || write_record(l, record, e) < 0)
            return -1;
        step_evidence(s, "mends", true, "%zu, on the copy only, in %zu ranges", json_array_size(json_object_get(record, "mends")),
                      json_array_size(json_object_get(record, "mend_ranges")));
    }
    for (int disk = 0; json_array_size(json_object_get(record, "mends")) && disk < l->spec.disk_count; disk++)
        l->spec.disks[disk].overlay_path = overlay_path(l, disk);
    return 0;
}

static int unexport(struct step *s, const char *point, struct err *e)
{
    return control_ask(s, json_pack("{s:s, s:s}", "verb", "unexport", "point", point), EXPORT_TIMEOUT_MS, NULL, NULL, e);
}

/* An instance of that name from another task (an earlier round, a test before) goes first, and its export with it. */
static int make_way(struct step *s, struct launch *l, const char *point, struct err *e)
{
    const char *chosen = launch_chosen_point(s, l), *earlier;
    CLEANUP(json_free) json_t *record = NULL;
    enum target_state state;

    if (chosen && strcmp(chosen, point) == 0)
        return 0;
    if (l->api->state(l->target, l->instance, &state, e) < 0)
        return -1;
    if (state != TARGET_ABSENT) {
        step_evidence(s, "earlier instance", true, "%s was there from another task; it is removed", l->instance);
        if (l->api->remove(l->target, l->instance, e) < 0)
            return -1;
    }
    json_read_file(record_path(l), &record, NULL);
    earlier = json_get_string(record, "point", point);
    if (strcmp(earlier, point) != 0 && unexport(s, earlier, e) < 0 && (!e || e->kind != ERR_NOT_FOUND))
        return err_wrap(e, "the export of %s", earlier);
    return launch_choose_point(s, l, point, e);
}

int launch_point(struct step *s, enum launch_kind kind, const char *point, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    CLEANUP(json_free) json_t *answer = NULL, *record = NULL;
    const char *accelerator;
    json_t *exports;

    if (launch_open_instance(s, kind, &l, e) < 0 || make_way(s, &l, point, e) < 0)
        return -1;
    record = read_record(s, &l);
    if (control_ask(s, json_pack("{s:s, s:s}", "verb", "export", "point", point), EXPORT_TIMEOUT_MS, NULL, &answer, e) < 0 ||
        json_need_array(answer, "disks", &exports, e) < 0)
        return err_wrap(e, "the recovery point %s can't be exported", point);
    if (control_point_whole(s, json_object_get(answer, "point"), e) < 0) {
        (void)unexport(s, point, NULL);
        unlink(record_path(&l)); /* the next attempt chooses another one */
        return -1;
    }
    if (launch_spec(s, kind, exports, &l, e) < 0 || mend_if_asked(s, &l, record, e) < 0)
        return -1;
    accelerator = l.api->accelerator(l.target, e);
    if (!accelerator)
        return -1;
    step_progress(s, 0, 0, "", "%s is launched", l.instance);
    if (l.api->launch(l.target, &l.spec, e) < 0)
        return err_wrap(e, "the instance %s", l.instance);
    step_evidence(s, "launched", true, "%s from the recovery point %s: %d CPUs, %lld MiB, %d disks on %s, %s, network %s, under %s", l.instance, point,
                  l.spec.cpu_count, (long long)(l.spec.memory_bytes >> 20), l.spec.disk_count, l.spec.disk_bus, l.spec.uefi ? "UEFI" : "BIOS",
                  kind == LAUNCH_TEST ? "isolated" : "behind its closed door", accelerator);
    step_result(s, "instance", json_string(l.instance));
    step_result(s, "point", json_string(point));
    step_result(s, "mends", json_incref(json_object_get(record, "mends")));
    step_result(s, "mend_ranges", json_incref(json_object_get(record, "mend_ranges")));
    step_result(s, "accelerator", json_string(accelerator));
    return 0;
}

/* 1: taken back (or nobody knows it), 0: the replicator is away, and who is hurried goes on without; -1. */
static int take_export_back(struct step *s, const char *point, bool hurried, struct err *e)
{
    struct err why = {0};

    if (unexport(s, point, &why) == 0 || why.kind == ERR_NOT_FOUND) {
        step_evidence(s, "export", true, "the recovery point %s is no longer exported for it", point);
        return 1;
    }
    if (hurried && (why.kind == ERR_UNREACHABLE || why.kind == ERR_TIMEOUT)) {
        step_evidence(s, "export", true, "the recovery point %s stays exported (and pinned) until the server is launched again or dropped, though nobody reads it: %s",
                      point, why.message);
        return 0;
    }
    *e = why;
    return err_wrap(e, "the export of %s", point);
}

int launch_remove(struct step *s, enum launch_kind kind, bool hurried, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    CLEANUP(json_free) json_t *record = NULL;
    enum target_state state;
    const char *point;
    int taken = 1;

    if (launch_open_instance(s, kind, &l, e) < 0 || l.api->remove(l.target, l.instance, e) < 0 ||
        l.api->state(l.target, l.instance, &state, e) < 0)
        return -1;
    if (state != TARGET_ABSENT)
        return err_set(e, ERR_WRONG_STATE, "the instance %s was removed and is still there", l.instance);
    step_evidence(s, "removed", true, "%s is gone: machine, disks and network", l.instance);
    json_read_file(record_path(&l), &record, NULL);
    point = json_get_string(record, "point", NULL);
    if (point && (taken = take_export_back(s, point, hurried, e)) < 0)
        return -1;
    for (int disk = 0; disk < (int)ARRAY_COUNT(l.spec.disks); disk++)
        unlink(overlay_path(&l, disk));
    if (taken)
        unlink(record_path(&l));
    return 0;
}
