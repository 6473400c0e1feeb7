/* accel: under which accelerator machines run here. KVM is chosen only where a kernel was seen to boot under it: a /dev/kvm that opens
 * proves nothing (nested virtualisation may emulate so slowly, or so wrongly, that no kernel comes up). */
#pragma once

#include "base/mem.h"

struct accel {
    bool kvm;
    char reason[512]; /* how it was decided, for people */
};

/* wanted: "auto", "kvm" or "tcg". auto probes where /dev/kvm exists, at most about 15 s, and keeps the answer in
 * FOLDER/accelerator.json as long as QEMU's version and the kernel stay the same; what can't be proven is TCG. "kvm" is the
 * operator's word: taken where the device opens. */
int accel_decide(const char *folder, const char *wanted, struct accel *out, struct err *e);
/* Boots the newest kernel of /boot without a root file system and waits for it to say so. 0: it came up; -1 with why not. */
int accel_boots_kernel(bool kvm, int timeout_ms, struct err *e);
/* The value of QEMU's -accel and -cpu. */
const char *accel_option(const struct accel *a);
const char *accel_cpu(const struct accel *a);
/* QEMU's version, "7.2.22". ERR_NOT_FOUND: it isn't installed. */
int accel_qemu_version(char *version, size_t size, struct err *e);
