#include "vault/vault.h"
#include "base/file.h"
#include "base/hash.h"
#include "vault/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define VAULT_VERSION 3        /* 2 did not know of a bucket */
#define VAULT_VERSION_PLAIN 2  /* without one: 1 knew neither records of pages with parts nor encryption */
#define SUPERBLOCK_LIMIT (2u << 20)
#define DEFAULT_SEGMENT_BYTES (UINT64_C(64) << 20)
#define DEFAULT_GUARD_BYTES (UINT64_C(256) << 20)
#define DEFAULT_CACHE_BYTES ((size_t)64 << 20)
#define DEFAULT_WORK_MEMORY_BYTES ((size_t)512 << 20)
#define PENDING_LIMIT 32768 /* chunks; a caller that never syncs is synced here */

/* ---- opening and closing ---- */

/* With this file an encrypted vault would lose its keys: the same bytes lie beside it. It counts; a copy that is not there yet, or of before,
 * is made when the vault is opened. */
static void copy_superblock(const char *path, const char *text, size_t size)
{
    CLEANUP(free_ptr) char *copy = xasprintf("%s.copy", path);
    CLEANUP(buf_release) struct buf there = {0};

    buf_init(&there, SUPERBLOCK_LIMIT);
    if (file_read(copy, SUPERBLOCK_LIMIT, &there, NULL) < 0 || there.size_bytes != size || memcmp(there.data, text, size) != 0)
        (void)file_write(copy, text, size, 0600, NULL);
}

static int write_superblock(struct vault *v, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/vault.json", v->dir), *text = NULL;
    CLEANUP(json_free) json_t *j = NULL;
    char digits[2 * VAULT_ID_SIZE + 1];

    j = json_pack("{s:s, s:i, s:s}", "format", "slipway-vault", "version", v->bucket_place ? VAULT_VERSION : VAULT_VERSION_PLAIN, "id", hash_hex(v->id, VAULT_ID_SIZE, digits));
    MUST(j);
    if (v->bucket_place)
        json_object_set(j, "bucket", v->bucket_place);
    if (v->seal) {
        json_t *sealed = seal_json(v->seal, e);

        if (!sealed)
            return -1;
        json_object_set_new(j, "sealed", sealed);
    }
    text = json_text(j);
    if (file_write(path, text, strlen(text), 0600, e) < 0)
        return -1;
    copy_superblock(path, text, strlen(text));
    return 0;
}

/* Its word on where segments lie; where it opens with a bucket, that one's. */
static int take_bucket(struct vault *v, json_t *said, bool *changed, struct err *e)
{
    json_t *place = v->bucket ? bucket_place(v->bucket) : json_incref(said);

    if (!place)
        return 0;
    if (!v->bucket && !json_is_object(place))
        return err_set(e, ERR_CORRUPT, "vault.json: its bucket is no object");
    *changed = *changed || (!json_equal(place, said) && !(v->bucket && v->options.bucket->read_only)); /* whoever only reads decides nothing */
    v->bucket_place = place;
    v->bucket_text = xasprintf("bucket %s at %s%s%s", json_get_string(place, "bucket", "?"), json_get_string(place, "url", "?"),
                               *json_get_string(place, "prefix", "") ? ", under " : "", json_get_string(place, "prefix", ""));
    return 0;
}

/* Where nothing is here, what the bucket has is the vault: 1 it has one, and its vault.json is here now. */
static int superblock_from_bucket(struct vault *v, const char *path, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    int found;

    buf_init(&text, SUPERBLOCK_LIMIT);
    found = v->bucket ? bucket_superblock(v->bucket, &text, e) : 0;
    if (found < 0)
        return err_wrap(e, "whether the bucket holds this vault");
    return found == 1 && file_write(path, text.data, text.size_bytes, 0600, e) < 0 ? -1 : found;
}

static int new_superblock(struct vault *v, struct err *e)
{
    bool changed = false;

    if (getrandom(v->id, VAULT_ID_SIZE, 0) != VAULT_ID_SIZE)
        return err_errno(e, errno, "can't draw a vault id");
    if (v->options.key_count && seal_new(v->id, v->options.keys, true, clock_read_us(v->options.clock), &v->seal, e) < 0)
        return -1;
    return take_bucket(v, NULL, &changed, e) < 0 ? -1 : write_superblock(v, e);
}

/* Its keys; one that has none is encrypted from now on where a key was given. */
static int take_keys(struct vault *v, const json_t *sealed, bool *changed, struct err *e)
{
    if (sealed)
        return seal_read(sealed, v->id, v->options.keys, v->options.key_count, &v->seal, e);
    *changed = *changed || v->options.key_count;
    return v->options.key_count ? seal_new(v->id, v->options.keys, false, clock_read_us(v->options.clock), &v->seal, e) : 0;
}

/* DIR/vault.json says what this folder is and gives it the identity that its segments carry. *taken_over: it came from the bucket. */
static int superblock(struct vault *v, bool *taken_over, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/vault.json", v->dir);
    CLEANUP(buf_release) struct buf text = {0};
    CLEANUP(json_free) json_t *j = NULL;
    const char *format, *words;
    CLEANUP(free_ptr) char *copy = xasprintf("%s.copy", path);
    int64_t version;
    bool changed;
    int found = file_exists(path);

    if (!found && file_exists(copy))
        return err_set(e, ERR_CORRUPT, "%s is gone, %s is there: copy it back", path, copy);
    if (!found) {
        found = superblock_from_bucket(v, path, e);
        *taken_over = found > 0;
    }
    if (found <= 0)
        return found < 0 ? -1 : new_superblock(v, e);
    buf_init(&text, SUPERBLOCK_LIMIT);
    if (file_read(path, SUPERBLOCK_LIMIT, &text, e) < 0 || json_read(text.data, text.size_bytes, &j, e) < 0 || json_need_string(j, "format", &format, e) < 0 ||
        json_need_int(j, "version", &version, e) < 0 || json_need_string(j, "id", &words, e) < 0)
        return err_wrap(e, "reading %s (a copy of it lies beside it)", path);
    if (strcmp(format, "slipway-vault") != 0 || version < 1 || version > VAULT_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "%s: format %s version %lld; this Slipway reads slipway-vault up to version %d", path, format,
                       (long long)version, VAULT_VERSION);
    if (strlen(words) != 2 * VAULT_ID_SIZE || hash_unhex(words, v->id, VAULT_ID_SIZE, NULL) < 0)
        return err_set(e, ERR_CORRUPT, "%s: the id is not %d hexadecimal digits", path, 2 * VAULT_ID_SIZE);
    changed = version < VAULT_VERSION_PLAIN; /* before anything is written that an older Slipway would not know */
    if (take_bucket(v, json_object_get(j, "bucket"), &changed, e) < 0 || take_keys(v, json_object_get(j, "sealed"), &changed, e) < 0)
        return -1;
    if (changed)
        return write_superblock(v, e);
    copy_superblock(path, text.data, text.size_bytes);
    return 0;
}

int vault_rotate(struct vault *v, const struct vault_key *wrap, struct err *e)
{
    struct vault_key before;
    int r;

    if (!v->seal)
        return err_set(e, ERR_WRONG_STATE, "the vault is not encrypted: open it with a key first");
    /* Nothing is sealed under the new data key before it is in vault.json: whatever is appended waits. */
    pthread_mutex_lock(&v->append_lock);
    before = *seal_key(v->seal);
    r = seal_add_key(v->seal, clock_read_us(v->options.clock), e);
    if (r == 0) {
        if (wrap)
            seal_wrap_under(v->seal, wrap);
        r = write_superblock(v, e);
        if (r < 0) {
            seal_drop_key(v->seal);
            seal_wrap_under(v->seal, &before);
        }
    }
    pthread_mutex_unlock(&v->append_lock);
    explicit_bzero(&before, sizeof before);
    return r;
}

static int lock_out_others(struct vault *v, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/lock", v->dir);

    v->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (v->lock_fd < 0)
        return err_errno(e, errno, "can't open %s", path);
    if (flock(v->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(e, ERR_CONFLICT, "the vault %s is open in another process: stop that one first", v->dir);
    return 0;
}

static void init_locks(struct vault *v)
{
    pthread_rwlockattr_t attributes;

    MUST(pthread_rwlockattr_init(&attributes) == 0 &&
         pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP) == 0 &&
         pthread_rwlock_init(&v->gc_lock, &attributes) == 0 && pthread_mutex_init(&v->commit_lock, NULL) == 0 &&
         pthread_mutex_init(&v->append_lock, NULL) == 0 && pthread_mutex_init(&v->gc_run_lock, NULL) == 0);
    pthread_rwlockattr_destroy(&attributes);
}

static void free_vault(struct vault *v)
{
    bucket_close(&v->bucket);
    json_free(&v->bucket_place);
    free(v->bucket_text);
    segment_close(&v->current);
    for (size_t i = 0; i < v->full_count; i++)
        segment_close(&v->full[i]);
    free(v->full);
    pending_release(&v->pending);
    staged_release(v);
    hash_set_release(&v->bad);
    index_close(&v->index);
    seal_free(&v->seal);
    cache_free(&v->cache);
    close_fd(&v->lock_fd);
    pthread_rwlock_destroy(&v->gc_lock);
    pthread_mutex_destroy(&v->commit_lock);
    pthread_mutex_destroy(&v->append_lock);
    pthread_mutex_destroy(&v->gc_run_lock);
    free(v->disks);
    free(v->dir);
    free(v->segment_dir);
    free(v->index_dir);
    free(v);
}

static int add_bad(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct vault_hash hash;

    (void)value;
    (void)e;
    if (key.mv_size == sizeof hash) {
        memcpy(&hash, key.mv_data, sizeof hash);
        hash_set_add(user, &hash);
    }
    return 0;
}

static int load_bad(struct vault *v, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    if (index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    if (index_each(&v->index, txn, INDEX_BAD, index_val("", 0), add_bad, &v->bad, e) < 0)
        return -1;
    v->bad_found = v->bad.used_count;
    return 0;
}

/* The folders', the index's, and those that a killed process made and did not sync: what is committed from now on lies behind them. */
static int sync_names(struct vault *v, struct err *e)
{
    CLEANUP(free_ptr) char *above = xasprintf("%s/..", v->dir);

    return file_sync_dir(above, e) < 0 || file_sync_dir(v->dir, e) < 0 || file_sync_dir(v->segment_dir, e) < 0 ? -1
           : file_sync_dir(v->index_dir, e);
}

static int open_parts(struct vault *v, struct err *e)
{
    bool taken_over = false;

    if (file_make_dirs(v->segment_dir, 0700, e) < 0 || lock_out_others(v, e) < 0 ||
        (v->options.bucket && bucket_open(v, v->options.bucket, &v->bucket, e) < 0) || superblock(v, &taken_over, e) < 0 ||
        (v->bucket && bucket_begin(v->bucket, taken_over, e) < 0) ||
        index_open(v->index_dir, &v->index, e) < 0 || sync_names(v, e) < 0)
        return -1;
    return segments_recover(v, e) < 0 || load_bad(v, e) < 0 || disks_load(v, e) < 0 || (v->bucket && bucket_start(v->bucket, e) < 0) ? -1 : 0;
}

int vault_open(const char *dir, const struct vault_options *options, struct vault **out, struct err *e)
{
    struct vault *v = xcalloc(1, sizeof *v);

    v->dir = xstrdup(dir);
    v->segment_dir = xasprintf("%s/segments", dir);
    v->index_dir = xasprintf("%s/index", dir);
    v->lock_fd = v->current.fd = -1;
    if (options)
        v->options = *options;
    if (!v->options.segment_bytes)
        v->options.segment_bytes = DEFAULT_SEGMENT_BYTES;
    if (!v->options.guard_bytes)
        v->options.guard_bytes = DEFAULT_GUARD_BYTES;
    if (!v->options.cache_bytes)
        v->options.cache_bytes = DEFAULT_CACHE_BYTES;
    if (!v->options.work_memory_bytes)
        v->options.work_memory_bytes = DEFAULT_WORK_MEMORY_BYTES;
    if (!v->options.clock)
        v->options.clock = &clock_real;
    MUST(v->options.segment_bytes <= (UINT64_C(1) << 30)); /* offsets are 32 bits in the index */
    init_locks(v);
    v->cache = cache_new(v->options.cache_bytes);
    if (open_parts(v, e) < 0) {
        free_vault(v);
        return err_wrap(e, "opening the vault %s", dir);
    }
    *out = v;
    return 0;
}

void vault_close(struct vault **v)
{
    if (!*v)
        return;
    (void)vault_sync(*v, NULL); /* what can't be synced was never said to be durable */
    free_vault(*v);
    *v = NULL;
}

int records_count(struct vault *v, uint64_t *count, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    return index_begin(&v->index, false, &txn, e) < 0 ? -1 : index_count(&v->index, txn, INDEX_CHUNK, count, e);
}

/* ---- appending ---- */

int place_find(struct vault *v, const struct vault_hash *hash, struct chunk_place *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    const struct pending_chunk *pending = pending_find(&v->pending, hash);
    MDB_val value;
    int found;

    if (pending) {
        *out = pending->place;
        return 1;
    }
    if (index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    found = index_get(&v->index, txn, INDEX_CHUNK, index_val(hash, sizeof *hash), &value, e);
    if (found == 1) {
        if (value.mv_size != sizeof *out)
            return err_set(e, ERR_CORRUPT, "the vault's index has a chunk row of %zu bytes", value.mv_size);
        memcpy(out, value.mv_data, sizeof *out);
    }
    return found;
}

/* What makes room may go below the guard: it is there for them. */
static int check_room(struct vault *v, enum record_kind kind, size_t size, struct err *e)
{
    struct statvfs st;
    uint64_t free_bytes;

    if (kind == RECORD_GRAVE || v->making_room)
        return 0;
    if (statvfs(v->segment_dir, &st) < 0)
        return err_errno(e, errno, "can't ask for the free space of %s", v->segment_dir);
    free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    if (free_bytes < v->options.guard_bytes + size)
        return err_set(e, ERR_NO_SPACE, "the vault %s has %llu MiB left and keeps %llu MiB free: make room or add a disk; it goes on "
                       "by itself", v->dir, (unsigned long long)(free_bytes >> 20),
                       (unsigned long long)(v->options.guard_bytes >> 20));
    return 0;
}

static void hold_full(struct vault *v)
{
    v->full = xrealloc(v->full, (v->full_count + 1) * sizeof *v->full);
    v->full[v->full_count++] = v->current;
    v->current = (struct segment){.fd = -1};
}

int current_seal(struct vault *v, struct err *e)
{
    int r = 0;

    pthread_mutex_lock(&v->append_lock);
    if (v->current.fd >= 0 && v->current.record_count) {
        r = v->broken ? err_set(e, ERR_IO, "the vault can't be written since a sync failed") : segment_seal(&v->current, e);
        if (r == 0)
            hold_full(v);
    }
    pthread_mutex_unlock(&v->append_lock);
    return r;
}

static int next_segment(struct vault *v, struct err *e)
{
    struct segment_header header = {.id = v->next_segment, .created_us = clock_read_us(v->options.clock), .key = seal_newest(v->seal)};
    struct segment made;

    memcpy(header.vault_id, v->id, VAULT_ID_SIZE);
    if (v->current.fd >= 0 && segment_seal(&v->current, e) < 0)
        return -1;
    if (segment_create(v->segment_dir, &header, &made, e) < 0)
        return -1;
    if (v->current.fd >= 0)
        hold_full(v);
    v->current = made;
    v->next_segment++;
    return 0;
}

void note_use(struct vault *v, const struct vault_hash *hash, const struct record_pages *pages)
{
    if (!v->barrier)
        return;
    hash_set_add(v->barrier, hash);
    for (size_t i = 0; pages && i < pages->part_count; i++)
        hash_set_add(v->barrier, &pages->parts[i].name);
}

int record_append(struct vault *v, enum record_kind kind, const uint8_t *packed, size_t span, size_t raw_size, const struct vault_hash *hash,
                  const struct record_pages *pages, struct err *e)
{
    struct chunk_place place = {.raw_size = (uint32_t)raw_size, .kind = kind};
    CLEANUP(free_ptr) uint8_t *sealed = NULL;

    if (v->seal)
        span += SEAL_OVERHEAD; /* a multiple of 8, as is the span */
    if (v->broken)
        return err_set(e, ERR_IO, "the vault %s can't be written since a sync failed: check its disk and start the replicator again",
                       v->dir);
    if (v->bucket && bucket_may_append(v->bucket, e) < 0)
        return -1;
    if (check_room(v, kind, span, e) < 0)
        return -1;
    if ((v->current.fd < 0 || (v->current.record_count && v->current.end + span > v->options.segment_bytes) ||
         v->current.key != seal_newest(v->seal)) && next_segment(v, e) < 0)
        return -1;
    place.segment = v->current.id;
    place.offset = (uint32_t)v->current.end;
    place.stored_size = (uint32_t)(span - RECORD_HEADER_SIZE);
    if (v->seal)
        MUST(v->current.key == seal_newest(v->seal) && seal_record(v->seal, place.segment, packed, &sealed) == span);
    if (segment_append(&v->current, sealed ? sealed : packed, span, e) < 0)
        return -1;
    pending_add(&v->pending, hash, &place, pages);
    return 0;
}

/* Known to be there: its row, and no damage. */
static int have_row(struct vault *v, const struct vault_hash *hash, size_t raw_size, struct err *e)
{
    struct chunk_place place;
    int found = place_find(v, hash, &place, e);

    if (found != 1 || place.raw_size != raw_size)
        return found < 0 ? -1 : 0;
    return pending_find(&v->pending, hash) || !hash_set_has(&v->bad, hash);
}

int have(struct vault *v, const struct vault_hash *hash, size_t raw_size, struct err *e)
{
    struct record_pages pages;
    int found = have_row(v, hash, raw_size, e), divided;

    if (found != 1)
        return found;
    divided = pages_find(v, hash, &pages, e);
    /* The parts of one that is pending were looked for when it was appended, and nothing was taken away since. But it may be what a collection has left of
     * it: where its flush failed (a full disk), that is pending still when all go on. */
    if (divided == 1 && (v->bad.used_count || !pending_find(&v->pending, hash) || !record_pages_whole(&pages)))
        found = pages_are_there(v, &pages, false, e);
    if (divided < 0 || found != 1)
        return divided < 0 ? -1 : found;
    note_use(v, hash, divided ? &pages : NULL);
    return 1;
}

int record_add(struct vault *v, enum record_kind kind, const void *raw, size_t raw_size, const struct vault_hash *hash,
               uint64_t *stored_bytes, struct err *e)
{
    return record_add_packed(v, kind, raw, raw_size, NULL, 0, hash, stored_bytes, e);
}

int record_add_packed(struct vault *v, enum record_kind kind, const void *raw, size_t raw_size, const void *given, size_t given_size,
                      const struct vault_hash *hash, uint64_t *stored_bytes, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *packed = NULL;
    size_t span;
    int found;

    pthread_mutex_lock(&v->append_lock);
    found = have(v, hash, raw_size, e);
    pthread_mutex_unlock(&v->append_lock);
    if (found) {
        if (found == 1 && stored_bytes)
            *stored_bytes = 0;
        return found < 0 ? -1 : 0;
    }
    span = given ? record_wrap(kind, given, given_size, raw_size, hash, &packed) : record_pack(kind, raw, raw_size, hash, &packed);
    pthread_mutex_lock(&v->append_lock);
    found = have(v, hash, raw_size, e); /* somebody else may have sent it meanwhile */
    if (found == 0) {
        found = record_append(v, kind, packed, span, raw_size, hash, NULL, e);
        note_use(v, hash, NULL);
    } else {
        span = 0;
    }
    pthread_mutex_unlock(&v->append_lock);
    if (found >= 0 && stored_bytes)
        *stored_bytes = span;
    return found < 0 ? -1 : 0;
}

int sync_when_much(struct vault *v, struct err *e)
{
    bool much;

    pthread_mutex_lock(&v->append_lock);
    much = v->pending.chunk_count > PENDING_LIMIT || v->pending.set_count > PENDING_LIMIT || v->pending.feed_count > PENDING_LIMIT;
    pthread_mutex_unlock(&v->append_lock);
    return much ? vault_sync(v, e) : 0;
}

static int check_range(const struct vault_disk *d, uint64_t first, uint64_t count, struct err *e)
{
    if (count == 0 || first >= d->chunk_count || count > d->chunk_count - first)
        return err_set(e, ERR_INVALID, "chunks %llu+%llu lie outside disk %s of %llu chunks", (unsigned long long)first,
                       (unsigned long long)count, d->id, (unsigned long long)d->chunk_count);
    return 0;
}

int vault_has(struct vault *v, const struct vault_hash *hash, struct err *e)
{
    struct vault_hash name = *hash;
    int found;

    if (vault_hash_is_zero(hash))
        return 1;
    seal_name(v->seal, &name);
    pthread_mutex_lock(&v->append_lock);
    found = have(v, &name, VAULT_CHUNK_BYTES, e);
    pthread_mutex_unlock(&v->append_lock);
    return found;
}

int vault_store(struct vault *v, const void *bytes, const struct vault_hash *expected, struct vault_hash *hash, uint64_t *stored_bytes,
                struct err *e)
{
    return vault_store_packed(v, bytes, NULL, 0, expected, hash, stored_bytes, e);
}

int vault_store_packed(struct vault *v, const void *bytes, const void *packed, size_t packed_size, const struct vault_hash *expected,
                       struct vault_hash *hash, uint64_t *stored_bytes, struct err *e)
{
    struct vault_hash name, kept;
    uint64_t stored = 0;
    int r = 0;

    vault_hash_of(bytes, VAULT_CHUNK_BYTES, &name);
    if (expected && !vault_hash_same(&name, expected))
        return err_set(e, ERR_CORRUPT, "a chunk does not match the SHA-256 that was offered for it");
    if (vault_bytes_are_zero(bytes, VAULT_CHUNK_BYTES)) {
        name = vault_hash_zero;
    } else {
        kept = name;
        seal_name(v->seal, &kept);
        pthread_rwlock_rdlock(&v->gc_lock);
        r = record_add_packed(v, RECORD_CHUNK, bytes, VAULT_CHUNK_BYTES, packed, packed_size, &kept, &stored, e);
        pthread_rwlock_unlock(&v->gc_lock);
    }
    if (r < 0)
        return -1;
    if (hash)
        *hash = name;
    if (stored_bytes)
        *stored_bytes = stored;
    return sync_when_much(v, e);
}

int vault_map_zero(struct vault *v, const struct vault_disk *d, uint64_t first, uint64_t count, struct err *e)
{
    if (check_range(d, first, count, e) < 0)
        return -1;
    pthread_mutex_lock(&v->append_lock);
    pending_set_map(&v->pending, d->number, first, count, &vault_hash_zero);
    pthread_mutex_unlock(&v->append_lock);
    return sync_when_much(v, e);
}

int vault_map(struct vault *v, const struct vault_disk *d, uint64_t index, const struct vault_hash *hash, struct err *e)
{
    struct vault_hash name = *hash;
    int found;

    if (check_range(d, index, 1, e) < 0)
        return -1;
    if (vault_hash_is_unknown(hash))
        return err_set(e, ERR_INVALID, "all one bits are no chunk's name");
    if (vault_hash_is_zero(hash))
        return vault_map_zero(v, d, index, 1, e) < 0 ? -1 : 1;
    seal_name(v->seal, &name);
    pthread_rwlock_rdlock(&v->gc_lock);
    pthread_mutex_lock(&v->append_lock);
    found = have(v, &name, VAULT_CHUNK_BYTES, e);
    if (found == 1)
        pending_set_map(&v->pending, d->number, index, 1, &name);
    pthread_mutex_unlock(&v->append_lock);
    pthread_rwlock_unlock(&v->gc_lock);
    return found == 1 && sync_when_much(v, e) < 0 ? -1 : found;
}

int vault_feed_set(struct vault *v, const char *server, const struct vault_feed *feed, struct err *e)
{
    struct pending_feed f = {.feed = *feed};

    if (vault_name_check("server", server, e) < 0)
        return -1;
    memcpy(f.server, server, strlen(server) + 1);
    pthread_mutex_lock(&v->append_lock);
    v->pending.feeds = xrealloc(v->pending.feeds, (v->pending.feed_count + 1) * sizeof f);
    v->pending.feeds[v->pending.feed_count++] = f;
    pthread_mutex_unlock(&v->append_lock);
    return sync_when_much(v, e);
}

int vault_feed_get(struct vault *v, const char *server, struct vault_feed *out, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    MDB_val value;
    int found;

    if (vault_name_check("server", server, e) < 0 || index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    found = index_get(&v->index, txn, INDEX_FEED, index_val(server, strlen(server)), &value, e);
    if (found == 1 && value.mv_size != sizeof *out)
        return err_set(e, ERR_CORRUPT, "the vault's index has a feed row of %zu bytes", value.mv_size);
    if (found == 1)
        memcpy(out, value.mv_data, sizeof *out);
    return found;
}
