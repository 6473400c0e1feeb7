/* final_sync: the cutover point: the quiesced source's last change, taken frozen, and the source held still after it, so that it can be
 * compared with the copy and taken back to. */
#include "steps/control.h"
#include "steps/standstill.h"

#include <inttypes.h>

#define POINT_TIMEOUT_MS (60 * 60 * 1000)
#define HOLD_LIMIT_MS (30 * 60 * 1000) /* the agent's own, where all that the point needs of the disks is the last change */

/* The source goes on: for a way back. */
static int undo(struct step *s, struct err *e)
{
    const char *server;

    if (step_need_string(s, "server.name", &server, e) < 0)
        return -1;
    return control_ask(s, json_pack("{s:s, s:s}", "verb", "thaw", "server", server), 60000, NULL, NULL, e);
}

/* Where changes can't be followed all disks are read while the source stands still, and once more for the comparison, which it must be held for. */
static int ask(struct step *s, const char *server, json_t **answer, struct err *e)
{
    CLEANUP(free_ptr) char *cost = NULL;
    int64_t timeout_ms = POINT_TIMEOUT_MS, hold_ms = 0;
    struct standstill still;

    if (standstill_look(s, &still, e) < 0)
        return -1;
    if (still.needed) {
        cost = standstill_words(&still);
        step_evidence(s, "the source stands still", true, "its changes can't be followed: %s, and as long again for the comparison", cost);
        timeout_ms += 3 * standstill_estimate_ms(&still);
        hold_ms = HOLD_LIMIT_MS + 3 * standstill_estimate_ms(&still);
        timeout_ms = timeout_ms < STANDSTILL_WAIT_MOST_MS ? timeout_ms : STANDSTILL_WAIT_MOST_MS;
        hold_ms = hold_ms < STANDSTILL_HELD_MOST_MS ? hold_ms : STANDSTILL_HELD_MOST_MS;
    }
    step_progress(s, 0, 0, "", cost ? "the last change is read and sent: %s" : "the last change is read and sent", cost);
    return control_ask_agent(s, json_pack("{s:s, s:s, s:s, s:b, s:I, s:I}", "verb", "point", "server", server, "consistency", "frozen", "hold", 1, "timeout_ms",
                                          (json_int_t)timeout_ms, "hold_limit_ms", (json_int_t)hold_ms), (int)timeout_ms + 60000, "the last change", answer, e);
}

/* The source is quiesced by now: quiesce itself is not begun while one is missing. */
static int check_disks(struct step *s, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *server;

    return control_server(s, &answer, &server, e) < 0 ? -1 : control_disks_there(s, server, e);
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    const char *server, *id, *consistency;
    json_t *point, *disks;

    if (step_need_string(s, "server.name", &server, e) < 0 || check_disks(s, e) < 0)
        return -1;
    if (ask(s, server, &answer, e) < 0)
        return err_wrap(e, "the cutover point of %s was not taken", server);
    if (json_need_object(answer, "point", &point, e) < 0 || json_need_string(point, "id", &id, e) < 0 ||
        json_need_string(point, "consistency", &consistency, e) < 0 || json_need_array(point, "disks", &disks, e) < 0)
        return -1;
    if (json_array_size(disks) == 0)
        return err_set(e, ERR_PROTOCOL, "the cutover point %s has no disk", id);
    if (control_point_whole(s, point, e) < 0) {
        (void)undo(s, NULL); /* it need not stand still for a point that is not used */
        return -1;
    }
    step_evidence(s, "cutover point", true, "%s, %s-consistent, %zu disks, %" PRId64 " bytes of last changes; the source is held still", id, consistency,
                  json_array_size(disks), json_get_int(point, "bytes", 0));
    step_evidence(s, "freeze", true, "%" PRId64 " ms until the point was copied", json_get_int(point, "freeze_ms", 0));
    step_result(s, "point", json_string(id));
    step_result(s, "at", json_incref(json_object_get(point, "at")));
    step_result(s, "freeze_ms", json_integer(json_get_int(point, "freeze_ms", 0)));
    step_result(s, "disks", json_incref(disks));
    return 0;
}

const struct step_api step_final_sync = {
    .name = "final_sync", .title = "Send the last change", .place = STEP_AT_REPLICATOR, .timeout_ms = STANDSTILL_WAIT_MOST_MS + 3600 * 1000, .attempts = 3, .run = run, .undo = undo};
