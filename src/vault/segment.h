/* segment: one file of records, appended to until it is full and never changed after. Used by one writer at a time. */
#pragma once

#include "vault/record.h"

struct segment {
    int fd; /* -1: none */
    uint32_t id;
    uint64_t end; /* where the next record goes: whole records lie before it */
    uint64_t record_count;
    uint32_t key; /* as in its header */
};

void segment_close(struct segment *s);
char *segment_path(const char *dir, uint32_t id); /* the caller frees */
#define SEGMENT_LAST (UINT32_MAX - 1) /* their numbers: from 1 on */
/* The segment id of a file name, 0 for a name that is none. */
uint32_t segment_id_of_name(const char *name);
/* Makes the file with its header; the name is durable when this returns. */
int segment_create(const char *dir, const struct segment_header *header, struct segment *out, struct err *e);
/* Opens one that was not sealed to go on at end; what lies after is cut off. */
int segment_reopen(const char *dir, const struct segment_header *header, uint64_t end, uint64_t record_count, struct segment *out, struct err *e);
/* Appends one packed record. After a failure the segment is as before. */
int segment_append(struct segment *s, const void *bytes, size_t size, struct err *e);
int segment_seal(struct segment *s, struct err *e); /* writes the trailer; does not sync */
int segment_sync(const struct segment *s, struct err *e);

/* What a scan found. */
struct segment_state {
    struct segment_header header;
    uint64_t end;          /* after the last whole record */
    uint64_t record_count; /* from `from` on */
    bool sealed, torn;     /* trailer found; bytes after end that are neither record nor trailer */
};
/* Visits the whole records from offset `from` (0: the first) up to the first that isn't. */
typedef int segment_visit(const struct record *r, uint64_t offset, const uint8_t *payload, void *user, struct err *e);
int segment_scan(int fd, uint64_t from, segment_visit *visit, void *user, struct segment_state *out, struct err *e);
/* The same whatever its header says; out->header is empty. */
int segment_scan_records(int fd, uint64_t from, segment_visit *visit, void *user, struct segment_state *out, struct err *e);
int segment_header_read(int fd, struct segment_header *out, struct err *e); /* ERR_CORRUPT: it is damaged, or the file is shorter */
int segment_trailer_read(int fd, uint64_t end, uint64_t *record_count, struct err *e); /* that which starts there: 1; 0: there is none; -1 */
/* Reads the record at offset (span from the index) into scratch (span bytes) and decodes it. ERR_CORRUPT when it isn't there. */
int segment_read_file(const char *path, uint64_t offset, size_t span, uint8_t *scratch, struct record *out, struct err *e);
bool record_take(const uint8_t *scratch, size_t span, struct record *out); /* of bytes that were read: whether they are that record, whole */
int segment_read(const char *dir, uint32_t id, uint64_t offset, size_t span, uint8_t *scratch, struct record *out, struct err *e);
