/* csv: RFC 4180 as it comes from spreadsheets: fields in quotes, CRLF or LF, a byte order mark, empty lines skipped. Strict where a
 * mistake would shift columns: a quote inside an unquoted field, text after a closing quote, an end inside quotes are faults.
 * The bytes may come in pieces of any size. Text must be UTF-8 without NUL. */
#pragma once

#include "base/mem.h"

#include <stddef.h>
#include <stdint.h>

#define CSV_COLUMNS_MAX 256

struct csv;
/* A record: its first line, and its fields, terminated, alive during the call. Non-zero stops the reading (csv_feed gives it back). */
typedef int csv_record(void *user, int64_t line, const char *const *fields, int count);

struct csv *csv_new(csv_record *record, void *user);
void csv_free(struct csv **c); /* for CLEANUP */
/* 0; what a record's call gave; or -1: ERR_INVALID, ERR_LIMIT (a field over LIMIT_CSV_FIELD_BYTES, over CSV_COLUMNS_MAX columns, more
 * than LIMIT_CSV_ROWS records after the header). After -1, csv_line and csv_column say where. */
int csv_feed(struct csv *c, const char *bytes, size_t size, struct err *e);
int csv_end(struct csv *c, struct err *e);
int64_t csv_line(const struct csv *c);
int csv_column(const struct csv *c); /* from 1 */
/* Appends the field, quoted where it must be. */
void csv_write(struct buf *out, const char *field);
