/* program: a CMDB behind a program of the owner's: it is started for each question, reads one JSON object, writes JSON lines. */
#include "base/limits.h"
#include "base/proc.h"
#include "cmdb/dialect.h"

#include <stdlib.h>
#include <string.h>

#define PROGRAM_TIMEOUT_MS 60000
#define ARGUMENTS_MOST 32

struct program {
    json_t *command; /* list of strings */
    struct secret token;
};

static void close_program(void *held)
{
    struct program *p = held;

    json_decref(p->command);
    secret_release(&p->token);
    free(p);
}

static void *open_program(const json_t *settings, const char *token, struct err *e)
{
    json_t *command, *word;
    struct program *p;
    size_t i;

    if (json_need_array(settings, "command", &command, e) < 0)
        return NULL;
    json_array_foreach(command, i, word)
        if (!json_is_string(word) || (i == 0 && json_string_value(word)[0] != '/')) {
            err_set(e, ERR_INVALID, "\"command\" must be a list of strings that begins with the program's whole path");
            return NULL;
        }
    if (i == 0 || i > ARGUMENTS_MOST) {
        err_set(e, ERR_INVALID, "\"command\" must have 1 to %d words", ARGUMENTS_MOST);
        return NULL;
    }
    p = xcalloc(1, sizeof *p);
    p->command = json_incref(command);
    secret_set(&p->token, token, strlen(token));
    return p;
}

int cmdb_program_answer(const char *bytes, size_t size, json_t **record, struct err *e)
{
    CLEANUP(json_free) json_t *found = NULL;
    bool done = false;

    for (size_t at = 0; at < size;) {
        const char *end = memchr(bytes + at, '\n', size - at);
        size_t length = end ? (size_t)(end - (bytes + at)) : size - at;
        CLEANUP(json_free) json_t *line = NULL;

        if (done)
            return err_set(e, ERR_PROTOCOL, "the CMDB's program went on after {\"done\":true}");
        if (json_read(bytes + at, length, &line, e) < 0)
            return err_wrap(e, "a line of the CMDB's program");
        if (!json_is_object(line))
            return err_set(e, ERR_PROTOCOL, "a line of the CMDB's program is not an object");
        if (json_object_get(line, "error"))
            return err_set(e, err_kind_named(json_get_string(line, "kind", "protocol")), "the CMDB's program: %.500s", json_get_string(line, "error", "no reason given"));
        if (json_is_object(json_object_get(line, "record"))) {
            json_decref(found);
            found = json_incref(json_object_get(line, "record"));
        }
        done = json_get_bool(line, "done", false);
        at += length + 1;
    }
    if (!done)
        return err_set(e, ERR_PROTOCOL, "the CMDB's program ended without {\"done\":true}");
    *record = found;
    found = NULL;
    return 0;
}

/* question's reference is taken; the token is added to it. */
static int ask(struct program *p, json_t *question, json_t **record, struct err *e)
{
    CLEANUP(json_free) json_t *asked = question;
    CLEANUP(free_ptr) char *text = NULL;
    CLEANUP(buf_release) struct buf out = {.limit_bytes = LIMIT_COMMAND_OUTPUT_BYTES};
    const char *argv[ARGUMENTS_MOST + 1] = {0};
    struct proc_options options = {.argv = argv, .timeout_ms = PROGRAM_TIMEOUT_MS};
    int status;

    for (size_t i = 0; i < json_array_size(p->command); i++)
        argv[i] = json_string_value(json_array_get(p->command, i));
    if (p->token.size_bytes)
        json_object_set_new(asked, "token", json_string(p->token.bytes));
    text = json_text(asked);
    options.input = text;
    options.input_bytes = strlen(text);
    status = proc_must(&options, &out, e);
    explicit_bzero(text, strlen(text));
    if (status < 0)
        return err_wrap(e, "the CMDB's program");
    return cmdb_program_answer(out.data ? out.data : "", out.size_bytes, record, e);
}

static int read_record(const json_t *record, struct cmdb_record *out, struct err *e)
{
    struct cmdb_record read = {0};

    if (!record)
        return err_set(e, ERR_NOT_FOUND, "the CMDB's program gave no record");
    if (cmdb_copy(read.id, json_get_string(record, "id", NULL), "id", e) < 0 || cmdb_copy(read.kind, json_get_string(record, "kind", "record"), "kind", e) < 0 ||
        cmdb_copy(read.name, json_get_string(record, "name", NULL), "name", e) < 0 || cmdb_copy(read.status, json_get_string(record, "status", NULL), "status", e) < 0)
        return -1;
    *out = read;
    return 0;
}

static int check(void *held, struct buf *evidence, struct err *e)
{
    struct program *p = held;
    CLEANUP(json_free) json_t *record = NULL;

    if (ask(p, json_pack("{s:s}", "verb", "check"), &record, e) < 0)
        return -1;
    return buf_printf(evidence, "%s answers", json_string_value(json_array_get(p->command, 0)));
}

static int find(void *held, const char *name, const char *id, struct cmdb_record *out, struct err *e)
{
    CLEANUP(json_free) json_t *record = NULL;

    if (ask(held, json_pack("{s:s, s:s, s:s?}", "verb", "find", "name", name, "id", id), &record, e) < 0)
        return -1;
    return read_record(record, out, e);
}

static int retire(void *held, const struct cmdb_record *record, const struct cmdb_note *note, struct cmdb_record *out, struct err *e)
{
    CLEANUP(json_free) json_t *after = NULL;

    if (ask(held, json_pack("{s:s, s:s, s:s, s:s, s:s}", "verb", "retire", "id", record->id, "name", record->name, "mark", note->mark, "note", note->text), &after, e) < 0)
        return -1;
    if (read_record(after, out, e) < 0)
        return -1;
    if (strcmp(out->status, "active") == 0)
        return err_set(e, ERR_PROTOCOL, "the CMDB's program says that the record is still active");
    return 0;
}

const struct cmdb_dialect cmdb_program = {"program", open_program, close_program, check, find, retire};
