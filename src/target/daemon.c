#include "target/daemon.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the two children are given, all opened before: between fork and exec only calls that are safe there. */
struct handed {
    const char *const *argv;
    int folder_fd, netns_fd, log_fd, null_fd;
};

/* What they answer with: the daemon's id, or why not. */
struct answer {
    int pid, error_number;
};

_Noreturn static void run_daemon(const struct handed *h, int answer_fd)
{
    struct answer failed = {0};
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (setns(h->netns_fd, CLONE_NEWNET) == 0 && fchdir(h->folder_fd) == 0 && dup2(h->null_fd, 0) == 0 && dup2(h->log_fd, 1) == 1 &&
        dup2(h->log_fd, 2) == 2 && close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) == 0)
        execvp(h->argv[0], (char *const *)h->argv);
    failed.error_number = errno;
    if (write(answer_fd, &failed, sizeof failed) < 0)
        _exit(126);
    _exit(127);
}

/* The first child leaves our session, and is gone at once, so that the daemon is nobody's here. */
_Noreturn static void run_parent(const struct handed *h, int answer_fd)
{
    struct answer answer = {0};
    pid_t pid;

    setsid();
    pid = fork();
    if (pid == 0)
        run_daemon(h, answer_fd);
    answer = (struct answer){pid, pid < 0 ? errno : 0};
    _exit(write(answer_fd, &answer, sizeof answer) == (ssize_t)sizeof answer ? 0 : 1);
}

static void close_handed(struct handed *h)
{
    close_fd(&h->folder_fd);
    close_fd(&h->netns_fd);
    close_fd(&h->log_fd);
    close_fd(&h->null_fd);
}

/* Reads both answers: the pipe's end without a second one means that the program was started. */
static int hear(int fd, int *pidfd, struct err *e)
{
    struct answer answer;
    int held = -1;
    ssize_t got;

    while ((got = read(fd, &answer, sizeof answer)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got != (ssize_t)sizeof answer || answer.error_number) {
            close_fd(&held);
            return err_errno(e, got < 0 ? errno : answer.error_number, "can't start it");
        }
        held = pidfd_open(answer.pid, 0);
        if (held < 0 && errno != ESRCH)
            return err_errno(e, errno, "can't watch it");
    }
    if (held < 0)
        return err_set(e, ERR_IO, "it ended at once");
    *pidfd = held;
    return 0;
}

int daemon_start(const struct daemon_options *options, struct err *e)
{
    CLEANUP(close_handed) struct handed h = {
        .argv = options->argv, .folder_fd = open(options->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
        .netns_fd = open(options->netns_path, O_RDONLY | O_CLOEXEC),
        .log_fd = open(options->log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600),
        .null_fd = open("/dev/null", O_RDWR | O_CLOEXEC)};
    int ends[2], pidfd = -1, result;
    pid_t child;

    if (h.folder_fd < 0 || h.netns_fd < 0 || h.log_fd < 0 || h.null_fd < 0)
        return err_errno(e, errno, "can't start %s in %s", options->argv[0], options->folder);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_errno(e, errno, "can't make a pipe");
    child = fork();
    if (child == 0)
        run_parent(&h, ends[1]);
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return err_errno(e, errno, "can't start %s", options->argv[0]);
    }
    result = hear(ends[0], &pidfd, e);
    close(ends[0]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return result < 0 ? err_wrap(e, "%s", options->argv[0]) : pidfd;
}
