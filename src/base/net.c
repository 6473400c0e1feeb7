#include "base/net.h"
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What the short-lived thread is asked for, and gives. */
struct socket_order {
    int family, netns_fd, socket_fd, error_number;
};

static void *make_socket(void *user)
{
    struct socket_order *order = user;

    if (order->netns_fd >= 0 && setns(order->netns_fd, CLONE_NEWNET) < 0) {
        order->error_number = errno;
        return NULL;
    }
    order->socket_fd = socket(order->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (order->socket_fd < 0)
        order->error_number = errno;
    return NULL;
}

/* A socket belongs to the namespace in which it was made, so only its making needs the other one. */
static int socket_in(int family, const char *netns_path, struct err *e)
{
    struct socket_order order = {family, -1, -1, 0};
    pthread_t thread;
    int reason;

    if (!netns_path) {
        make_socket(&order);
        return order.socket_fd >= 0 ? order.socket_fd : err_errno(e, order.error_number, "can't make a socket");
    }
    order.netns_fd = open(netns_path, O_RDONLY | O_CLOEXEC);
    if (order.netns_fd < 0)
        return err_errno(e, errno, "can't open the network namespace %s", netns_path);
    reason = pthread_create(&thread, NULL, make_socket, &order);
    if (reason == 0)
        pthread_join(thread, NULL);
    close_fd(&order.netns_fd);
    if (reason || order.error_number)
        return err_errno(e, reason ? reason : order.error_number, "can't make a socket in the network namespace %s", netns_path);
    return order.socket_fd;
}

/* *reason: the error number of a connection that came to nothing, 0 where there is none. */
static int finish_connect(int fd, int64_t until_us, const char *address, int port, int *reason, struct err *e)
{
    for (;;) {
        struct pollfd p = {fd, POLLOUT, 0};
        int64_t left_us = until_us - clock_monotonic_us();
        int ready = left_us <= 0 ? 0 : poll(&p, 1, (int)(left_us / US_PER_MS) + 1);

        if (ready < 0 && errno == EINTR)
            continue;
        if (ready == 0)
            return err_set(e, ERR_TIMEOUT, "%s port %d did not answer in time", address, port);
        if (ready < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, reason, &(socklen_t){sizeof *reason}) < 0)
            *reason = errno;
        return *reason ? err_errno(e, *reason, "can't connect to %s port %d", address, port) : 0;
    }
}

static int connect_one(const struct addrinfo *to, const char *netns_path, int64_t until_us, const char *address, int port, int *reason, struct err *e)
{
    CLEANUP(close_fd) int fd = socket_in(to->ai_family, netns_path, e);
    int kept, one = 1;

    if (fd < 0)
        return -1;
    if (connect(fd, to->ai_addr, to->ai_addrlen) < 0) {
        *reason = errno;
        if (*reason != EINPROGRESS)
            return err_errno(e, *reason, "can't connect to %s port %d", address, port);
        *reason = 0;
        if (finish_connect(fd, until_us, address, port, reason, e) < 0)
            return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0)
        return err_errno(e, errno, "can't set up the connection to %s", address);
    kept = fd;
    fd = -1;
    return kept;
}

static int connect_to(const char *address, int port, const char *netns_path, int timeout_ms, int *why, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    char service[16];
    int reason, fd = -1;

    snprintf(service, sizeof service, "%d", port);
    reason = getaddrinfo(address, service, &hints, &found);
    if (reason)
        return err_set(e, reason == EAI_AGAIN ? ERR_UNREACHABLE : ERR_NOT_FOUND, "can't find the address of \"%s\": %s", address,
                       gai_strerror(reason));
    for (const struct addrinfo *to = found; to && fd < 0; to = to->ai_next)
        fd = connect_one(to, netns_path, until_us, address, port, why, e);
    freeaddrinfo(found);
    return fd;
}

int net_connect(const char *address, int port, const char *netns_path, int timeout_ms, struct err *e)
{
    int why = 0;

    return connect_to(address, port, netns_path, timeout_ms, &why, e);
}

int net_answers(const char *address, int port, int timeout_ms, struct err *why)
{
    int reason = 0;
    CLEANUP(close_fd) int fd = connect_to(address, port, NULL, timeout_ms, &reason, why);

    if (fd >= 0 || reason == ECONNREFUSED || reason == ECONNRESET)
        return 1;
    return why->kind == ERR_TIMEOUT || reason == EHOSTUNREACH || reason == ENETUNREACH ? 0 : -1;
}

bool net_is_own(const char *address)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST}, *found = NULL;
    bool own = false;

    if (getaddrinfo(address, "0", &hints, &found) != 0)
        return false;
    for (const struct addrinfo *at = found; at && !own; at = at->ai_next) {
        CLEANUP(close_fd) int fd = socket(at->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        own = fd >= 0 && bind(fd, at->ai_addr, at->ai_addrlen) == 0;
    }
    freeaddrinfo(found);
    return own;
}

void net_peer_text(int fd, char *out, size_t size)
{
    struct sockaddr_storage peer;
    socklen_t peer_size = sizeof peer;

    if (getpeername(fd, (struct sockaddr *)&peer, &peer_size) < 0 ||
        getnameinfo((struct sockaddr *)&peer, peer_size, out, (socklen_t)size, NULL, 0, NI_NUMERICHOST) != 0)
        snprintf(out, size, "unknown");
}
