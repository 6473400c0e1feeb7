/* One attempt, seen from its parent: see runner_private.h. Two threads: the caller's reads what the child says and decides when it
 * must die; a second one reports to the factory, which also renews the lease, so that a slow factory holds up no child. */
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/proc.h"
#include "steps/runner_private.h"
#include "steps/step_run.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define REPORT_EVERY_MS 500           /* where there is something to say */
#define GRACE_US (5 * US_PER_S)       /* between "cancel" and SIGKILL */
#define PENDING_LINES 5000            /* not reported yet: above it the child waits */
#define ARTIFACT_TRIES 3
#define LEASE_MS 30000                /* where the document has none */

enum ending { RUNNING, LOST, STOPPED, TIMED_OUT, CANCELLED };

struct watched {
    struct runner *runner;
    const char *attempt;
    int64_t fence, lease_us;
    int fd;                           /* our end of the child's socket; written under lock */
    pid_t pid;
    pthread_mutex_t lock;             /* below */
    pthread_cond_t changed;
    json_t *evidence, *log, *progress; /* not reported yet; progress may be NULL */
    int64_t lease_until_us;           /* monotonic; by our clock and from before the request was sent: never later than the factory's */
    bool ended, lost, cancelled;
};

static void send_child(struct watched *w, json_t *line)
{
    pthread_mutex_lock(&w->lock);
    lines_send(w->fd, line, NULL); /* a child that is gone is seen by the reader */
    pthread_mutex_unlock(&w->lock);
    json_decref(line);
}

/* ---- The reporter ---- */

/* Takes what is pending as a report's body. Under the lock. */
static json_t *take_report(struct watched *w)
{
    json_t *body = json_pack("{s:I}", "fence", (json_int_t)w->fence);

    MUST(body);
    if (json_array_size(w->evidence) > 0)
        json_object_set(body, "evidence", w->evidence);
    if (json_array_size(w->log) > 0)
        json_object_set(body, "log", w->log);
    if (w->progress)
        json_object_set(body, "progress", w->progress);
    json_decref(w->evidence);
    json_decref(w->log);
    json_decref(w->progress);
    w->evidence = json_array();
    w->log = json_array();
    w->progress = NULL;
    return body;
}

/* What could not be reported goes back before what came meanwhile. Under the lock. */
static void put_back(struct watched *w, json_t *body)
{
    static const char *const names[] = {"evidence", "log"};
    json_t **pending[] = {&w->evidence, &w->log};

    for (int i = 0; i < 2; i++) {
        json_t *older = json_object_get(body, names[i]);

        if (!older)
            continue;
        json_array_extend(older, *pending[i]);
        json_decref(*pending[i]);
        *pending[i] = json_incref(older);
    }
    if (!w->progress && json_object_get(body, "progress"))
        w->progress = json_incref(json_object_get(body, "progress"));
}

static void report_once(struct watched *w, struct http_client *client)
{
    CLEANUP(json_free) json_t *body = NULL, *answer = NULL;
    int64_t asked_us = clock_monotonic_us();
    struct err e = {0};
    int status = 0, result;

    pthread_mutex_lock(&w->lock);
    body = take_report(w);
    pthread_mutex_unlock(&w->lock);
    result = runner_post(client, w->runner->factory_url, w->attempt, "report", body, &answer, &status, &e);
    pthread_mutex_lock(&w->lock);
    if (result < 0 && (status == 409 || status == 404)) {
        w->lost = true;
    } else if (result < 0) {
        put_back(w, body);
    } else {
        w->lease_us = json_get_int(answer, "lease_ms", w->lease_us / US_PER_MS) * US_PER_MS;
        w->lease_until_us = asked_us + w->lease_us;
        w->cancelled = w->cancelled || json_get_bool(answer, "cancelled", false);
    }
    pthread_mutex_unlock(&w->lock);
    if (result < 0 && status != 409)
        log_err(&e, "can't report attempt %s", w->attempt);
}

static bool has_pending(const struct watched *w)
{
    return w->progress || json_array_size(w->evidence) > 0 || json_array_size(w->log) > 0;
}

/* Waits until it is time for the next report; false: the attempt is over. */
static bool wait_for_report(struct watched *w, int64_t last_us)
{
    bool go_on;

    pthread_mutex_lock(&w->lock);
    while (!w->ended && !w->lost) {
        int64_t due_us = last_us + (has_pending(w) ? REPORT_EVERY_MS * US_PER_MS : w->lease_us / 3), now_us = clock_monotonic_us();
        struct timespec until = {.tv_sec = due_us / US_PER_S, .tv_nsec = due_us % US_PER_S * 1000};

        if (now_us >= due_us)
            break;
        pthread_cond_timedwait(&w->changed, &w->lock, &until);
    }
    go_on = !w->ended && !w->lost;
    pthread_mutex_unlock(&w->lock);
    return go_on;
}

static void *report_loop(void *user)
{
    struct watched *w = user;
    CLEANUP(http_close) struct http_client *client = NULL;
    int64_t last_us = clock_monotonic_us();

    if (http_open(&w->runner->http, &client, NULL) < 0)
        return NULL; /* the lease runs out, and with it the attempt */
    while (wait_for_report(w, last_us)) {
        last_us = clock_monotonic_us();
        report_once(w, client);
    }
    return NULL;
}

/* ---- The reader ---- */

/* The child gets a session of its own, so that all that it starts can be found, and our socket as descriptor 3. */
static int start_child(struct watched *w, struct err *e)
{
    char *const argv[] = {(char *)w->runner->program, (char *)"runner", (char *)"--attempt", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int pair[2], reason;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, errno, "can't make a socket pair");
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&actions, pair[1], ATTEMPT_FD);
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    reason = posix_spawn(&w->pid, w->runner->program, &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(pair[1]);
    if (reason) {
        close(pair[0]);
        return err_errno(e, reason, "can't start %s", w->runner->program);
    }
    w->fd = pair[0];
    return 0;
}

static int upload(struct watched *w, struct http_client *client, const json_t *artifact, struct err *e)
{
    CLEANUP(buf_release) struct buf bytes = {0};
    CLEANUP(free_ptr) char *name = http_escape(json_get_string(artifact, "name", ""));
    CLEANUP(free_ptr) char *url = xasprintf("%s/v1/runner/attempts/%s/artifacts/%s?fence=%lld", w->runner->factory_url, w->attempt, name,
                                            (long long)w->fence);
    struct http_request request = {.method = "PUT", .url = url, .content_type = json_get_string(artifact, "media_type", "")};

    buf_init(&bytes, LIMIT_ARTIFACT_BYTES);
    if (file_read(json_get_string(artifact, "path", ""), LIMIT_ARTIFACT_BYTES, &bytes, e) < 0)
        return -1;
    request.body = bytes.data;
    request.body_bytes = bytes.size_bytes;
    for (int i = 0;; i++) {
        CLEANUP(http_response_release) struct http_response answer = {0};
        int result = http_do(client, &request, &answer, e);

        if (result == 0 && answer.status >= 200 && answer.status < 300)
            return 0;
        if (result == 0 && answer.status < 500)
            return http_problem(&answer, e);
        if (result == 0)
            http_problem(&answer, e);
        if (i + 1 == ARTIFACT_TRIES || atomic_load(&w->runner->stopping))
            return -1;
        clock_sleep_us(US_PER_S << i);
    }
}

static void store_artifact(struct watched *w, struct http_client *client, const json_t *artifact)
{
    struct err e = {0};
    json_t *answer;

    if (upload(w, client, artifact, &e) == 0)
        answer = json_pack("{s:{}}", "stored");
    else
        answer = json_pack("{s:{s:{s:s, s:o}}}", "stored", "error", "kind", err_meaning(e.kind)->name, "message",
                           step_text(e.message, strlen(e.message)));
    MUST(answer);
    send_child(w, answer);
}

static void take_line(struct watched *w, struct http_client *client, json_t *line, json_t **finish)
{
    json_t *part;

    if ((part = json_object_get(line, "artifact"))) {
        store_artifact(w, client, part);
        return;
    }
    if ((part = json_object_get(line, "finish"))) {
        json_decref(*finish);
        *finish = json_incref(part);
        return;
    }
    pthread_mutex_lock(&w->lock);
    if ((part = json_object_get(line, "evidence")))
        json_array_append(w->evidence, part);
    else if ((part = json_object_get(line, "log")))
        json_array_append(w->log, part);
    else if ((part = json_object_get(line, "progress")))
        json_decref(w->progress), w->progress = json_incref(part);
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/* Whether the attempt must end, and tells the child once that it should. */
static enum ending judge(struct watched *w, int64_t until_us, int64_t *told_us, enum ending told)
{
    int64_t now_us = clock_monotonic_us();
    bool lost, cancelled;

    pthread_mutex_lock(&w->lock);
    lost = w->lost || now_us >= w->lease_until_us;
    cancelled = w->cancelled;
    pthread_mutex_unlock(&w->lock);
    if (lost)
        return LOST;
    if (atomic_load(&w->runner->stopping))
        return STOPPED;
    if (told == RUNNING && (cancelled || now_us >= until_us)) {
        *told_us = now_us;
        send_child(w, json_pack("{s:b}", "cancel", 1));
        return cancelled ? CANCELLED : TIMED_OUT;
    }
    return told;
}

/* Reads until the child is done or must die. */
static enum ending follow(struct watched *w, struct http_client *client, int64_t timeout_us, json_t **finish)
{
    int64_t until_us = clock_monotonic_us() + timeout_us, told_us = 0;
    struct lines lines = {.fd = w->fd};
    enum ending ending = RUNNING;

    for (;;) {
        struct err e = {0};
        json_t *line = NULL;
        bool full;
        int got;

        ending = judge(w, until_us, &told_us, ending);
        if (ending == LOST || ending == STOPPED || (ending != RUNNING && clock_monotonic_us() - told_us > GRACE_US))
            break;
        pthread_mutex_lock(&w->lock);
        full = json_array_size(w->evidence) + json_array_size(w->log) > PENDING_LINES;
        pthread_mutex_unlock(&w->lock);
        if (full) {
            clock_sleep_us(100 * US_PER_MS);
            continue;
        }
        got = lines_read(&lines, 200, &line, &e);
        if (got == 1)
            take_line(w, client, line, finish);
        json_decref(line);
        if (got == 0 || (got < 0 && e.kind != ERR_TIMEOUT))
            break;
    }
    lines_release(&lines);
    return ending;
}

static int end_child(struct watched *w)
{
    int status = 0;

    kill(w->pid, SIGKILL); /* one that has ended already is not harmed; its number is ours until waitpid */
    while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR)
        ;
    proc_kill_session(w->pid);
    return status;
}

/* ---- The whole ---- */

static json_t *failure(enum err_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
static json_t *failure(enum err_kind kind, const char *format, ...)
{
    struct err e = {.kind = kind};
    json_t *body;
    va_list args;

    va_start(args, format);
    vsnprintf(e.message, sizeof e.message, format, args);
    va_end(args);
    body = json_pack("{s:s, s:{s:s, s:o}, s:{}}", "outcome", "failed", "error", "kind", err_meaning(kind)->name, "message",
                     step_text(e.message, strlen(e.message)), "result");
    MUST(body);
    return body;
}

/* What is told to the factory: what the child said, unless it was us who ended it. */
static json_t *finish_of(json_t *said, enum ending ending, int status, int64_t timeout_us)
{
    bool succeeded = said && strcmp(json_get_string(said, "outcome", ""), "succeeded") == 0;

    if (ending == TIMED_OUT && !succeeded) {
        json_decref(said);
        return failure(ERR_TIMEOUT, "the step did not end within %lld s", (long long)(timeout_us / US_PER_S));
    }
    if (said)
        return said;
    if (ending == CANCELLED)
        return failure(ERR_CANCELLED, "cancelled; the step did not end by itself and was killed");
    if (WIFSIGNALED(status))
        return failure(ERR_INTERNAL, "the step's process was ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    return failure(ERR_INTERNAL, "the step's process ended without a word, exit status %d", WEXITSTATUS(status));
}

/* Keeps the finish on disk first, so that a kill of this runner loses it no more. */
static void keep_finish(struct watched *w, json_t *finish)
{
    CLEANUP(json_free) json_t *kept = json_pack("{s:s, s:o}", "attempt", w->attempt, "finish", finish);
    struct err e = {0};

    MUST(kept);
    json_object_set_new(finish, "fence", json_integer(w->fence));
    if (has_pending(w))
        json_object_set_new(kept, "report", take_report(w));
    if (finishes_keep(w->runner->finishes, w->attempt, kept, &e) < 0)
        log_err(&e, "can't keep the end of attempt %s; the factory will give it again", w->attempt);
}

/* The document that the child gets: the factory's, the folders, and how to ask the factory (steps/factory.h). */
static json_t *child_document(const struct runner *r, const json_t *document, const char *attempt, char **scratch, struct err *e)
{
    CLEANUP(free_ptr) char *state = xasprintf("%s/steps", r->state_dir);
    json_t *copy, *runner;

    *scratch = xasprintf("%s/attempts/%s", r->state_dir, attempt);
    if (file_make_dirs(state, 0700, e) < 0 || file_make_dirs(*scratch, 0700, e) < 0)
        return NULL;
    copy = json_copy((json_t *)document);
    json_object_set_new(copy, "scratch_dir", json_string(*scratch));
    json_object_set_new(copy, "state_dir", json_string(state));
    runner = json_pack("{s:s, s:s, s:s, s:s, s:s?}", "factory_url", r->factory_url, "ca_file", r->http.ca_file, "certificate_file",
                       r->http.certificate_file, "key_file", r->http.key_file, "proxy", r->http.proxy);
    MUST(runner);
    json_object_set_new(copy, "runner", runner);
    return copy;
}

void runner_remove_folder(const char *path)
{
    const char *const argv[] = {"rm", "-rf", "--", path, NULL};

    proc_must(&(struct proc_options){.argv = argv}, NULL, NULL);
}

static void run_child(struct watched *w, struct http_client *client, json_t *child_doc, int64_t timeout_us)
{
    json_t *finish = NULL;
    enum ending ending = RUNNING;
    pthread_t reporter;
    struct err e = {0};
    int status = 0;

    if (start_child(w, &e) < 0) {
        keep_finish(w, failure(e.kind, "%s", e.message));
        return;
    }
    MUST(pthread_create(&reporter, NULL, report_loop, w) == 0);
    if (lines_send(w->fd, child_doc, &e) == 0)
        ending = follow(w, client, timeout_us, &finish);
    status = end_child(w);
    pthread_mutex_lock(&w->lock);
    w->ended = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(reporter, NULL);
    close_fd(&w->fd);
    if (ending == LOST || ending == STOPPED) {
        log_warn("attempt %s: %s; its process was ended and nothing is reported", w->attempt,
                 ending == LOST ? "the lease is lost" : "the runner stops");
        json_decref(finish);
        return;
    }
    keep_finish(w, finish_of(finish, ending, status, timeout_us));
}

void supervise(struct runner *r, struct http_client *client, const json_t *document)
{
    const json_t *task = json_object_get(document, "task");
    const struct step_api *api = step_find(json_get_string(task, "step", ""));
    int64_t timeout_us = json_get_int(document, "timeout_ms", api ? api->timeout_ms : 60000) * US_PER_MS;
    struct watched w = {.runner = r, .attempt = json_get_string(document, "attempt", ""), .fence = json_get_int(document, "fence", -1),
                        .lease_us = json_get_int(document, "lease_ms", LEASE_MS) * US_PER_MS, .fd = -1, .evidence = json_array(),
                        .log = json_array()};
    CLEANUP(free_ptr) char *scratch = NULL;
    CLEANUP(json_free) json_t *child_doc = NULL;
    pthread_condattr_t attributes;
    struct err e = {0};

    w.lease_until_us = json_get_int(document, "claimed_us", clock_monotonic_us()) + w.lease_us;
    pthread_mutex_init(&w.lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w.changed, &attributes);
    pthread_condattr_destroy(&attributes);
    child_doc = child_document(r, document, w.attempt, &scratch, &e);
    if (child_doc)
        run_child(&w, client, child_doc, timeout_us);
    else
        keep_finish(&w, failure(e.kind, "%s", e.message));
    runner_remove_folder(scratch);
    json_decref(w.evidence);
    json_decref(w.log);
    json_decref(w.progress);
    pthread_cond_destroy(&w.changed);
    pthread_mutex_destroy(&w.lock);
}
