/* launch: what the steps at a target share: the target opened as the settings say, the instance's name, what is launched from a recovery
 * point, and a record on this runner of what a launch has done so far, so that an attempt after a killed one goes on with it. */
#pragma once

#include "steps/step.h"
#include "target/target.h"

enum launch_kind { LAUNCH_CHECK, LAUNCH_TEST, LAUNCH_CUTOVER };

struct launch {
    struct arena *arena;
    const struct target_api *api;
    struct target *target;
    char instance[48];
    const char *folder;   /* overlays of mends and the record of this runner */
    struct target_spec spec;
};
void launch_release(struct launch *l); /* for CLEANUP; on zeros, too */

/* Opens settings.target. A local one keeps its instances in the runner's state folder where the settings name no other. */
int launch_open(struct step *s, struct launch *l, struct err *e);
/* The same, with the instance of this step's server: its name is made from the server's and the kind. */
int launch_open_instance(struct step *s, enum launch_kind kind, struct launch *l, struct err *e);
/* The server's name as an instance's: [a-z0-9-], bounded, different for different servers. */
void launch_name(const char *server, enum launch_kind kind, char out[static 48]);

/* What to launch, from facts, attributes and the exports' disks ([{id,nbd_uri,size_bytes}]; NULL: only to be judged). Every disk in use at the source
 * must be among them. */
int launch_spec(const struct step *s, enum launch_kind kind, const json_t *exports, struct launch *l, struct err *e);
/* The address of the instance that a check connects to. ERR_INVALID where the facts know none. */
int launch_address(const struct step *s, const char **out, struct err *e);

/* Launches the point (exported here) as the step's instance, mended where its facts ask for it; evidence and results (instance, point,
 * mends, mend_ranges, accelerator) are the step's. An instance of that name that was launched by another task is removed first. */
int launch_point(struct step *s, enum launch_kind kind, const char *point, struct err *e);
/* The point that an earlier attempt of this task chose: NULL where there was none. In the arena. */
const char *launch_chosen_point(struct step *s, struct launch *l);
int launch_choose_point(struct step *s, struct launch *l, const char *point, struct err *e);
/* Removes the instance, its record and its mends, and takes its export back. Absent is success. hurried: a source waits for it, which no replicator
 * that is away may keep from serving: the export stays then, and the record, by which the next launch or removal takes it back. */
int launch_remove(struct step *s, enum launch_kind kind, bool hurried, struct err *e);

/* Lines of check, validate and mends as the step's evidence. Returns how many did not pass. */
int launch_evidence(struct step *s, const json_t *lines);
