/* terminate_test: the test instance goes: machine, disks, network, mends, export. */
#include "steps/launch.h"

static int run(struct step *s, struct err *e) { return launch_remove(s, LAUNCH_TEST, false, e); }

const struct step_api step_terminate_test = {
    .name = "terminate_test", .title = "Terminate the test instance", .place = STEP_AT_TARGET, .timeout_ms = 10 * 60 * 1000, .attempts = 5, .run = run};
