/* The tracker that lives on while no process holds it: its files are named ("pinned") in a folder of a BPF filesystem, and whoever comes next goes on
 * with them. Such a filesystem is memory: with the machine it all goes.
 *
 * A process may be killed between any two instructions, and what it wrote until then stands. So what is written where is in an order in which every
 * beginning is true: to do before not marked (track_take), a fault before the balance that hides it (track_check), told before forgotten (track_take). No
 * barrier is needed for that: the processor has done what came before the kill, and nothing after. */
#include "track/private.h"

#include "base/file.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define BPF_FS "/sys/fs/bpf"
#define BPF_FS_MAGIC 0xcafe4a11

static const char *const link_names[PROGRAMS] = {"first", "second", "third"};

bool tracker_mounted(const char *path, unsigned long magic)
{
    struct statfs s;

    return statfs(path, &s) == 0 && (unsigned long)s.f_type == magic;
}

static bool is_bpf_fs(const char *path) { return tracker_mounted(path, BPF_FS_MAGIC); }

/* systemd does. Two that come at once must not mount it over each other. */
int tracker_mount(const char *kind, const char *path, unsigned long magic, struct err *e)
{
    CLEANUP(close_fd) int fd = -1;

    if (tracker_mounted(path, magic))
        return 0;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return tracker_fail(e, errno, path);
    if (!tracker_mounted(path, magic) && mount(kind, path, kind, MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") < 0)
        return tracker_fail(e, errno, path);
    return 0;
}

static int pin(int fd, const char *folder, const char *name, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, name);

    return bpf_obj_pin(fd, path) < 0 ? tracker_fail(e, errno, path) : 0;
}

int track_keep(struct tracker *t, const char *folder, struct err *e)
{
    MUST(t->todo);
    if (tracker_mount("bpf", BPF_FS, BPF_FS_MAGIC, e) < 0 || track_forget(folder, e) < 0)
        return -1;
    if (mkdir(folder, 0700) < 0)
        return tracker_fail(e, errno, folder);
    /* One that was kept in part is refused by track_adopt. */
    for (int i = 0; i < ARRAYS; i++)
        if (pin(t->arrays[i].fd, folder, track_array_names[i], e) < 0)
            return -1;
    for (int i = 0; i < PROGRAMS; i++)
        if (pin(t->links[i], folder, link_names[i], e) < 0)
            return -1;
    return 0;
}

int track_forget(const char *folder, struct err *e)
{
    DIR *d = opendir(folder);
    int result = 0;

    if (!d)
        return errno == ENOENT ? 0 : tracker_fail(e, errno, folder);
    for (struct dirent *entry; (entry = readdir(d));)
        if (entry->d_name[0] != '.' && unlinkat(dirfd(d), entry->d_name, 0) < 0)
            result = -1;
    closedir(d);
    if (result < 0 || rmdir(folder) < 0)
        return tracker_fail(e, errno, folder);
    return 0;
}

/* ---- going on with it ---- */

static int get(const char *folder, const char *name, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", folder, name);
    int fd = bpf_obj_get(path);

    return fd < 0 ? tracker_fail(e, errno, path) : fd;
}

static int get_all(struct tracker *t, const char *folder, struct err *e)
{
    for (int i = 0; i < ARRAYS; i++)
        if ((t->arrays[i].fd = get(folder, track_array_names[i], e)) < 0)
            return -1;
    for (int i = 0; i < PROGRAMS; i++) {
        struct bpf_link_info info = {0};
        __u32 size = sizeof info;

        if ((t->links[i] = get(folder, link_names[i], e)) < 0)
            return -1;
        if (bpf_obj_get_info_by_fd(t->links[i], &info, &size) < 0 || (t->programs[i] = bpf_prog_get_fd_by_id(info.prog_id)) < 0)
            return tracker_fail(e, errno, "the kept tracker's program");
    }
    return 0;
}

static bool sizes_fit(const struct tracker *t)
{
    const struct track_ledger *l = t->ledger;
    size_t words = 0;

    if (t->arrays[ARRAY_LEDGER].size_bytes != sizeof *l || l->disk_count < 1 || l->disk_count > TRACK_DISKS_MAX)
        return false;
    for (unsigned i = 0; i < l->disk_count; i++) {
        if (l->disks[i].place.first_word != words || l->disks[i].place.chunk_count != (uint64_t)track_chunks((int64_t)l->disks[i].size_bytes))
            return false;
        words += (l->disks[i].place.chunk_count + 63) / 64;
    }
    words = words ? words : 1;
    return t->arrays[ARRAY_DIRTY].size_bytes == words * sizeof *t->dirty && t->arrays[ARRAY_WHOLE].size_bytes == words * sizeof *t->whole &&
           t->arrays[ARRAY_TODO].size_bytes == words * sizeof *t->todo && t->arrays[ARRAY_SLOTS].size_bytes == TRACK_SLOT_COUNT * sizeof *t->slots &&
           t->arrays[ARRAY_MEMORY].size_bytes == TRACK_MEMORY_SIZE &&
           t->arrays[ARRAY_COUNTERS].size_bytes == (size_t)l->processor_count * TRACK_DISKS_MAX * sizeof *t->counters;
}

/* The disk must be the one that was followed, there without a break, and the kernel must have counted all the time: nothing else proves the time between. */
static int same_disk(const struct track_disk *disk, const struct track_followed *was, struct err *e)
{
    struct track_followed now = {0};
    uint64_t by_stat = tracker_sectors_by_stat(disk->name);

    if (tracker_look(disk, &now, e) < 0)
        return -1;
    if (strcmp(now.name, was->name) != 0 || now.place.dev != was->place.dev || now.size_bytes != was->size_bytes)
        return err_set(e, ERR_CONFLICT, "%s is another disk than was followed, or has another size", disk->name);
    if (now.instance != was->instance || !now.instance)
        return err_set(e, ERR_CONFLICT, "%s was away meanwhile", disk->name);
    if (by_stat == TRACK_WRITES_UNKNOWN || tracker_balance(was)->by_stat == TRACK_WRITES_UNKNOWN || by_stat < tracker_balance(was)->by_stat)
        return err_set(e, ERR_CONFLICT, "the kernel has no statistics of %s that go on", disk->name);
    return 0;
}

int track_adopt(const char *folder, const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e)
{
    CLEANUP(track_close) struct tracker *t = tracker_new();

    if (!is_bpf_fs(BPF_FS) || !file_exists(folder))
        return err_set(e, ERR_NOT_FOUND, "no tracker is kept in %s", folder);
    if (get_all(t, folder, e) < 0 || tracker_map(t, e) < 0)
        return -1;
    if (!sizes_fit(t) || t->ledger->programs != tracker_programs_hash())
        return err_set(e, ERR_CONFLICT, "it is of another version");
    if (t->ledger->disk_count != (unsigned)disk_count)
        return err_set(e, ERR_CONFLICT, "there were %u disks, and are %d now", t->ledger->disk_count, disk_count);
    for (int i = 0; i < disk_count; i++)
        if (same_disk(&disks[i], &t->ledger->disks[i], e) < 0)
            return -1;
    /* Whoever was told that marks were lost may have been killed before acting on it. */
    for (int i = 0; i < disk_count; i++)
        if (t->ledger->disks[i].untold)
            __atomic_store_n(&t->ledger->disks[i].unseen, 1, __ATOMIC_SEQ_CST);
    *out = t;
    t = NULL;
    return 0;
}
