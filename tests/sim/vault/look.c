#include "lives.h"

struct model *m;
const char *const pin_reasons[REASONS] = {"export", "person"};

void failed_line(const char *condition, const char *format, ...)
{
    va_list args;

    m->failed++;
    printf("# seed %llu, life %d: %s: ", (unsigned long long)m->seed, m->life, condition);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
}

/* ---- contents ---- */

/* One in four does not compress. */
static void fill_page(uint8_t *page, uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    size_t step = seed % 4 ? 64 : 8;

    for (size_t at = 0; at < VAULT_PAGE_BYTES; at += step) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(page + at, &x, 8);
    }
}

void content_pages(int content, uint8_t *pages)
{
    const struct content *c = &m->contents[content];

    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++)
        if (c->mask & 1u << i) {
            memset(pages, 0, VAULT_PAGE_BYTES);
            fill_page(pages, c->seed + i * 4);
            pages += VAULT_PAGE_BYTES;
        }
}

void content_bytes(int content, uint8_t bytes[static CHUNK])
{
    const struct content *c = &m->contents[content];
    uint8_t pages[CHUNK], *from = pages;

    memset(bytes, 0, CHUNK);
    if (content == ZEROS)
        return;
    if (c->parent != UNKNOWN)
        content_bytes(c->parent, bytes);
    content_pages(content, pages);
    for (unsigned i = 0; i < VAULT_CHUNK_PAGES; i++)
        if (c->mask & 1u << i) {
            memcpy(bytes + i * VAULT_PAGE_BYTES, from, VAULT_PAGE_BYTES);
            from += VAULT_PAGE_BYTES;
        }
}

int content_depth(int content) { return content == ZEROS || m->contents[content].parent == UNKNOWN ? 0 : 1 + content_depth(m->contents[content].parent); }

int content_new(int parent, uint32_t mask, uint64_t seed)
{
    uint8_t bytes[CHUNK];
    int content = m->content_count++;

    MUST(content < CONTENTS_MOST);
    m->contents[content] = (struct content){.parent = parent, .mask = mask, .seed = seed};
    content_bytes(content, bytes);
    vault_hash_of(bytes, sizeof bytes, &m->contents[content].hash);
    return content;
}

static const struct vault_hash *name_of(int content)
{
    return content == UNKNOWN ? &vault_hash_unknown : content == ZEROS ? &vault_hash_zero : &m->contents[content].hash;
}

/* ---- points ---- */

/* The first chunk that differs, -1: none, -2: it can't be read (and *e says why). */
static int first_difference(struct vault *v, const char *id, const struct disk_model *d, const int chunks[static CHUNKS_MOST], struct err *e)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];

    if (vault_image_open(v, id, d->id, &image, e) < 0)
        return -2;
    if (vault_image_size(image) != d->size_bytes)
        return 0;
    for (int c = 0; c < d->chunk_count; c++) {
        uint64_t at = (uint64_t)c * CHUNK, left = d->size_bytes - at;
        struct vault_hash hash;

        if (vault_image_hash(image, (uint64_t)c, &hash, e) < 0)
            return -2;
        if (!vault_hash_same(&hash, name_of(chunks[c])))
            return c;
        if (chunks[c] == ZEROS)
            continue;
        content_bytes(chunks[c], wanted);
        if (vault_image_read(image, bytes, left < CHUNK ? left : CHUNK, at, e) < 0)
            return -2;
        if (memcmp(bytes, wanted, left < CHUNK ? left : CHUNK) != 0)
            return c;
    }
    return -1;
}

static bool point_is(struct vault *v, const char *id, const struct point_model *p, struct err *e)
{
    for (int i = 0; i < DISKS; i++)
        if (m->disks[i].server == p->server && first_difference(v, id, &m->disks[i], p->chunks[i], e) != -1)
            return false;
    m->points_read++;
    return true;
}

void look_at_point(struct vault *v, const struct point_model *p)
{
    struct err e = {0};

    MUST_HOLD(vault_point_usable(v, p->id, &e) == 0, "point %s: %s", p->id, e.message);
    for (int i = 0; i < DISKS; i++) {
        int at = m->disks[i].server == p->server ? first_difference(v, p->id, &m->disks[i], p->chunks[i], &e) : -1;

        MUST_HOLD(at == -1, "point %s, disk %s, chunk %d: %s", p->id, m->disks[i].id, at, at == -2 ? e.message : "another content");
    }
    m->points_read++;
}

struct point_model *find_point(const char *id)
{
    for (int i = 0; i < m->point_count; i++)
        if (m->points[i].standing != ASKED && strcmp(m->points[i].id, id) == 0)
            return &m->points[i];
    return NULL;
}

/* A point that nobody was told of must be one that was asked for. */
static struct point_model *adopt_point(struct vault *v, int server, const struct vault_point *found)
{
    for (int i = m->point_count; i-- > 0;) {
        struct point_model *p = &m->points[i];
        struct err e = {0};

        if (p->standing != ASKED || p->server != server || strcmp(p->group, found->group) != 0 || !point_is(v, found->id, p, &e))
            continue;
        snprintf(p->id, sizeof p->id, "%s", found->id);
        p->standing = THERE;
        p->adopted = true;
        return p;
    }
    return NULL;
}

static void look_at_listed(struct vault *v, int server, const struct vault_point *found)
{
    struct point_model *p = find_point(found->id);

    if (!p)
        p = adopt_point(v, server, found);
    if (!MUST_HOLD(p, "point %s was never asked for", found->id))
        return;
    MUST_HOLD(p->standing != GONE, "point %s was dropped, and is there again", p->id);
    MUST_HOLD(p->server == server && strcmp(p->group, found->group) == 0, "point %s is listed for another server or group", p->id);
    p->standing = THERE;
    p->seen = true;
    look_at_point(v, p);
}

static void look_at_pins(struct vault *v, struct point_model *p)
{
    struct err e = {0};

    for (int r = 0; r < REASONS; r++) {
        int found = vault_point_pinned(v, p->id, pin_reasons[r], &e);

        MUST_HOLD(found >= 0, "%s", e.message);
        MUST_HOLD(p->pins[r] == EITHER || (found == 1) == (p->pins[r] == PINNED), "point %s, pin %s: %d instead of %d", p->id,
                  pin_reasons[r], found, p->pins[r]);
        p->pins[r] = found == 1 ? PINNED : FREE;
    }
}

/* All of a group's points come to be, or none. */
static void look_at_group(struct vault *v, const struct point_model *p)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
    struct err e = {0};

    MUST_HOLD(vault_group_get(v, p->group, g, &e) == 1 && g->count == SERVERS, "point %s: its group %s is not there whole: %s", p->id, p->group, e.message);
    for (int i = 0; p->adopted && i < m->point_count; i++)
        if (strcmp(m->points[i].group, p->group) == 0)
            MUST_HOLD(m->points[i].seen, "group %s is there in part: point %s, and not that of server %d", p->group, p->id, m->points[i].server);
}

static void look_at_points(struct vault *v)
{
    for (int i = 0; i < m->point_count; i++)
        m->points[i].seen = m->points[i].adopted = false;
    for (int s = 0; s < SERVERS; s++) {
        CLEANUP(free_ptr) struct vault_point *list = NULL;
        struct err e = {0};
        int count = vault_point_list(v, m->servers[s].name, 0, &list, &e);

        MUST_HOLD(count >= 0, "%s", e.message);
        for (int i = 0; i < count; i++)
            look_at_listed(v, s, &list[i]);
    }
    for (int i = 0; i < m->point_count; i++) {
        struct point_model *p = &m->points[i];

        if (p->seen) {
            if (p->group[0])
                look_at_group(v, p);
            look_at_pins(v, p);
            continue;
        }
        MUST_HOLD(p->standing != THERE, "point %s is lost", p->id);
        if (p->standing != ASKED)
            p->standing = GONE;
    }
}

/* ---- maps and feeds ---- */

/* What the chunk may be, where the feed says that all up to `applied` is in the map. */
static bool chunk_may_be(const struct server_model *s, int disk, int chunk, uint64_t applied, const struct vault_hash *found, int *content)
{
    bool may = false;

    *content = m->disks[disk].before[chunk];
    may = vault_hash_same(found, name_of(*content));
    for (int i = 0; i < s->change_count; i++) {
        const struct change_model *c = &s->changes[i];

        if (c->disk != disk || c->chunk != chunk)
            continue;
        if (vault_hash_same(found, name_of(c->content))) {
            may = true;
            *content = c->content;
        } else if (c->number <= applied) {
            may = false;
        }
    }
    return may;
}

static void look_at_map(struct vault *v, int disk, const struct vault_disk *handle, uint64_t applied, bool lost)
{
    struct disk_model *d = &m->disks[disk];
    struct vault_hash found[CHUNKS_MOST];
    struct err e = {0};

    if (!MUST_HOLD(vault_disk_read(v, handle, 0, (size_t)d->chunk_count, found, &e) == 0, "%s", e.message))
        return;
    for (int c = 0; c < d->chunk_count; c++) {
        if (lost && vault_hash_is_unknown(&found[c])) {
            d->now[c] = UNKNOWN;
            continue;
        }
        MUST_HOLD(chunk_may_be(&m->servers[d->server], disk, c, applied, &found[c], &d->now[c]),
                  "disk %s, chunk %d is not what the feed (%llu) says", d->id, c, (unsigned long long)applied);
    }
}

static void look_at_feeds(struct vault *v, const struct vault_disk handles[static DISKS], bool rebuilt)
{
    for (int i = 0; i < SERVERS; i++) {
        struct server_model *s = &m->servers[i];
        struct vault_feed feed = {0};
        struct err e = {0};
        int found = vault_feed_get(v, s->name, &feed, &e);
        bool lost = rebuilt && found == 0;

        MUST_HOLD(found >= 0, "%s", e.message);
        MUST_HOLD(lost || feed.applied >= s->synced, "server %s: the feed is at %llu, %llu was acknowledged", s->name, (unsigned long long)feed.applied,
                  (unsigned long long)s->synced);
        MUST_HOLD(feed.applied <= s->fed && feed.stored_bytes == feed.applied * 7, "server %s: a feed that was never set: %llu of %llu", s->name,
                  (unsigned long long)feed.applied, (unsigned long long)s->fed);
        for (int d = 0; d < DISKS; d++)
            if (m->disks[d].server == i)
                look_at_map(v, d, &handles[d], feed.applied, lost);
        s->synced = s->fed = feed.applied;
        s->change_count = 0;
        s->stalled = false;
    }
    for (int d = 0; d < DISKS; d++)
        memcpy(m->disks[d].before, m->disks[d].now, sizeof m->disks[d].now);
}

static void look_whole(struct vault *v)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct err e = {0};

    MUST_HOLD(vault_check(v, &report, &e) == 0 && report.finding_count == 0, "check: %s",
              report.finding_count ? report.findings[0].text : e.message);
    MUST_HOLD(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0, "scrub: %s",
              report.finding_count ? report.findings[0].text : e.message);
}

/* What a feed was once said to be, it stays. */
static void hear_feeds(struct vault *v)
{
    for (int i = 0; i < SERVERS; i++) {
        struct server_model *s = &m->servers[i];
        struct vault_feed feed = {0};
        struct err e = {0};
        int found = vault_feed_get(v, s->name, &feed, &e);

        MUST_HOLD(found >= 0, "%s", e.message);
        if (found == 1 && feed.applied > s->synced)
            s->synced = feed.applied;
    }
}

void look_first(struct vault *v)
{
    look_at_points(v);
    hear_feeds(v);
}

bool look(struct vault *v, struct vault_disk handles[static DISKS])
{
    bool rebuilt = m->rebuild_asked;
    struct err e = {0};

    look_first(v);
    look_whole(v);
    for (int d = 0; d < DISKS; d++) {
        struct disk_model *k = &m->disks[d];

        if (vault_disk_open(v, m->servers[k->server].name, k->id, k->size_bytes, &handles[d], &e) < 0)
            return MUST_HOLD(m->count.faults, "%s", e.message) && false;
    }
    look_at_feeds(v, handles, rebuilt);
    m->rebuild_asked = false;
    return true;
}
