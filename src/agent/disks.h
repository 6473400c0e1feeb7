/* disks: which whole disks this machine has, who they are, and which mounted filesystems live on them. Reads /sys and /proc only. */
#pragma once

#include "agent/config.h"

#include <sys/types.h>

#define MOUNTS_MAX 128

struct disk {
    char name[64];  /* "sda" */
    char id[160];   /* the identity: stays over reboots and renames */
    int64_t size_bytes;
    uint64_t instance; /* track_instance's */
    char own_id[160];  /* the identity before the setting disk_ids */
};

/* The named disks, or with disks_auto every whole disk but loop, RAM, zram, optical, floppy, network block, removable and empty ones,
 * and what lies on others (dm, md). By name. Two disks of one id (clones) get their places in the machine added. What dm-multipath joins is one disk, "dm-0", with the
 * identity of its ways, which are none; ERR_CONFLICT: a named disk is such a way, or two have one WWID and nothing joins them. */
int disks_find(const struct agent_config *c, struct disk *disks, int limit, int *count, struct err *e);
/* The same, where these were found before: one that has still its name, its instance and its size is who it was, whatever stands in its first sectors now, or whether they can be
 * read. Only who has come since gets its place added beside one of the same identity. */
int disks_find_again(const struct agent_config *c, const struct disk *known, int known_count, struct disk *disks, int limit, int *count, struct err *e);
int64_t disks_request_bytes(const char *name); /* the most that the kernel asks the disk for at once */
int disks_size(const char *name, int64_t *size_bytes, struct err *e);

/* Whether they are still those that they were: 0 where they are; 1 where not, in words. By name, size and instance, out of /sys alone: no disk is opened, and with ten
 * disks it takes about a millisecond. -1: it can't be said. */
int disks_look(const struct agent_config *c, const struct disk *was, int was_count, struct buf *words, struct err *e);

/* What has become of the disks, in words ("disk sdb (10.0 GiB) has come"); false where nothing has. By identity; only a name that another disk has now
 * tells of a swap, and only the instance that one was away. */
bool disks_difference(const struct disk *was, int was_count, const struct disk *now, int now_count, struct buf *words);

/* A filesystem to freeze, once each, however often it is mounted. */
struct mount {
    char path[256];
    char source[128];
    char type[32];
    dev_t device;   /* the block device that it lies on */
    bool anonymous; /* what is in it has other device numbers than that (btrfs) */
};
/* Any place of it, to freeze and sync it by: the descriptor, or -1. ERR_WRONG_STATE where its path leads to another filesystem, which is mounted over it. */
int disks_mount_open(const struct mount *m, struct err *e);
/* The writable, mounted filesystems with a block on one of the disks (through partitions, LVM, md, crypt), in the order
 * of freezing: the deeper the path, the sooner; the root last. Of several places of one: where it can be had. ERR_LIMIT over MOUNTS_MAX. */
int disks_mounts(const struct disk *disks, int disk_count, struct mount *mounts, int *count, struct err *e);
