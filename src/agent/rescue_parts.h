/* rescue_parts: what the files of rescue share. */
#pragma once

#include "agent/rescue.h"
#include "base/json.h"

#define RESCUE_MODULES_MOST 64
#define RESCUE_IMAGE_LIMIT (256u << 20)

/* The way to the replicator: one card, one IPv4 address. */
struct rescue_net {
    char name[32];     /* of now; "" where it is another machine's */
    char hardware[18]; /* "52:54:00:12:34:56": the card's own, by which it is found again */
    char mac[18];      /* that it is to have */
    char address[16];
    int prefix;
    char gateway[16];  /* "": none is needed */
    int mtu;
};
/* The card, address and gateway by which this machine reaches `to` (numeric). ERR_UNSUPPORTED: IPv6, or no card of hardware (a bond, a bridge, a VLAN). */
int rescue_net_look(const char *to, struct rescue_net *out, struct err *e);
int rescue_net_parse(const char *text, struct rescue_net *out, struct err *e); /* struct rescue_order's network */
json_t *rescue_net_json(const struct rescue_net *n);
int rescue_net_read(const json_t *j, struct rescue_net *out, struct err *e);
/* Waits for the card, gives it its addresses and routes. May be done again. */
int rescue_net_up(const struct rescue_net *n, int timeout_ms, struct err *e);

/* Drivers' files, in the order of loading, under /lib/modules/RELEASE. */
struct rescue_modules {
    char release[128];
    int count;
    char paths[RESCUE_MODULES_MOST][192]; /* "kernel/drivers/net/virtio_net.ko" */
};
/* The drivers of this device (a folder in /sys) and of all that it hangs on, with what they need. */
int rescue_modules_of(struct rescue_modules *m, const char *device, struct err *e);
/* One driver by its name, with what it needs; those that the kernel has built in need none. */
int rescue_modules_add(struct rescue_modules *m, const char *name, struct err *e);
int rescue_modules_read(const struct rescue_modules *m, int i, struct buf *out, struct err *e); /* its bytes, unpacked */

/* kernel and image into the kernel's memory (kexec_file_load): 0 where it took them. try_only: and out again. */
int rescue_load(const char *kernel, const char *image, bool try_only, struct err *e);
char *rescue_kernel(const struct rescue_order *order, struct err *e); /* its path, the caller's; NULL */
