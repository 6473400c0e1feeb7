/* agent_file: the agent's builds that the factory has. `slipway-agent` beside this program (or the file that the setting agent_path names) is of this machine's
 * architecture; one of another has it in its name: `slipway-agent.aarch64`. */
#pragma once

#include "steps/step.h"

/* The file for a source of that architecture (as `uname -m` says there) into *path, which the caller frees. ERR_UNSUPPORTED where there is none, or it is not built for it. */
int agent_file_find(const struct step *s, const char *arch, char **path, struct err *e);
