#include "target/qmp.h"
#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct qmp {
    int fd; /* nonblocking */
    int64_t last_id;
    struct buf in; /* read and not yet taken */
};

static int kind_of(const json_t *message, enum qmp_kind *kind)
{
    static const struct {
        const char *member;
        enum qmp_kind kind;
    } kinds[] = {{"return", QMP_RETURN}, {"error", QMP_ERROR}, {"event", QMP_EVENT}, {"QMP", QMP_GREETING}};

    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++)
        if (json_object_get(message, kinds[i].member)) {
            *kind = kinds[i].kind;
            return 0;
        }
    return -1;
}

int qmp_take(struct buf *in, json_t **out, enum qmp_kind *kind, struct err *e)
{
    CLEANUP(json_free) json_t *message = NULL;
    char *end;
    size_t line_bytes;
    int parsed = 0;

    while (in->size_bytes && strchr("\r\n", in->data[0]) && in->data[0]) {
        memmove(in->data, in->data + 1, in->size_bytes); /* with the NUL after */
        in->size_bytes--;
    }
    end = in->size_bytes ? memchr(in->data, '\n', in->size_bytes) : NULL;
    if (!end && (in->over || in->size_bytes >= QMP_LINE_LIMIT_BYTES))
        return err_set(e, ERR_PROTOCOL, "QEMU's answer has a line longer than %u bytes", QMP_LINE_LIMIT_BYTES);
    if (!end)
        return 0;
    line_bytes = (size_t)(end - in->data) + 1;
    parsed = json_read(in->data, line_bytes, &message, e);
    memmove(in->data, in->data + line_bytes, in->size_bytes - line_bytes + 1);
    in->size_bytes -= line_bytes;
    if (parsed < 0) {
        if (e)
            e->kind = ERR_PROTOCOL;
        return err_wrap(e, "QEMU's answer");
    }
    if (!json_is_object(message) || kind_of(message, kind) < 0)
        return err_set(e, ERR_PROTOCOL, "QEMU's answer is neither a result, an error nor an event");
    *out = message;
    message = NULL;
    return 1;
}

/* The next message of any kind. */
static int receive(struct qmp *q, int64_t until_us, json_t **out, enum qmp_kind *kind, struct err *e)
{
    char block[16384];

    for (;;) {
        int taken = qmp_take(&q->in, out, kind, e);
        ssize_t got;

        if (taken != 0)
            return taken < 0 ? -1 : 0;
        if (fd_wait(q->fd, POLLIN, until_us, "QEMU", e) < 0)
            return -1;
        got = read(q->fd, block, sizeof block);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            return err_errno(e, errno, "can't read QEMU's answer");
        if (got == 0)
            return err_set(e, ERR_UNREACHABLE, "QEMU closed the connection");
        buf_add(&q->in, block, (size_t)got); /* over its limit: qmp_take says so */
    }
}

static int send_text(struct qmp *q, const char *text, size_t size, int64_t until_us, struct err *e)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = send(q->fd, text + done, size - done, MSG_NOSIGNAL);

        if (put > 0)
            done += (size_t)put;
        else if (errno == EAGAIN && fd_wait(q->fd, POLLOUT, until_us, "QEMU", e) < 0)
            return -1;
        else if (errno != EINTR && errno != EAGAIN)
            return err_errno(e, errno, "can't write to QEMU");
    }
    return 0;
}

static int refused(const json_t *answer, const char *command, struct err *e)
{
    const json_t *error = json_object_get(answer, "error");
    const char *class = json_get_string(error, "class", "");
    enum err_kind kind = ERR_IO;

    if (strcmp(class, "DeviceNotFound") == 0)
        kind = ERR_NOT_FOUND;
    else if (strcmp(class, "CommandNotFound") == 0)
        kind = ERR_UNSUPPORTED;
    return err_set(e, kind, "QEMU refused %s: %s", command, json_get_string(error, "desc", "without a reason"));
}

int qmp_call(struct qmp *q, const char *command, json_t *arguments, int timeout_ms, json_t **result, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    CLEANUP(json_free) json_t *request = json_object();
    CLEANUP(free_ptr) char *text = NULL;

    json_object_set_new(request, "execute", json_string(command));
    if (arguments)
        json_object_set_new(request, "arguments", arguments);
    json_object_set_new(request, "id", json_integer(++q->last_id));
    text = json_text(request);
    if (send_text(q, text, strlen(text), until_us, e) < 0)
        return err_wrap(e, "%s", command);
    for (;;) {
        CLEANUP(json_free) json_t *answer = NULL;
        enum qmp_kind kind = QMP_EVENT;

        if (receive(q, until_us, &answer, &kind, e) < 0)
            return err_wrap(e, "%s", command);
        if (kind == QMP_EVENT || json_get_int(answer, "id", -1) != q->last_id)
            continue; /* events, and the answer to a command whose time was over */
        if (kind == QMP_ERROR)
            return refused(answer, command, e);
        if (kind != QMP_RETURN)
            return err_set(e, ERR_PROTOCOL, "%s: QEMU answered with a greeting", command);
        if (result)
            *result = json_incref(json_object_get(answer, "return"));
        return 0;
    }
}

static int connect_in(const char *folder, const char *name, struct err *e)
{
    CLEANUP(close_fd) int folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CLEANUP(close_fd) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int kept;

    if (folder_fd < 0 || fd < 0)
        return err_errno(e, errno, "can't open %s", folder);
    /* By the folder's descriptor: a socket's address holds 107 bytes, an instance's folder may be deeper. */
    if (snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", folder_fd, name) >= (int)sizeof address.sun_path)
        return err_set(e, ERR_INTERNAL, "the socket's name %s is too long", name);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int reason = errno;

        err_errno(e, reason, "can't connect to QEMU at %s/%s", folder, name);
        if (e && (reason == ENOENT || reason == EAGAIN))
            e->kind = ERR_UNREACHABLE;
        return -1;
    }
    kept = fd;
    fd = -1;
    return kept;
}

int qmp_open(const char *folder, const char *name, int timeout_ms, struct qmp **out, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    CLEANUP(json_free) json_t *greeting = NULL;
    CLEANUP(qmp_free) struct qmp *q = xcalloc(1, sizeof *q);
    enum qmp_kind kind = QMP_EVENT;

    buf_init(&q->in, QMP_LINE_LIMIT_BYTES);
    q->fd = connect_in(folder, name, e);
    if (q->fd < 0)
        return -1;
    if (receive(q, until_us, &greeting, &kind, e) < 0)
        return -1;
    if (kind != QMP_GREETING)
        return err_set(e, ERR_PROTOCOL, "%s/%s does not greet as QEMU does", folder, name);
    if (qmp_call(q, "qmp_capabilities", NULL, (int)((until_us - clock_monotonic_us()) / US_PER_MS) + 1, NULL, e) < 0)
        return -1;
    *out = q;
    q = NULL;
    return 0;
}

void qmp_free(struct qmp **q)
{
    if (!*q)
        return;
    close_fd(&(*q)->fd);
    buf_release(&(*q)->in);
    free_ptr(q);
}
