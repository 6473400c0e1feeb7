/* network: the network of one local instance: a namespace of its own with a bridge and a TAP for each interface, so that it is isolated
 * by construction; and the door, a pair of virtual Ethernet ends from that bridge to the bridge of a real network.
 *
 * Behind the closed door the instance's bridge stands for the gateway: it has the gateway's address, and (where dnsmasq is there) it
 * gives each interface its address by DHCP. When the door opens it gives the address up and tells the copy who the gateway is now. */
#pragma once

#include "target/spec.h"

#define NETWORK_BRIDGE "br0"
#define NETWORK_DOOR "door"

/* A real network: where open doors lead. */
struct network_real {
    const char *name;      /* as the settings call it */
    const char *netns;     /* the namespace's name; "": this host's own */
    const char *bridge;
    const char *helper;    /* "192.0.2.250/24": a free address for target_connect to an open instance; "": from the real network's own */
};

/* The names that an instance's network has, made from the label, or where it is "" from the folder, so that two factories on one host
 * don't meet: namespaces are called slipway-i-LABEL-INSTANCE. */
struct network {
    char netns[96];
    char netns_path[128];
    char door[16];         /* the door's outer end, in the real network's namespace */
    char bridge_mac[18], door_mac[18]; /* of the instance's bridge, and of the door's outer end */
    char folder[512];      /* of the instance: DHCP's files */
};

int network_of(const char *instances_folder, const char *label, const char *instance, struct network *out, struct err *e);
bool network_exists(const struct network *n);
/* Makes it anew, door closed; what was there under the name is removed first, so no QEMU may run in it. */
int network_make(const struct network *n, const struct target_spec *spec, struct err *e);
int network_remove(const struct network *n, struct err *e); /* kills what still runs in it; absent is success */
/* 1: open, 0: closed, -1: nobody can tell. */
int network_door(const struct network *n, struct err *e);
/* ERR_CONFLICT where one of the copy's addresses still answers on the real network. */
int network_open_door(const struct network *n, const struct target_spec *spec, const struct network_real *real, struct err *e);
int network_close_door(const struct network *n, const struct target_spec *spec, struct err *e);
/* Tells each interface of the copy who has its gateway's address now; asks the network where the door is open. Takes up to 2 s. */
int network_tell_gateway(const struct network *n, const struct target_spec *spec, struct err *e);
/* Whether the real network is there: 0, or -1 with what is missing. */
int network_real_check(const struct network_real *real, struct err *e);
/* The path of a namespace for net_connect, NULL for our own; the caller frees. */
char *network_real_path(const struct network_real *real);
/* "52:54:00:…" of the interface: the source's, or one made from the instance's name. */
void network_mac(const struct target_spec *spec, int nic, char mac[static 18]);
