/* rescue: a machine whose own kernel is started with this program as its only process, so that nothing uses its disks and a recovery point can go back onto
 * them (docs/agent.md, "Rescue"). Three parts: an image is made and all that it needs is checked; kernel and image are started in the place of the running
 * system; in there, as process 1, the point is restored and verified, the replicator is told, and the machine boots from its disks. */
#pragma once

#include "agent/config.h"
#include "base/json.h"

struct rescue_order {
    const char *point;   /* an id; "newest": the newest of now */
    const char *onto;    /* names of disks of now, as in struct restore_order; NULL: by identity */
    const char *image;   /* the file to make: an initramfs, 0600, for it holds the agent's key */
    const char *kernel;  /* NULL: this kernel's own in /boot */
    /* For another machine than this one; all three or none. Nothing of this machine is looked at then, and nothing of that one is checked. */
    const char *network; /* MAC,ADDRESS/PREFIX[,GATEWAY] */
    const char *modules; /* names of drivers, separated by commas: of its network card and of its disks */
    const char *release; /* of its kernel, whose modules are in /lib/modules here */
};

/* Makes the image: this program, its identity, the drivers that the disks and the way to the replicator need, the addresses. Before: the replicator has the
 * point, this machine has its disks, and the kernel takes kernel and image for kexec. Touches no disk. *about: a document for people and steps, the
 * caller's. */
int rescue_make(const struct agent_config *c, const struct rescue_order *order, json_t **about, struct err *e);

/* Starts kernel and image in the place of the running system, two seconds after it has returned 0. What the system has not written by then is lost, as it is
 * overwritten: filesystems are synced and made read-only first. */
int rescue_start(const struct rescue_order *order, struct err *e);

/* Process 1 of a rescue. Restores until it is done, saying how it goes on the console and to the replicator; then boots from the disks. Where it can't go on
 * it stays, and tries again: never returns. */
_Noreturn void rescue_live(void);
