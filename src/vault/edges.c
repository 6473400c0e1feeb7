/* edges: the headers and trailers of segments. Nothing that reads by the index needs them; whoever makes an index anew does, whoever reads the vault without one, and the
 * bucket. So a check and a scrub look at them. One that is damaged holds nothing that the segment's row does not say (but when it was begun), so it is written anew. */
#include "base/file.h"
#include "vault/check.h"
#include "vault/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct edge_row {
    uint32_t id;
    struct segment_row row;
};

struct edge_rows {
    struct edge_row *list;
    size_t count;
};

static void rows_release(struct edge_rows *r) { free(r->list); }

static int collect_row(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct edge_rows *r = user;
    struct edge_row one;

    if (segment_row_read(key, value, &one.id, &one.row, e) < 0)
        return -1;
    if (one.row.flags & SEGMENT_DOOMED)
        return 0;
    if ((r->count & (r->count + 1)) == 0)
        r->list = xrealloc(r->list, 2 * (r->count + 1) * sizeof *r->list);
    r->list[r->count++] = one;
    return 0;
}

static int all_rows(struct vault *v, struct edge_rows *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    return index_begin(&v->index, false, &txn, e) < 0 ? -1 : index_each(&v->index, txn, INDEX_SEGMENT, index_val("", 0), collect_row, out, e);
}

/* ---- looking ---- */

/* What is wrong with a segment's file: it does not hold what it must, or is not what the row says. */
struct edges {
    bool here;                  /* there is a file */
    bool bad_header, bad_trailer; /* damaged, so that all that it must say is in the row */
    struct err header, trailer; /* kind ERR_NONE: nothing is */
};

static void look_at_header(const struct vault *v, int fd, const struct edge_row *s, struct edges *out)
{
    struct segment_header h;

    if (segment_header_read(fd, &h, &out->header) < 0) {
        out->bad_header = out->header.kind == ERR_CORRUPT;
        return;
    }
    if (memcmp(h.vault_id, v->id, VAULT_ID_SIZE) != 0 || h.id != s->id || h.key != s->row.key)
        err_set(&out->header, ERR_CORRUPT, "it is of another vault, another segment or another data key (it says segment %llu)", (unsigned long long)h.id);
}

static void look_at_trailer(int fd, const struct edge_row *s, struct edges *out)
{
    uint64_t record_count;
    int found = segment_trailer_read(fd, s->row.committed, &record_count, &out->trailer);

    if (found == 0) {
        out->bad_trailer = true;
        err_set(&out->trailer, ERR_CORRUPT, "it is damaged, or not there");
    } else if (found == 1 && record_count != s->row.record_count)
        err_set(&out->trailer, ERR_CORRUPT, "it says %llu records, the index %u", (unsigned long long)record_count, s->row.record_count);
}

static void look(const struct vault *v, const struct edge_row *s, struct edges *out)
{
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, s->id);
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    int why = errno;

    *out = (struct edges){.here = fd >= 0 || why != ENOENT};
    if (fd < 0) { /* it lies in the bucket; or its records are said to be missing */
        if (out->here)
            err_errno(&out->header, why, "can't open it");
        return;
    }
    look_at_header(v, fd, s, out);
    if (s->row.flags & SEGMENT_SEALED)
        look_at_trailer(fd, s, out);
}

/* Once more, with the row as it is now: vault_gc may have taken the segment away, or the bucket's thread has brought it. 1: something is wrong. */
static int look_again(struct vault *v, struct edge_row *s, struct edges *out, struct err *e)
{
    int found = segment_row_get(v, s->id, &s->row, e);

    if (found <= 0 || s->row.flags & SEGMENT_DOOMED)
        return found < 0 ? -1 : 0;
    look(v, s, out);
    return out->header.kind || out->trailer.kind;
}

int edges_check(struct vault *v, struct vault_report *out, struct err *e)
{
    CLEANUP(rows_release) struct edge_rows rows = {0};

    if (all_rows(v, &rows, e) < 0)
        return -1;
    for (size_t i = 0; i < rows.count; i++) {
        struct edge_row *s = &rows.list[i];
        struct edges x;
        int wrong;

        look(v, s, &x);
        if (!x.header.kind && !x.trailer.kind)
            continue;
        wrong = look_again(v, s, &x, e);
        if (wrong < 0)
            return -1;
        if (x.header.kind && wrong)
            report_add(out, x.header.kind, "the header of segment %u: %.300s", s->id, x.header.message);
        if (x.trailer.kind && wrong)
            report_add(out, x.trailer.kind, "the trailer of segment %u: %.300s", s->id, x.trailer.message);
        if (wrong && (x.bad_header || x.bad_trailer))
            atomic_store(&v->edges_bad, true);
    }
    return 0;
}

/* ---- writing anew ---- */

int header_mend(struct vault *v, int fd, uint32_t id, uint32_t key, struct err *e)
{
    struct segment_header h = {.id = id, .created_us = clock_read_us(v->options.clock), .key = key};
    uint8_t bytes[SEGMENT_HEADER_SIZE];

    memcpy(h.vault_id, v->id, VAULT_ID_SIZE);
    segment_header_encode(&h, bytes);
    if (fd_pwrite_all(fd, bytes, sizeof bytes, 0, e) < 0)
        return err_wrap(e, "the header of segment %u", id);
    return fsync(fd) < 0 ? err_errno(e, errno, "can't sync segment %u", id) : 0;
}

static int trailer_mend(int fd, const struct edge_row *s, struct err *e)
{
    uint8_t bytes[SEGMENT_TRAILER_SIZE];

    segment_trailer_encode(s->row.record_count, s->row.committed, bytes);
    if (fd_pwrite_all(fd, bytes, sizeof bytes, (int64_t)s->row.committed, e) < 0)
        return err_wrap(e, "the trailer of segment %u", s->id);
    return fsync(fd) < 0 ? err_errno(e, errno, "can't sync segment %u", s->id) : 0;
}

static int mend(struct vault *v, const struct edge_row *s, const struct edges *x, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, s->id);
    CLEANUP(close_fd) int fd = -1;
    struct stat st;

    if (s->row.flags & SEGMENT_KEPT && v->bucket) {
        bucket_want(v->bucket, s->id); /* the store has it whole: it comes in this one's place */
        return 0;
    }
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : err_errno(e, errno, "can't open %s", path);
    if (fstat(fd, &st) < 0)
        return err_errno(e, errno, "can't look at %s", path);
    if ((uint64_t)st.st_size < s->row.committed) /* more is gone than that */
        return 0;
    if ((x->bad_header && header_mend(v, fd, s->id, s->row.key, e) < 0) || (x->bad_trailer && trailer_mend(fd, s, e) < 0))
        return -1;
    bucket_mended(v->bucket, s->id);
    return 0;
}

int edges_mend(struct vault *v, struct err *e)
{
    CLEANUP(rows_release) struct edge_rows rows = {0};

    if (!atomic_exchange(&v->edges_bad, false))
        return 0;
    if (all_rows(v, &rows, e) < 0)
        return -1;
    for (size_t i = 0; i < rows.count; i++) {
        struct edges x;

        look(v, &rows.list[i], &x);
        if ((x.bad_header || x.bad_trailer) && mend(v, &rows.list[i], &x, e) < 0)
            return -1;
    }
    return 0;
}
