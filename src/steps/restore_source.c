/* restore_source: the way back at the source: its addresses again, its neighbours told, then over its own address its swap and services. The copy
 * must be stopped before (the step stop_instance): two machines with one address would take turns.
 * On the way home (task.params.rescued) the source has booted what came home, which was never parked: it is waited for at its own address, and nowhere else. */
#include "base/clock.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <string.h>

#define TAKE_BACK_MS 240000      /* all attempts together */
#define TAKE_BACK_ONCE_MS 20000  /* the first, over the parking address */
#define TAKE_BACK_AGAIN_MS 60000
#define BOOT_MS 1200000          /* of a restored source, from the order on; file systems may be checked */
#define BOOT_AGAIN_MS 3000
#define SERVE_MS 240000          /* services may start slowly */

static int phase(struct step *s, struct remote *r, const char *name, const char *parking, int timeout_ms, struct err *e)
{
    return source_phase(s, r, script_unpark, (const char *const[]){name, parking, NULL}, timeout_ms, NULL, e);
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

/* It boots: what does not answer yet may still. Another host key is another machine. */
static int wait_booted(struct step *s, struct remote **r, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + BOOT_MS * US_PER_MS;

    while (source_open(s, SOURCE_SERVING, false, r, e) < 0) {
        if ((e->kind != ERR_TIMEOUT && e->kind != ERR_UNREACHABLE && e->kind != ERR_IO) || clock_monotonic_us() > until_us)
            return err_wrap(e, "the source was told to boot and does not answer at its own address");
        step_progress(s, 0, 0, "", "waiting for the source to boot: %s", e->message);
        err_clear(e);
        if (step_sleep_ms(s, BOOT_AGAIN_MS, e) < 0)
            return -1;
    }
    return 0;
}

static int serve_rescued(struct step *s, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = NULL;
    CLEANUP(free_ptr) char *services = NULL;

    if (source_services(s, &services, e) < 0 || wait_booted(s, &r, e) < 0)
        return -1;
    step_evidence(s, "reached at its own address", true, "%s, with the pinned host key", step_string(s, "server.address", "?"));
    return source_phase(s, r, script_rescue, (const char *const[]){"serve", services, NULL}, SERVE_MS, NULL, e);
}

static int run(struct step *s, struct err *e)
{
    if ((json_is_true(step_json(s, "task.params.rescued")) ? serve_rescued(s, e) : source_take_back(s, e)) < 0)
        return -1;
    step_result(s, "parked", json_false());
    return 0;
}

const struct step_api step_restore_source = {.name = "restore_source", .title = "Let the source serve again", .place = STEP_AT_SOURCE,
                                             .timeout_ms = 1800000, .attempts = 5, .run = run};
