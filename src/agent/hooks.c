#include "agent/hooks.h"

#include "base/file.h"
#include "base/log.h"
#include "base/proc.h"

#include <unistd.h>

#define HOOK_TIMEOUT_MS 60000

static int run(const char *program, const char *argument, struct err *e)
{
    const char *argv[] = {program, argument, NULL};
    struct proc_options options = {.argv = argv, .timeout_ms = HOOK_TIMEOUT_MS};

    if (!*program)
        return 0;
    return proc_must(&options, NULL, e) < 0 ? err_wrap(e, "the program %s %s", program, argument) : 0;
}

/* It is there from before the first program to after the second. In a tmpfs: it ends with the boot, as what was stopped does. */
static char *marker(const struct agent_config *c) { return xasprintf("%s/quiet", c->runtime_dir); }

int hook_before_freeze(const struct agent_config *c, struct err *e)
{
    CLEANUP(free_ptr) char *path = marker(c);

    if (*c->after_thaw && file_write(path, "", 0, 0600, e) < 0)
        return -1;
    return run(c->before_freeze, "before-freeze", e);
}

int hook_after_thaw(const struct agent_config *c, struct err *e)
{
    CLEANUP(free_ptr) char *path = marker(c);
    int result = run(c->after_thaw, "after-thaw", e);

    unlink(path);
    return result;
}

void hook_left(const struct agent_config *c)
{
    CLEANUP(free_ptr) char *path = marker(c);
    struct err e = {0};

    if (!file_exists(path))
        return;
    log_warn("an agent before this one was stopped between the programs around a freeze: %s runs now", c->after_thaw);
    if (hook_after_thaw(c, &e) < 0)
        log_err(&e, "after thawing");
}
