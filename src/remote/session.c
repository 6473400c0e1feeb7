#include "remote/remote_private.h"
#include "base/clock.h"
#include "base/net.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPEN_TIMEOUT_MS 20000
#define WAIT_STEP_MS 200
#define PROMPTS_MOST 8

int remote_wait(struct remote *r, int64_t until_us, const char *doing, struct err *e)
{
    int64_t left_us = until_us - clock_monotonic_us();
    short events = (ssh_get_poll_flags(r->session) & SSH_WRITE_PENDING) ? POLLIN | POLLOUT : POLLIN;
    struct pollfd p = {ssh_get_fd(r->session), events, 0};

    if (left_us <= 0)
        return err_set(e, ERR_TIMEOUT, "%s: time is over while %s", r->name, doing);
    if (r->cancelled && r->cancelled(r->user_data))
        return err_set(e, ERR_CANCELLED, "%s: cancelled while %s", r->name, doing);
    if (poll(&p, 1, left_us / US_PER_MS < WAIT_STEP_MS ? (int)(left_us / US_PER_MS) + 1 : WAIT_STEP_MS) < 0 && errno != EINTR)
        return err_errno(e, errno, "%s: can't wait", r->name);
    return 0;
}

void remote_close(struct remote **held)
{
    struct remote *r = *held;

    if (!r)
        return;
    if (r->session)
        ssh_free(r->session); /* without ssh_disconnect: that forgets a socket that was handed in (libssh 0.10), this closes it */
    jump_close(&r->jump);
    secret_release(&r->sudo_password);
    free(r->name);
    free(r);
    *held = NULL;
}

const char *remote_host_key(const struct remote *r) { return r->host_key; }

/* ---- Connecting ---- */

static int dial(const struct remote_options *o, struct remote *r, int port, int timeout_ms, int *fd, struct err *e)
{
    struct remote *through = NULL;

    if (o->fd > 0) {
        *fd = o->fd;
        return 0;
    }
    if (!o->jump) {
        *fd = net_connect(o->address, port, NULL, timeout_ms, e);
        return *fd < 0 ? -1 : 0;
    }
    if (remote_open(o->jump, &through, e) < 0)
        return err_wrap(e, "on the way through the jump host");
    return jump_open(through, o->address, port, timeout_ms, &r->jump, fd, e);
}

/* Nothing of the runner's own surroundings (its ~/.ssh) may decide how a source is reached. */
static int set_up(struct remote *r, const struct remote_options *o, int port, int fd, struct err *e)
{
    bool no = false;
    unsigned number = (unsigned)port;
    socket_t socket = fd;

    r->session = ssh_new();
    MUST(r->session);
    if (ssh_options_set(r->session, SSH_OPTIONS_PROCESS_CONFIG, &no) < 0 || ssh_options_set(r->session, SSH_OPTIONS_HOST, o->address) < 0 ||
        ssh_options_set(r->session, SSH_OPTIONS_PORT, &number) < 0 || ssh_options_set(r->session, SSH_OPTIONS_USER, o->user) < 0 ||
        ssh_options_set(r->session, SSH_OPTIONS_FD, &socket) < 0) {
        close(fd);
        return err_set(e, ERR_INVALID, "%s: %s", r->name, ssh_get_error(r->session));
    }
    ssh_set_blocking(r->session, 0);
    return 0;
}

static int shake_hands(struct remote *r, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;

    for (;;) {
        int result = ssh_connect(r->session);

        if (result == SSH_OK)
            return 0;
        if (result != SSH_AGAIN)
            return err_set(e, ERR_UNREACHABLE, "%s: no SSH connection: %s", r->name, ssh_get_error(r->session));
        if (remote_wait(r, until_us, "connecting", e) < 0)
            return -1;
    }
}

static int read_host_key(struct remote *r, struct err *e)
{
    unsigned char *hash = NULL;
    size_t size = 0;
    ssh_key key = NULL;
    char *text = NULL;

    if (ssh_get_server_publickey(r->session, &key) == SSH_OK && ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &size) == 0)
        text = ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, size);
    if (text)
        snprintf(r->host_key, sizeof r->host_key, "%s", text);
    ssh_string_free_char(text);
    ssh_clean_pubkey_hash(&hash);
    ssh_key_free(key);
    return r->host_key[0] ? 0 : err_set(e, ERR_PROTOCOL, "%s: its host key can't be read", r->name);
}

static int check_host_key(const struct remote *r, const struct remote_options *o, struct err *e)
{
    if (o->host_key && strcmp(o->host_key, r->host_key) == 0)
        return 0;
    if (o->host_key)
        return err_set(e, ERR_DENIED,
                       "%s has a changed host key: pinned is %s, it shows %s. Somebody may be in between, or the machine was installed anew: "
                       "compare with `ssh-keygen -lf` on its console, and trust the new key only if it is the machine's",
                       r->name, o->host_key, r->host_key);
    if (o->accept_unknown)
        return 0;
    return err_set(e, ERR_DENIED, "%s has a host key that is not known yet, %s: compare it with `ssh-keygen -lf` on its console, then trust it",
                   r->name, r->host_key);
}

/* ---- Logging in ---- */

/* Repeats a libssh call for as long as it says "again". */
#define AUTH_LOOP(result, call, r, until_us, e)                                 \
    while (((result) = (call)) == SSH_AUTH_AGAIN)                               \
        if (remote_wait((r), (until_us), "logging in", (e)) < 0)                \
            return -1

static int login_with_key(struct remote *r, const struct remote_options *o, int64_t until_us, int *result, struct err *e)
{
    ssh_key key = NULL;
    int waited = 0;

    if (ssh_pki_import_privkey_base64(o->private_key, NULL, NULL, NULL, &key) != SSH_OK)
        return err_set(e, ERR_INVALID, "the private key for %s can't be read: it must be an OpenSSH or PEM key without a passphrase", r->name);
    while ((*result = ssh_userauth_publickey(r->session, NULL, key)) == SSH_AUTH_AGAIN && waited == 0)
        waited = remote_wait(r, until_us, "logging in", e);
    ssh_key_free(key);
    return waited;
}

/* "keyboard-interactive": every question that hides its answer gets the password. */
static int login_with_answers(struct remote *r, const struct remote_options *o, int64_t until_us, int *result, struct err *e)
{
    for (int round = 0; round < PROMPTS_MOST; round++) {
        int count;

        AUTH_LOOP(*result, ssh_userauth_kbdint(r->session, NULL, NULL), r, until_us, e);
        if (*result != SSH_AUTH_INFO)
            return 0;
        count = ssh_userauth_kbdint_getnprompts(r->session);
        for (int i = 0; i < count; i++) {
            char echo = 0;

            ssh_userauth_kbdint_getprompt(r->session, (unsigned)i, &echo);
            if (ssh_userauth_kbdint_setanswer(r->session, (unsigned)i, echo ? "" : o->password) < 0)
                return err_set(e, ERR_PROTOCOL, "%s: %s", r->name, ssh_get_error(r->session));
        }
    }
    return err_set(e, ERR_UNAUTHENTICATED, "%s keeps asking questions at login", r->name);
}

static int try_password(struct remote *r, const struct remote_options *o, int64_t until_us, int methods, int *result, struct err *e)
{
    if (methods & SSH_AUTH_METHOD_PASSWORD) {
        AUTH_LOOP(*result, ssh_userauth_password(r->session, NULL, o->password), r, until_us, e);
        if (*result == SSH_AUTH_SUCCESS || *result == SSH_AUTH_PARTIAL)
            return 0;
    }
    return methods & SSH_AUTH_METHOD_INTERACTIVE ? login_with_answers(r, o, until_us, result, e) : 0;
}

static void name_methods(int methods, char *text, size_t size)
{
    snprintf(text, size, "%s%s%s%s", methods & SSH_AUTH_METHOD_PUBLICKEY ? " publickey" : "", methods & SSH_AUTH_METHOD_PASSWORD ? " password" : "",
             methods & SSH_AUTH_METHOD_INTERACTIVE ? " keyboard-interactive" : "", methods & SSH_AUTH_METHOD_GSSAPI_MIC ? " gssapi" : "");
}

static int log_in(struct remote *r, const struct remote_options *o, int timeout_ms, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    int result, methods;
    char offered[128];

    AUTH_LOOP(result, ssh_userauth_none(r->session, NULL), r, until_us, e);
    if (result == SSH_AUTH_SUCCESS)
        return 0;
    methods = ssh_userauth_list(r->session, NULL);
    if (o->private_key && (methods & SSH_AUTH_METHOD_PUBLICKEY) && login_with_key(r, o, until_us, &result, e) < 0)
        return -1;
    if (result == SSH_AUTH_PARTIAL) /* key and password are wanted */
        methods = ssh_userauth_list(r->session, NULL);
    if (result != SSH_AUTH_SUCCESS && o->password && try_password(r, o, until_us, methods, &result, e) < 0)
        return -1;
    if (result == SSH_AUTH_SUCCESS)
        return 0;
    if (!ssh_is_connected(r->session))
        return err_set(e, ERR_UNREACHABLE, "%s: the connection ended at login: %s", r->name, ssh_get_error(r->session));
    name_methods(methods, offered, sizeof offered);
    return err_set(e, ERR_UNAUTHENTICATED, "%s refused the login with %s: it offers%s; check the user, the credential and the machine's sshd", r->name,
                   o->private_key && o->password ? "key and password" : o->private_key ? "this key" : o->password ? "this password" : "nothing",
                   offered);
}

/* ---- The whole ---- */

/* Connected and compared, not logged in. */
static int open_session(const struct remote_options *o, struct remote *r, struct err *e)
{
    int port = o->port ? o->port : 22, timeout_ms = o->timeout_ms ? o->timeout_ms : OPEN_TIMEOUT_MS, fd = -1;

    r->name = xasprintf("%s@%s:%d", o->user, o->address, port);
    r->is_root = strcmp(o->user, "root") == 0;
    r->sudo = o->sudo;
    r->cancelled = o->cancelled;
    r->user_data = o->user_data;
    if (o->sudo == REMOTE_SUDO_PASSWORD && (o->sudo_password || o->password)) {
        const char *password = o->sudo_password ? o->sudo_password : o->password;

        secret_set(&r->sudo_password, password, strlen(password));
    }
    if (dial(o, r, port, timeout_ms, &fd, e) < 0)
        return err_wrap(e, "%s", r->name);
    if (set_up(r, o, port, fd, e) < 0 || shake_hands(r, timeout_ms, e) < 0)
        return -1;
    return read_host_key(r, e);
}

int remote_open(const struct remote_options *options, struct remote **out, struct err *e)
{
    CLEANUP(remote_close) struct remote *r = xcalloc(1, sizeof *r);
    int timeout_ms = options->timeout_ms ? options->timeout_ms : OPEN_TIMEOUT_MS;

    if (open_session(options, r, e) < 0 || check_host_key(r, options, e) < 0 || log_in(r, options, timeout_ms, e) < 0)
        return -1;
    *out = r;
    r = NULL;
    return 0;
}

int remote_answers(const struct remote_options *o, struct err *why)
{
    int port = o->port ? o->port : 22, timeout_ms = o->timeout_ms ? o->timeout_ms : OPEN_TIMEOUT_MS;
    CLEANUP(remote_close) struct remote *through = NULL;

    if (!o->jump)
        return net_answers(o->address, port, timeout_ms, why);
    if (remote_open(o->jump, &through, why) < 0) {
        err_wrap(why, "on the way through the jump host");
        return -1;
    }
    return jump_answers(through, o->address, port, timeout_ms, why);
}

int remote_scan(const struct remote_options *options, char host_key[static REMOTE_HOST_KEY_SIZE], struct err *e)
{
    CLEANUP(remote_close) struct remote *r = xcalloc(1, sizeof *r);

    if (open_session(options, r, e) < 0)
        return -1;
    memcpy(host_key, r->host_key, REMOTE_HOST_KEY_SIZE);
    return 0;
}
