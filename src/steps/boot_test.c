/* boot_test: the test instance against its source: does it boot, and is it the same machine? */
#include "steps/boot_check.h"

#define DEADLINE_MS (5 * 60 * 1000) /* for the login: emulated machines take half a minute, on a busy host several */

static int run(struct step *s, struct err *e)
{
    CLEANUP(boot_check_release) struct boot_check b = {0};
    int result;

    if (boot_check_open(s, LAUNCH_TEST, "launch_test", DEADLINE_MS, &b, e) < 0)
        return -1;
    result = boot_login(&b, e);
    if (result == 0)
        result = boot_look(&b, e);
    /* The screen and the serial log are kept of a machine that does not boot, too: they say why. */
    if (boot_keep(&b, result == 0 ? e : NULL) < 0 && result == 0)
        return -1;
    return result < 0 ? -1 : boot_verdict(&b, e);
}

const struct step_api step_boot_test = {
    .name = "boot_test", .title = "Boot-up test", .place = STEP_AT_TARGET, .timeout_ms = 30 * 60 * 1000, .attempts = 2, .run = run};
