/* vault: opening one: what it says of itself, its keys, its parts, who else has it. */
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
#include <unistd.h>

#define VAULT_VERSION 3        /* 2 did not know of a bucket */
#define VAULT_VERSION_PLAIN 2  /* without one: 1 knew neither records of pages with parts nor encryption */
#define SUPERBLOCK_LIMIT (2u << 20)
#define DEFAULT_SEGMENT_BYTES (UINT64_C(64) << 20)
#define DEFAULT_GUARD_BYTES (UINT64_C(256) << 20)
#define DEFAULT_CACHE_BYTES ((size_t)64 << 20)
#define DEFAULT_WORK_MEMORY_BYTES ((size_t)512 << 20)

/* With this file an encrypted vault would lose its keys: the same bytes lie beside it. It counts; a copy that is not there yet, or of before,
 * is made when the vault is opened. */
static int copy_superblock(const char *path, const char *text, size_t size, struct err *e)
{
    CLEANUP(free_ptr) char *copy = xasprintf("%s.copy", path);
    CLEANUP(buf_release) struct buf there = {0};

    buf_init(&there, SUPERBLOCK_LIMIT);
    if (file_read(copy, SUPERBLOCK_LIMIT, &there, NULL) == 0 && there.size_bytes == size && memcmp(there.data, text, size) == 0)
        return 0;
    return file_write(copy, text, size, 0600, e);
}

/* The text is the vault's. With append_lock held, once it is open. */
static void keep_superblock(struct vault *v, char *text)
{
    free(v->superblock);
    v->superblock = text;
}

/* Once the vault is open, the copy comes first, and must: what is sealed from now on would be lost with the one file that knows the new data key. */
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
    if ((v->superblock && copy_superblock(path, text, strlen(text), e) < 0) || file_write(path, text, strlen(text), 0600, e) < 0)
        return -1;
    if (!v->superblock)
        (void)copy_superblock(path, text, strlen(text), NULL);
    keep_superblock(v, text);
    text = NULL;
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
    CLEANUP(json_free) json_t *j = NULL;
    int found;

    buf_init(&text, SUPERBLOCK_LIMIT);
    found = v->bucket ? bucket_superblock(v->bucket, &text, e) : 0;
    if (found < 0 || (found == 1 && json_read(text.data ? text.data : "", text.size_bytes, &j, e) < 0))
        return err_wrap(e, found < 0 ? "whether the bucket holds this vault" : "vault.json in the bucket is damaged: put there a copy of it that is whole, under the same key");
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

/* DIR/vault.json says what this folder is and gives it the identity that its segments carry. *taken_over: it came from the bucket. *changed: it is to be written anew, before anything
 * else is. */
static int superblock(struct vault *v, bool *taken_over, bool *changed, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/vault.json", v->dir);
    CLEANUP(buf_release) struct buf text = {0};
    CLEANUP(json_free) json_t *j = NULL;
    const char *format, *words;
    CLEANUP(free_ptr) char *copy = xasprintf("%s.copy", path);
    int64_t version;
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
    *changed = version < VAULT_VERSION_PLAIN; /* before anything is written that an older Slipway would not know */
    if (take_bucket(v, json_object_get(j, "bucket"), changed, e) < 0 || take_keys(v, json_object_get(j, "sealed"), changed, e) < 0)
        return -1;
    (void)copy_superblock(path, text.data, text.size_bytes, NULL);
    keep_superblock(v, buf_take(&text));
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
         pthread_mutex_init(&v->append_lock, NULL) == 0 && pthread_mutex_init(&v->gc_run_lock, NULL) == 0 && pthread_mutex_init(&v->loan_lock, NULL) == 0);
    pthread_rwlockattr_destroy(&attributes);
}

static void free_vault(struct vault *v)
{
    bucket_close(&v->bucket);
    json_free(&v->bucket_place);
    free(v->bucket_text);
    free(v->superblock);
    segment_close(&v->current);
    for (size_t i = 0; i < v->full_count; i++)
        segment_close(&v->full[i]);
    free(v->full);
    pending_release(&v->pending);
    staged_release(v);
    free(v->drops);
    json_free(&v->pins_waiting);
    vault_report_release(&v->anew.damage);
    hash_set_release(&v->bad);
    free(v->bad_unwritten);
    index_close(&v->index);
    seal_free(&v->seal);
    cache_free(&v->cache);
    close_fd(&v->lock_fd);
    pthread_rwlock_destroy(&v->gc_lock);
    pthread_mutex_destroy(&v->commit_lock);
    pthread_mutex_destroy(&v->append_lock);
    pthread_mutex_destroy(&v->gc_run_lock);
    pthread_mutex_destroy(&v->loan_lock);
    free(v->loans);
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

/* Without it nobody would know of the claim to write there, and what lies there would neither be read nor given back. */
static int need_bucket(struct vault *v, struct err *e)
{
    int used = v->bucket ? 0 : bucket_was_used(v, e);

    return used <= 0 ? used : err_set(e, ERR_INVALID, "segments lie in %s: open the vault with its bucket (--s3-…)", v->bucket_text ? v->bucket_text : "a bucket");
}

static int open_parts(struct vault *v, struct err *e)
{
    bool taken_over = false, changed = false;

    if (file_make_dirs(v->segment_dir, 0700, e) < 0 || lock_out_others(v, e) < 0 ||
        (v->options.bucket && bucket_open(v, v->options.bucket, &v->bucket, e) < 0) || superblock(v, &taken_over, &changed, e) < 0 ||
        (v->bucket && bucket_begin(v->bucket, taken_over, e) < 0) || (changed && write_superblock(v, e) < 0) || /* it names no bucket that was found to be another vault's */
        index_open(v->index_dir, &v->index, e) < 0 || sync_names(v, e) < 0)
        return -1;
    if (segments_recover(v, e) < 0 || (v->options.bucket_needed && need_bucket(v, e) < 0))
        return -1;
    return load_bad(v, e) < 0 || disks_load(v, e) < 0 || (v->bucket && bucket_start(v->bucket, e) < 0) ? -1 : 0;
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

const struct vault_anew *vault_anew(const struct vault *v) { return &v->anew; }

void vault_close(struct vault **v)
{
    if (!*v)
        return;
    (void)vault_sync(*v, NULL); /* what can't be synced was never said to be durable */
    free_vault(*v);
    *v = NULL;
}

bool chunk_row(MDB_val key, MDB_val value, struct vault_hash *hash, struct chunk_place *place)
{
    if (key.mv_size != sizeof *hash || value.mv_size != sizeof *place)
        return false;
    memcpy(hash, key.mv_data, sizeof *hash);
    memcpy(place, value.mv_data, sizeof *place);
    return true;
}

int records_count(struct vault *v, uint64_t *count, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;

    return index_begin(&v->index, false, &txn, e) < 0 ? -1 : index_count(&v->index, txn, INDEX_CHUNK, count, e);
}
