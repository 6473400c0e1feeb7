/* A mount namespace of a test's own. It begins with copies of all mounts, and a file system is in use for as long as one of them is there: so those of other tests, which run beside
 * it, are left at once. */
#pragma once

#include "base/mem.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

/* kept: the folder whose mounts stay. -1: there can be none (who runs this is not root). */
static inline int mounts_of_our_own(const char *kept)
{
    CLEANUP(close_file) FILE *all = NULL;
    char line[4096], place[4096];

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || !(all = fopen("/proc/self/mountinfo", "re")))
        return -1;
    while (fgets(line, sizeof line, all))
        if (sscanf(line, "%*s %*s %*s %*s %4095s", place) == 1 && strncmp(place, "/tmp/slipway", 12) == 0 && (!*kept || strncmp(place, kept, strlen(kept)) != 0))
            (void)umount2(place, MNT_DETACH);
    return 0;
}
