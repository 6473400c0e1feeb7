/* tap: the smallest test harness: TAP lines on stdout, a non-zero exit when one failed. A test binary's main calls its tests and
 * returns tap_done(). */
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tap_count, tap_failed;

/* A comment in the output, every line of it: what a test prints may hold a guest's file, in which any line could read like a result. */
__attribute__((format(printf, 1, 2), unused)) static void tap_note(const char *format, ...)
{
    char *text = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        abort();
    va_end(args);
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
        printf("# %.*s\n", (int)strcspn(line, "\n"), line);
    fflush(stdout);
    free(text);
}

#define ok(condition, ...) tap_line(!!(condition), __FILE__, __LINE__, #condition, __VA_ARGS__)
/* As ok, of data that must be what it was: where it does not hold no second try makes that good (scripts/count). */
#define intact(condition, ...) (ok(condition, __VA_ARGS__) ? 1 : (tap_note("no second try counts"), 0))
#define is_int(got, wanted, ...) tap_is_int((long long)(got), (long long)(wanted), __FILE__, __LINE__, __VA_ARGS__)
#define is_str(got, wanted, ...) tap_is_str((got), (wanted), __FILE__, __LINE__, __VA_ARGS__)

__attribute__((format(printf, 5, 6), unused)) static int tap_line(int passed, const char *file, int line, const char *condition,
                                                               const char *format, ...)
{
    va_list args;

    tap_failed += !passed;
    printf("%s %d - ", passed ? "ok" : "not ok", ++tap_count);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    if (!passed)
        printf("# %s:%d: %s\n", file, line, condition);
    fflush(stdout);
    return passed;
}

__attribute__((format(printf, 5, 6), unused)) static int tap_is_int(long long got, long long wanted, const char *file, int line,
                                                                 const char *format, ...)
{
    char name[512];
    va_list args;

    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    tap_line(got == wanted, file, line, "equal", "%s", name);
    if (got != wanted)
        tap_note("got %lld, wanted %lld", got, wanted);
    return got == wanted;
}

__attribute__((format(printf, 5, 6), unused)) static int tap_is_str(const char *got, const char *wanted, const char *file, int line,
                                                                 const char *format, ...)
{
    char name[512];
    va_list args;
    int same = (!got && !wanted) || (got && wanted && strcmp(got, wanted) == 0);

    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    tap_line(same, file, line, "equal", "%s", name);
    if (!same)
        tap_note("got \"%s\", wanted \"%s\"", got ? got : "(null)", wanted ? wanted : "(null)");
    return same;
}

__attribute__((unused)) static int tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed || !tap_count ? 1 : 0;
}
