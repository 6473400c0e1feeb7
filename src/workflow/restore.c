#include "workflow/workflow.h"

/* Far more than any run takes, so that no fence that was given after the backup comes again. */
#define FENCE_JUMP 1000000

int workflow_restored(struct store_tx *tx, struct err *e)
{
    /* The attempts' own fences move, too: a runner that still works on one holds the old fence, and is told to stop. */
    if (store_run(tx, e, "UPDATE task SET fence = fence + $1", "i", (int64_t)FENCE_JUMP) < 0 ||
        store_run(tx, e, "UPDATE attempt SET fence = fence + $1 WHERE state = 'RUNNING'", "i", (int64_t)FENCE_JUMP) < 0)
        return err_wrap(e, "ending the attempts of before the restore");
    return 0;
}
