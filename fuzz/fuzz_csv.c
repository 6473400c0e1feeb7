/* What is read in one piece and byte by byte is the same; what was read, written again, reads the same. */
#include "inventory/csv.h"

#include "base/limits.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Each record as its count and its fields' exact bytes; and as CSV again. */
struct seen {
    struct buf records, csv;
};

static int note(void *user, int64_t line, const char *const *fields, int count)
{
    struct seen *s = user;

    MUST(line > 0 && count > 0 && count <= CSV_COLUMNS_MAX);
    buf_add(&s->records, &count, sizeof count);
    for (int i = 0; i < count; i++) {
        MUST(strlen(fields[i]) <= LIMIT_CSV_FIELD_BYTES);
        buf_add(&s->records, fields[i], strlen(fields[i]) + 1);
        buf_puts(&s->csv, i ? "," : "");
        if (count == 1 && !*fields[i]) /* an empty line would be none */
            buf_puts(&s->csv, "\"\"");
        else
            csv_write(&s->csv, fields[i]);
    }
    buf_puts(&s->csv, "\r\n");
    return 0;
}

static int read_in_pieces(const char *bytes, size_t size, size_t piece, struct seen *s)
{
    CLEANUP(csv_free) struct csv *c = csv_new(note, s);
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < size; at += piece)
        rc = csv_feed(c, bytes + at, size - at < piece ? size - at : piece, NULL);
    return rc ? rc : csv_end(c, NULL);
}

static bool same(const struct buf *a, const struct buf *b)
{
    return a->size_bytes == b->size_bytes && (!a->size_bytes || memcmp(a->data, b->data, a->size_bytes) == 0);
}

static void release(struct seen *s)
{
    buf_release(&s->records);
    buf_release(&s->csv);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    CLEANUP(release) struct seen whole = {0};
    CLEANUP(release) struct seen pieces = {0};
    CLEANUP(release) struct seen again = {0};
    int rc = read_in_pieces((const char *)bytes, size, size ? size : 1, &whole);

    MUST(read_in_pieces((const char *)bytes, size, 1, &pieces) == rc && same(&whole.records, &pieces.records));
    if (rc == 0 && !whole.csv.over) {
        MUST(read_in_pieces(whole.csv.data ? whole.csv.data : "", whole.csv.size_bytes, 4096, &again) == 0);
        MUST(same(&whole.records, &again.records));
    }
    return 0;
}
