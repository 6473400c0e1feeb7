/* recover: what opening does about segments that the index does not know to their end: records that were whole are taken in, a torn tail
 * is cut off. With an empty index the same code takes in every segment: that is a rebuild. */
#include "vault/recover.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In the index's META from its beginning until all segments, and the points in them, are in it. */
static const char unfinished[] = "unfinished";

static void recovery_release(struct recovery *r)
{
    for (size_t i = 0; i < r->note_count; i++)
        free(r->notes[i].bytes);
    free(r->notes);
    free(r->ids);
    free(r->there);
    json_free(&r->pins);
    hash_seen_release(&r->whole);
}

int by_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static int list_segments(struct recovery *r, struct err *e)
{
    DIR *dir = opendir(r->v->segment_dir);
    struct dirent *entry;

    if (!dir)
        return err_errno(e, errno, "can't list %s", r->v->segment_dir);
    while ((entry = readdir(dir))) {
        uint32_t id = segment_id_of_name(entry->d_name);

        if (!id)
            continue;
        r->ids = xrealloc(r->ids, (r->id_count + 1) * sizeof *r->ids);
        r->ids[r->id_count++] = id;
    }
    closedir(dir);
    if (r->id_count)
        qsort(r->ids, r->id_count, sizeof *r->ids, by_id);
    return 0;
}

/* Number of NNNNNNNNNN.maps, else 0. */
static uint32_t id_of_maps(const char *name)
{
    char segment[16];

    if (strlen(name) != 15 || strcmp(name + 10, ".maps") != 0)
        return 0;
    snprintf(segment, sizeof segment, "%.10s.seg", name);
    return segment_id_of_name(segment);
}

/* What has its maps here alone lies in the bucket: a list without it is of another place, or is not whole. Numbers would be used again that are taken there. */
static int check_list(const struct recovery *r, struct err *e)
{
    DIR *dir = opendir(r->v->segment_dir);
    struct dirent *entry;
    uint32_t lacking = 0;

    if (!dir)
        return err_errno(e, errno, "can't list %s", r->v->segment_dir);
    while (!lacking && (entry = readdir(dir))) {
        uint32_t id = id_of_maps(entry->d_name);

        lacking = id && !(r->id_count && bsearch(&id, r->ids, r->id_count, sizeof *r->ids, by_id)) ? id : 0;
    }
    closedir(dir);
    return !lacking ? 0 : err_set(e, ERR_WRONG_STATE, "the index is to be made anew, and the %s does not list segment %u, which lies in a bucket, as its maps here say: is it the bucket and prefix of this vault? "
                                  "Where that segment is lost for good, move %s/%010u.maps away", r->v->bucket_text, lacking, r->v->segment_dir, lacking);
}

/* The index is made anew: what lies in the bucket belongs to it, too. */
static int list_bucket(struct recovery *r, struct err *e)
{
    struct vault *v = r->v;
    size_t here_count = r->id_count;

    if (!v->bucket_place)
        return 0;
    if (!v->bucket)
        return err_set(e, ERR_INVALID, "the index is to be made anew, and segments lie in %s: open the vault with its bucket (--s3-…)", v->bucket_text);
    if (bucket_list(v->bucket, &r->there, &r->there_count, e) < 0)
        return err_wrap(e, "the index is to be made anew");
    if (r->there_count)
        qsort(r->there, r->there_count, sizeof *r->there, by_id);
    for (size_t i = 0; i < r->there_count; i++) {
        if (here_count && bsearch(&r->there[i], r->ids, here_count, sizeof *r->ids, by_id))
            continue;
        r->ids = xrealloc(r->ids, (r->id_count + 1) * sizeof *r->ids);
        r->ids[r->id_count++] = r->there[i];
    }
    if (r->id_count)
        qsort(r->ids, r->id_count, sizeof *r->ids, by_id);
    return check_list(r, e);
}

/* ---- points and graves ---- */

static bool buried(const struct recovery *r, const struct vault_hash *record, const char *id)
{
    uint8_t payload[VAULT_HASH_SIZE + VAULT_POINT_ID_SIZE];
    struct chunk_place place;
    struct vault_hash grave;
    size_t size;

    grave = grave_hash(record, id, payload, &size);
    return place_find(r->v, &grave, &place, NULL) == 1;
}

static int check_place(const struct vault_hash *hash, int level, uint64_t first_chunk, void *user, struct err *e)
{
    struct recovery *r = user;
    struct vault *v = r->v;
    struct chunk_place place;
    struct record_pages pages;
    int found;

    (void)first_chunk;
    if (level >= 0 && !hash_seen_add(&r->whole, hash))
        return 0;
    found = place_find(v, hash, &place, e);
    if (found == 1 && level < 0 && pages_find(v, hash, &pages, e) == 1)
        found = pages_are_there(v, &pages, true, e);
    if (found == 0)
        return err_set(e, ERR_CORRUPT, "a record is missing");
    return found < 0 ? -1 : level >= 0;
}

static bool point_is_whole(struct recovery *r, const struct vault_point *p)
{
    struct walk w = {.v = r->v, .visit = check_place, .user = r, .perhaps = true};

    for (size_t i = 0; i < p->disk_count; i++)
        if (walk_tree(&w, &p->disks[i].root, chunks_of(p->disks[i].size_bytes), NULL) < 0) {
            hash_seen_forget(&r->whole); /* those on the way to what is missing, too, were taken for whole */
            return false;
        }
    return true;
}

/* Where nobody knows whether it was acknowledged, it was. */
static void tell_lost(struct recovery *r, const struct vault_point *p)
{
    if (r->fresh)
        report_add(&r->v->anew.damage, ERR_CORRUPT, "recovery point %s of %s is left out: records that it needs are missing", p->id, p->server);
}

/* Also of a document that does not count: its number is used. */
static void raise_sequence(struct vault *v, uint64_t sequence)
{
    if (sequence >= v->next_point)
        v->next_point = sequence + 1;
}

static void note_sequence(struct vault *v, const struct note *n)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    CLEANUP(free_ptr) char *text = xcalloc(1, n->size + 1);
    uint64_t sequence;

    memcpy(text, n->bytes, n->size);
    if (point_parse(text, n->size, p, &sequence, NULL) == 0)
        raise_sequence(v, sequence);
}

static int take_point(struct recovery *r, const struct note *n, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);
    CLEANUP(free_ptr) char *text = xcalloc(1, n->size + 1);
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    uint64_t sequence;

    memcpy(text, n->bytes, n->size);
    /* One of a group comes with the group's own document, or never; but a copy was of a whole group where it was committed. */
    if (point_parse(text, n->size, p, &sequence, NULL) < 0 || (p->group[0] && !p->copied) || buried(r, &n->hash, p->id))
        return 0;
    if (!point_is_whole(r, p)) {
        tell_lost(r, p);
        return 0;
    }
    if (index_begin(&r->v->index, true, &txn, e) < 0 || point_insert(r->v, txn, p, sequence, text, e) < 0)
        return -1;
    return index_commit(&txn, e);
}

/* The document of a group's point where that counts: the caller frees; else NULL. Reading may write to the index: no transaction is open. */
static char *find_member(struct recovery *r, const struct vault_group *g, size_t i, struct vault_point *p, uint64_t *sequence)
{
    CLEANUP(free_ptr) uint8_t *bytes = NULL;
    CLEANUP(free_ptr) char *text = NULL;
    char *found = NULL;
    size_t size;

    if (record_get_any(r->v, &g->points[i].document, &bytes, &size, NULL) < 0)
        return NULL; /* dropped, and its space given back */
    text = xcalloc(1, size + 1);
    memcpy(text, bytes, size);
    if (point_parse(text, size, p, sequence, NULL) < 0)
        return NULL;
    raise_sequence(r->v, *sequence);
    if (strcmp(p->group, g->id) != 0 || buried(r, &g->points[i].document, p->id))
        return NULL;
    if (!point_is_whole(r, p)) {
        tell_lost(r, p);
        return NULL;
    }
    found = text;
    text = NULL;
    return found;
}

struct members {
    struct vault_point points[VAULT_GROUP_MOST];
    uint64_t sequences[VAULT_GROUP_MOST];
    char *texts[VAULT_GROUP_MOST];
    size_t count;
};

static void members_free(struct members **m)
{
    for (size_t i = 0; i < (*m)->count; i++)
        free((*m)->texts[i]);
    free_ptr(m);
}

/* A copy of one of the group's points was taken in before: the group's document came with it, and is in no other way bound to it. */
static int has_copies(struct recovery *r, const struct vault_group *g, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *p = xcalloc(1, sizeof *p);

    for (size_t i = 0; i < g->count; i++) {
        int found = vault_point_get(r->v, g->points[i].id, p, e);

        if (found)
            return found < 0 ? -1 : p->copied;
    }
    return 0;
}

/* The group's document was appended after all that it names was durable: all of its points count, but those that were dropped since. */
static int take_group(struct recovery *r, const struct note *n, struct err *e)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
    CLEANUP(free_ptr) char *text = xcalloc(1, n->size + 1);
    CLEANUP(members_free) struct members *m = xcalloc(1, sizeof *m);
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    memcpy(text, n->bytes, n->size);
    if (group_parse(text, n->size, g, NULL) < 0)
        return 0;
    for (size_t i = 0; i < g->count; i++) {
        m->texts[m->count] = find_member(r, g, i, &m->points[m->count], &m->sequences[m->count]);
        m->count += m->texts[m->count] != NULL;
    }
    if (m->count == 0) {
        int copies = has_copies(r, g, e);

        if (copies <= 0)
            return copies;
    }
    if (index_begin(&r->v->index, true, &txn, e) < 0 || group_insert(r->v, txn, g, text, e) < 0)
        return -1;
    for (size_t i = 0; i < m->count; i++)
        if (point_insert(r->v, txn, &m->points[i], m->sequences[i], m->texts[i], e) < 0)
            return -1;
    return index_commit(&txn, e);
}

/* What goes with the flush that makes the documents known. Were graves known first, and the power gone then, points would be there that a rebuild buries; were points, their
 * numbers would be used again. */
static void foresee(struct recovery *r)
{
    for (size_t i = 0; i < r->note_count; i++) {
        const struct note *n = &r->notes[i];
        struct drop d = {.grave = n->hash};

        if (n->kind == RECORD_GRAVE && grave_parse(n->bytes, n->size, &d.record, d.id, NULL) == 0)
            drop_begin(r->v, &d);
        if (n->kind == RECORD_POINT)
            note_sequence(r->v, n);
    }
}

static int take_notes(struct recovery *r, struct err *e)
{
    uint64_t count;

    if (r->note_count && records_count(r->v, &count, e) < 0)
        return -1;
    if (r->note_count)
        hash_seen_make(&r->whole, r->v->options.work_memory_bytes, count / TREE_FANOUT + 1024);
    for (size_t i = 0; i < r->note_count; i++) {
        const struct note *n = &r->notes[i];

        if (n->kind != RECORD_GRAVE && (n->kind == RECORD_GROUP ? take_group(r, n, e) : take_point(r, n, e)) < 0)
            return -1;
    }
    return 0;
}

/* ---- the whole ---- */

/* Begins an index, or begins again one that was not made to its end: it knows segments, and not the points in them. */
static int begin_index(struct vault *v, MDB_txn *txn, struct err *e)
{
    for (int t = 0; t < INDEX_TABLES; t++) {
        int code = mdb_drop(txn, v->index.table[t], 0);

        if (code)
            return index_fail(e, code, "begin it again");
    }
    return index_put(&v->index, txn, INDEX_META, index_val("vault_id", 8), index_val(v->id, VAULT_ID_SIZE), e) < 0
               ? -1 : index_put(&v->index, txn, INDEX_META, index_val(unfinished, sizeof unfinished - 1), index_val("", 0), e);
}

static int finish_index(struct vault *v, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    return index_begin(&v->index, true, &txn, e) < 0 ||
                   index_del(&v->index, txn, INDEX_META, index_val(unfinished, sizeof unfinished - 1), e) < 0 || next_point_put(v, txn, e) < 0
               ? -1 : index_commit(&txn, e);
}

static int claim_index(struct vault *v, bool *fresh, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    MDB_val value;
    uint64_t next;
    int found, half;

    if (index_begin(&v->index, true, &txn, e) < 0)
        return -1;
    found = index_get(&v->index, txn, INDEX_META, index_val("vault_id", 8), &value, e);
    if (found < 0)
        return -1;
    if (found == 1 && (value.mv_size != VAULT_ID_SIZE || memcmp(value.mv_data, v->id, VAULT_ID_SIZE) != 0))
        return err_set(e, ERR_CORRUPT, "the index belongs to another vault: move the folder index/ away and start again");
    half = index_get(&v->index, txn, INDEX_META, index_val(unfinished, sizeof unfinished - 1), &value, e);
    *fresh = found == 0 || half == 1;
    if (half < 0 || (*fresh && begin_index(v, txn, e) < 0))
        return -1;
    if (index_get(&v->index, txn, INDEX_META, index_val("next_segment", 12), &value, NULL) == 1 && value.mv_size == sizeof next) {
        memcpy(&next, value.mv_data, sizeof next);
        v->next_segment = (uint32_t)next;
    }
    if (index_get(&v->index, txn, INDEX_META, index_val("next_point", 10), &value, NULL) == 1 && value.mv_size == sizeof next)
        memcpy(&v->next_point_known, value.mv_data, sizeof next);
    v->next_point = v->next_point_known > v->next_point ? v->next_point_known : v->next_point;
    return index_commit(&txn, e);
}

/* An index that is whole has all pins: a file that can't be read is written anew. Without an index nobody knows them. */
static int read_pins(struct recovery *r, struct err *e)
{
    CLEANUP(free_ptr) char *path = pins_path(r->v);
    struct err why = {0};
    bool elsewhere = r->fresh && r->v->bucket && !file_exists(path);

    if ((!elsewhere || bucket_pins_take(r->v->bucket, &why) >= 0) && pins_read(r->v, &r->pins, &why) >= 0)
        return 0;
    if (!r->fresh)
        return why.kind == ERR_UNSUPPORTED ? err_set(e, why.kind, "%s", why.message) : 0;
    return err_set(e, why.kind, "the index is to be made anew, and which recovery points are to be kept for somebody is not known: %.700s: put a copy of %s there; without that file "
                   "(moved away, the bucket's as well) none is pinned, and retention drops what it would have dropped", why.message, path);
}

/* What was made anew, in numbers. */
static int count_all(struct recovery *r, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct vault_anew *a = &r->v->anew;

    a->index = r->id_count || r->pins; /* else it is a new vault */
    a->segment_count = r->id_count;
    a->waiting_pin_count = json_array_size(r->v->pins_waiting);
    return index_begin(&r->v->index, false, &txn, e) < 0 || index_count(&r->v->index, txn, INDEX_POINT, &a->point_count, e) < 0
               ? -1 : index_count(&r->v->index, txn, INDEX_PIN, &a->pin_count, e);
}

int segments_recover(struct vault *v, struct err *e)
{
    CLEANUP(recovery_release) struct recovery r = {.v = v};

    v->next_segment = 1;
    v->next_point = 1;
    if (claim_index(v, &r.fresh, e) < 0 || read_pins(&r, e) < 0 || list_segments(&r, e) < 0 || (r.fresh && list_bucket(&r, e) < 0))
        return -1;
    if (r.id_count && r.ids[r.id_count - 1] >= v->next_segment)
        v->next_segment = r.ids[r.id_count - 1] + 1;
    for (size_t i = 0; i < r.id_count; i++) {
        r.id = r.ids[i];
        if (recover_anywhere(&r, i + 1 == r.id_count, e) < 0)
            return -1;
    }
    foresee(&r);
    if (vault_flush(v, NULL, NULL, e) < 0 || take_notes(&r, e) < 0 || pins_settle(v, r.pins, r.fresh, e) < 0 || (r.fresh && count_all(&r, e) < 0))
        return -1;
    return finish_index(v, e);
}

int vault_rebuild(const char *dir, const struct vault_options *options, struct err *e)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "data.mdb.new", "data.mdb.new-lock"};
    CLEANUP(free_ptr) char *index = xasprintf("%s/index", dir), *aside = xasprintf("%s/index.before", dir);
    CLEANUP(vault_close) struct vault *v = NULL;

    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", aside, files[i]);

        if (unlink(path) < 0 && errno != ENOENT)
            return err_errno(e, errno, "can't remove %s", path);
    }
    if (rmdir(aside) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't remove %s", aside);
    if (rename(index, aside) < 0 && errno != ENOENT)
        return err_errno(e, errno, "can't move %s away", index);
    return vault_open(dir, options, &v, e);
}
