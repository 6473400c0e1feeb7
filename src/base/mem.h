/* mem: the three ways to hold memory: an arena for a request, a step, an import; owned objects with CLEANUP(x_free); a buffer
 * that carries its limit. Running out of memory ends the program (every process here can be killed and started again);
 * running over a *limit* is an error that is returned. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define CLEANUP(function) __attribute__((cleanup(function)))
#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))
/* Stays on in release builds: for programmers' errors, never for input. */
#define MUST(condition) ((condition) ? (void)0 : must_failed(#condition, __FILE__, __LINE__))

_Noreturn void must_failed(const char *condition, const char *file, int line);

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *held, size_t size);
char *xstrdup(const char *text);                 /* NULL gives NULL */
char *xasprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* For CLEANUP on plain pointers, descriptors and FILE*s: */
void free_ptr(void *pointer_to_pointer);         /* CLEANUP(free_ptr) char *s */
void close_fd(int *fd);                          /* CLEANUP(close_fd) int fd = -1 */
void close_file(void *pointer_to_FILE_pointer);  /* CLEANUP(close_file) FILE *f */

/* An arena: many small allocations freed as a whole. Not for threads to share. */
struct arena;
struct arena *arena_new(void);
void arena_free(struct arena **a);               /* for CLEANUP; NULL inside is fine */
void *arena_alloc(struct arena *a, size_t size); /* zeroed, aligned for any type */
char *arena_strdup(struct arena *a, const char *text);
char *arena_printf(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A growing byte buffer that never passes its limit. data is always followed by a NUL that size_bytes doesn't count. */
struct buf {
    char *data;
    size_t size_bytes;
    size_t held_bytes;
    size_t limit_bytes; /* 0: 64 MiB */
    bool over;          /* an append did not fit: the content is cut and must not be used as whole */
};
void buf_init(struct buf *b, size_t limit_bytes);
void buf_release(struct buf *b);                 /* for CLEANUP; leaves it empty and usable */
int buf_add(struct buf *b, const void *bytes, size_t size);       /* -1 and over=true at the limit */
int buf_puts(struct buf *b, const char *text);
int buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *buf_take(struct buf *b);                   /* the caller frees; b is empty after */

/* A secret wipes itself and has no way to be printed. */
struct secret {
    char *bytes; /* NUL-terminated */
    size_t size_bytes;
};
void secret_set(struct secret *s, const void *bytes, size_t size);
void secret_release(struct secret *s);           /* wipes and frees; for CLEANUP */
