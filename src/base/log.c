#include "base/log.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *program_name = "slipway";
static enum log_level lowest_level = LOG_INFO;
static bool as_json = true;

void log_open(const char *program, enum log_level lowest)
{
    const char *wanted = getenv("SLIPWAY_LOG");

    program_name = program;
    lowest_level = lowest;
    as_json = wanted ? strcmp(wanted, "text") != 0 : !isatty(STDERR_FILENO);
}

/* JSON text of at most `size` bytes with its NUL: control characters, quotes and backslashes escaped (RFC 8259 7). */
static void escape(const char *text, char *out, size_t size)
{
    size_t used = 0;

    for (; *text && used + 7 < size; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\') {
            out[used++] = '\\';
            out[used++] = (char)c;
        } else if (c < 0x20) {
            used += (size_t)snprintf(out + used, size - used, "\\u%04x", c);
        } else {
            out[used++] = (char)c;
        }
    }
    out[used] = '\0';
}

static void put(enum log_level level, const char *message)
{
    char now[CLOCK_TEXT_SIZE], escaped[4096], line[4352];
    int size;

    clock_format(clock_now_us(), now);
    if (as_json) {
        escape(message, escaped, sizeof escaped);
        size = snprintf(line, sizeof line, "{\"at\":\"%s\",\"level\":\"%s\",\"program\":\"%s\",\"message\":\"%s\"}\n", now,
                        level_names[level], program_name, escaped);
    } else {
        size = snprintf(line, sizeof line, "%.19s %-5s %s: %.4096s\n", now, level_names[level], program_name, message);
    }
    if (size > 0 && write(STDERR_FILENO, line, (size_t)size < sizeof line ? (size_t)size : sizeof line - 1) < 0)
        return; /* nowhere left to say it */
}

void log_line(enum log_level level, const char *format, ...)
{
    char message[4096];
    va_list args;

    if (level < lowest_level)
        return;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    put(level, message);
}

void log_err(const struct err *e, const char *format, ...)
{
    char message[4096];
    va_list args;
    size_t used;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    used = strlen(message);
    snprintf(message + used, sizeof message - used, ": %s [%s]", e->message, err_meaning(e->kind)->name);
    put(LOG_ERROR, message);
}
