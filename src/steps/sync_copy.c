/* sync_copy: the launched machine's agent reaches the replicator and has sent what differs from what the vault holds; a point of it, so that the source can be looked
 * at before anything stops. */
#include "base/clock.h"
#include "steps/control.h"
#include "steps/home.h"

#include <inttypes.h>

#define POINT_TIMEOUT_MS (30 * 60 * 1000)

static int run(struct step *s, struct err *e)
{
    CLEANUP(json_free) json_t *synced = NULL, *answer = NULL;
    int64_t begun_us = clock_monotonic_us();
    CLEANUP(free_ptr) char *name = NULL;
    json_t *server, *point;
    const char *id;

    if (home_name(s, &name, e) < 0 || control_wait_continuous(s, name, &synced, &server, e) < 0)
        return -1;
    step_evidence(s, "in step", true, "%" PRId64 " bytes of disks read, %" PRId64 " sent, in %" PRId64 " s", json_get_int(server, "bytes_total", 0),
                  json_get_int(server, "bytes_sent", 0), (clock_monotonic_us() - begun_us) / US_PER_S);
    if (control_ask_agent(s, json_pack("{s:s, s:s, s:s, s:i}", "verb", "point", "server", name, "consistency", "any", "timeout_ms", POINT_TIMEOUT_MS), POINT_TIMEOUT_MS + 60000,
                          "a first point", &answer, e) < 0)
        return err_wrap(e, "a point of the launched machine was not taken");
    if (json_need_object(answer, "point", &point, e) < 0 || json_need_string(point, "id", &id, e) < 0 || control_point_whole(s, point, e) < 0 || home_pin(s, id, e) < 0)
        return -1;
    step_evidence(s, "point", true, "%s, of %s, of the server %s: the source's own points are untouched", id, json_get_string(point, "at", "?"), name);
    step_result(s, "point", json_string(id));
    return 0;
}

const struct step_api step_sync_copy = {
    .name = "sync_copy", .title = "Sync the launched machine", .place = STEP_AT_REPLICATOR, .timeout_ms = INT32_MAX, .attempts = 10, .span = STEP_LONG, .run = run};
