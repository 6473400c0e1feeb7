/* The client against a real HTTPS server (the factory's own HTTP layer, with a table of the test's): what goes over
 * the wire, what is shown, which exit code comes of it. */
#include "../api/fixture.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "tap.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct httpd_server *server;
static char seen[4096]; /* what the last change was asked with: "METHOD PATH If-Match BODY" */
static atomic_int probe_looks, deleted_tokens;
static atomic_bool source_fails;

static void note(struct http_call *c)
{
    CLEANUP(free_ptr) char *body = c->body ? json_text(c->body) : NULL;
    const char *match = call_header(c, "If-Match"), *query = call_query(c, "create_waves");

    snprintf(seen, sizeof seen, "%s %s%s match=%s body=%s", httpd_method_names[c->route->method], c->path,
             query ? " create_waves" : "", match ? match : "-",
             body                  ? body
             : c->bytes.size_bytes ? c->bytes.data
                                   : "-");
}

static int session(struct http_call *c, struct err *e)
{
    if (strcmp(json_get_string(c->body, "password", ""), "right horse") != 0)
        return err_set(e, ERR_UNAUTHENTICATED, "the name or the password is wrong");
    reply_header(c, "Set-Cookie", "slipway_session=abc; Path=/; HttpOnly; Secure");
    return reply_json(c, 200, json_pack("{s:s,s:s}", "user", "anna", "csrf", "c5rf"));
}

static int token(struct http_call *c, struct err *e)
{
    const char *cookie = call_cookie(c, "slipway_session"), *csrf = call_header(c, "X-CSRF-Token");

    if (!cookie || strcmp(cookie, "abc") != 0 || !csrf || strcmp(csrf, "c5rf") != 0)
        return err_set(e, ERR_DENIED, "no session");
    return reply_json(c, 201, json_pack("{s:s, s:s}", "id", "7", "token", "slip_t0ken"));
}

static int token_gone(struct http_call *c, struct err *e)
{
    (void)e;
    deleted_tokens += strcmp(call_param(c, "id"), "7") == 0;
    return reply_empty(c, 204);
}

static int session_gone(struct http_call *c, struct err *e)
{
    (void)e;
    return reply_empty(c, 204);
}

/* One that is well, one that is not there, one that is late and one that never comes: the worst last. */
static int replicating(struct http_call *c, bool behind)
{
    json_t *items = json_pack("[{s:s, s:{s:s, s:i, s:n, s:i, s:n}}, {s:s, s:n}]", "name", "web01", "replication", "state", "CONTINUOUS", "eta_ms", 12, "eta",
                              "lag_ms", 300, "cause", "name", "new01", "replication");

    json_array_append_new(items, json_pack("{s:s, s:{s:s, s:i, s:n, s:i, s:{s:s, s:s, s:s, s:s}}}", "name", "mail01", "replication", "state", "BACKLOG", "eta_ms",
                                           90000, "eta", "lag_ms", 40000, "cause", "kind", "catching_up", "severity", "warning", "text", "it is late",
                                           "advice", "wait a while"));
    if (behind)
        json_array_append_new(items, json_pack("{s:s, s:{s:s, s:n, s:s, s:i, s:i, s:i, s:i, s:{s:s, s:s, s:s, s:s}}}", "name", "db01", "replication", "state", "BACKLOG",
                                               "eta_ms", "eta", "never", "backlog_bytes", 300 << 20, "churn_bytes_per_s", 1500000, "rate_bytes_per_s", 1000000,
                                               "lag_ms", 60000, "cause", "kind", "limit_too_low", "severity", "error", "text", "the limit of 8.0 Mbit/s",
                                               "advice", "raise the limit"));
    return reply_json(c, 200, json_pack("{s:o,s:n}", "items", items, "next"));
}

static int servers(struct http_call *c, struct err *e)
{
    const char *page = call_query(c, "page"), *wave = call_query(c, "wave"), *q = call_query(c, "q");

    (void)e;
    if (q) /* it looks for the word in names and addresses, too */
        return reply_json(c, 200, strcmp(q, "shop") == 0 ? json_pack("{s:[{s:s,s:s},{s:s,s:s},{s:s,s:n},{s:s,s:s}],s:n}", "items", "name", "web01", "application",
                                                                     "shop", "name", "old01", "application", "shop-old", "name", "shop01", "application", "name",
                                                                     "db01", "application", "shop", "next")
                                                         : json_pack("{s:[],s:n}", "items", "next"));
    if (wave && strncmp(wave, "no", 2) == 0)
        return reply_json(c, 200, json_pack("{s:[],s:n}", "items", "next"));
    if (wave && (strcmp(wave, "behind") == 0 || strcmp(wave, "late") == 0))
        return replicating(c, strcmp(wave, "behind") == 0);
    if (!page)
        return reply_json(
            c, 200,
            json_pack("{s:[{s:s,s:s}],s:s}", "items", "name", "web01", "wave", wave ? wave : "?", "next", "p 2"));
    return reply_json(c, 200, json_pack("{s:[{s:s,s:s}],s:n}", "items", "name", "db01", "wave", page, "next"));
}

static int one_server(struct http_call *c, struct err *e)
{
    static const char *const text = "{\"name\":\"db01\",\"replication\":{\"state\":\"CONTINUOUS\",\"source_latency\":{\"now_us\":0,\"without_us\":310,\"with_us\":1460,\"backoff_bytes_per_s\":0}},"
        "\"points\":[{\"id\":\"p2\",\"at\":\"2027-03-01T22:00:05.120Z\",\"consistency\":\"frozen\",\"freeze_ms\":12,\"group\":\"g1\",\"group_window_us\":321},"
        "{\"id\":\"p1\",\"at\":\"2027-03-01T22:00:00Z\",\"consistency\":\"crash\",\"freeze_ms\":0,\"group\":null,\"group_window_us\":null}]}";
    json_t *made;

    return json_read(text, strlen(text), &made, e) < 0 ? -1 : reply_json(c, 200, made);
}

static int wave(struct http_call *c, struct err *e)
{
    if (strcmp(call_param(c, "wave"), "nowhere") == 0)
        return err_set(e, ERR_NOT_FOUND, "there is no wave \"nowhere\"");
    if (c->route->method != HTTP_GET)
        note(c);
    return reply_json(c, 200, json_pack("{s:s,s:i}", "name", call_param(c, "wave"), "version", 3));
}

static int changed(struct http_call *c, struct err *e)
{
    (void)e;
    note(c);
    return reply_empty(c, 204);
}

static int refused(struct http_call *c, struct err *e)
{
    (void)c;
    return err_set(e, ERR_WRONG_STATE, "the window opens at 22:00");
}

static int import(struct http_call *c, struct err *e)
{
    note(c);
    if (c->bytes.data && strstr(c->bytes.data, "bad")) {
        c->faults = json_pack("[{s:i,s:s,s:s}]", "line", 2, "column", "wave", "reason", "there is no wave \"x\"");
        c->problem_status = 422;
        return err_set(e, ERR_INVALID, "the file has faults");
    }
    return reply_json(c, 200,
                      json_pack("{s:b,s:{s:i,s:i,s:i},s:[],s:[]}", "applied", !call_query(c, "dry_run"), "counts",
                                "create", 2, "update", 0, "same", 1, "changes", "faults"));
}

static int doctor(struct http_call *c, struct err *e)
{
    (void)e;
    return reply_json(c, 200,
                      json_pack("{s:b,s:[{s:s,s:b,s:s,s:s}]}", "passed", 0, "checks", "title", "Backup", "passed", 0,
                                "evidence", "there is none", "advice", "run slipway backup"));
}

static int probe(struct http_call *c, struct err *e)
{
    (void)e;
    return reply_json(c, 200, json_pack("{s:s,s:s}", "run", "r9", "source_run", "r10"));
}

/* r9 succeeds at the second look; r10 fails where the test says so. */
static int run(struct http_call *c, struct err *e)
{
    const char *id = call_param(c, "run");

    (void)e;
    if (++probe_looks < 2)
        return reply_json(c, 200, json_pack("{s:s,s:[]}", "state", "RUNNING", "tasks"));
    if (source_fails && strcmp(id, "r10") == 0)
        return reply_json(c, 200,
                          json_pack("{s:s,s:[{s:s,s:{s:s}}]}", "state", "RUNNING", "tasks", "state", "FAILED", "error",
                                    "message", "no route"));
    return reply_json(c, 200, json_pack("{s:s,s:s,s:[]}", "id", id, "state", "SUCCEEDED", "tasks"));
}

static ssize_t events_read(void *user, char *bytes, size_t size)
{
    static const char text[] =
        ": hello\n\nid: 5\r\nevent: wave.changed\r\ndata: {\"id\":5,\"at\":\"2027-01-01T00:00:00.000Z\",\r\n"
        "data: \"actor\":\"user:anna\",\"kind\":\"wave.changed\",\"entity_id\":\"w1\",\"data\":{}}\r\n\r\n"
        "event: server.replication\r\ndata: {\"at\":\"2027-01-01T00:00:01.000Z\",\"actor\":\"replicator:r1\",\"kind\":\"server.replication\",\"entity_id\":\"db01\",\"data\":"
        "{\"fields\":{\"state\":{\"before\":\"CONTINUOUS\",\"after\":\"BACKLOG\"},\"cause\":{\"before\":null,\"after\":\"limit_too_low\"}}}}\r\n\r\n"
        "event: replication\r\ndata: {\"server\":\"db01\",\"state\":\"BACKLOG\",\"backlog_bytes\":314572800,\"rate_bytes_per_s\":1000000,\"eta\":\"never\","
        "\"cause\":{\"text\":\"the limit\",\"advice\":\"raise it\"}}\r\n\r\n";
    bool *sent = user;

    MUST(size >= sizeof text);
    if (*sent)
        return -1;
    *sent = true;
    memcpy(bytes, text, sizeof text - 1);
    return sizeof text - 1;
}

static void events_close(void *user) { free(user); }

static int events(struct http_call *c, struct err *e)
{
    const char *last = call_header(c, "Last-Event-ID");

    if (last && strcmp(last, "5") == 0) /* the client came back for what follows: the test is over */
        return err_set(e, ERR_DENIED, "that was all");
    return reply_stream(c, "text/event-stream",
                        &(struct http_stream){events_read, events_close, xcalloc(1, sizeof(bool))}, e);
}

static int html(struct http_call *c, struct err *e)
{
    (void)e;
    return reply_text(c, 200, "text/html", xstrdup("<h1>report</h1>"));
}

static const struct http_route routes[] = {
    {HTTP_POST, "/v1/sessions", session, ACCESS_PUBLIC, INPUT_JSON, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_DELETE, "/v1/sessions/current", session_gone, ACCESS_PUBLIC, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_POST, "/v1/tokens", token, ACCESS_PUBLIC, INPUT_JSON, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_DELETE, "/v1/tokens/{id}", token_gone, ACCESS_VIEWER, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_GET, "/v1/servers", servers, ACCESS_VIEWER, INPUT_NONE, 0, "s", "wave,page,q,sort,limit", NULL, NULL, 0,
     false},
    {HTTP_GET, "/v1/servers/{server}", one_server, ACCESS_VIEWER, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_GET, "/v1/waves/{wave}", wave, ACCESS_VIEWER, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_PATCH, "/v1/waves/{wave}", wave, ACCESS_VIEWER, INPUT_JSON, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_PUT, "/v1/waves/{wave}/window", changed, ACCESS_VIEWER, INPUT_JSON, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_POST, "/v1/waves/{wave}/cutover", refused, ACCESS_VIEWER, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_GET, "/v1/waves/{wave}/report.html", html, ACCESS_VIEWER, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_POST, "/v1/tasks/{id}/decide", changed, ACCESS_VIEWER, INPUT_JSON, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_POST, "/v1/imports", import, ACCESS_VIEWER, INPUT_BYTES, 1 << 20, "s", "dry_run,create_waves", NULL, NULL, 0,
     false},
    {HTTP_GET, "/v1/doctor", doctor, ACCESS_VIEWER, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_POST, "/v1/probes", probe, ACCESS_VIEWER, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_GET, "/v1/runs/{run}", run, ACCESS_VIEWER, INPUT_NONE, 0, "s", NULL, NULL, NULL, 0, false},
    {HTTP_GET, "/v1/events", events, ACCESS_VIEWER, INPUT_NONE, 0, "s", "wave", NULL, NULL, 0, false},
};

static int authorise(struct http_call *c, struct err *e)
{
    const char *given = call_header(c, "Authorization");

    if (c->route->access == ACCESS_PUBLIC)
        return 0;
    return given && strcmp(given, "Bearer slip_t0ken") == 0 ? 0
                                                            : err_set(e, ERR_UNAUTHENTICATED, "the token is unknown");
}

/* ---- The client, in this process, with its output caught ---- */

static char out_text[8192], err_text[8192];

static void catch_in(const char *name, char *text, size_t size)
{
    FILE *file = fopen(in(name), "r");

    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static int slipway(int argc, const char *const *words)
{
    char **argv = (char **)(uintptr_t)words;
    int kept[2] = {dup(1), dup(2)}, files[2] = {open(in("out"), O_RDWR | O_CREAT | O_TRUNC, 0600),
                                                open(in("err"), O_RDWR | O_CREAT | O_TRUNC, 0600)};
    int status = -1;

    fflush(stdout);
    for (int i = 0; i < 2; i++)
        dup2(files[i], i + 1);
    for (const struct cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, argv[0]) == 0)
            status = c->run(argc, argv);
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        dup2(kept[i], i + 1);
        close(kept[i]);
        close(files[i]);
    }
    catch_in("out", out_text, sizeof out_text);
    catch_in("err", err_text, sizeof err_text);
    if (strlen(err_text))
        err_text[strlen(err_text) - 1] = '\0'; /* its last newline: err_text goes into tests' names */
    return status;
}
#define SLIPWAY(...) slipway((int)ARRAY_COUNT(((const char *[]){__VA_ARGS__})), (const char *[]){__VA_ARGS__})

static void put(const char *name, const char *text)
{
    struct err e;

    MUST(file_write(in(name), text, strlen(text), 0600, &e) == 0);
}

/* For a test's name, which is one line. */
static const char *flat(char *text)
{
    for (char *at = text; *at; at++)
        *at = *at == '\n' ? '|' : *at;
    return text;
}

static void signs_in(const char *url)
{
    CLEANUP(free_ptr) char *password = xstrdup(in("password")), *ca = xstrdup(in("ca.pem"));
    struct stat st;

    is_int(SLIPWAY("wave", "show", "w1"), 2, "without an address it says what to do: %s", flat(err_text));
    is_int(SLIPWAY("wave", "show", "w1", "--url", url, "--ca", ca), 3, "without a token, too: %s", flat(err_text));
    put("password", "wrong\n");
    is_int(SLIPWAY("login", "--url", url, "--ca", ca, "--name", "anna", "--password-file", password), 3,
           "a wrong password: %s", flat(err_text));
    ok(stat(in("config/slipway/credentials"), &st) < 0, "nothing is kept then");
    put("password", "right horse\n");
    is_int(SLIPWAY("login", "--url", url, "--ca", ca, "--name", "anna", "--password-file", password), 0,
           "the right one: %s", flat(err_text));
    ok(!strstr(out_text, "slip_"), "the token is not shown");
    ok(stat(in("config/slipway/credentials"), &st) == 0 && (st.st_mode & 0777) == 0600,
       "it is kept, for nobody else to read");
    is_int(SLIPWAY("wave", "show", "w1"), 0, "from then on no address is needed: %s", flat(err_text));
    is_int(SLIPWAY("wave", "show", "w1", "--url", "https://127.0.0.1:1"), 3,
           "the kept token goes to no other factory: %s", flat(err_text));
    chmod(in("config/slipway/credentials"), 0644);
    is_int(SLIPWAY("wave", "show", "w1"), 4, "kept credentials that others can read are refused: %s", flat(err_text));
    chmod(in("config/slipway/credentials"), 0600);
}

static void lists_and_changes(void)
{
    is_int(SLIPWAY("server", "list", "--wave", "w 1"), 0, "a list: %s", flat(err_text));
    ok(strstr(out_text, "web01") && strstr(out_text, "w 1") && strstr(out_text, "db01") && strstr(out_text, "p 2"),
       "has all its pages");
    is_int(SLIPWAY("server", "list", "-o", "json"), 0, "as JSON");
    CLEANUP(json_free) json_t *list = json_loads(out_text, 0, NULL);
    is_int(json_array_size(json_object_get(list, "items")), 2, "with all items");
    is_int(SLIPWAY("wave", "set", "w1", "hold_s=20"), 0, "a change: %s", flat(err_text));
    is_str(seen, "PATCH /v1/waves/w1 match=\"3\" body={\"settings\":{\"hold_s\":20}}",
           "goes under the version that was read");
    is_int(SLIPWAY("window", "set", "w1", "--opens", "2027-03-01T22:00:00Z", "--closes", "2027-03-02T02:00:00Z"), 0,
           "a window: %s", flat(err_text));
    ok(strstr(seen, "match=\"3\"") && strstr(seen, "\"time_zone\":\"UTC\""), "too: %s", seen);
    is_int(SLIPWAY("window", "set", "w1", "--opens", "2027-03-01T22:00:00Z", "--closes", "+4h"), 0, "its length: %s", flat(err_text));
    ok(strstr(seen, "\"closes\":\"2027-03-02T02:00:00.000Z\""), "counts from its beginning: %s", seen);
    is_int(SLIPWAY("window", "set", "w1", "--opens", "now", "--closes", "+4h"), 0, "and now is a time: %s", flat(err_text));
    is_int(SLIPWAY("window", "set", "w1", "--opens", "+soon", "--closes", "+4h"), 2, "what is no duration is refused: %s", flat(err_text));
    is_int(SLIPWAY("window", "set", "w1", "--opens", "tomorrow", "--closes", "2027-03-02T02:00:00Z"), 2,
           "a time that is none: %s", flat(err_text));
    is_int(SLIPWAY("task", "approve", "t1", "--note", "fine"), 0, "a decision: %s", flat(err_text));
    ok(strstr(seen, "{\"decision\":\"approve\",\"note\":\"fine\"}"), "is sent: %s", seen);
    is_int(SLIPWAY("wave", "cutover", "w1"), 7, "a refusal has its exit code");
    ok(strstr(err_text, "the window opens at 22:00"), "and its words: %s", flat(err_text));
    is_int(SLIPWAY("me"), 5, "what is not there has another: %s", flat(err_text));
}

static void imports(void)
{
    CLEANUP(free_ptr) char *file = xstrdup(in("servers.csv"));

    put("servers.csv", "wave,server\nw,a\n");
    is_int(SLIPWAY("import", file, "--create-waves"), 0, "an import: %s", flat(err_text));
    is_str(seen, "POST /v1/imports create_waves match=- body=wave,server\nw,a\n", "sends the file as it is");
    ok(strstr(out_text, "2 to create, 0 to change, 1 the same: done"), "and says what it did: %s", flat(out_text));
    is_int(SLIPWAY("import", file, "--dry-run"), 0, "a preview");
    ok(strstr(out_text, "nothing was changed"), "says so: %s", flat(out_text));
    put("servers.csv", "bad\n");
    is_int(SLIPWAY("import", file), 2, "faults");
    ok(strstr(err_text, "there is no wave") && strstr(err_text, "nothing was changed"), "are shown: %s",
       flat(err_text));
    is_int(SLIPWAY("import", "/nonexistent.csv"), 5, "a file that is not there: %s", flat(err_text));
}

/* A part of what was to be read, or written, is not the whole. */
static void half_done(void)
{
    CLEANUP(free_ptr) char *blanks = xcalloc(100001, 1), *from = xstrdup(in("servers.csv"));
    int kept_in = dup(0), kept_out = dup(1), wrong = open("/", O_RDONLY), full = open("/dev/full", O_WRONLY);

    put("servers.csv", "wave,server\nw,a\n");
    snprintf(seen, sizeof seen, "-");
    dup2(wrong, 0);
    ok(SLIPWAY("import", "-", "--create-waves") != 0 && strcmp(seen, "-") == 0, "an input that can't be read imports nothing: %s", flat(err_text));
    clearerr(stdin);
    ok(SLIPWAY("settings", "set", "target", "-") != 0 && strstr(err_text, "reading standard input"), "nor is it JSON: %s", flat(err_text));
    clearerr(stdin);
    ok(SLIPWAY("login", "--name", "anna", "--password-file", "/") != 0 && strstr(err_text, "reading /"), "nor a secret: %s", flat(err_text));
    dup2(kept_in, 0);
    is_int(SLIPWAY("import", from, "--create-waves"), 0, "(%s)", flat(err_text));
    memset(blanks, '\n', 100000);
    fflush(stdout);
    dup2(full, 1);
    fwrite(blanks, 1, 100000, stdout); /* as a long list on a full disk: all of it is gone, and nothing is left to flush */
    dup2(kept_out, 1);
    ok(SLIPWAY("server", "list") != 0, "an output that lacks something is not well: %s", flat(err_text));
    clearerr(stdout);
    is_int(SLIPWAY("server", "list"), 0, "(%s)", flat(err_text));
    close(kept_in);
    close(kept_out);
    close(wrong);
    close(full);
}

static void looks_after(void)
{
    CLEANUP(free_ptr) char *page = xstrdup(in("report.html"));
    CLEANUP(buf_release) struct buf text = {0};

    is_int(SLIPWAY("doctor"), 1, "a doctor with a failed check fails");
    ok(strstr(out_text, "FAIL Backup: there is none") && strstr(out_text, "run slipway backup"),
       "and says what to do: %s", flat(out_text));
    is_int(SLIPWAY("doctor", "--no-fail"), 0, "unless told not to");
    is_int(SLIPWAY("target", "probe"), 0, "a probe machine is waited for: %s", flat(err_text));
    is_int(probe_looks, 3, "until it is done, and the source network's, too");
    source_fails = true;
    is_int(SLIPWAY("target", "probe"), 7, "a probe that fails: %s", err_text);
    ok(strstr(err_text, "no route"), "says why");
    is_int(SLIPWAY("report", "w1", "--html", page), 0, "a report: %s", flat(err_text));
    ok(file_read(page, 1000, &text, NULL) == 0 && strcmp(text.data, "<h1>report</h1>") == 0, "goes into a file");
    is_int(SLIPWAY("watch"), 4, "watch ends when it is refused: %s", flat(err_text));
    ok(strstr(out_text, "2027-01-01T00:00:00  wave.changed  w1") && strstr(out_text, "by user:anna"),
       "and showed the event, whose data came in two lines: %s", flat(out_text));
}

static void shows_replication(void)
{
    char *worst, *late, *well;

    is_int(SLIPWAY("replication", "--wave", "behind"), 7, "a copy that does not keep up is an exit status: %s", err_text);
    worst = strstr(out_text, "db01"), late = strstr(out_text, "mail01"), well = strstr(out_text, "web01");
    ok(worst && late && well && worst < late && late < well && !strstr(out_text, "new01"), "the worst is first, those that have not begun are not there");
    ok(strstr(out_text, "never") && strstr(out_text, "300 MiB") && strstr(out_text, "12.0 Mbit/s") && strstr(out_text, "8.0 Mbit/s") && strstr(out_text, "90.0 s") &&
       strstr(out_text, "caught up"), "figures have units");
    ok(strstr(out_text, "    why:  the limit of 8.0 Mbit/s\n    do:   raise the limit\n"), "with why, and what to do");
    ok(!strchr(out_text, '\x1b'), "no colour where no terminal is");
    is_int(SLIPWAY("replication", "--wave", "behind", "--no-fail"), 0, "unless told not to");
    is_int(SLIPWAY("replication", "--wave", "late"), 0, "one that is only late is none");
    is_int(SLIPWAY("replication", "--wave", "nobody"), 0, "nor is a wave of which nothing replicates yet: %s", err_text);
    is_int(SLIPWAY("replication", "--wave", "nowhere"), err_meaning(ERR_NOT_FOUND)->exit_code, "but a wave that is not there keeps nothing up");
    ok(strstr(err_text, "there is no wave"), "which it says: %s", err_text);
    is_int(SLIPWAY("replication", "--wave", "behind", "-o", "json"), 7, "as JSON");
    CLEANUP(json_free) json_t *all = json_loads(out_text, 0, NULL);
    ok(json_is_false(json_object_get(all, "keeps_up")) && json_array_size(json_object_get(all, "servers")) == 3, "it says so, too");
    is_int(SLIPWAY("wave", "show", "behind"), 0, "a wave: %s", err_text);
    ok(strstr(out_text, "\nReplication\n") && strstr(out_text, "why:  the limit"), "shows how its servers replicate");
    is_int(SLIPWAY("server", "list", "--wave", "behind"), 0, "the list of servers");
    ok(strstr(out_text, "limit_too_low") && strstr(out_text, "never"), "names the cause");
    is_int(SLIPWAY("watch", "--replication"), 4, "watching");
    ok(strstr(out_text, "server.replication  db01  state: CONTINUOUS → BACKLOG, cause: - → limit_too_low  by replicator:r1"), "a change of state says from what to what");
    ok(strstr(out_text, "db01  BACKLOG  backlog 300 MiB  churn -  rate 8.0 Mbit/s  lag -  caught up in never") && strstr(out_text, "    why: the limit\n    do:  raise it\n"),
       "tells it as it changes");
}

static void shows_a_server(void)
{
    setenv("TZ", "EST5", 1);
    tzset();
    is_int(SLIPWAY("server", "show", "db01"), 0, "a server: %s", err_text);
    ok(strstr(out_text, "an I/O at the source without the agent (ms)") && strstr(out_text, "  0.31\n") && strstr(out_text, "and while it reads (ms)") && strstr(out_text, "  1.46\n"),
       "shows what the agent costs its source, with units");
    ok(strstr(out_text, "\nNewest recovery points\nPOINT  WHEN                     TAKEN   FROZEN FOR  GROUP  WINDOW (us)\n"
                        "p2     2027-03-01 17:00:05 EST  frozen  12 ms       g1     321\n"
                        "p1     2027-03-01 17:00:00 EST  crash   0 ms        -      -\n"), "and the newest points, how each was taken, and when, with the time's zone");
    unsetenv("TZ");
    tzset();
}

/* The control socket of a replicator that has a vault open: answers, and keeps what it was asked last. */
static struct {
    int fd;
    char asked[2048];
} control;

static void *answer(void *user)
{
    static const char *const answers[] = {
        "{\"ok\":true,\"servers\":[]}\n",
        "{\"ok\":true,\"group\":{\"id\":\"g1\",\"name\":\"shop\",\"at\":\"2027-03-01T22:00:00Z\",\"window_us\":321,\"consistency\":\"frozen\",\"attempts\":1,"
        "\"points\":[{\"id\":\"p1\",\"server\":\"db01\",\"consistency\":\"frozen\",\"freeze_ms\":12,\"bytes\":65536,\"disks\":[]}]}}\n"};
    int fd;

    (void)user;
    while ((fd = accept(control.fd, NULL, NULL)) >= 0) {
        char line[2048] = "";
        const char *text;

        for (size_t size = 0; size < sizeof line - 1 && !strchr(line, '\n'); size++)
            if (read(fd, line + size, 1) != 1)
                break;
        text = answers[strstr(line, "group_point") != NULL];
        memcpy(control.asked, line, sizeof line);
        MUST(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
        close(fd);
    }
    return NULL;
}

static void takes_points(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    pthread_t thread;
    int lock;

    MUST(mkdir(in("vault"), 0700) == 0);
    put("vault/vault.json", "{\"format\":\"slipway-vault\",\"version\":1,\"id\":\"00112233445566778899aabbccddeeff\"}");
    lock = open(in("vault/lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(lock >= 0 && flock(lock, LOCK_EX) == 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", in("control.sock"));
    control.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(bind(control.fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(control.fd, 4) == 0);
    MUST(pthread_create(&thread, NULL, answer, NULL) == 0);
    is_int(SLIPWAY("point", "take", "--application", "shop", "--consistency", "frozen", "--timeout", "9", "--vault", in("vault")), 0,
           "points of an application: %s", flat(err_text));
    ok(strstr(control.asked, "\"servers\":[\"web01\",\"db01\"]") && strstr(control.asked, "\"name\":\"shop\"") && strstr(control.asked, "\"timeout_ms\":9000") &&
       strstr(control.asked, "\"consistency\":\"frozen\""), "of its servers, and no other: %s", flat(control.asked));
    ok(strstr(out_text, "g1") && strstr(out_text, "321") && strstr(out_text, "db01"), "what came of it is shown: %s", flat(out_text));
    is_int(SLIPWAY("point", "take", "--server", "a", "--server", "b", "--vault", in("vault")), 0, "of servers by name: %s", flat(err_text));
    ok(strstr(control.asked, "\"servers\":[\"a\",\"b\"]") && strstr(control.asked, "\"consistency\":\"any\""), "as they are given: %s", flat(control.asked));
    control.asked[0] = '\0';
    is_int(SLIPWAY("point", "take", "--application", "nobody", "--vault", in("vault")), 5, "of nobody: %s", flat(err_text));
    is_int(SLIPWAY("point", "take", "--application", "shop", "--server", "a", "--vault", in("vault")), 2, "both ways at once: %s", flat(err_text));
    is_str(control.asked, "", "no replicator is asked for that");
    shutdown(control.fd, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(control.fd);
    close(lock);
}

static void signs_out(void)
{
    struct stat st;

    is_int(SLIPWAY("logout"), 0, "logout: %s", flat(err_text));
    is_int(deleted_tokens, 1, "revokes this machine's token");
    ok(stat(in("config/slipway/credentials"), &st) < 0, "and forgets it");
}

int main(void)
{
    CLEANUP(free_ptr) char *url = NULL;

    fixture_start();
    fixture_serve(
        &(struct httpd_options){
            .address = "127.0.0.1:0", .routes = routes, .route_count = ARRAY_COUNT(routes), .authorise = authorise},
        &server);
    setenv("XDG_CONFIG_HOME", in("config"), 1);
    unsetenv("SLIPWAY_URL");
    unsetenv("SLIPWAY_TOKEN");
    unsetenv("SLIPWAY_CA");
    url = xasprintf("https://127.0.0.1:%d", httpd_port(server));
    signs_in(url);
    lists_and_changes();
    imports();
    half_done();
    looks_after();
    shows_replication();
    shows_a_server();
    takes_points();
    signs_out();
    httpd_stop(&server);
    fixture_end();
    return tap_done();
}
