/* hooks: the owner's programs around a freeze. Once the first has begun the second runs, whatever becomes of the agent: where it is killed between them, its next
 * start runs it (or `slipway-agent thaw`, which the service calls when it has stopped). */
#pragma once

#include "agent/config.h"

int hook_before_freeze(const struct agent_config *c, struct err *e);
int hook_after_thaw(const struct agent_config *c, struct err *e);
void hook_left(const struct agent_config *c); /* the latter, where an agent before this one did not come to it */
