/* target: one of the three seams: where machines are launched. A target is a struct of functions and one file (target/local_qemu.c
 * first). Adding one touches that file and the table in target/table.c. Every member passes tests/conformance/target.
 *
 * Calls are blocking, bounded by their timeout, idempotent by `instance` (a name that the caller chose: launching the same name with
 * the same spec again finds it), and fail closed: a state that isn't known is an error. */
#pragma once

#include "base/json.h"

struct target; /* an opened target */

enum target_net { TARGET_NET_ISOLATED, TARGET_NET_CLOSED, TARGET_NET_OPEN };
/* ISOLATED: a network of its own, no way out (tests). CLOSED: the real network's addresses, behind a closed door: only
 * target_connect reaches it. OPEN: on the real network. */

enum target_state { TARGET_ABSENT, TARGET_STARTING, TARGET_RUNNING, TARGET_STOPPED, TARGET_FAILED };

#define TARGET_SERIAL_SIZE 64

struct target_disk {
    const char *id;       /* the source disk's id */
    const char *nbd_uri;  /* "nbd+unix:///NAME?socket=/path": read-only export of the recovery point */
    int64_t size_bytes;
    int boot_order;       /* 1: boots from it; 0: does not */
    const char *overlay_path; /* a qcow2 file over nbd_uri with what mends wrote (mend.h): the target takes the file over; NULL: none */
};

struct target_nic {
    const char *mac;      /* of the source's interface, or NULL: the target chooses */
    const char *address;  /* "192.0.2.11/24": what the copy will use; the target makes it reachable through target_connect */
    const char *gateway;
    const char *name;     /* of the source's interface ("enp0s3"): the copy's is called the same where the target can; NULL */
};

struct target_spec {
    const char *instance;        /* [a-z0-9-]{1,40} */
    const char *server;          /* for people */
    int cpu_count;
    int64_t memory_bytes;
    bool uefi;
    const char *disk_bus;        /* "virtio" or "scsi" */
    struct target_disk disks[64];
    int disk_count;
    struct target_nic nics[8];
    int nic_count;
    enum target_net net;
    const char *network;         /* the target's name of the real network, for CLOSED and OPEN */
};

struct target_usage { /* what right-sizing reads; -1 where unknown */
    double cpu_share;            /* 0-1 of all its CPUs since the last call or start */
    int64_t memory_used_bytes, memory_bytes;
    int64_t disk_read_bytes, disk_written_bytes;
};

struct target_api {
    const char *name; /* "local-qemu" */
    int (*open)(const json_t *settings, struct target **out, struct err *e);
    void (*close)(struct target *t);
    /* What machines run on here, for reports: "kvm", "tcg", "cloud". Borrowed; NULL: can't be told. */
    const char *(*accelerator)(struct target *t, struct err *e);
    /* Appends {name, passed, evidence, advice} objects to lines: credentials, accelerator, room, networks. -1 only when it can't look. */
    int (*check)(struct target *t, json_t *lines, struct err *e);
    /* Whether this spec could be launched now; reasons as lines, as above. */
    int (*validate)(struct target *t, const struct target_spec *spec, json_t *lines, struct err *e);
    int (*launch)(struct target *t, const struct target_spec *spec, struct err *e);
    int (*state)(struct target *t, const char *instance, enum target_state *out, struct err *e);
    int (*stop)(struct target *t, const char *instance, bool force, int timeout_ms, struct err *e);    /* its disks stay */
    int (*remove)(struct target *t, const char *instance, struct err *e);                              /* all of it; absent is success */
    int (*set_net)(struct target *t, const char *instance, enum target_net net, struct err *e);        /* opens or closes the door */
    /* A TCP connection to the instance from inside its network, whatever the door: returns a descriptor. */
    int (*connect)(struct target *t, const char *instance, const char *address, int port, int timeout_ms, struct err *e);
    /* Power off and on at once, as with the machine's own button: for one that hangs. Its disks and network stay as they are. */
    int (*reset)(struct target *t, const char *instance, struct err *e);
    int (*picture)(struct target *t, const char *instance, const char *png_path, struct err *e);
    int (*serial)(struct target *t, const char *instance, struct buf *out, struct err *e);             /* what it printed so far */
    int (*usage)(struct target *t, const char *instance, struct target_usage *out, struct err *e);
    /* What the launched machine's disk says as its serial number: how it is told there which of the spec's disks it is. Different for different ids. */
    void (*disk_serial)(const char *id, char out[static TARGET_SERIAL_SIZE]);
    /* Background fill: bytes copied of all; done == total: the instance no longer needs the export. */
    int (*fill)(struct target *t, const char *instance, int64_t *done_bytes, int64_t *total_bytes, struct err *e);
};

/* For providers' check and validate: appends one line. advice (what to do) is kept where the line did not pass; NULL: none. */
void target_line(json_t *lines, const char *name, bool passed, const char *advice, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* Whether there is a line and all of them passed: an empty list did not look at anything. */
bool target_lines_passed(const json_t *lines);

extern const struct target_api *const target_table[]; /* ends with NULL */
const struct target_api *target_find(const char *name);
