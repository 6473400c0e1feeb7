/* The child process of one attempt: see runner_private.h. */
#include "base/limits.h"
#include "base/proc.h"
#include "steps/runner_private.h"
#include "steps/step_run.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* One attempt a process, so that its state can stand here. */
struct attempt {
    struct lines from_parent; /* the listener's */
    struct step *step;
    pthread_mutex_t lock;
    pthread_cond_t answered;
    json_t *stored;           /* the answer to an artifact; NULL: none came yet */
};

static void send_or_die(const json_t *line)
{
    if (lines_send(ATTEMPT_FD, line, NULL) == 0)
        return;
    proc_kill_session(getsid(0)); /* nobody supervises what we started */
    _exit(1);
}

static void tell(void *user, const json_t *line)
{
    (void)user;
    send_or_die(line);
}

static int store(void *user, const char *name, const char *media_type, const char *path, struct err *e)
{
    struct attempt *a = user;
    CLEANUP(json_free) json_t *line = json_pack("{s:{s:s, s:s, s:s}}", "artifact", "name", name, "media_type", media_type, "path", path);
    CLEANUP(json_free) json_t *stored = NULL;
    const json_t *error;

    if (!line)
        return err_set(e, ERR_INVALID, "an artifact's name is not UTF-8");
    send_or_die(line);
    pthread_mutex_lock(&a->lock);
    while (!a->stored)
        pthread_cond_wait(&a->answered, &a->lock);
    stored = a->stored;
    a->stored = NULL;
    pthread_mutex_unlock(&a->lock);
    error = json_object_get(stored, "error");
    if (!error)
        return 0;
    return err_set(e, err_kind_named(json_get_string(error, "kind", "")), "%s", json_get_string(error, "message", "?"));
}

static void *listen_to_parent(void *user)
{
    struct attempt *a = user;

    for (;;) {
        json_t *line = NULL, *stored;

        if (lines_read(&a->from_parent, -1, &line, NULL) <= 0) {
            proc_kill_session(getsid(0));
            _exit(1);
        }
        if (json_get_bool(line, "cancel", false))
            step_cancel(a->step);
        stored = json_incref(json_object_get(line, "stored"));
        json_decref(line); /* first: what is handed over is nobody else's any more */
        if (!stored)
            continue;
        pthread_mutex_lock(&a->lock);
        json_decref(a->stored);
        a->stored = stored;
        pthread_cond_signal(&a->answered);
        pthread_mutex_unlock(&a->lock);
    }
    return NULL;
}

static json_t *finish_of(int result, const struct err *e, const struct step *s)
{
    json_t *finish = json_pack("{s:s, s:O}", "outcome", result < 0 ? "failed" : "succeeded", "result", step_results(s));

    MUST(finish);
    if (result < 0)
        json_object_set_new(finish, "error", json_pack("{s:s, s:o}", "kind", err_meaning(e->kind)->name, "message",
                                                       step_text(e->message, strlen(e->message))));
    return finish;
}

int attempt_main(void)
{
    static struct attempt a = {.from_parent.fd = ATTEMPT_FD, .lock = PTHREAD_MUTEX_INITIALIZER, .answered = PTHREAD_COND_INITIALIZER};
    struct step_sink sink = {tell, store, &a};
    json_t *document = NULL, *line;
    struct err e = {0};
    pthread_t listener;
    int result;

    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* the document has secrets */
    signal(SIGPIPE, SIG_IGN);
    if (lines_read(&a.from_parent, -1, &document, &e) != 1)
        return 1;
    a.step = step_new(document, json_get_string(document, "scratch_dir", "/nonexistent"),
                      json_get_string(document, "state_dir", "/nonexistent"), &sink);
    if (pthread_create(&listener, NULL, listen_to_parent, &a) != 0)
        return 1;
    result = step_execute(a.step, &e);
    line = json_pack("{s:o}", "finish", finish_of(result, &e, a.step));
    send_or_die(line);
    /* No tidying up: the listener still reads, and the process ends here. */
    _exit(0);
}
