#include "base/clock.h"
#include "base/limits.h"
#include "steps/runner_private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int take_line(struct lines *l, json_t **out, struct err *e)
{
    char *end = l->held.data ? memchr(l->held.data, '\n', l->held.size_bytes) : NULL;
    size_t size = end ? (size_t)(end - l->held.data) : 0;
    int result;

    if (!end)
        return 0;
    result = json_read(l->held.data, size, out, e);
    memmove(l->held.data, end + 1, l->held.size_bytes - size - 1);
    l->held.size_bytes -= size + 1;
    l->held.data[l->held.size_bytes] = '\0';
    return result < 0 ? -1 : 1;
}

int lines_read(struct lines *l, int timeout_ms, json_t **out, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    char block[65536];

    if (l->held.limit_bytes == 0)
        buf_init(&l->held, ATTEMPT_LINE_BYTES);
    for (;;) {
        struct pollfd p = {l->fd, POLLIN, 0};
        int64_t left_us = until_us - clock_monotonic_us();
        int result = take_line(l, out, e), ready;
        ssize_t got;

        if (result != 0)
            return result;
        ready = poll(&p, 1, timeout_ms < 0 ? -1 : left_us < 0 ? 0 : (int)(left_us / US_PER_MS));
        if (ready == 0)
            return err_set(e, ERR_TIMEOUT, "no line came");
        got = ready < 0 ? -1 : recv(l->fd, block, sizeof block, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got == 0 || errno == ECONNRESET ? 0 : err_errno(e, errno, "can't read from the other process");
        if (buf_add(&l->held, block, (size_t)got) < 0)
            return err_set(e, ERR_LIMIT, "a line is longer than %u bytes", ATTEMPT_LINE_BYTES);
    }
}

void lines_release(struct lines *l) { buf_release(&l->held); }

int lines_send(int fd, const json_t *line, struct err *e)
{
    CLEANUP(free_ptr) char *text = json_text(line);
    size_t size = strlen(text);

    text[size++] = '\n'; /* over the NUL: the size is known from here on */
    for (size_t done = 0; done < size;) {
        ssize_t put = send(fd, text + done, size - done, MSG_NOSIGNAL);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_errno(e, errno, "can't write to the other process");
        done += (size_t)put;
    }
    return 0;
}
