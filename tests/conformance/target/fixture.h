/* What tests of targets stand on: a folder, a real network in a namespace of its own, and exports of a raw disk over NBD. All of it goes
 * with fixture_end. Names carry the process id, so that two runs don't meet. */
#pragma once

#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"
#include "target/probe_disk.h"
#include "target/target.h"
#include "tap.h"

#include <signal.h>
#include <unistd.h>

struct fixture {
    char folder[64], netns[40], socket[96], disk[96], uri[160];
    pid_t nbd_pid;
};

/* Runs "PROGRAM WORDS…" through the shell: tests only. */
__attribute__((format(printf, 1, 2), unused)) static int shell(const char *format, ...)
{
    char line[4096];
    va_list args;
    CLEANUP(buf_release) struct buf out = {0};
    struct err e = {0};
    struct proc_options options = {.argv = (const char *const[]){"sh", "-c", line, NULL}};

    va_start(args, format);
    MUST(vsnprintf(line, sizeof line, format, args) < (int)sizeof line);
    va_end(args);
    if (proc_must(&options, &out, &e) == 0)
        return 0;
    tap_note("%s: %s", line, e.message);
    return -1;
}

__attribute__((unused)) static void nbd_stop(struct fixture *f)
{
    if (f->nbd_pid <= 0)
        return;
    kill(f->nbd_pid, SIGKILL);
    for (int i = 0; i < 100 && kill(f->nbd_pid, 0) == 0; i++)
        clock_sleep_us(20 * US_PER_MS);
    f->nbd_pid = 0;
    unlink(f->socket);
}

__attribute__((unused)) static int nbd_start(struct fixture *f)
{
    CLEANUP(buf_release) struct buf text = {0};
    char path[128];

    if (shell("exec qemu-nbd --fork --persistent --read-only --shared=8 -f raw -x point -k %s --pid-file=%s.pid %s", f->socket, f->socket,
              f->disk) < 0)
        return -1;
    snprintf(path, sizeof path, "%s.pid", f->socket);
    if (file_read(path, 64, &text, NULL) < 0)
        return -1;
    f->nbd_pid = atoi(text.data);
    return f->nbd_pid > 1 ? 0 : -1;
}

__attribute__((unused)) static int fixture_begin(struct fixture *f)
{
    struct err e = {0};

    *f = (struct fixture){.folder = "/tmp/slipway-target-XXXXXX"};
    if (!mkdtemp(f->folder))
        return -1;
    snprintf(f->netns, sizeof f->netns, "slipway-t-%d", (int)getpid());
    snprintf(f->socket, sizeof f->socket, "%s/nbd.sock", f->folder);
    snprintf(f->disk, sizeof f->disk, "%s/probe.raw", f->folder);
    snprintf(f->uri, sizeof f->uri, "nbd+unix:///point?socket=%s", f->socket);
    if (probe_disk_write(f->disk, &e) < 0) {
        tap_note("%s", e.message);
        return -1;
    }
    return shell("ip netns add %s && ip -n %s link set lo up && ip -n %s link add br0 address 02:00:00:00:02:01 type bridge && ip -n %s addr add 192.0.2.1/24 dev br0 "
                 "&& ip -n %s link set br0 up", f->netns, f->netns, f->netns, f->netns, f->netns) < 0 ? -1 : nbd_start(f);
}

__attribute__((unused)) static void fixture_end(struct fixture *f)
{
    nbd_stop(f);
    shell("ip netns del %s; rm -rf %s", f->netns, f->folder);
}

/* The settings of local-qemu on the fixture; the caller owns them. */
__attribute__((unused)) static json_t *fixture_settings(const struct fixture *f)
{
    return json_pack("{s:s+, s:s, s:{s:{s:s, s:s}}, s:i}", "folder", f->folder, "/instances", "accelerator", "auto", "networks", "real",
                     "namespace", f->netns, "bridge", "br0", "reconnect_s", 60);
}

/* A machine that boots the fixture's export. */
__attribute__((unused)) static struct target_spec fixture_spec(const struct fixture *f, const char *instance)
{
    return (struct target_spec){
        .instance = instance, .server = "probe", .cpu_count = 1, .memory_bytes = INT64_C(128) << 20, .disk_bus = "virtio",
        .disks = {{.id = "vda", .nbd_uri = f->uri, .size_bytes = PROBE_DISK_BYTES, .boot_order = 1}}, .disk_count = 1,
        .nics = {{.mac = "52:54:00:00:02:11", .address = "192.0.2.11/24", .gateway = "192.0.2.1"}}, .nic_count = 1,
        .net = TARGET_NET_ISOLATED,
    };
}

/* Whether text comes out of the serial port within the time. */
__attribute__((unused)) static bool prints(const struct target_api *api, struct target *t, const char *instance, const char *text, int timeout_ms)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;

    for (;;) {
        CLEANUP(buf_release) struct buf out = {0};
        struct err e = {0};

        if (api->serial(t, instance, &out, &e) < 0) {
            tap_note("%s", e.message);
            return false;
        }
        if (out.data && memmem(out.data, out.size_bytes, text, strlen(text)))
            return true;
        if (clock_monotonic_us() > until_us) {
            tap_note("the serial port said: %s", out.data ? out.data : "(nothing)");
            return false;
        }
        clock_sleep_us(100 * US_PER_MS);
    }
}

/* A call that should succeed: its error is shown. */
#define does(call, ...)                                                                                                                        \
    do {                                                                                                                                       \
        struct err e_ = {0};                                                                                                                   \
        struct err *e = &e_;                                                                                                                   \
        if (!ok((call) == 0, __VA_ARGS__))                                                                                                     \
            tap_note("%s: %s", err_meaning(e_.kind)->name, e_.message);                                                                      \
    } while (0)
/* A call that should be refused with that kind, and say something. */
#define refuses(call, wanted_kind, ...)                                                                                                        \
    do {                                                                                                                                       \
        struct err e_ = {0};                                                                                                                   \
        struct err *e = &e_;                                                                                                                   \
        if (!ok((call) < 0 && e_.kind == (wanted_kind) && e_.message[0], __VA_ARGS__))                                                         \
            tap_note("%s: %s", err_meaning(e_.kind)->name, e_.message);                                                                      \
    } while (0)
