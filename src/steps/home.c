#include "steps/home.h"

#include "base/clock.h"
#include "base/limits.h"
#include "steps/agent_push.h"
#include "steps/control.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ASK_MS 60000
#define DROP_WAIT_US (60 * US_PER_S) /* for the replicator to see that the agent is gone */
#define THAW_ONCE_MS 5000
#define AGAIN_MS 2000
#define RESCUE_MS 300000

int home_name(const struct step *s, char **out, struct err *e)
{
    const char *server;

    if (step_need_string(s, "server.name", &server, e) < 0)
        return -1;
    *out = xasprintf("%s" COPY_SUFFIX, server);
    return 0;
}

int home_pin(struct step *s, const char *point, struct err *e)
{
    if (control_ask(s, json_pack("{s:s, s:s, s:s}", "verb", "pin", "point", point, "reason", HOME_PIN), ASK_MS, NULL, NULL, e) < 0)
        return err_wrap(e, "the recovery point %s can't be kept", point);
    return 0;
}

int home_unpin(struct step *s, const char *point, struct err *e)
{
    struct err why = {0};

    if (control_ask(s, json_pack("{s:s, s:s, s:s}", "verb", "unpin", "point", point, "reason", HOME_PIN), ASK_MS, NULL, NULL, &why) == 0 || why.kind == ERR_NOT_FOUND)
        return 0;
    *e = why;
    return -1;
}

int home_unpin_all(struct step *s, const char *server, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *points, *point, *pin;
    size_t i, k;

    if (control_ask(s, json_pack("{s:s, s:s}", "verb", "points", "server", server), ASK_MS, NULL, &answer, e) < 0 || json_need_array(answer, "points", &points, e) < 0)
        return -1;
    json_array_foreach(points, i, point)
        json_array_foreach(json_object_get(point, "pins"), k, pin)
            if (json_is_string(pin) && strcmp(json_string_value(pin), "kept: " HOME_PIN) == 0 && home_unpin(s, json_get_string(point, "id", ""), e) < 0)
                return -1;
    return 0;
}

int home_drop(struct step *s, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + DROP_WAIT_US;
    CLEANUP(free_ptr) char *name = NULL;

    if (home_name(s, &name, e) < 0 || home_unpin_all(s, name, e) < 0)
        return -1;
    for (;;) {
        struct err why = {0};

        if (control_ask(s, json_pack("{s:s, s:s}", "verb", "drop", "server", name), ASK_MS, NULL, NULL, &why) == 0)
            break;
        if (why.kind != ERR_WRONG_STATE || clock_monotonic_us() > until_us) {
            *e = why;
            return err_wrap(e, "what was replicated of the launched machine");
        }
        if (step_sleep_ms(s, AGAIN_MS, e) < 0)
            return -1;
    }
    step_evidence(s, "launched machine's points", true, "those of %s are dropped", name);
    return 0;
}

int home_thaw(struct step *s, int wait_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + wait_ms * US_PER_MS;
    CLEANUP(free_ptr) char *name = NULL;

    if (home_name(s, &name, e) < 0)
        return -1;
    for (;;) {
        struct err why = {0};

        if (control_ask(s, json_pack("{s:s, s:s, s:i}", "verb", "thaw", "server", name, "timeout_ms", THAW_ONCE_MS), ASK_MS, NULL, NULL, &why) == 0 || why.kind == ERR_NOT_FOUND)
            return 0;
        if (why.kind != ERR_UNREACHABLE && why.kind != ERR_TIMEOUT) { /* a link that its door has cut is not known to be dead for a while */
            *e = why;
            return -1;
        }
        if (clock_monotonic_us() > until_us)
            return 0;
        if (step_sleep_ms(s, AGAIN_MS, e) < 0)
            return -1;
    }
}

/* An identity that a disk keeps wherever it is: not one that is its place in the machine, or was told from a twin's by it. */
static bool is_its_own(const char *id) { return strncmp(id, "path:", 5) != 0 && !strchr(id, '@'); }

/* Whether the launched machine's disk of that identity is the spec's: it says the source's own identity (a table's GUID came along), or the serial number that the
 * target gave it, as it is or within its WWID. */
static bool is_disk(const struct launch *l, const struct target_disk *disk, const char *found)
{
    char serial[TARGET_SERIAL_SIZE] = "";
    size_t size = strlen(found), own;

    if (is_its_own(found) && strcmp(found, disk->id) == 0)
        return true;
    l->api->disk_serial(disk->id, serial);
    own = strlen(serial);
    if (!own || size <= own || strcmp(found + size - own, serial) != 0)
        return false;
    return strncmp(found, "serial:", 7) == 0 ? size == own + 7 : strncmp(found, "wwid:", 5) == 0 && strchr(" _-.", found[size - own - 1]);
}

static const struct target_disk *spec_disk(const struct launch *l, const char *found)
{
    const struct target_disk *the_one = NULL;

    for (int i = 0; i < l->spec.disk_count; i++)
        if (is_disk(l, &l->spec.disks[i], found)) {
            if (the_one)
                return NULL;
            the_one = &l->spec.disks[i];
        }
    return the_one;
}

json_t *home_disk_ids(const struct launch *l, const json_t *found, struct err *e)
{
    CLEANUP(json_free) json_t *ids = json_object(), *taken = json_object();
    json_t *disk;
    size_t i;

    json_array_foreach(found, i, disk) {
        const char *id = json_get_string(disk, "id", "");
        const struct target_disk *source = spec_disk(l, id);
        int64_t size_bytes = json_get_int(disk, "size_bytes", -1);

        if (!source || json_object_get(taken, source->id)) {
            err_set(e, ERR_CONFLICT, "the launched machine's disk %s (%s) is not known to be one of the source's: nothing of it may go onto those", json_get_string(disk, "name", "?"), id);
            return NULL;
        }
        if (source->size_bytes != size_bytes) {
            err_set(e, ERR_CONFLICT, "the launched machine's disk %s has %" PRId64 " bytes, the source's %s has %" PRId64, id, size_bytes, source->id, source->size_bytes);
            return NULL;
        }
        json_object_set_new(taken, source->id, json_true());
        json_object_set_new(ids, id, json_string(source->id));
    }
    if ((int)json_object_size(ids) != l->spec.disk_count) {
        err_set(e, ERR_CONFLICT, "the launched machine has %zu of the source's %d disks", json_object_size(ids), l->spec.disk_count);
        return NULL;
    }
    return json_incref(ids);
}

int home_rescue(struct step *s, struct remote *r, const char *phase, const char *point, json_t **about, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(free_ptr) char *text = NULL;

    if (source_phase(s, r, script_rescue, (const char *const[]){phase, point, NULL}, RESCUE_MS, &out, e) < 0)
        return -1;
    text = agent_push_told(&out, "about");
    return json_read(text, strlen(text), about, e) < 0 ? err_wrap(e, "what the source says of its rescue") : 0;
}
