#include "target/network.h"
#include "target/arp.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define IP_TIMEOUT_MS 20000
#define WORD_LIMIT 24
#define GATEWAY_ANSWER_MS 300

/* Names in /run/netns and of interfaces are short: folders and instances go into them as 64-bit FNV-1a. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(1099511628211);
    return hash;
}
#define HASH_START UINT64_C(14695981039346656037)
#define HASH_BYTES(hash) \
    (unsigned)((hash) >> 40) & 255, (unsigned)((hash) >> 32) & 255, (unsigned)((hash) >> 24) & 255, (unsigned)((hash) >> 16) & 255, \
        (unsigned)((hash) >> 8) & 255

int network_of(const char *instances_folder, const char *label, const char *instance, struct network *out, struct err *e)
{
    uint64_t folder = hash_text(HASH_START, instances_folder);

    if (label[0])
        snprintf(out->netns, sizeof out->netns, "slipway-i-%.32s-%.48s", label, instance);
    else
        snprintf(out->netns, sizeof out->netns, "slipway-i-%08x-%.48s", (unsigned)(folder >> 32), instance);
    snprintf(out->netns_path, sizeof out->netns_path, "/run/netns/%s", out->netns);
    snprintf(out->door, sizeof out->door, "sw%010llx", (unsigned long long)(hash_text(folder, instance) >> 24));
    snprintf(out->bridge_mac, sizeof out->bridge_mac, "02:%02x:%02x:%02x:%02x:%02x", HASH_BYTES(hash_text(folder, instance)));
    snprintf(out->door_mac, sizeof out->door_mac, "fe:%02x:%02x:%02x:%02x:%02x", HASH_BYTES(hash_text(folder, instance)));
    if (snprintf(out->folder, sizeof out->folder, "%s/%s", instances_folder, instance) >= (int)sizeof out->folder)
        return err_set(e, ERR_LIMIT, "the folder %s has too long a name", instances_folder);
    return 0;
}

bool network_exists(const struct network *n) { return file_exists(n->netns_path); }

void network_mac(const struct target_spec *spec, int nic, char mac[static 18])
{
    uint64_t hash = hash_text(HASH_START, spec->instance) + (uint64_t)nic;

    if (spec->nics[nic].mac)
        snprintf(mac, 18, "%s", spec->nics[nic].mac);
    else
        snprintf(mac, 18, "52:54:00:%02x:%02x:%02x", (unsigned)(hash >> 16) & 255, (unsigned)(hash >> 8) & 255, (unsigned)hash & 255);
}

/* Runs "ip …": the words of the format, split at spaces. */
__attribute__((format(printf, 2, 3))) static int run_ip(struct err *e, const char *format, ...)
{
    const char *words[WORD_LIMIT] = {"ip"};
    struct proc_options options = {.argv = words, .timeout_ms = IP_TIMEOUT_MS};
    char line[1024], *rest = line, *word;
    int count = 1;
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    while ((word = strsep(&rest, " ")) && count < WORD_LIMIT - 1)
        if (*word)
            words[count++] = word;
    MUST(!rest);
    return proc_must(&options, NULL, e);
}

/* A new namespace may copy the host's settings: an instance's never forwards, and speaks no IPv6 of its own. */
static int seal(const struct network *n, struct err *e)
{
    CLEANUP(free_ptr) char *netns = xasprintf("--net=%s", n->netns_path);
    struct proc_options options = {
        .argv = (const char *const[]){"nsenter", netns, "sh", "-euc",
                                      "echo 0 >/proc/sys/net/ipv4/ip_forward\n"
                                      "[ ! -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6", NULL},
        .timeout_ms = IP_TIMEOUT_MS};

    return proc_must(&options, NULL, e);
}

/* The bridge gets each gateway's address, so that the copy's default route leads to us; without a gateway the highest free one. */
static int add_gateways(const struct network *n, const struct target_spec *spec, struct err *e)
{
    for (int i = 0; i < spec->nic_count; i++) {
        struct spec_cidr cidr;
        struct in_addr gateway;

        if (!spec->nics[i].address)
            continue;
        if (spec_cidr_parse(spec->nics[i].address, &cidr, e) < 0)
            return -1;
        if (spec->nics[i].gateway) {
            inet_pton(AF_INET, spec->nics[i].gateway, &gateway); /* spec_check saw that it is one */
        } else {
            uint32_t last = cidr.address | (uint32_t)((UINT64_C(1) << (32 - cidr.prefix)) - 1);

            last -= cidr.prefix < 31;
            gateway.s_addr = htonl(last == cidr.address ? last - 1 : last);
        }
        if (run_ip(e, "-n %s addr replace %s/%d dev " NETWORK_BRIDGE, n->netns, inet_ntoa(gateway), cidr.prefix) < 0 ||
            run_ip(e, "-n %s route replace %s dev " NETWORK_BRIDGE, n->netns,
                   inet_ntoa((struct in_addr){htonl(cidr.address)})) < 0)
            return -1;
    }
    return 0;
}

static void stop_dhcp(const struct network *n)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/dhcp.pid", n->folder);
    CLEANUP(buf_release) struct buf text = {0}, name = {0};
    char comm[64];
    int pid = 0;

    if (file_read(path, 64, &text, NULL) < 0 || sscanf(text.data, "%d", &pid) != 1 || pid <= 1)
        return;
    snprintf(comm, sizeof comm, "/proc/%d/cmdline", pid);
    /* The number may be another's by now: only what was started with our pid file is ours. */
    if (file_read(comm, 65536, &name, NULL) == 0 && memmem(name.data, name.size_bytes, path, strlen(path)))
        kill(pid, SIGKILL);
    unlink(path);
}

/* A copy whose address comes by DHCP gets it from here. Without dnsmasq, or without addresses, it does without. */
static int start_dhcp(const struct network *n, const struct target_spec *spec, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_release) struct buf out = {0}, said = {0};
    const char *argv[32 + 3 * ARRAY_COUNT(spec->nics)] = {
        "nsenter", arena_printf(a, "--net=%s", n->netns_path), "dnsmasq", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
        "--no-ping", "--port=0", "--interface=" NETWORK_BRIDGE, "--bind-interfaces", "--except-interface=lo", "--user=root",
        "--dhcp-authoritative", arena_printf(a, "--pid-file=%s/dhcp.pid", n->folder),
        arena_printf(a, "--dhcp-leasefile=%s/dhcp.leases", n->folder), "--log-facility=/dev/null"};
    struct proc_options options = {.argv = argv, .timeout_ms = IP_TIMEOUT_MS};
    int count = 16, ranges = 0, status = 0;

    for (int i = 0; i < spec->nic_count; i++) {
        const char *address = spec->nics[i].address;
        struct spec_cidr cidr;
        char mac[18];

        if (!address || spec_cidr_parse(address, &cidr, NULL) < 0 || cidr.prefix > 30)
            continue;
        network_mac(spec, i, mac);
        argv[count++] = arena_printf(a, "--dhcp-range=set:n%d,%.*s,static,2m", i, (int)strcspn(address, "/"), address);
        argv[count++] = arena_printf(a, "--dhcp-host=%s,%.*s,2m", mac, (int)strcspn(address, "/"), address);
        if (spec->nics[i].gateway)
            argv[count++] = arena_printf(a, "--dhcp-option=tag:n%d,option:router,%s", i, spec->nics[i].gateway);
        ranges++;
    }
    if (ranges == 0)
        return 0;
    if (proc_run(&options, &out, &said, &status, e) < 0)
        return -1;
    if (status == 127 || (said.data && strstr(said.data, "failed to execute")))
        return 0; /* dnsmasq isn't installed: check() says so */
    return status ? err_set(e, ERR_IO, "dnsmasq failed: %.500s", said.data ? said.data : "it said nothing") : 0;
}

static int fill_network(const struct network *n, const struct target_spec *spec, struct err *e)
{
    if (seal(n, e) < 0 || run_ip(e, "-n %s link set lo up", n->netns) < 0 ||
        run_ip(e, "-n %s link add " NETWORK_BRIDGE " address %s type bridge stp_state 0 mcast_snooping 0", n->netns, n->bridge_mac) < 0 ||
        run_ip(e, "-n %s link set " NETWORK_BRIDGE " up", n->netns) < 0)
        return -1;
    for (int i = 0; i < spec->nic_count; i++)
        if (run_ip(e, "-n %s tuntap add dev tap%d mode tap", n->netns, i) < 0 ||
            run_ip(e, "-n %s link set tap%d master " NETWORK_BRIDGE " up", n->netns, i) < 0)
            return -1;
    if (add_gateways(n, spec, e) < 0)
        return -1;
    return start_dhcp(n, spec, e);
}

int network_make(const struct network *n, const struct target_spec *spec, struct err *e)
{
    if (network_remove(n, e) < 0 || run_ip(e, "netns add %s", n->netns) < 0)
        return err_wrap(e, "making the network of %s", spec->instance);
    if (fill_network(n, spec, e) < 0) {
        network_remove(n, NULL);
        return err_wrap(e, "making the network of %s", spec->instance);
    }
    return 0;
}

/* Kills what runs in the namespace, and waits until nothing does. */
static int empty(const struct network *n, struct err *e)
{
    struct proc_options options = {.argv = (const char *const[]){"ip", "netns", "pids", n->netns, NULL}, .timeout_ms = IP_TIMEOUT_MS};

    for (int round = 0; round < 50; round++) {
        CLEANUP(buf_release) struct buf out = {0}, said = {0};
        int used = 0, pid = 0, status = 0;

        if (proc_run(&options, &out, &said, &status, e) < 0)
            return -1;
        if (status || !out.data || !out.size_bytes)
            return 0; /* nothing there, or a name whose namespace was never mounted */
        for (const char *at = out.data; sscanf(at, "%d%n", &pid, &used) == 1; at += used)
            if (pid > 1)
                kill(pid, SIGKILL);
        clock_sleep_us(100 * US_PER_MS);
    }
    return err_set(e, ERR_TIMEOUT, "processes in the namespace %s do not end", n->netns);
}

int network_remove(const struct network *n, struct err *e)
{
    stop_dhcp(n);
    if (!network_exists(n))
        return 0;
    if (empty(n, e) < 0)
        return -1;
    run_ip(NULL, "-n %s link del " NETWORK_DOOR, n->netns); /* at once, not when the kernel gets to it */
    if (run_ip(e, "netns del %s", n->netns) < 0 && network_exists(n))
        return err_wrap(e, "removing the network");
    return 0;
}

/* Whether there is such an interface, and it is as wanted (words of ip's: "master br0 up"). 1, 0; -1: nobody can tell, which must not count as either. */
static int link_is(const char *netns, const char *name, const char *wanted, struct err *e)
{
    CLEANUP(free_ptr) char *words = xstrdup(wanted);
    CLEANUP(buf_release) struct buf out = {0}, said = {0};
    const char *argv[WORD_LIMIT] = {"ip", "-n", netns};
    struct proc_options options = {.argv = argv, .timeout_ms = IP_TIMEOUT_MS};
    const char *const asked[] = {"link", "show", "dev", name};
    int count = netns[0] ? 3 : 1, status = 0;
    char *rest = words, *word;

    for (size_t i = 0; i < ARRAY_COUNT(asked); i++)
        argv[count++] = asked[i];
    while ((word = strsep(&rest, " ")) && count < WORD_LIMIT - 1)
        if (*word)
            argv[count++] = word;
    argv[count] = NULL;
    if (proc_run(&options, &out, &said, &status, e) < 0)
        return err_wrap(e, "looking at the interface %s", name);
    if (status == 0)
        return out.size_bytes > 0; /* one that is otherwise is not printed */
    if (said.data && strstr(said.data, "does not exist"))
        return 0;
    return err_set(e, ERR_IO, "can't look at the interface %s: ip ended with %d: %.300s", name, status, said.data ? said.data : "it said nothing");
}

/* Half a door, of a caller that was killed, lets nothing through: its inner end comes up last. */
int network_door(const struct network *n, struct err *e)
{
    if (!network_exists(n))
        return err_set(e, ERR_WRONG_STATE, "the instance has no network: it does not run");
    return link_is(n->netns, NETWORK_DOOR, "master " NETWORK_BRIDGE " up", e);
}

char *network_real_path(const struct network_real *real)
{
    return real->netns[0] ? xasprintf("/run/netns/%s", real->netns) : NULL;
}

int network_real_check(const struct network_real *real, struct err *e)
{
    CLEANUP(free_ptr) char *path = network_real_path(real);
    int there;

    if (path && !file_exists(path))
        return err_set(e, ERR_NOT_FOUND, "the network %s needs the namespace %s, and there is none", real->name, real->netns);
    there = link_is(real->netns, real->bridge, "type bridge", e);
    if (there < 0)
        return err_wrap(e, "the network %s", real->name);
    if (!there)
        return err_set(e, ERR_NOT_FOUND, "the network %s needs the bridge %s%s%s, and there is none", real->name, real->bridge,
                       path ? " in the namespace " : "", real->netns);
    return 0;
}

static int join(const struct network *n, const struct network_real *real, struct err *e)
{
    const char *option = real->netns[0] ? "-n " : "", *netns = real->netns;

    /* Both ends come up only when both hang on their bridges. A bridge may take the lowest address of its ports as its own, and must
     * not take ours: the outer end's is as high as they come. */
    if (run_ip(e, "-n %s link add " NETWORK_DOOR " type veth peer name %s address %s", n->netns, n->door, n->door_mac) < 0)
        return -1;
    if (netns[0] ? run_ip(e, "-n %s link set %s netns %s", n->netns, n->door, netns) < 0
                 : run_ip(e, "-n %s link set %s netns %d", n->netns, n->door, getpid()) < 0)
        return -1;
    if (run_ip(e, "%s%s link set %s master %s up", option, netns, n->door, real->bridge) < 0)
        return -1;
    return run_ip(e, "-n %s link set " NETWORK_DOOR " master " NETWORK_BRIDGE " up", n->netns);
}

/* Whether one of the copy's addresses is somebody's on the real network: two of them must never meet. */
static int addresses_are_free(const struct target_spec *spec, const struct network_real *real, struct err *e)
{
    CLEANUP(free_ptr) char *path = network_real_path(real);
    uint8_t mac[6];
    CLEANUP(close_fd) int fd = arp_open(path ? path : "/proc/thread-self/ns/net", real->bridge, mac, e);
    uint32_t addresses[ARRAY_COUNT(spec->nics)];
    const char *names[ARRAY_COUNT(spec->nics)];
    int count = 0, which = 0, taken;

    if (fd < 0)
        return -1;
    for (int i = 0; i < spec->nic_count; i++) {
        struct spec_cidr cidr;

        if (!spec->nics[i].address)
            continue;
        if (spec_cidr_parse(spec->nics[i].address, &cidr, e) < 0)
            return -1;
        addresses[count] = cidr.address;
        names[count++] = spec->nics[i].address;
    }
    taken = arp_taken(fd, addresses, count, &which, mac, e);
    if (taken <= 0)
        return taken;
    return err_set(e, ERR_CONFLICT, "%s still answers on the network %s, at %02x:%02x:%02x:%02x:%02x:%02x: is the source parked?", names[which], real->name,
                   mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

int network_open_door(const struct network *n, const struct target_spec *spec, const struct network_real *real, struct err *e)
{
    if (network_real_check(real, e) < 0 || addresses_are_free(spec, real, e) < 0)
        return -1;
    run_ip(NULL, "-n %s link del " NETWORK_DOOR, n->netns); /* half a door, of a caller that was killed */
    stop_dhcp(n);
    /* First gives up the gateway's address: two who have it must never meet. */
    if (run_ip(e, "-n %s addr flush dev " NETWORK_BRIDGE, n->netns) < 0)
        return err_wrap(e, "opening the door of %s", spec->instance);
    /* Joining comes last: a door that is seen to be open has all that belongs to it. */
    if ((real->helper[0] && run_ip(e, "-n %s addr replace %s dev " NETWORK_BRIDGE, n->netns, real->helper) < 0) || join(n, real, e) < 0) {
        err_wrap(e, "opening the door of %s", spec->instance);
        network_close_door(n, spec, NULL);
        return -1;
    }
    return 0;
}

int network_close_door(const struct network *n, const struct target_spec *spec, struct err *e)
{
    int there = link_is(n->netns, NETWORK_DOOR, "", e);

    if (there < 0 || (there && run_ip(e, "-n %s link del " NETWORK_DOOR, n->netns) < 0))
        return err_wrap(e, "closing the door of %s", spec->instance);
    stop_dhcp(n);
    if (run_ip(e, "-n %s addr flush dev " NETWORK_BRIDGE, n->netns) < 0 || add_gateways(n, spec, e) < 0 || start_dhcp(n, spec, e) < 0)
        return err_wrap(e, "closing the door of %s", spec->instance);
    return 0;
}

int network_tell_gateway(const struct network *n, const struct target_spec *spec, struct err *e)
{
    /* Again and again: a Linux copy takes no change of an entry that is younger than a second. */
    static const int pauses_ms[] = {0, 400, 700};
    uint8_t own[6];
    CLEANUP(close_fd) int fd = arp_open(n->netns_path, NETWORK_BRIDGE, own, e);
    int open = network_door(n, e);

    if (fd < 0 || open < 0)
        return -1;
    for (size_t round = 0; round < ARRAY_COUNT(pauses_ms); round++) {
        clock_sleep_us(pauses_ms[round] * US_PER_MS);
        for (int i = 0; i < spec->nic_count; i++) {
            uint8_t gateway_mac[6], mac[6];
            char text[18];
            struct spec_cidr cidr;
            uint32_t gateway;
            int known = 1;

            if (!spec->nics[i].gateway || !spec->nics[i].address || spec_address_parse(spec->nics[i].gateway, &gateway, e) < 0 ||
                spec_cidr_parse(spec->nics[i].address, &cidr, e) < 0)
                continue;
            network_mac(spec, i, text);
            sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]);
            memcpy(gateway_mac, own, 6);
            if (open)
                known = arp_ask(fd, gateway, gateway_mac, GATEWAY_ANSWER_MS, e);
            if (known < 0 || (known > 0 && arp_tell(fd, gateway, gateway_mac, cidr.address, mac, e) < 0))
                return -1;
        }
    }
    return 0;
}
