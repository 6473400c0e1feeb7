/* verify_cutover: the cutover instance behind its closed door: it boots, it is the source's like, and it will not act as the source: the agent that
 * came along on its disks is taken off it. */
#include "steps/boot_check.h"
#include "steps/copy_agent.h"

#define DEADLINE_MS (5 * 60 * 1000)

static int look(struct boot_check *b, struct err *e)
{
    if (boot_login(b, e) < 0 || copy_agent_remove(b->step, b->remote, e) < 0)
        return -1;
    step_result(b->step, "agent_off", json_true());
    return boot_look(b, e);
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(boot_check_release) struct boot_check b = {0};
    int result;

    if (boot_check_open(s, LAUNCH_CUTOVER, "launch_cutover", DEADLINE_MS, &b, e) < 0)
        return -1;
    result = look(&b, e);
    if (boot_keep(&b, result == 0 ? e : NULL) < 0 && result == 0)
        return -1;
    return result < 0 ? -1 : boot_verdict(&b, e);
}

const struct step_api step_verify_cutover = {
    .name = "verify_cutover", .title = "Verify behind the closed door", .place = STEP_AT_TARGET, .timeout_ms = 30 * 60 * 1000, .attempts = 2, .run = run};
