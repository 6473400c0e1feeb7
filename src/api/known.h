/* known: the replicators as they are now: what placing servers and placing second copies share. */
#pragma once

#include "api/api.h"
#include "plan/place.h"

struct known {
    json_t *items;    /* as replicators_json has them; owned; their figures only where is_counted */
    json_t *settings; /* the factory's `replicator`; owned */
    json_t *replication; /* the factory's `replication`; owned, may be NULL */
    struct place_candidate *candidates;
    int count, room_percent;
    bool is_counted;
};
/* Who there is, what each says of itself, whether it is drained, and its address: without what it has been given, for which every server is read.
 * Nothing to do where it was done. */
int known_look(struct api *a, struct store_tx *tx, struct known *k, struct err *e);
/* The whole, to choose one of them. Nothing to do where it was done. */
int known_load(struct api *a, struct store_tx *tx, struct known *k, struct err *e);
void known_release(struct known *k); /* {0} is fine; for CLEANUP */
bool known_is_living(const json_t *item);                  /* it has reported of late */
/* What is to come of a server, for known_changed's sake: its replication as it was last said (the caller frees; NULL: nothing yet) and the size of its disks. */
int known_read(struct store_tx *tx, const char *server, char **document, int64_t *disk_bytes, struct err *e);
void known_changed(struct known *k, const char *name); /* figures of that one's item were added to: the next choice counts them */
void known_add(json_t *item, const char *name, int64_t more); /* to a figure of it */
/* The best of all, or that one of them (only), for this server; but not that one. *name is k's, *why the caller's. */
int known_choose(struct store_tx *tx, const struct known *k, const char *server, const char *only, const char *but, const char **name, char **why, struct err *e);
