/* open_door: the instance takes over: its door opens, when the source has given its address up and the copy does not act as the source. */
#include "base/clock.h"
#include "steps/boot_check.h"
#include "steps/copy_agent.h"

#include <stdio.h>
#include <string.h>

#define LOGIN_DEADLINE_MS 120000
#define ANSWER_DEADLINE_MS 60000
#define DIAL_MS 2000
#define AGAIN_MS 200
#define EPHEMERAL_PORT 32768

/* The gates, all of which must be shut for a reason: absence is one. */
static int may_open(struct step *s, struct err *e)
{
    if (!json_is_true(step_json(s, "context.quiesce.parked")))
        return err_set(e, ERR_WRONG_STATE, "quiesce does not say that the source is parked: its address may still be in use");
    step_evidence(s, "source parked", true, "at %s since %s", step_string(s, "context.quiesce.parking_address", "?"),
                  step_string(s, "context.quiesce.at", "?"));
    return 0;
}

/* verify_cutover took the agent off; where that was skipped, it is done here, behind the door that is still closed. */
static int agent_is_off(struct step *s, struct boot_check *b, struct err *e)
{
    if (json_is_true(step_json(s, "context.verify_cutover.agent_off")))
        return 0;
    if (boot_login(b, e) < 0)
        return err_wrap(e, "the source's agent must be taken off the copy before its door opens");
    return copy_agent_remove(s, b->remote, e);
}

/* A port that the source served to others: what clients will ask for; SSH's where there is none. */
static int client_port(const struct step *s)
{
    json_t *listening;
    int found = 0;
    size_t i;

    json_array_foreach(step_json(s, "facts.listening"), i, listening) {
        const char *address = json_get_string(listening, "address", "127.");
        int64_t port = json_get_int(listening, "port", 0);

        if (strncmp(address, "127.", 4) != 0 && strcmp(address, "::1") != 0 && port > 0 && port < EPHEMERAL_PORT && port != 22 && !found)
            found = (int)port;
    }
    return found ? found : (int)step_int(s, "server.port", 22);
}

/* From the real network now. */
static int wait_answer(struct step *s, struct boot_check *b, struct err *e)
{
    int64_t began_us = clock_monotonic_us();
    int port = client_port(s);
    struct err why = {0};

    for (;;) {
        CLEANUP(close_fd) int fd = b->launch.api->connect(b->launch.target, b->launch.instance, b->address, port, DIAL_MS, &why);
        int64_t took_us = clock_monotonic_us() - began_us;

        if (fd >= 0) {
            step_evidence(s, "answers", true, "%s port %d, from the real network, %lld ms after the door opened", b->address, port, (long long)(took_us / US_PER_MS));
            return 0;
        }
        if (took_us > ANSWER_DEADLINE_MS * US_PER_MS) {
            step_evidence(s, "answers", false, "%s port %d did not within %d s: %s", b->address, port, ANSWER_DEADLINE_MS / 1000, why.message);
            return err_set(e, ERR_UNREACHABLE, "the door is open and %s port %d does not answer from the real network: %s", b->address, port, why.message);
        }
        if (step_sleep_ms(s, AGAIN_MS, e) < 0)
            return -1;
    }
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(boot_check_release) struct boot_check b = {0};
    char at[CLOCK_TEXT_SIZE];
    enum target_state state;
    int64_t done = 0, total = 0;

    if (may_open(s, e) < 0 || boot_check_open(s, LAUNCH_CUTOVER, "launch_cutover", LOGIN_DEADLINE_MS, &b, e) < 0 || agent_is_off(s, &b, e) < 0 ||
        b.launch.api->state(b.launch.target, b.launch.instance, &state, e) < 0)
        return -1;
    if (state != TARGET_RUNNING)
        return err_set(e, ERR_WRONG_STATE, "the instance %s does not run: its door stays closed", b.launch.instance);
    if (b.launch.api->set_net(b.launch.target, b.launch.instance, TARGET_NET_OPEN, e) < 0)
        return err_wrap(e, "the door of %s stays closed", b.launch.instance);
    step_evidence(s, "door", true, "open since %s", clock_format(clock_now_us(), at));
    step_result(s, "instance", json_string(b.launch.instance));
    step_result(s, "opened_at", json_string(at));
    if (wait_answer(s, &b, e) < 0)
        return -1;
    /* From here on it is filled in behind: not before, for that takes from the host what others need who are still closed. */
    if (b.launch.api->fill(b.launch.target, b.launch.instance, &done, &total, e) < 0)
        return err_wrap(e, "filling the instance in");
    step_evidence(s, "fill", true, "begun: %lld of %lld MiB", (long long)(done >> 20), (long long)(total >> 20));
    return 0;
}

/* Closed again: the instance runs on and nobody reaches it. */
static int undo(struct step *s, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    enum target_state state;

    if (launch_open_instance(s, LAUNCH_CUTOVER, &l, e) < 0 || l.api->state(l.target, l.instance, &state, e) < 0)
        return -1;
    return state == TARGET_RUNNING ? l.api->set_net(l.target, l.instance, TARGET_NET_CLOSED, e) : 0;
}

const struct step_api step_open_door = {
    .name = "open_door", .title = "Open the door", .place = STEP_AT_TARGET, .timeout_ms = 5 * 60 * 1000, .attempts = 5, .run = run, .undo = undo};
