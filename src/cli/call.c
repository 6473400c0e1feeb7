#include "base/file.h"
#include "cli/cli_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIMIT_SECRET_BYTES 65536

static void list_verbs(const char *command, struct buf *out)
{
    for (const struct cli_verb *v = cli_verbs; v->command; v++)
        if (strcmp(v->command, command) == 0 && v->verb)
            buf_printf(out, "%s%s", out->size_bytes ? ", " : "", v->verb);
}

const struct cli_verb *cli_find(int argc, char **argv, int *named_count, struct err *e)
{
    CLEANUP(buf_release) struct buf verbs = {0};

    for (const struct cli_verb *v = cli_verbs; v->command; v++) {
        if (strcmp(v->command, argv[0]) != 0 || (v->verb && (argc < 2 || strcmp(v->verb, argv[1]) != 0)))
            continue;
        *named_count = v->verb ? 2 : 1;
        return v;
    }
    list_verbs(argv[0], &verbs);
    if (!verbs.size_bytes)
        err_set(e, ERR_INVALID, "there is no command \"%s\"; `slipway --help` lists them", argv[0]);
    else if (argc < 2 || argv[1][0] == '-')
        err_set(e, ERR_INVALID, "what about %s? say one of %s", argv[0], verbs.data);
    else
        err_set(e, ERR_INVALID, "`slipway %s` does not know \"%s\"; it knows %s", argv[0], argv[1], verbs.data);
    return NULL;
}

static const struct cli_option *find_option(const struct cli_verb *verb, const char *name, size_t size)
{
    const struct cli_option *lists[] = {verb->options, cli_common_options};

    for (size_t i = 0; i < ARRAY_COUNT(lists); i++)
        for (const struct cli_option *o = lists[i]; o && o->name; o++)
            if (strlen(o->name) == size && memcmp(o->name, name, size) == 0)
                return o;
    return NULL;
}

static int take_format(struct cli_call *call, const char *value, struct err *e)
{
    if (!value || (strcmp(value, "json") != 0 && strcmp(value, "table") != 0))
        return err_set(e, ERR_INVALID, "-o takes json or table%s%s", value ? ", not " : "", value ? value : "");
    call->json = strcmp(value, "json") == 0;
    return 0;
}

/* One option at argv[*at], and its value; moves *at past them. */
static int take_option(struct cli_call *call, int argc, char **argv, int *at, struct err *e)
{
    const char *word = argv[*at], *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
    size_t size = equals ? (size_t)(equals - word) - 2 : strlen(word) - 2;
    const struct cli_option *option = find_option(call->verb, word + 2, size);

    if (!option)
        return err_set(e, ERR_INVALID, "%.*s is not an option of `slipway %s%s%s`; its --help lists them",
                       (int)size + 2, word, call->verb->command, call->verb->verb ? " " : "",
                       call->verb->verb ? call->verb->verb : "");
    (*at)++;
    if (strcmp(option->name, "help") == 0) {
        call->help = true;
        return 0;
    }
    if (option->value && !value) {
        if (*at >= argc)
            return err_set(e, ERR_INVALID, "--%s needs a value: %s", option->name, option->value);
        value = argv[(*at)++];
    }
    if (!option->value && value)
        return err_set(e, ERR_INVALID, "--%s takes no value", option->name);
    if (strcmp(option->name, "output") == 0)
        return take_format(call, value, e);
    if (cli_has(call, option->name) && !option->many)
        return err_set(e, ERR_INVALID, "--%s was given twice", option->name);
    if (call->option_count == CLI_OPTIONS_MAX)
        return err_set(e, ERR_INVALID, "that are more than %d options", CLI_OPTIONS_MAX);
    call->options[call->option_count].option = option;
    call->options[call->option_count++].value = value;
    return 0;
}

/* How many words the arguments' text asks for; *more: and any number beyond. */
static int words_wanted(const char *arguments, bool *more)
{
    int count = 0;

    *more = arguments && strstr(arguments, "...");
    for (const char *at = arguments; at && *at; at += strcspn(at, " "), at += strspn(at, " "))
        count++;
    return count;
}

int cli_parse(const struct cli_verb *verb, int argc, char **argv, struct cli_call *call, struct err *e)
{
    bool only_words = false, more;
    int at = 0, wanted = words_wanted(verb->arguments, &more);

    call->verb = verb;
    while (at < argc) {
        const char *word = argv[at];

        if (!only_words && strcmp(word, "--") == 0) {
            only_words = true;
            at++;
        } else if (!only_words && strcmp(word, "-h") == 0) {
            call->help = true;
            at++;
        } else if (!only_words && strcmp(word, "-o") == 0) {
            if (take_format(call, at + 1 < argc ? argv[at + 1] : NULL, e) < 0)
                return -1;
            at += 2;
        } else if (!only_words && strncmp(word, "--", 2) == 0) {
            if (take_option(call, argc, argv, &at, e) < 0)
                return -1;
        } else if (!only_words && word[0] == '-' && word[1]) {
            return err_set(e, ERR_INVALID, "%s is not an option; --help lists them", word);
        } else if (call->word_count == CLI_WORDS_MAX) {
            return err_set(e, ERR_INVALID, "that are more than %d words", CLI_WORDS_MAX);
        } else {
            call->words[call->word_count++] = word;
            at++;
        }
    }
    if (call->help)
        return 0;
    if (call->word_count < wanted || (call->word_count > wanted && !more))
        return err_set(e, ERR_INVALID, "usage: slipway %s%s%s%s%s", verb->command, verb->verb ? " " : "",
                       verb->verb ? verb->verb : "", verb->arguments ? " " : "",
                       verb->arguments ? verb->arguments : "");
    return 0;
}

const char *cli_value(const struct cli_call *call, const char *option)
{
    for (int i = 0; i < call->option_count; i++)
        if (strcmp(call->options[i].option->name, option) == 0)
            return call->options[i].value;
    return NULL;
}

bool cli_has(const struct cli_call *call, const char *option)
{
    for (int i = 0; i < call->option_count; i++)
        if (strcmp(call->options[i].option->name, option) == 0)
            return true;
    return false;
}

/* What {name} stands for: a word by its number, an option's value, "true" for a flag that was given. */
static const char *stands_for(const struct cli_call *call, const char *name, size_t size)
{
    char held[64];

    MUST(size && size < sizeof held);
    memcpy(held, name, size);
    held[size] = '\0';
    if (held[0] >= '0' && held[0] <= '9')
        return atoi(held) < call->word_count ? call->words[atoi(held)] : NULL;
    for (int i = 0; i < call->option_count; i++)
        if (strcmp(call->options[i].option->name, held) == 0)
            return call->options[i].option->value ? call->options[i].value : "true";
    return NULL;
}

char *cli_path(const struct cli_call *call, const char *template)
{
    struct buf out;
    const char *query = strchr(template, '?');
    bool first = true;

    buf_init(&out, 0);
    for (const char *at = template; *at && at != query;) {
        size_t plain = strcspn(at, "{?");

        buf_add(&out, at, plain);
        at += plain;
        if (*at == '{') {
            const char *value = stands_for(call, at + 1, strcspn(at + 1, "}"));

            MUST(value); /* the table asks for a word that every call has */
            CLEANUP(free_ptr) char *escaped = http_escape(value);
            buf_puts(&out, escaped);
            at += strcspn(at, "}") + 1;
        }
    }
    for (const char *at = query ? query + 1 : ""; *at; at += strcspn(at, "&"), at += *at == '&') {
        const char *open = strchr(at, '{');
        const char *value = stands_for(call, open + 1, strcspn(open + 1, "}"));

        if (!value)
            continue;
        CLEANUP(free_ptr) char *escaped = http_escape(value);
        buf_printf(&out, "%c%.*s%s", first ? '?' : '&', (int)(open - at), at, escaped);
        first = false;
    }
    MUST(!out.over);
    return buf_take(&out);
}

int cli_read_secret(const struct cli_call *call, const char *path, struct secret *out, struct err *e)
{
    char held[LIMIT_SECRET_BYTES + 1];
    size_t size;
    bool is_input = strcmp(path, "-") == 0;
    int failed;
    FILE *file = is_input ? call->in : fopen(path, "re");

    if (!file)
        return err_errno(e, errno, "%s", path);
    size = fread(held, 1, sizeof held, file);
    failed = ferror(file) ? errno : 0;
    if (!is_input)
        fclose(file);
    if (failed) { /* a part of it is another one */
        explicit_bzero(held, sizeof held);
        return err_errno(e, failed, "reading %s", is_input ? "standard input" : path);
    }
    while (size && (held[size - 1] == '\n' || held[size - 1] == '\r'))
        size--;
    if (size == 0 || size > LIMIT_SECRET_BYTES || memchr(held, 0, size)) {
        explicit_bzero(held, sizeof held);
        return err_set(e, ERR_INVALID, "%s must hold 1 to %d bytes of text", is_input ? "standard input" : path,
                       LIMIT_SECRET_BYTES);
    }
    secret_set(out, held, size);
    explicit_bzero(held, sizeof held);
    return 0;
}

/* json_read wants a document, which null alone is not. */
static int json_parse_word(const char *word, json_t **out, struct err *e)
{
    if (strcmp(word, "null") == 0) {
        *out = json_null();
        return 0;
    }
    return json_read(word, strlen(word), out, e) < 0 ? err_wrap(e, "the JSON on the command line") : 0;
}

int cli_read_json(const struct cli_call *call, const char *path, json_t **out, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    char piece[65536];
    size_t size;

    if (path[0] == '{' || path[0] == '[' || strcmp(path, "null") == 0)
        return json_parse_word(path, out, e);
    if (strcmp(path, "-") != 0)
        return json_read_file(path, out, e);
    buf_init(&text, LIMIT_JSON_BYTES);
    while ((size = fread(piece, 1, sizeof piece, call->in)) > 0)
        if (buf_add(&text, piece, size) < 0)
            return err_set(e, ERR_LIMIT, "standard input holds more than %u bytes of JSON", LIMIT_JSON_BYTES);
    if (ferror(call->in))
        return err_errno(e, errno, "reading standard input");
    if (json_read(text.data ? text.data : "", text.size_bytes, out, e) < 0)
        return err_wrap(e, "standard input");
    return 0;
}

int cli_assignments(const struct cli_call *call, int from, json_t *object, struct err *e)
{
    for (int i = from; i < call->word_count; i++) {
        const char *word = call->words[i], *equals = strchr(word, '=');
        CLEANUP(free_ptr) char *name = NULL;
        json_t *value;

        if (!equals || equals == word)
            return err_set(e, ERR_INVALID, "\"%s\" is not NAME=VALUE", word);
        name = strndup(word, (size_t)(equals - word));
        value = json_loads(equals + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
        if (value && json_is_string(value)) { /* quotes that somebody typed are part of the text */
            json_decref(value);
            value = NULL;
        }
        if (!value)
            value = json_string(equals + 1);
        if (!value || json_object_set_new(object, name, value) < 0)
            return err_set(e, ERR_INVALID, "\"%s\" is not UTF-8", word);
    }
    return 0;
}

static int add_field(const struct cli_call *call, const struct cli_field *field, json_t *body, struct err *e)
{
    const char *value = field->from[0] == '=' ? field->from + 1 : stands_for(call, field->from, strlen(field->from));
    json_t *made = NULL;

    if (!value)
        return 0;
    if (field->kind == CLI_SECRET_FILE) {
        CLEANUP(secret_release) struct secret secret = {0};

        if (cli_read_secret(call, value, &secret, e) < 0)
            return -1;
        made = json_stringn(secret.bytes, secret.size_bytes);
    } else if (field->kind == CLI_LIST) {
        made = json_array();
        for (int i = 0; i < call->option_count; i++)
            if (strcmp(call->options[i].option->name, field->from) == 0)
                json_array_append_new(made, json_string(call->options[i].value));
    } else if (field->kind == CLI_INTEGER) {
        char *end;
        long long number = strtoll(value, &end, 10);

        if (!*value || *end)
            return err_set(e, ERR_INVALID, "--%s takes a whole number, not \"%s\"", field->from, value);
        made = json_integer(number);
    } else {
        made = field->kind == CLI_FLAG ? json_true() : json_string(value);
    }
    if (!made || json_object_set_new(body, field->name, made) < 0)
        return err_set(e, ERR_INVALID, "%s is not UTF-8", field->name);
    return 0;
}

int cli_body(const struct cli_call *call, const struct cli_field *fields, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *body = fields ? json_object() : NULL;

    for (const struct cli_field *f = fields; f && f->name; f++)
        if (add_field(call, f, body, e) < 0)
            return -1;
    *out = body;
    body = NULL;
    return 0;
}
