/* err: the one way to fail.
 *
 * A function that can fail returns 0 or -1 (or a count; or 1/0/-1 for a look-up where absence is normal) and takes
 * `struct err *e` last. It sets *e where the failure happens and leaves its other outputs untouched. Callers that add
 * knowledge wrap it; the top of a program logs it once. `e` may be NULL where the caller doesn't want the words. */
#pragma once

#include <stdbool.h>
#include <stdarg.h>

enum err_kind {
    ERR_NONE = 0,
    ERR_INVALID,         /* the caller's input is wrong */
    ERR_UNAUTHENTICATED, /* who are you? */
    ERR_DENIED,          /* known, and not allowed */
    ERR_NOT_FOUND,
    ERR_CONFLICT,        /* somebody else changed it first, or it exists already */
    ERR_WRONG_STATE,     /* not possible in the state that it is in: outside the window, before finalize */
    ERR_LIMIT,           /* a bound of base/limits.h or of a quota */
    ERR_TIMEOUT,
    ERR_UNREACHABLE,     /* the other end can't be reached, or went away */
    ERR_PROTOCOL,        /* the other end answered what it should not */
    ERR_IO,              /* the operating system's word, with errno's text */
    ERR_NO_SPACE,
    ERR_CORRUPT,         /* bytes that do not match their checksum or their format */
    ERR_CANCELLED,
    ERR_UNSUPPORTED,
    ERR_INTERNAL,        /* our own mistake */
    ERR_KIND_COUNT
};

struct err {
    enum err_kind kind;
    char message[1024]; /* "while doing this: what happened: what to do"; always terminated */
};

/* What a kind means to the outside. */
struct err_meaning {
    const char *name;   /* stable, for JSON: "not_found" */
    const char *title;  /* for people: "Not found" */
    int http_status;    /* RFC 9110 */
    int exit_code;      /* of the command line: 1-20, documented in docs/operations.md */
    bool retryable;     /* may go away by itself */
};

const struct err_meaning *err_meaning(enum err_kind kind);
/* The kind of that name, ERR_INTERNAL for a name that is none. */
enum err_kind err_kind_named(const char *name);

/* Sets kind and message (cut at the buffer's end). Always returns -1, so that `return err_set(…)` reads well. */
int err_set(struct err *e, enum err_kind kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* ERR_IO (or NOT_FOUND, DENIED, NO_SPACE, TIMEOUT, UNREACHABLE where errno says so) with ": strerror(error_number)" after. */
int err_errno(struct err *e, int error_number, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Puts "what: " before the message that is there. Returns -1. */
int err_wrap(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* One fault more: the first as by err_set, the others after it and a semicolon. Returns -1. */
int err_also(struct err *e, enum err_kind kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
void err_clear(struct err *e);
