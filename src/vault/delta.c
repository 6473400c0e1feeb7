/* delta: a small change inside a chunk is kept as the pages that are new, and the names of the records that hold the others: a chunk's record
 * has *parts*, and what is taken from a part are the pages that the part's record holds itself. So a read costs sixteen records at most,
 * however often a chunk has changed; each page is stored once; and one that no chunk in use names any more is given back (gc.c). */
#include "vault/internal.h"

#include <stddef.h>
#include <string.h>

#define PAGES_MOST 8 /* of 16: a change of more is kept whole */

/* ---- rows ---- */

size_t pages_row_size(const struct record_pages *p) { return offsetof(struct record_pages, parts) + p->part_count * sizeof p->parts[0]; }

/* A row of version 1: base, mask. */
struct base_row {
    struct vault_hash name;
    uint32_t mask;
};

int pages_row_decode(MDB_val value, struct record_pages *out, struct err *e)
{
    struct record_pages p = {0};
    struct base_row base;

    if (value.mv_size == sizeof base) {
        memcpy(&base, value.mv_data, sizeof base);
        p = (struct record_pages){.own = (uint16_t)base.mask, .part_count = 1, .parts = {{base.name, (uint16_t)~base.mask}}};
    } else if (value.mv_size <= sizeof p) {
        memcpy(&p, value.mv_data, value.mv_size);
    }
    if (value.mv_size != sizeof base && (p.part_count > RECORD_PARTS_MOST || value.mv_size != pages_row_size(&p)))
        return err_set(e, ERR_CORRUPT, "the vault's index has a row of a chunk's pages of %zu bytes", value.mv_size);
    *out = p;
    return 0;
}

int pages_find(struct vault *v, const struct vault_hash *hash, struct record_pages *out, struct err *e)
{
    const struct pending_chunk *pending = pending_find(&v->pending, hash);
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    MDB_val value;
    int found;

    if (pending && pending->pages)
        *out = *pending->pages;
    if (pending)
        return pending->pages != NULL;
    if (index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    found = index_get(&v->index, txn, INDEX_BASE, index_val(hash, sizeof *hash), &value, e);
    return found == 1 && pages_row_decode(value, out, e) < 0 ? -1 : found;
}

static int part_is_there(struct vault *v, const struct record_part *part, bool damaged, struct err *e)
{
    struct chunk_place place;
    struct record_pages p;
    int found = place_find(v, &part->name, &place, e), divided;

    if (found != 1 || (!damaged && hash_set_has(&v->bad, &part->name) && !pending_find(&v->pending, &part->name)))
        return found < 0 ? -1 : 0;
    divided = pages_find(v, &part->name, &p, e);
    return divided == 1 ? (part->mask & ~p.own) == 0 : divided < 0 ? -1 : 1;
}

int pages_are_there(struct vault *v, const struct record_pages *p, bool damaged, struct err *e)
{
    int there = record_pages_whole(p);

    for (size_t i = 0; there == 1 && i < p->part_count; i++)
        there = part_is_there(v, &p->parts[i], damaged, e);
    return there;
}

/* ---- storing ---- */

static void add_part(struct record_pages *p, const struct vault_hash *name, uint32_t mask)
{
    if (mask == 0)
        return;
    MUST(p->part_count < RECORD_PARTS_MOST);
    p->parts[p->part_count++] = (struct record_part){*name, (uint16_t)mask};
}

/* What the chunk would be made of: 1; 0: it is better kept whole. append_lock held. */
static int choose_parts(struct vault *v, const struct vault_hash *near, uint32_t mask, const struct vault_hash *hash, struct record_pages *out,
                        struct err *e)
{
    struct record_pages p = {.own = RECORD_ALL_PAGES};
    struct chunk_place place;
    int known = place_find(v, hash, &place, e);

    /* One that is there in part, or damaged, is wanted whole: something may lie on it, and a whole one has every page. */
    if (known || vault_hash_is_zero(near) || __builtin_popcount(mask) > PAGES_MOST || pages_find(v, near, &p, e) < 0)
        return known < 0 ? -1 : 0;
    *out = (struct record_pages){.own = (uint16_t)mask};
    add_part(out, near, p.own & ~mask);
    for (size_t i = 0; i < p.part_count; i++)
        add_part(out, &p.parts[i].name, p.parts[i].mask & ~mask);
    return record_pages_whole(out);
}

/* gc_lock shared: 1 appended or there; 0: to be kept whole. */
static int add_pages(struct vault *v, const struct vault_hash *near, uint32_t mask, const uint8_t *raw, const struct vault_hash *hash, uint64_t *stored,
                     struct err *e)
{
    CLEANUP(free_ptr) uint8_t *packed = NULL;
    struct record_pages p;
    size_t span = 0;
    int found, chosen = 0;

    pthread_mutex_lock(&v->append_lock);
    found = have(v, hash, VAULT_CHUNK_BYTES, e);
    if (found == 0)
        chosen = choose_parts(v, near, mask, hash, &p, e);
    pthread_mutex_unlock(&v->append_lock);
    if (found || chosen <= 0)
        return found < 0 || chosen < 0 ? -1 : found;
    span = record_pack_pages(&p, raw, hash, &packed);
    pthread_mutex_lock(&v->append_lock);
    found = have(v, hash, VAULT_CHUNK_BYTES, e); /* somebody else may have sent it meanwhile */
    if (found == 0 && (chosen = pages_are_there(v, &p, false, e)) == 1) {
        chosen = record_append(v, RECORD_CHUNK, packed, span, VAULT_CHUNK_BYTES, hash, &p, e) < 0 ? -1 : 1;
        note_use(v, hash, &p);
        *stored = span;
    }
    pthread_mutex_unlock(&v->append_lock);
    return found ? found : chosen;
}

int vault_store_delta(struct vault *v, const struct vault_hash *base, uint32_t mask, const void *pages, struct vault_hash *hash,
                      uint64_t *stored_bytes, struct err *e)
{
    uint8_t raw[VAULT_CHUNK_BYTES] = {0};
    struct vault_hash name, kept, near = *base;
    struct err why = {0};
    uint64_t stored = 0;
    int added;

    MUST(mask && mask >> VAULT_CHUNK_PAGES == 0);
    if (vault_hash_is_unknown(base))
        return 0;
    seal_name(v->seal, &near);
    if (!vault_hash_is_zero(base) && record_get_briefly(v, &near, raw, sizeof raw, &why) < 0)
        return why.kind == ERR_CORRUPT || why.kind == ERR_UNREACHABLE ? 0 : err_set(e, why.kind, "%s", why.message);
    record_lay_pages(raw, mask, pages);
    if (vault_bytes_are_zero(raw, sizeof raw)) {
        *hash = vault_hash_zero;
        if (stored_bytes)
            *stored_bytes = 0;
        return 1;
    }
    vault_hash_of(raw, sizeof raw, &name);
    kept = name;
    seal_name(v->seal, &kept);
    use_begin(v);
    added = add_pages(v, &near, mask, raw, &kept, &stored, e);
    if (added == 0)
        added = record_add(v, RECORD_CHUNK, raw, sizeof raw, &kept, &stored, e) < 0 ? -1 : 1;
    use_end(v);
    if (added < 0)
        return -1;
    *hash = name;
    if (stored_bytes)
        *stored_bytes = stored;
    return sync_when_much(v, e) < 0 ? -1 : 1;
}
