/* validate_launch: whether the target could launch the copy as the settings say, before anything is launched. */
#include "steps/launch.h"
#include "target/mend.h"

static int run(struct step *s, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    CLEANUP(json_free) json_t *lines = json_array(), *reasons = json_array();
    json_t *reason;
    size_t i;
    int failed;

    if (launch_open_instance(s, LAUNCH_CHECK, &l, e) < 0 || launch_spec(s, LAUNCH_CHECK, NULL, &l, e) < 0 ||
        l.api->validate(l.target, &l.spec, lines, e) < 0)
        return -1;
    failed = launch_evidence(s, lines);
    if (mend_reasons(step_json(s, "facts"), l.spec.disk_bus, reasons) == 0)
        step_evidence(s, "other hardware", true, "the copy's is like the source's: it starts at once");
    json_array_foreach(reasons, i, reason)
        step_evidence(s, "other hardware", true, "%s: the copy will be looked into, and mended where it must be", json_string_value(reason));
    if (failed || !target_lines_passed(lines))
        return err_set(e, ERR_WRONG_STATE, "the target can't launch the copy: %d of %zu lines say why", failed, json_array_size(lines));
    step_result(s, "disk_bus", json_string(l.spec.disk_bus));
    return 0;
}

const struct step_api step_validate_launch = {
    .name = "validate_launch", .title = "Validate launch settings", .place = STEP_AT_TARGET, .timeout_ms = 5 * 60 * 1000, .attempts = 3, .run = run};
