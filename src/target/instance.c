#include "target/daemon.h"
#include "target/local.h"
#include "base/file.h"
#include "base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define START_TIMEOUT_MS 60000
#define IMAGE_TIMEOUT_MS 60000
#define POLL_US (50 * US_PER_MS)

void instance_free(struct instance **i)
{
    if (!*i)
        return;
    close_fd(&(*i)->lock_fd);
    json_decref((*i)->spec_json);
    arena_free(&(*i)->arena);
    free_ptr(i);
}

int instance_open(const struct target *t, const char *name, struct instance **out, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = xcalloc(1, sizeof *i);

    i->lock_fd = -1;
    i->arena = arena_new();
    if (!spec_name_is_good(name))
        return err_set(e, ERR_INVALID, "\"%s\" can't name an instance: 1 to %d of a-z, 0-9 and -", name ? name : "", SPEC_NAME_LIMIT);
    i->name = arena_strdup(i->arena, name);
    i->folder = arena_printf(i->arena, "%s/%s", t->folder, name);
    if (network_of(t->folder, t->label, name, &i->network, e) < 0)
        return -1;
    *out = i;
    i = NULL;
    return 0;
}

char *instance_path(const struct instance *i, const char *format, ...)
{
    char name[128];
    va_list args;

    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return arena_printf(i->arena, "%s/%s", i->folder, name);
}

/* The lock's file is removed with the instance, so a lock counts only when the name still leads to the locked file. */
int instance_lock(struct instance *i, struct err *e)
{
    const char *path = arena_printf(i->arena, "%s.lock", i->folder);
    int64_t until_us = clock_monotonic_us() + LOCAL_LOCK_TIMEOUT_MS * US_PER_MS;

    while (clock_monotonic_us() < until_us) {
        CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        struct stat held, named;

        if (fd < 0)
            return err_errno(e, errno, "can't make the lock %s", path);
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
            if (fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_ino == named.st_ino) {
                i->lock_fd = fd;
                fd = -1;
                return 0;
            }
        } else if (errno != EWOULDBLOCK && errno != EINTR) {
            return err_errno(e, errno, "can't take the lock %s", path);
        } else {
            clock_sleep_us(POLL_US);
        }
    }
    return err_set(e, ERR_TIMEOUT, "somebody else has been busy with the instance %s for %d s", i->name, LOCAL_LOCK_TIMEOUT_MS / 1000);
}

int instance_load(struct instance *i, struct err *e)
{
    const char *path = instance_path(i, "spec.json");

    json_decref(i->spec_json);
    i->spec_json = NULL;
    if (!file_exists(path))
        return 0;
    if (json_read_file(path, &i->spec_json, e) < 0 || spec_from_json(i->spec_json, i->arena, &i->spec, e) < 0)
        return err_wrap(e, "what is kept of the instance %s can't be read", i->name);
    return 1;
}

int instance_need(const struct target *t, const char *name, struct instance **out, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    int found;

    if (instance_open(t, name, &i, e) < 0)
        return -1;
    found = instance_load(i, e);
    if (found < 0)
        return -1;
    if (!found)
        return err_set(e, ERR_NOT_FOUND, "there is no instance %s", name);
    *out = i;
    i = NULL;
    return 0;
}

int instance_pid(const struct instance *i, struct err *e)
{
    const char *path = instance_path(i, "qemu.pid");
    CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CLOEXEC);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || fcntl(fd, F_GETLK, &lock) < 0)
        return err_errno(e, errno, "can't look at %s", path);
    return lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

int instance_qmp(const struct instance *i, struct qmp **out, struct err *e)
{
    int pid = instance_pid(i, e);

    if (pid < 0)
        return -1;
    if (pid == 0)
        return err_set(e, ERR_WRONG_STATE, "the instance %s does not run", i->name);
    return qmp_open(i->folder, "qmp.sock", LOCAL_QMP_TIMEOUT_MS, out, e);
}

int instance_wait_gone(const struct instance *i, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;

    for (;;) {
        int pid = instance_pid(i, e);

        if (pid <= 0)
            return pid < 0 ? -1 : 1;
        if (clock_monotonic_us() >= until_us)
            return 0;
        clock_sleep_us(POLL_US);
    }
}

int instance_kill(const struct instance *i, struct err *e)
{
    int pid = instance_pid(i, e), gone;

    if (pid < 0)
        return -1;
    if (pid > 0)
        kill(pid, SIGKILL);
    gone = instance_wait_gone(i, LOCAL_QMP_TIMEOUT_MS, e);
    if (gone == 0)
        return err_set(e, ERR_TIMEOUT, "the process %d of the instance %s does not end", pid, i->name);
    return gone < 0 ? -1 : 0;
}

/* disk-N.qcow2: what a mend made, or an empty overlay over the export, complete under its name or not there at all. */
static int make_overlay(const struct instance *i, const struct target_disk *disk, int number, struct err *e)
{
    const char *path = instance_path(i, "disk-%d.qcow2", number), *part = instance_path(i, "disk-%d.qcow2.part", number);
    char size[32];
    struct proc_options create = {.argv = (const char *const[]){"qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b",
                                                                disk->nbd_uri, part, size, NULL},
                                  .timeout_ms = IMAGE_TIMEOUT_MS};
    struct proc_options copy = {.argv = (const char *const[]){"cp", "--sparse=always", "--", disk->overlay_path, part, NULL},
                                .timeout_ms = IMAGE_TIMEOUT_MS * 10};

    snprintf(size, sizeof size, "%lld", (long long)disk->size_bytes);
    if (file_exists(path))
        return 0;
    if (disk->overlay_path && rename(disk->overlay_path, path) == 0)
        return 0;
    if (disk->overlay_path && errno != EXDEV)
        return err_errno(e, errno, "can't take over the mended disk %s", disk->overlay_path);
    if (proc_must(disk->overlay_path ? &copy : &create, NULL, e) < 0)
        return err_wrap(e, "making the overlay of disk %s", disk->id);
    if (rename(part, path) < 0)
        return err_errno(e, errno, "can't make %s", path);
    return 0;
}

int instance_disk_has_backing(const struct instance *i, int disk, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    CLEANUP(json_free) json_t *info = NULL;
    struct proc_options options = {.argv = (const char *const[]){"qemu-img", "info", "-U", "--output=json",
                                                                 instance_path(i, "disk-%d.qcow2", disk), NULL},
                                   .timeout_ms = IMAGE_TIMEOUT_MS};

    if (proc_must(&options, &out, e) < 0 || json_read(out.data, out.size_bytes, &info, e) < 0)
        return err_wrap(e, "looking at disk %d of the instance %s", disk, i->name);
    return json_object_get(info, "backing-filename") ? 1 : 0;
}

static const char *lent_path(const struct instance *i, int disk) { return instance_path(i, "disk-%d.lent", disk); }

int instance_disk_lent(const struct instance *i, int disk, struct err *e) { return file_write(lent_path(i, disk), "", 0, 0600, e); }

int instance_disk_owned(const struct instance *i, int disk, struct err *e)
{
    const char *path = lent_path(i, disk);

    if (unlink(path) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove %s", path);
    return file_sync_dir(i->folder, e);
}

/* A QEMU that was killed after a fill's end may have taken with it what the overlay has of it: what is missing there comes from the export again. */
static int borrow_again(const struct instance *i, const struct target_disk *disk, int number, struct err *e)
{
    struct proc_options options = {.argv = (const char *const[]){"qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", disk->nbd_uri,
                                                                 instance_path(i, "disk-%d.qcow2", number), NULL},
                                   .timeout_ms = IMAGE_TIMEOUT_MS};

    return proc_must(&options, NULL, e) < 0 ? err_wrap(e, "laying disk %s over its export again", disk->id) : 0;
}

static int make_variables(const struct instance *i, struct err *e)
{
    CLEANUP(buf_release) struct buf bytes = {0};
    const char *path = instance_path(i, "vars.fd"), *code, *template;

    if (file_exists(path))
        return 0;
    if (args_firmware(&code, &template, e) < 0 || file_read(template, 1u << 24, &bytes, e) < 0)
        return -1;
    return file_write(path, bytes.data, bytes.size_bytes, 0600, e);
}

/* Waits until QEMU answers: only then do its devices, its disks and its network stand. */
static int wait_ready(const struct instance *i, int pidfd, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + START_TIMEOUT_MS * US_PER_MS;

    for (;;) {
        CLEANUP(qmp_free) struct qmp *q = NULL;
        struct pollfd p = {pidfd, POLLIN, 0};

        if (poll(&p, 1, (int)(POLL_US / US_PER_MS)) > 0) {
            CLEANUP(buf_release) struct buf said = {0};

            file_read(instance_path(i, "qemu.log"), 1u << 20, &said, NULL);
            return err_set(e, ERR_IO, "QEMU ended at once: %.700s", said.size_bytes ? said.data : "it said nothing");
        }
        if (qmp_open(i->folder, "qmp.sock", LOCAL_QMP_TIMEOUT_MS, &q, e) == 0)
            return 0;
        if (clock_monotonic_us() > until_us)
            return err_wrap(e, "QEMU was not ready within %d s", START_TIMEOUT_MS / 1000);
    }
}

static int run_qemu(const struct instance *i, const char *const *argv, struct err *e)
{
    struct daemon_options options = {.argv = argv, .folder = i->folder, .netns_path = i->network.netns_path,
                                     .log_path = instance_path(i, "qemu.log")};
    CLEANUP(close_fd) int pidfd = -1;

    unlink(instance_path(i, "qmp.sock"));
    unlink(instance_path(i, "qemu.pid")); /* the last one's, which nobody holds */
    pidfd = daemon_start(&options, e);
    if (pidfd < 0)
        return -1;
    if (wait_ready(i, pidfd, e) == 0)
        return 0;
    pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
    instance_wait_gone(i, LOCAL_QMP_TIMEOUT_MS, NULL);
    unlink(instance_path(i, "qemu.pid"));
    return -1;
}

/* Overlays and UEFI's variables, as far as they are missing. */
static int make_files(const struct instance *i, const struct target_spec *spec, bool *has_backing, struct err *e)
{
    for (int disk = 0; disk < spec->disk_count; disk++) {
        int backing;

        if (make_overlay(i, &spec->disks[disk], disk, e) < 0)
            return -1;
        backing = instance_disk_has_backing(i, disk, e);
        if (backing < 0)
            return -1;
        if (!backing && file_exists(lent_path(i, disk))) {
            if (borrow_again(i, &spec->disks[disk], disk, e) < 0)
                return -1;
            backing = 1;
        }
        has_backing[disk] = backing;
    }
    return spec->uefi ? make_variables(i, e) : 0;
}

int instance_start(struct target *t, struct instance *i, const struct target_spec *spec, struct err *e)
{
    bool has_backing[ARRAY_COUNT(spec->disks)] = {0};
    const char **argv = NULL;

    if (local_accel(t, e) < 0 || local_memory_fits(t, spec->memory_bytes, spec->instance, e) < 0 ||
        make_files(i, spec, has_backing, e) < 0)
        return -1;
    if (network_make(&i->network, spec, e) < 0)
        return -1;
    if (args_make(t, i, spec, has_backing, &argv, e) < 0 || run_qemu(i, argv, e) < 0) {
        network_remove(&i->network, NULL);
        return -1;
    }
    return 0;
}
