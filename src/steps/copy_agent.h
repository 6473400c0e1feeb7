/* copy_agent: the source's agent that came along on the copy's disks. On the copy it must not run: with the source's certificate it would speak to
 * the replicator in the source's name as soon as the door is open. */
#pragma once

#include "remote/remote.h"
#include "steps/step.h"

/* Removes it from the copy at the other end of r, never call it on a source; each look is evidence. -1 where it is not proven gone. */
int copy_agent_remove(struct step *s, struct remote *r, struct err *e);
