/* forget_calls: the calls by which a process changes files, by their names. Both names of each: this file is compiled without large files' renaming. */
#undef _FILE_OFFSET_BITS
#include "forget_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static struct node *followed(int fd) { return f.on && fd >= 0 && fd < FD_MOST ? f.open[fd].node : NULL; }

static int fails(int code)
{
    pthread_mutex_unlock(&f.lock);
    errno = code;
    return -1;
}

static int do_open(const char *path, int flags, unsigned mode)
{
    struct node *folder, *n;
    struct stat st;
    bool fresh;
    int fd, code;

    if (!f.on)
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&f.lock);
    folder = folder_of(path);
    fresh = folder && (flags & O_CREAT) && access(path, F_OK) < 0;
    code = fresh ? forget_step(OTHER) : 0;
    if (code)
        return fails(code);
    fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= FD_MOST)
        forget_blind("too many files are open", path);
    if (fd >= 0 && fstat(fd, &st) == 0) {
        n = fresh ? add_node(st.st_ino, false) : node_of(st.st_ino);
        f.open[fd].node = n;
        f.open[fd].through = flags & O_DSYNC;
        if (fresh)
            add_naming(NULL, NULL, folder, path, n);
        if (n && (flags & O_TRUNC))
            forget_blind("opened with O_TRUNC", path);
    }
    pthread_mutex_unlock(&f.lock);
    return fd;
}

static unsigned mode_of(int flags, va_list args) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, unsigned) : 0; }

int open(const char *path, int flags, ...)
{
    va_list args;
    int fd;

    va_start(args, flags);
    fd = do_open(path, flags, mode_of(flags, args));
    va_end(args);
    return fd;
}

int open64(const char *path, int flags, ...)
{
    va_list args;
    int fd;

    va_start(args, flags);
    fd = do_open(path, flags, mode_of(flags, args));
    va_end(args);
    return fd;
}

int mkstemp(char *pattern)
{
    int fd = -1;

    for (int i = 0; fd < 0 && i < 1000; i++) {
        snprintf(pattern + strlen(pattern) - 6, 7, "%06d", i);
        fd = do_open(pattern, O_RDWR | O_CREAT | O_EXCL, 0600);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    return fd;
}

int mkstemp64(char *pattern) { return mkstemp(pattern); }

int close(int fd)
{
    if (fd >= 0 && fd < FD_MOST)
        f.open[fd].node = NULL;
    return (int)syscall(SYS_close, fd);
}

static ssize_t do_write(int fd, const void *bytes, size_t size, off_t offset)
{
    struct node *n = followed(fd);
    bool through = n && f.open[fd].through;
    enum forget_kind kind = through ? WRITE_THROUGH : OTHER;
    ssize_t put;
    int code;

    if (!n)
        return syscall(SYS_pwrite64, fd, bytes, size, offset);
    pthread_mutex_lock(&f.lock);
    if (forget_ends(kind)) { /* on its way as the power goes: what is read has it, the disk may */
        (void)syscall(SYS_pwrite64, fd, bytes, size, offset);
        add_change(n, bytes, (uint64_t)offset, size, false);
    }
    code = forget_step(kind);
    if (code && code != EIO && size > SECTOR && forget_draw(2))
        size = size / 2 / SECTOR * SECTOR; /* the last room */
    else if (code && !(code == EIO && through && forget_draw(2)))
        return fails(code);
    put = syscall(SYS_pwrite64, fd, bytes, size, offset);
    if (put > 0)
        add_change(n, bytes, (uint64_t)offset, (uint64_t)put, through && !code);
    if (code == EIO)
        return fails(code); /* written, and not through */
    pthread_mutex_unlock(&f.lock);
    return put;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return do_write(fd, bytes, size, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) { return do_write(fd, bytes, size, offset); }

ssize_t write(int fd, const void *bytes, size_t size)
{
    off_t at;
    ssize_t put;

    if (!followed(fd))
        return syscall(SYS_write, fd, bytes, size);
    at = lseek(fd, 0, SEEK_CUR);
    put = do_write(fd, bytes, size, at);
    if (put > 0)
        lseek(fd, at + put, SEEK_SET);
    return put;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    ssize_t total = 0;

    if (!followed(fd))
        return syscall(SYS_writev, fd, parts, count);
    for (int i = 0; i < count; i++) {
        ssize_t put = write(fd, parts[i].iov_base, parts[i].iov_len);

        if (put < 0)
            return total ? total : -1;
        total += put;
        if ((size_t)put < parts[i].iov_len)
            break;
    }
    return total;
}

int ftruncate(int fd, off_t size)
{
    struct node *n = followed(fd);
    int code, r;

    if (!n)
        return (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&f.lock);
    code = forget_step(OTHER);
    if (code)
        return fails(code);
    r = (int)syscall(SYS_ftruncate, fd, size);
    if (r == 0)
        add_change(n, NULL, 0, (uint64_t)size, false);
    pthread_mutex_unlock(&f.lock);
    return r;
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int fsync(int fd)
{
    struct node *n = followed(fd);
    int code;

    if (!n)
        return 0;
    pthread_mutex_lock(&f.lock);
    code = forget_step(FLUSH);
    f.count->flushes++;
    if (code) {
        n->unlike = n->unlike || n->change_count;
        forget_settle(n);
        return fails(code);
    }
    forget_flush(n);
    pthread_mutex_unlock(&f.lock);
    return 0;
}

int fdatasync(int fd) { return fsync(fd); }

/* Of what a flush has dropped, that is: what is read is what the disk holds, then. */
static int do_fadvise(int fd, int advice)
{
    struct node *n = followed(fd);

    if (!n || advice != POSIX_FADV_DONTNEED)
        return 0;
    pthread_mutex_lock(&f.lock);
    if (n->unlike && n->change_count == 0)
        forget_read_anew(fd, n);
    pthread_mutex_unlock(&f.lock);
    return 0;
}

int posix_fadvise(int fd, off_t offset, off_t size, int advice)
{
    (void)offset;
    (void)size;
    return do_fadvise(fd, advice);
}

int posix_fadvise64(int fd, off64_t offset, off64_t size, int advice)
{
    (void)offset;
    (void)size;
    return do_fadvise(fd, advice);
}

static int do_mkdir(const char *path, mode_t mode)
{
    struct node *folder;
    struct stat st;
    int code = 0, r;

    pthread_mutex_lock(&f.lock);
    folder = folder_of(path);
    if (folder && access(path, F_OK) < 0 && (code = forget_step(OTHER)))
        return fails(code);
    r = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (r == 0 && folder && stat(path, &st) == 0)
        add_naming(NULL, NULL, folder, path, add_node(st.st_ino, true));
    pthread_mutex_unlock(&f.lock);
    return r;
}

/* The address sanitizer makes the folder of its reports (log_path) before its shadow memory is there. */
__attribute__((no_sanitize_address)) int mkdir(const char *path, mode_t mode)
{
    return f.on ? do_mkdir(path, mode) : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

static int take_away(const char *path, int flags)
{
    struct node *folder, *n;
    int code, r;

    if (!f.on)
        return (int)syscall(SYS_unlinkat, AT_FDCWD, path, flags);
    pthread_mutex_lock(&f.lock);
    folder = folder_of(path);
    n = folder ? node_at(path) : NULL;
    if (n && (code = forget_step(OTHER)))
        return fails(code);
    r = (int)syscall(SYS_unlinkat, AT_FDCWD, path, flags);
    if (r == 0 && n) {
        add_naming(folder, path, NULL, NULL, n);
        n->gone = true;
    }
    pthread_mutex_unlock(&f.lock);
    return r;
}

int unlink(const char *path) { return take_away(path, 0); }
int rmdir(const char *path) { return take_away(path, AT_REMOVEDIR); }

int rename(const char *from, const char *to)
{
    struct node *folder, *over, *n;
    int code, r;

    if (!f.on)
        return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    pthread_mutex_lock(&f.lock);
    folder = folder_of(from);
    n = folder ? node_at(from) : NULL;
    over = node_at(to);
    if (n && (code = forget_step(OTHER)))
        return fails(code);
    r = (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (r == 0 && n) {
        add_naming(folder, from, folder_of(to), to, n);
        if (over)
            over->gone = true;
    }
    pthread_mutex_unlock(&f.lock);
    return r;
}
