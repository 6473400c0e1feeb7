/* A connection through another: a forwarded channel ("direct-tcpip", RFC 4254 7.2) of the first session is pumped by a thread into a
 * socket pair, whose near end is the next session's socket. The first session belongs to that thread from then on. */
#include "remote/remote_private.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BLOCK_BYTES 32768
#define PUMP_WAIT_MS 100

struct jump {
    struct remote *through;
    ssh_channel channel;
    int far_fd;             /* the pump's end of the pair, non-blocking */
    pthread_t pump;
    atomic_bool stop;
    char up[BLOCK_BYTES], down[BLOCK_BYTES]; /* taken from one side, not given to the other yet */
    size_t up_size, down_size;
    bool up_ended;
};

#define CONNECT_FAILED "error (2)" /* RFC 4254 5.1: SSH_OPEN_CONNECT_FAILED, as libssh writes it */

static int open_channel(struct jump *j, const char *address, int port, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    int result;

    j->channel = ssh_channel_new(j->through->session);
    MUST(j->channel);
    while ((result = ssh_channel_open_forward(j->channel, address, port, "127.0.0.1", 0)) == SSH_AGAIN)
        if (remote_wait(j->through, until_us, "opening the way through", e) < 0)
            return -1;
    return result == SSH_OK ? 0 : err_set(e, ERR_UNREACHABLE, "%s can't reach %s port %d: %s", j->through->name, address, port,
                                          ssh_get_error(j->through->session));
}

/* From the socket pair into the channel, as much as its window takes. */
static void pump_up(struct jump *j)
{
    if (j->up_size == 0 && !j->up_ended) {
        ssize_t got = recv(j->far_fd, j->up, sizeof j->up, MSG_DONTWAIT);

        if (got > 0)
            j->up_size = (size_t)got;
        else if (got == 0 || (errno != EAGAIN && errno != EINTR))
            j->up_ended = true;
    }
    if (j->up_size > 0) {
        int put = ssh_channel_write(j->channel, j->up, (uint32_t)j->up_size);

        if (put == SSH_ERROR) {
            atomic_store(&j->stop, true);
        } else if (put > 0) {
            memmove(j->up, j->up + put, j->up_size - (size_t)put);
            j->up_size -= (size_t)put;
        }
    }
}

static void pump_down(struct jump *j)
{
    if (j->down_size == 0) {
        int got = ssh_channel_read_nonblocking(j->channel, j->down, sizeof j->down, 0);

        if (got > 0)
            j->down_size = (size_t)got;
        else if (got == SSH_ERROR || ssh_channel_is_eof(j->channel) || !ssh_is_connected(j->through->session))
            atomic_store(&j->stop, true);
    }
    if (j->down_size > 0) {
        ssize_t put = send(j->far_fd, j->down, j->down_size, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (put > 0) {
            memmove(j->down, j->down + put, j->down_size - (size_t)put);
            j->down_size -= (size_t)put;
        } else if (put < 0 && errno != EAGAIN && errno != EINTR) {
            atomic_store(&j->stop, true);
        }
    }
}

static void *pump(void *user)
{
    struct jump *j = user;

    while (!atomic_load(&j->stop) && !(j->up_ended && j->up_size == 0)) {
        short near = (short)((j->up_size == 0 ? POLLIN : 0) | (j->down_size > 0 ? POLLOUT : 0));
        short far = (short)((j->down_size == 0 ? POLLIN : 0) | (ssh_get_poll_flags(j->through->session) & SSH_WRITE_PENDING ? POLLOUT : 0));
        struct pollfd polls[2] = {{j->far_fd, near, 0}, {ssh_get_fd(j->through->session), far, 0}};

        poll(polls, 2, PUMP_WAIT_MS);
        pump_down(j);
        pump_up(j);
    }
    shutdown(j->far_fd, SHUT_RDWR);
    return NULL;
}

void jump_close(struct jump **held)
{
    struct jump *j = *held;

    if (!j)
        return;
    if (j->far_fd >= 0) {
        atomic_store(&j->stop, true);
        shutdown(j->far_fd, SHUT_RDWR); /* wakes the pump */
        pthread_join(j->pump, NULL);
        close(j->far_fd);
    }
    if (j->channel)
        ssh_channel_free(j->channel);
    remote_close(&j->through);
    free(j);
    *held = NULL;
}

int jump_answers(struct remote *through, const char *address, int port, int timeout_ms, struct err *why)
{
    struct jump j = {.through = through};
    int result = open_channel(&j, address, port, timeout_ms, why);

    ssh_channel_free(j.channel);
    if (result == 0 || strstr(why->message, "refused"))
        return 1;
    return why->kind == ERR_TIMEOUT || (ssh_is_connected(through->session) && strstr(why->message, CONNECT_FAILED)) ? 0 : -1;
}

int jump_open(struct remote *through, const char *address, int port, int timeout_ms, struct jump **out, int *fd, struct err *e)
{
    CLEANUP(jump_close) struct jump *j = xcalloc(1, sizeof *j);
    int pair[2];

    j->through = through;
    j->far_fd = -1;
    if (open_channel(j, address, port, timeout_ms, e) < 0)
        return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, errno, "can't make a socket pair");
    j->far_fd = pair[1];
    fcntl(j->far_fd, F_SETFL, O_NONBLOCK);
    MUST(pthread_create(&j->pump, NULL, pump, j) == 0);
    *out = j;
    *fd = pair[0];
    j = NULL;
    return 0;
}
