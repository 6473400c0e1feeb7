/* The predefined tasks, one line each: adding one is a file under steps/ and a line here. */
#include "steps/step.h"

#include <stddef.h>

#define STEPS(STEP) \
    STEP(prerequisites) \
    STEP(push_agent) \
    STEP(quiesce) \
    STEP(restore_source) \
    STEP(verify_source) \
    STEP(decommission) \
    STEP(validate_launch) \
    STEP(launch_test) \
    STEP(boot_test) \
    STEP(terminate_test) \
    STEP(launch_cutover) \
    STEP(verify_cutover) \
    STEP(open_door) \
    STEP(stop_instance) \
    STEP(keep_source) \
    STEP(push_copy) \
    STEP(sync_copy) \
    STEP(check_rescue) \
    STEP(last_change) \
    STEP(leave_source) \
    STEP(restore_disks) \
    STEP(boot_source) \
    STEP(let_go) \
    STEP(resume_copy) \
    STEP(right_size) \
    STEP(target_probe) \
    STEP(initial_sync) \
    STEP(verify_replication) \
    STEP(final_sync) \
    STEP(compare) \
    STEP(finalize) \
    STEP(cmdb_retire) \
    STEP(drop_staged) \
    STEP(report) \
    STEP(source_probe)

#define DECLARE(name) extern const struct step_api step_##name;
#define POINT(name) &step_##name,

STEPS(DECLARE)

const struct step_api *const step_table[] = {STEPS(POINT) NULL};
