/* offers: what the agent sends becomes the working map, in the order of the offers' numbers (docs/formats/wire.md, "Order"). */
#include "replicator/session.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define ASKED_LIMIT (4u * WINDOW_OFFERS * WIRE_OFFER_CHUNKS)
#define PAGES_LIMIT (256u << 20) /* that wait in memory; the offers of our agents have 32 chunks: a window full of them is half of it */

static void offer_free(struct offer *o)
{
    for (unsigned i = 0; o->pages && i < o->offer.count; i++)
        free(o->pages[i]);
    free(o->pages);
    free(o);
}

static void offer_release(struct offer **o)
{
    if (*o)
        offer_free(*o);
}

void offers_release(struct session *s)
{
    while (s->first) {
        struct offer *o = s->first;

        s->first = o->next;
        offer_free(o);
    }
    s->last = &s->first;
    s->offer_count = 0;
    s->pages_bytes = 0;
    hash_set_release(&s->asked);
}

static const struct vault_hash *entry_hash(const struct wire_entry *entry)
{
    _Static_assert(sizeof(struct vault_hash) == HASH_SHA256_SIZE, "a hash is its bytes");
    return (const struct vault_hash *)entry->hash;
}

/* ---- applying ---- */

static void count_stored(struct session *s, uint64_t stored)
{
    pthread_mutex_lock(&s->p->lock);
    s->p->stored_bytes += stored;
    pthread_mutex_unlock(&s->p->lock);
}

/* New pages over what the map holds by now: every offer before this one has been applied. 1/0/-1 as vault_map. */
static int map_pages(struct session *s, const struct vault_disk *d, const struct wire_entry *entry, const uint8_t *pages, struct err *e)
{
    struct vault_hash base, name;
    uint64_t stored = 0;
    int found = vault_map_get(s->r->vault, d, entry->chunk, &base, e);

    if (found == 0)
        found = vault_store_delta(s->r->vault, &base, entry->pages, pages, &name, &stored, e);
    if (found <= 0)
        return found;
    count_stored(s, stored);
    return vault_map(s->r->vault, d, entry->chunk, &name, e);
}

static int map_entry(struct session *s, const struct vault_disk *d, const struct wire_entry *entry, const uint8_t *pages, struct err *e)
{
    bool waited = false;

    for (;;) {
        struct err why = {0};
        int found = entry->zero    ? vault_map_zero(s->r->vault, d, entry->chunk, 1, &why)
                    : entry->pages ? map_pages(s, d, entry, pages, &why)
                                   : vault_map(s->r->vault, d, entry->chunk, entry_hash(entry), &why);

        if (waited && found >= 0)
            session_trouble_over(s);
        if (found == 1 || (found == 0 && entry->zero))
            return 0;
        if (found == 0)
            return err_set(e, ERR_UNREACHABLE, "chunk %u of disk %s is not there any more: the agent must offer it again, whole", entry->chunk, d->id);
        if (why.kind != ERR_NO_SPACE)
            return err_set(e, why.kind, "%s", why.message);
        if (session_wait_for_room(s, &why) < 0)
            return err_set(e, ERR_CANCELLED, "stopping");
        waited = true;
    }
}

static int apply_first(struct session *s, struct err *e)
{
    struct offer *o = s->first;
    struct vault_feed feed = {.applied = o->offer.number};

    for (unsigned i = 0; i < o->offer.count; i++)
        if (map_entry(s, &s->disks[o->offer.disk], &o->offer.entries[i], o->pages ? o->pages[i] : NULL, e) < 0)
            return -1;
    memcpy(feed.epoch, s->hello.epoch, sizeof feed.epoch);
    pthread_mutex_lock(&s->p->lock);
    feed.stored_bytes = s->p->stored_bytes;
    s->p->offers_since_point++;
    pthread_mutex_unlock(&s->p->lock);
    if (vault_feed_set(s->r->vault, s->hello.server, &feed, e) < 0 && (!e || e->kind != ERR_NO_SPACE))
        return -1; /* where there was no room, it is pending still, and the acker syncs it */
    s->first = o->next;
    s->offer_count--;
    s->pages_bytes -= o->pages_bytes;
    if (!s->first) {
        s->last = &s->first;
        hash_set_release(&s->asked);
    }
    offer_free(o);
    pthread_mutex_lock(&s->lock);
    s->applied = feed.applied;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* ---- points ---- */

/* The moment by our clock: the source's word where it lies between question and answer, else when it was asked for (the older). */
static int64_t moment_of(const struct session *s, int64_t asked_us)
{
    return s->point.at_us >= asked_us && s->point.at_us <= s->barrier_us ? s->point.at_us : asked_us;
}

static int point_failed(struct session *s, int64_t request, const struct err *why, struct err *e)
{
    struct wire_failure failure = {.request = request};
    struct slot *slot;

    snprintf(failure.kind, sizeof failure.kind, "%s", err_meaning(why->kind)->name);
    snprintf(failure.message, sizeof failure.message, "%.500s", why->message);
    pthread_mutex_lock(&s->p->lock);
    s->p->point_trouble = *why;
    slot = slot_answered(s->p, SLOT_POINT, request);
    if (slot) {
        slot->e = *why;
        slot_finish(s->p, slot);
    }
    pthread_mutex_unlock(&s->p->lock);
    return wire_send_message(s->conn, WIRE_POINT_FAILED, &failure, e);
}

/* The vault has no such point. Where a part of the map is not there though the agent has offered all (damage was found while it did), it must offer it again:
 * it does so once it greets anew. */
static int not_stored(struct session *s, const struct err *why, struct err *e)
{
    if (point_failed(s, s->point.request, why, e) < 0)
        return -1;
    return why->kind == ERR_WRONG_STATE ? err_set(e, ERR_UNREACHABLE, "%.900s: the agent must offer again what is missing", why->message) : 0;
}

static void point_made(struct session *s, const char *id, int64_t at_us)
{
    struct peer *p = s->p;
    struct slot *slot;

    pthread_mutex_lock(&p->lock);
    memcpy(p->newest, id, strlen(id) + 1);
    p->newest_at_us = at_us;
    p->pointed_us = clock_now_us();
    p->newest_unreadable = s->unreadable;
    p->pointed = true;
    p->offers_since_point = 0;
    p->status.held = p->status.held || s->point.held; /* the next STATUS says so, too */
    err_clear(&p->point_trouble);
    slot = slot_answered(p, SLOT_POINT, s->point.request);
    if (slot) {
        memcpy(slot->point, id, strlen(id) + 1);
        slot->held = s->point.held;
        slot_finish(p, slot);
    }
    pthread_mutex_unlock(&p->lock);
}

/* The schedule's point where nothing has changed since the newest: that one stands for this moment, too, unless somebody has dropped it. */
static bool nothing_new(struct session *s, char id[static VAULT_POINT_ID_SIZE], int64_t *asked_us)
{
    CLEANUP(free_ptr) struct vault_point *there = xcalloc(1, sizeof *there);
    struct slot *slot;
    bool quiet;

    pthread_mutex_lock(&s->p->lock);
    slot = slot_answered(s->p, SLOT_POINT, s->point.request);
    quiet = slot && slot->quiet && s->p->offers_since_point == 0 && s->p->newest[0] &&
            memcmp(&s->p->newest_unreadable, &s->unreadable, sizeof s->unreadable) == 0;
    *asked_us = slot ? slot->asked_wall_us : s->barrier_us;
    memcpy(id, s->p->newest, VAULT_POINT_ID_SIZE);
    pthread_mutex_unlock(&s->p->lock);
    return quiet && vault_point_get(s->r->vault, id, there, NULL) == 1;
}

/* Whether the point was asked for in step with other servers, and then their group, once all stand still. */
static bool asked_in_step(struct session *s, struct vault_group *group, bool *released)
{
    struct slot *slot;
    bool in_step;

    pthread_mutex_lock(&s->p->lock);
    slot = slot_answered(s->p, SLOT_POINT, s->point.request);
    in_step = slot && slot->in_step;
    *released = in_step && slot->group;
    if (*released)
        *group = *slot->group;
    pthread_mutex_unlock(&s->p->lock);
    return in_step;
}

int offers_unreadable(const struct session *s, const struct wire_point *p, struct vault_unreadable *out, struct err *e)
{
    *out = (struct vault_unreadable){.bytes = (uint64_t)p->unreadable_bytes, .range_count = (size_t)p->range_count};
    if ((p->unreadable_bytes == 0) != (p->range_count == 0) || p->unreadable_bytes % WIRE_SECTOR_SIZE)
        return err_set(e, ERR_PROTOCOL, "POINT_COMMIT with %lld unreadable bytes in %lld places", (long long)p->unreadable_bytes, (long long)p->range_count);
    for (size_t i = 0; i < out->range_count; i++) {
        const struct wire_range *r = &p->ranges[i];

        if (r->disk >= s->hello.disk_count || (r->first_sector + r->sector_count) * WIRE_SECTOR_SIZE > s->hello.disks[r->disk].size_bytes)
            return err_set(e, ERR_PROTOCOL, "POINT_COMMIT with unreadable sectors behind a disk's end");
        memcpy(out->ranges[i].disk, s->hello.disks[r->disk].id, sizeof out->ranges[i].disk);
        out->ranges[i].first_sector = (uint64_t)r->first_sector;
        out->ranges[i].sector_count = (uint64_t)r->sector_count;
    }
    return 0;
}

/* A point of a group is staged: whether it counts is for the group to say. */
static int stage_point(struct session *s, const struct vault_group *group, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *made = xcalloc(1, sizeof *made);
    struct err why = {0};
    struct slot *slot;

    if (vault_point_stage(s->r->vault, group, s->hello.server, wire_consistency_name(s->point.consistency), s->point.freeze_ms, &s->unreadable, made, &why) < 0)
        return not_stored(s, &why, e);
    pthread_mutex_lock(&s->p->lock);
    slot = slot_answered(s->p, SLOT_POINT, s->point.request);
    if (slot) {
        memcpy(slot->point, made->id, sizeof slot->point);
        slot->unreadable = s->unreadable;
        slot_finish(s->p, slot);
    }
    pthread_mutex_unlock(&s->p->lock);
    if (!slot)
        vault_point_unstage(s->r->vault, made->id);
    return 0;
}

static int commit_point(struct session *s, struct err *e)
{
    CLEANUP(free_ptr) struct vault_point *made = xcalloc(1, sizeof *made);
    struct wire_point_done done = {.request = s->point.request};
    char newest[VAULT_POINT_ID_SIZE];
    struct err why = {0};
    struct vault_group group;
    int64_t asked_us;
    bool in_step, released;

    s->barrier = false;
    if (s->copies)
        return copy_in_committed(s, e);
    in_step = asked_in_step(s, &group, &released);
    if (s->point.group && released)
        return stage_point(s, &group, e);
    if (s->point.group || in_step) {
        err_set(&why, ERR_WRONG_STATE, "a point of a group that nobody waits for, or not all of whose servers stand still");
        return point_failed(s, s->point.request, &why, e);
    }
    if (nothing_new(s, newest, &asked_us)) {
        memcpy(done.point, newest, sizeof newest);
    } else {
        if (vault_point_commit_marked(s->r->vault, s->hello.server, moment_of(s, asked_us), wire_consistency_name(s->point.consistency),
                                      s->point.freeze_ms, &s->unreadable, made, &why) < 0)
            return not_stored(s, &why, e);
        memcpy(done.point, made->id, sizeof made->id);
    }
    point_made(s, done.point, moment_of(s, asked_us));
    return wire_send_message(s->conn, WIRE_POINT_DONE, &done, e);
}

/* Goes on as far as content and order allow. */
static int go_on(struct session *s, struct err *e)
{
    for (;;) {
        if (s->barrier && (!s->first || s->first->offer.number > s->barrier_after)) {
            if (commit_point(s, e) < 0)
                return -1;
        } else if (s->first && s->first->missing == 0) {
            if (apply_first(s, e) < 0)
                return -1;
        } else {
            return 0;
        }
    }
}

int offers_barrier(struct session *s, struct err *e)
{
    s->barrier = true;
    s->barrier_after = s->last_number;
    s->barrier_us = clock_now_us();
    return go_on(s, e);
}

int offers_point(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_point point;
    struct err why = {0};

    if (wire_json_decode(WIRE_POINT_COMMIT, f->payload, f->size, &point, sizeof point, e) < 0)
        return -1;
    if (!slot_committed(s->p, point.request)) {
        err_set(&why, ERR_WRONG_STATE, "a point that nobody asked for");
        return point_failed(s, point.request, &why, e);
    }
    if (s->barrier) { /* whoever asked for that one has given up: what was sent before it travels slowly */
        err_set(&why, ERR_WRONG_STATE, "the point before it is on its way yet: all that was sent before that one must have come first");
        return point_failed(s, point.request, &why, e);
    }
    if (point.consistency == WIRE_ANY)
        return err_set(e, ERR_PROTOCOL, "POINT_COMMIT with consistency %lld", (long long)point.consistency);
    if (offers_unreadable(s, &point, &s->unreadable, e) < 0)
        return -1;
    s->point = point;
    return offers_barrier(s, e);
}

/* ---- offers and data ---- */

static int check_offer(const struct session *s, const struct wire_offer *o, struct err *e)
{
    if (o->disk >= s->hello.disk_count)
        return err_set(e, ERR_PROTOCOL, "an offer for disk %u of %lld", o->disk, (long long)s->hello.disk_count);
    if (o->number <= s->last_number)
        return err_set(e, ERR_PROTOCOL, "offer %llu after offer %llu", (unsigned long long)o->number, (unsigned long long)s->last_number);
    if (s->offer_count >= 2 * WINDOW_OFFERS)
        return err_set(e, ERR_PROTOCOL, "more than %d offers wait for their content", 2 * WINDOW_OFFERS);
    if (o->entries[o->count - 1].chunk >= s->disks[o->disk].chunk_count)
        return err_set(e, ERR_PROTOCOL, "an offer for chunk %u of a disk of %llu", o->entries[o->count - 1].chunk,
                       (unsigned long long)s->disks[o->disk].chunk_count);
    return 0;
}

/* The set must not grow with all that was ever sent: only what is still on its way counts. */
static void keep_asked_small(struct session *s)
{
    if (s->asked.used_count < ASKED_LIMIT)
        return;
    hash_set_release(&s->asked);
    for (struct offer *o = s->first; o; o = o->next)
        for (unsigned i = 0; i < o->offer.count; i++)
            if (wire_needs(&o->need, i) && !o->offer.entries[i].pages)
                hash_set_add(&s->asked, entry_hash(&o->offer.entries[i]));
}

static int find_missing(struct session *s, struct offer *o, struct err *e)
{
    keep_asked_small(s);
    for (unsigned i = 0; i < o->offer.count; i++) {
        const struct wire_entry *entry = &o->offer.entries[i];
        int found = entry->zero;

        if (!found && !entry->pages)
            found = vault_has(s->r->vault, entry_hash(entry), e);
        if (found < 0)
            return -1;
        if (found || (!entry->pages && !hash_set_add(&s->asked, entry_hash(entry))))
            continue;
        if (entry->pages && !o->pages)
            o->pages = xcalloc(o->offer.count, sizeof *o->pages);
        wire_need_set(&o->need, i);
        o->missing++;
    }
    return 0;
}

int offers_take(struct session *s, const struct wire_frame *f, struct err *e)
{
    CLEANUP(free_ptr) struct wire_offer *decoded = xmalloc(sizeof *decoded);
    CLEANUP(offer_release) struct offer *o = NULL;
    CLEANUP(buf_release) struct buf answer = {0};
    size_t offer_size;

    if (wire_offer_decode(f->payload, f->size, decoded, e) < 0 || check_offer(s, decoded, e) < 0)
        return -1;
    offer_size = offsetof(struct wire_offer, entries) + decoded->count * sizeof decoded->entries[0];
    o = xcalloc(1, offsetof(struct offer, offer) + offer_size);
    memcpy(&o->offer, decoded, offer_size);
    o->need.offer = o->offer.number;
    o->need.count = o->offer.count;
    if (find_missing(s, o, e) < 0)
        return -1;
    buf_init(&answer, WIRE_PAYLOAD_LIMIT);
    wire_need_encode(&o->need, &answer);
    s->last_number = o->offer.number;
    *s->last = o;
    s->last = &o->next;
    s->offer_count++;
    o = NULL;
    return wire_send_buf(s->conn, WIRE_NEED, &answer, e) < 0 ? -1 : go_on(s, e);
}

static struct offer *offer_of(struct session *s, uint64_t number)
{
    struct offer *o = s->first;

    while (o && o->offer.number != number)
        o = o->next;
    return o;
}

/* Into s->chunk; its hash is checked where it is stored. */
static int unpack(struct session *s, const struct wire_data_chunk *c, struct err *e)
{
    if (c->codec == WIRE_ZSTD)
        return zip_unpack(s->zip, c->bytes, c->stored_size, s->chunk, WIRE_CHUNK_SIZE, e);
    memcpy(s->chunk, c->bytes, WIRE_CHUNK_SIZE);
    return 0;
}

/* Pages wait in memory until it is the offer's turn: only then it is known what they lie on. */
static int keep_pages(struct session *s, struct offer *o, const struct wire_data_chunk *c, struct err *e)
{
    if (s->pages_bytes + c->raw_size > PAGES_LIMIT)
        return err_set(e, ERR_PROTOCOL, "more than %u MiB of pages wait for the content of the offers before them", PAGES_LIMIT >> 20);
    if (wire_data_unpack(s->zip, c, o->offer.entries[c->entry].hash, s->chunk, e) < 0)
        return -1;
    o->pages[c->entry] = xmalloc(c->raw_size);
    memcpy(o->pages[c->entry], s->chunk, c->raw_size);
    o->pages_bytes += c->raw_size;
    s->pages_bytes += c->raw_size;
    return 0;
}

static int store(struct session *s, const struct wire_data_chunk *c, const struct vault_hash *hash, struct err *e)
{
    for (;;) {
        struct err why = {0};
        uint64_t stored = 0;
        int r = c->codec == WIRE_ZSTD ? vault_store_packed(s->r->vault, s->chunk, c->bytes, c->stored_size, hash, NULL, &stored, &why)
                                      : vault_store(s->r->vault, s->chunk, hash, NULL, &stored, &why);

        if (r == 0) {
            count_stored(s, stored);
            session_trouble_over(s);
            return 0;
        }
        if (why.kind != ERR_NO_SPACE)
            return err_set(e, why.kind, "%s", why.message);
        if (session_wait_for_room(s, &why) < 0)
            return err_set(e, ERR_CANCELLED, "stopping");
    }
}

static int take_chunk(struct session *s, struct offer *o, const struct wire_data_chunk *c, struct err *e)
{
    const struct wire_entry *entry;

    if (c->entry >= o->offer.count || !wire_needs(&o->need, c->entry))
        return err_set(e, ERR_PROTOCOL, "DATA for entry %u of offer %llu, which was not asked for", c->entry,
                       (unsigned long long)o->offer.number);
    entry = &o->offer.entries[c->entry];
    if (c->raw_size != wire_entry_size(entry))
        return err_set(e, ERR_PROTOCOL, "DATA of %u bytes for entry %u of offer %llu", c->raw_size, c->entry, (unsigned long long)o->offer.number);
    if (entry->pages ? keep_pages(s, o, c, e) < 0 : unpack(s, c, e) < 0 || store(s, c, entry_hash(entry), e) < 0)
        return err_wrap(e, "chunk %u of disk %s", o->offer.entries[c->entry].chunk, s->disks[o->offer.disk].id);
    o->need.bitmap[c->entry / 8] &= (uint8_t)~(1u << (c->entry % 8));
    o->missing--;
    return 0;
}

int offers_data(struct session *s, const struct wire_frame *f, struct err *e)
{
    struct wire_data_chunk c;
    struct wire_data data;
    struct offer *o;

    if (wire_data_decode(f->payload, f->size, &data, e) < 0)
        return -1;
    o = offer_of(s, data.offer);
    if (!o)
        return err_set(e, ERR_PROTOCOL, "DATA for offer %llu, which does not wait for any", (unsigned long long)data.offer);
    while (wire_data_next(&data, &c))
        if (take_chunk(s, o, &c, e) < 0)
            return -1;
    return go_on(s, e);
}
