/* The owner's own checks of a launched machine. */
#include "base/clock.h"
#include "base/file.h"
#include "steps/boot_check.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK_TIMEOUT_MS 15000
#define PATIENCE_MS 90000 /* a check is tried again that long: services may still be coming up */
#define AGAIN_MS 2000
#define ANSWER_LIMIT_BYTES (1u << 20)

/* Copies the text without the blanks at its ends; -1: nothing left, or too long. */
static int copy_trimmed(const char *text, size_t size, char *out, size_t out_size)
{
    while (size && strchr(" \t", text[0]))
        text++, size--;
    while (size && strchr(" \t", text[size - 1]))
        size--;
    if (size == 0 || size >= out_size)
        return -1;
    memcpy(out, text, size);
    out[size] = '\0';
    return 0;
}

static int parse_http(const char *text, size_t size, struct boot_owner_check *out)
{
    char url[1400];
    const char *contains = memmem(text, size, " contains ", 10);
    int used = 0;

    out->port = 80;
    out->path[0] = '/';
    out->path[1] = '\0';
    if (!contains || copy_trimmed(text, (size_t)(contains - text), url, sizeof url) < 0 ||
        copy_trimmed(contains + 10, size - (size_t)(contains + 10 - text), out->text, sizeof out->text) < 0)
        return -1;
    if (sscanf(url, "http://%255[^:/? ]%n", out->host, &used) != 1)
        return -1;
    text = url + used;
    if (*text == ':') {
        char *end;
        long port = strtol(text + 1, &end, 10);

        if (end == text + 1 || port < 1 || port > 65535)
            return -1;
        out->port = (int)port;
        text = end;
    }
    if (*text && (*text != '/' || strlen(text) >= sizeof out->path || strpbrk(text, " \t\r\n")))
        return -1;
    if (*text)
        strcpy(out->path, text); /* fits: checked above */
    return 0;
}

int boot_owner_next(const char **at, struct boot_owner_check *out, struct err *e)
{
    struct boot_owner_check parsed = {0};
    size_t size;
    int result = -1;

    *at += strspn(*at, " \t;\n");
    if (!**at)
        return 0;
    size = strcspn(*at, ";");
    if (strncmp(*at, "http://", 7) == 0) {
        parsed.is_http = true;
        result = parse_http(*at, size, &parsed);
    } else if (strncmp(*at, "command ", 8) == 0 && size > 8) {
        result = copy_trimmed(*at + 8, size - 8, parsed.text, sizeof parsed.text);
    }
    if (result < 0)
        return err_set(e, ERR_INVALID, "the check \"%.*s\" is neither \"http://HOST:PORT/PATH contains TEXT\" nor \"command CMD\"",
                       (int)(size < 300 ? size : 300), *at);
    *out = parsed;
    *at += size;
    return 1;
}

int boot_http_status(const char *answer, size_t size, const char **body)
{
    const char *end = memmem(answer, size, "\r\n\r\n", 4);
    int status = 0;

    *body = end ? end + 4 : answer + size;
    if (size < 12 || strncmp(answer, "HTTP/1.", 7) != 0 || sscanf(answer + 8, " %3d", &status) != 1)
        return 0;
    return end ? status : 0;
}

static int read_answer(int fd, struct buf *answer, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + CHECK_TIMEOUT_MS * US_PER_MS;
    char block[8192];

    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        int64_t left_us = until_us - clock_monotonic_us();
        ssize_t got;

        if (left_us <= 0 || poll(&p, 1, (int)(left_us / US_PER_MS) + 1) == 0)
            return err_set(e, ERR_TIMEOUT, "no whole answer within %d s", CHECK_TIMEOUT_MS / 1000);
        got = read(fd, block, sizeof block);
        if (got == 0)
            return 0;
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            return err_errno(e, errno, "reading the answer");
        if (got > 0 && buf_add(answer, block, (size_t)got) < 0)
            return 0; /* what fits is looked at */
    }
}

/* Whatever the URL calls the host, the connection goes to the copy: that is what is tested. */
static int ask_http(struct boot_check *b, const struct boot_owner_check *c, char seen[static 256], struct err *e)
{
    CLEANUP(buf_release) struct buf answer = {.limit_bytes = ANSWER_LIMIT_BYTES};
    CLEANUP(free_ptr) char *request = xasprintf("GET %s HTTP/1.0\r\nHost: %s:%d\r\nConnection: close\r\n\r\n", c->path, c->host, c->port);
    CLEANUP(close_fd) int fd = b->launch.api->connect(b->launch.target, b->launch.instance, b->address, c->port, CHECK_TIMEOUT_MS, e);
    const char *body;
    int status;

    if (fd < 0 || fd_write_all(fd, request, strlen(request), e) < 0 || read_answer(fd, &answer, e) < 0)
        return -1;
    if (!answer.data || !(status = boot_http_status(answer.data, answer.size_bytes, &body)))
        return err_set(e, ERR_PROTOCOL, "the answer is no HTTP");
    if (status < 200 || status > 299)
        return err_set(e, ERR_PROTOCOL, "it answers with status %d", status);
    if (!memmem(body, answer.size_bytes - (size_t)(body - answer.data), c->text, strlen(c->text)))
        return err_set(e, ERR_PROTOCOL, "status %d, and \"%.200s\" is not in the answer", status, c->text);
    snprintf(seen, 256, "status %d, and contains \"%.200s\"", status, c->text);
    return 0;
}

static int run_command(struct boot_check *b, const struct boot_owner_check *c, char seen[static 256], struct err *e)
{
    CLEANUP(buf_release) struct buf out = {.limit_bytes = 4096}, said = {.limit_bytes = 4096};
    int status = 0;

    if (remote_run(b->remote, c->text, NULL, 0, &out, &said, &status, CHECK_TIMEOUT_MS * 2, e) < 0)
        return -1;
    if (status)
        return err_set(e, ERR_IO, "exit status %d: %.300s", status, said.size_bytes ? said.data : out.size_bytes ? out.data : "it said nothing");
    if (out.data)
        out.data[strcspn(out.data, "\n")] = '\0';
    snprintf(seen, 256, "exit status 0: %.200s", out.data ? out.data : "");
    return 0;
}

int boot_owner_checks(struct boot_check *b, struct err *e)
{
    const char *at = step_string(b->step, "server.attributes.checks", "");
    struct boot_owner_check check;
    int more;

    while ((more = boot_owner_next(&at, &check, e)) > 0) {
        int64_t until_us = clock_monotonic_us() + PATIENCE_MS * US_PER_MS;
        char name[300], seen[256] = "";
        struct err why = {0};
        int result;

        if (check.is_http)
            snprintf(name, sizeof name, "owner: http://%.100s:%d%.150s", check.host, check.port, check.path);
        else
            snprintf(name, sizeof name, "owner: %.250s", check.text);
        while ((result = check.is_http ? ask_http(b, &check, seen, &why) : run_command(b, &check, seen, &why)) < 0 && clock_monotonic_us() < until_us)
            if (step_sleep_ms(b->step, AGAIN_MS, e) < 0)
                return -1;
        boot_line(b, name, result == 0, "%s", result == 0 ? seen : why.message);
    }
    return more;
}
