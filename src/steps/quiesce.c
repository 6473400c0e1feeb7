/* quiesce: the source stops to serve and gives its address up, so that nothing that is written after is lost and the copy can have the
 * address. The parking address is added first and all that follows goes over it: what is proven there is that the source stays
 * reachable for the proof and the way back. docs/architecture.md, decision 5. */
#include "base/clock.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <string.h>

#define PREPARE_MS 60000
#define LEAVE_MS 420000 /* services may take their time to stop */

static int phase(struct step *s, struct remote *r, const char *name, const char *primary, const char *parking, const char *services,
                 int timeout_ms, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    const char *const arguments[] = {name, primary, parking, services, NULL};
    int result = source_script(r, script_park, arguments, &out, timeout_ms, e), failed;

    failed = source_evidence(s, out.data);
    if (result < 0)
        return failed ? err_set(e, ERR_WRONG_STATE, "the source can't be quiesced: %d of its lines of evidence say why", failed) : -1;
    if (failed || !out.data)
        return err_set(e, ERR_PROTOCOL, "the source said nothing, or that something failed, and claims success");
    return 0;
}

/* The first half, at whichever address the source has: an attempt before this one may have got as far as parking it. */
static int prepare(struct step *s, const char *primary, const char *parking, const char *services, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    struct err at_own = {0};

    if (source_open(s, SOURCE_SERVING, false, &r, &at_own) < 0 && source_open(s, SOURCE_PARKED, false, &r, NULL) < 0) {
        *e = at_own;
        return -1;
    }
    if (phase(s, r, "prepare", primary, parking, services, PREPARE_MS, e) < 0)
        return -1;
    return remote_put_root(r, "/run/slipway-park/unpark.sh", script_unpark, strlen(script_unpark), 0700, PREPARE_MS, e);
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *parked = NULL;
    CLEANUP(free_ptr) char *services = NULL;
    char address[64], at[CLOCK_TEXT_SIZE];
    const char *primary, *parking;

    if (step_need_string(s, "server.address", &primary, e) < 0 || source_parking(s, address, sizeof address, &parking, e) < 0 ||
        source_services(s, &services, e) < 0 || prepare(s, primary, parking, services, e) < 0)
        return -1;
    if (source_open(s, SOURCE_PARKED, false, &parked, e) < 0)
        return err_wrap(e, "nothing was stopped: the source's parking address can't be reached");
    if (phase(s, parked, "leave", primary, parking, services, LEAVE_MS, e) < 0 ||
        phase(s, parked, "confirm", primary, parking, services, PREPARE_MS, e) < 0)
        return -1;
    step_result(s, "parked", json_true());
    step_result(s, "parking_address", json_string(address));
    step_result(s, "at", json_string(clock_format(clock_now_us(), at)));
    return 0;
}

static int undo(struct step *s, struct err *e)
{
    return source_take_back(s, e);
}

const struct step_api step_quiesce = {.name = "quiesce", .title = "Quiesce the source", .place = STEP_AT_SOURCE, .timeout_ms = 600000, .attempts = 3,
                                      .run = run, .undo = undo};
