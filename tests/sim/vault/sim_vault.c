/* sim_vault: a vault's lives on a disk that forgets (forget.h). A history is a handful of lives, each a process that opens the vault, is held against
 * everything that the lives before were told, goes on at random, and ends when the power goes. No acknowledged point may be lost, none may be there that was
 * dropped or never asked for, and each must be what it was, byte for byte; the working maps must hold what the feed says; pins must stand; and
 * check and scrub must find nothing.
 *
 * Usage: sim_vault [must_fail [FIRST]]. SLIPWAY_SEED=N: that history alone, SLIPWAY_SEEDS=N: so many, SIM_TRACE=1: what is asked. must_fail: for a vault with a mistake
 * in it, which some history must show. */
#include "lives.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HISTORIES 200
#define HISTORIES_MUTANT 1500
#define ACTS_MOST 60

static char dir[64];
static uint64_t state; /* of this life */
static bool trace;
static struct vault *v;
static struct vault_disk handles[DISKS];

static uint64_t draw(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state >> 12;
}
static int below(int bound) { return (int)(draw() % (uint64_t)bound); }
static bool chance(int percent) { return below(100) < percent; }

#define TRACE(...) (trace ? (void)(printf("#   %d: ", m->life), printf(__VA_ARGS__), printf("\n")) : (void)0)

/* Nothing may come from outside the seed. */
ssize_t getrandom(void *bytes, size_t size, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)draw();
    return (ssize_t)size;
}

static int64_t tick(void *nothing)
{
    (void)nothing;
    return (int64_t)(m->now_us += 1000 + m->now_us % 7 * 100000);
}
static const struct clock ticking = {tick, NULL};
static const struct vault_options options = {.segment_bytes = 256 << 10, .guard_bytes = 1 << 20, .cache_bytes = 8 << 20, .clock = &ticking};

/* What failed may fail where the disk did; nothing else may. */
static bool done(const char *what, int result, const struct err *e)
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
    memset(p, 0, sizeof *p);
    p->server = server;
    for (int d = 0; d < DISKS; d++)
        memcpy(p->chunks[d], m->disks[d].now, sizeof p->chunks[d]);
    m->point_count++; /* from now on it may be there */
    if (!done("commit", vault_point_commit(v, m->servers[server].name, 0, "crash", 0, made, &e), &e))
        return;
    TRACE("point %s", made->id);
    snprintf(p->id, sizeof p->id, "%s", made->id);
    p->standing = THERE;
    all_synced();
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

static void expire(int server)
{
    static const struct vault_ladder ladder = {.keep_last = 2};
    struct point_model *going[POINTS_MOST];
    struct err e = {0};
    int kept = 0, count = 0, dropped;

    for (int i = m->point_count; i-- > 0;) {
        struct point_model *p = &m->points[i];

        if (p->server == server && (p->standing == GOING || (p->standing == THERE && (p->pins[0] == EITHER || p->pins[1] == EITHER))))
            return; /* what failed in this life may count or not */
        if (p->server == server && p->standing == THERE && kept++ >= 2 && !is_pinned(p))
            going[count++] = p;
    }
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

static void act(void)
{
    struct point_model *p = any_point();
    int what = below(100), server = below(SERVERS);
    struct err e = {0};

    if (what < 30)
        receive(server);
    else if (what < 45)
        sync_all();
    else if (what < 65)
        commit(server);
    else if (what < 72 && p)
        drop(p);
    else if (what < 76)
        expire(server);
    else if (what < 84 && p)
        pin(p);
    else if (what < 92)
        (void)done("gc", vault_gc(v, NULL, &e), &e);
    else if (p && !m->count.faults)
        look_at_point(v, p);
}

/* ---- lives ---- */

static void open_and_look(bool rebuild)
{
    struct err e = {0};

    if (rebuild) {
        m->rebuild_asked = true;
        TRACE("rebuild");
        if (!done("rebuild", vault_rebuild(dir, &options, &e), &e))
            forget_kill();
        m->rebuilds++;
    }
    if (!done("open", vault_open(dir, &options, &v, &e), &e) || m->count.faults || !look(v, handles))
        forget_kill(); /* the disk failed meanwhile; the next life has a whole one */
}

static void plan_life(struct forget_plan *plan)
{
    *plan = (struct forget_plan){.seed = draw()};
    if (chance(85))
        plan->cut_at = 1 + (uint64_t)below(chance(m->life ? 25 : 60) ? 40 : 500);
    plan->killed = chance(25);
    if (chance(30)) {
        plan->fault_from = 30 + (uint64_t)below(400);
        plan->fault_count = 1 + (uint64_t)below(20);
        plan->fault = (int[]){ENOSPC, EIO, EIO, EROFS}[below(4)];
    }
}

static _Noreturn void live(bool last)
{
    struct forget_plan plan = {0};

    state = (m->seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)m->life * UINT64_C(0xbf58476d1ce4e5b9)) | 1;
    for (int i = 0; i < 8; i++)
        draw();
    if (!last)
        plan_life(&plan);
    m->count = (struct forget_count){0};
    forget_start(dir, &plan, &m->count);
    open_and_look(last || chance(8));
    for (int n = below(ACTS_MOST); n > 0 && !m->failed && !last; n--)
        act();
    if (last) {
        struct err e = {0};

        (void)done("gc", vault_gc(v, NULL, &e), &e);
        look(v, handles);
    }
    if (chance(50) || last)
        vault_close(&v);
    if (last) {
        fflush(stdout);
        _exit(0);
    }
    if (chance(50))
        forget_cut();
    forget_kill();
}

static void begin(uint64_t seed)
{
    static const struct {
        int server;
        const char *id;
        uint64_t size_bytes;
    } disks[DISKS] = {{0, "sda", 69 * CHUNK + 512}, {0, "sdb", 5 * CHUNK}, {1, "vda", 9 * CHUNK - 4096}};

    m->seed = seed;
    m->now_us = UINT64_C(1790000000) * US_PER_S;
    m->life = m->failed = 0;
    m->content_count = 1;
    m->contents[0] = (struct content){.parent = UNKNOWN};
    m->point_count = 0;
    m->rebuild_asked = false;
    for (int d = 0; d < DISKS; d++) {
        struct disk_model *k = &m->disks[d];

        *k = (struct disk_model){.server = disks[d].server, .size_bytes = disks[d].size_bytes, .chunk_count = (int)((disks[d].size_bytes + CHUNK - 1) / CHUNK)};
        snprintf(k->id, sizeof k->id, "%s", disks[d].id);
        for (int c = 0; c < CHUNKS_MOST; c++)
            k->before[c] = k->now[c] = UNKNOWN;
    }
    for (int s = 0; s < SERVERS; s++) {
        m->servers[s] = (struct server_model){0};
        snprintf(m->servers[s].name, sizeof m->servers[s].name, "s%d", s);
    }
}

static void one_life(bool last)
{
    int status;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0)
        live(last);
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        abort();
    m->lives++;
    m->cuts += WIFEXITED(status) && WEXITSTATUS(status) == FORGET_CUT;
    m->vaults_faulted += m->count.faults > 0;
    MUST_HOLD(WIFEXITED(status) && (WEXITSTATUS(status) == FORGET_CUT || WEXITSTATUS(status) == FORGET_KILLED || (last && WEXITSTATUS(status) == 0)), "a life ended with status %x", (unsigned)status);
    TRACE("ended after %llu operations: %llu kept, %llu lost, %llu torn, %llu names lost", (unsigned long long)m->count.operations,
          (unsigned long long)m->count.kept, (unsigned long long)m->count.lost, (unsigned long long)m->count.torn, (unsigned long long)m->count.names_lost);
}

static bool one_history(uint64_t seed)
{
    char command[160];
    int lives;

    begin(seed);
    if (mkdir(dir, 0700) < 0)
        abort();
    lives = 3 + (int)(seed % 6);
    for (m->life = 0; m->life < lives && !m->failed; m->life++)
        one_life(false);
    if (!m->failed)
        one_life(true);
    snprintf(command, sizeof command, "rm -rf %s %s.*", dir, dir);
    return system(command) == 0 && !m->failed;
}

int main(int count, char **words)
{
    bool must_fail = count > 1 && strcmp(words[1], "must_fail") == 0;
    const char *one = getenv("SLIPWAY_SEED"), *many = getenv("SLIPWAY_SEEDS");
    uint64_t first = one ? strtoull(one, NULL, 10) : count > 2 ? strtoull(words[2], NULL, 10) : 1;
    int histories = one && !many ? 1 : many ? atoi(many) : must_fail ? HISTORIES_MUTANT : HISTORIES, passed = 0;
    char base[32] = "/tmp/sim-vault.XXXXXX";

    trace = getenv("SIM_TRACE") != NULL;
    if (access("/dev/shm", W_OK) == 0)
        snprintf(base, sizeof base, "/dev/shm/sim-vault.XXXXXX");
    if (!mkdtemp(base))
        abort();
    snprintf(dir, sizeof dir, "%s/vault", base);
    m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED)
        abort();
    for (int i = 0; i < histories && (passed == i || !must_fail); i++)
        if (one_history(first + (uint64_t)i))
            passed++;
        else if (!must_fail)
            ok(false, "history %llu (SLIPWAY_SEED=%llu replays it, SIM_TRACE=1 shows it)", (unsigned long long)m->seed, (unsigned long long)m->seed);
    rmdir(base);
    tap_note("%llu lives, %llu ended by the power, %llu on a disk that failed, %llu points read", (unsigned long long)m->lives, (unsigned long long)m->cuts,
             (unsigned long long)m->vaults_faulted, (unsigned long long)m->points_read);
    if (must_fail) {
        ok(passed < histories, "the mistake shows, in history %llu", (unsigned long long)m->seed);
        return tap_done();
    }
    is_int(passed, histories, "all histories hold");
    ok(one || (m->points_read > (uint64_t)histories * 10 && m->cuts > (uint64_t)histories * 2), "there was something to lose, and power to go");
    return tap_done();
}
