/* How the accelerator is chosen; and that the proof proves: under emulation, where a kernel does come up, it says so. */
#include "base/clock.h"
#include "base/file.h"
#include "target/accel.h"
#include "tap.h"

#include <unistd.h>

int main(void)
{
    char folder[] = "/tmp/slipway-accel-XXXXXX", path[64];
    struct accel a = {.reason = "untouched"}, again;
    struct err e = {0};
    bool device;
    int64_t began_us;

    MUST(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/accelerator.json", folder);
    device = access("/dev/kvm", R_OK | W_OK) == 0;
    is_int(accel_decide(folder, "tcg", &a, &e), 0, "emulation can always be had");
    ok(!a.kvm && strncmp(accel_option(&a), "tcg", 3) == 0 && strncmp(accel_cpu(&a), "max", 3) == 0, "and is");
    is_int(accel_decide(folder, "auto", &a, &e), 0, "auto decides: %s", a.reason);
    ok(a.kvm ? strstr(a.reason, "booted") != NULL : strncmp(a.reason, "software emulation: ", 20) == 0, "with its reason");
    if (device) {
        ok(file_exists(path), "the answer is kept");
        began_us = clock_monotonic_us();
        ok(accel_decide(folder, "auto", &again, &e) == 0 && again.kvm == a.kvm, "and is the same again");
        ok(clock_monotonic_us() - began_us < 5 * US_PER_S, "quickly");
        is_int(accel_decide(folder, "kvm", &a, &e), 0, "the operator's word counts");
    } else {
        ok(!file_exists(path), "where there is no device, nothing needs to be kept");
        ok(accel_decide(folder, "kvm", &a, &e) < 0 && e.kind == ERR_UNSUPPORTED && strstr(e.message, "auto"),
           "kvm without a device is refused, with what to do");
    }
    e = (struct err){0};
    ok(accel_boots_kernel(false, 120000, &e) == 0, "the proof succeeds where a kernel boots (%s)", e.message);
    ok(accel_boots_kernel(false, 30, &e) < 0 && e.kind == ERR_TIMEOUT, "and fails where none does in time");
    unlink(path);
    rmdir(folder);
    return tap_done();
}
