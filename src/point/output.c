#include "point/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

int point_output_check(const char *path, bool force, struct err *e)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_errno(e, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_CONFLICT, "%s exists and is no file: name another place", path);
    return force ? 0 : err_set(e, ERR_CONFLICT, "%s exists: remove it, name another place, or say --force to replace it", path);
}

/* The lock is of the file that the name means, not of one that somebody removed meanwhile. */
static bool is_still_there(const struct point_output *o)
{
    struct stat held, named;

    return fstat(o->fd, &held) == 0 && lstat(o->part, &named) == 0 && held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

int point_output_begin(struct point_output *o, const char *path, bool force, struct err *e)
{
    CLEANUP(point_output_end) struct point_output made = {.path = xstrdup(path), .part = xasprintf("%s.part", path), .fd = -1, .force = force};

    if (point_output_check(path, force, e) < 0)
        return -1;
    made.fd = open(made.part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (made.fd < 0)
        return err_errno(e, errno, "can't make %s", made.part);
    if (flock(made.fd, LOCK_EX | LOCK_NB) < 0 || !is_still_there(&made))
        return err_set(e, ERR_CONFLICT, "another process writes %s: wait until it is done", made.part);
    made.made = true;
    if (ftruncate(made.fd, 0) < 0 || fchmod(made.fd, 0600) < 0)
        return err_errno(e, errno, "can't write %s", made.part);
    *o = made;
    made = (struct point_output){.fd = -1};
    return 0;
}

int point_output_settle(struct point_output *o, struct err *e)
{
    if (fsync(o->fd) < 0)
        return err_errno(e, errno, "can't bring %s to the disk", o->part);
    (void)posix_fadvise(o->fd, 0, 0, POSIX_FADV_DONTNEED);
    return 0;
}

static int name_it(const struct point_output *o)
{
    if (o->force)
        return rename(o->part, o->path);
    if (renameat2(AT_FDCWD, o->part, AT_FDCWD, o->path, RENAME_NOREPLACE) == 0)
        return 0;
    /* Not every file system can; one can look, then. */
    return errno == EINVAL && access(o->path, F_OK) != 0 ? rename(o->part, o->path) : -1;
}

static int sync_folder(const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    CLEANUP(free_ptr) char *folder = slash ? xasprintf("%.*s", (int)(slash - path) + 1, path) : xstrdup(".");
    CLEANUP(close_fd) int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 || fsync(fd) < 0 ? err_errno(e, errno, "can't bring the folder %s to the disk", folder) : 0;
}

int point_output_finish(struct point_output *o, struct err *e)
{
    if (point_output_settle(o, e) < 0)
        return -1;
    if (name_it(o) < 0)
        return errno == EEXIST || errno == EINVAL
                   ? err_set(e, ERR_CONFLICT, "%s came into being meanwhile: name another place, or say --force", o->path)
                   : err_errno(e, errno, "can't name %s", o->path);
    o->made = false;
    return sync_folder(o->path, e);
}

void point_output_end(struct point_output *o)
{
    if (o->made)
        unlink(o->part);
    close_fd(&o->fd);
    free(o->path);
    free(o->part);
    *o = (struct point_output){.fd = -1};
}

int point_output_room(const char *folder, uint64_t size_bytes, struct err *e)
{
    struct statvfs fs;
    uint64_t free_bytes;

    if (statvfs(folder, &fs) < 0)
        return err_errno(e, errno, "can't tell how much room %s has", folder);
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes >= size_bytes)
        return 0;
    return err_set(e, ERR_NO_SPACE, "%s has %llu MiB free, and this may take %llu MiB: make room, or name another place", folder,
                   (unsigned long long)(free_bytes >> 20), (unsigned long long)(size_bytes >> 20) + 1);
}
