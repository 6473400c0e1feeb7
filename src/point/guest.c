#include "point/guest.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "point/output.h"
#include "target/accel.h"

#include <dirent.h>
#include <errno.h>
#include <guestfs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KVM_TRY_MS 15000

#define WATCH_US (200 * US_PER_MS)

struct point_guest {
    guestfs_h *handle;
    pthread_t watcher;
    bool watched;
    atomic_bool closing;
    const struct point_guest_waiter *w;
    struct point_meter meter;
};

static bool is_cancelled(const struct point_guest *g) { return g->w->cancelled && g->w->cancelled(g->w->user); }

/* -1, with libguestfs's last words; a person who broke it off is told that, whatever fell over. */
static int failed(const struct point_guest *g, const char *what, struct err *e)
{
    const char *said = guestfs_last_error(g->handle);
    int number = guestfs_last_errno(g->handle);

    if (is_cancelled(g))
        return err_set(e, ERR_CANCELLED, "stopped");
    return err_set(e, number == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %.700s", what, said ? said : "libguestfs does not say why");
}

static void free_list(char ***list)
{
    for (size_t i = 0; *list && (*list)[i]; i++)
        free((*list)[i]);
    free(*list);
    *list = NULL;
}

/* ---- the appliance ---- */

/* Ends QEMU, the appliance: our child of that name. (The handle can't be asked for it while a call is in progress.) */
static void kill_appliance(void)
{
    DIR *proc = opendir("/proc");

    for (struct dirent *d; proc && (d = readdir(proc));) {
        CLEANUP(buf_release) struct buf status = {0};
        char path[300];
        const char *parent;
        int pid = atoi(d->d_name), parent_pid = 0;

        snprintf(path, sizeof path, "/proc/%s/status", d->d_name);
        if (pid <= 1 || file_read(path, 1 << 16, &status, NULL) < 0 || !status.data)
            continue;
        parent = strstr(status.data, "\nPPid:");
        if (parent && sscanf(parent, "\nPPid: %d", &parent_pid) == 1 && parent_pid == getpid() && strncmp(status.data, "Name:\tqemu-system", 17) == 0)
            kill(pid, SIGKILL);
    }
    if (proc)
        closedir(proc);
}

/* libguestfs can't be broken off while it starts: without its appliance, the call in progress fails. */
static void *watch(void *user)
{
    struct point_guest *g = user;

    while (!atomic_load(&g->closing)) {
        if (is_cancelled(g))
            kill_appliance();
        clock_sleep_us(WATCH_US);
    }
    return NULL;
}

static int add_disk(struct point_guest *g, const json_t *disk, struct err *e)
{
    CLEANUP(free_ptr) char *server = xasprintf("unix:%s", json_get_string(disk, "nbd_socket", ""));
    char *servers[] = {server, NULL};

    if (guestfs_add_drive_opts(g->handle, json_get_string(disk, "nbd_export", ""), GUESTFS_ADD_DRIVE_OPTS_READONLY, 1,
                               GUESTFS_ADD_DRIVE_OPTS_FORMAT, "raw", GUESTFS_ADD_DRIVE_OPTS_PROTOCOL, "nbd",
                               GUESTFS_ADD_DRIVE_OPTS_SERVER, servers, -1) < 0)
        return failed(g, json_get_string(disk, "id", "a disk"), e);
    return 0;
}

/* Called in the middle of long transfers. */
static void on_progress(guestfs_h *handle, void *user, uint64_t event, int event_handle, int flags, const char *text, size_t text_size,
                        const uint64_t *numbers, size_t number_count)
{
    struct point_guest *g = user;

    (void)event, (void)event_handle, (void)flags, (void)text, (void)text_size;
    if (number_count >= 4)
        point_meter_show(&g->meter, (int64_t)numbers[2], (int64_t)numbers[3]);
    if (is_cancelled(g))
        guestfs_user_cancel(handle);
}

/* libguestfs takes KVM wherever its device opens; we, where a kernel is seen to boot under it. */
static int choose_accelerator(struct point_guest *g, struct err *e)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0 || accel_boots_kernel(true, KVM_TRY_MS, NULL) == 0)
        return 0;
    return guestfs_set_backend_setting(g->handle, "force_tcg", "1") < 0 ? failed(g, "setting libguestfs up", e) : 0;
}

static int start(struct point_guest *g, const json_t *disks, struct err *e)
{
    const json_t *disk;
    size_t i;

    g->handle = guestfs_create();
    if (!g->handle)
        return err_set(e, ERR_IO, "libguestfs can't be used");
    g->watched = pthread_create(&g->watcher, NULL, watch, g) == 0;
    guestfs_set_error_handler(g->handle, NULL, NULL); /* errors are asked for, not printed */
    if (guestfs_set_event_callback(g->handle, on_progress, GUESTFS_EVENT_PROGRESS, 0, g) < 0)
        return failed(g, "setting libguestfs up", e);
    if (choose_accelerator(g, e) < 0)
        return -1;
    json_array_foreach(disks, i, disk)
        if (add_disk(g, disk, e) < 0)
            return -1;
    if (g->w->tell && isatty(fileno(g->w->tell)))
        fprintf(g->w->tell, "starting a small machine that reads the point's file systems …\n");
    if (guestfs_launch(g->handle) < 0)
        return failed(g, "starting libguestfs (Debian's packages libguestfs-tools and linux-image-cloud-amd64 are needed)", e);
    return 0;
}

/* ---- which file systems ---- */

/* "A (ext4), B (xfs)" of a list of pairs; only those that can be mounted. Returns their count; *only is the first one. */
static int name_file_systems(char **pairs, struct buf *names, const char **only)
{
    int count = 0;

    for (size_t i = 0; pairs && pairs[i] && pairs[i + 1]; i += 2) {
        if (strcmp(pairs[i + 1], "swap") == 0 || strcmp(pairs[i + 1], "unknown") == 0 || strncmp(pairs[i + 1], "crypto_", 7) == 0)
            continue;
        if (count++ == 0)
            *only = pairs[i];
        buf_printf(names, "%s%s (%s)", names->size_bytes ? ", " : "", pairs[i], pairs[i + 1]);
    }
    return count;
}

static int mount_one(struct point_guest *g, const char *filesystem, struct err *e)
{
    CLEANUP(free_list) char **pairs = guestfs_list_filesystems(g->handle);
    CLEANUP(buf_release) struct buf names = {0};
    const char *only = NULL;
    int count = name_file_systems(pairs, &names, &only);
    bool known = false;

    if (!pairs)
        return failed(g, "looking for file systems", e);
    if (count == 0)
        return err_set(e, ERR_NOT_FOUND, "there is no file system in this point that can be read: `slipway point export` gives its disks "
                       "as they are");
    if (!filesystem && count > 1)
        return err_set(e, ERR_INVALID, "no system is installed on these disks, and there are several file systems: name one with "
                       "--filesystem: %.700s", names.data);
    for (size_t i = 0; filesystem && pairs[i] && pairs[i + 1]; i += 2)
        known = known || strcmp(pairs[i], filesystem) == 0;
    if (filesystem && !known)
        return err_set(e, ERR_NOT_FOUND, "there is no file system %.100s in this point: it has %.700s", filesystem, names.data);
    return guestfs_mount_ro(g->handle, filesystem ? filesystem : only, "/") < 0 ? failed(g, "mounting the file system", e) : 0;
}

/* The shortest mount points first: / before /boot. What can't be mounted besides / is left out and told. */
static int mount_system(struct point_guest *g, const char *root, struct err *e)
{
    CLEANUP(free_list) char **points = guestfs_inspect_get_mountpoints(g->handle, root);
    size_t count = 0, longest = 0;

    if (!points)
        return failed(g, "reading what the system mounts", e);
    for (; points[count]; count += 2)
        longest = strlen(points[count]) > longest ? strlen(points[count]) : longest;
    for (size_t size = 1; size <= longest; size++)
        for (size_t i = 0; i + 1 < count; i += 2) {
            if (strlen(points[i]) != size || guestfs_mount_ro(g->handle, points[i + 1], points[i]) == 0)
                continue;
            if (size == 1)
                return failed(g, "mounting /", e);
            if (g->w->tell)
                fprintf(g->w->tell, "%s is left out: %s can't be mounted\n", points[i], points[i + 1]);
        }
    return 0;
}

static int mount_all(struct point_guest *g, const char *filesystem, struct err *e)
{
    CLEANUP(free_list) char **roots = filesystem ? NULL : guestfs_inspect_os(g->handle);

    if (!roots || !roots[0])
        return mount_one(g, filesystem, e);
    if (roots[1])
        return err_set(e, ERR_INVALID, "several systems are installed on these disks: name a file system with --filesystem, such as %s or %s",
                       roots[0], roots[1]);
    return mount_system(g, roots[0], e);
}

int point_guest_open(const json_t *disks, const char *filesystem, const struct point_guest_waiter *w, struct point_guest **out, struct err *e)
{
    CLEANUP(point_guest_close) struct point_guest *g = xcalloc(1, sizeof *g);

    g->w = w;
    if (start(g, disks, e) < 0 || mount_all(g, filesystem, e) < 0)
        return -1;
    *out = g;
    g = NULL;
    return 0;
}

void point_guest_close(struct point_guest **held)
{
    struct point_guest *g = *held;

    if (!g)
        return;
    if (g->handle)
        guestfs_close(g->handle);
    atomic_store(&g->closing, true);
    if (g->watched)
        pthread_join(g->watcher, NULL);
    free(g);
    *held = NULL;
}

/* ---- reading ---- */

static int not_that(struct point_guest *g, const char *path, const char *wanted, struct err *e)
{
    if (is_cancelled(g))
        return err_set(e, ERR_CANCELLED, "stopped");
    if (guestfs_exists(g->handle, path) == 1)
        return err_set(e, ERR_INVALID, "%.300s is no %s in this point", path, wanted);
    return err_set(e, ERR_NOT_FOUND, "there is no %.300s in this point: `slipway point files POINT FOLDER` tells what is there", path);
}

static const char *type_of(int64_t mode)
{
    return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "folder" : S_ISLNK(mode) ? "link" : "other";
}

static json_t *entry(const char *name, const struct guestfs_statns *st)
{
    json_t *j = json_object(), *text = json_string(name);
    char mode[16];

    snprintf(mode, sizeof mode, "%04llo", (unsigned long long)st->st_mode & 07777);
    /* A name need not be UTF-8. */
    json_object_set_new(j, "name", text ? text : json_string("(a name that is not UTF-8)"));
    json_object_set_new(j, "type", json_string(type_of(st->st_mode)));
    json_object_set_new(j, "size_bytes", json_integer(st->st_size));
    json_object_set_new(j, "mode", json_string(mode));
    json_set_time(j, "modified", st->st_mtime_sec * US_PER_S + st->st_mtime_nsec / 1000);
    return j;
}

int point_guest_list(struct point_guest *g, const char *path, size_t limit, json_t **entries, size_t *more, struct err *e)
{
    CLEANUP(json_free) json_t *list = json_array();
    CLEANUP(free_list) char **names = NULL;
    struct guestfs_statns_list *stats;
    size_t count = 0;

    if (guestfs_is_dir_opts(g->handle, path, GUESTFS_IS_DIR_OPTS_FOLLOWSYMLINKS, 1, -1) != 1)
        return not_that(g, path, "folder", e);
    if (!(names = guestfs_ls(g->handle, path)))
        return failed(g, path, e);
    while (names[count])
        count++;
    *more = count > limit ? count - limit : 0;
    for (; count > limit; count--) {
        free(names[count - 1]);
        names[count - 1] = NULL;
    }
    if (!(stats = guestfs_lstatnslist(g->handle, path, names)))
        return failed(g, path, e);
    for (size_t i = 0; i < stats->len && i < count; i++)
        json_array_append_new(list, entry(names[i], &stats->val[i]));
    guestfs_free_statns_list(stats);
    *entries = list;
    list = NULL;
    return 0;
}

/* What was written against what lies there. */
static int same_bytes(struct point_guest *g, const char *path, const struct point_output *output, struct err *e)
{
    char *there = guestfs_checksum(g->handle, "sha256", path), here[HASH_SHA256_HEX_SIZE];
    CLEANUP(free_ptr) char *held = there;
    CLEANUP(free_ptr) uint8_t *block = xmalloc(1 << 20);
    struct hash *running;
    uint8_t whole[HASH_SHA256_SIZE];
    ssize_t n = -1;
    off_t at = 0;

    if (!there)
        return failed(g, path, e);
    running = hash_new();
    while ((n = pread(output->fd, block, 1 << 20, at)) > 0) {
        hash_add(running, block, (size_t)n);
        at += n;
    }
    hash_end(running, whole);
    hash_free(&running);
    if (n < 0)
        return err_errno(e, errno, "can't read %s again", output->part);
    hash_hex(whole, sizeof whole, here);
    return strcmp(here, there) == 0 ? 0 : err_set(e, ERR_CORRUPT, "what was written to %s is not what the point holds", output->part);
}

int point_guest_fetch(struct point_guest *g, const char *path, const char *to, bool force, int64_t *size_bytes, struct err *e)
{
    CLEANUP(point_output_end) struct point_output output = {.fd = -1};
    CLEANUP(free_ptr) char *folder = xasprintf("%.*s", strrchr(to, '/') ? (int)(strrchr(to, '/') - to) + 1 : 0, to);
    int64_t size;
    int result;

    if (guestfs_is_file_opts(g->handle, path, GUESTFS_IS_FILE_OPTS_FOLLOWSYMLINKS, 1, -1) != 1)
        return not_that(g, path, "file", e);
    size = guestfs_filesize(g->handle, path);
    if (size < 0)
        return failed(g, path, e);
    if (point_output_room(folder[0] ? folder : ".", (uint64_t)size, e) < 0 || point_output_begin(&output, to, force, e) < 0)
        return -1;
    point_meter_begin(&g->meter, g->w->tell, path);
    result = guestfs_download(g->handle, path, output.part);
    point_meter_end(&g->meter);
    if (result < 0)
        return failed(g, path, e);
    if (point_output_settle(&output, e) < 0 || same_bytes(g, path, &output, e) < 0 || point_output_finish(&output, e) < 0)
        return -1;
    if (size_bytes)
        *size_bytes = size;
    return 0;
}
