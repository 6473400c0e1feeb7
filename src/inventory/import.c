/* import: servers from CSV. Read twice over: first every row is checked against the rules and against what is there, and all faults are
 * listed; only when there is none is anything written, all in the caller's transaction. */
#include "inventory/private.h"

#include "base/limits.h"
#include "inventory/csv.h"
#include "inventory/names.h"

#include <stdlib.h>
#include <string.h>

#define LIST_MAX 1000 /* of changes and of faults in the answer; the totals are exact */

struct column {
    const char *name;        /* as in the header */
    const struct rule *rule;
    bool attribute;
};

struct row {
    int64_t line;
    const char *const *cells;
    const char *server, *wave, *after; /* after NULL: none */
    enum { ROW_CREATE, ROW_UPDATE, ROW_SAME } change;
    enum { UNSEEN, OPEN, CLOSED } seen; /* on the walk along `after` */
};

enum wave_state { WAVE_TAKES = 1, WAVE_NEW, WAVE_UNKNOWN, WAVE_STARTED };

struct import {
    struct store_tx *tx;
    const struct inventory_import_options *options;
    const struct inventory_by *by;
    struct arena *arena;
    struct column columns[CSV_COLUMNS_MAX];
    int column_count; /* 0: the header wasn't read yet */
    struct row *rows;  /* first the file's, then those of the database that `after` leads to */
    int row_count, file_count, row_room;
    struct names servers, waves;
    const char **new_waves;
    int new_wave_count;
    json_t *changes, *faults;
    int64_t changes_total, faults_total, counts[3];
    struct err *e;
    bool broken; /* the database failed: e says how */
};

__attribute__((format(printf, 4, 5))) static void fault(struct import *im, int64_t line, const char *column, const char *format, ...)
{
    char reason[RULE_REASON_SIZE + 512];
    va_list args;

    if (im->faults_total++ >= LIST_MAX)
        return;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    json_array_append_new(im->faults, json_pack("{s:I, s:s?, s:o}", "line", (json_int_t)line, "column", column, "reason",
                                                cut_json(reason)));
}

static int broke(struct import *im)
{
    im->broken = true;
    return 1; /* stops the reading */
}

/* ---- The header ---- */

static char *known_columns(void)
{
    CLEANUP(free_ptr) char *attributes = rule_names(server_attributes);

    return xasprintf("wave, application, server, owner, address, port, %s", attributes);
}

static const struct rule *column_rule(const char *name, bool *attribute)
{
    const struct rule *r = strcmp(name, "server") == 0 ? rule_find(server_columns, "name")
                         : strcmp(name, "name") == 0   ? NULL
                                                       : rule_find(server_columns, name);

    *attribute = !r;
    return r ? r : rule_find(server_attributes, name);
}

static int find_column(const struct import *im, const char *name)
{
    for (int i = 0; i < im->column_count; i++)
        if (strcmp(im->columns[i].name, name) == 0)
            return i;
    return -1;
}

static char *trimmed(struct arena *arena, const char *text)
{
    char *copy = arena_strdup(arena, text + strspn(text, " "));

    for (size_t length = strlen(copy); length && copy[length - 1] == ' ';)
        copy[--length] = 0;
    return copy;
}

static int take_header(struct import *im, int64_t line, const char *const *fields, int count)
{
    CLEANUP(free_ptr) char *known = known_columns();
    static const char *const needed[] = {"wave", "server", "address"};

    if (count == 1 && strchr(fields[0], ';')) {
        fault(im, line, NULL, "the columns are separated by semicolons: save the file with commas");
        return 1;
    }
    for (int i = 0; i < count; i++) {
        struct column *c = &im->columns[i];

        c->name = trimmed(im->arena, fields[i]);
        c->rule = column_rule(c->name, &c->attribute);
        if (!c->rule)
            fault(im, line, c->name, "there is no such column; there are: %s", known);
        else if (find_column(im, c->name) >= 0)
            fault(im, line, c->name, "is there twice");
        im->column_count++;
    }
    for (size_t i = 0; i < ARRAY_COUNT(needed); i++)
        if (find_column(im, needed[i]) < 0)
            fault(im, line, needed[i], "this column is missing: the first line must name the columns");
    return im->faults_total > 0;
}

/* ---- Rows ---- */

/* Would a spreadsheet run it? "-5" and "+49 30 1234" are numbers. */
static bool is_formula(const char *cell)
{
    if (*cell == '=' || *cell == '@')
        return true;
    return (*cell == '+' || *cell == '-') && cell[1 + strspn(cell + 1, "0123456789., ")];
}

/* The cell's text as it is stored. An apostrophe before what would be a formula marks a text, as our export writes it. */
static const char *cell_text(struct import *im, int64_t line, const struct column *c, const char *field)
{
    const char *text = trimmed(im->arena, field);

    if (text[0] == '\'' && text[1] && strchr("=+-@", text[1]))
        return text + 1;
    if (!is_formula(text))
        return text;
    fault(im, line, c->name, "begins like a formula of a spreadsheet (%c): write the value, or an apostrophe before it", *text);
    return NULL;
}

static struct row *add_row(struct import *im)
{
    if (im->row_count == im->row_room) {
        im->row_room = im->row_room ? im->row_room * 2 : 256;
        im->rows = xrealloc(im->rows, (size_t)im->row_room * sizeof *im->rows);
    }
    im->rows[im->row_count] = (struct row){0};
    return &im->rows[im->row_count++];
}

static enum wave_state wave_state(struct import *im, const char *wave)
{
    CLEANUP(store_rows_free) struct store_rows *rows = NULL;
    char reason[RULE_REASON_SIZE];
    int state = names_get(&im->waves, wave, 0), takes;
    int64_t there = 0;

    if (state)
        return (enum wave_state)state;
    takes = wave_takes_servers(im->tx, wave, reason, im->e);
    if (takes < 0 || store_one_int(im->tx, &there, im->e, "SELECT COUNT(*) FROM wave WHERE name = $1", "s", wave) < 0) {
        broke(im);
        return WAVE_UNKNOWN;
    }
    state = takes ? WAVE_TAKES : there ? WAVE_STARTED : im->options->create_waves ? WAVE_NEW : WAVE_UNKNOWN;
    if (state == WAVE_NEW) {
        im->new_waves = xrealloc(im->new_waves, (size_t)(im->new_wave_count + 1) * sizeof *im->new_waves);
        im->new_waves[im->new_wave_count++] = wave;
    }
    names_put(&im->waves, arena_strdup(im->arena, wave), state);
    return (enum wave_state)state;
}

static void check_wave(struct import *im, int64_t line, const char *wave)
{
    switch (wave_state(im, wave)) {
    case WAVE_UNKNOWN: fault(im, line, "wave", "there is no wave %s: make it first, or import with create_waves", wave); break;
    case WAVE_STARTED: fault(im, line, "wave", "the wave %s has started: no server joins or leaves it until it is done", wave); break;
    case WAVE_TAKES:
    case WAVE_NEW: break;
    }
}

/* The row's fields over what is there. Cells were checked; an empty one unsets its field. */
static void build(const struct import *im, const struct row *row, const struct server_before *before, struct server_fields *after)
{
    char reason[RULE_REASON_SIZE];

    *after = before->fields;
    after->attributes = before->fields.attributes ? json_deep_copy(before->fields.attributes) : json_object();
    if (!before->version)
        after->port = PORT_SSH;
    for (int i = 0; i < im->column_count; i++) {
        const struct column *c = &im->columns[i];
        const char *text = row->cells[i];
        json_t *value = NULL;

        if (!c->attribute) {
            server_set_column(after, c->name, *text ? text : NULL, c->rule->type == RULE_INT ? strtoll(text, NULL, 10) : 0);
            continue;
        }
        MUST(rule_take_text(c->rule, text, &value, reason) == 0);
        if (value)
            json_object_set_new(after->attributes, c->name, value);
        else
            json_object_del(after->attributes, c->name);
    }
}

static void note_change(struct import *im, const char *change, const char *entity, const char *name, json_t *fields)
{
    if (im->changes_total++ < LIST_MAX)
        json_array_append_new(im->changes, json_pack("{s:s, s:s, s:s, s:O}", "change", change, "entity", entity, "name", name, "fields", fields));
}

/* Compares with what is there; the wave must let it in, and the old one out. */
static int compare(struct import *im, struct row *row)
{
    CLEANUP(server_before_release) struct server_before before = {0};
    CLEANUP(server_fields_release) struct server_fields after = {0};
    CLEANUP(json_free) json_t *fields = NULL;
    int rc = server_load(im->tx, row->server, &before, im->e);

    if (rc < 0)
        return broke(im);
    build(im, row, &before, &after);
    if (!rc || strcmp(before.fields.wave, after.wave) != 0) {
        check_wave(im, row->line, after.wave);
        if (rc)
            check_wave(im, row->line, before.fields.wave);
    }
    row->wave = arena_strdup(im->arena, after.wave);
    row->after = arena_strdup(im->arena, json_get_string(after.attributes, "after", NULL));
    fields = server_diff(rc ? &before.fields : NULL, &after);
    row->change = !rc ? ROW_CREATE : json_object_size(fields) ? ROW_UPDATE : ROW_SAME;
    im->counts[row->change]++;
    if (row->change != ROW_SAME)
        note_change(im, row->change == ROW_CREATE ? "create" : "update", "server", row->server, fields);
    return im->broken;
}

static int take_row(struct import *im, int64_t line, const char *const *fields, int count)
{
    const char **cells = arena_alloc(im->arena, (size_t)im->column_count * sizeof *cells);
    int64_t faults_before = im->faults_total;
    char reason[RULE_REASON_SIZE];
    struct row *row;
    int earlier;

    if (count != im->column_count) {
        fault(im, line, NULL, "the row has %d field%s, the header %d", count, count == 1 ? "" : "s", im->column_count);
        return 0;
    }
    for (int i = 0; i < count; i++) {
        cells[i] = cell_text(im, line, &im->columns[i], fields[i]);
        if (cells[i] && !rule_check(im->columns[i].rule, cells[i], reason))
            fault(im, line, im->columns[i].name, "%s", reason);
    }
    if (im->faults_total > faults_before)
        return 0;
    row = add_row(im);
    *row = (struct row){.line = line, .cells = cells, .server = cells[find_column(im, "server")]};
    earlier = names_get(&im->servers, row->server, -1);
    if (earlier >= 0) {
        fault(im, line, "server", "%s is in line %lld already", row->server, (long long)im->rows[earlier].line);
        im->row_count--;
        return 0;
    }
    names_put(&im->servers, row->server, im->row_count - 1);
    return compare(im, row);
}

static int take_record(void *user, int64_t line, const char *const *fields, int count)
{
    struct import *im = user;

    return im->column_count ? take_row(im, line, fields, count) : take_header(im, line, fields, count);
}

/* ---- The order of `after` ---- */

/* The row of that server: of the file, or of the database; -1 where there is none, or the database failed. */
static int find_server(struct import *im, const char *name)
{
    CLEANUP(server_before_release) struct server_before before = {0};
    int at = names_get(&im->servers, name, -1), rc;
    struct row *row;

    if (at >= 0)
        return at;
    rc = server_load(im->tx, name, &before, im->e);
    if (rc <= 0) {
        im->broken = im->broken || rc < 0;
        return -1;
    }
    row = add_row(im);
    row->server = arena_strdup(im->arena, name);
    row->wave = arena_strdup(im->arena, before.fields.wave);
    row->after = arena_strdup(im->arena, json_get_string(before.fields.attributes, "after", NULL));
    names_put(&im->servers, row->server, im->row_count - 1);
    return im->row_count - 1;
}

/* Walks along `after` from row `at`. Faults are told at the file's row that the walk began with, and once for each circle. */
static void walk(struct import *im, int at, int64_t line, int depth)
{
    char *rest = arena_strdup(im->arena, im->rows[at].after ? im->rows[at].after : "");

    if (depth > AFTER_DEPTH_MAX) {
        fault(im, line, "after", "makes a chain of more than %d servers", AFTER_DEPTH_MAX);
        return;
    }
    im->rows[at].seen = OPEN;
    for (char *name; !im->broken && (name = strsep(&rest, ", "));) {
        int next = *name ? find_server(im, name) : -1;

        if (!*name || im->broken)
            continue;
        if (next < 0)
            fault(im, line, "after", "names %s, which is no server", name);
        else if (strcmp(im->rows[next].wave, im->rows[at].wave) != 0)
            fault(im, line, "after", "names %s, which is in the wave %s, not %s", name, im->rows[next].wave, im->rows[at].wave);
        else if (im->rows[next].seen == OPEN)
            fault(im, line, "after", "goes in a circle: %s waits for %s, which waits for %s", im->rows[at].server, name, im->rows[at].server);
        else if (im->rows[next].seen == UNSEEN)
            walk(im, next, next < im->file_count ? im->rows[next].line : line, depth + 1);
    }
    im->rows[at].seen = CLOSED;
}

/* ---- Writing ---- */

static int apply_row(struct import *im, const struct row *row, struct err *e)
{
    CLEANUP(server_before_release) struct server_before before = {0};
    CLEANUP(server_fields_release) struct server_fields after = {0};
    CLEANUP(json_free) json_t *fields = NULL;
    int rc = server_load(im->tx, row->server, &before, e);

    if (rc < 0)
        return -1;
    build(im, row, &before, &after);
    fields = server_diff(rc ? &before.fields : NULL, &after);
    return server_write(im->tx, row->server, &after, before.version, fields, im->by, e);
}

static int apply(struct import *im, struct err *e)
{
    for (int i = 0; i < im->new_wave_count; i++) {
        CLEANUP(json_free) json_t *settings = json_object();

        if (wave_insert(im->tx, im->new_waves[i], im->new_waves[i], settings, im->by, e) < 0)
            return -1;
    }
    for (int i = 0; i < im->file_count; i++)
        if (im->rows[i].change != ROW_SAME && apply_row(im, &im->rows[i], e) < 0)
            return err_wrap(e, "line %lld", (long long)im->rows[i].line);
    return 0;
}

/* ---- The whole ---- */

static void release(struct import *im)
{
    arena_free(&im->arena);
    names_release(&im->servers);
    names_release(&im->waves);
    free(im->rows);
    free(im->new_waves);
    json_free(&im->changes);
    json_free(&im->faults);
}

static void csv_done(struct csv **c) { csv_free(c); }

/* Reads and checks all; faults are in im. -1: the database failed. */
static int check(struct import *im, const char *csv, size_t size)
{
    CLEANUP(csv_done) struct csv *reader = csv_new(take_record, im);
    struct err why = {0};
    int rc = csv_feed(reader, csv, size, &why);

    if (rc == 0)
        rc = csv_end(reader, &why);
    if (im->broken)
        return -1;
    if (rc < 0) {
        char column[32];
        int at = csv_column(reader) - 1;

        snprintf(column, sizeof column, "%d", at + 1);
        fault(im, csv_line(reader), at < im->column_count ? im->columns[at].name : column, "%s", why.message);
    } else if (!im->column_count) {
        fault(im, 1, NULL, "the file is empty: the first line must name the columns");
    }
    im->file_count = im->row_count;
    for (int i = 0; i < im->file_count && !im->broken; i++)
        if (im->rows[i].seen == UNSEEN && im->rows[i].after)
            walk(im, i, im->rows[i].line, 0);
    if (im->broken)
        return -1;
    for (int i = 0; i < im->new_wave_count; i++) {
        CLEANUP(json_free) json_t *fields = json_object();

        fields_add(fields, "title", NULL, json_string(im->new_waves[i]));
        note_change(im, "create", "wave", im->new_waves[i], fields);
    }
    return 0;
}

int inventory_import(struct store_tx *tx, const char *csv, size_t size, const struct inventory_import_options *options,
                     const struct inventory_by *by, json_t **out, struct err *e)
{
    struct err why = {0};
    CLEANUP(release) struct import im = {.tx = tx, .options = options, .by = by, .arena = arena_new(), .changes = json_array(),
                                         .faults = json_array(), .e = &why};
    bool applied;

    if (check(&im, csv, size) < 0)
        return err_set(e, why.kind, "%s", why.message);
    applied = !im.faults_total && !options->dry_run;
    if (applied && apply(&im, e) < 0)
        return -1;
    *out = json_pack("{s:b, s:{s:I, s:I, s:I, s:i}, s:O, s:I, s:O, s:I}", "applied", applied, "counts", "create", (json_int_t)im.counts[ROW_CREATE],
                     "update", (json_int_t)im.counts[ROW_UPDATE], "same", (json_int_t)im.counts[ROW_SAME], "waves", im.new_wave_count, "changes",
                     im.changes, "changes_total", (json_int_t)im.changes_total, "faults", im.faults, "faults_total",
                     (json_int_t)im.faults_total);
    MUST(*out);
    return 0;
}
