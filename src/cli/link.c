#include "cli/link.h"
#include "base/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADERS_MAX 8

struct cli_link {
    struct http_client *client;
    struct cli_kept kept;
    char *url, *authorization; /* "Authorization: Bearer …", or NULL */
};

void cli_kept_release(struct cli_kept *kept)
{
    if (kept->token)
        explicit_bzero(kept->token, strlen(kept->token));
    free_ptr(&kept->url);
    free_ptr(&kept->token);
    free_ptr(&kept->token_id);
    free_ptr(&kept->ca_file);
    *kept = (struct cli_kept){0};
}

int cli_kept_path(const char *name, char **out, struct err *e)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

    if (config && config[0] == '/')
        *out = xasprintf("%s/slipway/%s", config, name);
    else if (home && home[0] == '/')
        *out = xasprintf("%s/.config/slipway/%s", home, name);
    else
        return err_set(e, ERR_INVALID, "neither XDG_CONFIG_HOME nor HOME names a folder to keep credentials in");
    return 0;
}

static char *member(const json_t *object, const char *name)
{
    const char *value = json_get_string(object, name, NULL);

    return value && *value ? xstrdup(value) : NULL;
}

int cli_kept_read(struct cli_kept *out, struct err *e)
{
    CLEANUP(free_ptr) char *path = NULL;
    CLEANUP(json_free) json_t *held = NULL;
    struct stat st;

    if (cli_kept_path("credentials", &path, NULL) < 0 || stat(path, &st) < 0)
        return 0;
    if (st.st_mode & 077)
        return err_set(e, ERR_DENIED, "others may read %s: chmod 600 it, or sign in again with `slipway login`", path);
    if (json_read_file(path, &held, e) < 0)
        return err_wrap(e, "%s (remove it and sign in again with `slipway login`)", path);
    *out = (struct cli_kept){.url = member(held, "url"),
                             .token = member(held, "token"),
                             .token_id = member(held, "token_id"),
                             .ca_file = member(held, "ca_file")};
    return 0;
}

int cli_kept_write(const struct cli_kept *kept, struct err *e)
{
    CLEANUP(free_ptr) char *path = NULL, *folder = NULL, *text = NULL;
    CLEANUP(json_free)
    json_t *held = json_pack("{s:s*,s:s*,s:s*,s:s*}", "url", kept->url, "token", kept->token, "token_id",
                             kept->token_id, "ca_file", kept->ca_file);
    int done;

    if (!held)
        return err_set(e, ERR_INTERNAL, "the credentials are not UTF-8");
    if (cli_kept_path("credentials", &path, e) < 0 || cli_kept_path("", &folder, e) < 0 ||
        file_make_dirs(folder, 0700, e) < 0)
        return -1;
    text = json_text(held);
    done = file_write(path, text, strlen(text), 0600, e);
    explicit_bzero(text, strlen(text));
    return done;
}

int cli_kept_remove(struct err *e)
{
    CLEANUP(free_ptr) char *path = NULL;

    if (cli_kept_path("credentials", &path, e) < 0)
        return -1;
    if (unlink(path) < 0 && errno != ENOENT)
        return err_errno(e, errno, "removing %s", path);
    return 0;
}

void cli_link_free(struct cli_link **link)
{
    struct cli_link *l = *link;

    if (!l)
        return;
    http_close(&l->client);
    cli_kept_release(&l->kept);
    if (l->authorization)
        explicit_bzero(l->authorization, strlen(l->authorization));
    free_ptr(&l->authorization);
    free_ptr(&l->url);
    free_ptr(link);
}

static const char *first_of(const char *a, const char *b, const char *c) { return a && *a ? a : b && *b ? b : c; }

static int link_make(struct cli_call *call, struct err *e)
{
    struct cli_link *l = xcalloc(1, sizeof *l);
    const char *url, *token, *ca;

    call->link = l;
    if (cli_kept_read(&l->kept, e) < 0)
        return -1;
    url = first_of(cli_value(call, "url"), getenv("SLIPWAY_URL"), l->kept.url);
    token = first_of(getenv("SLIPWAY_TOKEN"), l->kept.token, NULL);
    ca = first_of(cli_value(call, "ca"), getenv("SLIPWAY_CA"), l->kept.ca_file);
    if (!url)
        return err_set(
            e, ERR_INVALID,
            "which factory? say --url https://HOST:PORT, set SLIPWAY_URL, or sign in with `slipway login --url …`");
    if (strncmp(url, "https://", 8) != 0 || !url[8])
        return err_set(e, ERR_INVALID, "the factory's address must begin with https://, and \"%s\" does not", url);
    l->url = xstrdup(url);
    while (l->url[strlen(l->url) - 1] == '/')
        l->url[strlen(l->url) - 1] = '\0';
    /* A kept token goes only to the factory that gave it. */
    if (token && token == l->kept.token && l->kept.url && strcmp(l->kept.url, l->url) != 0)
        token = NULL;
    l->authorization = token ? xasprintf("Authorization: Bearer %s", token) : NULL;
    return http_open(&(struct http_options){.ca_file = ca}, &l->client, e);
}

int cli_link_open(struct cli_call *call, struct http_client **client, const char **url, struct err *e)
{
    if (!call->link && link_make(call, e) < 0)
        return -1;
    *client = call->link->client;
    *url = call->link->url;
    return 0;
}

/* Fills in what every request has. headers has room for HEADERS_MAX. */
static int prepare(struct cli_call *call, struct http_request *r, const char *path, const char **headers, char **url,
                   struct err *e)
{
    struct http_client *client;
    const char *base;
    int count = 0;

    if (cli_link_open(call, &client, &base, e) < 0)
        return -1;
    if (!call->link->authorization)
        return err_set(e, ERR_UNAUTHENTICATED, "no token for %s: sign in with `slipway login`, or set SLIPWAY_TOKEN",
                       base);
    *url = xasprintf("%s%s", base, path);
    headers[count++] = call->link->authorization;
    for (const char *const *h = r->headers; h && *h; h++) {
        MUST(count < HEADERS_MAX - 1);
        headers[count++] = *h;
    }
    headers[count] = NULL;
    r->headers = headers;
    r->url = *url;
    return 0;
}

static int read_version(struct cli_call *call, const char *path, int64_t *version, struct err *e)
{
    CLEANUP(json_free) json_t *held = NULL;

    if (cli_request(call, "GET", path, NULL, NULL, &held, e) < 0)
        return -1;
    return json_need_int(held, "version", version, e);
}

/* Sends r, of which method, own headers and body are set; only a 2xx is success. A refusal's words are the factory's
 * alone. */
static int send_request(struct cli_call *call, struct http_request *r, const char *path, struct http_response *answer,
                        struct err *e)
{
    CLEANUP(free_ptr) char *url = NULL;
    const char *headers[HEADERS_MAX];

    if (prepare(call, r, path, headers, &url, e) < 0 || http_do(call->link->client, r, answer, e) < 0)
        return -1;
    return answer->status / 100 == 2 ? 0 : http_problem(answer, e);
}

int cli_request(struct cli_call *call, const char *method, const char *path, const json_t *body, const char *match,
                json_t **out, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    CLEANUP(free_ptr) char *if_match = NULL, *text = body ? json_text(body) : NULL;
    const char *own[2] = {NULL};
    struct http_request r = {.method = method,
                             .headers = own,
                             .body = text,
                             .body_bytes = text ? strlen(text) : 0,
                             .content_type = text ? "application/json" : NULL,
                             .timeout_ms = 120000,
                             .limit_bytes = LIMIT_REQUEST_BODY_BYTES};
    int64_t version;
    int done;

    if (match) {
        if (read_version(call, match, &version, e) < 0)
            return -1;
        own[0] = if_match = xasprintf("If-Match: \"%lld\"", (long long)version);
    }
    done = send_request(call, &r, path, &answer, e);
    if (text)
        explicit_bzero(text, strlen(text)); /* it may hold a secret */
    if (done < 0)
        return -1;
    if (out && answer.body.size_bytes > 0 && json_read(answer.body.data, answer.body.size_bytes, out, e) < 0) {
        if (e)
            e->kind = ERR_PROTOCOL;
        return err_wrap(e, "the factory's answer to %s %s", method, path);
    }
    return 0;
}

int cli_transfer(struct cli_call *call, const char *method, const char *path, const char *type, const void *body,
                 size_t size, struct http_response *answer, struct err *e)
{
    struct http_request r = {.method = method,
                             .content_type = type,
                             .body = body,
                             .body_bytes = size,
                             .timeout_ms = 600000,
                             .limit_bytes = LIMIT_REQUEST_BODY_BYTES};

    return send_request(call, &r, path, answer, e);
}

int cli_stream(struct cli_call *call, const char *path, const char *last_event_id,
               int (*on_body)(void *, const char *, size_t), void *user, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    CLEANUP(free_ptr) char *url = NULL, *last = last_event_id ? xasprintf("Last-Event-ID: %s", last_event_id) : NULL;
    const char *headers[HEADERS_MAX], *own[] = {"Accept: text/event-stream", last, NULL};
    struct http_request r = {.method = "GET", .headers = own, .timeout_ms = -1, .on_body = on_body, .user = user};

    if (prepare(call, &r, path, headers, &url, e) < 0 || http_do(call->link->client, &r, &answer, e) < 0)
        return -1;
    if (answer.status / 100 != 2)
        return http_problem(&answer, e);
    return 0;
}
