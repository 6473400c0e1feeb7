/* home: what the steps of the way home share (workflow/templates.c: way_home, stay). The launched machine's agent replicates under a name of its own, so that its
 * points are never the source's, and the source's stay what they are. */
#pragma once

#include "remote/remote.h"
#include "steps/launch.h"
#include "steps/step.h"

#define HOME_FOLDER "/run/slipway-home" /* on the launched machine, in memory */
#define HOME_PIN "way home"             /* why points are kept until it is accepted */
#define HOME_LOGIN_MS 120000

/* "db01~copy"; the caller frees. */
int home_name(const struct step *s, char **out, struct err *e);
/* The point may neither expire nor be dropped until home_unpin; asked again it is fine. Absence of what is to be unpinned is success. */
int home_pin(struct step *s, const char *point, struct err *e);
int home_unpin(struct step *s, const char *point, struct err *e);
/* Of all points of that server, so that they can be dropped: persons' pins stay. */
int home_unpin_all(struct step *s, const char *server, struct err *e);
/* What the replicator has of the launched machine goes; its agent must be gone. */
int home_drop(struct step *s, struct err *e);
/* The launched machine's filesystems move again, where they were held. Waits a while for its agent; where that does not come back, what it held moves by itself. */
int home_thaw(struct step *s, int wait_ms, struct err *e);
/* Which of the launched machine's disks is which of the source's, by what the target told them to say of themselves: {"FOUND":"SOURCE'S"}, of all of them, or an
 * error. found: [{id,name,size_bytes}], the agent's facts; l has its spec. The caller's. */
json_t *home_disk_ids(const struct launch *l, const json_t *found, struct err *e);
/* The phase check or leave of scripts/rescue.sh on the parked source. *about: what the image is; the caller's. */
int home_rescue(struct step *s, struct remote *r, const char *phase, const char *point, json_t **about, struct err *e);
