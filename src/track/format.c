#include "track/format.h"

#include "base/mem.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MOST 16384
#define RECORD_SIZE 256
#define TRACEPOINT "block_rq_complete"

/* What is wanted: its size, or at least that where it is an array. */
static const struct field {
    const char *name;
    bool array;
    int size;
    size_t into; /* the place's, in track_format */
} fields[] = {
    {"dev", false, 4, offsetof(struct track_format, dev_at)},
    {"sector", false, 8, offsetof(struct track_format, sector_at)},
    {"nr_sector", false, 4, offsetof(struct track_format, count_at)},
    {"rwbs", true, 4, offsetof(struct track_format, operation_at)},
};

/* The number after a word, "offset:16;": -1 where there is none. */
static int number_after(const char *line, const char *word)
{
    const char *at = strstr(line, word);
    long number;
    char *end;

    if (!at || !isdigit((unsigned char)at[strlen(word)]))
        return -1;
    number = strtol(at + strlen(word), &end, 10);
    return *end == ';' && number <= 65535 ? (int)number : -1;
}

/* The declared name: the last word before the ';', or before the '[' of an array. What only points at an array ("__data_loc char[] cmd") ends in a word, too. */
static bool declares(const char *line, const struct field *wanted)
{
    const char *end = strchr(line, ';'), *begin;

    if (!end)
        return false;
    if (end > line && end[-1] == ']') {
        while (end > line && *end != '[')
            end--;
        if (!wanted->array)
            return false;
    } else if (wanted->array) {
        return false;
    }
    for (begin = end; begin > line && (isalnum((unsigned char)begin[-1]) || begin[-1] == '_'); begin--)
        ;
    return (size_t)(end - begin) == strlen(wanted->name) && memcmp(begin, wanted->name, (size_t)(end - begin)) == 0;
}

static int take_field(const char *line, struct track_format *out, struct err *e)
{
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        const struct field *f = &fields[i];
        int offset = number_after(line, "offset:"), size = number_after(line, "size:"), *into = (int *)((char *)out + f->into);

        if (!declares(line, f))
            continue;
        if (*into >= 0)
            return err_set(e, ERR_PROTOCOL, TRACEPOINT "'s format has %s twice", f->name);
        if (offset < 0 || (f->array ? size < f->size : size != f->size) || offset + size > RECORD_SIZE)
            return err_set(e, ERR_PROTOCOL, TRACEPOINT "'s format has %s at %d, of %d bytes: that is not understood", f->name, offset, size);
        *into = offset;
    }
    return 0;
}

static int take_line(const char *line, struct track_format *out, bool *named, struct err *e)
{
    if (strncmp(line, "name: ", 6) == 0) {
        *named = strcmp(line + 6, TRACEPOINT) == 0;
    } else if (strncmp(line, "ID: ", 4) == 0) {
        char *end;
        long id = strtol(line + 4, &end, 10);

        out->id = isdigit((unsigned char)line[4]) && !*end && id > 0 && id <= 65535 ? (int)id : -1;
    } else if (strncmp(line, "\tfield:", 7) == 0) {
        return take_field(line + 7, out, e);
    }
    return 0;
}

int format_parse(const char *text, size_t size_bytes, struct track_format *out, struct err *e)
{
    struct track_format f = {-1, -1, -1, -1, -1};
    CLEANUP(free_ptr) char *copy = NULL;
    bool named = false;

    if (size_bytes > TEXT_MOST || memchr(text, '\0', size_bytes))
        return err_set(e, ERR_PROTOCOL, TRACEPOINT "'s format is not a short text");
    copy = xmalloc(size_bytes + 1);
    memcpy(copy, text, size_bytes);
    copy[size_bytes] = '\0';
    for (char *line = copy, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        if (strncmp(line, "print fmt:", 10) == 0)
            break;
        if (take_line(line, &f, &named, e) < 0)
            return -1;
    }
    if (!named || f.id < 0)
        return err_set(e, ERR_PROTOCOL, TRACEPOINT "'s format has no name and number");
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++)
        if (*(int *)((char *)&f + fields[i].into) < 0)
            return err_set(e, ERR_PROTOCOL, TRACEPOINT "'s format has no %s", fields[i].name);
    *out = f;
    return 0;
}
