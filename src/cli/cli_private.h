/* What the files of cli/ share: the rows of the table, one parsed call, the link to the factory, and showing
 * answers. */
#pragma once

#include "base/http.h"
#include "base/json.h"
#include "base/limits.h"
#include "cli/cli.h"

#include <stdio.h>

#define CLI_WORDS_MAX 64
#define CLI_OPTIONS_MAX 64
#define CLI_COLUMNS_MAX 48

/* ---- The table (verbs.c) ---- */

struct cli_option {
    const char *name;  /* "wave": --wave */
    const char *value; /* "WAVE"; NULL: a flag without a value */
    const char *help;
    bool many; /* may be given several times */
};

/* CLI_RATE: bytes a second, as links are written (Mbit/s). CLI_ETA: of a replication object: when its copy has caught up. CLI_US_IN_MS: microseconds, 0 where they are
 * not known, as milliseconds, whose unit the title names. CLI_TIME: RFC 3339, as it is here, with the zone. */
enum cli_format { CLI_TEXT, CLI_BYTES, CLI_MS, CLI_YES, CLI_RATE, CLI_ETA, CLI_US_IN_MS, CLI_TIME };
struct cli_column {
    const char *title;
    const char *path; /* into an item: "replication.state"; ends the list with NULL */
    enum cli_format format;
};

/* A member of the request's body: from a word ("0"), an option's value ("wave"), or a fixed text ("=approve"). */
enum cli_kind { CLI_STRING, CLI_INTEGER, CLI_LIST, CLI_FLAG, CLI_SECRET_FILE };
struct cli_field {
    const char *name; /* of the member; ends the list with NULL */
    const char *from;
    enum cli_kind kind; /* CLI_SECRET_FILE: the file's content, without the newline at its end */
};

struct cli_call;
struct cli_section {
    /* an array inside the answer, or an object of objects, shown as a table of its own; ends the list with NULL */
    const char *title, *path;
    const struct cli_column *columns;
};

struct cli_verb {
    const char *command;   /* "wave"; ends the table with NULL */
    const char *verb;      /* "show", or NULL where the command has none */
    const char *arguments; /* "WAVE", "SERVER NAME=VALUE..."; NULL: none. "..." at the end: one or more of the last */
    const char *summary;
    const char *example;              /* what follows "slipway " */
    const struct cli_option *options; /* ends with name NULL; may be NULL */
    const char *method;               /* of the simple exchange; run is NULL then */
    /* "/v1/waves/{0}/start", "/v1/servers?wave={wave}" (a query member only where the option was given) */
    const char *path;
    const struct cli_field *fields;
    const struct rule *assigns;         /* the names of NAME=VALUE, for the help; NULL: none */
    const struct cli_column *columns;   /* of each of the answer's items, or of the answer itself */
    const struct cli_section *sections; /* after the answer itself */
    const char *asks;                   /* a question, asked on a terminal unless --yes: "%s" is the first word */
    const char *done;                   /* what to say where the answer has nothing to show: "%s" is the first word */
    int (*run)(struct cli_call *call, struct err *e);
};
extern const struct cli_verb cli_verbs[];
extern const struct cli_option cli_common_options[]; /* of every verb */
extern const struct cli_column cli_replication_columns[];
struct cli_summary {
    const char *command, *summary; /* of a command that has verbs */
};
extern const struct cli_summary cli_summaries[];
const char *cli_summary(const char *command);

/* ---- One call (call.c) ---- */

struct cli_link;
struct cli_call {
    const struct cli_verb *verb;
    const char *words[CLI_WORDS_MAX];
    int word_count;
    struct {
        const struct cli_option *option;
        const char *value; /* NULL: a flag */
    } options[CLI_OPTIONS_MAX];
    int option_count;
    bool json, help;
    FILE *in, *out;
    struct cli_link *link; /* made when first asked for */
    int exit_code;         /* where a call that worked has something to say: `doctor` with a failed check */
};

/* The verb that argv names and the count of words that named it; NULL with ERR_INVALID and words that list what
 * there is. */
const struct cli_verb *cli_find(int argc, char **argv, int *named_count, struct err *e);
int cli_parse(const struct cli_verb *verb, int argc, char **argv, struct cli_call *call, struct err *e);
const char *cli_value(const struct cli_call *call, const char *option); /* NULL: not given */
bool cli_has(const struct cli_call *call, const char *option);
/* The path with words and options filled in, percent-encoded; the caller frees. */
char *cli_path(const struct cli_call *call, const char *template);
/* The body that the fields describe; NULL where there are none. */
int cli_body(const struct cli_call *call, const struct cli_field *fields, json_t **out, struct err *e);
/* A file's content without the newline at its end; "-": standard input. */
int cli_read_secret(const struct cli_call *call, const char *path, struct secret *out, struct err *e);
/* A JSON document: given as such, or from a file, or "-": standard input. */
int cli_read_json(const struct cli_call *call, const char *path, json_t **out, struct err *e);
/* NAME=VALUE words from the index on into object: a VALUE that is JSON's number, true, false, null, object or array
 * is that, else it is text. */
int cli_assignments(const struct cli_call *call, int from, json_t *object, struct err *e);
/* Asks the verb's question where somebody is there to answer; ERR_CANCELLED where the answer is no. */
int cli_ask(struct cli_call *call, struct err *e);
/* Does what a verb without a run of its own does. */
int cli_simple(struct cli_call *call, struct err *e);

/* ---- The link to the factory (link.c) ---- */

void cli_link_free(struct cli_link **link);
/* One exchange; *out (may be NULL) is the caller's. If match is not NULL, the resource at that path is read first
 * and its version sent along, so that a change that somebody made meanwhile is not lost. */
int cli_request(struct cli_call *call, const char *method, const char *path, const json_t *body, const char *match,
                json_t **out, struct err *e);
/* A list, with all its pages (where --limit was given: the one); *out is the caller's. */
int cli_list(struct cli_call *call, const char *path, json_t **out, struct err *e);
/* Bytes up, bytes down; each may be missing. type is the body's. The answer has any status of 2xx. */
int cli_transfer(struct cli_call *call, const char *method, const char *path, const char *type, const void *body,
                 size_t size, struct http_response *answer, struct err *e);
/* An event stream: on_body gets its bytes. */
int cli_stream(struct cli_call *call, const char *path, const char *last_event_id,
               int (*on_body)(void *, const char *, size_t), void *user, struct err *e);

/* ---- Showing (show.c) ---- */

/* The items as a table; every byte that a terminal would act on is made visible. */
void cli_show_table(FILE *out, const json_t *items, const struct cli_column *columns);
/* The same, with something before each row's line, and after it. */
struct cli_row_hooks {
    void (*before)(FILE *out, const json_t *item), (*after)(FILE *out, const json_t *item);
};
void cli_show_rows(FILE *out, const json_t *items, const struct cli_column *columns, const struct cli_row_hooks *hooks);
/* One object, a line a column. */
void cli_show_object(FILE *out, const json_t *object, const struct cli_column *columns);
void cli_show_json(FILE *out, const json_t *value);
/* The answer as the verb's row says: JSON, its table and sections, or its words where there is nothing to show (NULL, or no columns). */
void cli_show_answer(struct cli_call *call, const json_t *answer);
/* The member at a dotted path, as text for a person; buf is appended to. */
/* "2026-11-24 21:34:02 CET" of RFC 3339; false where it is none. */
#define CLI_LOCAL_TIME_SIZE 64
bool cli_local_time(const char *text, char out[static CLI_LOCAL_TIME_SIZE]);
void cli_show_value(struct buf *out, const json_t *item, const char *path, enum cli_format format);
void cli_show_clean(FILE *out, const char *text);
void cli_help(FILE *out, const struct cli_verb *verb);
void cli_help_command(FILE *out, const char *command);
int cli_completion(FILE *out, const char *shell, struct err *e);

/* ---- Verbs with a run of their own ---- */

int cli_run_login(struct cli_call *call, struct err *e);
int cli_run_logout(struct cli_call *call, struct err *e);
int cli_run_wave_show(struct cli_call *call, struct err *e);
int cli_run_replication(struct cli_call *call, struct err *e);
int cli_run_import(struct cli_call *call, struct err *e);
int cli_run_export(struct cli_call *call, struct err *e);
int cli_run_wave_set(struct cli_call *call, struct err *e);
int cli_run_window_set(struct cli_call *call, struct err *e);
int cli_run_measure(struct cli_call *call, struct err *e);
int cli_run_server_set(struct cli_call *call, struct err *e);
int cli_run_task_artifact(struct cli_call *call, struct err *e);
int cli_run_credential_add(struct cli_call *call, struct err *e);
int cli_run_settings_set(struct cli_call *call, struct err *e);
int cli_run_settings_show(struct cli_call *call, struct err *e);
int cli_run_target_probe(struct cli_call *call, struct err *e);
int cli_run_doctor(struct cli_call *call, struct err *e);
int cli_run_report(struct cli_call *call, struct err *e);
int cli_run_watch(struct cli_call *call, struct err *e);
int cli_run_completion(struct cli_call *call, struct err *e);
int cli_run_point_list(struct cli_call *call, struct err *e);
int cli_run_point_take(struct cli_call *call, struct err *e);
int cli_run_point_show(struct cli_call *call, struct err *e);
int cli_run_point_export(struct cli_call *call, struct err *e);
int cli_run_point_serve(struct cli_call *call, struct err *e);
int cli_run_point_files(struct cli_call *call, struct err *e);
int cli_run_point_fetch(struct cli_call *call, struct err *e);
int cli_run_point_verify(struct cli_call *call, struct err *e);
int cli_run_point_pin(struct cli_call *call, struct err *e);
int cli_run_point_unpin(struct cli_call *call, struct err *e);
int cli_run_point_drop(struct cli_call *call, struct err *e);
int cli_run_point_boot(struct cli_call *call, struct err *e);
int cli_run_replication_accept(struct cli_call *call, struct err *e); /* point.c: it is said to the replicator itself */
