/* check: looking whether everything that is promised is there. Findings are counted, and the first ones told in words. */
#include "vault/check.h"
#include "vault/internal.h"
#include "vault/sieve.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

void report_add(struct vault_report *r, enum err_kind kind, const char *format, ...)
{
    if (r->told_count < VAULT_FINDINGS_TOLD) {
        struct vault_finding *f;
        va_list args;

        r->findings = xrealloc(r->findings, (r->told_count + 1) * sizeof *r->findings);
        f = &r->findings[r->told_count++];
        f->kind = kind;
        va_start(args, format);
        vsnprintf(f->text, sizeof f->text, format, args);
        va_end(args);
    }
    r->finding_count++;
}

void vault_report_release(struct vault_report *r)
{
    free(r->findings);
    *r = (struct vault_report){0};
}

json_t *vault_report_json(const struct vault_report *r)
{
    json_t *findings = json_array(), *j = json_object();

    for (size_t i = 0; i < r->told_count; i++)
        json_array_append_new(findings, json_pack("{s:s, s:s}", "kind", err_meaning(r->findings[i].kind)->name, "text", r->findings[i].text));
    json_object_set_new(j, "looked_at", json_integer((json_int_t)r->looked_at));
    json_object_set_new(j, "bytes", json_integer((json_int_t)r->bytes));
    json_object_set_new(j, "finding_count", json_integer((json_int_t)r->finding_count));
    json_object_set_new(j, "findings", findings);
    return j;
}

/* ---- one point ---- */

bool out_of_reach(const struct err *e) { return e->kind == ERR_UNREACHABLE || e->kind == ERR_CANCELLED; }

struct looking {
    struct vault *v;
    const struct vault_point *point;
    const struct vault_point_disk *disk;
    struct vault_report *report;
    struct hash_seen seen; /* names looked at already; only ever skips what was read once */
    bool read;            /* read chunks, or look for their records only */
    vault_progress *progress;
    void *user;
    uint64_t total;
};

static int look_at_chunk(struct looking *l, const struct vault_hash *hash, uint64_t first_chunk, struct err *e)
{
    size_t size = VAULT_CHUNK_BYTES;
    struct record_pages pages;
    struct chunk_place place;
    struct err why = {0};
    int found, divided;

    if (l->read) {
        uint8_t *raw = NULL;
        size_t raw_size = 0;

        /* Past the cache: what is on the disk counts. */
        if (record_get_any(l->v, hash, &raw, &raw_size, &why) < 0 && out_of_reach(&why))
            return err_set(e, why.kind, "not everything could be read: %s", why.message);
        if (why.kind || raw_size != size)
            report_add(l->report, why.kind ? why.kind : ERR_CORRUPT, "%s, disk %s, byte %llu: %.300s", l->point->id, l->disk->id,
                       (unsigned long long)(first_chunk * VAULT_CHUNK_BYTES), why.kind ? why.message : "a chunk of another size");
        free(raw);
        return 0;
    }
    pthread_mutex_lock(&l->v->append_lock);
    found = place_find(l->v, hash, &place, e);
    if (found == 1 && place.raw_size != size)
        found = 0;
    if (found == 1 && (divided = pages_find(l->v, hash, &pages, e)))
        found = divided < 0 ? -1 : pages_are_there(l->v, &pages, true, e);
    pthread_mutex_unlock(&l->v->append_lock);
    if (found < 0)
        return -1;
    if (found == 0)
        report_add(l->report, ERR_CORRUPT, "%s, disk %s, byte %llu: the chunk is missing", l->point->id, l->disk->id,
                   (unsigned long long)(first_chunk * VAULT_CHUNK_BYTES));
    return 0;
}

static int look(const struct vault_hash *hash, int level, uint64_t first_chunk, void *user, struct err *e)
{
    struct looking *l = user;

    if (!hash_seen_add(&l->seen, hash))
        return 0;
    l->report->looked_at++;
    if (level >= 0)
        return 1;
    l->report->bytes += chunk_size_at(l->disk->size_bytes, first_chunk);
    if (l->progress && l->report->looked_at % 64 == 0 && l->progress(l->report->bytes, l->total, l->user))
        return err_set(e, ERR_CANCELLED, "stopped");
    return look_at_chunk(l, hash, first_chunk, e);
}

static int look_bad(const struct vault_hash *hash, int level, uint64_t first_chunk, const struct err *why, void *user)
{
    struct looking *l = user;

    (void)hash;
    report_add(l->report, why->kind, "%s, disk %s, the map of %llu bytes from byte %llu: %.300s", l->point->id, l->disk->id,
               (unsigned long long)(tree_span((unsigned)level + 1) * VAULT_CHUNK_BYTES),
               (unsigned long long)(first_chunk * VAULT_CHUNK_BYTES), why->message);
    return 0;
}

static int look_at_point(struct looking *l, const struct vault_point *p, struct err *e)
{
    struct walk w = {.v = l->v, .visit = look, .visit_bad = look_bad, .user = l, .perhaps = true};

    l->point = p;
    for (size_t i = 0; i < p->disk_count; i++) {
        l->disk = &p->disks[i];
        if (walk_tree(&w, &p->disks[i].root, chunks_of(p->disks[i].size_bytes), e) < 0)
            return -1;
    }
    return 0;
}

static int make_seen(struct looking *l, struct err *e)
{
    uint64_t count;

    if (records_count(l->v, &count, e) < 0)
        return -1;
    hash_seen_make(&l->seen, l->v->options.work_memory_bytes, count);
    return 0;
}

/* Dropped meanwhile: what it needs may have been given back. 1/0/-1 */
static int point_went(struct vault *v, const char *id, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    int found = vault_point_get(v, id, p, e);

    return found < 0 ? -1 : !found;
}

int vault_verify_point(struct vault *v, const char *point, vault_progress *progress, void *user, struct vault_report *out,
                       struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    struct looking l = {.v = v, .report = out, .read = true, .progress = progress, .user = user};
    int found = vault_point_get(v, point, p, e), r;

    if (found != 1)
        return found < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no recovery point %.200s", point);
    vault_report_release(out);
    for (size_t i = 0; i < p->disk_count; i++)
        l.total += p->disks[i].size_bytes; /* an upper bound: zeros and what appears twice are looked at once */
    r = make_seen(&l, e);
    if (r == 0)
        r = look_at_point(&l, p, e);
    hash_seen_release(&l.seen);
    if (r == 0 && out->finding_count && (r = point_went(v, point, e)) == 1)
        return err_set(e, ERR_NOT_FOUND, "recovery point %.200s was dropped while it was read", point);
    return r;
}

/* ---- all points ---- */

/* Their names only: of a fleet there are tens of thousands. */
struct names {
    char (*ids)[VAULT_POINT_ID_SIZE];
    size_t count;
};

static void free_names(struct names *n) { free(n->ids); }

static int collect_name(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct names *n = user;

    (void)value;
    if (key.mv_size >= VAULT_POINT_ID_SIZE)
        return err_set(e, ERR_CORRUPT, "the vault's index has a point id of %zu bytes", key.mv_size);
    if ((n->count & (n->count + 1)) == 0)
        n->ids = xrealloc(n->ids, 2 * (n->count + 1) * sizeof *n->ids);
    memset(n->ids[n->count], 0, sizeof n->ids[0]);
    memcpy(n->ids[n->count++], key.mv_data, key.mv_size);
    return 0;
}

/* Each that is there still when it is its turn. */
static int each_point(struct vault *v, int (*visit)(const struct vault_point *p, void *user, struct err *e), void *user, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    CLEANUP(free_names) struct names n = {0};
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    if (index_begin(&v->index, false, &txn, e) < 0 || index_each(&v->index, txn, INDEX_POINT, index_val("", 0), collect_name, &n, e) < 0)
        return -1;
    index_abort(&txn);
    for (size_t i = 0; i < n.count; i++) {
        int found = vault_point_get(v, n.ids[i], p, e);

        if (found < 0 || (found == 1 && visit(p, user, e) < 0))
            return found < 0 ? err_wrap(e, "point %s", n.ids[i]) : -1;
    }
    return 0;
}

/* ---- records against files ---- */

struct extents {
    struct vault *v;
    struct vault_report *report;
    uint64_t *file_size; /* by segment id; UINT64_MAX: not asked yet */
    size_t file_count;
};

static uint64_t file_size_of(struct extents *x, uint32_t id)
{
    while (x->file_count <= id) {
        x->file_size = xrealloc(x->file_size, 2 * (x->file_count + 8) * sizeof *x->file_size);
        for (size_t i = x->file_count; i < 2 * (x->file_count + 8); i++)
            x->file_size[i] = UINT64_MAX;
        x->file_count = 2 * (x->file_count + 8);
    }
    if (x->file_size[id] == UINT64_MAX) {
        CLEANUP(free_ptr) char *path = segment_path(x->v->segment_dir, id);
        struct segment_row row;
        struct stat st;

        x->file_size[id] = stat(path, &st) == 0 ? (uint64_t)st.st_size
                           : segment_row_get(x->v, id, &row, NULL) == 1 && row.flags & SEGMENT_KEPT ? row.committed : 0;
    }
    return x->file_size[id];
}

/* vault_gc did not take it away, with its segment, since the view that is walked over. 1/0/-1 */
static int lies_there_still(struct vault *v, const struct vault_hash *hash, const struct chunk_place *place, struct err *e)
{
    struct chunk_place now;
    int found;

    pthread_mutex_lock(&v->append_lock);
    found = place_find(v, hash, &now, e);
    pthread_mutex_unlock(&v->append_lock);
    return found == 1 ? now.segment == place->segment && now.offset == place->offset : found;
}

static int check_extent(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct extents *x = user;
    struct chunk_place place;
    struct vault_hash hash;
    char text[VAULT_HASH_TEXT_SIZE];
    int there;

    if (!chunk_row(key, value, &hash, &place)) {
        report_add(x->report, ERR_CORRUPT, "the index has a damaged row");
        return 0;
    }
    x->report->looked_at++;
    if ((uint64_t)place.offset + RECORD_HEADER_SIZE + place.stored_size <= file_size_of(x, place.segment))
        return 0;
    there = lies_there_still(x->v, &hash, &place, e);
    if (there < 0)
        return -1;
    if (there)
        report_add(x->report, ERR_CORRUPT, "chunk %s lies beyond the end of segment %u", vault_hash_text(&hash, text), place.segment);
    return 0;
}

static int check_extents(struct vault *v, struct vault_report *report, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct extents x = {.v = v, .report = report};
    int r = index_begin(&v->index, false, &txn, e);

    if (r == 0)
        r = index_each(&v->index, txn, INDEX_CHUNK, index_val("", 0), check_extent, &x, e);
    free(x.file_size);
    return r;
}

/* ---- which points use what is damaged ---- */

struct blame {
    struct vault *v;
    const struct hash_set *bad;
    struct hash_seen *clean; /* nodes below which nothing is bad, as far as is known; NULL: one walk only */
    bool uses;
    struct vault_hash hash; /* the first one that is used, and the first chunk of the disk that needs it */
    uint64_t first_chunk;
};

static void blame(struct blame *b, const struct vault_hash *hash, uint64_t first_chunk)
{
    if (!b->uses) {
        b->hash = *hash;
        b->first_chunk = first_chunk;
    }
    b->uses = true;
}

static int look_for_bad(const struct vault_hash *hash, int level, uint64_t first_chunk, void *user, struct err *e)
{
    struct blame *b = user;
    struct record_pages pages = {0};
    int divided = 0;

    if (level < 0 && !b->uses) {
        pthread_mutex_lock(&b->v->append_lock);
        divided = pages_find(b->v, hash, &pages, e);
        pthread_mutex_unlock(&b->v->append_lock);
    }
    if (hash_set_has(b->bad, hash))
        blame(b, hash, first_chunk);
    for (size_t i = 0; divided == 1 && i < pages.part_count; i++)
        if (hash_set_has(b->bad, &pages.parts[i].name))
            blame(b, &pages.parts[i].name, first_chunk);
    if (divided < 0)
        return -1;
    return level >= 0 && !b->uses && (!b->clean || hash_seen_add(b->clean, hash));
}

static int bad_node(const struct vault_hash *hash, int level, uint64_t first_chunk, const struct err *why, void *user)
{
    (void)level;
    (void)why;
    blame(user, hash, first_chunk);
    return 0;
}

struct blaming {
    struct vault *v;
    const struct hash_set *bad;
    struct vault_report *report;
    struct hash_seen clean;
};

static int blame_disk(struct blaming *all, const struct vault_point *p, const struct vault_point_disk *disk, struct err *e)
{
    struct blame b = {.v = all->v, .bad = all->bad, .clean = &all->clean};
    struct walk w = {.v = all->v, .visit = look_for_bad, .visit_bad = bad_node, .user = &b, .perhaps = true};
    int went;

    if (walk_tree(&w, &disk->root, chunks_of(disk->size_bytes), e) < 0)
        return -1;
    if (!b.uses)
        return 0;
    hash_seen_forget(&all->clean); /* those on the way to what is bad, too, were taken for clean */
    went = point_went(all->v, p->id, e);
    if (went == 0)
        report_add(all->report, ERR_CORRUPT, "recovery point %s, disk %s uses a damaged chunk", p->id, disk->id);
    return went < 0 ? -1 : 0;
}

static int blame_point(const struct vault_point *p, void *user, struct err *e)
{
    for (size_t disk = 0; disk < p->disk_count; disk++)
        if (blame_disk(user, p, &p->disks[disk], e) < 0)
            return -1;
    return 0;
}

int blame_points(struct vault *v, const struct hash_set *bad, struct vault_report *out, struct err *e)
{
    struct blaming all = {.v = v, .bad = bad, .report = out};
    uint64_t count;
    int r;

    if (records_count(v, &count, e) < 0)
        return -1;
    hash_seen_make(&all.clean, v->options.work_memory_bytes / 4, count / TREE_FANOUT + 1024);
    r = each_point(v, blame_point, &all, e);
    hash_seen_release(&all.clean);
    return r;
}

/* What is known to be bad by now. */
static void copy_bad(struct vault *v, struct hash_set *out)
{
    pthread_mutex_lock(&v->append_lock);
    if (v->bad.used_count) {
        *out = (struct hash_set){xmalloc(v->bad.slot_count * sizeof *v->bad.slots), v->bad.slot_count, v->bad.used_count};
        memcpy(out->slots, v->bad.slots, v->bad.slot_count * sizeof *v->bad.slots);
    }
    pthread_mutex_unlock(&v->append_lock);
}

/* What is found in one that is dropped meanwhile is no damage. */
static int check_point(const struct vault_point *p, void *user, struct err *e)
{
    struct looking *l = user;
    uint64_t finding_count = l->report->finding_count;
    size_t told_count = l->report->told_count;
    int went;

    if (look_at_point(l, p, e) < 0)
        return -1;
    went = l->report->finding_count > finding_count ? point_went(l->v, p->id, e) : 0;
    if (went == 1) {
        l->report->finding_count = finding_count;
        l->report->told_count = told_count;
        hash_seen_forget(&l->seen); /* what it has in common with others is looked at again for them */
    }
    return went < 0 ? -1 : 0;
}

int vault_check(struct vault *v, struct vault_report *out, struct err *e)
{
    struct looking l = {.v = v, .report = out};
    struct hash_set bad = {0};
    int r;

    vault_report_release(out);
    if (vault_sync(v, e) < 0 || check_extents(v, out, e) < 0 || edges_check(v, out, e) < 0)
        return -1;
    r = make_seen(&l, e);
    if (r == 0)
        r = each_point(v, check_point, &l, e);
    hash_seen_release(&l.seen);
    copy_bad(v, &bad);
    if (r == 0 && bad.used_count)
        r = blame_points(v, &bad, out, e);
    hash_set_release(&bad);
    return r;
}

/* ---- short answers ---- */

int vault_point_usable(struct vault *v, const char *point, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    struct hash_set bad = {0};
    int found = vault_point_get(v, point, p, e);
    int r = 0;

    if (found != 1)
        return found < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no recovery point %.200s", point);
    copy_bad(v, &bad);
    for (size_t i = 0; r == 0 && bad.used_count && i < p->disk_count; i++) {
        struct blame b = {.v = v, .bad = &bad};
        struct walk w = {.v = v, .visit = look_for_bad, .visit_bad = bad_node, .user = &b};

        r = walk_tree(&w, &p->disks[i].root, chunks_of(p->disks[i].size_bytes), e);
        if (r == 0 && b.uses) {
            char name[VAULT_HASH_TEXT_SIZE];

            r = err_set(e, ERR_CORRUPT, "recovery point %s, disk %s uses a chunk that is damaged in the vault: chunk %s, at byte %llu of the disk: take "
                        "another point, or let the source send it again", point, p->disks[i].id, vault_hash_text(&b.hash, name),
                        (unsigned long long)(b.first_chunk * VAULT_CHUNK_BYTES));
        }
    }
    hash_set_release(&bad);
    return r;
}

static int add_place(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct vault_stat *s = user;
    struct chunk_place place;

    (void)key;
    (void)e;
    if (value.mv_size != sizeof place)
        return 0;
    memcpy(&place, value.mv_data, sizeof place);
    s->chunk_count += place.kind == RECORD_CHUNK;
    s->raw_bytes += place.kind == RECORD_CHUNK ? place.raw_size : 0;
    return 0;
}

static int add_segment(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct vault_stat *s = user;
    struct segment_row row;

    (void)key;
    (void)e;
    if (value.mv_size != sizeof row)
        return 0;
    memcpy(&row, value.mv_data, sizeof row);
    if (row.flags & SEGMENT_DOOMED)
        return 0;
    s->segment_count++;
    s->stored_bytes += row.committed;
    s->plain_bytes += row.key ? 0 : row.committed;
    return 0;
}

int vault_stat_now(struct vault *v, struct vault_stat *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct vault_stat s = {.chunk_count = out->chunk_count, .raw_bytes = out->raw_bytes};
    struct statvfs st;
    uint64_t free_bytes;

    if (statvfs(v->segment_dir, &st) < 0)
        return err_set(e, ERR_IO, "can't ask for the free space of %s", v->segment_dir);
    free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    s.total_bytes = (uint64_t)st.f_blocks * st.f_frsize;
    s.free_bytes = free_bytes > v->options.guard_bytes ? free_bytes - v->options.guard_bytes : 0;
    if (index_begin(&v->index, false, &txn, e) < 0 || index_each(&v->index, txn, INDEX_SEGMENT, index_val("", 0), add_segment, &s, e) < 0 ||
        index_count(&v->index, txn, INDEX_POINT, &s.point_count, e) < 0 ||
        index_count(&v->index, txn, INDEX_DISK, &s.disk_count, e) < 0 || index_count(&v->index, txn, INDEX_BAD, &s.bad_count, e) < 0)
        return -1;
    s.data_keys = seal_newest(v->seal);
    s.names_hidden = seal_hides(v->seal);
    s.work_memory_bytes = v->options.work_memory_bytes;
    index_abort(&txn);
    s.has_bucket = v->bucket_place != NULL;
    if (s.has_bucket)
        snprintf(s.bucket, sizeof s.bucket, "%s", v->bucket_text);
    if (v->bucket)
        bucket_stat(v->bucket, &s);
    *out = s;
    return 0;
}

int vault_stat(struct vault *v, struct vault_stat *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct vault_stat s = {0};

    if (index_begin(&v->index, false, &txn, e) < 0 || index_each(&v->index, txn, INDEX_CHUNK, index_val("", 0), add_place, &s, e) < 0)
        return -1;
    index_abort(&txn);
    if (vault_stat_now(v, &s, e) < 0)
        return -1;
    *out = s;
    return 0;
}

static json_t *bucket_json(const struct vault_stat *s)
{
    json_t *j;

    if (!s->has_bucket)
        return json_null();
    j = json_pack("{s:s, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "at", s->bucket, "open", s->bucket_open, "pins_wait", s->bucket_pins_wait, "uploaded_segments", (json_int_t)s->bucket_kept_count,
                  "uploaded_bytes", (json_int_t)s->bucket_kept_bytes, "waiting_segments", (json_int_t)s->bucket_waiting_count, "waiting_bytes",
                  (json_int_t)s->bucket_waiting_bytes, "refused_segments", (json_int_t)s->bucket_refused_count, "to_remove_segments", (json_int_t)s->bucket_doomed_count);
    MUST(j);
    json_object_set_new(j, "error", s->bucket_error_kind ? json_pack("{s:s, s:s}", "kind", err_meaning(s->bucket_error_kind)->name, "message", s->bucket_error) : json_null());
    json_set_time(j, "error_at", s->bucket_error_us);
    return j;
}

json_t *vault_stat_json(const struct vault_stat *s)
{
    const struct {
        const char *name;
        uint64_t value;
    } members[] = {{"chunks", s->chunk_count}, {"chunks_damaged", s->bad_count}, {"segments", s->segment_count}, {"points", s->point_count},
                   {"disks", s->disk_count}, {"raw_bytes", s->raw_bytes}, {"stored_bytes", s->stored_bytes}, {"free_bytes", s->free_bytes},
                   {"total_bytes", s->total_bytes}, {"data_keys", s->data_keys}, {"plain_bytes", s->plain_bytes},
                   {"work_memory_bytes", s->work_memory_bytes}};
    json_t *j = json_object();

    json_object_set_new(j, "encrypted", json_boolean(s->data_keys));
    json_object_set_new(j, "names_hidden", json_boolean(s->names_hidden));
    json_object_set_new(j, "bucket", bucket_json(s));

    for (size_t i = 0; i < ARRAY_COUNT(members); i++)
        json_object_set_new(j, members[i].name, json_integer((json_int_t)members[i].value));
    return j;
}
