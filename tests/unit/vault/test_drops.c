/* Points that are dropped: all of them or none, and never half: what is there stays when the index is made anew, and what is gone stays gone. */
#include "base/bytes.h"
#include "small.h"

#include <errno.h>

#define CHUNKS 64
#define SEED 1000

static struct vault_point first, second;
static int commits_fail; /* so many of those of the index that come */
static bool listed_locked;
static const struct vault_point *goes; /* dropped when a collection marks */
static const struct vault_point *went; /* dropped, and its space given back, when that table is walked over next */
static enum index_table goes_at;

int __real_mdb_txn_commit(MDB_txn *txn);
int __wrap_mdb_txn_commit(MDB_txn *txn);
int __wrap_mdb_txn_commit(MDB_txn *txn)
{
    if (commits_fail == 0)
        return __real_mdb_txn_commit(txn);
    commits_fail--;
    mdb_txn_abort(txn);
    return ENOSPC;
}

int __real_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e);
int __wrap_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e);
int __wrap_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e)
{
    if (t == INDEX_ORDER) {
        listed_locked = pthread_mutex_trylock(&v->commit_lock) != 0;
        if (!listed_locked)
            pthread_mutex_unlock(&v->commit_lock);
    }
    if (t == INDEX_GRAVE && goes) {
        const struct vault_point *p = goes;

        goes = NULL;
        MUST(vault_point_drop(v, p->id, NULL) == 0 && current_seal(v, NULL) == 0); /* its grave lies in a segment of its own */
    }
    if (t == goes_at && went) {
        const struct vault_point *p = went;

        went = NULL;
        MUST(vault_point_drop(v, p->id, NULL) == 0 && vault_compact(v, 100, false, NULL, NULL) == 0);
    }
    return __real_index_each(x, txn, t, prefix, visit, user, e);
}

static void begin_with_points(void)
{
    begin(CHUNKS, 1, SEED);
    first = point();
    MUST(put(1, 7) == 1);
    second = point();
}

static void rebuild(void)
{
    struct err e = {0};

    vault_close(&v);
    ok(vault_rebuild(dir, &options, &e) == 0, "the index is made anew %s", e.message);
    open_it(CHUNKS);
}

static int is_there(const struct vault_point *p) { return vault_point_get(v, p->id, &(struct vault_point){0}, NULL); }

static void one_is_not_there(void)
{
    char ids[2][VAULT_POINT_ID_SIZE] = {{0}, "gone-meanwhile"};
    struct err e = {0};

    begin_with_points();
    memcpy(ids[0], first.id, sizeof ids[0]);
    is_int(points_drop(v, ids, 2, &e), -1, "two points, of which one is not there: %s", e.message);
    ok(is_there(&first) == 1 && vault_point_pin(v, first.id, "kept", &e) == 0, "the other one stays");
    rebuild();
    is_int(is_there(&first), 1, "when the index is made anew, too");
    end();
}

/* The index's disk is full: the graves are there, and become durable with whatever is written next. */
static void index_full(bool server)
{
    struct err e = {0};

    begin_with_points();
    commits_fail = 1;
    is_int(server ? vault_server_drop(v, SERVER, &e) : vault_point_drop(v, first.id, &e), -1, "the index can't be written: %s", e.message);
    is_int(e.kind, ERR_NO_SPACE, "which is said");
    is_int(vault_point_pin(v, first.id, "kept", NULL), -1, "a point that has its grave is pinned no more");
    is_int(vault_sync(v, NULL), 0, "what is written next");
    ok(is_there(&first) == 0 && is_there(&second) == !server, "takes it away");
    is_int(vault_point_drop(v, first.id, NULL), -1, "and it is not there to be dropped again");
    rebuild();
    ok(is_there(&first) == 0 && is_there(&second) == !server, "nor when the index is made anew");
    end();
}

static void dropped_again(void)
{
    struct err e = {0};

    begin_with_points();
    commits_fail = 1;
    is_int(vault_point_drop(v, first.id, NULL), -1, "a drop that failed");
    is_int(vault_point_drop(v, second.id, &e), 0, "the next one is not held up by it %s", e.message);
    ok(is_there(&first) == 0 && is_there(&second) == 0, "and ends it");
    end();
}

/* A point is dropped, and its space given back, while everything is looked at: what is gone with it is no damage, and nothing is remembered as damaged. */
static int drop_it(uint64_t done, uint64_t total, void *user)
{
    (void)done;
    (void)total;
    (void)user;
    if (went)
        MUST(vault_point_drop(v, went->id, NULL) == 0 && vault_compact(v, 100, false, NULL, NULL) == 0);
    went = NULL;
    return 0;
}

static int drop_all_of_it(uint64_t done, uint64_t total, void *user)
{
    (void)done;
    (void)total;
    (void)user;
    MUST(vault_server_drop(v, SERVER, NULL) == 0 && vault_compact(v, 100, false, NULL, NULL) == 0);
    return 0;
}

static void no_damage(int result, const struct vault_report *report, const struct err *e)
{
    ok(result == 0 && report->finding_count == 0, "finds nothing: %s", result < 0 ? e->message : report->finding_count ? report->findings[0].text : "so it is");
    is_int(rows(INDEX_BAD), 0, "and remembers nothing");
}

static void looked_at_meanwhile(void)
{
    static const enum index_table walked[] = {INDEX_CHUNK, INDEX_POINT};
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(walked); i++) {
        begin_with_points();
        goes_at = walked[i];
        went = &first;
        no_damage(vault_check(v, &report, &e), &report, &e);
        ok(!went && is_there(&first) == 0, "a check, beside a point that goes");
        end();
    }
    begin_with_points();
    goes_at = INDEX_TABLES;
    went = &first;
    no_damage(vault_scrub(v, drop_it, NULL, &report, &e), &report, &e);
    ok(!went && is_there(&first) == 0, "a scrub");
    end();
    begin_with_points();
    is_int(vault_verify_point(v, first.id, drop_all_of_it, NULL, &report, &e), -1, "a point that goes is not verified: %s", e.message);
    is_int(e.kind, ERR_NOT_FOUND, "which is no damage");
    is_int(rows(INDEX_BAD), 0, "and remembers nothing");
    end();
}

/* A group's document lies among what lives still, and names a point that is gone with its segment: an index that is made anew meets it. */
static void group_of_what_is_gone(void)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
    struct vault_point p = {0};

    begin(CHUNKS, 1, SEED);
    vault_group_begin(v, "shop", 0, g);
    MUST(vault_point_stage(v, g, SERVER, "crash", 0, NULL, &p, NULL) == 0);
    seal_current();
    memcpy(g->points[g->count++].id, p.id, sizeof p.id);
    MUST(vault_group_commit(v, g, NULL) == 0);
    for (uint64_t i = 0; i < CHUNKS; i++)
        MUST(put(i, 5000 + i) == 1);
    second = point();
    MUST(vault_point_drop(v, p.id, NULL) == 0 && vault_gc(v, NULL, NULL) == 0);
    rebuild();
    ok(is_there(&p) == 0 && is_there(&second) == 1, "the one is gone, the other there");
    is_int(rows(INDEX_BAD), 0, "and nothing counts as damaged");
    end();
}

static void server_listed(void)
{
    struct err e = {0};

    begin_with_points();
    listed_locked = false;
    is_int(vault_server_drop(v, SERVER, &e), 0, "a server goes: %s", e.message);
    ok(listed_locked, "no point came after its points were listed");
    ok(is_there(&first) == 0 && is_there(&second) == 0, "all of them went");
    end();
}

/* ---- and collections ---- */

static void compact(void)
{
    struct err e = {0};

    ok(vault_compact(v, 100, false, NULL, &e) == 0, "all is copied elsewhere %s", e.message);
}

static uint32_t segment_of(const struct vault_point *p)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct chunk_place place = {0};
    struct vault_hash record;
    MDB_val text;

    MUST(index_begin(&v->index, false, &txn, NULL) == 0 && index_get(&v->index, txn, INDEX_POINT, index_val(p->id, strlen(p->id)), &text, NULL) == 1);
    vault_hash_of(text.mv_data, text.mv_size, &record);
    pthread_mutex_lock(&v->append_lock);
    MUST(place_find(v, &record, &place, NULL) == 1);
    pthread_mutex_unlock(&v->append_lock);
    return place.segment;
}

/* Its document was in use when the collection began, and is in a segment that it copies out. */
static void dropped_meanwhile(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct err e = {0};

    begin_with_points();
    seal_current();
    goes = &first;
    compact();
    is_int(is_there(&first), 0, "a point is dropped while space is given back");
    is_int(rows(INDEX_GRAVE), 1, "it has its grave");
    seal_current();
    is_int(vault_gc(v, NULL, &e), 0, "space is given back again %s", e.message);
    is_int(rows(INDEX_GRAVE), 0, "which goes when nothing is left to be covered");
    ok(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0, "scrub finds nothing");
    rebuild();
    is_int(is_there(&first), 0, "and then it does not come back when the index is made anew");
    is_int(is_there(&second), 1, "the other one does");
    end();
}

/* The segment that its document was copied out of before it was dropped lies in the bucket still. */
static void copy_in_the_bucket(void)
{
    uint8_t key[4];
    uint32_t old;

    begin_with_points();
    seal_current();
    old = segment_of(&first);
    MUST(row_flag(v, old, SEGMENT_SENT, NULL) == 1);
    compact();
    ok(segment_of(&first) != old, "a point's document was moved");
    is_int(vault_point_drop(v, first.id, NULL), 0, "and the point dropped");
    for (int i = 0; i < 3; i++)
        compact();
    is_int(rows(INDEX_GRAVE), 1, "it has its grave for as long as the old one may come back from the bucket");
    {
        CLEANUP(index_abort) MDB_txn *txn = NULL;

        put_be32(key, old);
        MUST(index_begin(&v->index, true, &txn, NULL) == 0 && index_del(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), NULL) == 0 && index_commit(&txn, NULL) == 0);
    }
    compact();
    is_int(rows(INDEX_GRAVE), 0, "and no longer");
    end();
}

/* A record that can't be read keeps its segment. */
static void segment_that_stays(void)
{
    uint32_t before;

    begin_with_points();
    seal_current();
    before = segment_of(&first);
    vault_close(&v);
    damage(RECORD_CHUNK, 0, 1000);
    open_it(CHUNKS);
    compact();
    is_int(segment_of(&first), before, "no point's document is copied out of it");
    end();
}

int main(void)
{
    dropped_meanwhile();
    copy_in_the_bucket();
    segment_that_stays();
    one_is_not_there();
    index_full(false);
    index_full(true);
    dropped_again();
    server_listed();
    looked_at_meanwhile();
    group_of_what_is_gone();
    return tap_done();
}
