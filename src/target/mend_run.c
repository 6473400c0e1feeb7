/* The copy under libguestfs: opened, looked at, mended. */
#include "target/mend.h"
#include "target/mend_guest.h"
#include "target/target.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CREATE_TIMEOUT_MS 60000
#define APPLIANCE_MIB 768
#define WATCH_US (200 * US_PER_MS)

int guest_failed(const struct guest *g, struct err *e, const char *what)
{
    const char *said = guestfs_last_error(g->handle);

    return err_set(e, ERR_IO, "%s: %s", what, said ? said : "libguestfs does not say why");
}

/* Ends the appliance: the child of ours that was given the overlay. (The handle can't be asked for it while a call is in progress.) */
static void kill_appliance(const struct guest *g)
{
    const char *overlay = g->request->disks[0].overlay_path;
    DIR *proc = opendir("/proc");

    for (struct dirent *d; proc && (d = readdir(proc));) {
        CLEANUP(buf_release) struct buf status = {0}, words = {0};
        char path[300];
        const char *parent;
        int pid = atoi(d->d_name), parent_pid = 0;

        snprintf(path, sizeof path, "/proc/%s/status", d->d_name);
        if (pid <= 1 || file_read(path, 1 << 16, &status, NULL) < 0)
            continue;
        parent = strstr(status.data, "\nPPid:");
        if (!parent || sscanf(parent, "\nPPid: %d", &parent_pid) != 1 || parent_pid != getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%s/cmdline", d->d_name);
        if (file_read(path, 1 << 20, &words, NULL) == 0 && memmem(words.data, words.size_bytes, overlay, strlen(overlay)))
            kill(pid, SIGKILL);
    }
    if (proc)
        closedir(proc);
}

/* libguestfs has no time limits: a watcher ends its appliance when the time is over, and the call in progress fails. */
static void *watch(void *user)
{
    struct guest *g = user;
    int64_t until_us = clock_monotonic_us() + g->request->timeout_ms * US_PER_MS;

    while (!__atomic_load_n(&g->done, __ATOMIC_ACQUIRE)) {
        if (g->broken_off == ERR_NONE && g->request->cancelled && g->request->cancelled(g->request->user))
            __atomic_store_n(&g->broken_off, ERR_CANCELLED, __ATOMIC_RELEASE);
        else if (g->broken_off == ERR_NONE && clock_monotonic_us() > until_us)
            __atomic_store_n(&g->broken_off, ERR_TIMEOUT, __ATOMIC_RELEASE);
        if (g->broken_off != ERR_NONE)
            kill_appliance(g);
        clock_sleep_us(WATCH_US);
    }
    return NULL;
}

static int make_overlay(const struct mend_disk *disk, struct err *e)
{
    char size[32];
    struct proc_options options = {.argv = (const char *const[]){"qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b",
                                                                 disk->nbd_uri, disk->overlay_path, size, NULL},
                                   .timeout_ms = CREATE_TIMEOUT_MS};

    snprintf(size, sizeof size, "%lld", (long long)disk->size_bytes);
    unlink(disk->overlay_path); /* of an attempt that was killed */
    return proc_must(&options, NULL, e);
}

static int open_disks(struct guest *g, struct err *e)
{
    const struct mend_request *r = g->request;

    for (int i = 0; i < r->disk_count; i++) {
        if (make_overlay(&r->disks[i], e) < 0)
            return err_wrap(e, "disk %s", r->disks[i].id);
        if (guestfs_add_drive_opts(g->handle, r->disks[i].overlay_path, GUESTFS_ADD_DRIVE_OPTS_FORMAT, "qcow2",
                                   GUESTFS_ADD_DRIVE_OPTS_CACHEMODE, "unsafe", -1) < 0)
            return guest_failed(g, e, "adding a disk");
    }
    return 0;
}

static int open_guest(struct guest *g, struct err *e)
{
    g->handle = guestfs_create_flags(GUESTFS_CREATE_NO_ENVIRONMENT | GUESTFS_CREATE_NO_CLOSE_ON_EXIT);
    if (!g->handle)
        return err_set(e, ERR_IO, "libguestfs can't be used");
    guestfs_set_error_handler(g->handle, NULL, NULL); /* errors are asked for, not printed */
    guestfs_set_memsize(g->handle, APPLIANCE_MIB);
    if (guestfs_set_backend(g->handle, "direct") < 0 ||
        (!g->request->kvm && guestfs_set_backend_setting(g->handle, "force_tcg", "1") < 0))
        return guest_failed(g, e, "setting libguestfs up");
    if (open_disks(g, e) < 0)
        return -1;
    if (guestfs_launch(g->handle) < 0)
        return guest_failed(g, e, "starting libguestfs (install libguestfs-tools and linux-image-cloud-amd64)");
    return 0;
}

/* Shortest mount points first: / before /boot. */
static int mount_all(struct guest *g, struct err *e)
{
    char **points = guestfs_inspect_get_mountpoints(g->handle, g->root);
    size_t count = 0;

    if (!points)
        return guest_failed(g, e, "reading the copy's mount points");
    while (points[count])
        count += 2;
    for (size_t length = 1; length < 4096; length++)
        for (size_t i = 0; i < count; i += 2)
            if (strlen(points[i]) == length && guestfs_mount(g->handle, points[i + 1], points[i]) < 0 && length == 1) {
                guest_failed(g, e, "mounting the copy's root");
                guest_free_list(points);
                return -1;
            }
    guest_free_list(points);
    return 0;
}

static int find_root(struct guest *g, json_t *lines, struct err *e)
{
    char **roots = guestfs_inspect_os(g->handle);

    if (!roots)
        return guest_failed(g, e, "looking for the copy's operating system");
    if (!roots[0]) {
        guest_free_list(roots);
        return err_set(e, ERR_UNSUPPORTED, "no operating system was found on the copy's disks");
    }
    g->root = xstrdup(roots[0]);
    guest_free_list(roots);
    if (mount_all(g, e) < 0)
        return -1;
    {
        CLEANUP(guest_free_text) char *name = guestfs_inspect_get_product_name(g->handle, g->root);

        target_line(lines, "system", true, NULL, "%s on %s", name ? name : "an unnamed system", g->root);
    }
    return 0;
}

static int look_and_mend(struct guest *g, json_t *lines, json_t *mends, struct err *e)
{
    if (open_guest(g, e) < 0 || find_root(g, lines, e) < 0)
        return -1;
    if (guest_names(g, e) < 0 || guest_mend_names(g, lines, mends, e) < 0 || guest_mend_interfaces(g, lines, mends, e) < 0 ||
        guest_mend_drivers(g, lines, mends, e) < 0 || guest_mend_loader(g, lines, mends, e) < 0)
        return -1;
    if (guestfs_umount_all(g->handle) < 0 || guestfs_shutdown(g->handle) < 0)
        return guest_failed(g, e, "writing the mended copy");
    return 0;
}

int mend_run(const struct mend_request *r, json_t *lines, json_t *mends, struct err *e)
{
    struct guest g = {.request = r};
    size_t before = json_array_size(mends);
    pthread_t watcher;
    int result, reason = pthread_create(&watcher, NULL, watch, &g);

    if (reason)
        return err_errno(e, reason, "can't start a thread");
    result = look_and_mend(&g, lines, mends, e);
    if (g.handle)
        guestfs_close(g.handle);
    __atomic_store_n(&g.done, true, __ATOMIC_RELEASE);
    pthread_join(watcher, NULL);
    guest_release(&g);
    if (result < 0 && g.broken_off == ERR_CANCELLED)
        err_set(e, ERR_CANCELLED, "broken off");
    else if (result < 0 && g.broken_off == ERR_TIMEOUT)
        err_set(e, ERR_TIMEOUT, "the copy could not be looked into within %d s", r->timeout_ms / 1000);
    if (result < 0 || json_array_size(mends) == before)
        for (int i = 0; i < r->disk_count; i++)
            unlink(r->disks[i].overlay_path);
    return result < 0 ? err_wrap(e, "mending the copy") : 0;
}
