/* A step's own limits of time count only where the workflow gives it as much: it is told to stop at the template's. */
#include "steps/step.h"
#include "tap.h"
#include "workflow/templates.h"

#define MOST_MS (INT64_C(14) * 24 * 3600 * 1000) /* a step that knows no limit of its own */

int main(void)
{
    for (int i = 0; template_table[i]; i++)
        for (const struct template_task *task = template_table[i]->tasks; task->name; task++) {
            const struct step_api *step = task->step ? step_find(task->step) : NULL;
            int64_t own_ms = step && step->timeout_ms < MOST_MS ? step->timeout_ms : MOST_MS, given_ms = (int64_t)task->timeout_s * 1000;

            if (task->step)
                ok(step && given_ms >= own_ms, "%s/%s: may take %lld s, and is given %lld s", template_table[i]->name, task->name, (long long)(own_ms / 1000),
                   (long long)(given_ms / 1000));
        }
    return tap_done();
}
