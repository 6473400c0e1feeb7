#include "vault/bucket_private.h"
#include "base/bytes.h"
#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARKER "vault.json"
#define MARKER_LIMIT (2u << 20)
#define DEFAULT_CACHE_BYTES (UINT64_C(16) << 30)
#define DEFAULT_WAIT_MS 30000
#define DEFAULT_RETRY_MS 1000
#define DEFAULT_UPLOADS 4
#define DEFAULT_LATE_MS 3600000 /* an exchange takes no longer */
#define STALL_S 30
#define PART_TIMEOUT_MS 10000
#define BRIEF_US (3 * US_PER_S)
#define AGAIN_LEAST_US (100 * US_PER_MS)
#define AGAIN_MOST_US (2 * US_PER_S)
#define MISSES_WANTED 8 /* from here on the whole segment is brought: somebody reads on */

/* ---- opening and closing ---- */

static int check_options(const struct vault_bucket *o, struct err *e)
{
    if (!o->url || !o->bucket || !o->credentials_file)
        return err_set(e, ERR_INVALID, "a bucket needs the store's address, its own name and a file with credentials");
    for (size_t i = 0; i < 3; i++)
        for (const char *c = (const char *[]){o->url, o->bucket, o->prefix}[i]; c && *c; c++)
            if (*c <= ' ' || *c > '~')
                return err_set(e, ERR_INVALID, "the store's address, bucket and prefix are plain words");
    if (o->upload_count > BUCKET_UPLOADS_MOST)
        return err_set(e, ERR_INVALID, "at most %d segments are sent at once", BUCKET_UPLOADS_MOST);
    if (o->prefix && (strlen(o->prefix) > 512 || *o->prefix == '/' || strstr(o->prefix, "//")))
        return err_set(e, ERR_INVALID, "\"%.100s\" is no prefix of keys: words with single slashes between them", o->prefix);
    return 0;
}

int bucket_open(struct vault *v, const struct vault_bucket *o, struct bucket **out, struct err *e)
{
    CLEANUP(bucket_close) struct bucket *b = xcalloc(1, sizeof *b);
    pthread_condattr_t monotonic;
    struct s3 *client;

    MUST(pthread_mutex_init(&b->lock, NULL) == 0 && pthread_condattr_init(&monotonic) == 0 && pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0 &&
         pthread_cond_init(&b->stirred, &monotonic) == 0 && pthread_cond_init(&b->given, &monotonic) == 0 && pthread_cond_init(&b->claim.stirred, &monotonic) == 0);
    pthread_condattr_destroy(&monotonic);
    if (check_options(o, e) < 0)
        return -1;
    b->v = v;
    b->url = xstrdup(o->url);
    b->name = xstrdup(o->bucket);
    b->prefix = !o->prefix || !*o->prefix ? xstrdup("") : xasprintf(o->prefix[strlen(o->prefix) - 1] == '/' ? "%s" : "%s/", o->prefix);
    b->region = xstrdup(o->region);
    b->ca_file = xstrdup(o->ca_file);
    b->cache_bytes = o->cache_bytes || o->read_only ? o->cache_bytes : DEFAULT_CACHE_BYTES;
    b->wait_us = (int64_t)(o->wait_ms ? o->wait_ms : DEFAULT_WAIT_MS) * US_PER_MS;
    b->retry_us = (int64_t)(o->retry_ms ? o->retry_ms : DEFAULT_RETRY_MS) * US_PER_MS;
    b->late_us = (int64_t)(o->late_ms ? o->late_ms : DEFAULT_LATE_MS) * US_PER_MS;
    b->read_only = o->read_only;
    b->upload_count = o->upload_count ? o->upload_count : DEFAULT_UPLOADS;
    atomic_store(&b->pins_sent, UINT64_MAX); /* nobody knows what lies there */
    claim_init(b, o->lease_ms);
    if (s3_keys_read(o->credentials_file, &b->keys, e) < 0 || client_take(b, &client, e) < 0) /* a client says what is wrong with the address */
        return -1;
    client_give(b, &client);
    *out = b;
    b = NULL;
    return 0;
}

void bucket_close(struct bucket **held)
{
    struct bucket *b = *held;

    if (!b)
        return;
    atomic_store(&b->stopping, true);
    bucket_stir(b);
    if (b->runs)
        pthread_join(b->thread, NULL);
    s3_close(&b->writer);
    senders_stop(b);
    claim_end(b);
    for (size_t i = 0; i < b->idle_count; i++)
        s3_close(&b->idle[i]);
    s3_keys_release(&b->keys);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->stirred);
    pthread_cond_destroy(&b->given);
    pthread_cond_destroy(&b->claim.stirred);
    free(b->uses);
    free(b->marker);
    free(b->url);
    free(b->name);
    free(b->prefix);
    free(b->region);
    free(b->ca_file);
    free(b);
    *held = NULL;
}

void bucket_stir(struct bucket *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->stir = true;
    pthread_cond_signal(&b->stirred);
    pthread_mutex_unlock(&b->lock);
}

json_t *bucket_place(const struct bucket *b)
{
    json_t *j = json_pack("{s:s, s:s, s:s}", "url", b->url, "bucket", b->name, "prefix", b->prefix);

    MUST(j);
    return j;
}

/* ---- clients ---- */

static bool is_stopping(void *user) { return atomic_load(&((struct bucket *)user)->stopping); }

int client_open(struct bucket *b, bool (*cancelled)(void *bucket), int small_timeout_ms, struct s3 **out, struct err *e)
{
    struct s3_options o = {.url = b->url, .bucket = b->name, .region = b->region, .ca_file = b->ca_file, .keys = &b->keys, .clock = b->v->options.clock,
                           .stall_s = STALL_S, .small_timeout_ms = small_timeout_ms, .cancelled = cancelled, .user = b};

    return s3_open(&o, out, e);
}

int client_take(struct bucket *b, struct s3 **out, struct err *e)
{
    pthread_mutex_lock(&b->lock);
    *out = b->idle_count ? b->idle[--b->idle_count] : NULL;
    pthread_mutex_unlock(&b->lock);
    return *out ? 0 : client_open(b, is_stopping, 0, out, e);
}

void client_give(struct bucket *b, struct s3 **client)
{
    pthread_mutex_lock(&b->lock);
    if (b->idle_count < BUCKET_IDLE_MOST) {
        b->idle[b->idle_count++] = *client;
        *client = NULL;
    }
    pthread_mutex_unlock(&b->lock);
    s3_close(client);
}

void segment_key(const struct bucket *b, uint32_t id, char out[static BUCKET_KEY_SIZE])
{
    snprintf(out, BUCKET_KEY_SIZE, "%ssegments/%010u.seg", b->prefix, id);
}

static void marker_key(const struct bucket *b, char out[static BUCKET_KEY_SIZE]) { snprintf(out, BUCKET_KEY_SIZE, "%s" MARKER, b->prefix); }

/* ---- whose bucket it is ---- */

static int get_marker(struct bucket *b, struct s3 *client, struct buf *out, struct err *e)
{
    char key[BUCKET_KEY_SIZE];
    struct err why = {0};

    marker_key(b, key);
    if (s3_get_text(client, key, MARKER_LIMIT, out, &why) == 0)
        return 1;
    return why.kind == ERR_NOT_FOUND ? 0 : err_set(e, why.kind, "%s", why.message);
}

/* As the vault was opened with it, or wrote it: what the file says by now may be damaged, and may be all that there is of the keys one day. */
static int read_own_marker(const struct bucket *b, struct buf *out, struct err *e)
{
    int r;

    pthread_mutex_lock(&b->v->append_lock);
    r = buf_puts(out, b->v->superblock);
    pthread_mutex_unlock(&b->v->append_lock);
    return r < 0 ? err_set(e, ERR_LIMIT, MARKER " is too long for the bucket") : 0;
}

/* Whether each data key that theirs has is known to ours: they are told apart by when they were made. */
static bool knows_keys(const json_t *ours, const json_t *theirs)
{
    const json_t *our_keys = json_object_get(json_object_get(ours, "sealed"), "keys"), *one;
    size_t i;

    json_array_foreach(json_object_get(json_object_get(theirs, "sealed"), "keys"), i, one)
        if (!json_equal(json_object_get(one, "made_us"), json_object_get(json_array_get(our_keys, i), "made_us")))
            return false;
    return true;
}

/* What a person does where the vault.json there is gone or damaged; only people know that nothing there is another's, and that what is here is not older. */
#define WAY_OUT "where it is the right one, and nobody else writes there, put the vault.json of this vault's folder there, as that object"

/* It names this vault, and knows no data key that is not known here: an older copy of a vault must not write over the keys of what lies there. ERR_WRONG_STATE: it is damaged. */
static int check_marker(struct bucket *b, const struct buf *there, struct err *e)
{
    CLEANUP(json_free) json_t *theirs = NULL, *ours = NULL;
    CLEANUP(buf_release) struct buf own = {0};
    char id[2 * VAULT_ID_SIZE + 1];
    struct err why = {0};

    buf_init(&own, MARKER_LIMIT);
    if (json_read(there->data ? there->data : "", there->size_bytes, &theirs, &why) < 0 || strcmp(json_get_string(theirs, "format", ""), "slipway-vault") != 0)
        return err_set(e, ERR_WRONG_STATE, "%s%s in the bucket %s is damaged, so nothing is read or written there: " WAY_OUT, b->prefix, MARKER, b->name);
    if (strcmp(json_get_string(theirs, "id", ""), hash_hex(b->v->id, VAULT_ID_SIZE, id)) != 0)
        return err_set(e, ERR_CONFLICT, "the bucket %s holds another vault under \"%s\": give this one another prefix or bucket", b->name, b->prefix);
    if (read_own_marker(b, &own, e) < 0 || json_read(own.data, own.size_bytes, &ours, e) < 0)
        return -1;
    if (!knows_keys(ours, theirs))
        return err_set(e, ERR_CONFLICT, "vault.json in the bucket %s knows a data key that the one here does not, which is an older copy: put the newer one in its place", b->name);
    return 0;
}

static int any_sent(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct segment_row row;
    uint32_t id;

    if (segment_row_read(key, value, &id, &row, e) < 0)
        return -1;
    *(bool *)user = row.flags & SEGMENT_SENT;
    return (row.flags & SEGMENT_SENT) != 0;
}

static bool is_met(struct bucket *b)
{
    bool met;

    pthread_mutex_lock(&b->lock);
    met = b->marker != NULL;
    pthread_mutex_unlock(&b->lock);
    return met;
}

static void set_marker(struct bucket *b, struct buf *text)
{
    pthread_mutex_lock(&b->lock);
    free(b->marker);
    b->marker = buf_take(text);
    pthread_mutex_unlock(&b->lock);
}

/* Whether what is there is what is here; *own: that. */
static int is_current(struct bucket *b, struct buf *own, struct err *e)
{
    int current;

    if (read_own_marker(b, own, e) < 0)
        return -1;
    pthread_mutex_lock(&b->lock);
    current = b->marker && strcmp(b->marker, own->data) == 0;
    pthread_mutex_unlock(&b->lock);
    return current;
}

bool bucket_is_marked(struct bucket *b)
{
    CLEANUP(buf_release) struct buf own = {0};

    buf_init(&own, MARKER_LIMIT);
    return is_current(b, &own, NULL) == 1;
}

int bucket_was_used(struct vault *v, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    bool sent = false;

    return index_begin(&v->index, false, &txn, e) < 0 || index_each(&v->index, txn, INDEX_SEGMENT, index_val("", 0), any_sent, &sent, e) < 0 ? -1 : sent;
}

int bucket_missing(const struct vault *v, struct err *e)
{
    return err_set(e, ERR_UNREACHABLE, "segments lie in %s: open the vault with its bucket (--s3-…)", v->bucket_text ? v->bucket_text : "a bucket");
}

int bucket_look(struct bucket *b, struct s3 *client, struct err *e)
{
    CLEANUP(buf_release) struct buf there = {0};
    int found, sent;

    if (is_met(b))
        return 1;
    buf_init(&there, MARKER_LIMIT);
    found = get_marker(b, client, &there, e);
    if (found < 0)
        return -1;
    if (found == 1) {
        if (check_marker(b, &there, e) < 0)
            return -1;
        set_marker(b, &there);
        return 1;
    }
    sent = bucket_was_used(b->v, e);
    if (sent < 0)
        return -1;
    return sent ? err_set(e, ERR_WRONG_STATE, "the bucket %s holds no vault under \"%s\", though segments of this one were sent there: is it another bucket? (" WAY_OUT ")", b->name, b->prefix) : 0;
}

int bucket_meet(struct bucket *b, struct s3 *client, struct err *e)
{
    int met = bucket_look(b, client, e);

    return met != 0 ? (met < 0 ? -1 : 0) : err_set(e, ERR_WRONG_STATE, "the bucket %s holds no vault under \"%s\" yet", b->name, b->prefix);
}

int bucket_mark(struct bucket *b, struct s3 *client, struct err *e)
{
    CLEANUP(buf_release) struct buf own = {0};
    char key[BUCKET_KEY_SIZE];
    int current;

    buf_init(&own, MARKER_LIMIT);
    if (bucket_look(b, client, e) < 0)
        return -1;
    current = is_current(b, &own, e);
    if (current != 0)
        return current < 0 ? -1 : 0;
    marker_key(b, key);
    if (s3_put(client, key, own.data, own.size_bytes, e) < 0)
        return -1;
    set_marker(b, &own);
    return 0;
}

int bucket_begin(struct bucket *b, bool taken_over, struct err *e)
{
    CLEANUP(buf_release) struct buf there = {0};
    struct s3 *client;
    struct err why = {0};
    int found;

    if (b->read_only)
        return 0;
    buf_init(&there, MARKER_LIMIT);
    if (client_take(b, &client, e) < 0)
        return -1;
    found = get_marker(b, client, &there, &why);
    client_give(b, &client);
    found = found == 1 && check_marker(b, &there, &why) < 0 ? -1 : found;
    /* The store may be away, or what lies there damaged: all but sending goes on, and everything is looked at before something is read or sent. */
    if (found < 0 && (taken_over || why.kind == ERR_CONFLICT))
        return err_set(e, why.kind, "%s", why.message);
    return claim_begin(b, taken_over, e);
}

/* ---- what is read ---- */

void bucket_used(struct bucket *b, uint32_t segment)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    use_of(b, segment)->used_us = clock_monotonic_us();
    pthread_mutex_unlock(&b->lock);
}

/* lock held. One that could not be brought is tried again by itself. */
static void want(struct bucket *b, uint32_t id)
{
    if (use_of(b, id)->lacking)
        return;
    for (size_t i = 0; i < b->wanted_count; i++)
        if (b->wanted[i] == id)
            return;
    if (b->wanted_count == BUCKET_WANTED_MOST)
        memmove(b->wanted, b->wanted + 1, --b->wanted_count * sizeof *b->wanted);
    b->wanted[b->wanted_count++] = id;
    b->stir = true;
    pthread_cond_signal(&b->stirred);
}

void bucket_want(struct bucket *b, uint32_t id)
{
    pthread_mutex_lock(&b->lock);
    want(b, id);
    pthread_mutex_unlock(&b->lock);
}

void bucket_mended(struct bucket *b, uint32_t segment)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    use_of(b, segment)->refused = false;
    use_of(b, segment)->again_us = 0;
    pthread_mutex_unlock(&b->lock);
    bucket_stir(b);
}

static void note_miss(struct bucket *b, uint32_t id)
{
    pthread_mutex_lock(&b->lock);
    if (++use_of(b, id)->misses % MISSES_WANTED == 0)
        want(b, id);
    pthread_mutex_unlock(&b->lock);
}

static int get_part(struct bucket *b, const struct chunk_place *place, int timeout_ms, uint8_t *scratch, struct record *out, struct err *e)
{
    size_t span = RECORD_HEADER_SIZE + place->stored_size;
    struct s3 *client;
    char key[BUCKET_KEY_SIZE];
    int r;

    segment_key(b, place->segment, key);
    if (client_take(b, &client, e) < 0)
        return -1;
    r = bucket_meet(b, client, e);
    if (r == 0)
        r = s3_get(client, key, place->offset, span, scratch, timeout_ms, e);
    client_give(b, &client);
    return r < 0 ? -1 : record_take(scratch, span, out) ? 0 : err_set(e, ERR_CORRUPT, "%s in the bucket %s is damaged at offset %u", key, b->name, place->offset);
}

bool tells_of_bytes(enum err_kind kind) { return kind == ERR_CORRUPT || kind == ERR_NOT_FOUND; }
static bool may_pass(enum err_kind kind) { return kind == ERR_UNREACHABLE || kind == ERR_TIMEOUT || kind == ERR_PROTOCOL; }

/* Until it is there, or the time is over, or trying again is of no use. Wrong bytes are asked for once more: a link may have done it. */
static int get_patiently(struct bucket *b, const struct chunk_place *place, unsigned how, uint8_t *scratch, struct record *out, struct err *e)
{
    int64_t until_us = clock_monotonic_us() + (how & READ_BRIEFLY ? BRIEF_US : b->wait_us), pause_us = AGAIN_LEAST_US, left_us;
    struct err why = {0};
    int wrong = 0;

    for (;;) {
        left_us = until_us - clock_monotonic_us();
        err_clear(&why);
        if (get_part(b, place, left_us > PART_TIMEOUT_MS * US_PER_MS ? PART_TIMEOUT_MS : left_us > US_PER_MS ? (int)(left_us / US_PER_MS) : 1, scratch, out, &why) == 0)
            return 0;
        if (why.kind == ERR_CORRUPT && wrong++ == 0)
            continue;
        if (how & READ_BRIEFLY || !may_pass(why.kind) || clock_monotonic_us() + pause_us >= until_us || is_stopping(b))
            return err_set(e, tells_of_bytes(why.kind) || why.kind == ERR_CANCELLED ? why.kind : ERR_UNREACHABLE, "segment %u lies in the bucket %s: %.800s", place->segment, b->name, why.message);
        clock_sleep_us(pause_us);
        pause_us = pause_us * 2 < AGAIN_MOST_US ? pause_us * 2 : AGAIN_MOST_US;
    }
}

static bool in_trouble(struct bucket *b)
{
    bool trouble;

    pthread_mutex_lock(&b->lock);
    trouble = b->trouble.kind != ERR_NONE;
    pthread_mutex_unlock(&b->lock);
    return trouble;
}

int bucket_read(struct vault *v, const struct chunk_place *place, unsigned how, uint8_t *scratch, struct record *out, struct err *e)
{
    CLEANUP(free_ptr) char *maps = xasprintf("%s/%010u.maps", v->segment_dir, place->segment);
    struct segment_row row = {0};
    int found;

    if (place->kind != RECORD_CHUNK && segment_read_file(maps, place->offset, RECORD_HEADER_SIZE + place->stored_size, scratch, out, NULL) == 0)
        return 0;
    found = segment_row_get(v, place->segment, &row, e);
    if (found < 0)
        return -1;
    if (found == 0 || !(row.flags & SEGMENT_KEPT) || row.flags & SEGMENT_DOOMED)
        return err_set(e, ERR_NOT_FOUND, "segment %u is not there", place->segment);
    if (!v->bucket)
        return err_set(e, ERR_UNREACHABLE, "segment %u lies in %s: open the vault with its bucket (--s3-…)", place->segment, v->bucket_text ? v->bucket_text : "a bucket");
    if (how & READ_HERE || (how & READ_BRIEFLY && in_trouble(v->bucket)))
        return err_set(e, ERR_UNREACHABLE, "segment %u lies in the bucket %s", place->segment, v->bucket->name);
    note_miss(v->bucket, place->segment); /* a damaged file here comes back so, too */
    return get_patiently(v->bucket, place, how, scratch, out, e);
}

/* ---- making an index anew ---- */

int bucket_superblock(struct bucket *b, struct buf *out, struct err *e)
{
    struct s3 *client;
    int found;

    if (client_take(b, &client, e) < 0)
        return -1;
    found = get_marker(b, client, out, e);
    client_give(b, &client);
    return found;
}

struct listing {
    const struct bucket *b;
    uint32_t **ids;
    size_t *count;
};

static int take_key(const char *key, uint64_t size, void *user, struct err *e)
{
    struct listing *l = user;
    const char *name = strrchr(key, '/') ? strrchr(key, '/') + 1 : key;
    uint32_t id = segment_id_of_name(name);
    char own[BUCKET_KEY_SIZE];

    (void)size;
    (void)e;
    segment_key(l->b, id, own);
    if (!id || strcmp(own, key) != 0)
        return 0; /* not ours */
    *l->ids = xrealloc(*l->ids, (*l->count + 1) * sizeof **l->ids);
    (*l->ids)[(*l->count)++] = id;
    return 0;
}

int bucket_list(struct bucket *b, uint32_t **ids, size_t *count, struct err *e)
{
    struct listing l = {b, ids, count};
    CLEANUP(free_ptr) char *prefix = xasprintf("%ssegments/", b->prefix);
    struct s3 *client;
    int r;

    if (client_take(b, &client, e) < 0)
        return -1;
    r = bucket_look(b, client, e); /* 0: nothing of it was ever there */
    if (r > 0)
        r = s3_list(client, prefix, take_key, &l, e);
    client_give(b, &client);
    return r;
}

int bucket_fetch(struct bucket *b, uint32_t segment, bool whole, struct err *e)
{
    struct s3 *client;
    int r;

    if (client_take(b, &client, e) < 0)
        return -1;
    r = segment_bring(b, client, segment, NULL, whole, e);
    client_give(b, &client);
    return r;
}

int bucket_found(struct bucket *b, uint32_t segment, struct err *e)
{
    CLEANUP(free_ptr) char *path = segment_path(b->v->segment_dir, segment);
    struct segment_row row;
    int found = segment_row_get(b->v, segment, &row, e);
    bool whole = found == 1 && row.flags & SEGMENT_SEALED && segment_look(b->v, segment, path, &row, NULL) == 0;

    if (found <= 0)
        return found; /* it held nothing */
    return row_flag(b->v, segment, (uint16_t)(SEGMENT_SENT | (whole ? SEGMENT_KEPT : 0)), e) < 0 ? -1 : bucket_shrink(b, e);
}

int row_flag(struct vault *v, uint32_t id, uint16_t set, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct segment_row row;
    uint8_t key[4];
    MDB_val value;
    int found;

    put_be32(key, id);
    if (index_begin(&v->index, true, &txn, e) < 0)
        return -1;
    found = index_get(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), &value, e);
    if (found <= 0)
        return found;
    if (value.mv_size != sizeof row)
        return err_set(e, ERR_CORRUPT, "the vault's index has a damaged segment row");
    memcpy(&row, value.mv_data, sizeof row);
    if (row.flags & SEGMENT_DOOMED)
        return 0;
    row.flags |= set;
    return index_put(&v->index, txn, INDEX_SEGMENT, index_val(key, 4), index_val(&row, sizeof row), e) < 0 || index_commit(&txn, e) < 0 ? -1 : 1;
}
