/* recover_segment: one segment that the index does not know to its end. Its whole records are taken in, also behind damage, and also behind a header that is damaged: records
 * carry their own sums. What follows the last one is cut off, but where a trailer at the file's end says that it was full: that one is left as it is.
 *
 * Where the index is whole, a segment without a row holds nothing that was acknowledged: a header that is damaged was lost with the power. It is written anew where there are
 * records behind it, and the file goes where there are none. Where the index is made anew nobody knows what was acknowledged: whatever is damaged is reported, and a file
 * without records is moved aside. */
#include "base/bytes.h"
#include "base/file.h"
#include "vault/recover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FULL_LIMIT 16 /* segments held open before a flush */
#define WRITE_AGAIN_BYTES (1u << 20)
#define UNREADABLE_BYTES 4096u /* what a disk can't read is no less */

/* A segment that is read. */
struct reading {
    struct recovery *r;
    char *path;  /* owned */
    int fd;      /* owned */
    uint64_t size_bytes;
    int known;   /* 1: there is a row */
    struct segment_row row;
    struct segment_header header; /* that of a damaged one is made up */
    bool headless;                /* it is damaged */
    bool damaged;                 /* between its records, and never appended to again */
    struct segment_state state;   /* .header is not used */
};

static void reading_release(struct reading *s)
{
    free(s->path);
    close_fd(&s->fd);
}

static int take_record(const struct record *rec, uint64_t offset, const uint8_t *sealed, void *user, struct err *e)
{
    struct recovery *r = user;
    struct chunk_place place = {.segment = r->id, .offset = (uint32_t)offset, .raw_size = rec->raw_size, .kind = rec->kind,
                                .stored_size = (uint32_t)(record_span(rec->stored_size) - RECORD_HEADER_SIZE)};
    CLEANUP(free_ptr) uint8_t *payload = xmalloc(rec->stored_size);
    struct note n = {.size = rec->raw_size, .hash = rec->hash, .kind = rec->kind};
    struct record opened = *rec;
    struct record_pages pages;
    struct err why = {0};

    memcpy(payload, sealed, rec->stored_size);
    if (seal_open_record(r->v->seal, r->id, &opened, payload, &why) < 0 && why.kind != ERR_CORRUPT)
        return err_set(e, why.kind, "%s", why.message);
    if (opened.sealed || record_pages_of(&opened, payload, &pages, NULL) < 0)
        return 0; /* refused: it is not there */
    r->key = rec->sealed ? get_le32(sealed) : 0;
    pending_add(&r->v->pending, &rec->hash, &place, rec->codec >= CODEC_DELTA ? &pages : NULL);
    if (rec->kind < RECORD_POINT)
        return 0;
    n.bytes = xmalloc(rec->raw_size);
    if (record_unpack(&opened, payload, r->v->seal, n.bytes, NULL) < 0) {
        free(n.bytes); /* a damaged document: its point is not there, and vault_scrub names the record */
        return 0;
    }
    r->notes = xrealloc(r->notes, (r->note_count + 1) * sizeof *r->notes);
    r->notes[r->note_count++] = n;
    return 0;
}

/* ---- damage ---- */

/* After damage inside a segment: the next place where a record starts, 0 when there is none. Also one of a later version: it is none to pass over. */
static uint64_t next_record(int fd, uint64_t from, uint64_t file_size)
{
    uint8_t header[RECORD_HEADER_SIZE];
    struct record rec;

    for (uint64_t at = from; at + RECORD_HEADER_SIZE <= file_size;) {
        struct err why = {0};

        if (fd_pread_all(fd, header, sizeof header, (int64_t)at, NULL) < 0) {
            at = (at / UNREADABLE_BYTES + 1) * UNREADABLE_BYTES;
            continue;
        }
        if (record_decode(header, &rec, &why) == 0 || why.kind == ERR_UNSUPPORTED)
            return at;
        at += 8;
    }
    return 0;
}

static void report(struct reading *s, uint64_t from, uint64_t to)
{
    if (s->r->fresh)
        report_add(&s->r->v->anew.damage, ERR_CORRUPT, "segment %u is damaged from byte %llu to %llu", s->r->id, (unsigned long long)from, (unsigned long long)to);
}

/* Reads on over damage, where no row says how far the segment was committed. */
static int scan_over_damage(struct reading *s, struct err *e)
{
    struct segment_state *state = &s->state;
    uint64_t record_count = state->record_count, at;

    while (state->torn && (at = next_record(s->fd, state->end + 8, s->size_bytes))) {
        report(s, state->end, at);
        s->damaged = true;
        if (segment_scan_records(s->fd, at, take_record, s->r, state, e) < 0)
            return err_wrap(e, "%s", s->path);
        record_count += state->record_count;
    }
    state->record_count = record_count;
    return 0;
}

/* A trailer at the file's end: it was full, and as many records as it says were before it. */
static int look_for_end(struct reading *s, struct err *e)
{
    struct segment_state *state = &s->state;
    uint64_t end = s->size_bytes - SEGMENT_TRAILER_SIZE, record_count;
    int found = s->size_bytes < SEGMENT_HEADER_SIZE + SEGMENT_TRAILER_SIZE ? 0 : segment_trailer_read(s->fd, end, &record_count, e);

    if (found <= 0)
        return found;
    if (state->end != end)
        report(s, state->end, end);
    state->end = end;
    state->record_count = record_count;
    state->sealed = true;
    state->torn = false;
    return 0;
}

static int holds_something(const struct reading *s, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *bytes = xmalloc(1 << 16);

    for (uint64_t at = 0; at < s->size_bytes; at += 1 << 16) {
        size_t size = s->size_bytes - at < 1 << 16 ? (size_t)(s->size_bytes - at) : 1 << 16;

        if (fd_pread_all(s->fd, bytes, size, (int64_t)at, e) < 0)
            return -1;
        if (bytes[0] || memcmp(bytes, bytes + 1, size - 1) != 0)
            return 1;
    }
    return 0;
}

/* A damaged header, and not one whole record. */
static int put_away(struct reading *s, struct err *e)
{
    CLEANUP(free_ptr) char *aside = xasprintf("%s.damaged", s->path);
    int something = s->r->fresh ? holds_something(s, e) : 0;

    if (something < 0)
        return -1;
    if (something)
        report_add(&s->r->v->anew.damage, ERR_CORRUPT, "segment %u: its header is damaged, and no record in it is whole: it is %s now", s->r->id, aside);
    if ((something ? rename(s->path, aside) : unlink(s->path)) < 0)
        return err_errno(e, errno, "can't put %s away", s->path);
    return file_sync_dir(s->r->v->segment_dir, e);
}

static int mend_header(struct reading *s, struct err *e)
{
    CLEANUP(close_fd) int fd = open(s->path, O_RDWR | O_CLOEXEC);
    uint64_t record_count = s->state.record_count;

    if (fd < 0)
        return err_errno(e, errno, "can't open %s", s->path);
    s->header = (struct segment_header){.id = s->r->id, .key = s->known ? s->row.key : s->r->key};
    if (s->known || s->r->fresh)
        report_add(&s->r->v->anew.damage, ERR_CORRUPT, "the header of segment %u was damaged, and is written anew; %llu records were found behind it", s->r->id,
                   (unsigned long long)(record_count + s->row.record_count));
    return header_mend(s->r->v, fd, s->r->id, s->header.key, e);
}

/* ---- one segment ---- */

static void hold_full(struct vault *v, struct segment *s)
{
    v->full = xrealloc(v->full, (v->full_count + 1) * sizeof *v->full);
    v->full[v->full_count++] = *s;
}

/* Of what a process before this one wrote the kernel may have dropped a part that it could not write to the disk. It said so once, to a sync that
 * failed: what is read is all there still, and the next sync succeeds. So whatever no row vouches for is written once more. (Where the index is made
 * anew that would be everything: there it is read from the disk.) */
static int write_again(const struct reading *s, struct err *e)
{
    uint64_t end = s->state.end + (s->state.sealed ? SEGMENT_TRAILER_SIZE : 0);
    CLEANUP(free_ptr) uint8_t *bytes = NULL;
    CLEANUP(close_fd) int fd = -1;

    if (s->r->fresh || end <= s->row.committed)
        return 0;
    fd = open(s->path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "can't open %s", s->path);
    bytes = xmalloc(WRITE_AGAIN_BYTES);
    for (uint64_t at = s->row.committed; at < end;) {
        size_t size = end - at < WRITE_AGAIN_BYTES ? (size_t)(end - at) : WRITE_AGAIN_BYTES;

        if (fd_pread_all(fd, bytes, size, (int64_t)at, e) < 0 || fd_pwrite_all(fd, bytes, size, (int64_t)at, e) < 0)
            return err_wrap(e, "%s", s->path);
        at += size;
    }
    return fsync(fd) < 0 ? err_errno(e, errno, "can't sync %s", s->path) : 0;
}

/* What is read from now on is what the disk holds. */
static int forget_cached(int fd, struct err *e)
{
    if (fsync(fd) < 0)
        return err_errno(e, errno, "can't sync a vault segment");
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return 0;
}

/* What becomes of a segment after its scan: it goes on as the current one, or is sealed. */
static int settle(struct reading *s, bool last, struct err *e)
{
    uint64_t end = s->state.end, record_count = s->row.record_count + s->state.record_count;
    struct vault *v = s->r->v;
    struct segment one = {.fd = -1};

    if (s->state.sealed) {
        one = (struct segment){.fd = s->fd, .id = s->r->id, .end = end, .record_count = record_count, .key = s->header.key};
        s->fd = -1;
        hold_full(v, &one);
        return 0;
    }
    if (s->state.torn && !s->known)
        report(s, end, s->size_bytes);
    s->header.id = s->r->id;
    if (segment_reopen(v->segment_dir, &s->header, end, record_count, &one, e) < 0)
        return -1;
    if (last && !s->damaged && end < v->options.segment_bytes - v->options.segment_bytes / 4) {
        v->current = one;
        return 0;
    }
    if (segment_seal(&one, e) < 0) {
        segment_close(&one);
        return -1;
    }
    hold_full(v, &one);
    return 0;
}

/* A segment whose header never got to the disk held nothing that was committed. */
static int remove_empty(const char *path, bool *removed, struct err *e)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return err_errno(e, errno, "can't look at %s", path);
    *removed = st.st_size < (off_t)SEGMENT_HEADER_SIZE;
    return *removed && unlink(path) < 0 ? err_errno(e, errno, "can't remove %s", path) : 0;
}

/* 1; 0: it is damaged. */
static int read_header(struct reading *s, struct err *e)
{
    struct err why = {0};

    if (segment_header_read(s->fd, &s->header, &why) < 0) {
        s->headless = true;
        return why.kind == ERR_CORRUPT ? 0 : err_set(e, why.kind, "%s: %.900s", s->path, why.message);
    }
    return memcmp(s->header.vault_id, s->r->v->id, VAULT_ID_SIZE) == 0 && s->header.id == s->r->id
               ? 1 : err_set(e, ERR_CORRUPT, "%s belongs to another vault or has another's name: take it out", s->path);
}

/* 1: it is to be settled; 0: it is not. */
static int scan(struct reading *s, struct err *e)
{
    struct err why = {0};

    s->r->key = 0;
    if (read_header(s, e) < 0)
        return -1;
    if (segment_scan_records(s->fd, s->row.committed, take_record, s->r, &s->state, &why) < 0) {
        /* Shorter than what was committed: it is left as it is, and reads, vault_check and vault_scrub name what is missing. */
        return why.kind == ERR_CORRUPT ? 0 : err_set(e, why.kind, "%s: %.900s", s->path, why.message);
    }
    if (!s->known && s->state.torn && (scan_over_damage(s, e) < 0 || look_for_end(s, e) < 0))
        return -1;
    if (!s->headless)
        return 1;
    if (!s->known && s->state.record_count == 0)
        return put_away(s, e);
    return mend_header(s, e) < 0 ? -1 : 1;
}

static int recover_segment(struct recovery *r, bool last, struct err *e)
{
    CLEANUP(reading_release) struct reading s = {.r = r, .path = segment_path(r->v->segment_dir, r->id), .fd = -1};
    bool removed = false;
    struct stat st;
    int found;

    s.known = segment_row_get(r->v, r->id, &s.row, e);
    if (s.known < 0 || (s.known == 1 && s.row.flags & SEGMENT_SEALED))
        return s.known < 0 ? -1 : 0;
    if (s.known == 0 && (remove_empty(s.path, &removed, e) < 0 || removed))
        return removed ? 0 : -1;
    s.fd = open(s.path, O_RDONLY | O_CLOEXEC);
    if (s.fd < 0 || fstat(s.fd, &st) < 0)
        return err_errno(e, errno, "can't open %s", s.path);
    s.size_bytes = (uint64_t)st.st_size;
    found = r->fresh && forget_cached(s.fd, e) < 0 ? -1 : scan(&s, e);
    if (found <= 0)
        return found;
    if (write_again(&s, e) < 0 || settle(&s, last, e) < 0)
        return -1;
    return r->fresh && r->v->full_count >= FULL_LIMIT ? vault_flush(r->v, NULL, NULL, e) : 0;
}

/* Wrong bytes are asked for once more: a link may have done it. */
static int fetch_whole(struct recovery *r, struct err *e)
{
    struct err why = {0};

    if (bucket_fetch(r->v->bucket, r->id, true, &why) == 0 || (why.kind == ERR_CORRUPT && bucket_fetch(r->v->bucket, r->id, true, &why) == 0))
        return 0;
    return err_set(e, why.kind, "%s", why.message);
}

/* From the bucket; in the place of a damaged file, where it is whole there, and as it lies there where nothing is here. 1: it is here now; 0: it is no better there. */
static int fetch(struct recovery *r, bool in_place, struct err *e)
{
    struct err why = {0};

    if (fetch_whole(r, &why) == 0 || (!in_place && why.kind == ERR_CORRUPT && bucket_fetch(r->v->bucket, r->id, false, &why) == 0))
        return 1;
    return in_place && (why.kind == ERR_CORRUPT || why.kind == ERR_NOT_FOUND) ? 0 : err_set(e, why.kind, "the index is made anew from the bucket: %.900s", why.message);
}

/* The same, of one that may lie in the bucket: where it is nowhere else, or damaged here, it is brought. What is kept there is sealed, so one that goes on here is none. */
int recover_anywhere(struct recovery *r, bool last, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(r->v->segment_dir, r->id);
    bool there = r->there_count && bsearch(&r->id, r->there, r->there_count, sizeof *r->there, by_id), here = file_exists(path);

    if (!here || (there && segment_look(r->v, r->id, path, NULL, NULL) < 0)) {
        int fetched = fetch(r, here, e);

        if (fetched < 0)
            return -1;
        here = here && !fetched;
    }
    if (recover_segment(r, last, e) < 0 || (there && vault_flush(r->v, NULL, NULL, e) < 0))
        return -1;
    return !there ? 0 : here ? (row_flag(r->v, r->id, SEGMENT_SENT, e) < 0 ? -1 : 0) : bucket_found(r->v->bucket, r->id, e);
}
