/* Whether this host can run machines, and this one in particular. */
#include "target/local.h"
#include "base/file.h"
#include "base/proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define HOST_RESERVE_BYTES (INT64_C(512) << 20) /* memory that machines leave to the host */
#define DISK_LEAST_BYTES (INT64_C(2) << 30)

static int64_t host_available_bytes(void)
{
    CLEANUP(buf_release) struct buf text = {0};
    long long kib = 0;
    char *at;

    if (file_read("/proc/meminfo", 65536, &text, NULL) < 0)
        return -1;
    at = strstr(text.data, "MemAvailable:");
    return at && sscanf(at, "MemAvailable: %lld", &kib) == 1 ? (int64_t)kib << 10 : -1;
}

/* The memory that running instances were given, but for one. */
static int64_t given_bytes(struct target *t, const char *except)
{
    int64_t sum = 0;
    DIR *folder = opendir(t->folder);

    for (struct dirent *d; folder && (d = readdir(folder));) {
        CLEANUP(instance_free) struct instance *i = NULL;

        if (spec_name_is_good(d->d_name) && strcmp(d->d_name, except ? except : "") != 0 && instance_open(t, d->d_name, &i, NULL) == 0 &&
            instance_load(i, NULL) == 1 && instance_pid(i, NULL) > 0)
            sum += i->spec.memory_bytes;
    }
    if (folder)
        closedir(folder);
    return sum;
}

int local_memory_fits(struct target *t, int64_t wanted_bytes, const char *except, struct err *e)
{
    int64_t available = host_available_bytes(), given;

    if (available < 0)
        return err_set(e, ERR_IO, "can't read how much memory this host has available");
    if (wanted_bytes + HOST_RESERVE_BYTES > available)
        return err_set(e, ERR_NO_SPACE, "%lld MiB of memory are wanted, and this host has %lld MiB available (%lld MiB stay with it)",
                       (long long)(wanted_bytes >> 20), (long long)(available >> 20), (long long)(HOST_RESERVE_BYTES >> 20));
    given = given_bytes(t, except);
    if (t->memory_limit_bytes && given + wanted_bytes > t->memory_limit_bytes)
        return err_set(e, ERR_NO_SPACE, "%lld MiB of memory are wanted, and %lld of the target's %lld MiB are in use",
                       (long long)(wanted_bytes >> 20), (long long)(given >> 20), (long long)(t->memory_limit_bytes >> 20));
    return 0;
}

static void check_accelerator(struct target *t, json_t *lines)
{
    struct err why = {0};
    char version[64];

    if (accel_qemu_version(version, sizeof version, &why) < 0)
        target_line(lines, "qemu", false, "install qemu-system-x86 and qemu-utils", "%s", why.message);
    else
        target_line(lines, "qemu", true, NULL, "QEMU %s", version);
    if (local_accel(t, &why) < 0)
        target_line(lines, "accelerator", false, "set the accelerator to auto", "%s", why.message);
    else
        target_line(lines, "accelerator", true, NULL, "%s: %s", t->accel.kvm ? "kvm" : "tcg", t->accel.reason);
}

static void check_programs(json_t *lines)
{
    static const struct {
        const char *argv[3], *package;
    } programs[] = {{{"qemu-img", "--version"}, "qemu-utils"},
                    {{"nsenter", "--version"}, "util-linux"},
                    {{"dnsmasq", "--version"}, "dnsmasq-base"}};

    for (size_t i = 0; i < ARRAY_COUNT(programs); i++) {
        struct proc_options options = {.argv = programs[i].argv, .timeout_ms = 20000};
        CLEANUP(buf_release) struct buf out = {0};
        CLEANUP(free_ptr) char *advice = xasprintf("install the package %s", programs[i].package);
        struct err why = {0};

        if (proc_must(&options, &out, &why) < 0)
            target_line(lines, programs[i].argv[0], false, advice, "%s", why.message);
        else
            target_line(lines, programs[i].argv[0], true, NULL, "%.*s", (int)strcspn(out.data ? out.data : "", "\n"), out.data ? out.data : "");
    }
}

/* A network like an instance's is made and removed: rights, /dev/net/tun, bridges, all in one. */
static void check_namespaces(struct target *t, json_t *lines)
{
    struct target_spec spec = {.instance = "check", .nic_count = 1, .nics = {{.mac = "52:54:00:00:00:01"}}};
    CLEANUP(free_ptr) char *name = xasprintf("check-%d", (int)getpid());
    CLEANUP(close_fd) int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct network n;
    struct err why = {0};

    target_line(lines, "tun", tun >= 0, "load the module tun, and run as root", "/dev/net/tun %s", tun >= 0 ? "opens" : strerror(errno));
    if (network_of(t->folder, t->label, name, &n, &why) < 0 || network_make(&n, &spec, &why) < 0 || network_remove(&n, &why) < 0)
        target_line(lines, "namespaces", false, "run as root; the kernel needs network namespaces and bridges", "%s", why.message);
    else
        target_line(lines, "namespaces", true, NULL, "a namespace with a bridge and a TAP was made and removed");
}

static void check_room(struct target *t, json_t *lines)
{
    struct statvfs about;
    struct err why = {0};
    int64_t free_bytes;

    if (statvfs(t->folder, &about) < 0) {
        target_line(lines, "disk", false, "the folder must be there and writable", "%s: %s", t->folder, strerror(errno));
    } else {
        free_bytes = (int64_t)about.f_bavail * (int64_t)about.f_frsize;
        target_line(lines, "disk", free_bytes >= DISK_LEAST_BYTES && access(t->folder, W_OK) == 0, "free some, or set another folder",
                    "%lld MiB free in %s", (long long)(free_bytes >> 20), t->folder);
    }
    if (local_memory_fits(t, INT64_C(512) << 20, NULL, &why) < 0)
        target_line(lines, "memory", false, "free some: a small machine needs 512 MiB", "%s", why.message);
    else
        target_line(lines, "memory", true, NULL, "%lld MiB available, %lld MiB given to running machines",
                    (long long)(host_available_bytes() >> 20), (long long)(given_bytes(t, NULL) >> 20));
}

static void check_networks(struct target *t, json_t *lines)
{
    if (t->network_count == 0)
        target_line(lines, "networks", false, "name at least one in the target's setting networks, for cutovers", "none is set");
    for (int i = 0; i < t->network_count; i++) {
        const struct network_real *real = &t->networks[i];
        struct err why = {0};

        if (network_real_check(real, &why) < 0)
            target_line(lines, "network", false, "make it, or correct the target's setting networks", "%s", why.message);
        else
            target_line(lines, "network", true, NULL, "%s: bridge %s%s%s is there", real->name, real->bridge,
                        real->netns[0] ? " in the namespace " : "", real->netns);
    }
}

int local_check(struct target *t, json_t *lines, struct err *e)
{
    (void)e;
    check_accelerator(t, lines);
    check_programs(lines);
    check_namespaces(t, lines);
    check_room(t, lines);
    check_networks(t, lines);
    return 0;
}

static void validate_network(struct target *t, const struct target_spec *spec, json_t *lines)
{
    const struct network_real *real = local_network_find(t, spec->network);
    struct err why = {0};

    if (spec->net == TARGET_NET_ISOLATED && !spec->network)
        target_line(lines, "network", true, NULL, "isolated: a network of its own");
    else if (!real)
        target_line(lines, "network", false, "add it to the target's setting networks, or set the server's attribute target_network",
                    "the target has no network \"%s\"", spec->network ? spec->network : "");
    else if (network_real_check(real, &why) < 0)
        target_line(lines, "network", false, "make it, or correct the target's setting networks", "%s", why.message);
    else
        target_line(lines, "network", true, NULL, "%s is there", real->name);
}

/* What a disk of an instance still takes until it is filled in; 0 where it is. An overlay says in its header whether something lies below it (the offset of
 * the name, bytes 8 to 15); that is looked at here without a program for each of them. */
static int64_t to_fill_bytes(const struct instance *i, int disk)
{
    CLEANUP(close_fd) int fd = open(instance_path(i, "disk-%d.qcow2", disk), O_RDONLY | O_CLOEXEC);
    unsigned char header[16] = {0};
    int64_t size_bytes = i->spec.disks[disk].size_bytes, there;
    struct stat about;

    if (fd < 0 || fstat(fd, &about) < 0 || pread(fd, header, sizeof header, 0) != (ssize_t)sizeof header)
        return size_bytes; /* not made yet, or nobody can tell */
    there = (int64_t)about.st_blocks * 512;
    if (memcmp(header + 8, (unsigned char[8]){0}, 8) == 0 && !file_exists(instance_path(i, "disk-%d.lent", disk)))
        return 0;
    return size_bytes > there ? size_bytes - there : 0;
}

/* What the other instances that stay are still to be filled in with: that room is free, and theirs. -1: that can't be seen. */
static int64_t spoken_for_bytes(struct target *t, const char *except, struct err *e)
{
    DIR *folder = opendir(t->folder);
    int64_t sum = 0;
    int there = 0;

    if (!folder)
        return err_errno(e, errno, "can't list %s", t->folder);
    for (struct dirent *d; there >= 0 && (d = readdir(folder));) {
        CLEANUP(instance_free) struct instance *i = NULL;

        if (!spec_name_is_good(d->d_name) || strcmp(d->d_name, except) == 0)
            continue;
        there = instance_open(t, d->d_name, &i, e) < 0 ? -1 : instance_load(i, e);
        for (int disk = 0; there > 0 && i->spec.net != TARGET_NET_ISOLATED && disk < i->spec.disk_count; disk++)
            sum += to_fill_bytes(i, disk);
    }
    closedir(folder);
    return there < 0 ? -1 : sum;
}

static void validate_room(struct target *t, const struct target_spec *spec, json_t *lines)
{
    struct statvfs about;
    struct err why = {0}, unseen = {0};
    int64_t free_bytes, wanted_bytes = 0, spoken_for = spoken_for_bytes(t, spec->instance, &unseen);

    if (local_memory_fits(t, spec->memory_bytes, spec->instance, &why) < 0)
        target_line(lines, "memory", false, "stop another machine, or set the server's attribute memory_mib", "%s", why.message);
    else
        target_line(lines, "memory", true, NULL, "%lld MiB are available", (long long)(spec->memory_bytes >> 20));
    target_line(lines, "cpu", true, NULL, "%d CPUs on %ld of the host", spec->cpu_count, sysconf(_SC_NPROCESSORS_ONLN));
    if (statvfs(t->folder, &about) < 0) {
        target_line(lines, "disk", false, "the target's folder must be there", "%s: %s", t->folder, strerror(errno));
        return;
    }
    free_bytes = (int64_t)about.f_bavail * (int64_t)about.f_frsize;
    for (int i = 0; i < spec->disk_count; i++)
        wanted_bytes += spec->disks[i].size_bytes;
    /* A test writes little over its export; an instance that stays is filled in whole. */
    if (spec->net == TARGET_NET_ISOLATED)
        wanted_bytes = wanted_bytes < DISK_LEAST_BYTES ? wanted_bytes : DISK_LEAST_BYTES;
    if (spoken_for < 0) {
        target_line(lines, "disk", false, "remove what is left of that instance", "what other instances still take to be filled in can't be seen: %s", unseen.message);
        return;
    }
    target_line(lines, "disk", free_bytes - spoken_for >= wanted_bytes, "free some, or set another folder",
                "%lld MiB wanted, %lld MiB free in %s, of which other instances still take %lld to be filled in", (long long)(wanted_bytes >> 20),
                (long long)(free_bytes >> 20), t->folder, (long long)(spoken_for >> 20));
}

static void validate_name(struct target *t, const struct target_spec *spec, json_t *lines)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(json_free) json_t *wanted = NULL;
    struct err why = {0};
    int found = instance_open(t, spec->instance, &i, &why);

    if (found == 0)
        found = instance_load(i, &why);
    wanted = found > 0 ? spec_to_json(spec) : NULL;
    if (found < 0)
        target_line(lines, "name", false, "remove what is left under that name", "%s", why.message);
    else if (found && !json_equal(wanted, i->spec_json))
        target_line(lines, "name", false, "remove it first: it has other settings or another recovery point", "%s exists", spec->instance);
    else
        target_line(lines, "name", true, NULL, "%s %s", spec->instance, found ? "is this very machine" : "is free");
}

int local_validate(struct target *t, const struct target_spec *spec, json_t *lines, struct err *e)
{
    const char *code, *variables;
    struct err why = {0};

    if (local_accel(t, e) < 0)
        return -1;
    if (spec_faults(spec, lines) > 0)
        return 0; /* the rest could not be judged */
    target_line(lines, "settings", true, NULL, "%d disks on %s, %d interfaces, %s", spec->disk_count, spec->disk_bus, spec->nic_count,
                t->accel.kvm ? "KVM" : "software emulation");
    validate_name(t, spec, lines);
    validate_room(t, spec, lines);
    validate_network(t, spec, lines);
    if (spec->uefi && args_firmware(&code, &variables, &why) < 0)
        target_line(lines, "firmware", false, "install the package ovmf", "%s", why.message);
    else
        target_line(lines, "firmware", true, NULL, "%s", spec->uefi ? code : "BIOS");
    return 0;
}
