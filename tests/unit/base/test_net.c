#include "base/clock.h"
#include "base/mem.h"
#include "base/net.h"
#include "base/proc.h"
#include "tap.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static int listen_somewhere(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 4) < 0 || getsockname(fd, (struct sockaddr *)&at, &size) < 0)
        exit(99);
    *port = ntohs(at.sin_port);
    return fd;
}

static void connects(void)
{
    struct err e = {0};
    int port, listener = listen_somewhere(&port), fd;
    char byte = 0;

    fd = net_connect("127.0.0.1", port, NULL, 1000, &e);
    ok(fd >= 0, "a listening port is reached: %s", e.message);
    ok(write(fd, "x", 1) == 1, "what is written");
    int peer = accept(listener, NULL, NULL);
    ok(read(peer, &byte, 1) == 1 && byte == 'x', "arrives");
    close(peer);
    close(fd);
    fd = net_connect("localhost", port, NULL, 1000, &e);
    ok(fd >= 0, "by name, too");
    close(fd);
    close(listener);
    is_int(net_connect("127.0.0.1", port, NULL, 1000, &e), -1, "a closed port is not");
    is_int(e.kind, ERR_UNREACHABLE, "it is unreachable");
    is_int(net_answers("127.0.0.1", port, 1000, &e), 1, "but a machine that refuses answers");
    is_int(net_answers("no.such.name.invalid", port, 1000, &e), -1, "whether a name that is none answers can't be asked");
    ok(net_is_own("127.0.0.1") && !net_is_own("192.0.2.77"), "what is our own address is known");
    is_int(net_connect("no.such.name.invalid", port, NULL, 1000, &e), -1, "nor is a name that is none");
    is_int(net_connect("127.0.0.1", port, "/run/netns/no-such", 1000, &e), -1, "nor a namespace that is none");
    is_int(e.kind, ERR_NOT_FOUND, "it is not found");
}

/* In a namespace of its own, loopback is another one: what listens here is not reached there. */
static void other_namespace(void)
{
    struct err e = {0};
    char name[64], path[96];
    int port, listener = listen_somewhere(&port), fd;

    snprintf(name, sizeof name, "slipway-net-%d", (int)getpid());
    snprintf(path, sizeof path, "/run/netns/%s", name);
    const char *const add[] = {"ip", "netns", "add", name, NULL}, *const up[] = {"ip", "-n", name, "link", "set", "lo", "up", NULL},
                      *const del[] = {"ip", "netns", "del", name, NULL};
    if (proc_must(&(struct proc_options){.argv = add}, NULL, &e) < 0) {
        printf("# no network namespaces here: %s\n", e.message);
        close(listener);
        return;
    }
    is_int(proc_must(&(struct proc_options){.argv = up}, NULL, &e), 0, "its loopback is up");
    is_int(net_connect("127.0.0.1", port, path, 1000, &e), -1, "our listener is not there");
    is_int(e.kind, ERR_UNREACHABLE, "refused there: %s", e.message);
    fd = net_connect("127.0.0.1", port, NULL, 1000, &e);
    ok(fd >= 0, "and we are still in our own namespace");
    close(fd);
    close(listener);
    is_int(proc_must(&(struct proc_options){.argv = del}, NULL, &e), 0, "the namespace is removed");
}

static void time_is_bounded(void)
{
    struct err e = {0};
    int port, listener = listen_somewhere(&port), fds[200], count = 0;
    int64_t begin = clock_monotonic_us();

    /* Nobody accepts: when the backlog is full, the kernel drops what comes. */
    do
        fds[count] = net_connect("127.0.0.1", port, NULL, 300, &e);
    while (fds[count] >= 0 && ++count < 200);
    is_int(e.kind, ERR_TIMEOUT, "no answer is a time-out: %s", e.message);
    ok(clock_monotonic_us() - begin < 10 * US_PER_S, "and ends in time");
    while (count-- > 0)
        close(fds[count]);
    close(listener);
}

int main(void)
{
    connects();
    other_namespace();
    time_is_bounded();
    return tap_done();
}
