/* filesystems: those that are mounted from the disks that the agent follows: what a freeze stops. */
#include "agent/engine.h"

#include <unistd.h>

void filesystems_release(struct filesystems **f)
{
    for (int i = 0; *f && i < (*f)->count; i++)
        close((*f)->fds[i]);
    free_ptr(f);
}

int filesystems_open(struct agent *a, struct filesystems **out, struct err *e)
{
    CLEANUP(filesystems_release) struct filesystems *f = xcalloc(1, sizeof *f);
    struct disk disks[LIMIT_DISKS_PER_SERVER];
    int found = 0;

    for (int i = 0; i < a->disk_count; i++)
        disks[i] = a->disks[i].info;
    if (disks_mounts(disks, a->disk_count, f->mounts, &found, e) < 0)
        return -1;
    for (; f->count < found; f->count++) {
        f->paths[f->count] = f->mounts[f->count].path;
        f->fds[f->count] = disks_mount_open(&f->mounts[f->count], e);
        if (f->fds[f->count] < 0)
            return -1;
    }
    *out = f;
    f = NULL;
    return 0;
}

void filesystems_sync(const struct filesystems *f)
{
    for (int i = 0; i < f->count; i++)
        syncfs(f->fds[i]);
}
