#include "steps/source.h"
#include "base/clock.h"
#include "base/net.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPEN_TIMEOUT_MS 45000 /* a source may be busy */
#define SERVICES_BYTES 1024

static bool is_cancelled(void *user) { return step_cancelled(user); }

/* "user@host:port" of the attribute `jump`; user and port may be left out. */
static int read_jump(const char *text, struct remote_options *jump, char *held, size_t size, struct err *e)
{
    char *at, *colon;

    if (strlen(text) >= size)
        return err_set(e, ERR_INVALID, "the attribute jump is too long");
    strcpy(held, text); /* fits: checked above */
    at = strchr(held, '@');
    if (at) {
        *at = '\0';
        jump->user = held;
    }
    jump->address = at ? at + 1 : held;
    colon = strrchr((char *)jump->address, ':');
    if (colon) {
        *colon = '\0';
        jump->port = atoi(colon + 1);
    }
    if (!*jump->address || !*jump->user || (colon && (jump->port < 1 || jump->port > 65535)))
        return err_set(e, ERR_INVALID, "the attribute jump is \"%s\"; it must be user@host:port", text);
    return 0;
}

static const char *pinned_key(const struct step *s)
{
    return step_string(s, "credential.host_key", step_string(s, "context.prerequisites.host_key", NULL));
}

static int read_credential(const struct step *s, struct remote_options *o, struct err *e)
{
    const char *kind, *secret, *sudo = step_string(s, "credential.sudo", "none");

    if (step_need_string(s, "credential.kind", &kind, e) < 0 || step_need_string(s, "credential.user", &o->user, e) < 0 ||
        step_need_string(s, "credential.secret", &secret, e) < 0)
        return err_wrap(e, "the server's attribute `credential` must name one that exists");
    if (strcmp(kind, "ssh_key") == 0)
        o->private_key = secret;
    else if (strcmp(kind, "ssh_password") == 0)
        o->password = secret;
    else
        return err_set(e, ERR_UNSUPPORTED, "a credential of the kind \"%s\" can't log in at a source", kind);
    o->sudo = strcmp(sudo, "password") == 0 ? REMOTE_SUDO_PASSWORD : strcmp(sudo, "nopasswd") == 0 ? REMOTE_SUDO_NOPASSWD : REMOTE_SUDO_NONE;
    o->sudo_password = step_string(s, "credential.sudo_secret", NULL);
    return 0;
}

/* What a way to a source is made of, for as long as it is used. */
struct way {
    struct remote_options to, jump;
    char parking[64], held[512];
};

/* The way to the address as the task says; NULL: to the server's own or its parking address. */
static int find_way(const struct step *s, enum source_at where, const char *address, struct way *w, struct err *e)
{
    const char *jump_text = step_string(s, "server.attributes.jump", NULL), *cidr;

    w->to = (struct remote_options){.fd = -1, .timeout_ms = OPEN_TIMEOUT_MS, .cancelled = is_cancelled, .user_data = (void *)(uintptr_t)s,
                                    .host_key = pinned_key(s), .address = address};
    if (read_credential(s, &w->to, e) < 0)
        return -1;
    if (!address && where == SOURCE_SERVING && step_need_string(s, "server.address", &w->to.address, e) < 0)
        return -1;
    if (!address && where == SOURCE_PARKED) {
        if (source_parking(s, w->parking, sizeof w->parking, &cidr, e) < 0)
            return -1;
        w->to.address = w->parking;
    }
    w->to.port = (int)step_int(s, "server.port", 22);
    if (jump_text && *jump_text) {
        w->jump = w->to;
        w->jump.port = 22;
        w->jump.host_key = step_string(s, "server.attributes.jump_host_key", step_string(s, "context.prerequisites.jump_host_key", NULL));
        if (read_jump(jump_text, &w->jump, w->held, sizeof w->held, e) < 0)
            return -1;
        w->to.jump = &w->jump;
    }
    return 0;
}

int source_open(const struct step *s, enum source_at where, bool accept_unknown, struct remote **out, struct err *e)
{
    struct way w = {0};

    if (find_way(s, where, NULL, &w, e) < 0)
        return -1;
    w.to.accept_unknown = accept_unknown;
    w.jump.accept_unknown = accept_unknown;
    return remote_open(&w.to, out, e);
}

int source_answers(const struct step *s, const char *address, int timeout_ms, struct err *why)
{
    struct way w = {0};

    if (find_way(s, SOURCE_PARKED, address, &w, why) < 0)
        return -1;
    if (!w.to.jump && net_is_own(w.to.address)) {
        err_set(why, ERR_WRONG_STATE, "%s is an address of this runner", w.to.address);
        return -1;
    }
    w.to.timeout_ms = timeout_ms;
    return remote_answers(&w.to, why);
}

int source_open_fd(const struct step *s, int fd, const char *address, struct remote **out, struct err *e)
{
    struct remote_options o = {.fd = fd, .address = address, .timeout_ms = OPEN_TIMEOUT_MS, .cancelled = is_cancelled,
                               .user_data = (void *)(uintptr_t)s, .host_key = pinned_key(s)};

    if (read_credential(s, &o, e) < 0) {
        close(fd);
        return -1;
    }
    return remote_open(&o, out, e);
}

int source_parking(const struct step *s, char *out, size_t size, const char **cidr, struct err *e)
{
    const char *text = step_string(s, "server.attributes.parking_address", NULL), *slash = text ? strchr(text, '/') : NULL;
    struct in_addr address;
    char *end = NULL;
    long prefix = slash ? strtol(slash + 1, &end, 10) : -1;

    if (!text)
        return err_set(e, ERR_INVALID, "the server has no attribute parking_address: where its source goes while the copy has its address");
    if (!slash || (size_t)(slash - text) >= size || end == slash + 1 || *end || prefix < 1 || prefix > 32)
        return err_set(e, ERR_INVALID, "the attribute parking_address is \"%s\"; it must be like 192.0.2.211/24", text);
    memcpy(out, text, (size_t)(slash - text));
    out[slash - text] = '\0';
    if (inet_pton(AF_INET, out, &address) != 1)
        return err_set(e, ERR_INVALID, "the attribute parking_address is \"%s\"; it must be like 192.0.2.211/24", text);
    *cidr = text;
    return 0;
}

int source_services(const struct step *s, char **out, struct err *e)
{
    const char *text = step_string(s, "server.attributes.services", "");
    char *list;

    if (strlen(text) >= SERVICES_BYTES)
        return err_set(e, ERR_LIMIT, "the attribute services is longer than %d bytes", SERVICES_BYTES);
    if (text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.@-\\, ")])
        return err_set(e, ERR_INVALID, "the attribute services is \"%s\"; it must be units' names with commas between", text);
    list = xstrdup(text);
    for (char *at = list; *at; at++)
        if (*at == ',')
            *at = ' ';
    *out = list;
    return 0;
}

int source_script(struct remote *r, const char *script, const char *const *arguments, struct buf *out, int timeout_ms, struct err *e)
{
    CLEANUP(buf_release) struct buf command = {0};

    buf_puts(&command, "sh -s --");
    for (; *arguments; arguments++) {
        CLEANUP(free_ptr) char *quoted = remote_quote(*arguments);

        buf_printf(&command, " %s", quoted);
    }
    return remote_must_root(r, command.data, script, strlen(script), out, timeout_ms, e);
}

int source_evidence(struct step *s, const char *text)
{
    int failed = 0;

    while (text && *text) {
        const char *end = text + strcspn(text, "\n"), *tab = memchr(text, '\t', (size_t)(end - text));
        bool passed = strncmp(text, "ok ", 3) == 0, known = passed || strncmp(text, "not ok ", 7) == 0;
        const char *name = text + (passed ? 3 : 7);

        if (known && tab && tab > name) {
            CLEANUP(free_ptr) char *held = xasprintf("%.*s", (int)(tab - name), name);

            step_evidence(s, held, passed, "%.*s", (int)(end - tab - 1), tab + 1);
            failed += !passed;
        }
        text = *end ? end + 1 : end;
    }
    return failed;
}

int source_phase(struct step *s, struct remote *r, const char *script, const char *const *arguments, int timeout_ms, struct buf *out, struct err *e)
{
    CLEANUP(buf_release) struct buf own = {0};
    struct buf *said = out ? out : &own;
    int result = source_script(r, script, arguments, said, timeout_ms, e), failed = source_evidence(s, said->data);

    if (result < 0)
        return failed ? err_set(e, ERR_WRONG_STATE, "%d line%s of evidence did not hold at \"%s\"", failed, failed == 1 ? "" : "s", arguments[0]) : -1;
    return failed || !said->data ? err_set(e, ERR_PROTOCOL, "the machine said nothing, or that something failed, and claims success") : 0;
}
