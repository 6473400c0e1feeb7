#include "steps/control.h"
#include "base/clock.h"
#include "replicator/call.h"

#include <inttypes.h>
#include <string.h>

#define AGENT_WAIT_US (300 * US_PER_S)
#define AGENT_AGAIN_MS 500
#define PLACES_BYTES 600

struct asking {
    struct step *step;
    const char *note;
};

static bool is_cancelled(void *user) { return step_cancelled(((struct asking *)user)->step); }

static void pass_on(int64_t done, int64_t total, const char *unit, void *user)
{
    struct asking *a = user;

    if (a->note)
        step_progress(a->step, done, total, unit, "%s", a->note);
}

int control_ask(struct step *s, json_t *request, int timeout_ms, const char *note, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *asked = request, *answered = NULL;
    struct asking a = {s, note};
    const char *name = step_string(s, "settings.replicator.name", NULL);
    struct replicator_call call = {.timeout_ms = timeout_ms, .cancelled = is_cancelled, .progress = pass_on, .user = &a};

    if (name)
        json_object_set_new(asked, "replicator", json_string(name));
    if (step_need_string(s, "settings.replicator.control_socket", &call.socket_path, e) < 0 || replicator_call(&call, asked, &answered, e) < 0)
        return -1;
    if (answer) {
        *answer = answered;
        answered = NULL;
    }
    return 0;
}

int control_ask_agent(struct step *s, json_t *request, int timeout_ms, const char *note, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *asked = request;
    int64_t until_us = clock_monotonic_us() + AGENT_WAIT_US;
    struct err why = {0};

    while (control_ask(s, json_incref(asked), timeout_ms, note, answer, &why) < 0) {
        if (why.kind != ERR_UNREACHABLE || clock_monotonic_us() > until_us) {
            *e = why;
            return -1;
        }
        step_progress(s, 0, 0, "", "waiting: %s", why.message);
        if (step_sleep_ms(s, AGENT_AGAIN_MS, e) < 0)
            return -1;
        err_clear(&why);
    }
    return 0;
}

int control_server(struct step *s, json_t **answer, json_t **server, struct err *e)
{
    const char *name;

    return step_need_string(s, "server.name", &name, e) < 0 ? -1 : control_server_named(s, name, answer, server, e);
}

int control_server_named(struct step *s, const char *name, json_t **answer, json_t **server, struct err *e)
{
    CLEANUP(json_free) json_t *status = NULL;
    json_t *servers, *held;
    size_t i;

    if (control_ask(s, json_pack("{s:s, s:s}", "verb", "status", "server", name), 30000, NULL, &status, e) < 0 ||
        json_need_array(status, "servers", &servers, e) < 0)
        return -1;
    json_array_foreach(servers, i, held) {
        const char *its = json_get_string(held, "server", json_get_string(held, "name", ""));

        if (strcmp(its, name) == 0 && json_is_object(held)) {
            *answer = status;
            status = NULL;
            *server = held;
            return 0;
        }
    }
    return err_set(e, ERR_NOT_FOUND, "the replicator does not know the server %s; was its agent pushed, and does it reach the replicator?", name);
}

/* "disk serial:vda, sectors 2048 to 2055; …": the places that the point names. */
static void say_places(const json_t *point, struct buf *out)
{
    const json_t *range;
    size_t i;

    json_array_foreach(json_object_get(point, "unreadable"), i, range) {
        int64_t first = json_get_int(range, "first_sector", -1);

        buf_printf(out, "%sdisk %s, sectors %" PRId64 " to %" PRId64, i ? "; " : "", json_get_string(range, "disk", "?"), first,
                   first + json_get_int(range, "sector_count", 0) - 1);
    }
}

int control_point_whole(struct step *s, const json_t *point, struct err *e)
{
    const char *reason = step_string(s, "server.attributes.accept_unreadable", ""), *id;
    CLEANUP(buf_release) struct buf places = {.limit_bytes = PLACES_BYTES};
    int64_t bytes;

    if (json_need_string(point, "id", &id, e) < 0 || json_need_int(point, "unreadable_bytes", &bytes, e) < 0)
        return err_wrap(e, "the recovery point");
    if (bytes == 0)
        return 0;
    say_places(point, &places);
    step_evidence(s, "unreadable sectors", *reason != 0, "%s: %" PRId64 " bytes of the source could not be read and are zero in it (%s)%s%s", id, bytes,
                  places.size_bytes ? places.data : "places not known", *reason ? "; accepted: " : "", reason);
    return *reason ? 0 : err_set(e, ERR_WRONG_STATE, "%" PRId64 " bytes of the source could not be read when the recovery point %s was taken, and are zero in it: mend the "
                                 "source's disk and take another one, or say in the server's attribute accept_unreadable why it may be used so", bytes, id);
}

int control_disks_there(struct step *s, const json_t *server, struct err *e)
{
    CLEANUP(buf_release) struct buf names = {.limit_bytes = PLACES_BYTES};
    json_t *missing, *disk;
    size_t i;

    if (json_need_array(server, "disks_missing", &missing, e) < 0)
        return err_wrap(e, "its replication");
    if (!json_array_size(missing))
        return 0;
    json_array_foreach(missing, i, disk)
        buf_printf(&names, "%s%s (%" PRId64 " bytes, since %s)", i ? ", " : "", json_get_string(disk, "id", "?"), json_get_int(disk, "size_bytes", 0),
                   json_get_string(disk, "since", "?"));
    step_evidence(s, "all disks", false, "missing: %s", names.size_bytes ? names.data : "not known which");
    return err_set(e, ERR_WRONG_STATE, "disks that the server had are missing (%s): bring them back, or say on the replicator's machine that they were meant to go: slipway "
                   "replication accept %s", names.size_bytes ? names.data : "not known which", json_get_string(server, "server", "SERVER"));
}
