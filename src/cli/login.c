/* login and logout: a name and a password become a token of this machine's own, which can be revoked by itself. */
#include "base/clock.h"
#include "base/file.h"
#include "cli/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define LIMIT_LINE_BYTES 1024

/* A line from the terminal; without echo where it is a secret. */
static int ask_line(struct cli_call *call, const char *question, bool secret, struct secret *out, struct err *e)
{
    struct termios before, quiet;
    char line[LIMIT_LINE_BYTES];
    bool hides = secret && tcgetattr(fileno(call->in), &before) == 0;
    char *read_line;

    if (!isatty(fileno(call->in)))
        return err_set(e, ERR_INVALID, "there is no terminal to ask on: say --name and --password-file");
    fprintf(stderr, "%s: ", question);
    fflush(stderr);
    if (hides) {
        quiet = before;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(fileno(call->in), TCSAFLUSH, &quiet);
    }
    read_line = fgets(line, sizeof line, call->in);
    if (hides) {
        tcsetattr(fileno(call->in), TCSAFLUSH, &before);
        fputc('\n', stderr);
    }
    if (!read_line)
        return err_set(e, ERR_CANCELLED, "nothing was typed");
    secret_set(out, line, strcspn(line, "\r\n"));
    explicit_bzero(line, sizeof line);
    return 0;
}

/* Keeps the CA that a file or a fingerprint names as the factory's, in our own folder. */
static int keep_ca(struct cli_call *call, const char *url, char **ca_file, struct err *e)
{
    const char *fingerprint = cli_value(call, "fingerprint"), *named = cli_value(call, "ca");
    CLEANUP(buf_release) struct buf pem = {0};
    CLEANUP(free_ptr) char *pinned = NULL, *path = NULL, *folder = NULL;

    buf_init(&pem, 1 << 20);
    if (!named || !*named)
        named = getenv("SLIPWAY_CA");
    if (fingerprint) {
        if (http_pin(url, fingerprint, &pinned, e) < 0)
            return -1;
        buf_puts(&pem, pinned);
    } else if (named && *named) {
        if (file_read(named, 1 << 20, &pem, e) < 0)
            return -1;
    } else {
        return 0;
    }
    if (cli_kept_path("", &folder, e) < 0 || cli_kept_path("ca.pem", &path, e) < 0 ||
        file_make_dirs(folder, 0700, e) < 0 || file_write(path, pem.data, pem.size_bytes, 0600, e) < 0)
        return -1;
    *ca_file = path;
    path = NULL;
    return 0;
}

static int exchange(struct http_client *client, const char *url, const char *path, const char *const *headers,
                    const char *method, const json_t *body, struct http_response *answer, struct err *e)
{
    CLEANUP(free_ptr) char *whole = xasprintf("%s%s", url, path), *text = body ? json_text(body) : NULL;
    struct http_request r = {.method = method,
                             .url = whole,
                             .headers = headers,
                             .body = text,
                             .body_bytes = text ? strlen(text) : 0,
                             .content_type = text ? "application/json" : NULL};
    int done = http_do(client, &r, answer, e);

    if (text)
        explicit_bzero(text, strlen(text));
    if (done < 0)
        return -1;
    return answer->status / 100 == 2 ? 0 : http_problem(answer, e);
}

/* A session by name and password, then a token by the session, then the session's end. */
static int sign_in(struct http_client *client, const char *url, const char *name, const struct secret *password,
                   struct cli_kept *kept, struct err *e)
{
    CLEANUP(http_response_release) struct http_response session = {0}, made = {0}, ended = {0};
    CLEANUP(json_free)
    json_t *who = json_pack("{s:s,s:s}", "name", name, "password", password->bytes), *opened = NULL, *token = NULL,
           *wanted = NULL;
    CLEANUP(free_ptr) char *cookie = NULL, *csrf = NULL;
    char set[1024], host[65] = "", label[96];
    const char *text, *token_text, *token_id;

    if (!who)
        return err_set(e, ERR_INVALID, "name and password must be UTF-8");
    if (exchange(client, url, "/v1/sessions", NULL, "POST", who, &session, e) < 0 ||
        json_read(session.body.data ? session.body.data : "", session.body.size_bytes, &opened, e) < 0 ||
        json_need_string(opened, "csrf", &text, e) < 0)
        return -1;
    if (!http_header(&session, "set-cookie", set, sizeof set))
        return err_set(e, ERR_PROTOCOL, "the factory opened a session without a cookie");
    cookie = xasprintf("Cookie: %.*s", (int)strcspn(set, ";"), set);
    csrf = xasprintf("X-CSRF-Token: %s", text);
    gethostname(host, sizeof host - 1);
    /* Each login has a token of its own: two on one machine must not be one. */
    snprintf(label, sizeof label, "cli.%s.%llx", host[0] ? host : "unnamed", (unsigned long long)clock_now_us());
    wanted = json_pack("{s:s,s:s}", "name", label, "expires_in", "30d");
    if (!wanted ||
        exchange(client, url, "/v1/tokens", (const char *const[]){cookie, csrf, NULL}, "POST", wanted, &made, e) < 0 ||
        json_read(made.body.data ? made.body.data : "", made.body.size_bytes, &token, e) < 0 ||
        json_need_string(token, "token", &token_text, e) < 0 || json_need_string(token, "id", &token_id, e) < 0)
        return err_wrap(e, "making a token for this machine");
    kept->token = xstrdup(token_text);
    kept->token_id = xstrdup(token_id);
    exchange(client, url, "/v1/sessions/current", (const char *const[]){cookie, csrf, NULL}, "DELETE", NULL, &ended,
             NULL);
    return 0;
}

int cli_run_login(struct cli_call *call, struct err *e)
{
    CLEANUP(cli_kept_release) struct cli_kept kept = {0};
    CLEANUP(secret_release) struct secret name = {0}, password = {0};
    CLEANUP(http_close) struct http_client *client = NULL;
    struct http_client *ours;
    const char *url, *given = cli_value(call, "name"), *file = cli_value(call, "password-file");

    if (cli_link_open(call, &ours, &url, e) < 0)
        return -1;
    if (given)
        secret_set(&name, given, strlen(given));
    else if (ask_line(call, "Name", false, &name, e) < 0)
        return -1;
    if ((file ? cli_read_secret(call, file, &password, e) : ask_line(call, "Password", true, &password, e)) < 0)
        return -1;
    kept.url = xstrdup(url);
    if (keep_ca(call, url, &kept.ca_file, e) < 0 ||
        http_open(&(struct http_options){.ca_file = kept.ca_file}, &client, e) < 0 ||
        sign_in(client, url, name.bytes, &password, &kept, e) < 0 || cli_kept_write(&kept, e) < 0)
        return -1;
    if (call->json)
        fprintf(call->out, "{\"signed_in\": true}\n");
    else
        fprintf(call->out, "Signed in to %s. The token is good for 30 days; `slipway logout` ends it.\n", url);
    return 0;
}

int cli_run_logout(struct cli_call *call, struct err *e)
{
    CLEANUP(cli_kept_release) struct cli_kept kept = {0};

    if (cli_kept_read(&kept, e) < 0)
        return -1;
    if (kept.token_id && !getenv("SLIPWAY_TOKEN")) {
        CLEANUP(free_ptr) char *escaped = http_escape(kept.token_id), *path = xasprintf("/v1/tokens/%s", escaped);
        struct err refused = {0};

        /* The token must be gone from here whatever the factory says; but say what it says. */
        if (cli_request(call, "DELETE", path, NULL, NULL, NULL, &refused) < 0)
            fprintf(stderr, "slipway logout: the factory did not revoke the token: %s\n", refused.message);
    }
    if (cli_kept_remove(e) < 0)
        return -1;
    if (call->json)
        fputs("{\"signed_in\": false}\n", call->out);
    else
        fputs("Signed out.\n", call->out);
    return 0;
}
