/* stop_instance: the way back's first task: the cutover instance leaves the network at once, and goes. What it wrote goes with it; whoever asked for
 * the way back was told. Then the source, which was held still since the cutover point, may move again: nobody can log in before. Where its agent is
 * away that is left to the hold's own limit.
 * On the way home (task.params.keep) the source has all that it wrote, and waits for the address: the instance stops, and its disks stay until that is accepted. */
#include "base/clock.h"
#include "steps/control.h"
#include "steps/launch.h"

#define AWAY_MS 120000 /* how long its agent is waited for; task.params.wait_ms is another time */
#define AGAIN_MS 2000

/* An agent that is away must not keep its source from serving again: nobody may skip this, and it may be away for good. */
static int let_source_move(struct step *s, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + step_int(s, "task.params.wait_ms", AWAY_MS) * US_PER_MS;
    const char *server;

    if (step_need_string(s, "server.name", &server, e) < 0)
        return -1;
    for (;;) {
        struct err why = {0};

        if (control_ask(s, json_pack("{s:s, s:s}", "verb", "thaw", "server", server), 120000, NULL, NULL, &why) == 0) {
            step_evidence(s, "source moves", true, "its filesystems are no longer held");
            return 0;
        }
        if (why.kind != ERR_UNREACHABLE && why.kind != ERR_TIMEOUT && why.kind != ERR_NOT_FOUND) { /* not found: a replicator that has lost its servers, or never had this one */
            *e = why;
            return err_wrap(e, "the source can't be told to go on");
        }
        if (clock_monotonic_us() > until_us) {
            step_evidence(s, "source's agent", true, "it is away (%s): if it holds the source still, that ends by itself, or with `systemctl restart slipway-agent` on its console", why.message);
            return 0;
        }
        step_progress(s, 0, 0, "", "waiting for its agent: %s", why.message);
        if (step_sleep_ms(s, AGAIN_MS, e) < 0)
            return -1;
    }
}

static int is_stopped(struct step *s, struct launch *l, struct err *e)
{
    enum target_state state;

    if (l->api->state(l->target, l->instance, &state, e) < 0)
        return -1;
    if (state != TARGET_STOPPED && state != TARGET_ABSENT)
        return err_set(e, ERR_WRONG_STATE, "the instance %s was told to stop and has not", l->instance);
    step_evidence(s, "stopped", true, "%s does not run; its disks are kept until what came home is accepted", l->instance);
    return 0;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    enum target_state state;

    if (launch_open_instance(s, LAUNCH_CUTOVER, &l, e) < 0 || l.api->state(l.target, l.instance, &state, e) < 0)
        return -1;
    if (state == TARGET_RUNNING && l.api->set_net(l.target, l.instance, TARGET_NET_CLOSED, e) < 0)
        return err_wrap(e, "the door of %s can't be closed", l.instance);
    step_evidence(s, "address free", true, state == TARGET_RUNNING ? "the door of %s is closed" : "%s does not run", l.instance);
    if (state != TARGET_ABSENT && l.api->stop(l.target, l.instance, true, 0, e) < 0)
        return -1;
    if (json_is_true(step_json(s, "task.params.keep")))
        return is_stopped(s, &l, e);
    return launch_remove(s, LAUNCH_CUTOVER, true, e) < 0 ? -1 : let_source_move(s, e);
}

const struct step_api step_stop_instance = {
    .name = "stop_instance", .title = "Stop the cutover instance", .place = STEP_AT_TARGET, .timeout_ms = 10 * 60 * 1000, .attempts = 5, .run = run};
