/* The simple exchange that most verbs are, and the verbs that do more than one. */
#include "base/clock.h"
#include "base/file.h"
#include "cli/link.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PROBE_DEADLINE_US (300 * US_PER_S)

int cli_ask(struct cli_call *call, struct err *e)
{
    char answer[16];

    if (!call->verb->asks || cli_has(call, "yes") || !isatty(fileno(call->in)) || !isatty(STDERR_FILENO))
        return 0;
    fputs("slipway: ", stderr);
    for (const char *at = call->verb->asks; *at; at++) {
        if (at[0] == '%' && at[1] == 's') {
            cli_show_clean(stderr, call->words[0]);
            at++;
        } else {
            fputc(*at, stderr);
        }
    }
    fputs(" [y/N] ", stderr);
    if (!fgets(answer, sizeof answer, call->in) || (answer[0] != 'y' && answer[0] != 'Y'))
        return err_set(e, ERR_CANCELLED, "not done");
    return 0;
}

static void say_done(struct cli_call *call)
{
    for (const char *at = call->verb->done ? call->verb->done : "Done."; *at; at++) {
        if (at[0] == '%' && at[1] == 's') {
            cli_show_clean(call->out, call->word_count ? call->words[0] : "");
            at++;
        } else {
            fputc(*at, call->out);
        }
    }
    fputc('\n', call->out);
}

/* A section's rows: a list, or the members of an object, each with its "name". The caller frees. */
static json_t *section_rows(const json_t *value)
{
    json_t *rows = json_is_array(value) ? json_copy((json_t *)(uintptr_t)value) : json_array(), *member;
    const char *name;

    if (json_is_object(value))
        json_object_foreach ((json_t *)(uintptr_t)value, name, member) {
            json_t *row = json_is_object(member) ? json_copy(member) : json_object();

            json_object_set_new(row, "name", json_string(name));
            json_array_append_new(rows, row);
        }
    return rows;
}

void cli_show_answer(struct cli_call *call, const json_t *answer)
{
    const json_t *items = json_object_get(answer, "items");

    if (call->json) {
        if (answer)
            cli_show_json(call->out, answer);
        else
            fputs("{}\n", call->out);
        return;
    }
    if (!call->verb->columns || !answer) {
        say_done(call);
        return;
    }
    if (items)
        cli_show_table(call->out, items, call->verb->columns);
    else
        cli_show_object(call->out, answer, call->verb->columns);
    for (const struct cli_section *s = call->verb->sections; s && s->title; s++) {
        CLEANUP(json_free) json_t *rows = section_rows(json_object_get(answer, s->path));

        if (!json_array_size(rows))
            continue;
        fprintf(call->out, "\n%s\n", s->title);
        cli_show_table(call->out, rows, s->columns);
    }
}

static int follow(struct cli_call *call, const char *path, json_t *answer, struct err *e)
{
    json_t *items = json_object_get(answer, "items");

    if (!json_is_array(items) || cli_has(call, "limit"))
        return 0;
    for (const char *next; (next = json_string_value(json_object_get(answer, "next")));) {
        CLEANUP(json_free) json_t *page = NULL;
        CLEANUP(free_ptr)
        char *escaped = http_escape(next),
             *following = xasprintf("%s%cpage=%s", path, strchr(path, '?') ? '&' : '?', escaped);

        if (cli_request(call, "GET", following, NULL, NULL, &page, e) < 0)
            return -1;
        if (!json_is_array(json_object_get(page, "items")))
            return err_set(e, ERR_PROTOCOL, "a page of %s has no items", path);
        json_array_extend(items, json_object_get(page, "items"));
        json_object_set(answer, "next", json_object_get(page, "next"));
    }
    return 0;
}

int cli_list(struct cli_call *call, const char *path, json_t **out, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;

    if (cli_request(call, "GET", path, NULL, NULL, &answer, e) < 0 || follow(call, path, answer, e) < 0)
        return -1;
    *out = json_incref(answer);
    return 0;
}

int cli_simple(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *body = NULL, *answer = NULL;
    CLEANUP(free_ptr) char *path = cli_path(call, call->verb->path);

    if (cli_ask(call, e) < 0 || cli_body(call, call->verb->fields, &body, e) < 0 ||
        cli_request(call, call->verb->method, path, body, NULL, &answer, e) < 0 || follow(call, path, answer, e) < 0)
        return -1;
    cli_show_answer(call, answer);
    return 0;
}

/* ---- Inventory ---- */

static const struct cli_column change_columns[] = {
    {"CHANGE", "change", 0}, {"WHAT", "entity", 0}, {"NAME", "name", 0}, {NULL, NULL, 0}};
static const struct cli_column fault_columns[] = {
    {"LINE", "line", 0}, {"COLUMN", "column", 0}, {"REASON", "reason", 0}, {NULL, NULL, 0}};

static void show_import(struct cli_call *call, const json_t *answer)
{
    const json_t *counts = json_object_get(answer, "counts");

    if (json_array_size(json_object_get(answer, "changes")))
        cli_show_table(call->out, json_object_get(answer, "changes"), change_columns);
    fprintf(call->out, "%lld to create, %lld to change, %lld the same: %s\n",
            (long long)json_get_int(counts, "create", 0), (long long)json_get_int(counts, "update", 0),
            (long long)json_get_int(counts, "same", 0),
            json_get_bool(answer, "applied", false) ? "done" : "nothing was changed (a preview)");
}

/* A refusal carries the faults: they are shown line by line, each names what to correct. */
static int import_refused(struct cli_call *call, const struct http_response *answer, struct err *e)
{
    CLEANUP(json_free) json_t *problem = NULL;
    const json_t *faults;

    if (answer->body.data && json_read(answer->body.data, answer->body.size_bytes, &problem, NULL) == 0) {
        faults = json_object_get(problem, "faults");
        if (call->json)
            cli_show_json(call->out, problem);
        else if (json_array_size(faults) && json_object_get(json_array_get(faults, 0), "line"))
            cli_show_table(stderr, faults, fault_columns);
        if (json_array_size(faults) && json_object_get(json_array_get(faults, 0), "line"))
            return err_set(e, ERR_INVALID, "the file has %zu fault%s; nothing was changed", json_array_size(faults),
                           json_array_size(faults) == 1 ? "" : "s");
    }
    return http_problem(answer, e);
}

static int read_input(struct cli_call *call, const char *path, struct buf *out, struct err *e)
{
    char piece[65536];
    size_t size;

    if (strcmp(path, "-") != 0)
        return file_read(path, LIMIT_REQUEST_BODY_BYTES, out, e);
    while ((size = fread(piece, 1, sizeof piece, call->in)) > 0)
        if (buf_add(out, piece, size) < 0)
            return err_set(e, ERR_LIMIT, "standard input holds more than %u bytes", LIMIT_REQUEST_BODY_BYTES);
    return ferror(call->in) ? err_errno(e, errno, "reading standard input") : 0;
}

int cli_run_import(struct cli_call *call, struct err *e)
{
    CLEANUP(buf_release) struct buf csv = {0};
    CLEANUP(http_response_release) struct http_response answer = {0};
    CLEANUP(json_free) json_t *value = NULL;
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/imports?dry_run={dry-run}&create_waves={create-waves}");

    buf_init(&csv, LIMIT_REQUEST_BODY_BYTES);
    if (read_input(call, call->words[0], &csv, e) < 0)
        return -1;
    if (cli_transfer(call, "POST", path, "text/csv", csv.data ? csv.data : "", csv.size_bytes, &answer, e) < 0)
        return answer.status ? import_refused(call, &answer, e) : -1;
    if (json_read(answer.body.data ? answer.body.data : "", answer.body.size_bytes, &value, e) < 0)
        return -1;
    if (call->json)
        cli_show_json(call->out, value);
    else
        show_import(call, value);
    return 0;
}

/* Bytes to --file or to standard output. */
static int deliver(struct cli_call *call, const char *file, const struct buf *bytes, struct err *e)
{
    if (file)
        return file_write(file, bytes->data ? bytes->data : "", bytes->size_bytes, 0644, e);
    if (fwrite(bytes->data ? bytes->data : "", 1, bytes->size_bytes, call->out) != bytes->size_bytes ||
        fflush(call->out) != 0)
        return err_errno(e, errno, "standard output");
    return 0;
}

static int fetch_to(struct cli_call *call, const char *template, const char *file, struct err *e)
{
    CLEANUP(http_response_release) struct http_response answer = {0};
    CLEANUP(free_ptr) char *path = cli_path(call, template);

    if (cli_transfer(call, "GET", path, NULL, NULL, 0, &answer, e) < 0)
        return -1;
    return deliver(call, file, &answer.body, e);
}

int cli_run_export(struct cli_call *call, struct err *e)
{
    return fetch_to(call, "/v1/exports?wave={wave}", cli_value(call, "file"), e);
}

int cli_run_task_artifact(struct cli_call *call, struct err *e)
{
    return fetch_to(call, "/v1/tasks/{0}/artifacts/{1}", cli_value(call, "file"), e);
}

int cli_run_report(struct cli_call *call, struct err *e)
{
    const char *html = cli_value(call, "html");

    if (html)
        return fetch_to(call, "/v1/waves/{0}/report.html", strcmp(html, "-") == 0 ? NULL : html, e);
    CLEANUP(json_free) json_t *report = NULL;
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/waves/{0}/report");

    if (cli_request(call, "GET", path, NULL, NULL, &report, e) < 0)
        return -1;
    if (call->json || !json_is_object(report))
        cli_show_json(call->out, report);
    else
        cli_show_answer(call, report);
    return 0;
}

/* ---- Changes of one resource, under its version ---- */

static int change(struct cli_call *call, const char *method, const char *path, const char *versioned,
                  const json_t *body, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;

    if (cli_request(call, method, path, body, versioned, &answer, e) < 0)
        return -1;
    cli_show_answer(call, answer);
    return 0;
}

int cli_run_wave_set(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *settings = json_object(), *body = json_object();
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/waves/{0}");
    const char *title = cli_value(call, "title");

    if (cli_assignments(call, 1, settings, e) < 0)
        return -1;
    if (!title && !json_object_size(settings))
        return err_set(e, ERR_INVALID, "what shall be set? say NAME=VALUE, or --title");
    if (title)
        json_object_set_new(body, "title", json_string(title));
    if (json_object_size(settings))
        json_object_set(body, "settings", settings);
    return change(call, "PATCH", path, path, body, e);
}

/* RFC 3339; or "now", or "+15m" after from_us. */
static int read_time(const char *text, int64_t from_us, int64_t *time_us, struct err *e)
{
    int64_t later_us = 0;

    if (*text != '+' && strcmp(text, "now") != 0)
        return clock_parse(text, time_us, e);
    if (*text == '+' && clock_parse_duration(text + 1, &later_us, e) < 0)
        return -1;
    *time_us = from_us + later_us;
    return 0;
}

int cli_run_window_set(struct cli_call *call, struct err *e)
{
    static const struct cli_field fields[] = {{"time_zone", "time-zone", 0},
                                              {"notice", "notice", 0},
                                              {NULL, NULL, 0}};
    CLEANUP(json_free) json_t *body = NULL;
    CLEANUP(free_ptr) char *wave = cli_path(call, "/v1/waves/{0}"), *path = cli_path(call, "/v1/waves/{0}/window");
    int64_t opens_us, closes_us;

    if (!cli_has(call, "opens") || !cli_has(call, "closes"))
        return err_set(e, ERR_INVALID, "a window needs --opens and --closes, such as 2027-03-01T22:00:00Z");
    if (read_time(cli_value(call, "opens"), clock_now_us(), &opens_us, e) < 0 ||
        read_time(cli_value(call, "closes"), opens_us, &closes_us, e) < 0 || cli_body(call, fields, &body, e) < 0)
        return -1;
    json_set_time(body, "opens", opens_us);
    json_set_time(body, "closes", closes_us);
    if (!json_object_get(body, "time_zone"))
        json_object_set_new(body, "time_zone", json_string("UTC"));
    return change(call, "PUT", path, wave, body, e);
}

int cli_run_server_set(struct cli_call *call, struct err *e)
{
    static const char *const own[] = {"wave", "application", "owner", "address",
                                      "port"}; /* the others are attributes */
    CLEANUP(json_free) json_t *given = json_object(), *body = json_object();
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/servers/{0}");
    json_t *attributes = json_object(), *value;
    const char *name;

    json_object_set_new(body, "attributes", attributes);
    if (cli_assignments(call, 1, given, e) < 0)
        return -1;
    json_object_foreach (given, name, value) {
        bool is_own = false;

        for (size_t i = 0; i < ARRAY_COUNT(own); i++)
            is_own = is_own || strcmp(name, own[i]) == 0;
        json_object_set(is_own ? body : attributes, name, value);
    }
    if (!json_object_size(attributes))
        json_object_del(body, "attributes");
    return change(call, "PATCH", path, path, body, e);
}

int cli_run_measure(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *value = NULL;
    CLEANUP(free_ptr) char *path = cli_path(call, "/v1/waves/{0}/measurements/{1}");

    if (cli_read_json(call, call->words[2], &value, e) < 0)
        return -1;
    return change(call, "PUT", path, NULL, value, e);
}

/* ---- Settings and credentials ---- */

int cli_run_settings_show(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    const json_t *one = NULL;

    if (cli_request(call, "GET", "/v1/settings", NULL, NULL, &answer, e) < 0)
        return -1;
    if (call->word_count && !(one = json_object_get(answer, call->words[0])))
        return err_set(e, ERR_NOT_FOUND, "the setting %s is not set", call->words[0]);
    cli_show_json(call->out, one ? one : answer);
    return 0;
}

int cli_run_settings_set(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *value = NULL, *body = json_object();

    if (cli_read_json(call, call->words[1], &value, e) < 0)
        return -1;
    if (json_object_set(body, call->words[0], value) < 0)
        return err_set(e, ERR_INVALID, "the setting's name is not UTF-8");
    return change(call, "PUT", "/v1/settings", NULL, body, e);
}

int cli_run_credential_add(struct cli_call *call, struct err *e)
{
    static const struct {
        const char *option, *kind;
    } kinds[] = {{"key-file", "ssh_key"}, {"password-file", "ssh_password"}, {"token-file", "token"}};
    static const struct cli_field fields[] = {{"name", "0", 0},
                                              {"user", "user", 0},
                                              {"sudo", "sudo", 0},
                                              {"secret", "key-file", CLI_SECRET_FILE},
                                              {"secret", "password-file", CLI_SECRET_FILE},
                                              {"secret", "token-file", CLI_SECRET_FILE},
                                              {"sudo_secret", "sudo-password-file", CLI_SECRET_FILE},
                                              {NULL, NULL, 0}};
    CLEANUP(json_free) json_t *body = NULL;
    const char *kind = NULL;

    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        if (!cli_has(call, kinds[i].option))
            continue;
        if (kind)
            return err_set(e, ERR_INVALID,
                           "a credential has one secret: only one of --key-file, --password-file, --token-file");
        kind = kinds[i].kind;
    }
    if (!kind)
        return err_set(
            e, ERR_INVALID,
            "the secret comes from a file: --key-file, --password-file or --token-file (\"-\": standard input)");
    if (cli_body(call, fields, &body, e) < 0)
        return -1;
    /* OpenSSH's own reader wants the newline at a key's end. */
    if (strcmp(kind, "ssh_key") == 0) {
        CLEANUP(free_ptr) char *key = xasprintf("%s\n", json_string_value(json_object_get(body, "secret")));

        json_object_set_new(body, "secret", json_string(key));
        explicit_bzero(key, strlen(key));
    }
    json_object_set_new(body, "kind", json_string(kind));
    return change(call, "POST", "/v1/credentials", NULL, body, e);
}

/* ---- Looking after the factory ---- */

/* Why a run can't succeed any more, or NULL. */
static const char *cause_of_failure(const json_t *run)
{
    json_t *task;
    size_t index;

    json_array_foreach (json_object_get(run, "tasks"), index, task)
        if (strcmp(json_get_string(task, "state", ""), "FAILED") == 0)
            return json_get_string(json_object_get(task, "error"), "message", "no cause was given");
    return strcmp(json_get_string(run, "state", ""), "CANCELLED") == 0 ? "it was cancelled" : NULL;
}

static int wait_for_run(struct cli_call *call, const char *run, json_t **out, struct err *e)
{
    CLEANUP(free_ptr) char *escaped = http_escape(run), *path = xasprintf("/v1/runs/%s", escaped);
    int64_t end = clock_monotonic_us() + PROBE_DEADLINE_US;

    for (;;) {
        CLEANUP(json_free) json_t *now = NULL;
        const char *state, *cause;

        if (cli_request(call, "GET", path, NULL, NULL, &now, e) < 0 || json_need_string(now, "state", &state, e) < 0)
            return -1;
        cause = cause_of_failure(now);
        if (cause)
            return err_set(e, ERR_WRONG_STATE, "the probe did not pass: %s (`slipway run show %s`)", cause, run);
        if (strcmp(state, "SUCCEEDED") == 0) {
            *out = now;
            now = NULL;
            return 0;
        }
        if (clock_monotonic_us() > end)
            return err_set(e, ERR_TIMEOUT, "the probe is not done after %d s (`slipway run show %s`)",
                           (int)(PROBE_DEADLINE_US / US_PER_S), run);
        clock_sleep_us(500 * US_PER_MS);
    }
}

int cli_run_target_probe(struct cli_call *call, struct err *e)
{
    static const char *const names[] = {"run", "source_run"};
    CLEANUP(json_free) json_t *started = NULL, *runs = json_object();

    if (cli_request(call, "POST", "/v1/probes", NULL, NULL, &started, e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        json_t *done = NULL;
        const char *run;

        if (json_need_string(started, names[i], &run, e) < 0 || wait_for_run(call, run, &done, e) < 0)
            return -1;
        json_object_set_new(runs, names[i], done);
    }
    cli_show_answer(call, runs);
    return 0;
}

int cli_run_doctor(struct cli_call *call, struct err *e)
{
    CLEANUP(json_free) json_t *answer = NULL;
    json_t *check, *checks;
    size_t index;

    if (cli_request(call, "GET", "/v1/doctor", NULL, NULL, &answer, e) < 0 ||
        json_need_array(answer, "checks", &checks, e) < 0)
        return -1;
    if (!json_array_size(checks))
        return err_set(e, ERR_PROTOCOL, "the factory's doctor looked at nothing");
    if (call->json)
        cli_show_json(call->out, answer);
    else
        json_array_foreach (checks, index, check) {
            bool passed = json_get_bool(check, "passed", false);

            fprintf(call->out, "%s ", passed ? "ok  " : "FAIL");
            cli_show_clean(call->out, json_get_string(check, "title", json_get_string(check, "name", "?")));
            fputs(": ", call->out);
            cli_show_clean(call->out, json_get_string(check, "evidence", "no evidence"));
            if (!passed) {
                fputs("\n       what to do: ", call->out);
                cli_show_clean(call->out, json_get_string(check, "advice", "nothing is advised"));
            }
            fputc('\n', call->out);
        }
    if (!json_get_bool(answer, "passed", false) && !cli_has(call, "no-fail"))
        call->exit_code = 1;
    return 0;
}
