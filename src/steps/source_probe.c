/* source_probe: from where this runner stands: is the source network there, and does the replicator answer? doctor reads it. */
#include "base/net.h"
#include "steps/step.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 5000

static bool reach(struct step *s, const char *name, const char *address, int port)
{
    CLEANUP(close_fd) int fd = -1;
    struct err e = {0};

    fd = net_connect(address, port, NULL, CONNECT_TIMEOUT_MS, &e);
    if (fd < 0)
        step_evidence(s, name, false, "%s port %d does not answer from here: %s", address, port, e.message);
    else
        step_evidence(s, name, true, "%s port %d answers from here", address, port);
    return fd >= 0;
}

/* "HOST:PORT" or "[IPV6]:PORT" */
static bool reach_text(struct step *s, const char *network, const char *text)
{
    const char *colon = strrchr(text, ':');
    CLEANUP(free_ptr) char *host = NULL, *name = xasprintf("source network %s", network);
    int port = colon ? atoi(colon + 1) : 0;

    if (!colon || colon == text || port < 1 || port > 65535) {
        step_evidence(s, name, false, "the setting sources.%s.probe is \"%s\"; it must be HOST:PORT", network, text);
        return false;
    }
    host = *text == '[' ? xasprintf("%.*s", (int)(colon - text - 2), text + 1) : xasprintf("%.*s", (int)(colon - text), text);
    return reach(s, name, host, port);
}

/* Where no address to try is set, what can be shown is the networks that this machine stands in. */
static bool stands_somewhere(struct step *s)
{
    CLEANUP(buf_release) struct buf seen = {0};
    struct ifaddrs *all = NULL;

    if (getifaddrs(&all) < 0) {
        step_evidence(s, "source network", false, "this machine's addresses can't be read: %s", strerror(errno));
        return false;
    }
    for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
        char text[INET6_ADDRSTRLEN];

        if (!one->ifa_addr || one->ifa_addr->sa_family != AF_INET || one->ifa_flags & IFF_LOOPBACK || !(one->ifa_flags & IFF_UP))
            continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)one->ifa_addr)->sin_addr, text, sizeof text);
        buf_printf(&seen, "%s%s on %s", seen.size_bytes ? ", " : "", text, one->ifa_name);
    }
    freeifaddrs(all);
    step_evidence(s, "source network", seen.size_bytes > 0, seen.size_bytes ? "the runner stands in it with %s" : "the runner has no address%s",
                  seen.size_bytes ? seen.data : "");
    return seen.size_bytes > 0;
}

static int run(struct step *s, struct err *e)
{
    const json_t *sources = step_json(s, "settings.sources");
    const char *address = step_string(s, "settings.replicator.address", NULL), *network;
    int64_t port = step_int(s, "settings.replicator.port", 0);
    bool holds = true, tried = false;
    json_t *source;

    json_object_foreach((json_t *)(uintptr_t)sources, network, source) {
        const char *probe = json_get_string(source, "probe", NULL);

        if (!probe)
            continue;
        tried = true;
        holds &= reach_text(s, network, probe);
    }
    if (!tried)
        holds &= stands_somewhere(s);
    if (!address || port < 1 || port > 65535) {
        step_evidence(s, "replicator", false, "the setting \"replicator\" {address, port} is missing: agents don't know where to send");
        holds = false;
    } else {
        holds &= reach(s, "replicator", address, (int)port);
    }
    return holds ? 0 : err_set(e, ERR_UNREACHABLE, "something can't be reached from here; the evidence says what");
}

const struct step_api step_source_probe = {
    .name = "source_probe", .title = "Reach the source network and the replicator", .place = STEP_AT_SOURCE, .timeout_ms = 120000,
    .attempts = 1, .run = run};
