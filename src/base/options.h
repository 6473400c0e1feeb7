/* options: a program's long options, read and explained from one const table: `--name value`, `--name=value`, `--flag`. Every table knows
 * --help. Values are kept as the pointers of argv. The client's commands have words, too: cli/ has a table of its own for them. */
#pragma once

#include "base/mem.h"

#include <stddef.h>
#include <stdio.h>

#define OPTION_LIST_MOST 32

/* What the table's struct holds at the option's place. Given twice, the last one counts; a list keeps all. */
enum option_kind {
    OPTION_TEXT,     /* const char * */
    OPTION_FLAG,     /* bool; takes no value */
    OPTION_NUMBER,   /* int64_t, not negative, decimal */
    OPTION_DURATION, /* int64_t, in microseconds, given as 5s, 250ms */
    OPTION_LIST,     /* struct option_list */
};

struct option_list {
    const char *values[OPTION_LIST_MOST];
    int count;
};

struct option_row {
    const char *name; /* without the dashes */
    enum option_kind kind;
    size_t at;         /* offsetof in what options_read fills */
    const char *value; /* what it takes, for the usage; NULL for a flag */
    const char *text;  /* NULL: not in the usage */
    bool needed;       /* of a text: options_need asks for it */
};

struct option_table {
    const char *command;   /* "slipway serve" */
    const char *arguments; /* after the command in the usage's first line */
    const char *about;     /* sentences below it; NULL: none */
    const struct option_row *rows;
    size_t row_count;
};

/* Fills what argv[1] and on give; argv[0] is the command. What isn't given stays as it is in *into. 1: --help was among them (the
 * rest is not read); -1 ERR_INVALID, and *into may be filled in part. */
int options_read(const struct option_table *t, int argc, char **argv, void *into, struct err *e);
/* ERR_INVALID names the first needed option that is missing or empty. */
int options_need(const struct option_table *t, const void *into, struct err *e);
void options_usage(const struct option_table *t, FILE *out);

/* For a program's main: options_read, with help printed and a refusal told. True: go on; false: end with *status. */
bool options_begin(const struct option_table *t, int argc, char **argv, void *into, int *status);
/* Tells a refusal on stderr the same way; returns the exit status. */
int options_refuse(const struct option_table *t, const struct err *e);
