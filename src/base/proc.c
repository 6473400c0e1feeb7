#include "base/proc.h"
#include "base/clock.h"
#include "base/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define PROC_TIMEOUT_MS 60000
#define POLL_MS 100

/* Our ends of the three pipes; -1 when done with. */
struct pipes {
    int in, out, err;
};

static void close_pipes(struct pipes *p)
{
    close_fd(&p->in);
    close_fd(&p->out);
    close_fd(&p->err);
}

static void close_three(int fds[3])
{
    for (int i = 0; i < 3; i++)
        close_fd(&fds[i]);
}

static int make_pipes(struct pipes *ours, int theirs[3], struct err *e)
{
    int pairs[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};

    for (int i = 0; i < 3; i++)
        if (pipe2(pairs[i], O_CLOEXEC) < 0) {
            int reason = errno;

            while (i-- > 0)
                close_fd(&pairs[i][0]), close_fd(&pairs[i][1]);
            return err_errno(e, reason, "can't make a pipe");
        }
    *ours = (struct pipes){pairs[0][1], pairs[1][0], pairs[2][0]};
    theirs[0] = pairs[0][0], theirs[1] = pairs[1][1], theirs[2] = pairs[2][1];
    fcntl(ours->in, F_SETFL, O_NONBLOCK); /* a program that does not read must not hold us */
    return 0;
}

static int spawn(const struct proc_options *o, const int fds[3], pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t all, none;
    int reason;

    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    for (int i = 0; i < 3; i++)
        posix_spawn_file_actions_adddup2(&actions, fds[i], i);
    if (o->keep_fd)
        posix_spawn_file_actions_adddup2(&actions, o->keep_fd, o->keep_fd); /* onto itself: it is no longer closed on exec (glibc 2.29) */
    if (o->folder)
        posix_spawn_file_actions_addchdir_np(&actions, o->folder);
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    reason = posix_spawnp(pid, o->argv[0], &actions, &attributes, (char *const *)o->argv,
                          o->environment ? (char *const *)o->environment : environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return reason;
}

/* Reads what is there; closes at the end. false: it did not fit. */
static bool take(int *fd, struct buf *to)
{
    char block[16384];
    ssize_t got = read(*fd, block, sizeof block);

    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    if (got <= 0)
        close_fd(fd);
    else if (to)
        return buf_add(to, block, (size_t)got) == 0;
    return true;
}

/* A program that closed its stdin must not end us with SIGPIPE, nor may we change the signals of the whole program: the thread holds
 * it back and takes it out. */
static ssize_t write_quietly(int fd, const void *bytes, size_t size)
{
    sigset_t pipe_only, before;
    ssize_t put;
    int reason;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    put = write(fd, bytes, size);
    reason = errno;
    if (put < 0 && reason == EPIPE && !sigismember(&before, SIGPIPE))
        sigtimedwait(&pipe_only, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = reason;
    return put;
}

static void feed(int *fd, const struct proc_options *o, size_t *done)
{
    ssize_t put = write_quietly(*fd, (const char *)o->input + *done, o->input_bytes - *done);

    if (put > 0)
        *done += (size_t)put;
    if (*done == o->input_bytes || (put < 0 && errno != EAGAIN && errno != EINTR))
        close_fd(fd); /* it has all, or wants no more: its exit status tells */
}

/* A daemon that the program left behind may hold the pipes, so the program's own end counts, not theirs. */
static bool has_ended(pid_t pid)
{
    siginfo_t ended = {0};

    return waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == pid;
}

/* Moves bytes until the program ended and nothing is left in the pipes; -1 when it must not go on. */
static int converse(const struct proc_options *o, struct pipes *p, struct buf *out, struct buf *err, pid_t pid, struct err *e)
{
    int limit_ms = o->timeout_ms ? o->timeout_ms : PROC_TIMEOUT_MS;
    int64_t until_us = clock_monotonic_us() + limit_ms * US_PER_MS;
    size_t fed = 0;

    if (o->input_bytes == 0)
        close_fd(&p->in);
    for (;;) {
        bool ended = has_ended(pid); /* asked before the poll: what it wrote last is in the pipes by now */
        struct pollfd polls[3] = {{p->in, POLLOUT, 0}, {p->out, POLLIN, 0}, {p->err, POLLIN, 0}};
        int count = poll(polls, 3, ended ? 0 : p->out < 0 && p->err < 0 ? 5 : POLL_MS);

        if (ended && (count == 0 || (!polls[1].revents && !polls[2].revents)))
            return 0;
        if (clock_monotonic_us() > until_us)
            return err_set(e, ERR_TIMEOUT, "%s did not end within %d ms", o->argv[0], limit_ms);
        if (o->cancelled && o->cancelled(o->user))
            return err_set(e, ERR_CANCELLED, "%s was broken off", o->argv[0]);
        if (polls[0].revents)
            feed(&p->in, o, &fed);
        if (polls[1].revents && !take(&p->out, out))
            return err_set(e, ERR_LIMIT, "%s printed more than is taken", o->argv[0]);
        if (polls[2].revents)
            take(&p->err, err);
    }
}

static void bound(struct buf *b)
{
    if (b && b->limit_bytes == 0)
        b->limit_bytes = LIMIT_COMMAND_OUTPUT_BYTES;
}

int proc_run(const struct proc_options *options, struct buf *out, struct buf *err, int *exit_status, struct err *e)
{
    CLEANUP(close_pipes) struct pipes ours = {-1, -1, -1};
    int theirs[3], reason, result, status = 0;
    pid_t pid = 0;

    bound(out);
    bound(err);
    if (make_pipes(&ours, theirs, e) < 0)
        return -1;
    reason = spawn(options, theirs, &pid);
    close_three(theirs);
    if (reason)
        return err_errno(e, reason, "can't start %s", options->argv[0]);
    result = converse(options, &ours, out, err, pid, e);
    if (result < 0)
        kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (result == 0)
        *exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return result;
}

int proc_must(const struct proc_options *options, struct buf *out, struct err *e)
{
    CLEANUP(buf_release) struct buf err = {0};
    const char *tail;
    int status = 0;

    if (proc_run(options, out, &err, &status, e) < 0)
        return -1;
    if (status == 0)
        return 0;
    while (err.size_bytes > 0 && strchr(" \r\n", err.data[err.size_bytes - 1]))
        err.data[--err.size_bytes] = '\0';
    tail = err.size_bytes > 600 ? err.data + err.size_bytes - 600 : err.size_bytes ? err.data : "it said nothing";
    return err_set(e, ERR_IO, "%s failed with exit status %d: %s", options->argv[0], status, tail);
}

/* The session of a process: the sixth field of /proc/PID/stat, counted after the name in parentheses. */
static int session_of(const char *pid)
{
    char path[300], text[1024], *after;
    int session = -1;
    size_t got;

    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    CLEANUP(close_file) FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    got = fread(text, 1, sizeof text - 1, f);
    text[got] = '\0';
    after = strrchr(text, ')');
    if (!after || sscanf(after + 1, " %*c %*d %*d %d", &session) != 1)
        return -1;
    return session;
}

void proc_kill_session(int session_id)
{
    bool found = true;

    for (int round = 0; found && round < 10; round++) { /* again, for those that forked meanwhile */
        DIR *proc = opendir("/proc");

        found = false;
        for (struct dirent *d; proc && (d = readdir(proc));) {
            int pid = atoi(d->d_name);

            if (pid > 1 && pid != getpid() && session_of(d->d_name) == session_id)
                found = kill(pid, SIGKILL) == 0 || found;
        }
        if (proc)
            closedir(proc);
    }
}
