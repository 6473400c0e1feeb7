#include "replicator/control_client.h"
#include "base/clock.h"
#include "base/limits.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT_MS 60000
#define LOOK_EVERY_MS 200

static int dial(const char *path, struct err *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof address.sun_path)
        return err_set(e, ERR_INVALID, "the control socket's path %s is too long", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(e, errno, "can't make a socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int reason = errno;

        close(fd);
        return err_set(e, ERR_UNREACHABLE, "no replicator listens at %s (%s): is it running on this machine?", path, strerror(reason));
    }
    return fd;
}

static int send_line(int fd, const json_t *request, struct err *e)
{
    CLEANUP(free_ptr) char *text = json_text(request), *line = xasprintf("%s\n", text);
    size_t size = strlen(line), sent = 0;

    while (sent < size) {
        ssize_t n = send(fd, line + sent, size - sent, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            return err_set(e, ERR_UNREACHABLE, "the replicator closed its control socket: %s", strerror(errno));
        sent += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Appends what comes until a line is whole. */
static int wait_for_line(const struct control_client *o, int fd, struct buf *held, struct err *e)
{
    int64_t deadline_us = clock_monotonic_us() + (o->timeout_ms ? o->timeout_ms : DEFAULT_TIMEOUT_MS) * US_PER_MS;

    while (!held->data || !memchr(held->data, '\n', held->size_bytes)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char bytes[16384];
        ssize_t n;

        if (o->cancelled && o->cancelled(o->user))
            return err_set(e, ERR_CANCELLED, "cancelled");
        if (clock_monotonic_us() > deadline_us)
            return err_set(e, ERR_TIMEOUT, "the replicator has not answered in time");
        if (poll(&p, 1, LOOK_EVERY_MS) <= 0)
            continue;
        n = recv(fd, bytes, sizeof bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(e, ERR_UNREACHABLE, "the replicator closed its control socket before it answered");
        if (buf_add(held, bytes, (size_t)n) < 0)
            return err_set(e, ERR_LIMIT, "the replicator's answer is too long");
    }
    return 0;
}

static int refused(const json_t *line, struct err *e)
{
    const json_t *error = json_object_get(line, "error");

    return err_set(e, err_kind_named(json_get_string(error, "kind", "internal")), "%s",
                   json_get_string(error, "message", "the replicator refuses without a reason"));
}

/* 1: the answer is in *answer; 0: it was a progress line. */
static int take_line(const struct control_client *o, struct buf *held, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *line = NULL;
    char *end = memchr(held->data, '\n', held->size_bytes);
    size_t size = (size_t)(end - held->data);
    const json_t *progress;

    if (json_read(held->data, size, &line, e) < 0)
        return err_set(e, ERR_PROTOCOL, "the replicator answers no JSON");
    memmove(held->data, end + 1, held->size_bytes - size - 1);
    held->size_bytes -= size + 1;
    held->data[held->size_bytes] = '\0';
    progress = json_object_get(line, "progress");
    if (progress) {
        if (o->progress)
            o->progress(json_get_int(progress, "done", 0), json_get_int(progress, "total", 0), json_get_string(progress, "unit", ""),
                        o->user);
        return 0;
    }
    if (!json_is_boolean(json_object_get(line, "ok")))
        return err_set(e, ERR_PROTOCOL, "the replicator's answer says neither yes nor no");
    if (!json_get_bool(line, "ok", false))
        return refused(line, e);
    *answer = line;
    line = NULL;
    return 1;
}

int control_client_call(const struct control_client *o, const json_t *request, json_t **answer, struct err *e)
{
    CLEANUP(close_fd) int fd = dial(o->socket_path, e);
    CLEANUP(buf_release) struct buf held = {0};
    json_t *got = NULL;
    int r = 0;

    buf_init(&held, LIMIT_JSON_BYTES);
    if (fd < 0 || send_line(fd, request, e) < 0)
        return -1;
    while (r == 0) {
        if (wait_for_line(o, fd, &held, e) < 0)
            return -1;
        r = take_line(o, &held, &got, e);
    }
    if (r < 0)
        return -1;
    if (answer)
        *answer = got;
    else
        json_decref(got);
    return 0;
}

int control_client_ask(const struct control_client *o, json_t **answer, struct err *e, const char *format, ...)
{
    CLEANUP(json_free) json_t *request = NULL;
    json_error_t why;
    va_list args;

    va_start(args, format);
    request = json_vpack_ex(&why, 0, format, args);
    va_end(args);
    if (!request)
        return err_set(e, ERR_INVALID, "a request to the replicator can't be made: %s", why.text);
    return control_client_call(o, request, answer, e);
}
