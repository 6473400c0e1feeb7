/* mend: what makes a copied machine boot on other hardware. A check of the source's facts first, that costs nothing: a copy of which
 * nothing is asked starts at once. Only where a reason is found, the copy is opened with libguestfs, looked at, and mended on a
 * copy-on-write layer over its export; never on the source, never in the vault. */
#pragma once

#include "base/json.h"

/* Appends a text for each reason to look into the copy: its disks get other names, need other drivers, its interfaces other names, its
 * firmware must find a loader by itself. facts: as `prerequisites` made them. Returns how many; what the facts don't say is a reason. */
int mend_reasons(const json_t *facts, const char *disk_bus, json_t *reasons);

struct mend_disk {
    const char *id;           /* as in the recovery point */
    const char *source_name;  /* "sda": its name at the source */
    const char *nbd_uri;
    const char *overlay_path; /* is made anew (qcow2 over the export) */
    int64_t size_bytes;
};

struct mend_request {
    const struct mend_disk *disks; /* in the machine's order */
    int disk_count;
    const char *disk_bus;          /* "virtio" or "scsi" */
    const json_t *facts;
    bool kvm;                      /* the appliance may use it */
    int timeout_ms;
    bool (*cancelled)(void *user); /* asked several times a second; NULL: never */
    void *user;
};

/* Opens the copy, appends to lines what was looked at (target_line) and to mends each change: {what, path, before, after}. Overlays stay
 * only where something was mended (their paths are then a launch's overlay_path); otherwise they are removed again.
 * ERR_UNSUPPORTED: the copy can't be made to boot, with why. Takes 15-60 s under emulation, more where an initramfs is built. */
int mend_run(const struct mend_request *r, json_t *lines, json_t *mends, struct err *e);
/* Appends {disk, offset_bytes, size_bytes} for each range that the overlay holds: what differs from the recovery point. */
int mend_ranges(const struct mend_disk *disk, json_t *ranges, struct err *e);
/* Whether the kernel module is in one of the two lists: modules.builtin or an initramfs listing. For tests, too. */
bool mend_has_module(const char *listing, const char *module);

/* What a device's name at the source becomes. */
struct mend_name {
    char device[40];          /* "/dev/sda1" */
    char identity[80];        /* "UUID=…" */
};
/* Appends text to out with the devices' names replaced by their identities: in the first field of each line (fstab), in the second
 * (crypttab), or (field 0) wherever one follows "root=" or "resume=". Comments stay. Returns how many were replaced; unknown gets the
 * first name of a disk of the source (one of disk_names, NULL at the end) that has no identity, or stays untouched. */
int mend_rename(const char *text, int field, const struct mend_name *names, int name_count, const char *const *disk_names,
                struct buf *out, char unknown[static 40]);
