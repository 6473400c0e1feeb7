#include "replicator/replicator.h"
#include "base/enrol.h"
#include "base/file.h"
#include "base/log.h"
#include "base/options.h"
#include "replicator/private.h"
#include "replicator/reach.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LARGE_BYTES (256 << 10) /* from here on memory that is freed goes back to the system, and is not kept for each of hundreds of threads */
#define SESSION_LIMIT 1024
#define FILES_LEAST (2 * SESSION_LIMIT) /* the vault's and the control socket's are beside the sessions' */
#define STOP_WAIT_US (10 * US_PER_S)
#define DEFAULT_POINT_INTERVAL_US (5 * US_PER_S)
#define POINT_INTERVAL_LEAST_US (100 * US_PER_MS)
#define DEFAULT_GUARD_MIB 512
#define S3_WAIT_MOST_US (3600 * US_PER_S)
#define KEY_EVERY_US (2 * US_PER_S)
#define SPEED_TRY_BYTES (8u << 20)

static atomic_bool stop_asked;
static void ask_to_stop(int number) { (void)number; atomic_store(&stop_asked, true); }

/* ---- options ---- */

#define AT(member) offsetof(struct replicator_options, member)
static const struct option_row option_rows[] = {
    {"data", OPTION_TEXT, AT(data), "DIR", "where everything is kept, in DIR/replicator (this or --state is required)", false},
    {"state", OPTION_TEXT, AT(state), "DIR", "where everything is kept, in DIR itself", false},
    {"listen", OPTION_TEXT, AT(listen), "ADDR:PORT", "where agents connect: a numeric address, IPv6 in brackets (required)", true},
    {"advertise", OPTION_TEXT, AT(advertise), "ADDR:PORT", "where agents reach it, where that is not what --listen says (behind NAT, or on 0.0.0.0)", false},
    {"factory", OPTION_TEXT, AT(factory_url), "URL", "https://… of the factory (required unless a certificate is given)", false},
    {"name", OPTION_TEXT, AT(name), "NAME", "this replicator's name (r1)", false},
    {"token-file", OPTION_TEXT, AT(token_file), "FILE", "one-time token to enrol with, at the first start (`slipway enrol replicator NAME`)", false},
    {"ca", OPTION_TEXT, AT(ca_file), "FILE", "PEM of the factory's CA, at the first start or with --certificate", false},
    {"ca-fingerprint", OPTION_TEXT, AT(ca_fingerprint), "SHA256:HEX", "instead of --ca: the CA is fetched from the factory and compared", false},
    {"certificate", OPTION_TEXT, AT(certificate_file), "FILE", "PEM: use this certificate, with --key and --ca, and don't enrol", false},
    {"key", OPTION_TEXT, AT(key_file), "FILE", "PEM: its key", false},
    {"vault-key-file", OPTION_TEXT, AT(vault_key_file), "FILE", "a line of 64 hexadecimal digits: the vault is encrypted, and opens with this key alone (not encrypted)", false},
    {"make-vault-key", OPTION_FLAG, AT(make_vault_key), NULL, "makes that file where it is missing and nothing is encrypted yet", false},
    {"factory-keeps-key", OPTION_FLAG, AT(factory_keeps_key), NULL, "the vault is encrypted, with a key that lies sealed in the factory's database: asked for at each start", false},
    {"s3-url", OPTION_TEXT, AT(s3_url), "URL", "https://HOST[:PORT] of an S3-compatible store: full segments of the vault go there, and their files here are a cache", false},
    {"s3-bucket", OPTION_TEXT, AT(s3_bucket), "NAME", "its bucket, which must be there", false},
    {"s3-prefix", OPTION_TEXT, AT(s3_prefix), "WORDS", "what all keys begin with; one vault to a prefix (none)", false},
    {"s3-region", OPTION_TEXT, AT(s3_region), "NAME", "the store's region (us-east-1)", false},
    {"s3-ca", OPTION_TEXT, AT(s3_ca_file), "FILE", "PEM of the store's CA (the system's)", false},
    {"s3-credentials-file", OPTION_TEXT, AT(s3_credentials_file), "FILE", "lines aws_access_key_id = … and aws_secret_access_key = …", false},
    {"s3-cache-mib", OPTION_NUMBER, AT(s3_cache_mib), "MIB", "how much of the segments stays here (16384)", false},
    {"s3-uploads", OPTION_NUMBER, AT(s3_uploads), "COUNT", "how many segments are sent at once, 1 to 16 (4)", false},
    {"s3-wait", OPTION_DURATION, AT(s3_wait_us), "DURATION", "how long a read waits for a store that does not answer (30s)", false},
    {"point-interval", OPTION_DURATION, AT(point_interval_us), "DURATION", "how often a recovery point is taken where the factory says nothing (5s)", false},
    {"guard-mib", OPTION_NUMBER, AT(guard_mib), "MIB", "how much of the disk stays free (512)", false},
    {"work-memory-mib", OPTION_NUMBER, AT(work_memory_mib), "MIB", "memory that giving space back, scrubbing, checking and counting take at most, each while it runs (512)", false},
    {"limit", OPTION_NUMBER, AT(limit_bytes_per_s), "BYTES", "bytes a second that each agent may send at most, whatever the factory says; 0: no limit (0)", false},
};
#undef AT
static const struct option_table option_table = {
    "slipway replicator", "--state DIR --listen ADDR:PORT --factory URL [OPTIONS]",
    "Takes blocks from agents, keeps them in the vault, and serves recovery points.", option_rows, ARRAY_COUNT(option_rows)};

static int parse_place(const char *option, const char *text, char address[static 64], int *port_out, struct err *e)
{
    const char *colon = strrchr(text, ':');
    size_t size = colon ? (size_t)(colon - text) : 0;
    char *rest;
    long port = colon ? strtol(colon + 1, &rest, 10) : -1;

    if (size && text[0] == '[' && text[size - 1] == ']')
        text++, size -= 2;
    if (!size || size >= 64 || port < 0 || port > 65535 || colon[1] == '\0' || *rest)
        return err_set(e, ERR_INVALID, "%s takes ADDR:PORT, for example 192.0.2.10:8444", option);
    memcpy(address, text, size);
    address[size] = '\0';
    *port_out = (int)port;
    return 0;
}

/* Nobody can dial 0.0.0.0: whoever listens there must say where it is. */
static int parse_places(struct replicator_options *o, struct err *e)
{
    if (parse_place("--listen", o->listen, o->listen_address, &o->listen_port, e) < 0)
        return -1;
    if (o->advertise)
        return parse_place("--advertise", o->advertise, o->advertise_address, &o->advertise_port, e);
    if (strcmp(o->listen_address, "0.0.0.0") == 0 || strcmp(o->listen_address, "::") == 0)
        return 0;
    memcpy(o->advertise_address, o->listen_address, sizeof o->advertise_address);
    o->advertise_port = o->listen_port;
    return 0;
}

static int check_options(struct replicator_options *o, struct err *e)
{
    if (options_need(&option_table, o, e) < 0 || parse_places(o, e) < 0)
        return -1;
    if (!o->data == !o->state)
        return err_set(e, ERR_INVALID, "one of --data and --state is required (`slipway replicator --help` tells more)");
    if (o->certificate_file ? !o->key_file || !o->ca_file : !o->factory_url)
        return err_set(e, ERR_INVALID, "give --factory, or --certificate with --key and --ca");
    if (o->factory_keeps_key && (o->vault_key_file || !o->factory_url))
        return err_set(e, ERR_INVALID, "--factory-keeps-key wants --factory, and no --vault-key-file");
    if (o->s3_wait_us > S3_WAIT_MOST_US)
        return err_set(e, ERR_INVALID, "--s3-wait is at most an hour");
    if (!o->s3_url != !o->s3_bucket || !o->s3_url != !o->s3_credentials_file)
        return err_set(e, ERR_INVALID, "--s3-url, --s3-bucket and --s3-credentials-file go together");
    if (o->point_interval_us < POINT_INTERVAL_LEAST_US)
        return err_set(e, ERR_INVALID, "--point-interval is at least 100ms");
    return vault_name_check("--name", o->name, e);
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
    return tls_context_open(TLS_SERVER, r->certificate_file, r->key_file, r->ca_file, &r->tls, e) < 0
               ? -1 : tls_context_open(TLS_CLIENT, r->certificate_file, r->key_file, r->ca_file, &r->dialling, e);
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

/* Without its keys the vault can't be opened, and without the factory they can't be had: it is waited for. */
static int wait_for_keys(struct replicator *r, struct vault_key **keys, size_t *count, struct err *e)
{
    bool told = false;

    while (factory_keys(r, false, keys, count, e) < 0) {
        if ((e->kind != ERR_UNREACHABLE && e->kind != ERR_TIMEOUT) || atomic_load(&stop_asked))
            return -1;
        if (!told)
            log_err(e, "the vault waits to be opened");
        told = true;
        err_clear(e);
        for (int i = 0; i < 10 && !atomic_load(&stop_asked); i++)
            clock_sleep_us(KEY_EVERY_US / 10);
    }
    if (*count)
        return 0;
    if (reach_is_encrypted(r->vault_path))
        return err_set(e, ERR_DENIED, "the vault is encrypted, and the factory keeps no key of a replicator %s: give its --vault-key-file", r->options.name);
    factory_keys_free(keys, *count);
    return factory_keys(r, true, keys, count, e);
}

static int open_with_factory_keys(struct replicator *r, struct vault_options *options, struct err *e)
{
    struct vault_key *keys = NULL;
    size_t count = 0;
    int result = wait_for_keys(r, &keys, &count, e);

    if (result == 0) {
        options->keys = keys;
        options->key_count = count;
        result = vault_open(r->vault_path, options, &r->vault, e);
    }
    factory_keys_free(&keys, count);
    return result;
}

static int open_vault(struct replicator *r, struct err *e)
{
    struct vault_options options = {.guard_bytes = (uint64_t)r->options.guard_mib << 20, .work_memory_bytes = (size_t)r->options.work_memory_mib << 20,
                                    .bucket_needed = true};
    const struct replicator_options *o = &r->options;
    struct vault_bucket bucket = {.url = o->s3_url, .bucket = o->s3_bucket, .prefix = o->s3_prefix, .region = o->s3_region, .ca_file = o->s3_ca_file,
                                  .credentials_file = o->s3_credentials_file, .cache_bytes = (uint64_t)o->s3_cache_mib << 20, .wait_ms = (int)(o->s3_wait_us / US_PER_MS), .upload_count = (size_t)o->s3_uploads};
    const char *file = o->vault_key_file;
    struct vault_key key;
    int result;

    options.bucket = o->s3_url ? &bucket : NULL;
    if (o->factory_keeps_key)
        return open_with_factory_keys(r, &options, e);
    if (file && r->options.make_vault_key && !file_exists(file) && !reach_is_encrypted(r->vault_path) && vault_key_make(file, e) < 0)
        return err_wrap(e, "making the vault's key");
    if (file && vault_key_read(file, &key, e) < 0)
        return -1;
    options.keys = &key;
    options.key_count = file != NULL;
    result = vault_open(r->vault_path, &options, &r->vault, e);
    explicit_bzero(&key, sizeof key);
    return result;
}

static int open_all(struct replicator *r, struct err *e)
{
    CLEANUP(free_ptr) char *home = NULL;

    if (file_make_dirs(r->home, 0700, e) < 0)
        return -1;
    home = realpath(r->home, NULL);
    if (!home)
        return err_errno(e, errno, "%s", r->home);
    r->control_told = xasprintf("%s/control.sock", home);
    r->write_bytes_per_s = try_disk(r->home);
    if (take_identity(r, e) < 0 || open_vault(r, e) < 0)
        return -1;
    reach_tell_anew(r->vault);
    if (peers_load(r, e) < 0 || settings_load(r, e) < 0 || copies_load(r, e) < 0 || revoked_load(r, e) < 0 || life_load(r, e) < 0 ||
        nbd_server_start(r->vault, r->nbd_path, &r->nbd, e) < 0 || control_listen(r, e) < 0)
        return -1;
    return listen_for_agents(r, e);
}

static int serve_all(struct replicator *r, struct err *e)
{
    void *(*const work[])(void *) = {control_accept, care_points, care_groups, care_limits, care_space, care_copies, care_factory};
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
    tls_context_free(&r->dialling);
    json_free(&r->copies_said);
    json_free(&r->revoked_said);
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
    free(r->control_told);
    free(r->marks_path);
    free(r->settings_path);
    free(r->copies_path);
    free(r->revoked_path);
    free(r->lifetime_path);
    free(r->identity);
    pthread_mutex_destroy(&r->lock);
    settings_free(r);
    pthread_mutex_destroy(&r->settings_lock);
    pthread_mutex_destroy(&r->fleet_lock);
    pthread_mutex_destroy(&r->copies_lock);
    pthread_mutex_destroy(&r->revoked_lock);
    pthread_mutex_destroy(&r->turns_lock);
    pthread_cond_destroy(&r->turn_free);
    pthread_mutex_destroy(&r->stat_lock);
    pthread_mutex_destroy(&r->stir_lock);
    pthread_cond_destroy(&r->stirred);
}

static int run(const struct replicator_options *o, struct err *e)
{
    struct replicator r = {.options = *o, .control_fd = -1, .agents_fd = -1, .clock = &clock_real};
    pthread_condattr_t monotonic;
    int result;

    MUST(pthread_condattr_init(&monotonic) == 0 && pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0 &&
         pthread_cond_init(&r.stirred, &monotonic) == 0);
    pthread_condattr_destroy(&monotonic);
    MUST(pthread_mutex_init(&r.lock, NULL) == 0 && pthread_mutex_init(&r.stat_lock, NULL) == 0 && pthread_mutex_init(&r.settings_lock, NULL) == 0 &&
         pthread_mutex_init(&r.stir_lock, NULL) == 0 && pthread_mutex_init(&r.copies_lock, NULL) == 0 && pthread_mutex_init(&r.revoked_lock, NULL) == 0 &&
         pthread_mutex_init(&r.turns_lock, NULL) == 0 && pthread_mutex_init(&r.fleet_lock, NULL) == 0 &&
         pthread_cond_init(&r.turn_free, NULL) == 0);
    r.home = o->state ? xstrdup(o->state) : xasprintf("%s/replicator", o->data);
    r.vault_path = xasprintf("%s/vault", r.home);
    r.nbd_path = xasprintf("%s/nbd.sock", r.home);
    r.control_path = xasprintf("%s/control.sock", r.home);
    r.marks_path = xasprintf("%s/servers.json", r.home);
    r.settings_path = xasprintf("%s/settings.json", r.home);
    r.copies_path = xasprintf("%s/copies.json", r.home);
    r.revoked_path = xasprintf("%s/revoked.json", r.home);
    r.lifetime_path = xasprintf("%s/lifetime.json", r.home);
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
    struct replicator_options options = {.name = "r1", .point_interval_us = DEFAULT_POINT_INTERVAL_US, .guard_mib = DEFAULT_GUARD_MIB};
    struct err e = {0};
    int status;

    if (!options_begin(&option_table, argc, argv, &options, &status))
        return status;
    if (check_options(&options, &e) < 0)
        return options_refuse(&option_table, &e);
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    log_open("slipway-replicator", LOG_INFO);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    if (fd_most() < FILES_LEAST)
        log_warn("this process may have fewer than %d files open (ulimit -Hn): with as many agents connected the vault could open none", FILES_LEAST);
    if (run(&options, &e) < 0) {
        log_err(&e, "the replicator ends");
        return err_meaning(e.kind)->exit_code;
    }
    log_info("stopped");
    return 0;
}
