/* What is asked of a running local instance: its screen, its serial log, what it uses, and the fill behind it. */
#include "target/local.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SERIAL_TAIL_BYTES (1 << 20)
#define BALLOON_PATH "/machine/peripheral/balloon"
#define BALLOON_POLL_S 2
#define JOB_TIMEOUT_MS 30000

int local_reset(struct target *t, const char *instance, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(qmp_free) struct qmp *q = NULL;

    if (instance_need(t, instance, &i, e) < 0 || instance_qmp(i, &q, e) < 0)
        return -1;
    return qmp_call(q, "system_reset", NULL, LOCAL_QMP_TIMEOUT_MS, NULL, e) < 0 ? err_wrap(e, "resetting %s", instance) : 0;
}

int local_picture(struct target *t, const char *instance, const char *png_path, struct err *e)
{
    static const char signature[] = "\x89PNG\r\n\x1a\n";
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(qmp_free) struct qmp *q = NULL;
    CLEANUP(buf_release) struct buf png = {0};
    const char *shot;

    if (instance_need(t, instance, &i, e) < 0 || instance_qmp(i, &q, e) < 0)
        return -1;
    shot = instance_path(i, "screen.png"); /* QEMU writes into the instance's folder only */
    if (qmp_call(q, "screendump", json_pack("{s:s,s:s}", "filename", shot, "format", "png"), LOCAL_QMP_TIMEOUT_MS, NULL, e) < 0 ||
        file_read(shot, 1u << 24, &png, e) < 0)
        return err_wrap(e, "taking a picture of %s", instance);
    unlink(shot);
    if (png.size_bytes < sizeof signature - 1 || memcmp(png.data, signature, sizeof signature - 1) != 0)
        return err_set(e, ERR_PROTOCOL, "QEMU's picture of %s is no PNG", instance);
    return file_write(png_path, png.data, png.size_bytes, 0600, e);
}

int local_serial(struct target *t, const char *instance, struct buf *out, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(free_ptr) char *bytes = xmalloc(SERIAL_TAIL_BYTES);
    CLEANUP(close_fd) int fd = -1;
    struct stat about;
    int64_t size;

    if (instance_need(t, instance, &i, e) < 0)
        return -1;
    fd = open(instance_path(i, "serial.log"), O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0; /* it was never started */
    if (fd < 0 || fstat(fd, &about) < 0)
        return err_errno(e, errno, "can't read the serial log of %s", instance);
    size = about.st_size < SERIAL_TAIL_BYTES ? about.st_size : SERIAL_TAIL_BYTES;
    if (fd_pread_all(fd, bytes, (size_t)size, about.st_size - size, e) < 0)
        return err_wrap(e, "the serial log of %s", instance);
    return buf_add(out, bytes, (size_t)size) < 0 ? err_set(e, ERR_LIMIT, "the serial log of %s does not fit", instance) : 0;
}

/* The microseconds of CPU that the process used, and how long it has been there. */
static int process_times(int pid, int64_t *cpu_us, int64_t *age_us, struct err *e)
{
    CLEANUP(buf_release) struct buf stat = {0}, uptime = {0};
    unsigned long long user = 0, system = 0, started = 0;
    double up_s = 0;
    char path[64], *after;
    int64_t tick_us = US_PER_S / sysconf(_SC_CLK_TCK);

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (file_read(path, 4096, &stat, e) < 0 || file_read("/proc/uptime", 256, &uptime, e) < 0)
        return -1;
    after = strrchr(stat.data, ')'); /* the name before may hold anything; utime, stime and starttime are fields 14, 15 and 22 */
    if (!after || sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %llu",
                         &user, &system, &started) != 3 || sscanf(uptime.data, "%lf", &up_s) != 1)
        return err_set(e, ERR_PROTOCOL, "%s is not understood", path);
    *cpu_us = (int64_t)(user + system) * tick_us;
    *age_us = (int64_t)(up_s * (double)US_PER_S) - (int64_t)started * tick_us;
    return 0;
}

static struct usage_sample *last_sample(struct target *t, const char *instance)
{
    for (size_t i = 0; i < ARRAY_COUNT(t->samples); i++)
        if (strcmp(t->samples[i].instance, instance) == 0)
            return &t->samples[i];
    return NULL;
}

static int cpu_share(struct target *t, const struct instance *i, double *share, struct err *e)
{
    int64_t cpu_us = 0, age_us = 0, used_us, during_us, now_us = clock_monotonic_us();
    struct usage_sample *last = last_sample(t, i->name);
    int pid = instance_pid(i, e);

    if (pid < 0 || (pid > 0 && process_times(pid, &cpu_us, &age_us, e) < 0))
        return -1;
    if (pid == 0)
        return err_set(e, ERR_WRONG_STATE, "the instance %s does not run", i->name);
    if (last && last->cpu_us <= cpu_us) {
        used_us = cpu_us - last->cpu_us;
        during_us = now_us - last->at_us;
    } else { /* the first call, or it was started anew since */
        used_us = cpu_us;
        during_us = age_us;
    }
    if (!last) {
        last = &t->samples[t->sample_next++ % (int)ARRAY_COUNT(t->samples)];
        snprintf(last->instance, sizeof last->instance, "%s", i->name);
    }
    last->cpu_us = cpu_us;
    last->at_us = now_us;
    *share = during_us > 0 ? (double)used_us / (double)during_us / i->spec.cpu_count : 0;
    if (*share > 1)
        *share = 1; /* emulation has threads beside the CPUs */
    return 0;
}

/* What the guest's balloon driver says; -1 where there is no driver yet. It is asked to look every few seconds from the first call on. */
static int64_t memory_used(struct qmp *q)
{
    CLEANUP(json_free) json_t *stats = NULL;
    const json_t *values;
    int64_t total, available;

    qmp_call(q, "qom-set", json_pack("{s:s,s:s,s:i}", "path", BALLOON_PATH, "property", "guest-stats-polling-interval", "value",
                                     BALLOON_POLL_S), LOCAL_QMP_TIMEOUT_MS, NULL, NULL);
    if (qmp_call(q, "qom-get", json_pack("{s:s,s:s}", "path", BALLOON_PATH, "property", "guest-stats"), LOCAL_QMP_TIMEOUT_MS, &stats,
                 NULL) < 0 || json_get_int(stats, "last-update", 0) <= 0)
        return -1;
    values = json_object_get(stats, "stats");
    total = json_get_int(values, "stat-total-memory", -1);
    available = json_get_int(values, "stat-available-memory", -1);
    return total > 0 && available >= 0 && available <= total ? total - available : -1;
}

int local_usage(struct target *t, const char *instance, struct target_usage *out, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(qmp_free) struct qmp *q = NULL;
    CLEANUP(json_free) json_t *disks = NULL;
    struct target_usage usage = {0};
    json_t *disk;
    size_t at;

    if (instance_need(t, instance, &i, e) < 0 || instance_qmp(i, &q, e) < 0 || cpu_share(t, i, &usage.cpu_share, e) < 0 ||
        qmp_call(q, "query-blockstats", NULL, LOCAL_QMP_TIMEOUT_MS, &disks, e) < 0)
        return -1;
    json_array_foreach(disks, at, disk) {
        const json_t *stats = json_object_get(disk, "stats");

        usage.disk_read_bytes += json_get_int(stats, "rd_bytes", 0);
        usage.disk_written_bytes += json_get_int(stats, "wr_bytes", 0);
    }
    usage.memory_bytes = i->spec.memory_bytes;
    usage.memory_used_bytes = memory_used(q);
    *out = usage;
    return 0;
}

/* What a disk's fill needs to know. (Never ask QEMU 7.2 for query-named-block-nodes while a job of these is concluded and not yet
 * dismissed: it follows a pointer into the removed filter and dies, the machine with it. The overlay's header tells as well.) */
struct fill_view {
    json_t *jobs, *block_jobs;
};

static void fill_view_release(struct fill_view *v)
{
    json_free(&v->jobs);
    json_free(&v->block_jobs);
}

static int start_fill(struct target *t, struct qmp *q, const struct instance *i, int disk, const char *job, const char *node, struct err *e)
{
    json_t *arguments;

    if (instance_disk_lent(i, disk, e) < 0)
        return -1;
    arguments = json_pack("{s:s,s:s,s:b,s:b,s:s}", "job-id", job, "device", node, "auto-finalize", 1, "auto-dismiss", 0, "on-error", "report");
    if (t->fill_bytes_per_s > 0)
        json_object_set_new(arguments, "speed", json_integer(t->fill_bytes_per_s));
    return qmp_call(q, "block-stream", arguments, JOB_TIMEOUT_MS, NULL, e);
}

/* Takes the job's end: its error, or nothing. */
static int end_fill(struct qmp *q, const json_t *job, const char *name, struct err *e)
{
    CLEANUP(free_ptr) char *error = xstrdup(json_get_string(job, "error", NULL));

    if (qmp_call(q, "job-dismiss", json_pack("{s:s}", "id", name), LOCAL_QMP_TIMEOUT_MS, NULL, e) < 0)
        return -1;
    return error ? err_set(e, ERR_IO, "filling in the disk failed: %s: is its export still served?", error) : 0;
}

/* What the overlay's tables hold in memory, and its content, goes to the disk: only then may the export go away. QMP has no command for it, and the monitor's
 * `qemu-io NODE flush` says nothing of a flush that failed. Opening a node anew as it is flushes it first, and is refused where that fails; after one that
 * failed QEMU lets no later one of that file succeed. */
static int flush_disk(struct qmp *q, const struct instance *i, int disk, struct err *e)
{
    CLEANUP(close_fd) int fd = open(instance_path(i, "disk-%d.qcow2", disk), O_RDONLY | O_CLOEXEC);
    json_t *node;

    /* QEMU's devices stand still while it flushes: most of it is written out before. An error is told to each who has the file open. */
    if (fd < 0 || fdatasync(fd) < 0)
        return err_errno(e, errno, "can't flush %s", instance_path(i, "disk-%d.qcow2", disk));
    node = args_overlay(i, disk);
    json_object_set_new(node, "backing", json_null());
    if (qmp_call(q, "blockdev-reopen", json_pack("{s:[o]}", "options", node), JOB_TIMEOUT_MS, NULL, e) < 0)
        return err_wrap(e, "QEMU can't flush it, so that it is not known to be on the disk");
    return instance_disk_owned(i, disk, e);
}

/* One disk: starts, looks at or ends its fill. *done gets its bytes. */
static int fill_disk(struct target *t, struct qmp *q, const struct fill_view *v, const struct instance *i, int disk, int64_t *done,
                     struct err *e)
{
    char job_name[24], node_name[24], base_name[24];
    const json_t *job, *progress;
    int has_backing;

    snprintf(job_name, sizeof job_name, "fill%d", disk);
    snprintf(node_name, sizeof node_name, "disk%d", disk);
    snprintf(base_name, sizeof base_name, "base%d", disk);
    job = json_find(v->jobs, "id", job_name);
    *done = 0;
    if (job && strcmp(json_get_string(job, "status", ""), "concluded") == 0)
        return end_fill(q, job, job_name, e); /* what came of it is seen at the next look */
    if (job) {
        progress = json_find(v->block_jobs, "device", job_name);
        *done = json_get_int(progress, "offset", 0);
        if (*done >= i->spec.disks[disk].size_bytes)
            *done = i->spec.disks[disk].size_bytes - 1; /* not before it has let go of its export */
        return 0;
    }
    has_backing = instance_disk_has_backing(i, disk, e);
    if (has_backing < 0)
        return -1;
    if (has_backing)
        return start_fill(t, q, i, disk, job_name, node_name, e);
    if (flush_disk(q, i, disk, e) < 0)
        return -1;
    /* Full: the export's node goes, and with it the connection. Where it went before, that is refused. */
    qmp_call(q, "blockdev-del", json_pack("{s:s}", "node-name", base_name), LOCAL_QMP_TIMEOUT_MS, NULL, NULL);
    *done = i->spec.disks[disk].size_bytes;
    return 0;
}

int local_fill(struct target *t, const char *instance, int64_t *done_bytes, int64_t *total_bytes, struct err *e)
{
    CLEANUP(instance_free) struct instance *i = NULL;
    CLEANUP(qmp_free) struct qmp *q = NULL;
    CLEANUP(fill_view_release) struct fill_view view = {0};
    int64_t done = 0, total = 0;

    if (instance_need(t, instance, &i, e) < 0 || instance_qmp(i, &q, e) < 0 ||
        qmp_call(q, "query-jobs", NULL, LOCAL_QMP_TIMEOUT_MS, &view.jobs, e) < 0 ||
        qmp_call(q, "query-block-jobs", NULL, LOCAL_QMP_TIMEOUT_MS, &view.block_jobs, e) < 0)
        return -1;
    for (int disk = 0; disk < i->spec.disk_count; disk++) {
        int64_t of_disk = 0;

        if (fill_disk(t, q, &view, i, disk, &of_disk, e) < 0)
            return err_wrap(e, "disk %s of %s", i->spec.disks[disk].id, instance);
        done += of_disk;
        total += i->spec.disks[disk].size_bytes;
    }
    *done_bytes = done;
    *total_bytes = total;
    return 0;
}
