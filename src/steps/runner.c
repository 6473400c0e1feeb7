#include "steps/runner.h"
#include "base/clock.h"
#include "base/enrol.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/options.h"
#include "steps/runner_private.h"
#include "steps/step_run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define CLAIM_WAIT_MS 20000
#define BACK_OFF_FIRST_MS 500
#define BACK_OFF_MOST_MS 15000
#define POSTMAN_EVERY_MS 3000
#define PARALLEL_MOST 64
#define LABELS_MOST 32

struct options {
    const char *factory_url, *ca_file, *ca_fingerprint, *name, *labels, *token_file, *state_dir, *try_file, *proxy;
    int64_t parallel;
    bool attempt;
};

#define AT(member) offsetof(struct options, member)
static const struct option_row option_rows[] = {
    {"factory", OPTION_TEXT, AT(factory_url), "URL", "the factory's address, https://HOST:PORT", true},
    {"ca", OPTION_TEXT, AT(ca_file), "FILE", "the factory's CA certificate (PEM), for the first start", false},
    {"ca-fingerprint", OPTION_TEXT, AT(ca_fingerprint), "SHA256:HEX", "instead of --ca: the CA's fingerprint, as the factory prints it", false},
    {"name", OPTION_TEXT, AT(name), "NAME", "the runner's name, for which the token was made", true},
    {"labels", OPTION_TEXT, AT(labels), "LABELS", "what it may do, comma-separated: source:NETWORK, target, replicator, replicator:NAME, factory", true},
    {"token-file", OPTION_TEXT, AT(token_file), "FILE", "the one-time token, for the first start", false},
    {"state", OPTION_TEXT, AT(state_dir), "FOLDER", "where its identity and its memory are kept", true},
    {"parallel", OPTION_NUMBER, AT(parallel), "N", "how many tasks at a time (default 4), and as many that only wait for a sync", false},
    {"proxy", OPTION_TEXT, AT(proxy), "URL", "an HTTP proxy on the way to the factory", false},
    {"try", OPTION_TEXT, AT(try_file), "FILE", "run the step of a task document from a file, print its lines, and end; needs no factory", false},
    {"attempt", OPTION_FLAG, AT(attempt), NULL, NULL, false}, /* the child process of one attempt */
};
#undef AT
static const struct option_table option_table = {"slipway runner", "--factory URL --ca FILE --name NAME --labels LABELS --token-file FILE --state FOLDER",
                                                 NULL, option_rows, ARRAY_COUNT(option_rows)};

static int check_options(const struct options *o, struct err *e)
{
    if (options_need(&option_table, o, e) < 0)
        return -1;
    if (strncmp(o->factory_url, "https://", 8) != 0)
        return err_set(e, ERR_INVALID, "--factory must be an https:// address, not \"%s\"", o->factory_url);
    if (o->parallel < 1 || o->parallel > PARALLEL_MOST)
        return err_set(e, ERR_INVALID, "--parallel must be 1 to %d", PARALLEL_MOST);
    return 0;
}

/* ---- Claiming ---- */

static bool has_label(const struct runner *r, enum step_place place)
{
    static const char *const prefixes[] = {
        [STEP_AT_SOURCE] = "source", [STEP_AT_REPLICATOR] = "replicator", [STEP_AT_TARGET] = "target", [STEP_AT_FACTORY] = "factory"};
    size_t size = strlen(prefixes[place]);

    for (int i = 0; r->labels[i]; i++)
        if (strncmp(r->labels[i], prefixes[place], size) == 0 && (r->labels[i][size] == '\0' || r->labels[i][size] == ':'))
            return true;
    return false;
}

/* A place, and what it may be given: the first ones are for work; as many behind them for what only waits. */
struct slot {
    struct runner *r;
    int index;
};

static bool takes(const struct slot *slot, const struct step_api *step)
{
    if (step->span == STEP_WATCHES)
        return slot->index >= slot->r->parallel;
    return slot->index < (step->span == STEP_LONG ? (slot->r->parallel + 1) / 2 : slot->r->parallel);
}

static json_t *offer(const struct slot *slot)
{
    const struct runner *r = slot->r;
    json_t *labels = json_array(), *steps = json_array(), *body;

    for (int i = 0; r->labels[i]; i++)
        json_array_append_new(labels, step_text(r->labels[i], strlen(r->labels[i])));
    for (int i = 0; step_table[i]; i++)
        if (has_label(r, step_table[i]->place) && takes(slot, step_table[i]))
            json_array_append_new(steps, json_string(step_table[i]->name));
    body = json_pack("{s:o, s:o, s:i}", "labels", labels, "steps", steps, "wait_ms", CLAIM_WAIT_MS);
    MUST(body);
    json_set_time(body, "clock", clock_now_us()); /* doctor compares it with the factory's */
    return body;
}

static bool is_stopping(void *user) { return atomic_load(&((struct runner *)user)->stopping); }

/* 1 a task, 0 none now, -1. The lease counts from before the answer was on its way: "claimed_us" (monotonic) in the document. */
static int claim(const struct slot *slot, struct http_client *client, json_t **document, struct err *e)
{
    struct runner *r = slot->r;
    CLEANUP(json_free) json_t *body = offer(slot), *answer = NULL;
    CLEANUP(free_ptr) char *url = xasprintf("%s/v1/runner/claim", r->factory_url);
    struct http_request request = {.method = "POST", .url = url, .timeout_ms = CLAIM_WAIT_MS + 15000, .cancelled = is_stopping, .user = r};
    const char *attempt;
    json_t *task;
    int64_t fence;

    if (http_json(client, &request, body, &answer, NULL, e) < 0)
        return -1;
    if (!answer)
        return 0;
    if (json_need_string(answer, "attempt", &attempt, e) < 0 || json_need_int(answer, "fence", &fence, e) < 0 ||
        json_need_object(answer, "task", &task, e) < 0)
        return err_wrap(e, "the task that the factory gave");
    *document = json_incref(answer);
    return 1;
}

static void nap(struct runner *r, int64_t duration_ms)
{
    int64_t until_us = clock_monotonic_us() + duration_ms * US_PER_MS;

    while (!atomic_load(&r->stopping) && clock_monotonic_us() < until_us)
        clock_sleep_us(100 * US_PER_MS);
}

static void work(struct runner *r, struct http_client *client, json_t *document)
{
    const json_t *task = json_object_get(document, "task");
    const char *attempt = json_get_string(document, "attempt", "?"), *step = json_get_string(task, "step", "?");
    const char *server = json_get_string(json_object_get(document, "server"), "name", "-");
    int64_t begin_us = clock_monotonic_us();
    struct err e = {0};

    log_info("attempt %s begins: %s of %s", attempt, step, server);
    supervise(r, client, document);
    log_info("attempt %s is over after %lld ms: %s of %s", attempt, (long long)((clock_monotonic_us() - begin_us) / US_PER_MS), step, server);
    if (!atomic_load(&r->stopping) && finishes_deliver(r->finishes, client, r->factory_url, &e) < 0)
        log_err(&e, "the factory can't be told yet");
}

static void *slot_loop(void *user)
{
    const struct slot *slot = user;
    struct runner *r = slot->r;
    CLEANUP(http_close) struct http_client *client = NULL;
    int64_t back_off_ms = BACK_OFF_FIRST_MS;

    if (http_open(&r->http, &client, NULL) < 0)
        return NULL;
    while (!atomic_load(&r->stopping)) {
        CLEANUP(json_free) json_t *document = NULL;
        struct err e = {0};
        int got = claim(slot, client, &document, &e);

        if (got == 1)
            work(r, client, document);
        if (got >= 0) {
            back_off_ms = BACK_OFF_FIRST_MS;
            continue;
        }
        if (atomic_load(&r->stopping))
            break;
        log_err(&e, "can't claim a task; again in %lld ms", (long long)back_off_ms);
        nap(r, back_off_ms);
        back_off_ms = back_off_ms * 2 < BACK_OFF_MOST_MS ? back_off_ms * 2 : BACK_OFF_MOST_MS;
    }
    return NULL;
}

/* Tells the factory what could not be told when it happened. */
static void *postman_loop(void *user)
{
    struct runner *r = user;
    CLEANUP(http_close) struct http_client *client = NULL;

    if (http_open(&r->http, &client, NULL) < 0)
        return NULL;
    while (!atomic_load(&r->stopping)) {
        struct err e = {0};

        if (finishes_deliver(r->finishes, client, r->factory_url, &e) < 0)
            log_err(&e, "the factory can't be told yet");
        nap(r, POSTMAN_EVERY_MS);
    }
    return NULL;
}

/* ---- The whole ---- */

/* Two runners on one state would give each other's finishes and remove each other's folders. */
static int lock_state(const char *state_dir, int *lock_fd, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/lock", state_dir);

    if (file_make_dirs(state_dir, 0700, e) < 0)
        return -1;
    *lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*lock_fd < 0)
        return err_errno(e, errno, "can't open %s", path);
    if (flock(*lock_fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? err_set(e, ERR_WRONG_STATE, "another runner works in %s", state_dir)
                                    : err_errno(e, errno, "can't lock %s", path);
    return 0;
}

static int enrol_runner(const struct options *o, const char *folder, struct err *e)
{
    CLEANUP(buf_release) struct buf token = {0};
    struct enrol_options wanted = {folder, o->factory_url, o->ca_file, o->ca_fingerprint, "runner", o->name, NULL};
    int result;

    if (o->token_file && file_exists(o->token_file)) {
        if (file_read(o->token_file, LIMIT_TOKEN_BYTES, &token, e) < 0)
            return -1;
        token.data[strcspn(token.data, " \r\n")] = '\0';
        wanted.token = token.data;
    }
    result = enrol(&wanted, e);
    if (result == 0)
        log_info("enrolled as runner:%s at %s", o->name, o->factory_url);
    return result;
}

static bool watches(const struct runner *r)
{
    for (int i = 0; step_table[i]; i++)
        if (step_table[i]->span == STEP_WATCHES && has_label(r, step_table[i]->place))
            return true;
    return false;
}

static void run_threads(struct runner *r)
{
    pthread_t threads[2 * PARALLEL_MOST], postman;
    struct slot slots[2 * PARALLEL_MOST];
    int number = 0, count = watches(r) ? 2 * r->parallel : r->parallel;
    sigset_t ends;

    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL); /* before the threads: they inherit it */
    MUST(pthread_create(&postman, NULL, postman_loop, r) == 0);
    for (int i = 0; i < count; i++) {
        slots[i] = (struct slot){r, i};
        MUST(pthread_create(&threads[i], NULL, slot_loop, &slots[i]) == 0);
    }
    sigwait(&ends, &number);
    log_info("%s: stopping", strsignal(number));
    atomic_store(&r->stopping, true);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    pthread_join(postman, NULL);
}

static int run(const struct options *o, struct err *e)
{
    CLEANUP(free_ptr) char *folder = xasprintf("%s/identity", o->state_dir), *scratch = xasprintf("%s/attempts", o->state_dir);
    CLEANUP(free_ptr) char *key = xasprintf("%s/%s", folder, ENROL_KEY), *certificate = xasprintf("%s/%s", folder, ENROL_CERTIFICATE);
    CLEANUP(free_ptr) char *ca = xasprintf("%s/%s", folder, ENROL_CA), *copy = xstrdup(o->labels);
    CLEANUP(close_fd) int lock_fd = -1;
    char program[4096] = "", *saved = NULL;
    const char *labels[LABELS_MOST + 1] = {0};
    struct runner r = {.factory_url = o->factory_url, .name = o->name, .state_dir = o->state_dir, .labels = labels, .program = program,
                       .http = {ca, certificate, key, o->proxy, 0}, .parallel = (int)o->parallel};
    int count = 0;

    for (char *label = strtok_r(copy, ",", &saved); label; label = strtok_r(NULL, ",", &saved)) {
        if (count == LABELS_MOST)
            return err_set(e, ERR_LIMIT, "more than %d labels", LABELS_MOST);
        labels[count++] = label;
    }
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        return err_errno(e, errno, "can't find out which program this is");
    if (lock_state(o->state_dir, &lock_fd, e) < 0 || enrol_runner(o, folder, e) < 0 || file_make_dirs(scratch, 0700, e) < 0 ||
        finishes_open(o->state_dir, &r.finishes, e) < 0)
        return -1;
    log_info("runner %s works for %s with %s", o->name, o->factory_url, o->labels);
    run_threads(&r);
    finishes_close(&r.finishes);
    return 0;
}

/* ---- --try ---- */

static void print_line(void *user, const json_t *line)
{
    CLEANUP(free_ptr) char *text = json_text(line);

    (void)user;
    printf("%s\n", text);
    fflush(stdout);
}

/* With --state, what steps remember lies there from one try to the next. */
static int try_step(const char *path, const char *state_dir, struct err *e)
{
    CLEANUP(step_free) struct step *s = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    char scratch[] = "/tmp/slipway-try-XXXXXX";
    json_t *document = NULL;
    int result;

    if (json_read_file(path, &document, e) < 0)
        return -1;
    if (!mkdtemp(scratch))
        return err_errno(e, errno, "can't make a folder");
    s = step_new(document, scratch, state_dir ? state_dir : scratch, &(struct step_sink){print_line, NULL, NULL});
    result = step_execute(s, e);
    text = json_text(step_results(s));
    printf("{\"result\":%s}\n", text);
    runner_remove_folder(scratch);
    return result;
}

int runner_main(int argc, char **argv)
{
    struct options o = {.parallel = 4};
    struct err e = {0};
    int status;

    if (!options_begin(&option_table, argc, argv, &o, &status))
        return status;
    if (o.attempt)
        return attempt_main();
    if (!o.try_file && check_options(&o, &e) < 0)
        return options_refuse(&option_table, &e);
    signal(SIGPIPE, SIG_IGN);
    log_open("slipway-runner", LOG_INFO);
    if ((o.try_file ? try_step(o.try_file, o.state_dir, &e) : run(&o, &e)) == 0)
        return 0;
    log_err(&e, "slipway runner");
    return err_meaning(e.kind)->exit_code;
}
