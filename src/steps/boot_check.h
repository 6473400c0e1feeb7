/* boot_check: the boot-up test of a launched machine (process.md, "Tests of a launched machine"): each look is a line of evidence, and all of
 * them must hold. Shared by boot_test and verify_cutover. */
#pragma once

#include "remote/remote.h"
#include "steps/launch.h"

struct boot_check {
    struct step *step;
    struct launch launch;
    const char *address;   /* of the instance, in its own network */
    int port;              /* of SSH */
    struct remote *remote; /* logged in, from boot_login on */
    int64_t until_us;      /* monotonic: what is not there by then is not coming; */
    int64_t at_most_us;    /* a machine that still talks on its serial port gets more time, to here */
    size_t serial_bytes;   /* what it had said */
    bool was_reset;        /* its first boot hung */
    size_t read_bytes;     /* of the serial log: what came before it was reset */
    int line_count, failed_count;
    struct buf failed;     /* the names of the lines that did not hold */
};
void boot_check_release(struct boot_check *b); /* for CLEANUP */

/* Opens the target and the instance of context.TASK.instance, which must be the step's own of that kind. */
int boot_check_open(struct step *s, enum launch_kind kind, const char *task, int deadline_ms, struct boot_check *b, struct err *e);
/* Logs in as soon as the machine lets us, or -1: it failed, stopped, shows another host key, or time is over. */
int boot_login(struct boot_check *b, struct err *e);
/* All the looks: after boot_login. -1 only where it can't look; what did not hold is counted. */
int boot_look(struct boot_check *b, struct err *e);
/* The screen and the serial log as artifacts, whatever the state of the machine; and the line about the serial console. */
int boot_keep(struct boot_check *b, struct err *e);
/* -1 with the names of the lines that did not hold; no line at all holds nothing. */
int boot_verdict(const struct boot_check *b, struct err *e);
/* One line, counted. */
void boot_line(struct boot_check *b, const char *name, bool passed, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* The owner's checks (boot_owner.c): the attribute `checks`. */
int boot_owner_checks(struct boot_check *b, struct err *e);
/* One owner's check, parsed: for its tests. `http://HOST:PORT/PATH contains TEXT` or `command CMD`. */
struct boot_owner_check {
    bool is_http;
    char host[256], path[1024], text[1024]; /* text: what it must contain, or the command */
    int port;
};
/* 1: *at moved behind the next check, 0: no more, -1: ERR_INVALID. */
int boot_owner_next(const char **at, struct boot_owner_check *out, struct err *e);
/* The status of an HTTP answer (0: it is none) and where its body begins. */
int boot_http_status(const char *answer, size_t size, const char **body);
