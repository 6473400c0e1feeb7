/* restore_source: the way back at the source: its addresses again, its neighbours told, then over its own address its swap and services. The copy
 * must be stopped before (the step stop_instance): two machines with one address would take turns. */
#include "base/clock.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <string.h>

#define TAKE_BACK_MS 240000      /* all attempts together */
#define TAKE_BACK_ONCE_MS 20000  /* the first, over the parking address */
#define TAKE_BACK_AGAIN_MS 60000
#define SERVE_MS 240000          /* services may start slowly */

static int phase(struct step *s, struct remote *r, const char *name, const char *parking, int timeout_ms, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    const char *const arguments[] = {name, parking, NULL};
    int result = source_script(r, script_unpark, arguments, &out, timeout_ms, e), failed = source_evidence(s, out.data);

    if (result < 0)
        return failed ? err_set(e, ERR_WRONG_STATE, "the source does not serve again: %d of its lines of evidence say why", failed) : -1;
    return failed || !out.data ? err_set(e, ERR_PROTOCOL, "the source said nothing, or that something failed, and claims success") : 0;
}

/* One attempt at taking back. Where the parking address went with the network manager's restart, the session over it hangs: the time of
 * one attempt is short, and the next one comes over the machine's own address and goes on. */
static int take_back_once(struct step *s, bool own_first, const char *parking, int timeout_ms, struct err *e)
{
    enum source_at order[] = {own_first ? SOURCE_SERVING : SOURCE_PARKED, own_first ? SOURCE_PARKED : SOURCE_SERVING};
    CLEANUP(remote_close) struct remote *r = NULL;
    struct err first = {0};

    if (source_open(s, order[0], false, &r, &first) < 0 && source_open(s, order[1], false, &r, e) < 0) {
        *e = first;
        return err_wrap(e, "the source answers neither at its parking address nor at its own");
    }
    return phase(s, r, "take-back", parking, timeout_ms, e);
}

int source_take_back(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *own = NULL;
    int64_t until_us = clock_monotonic_us() + TAKE_BACK_MS * US_PER_MS;
    const char *parking;
    char address[64];

    if (source_parking(s, address, sizeof address, &parking, e) < 0)
        return -1;
    for (bool again = false; take_back_once(s, again, parking, again ? TAKE_BACK_AGAIN_MS : TAKE_BACK_ONCE_MS, e) < 0; again = true)
        if ((e->kind != ERR_TIMEOUT && e->kind != ERR_UNREACHABLE) || clock_monotonic_us() > until_us)
            return -1;
    if (source_open(s, SOURCE_SERVING, false, &own, e) < 0)
        return err_wrap(e, "the source has its address back and can't be reached there");
    step_evidence(s, "reached at its own address", true, "%s, with the pinned host key", step_string(s, "server.address", "?"));
    return phase(s, own, "serve", parking, SERVE_MS, e);
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
