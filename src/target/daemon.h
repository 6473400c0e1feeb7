/* daemon: starts a program that outlives us: in a session of its own, with nothing of ours but what is named here. (QEMU's own
 * -daemonize does not go together with its sandbox.) */
#pragma once

#include "base/err.h"

struct daemon_options {
    const char *const *argv;  /* NULL at the end; argv[0] is looked up in PATH */
    const char *folder;       /* where it runs */
    const char *netns_path;   /* the network namespace it runs in */
    const char *log_path;     /* gets what it prints, from the start */
};

/* Returns a descriptor that poll(2) finds readable when the program has ended (pidfd_open(2)), or -1. */
int daemon_start(const struct daemon_options *options, struct err *e);
