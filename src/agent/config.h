/* config: the agent's settings: config.json in its folder (/etc/slipway-agent), beside key.pem, cert.pem and ca.pem. */
#pragma once

#include "base/limits.h"
#include "base/mem.h"
#include "base/proxy.h"

#define AGENT_FOLDER "/etc/slipway-agent"
#define AGENT_TRACKER_DIR "/sys/fs/bpf/slipway-agent"

struct agent_config {
    char path[512];                     /* of the file */
    char folder[256];                   /* where key, certificate and CA are */
    char runtime_dir[256];
    char server[LIMIT_NAME_BYTES + 1];
    char replicator_address[64];        /* numeric */
    int64_t replicator_port;
    char other_replicator_address[64];  /* the one before, until a point is committed at the one above (move.c) */
    int64_t other_replicator_port;      /* 0: none */
    struct proxy proxy;                 /* on the way there; port 0: none. Then replicator_address may be a name that the proxy knows */
    bool disks_auto;                    /* else the named ones */
    int disk_count;
    char disks[LIMIT_DISKS_PER_SERVER][64]; /* names in /sys/block */
    int disk_id_count;                  /* disks that are reported under another identity: those of a launched machine, under their source's */
    struct {
        char found[160], reported[160];
    } disk_ids[LIMIT_DISKS_PER_SERVER];
    int64_t freeze_budget_ms;           /* how long filesystems may stand still for a point: 200 */
    int64_t hold_limit_ms;              /* how long a held point stays frozen without a THAW: 30 minutes */
    int64_t bytes_per_s;                /* on the wire; 0: no limit. Of these three and LIMIT's the lower hold */
    int64_t read_bytes_per_s;           /* from disks, outside points; 0: no limit */
    int64_t cpu_percent;                /* of one processor, for the workers together, outside points; 0: no limit */
    int64_t memory_mib;                 /* of buffers for chunks in flight: 64, or less where memory_bound_mib leaves less */
    int64_t memory_bound_mib;           /* all that the agent takes: 128 */
    int64_t rescan_interval_s;          /* between scans where changes can't be followed: 300 */
    int64_t unreadable_retry_s;         /* between readings of sectors that could not be read: 300 */
    bool rescan_only;                   /* "tracker": "rescan": don't try eBPF */
    char tracker_dir[256];              /* where the tracker is kept for the agent after this one; "": it is not */
    char before_freeze[256];            /* programs run around a freeze; "": none. One that fails stops the point */
    char after_thaw[256];
};

/* Reads and checks the file; every fault is named. Unknown members are refused (a typing mistake must not pass for a setting). */
int agent_config_read(const char *path, struct agent_config *out, struct err *e);
/* The document as shown in --help. */
extern const char agent_config_help[];
