/* rescue_live: process 1 of a rescue. It never ends but by booting the machine: a process 1 that ends is the kernel's panic. So the restoring, which may meet
 * anything, is done by a child. */
#include "agent/agent.h"
#include "agent/disks.h"
#include "agent/rescue_parts.h"
#include "agent/restore.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define CARD_MS 60000
#define AGAIN_FIRST_US (3 * US_PER_S)
#define AGAIN_MOST_US (30 * US_PER_S)
#define ONTO_SIZE (LIMIT_DISKS_PER_SERVER * 64)

struct rescue {
    struct agent_config config;
    struct rescue_net net;
    char point[64];
    char onto[ONTO_SIZE]; /* disks of here, in the point's order; "": not found yet. Found once: a disk that is half done has lost its identity */
    json_t *plan;
};

/* What the child says through its pipe. */
struct said {
    int result;
    struct err e;
    struct restore_outcome out;
};

/* ---- a machine to live in ---- */

static void make_machine(void)
{
    static const struct {
        const char *type, *place;
    } mounts[] = {{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}};
    int console;

    for (size_t i = 0; i < ARRAY_COUNT(mounts); i++) {
        mkdir(mounts[i].place, 0755);
        mount(mounts[i].type, mounts[i].place, mounts[i].type, 0, NULL);
    }
    console = open("/dev/console", O_RDWR);
    for (int fd = 0; console >= 0 && fd < 3; fd++)
        dup2(console, fd);
    if (console > 2)
        close(console);
    setenv("SLIPWAY_LOG", "text", 1);
    log_open("slipway-rescue", LOG_INFO);
}

/* A certificate is of no use before its time: a machine without a clock has at least that of the image. */
static void set_clock(const json_t *plan)
{
    int64_t made_us = json_get_int(plan, "made_us", 0);
    struct timeval t = {.tv_sec = made_us / US_PER_S};

    if (clock_now_us() < made_us && settimeofday(&t, NULL) == 0)
        log_warn("the machine's clock is behind the image's: set to that");
}

static void load_modules(const json_t *plan)
{
    const json_t *names = json_object_get(plan, "modules");

    for (size_t i = 0; i < json_array_size(names); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("/modules/%02zu.ko", i);
        CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
            log_warn("the driver %s: %s", json_string_value(json_array_get(names, i)), strerror(errno));
    }
}

static int read_plan(struct rescue *r, struct err *e)
{
    const char *point;

    if (json_read_file(AGENT_FOLDER "/rescue.json", &r->plan, e) < 0 || json_need_string(r->plan, "point", &point, e) < 0 ||
        agent_config_read(AGENT_FOLDER "/config.json", &r->config, e) < 0)
        return -1;
    snprintf(r->point, sizeof r->point, "%s", point);
    return rescue_net_read(json_object_get(r->plan, "network"), &r->net, e);
}

/* ---- one try ---- */

static int name_of(const struct disk *disks, int count, const char *id, struct buf *out, struct err *e)
{
    for (int i = 0; i < count; i++)
        if (strcmp(disks[i].id, id) == 0) {
            buf_printf(out, "%s%s", out->size_bytes ? "," : "", disks[i].name);
            return 0;
        }
    return err_set(e, ERR_NOT_FOUND, "the disk %s is not here", id);
}

static int names_by_identity(const json_t *ids, struct buf *out, struct err *e)
{
    const struct agent_config all = {.disks_auto = true};
    struct disk disks[LIMIT_DISKS_PER_SERVER];
    int count;

    if (disks_find(&all, disks, LIMIT_DISKS_PER_SERVER, &count, e) < 0)
        return -1;
    for (size_t i = 0; i < json_array_size(ids); i++)
        if (name_of(disks, count, json_string_value(json_array_get(ids, i)), out, e) < 0)
            return -1;
    return 0;
}

/* Which disks take the point's: before anything is written, and never again. */
static int find_disks(struct rescue *r, struct err *e)
{
    CLEANUP(buf_release) struct buf names = {.limit_bytes = ONTO_SIZE - 1};
    const json_t *ids = json_object_get(r->plan, "disks");
    const char *onto = json_get_string(r->plan, "onto", NULL);
    static const atomic_bool never;
    struct restore_outcome found;
    size_t used = 0;

    if (*r->onto)
        return 0;
    if (json_array_size(ids) && names_by_identity(ids, &names, e) < 0)
        return -1;
    if (names.size_bytes)
        onto = names.data;
    if (restore_run(&r->config, &(struct restore_order){.point = r->point, .onto = onto, .find_only = true}, &never, &found, e) < 0)
        return -1;
    snprintf(r->point, sizeof r->point, "%s", found.point); /* the newest has its name now */
    for (int i = 0; i < found.disk_count; i++)
        used += (size_t)snprintf(r->onto + used, sizeof r->onto - used, "%s%s", i ? "," : "", found.names[i]);
    return 0;
}

static _Noreturn void restore_in_child(const struct rescue *r, int pipe_fd)
{
    static const atomic_bool never;
    static struct said said;

    said.result = restore_run(&r->config, &(struct restore_order){.point = r->point, .onto = r->onto}, &never, &said.out, &said.e);
    (void)fd_write_all(pipe_fd, &said, sizeof said, NULL);
    _exit(0);
}

static int restore_apart(const struct rescue *r, struct restore_outcome *out, struct err *e)
{
    struct said said = {0};
    int ends[2], status, got;
    pid_t child;

    if (pipe2(ends, O_CLOEXEC) < 0 || (child = fork()) < 0)
        return err_errno(e, errno, "can't start a process");
    if (child == 0)
        restore_in_child(r, ends[1]);
    close(ends[1]);
    got = fd_read_all(ends[0], &said, sizeof said, NULL);
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (got != 1)
        return err_set(e, ERR_INTERNAL, "the restoring process ended by itself (status %d)", status);
    *out = said.out;
    *e = said.e;
    return said.result;
}

static int try_once(struct rescue *r, struct restore_outcome *out, struct err *e)
{
    if (rescue_net_up(&r->net, CARD_MS, e) < 0 || find_disks(r, e) < 0)
        return -1;
    if (restore_report(&r->config, r->point, "restoring", r->onto, e) < 0)
        return -1;
    log_info("recovery point %s goes onto %s", r->point, r->onto);
    return restore_apart(r, out, e);
}

/* ---- the whole ---- */

static void wait_longer(int64_t *wait_us)
{
    clock_sleep_us(*wait_us);
    *wait_us = *wait_us * 2 > AGAIN_MOST_US ? AGAIN_MOST_US : *wait_us * 2;
}

static void restore_until_done(struct rescue *r, struct restore_outcome *out)
{
    int64_t wait_us = AGAIN_FIRST_US;

    for (;;) {
        struct err why = {0}, unheard = {0};

        if (try_once(r, out, &why) == 0)
            return;
        log_err(&why, "this machine stays in its rescue and tries again");
        if (restore_report(&r->config, r->point, "failed", why.message, &unheard) < 0)
            log_err(&unheard, "nobody heard that");
        wait_longer(&wait_us);
    }
}

/* The launched machine has the same address: this one boots when somebody who knows that it is stopped says so, and not before. */
static void wait_for_word(const struct rescue *r, const struct restore_outcome *out)
{
    CLEANUP(free_ptr) char *words = xasprintf("%lld bytes were written; all %lld bytes were read again and found the same", (long long)out->written_bytes,
                                              (long long)out->total_bytes);
    int heard;

    log_info("recovery point %s: %s; waiting for the word to boot", r->point, words);
    do {
        struct err e = {0};

        heard = restore_report(&r->config, r->point, "done", words, &e);
        if (heard < 0)
            log_err(&e, "the disks are restored; waiting for the replicator");
        if (heard != 1)
            clock_sleep_us(AGAIN_FIRST_US);
    } while (heard != 1);
}

static _Noreturn void stay(const struct err *why)
{
    for (;;) {
        log_err(why, "this machine can't be rescued; nothing was written to its disks; reset it");
        clock_sleep_us(60 * US_PER_S);
    }
}

_Noreturn void rescue_live(void)
{
    static struct restore_outcome out;
    static struct rescue r;
    struct err e = {0};

    make_machine();
    log_info("nothing runs on this machine but this program, until its disks are restored");
    if (read_plan(&r, &e) < 0)
        stay(&e);
    set_clock(r.plan);
    load_modules(r.plan);
    restore_until_done(&r, &out);
    wait_for_word(&r, &out);
    log_info("booting from the disks");
    sync();
    reboot(RB_AUTOBOOT);
    err_errno(&e, errno, "can't reboot");
    for (;;) {
        log_err(&e, "the disks are restored: reset this machine");
        clock_sleep_us(60 * US_PER_S);
    }
}
