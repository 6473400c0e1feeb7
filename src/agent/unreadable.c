/* Sectors that the source's disks can't be read at: which they are, for as long as the replicator's map holds zero bytes there.
 *
 * The list is what the map holds, not what the disk does just now: it changes in the order of the offers, before each goes out, with what was found when that
 * offer was read. So at a POINT_COMMIT it names exactly the sectors that the point lacks. It lies in what outlives the agent (kept.c): a change that SIGKILL cuts
 * short is of an offer that is on its way still, so its chunks are read and offered again. */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/words.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR_BYTES WIRE_SECTOR_SIZE
#define SECTORS_OF_PAGE (WIRE_PAGE_SIZE / SECTOR_BYTES)

static bool is_none(const struct sectors *s) { return !s->bits[0] && !s->bits[1]; }
static bool has(const struct sectors *s, unsigned sector) { return s->bits[sector / 64] >> (sector % 64) & 1; }

void sectors_add(struct sectors *s, unsigned first, unsigned count)
{
    for (; count; first++, count--)
        s->bits[first / 64] |= UINT64_C(1) << (first % 64);
}

static struct unreadable *find(struct kept *k, uint32_t disk, uint32_t chunk)
{
    for (uint32_t i = 0; i < k->unreadable_count; i++)
        if (k->unreadable[i].disk == disk && k->unreadable[i].chunk == chunk)
            return &k->unreadable[i];
    return NULL;
}

static void set_count(struct kept *k, uint32_t count) { __atomic_store_n(&k->unreadable_count, count, __ATOMIC_SEQ_CST); }

/* What was read of the chunk is known anew, the rest of it as it was. -1: there is no room for another chunk. */
static int set(struct kept *k, uint32_t disk, uint32_t chunk, const struct sectors *read, const struct sectors *bad)
{
    struct unreadable *u = find(k, disk, chunk);

    if (!u && is_none(bad))
        return 0;
    if (!u && k->unreadable_count == UNREADABLE_MOST)
        return -1;
    if (!u) {
        k->unreadable[k->unreadable_count] = (struct unreadable){disk, chunk, *bad};
        set_count(k, k->unreadable_count + 1);
        return 0;
    }
    for (int i = 0; i < 2; i++)
        u->sectors.bits[i] = (u->sectors.bits[i] & ~read->bits[i]) | bad->bits[i];
    if (is_none(&u->sectors)) {
        *u = k->unreadable[k->unreadable_count - 1];
        set_count(k, k->unreadable_count - 1);
    }
    return 0;
}

static struct sectors sectors_of(uint32_t pages)
{
    struct sectors s = {0};

    for (unsigned page = 0; page < WIRE_CHUNK_SIZE / WIRE_PAGE_SIZE; page++)
        if (!pages || pages >> page & 1)
            sectors_add(&s, page * SECTORS_OF_PAGE, SECTORS_OF_PAGE);
    return s;
}

int unreadable_apply(struct agent *a, struct offer *o, struct err *e)
{
    static const struct sectors none;
    int result = 0;

    for (int i = 0; (o->bad || a->kept->unreadable_count) && result == 0 && i < o->count; i++) {
        struct sectors read = sectors_of(o->pages[i]);

        if (set(a->kept, (uint32_t)o->disk, o->chunks[i], &read, o->bad ? &o->bad[o->slot[i]] : &none) < 0)
            result = unreadable_too_much(&a->disks[o->disk], e);
    }
    if (result == 0)
        unreadable_drop(o); /* else it stays: while the link is being ended for it, other threads come to the same offer */
    return result;
}

int unreadable_too_much(const struct agent_disk *d, struct err *e)
{
    return err_set(e, ERR_IO, "disk %s can't be read: sectors of more than %d pieces of 64 KiB are unreadable", d->info.name, UNREADABLE_MOST);
}

void unreadable_drop(struct offer *o)
{
    free(o->bad);
    o->bad = NULL;
}

bool unreadable_full(struct agent *a)
{
    bool full;

    pthread_mutex_lock(&a->lock);
    full = a->kept->unreadable_count == UNREADABLE_MOST;
    pthread_mutex_unlock(&a->lock);
    return full;
}

bool unreadable_knows(struct agent *a, int disk, int64_t from, int64_t size)
{
    bool found = false;

    pthread_mutex_lock(&a->lock);
    for (int64_t chunk = from / WIRE_CHUNK_SIZE; !found && chunk * WIRE_CHUNK_SIZE < from + size; chunk++)
        found = find(a->kept, (uint32_t)disk, (uint32_t)chunk);
    pthread_mutex_unlock(&a->lock);
    return found;
}

/* ---- telling ---- */

static int by_place(const void *one, const void *other)
{
    const struct unreadable *a = one, *b = other;

    return a->disk != b->disk ? (a->disk < b->disk ? -1 : 1) : a->chunk < b->chunk ? -1 : a->chunk > b->chunk;
}

/* Goes on with the last range where it can. */
static void add_sector(struct unreadable_told *t, uint32_t disk, int64_t sector)
{
    struct wire_range *last = t->range_total ? &t->last : NULL;

    t->bytes += SECTOR_BYTES;
    if (last && last->disk == disk && last->first_sector + last->sector_count == sector) {
        last->sector_count++;
    } else {
        t->last = (struct wire_range){.disk = disk, .first_sector = sector, .sector_count = 1};
        t->range_total++;
    }
    if (t->range_total <= WIRE_RANGES)
        t->ranges[t->range_total - 1] = t->last;
}

void unreadable_tell(const struct agent *a, struct unreadable_told *out)
{
    struct unreadable sorted[UNREADABLE_MOST];
    uint32_t count = a->kept->unreadable_count;

    *out = (struct unreadable_told){0};
    memcpy(sorted, a->kept->unreadable, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_place);
    for (uint32_t i = 0; i < count; i++)
        for (unsigned sector = 0; sector < WIRE_CHUNK_SIZE / SECTOR_BYTES; sector++)
            if (has(&sorted[i].sectors, sector))
                add_sector(out, sorted[i].disk, (int64_t)sorted[i].chunk * (WIRE_CHUNK_SIZE / SECTOR_BYTES) + sector);
}

void unreadable_say(const struct agent *a, const struct unreadable_told *t, struct buf *out)
{
    int64_t shown = t->range_total < WIRE_RANGES ? t->range_total : WIRE_RANGES, at = 0;

    words_bytes(out, (double)t->bytes);
    buf_puts(out, " of the source can't be read: ");
    for (; at < shown && out->size_bytes < UNREADABLE_WORDS; at++) {
        const struct wire_range *r = &t->ranges[at];

        if (!at || t->ranges[at - 1].disk != r->disk)
            buf_printf(out, "%sdisk %s, sectors ", at ? "; " : "", a->disks[r->disk].info.name);
        else
            buf_puts(out, ", ");
        buf_printf(out, r->sector_count > 1 ? "%lld to %lld" : "%lld", (long long)r->first_sector, (long long)(r->first_sector + r->sector_count - 1));
    }
    if (at < t->range_total)
        buf_printf(out, ", and %lld more places", (long long)(t->range_total - at));
}

void unreadable_mark_point(struct agent *a, struct wire_point *p)
{
    struct unreadable_told t;

    pthread_mutex_lock(&a->lock);
    unreadable_tell(a, &t);
    pthread_mutex_unlock(&a->lock);
    p->unreadable_bytes = t.bytes;
    p->range_count = t.range_total < WIRE_RANGES ? t.range_total : WIRE_RANGES;
    memcpy(p->ranges, t.ranges, sizeof p->ranges);
}

/* ---- trying again ---- */

static void log_change(struct agent *a, const struct unreadable_told *t)
{
    CLEANUP(buf_release) struct buf words = {0};

    buf_init(&words, WIRE_TEXT_SIZE);
    if (t->bytes) {
        unreadable_say(a, t, &words);
        log_warn("%s; zero bytes stand there in the copy, and its points are marked", words.data);
    } else {
        log_info("all sectors can be read again");
    }
}

void unreadable_look(struct agent *a)
{
    uint32_t count = __atomic_load_n(&a->kept->unreadable_count, __ATOMIC_SEQ_CST);
    struct unreadable again[UNREADABLE_MOST];
    struct unreadable_told t;

    if (!count && !a->unreadable_said)
        return;
    pthread_mutex_lock(&a->lock);
    unreadable_tell(a, &t);
    count = a->kept->unreadable_count;
    memcpy(again, a->kept->unreadable, count * sizeof *again);
    pthread_mutex_unlock(&a->lock);
    if (t.bytes != a->unreadable_said)
        log_change(a, &t);
    a->unreadable_said = t.bytes;
    if (clock_monotonic_us() < a->next_retry_us || !pipeline_may_read_again(a))
        return;
    a->next_retry_us = clock_monotonic_us() + a->config->unreadable_retry_s * US_PER_S;
    for (uint32_t i = 0; i < count; i++)
        todo_set(a, (int)again[i].disk, again[i].chunk);
}

void unreadable_kept(struct agent *a)
{
    struct unreadable left[UNREADABLE_MOST];
    uint32_t count = a->kept->unreadable_count;
    static const struct sectors nothing_read;

    pthread_mutex_lock(&a->lock);
    memcpy(left, a->kept->unreadable, count * sizeof *left);
    set_count(a->kept, 0);
    for (uint32_t i = 0; i < count; i++)
        MUST(set(a->kept, left[i].disk, left[i].chunk, &nothing_read, &left[i].sectors) == 0);
    pthread_mutex_unlock(&a->lock);
    for (uint32_t i = 0; i < count; i++)
        todo_set(a, (int)left[i].disk, left[i].chunk);
}
