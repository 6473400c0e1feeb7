/* agentworld: the agent against a replicator of the test's own, on loop devices: what its tests share. Needs root and loop devices. */
#pragma once

#pragma GCC diagnostic ignored "-Wunused-function" /* not every test needs all of it */

#include "agent/agent.h"
#include "base/log.h"
#include "loopdev.h"
#include "mounts.h"
#include "fakereplicator.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define SIZE (48 << 20)
#define SMALL (8 << 20)
#define BUDGET_MS 15000 /* for a freeze: loop devices on a machine that does much else */
#define STEP_MS 60000 /* a group's budget: for the others, on a machine that does much else */
#define SOON_MS 30000 /* well before it */

static char folder[] = "/tmp/slipway-agent.XXXXXX";
static struct loopdev data, raw[2];
static uint64_t seed;
static int hold_limit_ms = 60000;
static const char *before_freeze = "", *after_thaw = "";
static int64_t rescan_interval_s = 1;
static int64_t bytes_per_s, read_bytes_per_s; /* on the network, from disks; 0: no limit */
static int memory_bound_mib = 128;
static bool disks_auto;     /* the disks are those in /sys/block */
static const char *tracker_dir = ""; /* where the tracker lives on */

struct running {
    struct agent_config config;
    atomic_bool stop;
    pthread_t thread;
    struct err e;
    int result;
};

static void *run_agent(void *user)
{
    struct running *r = user;

    r->result = agent_run(&r->config, &r->stop, &r->e);
    return NULL;
}

static struct running *start_agent(struct fake *f, int disk_count, const struct loopdev *const *disks, bool rescan)
{
    struct running *r = xcalloc(1, sizeof *r);
    struct agent_config *c = &r->config;

    snprintf(c->folder, sizeof c->folder, "%s", folder);
    snprintf(c->runtime_dir, sizeof c->runtime_dir, "%s/run", folder);
    snprintf(c->server, sizeof c->server, "web01");
    snprintf(c->replicator_address, sizeof c->replicator_address, "127.0.0.1");
    c->replicator_port = f->port;
    fake_forget_statuses(f);
    for (int i = 0; i < disk_count; i++)
        snprintf(c->disks[c->disk_count++], sizeof c->disks[0], "%s", disks[i]->name);
    c->disks_auto = disks_auto;
    snprintf(c->tracker_dir, sizeof c->tracker_dir, "%s", tracker_dir);
    c->freeze_budget_ms = BUDGET_MS;
    c->memory_mib = 16;
    c->memory_bound_mib = memory_bound_mib;
    c->rescan_interval_s = rescan_interval_s;
    c->rescan_only = rescan;
    c->hold_limit_ms = hold_limit_ms;
    snprintf(c->before_freeze, sizeof c->before_freeze, "%s", before_freeze);
    snprintf(c->after_thaw, sizeof c->after_thaw, "%s", after_thaw);
    c->bytes_per_s = bytes_per_s;
    c->read_bytes_per_s = read_bytes_per_s;
    MUST(pthread_create(&r->thread, NULL, run_agent, r) == 0);
    return r;
}

static void stop_agent(struct running *r)
{
    atomic_store(&r->stop, true);
    pthread_join(r->thread, NULL);
    ok(r->result == 0, "the agent ends well: %s", r->e.message);
    free(r);
}

__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
    char command[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command);
}

static uint8_t *read_disk(const struct loopdev *l)
{
    int fd = open(l->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    uint8_t *bytes;

    MUST(fd >= 0 && posix_memalign((void **)&bytes, 4096, (size_t)l->size_bytes) == 0);
    for (off_t at = 0; at < l->size_bytes; at += 1 << 20)
        MUST(pread(fd, bytes + at, 1 << 20, at) == 1 << 20);
    close(fd);
    return bytes;
}

static bool point_equals_disk(const struct fake_point *p, int disk, const struct loopdev *l)
{
    uint8_t *image = fake_image(p, disk), *truth = read_disk(l);
    bool same = memcmp(image, truth, (size_t)l->size_bytes) == 0;

    free(image);
    free(truth);
    return same;
}

static bool fails_with(struct fake *f, int failures, const char *kind)
{
    return ok(fake_wait(f, &f->failures, failures + 1, 60000), "it fails: %s", f->failure.message) && is_str(f->failure.kind, kind, "as %s", kind);
}

/* In the machine as the agent sees it: a loop device under a name that is a disk's. */
static void plug(const struct loopdev *l, const char *name, bool with_node)
{
    CLEANUP(free_ptr) char *in_sys = xasprintf("/sys/block/%s", name), *real = xasprintf("/sys/devices/virtual/block/%s", l->name);
    CLEANUP(free_ptr) char *node = xasprintf("/dev/%s", name);
    struct stat s;

    MUST(stat(l->path, &s) == 0);
    unlink(node);
    MUST(!with_node || mknod(node, S_IFBLK | 0600, s.st_rdev) == 0);
    MUST(symlink(real, in_sys) == 0);
}

static void unplug(const char *name)
{
    CLEANUP(free_ptr) char *in_sys = xasprintf("/sys/block/%s", name), *node = xasprintf("/dev/%s", name);

    MUST(unlink(in_sys) == 0);
    unlink(node);
}

/* Over all of the disk, what does not compress. */
static void write_noise(uint64_t state)
{
    uint8_t *noise = xmalloc(SIZE);

    for (int i = 0; i < SIZE / 8; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        memcpy(noise + i * 8, &state, 8);
    }
    MUST(pwrite(data.fd, noise, SIZE, 0) == SIZE && fsync(data.fd) == 0);
    free(noise);
}

/* A /sys/block of the test's own, for disks_auto: without a disk, until one is plugged in. To be unmounted. */
static void world_hide_disks(void)
{
    MUST(mounts_of_our_own(folder) == 0 && mount("none", "/sys/block", "tmpfs", 0, NULL) == 0);
}

/* Disks and a replicator; NULL where this machine has none, and the test is skipped. */
static struct fake *world_open(const char *name)
{
    const char *given = getenv("SLIPWAY_SEED");

    signal(SIGPIPE, SIG_IGN);
    log_open(name, LOG_WARN);
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)clock_now_us();
    MUST(mkdtemp(folder) != NULL);
    if (geteuid() != 0 || loopdev_make(&data, folder, "data", SIZE) < 0 || loopdev_make(&raw[0], folder, "raw0", SMALL) < 0 ||
        loopdev_make(&raw[1], folder, "raw1", SMALL) < 0) {
        rmdir(folder);
        printf("1..0 # SKIP needs root and loop devices\n");
        return NULL;
    }
    printf("# SLIPWAY_SEED=%llu\n", (unsigned long long)seed);
    return fake_start(folder);
}

static void world_close(struct fake *f)
{
    fake_stop(f);
    for (int i = 0; i < 2; i++)
        loopdev_remove(&raw[i]);
    loopdev_remove(&data);
    ok(run("rm -rf %s", folder) == 0, "cleared");
}
