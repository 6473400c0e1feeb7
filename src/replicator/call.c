#include "replicator/call.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LOOK_MS 500 /* how often a waiting call looks whether the caller gave up */

static int dial(const char *path, struct err *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP(close_fd) int fd = -1;
    int kept;

    if (strlen(path) >= sizeof address.sun_path)
        return err_set(e, ERR_INVALID, "the control socket's path %s is longer than %zu bytes", path, sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(e, errno, "can't make a socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return err_set(e, ERR_UNREACHABLE, "no replicator listens at %s: %s; is `slipway replicator` running on this host?", path, strerror(errno));
    kept = fd;
    fd = -1;
    return kept;
}

/* Reads until a whole line is in `held` (what follows it stays there for the next call). Returns the line's length without its end. */
static int64_t read_line(const struct replicator_call *c, int fd, struct buf *held, int64_t until_us, struct err *e)
{
    for (;;) {
        char *end = held->size_bytes ? memchr(held->data, '\n', held->size_bytes) : NULL;
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        char block[16384];
        ssize_t got;

        if (end)
            return end - held->data;
        if (c->cancelled && c->cancelled(c->user))
            return err_set(e, ERR_CANCELLED, "cancelled while the replicator worked");
        if (clock_monotonic_us() > until_us)
            return err_set(e, ERR_TIMEOUT, "the replicator did not answer in time");
        if (poll(&ready, 1, LOOK_MS) <= 0)
            continue;
        got = read(fd, block, sizeof block);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            return err_set(e, ERR_UNREACHABLE, "the replicator went away in the middle of an answer");
        if (buf_add(held, block, (size_t)got) < 0)
            return err_set(e, ERR_LIMIT, "the replicator's answer is longer than %u bytes", LIMIT_JSON_BYTES);
    }
}

/* 1: that was the answer, kept in *answer; 0: progress; -1. */
static int take_line(const struct replicator_call *c, const char *line, size_t size, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *said = NULL;
    const json_t *progress, *ok, *error;

    if (json_read(line, size, &said, e) < 0)
        return err_wrap(e, "the replicator's answer");
    progress = json_object_get(said, "progress");
    if (json_is_object(progress)) {
        if (c->progress)
            c->progress(json_get_int(progress, "done", 0), json_get_int(progress, "total", 0), json_get_string(progress, "unit", ""), c->user);
        return 0;
    }
    ok = json_object_get(said, "ok");
    if (json_is_true(ok)) {
        *answer = json_incref(said);
        return 1;
    }
    error = json_object_get(said, "error");
    if (!json_is_false(ok) || !json_is_object(error))
        return err_set(e, ERR_PROTOCOL, "the replicator's answer is neither progress, nor ok, nor an error");
    return err_set(e, err_kind_named(json_get_string(error, "kind", NULL)), "the replicator: %s", json_get_string(error, "message", "no reason given"));
}

int replicator_call_keep(const struct replicator_call *c, const json_t *request, int *kept, json_t **answer, struct err *e)
{
    CLEANUP(json_free) json_t *answered = NULL;
    CLEANUP(free_ptr) char *text = json_text(request);
    CLEANUP(close_fd) int fd = dial(c->socket_path, e);
    CLEANUP(buf_release) struct buf held = {.limit_bytes = LIMIT_JSON_BYTES};
    int64_t until_us = clock_monotonic_us() + c->timeout_ms * US_PER_MS, size;
    int done = 0;

    if (fd < 0 || fd_write_all(fd, text, strlen(text), e) < 0 || fd_write_all(fd, "\n", 1, e) < 0)
        return -1;
    while (done == 0) {
        size = read_line(c, fd, &held, until_us, e);
        if (size < 0)
            return -1;
        done = take_line(c, held.data, (size_t)size, &answered, e);
        held.size_bytes -= (size_t)size + 1;
        memmove(held.data, held.data + size + 1, held.size_bytes);
    }
    if (done < 0)
        return -1;
    *answer = answered;
    answered = NULL;
    *kept = fd;
    fd = -1;
    return 0;
}

int replicator_call(const struct replicator_call *c, const json_t *request, json_t **answer, struct err *e)
{
    CLEANUP(close_fd) int fd = -1;

    return replicator_call_keep(c, request, &fd, answer, e);
}
