/* sim_vault: a vault's lives on a disk that forgets (forget.h). A history is a handful of lives, each a process that opens the vault, is held against
 * everything that the lives before were told, goes on at random, and ends when the power goes. No acknowledged point may be lost, none may be there that was
 * dropped or never asked for, and each must be what it was, byte for byte; a group's points are all there, or none; the working maps must hold what the
 * feed says; pins must stand, also where the index was made anew; and check and scrub must find nothing. One history in three is of a vault that is not encrypted, one of a vault that is from its
 * first day, one of a vault that becomes so; keys are rotated. While space is given back, changes and points go on coming. Of one history in so many the independent reader has its say,
 * too: of what the last power cut left, and of the end.
 *
 * Usage: sim_vault [VAULT_READ | must_fail [FIRST]]. SLIPWAY_SEED=N: that history alone, SLIPWAY_SEEDS=N: so many, SIM_TRACE=1: what is asked. must_fail: for a vault with a mistake
 * in it, which some history must show. */
#include "acts.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HISTORIES 200
#define HISTORIES_MUTANT 1500
#define WORK_MEMORY_SMALL 128 /* for so little that what is approximate errs now and then: room for eight nodes, and for one segment's records at a time */
#define ACTS_MOST 60
#define READ_BY_ANOTHER 43 /* one history in so many: each takes two processes in Python, which last longer than it does */

static char dir[64];
static const char *reader; /* NULL: nobody else reads */

static int64_t tick(void *nothing)
{
    (void)nothing;
    return (int64_t)(m->now_us += 1000 + m->now_us % 7 * 100000);
}
static const struct clock ticking = {tick, NULL};
static struct vault_options options = {.segment_bytes = 256 << 10, .guard_bytes = 1 << 20, .cache_bytes = 8 << 20, .clock = &ticking};

/* ---- lives ---- */

/* From its first life on it has a key, or from its third, or never. */
static void take_keys(void)
{
    if (m->key_count == 0 && m->seed % 3 && (m->seed % 3 == 1 || m->life > 1))
        new_key();
    options.keys = m->keys;
    options.key_count = m->key_count;
}

static void open_and_look(bool rebuild, bool cut_soon)
{
    struct err e = {0};

    take_keys();
    if (rebuild) {
        m->rebuild_asked = true;
        TRACE("rebuild");
        if (!done("rebuild", vault_rebuild(dir, &options, &e), &e))
            forget_kill();
        m->rebuilds++;
    }
    if (!done("open", vault_open(dir, &options, &v, &e), &e) || m->count.faults)
        forget_kill(); /* the disk failed meanwhile; the next life has a whole one */
    if (cut_soon) {
        look_first(v);
        forget_cut();
    }
    if (!look(v, handles))
        forget_kill();
}

static void plan_life(struct forget_plan *plan)
{
    *plan = (struct forget_plan){.seed = draw()};
    if (chance(85))
        plan->cut_at = 1 + (uint64_t)below(chance(m->life ? 25 : 60) ? 40 : 500);
    plan->killed = chance(25);
    plan->at_through = m->killed_in_commit = plan->killed && plan->seed % 2;
    if (chance(30)) {
        plan->fault_from = 30 + (uint64_t)below(400);
        plan->fault_count = 1 + (uint64_t)below(20);
        plan->fault = (int[]){ENOSPC, EIO, EIO, EROFS}[below(4)];
    }
    m->fails_collecting = !plan->fault_count && plan->seed % 8 == 3 ? plan->seed : 0;
}

static _Noreturn void live(bool last)
{
    struct forget_plan plan = {0};
    bool cut_soon = m->killed_in_commit && !last;

    draw_from(m->seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)m->life * UINT64_C(0xbf58476d1ce4e5b9));
    m->fails_collecting = 0;
    if (!last)
        plan_life(&plan);
    m->count = (struct forget_count){0};
    forget_start(dir, &plan, &m->count);
    open_and_look(last || chance(8), cut_soon);
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
    m->rebuild_asked = m->killed_in_commit = false;
    m->key_count = 0;
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
    bool read = reader && (seed % READ_BY_ANOTHER == 0 || getenv("SLIPWAY_SEED"));
    char command[160];
    int lives;

    begin(seed);
    if (mkdir(dir, 0700) < 0)
        abort();
    lives = 3 + (int)(seed % 6);
    options.work_memory_bytes = seed % 4 ? 0 : WORK_MEMORY_SMALL;
    for (m->life = 0; m->life < lives && !m->failed; m->life++)
        one_life(false);
    if (!m->failed && read)
        look_by_another(reader, dir, false);
    if (!m->failed)
        one_life(true);
    if (!m->failed && read)
        look_by_another(reader, dir, true);
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

    reader = count == 2 && !must_fail ? words[1] : NULL;
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
            intact(false, "history %llu (SLIPWAY_SEED=%llu replays it, SIM_TRACE=1 shows it)", (unsigned long long)m->seed, (unsigned long long)m->seed);
    rmdir(base);
    tap_note("%llu lives, %llu ended by the power, %llu on a disk that failed, %llu points read; %llu groups, %llu rotations, %llu compactions, %llu times met by others",
             (unsigned long long)m->lives, (unsigned long long)m->cuts, (unsigned long long)m->vaults_faulted, (unsigned long long)m->points_read,
             (unsigned long long)m->groups, (unsigned long long)m->rotations, (unsigned long long)m->compactions, (unsigned long long)m->met);
    if (must_fail) {
        ok(passed < histories, "the mistake shows, in history %llu", (unsigned long long)m->seed);
        return tap_done();
    }
    is_int(passed, histories, "all histories hold");
    ok(one || (m->points_read > (uint64_t)histories * 10 && m->cuts > (uint64_t)histories * 2), "there was something to lose, and power to go");
    ok(one || (m->groups > (uint64_t)histories / 2 && m->rotations > (uint64_t)histories / 4 && m->compactions > (uint64_t)histories / 2 && m->met > (uint64_t)histories),
       "with groups, new keys, compactions, and others beside them");
    ok(one || !reader || m->read_by_another > (uint64_t)histories / READ_BY_ANOTHER * 4, "another reader had %llu points, too", (unsigned long long)m->read_by_another);
    return tap_done();
}
