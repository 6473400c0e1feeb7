#include "replicator/compared.h"
#include "base/file.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEPT_S 3600 /* a source that was hashed longer ago may have little to do with what it is now */
#define RUN_FILE "run"
#define RUN_BYTES 128
#define LOCK_TRIES 10
#define LOCK_AGAIN_US (50 * US_PER_MS)

/* Calls each for every file of the folder. */
static void each_file(const char *folder, void (*each)(int at, const char *name, void *user), void *user)
{
    DIR *dir = opendir(folder);

    for (struct dirent *entry = dir ? readdir(dir) : NULL; entry; entry = readdir(dir))
        if (entry->d_name[0] != '.')
            each(dirfd(dir), entry->d_name, user);
    if (dir)
        closedir(dir);
}

static void see_age(int at, const char *name, void *user)
{
    time_t *newest = user;
    struct stat s;

    if (fstatat(at, name, &s, AT_SYMLINK_NOFOLLOW) == 0 && s.st_mtime > *newest)
        *newest = s.st_mtime;
}

static bool is_old(const char *folder)
{
    time_t newest = 0;

    each_file(folder, see_age, &newest);
    return time(NULL) - newest > KEPT_S;
}

static void remove_file(int at, const char *name, void *user)
{
    (void)user;
    unlinkat(at, name, 0);
}

static void remove_folder(const char *folder)
{
    each_file(folder, remove_file, NULL);
    if (rmdir(folder) < 0 && errno != ENOENT)
        log_warn("%s can't be removed: %s", folder, strerror(errno));
}

/* What comparisons left that nobody asked for again. */
static void sweep_one(int at, const char *name, void *user)
{
    CLEANUP(free_ptr) char *folder = xasprintf("%s/%s", (const char *)user, name);
    CLEANUP(free_ptr) char *run = xasprintf("%s/" RUN_FILE, folder);
    CLEANUP(close_fd) int fd = open(run, O_RDWR | O_CLOEXEC);

    (void)at;
    if ((fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0) && is_old(folder))
        remove_folder(folder);
}

/* The run's number and the boot that it was begun in: after a loss of power nobody knows what of the files is there. */
static int read_run(struct compared *c, const char *boot)
{
    char held[RUN_BYTES] = "", known[RUN_BYTES] = "";

    if (pread(c->run_fd, held, sizeof held - 1, 0) < 0 || sscanf(held, "%" SCNd64 " %127s", &c->run, known) != 2 || c->run < 1)
        return -1;
    return strcmp(known, boot) == 0 && !is_old(c->folder) ? 0 : -1;
}

static int begin_anew(struct compared *c, const char *boot, struct err *e)
{
    char text[RUN_BYTES];
    int size;

    c->run = clock_now_us();
    size = snprintf(text, sizeof text, "%" PRId64 " %s\n", c->run, boot);
    for (size_t i = 0; i < c->count; i++)
        if (ftruncate(c->fd[i], 0) < 0)
            return err_errno(e, errno, "%s", c->folder);
    return ftruncate(c->run_fd, 0) < 0 ? err_errno(e, errno, "%s", c->folder) : fd_pwrite_all(c->run_fd, text, (size_t)size, 0, e);
}

static int open_file(const struct compared *c, const char *name, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", c->folder, name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    return fd < 0 ? err_errno(e, errno, "can't keep the source's hashes in %s", path) : fd;
}

static int open_files(struct compared *c, struct err *e)
{
    if ((c->run_fd = open_file(c, RUN_FILE, e)) < 0)
        return -1;
    for (int tries = 1; flock(c->run_fd, LOCK_EX | LOCK_NB) < 0; tries++) {
        if (tries == LOCK_TRIES)
            return err_set(e, ERR_CONFLICT, "this recovery point is being compared already");
        clock_sleep_us(LOCK_AGAIN_US); /* somebody who sweeps has it for a moment */
    }
    for (size_t i = 0; i < c->count; i++) {
        char name[24];

        snprintf(name, sizeof name, "%zu", i);
        if ((c->fd[i] = open_file(c, name, e)) < 0)
            return -1;
    }
    return 0;
}

int compared_open(const char *home, const char *point, size_t disks, struct compared **out, struct err *e)
{
    CLEANUP(compared_free) struct compared *c = xcalloc(1, sizeof *c);
    CLEANUP(free_ptr) char *all = xasprintf("%s/compared", home);
    CLEANUP(buf_release) struct buf boot = {.limit_bytes = RUN_BYTES / 2};

    c->folder = xasprintf("%s/%s", all, point);
    c->count = disks;
    c->run_fd = -1;
    for (size_t i = 0; i < LIMIT_DISKS_PER_SERVER; i++)
        c->fd[i] = -1;
    each_file(all, sweep_one, all);
    if (file_read("/proc/sys/kernel/random/boot_id", RUN_BYTES / 2, &boot, e) < 0 || buf_add(&boot, "", 1) < 0)
        return -1;
    boot.data[strcspn(boot.data, "\n")] = '\0';
    if (file_make_dirs(c->folder, 0700, e) < 0 || open_files(c, e) < 0)
        return -1;
    if (read_run(c, boot.data) < 0 && begin_anew(c, boot.data, e) < 0)
        return -1;
    *out = c;
    c = NULL;
    return 0;
}

int64_t compared_chunks(const struct compared *c, size_t disk)
{
    struct stat s;

    return fstat(c->fd[disk], &s) == 0 ? s.st_size / HASH_SHA256_SIZE : 0;
}

void compared_end(struct compared *c) { remove_folder(c->folder); }

void compared_free(struct compared **held)
{
    struct compared *c = *held;

    for (size_t i = 0; c && i < c->count; i++)
        close_fd(&c->fd[i]);
    if (c) {
        close_fd(&c->run_fd);
        free(c->folder);
    }
    free_ptr(held);
}

int compared_put(int fd, int64_t first, uint32_t count, const uint8_t *hashes, struct err *e)
{
    off_t at = (off_t)first * HASH_SHA256_SIZE;
    struct stat s;

    if (fstat(fd, &s) < 0)
        return err_errno(e, errno, "the source's hashes");
    if (s.st_size < at)
        return err_set(e, ERR_PROTOCOL, "HASHES from chunk %lld on, where %lld are there", (long long)first, (long long)(s.st_size / HASH_SHA256_SIZE));
    if (s.st_size > at && ftruncate(fd, at) < 0)
        return err_errno(e, errno, "the source's hashes");
    return fd_pwrite_all(fd, hashes, (size_t)count * HASH_SHA256_SIZE, at, e);
}
