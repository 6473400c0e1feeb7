/* The program that test_runner.py drives: the real runner over steps that do what bad days do. */
#include "base/clock.h"
#include "base/file.h"
#include "base/proc.h"
#include "steps/runner.h"
#include "steps/step.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int run_good(struct step *s, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/note.txt", step_scratch_dir(s));
    const char *address;

    if (step_need_string(s, "server.address", &address, e) < 0)
        return -1;
    step_evidence(s, "address", true, "%s, bytes \xff\xfe that are no text", address);
    step_progress(s, 1, 2, "bytes", "half way");
    if (file_write(path, "note", 4, 0600, e) < 0 || step_artifact(s, "note.txt", "text/plain", path, e) < 0)
        return -1;
    step_result(s, "count", json_integer(step_int(s, "context.before.count", 0) + 1));
    return 0;
}

static int run_bad(struct step *s, struct err *e)
{
    step_evidence(s, "gate", false, "it does not hold");
    return err_set(e, ERR_UNREACHABLE, "the source can't be reached");
}

static int run_liar(struct step *s, struct err *e)
{
    (void)e;
    step_evidence(s, "gate", false, "it does not hold");
    return 0;
}

static int run_crash(struct step *s, struct err *e)
{
    (void)s, (void)e;
    raise(SIGKILL);
    return 0;
}

/* Leaves a process in a group of its own, says its number, and never ends. */
__attribute__((noreturn)) static int run_hang(struct step *s, struct err *e)
{
    pid_t child = fork();

    (void)e;
    if (child == 0) {
        setpgid(0, 0);
        for (;;)
            pause();
    }
    step_evidence(s, "pids", true, "%d %d", (int)getpid(), (int)child);
    for (;;)
        pause();
}

static int run_patient(struct step *s, struct err *e)
{
    step_evidence(s, "waits", true, "yes");
    return step_sleep_ms(s, 60000, e);
}

static int run_long(struct step *s, struct err *e) { return run_patient(s, e); }
static int run_watch(struct step *s, struct err *e) { return run_patient(s, e); }

#define STEP(step_name, place_, span_) \
    static const struct step_api step_##step_name = {#step_name, #step_name, place_, 5000, 1, run_##step_name, NULL, span_};
STEP(good, STEP_AT_SOURCE, STEP_BRIEF)
STEP(bad, STEP_AT_SOURCE, STEP_BRIEF)
STEP(liar, STEP_AT_SOURCE, STEP_BRIEF)
STEP(crash, STEP_AT_SOURCE, STEP_BRIEF)
STEP(hang, STEP_AT_SOURCE, STEP_BRIEF)
STEP(patient, STEP_AT_TARGET, STEP_BRIEF)
STEP(long, STEP_AT_REPLICATOR, STEP_LONG)
STEP(watch, STEP_AT_REPLICATOR, STEP_WATCHES)

const struct step_api *const step_table[] = {&step_good, &step_bad, &step_liar, &step_crash, &step_hang, &step_patient, &step_long, &step_watch, NULL};

int main(int argc, char **argv)
{
    return argc > 1 && strcmp(argv[1], "runner") == 0 ? runner_main(argc - 1, argv + 1) : 2;
}
