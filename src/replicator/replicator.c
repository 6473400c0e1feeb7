#include "replicator/replicator.h"
#include "base/enrol.h"
#include "base/file.h"
#include "base/log.h"
#include "replicator/private.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SESSION_LIMIT 1024
#define STOP_WAIT_US (10 * US_PER_S)
#define DEFAULT_POINT_INTERVAL_MS 5000
#define DEFAULT_GUARD_MIB 512
#define SPEED_TRY_BYTES (8u << 20)

static atomic_bool stop_asked;
static void ask_to_stop(int number) { (void)number; atomic_store(&stop_asked, true); }

/* ---- options ---- */

static const struct {
    const char *name, *argument, *help;
} option_table[] = {
    {"data", "DIR", "where everything is kept, in DIR/replicator (this or --state is required)"},
    {"state", "DIR", "where everything is kept, in DIR itself"},
    {"listen", "ADDR:PORT", "where agents connect: a numeric address, IPv6 in brackets (required)"},
    {"factory", "URL", "https://… of the factory (required unless a certificate is given)"},
    {"name", "NAME", "this replicator's name (r1)"},
    {"token-file", "FILE", "one-time token to enrol with, at the first start (`slipway enrol replicator NAME`)"},
    {"ca", "FILE", "PEM of the factory's CA, at the first start or with --certificate"},
    {"ca-fingerprint", "SHA256:…", "instead of --ca: the CA is fetched from the factory and compared"},
    {"certificate", "FILE", "PEM: use this certificate, with --key and --ca, and don't enrol"},
    {"key", "FILE", "PEM: its key"},
    {"point-interval", "DURATION", "how often a recovery point is taken (5s)"},
    {"guard-mib", "MIB", "how much of the disk stays free (512)"},
    {"limit", "BYTES", "bytes a second that each agent may send; 0: no limit (0)"},
    {"help", NULL, "this text"},
};

static void usage(FILE *out)
{
    fputs("usage: slipway replicator --state DIR --listen ADDR:PORT --factory URL [OPTIONS]\n\n"
          "Takes blocks from agents, keeps them in the vault, and serves recovery points.\n\n", out);
    for (size_t i = 0; i < ARRAY_COUNT(option_table); i++) {
        char name[64];

        snprintf(name, sizeof name, "--%s %s", option_table[i].name, option_table[i].argument ? option_table[i].argument : "");
        fprintf(out, "  %-28s %s\n", name, option_table[i].help);
    }
}

static int parse_listen(const char *text, struct replicator_options *o, struct err *e)
{
    const char *colon = strrchr(text, ':');
    size_t size = colon ? (size_t)(colon - text) : 0;
    char *rest;
    long port = colon ? strtol(colon + 1, &rest, 10) : -1;

    if (size && text[0] == '[' && text[size - 1] == ']')
        text++, size -= 2;
    if (!size || size >= sizeof o->listen_address || port < 0 || port > 65535 || colon[1] == '\0' || *rest)
        return err_set(e, ERR_INVALID, "--listen takes ADDR:PORT, for example 0.0.0.0:8444");
    memcpy(o->listen_address, text, size);
    o->listen_address[size] = '\0';
    o->listen_port = (int)port;
    return 0;
}

static int parse_number(const char *name, const char *text, int64_t *out, struct err *e)
{
    char *rest;
    long long value = strtoll(text, &rest, 10);

    if (*text == '\0' || *rest || value < 0)
        return err_set(e, ERR_INVALID, "--%s takes a number, not \"%s\"", name, text);
    *out = value;
    return 0;
}

static int take_option(struct replicator_options *o, const char *name, const char *value, struct err *e)
{
    const struct {
        const char *name;
        const char **at;
    } texts[] = {{"data", &o->data}, {"state", &o->state}, {"factory", &o->factory_url}, {"name", &o->name}, {"token-file", &o->token_file},
                 {"ca", &o->ca_file}, {"ca-fingerprint", &o->ca_fingerprint}, {"certificate", &o->certificate_file}, {"key", &o->key_file}};
    int64_t duration_us;

    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        if (strcmp(name, texts[i].name) == 0) {
            *texts[i].at = value;
            return 0;
        }
    if (strcmp(name, "listen") == 0)
        return parse_listen(value, o, e);
    if (strcmp(name, "guard-mib") == 0)
        return parse_number(name, value, &o->guard_mib, e);
    if (strcmp(name, "limit") == 0)
        return parse_number(name, value, &o->limit_bytes_per_s, e);
    if (clock_parse_duration(value, &duration_us, e) < 0)
        return err_wrap(e, "--%s", name);
    o->point_interval_ms = duration_us / US_PER_MS;
    return o->point_interval_ms >= 100 ? 0 : err_set(e, ERR_INVALID, "--point-interval is at least 100ms");
}

static int check_options(const struct replicator_options *o, struct err *e)
{
    if (!o->data == !o->state || !o->listen_address[0])
        return err_set(e, ERR_INVALID, "--listen and one of --data and --state are required (`slipway replicator --help`)");
    if (o->certificate_file ? !o->key_file || !o->ca_file : !o->factory_url)
        return err_set(e, ERR_INVALID, "give --factory, or --certificate with --key and --ca");
    return vault_name_check("--name", o->name, e);
}

/* 1: help was printed */
static int parse_options(int argc, char **argv, struct replicator_options *o, struct err *e)
{
    struct option options[ARRAY_COUNT(option_table) + 1] = {0};
    int index = 0, got;

    *o = (struct replicator_options){.name = "r1", .point_interval_ms = DEFAULT_POINT_INTERVAL_MS, .guard_mib = DEFAULT_GUARD_MIB};
    for (size_t i = 0; i < ARRAY_COUNT(option_table); i++)
        options[i] = (struct option){option_table[i].name, option_table[i].argument ? required_argument : no_argument, NULL, 0};
    optind = 1;
    opterr = 0;
    while ((got = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (got != 0)
            return err_set(e, ERR_INVALID, "%s is no option, or lacks its value (`slipway replicator --help`)", argv[optind - 1]);
        if (strcmp(options[index].name, "help") == 0) {
            usage(stdout);
            return 1;
        }
        if (take_option(o, options[index].name, optarg, e) < 0)
            return -1;
    }
    if (optind < argc)
        return err_set(e, ERR_INVALID, "\"%s\" is not expected (`slipway replicator --help`)", argv[optind]);
    return check_options(o, e);
}

/* ---- identity ---- */

static int read_token(const char *path, char token[static LIMIT_TOKEN_BYTES + 1], struct err *e)
{
    CLEANUP(buf_release) struct buf b = {0};

    token[0] = '\0';
    if (!path || !file_exists(path)) /* used and removed: whoever is enrolled needs none */
        return 0;
    buf_init(&b, LIMIT_TOKEN_BYTES);
    if (file_read(path, LIMIT_TOKEN_BYTES, &b, e) < 0)
        return -1;
    snprintf(token, LIMIT_TOKEN_BYTES + 1, "%.*s", (int)strcspn(b.data, "\r\n \t"), b.data);
    return 0;
}

static int enrol_here(struct replicator *r, struct err *e)
{
    char token[LIMIT_TOKEN_BYTES + 1];
    struct enrol_options o = {.folder = r->identity, .factory_url = r->options.factory_url, .ca_file = r->options.ca_file,
                              .ca_fingerprint = r->options.ca_fingerprint, .kind = "replicator", .name = r->options.name,
                              .token = token};

    if (read_token(r->options.token_file, token, e) < 0)
        return -1;
    if (!token[0])
        o.token = NULL;
    if (enrol(&o, e) < 0)
        return err_wrap(e, "enrolling with the factory");
    r->certificate_file = xasprintf("%s/" ENROL_CERTIFICATE, r->identity);
    r->key_file = xasprintf("%s/" ENROL_KEY, r->identity);
    r->ca_file = xasprintf("%s/" ENROL_CA, r->identity);
    return 0;
}

static int take_identity(struct replicator *r, struct err *e)
{
    if (r->options.certificate_file) {
        r->certificate_file = xstrdup(r->options.certificate_file);
        r->key_file = xstrdup(r->options.key_file);
        r->ca_file = xstrdup(r->options.ca_file);
    } else if (enrol_here(r, e) < 0) {
        return -1;
    }
    return tls_context_open(TLS_SERVER, r->certificate_file, r->key_file, r->ca_file, &r->tls, e);
}

/* ---- the disk ---- */

/* How fast this folder takes what must be durable: written and synced once at the start, for the doctor. 0: not known. */
static int64_t try_disk(const char *home)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/speed.XXXXXX", home);
    CLEANUP(free_ptr) uint8_t *bytes = xmalloc(SPEED_TRY_BYTES);
    CLEANUP(close_fd) int fd = mkostemp(path, O_CLOEXEC);
    int64_t begun_us = clock_monotonic_us(), took_us;
    bool written;

    if (fd < 0)
        return 0;
    unlink(path);
    memset(bytes, 'x', SPEED_TRY_BYTES);
    written = fd_write_all(fd, bytes, SPEED_TRY_BYTES, NULL) == 0 && fsync(fd) == 0;
    took_us = clock_monotonic_us() - begun_us;
    return written ? (int64_t)SPEED_TRY_BYTES * US_PER_S / (took_us + 1) : 0;
}

/* ---- agents ---- */

static int listen_for_agents(struct replicator *r, struct err *e)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)r->options.listen_port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)r->options.listen_port)};
    bool is_v4 = inet_pton(AF_INET, r->options.listen_address, &v4.sin_addr) == 1;
    int fd, on = 1;

    if (!is_v4 && inet_pton(AF_INET6, r->options.listen_address, &v6.sin6_addr) != 1)
        return err_set(e, ERR_INVALID, "--listen: %s is no numeric address", r->options.listen_address);
    fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(e, errno, "can't make a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6, is_v4 ? sizeof v4 : sizeof v6) < 0 || listen(fd, 128) < 0) {
        err_errno(e, errno, "can't listen on %s port %d", r->options.listen_address, r->options.listen_port);
        close(fd);
        return -1;
    }
    r->agents_fd = fd;
    return 0;
}

struct arrival {
    struct replicator *r;
    int fd;
};

static void *serve(void *user)
{
    struct arrival a = *(struct arrival *)user;

    free(user);
    session_serve(a.r, a.fd);
    atomic_fetch_sub(&a.r->sessions, 1);
    return NULL;
}

static void start_session(struct replicator *r, int fd)
{
    struct arrival *a = xcalloc(1, sizeof *a);
    pthread_attr_t attributes;
    pthread_t thread;

    *a = (struct arrival){r, fd};
    atomic_fetch_add(&r->sessions, 1);
    MUST(pthread_attr_init(&attributes) == 0 && pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
    if (atomic_load(&r->sessions) > SESSION_LIMIT || pthread_create(&thread, &attributes, serve, a) != 0) {
        log_warn("a connection is turned away: %u agents are connected", atomic_load(&r->sessions) - 1);
        close(fd);
        free(a);
        atomic_fetch_sub(&r->sessions, 1);
    }
    pthread_attr_destroy(&attributes);
}

static void accept_agents(struct replicator *r)
{
    while (!atomic_load(&stop_asked)) {
        struct pollfd p = {.fd = r->agents_fd, .events = POLLIN};
        int fd;

        if (poll(&p, 1, 200) <= 0)
            continue;
        fd = accept4(r->agents_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            start_session(r, fd);
        else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN)
            clock_sleep_us(50 * US_PER_MS);
    }
}

/* ---- the whole ---- */

static int open_all(struct replicator *r, struct err *e)
{
    struct vault_options options = {.guard_bytes = (uint64_t)r->options.guard_mib << 20};

    if (file_make_dirs(r->home, 0700, e) < 0)
        return -1;
    r->write_bytes_per_s = try_disk(r->home);
    if (take_identity(r, e) < 0 || vault_open(r->vault_path, &options, &r->vault, e) < 0 ||
        peers_load(r, e) < 0 || nbd_server_start(r->vault, r->nbd_path, &r->nbd, e) < 0 || control_listen(r, e) < 0)
        return -1;
    return listen_for_agents(r, e);
}

static int serve_all(struct replicator *r, struct err *e)
{
    void *(*const work[])(void *) = {control_accept, care_points, care_space, care_factory};
    size_t wanted = r->options.factory_url ? ARRAY_COUNT(work) : ARRAY_COUNT(work) - 1, count = 0;
    pthread_t threads[ARRAY_COUNT(work)];
    int result = 0;

    for (; count < wanted && result == 0; count++)
        if (pthread_create(&threads[count], NULL, work[count], r) != 0) {
            result = err_set(e, ERR_LIMIT, "can't start a thread");
            break;
        }
    if (result == 0) {
        log_info("replicator %s listens on %s port %d", r->options.name, r->options.listen_address, r->options.listen_port);
        accept_agents(r);
    }
    atomic_store(&r->stopping, true);
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    for (int64_t until_us = clock_monotonic_us() + STOP_WAIT_US;
         (atomic_load(&r->sessions) || atomic_load(&r->talks)) && clock_monotonic_us() < until_us;)
        clock_sleep_us(20 * US_PER_MS);
    return result;
}

static void close_all(struct replicator *r)
{
    nbd_server_stop(&r->nbd);
    vault_close(&r->vault);
    tls_context_free(&r->tls);
    peers_free(r);
    close_fd(&r->control_fd);
    close_fd(&r->agents_fd);
    free(r->certificate_file);
    free(r->key_file);
    free(r->ca_file);
    free(r->home);
    free(r->vault_path);
    free(r->nbd_path);
    free(r->control_path);
    free(r->marks_path);
    free(r->identity);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->stat_lock);
}

static int run(const struct replicator_options *o, struct err *e)
{
    struct replicator r = {.options = *o, .control_fd = -1, .agents_fd = -1};
    int result;

    MUST(pthread_mutex_init(&r.lock, NULL) == 0 && pthread_mutex_init(&r.stat_lock, NULL) == 0);
    r.home = o->state ? xstrdup(o->state) : xasprintf("%s/replicator", o->data);
    r.vault_path = xasprintf("%s/vault", r.home);
    r.nbd_path = xasprintf("%s/nbd.sock", r.home);
    r.control_path = xasprintf("%s/control.sock", r.home);
    r.marks_path = xasprintf("%s/servers.json", r.home);
    r.identity = xasprintf("%s/identity", r.home);
    result = open_all(&r, e);
    if (result == 0)
        result = serve_all(&r, e);
    if (atomic_load(&r.sessions) || atomic_load(&r.talks)) {
        /* Somebody does not let go: end without taking the ground from under them. Whatever was acknowledged is durable. */
        log_warn("stopping with %u connection(s) that do not end", atomic_load(&r.sessions) + atomic_load(&r.talks));
        _exit(result < 0 ? 1 : 0);
    }
    close_all(&r);
    return result;
}

int replicator_main(int argc, char **argv)
{
    struct sigaction stop = {.sa_handler = ask_to_stop}, ignore = {.sa_handler = SIG_IGN};
    struct replicator_options options;
    struct err e = {0};
    int got = parse_options(argc, argv, &options, &e);

    if (got == 1)
        return 0;
    if (got < 0) {
        fprintf(stderr, "slipway replicator: %s\n", e.message);
        return err_meaning(e.kind)->exit_code;
    }
    log_open("slipway-replicator", LOG_INFO);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    if (run(&options, &e) < 0) {
        log_err(&e, "the replicator ends");
        return err_meaning(e.kind)->exit_code;
    }
    log_info("stopped");
    return 0;
}
