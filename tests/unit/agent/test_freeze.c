/* Filesystems that are frozen always move again: told, at the deadline, when the agent is killed, when the freezer is. */
#include "agent/agent.h"
#include "agent/disks.h"
#include "agent/freeze.h"
#include "base/clock.h"
#include "base/file.h"
#include "loopdev.h"
#include "tap.h"

#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SIZE (40 << 20)

static char folder[] = "/tmp/slipway-freeze.XXXXXX";
static char mount_points[2][300], marker[300];
static const char *paths[2];

__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
    char command[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command);
}

static void open_both(int fds[2])
{
    for (int i = 0; i < 2; i++) {
        fds[i] = open(mount_points[i], O_RDONLY | O_CLOEXEC);
        MUST(fds[i] >= 0);
    }
}

/* A process of its own writes; how long it took, or -1 where it isn't done within the limit. */
static int64_t write_takes_us(const char *mount_point, int limit_ms)
{
    int64_t begin_us = clock_monotonic_us();
    pid_t pid = fork();

    if (pid == 0) {
        char path[400];
        int fd;

        snprintf(path, sizeof path, "%s/probe", mount_point);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        _exit(fd >= 0 && write(fd, "x", 1) == 1 && fsync(fd) == 0 ? 0 : 1);
    }
    for (;;) {
        int status;

        if (waitpid(pid, &status, WNOHANG) == pid)
            return status == 0 ? clock_monotonic_us() - begin_us : -2;
        if (clock_monotonic_us() - begin_us > limit_ms * US_PER_MS)
            return -1; /* it ends when the filesystem moves: reap_late */
        usleep(2000);
    }
}

static void reap_late(void)
{
    int64_t until_us = clock_monotonic_us() + 5 * US_PER_S;

    while (clock_monotonic_us() < until_us)
        if (waitpid(-1, NULL, WNOHANG) < 0)
            return;
        else
            usleep(2000);
}

static void test_told(void)
{
    CLEANUP(freezer_stop) struct freezer *f = NULL;
    struct freeze_result result = {0};
    struct err e = {0};
    int fds[2], frozen = 0;

    open_both(fds);
    MUST(freezer_start(marker, &f, &e) == 0);
    is_int(freezer_thaw(f, &result, &e), 0, "a thaw where nothing is frozen is fine");
    is_int(freezer_freeze(f, fds, paths, 2, 5 * US_PER_S, &frozen, &e), 0, "two filesystems freeze: %s", e.message);
    is_int(frozen, 2, "both");
    ok(file_exists(marker), "the marker names them");
    is_int(write_takes_us(mount_points[0], 300), -1, "a write waits");
    is_int(write_takes_us(mount_points[1], 300), -1, "in both");
    ok(!freezer_expired(f), "the deadline has not passed");
    is_int(freezer_thaw(f, &result, &e), 0, "they thaw: %s", e.message);
    ok(!result.expired && result.frozen_us > 500 * US_PER_MS && result.frozen_us < 3 * US_PER_S, "after %lld ms, not by the deadline",
       (long long)result.frozen_us / 1000);
    ok(write_takes_us(mount_points[0], 3000) >= 0 && write_takes_us(mount_points[1], 3000) >= 0, "writes go on");
    ok(!file_exists(marker), "the marker is gone");
    reap_late();
    close(fds[0]);
    close(fds[1]);
}

static void test_deadline(void)
{
    CLEANUP(freezer_stop) struct freezer *f = NULL;
    struct freeze_result result = {0};
    struct err e = {0};
    int fds[2], frozen = 0;
    int64_t took_us;

    open_both(fds);
    MUST(freezer_start(marker, &f, &e) == 0);
    is_int(freezer_freeze(f, fds, paths, 2, 400 * US_PER_MS, &frozen, &e), 0, "frozen for 400 ms at most");
    took_us = write_takes_us(mount_points[0], 3000);
    ok(took_us > 100 * US_PER_MS && took_us < 1500 * US_PER_MS, "a write waits %lld ms, until the deadline", (long long)took_us / 1000);
    ok(freezer_expired(f), "which shows");
    is_int(freezer_thaw(f, &result, &e), 0, "a thaw after it is fine");
    ok(result.expired && result.frozen_us >= 390 * US_PER_MS && result.frozen_us < 1500 * US_PER_MS, "and says so: %lld ms",
       (long long)result.frozen_us / 1000);
    is_int(freezer_freeze(f, fds, paths, 2, 300 * US_PER_MS, &frozen, &e), 0, "frozen again");
    is_int(freezer_extend(f, 5 * US_PER_S, &e), 0, "and extended");
    usleep(600000);
    ok(!freezer_expired(f), "it outlives the first deadline");
    is_int(freezer_thaw(f, &result, &e), 0, "and thaws");
    is_int(freezer_extend(f, US_PER_S, &e), -1, "nothing is frozen, so nothing is extended: %s", e.message);
    is_int(freezer_freeze(f, fds, paths, 2, 1, &frozen, &e), -1, "a budget of a microsecond is over before it began: %s", e.message);
    is_int(e.kind, ERR_TIMEOUT, "as a time-out");
    ok(write_takes_us(mount_points[0], 3000) >= 0, "and nothing is left frozen");
    close(fds[0]);
    close(fds[1]);
}

/* The agent is a process of its own here; it freezes, tells us, and is killed. */
static void test_agent_killed(bool freezer_too)
{
    int tell[2];
    struct {
        pid_t freezer;
        int frozen;
    } told = {0};
    pid_t pid;

    MUST(pipe(tell) == 0);
    pid = fork();
    if (pid == 0) {
        struct freezer *f = NULL;
        int fds[2];

        open_both(fds);
        if (freezer_start(marker, &f, NULL) < 0 || freezer_freeze(f, fds, paths, 2, 30 * US_PER_S, &told.frozen, NULL) < 0)
            _exit(1);
        told.freezer = freezer_pid(f);
        MUST(write(tell[1], &told, sizeof told) == sizeof told);
        for (;;)
            pause();
    }
    close(tell[1]);
    MUST(read(tell[0], &told, sizeof told) == sizeof told);
    close(tell[0]);
    is_int(told.frozen, 2, "an agent froze two filesystems");
    if (freezer_too) {
        char runtime[300];

        kill(pid, SIGSTOP); /* so that it can't notice */
        kill(told.freezer, SIGKILL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        is_int(write_takes_us(mount_points[0], 500), -1, "agent and freezer were killed at once: a write waits");
        snprintf(runtime, sizeof runtime, "%s", folder);
        is_int(agent_thaw_left(runtime), 2, "the next start thaws both");
        ok(!file_exists(marker), "once");
        is_int(agent_thaw_left(runtime), 0, "there is nothing more to thaw");
    } else {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    ok(write_takes_us(mount_points[0], 3000) >= 0 && write_takes_us(mount_points[1], 3000) >= 0, "writes go on");
    reap_late();
    unlink(marker);
}

static void test_freezer_killed(void)
{
    CLEANUP(freezer_stop) struct freezer *f = NULL;
    struct err e = {0};
    int fds[2], frozen = 0;
    pid_t first;

    open_both(fds);
    MUST(freezer_start(marker, &f, &e) == 0 && freezer_freeze(f, fds, paths, 2, 30 * US_PER_S, &frozen, &e) == 0);
    first = freezer_pid(f);
    kill(first, SIGKILL);
    usleep(100000);
    ok(freezer_expired(f), "the freezer was killed: the agent notices");
    ok(write_takes_us(mount_points[0], 3000) >= 0, "and has thawed");
    ok(freezer_pid(f) != first, "there is a new one");
    is_int(freezer_thaw(f, &(struct freeze_result){0}, &e), 0, "a thaw is fine");
    is_int(freezer_freeze(f, fds, paths, 2, US_PER_S, &frozen, &e), 0, "which freezes: %s", e.message);
    is_int(freezer_thaw(f, &(struct freeze_result){0}, &e), 0, "and thaws");
    reap_late();
    close(fds[0]);
    close(fds[1]);
}

/* A filesystem whose blocks lie in a file of the other one: once that one is frozen it never comes to its own freeze, as over a disk that hangs. */
static void test_hangs(void)
{
    CLEANUP(freezer_stop) struct freezer *f = NULL;
    int64_t begin_us, took_us;
    struct loopdev inner;
    struct err e = {0};
    int fds[2], frozen = 0;
    char inside[300];
    const char *both[] = {paths[0], inside};
    pid_t rescue;

    snprintf(inside, sizeof inside, "%s/inside", folder);
    MUST(loopdev_make(&inner, mount_points[0], "inner", 20 << 20) == 0 && mkdir(inside, 0700) == 0);
    MUST(run("mkfs.ext4 -q -F %s >/dev/null 2>&1 && mount %s %s", inner.path, inner.path, inside) == 0);
    fds[0] = open(paths[0], O_RDONLY | O_CLOEXEC);
    fds[1] = open(inside, O_RDONLY | O_CLOEXEC);
    MUST(fds[0] >= 0 && fds[1] >= 0 && freezer_start(marker, &f, &e) == 0);
    rescue = fork();
    if (rescue == 0) { /* so that a failure leaves no machine behind that hangs */
        sleep(20);
        ioctl(fds[0], FITHAW, 0);
        _exit(0);
    }
    MUST(run("dd if=/dev/urandom of=%s/dirty bs=1M count=4 status=none", inside) == 0);
    begin_us = clock_monotonic_us();
    is_int(freezer_freeze(f, fds, both, 2, 300 * US_PER_MS, &frozen, &e), -1, "a filesystem does not come to its freeze: %s", e.message);
    took_us = clock_monotonic_us() - begin_us;
    is_int(e.kind, ERR_TIMEOUT, "that is a time-out");
    ok(took_us < 10 * US_PER_S, "and the one before it does not wait for it: %lld ms", (long long)took_us / 1000);
    ok(write_takes_us(mount_points[0], 3000) >= 0 && write_takes_us(inside, 3000) >= 0, "writes go on, in both");
    ok(!file_exists(marker), "nothing is frozen");
    is_int(freezer_freeze(f, fds, both, 1, 10 * US_PER_S, &frozen, &e), 0, "the same process freezes the next time: %s", e.message);
    is_int(freezer_thaw(f, &(struct freeze_result){0}, &e), 0, "and thaws");
    kill(rescue, SIGKILL);
    reap_late();
    close(fds[0]);
    close(fds[1]);
    ok(run("umount %s", inside) == 0, "unmounted");
    loopdev_remove(&inner);
}

/* What a filesystem's path leads to: its own device number, 1; another's, 0; it is refused, -1. */
static int leads_to(const struct loopdev *disk, struct err *e)
{
    CLEANUP(free_ptr) struct mount *mounts = xcalloc(MOUNTS_MAX, sizeof *mounts);
    CLEANUP(close_fd) int fd = -1;
    struct disk d = {0};
    struct stat device, st;
    int count = 0;

    snprintf(d.name, sizeof d.name, "%s", disk->name);
    MUST(disks_mounts(&d, 1, mounts, &count, e) == 0 && count == 1 && stat(disk->path, &device) == 0);
    fd = disks_mount_open(&mounts[0], e);
    if (fd < 0)
        return -1;
    MUST(fstat(fd, &st) == 0);
    return st.st_dev == device.st_rdev;
}

/* Another filesystem is mounted over one: by its path that one would be frozen, and not the one that is meant. */
static void test_over_mounted(const struct loopdev *disks)
{
    struct err e = {0};
    char other[300];

    snprintf(other, sizeof other, "%s/other", folder);
    is_int(leads_to(&disks[0], &e), 1, "a filesystem is had by its path");
    MUST(run("mount %s %s", disks[1].path, mount_points[0]) == 0);
    is_int(leads_to(&disks[0], &e), -1, "not where another one is mounted over it");
    ok(e.kind == ERR_WRONG_STATE && strstr(e.message, mount_points[0]) && strstr(e.message, disks[0].path), "which is said: %s", e.message);
    is_int(leads_to(&disks[1], &e), 1, "that one is");
    MUST(run("umount %s", mount_points[0]) == 0 && mkdir(other, 0700) == 0 && run("mount --bind %s %s", mount_points[0], other) == 0 &&
         run("mount %s %s", disks[1].path, mount_points[0]) == 0);
    is_int(leads_to(&disks[0], &e), 1, "nor does it matter where it is mounted at another place, too");
    ok(run("umount %s && umount %s", mount_points[0], other) == 0, "unmounted");
}

int main(void)
{
    struct loopdev disks[2];
    static const char *const makes[] = {"mkfs.ext4 -q -F", "mkfs.ext4 -q -F -b 1024"};

    MUST(mkdtemp(folder) != NULL);
    if (geteuid() != 0 || loopdev_make(&disks[0], folder, "a", SIZE) < 0 || loopdev_make(&disks[1], folder, "b", SIZE) < 0) {
        rmdir(folder);
        printf("1..0 # SKIP needs root and loop devices\n");
        return 0;
    }
    snprintf(marker, sizeof marker, "%s/frozen", folder);
    for (int i = 0; i < 2; i++) {
        snprintf(mount_points[i], sizeof mount_points[i], "%s/m%d", folder, i);
        paths[i] = mount_points[i];
        MUST(mkdir(mount_points[i], 0700) == 0 && run("%s %s >/dev/null 2>&1", makes[i], disks[i].path) == 0 &&
             run("mount %s %s", disks[i].path, mount_points[i]) == 0);
    }
    test_told();
    test_deadline();
    test_agent_killed(false);
    test_agent_killed(true);
    test_freezer_killed();
    test_hangs();
    test_over_mounted(disks);
    for (int i = 0; i < 2; i++) {
        ok(run("umount %s", mount_points[i]) == 0, "unmounted");
        loopdev_remove(&disks[i]);
    }
    ok(run("rm -rf %s", folder) == 0, "cleared");
    return tap_done();
}
