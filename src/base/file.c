#include "base/file.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

int file_read(const char *path, size_t limit_bytes, struct buf *out, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    char block[16384];
    size_t total = 0;

    if (fd < 0)
        return err_errno(e, errno, "can't open %s", path);
    for (;;) {
        ssize_t got = read(fd, block, sizeof block);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(e, errno, "can't read %s", path);
        if (got == 0)
            return out->data ? 0 : buf_add(out, "", 0);
        total += (size_t)got;
        if (total > limit_bytes || buf_add(out, block, (size_t)got) < 0)
            return err_set(e, ERR_LIMIT, "%s is larger than %zu bytes", path, limit_bytes);
    }
}

int file_sync_dir(const char *dir, struct err *e)
{
    CLEANUP(close_fd) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 || fsync(fd) < 0 ? err_errno(e, errno, "can't sync the folder %s", dir) : 0;
}

/* Of the folder that it lies in. */
static int sync_name(const char *path, struct err *e)
{
    CLEANUP(free_ptr) char *copy = xstrdup(path);

    return file_sync_dir(dirname(copy), e);
}

int file_write(const char *path, const void *bytes, size_t size, unsigned mode, struct err *e)
{
    CLEANUP(free_ptr) char *temporary = xasprintf("%s.XXXXXX", path);
    CLEANUP(close_fd) int fd = mkstemp(temporary);

    if (fd < 0)
        return err_errno(e, errno, "can't create a file beside %s", path);
    if (fchmod(fd, mode) < 0 || fd_write_all(fd, bytes, size, NULL) < 0 || fsync(fd) < 0 || rename(temporary, path) < 0) {
        int reason = errno;

        unlink(temporary);
        return err_errno(e, reason, "can't write %s", path);
    }
    return sync_name(path, e);
}

static int make_dir(const char *path, unsigned mode, struct err *e)
{
    if (mkdir(path, mode) == 0)
        return sync_name(path, e);
    return errno == EEXIST ? 0 : err_errno(e, errno, "can't make the folder %s", path);
}

int file_make_dirs(const char *path, unsigned mode, struct err *e)
{
    CLEANUP(free_ptr) char *copy = xstrdup(path);

    for (char *at = copy + 1; *at; at++) {
        if (*at != '/')
            continue;
        *at = '\0';
        if (make_dir(copy, mode, e) < 0)
            return -1;
        *at = '/';
    }
    return make_dir(copy, mode, e);
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

int fd_read_all(int fd, void *bytes, size_t size, struct err *e)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = read(fd, (char *)bytes + done, size - done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(e, errno, "can't read");
        if (got == 0)
            return done == 0 ? 0 : err_set(e, ERR_PROTOCOL, "the input ended after %zu of %zu bytes", done, size);
        done += (size_t)got;
    }
    return 1;
}

int fd_write_all(int fd, const void *bytes, size_t size, struct err *e)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = write(fd, (const char *)bytes + done, size - done);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_errno(e, errno, "can't write");
        done += (size_t)put;
    }
    return 0;
}

int fd_pread_all(int fd, void *bytes, size_t size, int64_t offset, struct err *e)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(fd, (char *)bytes + done, size - done, offset + (int64_t)done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(e, errno, "can't read at %lld", (long long)offset);
        if (got == 0)
            return err_set(e, ERR_CORRUPT, "the file ends at %lld, %zu bytes short", (long long)offset + (long long)done, size - done);
        done += (size_t)got;
    }
    return 0;
}

int fd_pwrite_all(int fd, const void *bytes, size_t size, int64_t offset, struct err *e)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = pwrite(fd, (const char *)bytes + done, size - done, offset + (int64_t)done);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_errno(e, errno, "can't write at %lld", (long long)offset);
        done += (size_t)put;
    }
    return 0;
}

size_t fd_most(void)
{
    struct rlimit limit;

    MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0); /* up to the hard one anybody may */
    return limit.rlim_cur;
}

int fd_wait(int fd, short events, int64_t until_us, const char *who, struct err *e)
{
    for (;;) {
        struct pollfd p = {fd, events, 0};
        int64_t left_us = until_us - clock_monotonic_us();
        int ready = left_us <= 0 ? 0 : poll(&p, 1, (int)(left_us / US_PER_MS) + 1);

        if (ready > 0)
            return 0;
        if (ready == 0)
            return err_set(e, ERR_TIMEOUT, "%s did not answer in time", who);
        if (errno != EINTR)
            return err_errno(e, errno, "can't wait for %s", who);
    }
}
