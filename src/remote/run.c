#include "remote/remote_private.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/limits.h"

#include <libssh/callbacks.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 32768
#define QUIET_US US_PER_S            /* after the exit status, for output of what it left behind, where nobody wants that */
#define OUTPUT_END_US (30 * US_PER_S) /* where somebody does: for the end of what it printed */
#define SUDO_TIMEOUT_MS 60000

/* One command. */
struct call {
    struct remote *remote;
    ssh_channel channel;
    struct ssh_channel_callbacks_struct callbacks;
    const struct secret *first;  /* goes before the input: sudo's password; or NULL */
    const char *input;
    size_t input_bytes, fed;     /* of first, a newline, and input together */
    struct buf *out, *err;
    int exit_status;             /* -1: not known */
    int64_t heard_us;
    bool eof_sent;
};

static void on_exit_status(ssh_session session, ssh_channel channel, int status, void *user)
{
    (void)session, (void)channel;
    ((struct call *)user)->exit_status = status;
}

static void on_exit_signal(ssh_session session, ssh_channel channel, const char *name, int core, const char *words, const char *language,
                           void *user)
{
    static const struct {
        const char *name;
        int number;
    } signals[] = {{"KILL", SIGKILL}, {"TERM", SIGTERM}, {"INT", SIGINT},   {"HUP", SIGHUP}, {"ABRT", SIGABRT},
                   {"SEGV", SIGSEGV}, {"PIPE", SIGPIPE}, {"QUIT", SIGQUIT}, {"ILL", SIGILL}, {"FPE", SIGFPE}};
    struct call *c = user;

    (void)session, (void)channel, (void)core, (void)words, (void)language;
    c->exit_status = 255;
    for (size_t i = 0; i < ARRAY_COUNT(signals); i++)
        if (strcmp(signals[i].name, name) == 0)
            c->exit_status = 128 + signals[i].number;
}

static int lost(const struct call *c, struct err *e)
{
    return err_set(e, ERR_UNREACHABLE, "%s: the connection was lost: %s", c->remote->name, ssh_get_error(c->remote->session));
}

static int start_command(struct call *c, const char *command, int64_t until_us, struct err *e)
{
    int result;

    c->channel = ssh_channel_new(c->remote->session);
    MUST(c->channel);
    c->callbacks.userdata = c;
    c->callbacks.channel_exit_status_function = on_exit_status;
    c->callbacks.channel_exit_signal_function = on_exit_signal;
    ssh_callbacks_init(&c->callbacks);
    if (ssh_set_channel_callbacks(c->channel, &c->callbacks) != SSH_OK)
        return err_set(e, ERR_INTERNAL, "can't watch a channel");
    while ((result = ssh_channel_open_session(c->channel)) == SSH_AGAIN)
        if (remote_wait(c->remote, until_us, "starting a command", e) < 0)
            return -1;
    if (result != SSH_OK)
        return lost(c, e);
    while ((result = ssh_channel_request_exec(c->channel, command)) == SSH_AGAIN)
        if (remote_wait(c->remote, until_us, "starting a command", e) < 0)
            return -1;
    return result == SSH_OK ? 0 : err_set(e, ERR_DENIED, "%s does not run commands: %s", c->remote->name, ssh_get_error(c->remote->session));
}

/* Reads what has come; the count, or -1 with ERR_LIMIT or ERR_UNREACHABLE. */
static int take(struct call *c, bool is_stderr, struct err *e)
{
    struct buf *to = is_stderr ? c->err : c->out;
    char block[BLOCK_BYTES];
    int total = 0, got;

    while ((got = ssh_channel_read_nonblocking(c->channel, block, sizeof block, is_stderr)) > 0) {
        total += got;
        if (to && buf_add(to, block, (size_t)got) < 0 && !is_stderr)
            return err_set(e, ERR_LIMIT, "%s: a command printed more than %zu bytes", c->remote->name, to->size_bytes);
        if (total > BLOCK_BYTES * 16)
            break; /* time limits must be looked at, too */
    }
    if (got == SSH_ERROR && ssh_channel_is_open(c->channel))
        return lost(c, e);
    return total;
}

/* The bytes of stdin from `fed` on that lie in one piece. */
static size_t next_piece(const struct call *c, const char **piece)
{
    size_t first = c->first ? c->first->size_bytes : 0, newline = c->first ? 1 : 0;

    if (c->fed < first) {
        *piece = c->first->bytes + c->fed;
        return first - c->fed;
    }
    if (c->fed < first + newline) {
        *piece = "\n";
        return 1;
    }
    *piece = c->input + (c->fed - first - newline);
    return c->input_bytes - (c->fed - first - newline);
}

static int feed(struct call *c, struct err *e)
{
    while (!c->eof_sent && ssh_channel_is_open(c->channel)) {
        const char *piece = NULL;
        size_t size = next_piece(c, &piece), window = ssh_channel_window_size(c->channel);
        int put;

        if (size == 0) {
            c->eof_sent = true;
            return ssh_channel_send_eof(c->channel) == SSH_ERROR ? lost(c, e) : 0;
        }
        if (window == 0)
            return 0;
        if (size > window)
            size = window;
        put = ssh_channel_write(c->channel, piece, (uint32_t)(size < BLOCK_BYTES ? size : BLOCK_BYTES));
        if (put == SSH_ERROR) {
            c->eof_sent = true; /* it wants no more: its exit status tells */
            return 0;
        }
        if (put <= 0)
            return 0;
        c->fed += (size_t)put;
    }
    return 0;
}

static int converse(struct call *c, int64_t until_us, struct err *e)
{
    c->heard_us = clock_monotonic_us();
    for (;;) {
        int out, err;

        if (feed(c, e) < 0)
            return -1;
        out = take(c, false, e);
        if (out < 0)
            return -1;
        err = take(c, true, e);
        if (err < 0)
            return -1;
        ssh_channel_get_exit_status(c->channel); /* after the end of output, reading handles no packets any more; this does */
        if (out || err) {
            c->heard_us = clock_monotonic_us();
        } else if (ssh_channel_is_closed(c->channel) || (c->exit_status >= 0 && ssh_channel_is_eof(c->channel)) ||
                   (c->exit_status >= 0 && !c->out && clock_monotonic_us() - c->heard_us > QUIET_US)) {
            break;
        } else if (c->exit_status >= 0 && clock_monotonic_us() - c->heard_us > OUTPUT_END_US) {
            return err_set(e, ERR_TIMEOUT, "%s: a command ended and its output did not: something that it started holds it open, or the network stands still",
                           c->remote->name);
        } else if (!ssh_is_connected(c->remote->session)) {
            return lost(c, e);
        }
        if (remote_wait(c->remote, until_us, "running a command", e) < 0)
            return -1;
    }
    if (c->exit_status < 0)
        return err_set(e, ERR_UNREACHABLE, "%s: a command ended without an exit status", c->remote->name);
    return c->out && !ssh_channel_is_eof(c->channel) ? lost(c, e) : 0; /* output goes by a window, its status does not: it may come before */
}

static void bound(struct buf *b)
{
    if (b && b->limit_bytes == 0)
        b->limit_bytes = LIMIT_COMMAND_OUTPUT_BYTES;
}

static int run_call(struct remote *r, const char *command, const struct secret *first, const void *input, size_t input_bytes,
                    struct buf *out, struct buf *err, int *exit_status, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    struct call c = {.remote = r, .first = first, .input = input, .input_bytes = input_bytes, .out = out, .err = err, .exit_status = -1};
    int result;

    bound(out);
    bound(err);
    result = start_command(&c, command, until_us, e);
    if (result == 0)
        result = converse(&c, until_us, e);
    if (result < 0 && ssh_channel_is_open(c.channel))
        ssh_channel_request_send_signal(c.channel, "KILL"); /* sshd passes it on for all logins but root's: see wrap */
    ssh_channel_close(c.channel);
    ssh_remove_channel_callbacks(c.channel, &c.callbacks);
    ssh_channel_free(c.channel);
    if (result == 0)
        *exit_status = c.exit_status;
    return result;
}

/* A POSIX shell whatever the login's is, and an end over there, too, soon after we gave up: sshd passes no signals on to what root
 * runs, and a silent program does not notice that its channel is gone. */
static char *wrap(const char *command, int timeout_ms)
{
    CLEANUP(free_ptr) char *inner = remote_quote(command);

    return xasprintf("if command -v timeout >/dev/null 2>&1; then exec timeout -k 2 %d sh -c %s; else exec sh -c %s; fi", timeout_ms / 1000 + 2,
                     inner, inner);
}

int remote_run(struct remote *r, const char *command, const void *input, size_t input_bytes, struct buf *out, struct buf *err,
               int *exit_status, int timeout_ms, struct err *e)
{
    CLEANUP(free_ptr) char *wrapped = wrap(command, timeout_ms), *quoted = remote_quote(wrapped), *line = xasprintf("exec sh -c %s", quoted);

    return run_call(r, line, NULL, input, input_bytes, out, err, exit_status, timeout_ms, e);
}

/* ---- As root ---- */

/* Finds out once how sudo is to be called. A password must be sent only to a sudo that asks for it: one that doesn't would hand
 * it to the command as its input. -k: whatever sudo remembers is not counted on. */
static int check_sudo(struct remote *r, struct err *e)
{
    CLEANUP(buf_release) struct buf said = {0};
    int status = 0, result;

    if (r->sudo_checked)
        return 0;
    /* One call: the shell in between reads nothing of its stdin. */
    if (r->sudo == REMOTE_SUDO_PASSWORD && r->sudo_password.size_bytes > 0)
        result = run_call(r, "exec sh -c 'LC_ALL=C; export LC_ALL; sudo -k -n true 2>/dev/null && exit 0; sudo -k -S -p \"\" true && exit 3'",
                          &r->sudo_password, NULL, 0, NULL, &said, &status, SUDO_TIMEOUT_MS, e);
    else
        result = remote_run(r, "LC_ALL=C sudo -k -n true", NULL, 0, NULL, &said, &status, SUDO_TIMEOUT_MS, e);
    if (result < 0)
        return err_wrap(e, "asking for sudo");
    if (status == 0) {
        r->sudo = REMOTE_SUDO_NOPASSWD;
    } else if (status == 3) {
        status = 0;
    }
    if (status != 0)
        return err_set(e, ERR_DENIED, "%s: sudo refuses: %.*s", r->name, said.data ? (int)strcspn(said.data, "\n") : 10,
                       said.data ? said.data : "no reason");
    r->sudo_checked = true;
    return 0;
}

int remote_run_root(struct remote *r, const char *command, const void *input, size_t input_bytes, struct buf *out, struct buf *err,
                    int *exit_status, int timeout_ms, struct err *e)
{
    CLEANUP(free_ptr) char *wrapped = NULL, *quoted = NULL, *line = NULL;

    if (r->is_root)
        return remote_run(r, command, input, input_bytes, out, err, exit_status, timeout_ms, e);
    if (r->sudo == REMOTE_SUDO_NONE)
        return err_set(e, ERR_DENIED, "%s is not root, and its credential allows no sudo: set sudo to nopasswd or password", r->name);
    if (check_sudo(r, e) < 0)
        return -1;
    wrapped = wrap(command, timeout_ms);
    quoted = remote_quote(wrapped);
    line = xasprintf("LC_ALL=C exec sudo %s -- sh -c %s", r->sudo == REMOTE_SUDO_NOPASSWD ? "-n" : "-k -S -p ''", quoted);
    return run_call(r, line, r->sudo == REMOTE_SUDO_PASSWORD ? &r->sudo_password : NULL, input, input_bytes, out, err, exit_status, timeout_ms,
                    e);
}

/* ---- What must succeed ---- */

static int must(struct remote *r, const char *command, int status, struct buf *err, struct err *e)
{
    const char *tail = "it said nothing";

    if (status == 0)
        return 0;
    while (err->size_bytes > 0 && strchr(" \r\n", err->data[err->size_bytes - 1]))
        err->data[--err->size_bytes] = '\0';
    if (err->size_bytes > 0)
        tail = err->size_bytes > 500 ? err->data + err->size_bytes - 500 : err->data;
    return err_set(e, ERR_IO, "%s: `%.120s%s` failed with exit status %d: %s", r->name, command, strlen(command) > 120 ? "…" : "", status, tail);
}

int remote_must(struct remote *r, const char *command, struct buf *out, int timeout_ms, struct err *e)
{
    CLEANUP(buf_release) struct buf err = {0};
    int status = 0;

    if (remote_run(r, command, NULL, 0, out, &err, &status, timeout_ms, e) < 0)
        return -1;
    return must(r, command, status, &err, e);
}

int remote_must_root(struct remote *r, const char *command, const void *input, size_t input_bytes, struct buf *out, int timeout_ms,
                     struct err *e)
{
    CLEANUP(buf_release) struct buf err = {0};
    int status = 0;

    if (remote_run_root(r, command, input, input_bytes, out, &err, &status, timeout_ms, e) < 0)
        return -1;
    return must(r, command, status, &err, e);
}

int remote_put_root(struct remote *r, const char *path, const void *bytes, size_t size, unsigned mode, int timeout_ms, struct err *e)
{
    CLEANUP(free_ptr) char *quoted = remote_quote(path), *command = NULL;
    uint8_t digest[HASH_SHA256_SIZE];
    char hex[HASH_SHA256_HEX_SIZE];

    hash_sha256(bytes, size, digest);
    hash_hex(digest, sizeof digest, hex);
    command = xasprintf("umask 077; t=$(mktemp %s.XXXXXX) || exit 1; trap 'rm -f \"$t\"' EXIT; cat > \"$t\" || exit 1; "
                        "s=$(sha256sum < \"$t\") || exit 1; [ \"${s%%%% *}\" = %s ] || { echo 'it arrived damaged' >&2; exit 1; }; "
                        "chmod %o \"$t\" && mv -f \"$t\" %s && trap - EXIT",
                        quoted, hex, mode, quoted);
    if (remote_must_root(r, command, bytes, size, NULL, timeout_ms, e) < 0)
        return err_wrap(e, "can't write %s", path);
    return 0;
}

char *remote_quote(const char *text)
{
    char *out = xmalloc(strlen(text) * 4 + 3), *at = out;

    *at++ = '\'';
    for (; *text; text++) {
        if (*text == '\'')
            at = stpcpy(at, "'\\''");
        else
            *at++ = *text;
    }
    *at++ = '\'';
    *at = '\0';
    return out;
}
