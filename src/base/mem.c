#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUF_DEFAULT_LIMIT_BYTES (64u << 20)
#define ARENA_BLOCK_BYTES 16384u
#define ARENA_ALIGN 16u

void must_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "slipway: %s:%d: must hold and does not: %s\n", file, line, condition);
    abort();
}

static void *or_die(void *held)
{
    if (!held) {
        fputs("slipway: out of memory\n", stderr);
        abort();
    }
    return held;
}

void *xmalloc(size_t size) { return or_die(malloc(size ? size : 1)); }
void *xcalloc(size_t count, size_t size) { return or_die(calloc(count ? count : 1, size ? size : 1)); }
void *xrealloc(void *held, size_t size) { return or_die(realloc(held, size ? size : 1)); }
char *xstrdup(const char *text) { return text ? or_die(strdup(text)) : NULL; }

char *xasprintf(const char *format, ...)
{
    va_list args;
    char *text = NULL;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    return or_die(text);
}

void free_ptr(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
    *(void **)pointer_to_pointer = NULL;
}

void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void close_file(void *pointer_to_FILE_pointer)
{
    FILE **file = pointer_to_FILE_pointer;

    if (*file)
        fclose(*file);
    *file = NULL;
}

struct arena_block {
    struct arena_block *next;
    size_t used_bytes, size_bytes;
    char bytes[] __attribute__((aligned(16)));
};

struct arena {
    struct arena_block *first;
};

struct arena *arena_new(void) { return xcalloc(1, sizeof(struct arena)); }

void arena_free(struct arena **a)
{
    if (!a || !*a)
        return;
    for (struct arena_block *block = (*a)->first, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    free(*a);
    *a = NULL;
}

void *arena_alloc(struct arena *a, size_t size)
{
    struct arena_block *block = a->first;
    size_t wanted = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);

    MUST(wanted >= size);
    if (!block || block->size_bytes - block->used_bytes < wanted) {
        size_t block_size = wanted > ARENA_BLOCK_BYTES ? wanted : ARENA_BLOCK_BYTES;

        block = xcalloc(1, sizeof *block + block_size);
        block->size_bytes = block_size;
        block->next = a->first;
        a->first = block;
    }
    block->used_bytes += wanted;
    return block->bytes + block->used_bytes - wanted;
}

char *arena_strdup(struct arena *a, const char *text)
{
    size_t size;

    if (!text)
        return NULL;
    size = strlen(text) + 1;
    return memcpy(arena_alloc(a, size), text, size);
}

char *arena_printf(struct arena *a, const char *format, ...)
{
    va_list args;
    int size;
    char *text;

    va_start(args, format);
    size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    MUST(size >= 0);
    text = arena_alloc(a, (size_t)size + 1);
    va_start(args, format);
    vsnprintf(text, (size_t)size + 1, format, args);
    va_end(args);
    return text;
}

void buf_init(struct buf *b, size_t limit_bytes) { *b = (struct buf){.limit_bytes = limit_bytes}; }

void buf_release(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.limit_bytes = b->limit_bytes};
}

int buf_add(struct buf *b, const void *bytes, size_t size)
{
    size_t limit = b->limit_bytes ? b->limit_bytes : BUF_DEFAULT_LIMIT_BYTES;
    size_t room = limit - b->size_bytes, fits = size < room ? size : room;

    if (b->size_bytes + fits + 1 > b->held_bytes) {
        size_t held = b->held_bytes ? b->held_bytes : 256;

        while (held < b->size_bytes + fits + 1)
            held *= 2;
        b->data = xrealloc(b->data, held);
        b->held_bytes = held;
    }
    if (fits)
        memcpy(b->data + b->size_bytes, bytes, fits);
    b->size_bytes += fits;
    b->data[b->size_bytes] = '\0';
    if (fits < size)
        b->over = true;
    return fits < size ? -1 : 0;
}

int buf_puts(struct buf *b, const char *text) { return buf_add(b, text, strlen(text)); }

int buf_printf(struct buf *b, const char *format, ...)
{
    va_list args;
    CLEANUP(free_ptr) char *text = NULL;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    return buf_puts(b, or_die(text));
}

char *buf_take(struct buf *b)
{
    char *data = b->data ? b->data : xstrdup("");

    *b = (struct buf){.limit_bytes = b->limit_bytes};
    return data;
}

void secret_set(struct secret *s, const void *bytes, size_t size)
{
    secret_release(s);
    s->bytes = xmalloc(size + 1);
    memcpy(s->bytes, bytes, size);
    s->bytes[size] = '\0';
    s->size_bytes = size;
}

void secret_release(struct secret *s)
{
    if (s->bytes)
        explicit_bzero(s->bytes, s->size_bytes);
    free(s->bytes);
    *s = (struct secret){0};
}
