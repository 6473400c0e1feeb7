/* local: what the files of the local QEMU target share. Not for other rooms; they use target.h.
 *
 * An instance is a folder: spec.json (what was asked for; written first, atomically), disk-N.qcow2 (what it wrote over its export),
 * disk-N.lent (there from before it is filled in until it was seen to hold all), qemu.pid (locked by the running QEMU), qmp.sock,
 * serial.log, vars.fd (UEFI's variables). There is no other state: everything else is read from the folder, from QEMU and from the
 * kernel, so that any process may be killed at any moment.
 *
 * Locks: NAME.lock beside the folder is held (flock) while an instance is launched, stopped, removed or its door moved. */
#pragma once

#include "base/clock.h"
#include "target/accel.h"
#include "target/network.h"
#include "target/qmp.h"
#include "target/spec.h"

#define LOCAL_QMP_TIMEOUT_MS 10000
#define LOCAL_LOCK_TIMEOUT_MS 120000

struct usage_sample {
    char instance[SPEC_NAME_LIMIT + 1];
    int64_t cpu_us, at_us; /* what its process had used, when (monotonic) */
};

struct target { /* one thread at a time */
    struct arena *arena;             /* holds the settings' strings */
    const char *folder;              /* of the instances; absolute */
    const char *label;               /* in the names of namespaces; "": made from the folder */
    const char *accelerator;         /* as set: "auto", "kvm", "tcg" */
    struct network_real *networks;
    int network_count;
    int64_t memory_limit_bytes;      /* of all running instances together; 0: what the host has */
    int64_t fill_bytes_per_s;        /* 0: as fast as it goes */
    int reconnect_s;                 /* how long a disk waits for its export before the machine is paused */
    struct accel accel;
    bool accel_known;
    struct usage_sample samples[64]; /* usage's last calls */
    int sample_next;
};

/* One instance: its paths, and its spec where it has one. */
struct instance {
    struct arena *arena;
    const char *name, *folder;
    struct network network;
    struct target_spec spec; /* valid after instance_load gave 1 */
    json_t *spec_json;
    int lock_fd;
};
void instance_free(struct instance **i); /* for CLEANUP; lets the lock go */
/* Checks the name and makes the paths; reads nothing. */
int instance_open(const struct target *t, const char *name, struct instance **out, struct err *e);
int instance_lock(struct instance *i, struct err *e);
int instance_load(struct instance *i, struct err *e); /* 1: it has a spec, 0: there is none, -1 */
/* The same, where absence is ERR_NOT_FOUND. */
int instance_need(const struct target *t, const char *name, struct instance **out, struct err *e);
char *instance_path(const struct instance *i, const char *format, ...) __attribute__((format(printf, 2, 3))); /* in its arena */
/* The running QEMU's process id, 0: none runs, -1. Safe against reused ids: QEMU holds a lock on its pid file. */
int instance_pid(const struct instance *i, struct err *e);
/* A QMP connection; ERR_WRONG_STATE where it does not run. */
int instance_qmp(const struct instance *i, struct qmp **out, struct err *e);
/* Makes what it lacks (overlays, variables), its network, and starts QEMU. */
int instance_start(struct target *t, struct instance *i, const struct target_spec *spec, struct err *e);
/* Waits until QEMU is gone: 1, or 0 after timeout_ms. */
int instance_wait_gone(const struct instance *i, int timeout_ms, struct err *e);
int instance_kill(const struct instance *i, struct err *e);
/* Whether disk number n of the instance still reads from its export. 1, 0, -1. */
int instance_disk_has_backing(const struct instance *i, int disk, struct err *e);
/* A fill's end is in the overlay's header at once, and what it brought is only in QEMU's memory then: between these two a machine that starts
 * anew gets its export again, whatever the header says. Durable when they return. */
int instance_disk_lent(const struct instance *i, int disk, struct err *e);  /* before its fill begins */
int instance_disk_owned(const struct instance *i, int disk, struct err *e); /* when all of it was seen to be on it */

/* The command line of QEMU, NULL at the end, in the arena. has_backing[n]: the overlay of disk n still lies over its export. */
int args_make(const struct target *t, const struct instance *i, const struct target_spec *spec, const bool *has_backing,
              const char ***argv, struct err *e);
/* A disk's overlay as a node, without what lies below it. Owned by the caller. */
json_t *args_overlay(const struct instance *i, int disk);
/* UEFI's firmware: code (read only) and the template of the variables; -1 ERR_NOT_FOUND says what to install. */
int args_firmware(const char **code, const char **variables, struct err *e);

const struct network_real *local_network_find(const struct target *t, const char *name);
int local_accel(struct target *t, struct err *e); /* decides once */

int local_check(struct target *t, json_t *lines, struct err *e);
int local_validate(struct target *t, const struct target_spec *spec, json_t *lines, struct err *e);
/* ERR_NO_SPACE where this much memory more is not to be had; the instances named in except don't count. */
int local_memory_fits(struct target *t, int64_t wanted_bytes, const char *except, struct err *e);

void local_disk_serial(const char *id, char out[static TARGET_SERIAL_SIZE]);
int local_reset(struct target *t, const char *instance, struct err *e);
int local_picture(struct target *t, const char *instance, const char *png_path, struct err *e);
int local_serial(struct target *t, const char *instance, struct buf *out, struct err *e);
int local_usage(struct target *t, const char *instance, struct target_usage *out, struct err *e);
int local_fill(struct target *t, const char *instance, int64_t *done_bytes, int64_t *total_bytes, struct err *e);

extern const struct target_api target_local_qemu;
