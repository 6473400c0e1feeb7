#include "base/clock.h"
#include "base/words.h"
#include "cli/cli_private.h"

#include <string.h>
#include <time.h>

#define NARROWEST 4
#define CELL_BYTES 200 /* longer texts are cut in tables; -o json has them whole */

/* Bytes that a terminal would act on (controls, also the C1 set as UTF-8) become '?': what servers are called is
 * other people's text. */
void cli_show_clean(FILE *out, const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        bool c1 = at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0;

        fputc((*at < 0x20 && *at != '\t') || *at == 0x7f || c1 ? '?' : *at, out);
        at += c1;
    }
}

static int width_of(const char *text)
{
    int width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static const json_t *at_path(const json_t *item, const char *path)
{
    while (item && *path) {
        char name[64];
        size_t size = strcspn(path, ".");

        MUST(size < sizeof name);
        memcpy(name, path, size);
        name[size] = '\0';
        item = json_object_get(item, name);
        path += size + (path[size] == '.');
    }
    return item;
}

static void add_eta(struct buf *out, const json_t *replication)
{
    const json_t *eta_ms = json_object_get(replication, "eta_ms");

    if (strcmp(json_get_string(replication, "eta", ""), "never") == 0)
        buf_puts(out, "never");
    else if (!json_is_number(eta_ms))
        buf_puts(out, "unknown");
    else if (strcmp(json_get_string(replication, "state", ""), "CONTINUOUS") == 0 || json_number_value(eta_ms) <= 0)
        buf_puts(out, "caught up");
    else
        words_duration(out, json_number_value(eta_ms));
}

bool cli_local_time(const char *text, char out[static CLI_LOCAL_TIME_SIZE])
{
    struct tm tm;
    int64_t us;
    time_t at;

    if (!text || clock_parse(text, &us, NULL) < 0)
        return false;
    at = (time_t)(us / US_PER_S);
    return localtime_r(&at, &tm) && strftime(out, CLI_LOCAL_TIME_SIZE, "%Y-%m-%d %H:%M:%S %Z", &tm);
}

void cli_show_value(struct buf *out, const json_t *item, const char *path, enum cli_format format)
{
    const json_t *value = at_path(item, path), *element;
    char local[CLI_LOCAL_TIME_SIZE];
    const char *name;
    size_t index;

    if (format == CLI_YES)
        buf_puts(out, json_is_true(value) ? "yes" : "no");
    else if (!value || json_is_null(value))
        buf_puts(out, "-");
    else if (format == CLI_TIME && cli_local_time(json_string_value(value), local))
        buf_puts(out, local);
    else if (json_is_string(value))
        buf_puts(out, json_string_value(value));
    else if (json_is_boolean(value))
        buf_puts(out, json_is_true(value) ? "yes" : "no");
    else if (json_is_number(value) && format == CLI_BYTES)
        words_bytes(out, json_number_value(value));
    else if (json_is_number(value) && format == CLI_MS)
        words_duration(out, json_number_value(value));
    else if (json_is_number(value) && format == CLI_RATE)
        words_rate(out, json_number_value(value));
    else if (json_is_number(value) && format == CLI_US_IN_MS)
        buf_printf(out, json_number_value(value) > 0 ? "%.2f" : "-", json_number_value(value) / 1000);
    else if (json_is_object(value) && format == CLI_ETA)
        add_eta(out, value);
    else if (json_is_integer(value))
        buf_printf(out, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        buf_printf(out, "%g", json_real_value(value));
    else if (json_is_array(value))
        json_array_foreach ((json_t *)(uintptr_t)value, index, element) {
            buf_puts(out, index ? ", " : "");
            cli_show_value(out, element, "", format);
        }
    else
        json_object_foreach ((json_t *)(uintptr_t)value, name, element) {
            buf_printf(out, "%s%s=", out->size_bytes ? " " : "", name);
            cli_show_value(out, element, "", format);
        }
}

static char *cell(const json_t *item, const struct cli_column *column)
{
    struct buf text;
    char *taken;

    buf_init(&text, CELL_BYTES);
    cli_show_value(&text, item, column->path, column->format);
    taken = text.size_bytes ? buf_take(&text) : xstrdup("-");
    if (strlen(taken) >= CELL_BYTES) { /* cut, at a whole character */
        size_t end = CELL_BYTES - 4;

        while (end && ((unsigned char)taken[end] & 0xc0) == 0x80)
            end--;
        memcpy(taken + end, "…", 4);
    }
    return taken;
}

static void pad(FILE *out, int count)
{
    while (count-- > 0)
        fputc(' ', out);
}

static int count_columns(const struct cli_column *columns)
{
    int count = 0;

    while (columns[count].title)
        count++;
    MUST(count <= CLI_COLUMNS_MAX);
    return count;
}

void cli_show_rows(FILE *out, const json_t *items, const struct cli_column *columns, const struct cli_row_hooks *hooks)
{
    int count = count_columns(columns), widths[CLI_COLUMNS_MAX];
    size_t rows = json_array_size(items);
    CLEANUP(free_ptr) char **cells = xcalloc(rows * (size_t)count + 1, sizeof *cells);

    for (int c = 0; c < count; c++) {
        widths[c] = width_of(columns[c].title) > NARROWEST ? width_of(columns[c].title) : NARROWEST;
        for (size_t r = 0; r < rows; r++) {
            cells[r * (size_t)count + (size_t)c] = cell(json_array_get(items, r), &columns[c]);
            if (width_of(cells[r * (size_t)count + (size_t)c]) > widths[c])
                widths[c] = width_of(cells[r * (size_t)count + (size_t)c]);
        }
    }
    for (int c = 0; c < count; c++) {
        fputs(columns[c].title, out);
        pad(out, c + 1 < count ? widths[c] - width_of(columns[c].title) + 2 : 0);
    }
    fputc('\n', out);
    for (size_t r = 0; r < rows; r++) {
        if (hooks)
            hooks->before(out, json_array_get(items, r));
        for (int c = 0; c < count; c++) {
            char *text = cells[r * (size_t)count + (size_t)c];

            cli_show_clean(out, text);
            pad(out, c + 1 < count ? widths[c] - width_of(text) + 2 : 0);
            free_ptr(&text);
        }
        fputc('\n', out);
        if (hooks)
            hooks->after(out, json_array_get(items, r));
    }
    if (!rows)
        fputs("(none)\n", out);
}

void cli_show_table(FILE *out, const json_t *items, const struct cli_column *columns) { cli_show_rows(out, items, columns, NULL); }

void cli_show_object(FILE *out, const json_t *object, const struct cli_column *columns)
{
    int width = 0;

    for (int c = 0; c < count_columns(columns); c++)
        width = width_of(columns[c].title) > width ? width_of(columns[c].title) : width;
    for (int c = 0; c < count_columns(columns); c++) {
        CLEANUP(buf_release) struct buf text = {0};

        buf_init(&text, 1 << 20);
        cli_show_value(&text, object, columns[c].path, columns[c].format);
        fputs(columns[c].title, out);
        pad(out, width - width_of(columns[c].title) + 2);
        cli_show_clean(out, text.size_bytes ? text.data : "-");
        fputc('\n', out);
    }
}

void cli_show_json(FILE *out, const json_t *value)
{
    json_dumpf(value, out, JSON_INDENT(2) | JSON_ENCODE_ANY);
    fputc('\n', out);
}
