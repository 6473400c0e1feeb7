#include "inventory/csv.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

enum state {
    FIELD_START, /* at the beginning of a field */
    PLAIN,       /* in a field without quotes */
    QUOTED,      /* between quotes */
    QUOTE,       /* after a quote in a quoted field: its end, or the first half of a quote */
    RETURN,      /* after CR: LF must come */
};

struct csv {
    csv_record *record;
    void *user;
    enum state state;
    struct buf text;              /* the record's fields so far, each with its NUL */
    size_t starts[CSV_COLUMNS_MAX]; /* of each field in text */
    size_t field_start;           /* of the one that is being read */
    int count;                    /* finished fields */
    bool quoted;                  /* the present field had quotes, so that "" is a field */
    int64_t line, record_line, records;
    int bom;                      /* bytes of a byte order mark seen at the beginning; -1: past it */
    int more;                     /* UTF-8 bytes still to come, … */
    unsigned char lead, low, high; /* … after this one, the next one in this range */
};

struct csv *csv_new(csv_record *record, void *user)
{
    struct csv *c = xcalloc(1, sizeof *c);

    c->record = record;
    c->user = user;
    c->line = c->record_line = 1;
    buf_init(&c->text, (size_t)CSV_COLUMNS_MAX * (LIMIT_CSV_FIELD_BYTES + 1));
    return c;
}

void csv_free(struct csv **c)
{
    if (*c)
        buf_release(&(*c)->text);
    free(*c);
    *c = NULL;
}

int64_t csv_line(const struct csv *c)
{
    return c->line;
}

int csv_column(const struct csv *c)
{
    return c->count + 1;
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static int check_utf8(struct csv *c, unsigned char byte, struct err *e)
{
    if (c->more) {
        if (byte < c->low || byte > c->high)
            return err_set(e, ERR_INVALID, "byte 0x%02x is not UTF-8 here: save the file as UTF-8", c->lead);
        c->more--;
        c->low = 0x80;
        c->high = 0xbf;
        return 0;
    }
    if (byte == 0)
        return err_set(e, ERR_INVALID, "a NUL byte: this is not a text file");
    if (byte < 0x80)
        return 0;
    if (byte < 0xc2 || byte > 0xf4)
        return err_set(e, ERR_INVALID, "byte 0x%02x is not UTF-8 here: save the file as UTF-8", byte);
    c->lead = byte;
    c->more = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
    c->low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
    c->high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
    return 0;
}

static int end_field(struct csv *c, struct err *e)
{
    if (c->count == CSV_COLUMNS_MAX)
        return err_set(e, ERR_LIMIT, "more than %d columns", CSV_COLUMNS_MAX);
    c->starts[c->count++] = c->field_start;
    buf_add(&c->text, "", 1);
    c->field_start = c->text.size_bytes;
    c->quoted = false;
    c->state = FIELD_START;
    return 0;
}

static int end_record(struct csv *c, struct err *e)
{
    const char *fields[CSV_COLUMNS_MAX];
    int rc = 0, count;
    bool empty = c->count == 0 && c->field_start == c->text.size_bytes && !c->quoted;

    if (!empty) {
        if (end_field(c, e) < 0)
            return -1;
        if (c->records++ > LIMIT_CSV_ROWS)
            return err_set(e, ERR_LIMIT, "more than %d rows: split the file", LIMIT_CSV_ROWS);
        count = c->count;
        for (int i = 0; i < count; i++)
            fields[i] = c->text.data + c->starts[i];
        rc = c->record(c->user, c->record_line, fields, count);
    }
    c->text.size_bytes = c->field_start = 0;
    c->count = 0;
    c->quoted = false;
    c->state = FIELD_START;
    return rc;
}

static int add(struct csv *c, char byte, struct err *e)
{
    if (c->text.size_bytes - c->field_start >= LIMIT_CSV_FIELD_BYTES)
        return err_set(e, ERR_LIMIT, "a field has more than %d bytes", LIMIT_CSV_FIELD_BYTES);
    buf_add(&c->text, &byte, 1);
    return 0;
}

/* A line's end outside quotes. */
static int end_line(struct csv *c, struct err *e)
{
    int rc = end_record(c, e);

    c->record_line = ++c->line;
    return rc;
}

static int take_outside(struct csv *c, char byte, struct err *e)
{
    switch (byte) {
    case ',': return end_field(c, e);
    case '\n': return end_line(c, e);
    case '\r': c->state = RETURN; return 0;
    case '"':
        if (c->state == FIELD_START) {
            c->state = QUOTED;
            c->quoted = true;
            return 0;
        }
        return err_set(e, ERR_INVALID, "a quote inside a field that does not begin with one: put the whole field in quotes, and write \"\" for"
                                       " a quote");
    default:
        if (c->state == QUOTE)
            return err_set(e, ERR_INVALID, "text after a closing quote: write \"\" for a quote inside a field");
        c->state = PLAIN;
        return add(c, byte, e);
    }
}

static int take(struct csv *c, char byte, struct err *e)
{
    switch (c->state) {
    case RETURN:
        if (byte != '\n')
            return err_set(e, ERR_INVALID, "a carriage return that no line feed follows: end lines with LF or CRLF");
        return end_line(c, e);
    case QUOTED:
        if (byte == '"') {
            c->state = QUOTE;
            return 0;
        }
        c->line += byte == '\n';
        return add(c, byte, e);
    case QUOTE:
        if (byte == '"') {
            c->state = QUOTED;
            return add(c, byte, e);
        }
        return take_outside(c, byte, e);
    default: return take_outside(c, byte, e);
    }
}

int csv_feed(struct csv *c, const char *bytes, size_t size, struct err *e)
{
    static const unsigned char mark[] = {0xef, 0xbb, 0xbf};
    int rc;

    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)bytes[i];

        if (check_utf8(c, byte, e) < 0)
            return -1;
        if (c->bom >= 0 && c->bom < 3 && byte == mark[c->bom]) { /* UTF-8 has checked that the other two follow */
            c->bom++;
            if (c->bom < 3)
                continue;
            c->bom = -1;
            continue;
        }
        for (int n = 0; n < c->bom; n++) /* it began like a mark, and was another character */
            if ((rc = take(c, (char)mark[n], e)) != 0)
                return rc;
        c->bom = -1;
        if ((rc = take(c, (char)byte, e)) != 0)
            return rc;
    }
    return 0;
}

int csv_end(struct csv *c, struct err *e)
{
    if (c->more)
        return err_set(e, ERR_INVALID, "the file ends inside a character: is it whole?");
    if (c->state == QUOTED)
        return err_set(e, ERR_INVALID, "the file ends inside quotes that were opened in the record of line %lld", (long long)c->record_line);
    if (c->state == RETURN)
        return err_set(e, ERR_INVALID, "the file ends after a carriage return: end lines with LF or CRLF");
    return end_record(c, e);
}

void csv_write(struct buf *out, const char *field)
{
    bool marked = strncmp(field, "\xef\xbb\xbf", 3) == 0; /* at a file's beginning it would be taken for the byte order mark */

    if (!marked && !field[strcspn(field, ",\"\r\n")]) {
        buf_puts(out, field);
        return;
    }
    buf_puts(out, "\"");
    for (; *field; field++)
        buf_puts(out, *field == '"' ? "\"\"" : (char[]){*field, 0});
    buf_puts(out, "\"");
}
