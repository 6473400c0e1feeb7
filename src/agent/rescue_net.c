/* The way to the replicator out of a rescue: looked at in the running system, taken up again in the rescue. IPv4 by ioctl(2), for no other program is there. */
#include "agent/rescue_parts.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAC_BYTES 6
#define POLL_US (200 * US_PER_MS)

static void mac_text(const uint8_t bytes[MAC_BYTES], char out[static 18])
{
    snprintf(out, 18, "%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]);
}

static bool mac_bytes(const char *text, uint8_t out[MAC_BYTES])
{
    unsigned b[MAC_BYTES];
    char more;

    if (strlen(text) != 17 || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &more) != MAC_BYTES)
        return false;
    for (int i = 0; i < MAC_BYTES; i++)
        out[i] = (uint8_t)b[i];
    return true;
}

static in_addr_t mask_of(int prefix) { return prefix ? htonl(~UINT32_C(0) << (32 - prefix)) : 0; }

/* ---- looking ---- */

/* The address from which a packet to `to` would go out; nothing is sent. */
static int own_address(const char *to, struct in_addr *out, struct err *e)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(9)}, here;
    CLEANUP(close_fd) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof here;

    if (strchr(to, ':'))
        return err_set(e, ERR_UNSUPPORTED, "the replicator is reached over IPv6 (%s), which a rescue can't", to);
    if (inet_pton(AF_INET, to, &there.sin_addr) != 1)
        return err_set(e, ERR_INVALID, "%s is no IPv4 address", to);
    if (fd < 0 || connect(fd, (struct sockaddr *)&there, sizeof there) < 0 || getsockname(fd, (struct sockaddr *)&here, &size) < 0)
        return err_errno(e, errno, "the way to %s", to);
    *out = here.sin_addr;
    return 0;
}

static int find_card(struct in_addr address, struct rescue_net *out, struct err *e)
{
    struct ifaddrs *all;
    bool found = false;

    if (getifaddrs(&all) < 0)
        return err_errno(e, errno, "this machine's addresses");
    for (struct ifaddrs *a = all; a && !found; a = a->ifa_next) {
        if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET || ((struct sockaddr_in *)(void *)a->ifa_addr)->sin_addr.s_addr != address.s_addr)
            continue;
        found = true;
        snprintf(out->name, sizeof out->name, "%s", a->ifa_name);
        out->name[strcspn(out->name, ":")] = '\0'; /* an address with a label of its own */
        out->prefix = __builtin_popcount(((struct sockaddr_in *)(void *)a->ifa_netmask)->sin_addr.s_addr);
    }
    freeifaddrs(all);
    inet_ntop(AF_INET, &address, out->address, sizeof out->address);
    return found ? 0 : err_set(e, ERR_NOT_FOUND, "no network card has the address %s", out->address);
}

/* Of the routes that lead to it (proc_net(5): route) the narrowest one's gateway. */
static int find_gateway(in_addr_t to, struct rescue_net *out, struct err *e)
{
    CLEANUP(buf_release) struct buf table = {0};
    int narrowest = -1;

    if (file_read("/proc/net/route", 1 << 20, &table, e) < 0)
        return -1;
    for (const char *line = table.data; line && *line; line += strcspn(line, "\n"), line += *line != '\0') {
        unsigned destination, gateway, flags, mask;
        char name[32];

        if (sscanf(line, "%31s %x %x %x %*d %*d %*d %x", name, &destination, &gateway, &flags, &mask) != 5 || strcmp(name, out->name) != 0 ||
            (to & mask) != destination || !(flags & RTF_UP) || __builtin_popcount(mask) <= narrowest)
            continue;
        narrowest = __builtin_popcount(mask);
        out->gateway[0] = '\0';
        if (flags & RTF_GATEWAY)
            inet_ntop(AF_INET, &(struct in_addr){gateway}, out->gateway, sizeof out->gateway);
    }
    return narrowest >= 0 ? 0 : err_set(e, ERR_NOT_FOUND, "no route leads to the replicator over %s", out->name);
}

static int card_facts(struct rescue_net *out, struct err *e)
{
    struct {
        struct ethtool_perm_addr head;
        uint8_t bytes[32];
    } permanent = {.head = {.cmd = ETHTOOL_GPERMADDR, .size = 32}};
    static const uint8_t none[MAC_BYTES];
    CLEANUP(close_fd) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CLEANUP(free_ptr) char *device = xasprintf("/sys/class/net/%s/device", out->name), *master = xasprintf("/sys/class/net/%s/master", out->name);
    struct ifreq q = {0};

    if (!file_exists(device) || file_exists(master))
        return err_set(e, ERR_UNSUPPORTED, "%s is no network card by itself (a bond, a bridge, a VLAN, or a part of one): a rescue can't bring it up", out->name);
    snprintf(q.ifr_name, sizeof q.ifr_name, "%.*s", (int)sizeof q.ifr_name - 1, out->name);
    if (fd < 0 || ioctl(fd, SIOCGIFMTU, &q) < 0)
        return err_errno(e, errno, "%s", out->name);
    out->mtu = q.ifr_mtu;
    if (ioctl(fd, SIOCGIFHWADDR, &q) < 0 || q.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return err_set(e, ERR_UNSUPPORTED, "%s is no Ethernet card", out->name);
    mac_text((const uint8_t *)q.ifr_hwaddr.sa_data, out->mac);
    memcpy(out->hardware, out->mac, sizeof out->mac);
    q.ifr_data = (void *)&permanent;
    if (ioctl(fd, SIOCETHTOOL, &q) == 0 && permanent.head.size == MAC_BYTES && memcmp(permanent.head.data, none, MAC_BYTES) != 0)
        mac_text(permanent.head.data, out->hardware);
    return 0;
}

int rescue_net_look(const char *to, struct rescue_net *out, struct err *e)
{
    struct rescue_net n = {0};
    struct in_addr address = {0};

    if (own_address(to, &address, e) < 0 || find_card(address, &n, e) < 0 || card_facts(&n, e) < 0 || find_gateway(inet_addr(to), &n, e) < 0)
        return -1;
    if (!*n.gateway && (inet_addr(to) & mask_of(n.prefix)) != (address.s_addr & mask_of(n.prefix)))
        return err_set(e, ERR_UNSUPPORTED, "the replicator is reached over %s without a gateway, outside of its network %s/%d", n.name, n.address, n.prefix);
    *out = n;
    return 0;
}

/* ---- as text ---- */

static bool is_address(const char *text)
{
    struct in_addr ignored;

    return inet_pton(AF_INET, text, &ignored) == 1;
}

static int check(const struct rescue_net *n, struct err *e)
{
    uint8_t ignored[MAC_BYTES];

    if (!mac_bytes(n->hardware, ignored) || !mac_bytes(n->mac, ignored) || !is_address(n->address) || n->prefix < 1 || n->prefix > 32 ||
        (*n->gateway && !is_address(n->gateway)) || n->mtu < 576 || n->mtu > 65535)
        return err_set(e, ERR_INVALID, "no network: card %s, address %s/%d, gateway %s, MTU %d", n->hardware, n->address, n->prefix, n->gateway, n->mtu);
    return 0;
}

int rescue_net_parse(const char *text, struct rescue_net *out, struct err *e)
{
    struct rescue_net n = {.mtu = 1500};
    char more;
    int count = sscanf(text, "%17[^,],%15[^/]/%d,%15[0-9.]%c", n.hardware, n.address, &n.prefix, n.gateway, &more);

    memcpy(n.mac, n.hardware, sizeof n.mac);
    if ((count != 3 && count != 4) || (count == 3 && text[strlen(text) - 1] == ',') || check(&n, NULL) < 0)
        return err_set(e, ERR_INVALID, "\"%.100s\" is not MAC,ADDRESS/PREFIX[,GATEWAY]", text);
    *out = n;
    return 0;
}

json_t *rescue_net_json(const struct rescue_net *n)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:i}", "name", n->name, "hardware", n->hardware, "mac", n->mac, "address", n->address, "prefix", n->prefix,
                     "gateway", n->gateway, "mtu", n->mtu);
}

int rescue_net_read(const json_t *j, struct rescue_net *out, struct err *e)
{
    struct rescue_net n = {.prefix = (int)json_get_int(j, "prefix", 0), .mtu = (int)json_get_int(j, "mtu", 0)};

    snprintf(n.name, sizeof n.name, "%s", json_get_string(j, "name", ""));
    snprintf(n.hardware, sizeof n.hardware, "%s", json_get_string(j, "hardware", ""));
    snprintf(n.mac, sizeof n.mac, "%s", json_get_string(j, "mac", ""));
    snprintf(n.address, sizeof n.address, "%s", json_get_string(j, "address", ""));
    snprintf(n.gateway, sizeof n.gateway, "%s", json_get_string(j, "gateway", ""));
    if (check(&n, e) < 0)
        return -1;
    *out = n;
    return 0;
}

/* ---- taking it up ---- */

/* The card with that address of its own; its name of here. Nothing has changed addresses in a rescue but ourselves: to mac. */
static bool card_named(const struct rescue_net *n, char name[static 32])
{
    DIR *all = opendir("/sys/class/net");
    bool found = false;

    for (struct dirent *entry; all && !found && (entry = readdir(all));) {
        CLEANUP(free_ptr) char *path = xasprintf("/sys/class/net/%s/address", entry->d_name);
        CLEANUP(buf_release) struct buf address = {0};

        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= 32 || file_read(path, 256, &address, NULL) < 0)
            continue;
        found = strncmp(address.data, n->hardware, 17) == 0 || strncmp(address.data, n->mac, 17) == 0;
        if (found)
            memcpy(name, entry->d_name, strlen(entry->d_name) + 1);
    }
    if (all)
        closedir(all);
    return found;
}

static int set(int fd, const char *name, unsigned long what, struct ifreq *q, struct err *e)
{
    snprintf(q->ifr_name, sizeof q->ifr_name, "%.*s", (int)sizeof q->ifr_name - 1, name);
    return ioctl(fd, what, q) < 0 ? err_errno(e, errno, "setting up %s", name) : 0;
}

static int set_address(int fd, const char *name, unsigned long what, in_addr_t address, struct err *e)
{
    struct ifreq q = {0};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};

    memcpy(&q.ifr_addr, &in, sizeof in);
    return set(fd, name, what, &q, e);
}

static int set_up(int fd, const char *name, struct err *e)
{
    struct ifreq q = {.ifr_flags = IFF_UP | IFF_RUNNING};

    return set(fd, name, SIOCSIFFLAGS, &q, e);
}

static int set_link(int fd, const char *name, const struct rescue_net *n, struct err *e)
{
    struct ifreq q = {0};
    char now[18];

    if (set(fd, name, SIOCGIFHWADDR, &q, e) < 0)
        return -1;
    mac_text((const uint8_t *)q.ifr_hwaddr.sa_data, now);
    MUST(mac_bytes(n->mac, (uint8_t *)q.ifr_hwaddr.sa_data));
    if (strcmp(n->mac, now) != 0 && set(fd, name, SIOCSIFHWADDR, &q, e) < 0) /* not every card takes one while it is up */
        return -1;
    q = (struct ifreq){.ifr_mtu = n->mtu};
    return set(fd, name, SIOCSIFMTU, &q, e);
}

static int add_route(int fd, char *name, in_addr_t to, in_addr_t mask, in_addr_t gateway, struct err *e)
{
    struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = name};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = to};

    memcpy(&route.rt_dst, &in, sizeof in);
    in.sin_addr.s_addr = mask;
    memcpy(&route.rt_genmask, &in, sizeof in);
    in.sin_addr.s_addr = gateway;
    memcpy(&route.rt_gateway, &in, sizeof in);
    route.rt_flags |= (unsigned short)((gateway ? RTF_GATEWAY : 0) | (mask == INADDR_BROADCAST ? RTF_HOST : 0));
    return ioctl(fd, SIOCADDRT, &route) < 0 && errno != EEXIST ? err_errno(e, errno, "a route over %s", name) : 0;
}

/* A gateway outside of the card's own network gets a way first (a parked machine may have one: `onlink`). */
static int set_routes(int fd, char *name, const struct rescue_net *n, struct err *e)
{
    in_addr_t gateway = inet_addr(n->gateway), mask = mask_of(n->prefix);

    if (!*n->gateway)
        return 0;
    if ((gateway & mask) != (inet_addr(n->address) & mask) && add_route(fd, name, gateway, INADDR_BROADCAST, 0, e) < 0)
        return -1;
    return add_route(fd, name, 0, 0, gateway, e);
}

int rescue_net_up(const struct rescue_net *n, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    CLEANUP(close_fd) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char name[32];

    if (fd < 0)
        return err_errno(e, errno, "the kernel's network");
    while (!card_named(n, name)) {
        if (clock_monotonic_us() > until_us)
            return err_set(e, ERR_NOT_FOUND, "there is no network card %s here", n->hardware);
        clock_sleep_us(POLL_US);
    }
    if (set_up(fd, "lo", e) < 0 || set_link(fd, name, n, e) < 0 || set_address(fd, name, SIOCSIFADDR, inet_addr(n->address), e) < 0 ||
        set_address(fd, name, SIOCSIFNETMASK, mask_of(n->prefix), e) < 0 || set_up(fd, name, e) < 0 || set_routes(fd, name, n, e) < 0)
        return -1;
    log_info("%s (%s) has %s/%d%s%s", name, n->hardware, n->address, n->prefix, *n->gateway ? ", by " : "", n->gateway);
    return 0;
}
