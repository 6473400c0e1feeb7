/* read: a record by its name, from the cache or its segment, checked. */
#include "vault/internal.h"

#include <stdlib.h>

#define MOVED_RETRIES 4 /* vault_gc moved the record between look-up and open */

/* From its segment's file, or from where that went. What is damaged here and kept in the bucket is read from there, and comes back from there. */
static int read_place(struct vault *v, const struct chunk_place *place, unsigned how, uint8_t *scratch, struct record *r, struct err *e)
{
    struct err here = {0}, there = {0};

    if (segment_read(v->segment_dir, place->segment, place->offset, RECORD_HEADER_SIZE + place->stored_size, scratch, r, &here) == 0) {
        bucket_used(v->bucket, place->segment);
        return 0;
    }
    if (here.kind == ERR_NOT_FOUND || here.kind == ERR_CORRUPT) {
        if (bucket_read(v, place, how, scratch, r, &there) == 0)
            return 0;
        if (here.kind == ERR_NOT_FOUND || there.kind != ERR_NOT_FOUND)
            here = there;
    }
    return err_set(e, here.kind, "%s", here.message);
}

/* *place: where it was looked for last; raw_size 0: the index does not have it. */
static int find_and_read(struct vault *v, const struct vault_hash *hash, size_t raw_size, unsigned how, uint8_t **scratch, struct record *r,
                         struct chunk_place *place, struct err *e)
{
    char text[VAULT_HASH_TEXT_SIZE];

    for (int attempt = 0;; attempt++) {
        struct err why = {0};
        int found;

        *place = (struct chunk_place){0};
        pthread_mutex_lock(&v->append_lock);
        found = place_find(v, hash, place, e);
        pthread_mutex_unlock(&v->append_lock);
        if (found < 0)
            return -1;
        if (found == 0 || (raw_size && place->raw_size != raw_size) || place->raw_size > RECORD_RAW_LIMIT ||
            place->stored_size > RECORD_RAW_LIMIT + SEAL_OVERHEAD + 8)
            return err_set(e, ERR_CORRUPT, "chunk %s is missing from the vault", vault_hash_text(hash, text));
        *scratch = xrealloc(*scratch, RECORD_HEADER_SIZE + place->stored_size);
        if (read_place(v, place, how, *scratch, r, &why) == 0)
            return vault_hash_same(&r->hash, hash) && r->raw_size == place->raw_size
                       ? seal_open_record(v->seal, place->segment, r, *scratch + RECORD_HEADER_SIZE, e)
                       : err_set(e, ERR_CORRUPT, "another record lies where chunk %s should", vault_hash_text(hash, text));
        if (why.kind != ERR_NOT_FOUND || attempt >= MOVED_RETRIES)
            return err_set(e, why.kind == ERR_NOT_FOUND ? ERR_CORRUPT : why.kind, "chunk %s: %.800s", vault_hash_text(hash, text),
                           why.message);
    }
}

static void note_damage(struct vault *v, const struct vault_hash *hash, const struct chunk_place *place, unsigned how, const struct err *why)
{
    if (why->kind == ERR_CORRUPT && (place->raw_size || !(how & READ_PERHAPS)))
        chunk_mark_bad(v, hash);
}

/* The pages of a part, from the record that holds them. */
static int read_part(struct vault *v, const struct record_part *part, uint8_t *raw, unsigned how, struct chunk_place *place, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *scratch = NULL;
    uint8_t whole[VAULT_CHUNK_BYTES];
    struct record r;

    if (find_and_read(v, &part->name, VAULT_CHUNK_BYTES, how, &scratch, &r, place, e) < 0)
        return -1;
    if (r.codec >= CODEC_DELTA || !(how & READ_CACHED))
        return record_own_pages(&r, scratch + RECORD_HEADER_SIZE, part->mask, v->seal, raw, e);
    if (record_unpack(&r, scratch + RECORD_HEADER_SIZE, v->seal, whole, e) < 0)
        return -1;
    cache_put(v->cache, &part->name, whole, sizeof whole);
    record_copy_pages(raw, part->mask, whole);
    return 0;
}

static int load_part(struct vault *v, const struct record_part *part, uint8_t *raw, unsigned how, struct err *e)
{
    uint8_t whole[VAULT_CHUNK_BYTES];
    struct chunk_place place;
    struct err why = {0};

    if (how & READ_CACHED && cache_get(v->cache, &part->name, sizeof whole, 0, whole, sizeof whole)) {
        record_copy_pages(raw, part->mask, whole);
        return 0;
    }
    if (read_part(v, part, raw, how, &place, &why) == 0)
        return 0;
    note_damage(v, &part->name, &place, how, &why);
    /* One that lacks a page is not damaged: whoever asks reads what nothing uses any more, a point that was dropped meanwhile. */
    return err_set(e, why.kind == ERR_NOT_FOUND ? ERR_CORRUPT : why.kind, "%s", why.message);
}

int record_restore(struct vault *v, const struct record *r, const void *payload, void *raw, unsigned how, struct err *e)
{
    struct record_pages p;
    struct err why = {0};
    char text[VAULT_HASH_TEXT_SIZE];
    bool divided = r->codec >= CODEC_DELTA && record_pages_of(r, payload, &p, NULL) == 0;

    if (divided && !record_pages_whole(&p)) /* no damage: nobody should have asked for it */
        return err_set(e, ERR_CORRUPT, "of chunk %s there are only those pages left that others need", vault_hash_text(&r->hash, text));
    /* A part that can't be read is at fault then, and marked: this one is whole again when it is. */
    for (size_t i = 0; divided && i < p.part_count; i++)
        if (load_part(v, &p.parts[i], raw, how, &why) < 0)
            return err_set(e, why.kind, "a part of chunk %s: %.800s", vault_hash_text(&r->hash, text), why.message);
    if (record_unpack(r, payload, v->seal, raw, &why) == 0)
        return 0;
    if (why.kind == ERR_CORRUPT)
        chunk_mark_bad(v, &r->hash);
    return err_set(e, why.kind, "%s", why.message);
}

/* raw_size 0: any, past the cache; *bytes is then made. */
static int load_record(struct vault *v, const struct vault_hash *hash, size_t raw_size, unsigned how, uint8_t **bytes, size_t *size, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *scratch = NULL, *made = NULL;
    struct chunk_place place;
    struct err why = {0};
    struct record r;
    uint8_t *raw;

    if (find_and_read(v, hash, raw_size, how, &scratch, &r, &place, &why) < 0) {
        note_damage(v, hash, &place, how, &why);
        return err_set(e, why.kind, "%s", why.message);
    }
    raw = raw_size ? *bytes : (made = xmalloc(r.raw_size));
    if (record_restore(v, &r, scratch + RECORD_HEADER_SIZE, raw, how, &why) < 0)
        return err_set(e, why.kind, "segment %u at %u: %.900s", place.segment, place.offset, why.message);
    *bytes = raw;
    *size = r.raw_size;
    made = NULL;
    return 0;
}

static int get(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, unsigned how, struct err *e)
{
    uint8_t *into = bytes;
    size_t size;

    MUST(raw_size > 0);
    if (cache_get(v->cache, hash, raw_size, 0, bytes, raw_size))
        return 0;
    if (load_record(v, hash, raw_size, how, &into, &size, e) < 0)
        return -1;
    cache_put(v->cache, hash, bytes, raw_size);
    return 0;
}

int record_get(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, struct err *e)
{
    return get(v, hash, bytes, raw_size, READ_CACHED, e);
}

int record_get_perhaps(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, struct err *e)
{
    return get(v, hash, bytes, raw_size, READ_CACHED | READ_PERHAPS, e);
}

int record_get_here(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, struct err *e)
{
    return get(v, hash, bytes, raw_size, READ_CACHED | READ_HERE, e);
}

int record_get_briefly(struct vault *v, const struct vault_hash *hash, void *bytes, size_t raw_size, struct err *e)
{
    return get(v, hash, bytes, raw_size, READ_CACHED | READ_BRIEFLY, e);
}

int record_get_any(struct vault *v, const struct vault_hash *hash, uint8_t **bytes, size_t *size, struct err *e)
{
    return load_record(v, hash, 0, READ_PERHAPS, bytes, size, e);
}

/* 1: it is there for others only: its own pages are good; 0: it is to be read whole. */
static int check_own_pages(struct vault *v, const struct vault_hash *hash, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *scratch = NULL;
    uint8_t raw[VAULT_CHUNK_BYTES];
    struct chunk_place place = {0};
    struct record_pages p;
    struct record r;
    int whole = 1, divided;

    pthread_mutex_lock(&v->append_lock);
    divided = pages_find(v, hash, &p, e);
    if (divided == 1)
        whole = pages_are_there(v, &p, true, e);
    pthread_mutex_unlock(&v->append_lock);
    if (divided == 0 || (divided == 1 && whole == 1))
        return 0;
    if (divided == 1 && whole == 0 && find_and_read(v, hash, VAULT_CHUNK_BYTES, 0, &scratch, &r, &place, e) == 0 &&
        record_own_pages(&r, scratch + RECORD_HEADER_SIZE, p.own, v->seal, raw, e) == 0)
        return 1;
    note_damage(v, hash, &place, divided < 0 || whole < 0 ? 0 : READ_PERHAPS, e);
    return -1;
}

int record_check(struct vault *v, const struct vault_hash *hash, size_t *size, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *raw = NULL;
    struct err why = {0};
    int own = check_own_pages(v, hash, &why);

    if (own == 0)
        return record_get_any(v, hash, &raw, size, e);
    *size = VAULT_CHUNK_BYTES;
    return own < 0 ? err_set(e, why.kind, "%s", why.message) : 0;
}
