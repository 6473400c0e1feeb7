#include "base/options.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct option_row *find(const struct option_table *t, const char *name, size_t size)
{
    for (size_t i = 0; i < t->row_count; i++)
        if (strlen(t->rows[i].name) == size && memcmp(t->rows[i].name, name, size) == 0)
            return &t->rows[i];
    return NULL;
}

static int take_number(const char *value, int64_t *out, struct err *e)
{
    char *end;
    long long number;

    errno = 0;
    number = strtoll(value, &end, 10);
    if (*value < '0' || *value > '9' || *end || errno)
        return err_set(e, ERR_INVALID, "\"%.100s\" is no number", value);
    *out = number;
    return 0;
}

static int take_item(const char *value, struct option_list *list, struct err *e)
{
    if (list->count == OPTION_LIST_MOST)
        return err_set(e, ERR_LIMIT, "given more than %d times", OPTION_LIST_MOST);
    list->values[list->count++] = value;
    return 0;
}

static int take(const struct option_row *row, const char *value, void *into, struct err *e)
{
    void *at = (char *)into + row->at;
    int result = 0;

    switch (row->kind) {
    case OPTION_TEXT: *(const char **)at = value; break;
    case OPTION_FLAG: *(bool *)at = true; break;
    case OPTION_NUMBER: result = take_number(value, at, e); break;
    case OPTION_DURATION: result = clock_parse_duration(value, at, e); break;
    case OPTION_LIST: result = take_item(value, at, e); break;
    }
    return result < 0 ? err_wrap(e, "--%s", row->name) : 0;
}

/* The option at argv[*index], and its value; *index moves to the last word that it took. */
static int read_one(const struct option_table *t, int argc, char **argv, int *index, void *into, struct err *e)
{
    const char *word = argv[*index], *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
    const struct option_row *row;
    size_t size;

    if (strncmp(word, "--", 2) != 0)
        return err_set(e, ERR_INVALID, "\"%.100s\" is not expected (`%s --help` tells more)", word, t->command);
    size = (equals ? (size_t)(equals - word) : strlen(word)) - 2;
    row = find(t, word + 2, size);
    if (!row)
        return err_set(e, ERR_INVALID, "there is no option %.*s (`%s --help` lists them)", size < 100 ? (int)size + 2 : 102, word, t->command);
    if (row->kind == OPTION_FLAG && value)
        return err_set(e, ERR_INVALID, "--%s takes no value", row->name);
    if (row->kind != OPTION_FLAG && !value) {
        if (*index + 1 == argc)
            return err_set(e, ERR_INVALID, "--%s needs a value: %s", row->name, row->value);
        value = argv[++*index];
    }
    return take(row, value, into, e);
}

int options_read(const struct option_table *t, int argc, char **argv, void *into, struct err *e)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return 1;
        if (read_one(t, argc, argv, &i, into, e) < 0)
            return -1;
    }
    return 0;
}

int options_need(const struct option_table *t, const void *into, struct err *e)
{
    for (size_t i = 0; i < t->row_count; i++) {
        const struct option_row *row = &t->rows[i];
        const char *value = row->needed ? *(const char *const *)((const char *)into + row->at) : NULL;

        MUST(!row->needed || row->kind == OPTION_TEXT);
        if (row->needed && (!value || !*value))
            return err_set(e, ERR_INVALID, "--%s is missing (`%s --help` tells more)", row->name, t->command);
    }
    return 0;
}

static int label_size(const struct option_row *row)
{
    return snprintf(NULL, 0, "--%s%s%s", row->name, row->value ? " " : "", row->value ? row->value : "");
}

void options_usage(const struct option_table *t, FILE *out)
{
    static const struct option_row help = {.name = "help", .kind = OPTION_FLAG, .text = "this text"};
    int widest = label_size(&help);

    for (size_t i = 0; i < t->row_count; i++)
        if (t->rows[i].text && label_size(&t->rows[i]) > widest)
            widest = label_size(&t->rows[i]);
    fprintf(out, "usage: %s %s\n\n%s%s", t->command, t->arguments, t->about ? t->about : "", t->about ? "\n\n" : "");
    for (size_t i = 0; i <= t->row_count; i++) {
        const struct option_row *row = i < t->row_count ? &t->rows[i] : &help;

        if (row->text)
            fprintf(out, "  --%s%s%s%*s  %s\n", row->name, row->value ? " " : "", row->value ? row->value : "", widest - label_size(row), "",
                    row->text);
    }
}

bool options_begin(const struct option_table *t, int argc, char **argv, void *into, int *status)
{
    struct err e = {0};
    int got = options_read(t, argc, argv, into, &e);

    if (got == 1)
        options_usage(t, stdout);
    *status = got < 0 ? options_refuse(t, &e) : 0;
    return got == 0;
}

int options_refuse(const struct option_table *t, const struct err *e)
{
    fprintf(stderr, "%s: %s\n", t->command, e->message);
    return err_meaning(e->kind)->exit_code;
}
