#include "base/clock.h"
#include "base/proc.h"
#include "tap.h"

#include <signal.h>
#include <unistd.h>

static void run_shell(const char *script, const struct proc_options *more, struct buf *out, struct buf *err, int *status, struct err *e,
                      int wanted)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    struct proc_options o = more ? *more : (struct proc_options){0};

    o.argv = argv;
    is_int(proc_run(&o, out, err, status, e), wanted, "`%s` gives %d", script, wanted);
}

static void a_program_runs(void)
{
    CLEANUP(buf_release) struct buf out = {0}, err = {0};
    struct err e = {0};
    int status = -1;

    run_shell("cat; echo two >&2; exit 3", &(struct proc_options){.input = "one", .input_bytes = 3}, &out, &err, &status, &e, 0);
    is_str(out.data, "one", "its stdin reached it and its stdout us");
    is_str(err.data, "two\n", "its stderr, too");
    is_int(status, 3, "and its exit status");
    run_shell("kill -TERM $$", NULL, NULL, NULL, &status, &e, 0);
    is_int(status, 128 + SIGTERM, "a signal is 128 and its number");
    buf_release(&out);
    run_shell("pwd", &(struct proc_options){.folder = "/"}, &out, NULL, &status, &e, 0);
    is_str(out.data, "/\n", "it runs in the folder that was named");
    is_int(proc_run(&(struct proc_options){.argv = (const char *const[]){"/no/such/program", NULL}}, NULL, NULL, &status, &e), -1,
           "a program that isn't there");
    is_int(e.kind, ERR_NOT_FOUND, "is not found");
    run_shell("sleep 9 & exit 0", NULL, &out, NULL, &status, &e, 0);
    is_int(proc_must(&(struct proc_options){.argv = (const char *const[]){"sh", "-c", "echo why >&2; exit 4", NULL}}, NULL, &e), -1,
           "proc_must wants exit status 0");
    ok(strstr(e.message, "exit status 4: why"), "and says what was said: %s", e.message);
}

static void what_does_not_read_holds_nobody(void)
{
    static char much[1 << 20];
    struct err e = {0};
    int status = -1;

    memset(much, 'x', sizeof much);
    run_shell("exit 5", &(struct proc_options){.input = much, .input_bytes = sizeof much}, NULL, NULL, &status, &e, 0);
    is_int(status, 5, "nor ends us with SIGPIPE");
}

static bool always(void *user) { return user != NULL; }

static void bounds_hold(void)
{
    CLEANUP(buf_release) struct buf out = {0};
    struct err e = {0};
    int64_t begin = clock_monotonic_us();
    int status = -1;

    run_shell("sleep 30 & sleep 30", &(struct proc_options){.timeout_ms = 300}, &out, NULL, &status, &e, -1);
    is_int(e.kind, ERR_TIMEOUT, "its time is bounded");
    ok(clock_monotonic_us() - begin < 5 * US_PER_S, "and kept");
    is_int(status, -1, "the status is untouched");
    buf_init(&out, 10000);
    run_shell("yes", NULL, &out, NULL, &status, &e, -1);
    is_int(e.kind, ERR_LIMIT, "its output is bounded");
    is_int(out.size_bytes, 10000, "to what was said");
    run_shell("sleep 30", &(struct proc_options){.cancelled = always, .user = &e}, NULL, NULL, &status, &e, -1);
    is_int(e.kind, ERR_CANCELLED, "it can be broken off");
}

static void the_whole_group_is_killed(void)
{
    CLEANUP(buf_release) struct buf out = {0};
    struct err e = {0};
    int status = 0, pid;

    run_shell("sleep 300 & echo $!; wait", &(struct proc_options){.timeout_ms = 300}, &out, NULL, &status, &e, -1);
    pid = out.data ? atoi(out.data) : 0;
    ok(pid > 1, "a grandchild was started");
    for (int i = 0; i < 100 && kill(pid, 0) == 0; i++)
        clock_sleep_us(20000); /* init reaps it */
    char path[64], state[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    CLEANUP(close_file) FILE *f = fopen(path, "r");
    ok(!f || (fgets(state, sizeof state, f) && strstr(state, ") Z")), "and is gone");
}

static void a_session_is_killed(void)
{
    int pipe_fds[2], session;
    char byte;

    ok(pipe(pipe_fds) == 0, "a pipe");
    session = fork();
    if (session == 0) {
        setsid();
        close(pipe_fds[0]);
        for (int i = 0; i < 3; i++)
            if (fork() == 0)
                setpgid(0, 0), pause(), _exit(0);
        pause();
        _exit(0);
    }
    close(pipe_fds[1]);
    clock_sleep_us(200000);
    proc_kill_session(session);
    is_int(read(pipe_fds[0], &byte, 1), 0, "every process of the session is gone, whatever its group");
    close(pipe_fds[0]);
}

int main(void)
{
    a_program_runs();
    what_does_not_read_holds_nobody();
    bounds_hold();
    the_whole_group_is_killed();
    a_session_is_killed();
    return tap_done();
}
