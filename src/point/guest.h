/* guest: the file systems of a recovery point, read-only, in libguestfs's appliance: whatever lies on those disks is looked at in a small
 * machine of its own, not by this one's kernel. A file system that was in use at the point gets its journal replayed beside the point, as a
 * machine that boots from it would. */
#pragma once

#include "base/json.h"
#include "point/meter.h"

struct point_guest_waiter {
    bool (*cancelled)(void *user); /* NULL: never */
    void *user;
    FILE *tell; /* NULL: nothing is told */
};

struct point_guest;
/* Starts the appliance on the disks as lent (reach_lend), which are borrowed, and mounts: the file system of that name where one is given;
 * else all of those of the one system that is installed there; else the only file system. ERR_INVALID lists them where there are several.
 * The waiter is borrowed until point_guest_close. */
int point_guest_open(const json_t *disks, const char *filesystem, const struct point_guest_waiter *w, struct point_guest **out, struct err *e);
void point_guest_close(struct point_guest **g); /* for CLEANUP */

/* [{"name","type":"file|folder|link|other","size_bytes","mode":"0644","modified"}] of a folder, by name, not more than `limit` of them;
 * *more: how many others there are. The caller frees *entries. ERR_NOT_FOUND, ERR_INVALID (no folder). */
int point_guest_list(struct point_guest *g, const char *path, size_t limit, json_t **entries, size_t *more, struct err *e);
/* Writes the file's bytes to `to` (point/output.h: whole or not at all, 0600) and compares their hashes. Links are followed inside the
 * point. *size_bytes may be NULL. ERR_NOT_FOUND, ERR_INVALID (no file), ERR_CONFLICT, ERR_NO_SPACE, ERR_CANCELLED. */
int point_guest_fetch(struct point_guest *g, const char *path, const char *to, bool force, int64_t *size_bytes, struct err *e);
