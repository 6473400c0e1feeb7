/* launch FOLDER NBD_URI SIZE_BYTES: starts a machine from a disk image with the code that the target of the factory uses (local-qemu), and says when it
 * runs: {"running_us","disk_us"}, from the beginning of the launch. running: QEMU says so, its processor is at its first instruction; disk: code from the
 * disk has run, and said so on the serial port. Then removes the machine. */
#include "base/clock.h"
#include "target/target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INSTANCE "bench"
#define PATIENCE_US (60 * US_PER_S)
#define LOOK_US (2 * US_PER_MS)

static int wait_running(const struct target_api *api, struct target *t, int64_t begin_us, struct err *e)
{
    enum target_state state = TARGET_ABSENT;

    while (state != TARGET_RUNNING) {
        if (api->state(t, INSTANCE, &state, e) < 0)
            return -1;
        if (clock_monotonic_us() - begin_us > PATIENCE_US)
            return err_set(e, ERR_TIMEOUT, "the machine does not run");
    }
    return 0;
}

static int wait_for_disk(const struct target_api *api, struct target *t, int64_t begin_us, struct err *e)
{
    for (;;) {
        CLEANUP(buf_release) struct buf said = {0};

        if (api->serial(t, INSTANCE, &said, e) < 0)
            return -1;
        if (said.size_bytes)
            return 0;
        if (clock_monotonic_us() - begin_us > PATIENCE_US)
            return err_set(e, ERR_TIMEOUT, "the machine said nothing");
        clock_sleep_us(LOOK_US);
    }
}

static int launch(const struct target_api *api, struct target *t, const struct target_spec *spec, struct err *e)
{
    int64_t begin_us = clock_monotonic_us(), running_us;

    if (api->launch(t, spec, e) < 0 || wait_running(api, t, begin_us, e) < 0)
        return -1;
    running_us = clock_monotonic_us() - begin_us;
    if (wait_for_disk(api, t, begin_us, e) < 0)
        return -1;
    printf("{\"running_us\":%lld,\"disk_us\":%lld}\n", (long long)running_us, (long long)(clock_monotonic_us() - begin_us));
    return 0;
}

int main(int argc, char **argv)
{
    const struct target_api *api = target_find("local-qemu");
    struct target_spec spec = {.instance = INSTANCE, .server = "web01", .cpu_count = 1, .memory_bytes = INT64_C(256) << 20, .disk_bus = "virtio",
                               .disk_count = 1, .net = TARGET_NET_ISOLATED};
    CLEANUP(json_free) json_t *settings = NULL;
    struct target *t = NULL;
    struct err e = {0}, ignored = {0};
    int result;

    if (argc != 4) {
        fprintf(stderr, "usage: launch FOLDER NBD_URI SIZE_BYTES\n");
        return 2;
    }
    settings = json_pack("{s:s,s:s,s:s}", "folder", argv[1], "accelerator", "tcg", "label", "bench");
    spec.disks[0] = (struct target_disk){.id = "disk", .nbd_uri = argv[2], .size_bytes = atoll(argv[3]), .boot_order = 1};
    result = api->open(settings, &t, &e);
    if (result == 0) {
        result = launch(api, t, &spec, &e);
        if (api->remove(t, INSTANCE, &ignored) < 0)
            fprintf(stderr, "launch: removing the machine: %s\n", ignored.message);
        api->close(t);
    }
    if (result < 0)
        fprintf(stderr, "launch: %s\n", e.message);
    return result < 0;
}
