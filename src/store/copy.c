#include "store/backend.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int store_copy_begin(const char *path, char **part, struct err *e)
{
    CLEANUP(free_ptr) char *made = xasprintf("%s.part", path);
    CLEANUP(close_fd) int fd = -1;
    struct stat there;

    if (lstat(path, &there) == 0)
        return err_set(e, ERR_CONFLICT, "it exists already: give the path of a new file");
    if (unlink(made) < 0 && errno != ENOENT)
        return err_errno(e, errno, "removing the remains of an earlier backup, %s", made);
    fd = open(made, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, errno, "%s", made);
    *part = made;
    made = NULL;
    return 0;
}

static int sync_path(const char *path, int flags, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, flags | O_CLOEXEC);

    return fd < 0 || fsync(fd) < 0 ? err_errno(e, errno, "syncing %s", path) : 0;
}

int store_copy_end(const char *part, const char *path, struct err *e)
{
    CLEANUP(free_ptr) char *folder = xstrdup(path);
    char *slash = strrchr(folder, '/');

    if (sync_path(part, O_RDWR, e) < 0)
        return -1;
    if (link(part, path) < 0) /* unlike rename, it never replaces */
        return err_errno(e, errno, "naming the copy");
    unlink(part);
    if (slash)
        slash[slash == folder] = 0;
    return sync_path(slash ? folder : ".", O_RDONLY | O_DIRECTORY, e);
}

void store_copy_drop(char **part)
{
    if (*part)
        unlink(*part);
    free(*part);
    *part = NULL;
}
