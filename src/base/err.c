#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct err_meaning meanings[ERR_KIND_COUNT] = {
    [ERR_NONE] = {"none", "No error", 200, 0, false},
    [ERR_INVALID] = {"invalid", "Invalid input", 400, 2, false},
    [ERR_UNAUTHENTICATED] = {"unauthenticated", "Not signed in", 401, 3, false},
    [ERR_DENIED] = {"denied", "Not allowed", 403, 4, false},
    [ERR_NOT_FOUND] = {"not_found", "Not found", 404, 5, false},
    [ERR_CONFLICT] = {"conflict", "Conflict", 409, 6, false},
    [ERR_WRONG_STATE] = {"state", "Not possible in this state", 409, 7, false},
    [ERR_LIMIT] = {"limit", "Over a limit", 413, 8, false},
    [ERR_TIMEOUT] = {"timeout", "Timed out", 504, 9, true},
    [ERR_UNREACHABLE] = {"unreachable", "Unreachable", 502, 10, true},
    [ERR_PROTOCOL] = {"protocol", "Unexpected answer", 502, 11, false},
    [ERR_IO] = {"io", "Input or output failed", 500, 12, true},
    [ERR_NO_SPACE] = {"no_space", "No space left", 507, 13, true},
    [ERR_CORRUPT] = {"corrupt", "Damaged data", 500, 14, false},
    [ERR_CANCELLED] = {"cancelled", "Cancelled", 409, 15, false},
    [ERR_UNSUPPORTED] = {"unsupported", "Not supported", 501, 16, false},
    [ERR_INTERNAL] = {"internal", "Internal error", 500, 1, false},
};

const struct err_meaning *err_meaning(enum err_kind kind)
{
    if (kind < 0 || kind >= ERR_KIND_COUNT)
        kind = ERR_INTERNAL;
    return &meanings[kind];
}

enum err_kind err_kind_named(const char *name)
{
    for (int kind = 0; name && kind < ERR_KIND_COUNT; kind++)
        if (strcmp(meanings[kind].name, name) == 0)
            return (enum err_kind)kind;
    return ERR_INTERNAL;
}

int err_set(struct err *e, enum err_kind kind, const char *format, ...)
{
    va_list args;

    if (!e)
        return -1;
    e->kind = kind;
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    return -1;
}

static enum err_kind kind_of_errno(int error_number)
{
    switch (error_number) {
    case ENOENT: return ERR_NOT_FOUND;
    case EACCES:
    case EPERM: return ERR_DENIED;
    case ENOSPC:
    case EDQUOT: return ERR_NO_SPACE;
    case ETIMEDOUT: return ERR_TIMEOUT;
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EPIPE: return ERR_UNREACHABLE;
    default: return ERR_IO;
    }
}

int err_errno(struct err *e, int error_number, const char *format, ...)
{
    va_list args;
    size_t used;

    if (!e)
        return -1;
    e->kind = kind_of_errno(error_number);
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    used = strlen(e->message);
    snprintf(e->message + used, sizeof e->message - used, ": %s", strerror(error_number));
    return -1;
}

int err_wrap(struct err *e, const char *format, ...)
{
    char inner[sizeof e->message];
    va_list args;
    size_t used;

    if (!e)
        return -1;
    memcpy(inner, e->message, sizeof inner);
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    used = strlen(e->message);
    snprintf(e->message + used, sizeof e->message - used, ": %s", inner);
    return -1;
}

int err_also(struct err *e, enum err_kind kind, const char *format, ...)
{
    va_list args;
    size_t used;

    if (!e)
        return -1;
    used = e->kind ? strlen(e->message) : 0;
    if (used)
        used += (size_t)snprintf(e->message + used, sizeof e->message - used, "; ");
    if (!e->kind)
        e->kind = kind;
    va_start(args, format);
    if (used < sizeof e->message)
        vsnprintf(e->message + used, sizeof e->message - used, format, args);
    va_end(args);
    return -1;
}

void err_clear(struct err *e)
{
    if (e)
        *e = (struct err){0};
}
