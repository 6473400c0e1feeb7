#include "vault/segment.h"
#include "base/file.h"
#include "vault/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void segment_close(struct segment *s)
{
    close_fd(&s->fd);
    *s = (struct segment){.fd = -1};
}

char *segment_path(const char *dir, uint32_t id) { return xasprintf("%s/%010u.seg", dir, id); }

uint32_t segment_id_of_name(const char *name)
{
    unsigned long id;
    char *rest;

    if (strlen(name) != 14 || name[0] < '0' || name[0] > '9')
        return 0;
    id = strtoul(name, &rest, 10);
    return strcmp(rest, ".seg") == 0 && id <= SEGMENT_LAST ? (uint32_t)id : 0;
}

int segment_create(const char *dir, const struct segment_header *header, struct segment *out, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(dir, (uint32_t)header->id);
    CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    uint8_t bytes[SEGMENT_HEADER_SIZE];

    if (fd < 0)
        return err_errno(e, errno, "can't make the vault segment %s", path);
    segment_header_encode(header, bytes);
    if (fd_pwrite_all(fd, bytes, sizeof bytes, 0, e) < 0 || file_sync_dir(dir, e) < 0) {
        unlink(path);
        return err_wrap(e, "making the vault segment %s", path);
    }
    *out = (struct segment){.fd = fd, .id = (uint32_t)header->id, .end = SEGMENT_HEADER_SIZE, .key = header->key};
    fd = -1;
    return 0;
}

int segment_reopen(const char *dir, const struct segment_header *header, uint64_t end, uint64_t record_count, struct segment *out, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(dir, (uint32_t)header->id);
    CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0 || ftruncate(fd, (off_t)end) < 0 || fsync(fd) < 0)
        return err_errno(e, errno, "can't go on with the vault segment %s", path);
    *out = (struct segment){.fd = fd, .id = (uint32_t)header->id, .end = end, .record_count = record_count, .key = header->key};
    fd = -1;
    return 0;
}

static int write_at_end(struct segment *s, const void *bytes, size_t size, struct err *e)
{
    struct err first = {0};

    if (fd_pwrite_all(s->fd, bytes, size, (int64_t)s->end, &first) == 0)
        return 0;
    /* Take a torn piece away again. If even that fails, the next append overwrites it and a scan would find it torn. */
    if (ftruncate(s->fd, (off_t)s->end) < 0)
        err_wrap(&first, "and the torn piece stays");
    return err_set(e, first.kind, "can't append to the vault segment %u: %.900s", s->id, first.message);
}

int segment_append(struct segment *s, const void *bytes, size_t size, struct err *e)
{
    MUST(s->fd >= 0 && s->end >= SEGMENT_HEADER_SIZE && s->end % 8 == 0 && size % 8 == 0);
    if (write_at_end(s, bytes, size, e) < 0)
        return -1;
    s->end += size;
    s->record_count++;
    return 0;
}

int segment_seal(struct segment *s, struct err *e)
{
    uint8_t bytes[SEGMENT_TRAILER_SIZE];

    segment_trailer_encode(s->record_count, s->end, bytes);
    return write_at_end(s, bytes, sizeof bytes, e);
}

int segment_sync(const struct segment *s, struct err *e)
{
    return fsync(s->fd) < 0 ? err_errno(e, errno, "can't sync the vault segment %u", s->id) : 0;
}

/* ---- reading ---- */

/* From the disk, and not from memory. at: where a page begins. */
static bool reads_page(int fd, uint64_t at, size_t size)
{
    CLEANUP(free_ptr) uint8_t *bytes = xmalloc(size);

    (void)posix_fadvise(fd, (off_t)at, (off_t)size, POSIX_FADV_DONTNEED);
    return fd_pread_all(fd, bytes, size, (int64_t)at, NULL) == 0;
}

/* A page of the file that has nothing of those bytes can be read: at its beginning, in its middle, or at its end. */
static bool reads_elsewhere(int fd, uint64_t offset, size_t size)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), file_size;
    struct stat st;

    if (fstat(fd, &st) < 0 || st.st_size <= 0)
        return false;
    file_size = (uint64_t)st.st_size;
    for (uint64_t i = 0; i < 3; i++) {
        uint64_t at = (file_size - 1) / 2 * i / page * page, length = file_size - at < page ? file_size - at : page;

        if ((at + page <= offset / page * page || at >= offset + size) && reads_page(fd, at, (size_t)length))
            return true;
    }
    return false;
}

/* Bytes that the disk can't read, twice, though it reads others of the same file, are damaged (ERR_CORRUPT). Where it reads nothing, that tells nothing
 * about them (ERR_IO). */
static int read_bytes(int fd, void *bytes, size_t size, uint64_t offset, struct err *e)
{
    struct err why = {0};
    bool elsewhere;

    if (fd_pread_all(fd, bytes, size, (int64_t)offset, &why) == 0)
        return 0;
    elsewhere = why.kind == ERR_IO && reads_elsewhere(fd, offset, size);
    if (why.kind == ERR_IO && fd_pread_all(fd, bytes, size, (int64_t)offset, NULL) == 0)
        return 0;
    return err_set(e, elsewhere ? ERR_CORRUPT : why.kind, "%s%s", why.message, elsewhere ? ", though other places can be read" : "");
}

/* 1: the record at offset is whole and in *r and payload; 0: there is none; -1: it must not be touched (a later version). */
static int read_whole(int fd, uint64_t offset, uint64_t file_size, uint8_t *payload, struct record *r, struct err *e)
{
    uint8_t header[RECORD_HEADER_SIZE];
    struct err why = {0};

    if (file_size - offset < RECORD_HEADER_SIZE)
        return 0;
    if (read_bytes(fd, header, sizeof header, offset, &why) < 0)
        return why.kind == ERR_CORRUPT ? 0 : err_set(e, why.kind, "%s", why.message);
    if (record_decode(header, r, &why) == 0 && r->kind == RECORD_PINS)
        err_set(&why, ERR_UNSUPPORTED, "a record of pins, which have no place in a segment");
    if (why.kind) {
        if (why.kind != ERR_UNSUPPORTED)
            return 0;
        return err_set(e, why.kind, "at offset %llu: %.900s", (unsigned long long)offset, why.message);
    }
    if (file_size - offset < record_span(r->stored_size))
        return 0;
    if (read_bytes(fd, payload, r->stored_size, offset + RECORD_HEADER_SIZE, &why) < 0)
        return why.kind == ERR_CORRUPT ? 0 : err_set(e, why.kind, "%s", why.message);
    return record_payload_intact(r, payload);
}

int segment_trailer_read(int fd, uint64_t end, uint64_t *record_count, struct err *e)
{
    uint8_t bytes[SEGMENT_TRAILER_SIZE];
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_errno(e, errno, "can't look at a vault segment");
    if ((uint64_t)st.st_size < end + sizeof bytes)
        return 0;
    return fd_pread_all(fd, bytes, sizeof bytes, (int64_t)end, e) < 0 ? -1 : segment_trailer_valid(bytes, end, record_count);
}

int segment_header_read(int fd, struct segment_header *out, struct err *e)
{
    uint8_t bytes[SEGMENT_HEADER_SIZE];
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_errno(e, errno, "can't look at a vault segment");
    if ((uint64_t)st.st_size < sizeof bytes)
        return err_set(e, ERR_CORRUPT, "the segment has %lld bytes, fewer than its header", (long long)st.st_size);
    return fd_pread_all(fd, bytes, sizeof bytes, 0, e) < 0 ? -1 : segment_header_decode(bytes, out, e);
}

int segment_scan_records(int fd, uint64_t from, segment_visit *visit, void *user, struct segment_state *out, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *payload = xmalloc(RECORD_RAW_LIMIT + SEAL_OVERHEAD);
    struct segment_state state = {.end = from ? from : SEGMENT_HEADER_SIZE};
    uint64_t record_count;
    struct record r;
    struct stat st;
    int got;

    if (fstat(fd, &st) < 0)
        return err_errno(e, errno, "can't look at a vault segment");
    if ((uint64_t)st.st_size < state.end)
        return err_set(e, ERR_CORRUPT, "the segment has %lld bytes, fewer than were committed", (long long)st.st_size);
    while ((got = read_whole(fd, state.end, (uint64_t)st.st_size, payload, &r, e)) == 1) {
        if (visit && visit(&r, state.end, payload, user, e) < 0)
            return -1;
        state.end += record_span(r.stored_size);
        state.record_count++;
    }
    if (got < 0 || (got = segment_trailer_read(fd, state.end, &record_count, e)) < 0)
        return -1;
    state.sealed = got == 1;
    state.torn = !state.sealed && (uint64_t)st.st_size > state.end;
    *out = state;
    return 0;
}

int segment_scan(int fd, uint64_t from, segment_visit *visit, void *user, struct segment_state *out, struct err *e)
{
    struct segment_header header;

    if (segment_header_read(fd, &header, e) < 0 || segment_scan_records(fd, from, visit, user, out, e) < 0)
        return -1;
    out->header = header;
    return 0;
}

bool record_take(const uint8_t *scratch, size_t span, struct record *out)
{
    struct record r;

    if (record_decode(scratch, &r, NULL) < 0 || record_span(r.stored_size) != span || !record_payload_intact(&r, scratch + RECORD_HEADER_SIZE))
        return false;
    *out = r;
    return true;
}

int segment_read(const char *dir, uint32_t id, uint64_t offset, size_t span, uint8_t *scratch, struct record *out, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(dir, id);

    return segment_read_file(path, offset, span, scratch, out, e);
}

int segment_read_file(const char *path, uint64_t offset, size_t span, uint8_t *scratch, struct record *out, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct err why = {0};

    if (fd < 0)
        return err_errno(e, errno, "can't open the vault segment %s", path);
    if (read_bytes(fd, scratch, span, offset, &why) < 0)
        return err_set(e, why.kind, "the vault segment %s: %.800s", path, why.message);
    return record_take(scratch, span, out) ? 0 : err_set(e, ERR_CORRUPT, "the vault segment %s is damaged at offset %llu", path, (unsigned long long)offset);
}
