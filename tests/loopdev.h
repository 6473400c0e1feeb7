/* loopdev: a loop device over a sparse file for tests that need a disk; needs root. */
#pragma once

#include "base/mem.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct loopdev {
    char path[64]; /* "/dev/loop3" */
    char name[32]; /* "loop3" */
    char file[256];
    int64_t size_bytes;
    int fd; /* of the device, read and write */
};

/* 0, or -1 where this machine has no loop devices or we aren't root. folder: where the backing file goes. */
__attribute__((unused)) static int loopdev_make(struct loopdev *l, const char *folder, const char *name, int64_t size_bytes)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), file, number = -1;

    *l = (struct loopdev){.size_bytes = size_bytes, .fd = -1};
    snprintf(l->file, sizeof l->file, "%s/%s.raw", folder, name);
    file = open(l->file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (control < 0 || file < 0 || ftruncate(file, size_bytes) < 0)
        return -1;
    for (int i = 0; i < 20; i++) { /* somebody else may take the number in between */
        struct loop_config config = {.fd = (unsigned)file, .block_size = 512, .info.lo_flags = LO_FLAGS_DIRECT_IO};

        number = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(l->name, sizeof l->name, "loop%d", number);
        snprintf(l->path, sizeof l->path, "/dev/%s", l->name);
        l->fd = open(l->path, O_RDWR | O_CLOEXEC);
        if (l->fd >= 0 && ioctl(l->fd, LOOP_CONFIGURE, &config) == 0)
            break;
        if (l->fd >= 0)
            close(l->fd);
        l->fd = -1;
        usleep(20000);
    }
    close(file);
    close(control);
    return l->fd >= 0 ? 0 : -1;
}

__attribute__((unused)) static void loopdev_remove(struct loopdev *l)
{
    if (l->fd < 0)
        return;
    ioctl(l->fd, LOOP_CLR_FD, 0);
    close(l->fd);
    unlink(l->file);
    l->fd = -1;
}
