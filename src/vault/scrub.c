/* scrub: every record that the index knows is read and checked, in the order in which they lie, by one thread or some. Segments are taken in groups of which all
 * records have room in memory; the index is gone through once for each group, and once before for how many there are of each segment. */
#include "vault/check.h"
#include "vault/places.h"

#include <stdlib.h>
#include <string.h>

#define THREADS_MOST 16
#define TURN_RECORDS 16 /* that a thread takes at a time */

struct scrub {
    struct vault *v;
    uint32_t *counts;         /* of records, by segment id */
    uint32_t limit, from, to; /* of segment ids; the group's, without to */
    uint64_t total;
    struct places records; /* the group's */
    vault_progress *progress;
    void *user;
    pthread_mutex_t lock; /* over all below; the vault's locks are taken under none of ours */
    size_t next;          /* the first record that nobody has taken */
    struct vault_report *report;
    struct hash_set bad;
    struct err e; /* why it ends early */
};

/* What lies beyond the last segment (it is new; or the row is damaged, and reading it tells) counts as one more. */
static uint32_t group_key(const struct scrub *s, const struct chunk_place *place) { return place->segment < s->limit ? place->segment : s->limit; }

static int count_record(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct scrub *s = user;
    struct chunk_place place;
    struct vault_hash hash;

    (void)e;
    if (chunk_row(key, value, &hash, &place)) {
        s->counts[group_key(s, &place)]++;
        s->total++;
    }
    return 0;
}

static int collect_record(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct scrub *s = user;
    struct chunk_place place;
    struct vault_hash hash;

    (void)e;
    if (chunk_row(key, value, &hash, &place) && group_key(s, &place) >= s->from && group_key(s, &place) < s->to)
        places_add(&s->records, &hash, &place);
    return 0;
}

static int each_record(struct scrub *s, index_visit *visit, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    return index_begin(&s->v->index, false, &txn, e) < 0 ? -1 : index_each(&s->v->index, txn, INDEX_CHUNK, index_val("", 0), visit, s, e);
}

/* The next segments of which all records have room in memory at once: 1; 0: there are none. The last group has what lies beyond, also where that was nothing: what
 * vault_gc has moved meanwhile lies there. */
static int next_group(struct scrub *s, struct err *e)
{
    size_t record_count = 0, most = s->v->options.work_memory_bytes / PLACED_BYTES;

    if (s->to > s->limit)
        return 0;
    for (s->from = s->to; s->to <= s->limit && (!record_count || record_count + s->counts[s->to] <= most); s->to++)
        record_count += s->counts[s->to];
    places_make(&s->records, record_count);
    s->next = 0;
    if (each_record(s, collect_record, e) < 0)
        return -1;
    places_sort(&s->records);
    return 1;
}

/* It is damaged, unless vault_gc took it away meanwhile. */
static int note_damage(struct scrub *s, const struct vault_hash *hash, const struct err *why, struct err *e)
{
    struct chunk_place place;
    int found;

    pthread_mutex_lock(&s->v->append_lock);
    found = place_find(s->v, hash, &place, e);
    pthread_mutex_unlock(&s->v->append_lock);
    if (found <= 0)
        return found;
    pthread_mutex_lock(&s->lock);
    hash_set_add(&s->bad, hash);
    report_add(s->report, why->kind, "%.500s", why->message);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int scrub_record(struct scrub *s, const struct vault_hash *hash, uint64_t *bytes, struct err *e)
{
    struct err why = {0};
    size_t size = 0;

    /* Twice: vault_gc may have moved or shrunk what it is made of. */
    if (record_check(s->v, hash, &size, &why) == 0 || (!out_of_reach(&why) && record_check(s->v, hash, &size, &why) == 0)) {
        *bytes += size;
        return 0;
    }
    return out_of_reach(&why) ? err_set(e, why.kind, "not everything could be read: %s", why.message) : note_damage(s, hash, &why, e);
}

/* Some records; false: there are none left, or it ends early. */
static bool take_turn(struct scrub *s)
{
    uint64_t bytes = 0;
    struct err e = {0};
    size_t from, to;

    pthread_mutex_lock(&s->lock);
    from = s->e.kind ? s->records.count : s->next;
    to = s->records.count - from < TURN_RECORDS ? s->records.count : from + TURN_RECORDS;
    s->next = to;
    pthread_mutex_unlock(&s->lock);
    for (size_t i = from; i < to && !e.kind; i++)
        (void)scrub_record(s, &s->records.list[i].hash, &bytes, &e);
    pthread_mutex_lock(&s->lock);
    s->report->bytes += bytes;
    s->report->looked_at += to - from;
    if (e.kind && !s->e.kind)
        s->e = e;
    pthread_mutex_unlock(&s->lock);
    return from < to;
}

static void *take_turns(void *user)
{
    while (take_turn(user))
        ;
    return NULL;
}

/* The caller's thread: it tells how far all have come, too. */
static void take_turns_and_tell(struct scrub *s)
{
    do {
        uint64_t looked_at;

        pthread_mutex_lock(&s->lock);
        looked_at = s->report->looked_at;
        pthread_mutex_unlock(&s->lock);
        if (s->progress && s->progress(looked_at, s->total > looked_at ? s->total : looked_at, s->user)) {
            pthread_mutex_lock(&s->lock);
            if (!s->e.kind)
                err_set(&s->e, ERR_CANCELLED, "stopped");
            pthread_mutex_unlock(&s->lock);
        }
    } while (take_turn(s));
}

static int scrub_group(struct scrub *s, struct err *e)
{
    pthread_t threads[THREADS_MOST];
    int thread_count = 0;

    while (thread_count + 1 < s->v->options.scrub_threads && thread_count < THREADS_MOST && pthread_create(&threads[thread_count], NULL, take_turns, s) == 0)
        thread_count++; /* with fewer it takes longer */
    take_turns_and_tell(s);
    for (int i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    if (!s->e.kind)
        return 0;
    *e = s->e;
    return -1;
}

int vault_scrub(struct vault *v, vault_progress *progress, void *user, struct vault_report *out, struct err *e)
{
    struct scrub s = {.v = v, .report = out, .progress = progress, .user = user, .lock = PTHREAD_MUTEX_INITIALIZER};
    int r = vault_sync(v, e), more = 1;

    vault_report_release(out);
    pthread_mutex_lock(&v->append_lock);
    s.limit = v->next_segment;
    pthread_mutex_unlock(&v->append_lock);
    s.counts = xcalloc((size_t)s.limit + 1, sizeof *s.counts);
    if (r == 0)
        r = edges_check(v, out, e);
    if (r == 0)
        r = each_record(&s, count_record, e);
    while (r == 0 && (more = next_group(&s, e)) == 1)
        r = scrub_group(&s, e);
    if (more < 0)
        r = -1;
    places_release(&s.records); /* their room is wanted */
    if (r == 0 && s.bad.used_count)
        r = blame_points(v, &s.bad, out, e);
    free(s.counts);
    hash_set_release(&s.bad);
    pthread_mutex_destroy(&s.lock);
    return r;
}
