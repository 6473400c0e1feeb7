#include "acts.h"
#include "vault/index.h"

#include <errno.h>
#include <openssl/rand.h>
#include <sys/random.h>

struct vault *v;
struct vault_disk handles[DISKS];
bool trace;

static uint64_t state; /* of this life */

void draw_from(uint64_t seed)
{
    state = seed | 1;
    for (int i = 0; i < 8; i++)
        draw();
}

uint64_t draw(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state >> 12;
}

int below(int bound) { return (int)(draw() % (uint64_t)bound); }
bool chance(int percent) { return below(100) < percent; }

/* Nothing may come from outside the seed. */
ssize_t getrandom(void *bytes, size_t size, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)draw();
    return (ssize_t)size;
}

/* OpenSSL's, neither. */
int RAND_bytes(unsigned char *bytes, int size) { return getrandom(bytes, (size_t)size, 0) == size; }
int RAND_priv_bytes(unsigned char *bytes, int size) { return RAND_bytes(bytes, size); }

bool done(const char *what, int result, const struct err *e)
{
    TRACE("%s: %d%s%s", what, result, result < 0 ? ": " : "", result < 0 ? e->message : "");
    MUST_HOLD(result >= 0 || m->count.faults, "%s: %s", what, e->message);
    return result >= 0;
}

/* ---- what a session does ---- */

static bool map(int disk, int chunk, int content, const struct vault_hash *name)
{
    struct disk_model *d = &m->disks[disk];
    struct server_model *s = &m->servers[d->server];
    struct err e = {0};
    int mapped;

    if (s->change_count == CHANGES_MOST)
        return false;
    s->changes[s->change_count++] = (struct change_model){++s->number, disk, chunk, content};
    mapped = vault_map(v, &handles[disk], (uint64_t)chunk, name, &e);
    if (!done("map", mapped, &e) || !MUST_HOLD(mapped == 1, "a chunk that was there a moment ago is not"))
        return false;
    d->now[chunk] = content;
    return true;
}

/* The bytes come from the source: new, or what was somewhere once. */
static bool put_whole(int disk, int chunk)
{
    int content = m->content_count > 8 && chance(30) ? below(m->content_count) : chance(10) ? ZEROS : content_new(UNKNOWN, 0xffff, draw());
    struct vault_hash hash = m->contents[content].hash;
    uint8_t bytes[CHUNK];
    struct err e = {0};
    int has = content == ZEROS ? 0 : vault_has(v, &hash, &e);

    if (!done("has", has, &e))
        return false;
    content_bytes(content, bytes);
    if (has == 0 && !done("store", vault_store(v, bytes, NULL, &hash, NULL, &e), &e))
        return false;
    return map(disk, chunk, content, &hash);
}

static bool put_pages(int disk, int chunk)
{
    int on = m->disks[disk].now[chunk], content;
    const struct content *c;
    uint8_t pages[CHUNK];
    struct vault_hash base, hash;
    struct err e = {0};
    uint32_t mask = 0;
    int stored;

    for (int i = below(3); i >= 0; i--)
        mask |= 1u << below(VAULT_CHUNK_PAGES);
    if (on == UNKNOWN || content_depth(on) > 6)
        return put_whole(disk, chunk);
    base = on == ZEROS ? vault_hash_zero : m->contents[on].hash;
    content = content_new(on, mask, draw());
    c = &m->contents[content];
    content_pages(content, pages);
    stored = vault_store_delta(v, &base, c->mask, pages, &hash, NULL, &e);
    if (!done("store a delta", stored, &e))
        return false;
    MUST_HOLD(stored == 1 && vault_hash_same(&hash, &c->hash), "a delta on a chunk of the map: %d", stored);
    return map(disk, chunk, content, &hash);
}

static bool put_zeros(int disk, int first, int count)
{
    struct disk_model *d = &m->disks[disk];
    struct server_model *s = &m->servers[d->server];
    struct err e = {0};

    count = first + count > d->chunk_count ? d->chunk_count - first : count;
    if (s->change_count + count > CHANGES_MOST)
        return false;
    s->number++;
    for (int c = first; c < first + count; c++)
        s->changes[s->change_count++] = (struct change_model){s->number, disk, c, ZEROS};
    if (!done("map zeros", vault_map_zero(v, &handles[disk], (uint64_t)first, (uint64_t)count, &e), &e))
        return false;
    for (int c = first; c < first + count; c++)
        d->now[c] = ZEROS;
    return true;
}

static bool put_something(int disk)
{
    int chunk = below(m->disks[disk].chunk_count);

    if (chance(8))
        return put_zeros(disk, chunk, 1 + below(40));
    return chance(40) ? put_pages(disk, chunk) : put_whole(disk, chunk);
}

static bool put_missing(int disk)
{
    struct disk_model *d = &m->disks[disk];

    for (int c = 0; c < d->chunk_count; c++) {
        int run = 1 + below(20);

        if (d->now[c] == UNKNOWN && !(chance(60) ? put_zeros(disk, c, run) : put_whole(disk, c)))
            return false;
    }
    return true;
}

static void receive(int server)
{
    struct server_model *s = &m->servers[server];
    struct vault_feed feed = {.epoch = "e"};
    struct err e = {0};

    for (int disk = 0; disk < DISKS; disk++) {
        if (m->disks[disk].server != server || s->stalled)
            continue;
        s->stalled = !put_missing(disk);
        for (int n = below(6); n > 0 && !s->stalled; n--)
            s->stalled = !put_something(disk);
    }
    if (s->stalled || chance(20))
        return;
    feed.applied = s->fed = s->number; /* fed first: another's sync may take it along */
    feed.stored_bytes = feed.applied * 7;
    s->stalled = !done("feed", vault_feed_set(v, s->name, &feed, &e), &e);
}

static void all_synced(void)
{
    for (int s = 0; s < SERVERS; s++)
        m->servers[s].synced = m->servers[s].fed;
}

static void sync_all(void)
{
    struct err e = {0};

    if (done("sync", vault_sync(v, &e), &e))
        all_synced();
}

/* ---- points ---- */

static bool all_known(int server)
{
    for (int d = 0; d < DISKS; d++)
        for (int c = 0; m->disks[d].server == server && c < m->disks[d].chunk_count; c++)
            if (m->disks[d].now[c] == UNKNOWN)
                return false;
    return true;
}

/* What is asked for: the maps as they are. */
static void describe(struct point_model *p, int server, const char *group)
{
    *p = (struct point_model){.server = server};
    snprintf(p->group, sizeof p->group, "%s", group);
    for (int d = 0; d < DISKS; d++)
        memcpy(p->chunks[d], m->disks[d].now, sizeof p->chunks[d]);
}

static void commit(int server)
{
    CLEANUP(free_ptr) struct vault_point *made = xcalloc(1, sizeof *made);
    struct point_model *p;
    struct err e = {0};

    if (m->servers[server].stalled || m->point_count == POINTS_MOST)
        return;
    if (!all_known(server)) {
        MUST_HOLD(vault_point_commit(v, m->servers[server].name, 0, "crash", 0, made, &e) < 0, "a point of chunks that were never received");
        return;
    }
    p = &m->points[m->point_count];
    describe(p, server, "");
    m->point_count++; /* from now on it may be there */
    if (!done("commit", vault_point_commit(v, m->servers[server].name, 0, "crash", 0, made, &e), &e))
        return;
    TRACE("point %s", made->id);
    snprintf(p->id, sizeof p->id, "%s", made->id);
    p->standing = THERE;
    all_synced();
}

static void collect(void);
static bool staging; /* what comes meanwhile comes before what was staged already, and would be told after it */

/* Until all of them are committed none was asked for: a staged point that nobody reveals is never there. */
static bool stage(struct vault_group *g, struct point_model staged[static SERVERS])
{
    CLEANUP(free_ptr) struct vault_point *made = xcalloc(1, sizeof *made);
    struct err e = {0};

    for (int s = 0; s < SERVERS; s++) {
        describe(&staged[s], s, g->id);
        if (!done("stage", vault_point_stage(v, g, m->servers[s].name, "crash", 0, NULL, made, &e), &e))
            return false;
        all_synced();
        snprintf(staged[s].id, sizeof staged[s].id, "%s", made->id);
        memcpy(g->points[g->count++].id, made->id, sizeof made->id);
        if (chance(30))
            receive(s);
        if (chance(20))
            collect();
    }
    return !chance(15);
}

static void commit_group(void)
{
    CLEANUP(free_ptr) struct vault_group *g = xcalloc(1, sizeof *g);
    struct point_model staged[SERVERS];
    struct err e = {0};

    for (int s = 0; s < SERVERS; s++)
        if (m->servers[s].stalled || !all_known(s) || m->point_count + SERVERS > POINTS_MOST)
            return;
    vault_group_begin(v, "shop", 0, g);
    staging = true;
    if (!stage(g, staged)) {
        staging = false;
        for (size_t i = 0; i < g->count && chance(70); i++)
            vault_point_unstage(v, g->points[i].id);
        return;
    }
    staging = false;
    memcpy(&m->points[m->point_count], staged, sizeof staged);
    m->point_count += SERVERS; /* from now on they may be there */
    if (!done("commit a group", vault_group_commit(v, g, &e), &e))
        return;
    TRACE("group %s: points %s and %s", g->id, g->points[0].id, g->points[1].id);
    for (int s = 1; s <= SERVERS; s++)
        m->points[m->point_count - s].standing = THERE;
    all_synced();
    m->groups++;
}

static bool is_pinned(const struct point_model *p) { return p->pins[0] != FREE || p->pins[1] != FREE; }

static struct point_model *any_point(void)
{
    for (int tries = 0; m->point_count && tries < 20; tries++) {
        struct point_model *p = &m->points[below(m->point_count)];

        if (p->standing == THERE)
            return p;
    }
    return NULL;
}

static void drop(struct point_model *p)
{
    struct err e = {0};

    if (is_pinned(p)) {
        if (p->pins[0] == PINNED || p->pins[1] == PINNED)
            MUST_HOLD(vault_point_drop(v, p->id, &e) < 0, "point %s is pinned, and was dropped", p->id);
        return;
    }
    TRACE("drop %s", p->id);
    p->standing = GOING;
    if (done("drop", vault_point_drop(v, p->id, &e), &e))
        p->standing = GONE;
}

#define KEPT_LAST 2

/* It is pinned, or one of its server's last. */
static bool stays_alone(const struct point_model *p)
{
    int later = 0;

    for (const struct point_model *other = p + 1; other < m->points + m->point_count; other++)
        later += other->server == p->server && other->standing == THERE;
    return later < KEPT_LAST || is_pinned(p);
}

static bool stays(const struct point_model *p)
{
    bool result = stays_alone(p);

    for (int i = 0; p->group[0] && !result && i < m->point_count; i++)
        result = m->points[i].standing == THERE && strcmp(m->points[i].group, p->group) == 0 && stays_alone(&m->points[i]);
    return result;
}

static void expire(int server)
{
    static const struct vault_ladder ladder = {.keep_last = KEPT_LAST};
    struct point_model *going[POINTS_MOST];
    struct err e = {0};
    int count = 0, dropped;

    for (int i = 0; i < m->point_count; i++) {
        const struct point_model *p = &m->points[i];

        if (p->standing == GOING || (p->standing == THERE && (p->pins[0] == EITHER || p->pins[1] == EITHER)))
            return; /* what failed in this life may count or not */
    }
    for (int i = 0; i < m->point_count; i++)
        if (m->points[i].server == server && m->points[i].standing == THERE && !stays(&m->points[i]))
            going[count++] = &m->points[i];
    for (int i = 0; i < count; i++)
        going[i]->standing = GOING;
    dropped = vault_expire(v, m->servers[server].name, &ladder, &e);
    if (!done("expire", dropped, &e))
        return;
    MUST_HOLD(dropped == count, "%d points expired, not %d", dropped, count);
    for (int i = 0; i < count; i++)
        going[i]->standing = GONE;
}

static void pin(struct point_model *p)
{
    struct err e = {0};
    int reason = below(REASONS), r;
    bool on = p->pins[reason] == FREE;

    p->pins[reason] = EITHER;
    r = on ? vault_point_pin(v, p->id, pin_reasons[reason], &e) : vault_point_unpin(v, p->id, pin_reasons[reason], &e);
    if (done(on ? "pin" : "unpin", r, &e))
        p->pins[reason] = on ? PINNED : FREE;
}

/* ---- space, and keys ---- */

static bool collecting;

/* The collection walks over the index, and holds nobody up: what others do meanwhile is done here. What comes now often is what was there not long ago. */
static void meanwhile(void)
{
    int disk = below(DISKS), server = m->disks[disk].server, last = m->content_count - 1;
    struct point_model *p = any_point();

    m->met++;
    for (int n = below(4); n > 0 && !m->servers[server].stalled && last > 24; n--) {
        int content = last - below(24);

        if (vault_has(v, &m->contents[content].hash, NULL) == 1)
            m->servers[server].stalled = !map(disk, below(m->disks[disk].chunk_count), content, &m->contents[content].hash);
    }
    if (chance(30))
        receive(server);
    if (chance(30) && !staging)
        commit(server);
    if (p && chance(25))
        drop(p);
}

static void collect(void)
{
    struct err e = {0};
    bool whole;

    collecting = true;
    if (chance(60)) {
        whole = done("gc", vault_gc(v, NULL, &e), &e);
    } else {
        unsigned live_percent = chance(50) ? VAULT_COMPACT_LIVE : 100;
        bool anew = chance(50);

        whole = done(anew ? "compact, sealed anew" : "compact", vault_compact(v, live_percent, anew, NULL, &e), &e);
        m->compactions += whole;
    }
    collecting = false;
    /* The disk was full, or failed: what is left of it is met by those who go on. */
    for (int n = whole ? 0 : 4; n > 0; n--)
        meanwhile();
}

int __real_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e);
int __wrap_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e);
int __wrap_index_each(const struct vault_index *x, MDB_txn *txn, enum index_table t, MDB_val prefix, index_visit *visit, void *user, struct err *e)
{
    if (collecting && t == INDEX_CHUNK && m->fails_collecting) {
        forget_fail(m->fails_collecting / 8 % 16, 1 + m->fails_collecting / 128 % 20, ENOSPC);
        m->fails_collecting = 0;
    }
    if (collecting && chance(15) && !index_writes_here()) { /* nobody gets in beside the collection's own writing */
        collecting = false;
        meanwhile();
        collecting = true;
    }
    return __real_index_each(x, txn, t, prefix, visit, user, e);
}

void new_key(void)
{
    memmove(&m->keys[1], &m->keys[0], (KEYS_MOST - 1) * sizeof *m->keys);
    getrandom(&m->keys[0], sizeof m->keys[0], 0);
    m->key_count++;
}

/* A new data key; and now and then it is another one that opens the vault: until that is answered, either may. */
static void rotate(void)
{
    bool wrap = chance(50) && m->key_count < KEYS_MOST;
    struct vault_key before = m->keys[0];
    struct err e = {0};

    if (m->key_count == 0)
        return;
    if (wrap)
        new_key();
    if (done("rotate", vault_rotate(v, wrap ? &m->keys[0] : NULL, &e), &e)) {
        m->key_count = 1;
        m->rotations++;
    } else if (wrap) {
        m->keys[1] = m->keys[0];
        m->keys[0] = before;
    }
}

void act(void)
{
    struct point_model *p = any_point();
    int what = below(100), server = below(SERVERS);

    if (what < 29)
        receive(server);
    else if (what < 42)
        sync_all();
    else if (what < 57)
        commit(server);
    else if (what < 64)
        commit_group();
    else if (what < 71 && p)
        drop(p);
    else if (what < 75)
        expire(server);
    else if (what < 82 && p)
        pin(p);
    else if (what < 91)
        collect();
    else if (what < 94)
        rotate();
    else if (p && !m->count.faults)
        look_at_point(v, p);
}
