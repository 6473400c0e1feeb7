/* target_probe: phase 1's proof of a target: what it says of itself, and a probe machine that boots, prints, shows its screen, is switched off and removed. */
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"
#include "steps/launch.h"
#include "target/probe_disk.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BOOT_MS 120000
#define STOP_MS 60000
#define LOOK_MS 200
#define INSTANCE "slipway-probe"

/* The probe's disk, served over NBD as a recovery point would be. Its folder is short: a socket's path must be. */
struct served {
    char folder[32], uri[96];
    pid_t pid;
};

static void served_end(struct served *d)
{
    static const char *const names[] = {"disk.raw", "nbd.sock", "nbd.pid"};

    if (d->pid > 1)
        kill(d->pid, SIGTERM);
    for (size_t i = 0; d->folder[0] && i < ARRAY_COUNT(names); i++) {
        char path[64];

        snprintf(path, sizeof path, "%s/%s", d->folder, names[i]);
        unlink(path);
    }
    if (d->folder[0])
        rmdir(d->folder);
}

static int serve(struct served *d, struct err *e)
{
    char disk[64], socket_path[64], pid_path[64];
    CLEANUP(buf_release) struct buf text = {0};
    struct proc_options options = {.argv = (const char *const[]){"qemu-nbd", "--fork", "--persistent", "--read-only", "--shared=4", "-f", "raw", "-x", "probe",
                                                                 "-k", socket_path, "--pid-file", pid_path, disk, NULL}};

    strcpy(d->folder, "/tmp/slipway-probe-XXXXXX");
    if (!mkdtemp(d->folder)) {
        d->folder[0] = '\0';
        return err_set(e, ERR_IO, "can't make a folder in /tmp");
    }
    snprintf(disk, sizeof disk, "%s/disk.raw", d->folder);
    snprintf(socket_path, sizeof socket_path, "%s/nbd.sock", d->folder);
    snprintf(pid_path, sizeof pid_path, "%s/nbd.pid", d->folder);
    snprintf(d->uri, sizeof d->uri, "nbd+unix:///probe?socket=%s", socket_path);
    if (probe_disk_write(disk, e) < 0 || proc_must(&options, NULL, e) < 0 || file_read(pid_path, 64, &text, e) < 0)
        return err_wrap(e, "serving the probe's disk");
    d->pid = atoi(text.data);
    return 0;
}

static int wait_printed(struct step *s, struct launch *l, struct err *e)
{
    int64_t began_us = clock_monotonic_us();

    for (;;) {
        CLEANUP(buf_release) struct buf said = {0};

        if (l->api->serial(l->target, INSTANCE, &said, e) < 0)
            return -1;
        if (said.data && memmem(said.data, said.size_bytes, PROBE_TEXT, strlen(PROBE_TEXT))) {
            step_evidence(s, "boots", true, "\"%s\" on its serial port after %lld ms", PROBE_TEXT, (long long)((clock_monotonic_us() - began_us) / US_PER_MS));
            return 0;
        }
        if (clock_monotonic_us() - began_us > BOOT_MS * US_PER_MS)
            return err_set(e, ERR_TIMEOUT, "the probe machine did not boot within %d s", BOOT_MS / 1000);
        if (step_sleep_ms(s, LOOK_MS, e) < 0)
            return -1;
    }
}

static int probe(struct step *s, struct launch *l, const char *uri, struct err *e)
{
    struct target_spec spec = {
        .instance = INSTANCE, .server = "probe", .cpu_count = 1, .memory_bytes = INT64_C(128) << 20, .disk_bus = "virtio", .net = TARGET_NET_ISOLATED,
        .disks = {{.id = "probe", .nbd_uri = uri, .size_bytes = PROBE_DISK_BYTES, .boot_order = 1}}, .disk_count = 1,
        .nics = {{.address = "192.0.2.11/24", .gateway = "192.0.2.1"}}, .nic_count = 1};
    CLEANUP(free_ptr) char *picture = xasprintf("%s/screen.png", step_scratch_dir(s));
    enum target_state state;

    if (l->api->launch(l->target, &spec, e) < 0 || wait_printed(s, l, e) < 0 || l->api->picture(l->target, INSTANCE, picture, e) < 0 ||
        step_artifact(s, "screen.png", "image/png", picture, e) < 0)
        return -1;
    step_evidence(s, "screen", true, "screen.png");
    if (l->api->stop(l->target, INSTANCE, false, STOP_MS, e) < 0 || l->api->state(l->target, INSTANCE, &state, e) < 0)
        return -1;
    if (state != TARGET_STOPPED)
        return err_set(e, ERR_WRONG_STATE, "the probe machine was switched off and does not say so");
    step_evidence(s, "power button", true, "it was switched off");
    return 0;
}

static int run(struct step *s, struct err *e)
{
    CLEANUP(launch_release) struct launch l = {0};
    CLEANUP(served_end) struct served disk = {.pid = 0};
    CLEANUP(json_free) json_t *lines = json_array();
    enum target_state state;
    struct err at_end = {0};
    int failed, result;

    if (launch_open(s, &l, e) < 0 || l.api->check(l.target, lines, e) < 0)
        return -1;
    failed = launch_evidence(s, lines);
    if (failed || !target_lines_passed(lines))
        return err_set(e, ERR_WRONG_STATE, "the target is not ready: %d of %zu lines say why", failed, json_array_size(lines));
    if (l.api->remove(l.target, INSTANCE, e) < 0 || serve(&disk, e) < 0) /* of a probe that was killed */
        return -1;
    result = probe(s, &l, disk.uri, e);
    if (l.api->remove(l.target, INSTANCE, &at_end) < 0 || l.api->state(l.target, INSTANCE, &state, &at_end) < 0)
        return result < 0 ? -1 : err_set(e, at_end.kind, "removing the probe machine: %s", at_end.message);
    if (state != TARGET_ABSENT && result == 0)
        return err_set(e, ERR_WRONG_STATE, "the probe machine was removed and is still there");
    if (result < 0)
        return -1;
    step_evidence(s, "removed", true, "machine, disk and network of the probe are gone");
    step_result(s, "accelerator", json_string(l.api->accelerator(l.target, e)));
    return 0;
}

const struct step_api step_target_probe = {
    .name = "target_probe", .title = "Launch and remove a probe machine", .place = STEP_AT_TARGET, .timeout_ms = 10 * 60 * 1000, .attempts = 1, .run = run};
