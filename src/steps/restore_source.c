/* restore_source: the way back at the source: its addresses, swap and services again, its neighbours told. The copy must be stopped
 * before (the step stop_instance): two machines with one address would take turns. */
#include "steps/scripts.h"
#include "steps/source.h"

#include <string.h>

#define TAKE_BACK_MS 420000
#define TIDY_MS 60000

static int phase(struct step *s, struct remote *r, const char *name, const char *parking, int timeout_ms, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    const char *const arguments[] = {name, parking, NULL};
    int result = source_script(r, script_unpark, arguments, &out, timeout_ms, e), failed = source_evidence(s, out.data);

    if (result < 0)
        return failed ? err_set(e, ERR_WRONG_STATE, "the source does not serve again: %d of its lines of evidence say why", failed) : -1;
    return failed || !out.data ? err_set(e, ERR_PROTOCOL, "the source said nothing, or that something failed, and claims success") : 0;
}

int source_take_back(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL, *own = NULL;
    const char *parking;
    char address[64];
    struct err parked = {0};

    if (source_parking(s, address, sizeof address, &parking, e) < 0)
        return -1;
    /* Where it never left (or an attempt before this one came as far), it is at its own address. */
    if (source_open(s, SOURCE_PARKED, false, &r, &parked) < 0 && source_open(s, SOURCE_SERVING, false, &r, e) < 0) {
        *e = parked;
        return err_wrap(e, "the source answers neither at its parking address nor at its own");
    }
    if (phase(s, r, "take-back", parking, TAKE_BACK_MS, e) < 0)
        return -1;
    if (source_open(s, SOURCE_SERVING, false, &own, e) < 0)
        return err_wrap(e, "the source has its address back and can't be reached there");
    step_evidence(s, "reached at its own address", true, "%s, with the pinned host key", step_string(s, "server.address", "?"));
    return phase(s, own, "tidy", parking, TIDY_MS, e);
}

static int run(struct step *s, struct err *e)
{
    if (source_take_back(s, e) < 0)
        return -1;
    step_result(s, "parked", json_false());
    return 0;
}

const struct step_api step_restore_source = {.name = "restore_source", .title = "Let the source serve again", .place = STEP_AT_SOURCE,
                                             .timeout_ms = 900000, .attempts = 5, .run = run};
