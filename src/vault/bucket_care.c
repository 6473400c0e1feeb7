/* bucket_care: the bucket's thread: what is to be done there and brought here, one thing after the other, but for sending (bucket_send.c). After a failure a while of rest
 * that doubles, and then one segment alone: when that one is sent, all is well again. */
#include "base/bytes.h"
#include "base/file.h"
#include "vault/bucket_private.h"

#include <stdlib.h>
#include <string.h>

#define LOOK_EVERY_US (2 * US_PER_S)
#define READ_CACHE_BYTES (UINT64_C(1) << 30)
#define RETRY_MOST_US (60 * US_PER_S)

/* What is to be done next, and how much there is. */
struct survey {
    struct bucket *b;
    uint32_t send[BUCKET_UPLOADS_MOST]; /* the first that nobody sends */
    size_t send_count;
    uint32_t doomed;             /* the first that may go now; 0: none */
    struct segment_row doomed_row;
    uint64_t kept_count, kept_bytes, waiting_count, waiting_bytes, refused_count, doomed_count, lacking_count;
    uint32_t unsent;  /* the first of which nothing was sent; 0: none */
    uint32_t lacking; /* the first that may be tried to be brought; 0: none */
    bool look_for_lost;
};

/* Where neither file nor maps are here, it is to be brought. */
static void note_kept(struct survey *s, uint32_t id, const struct segment_row *row, bool lacking, bool rests)
{
    CLEANUP(free_ptr) char *maps = s->look_for_lost ? maps_path(s->b, id) : NULL;

    s->kept_count++;
    s->kept_bytes += row->committed;
    if (maps && !lacking && !file_exists(maps) && !segment_is_here(s->b, id)) {
        pthread_mutex_lock(&s->b->lock);
        use_of(s->b, id)->lacking = lacking = true;
        pthread_mutex_unlock(&s->b->lock);
    }
    s->lacking_count += lacking;
    s->lacking = s->lacking || !lacking || rests ? s->lacking : id;
}

static int look_at_row(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct survey *s = user;
    struct segment_row row;
    bool refused, sending, lacking, rests, stays;
    uint32_t id;

    if (segment_row_read(key, value, &id, &row, e) < 0)
        return -1;
    pthread_mutex_lock(&s->b->lock);
    rests = clock_monotonic_us() < use_of(s->b, id)->again_us;
    refused = use_of(s->b, id)->refused || rests;
    sending = use_of(s->b, id)->sending;
    lacking = use_of(s->b, id)->lacking;
    stays = sending || (use_of(s->b, id)->removed_us && clock_monotonic_us() < use_of(s->b, id)->removed_us + s->b->late_us);
    pthread_mutex_unlock(&s->b->lock);
    s->unsent = s->unsent || row.flags & SEGMENT_SENT ? s->unsent : id;
    if (row.flags & SEGMENT_DOOMED) {
        s->doomed_count++;
        if (!s->doomed && !stays) {
            s->doomed = id;
            s->doomed_row = row;
        }
        return 0;
    }
    if (row.flags & SEGMENT_KEPT)
        note_kept(s, id, &row, lacking, rests);
    if (!(row.flags & SEGMENT_SEALED) || row.flags & SEGMENT_KEPT)
        return 0;
    s->refused_count += refused;
    s->waiting_count += !refused;
    s->waiting_bytes += refused ? 0 : row.committed;
    if (!refused && !sending && s->send_count < ARRAY_COUNT(s->send))
        s->send[s->send_count++] = id;
    return 0;
}

static int survey(struct survey *s, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    const struct vault_index *x = &s->b->v->index;

    return index_begin(x, false, &txn, e) < 0 ? -1 : index_each(x, txn, INDEX_SEGMENT, index_val("", 0), look_at_row, s, e);
}

/* ---- whether another copy of this vault has been there ---- */

/* Its numbers are ours: before anything is written or removed it is looked at once whether the next one is taken, and from such a finding on as long as it is so. */
static int check_alone(struct bucket *b, const struct survey *s, struct err *e)
{
    uint32_t id;
    bool alone;
    int ours;

    pthread_mutex_lock(&b->v->append_lock);
    id = s->unsent ? s->unsent : b->v->next_segment;
    pthread_mutex_unlock(&b->v->append_lock);
    pthread_mutex_lock(&b->lock);
    id = b->foreign ? b->foreign : id;
    alone = b->alone && !b->foreign;
    pthread_mutex_unlock(&b->lock);
    if (alone)
        return 0;
    ours = bucket_look(b, b->writer, e);
    if (ours < 0 || (ours && check_unsent(b, b->writer, id, e) < 0))
        return -1;
    pthread_mutex_lock(&b->lock);
    b->alone = true;
    pthread_mutex_unlock(&b->lock);
    return 0;
}

/* ---- removing ---- */

/* A PUT of it that the client gave up may be carried out still: what it leaves would have neither row nor grave. True: it was removed for a first time, and is to be once more, later. */
static bool may_come_late(struct bucket *b, uint32_t id, const struct segment_row *row)
{
    bool late;

    pthread_mutex_lock(&b->lock);
    late = (row->flags & SEGMENT_AGAIN || !(row->flags & SEGMENT_KEPT)) && !use_of(b, id)->removed_us;
    if (late)
        use_of(b, id)->removed_us = clock_monotonic_us();
    pthread_mutex_unlock(&b->lock);
    return late;
}

static int remove_doomed(struct bucket *b, uint32_t id, const struct segment_row *doomed, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    char key[BUCKET_KEY_SIZE];
    uint8_t row[4];

    segment_key(b, id, key);
    put_be32(row, id);
    if (s3_delete(b->writer, key, e) < 0)
        return -1;
    if (may_come_late(b, id, doomed))
        return 0;
    if (index_begin(&b->v->index, true, &txn, e) < 0 || index_del(&b->v->index, txn, INDEX_SEGMENT, index_val(row, 4), e) < 0)
        return -1;
    return index_commit(&txn, e);
}

/* ---- bringing ---- */

static uint32_t take_wanted(struct bucket *b)
{
    uint32_t id = 0;

    pthread_mutex_lock(&b->lock);
    if (b->wanted_count) {
        id = b->wanted[0];
        memmove(b->wanted, b->wanted + 1, --b->wanted_count * sizeof *b->wanted);
    }
    pthread_mutex_unlock(&b->lock);
    return id;
}

static void set_lacking(struct bucket *b, uint32_t id, bool lacking, int64_t again_us, const struct err *why)
{
    pthread_mutex_lock(&b->lock);
    use_of(b, id)->lacking = lacking;
    use_of(b, id)->again_us = again_us;
    if (lacking) {
        err_clear(&b->lack);
        err_set(&b->lack, why->kind, "segment %u is not whole here, and can't be brought from the bucket %s: %.800s", id, b->name, why->message);
        b->lack_us = clock_read_us(b->v->options.clock);
    }
    pthread_mutex_unlock(&b->lock);
}

/* In the place of a damaged file, too. That there is no room for it is no trouble: it is read from the store. needed: its maps are not here either. One that is gone or damaged there is
 * noted, and rests: that is no trouble of the store's. */
static int bring(struct bucket *b, struct s3 *client, uint32_t id, bool needed, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(b->v->segment_dir, id);
    struct segment_row row;
    struct err why = {0};
    int found = segment_row_get(b->v, id, &row, e);

    if (found < 0)
        return -1;
    if (found == 0 || !(row.flags & SEGMENT_KEPT) || row.flags & SEGMENT_DOOMED || (!needed && row.committed > b->cache_bytes))
        return 0;
    if (segment_look(b->v, id, path, &row, NULL) == 0) {
        set_lacking(b, id, false, 0, NULL);
        return 0;
    }
    if (segment_bring(b, client, id, &row, true, &why) == 0 || (!needed && (why.kind == ERR_CONFLICT || why.kind == ERR_NO_SPACE)))
        return 0;
    if (tells_of_bytes(why.kind)) {
        set_lacking(b, id, true, clock_monotonic_us() + BUCKET_REST_US, &why);
        return 0;
    }
    return err_set(e, why.kind, "%s", why.message);
}

/* One of those that lack something here: 1; 0: there is none, or not now. Whatever is the matter with it holds up nothing else. */
static int bring_lacking(struct bucket *b, struct s3 *client, const struct survey *s)
{
    struct err why = {0};

    if (!s->lacking)
        return 0;
    if (bring(b, client, s->lacking, true, &why) == 0)
        return 1;
    set_lacking(b, s->lacking, true, clock_monotonic_us() + RETRY_MOST_US, &why);
    return 0;
}

/* ---- the thread ---- */

/* What the senders have time for; while there is trouble, one alone. 1: some was given. */
static int give_out(struct bucket *b, const struct survey *s, bool trouble)
{
    size_t most = !trouble ? s->send_count : senders_busy(b) || !s->send_count ? 0 : 1, given = 0;

    while (given < most && senders_give(b, s->send[given]))
        given++;
    return given > 0;
}

/* 1: something was done, and there may be more. */
static int work(struct bucket *b, struct s3 *client, struct survey *s, bool trouble, struct err *e)
{
    uint32_t wanted = take_wanted(b);
    int may, pins, given, brought = bring_lacking(b, client, s);

    if (wanted && bring(b, client, wanted, false, e) < 0)
        return -1;
    brought = brought || wanted; /* whoever reads for long holds up no sending */
    if (b->read_only)
        return brought;
    may = claim_holds(b, e);
    if (may <= 0)
        return brought; /* what the claim met is trouble, and it is tried again there */
    if ((!b->writer && client_open(b, writing_is_over, 0, &b->writer, e) < 0) || check_alone(b, s, e) < 0 || bucket_mark(b, b->writer, e) < 0)
        return -1;
    pins = bucket_pins_send(b, e);
    if (pins < 0)
        return -1;
    given = give_out(b, s, trouble);
    if (!given && s->doomed)
        return remove_doomed(b, s->doomed, &s->doomed_row, e) < 0 ? -1 : 1;
    return given || pins || brought;
}

static int turn(struct bucket *b, bool first, bool trouble, struct err *e)
{
    struct survey s = {.b = b, .look_for_lost = first};
    struct s3 *client;
    int did;

    if (survey(&s, e) < 0 || client_take(b, &client, e) < 0)
        return -1;
    did = work(b, client, &s, trouble, e);
    client_give(b, &client);
    return did;
}

static void set_trouble(struct bucket *b, const struct err *e)
{
    pthread_mutex_lock(&b->lock);
    b->trouble = *e;
    b->trouble_us = e->kind ? clock_read_us(b->v->options.clock) : 0;
    pthread_mutex_unlock(&b->lock);
}

static void rest(struct bucket *b, int64_t duration_us)
{
    int64_t until_us = clock_monotonic_us() + duration_us;
    struct timespec until = {.tv_sec = until_us / US_PER_S, .tv_nsec = until_us % US_PER_S * 1000};

    pthread_mutex_lock(&b->lock);
    while (!b->stir && !atomic_load(&b->stopping) && pthread_cond_timedwait(&b->stirred, &b->lock, &until) == 0)
        ;
    b->stir = false;
    pthread_mutex_unlock(&b->lock);
}

/* How the thread fares. */
struct faring {
    bool first, trouble; /* trouble: something failed, and nothing shows yet that it is over */
    bool alone;          /* one segment was given to be sent alone, to show it */
    int64_t pause_us, due_us;
};

static void failed(struct bucket *b, struct faring *f, const struct err *why)
{
    f->pause_us = !f->pause_us ? b->retry_us : f->pause_us * 2 < RETRY_MOST_US ? f->pause_us * 2 : RETRY_MOST_US;
    f->due_us = clock_monotonic_us() + f->pause_us;
    if (why->kind == ERR_CANCELLED)
        return;
    f->trouble = true;
    f->alone = false;
    set_trouble(b, why);
}

static void went_well(struct bucket *b, struct faring *f)
{
    f->pause_us = f->due_us = 0;
    f->trouble = f->alone = false;
    set_trouble(b, &(struct err){0});
}

/* As turn. */
static int go_on(struct bucket *b, struct faring *f)
{
    struct err e = {0};
    int sent = senders_collect(b, &e), did = 0;

    if (sent < 0) {
        failed(b, f, &e);
        return 0;
    }
    if (sent > 0 && f->alone)
        went_well(b, f);
    if (clock_monotonic_us() < f->due_us)
        return 0;
    did = turn(b, f->first, f->trouble, &e);
    f->alone = f->alone || (f->trouble && did > 0 && senders_busy(b));
    f->first = f->first && did < 0;
    if (did < 0)
        failed(b, f, &e);
    else if (e.kind) { /* the claim's: it has its own pauses */
        f->trouble = true;
        set_trouble(b, &e);
    } else if (!f->trouble || (did == 0 && !senders_busy(b)))
        went_well(b, f);
    return did;
}

static void *care(void *user)
{
    struct faring f = {.first = true};
    struct bucket *b = user;

    bucket_sweep(b);
    while (!atomic_load(&b->stopping)) {
        struct err cache = {0};
        int did = go_on(b, &f);

        if (bucket_shrink(b, &cache) < 0)
            set_trouble(b, &cache);
        if (did <= 0)
            rest(b, f.pause_us && f.pause_us < LOOK_EVERY_US ? f.pause_us : LOOK_EVERY_US);
    }
    return NULL;
}

int bucket_start(struct bucket *b, struct err *e)
{
    if (!b->cache_bytes) {
        b->cache_bytes = bucket_here_bytes(b);
        b->cache_bytes = b->cache_bytes > READ_CACHE_BYTES ? b->cache_bytes : READ_CACHE_BYTES;
    }
    if (!b->read_only && senders_start(b, b->upload_count, e) < 0)
        return -1;
    b->runs = pthread_create(&b->thread, NULL, care, b) == 0;
    return b->runs ? 0 : err_set(e, ERR_LIMIT, "can't start a thread");
}

void bucket_stat(struct bucket *b, struct vault_stat *out)
{
    const struct err *told = &b->trouble;
    struct survey s = {.b = b};

    (void)survey(&s, NULL);
    out->bucket_open = true;
    out->bucket_kept_count = s.kept_count;
    out->bucket_kept_bytes = s.kept_bytes;
    out->bucket_waiting_count = s.waiting_count;
    out->bucket_waiting_bytes = s.waiting_bytes;
    out->bucket_refused_count = s.refused_count;
    out->bucket_doomed_count = s.doomed_count;
    out->bucket_pins_wait = bucket_pins_wait(b);
    pthread_mutex_lock(&b->lock);
    if (!b->trouble.kind && s.lacking_count)
        told = &b->lack;
    for (size_t i = 0; i + 1 < sizeof out->bucket_error && told->message[i]; i++) /* a store's words may be anything */
        out->bucket_error[i] = told->message[i] >= ' ' && told->message[i] <= '~' ? told->message[i] : '?';
    out->bucket_error_kind = told->kind;
    out->bucket_error_us = told == &b->lack ? b->lack_us : b->trouble_us;
    pthread_mutex_unlock(&b->lock);
}
