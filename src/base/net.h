/* net: a TCP connection to an address, from this network namespace or from another. */
#pragma once

#include "base/err.h"

#include <stddef.h>

/* address: numeric IPv4 or IPv6, or a name (looked up in our own namespace). netns_path: "/run/netns/NAME" or "/proc/PID/ns/net";
 * NULL: ours. The socket is made inside that namespace by a short-lived thread; ours is left as it is. Returns a descriptor
 * (blocking, close-on-exec, no delay) or -1: ERR_UNREACHABLE, ERR_TIMEOUT, ERR_NOT_FOUND (the name, the namespace). */
int net_connect(const char *address, int port, const char *netns_path, int timeout_ms, struct err *e);
/* Whether there is a machine at the address whose network lives: 1: it answers, if only to refuse the connection; 0: nothing came back, *why says
 * how; -1: that could not be asked. */
int net_answers(const char *address, int port, int timeout_ms, struct err *why);
/* Whether the numeric address is one of our own: what answers there says nothing of the network. */
bool net_is_own(const char *address);
/* The other end's numeric address of a connected socket; "unknown" where there is none to tell. */
void net_peer_text(int fd, char *out, size_t size);
