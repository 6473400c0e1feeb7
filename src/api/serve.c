/* `slipway serve`: everything on one machine: database, API, console, workflow, and the processes that work beside it. Started again on
 * the same folder it goes on where it was, however it ended. */
#include "api/serve.h"

#include "api/api.h"
#include "api/children.h"
#include "api/clocks.h"
#include "api/setup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/options.h"

#include <errno.h>
#include <stdatomic.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS 250
#define CHILDREN_GRACE_MS 8000
#define LEASE_LEAST_US (3 * US_PER_S) /* a runner renews it at a third */
#define LEASE_MOST_US (3600 * US_PER_S)
#define HANDED_COUNT 10
#define EMBEDDED "embedded" /* the name of the runner and the replicator that serve starts */

struct options {
    const char *data_dir, *listen, *replicator_listen, *init_user, *init_password_file;
    struct option_list names;
    bool no_runner, no_replicator;
    int64_t lease_us; /* 0: not given */
    const char *handed[HANDED_COUNT]; /* to the replicator, as they were given */
};

#define AT(member) offsetof(struct options, member)
static const struct option_row option_rows[] = {
    {"data", OPTION_TEXT, AT(data_dir), "FOLDER", "where everything is kept; made at the first start", true},
    {"listen", OPTION_TEXT, AT(listen), "HOST:PORT", "where the API and the console are served (default 127.0.0.1:8443)", false},
    {"name", OPTION_LIST, AT(names), "NAME", "a further name or address by which this machine is reached; may be given several times", false},
    {"replicator-listen", OPTION_TEXT, AT(replicator_listen), "HOST:PORT",
     "where agents reach the replicator (default: the host of --listen, port 8444)", false},
    {"no-runner", OPTION_FLAG, AT(no_runner), NULL, "start no runner (for the target, the replicator and the factory's own tasks)", false},
    {"no-replicator", OPTION_FLAG, AT(no_replicator), NULL, "start no replicator", false},
    {"lease", OPTION_DURATION, AT(lease_us), "DURATION", "how long a runner that is not heard of keeps its tasks (30s)", false},
    {"s3-url", OPTION_TEXT, AT(handed[0]), "URL", "the replicator's: https://HOST[:PORT] of an S3-compatible store, to which full segments of the vault go", false},
    {"s3-bucket", OPTION_TEXT, AT(handed[1]), "NAME", "its bucket, which must be there", false},
    {"s3-credentials-file", OPTION_TEXT, AT(handed[2]), "FILE", "lines aws_access_key_id = … and aws_secret_access_key = …", false},
    {"s3-prefix", OPTION_TEXT, AT(handed[3]), "WORDS", "what all keys begin with (none)", false},
    {"s3-region", OPTION_TEXT, AT(handed[4]), "NAME", "the store's region (us-east-1)", false},
    {"s3-ca", OPTION_TEXT, AT(handed[5]), "FILE", "PEM of the store's CA (the system's)", false},
    {"s3-cache-mib", OPTION_TEXT, AT(handed[6]), "MIB", "how much of the segments stays here (16384)", false},
    {"s3-wait", OPTION_TEXT, AT(handed[7]), "DURATION", "how long a read waits for a store that does not answer (30s)", false},
    {"s3-uploads", OPTION_TEXT, AT(handed[8]), "COUNT", "how many segments are sent at once, 1 to 16 (4)", false},
    {"work-memory-mib", OPTION_TEXT, AT(handed[9]), "MIB", "the replicator's: memory that care of the vault takes at most (512)", false},
    {"init-user", OPTION_TEXT, AT(init_user), "NAME", "the first user, made when there is none (default admin)", false},
    {"init-password-file", OPTION_TEXT, AT(init_password_file), "FILE",
     "holds the first user's password; without it one is made up and told once", false},
};
#undef AT
static const struct option_table option_table = {"slipway serve", "--data FOLDER [OPTIONS]", NULL, option_rows, ARRAY_COUNT(option_rows)};

/* What runs, in the order in which it is started; ended in the other direction. */
struct factory {
    struct options o;
    struct data data;
    struct api api;
    char host[256], *url, *local_url, *replicator_listen, *handed[HANDED_COUNT]; /* handed: --name=value */
    int port;
    pthread_t ticker;
    bool ticks;
    atomic_bool stopping;
};

static bool is_any(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

static char *url_of(const char *host, int port)
{
    return xasprintf(strchr(host, ':') ? "https://[%s]:%d" : "https://%s:%d", host, port);
}

/* --- the workflow's clock --- */

static void *ticker(void *context)
{
    struct factory *f = context;
    int64_t said_us = 0;

    while (!f->stopping) {
        struct err e = {0};

        if (workflow_tick(f->api.workflow, &e) < 0 && clock_monotonic_us() - said_us > 60 * US_PER_S) {
            log_err(&e, "the workflow can't go on");
            said_us = clock_monotonic_us();
        }
        clock_sleep_us(TICK_MS * US_PER_MS);
    }
    return NULL;
}

/* Called by sse's thread, perhaps before the server is there. */
static void on_events(void *user)
{
    struct factory *f = user;
    struct httpd_server *server = __atomic_load_n(&f->api.httpd, __ATOMIC_ACQUIRE);

    if (server)
        httpd_wake(server);
}

/* --- the API --- */

static int start_server(struct factory *f, struct err *e)
{
    CLEANUP(free_ptr) char *certificate = NULL;
    CLEANUP(secret_release) struct secret key = {0};
    struct httpd_options options = {.address = f->o.listen, .ca_pem = identity_ca_pem(f->data.identity), .routes = api_routes,
                                    .route_count = api_route_count, .otherwise = &api_console_route, .authorise = api_authorise,
                                    .context = &f->api};
    const char *names[OPTION_LIST_MOST + 2];
    struct httpd_server *server;
    char own[256] = "";
    int count = 0;

    for (; count < f->o.names.count; count++)
        names[count] = f->o.names.values[count];
    if (!is_any(f->host))
        names[count++] = f->host;
    if (gethostname(own, sizeof own - 1) == 0 && *own)
        names[count++] = own;
    if (identity_server_certificate(f->data.identity, names, count, &certificate, &key, e) < 0)
        return err_wrap(e, "the server's certificate");
    options.certificate_pem = certificate;
    options.key_pem = key.bytes;
    if (httpd_start(&options, &server, e) < 0)
        return -1;
    __atomic_store_n(&f->api.httpd, server, __ATOMIC_RELEASE);
    f->port = httpd_port(server);
    return 0;
}

/* The urls hold the port, which port 0 leaves open until the socket is bound; documents are made of them only once tasks are claimed,
 * and the children that claim them start later. */
static void name_urls(struct factory *f)
{
    const char *local = strcmp(f->host, "0.0.0.0") == 0 ? "127.0.0.1" : strcmp(f->host, "::") == 0 ? "::1" : f->host;

    f->local_url = url_of(local, f->port);
    f->url = f->o.names.count ? url_of(f->o.names.values[0], f->port) : xstrdup(f->local_url);
}

static int start_api(struct factory *f, struct err *e)
{
    struct workflow_settings workflow = {.store = f->data.store, .complete = api_complete_document, .user = &f->api, .lease_us = f->o.lease_us};
    int port;

    if (f->o.lease_us && (f->o.lease_us < LEASE_LEAST_US || f->o.lease_us > LEASE_MOST_US))
        return err_set(e, ERR_INVALID, "--lease takes 3s to 1h");
    if (httpd_split_address(f->o.listen, f->host, sizeof f->host, &port, e) < 0)
        return -1;
    f->api = (struct api){.store = f->data.store, .identity = f->data.identity, .data_dir = f->data.path, .url = f->url,
                          .started_us = clock_now_us(), .clocks = clocks_new()};
    pthread_mutex_init(&f->api.backup_lock, NULL);
    f->port = port;
    name_urls(f);
    f->api.url = f->url;
    if (workflow_open(&workflow, &f->api.workflow, e) < 0 || sse_start(f->data.store, on_events, f, &f->api.sse, e) < 0 ||
        start_server(f, e) < 0)
        return -1;
    if (port == 0) { /* only tests let the kernel choose */
        free(f->url);
        free(f->local_url);
        name_urls(f);
        f->api.url = f->url;
    }
    f->ticks = pthread_create(&f->ticker, NULL, ticker, f) == 0;
    return f->ticks ? 0 : err_set(e, ERR_LIMIT, "can't start a thread");
}

/* --- the children --- */

/* Whether the certificate of the factory's own ends soon. Where it was revoked none is found: that is a person's word. */
static int ends_soon(struct factory *f, enum actor_kind kind, bool *out, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    CLEANUP(json_free) json_t *ending = NULL;
    json_t *one;
    size_t i;

    *out = false;
    if (store_begin(f->data.store, STORE_READ, &tx, e) < 0 || identity_ending_json(tx, clock_now_us() + IDENTITY_RENEW_US, &ending, e) < 0)
        return err_wrap(e, "the certificate of the factory's own %s", actor_kind_name(kind));
    json_array_foreach(ending, i, one)
        *out |= strcmp(json_get_string(one, "kind", ""), actor_kind_name(kind)) == 0 && strcmp(json_get_string(one, "name", ""), EMBEDDED) == 0;
    return 0;
}

/* A token in DATA/NAME/token, where the child's identity isn't there yet, or ends soon: `enrol` spends it. */
static int give_token(struct factory *f, enum actor_kind kind, const char *state, const char *token_path, const char *const *labels,
                      int label_count, struct err *e)
{
    CLEANUP(free_ptr) char *certificate = xasprintf("%s/identity/cert.pem", state);
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    char token[IDENTITY_TOKEN_SIZE];
    int64_t expires_us;
    int result;
    bool renews;

    if (ends_soon(f, kind, &renews, e) < 0)
        return -1;
    if (file_exists(certificate) && !renews)
        return 0;
    if (file_make_dirs(state, 0700, e) < 0 || store_begin(f->data.store, STORE_WRITE, &tx, e) < 0 ||
        identity_enrolment_make(f->data.identity, tx, kind, EMBEDDED, labels, label_count, 0, "factory", token, &expires_us, e) < 0 ||
        store_commit(&tx, e) < 0)
        return err_wrap(e, "the enrolment of the factory's own %s", actor_kind_name(kind));
    result = file_write(token_path, token, strlen(token), 0600, e);
    explicit_bzero(token, sizeof token);
    if (result == 0 && renews && unlink(certificate) < 0 && errno != ENOENT)
        return err_errno(e, errno, "%s", certificate);
    return result;
}

static int check_bucket(const struct options *o, struct err *e)
{
    return !o->handed[0] != !o->handed[1] || !o->handed[0] != !o->handed[2] ? err_set(e, ERR_INVALID, "--s3-url, --s3-bucket and --s3-credentials-file go together") : 0;
}

static void add_handed(struct factory *f, struct child_plan *plan)
{
    size_t at = 0;

    while (plan->arguments[at])
        at++;
    MUST(at + HANDED_COUNT < CHILD_ARGUMENTS_MAX);
    for (size_t row = 0; row < ARRAY_COUNT(option_rows); row++) {
        size_t number = (option_rows[row].at - offsetof(struct options, handed)) / sizeof *f->o.handed; /* of what stands before them it is no small one */

        if (number >= HANDED_COUNT || !f->o.handed[number])
            continue;
        f->handed[number] = xasprintf("--%s=%s", option_rows[row].name, f->o.handed[number]);
        plan->arguments[at++] = f->handed[number];
    }
}

static int start_children(struct factory *f, struct err *e)
{
    static const char *const labels[] = {"target", "replicator", "factory"};
    CLEANUP(free_ptr) char *runner = xasprintf("%s/runner", f->data.path), *replicator = xasprintf("%s/replicator", f->data.path);
    CLEANUP(free_ptr) char *runner_token = xasprintf("%s/token", runner), *replicator_token = xasprintf("%s/token", replicator);
    CLEANUP(free_ptr) char *ca = xasprintf("%s/%s", f->data.path, DATA_CA), *vault_key = xasprintf("%s/%s/" DATA_VAULT_KEY, f->data.path, DATA_KEYS);
    struct child_plan plans[2];
    int count = 0;

    if (!f->o.no_replicator) {
        if (give_token(f, ACTOR_REPLICATOR, replicator, replicator_token, NULL, 0, e) < 0)
            return -1;
        plans[count++] = (struct child_plan){"replicator", {"replicator", "--factory", f->local_url, "--ca", ca, "--name", EMBEDDED, "--token-file",
                                                            replicator_token, "--data", f->data.path, "--listen", f->replicator_listen,
                                                            "--vault-key-file", vault_key, "--make-vault-key"}};
        add_handed(f, &plans[count - 1]);
    }
    if (!f->o.no_runner) {
        if (give_token(f, ACTOR_RUNNER, runner, runner_token, labels, ARRAY_COUNT(labels), e) < 0)
            return -1;
        plans[count++] = (struct child_plan){"runner", {"runner", "--factory", f->local_url, "--ca", ca, "--name", EMBEDDED, "--token-file",
                                                        runner_token, "--state", runner, "--labels", "target,replicator,factory", "--parallel", "8"}};
    }
    return count ? children_start(plans, count, &f->api.children, e) : 0;
}

static int place_replicator(struct factory *f, struct err *e)
{
    char host[256];
    int port;

    if (!f->o.replicator_listen) {
        f->replicator_listen = xasprintf(strchr(f->host, ':') ? "[%s]:8444" : "%s:8444", f->host);
        return 0;
    }
    f->replicator_listen = xstrdup(f->o.replicator_listen);
    return httpd_split_address(f->replicator_listen, host, sizeof host, &port, e) < 0 ? err_wrap(e, "--replicator-listen") : 0;
}

/* --- telling people --- */

/* Where nobody looks at a terminal, a made-up password goes into a file: before anybody can ask for it. */
static int keep_first_login(struct factory *f, const struct secret *password, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/%s", f->data.path, DATA_FIRST_LOGIN), *text = NULL;
    int result;

    if (!password->size_bytes || isatty(STDOUT_FILENO))
        return 0;
    text = xasprintf("user: %s\npassword: %s\n", f->o.init_user, password->bytes);
    result = file_write(path, text, strlen(text), 0600, e);
    explicit_bzero(text, strlen(text));
    return result;
}

static void tell(const struct factory *f, const struct secret *password)
{
    printf("Slipway is ready.\n  Console         %s/\n  CA              %s/%s\n  CA fingerprint  %s\n", f->url, f->data.path, DATA_CA,
           identity_ca_fingerprint(f->data.identity));
    if (password->size_bytes && isatty(STDOUT_FILENO))
        printf("  Sign in         %s, password %s (told only now)\n", f->o.init_user, password->bytes);
    else if (password->size_bytes)
        printf("  Sign in         %s; the password is in %s/%s: read it, then remove the file\n", f->o.init_user, f->data.path, DATA_FIRST_LOGIN);
    fflush(stdout);
}

/* --- the whole --- */

static int start(struct factory *f, struct err *e)
{
    CLEANUP(secret_release) struct secret password = {0};

    if (data_lock(f->o.data_dir, &f->data, e) < 0 || restore_settle(f->data.path, e) < 0 || data_open(&f->data, e) < 0)
        return -1;
    if (data_first_user(&f->data, f->o.init_user, f->o.init_password_file, &password, e) < 0 || keep_first_login(f, &password, e) < 0 ||
        start_api(f, e) < 0 || place_replicator(f, e) < 0 || start_children(f, e) < 0)
        return -1;
    tell(f, &password);
    return 0;
}

/* Children first, so that what they have to tell is still heard. */
static void stop(struct factory *f)
{
    if (f->api.children)
        children_stop(f->api.children, CHILDREN_GRACE_MS);
    f->stopping = true;
    if (f->ticks)
        pthread_join(f->ticker, NULL);
    sse_stop(f->api.sse);
    httpd_stop(&f->api.httpd);
    sse_free(&f->api.sse);
    children_end(&f->api.children);
    workflow_close(&f->api.workflow);
    clocks_free(&f->api.clocks);
    data_close(&f->data);
    free(f->url);
    free(f->local_url);
    free(f->replicator_listen);
    for (int i = 0; i < HANDED_COUNT; i++)
        free(f->handed[i]);
}

int serve_main(int argc, char **argv)
{
    struct factory f = {.o = {.listen = "127.0.0.1:8443", .init_user = "admin"}, .data.lock_fd = -1};
    struct err e = {0};
    sigset_t ends;
    int number = 0, status;

    if (!options_begin(&option_table, argc, argv, &f.o, &status))
        return status;
    if (options_need(&option_table, &f.o, &e) < 0 || check_bucket(&f.o, &e) < 0)
        return options_refuse(&option_table, &e);
    log_open("slipway", LOG_INFO);
    signal(SIGPIPE, SIG_IGN);
    (void)fd_most();
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL); /* before the threads: they inherit it */
    if (start(&f, &e) < 0) {
        log_err(&e, "slipway serve can't start");
        stop(&f);
        return err_meaning(e.kind)->exit_code;
    }
    log_info("serving %s with the data in %s", f.url, f.data.path);
    sigwait(&ends, &number);
    log_info("%s: stopping", strsignal(number));
    stop(&f);
    return 0;
}
