#include "agent/disks.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/words.h"
#include "track/track.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEPTH_MAX 8 /* of devices on devices */

/* The first line of a small file in /sys, trimmed at both ends; false where there is none or it is empty. */
__attribute__((format(printf, 3, 4))) static bool sys_line(char *out, size_t size, const char *format, ...)
{
    CLEANUP(buf_release) struct buf text = {0};
    char path[512], *at, *end;
    va_list args;

    va_start(args, format);
    vsnprintf(path, sizeof path, format, args);
    va_end(args);
    if (file_read(path, 4096, &text, NULL) < 0)
        return false;
    for (at = text.data; isspace((unsigned char)*at); at++)
        ;
    end = at + strcspn(at, "\n");
    while (end > at && isspace((unsigned char)end[-1]))
        end--;
    if (end == at || (size_t)(end - at) >= size)
        return false;
    memcpy(out, at, (size_t)(end - at));
    out[end - at] = '\0';
    return true;
}

int64_t disks_request_bytes(const char *name)
{
    char text[32];
    int64_t kib = sys_line(text, sizeof text, "/sys/block/%s/queue/max_sectors_kb", name) ? strtoll(text, NULL, 10) : 0;

    return (kib > 0 ? kib : 512) * 1024;
}

int disks_size(const char *name, int64_t *size_bytes, struct err *e)
{
    char text[32];

    if (!sys_line(text, sizeof text, "/sys/block/%s/size", name))
        return err_set(e, ERR_NOT_FOUND, "there is no disk %s", name);
    *size_bytes = strtoll(text, NULL, 10) * 512;
    return 0;
}

/* What follows a prefix must be text that goes into JSON and on a line: other bytes become '_', runs of blanks one. */
static void set_id(struct disk *d, const char *prefix, const char *value)
{
    char *out = d->id + snprintf(d->id, sizeof d->id - 1, "%s:", prefix);

    for (; *value && out < d->id + sizeof d->id - 40; value++) {
        if (*value == ' ' && (value[1] == ' ' || !value[1]))
            continue;
        *out++ = *value > ' ' && *value < 127 ? *value : '_';
    }
    *out = '\0';
}

/* GPT's disk GUID, or the signature of an MBR, out of the first two sectors (of 512 or 4096 bytes). */
static bool table_id(struct disk *d)
{
    CLEANUP(free_ptr) char *path = xasprintf("/dev/%s", d->name);
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t sectors[4096 + 512];
    char hex[33];

    if (fd < 0 || pread(fd, sectors, sizeof sectors, 0) != (ssize_t)sizeof sectors)
        return false;
    for (int at = 512; at <= 4096; at += 4096 - 512)
        if (memcmp(sectors + at, "EFI PART", 8) == 0) {
            set_id(d, "gpt", hash_hex(sectors + at + 56, 16, hex));
            return true;
        }
    if (sectors[510] == 0x55 && sectors[511] == 0xaa && memcmp(sectors + 440, "\0\0\0\0", 4) != 0) {
        set_id(d, "mbr", hash_hex(sectors + 440, 4, hex));
        return true;
    }
    return false;
}

/* Where in the machine it is: the device's folder in /sys, without what is numbered by order of appearance. */
static void place_of(const char *name, char *out, size_t size)
{
    char path[128], real[PATH_MAX], *block;

    snprintf(path, sizeof path, "/sys/block/%s", name);
    if (!realpath(path, real))
        snprintf(real, sizeof real, "%s", path);
    block = strstr(real, "/block/");
    if (block && strncmp(real, "/sys/devices/virtual", 20) != 0)
        *block = '\0';
    snprintf(out, size, "%.500s", strncmp(real, "/sys/devices/", 13) == 0 ? real + 13 : real);
}

/* Whether a device-mapper device is one disk that is reached by several ways (dm-multipath). */
static bool is_multipath(const char *name)
{
    char uuid[256];

    return sys_line(uuid, sizeof uuid, "/sys/block/%s/dm/uuid", name) && strncmp(uuid, "mpath-", 6) == 0;
}

/* A device in /sys/block/NAME/KIND (holders: what lies on it; slaves: what it lies on) that may be had; false: none. */
static bool sys_related(const char *name, const char *kind, bool (*wanted)(const char *name), char *out, size_t size)
{
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/%s", name, kind);
    DIR *folder = opendir(path);
    bool found = false;

    for (struct dirent *entry; folder && !found && (entry = readdir(folder));)
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < size && (!wanted || wanted(entry->d_name))) {
            memcpy(out, entry->d_name, strlen(entry->d_name) + 1);
            found = true;
        }
    if (folder)
        closedir(folder);
    return found;
}

/* By any of its ways a disk says the same of itself. */
static void identify(struct disk *d)
{
    char way[64];
    const char *name = is_multipath(d->name) && sys_related(d->name, "slaves", NULL, way, sizeof way) ? way : d->name;
    static const char *const sources[][2] = {{"wwid", "wwid"}, {"wwid", "device/wwid"}, {"serial", "serial"}, {"serial", "device/serial"}};
    char text[128], place[512];

    for (size_t i = 0; i < ARRAY_COUNT(sources); i++)
        if (sys_line(text, sizeof text, "/sys/block/%s/%s", name, sources[i][1])) {
            set_id(d, sources[i][0], text);
            return;
        }
    if (table_id(d))
        return;
    place_of(d->name, place, sizeof place);
    set_id(d, "path", place);
}

static bool is_whole_disk(const char *name)
{
    static const char *const not_disks[] = {"loop", "ram", "zram", "sr", "fd", "nbd", "dm-", "md", "mtdblock", "drbd", "rbd_", "zd", "bcache"};
    char text[32], whole[64];

    if (sys_related(name, "holders", is_multipath, whole, sizeof whole))
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(not_disks); i++)
        if (strncmp(name, not_disks[i], strlen(not_disks[i])) == 0 && !is_multipath(name))
            return false;
    if (sys_line(text, sizeof text, "/sys/block/%s/removable", name) && strcmp(text, "0") != 0)
        return false;
    if (sys_line(text, sizeof text, "/sys/block/%s/hidden", name) && strcmp(text, "0") != 0)
        return false;
    return sys_line(text, sizeof text, "/sys/block/%s/size", name) && strtoll(text, NULL, 10) > 0;
}

static int by_name(const void *a, const void *b) { return strverscmp(((const struct disk *)a)->name, ((const struct disk *)b)->name); }

static int list_all(struct disk *disks, int limit, int *count, struct err *e)
{
    DIR *folder = opendir("/sys/block");
    int found = 0;

    if (!folder)
        return err_set(e, ERR_NOT_FOUND, "/sys/block can't be read: is sysfs mounted?");
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= sizeof disks->name || !is_whole_disk(entry->d_name))
            continue;
        if (found == limit) {
            closedir(folder);
            return err_set(e, ERR_LIMIT, "this machine has more than %d disks", limit);
        }
        disks[found] = (struct disk){0};
        memcpy(disks[found++].name, entry->d_name, strlen(entry->d_name) + 1);
    }
    closedir(folder);
    *count = found;
    return 0;
}

/* Cloned disks carry the same serial or GUID. One that is known stays who it is. */
static void tell_apart(struct disk *disks, const bool *known, int count)
{
    for (int i = 0; i < count; i++) {
        bool twin = false;

        for (int k = 0; k < count; k++)
            twin |= k != i && strcmp(disks[i].id, disks[k].id) == 0;
        if (twin && !known[i]) {
            char place[512], sum[HASH_SHA256_HEX_SIZE];
            uint8_t hash[HASH_SHA256_SIZE];

            place_of(disks[i].name, place, sizeof place);
            hash_sha256(place, strlen(place), hash);
            snprintf(disks[i].id + strlen(disks[i].id), sizeof disks[i].id - strlen(disks[i].id), "@%.16s", hash_hex(hash, 8, sum));
        }
    }
}

/* A write by one way is seen on that way only: what is reached by several must be followed where they come together. */
static int check_ways(const struct agent_config *c, const struct disk *disks, int count, struct err *e)
{
    char whole[64];

    for (int i = 0; i < count; i++) {
        if (sys_related(disks[i].name, "holders", is_multipath, whole, sizeof whole))
            return err_set(e, ERR_CONFLICT, "%s is one of the ways to %s: name that one in the setting \"disks\"", disks[i].name, whole);
        for (int k = 0; c->disks_auto && k < i; k++)
            if (strncmp(disks[i].id, "wwid:", 5) == 0 && strcmp(disks[i].id, disks[k].id) == 0)
                return err_set(e, ERR_CONFLICT, "%s and %s are one disk (%s) by two ways, and there is no dm-multipath that joins them: set it up, or name the way "
                               "that is used in the setting \"disks\"", disks[k].name, disks[i].name, disks[i].id);
    }
    return 0;
}

/* All that are named must be here, and each be another one: a point under a wrong name would go onto a wrong disk. */
static int report_as_named(const struct agent_config *c, struct disk *disks, int count, struct err *e)
{
    int named[LIMIT_DISKS_PER_SERVER];

    for (int i = 0; i < c->disk_id_count; i++) {
        named[i] = 0;
        while (named[i] < count && strcmp(disks[named[i]].id, c->disk_ids[i].found) != 0)
            named[i]++;
        if (named[i] == count)
            return err_set(e, ERR_NOT_FOUND, "there is no disk %s here, which the setting \"disk_ids\" names", c->disk_ids[i].found);
    }
    for (int i = 0; i < c->disk_id_count; i++)
        memcpy(disks[named[i]].id, c->disk_ids[i].reported, sizeof disks[0].id);
    for (int i = 0; c->disk_id_count && i < count; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(disks[i].id, disks[k].id) == 0)
                return err_set(e, ERR_CONFLICT, "%s and %s would both be %s by the setting \"disk_ids\"", disks[k].name, disks[i].name, disks[i].id);
    return 0;
}

/* All but who they are. */
static int list(const struct agent_config *c, struct disk *disks, int limit, int *count, struct err *e)
{
    int found = 0;

    if (c->disks_auto) {
        if (list_all(disks, limit, &found, e) < 0)
            return -1;
    } else {
        for (; found < c->disk_count && found < limit; found++) {
            disks[found] = (struct disk){0};
            memcpy(disks[found].name, c->disks[found], sizeof c->disks[found]);
        }
    }
    if (!found)
        return err_set(e, ERR_NOT_FOUND, "this machine has no disk to replicate: name them in the setting \"disks\"");
    for (int i = 0; i < found; i++) {
        disks[i].instance = track_instance(disks[i].name);
        if (disks_size(disks[i].name, &disks[i].size_bytes, e) < 0)
            return -1;
        if (!disks[i].size_bytes)
            return err_set(e, ERR_INVALID, "the disk %s is empty", disks[i].name);
    }
    if (c->disks_auto)
        qsort(disks, (size_t)found, sizeof *disks, by_name);
    *count = found;
    return 0;
}

int disks_find(const struct agent_config *c, struct disk *disks, int limit, int *count, struct err *e)
{
    return disks_find_again(c, NULL, 0, disks, limit, count, e);
}

static bool recognise(struct disk *d, const struct disk *known, int known_count)
{
    for (int i = 0; i < known_count; i++)
        if (d->instance && d->instance == known[i].instance && d->size_bytes == known[i].size_bytes && strcmp(d->name, known[i].name) == 0) {
            memcpy(d->id, known[i].own_id, sizeof d->id);
            return true;
        }
    return false;
}

int disks_find_again(const struct agent_config *c, const struct disk *known, int known_count, struct disk *disks, int limit, int *count, struct err *e)
{
    bool is_known[LIMIT_DISKS_PER_SERVER];
    int found;

    if (list(c, disks, limit < LIMIT_DISKS_PER_SERVER ? limit : LIMIT_DISKS_PER_SERVER, &found, e) < 0)
        return -1;
    for (int i = 0; i < found; i++) {
        is_known[i] = recognise(&disks[i], known, known_count);
        if (!is_known[i])
            identify(&disks[i]);
    }
    if (check_ways(c, disks, found, e) < 0)
        return -1;
    tell_apart(disks, is_known, found);
    for (int i = 0; i < found; i++)
        memcpy(disks[i].own_id, disks[i].id, sizeof disks[i].own_id);
    if (report_as_named(c, disks, found, e) < 0)
        return -1;
    *count = found;
    return 0;
}

/* ---- what has changed ---- */

static const struct disk *find_disk(const struct disk *disks, int count, const char *id, const char *name)
{
    for (int i = 0; i < count; i++)
        if ((!id || strcmp(disks[i].id, id) == 0) && (!name || strcmp(disks[i].name, name) == 0))
            return &disks[i];
    return NULL;
}

static void say_disk(struct buf *words, const char *verb, const struct disk *d)
{
    buf_printf(words, "%sdisk %s (", words->size_bytes ? "; " : "", d->name);
    words_bytes(words, (double)d->size_bytes);
    buf_printf(words, ") %s", verb);
}

static void say_known(struct buf *words, const struct disk *was, const struct disk *now)
{
    if (was->size_bytes != now->size_bytes) {
        say_disk(words, now->size_bytes > was->size_bytes ? "has grown to " : "has shrunk to ", was);
        words_bytes(words, (double)now->size_bytes);
    }
    if (strcmp(was->name, now->name) != 0) {
        say_disk(words, "was ", now);
        buf_puts(words, was->name);
    } else if (was->instance != now->instance && was->size_bytes == now->size_bytes) {
        say_disk(words, "was away", now);
    }
}

bool disks_difference(const struct disk *was, int was_count, const struct disk *now, int now_count, struct buf *words)
{
    for (int i = 0; i < now_count; i++) {
        const struct disk *known = find_disk(was, was_count, now[i].id, NULL), *other = find_disk(was, was_count, NULL, now[i].name);

        if (known)
            say_known(words, known, &now[i]);
        else if (other && !find_disk(now, now_count, other->id, NULL))
            say_disk(words, "is another one than before", &now[i]);
        else
            say_disk(words, "has come", &now[i]);
    }
    for (int i = 0; i < was_count; i++)
        if (!find_disk(now, now_count, was[i].id, NULL) && (!find_disk(now, now_count, NULL, was[i].name) ||
                                                             find_disk(was, was_count, find_disk(now, now_count, NULL, was[i].name)->id, NULL)))
            say_disk(words, "is gone", &was[i]);
    return words->size_bytes > 0;
}

int disks_look(const struct agent_config *c, const struct disk *was, int was_count, struct buf *words, struct err *e)
{
    struct disk now[LIMIT_DISKS_PER_SERVER];
    int count;

    if (list(c, now, LIMIT_DISKS_PER_SERVER, &count, e) < 0)
        return -1;
    for (int i = 0; i < count; i++) {
        const struct disk *known = find_disk(was, was_count, NULL, now[i].name);

        if (known) /* the one that it was, but for size and instance */
            memcpy(now[i].id, known->id, sizeof now[i].id);
    }
    return disks_difference(was, was_count, now, count, words);
}

/* ---- mounts ---- */

/* Does the block device of that name (a folder in /sys/class/block) lie on one of the disks? */
static bool lies_on(const char *name, const struct disk *disks, int disk_count, int depth)
{
    char path[PATH_MAX], real[PATH_MAX], *parent;
    DIR *slaves;
    bool found = false;

    for (int i = 0; i < disk_count; i++)
        if (strcmp(name, disks[i].name) == 0)
            return true;
    if (depth >= DEPTH_MAX)
        return false;
    snprintf(path, sizeof path, "/sys/class/block/%.200s/partition", name);
    if (file_exists(path)) {
        snprintf(path, sizeof path, "/sys/class/block/%.200s", name);
        if (!realpath(path, real) || !(parent = strrchr(real, '/')))
            return false;
        *parent = '\0';
        parent = strrchr(real, '/');
        return parent && lies_on(parent + 1, disks, disk_count, depth + 1);
    }
    snprintf(path, sizeof path, "/sys/class/block/%.200s/slaves", name);
    slaves = opendir(path);
    for (struct dirent *entry; slaves && !found && (entry = readdir(slaves));)
        found = entry->d_name[0] != '.' && lies_on(entry->d_name, disks, disk_count, depth + 1);
    if (slaves)
        closedir(slaves);
    return found;
}

static bool dev_lies_on(unsigned dev_major, unsigned dev_minor, const struct disk *disks, int disk_count)
{
    char path[64], real[PATH_MAX], *name;

    snprintf(path, sizeof path, "/sys/dev/block/%u:%u", dev_major, dev_minor);
    return realpath(path, real) && (name = strrchr(real, '/')) && lies_on(name + 1, disks, disk_count, 0);
}

/* mountinfo writes blanks and such as \040. */
static void unescape(char *text)
{
    char *out = text;

    for (const char *at = text; *at; at++) {
        if (at[0] == '\\' && at[1] >= '0' && at[1] <= '3' && at[2] >= '0' && at[2] <= '7' && at[3] >= '0' && at[3] <= '7') {
            *out++ = (char)((at[1] - '0') << 6 | (at[2] - '0') << 3 | (at[3] - '0'));
            at += 3;
        } else {
            *out++ = *at;
        }
    }
    *out = '\0';
}

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue" (proc_pid_mountinfo(5)) */
static bool read_line(char *line, struct mount *m, int *id)
{
    char root[PATH_MAX], path[PATH_MAX], options[512], type[64], source[PATH_MAX], super[2048];
    char *dash = strstr(line, " - ");
    unsigned dev_major, dev_minor;
    struct stat st;

    if (!dash || sscanf(line, "%d %*d %u:%u %4095s %4095s %511s", id, &dev_major, &dev_minor, root, path, options) != 6 ||
        sscanf(dash, " - %63s %4095s %2047s", type, source, super) != 3)
        return false;
    unescape(path);
    unescape(source);
    if (strlen(path) >= sizeof m->path || strlen(source) >= sizeof m->source || strlen(type) >= sizeof m->type)
        return false;
    if (strncmp(super, "ro", 2) == 0 && (super[2] == ',' || !super[2]))
        return false;
    m->device = makedev(dev_major, dev_minor);
    m->anonymous = dev_major == 0;
    if (m->anonymous) { /* btrfs: an anonymous device; its source is the block device */
        if (source[0] != '/' || stat(source, &st) < 0 || !S_ISBLK(st.st_mode))
            return false;
        m->device = st.st_rdev;
    }
    memcpy(m->path, path, strlen(path) + 1);
    memcpy(m->source, source, strlen(source) + 1);
    memcpy(m->type, type, strlen(type) + 1);
    return true;
}

static int path_depth(const char *path)
{
    int depth = 0;

    for (const char *at = path; *at; at++)
        depth += *at == '/' && at[1];
    return depth;
}

static int deeper_first(const void *a, const void *b)
{
    const struct mount *x = a, *y = b;
    int difference = path_depth(y->path) - path_depth(x->path);

    return difference ? difference : strcmp(x->path, y->path);
}

/* The filesystem that a descriptor is of, by its mount, among all; false: it is none that could be frozen, or can't be told. */
static bool find_mount(int fd, struct mount *out)
{
    CLEANUP(close_file) FILE *file = fopen("/proc/self/mountinfo", "re");
    CLEANUP(free_ptr) char *line = NULL;
    struct file_handle handle = {0};
    int wanted = -1, id;
    size_t held = 0;

    (void)name_to_handle_at(fd, "", &handle, &wanted, AT_EMPTY_PATH); /* there is no room for a handle: only which mount it is, is told */
    while (file && wanted >= 0 && getline(&line, &held, file) >= 0) {
        *out = (struct mount){0};
        if (read_line(line, out, &id) && id == wanted)
            return true;
    }
    return false;
}

int disks_mount_open(const struct mount *m, struct err *e)
{
    CLEANUP(close_fd) int fd = open(m->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct mount there;
    struct stat st;
    int result;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(e, errno, "can't open the filesystem at %s", m->path);
    if (m->anonymous ? !find_mount(fd, &there) || there.device != m->device : st.st_dev != m->device)
        return err_set(e, ERR_WRONG_STATE, "the filesystem of %s at %s can't be had: another one is mounted over it. Unmount one of the two, or mount that one at another place, too",
                       m->source, m->path);
    result = fd;
    fd = -1;
    return result;
}

static bool can_be_had(const struct mount *m)
{
    CLEANUP(close_fd) int fd = disks_mount_open(m, NULL);

    return fd >= 0;
}

/* Where it is in the list; count: it is not. */
static int find_device(const struct mount *mounts, int count, dev_t device)
{
    int at = 0;

    while (at < count && mounts[at].device != device)
        at++;
    return at;
}

int disks_mounts(const struct disk *disks, int disk_count, struct mount *mounts, int *count, struct err *e)
{
    CLEANUP(close_file) FILE *file = fopen("/proc/self/mountinfo", "re");
    CLEANUP(free_ptr) char *line = NULL;
    bool had[MOUNTS_MAX] = {false};
    size_t held = 0;
    int found = 0, id;

    if (!file)
        return err_set(e, ERR_NOT_FOUND, "/proc/self/mountinfo can't be read: is proc mounted?");
    while (getline(&line, &held, file) >= 0) {
        struct mount m = {0};
        int at;

        if (!read_line(line, &m, &id) || !dev_lies_on(major(m.device), minor(m.device), disks, disk_count))
            continue;
        at = find_device(mounts, found, m.device);
        if (at < found) { /* at another place, too: there may be hundreds of them */
            had[at] = had[at] || can_be_had(&mounts[at]);
            if (!had[at])
                mounts[at] = m;
            continue;
        }
        if (found == MOUNTS_MAX)
            return err_set(e, ERR_LIMIT, "more than %d filesystems are mounted on the disks", MOUNTS_MAX);
        mounts[found++] = m;
    }
    qsort(mounts, (size_t)found, sizeof *mounts, deeper_first);
    *count = found;
    return 0;
}
