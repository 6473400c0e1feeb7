/* proc: run a local program to its end, bounded in time and output. No shell. The program gets a process group of its own, which
 * is killed as a whole when the time is over, the output is too long or the caller cancels. Thread-safe. */
#pragma once

#include "base/mem.h"

struct proc_options {
    const char *const *argv;        /* NULL at the end; argv[0] is looked up in PATH */
    const char *const *environment; /* "NAME=value" …, NULL at the end; NULL: ours */
    const char *folder;             /* where it runs; NULL: where we are */
    const void *input;              /* what it reads on stdin; secrets go here, never into argv */
    size_t input_bytes;
    int keep_fd;                    /* stays open in the program, under its number, and so does a lock on it (flock) for as long as it lives, whatever becomes of us; 0: none */
    int timeout_ms;                 /* 0: 60,000 */
    bool (*cancelled)(void *user);  /* asked several times a second; NULL: never */
    void *user;
};

/* out and err (each may be NULL: dropped) get what it printed, bounded by their own limits (0: LIMIT_COMMAND_OUTPUT_BYTES).
 * exit_status: 0-255, or 128 and the signal. A program that ran and failed is no error here: look at exit_status.
 * ERR_NOT_FOUND: no such program; ERR_TIMEOUT; ERR_LIMIT: out was too long; ERR_CANCELLED. A too long err is cut. */
int proc_run(const struct proc_options *options, struct buf *out, struct buf *err, int *exit_status, struct err *e);
/* The same, where anything but exit status 0 is an ERR_IO with the end of what it said on stderr. */
int proc_must(const struct proc_options *options, struct buf *out, struct err *e);
/* Kills every process of that session (setsid) but the caller's own. For whoever supervises programs that it can't trust to end. */
void proc_kill_session(int session_id);
