#include "api/children.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define BACK_OFF_LEAST_US (500 * US_PER_MS)
#define BACK_OFF_MOST_US (30 * US_PER_S)

struct child {
    const char *name;
    char *arguments[CHILD_ARGUMENTS_MAX + 2]; /* argv: program's name first, NULL last */
    pid_t pid;                                /* 0: not running */
    int64_t started_us, start_at_us, back_off_us;
    int starts;
};

struct children {
    struct child list[CHILDREN_MAX];
    int count;
    pthread_mutex_t lock;
    pthread_t thread;
    bool stopping;
};

static void close_all_but_stdio(void)
{
    close_range(3, ~0u, 0);
}

/* In the child, after fork: only async-signal-safe calls. */
_Noreturn static void become(const struct child *c, pid_t parent)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it was killed before the line above */
        _exit(1);
    close_all_but_stdio();
    execv("/proc/self/exe", c->arguments);
    _exit(127);
}

/* Called from the supervising thread alone: PR_SET_PDEATHSIG counts from the thread that forked, which must live as long as we do. */
static void start(struct child *c)
{
    pid_t parent = getpid(), pid = fork();

    if (pid == 0)
        become(c, parent);
    c->started_us = clock_monotonic_us();
    if (pid < 0) {
        log_line(LOG_ERROR, "can't start the %s: %s", c->name, strerror(errno));
        c->start_at_us = c->started_us + c->back_off_us;
        return;
    }
    c->pid = pid;
    c->starts++;
    log_info("the %s runs as process %d", c->name, (int)pid);
}

static void ended(struct child *c, int status, bool expected)
{
    int64_t now_us = clock_monotonic_us();

    c->pid = 0;
    if (expected)
        return;
    if (now_us - c->started_us > 60 * US_PER_S)
        c->back_off_us = BACK_OFF_LEAST_US;
    c->start_at_us = now_us + c->back_off_us;
    log_warn("the %s ended (%s %d); it is started again in %lld ms", c->name, WIFSIGNALED(status) ? "signal" : "status",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), (long long)(c->back_off_us / US_PER_MS));
    c->back_off_us = c->back_off_us * 2 > BACK_OFF_MOST_US ? BACK_OFF_MOST_US : c->back_off_us * 2;
}

/* One look at all of them, under the lock; true while any runs. */
static bool look(struct children *c)
{
    bool any = false;

    for (struct child *one = c->list; one < c->list + c->count; one++) {
        int status;

        if (one->pid && waitpid(one->pid, &status, WNOHANG) == one->pid)
            ended(one, status, c->stopping);
        if (!one->pid && !c->stopping && clock_monotonic_us() >= one->start_at_us)
            start(one);
        any |= one->pid != 0;
    }
    return any;
}

static void *supervise(void *context)
{
    struct children *c = context;

    for (;;) {
        bool any, over;

        pthread_mutex_lock(&c->lock);
        any = look(c);
        over = c->stopping && !any;
        pthread_mutex_unlock(&c->lock);
        if (over)
            return NULL;
        clock_sleep_us(50 * US_PER_MS);
    }
}

int children_start(const struct child_plan *plans, int count, struct children **out, struct err *e)
{
    struct children *c = xcalloc(1, sizeof *c);

    MUST(count <= CHILDREN_MAX);
    c->count = count;
    for (int i = 0; i < count; i++) {
        struct child *one = &c->list[i];

        one->name = plans[i].name;
        one->back_off_us = BACK_OFF_LEAST_US;
        one->arguments[0] = xstrdup("slipway");
        for (int k = 0; k < CHILD_ARGUMENTS_MAX && plans[i].arguments[k]; k++)
            one->arguments[k + 1] = xstrdup(plans[i].arguments[k]);
    }
    pthread_mutex_init(&c->lock, NULL);
    if (pthread_create(&c->thread, NULL, supervise, c) != 0) {
        c->stopping = true;
        c->thread = 0;
        children_end(&c);
        return err_set(e, ERR_LIMIT, "can't start a thread");
    }
    *out = c;
    return 0;
}

static void signal_all(struct children *c, int number, bool stop)
{
    pthread_mutex_lock(&c->lock);
    c->stopping |= stop;
    for (int i = 0; i < c->count; i++)
        if (c->list[i].pid)
            kill(c->list[i].pid, number);
    pthread_mutex_unlock(&c->lock);
}

static bool any_runs(struct children *c)
{
    bool any = false;

    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->count; i++)
        any |= c->list[i].pid != 0;
    pthread_mutex_unlock(&c->lock);
    return any;
}

void children_stop(struct children *c, int grace_ms)
{
    int64_t until_us = clock_monotonic_us() + grace_ms * US_PER_MS;

    signal_all(c, SIGTERM, true);
    while (any_runs(c) && clock_monotonic_us() < until_us)
        clock_sleep_us(20 * US_PER_MS);
    signal_all(c, SIGKILL, true);
}

void children_end(struct children **held)
{
    struct children *c = *held;

    if (!c)
        return;
    if (c->thread) {
        children_stop(c, 0);
        pthread_join(c->thread, NULL);
    }
    for (int i = 0; i < c->count; i++)
        for (int k = 0; k < CHILD_ARGUMENTS_MAX + 2; k++)
            free(c->list[i].arguments[k]);
    pthread_mutex_destroy(&c->lock);
    free(c);
    *held = NULL;
}

bool children_up(struct children *c, char *why, size_t why_size)
{
    bool up = true;

    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->count && up; i++) {
        const struct child *one = &c->list[i];

        up = one->pid && (one->starts == 1 || clock_monotonic_us() - one->started_us > 2 * US_PER_S);
        if (!up)
            snprintf(why, why_size, "the %s doesn't run: it ended %d time%s; the factory's log says why", one->name, one->starts,
                     one->starts == 1 ? "" : "s");
    }
    pthread_mutex_unlock(&c->lock);
    return up;
}
