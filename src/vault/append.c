/* append: chunks and other records come in and are appended to the current segment, and what a session says of its server's maps. All of it is pending until
 * commit.c makes it durable. */
#include "vault/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#define PENDING_LIMIT 32768 /* chunks; a caller that never syncs is synced here */

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
    if (v->next_segment > SEGMENT_LAST)
        return err_set(e, ERR_LIMIT, "the vault has a segment of the last number that there is: where it is none of this vault's, take it out, of the bucket as well, and make the index anew");
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
    /* Also of one that is pending: it may be what a collection has left of it, or one that it copied as it was, of which a part was shrunk beside it; and where
     * the collection's flush failed (a full disk), all that is pending still when all go on. */
    if (divided == 1)
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
        use_begin(v);
        r = record_add_packed(v, RECORD_CHUNK, bytes, VAULT_CHUNK_BYTES, packed, packed_size, &kept, &stored, e);
        use_end(v);
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
    use_begin(v);
    pthread_mutex_lock(&v->append_lock);
    found = have(v, &name, VAULT_CHUNK_BYTES, e);
    if (found == 1)
        pending_set_map(&v->pending, d->number, index, 1, &name);
    pthread_mutex_unlock(&v->append_lock);
    use_end(v);
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
