/* scrub: every record that the index knows is read and checked, in the order in which they lie, by one thread or some. */
#include "vault/check.h"
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

#define THREADS_MOST 16
#define TURN_RECORDS 16 /* that a thread takes at a time */

struct scrubbed {
    struct vault_hash hash;
    uint32_t segment, offset;
};

struct scrub {
    struct vault *v;
    struct scrubbed *records; /* segment by segment: each is brought from the bucket once */
    size_t count, held;
    pthread_mutex_t lock; /* over all below; the vault's locks are taken under none of ours */
    size_t next;          /* the first record that nobody has taken */
    struct vault_report *report;
    struct hash_set bad;
    struct err e; /* why it ends early */
};

static int collect_hash(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct scrub *s = user;
    struct chunk_place place;

    (void)e;
    if (key.mv_size != VAULT_HASH_SIZE || value.mv_size != sizeof place)
        return 0;
    if (s->count == s->held) {
        s->held = s->held ? s->held * 2 : 1024;
        s->records = xrealloc(s->records, s->held * sizeof *s->records);
    }
    memcpy(&place, value.mv_data, sizeof place);
    s->records[s->count] = (struct scrubbed){.segment = place.segment, .offset = place.offset};
    memcpy(&s->records[s->count++].hash, key.mv_data, VAULT_HASH_SIZE);
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct scrubbed *x = a, *y = b;

    if (x->segment != y->segment)
        return x->segment < y->segment ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int collect(struct scrub *s, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    if (vault_sync(s->v, e) < 0 || index_begin(&s->v->index, false, &txn, e) < 0 || index_each(&s->v->index, txn, INDEX_CHUNK, index_val("", 0), collect_hash, s, e) < 0)
        return -1;
    if (s->count)
        qsort(s->records, s->count, sizeof *s->records, by_place);
    return 0;
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
    from = s->e.kind ? s->count : s->next;
    to = s->count - from < TURN_RECORDS ? s->count : from + TURN_RECORDS;
    s->next = to;
    pthread_mutex_unlock(&s->lock);
    for (size_t i = from; i < to && !e.kind; i++)
        (void)scrub_record(s, &s->records[i].hash, &bytes, &e);
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
static void take_turns_and_tell(struct scrub *s, vault_progress *progress, void *user)
{
    do {
        uint64_t looked_at;

        pthread_mutex_lock(&s->lock);
        looked_at = s->report->looked_at;
        pthread_mutex_unlock(&s->lock);
        if (progress && progress(looked_at, s->count, user)) {
            pthread_mutex_lock(&s->lock);
            if (!s->e.kind)
                err_set(&s->e, ERR_CANCELLED, "stopped");
            pthread_mutex_unlock(&s->lock);
        }
    } while (take_turn(s));
}

int vault_scrub(struct vault *v, vault_progress *progress, void *user, struct vault_report *out, struct err *e)
{
    struct scrub s = {.v = v, .report = out, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[THREADS_MOST];
    int thread_count = 0, r;

    vault_report_release(out);
    r = collect(&s, e);
    while (r == 0 && thread_count + 1 < v->options.scrub_threads && thread_count < THREADS_MOST && pthread_create(&threads[thread_count], NULL, take_turns, &s) == 0)
        thread_count++; /* with fewer it takes longer */
    if (r == 0)
        take_turns_and_tell(&s, progress, user);
    for (int i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    if (r == 0 && s.e.kind) {
        *e = s.e;
        r = -1;
    }
    if (r == 0 && out->finding_count)
        r = blame_points(v, &s.bad, out, e);
    free(s.records);
    hash_set_release(&s.bad);
    pthread_mutex_destroy(&s.lock);
    return r;
}
