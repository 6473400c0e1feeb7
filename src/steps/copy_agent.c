#include "steps/copy_agent.h"
#include "steps/scripts.h"
#include "steps/source.h"

#include <stddef.h>

#define TIMEOUT_MS 120000

int copy_agent_remove(struct step *s, struct remote *r, struct err *e)
{
    static const char *const arguments[] = {NULL};
    CLEANUP(buf_release) struct buf out = {0};
    int result = source_script(r, script_copy, arguments, &out, TIMEOUT_MS, e), failed = source_evidence(s, out.data);

    if (failed)
        return err_set(e, ERR_WRONG_STATE, "the source's agent is still on the copy: %d lines of evidence say where", failed);
    if (result == 0 && !out.data)
        return err_set(e, ERR_PROTOCOL, "the copy did not say whether the source's agent is gone");
    return result;
}
