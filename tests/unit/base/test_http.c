#include "base/clock.h"
#include "base/http.h"
#include "base/proc.h"
#include "tap.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/slipway-http-XXXXXX";
static char base_url[64];
static pid_t server;

/* A CA, a server's certificate (sent with the CA behind it), a client's, and another CA that signed nothing. */
static const char make_certificates[] =
    "exec 2>&1; set -e; new() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \"$@\"; }\n"
    "new -keyout ca.key -out ca.pem -subj /CN=test-ca\n"
    "new -keyout other.key -out other.pem -subj /CN=other-ca\n"
    "new -CA ca.pem -CAkey ca.key -keyout server.key -out s.pem -subj /CN=factory -addext subjectAltName=IP:127.0.0.1 "
    "-addext basicConstraints=critical,CA:FALSE\n"
    "new -CA ca.pem -CAkey ca.key -keyout client.key -out client.pem -subj /CN=runner:dc1 -addext basicConstraints=critical,CA:FALSE\n"
    "cat s.pem ca.pem > server.pem\n";

static void start_server(const char *script)
{
    const char *const argv[] = {"sh", "-c", make_certificates, NULL};
    struct err e = {0};
    int out[2];
    char port[16] = "";

    ok(mkdtemp(folder) && proc_must(&(struct proc_options){.argv = argv, .folder = folder}, NULL, &e) == 0, "certificates: %s", e.message);
    if (pipe(out) < 0 || (server = fork()) < 0)
        exit(99);
    if (server == 0) {
        dup2(out[1], 1);
        execlp("python3", "python3", script, folder, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    ok(read(out[0], port, sizeof port - 1) > 0, "the server is up");
    close(out[0]);
    snprintf(base_url, sizeof base_url, "https://127.0.0.1:%d", atoi(port));
}

static char *in_folder(const char *name) { return xasprintf("%s/%s", folder, name); }

static struct http_client *client_of(const char *ca, bool with_certificate)
{
    CLEANUP(free_ptr) char *ca_file = in_folder(ca), *certificate = in_folder("client.pem"), *key = in_folder("client.key");
    struct http_client *client = NULL;
    struct http_options o = {.ca_file = ca_file, .certificate_file = with_certificate ? certificate : NULL,
                             .key_file = with_certificate ? key : NULL};

    if (http_open(&o, &client, NULL) < 0)
        exit(99);
    return client;
}

static int get(struct http_client *c, const char *path, struct http_request more, json_t **out, int *status, struct err *e)
{
    CLEANUP(free_ptr) char *url = xasprintf("%s%s", base_url, path);

    more.method = more.method ? more.method : "GET";
    more.url = url;
    return http_json(c, &more, NULL, out, status, e);
}

static void exchanges(void)
{
    CLEANUP(http_close) struct http_client *c = client_of("ca.pem", true);
    CLEANUP(json_free) json_t *answer = NULL, *again = NULL, *body = json_pack("{s:i}", "n", 1);
    CLEANUP(free_ptr) char *url = xasprintf("%s/echo", base_url);
    CLEANUP(http_response_release) struct http_response raw = {0};
    const char *const headers[] = {"X-Extra: yes", NULL};
    struct err e = {0};
    int status = 0;
    char tag[16];

    is_int(http_json(c, &(struct http_request){.method = "PATCH", .url = url, .headers = headers}, body, &answer, &status, &e), 0,
           "a JSON exchange: %s", e.message);
    is_int(status, 200, "status");
    is_str(json_get_string(answer, "method", ""), "PATCH", "method");
    is_str(json_get_string(answer, "body", ""), "{\"n\":1}", "body");
    is_str(json_get_string(answer, "type", ""), "application/json", "its type");
    is_str(json_get_string(answer, "extra", ""), "yes", "a header");
    is_str(json_get_string(answer, "peer", ""), "runner:dc1", "our certificate was seen");
    is_int(get(c, "/echo", (struct http_request){0}, &again, NULL, &e), 0, "a second one");
    is_str(json_get_string(again, "type", "none"), "none", "without a body's type");
    is_int(json_get_int(again, "connections", 0), 1, "over the same connection");
    is_int(http_do(c, &(struct http_request){.method = "HEAD", .url = url}, &raw, &e), 0, "HEAD");
    ok(http_header(&raw, "etag", tag, sizeof tag) && strcmp(tag, "\"7\"") == 0, "a header is found in any case");
    ok(!http_header(&raw, "etag", tag, 2) && !http_header(&raw, "absent", tag, sizeof tag), "one that is missing or too long isn't");
    ok(raw.body.size_bytes == 0, "and HEAD has no body");
}

static void failures_are_named(void)
{
    static const struct {
        const char *path;
        struct http_request more;
        enum err_kind kind;
        const char *words;
    } cases[] = {
        {"/problem", {0}, ERR_INVALID, "two lines are wrong: name: is missing (HTTP 422)"},
        {"/plain-error", {0}, ERR_UNREACHABLE, "HTTP status 503"},
        {"/absent", {0}, ERR_NOT_FOUND, "404"},
        {"/not-json", {0}, ERR_PROTOCOL, "not-json"},
        {"/long", {.limit_bytes = 1000}, ERR_LIMIT, "longer"},
        {"/slow", {.timeout_ms = 300}, ERR_TIMEOUT, "slow"},
        {"/cut", {0}, ERR_UNREACHABLE, "cut"},
        {"/moved", {0}, ERR_PROTOCOL, "302"},
    };
    CLEANUP(http_close) struct http_client *c = client_of("ca.pem", false);

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        json_t *out = json_null();
        struct err e = {0};

        is_int(get(c, cases[i].path, cases[i].more, &out, NULL, &e), -1, "%s fails", cases[i].path);
        is_str(err_meaning(e.kind)->name, err_meaning(cases[i].kind)->name, "by its kind");
        ok(strstr(e.message, cases[i].words), "and in words: %s", e.message);
        ok(out == json_null(), "the output is untouched");
    }
    struct err e = {0};
    json_t *none = json_null();
    is_int(get(c, "/none", (struct http_request){0}, &none, NULL, &e), 0, "204 succeeds");
    ok(none == NULL, "with nothing");
}

static int count_bytes(void *user, const char *bytes, size_t size)
{
    (void)bytes;
    *(size_t *)user += size;
    return *(size_t *)user > 200000 ? -1 : 0;
}

static bool at_once(void *user) { return user != NULL; }

static void streams(void)
{
    CLEANUP(http_close) struct http_client *c = client_of("ca.pem", false);
    struct err e = {0};
    size_t seen = 0;

    is_int(get(c, "/long", (struct http_request){.on_body = count_bytes, .user = &seen}, NULL, NULL, &e), -1, "a stream is broken off");
    is_int(e.kind, ERR_CANCELLED, "as cancelled");
    ok(seen > 200000, "after what was taken");
    is_int(get(c, "/slow", (struct http_request){.cancelled = at_once, .user = &seen}, NULL, NULL, &e), -1, "so is one that doesn't come");
    is_int(e.kind, ERR_CANCELLED, "as cancelled, too");
}

/* Over a connection that was used before libcurl would send it again. */
static void sent_once(void)
{
    CLEANUP(http_close) struct http_client *c = client_of("ca.pem", true);
    CLEANUP(json_free) json_t *before = NULL, *after = NULL;
    struct err e = {0};

    is_int(get(c, "/echo", (struct http_request){0}, &before, NULL, &e), 0, "a connection is there: %s", e.message);
    is_int(get(c, "/dropped", (struct http_request){.method = "PUT", .once = true}, NULL, NULL, &e), -1, "a request that ends without an answer");
    is_int(get(c, "/echo", (struct http_request){0}, &after, NULL, NULL), 0, "the next one is answered");
    is_int(json_get_int(after, "dropped", 0), 1, "the one before was sent once");
}

static void strangers_are_refused(void)
{
    CLEANUP(http_close) struct http_client *wrong = client_of("other.pem", false);
    CLEANUP(free_ptr) char *right = NULL, *none = NULL;
    CLEANUP(buf_release) struct buf out = {0};
    const char *const argv[] = {"openssl", "x509", "-in", "ca.pem", "-noout", "-fingerprint", "-sha256", NULL};
    struct err e = {0};

    is_int(get(wrong, "/echo", (struct http_request){0}, NULL, NULL, &e), -1, "a server that the CA did not sign");
    is_int(e.kind, ERR_DENIED, "is denied: %s", e.message);
    is_int(proc_must(&(struct proc_options){.argv = argv, .folder = folder}, &out, &e), 0, "the CA's fingerprint");
    char *text = strchr(out.data, '=') + 1;
    text[strcspn(text, "\n")] = '\0';
    is_int(http_pin(base_url, text, &right, &e), 0, "pins it: %s", e.message);
    ok(right && strstr(right, "BEGIN CERTIFICATE"), "as PEM");
    text[0] = text[0] == 'A' ? 'B' : 'A';
    is_int(http_pin(base_url, text, &none, &e), -1, "another fingerprint doesn't");
    is_int(e.kind, ERR_DENIED, "denied");
    is_int(http_pin(base_url, "SHA256:12", &none, &e), -1, "nor a short one");
    is_int(e.kind, ERR_INVALID, "invalid");
}

static void text_is_escaped(void)
{
    CLEANUP(free_ptr) char *text = http_escape("a b/ü~");

    is_str(text, "a%20b%2F%C3%BC~", "a segment is escaped");
}

int main(int argc, char **argv)
{
    const char *const remove[] = {"rm", "-rf", folder, NULL};

    start_server(argc > 1 ? argv[1] : "http_server.py");
    exchanges();
    sent_once();
    failures_are_named();
    streams();
    strangers_are_refused();
    text_is_escaped();
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    is_int(proc_must(&(struct proc_options){.argv = remove}, NULL, NULL), 0, "cleaned up");
    return tap_done();
}
