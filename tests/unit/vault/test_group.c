/* Points of several servers that become visible together, or not at all: whatever ends the process between the first and the last of them. */
#include "base/clock.h"
#include "tap.h"
#include "vault/vault.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 70
#define SERVERS 3
#define KILLS 14

static char dir[64];
static const char *const servers[SERVERS] = {"app01", "db01", "web01"};
static const struct vault_key key = {{9}};
static struct vault_options options = {.segment_bytes = 512 << 10, .guard_bytes = 1 << 20, .keys = &key}; /* VAULT_SEALED: with the key */

static struct vault *open_vault(void)
{
    struct vault *v = NULL;
    struct err e = {0};

    if (vault_open(dir, &options, &v, &e) < 0)
        printf("# %s\n", e.message);
    MUST(v);
    return v;
}

static void fresh_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/vault-group.XXXXXX");
    MUST(mkdtemp(dir));
}

static void remove_dir(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf %s", dir);
    MUST(system(command) == 0);
}

/* Does not compress; no two seeds are alike. */
static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < CHUNK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

/* Some chunks of a server's disk anew; the round is what they hold. */
static int write_round(struct vault *v, int server, uint64_t round, struct err *e)
{
    struct vault_disk d;
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    if (vault_disk_open(v, servers[server], "vda", CHUNKS * (uint64_t)CHUNK, &d, e) < 0)
        return -1;
    if (d.known_count == 0 && vault_map_zero(v, &d, 0, CHUNKS, e) < 0)
        return -1;
    for (uint64_t i = 0; i < 4; i++) {
        fill(bytes, 1000000 * ((uint64_t)server + 1) + 10 * round + i);
        if (vault_store(v, bytes, NULL, &hash, NULL, e) < 0 || vault_map(v, &d, 20 * i, &hash, e) != 1)
            return -1;
    }
    return 0;
}

static bool holds_round(struct vault *v, const char *point, int server, uint64_t round)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct err e = {0};
    bool same = vault_image_open(v, point, "vda", &image, &e) == 0;

    for (uint64_t i = 0; same && i < 4; i++) {
        fill(wanted, 1000000 * ((uint64_t)server + 1) + 10 * round + i);
        same = vault_image_read(image, bytes, CHUNK, 20 * i * CHUNK, &e) == 0 && memcmp(bytes, wanted, CHUNK) == 0;
    }
    if (e.kind)
        printf("# %s\n", e.message);
    return same;
}

static int stage_all(struct vault *v, uint64_t round, struct vault_group *g, struct err *e)
{
    vault_group_begin(v, "shop", 0, g);
    for (int i = 0; i < SERVERS; i++) {
        struct vault_point p;

        if (write_round(v, i, round, e) < 0 || vault_point_stage(v, g, servers[i], "frozen", 7, NULL, &p, e) < 0)
            return -1;
        memcpy(g->points[g->count++].id, p.id, sizeof p.id);
    }
    return 0;
}

static int visible(struct vault *v, int server)
{
    CLEANUP(free_ptr) struct vault_point *list = NULL;

    return vault_point_list(v, servers[server], 0, &list, NULL);
}

static bool none_visible(struct vault *v)
{
    return visible(v, 0) == 0 && visible(v, 1) == 0 && visible(v, 2) == 0;
}

static const char *reader; /* tools/vault_read.py: the format by another's eyes */

static int points_read(void)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/key", dir), *command = NULL;
    FILE *file = fopen(path, "we"), *out;
    int count = 0;

    for (size_t i = 0; file && i < sizeof key; i++)
        fprintf(file, "%02x", ((const uint8_t *)&key)[i]);
    MUST(file && fclose(file) == 0);
    command = options.key_count ? xasprintf("%s --key-file %s %s points", reader, path, dir) : xasprintf("%s %s points", reader, dir);
    out = popen(command, "re");

    for (int c; out && (c = fgetc(out)) != EOF;)
        count += c == '\n';
    return out && pclose(out) == 0 ? count : -1;
}

static void all_or_none(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    struct vault_group g, got;
    struct vault_point p;
    struct err e = {0};

    fresh_dir();
    v = open_vault();
    is_int(stage_all(v, 1, &g, &e), 0, "three points are staged: %s", e.message);
    ok(none_visible(v) && vault_point_get(v, g.points[0].id, &p, &e) == 0, "none is there");
    is_int(points_read(), 0, "nor for another reader");
    vault_point_unstage(v, g.points[1].id);
    vault_point_unstage(v, g.points[1].id);
    is_int(vault_group_commit(v, &g, &e), -1, "without one of them there is no group");
    is_int(e.kind, ERR_WRONG_STATE, "in words: %s", e.message);
    ok(none_visible(v), "and no point");
    vault_close(&v);
    v = open_vault();
    ok(none_visible(v), "nor after the end");
    is_int(stage_all(v, 2, &g, &e), 0, "staged again");
    g.window_us = 321;
    is_int(vault_group_commit(v, &g, &e), 0, "committed: %s", e.message);
    for (int i = 0; i < SERVERS; i++)
        ok(visible(v, i) == 1 && vault_point_get(v, g.points[i].id, &p, &e) == 1 && strcmp(p.group, g.id) == 0 && p.at_us == g.at_us &&
           holds_round(v, p.id, i, 2), "%s has its point, of the group", servers[i]);
    is_int(points_read(), SERVERS, "another reader sees these three");
    ok(vault_group_get(v, g.id, &got, &e) == 1 && got.count == SERVERS && got.window_us == 321 && strcmp(got.name, "shop") == 0 &&
       strcmp(got.points[1].server, "db01") == 0, "the group is told");
    vault_close(&v);
    is_int(vault_rebuild(dir, &options, &e), 0, "a rebuild");
    v = open_vault();
    for (int i = 0; i < SERVERS; i++)
        ok(visible(v, i) == 1 && holds_round(v, g.points[i].id, i, 2), "brings what was committed, and nothing that was only staged");
    is_int(vault_group_get(v, g.id, &got, &e), 1, "and the group");
    is_int(vault_point_drop(v, g.points[0].id, &e), 0, "one is dropped");
    is_int(vault_group_get(v, g.id, &got, &e), 1, "the group stays for the others");
    vault_close(&v);
    is_int(vault_rebuild(dir, &options, &e), 0, "a rebuild");
    v = open_vault();
    is_int(points_read(), 2, "another reader sees two");
    ok(visible(v, 0) == 0 && visible(v, 1) == 1 && visible(v, 2) == 1, "brings the dropped one not back");
    for (int i = 1; i < SERVERS; i++)
        is_int(vault_point_drop(v, g.points[i].id, &e), 0, "the others go");
    is_int(vault_group_get(v, g.id, &got, &e), 0, "and with the last the group");
    remove_dir();
}

/* Between staging and commit nothing in the index names what a point is made of. */
static void space_is_kept(void)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct vault_group g;
    struct vault_point p;
    uint64_t freed = 0;
    struct err e = {0};

    fresh_dir();
    v = open_vault();
    is_int(stage_all(v, 1, &g, &e), 0, "staged: %s", e.message);
    for (uint64_t round = 2; round < 6; round++)
        for (int i = 0; i < SERVERS; i++)
            MUST(write_round(v, i, round, &e) == 0 && vault_point_commit(v, servers[i], 0, "crash", 0, &p, &e) == 0 &&
                 vault_point_drop(v, p.id, &e) == 0);
    is_int(vault_gc(v, &freed, &e), 0, "space is given back: %s", e.message);
    ok(freed > 0, "of points that were dropped");
    is_int(vault_gc(v, &freed, &e), 0, "twice");
    is_int(vault_group_commit(v, &g, &e), 0, "then the group is committed");
    for (int i = 0; i < SERVERS; i++)
        ok(holds_round(v, g.points[i].id, i, 1), "%s: all of it is there", servers[i]);
    is_int(vault_check(v, &report, &e), 0, "check");
    is_int(report.finding_count, 0, "finds nothing: %s", report.finding_count ? report.findings[0].text : "");
    is_int(vault_gc(v, &freed, &e), 0, "and again");
    vault_close(&v);
    is_int(vault_rebuild(dir, &options, &e), 0, "a rebuild");
    v = open_vault();
    for (int i = 0; i < SERVERS; i++)
        ok(holds_round(v, g.points[i].id, i, 1), "finds it, too");
    remove_dir();
}

static int64_t fake_now_us = INT64_C(1790000000) * US_PER_S;
static int64_t fake_now(void *user) { (void)user; return fake_now_us; }

static bool groups_are_whole(struct vault *v, int *count, bool others);

/* Each server's ladder would keep other points: one has some of its own between. */
static void expire_together(void)
{
    static const struct clock clock = {fake_now, NULL};
    const struct vault_options timed = {.segment_bytes = 4 << 20, .guard_bytes = 1 << 20, .clock = &clock};
    const struct vault_ladder one = {.keep_last = 1, .rung_count = vault_ladder_default.rung_count, .rungs = vault_ladder_default.rungs};
    CLEANUP(vault_close) struct vault *v = NULL;
    struct vault_group g;
    struct vault_point p;
    struct err e = {0};
    int whole = 0, dropped = 0, rounds = 0, count = 0;

    fresh_dir();
    MUST(vault_open(dir, &timed, &v, &e) == 0);
    for (uint64_t round = 1; round <= 120; round++) {
        fake_now_us += 40 * US_PER_S;
        MUST(stage_all(v, round, &g, &e) == 0 && vault_group_commit(v, &g, &e) == 0);
        fake_now_us += 7 * US_PER_S;
        if (round % 2)
            MUST(vault_point_commit(v, servers[round % 3], 0, "crash", 0, &p, &e) == 0);
        if (round == 3)
            MUST(vault_point_pin(v, g.points[1].id, "kept: audit", &e) == 0);
        if (round % 20)
            continue;
        for (int i = 0; i < SERVERS; i++) {
            int n = vault_expire(v, servers[i], &one, &e);

            MUST(n >= 0);
            dropped += n;
        }
        rounds++;
        whole += groups_are_whole(v, &count, true);
    }
    ok(dropped > 100, "%d points expired", dropped);
    is_int(whole, rounds, "what is left of groups is whole");
    fake_now_us += 30 * 86400 * US_PER_S;
    for (int i = 0; i < SERVERS; i++)
        MUST(vault_expire(v, servers[i], &one, &e) >= 0);
    ok(groups_are_whole(v, &count, true) && visible(v, 0) >= 2 && visible(v, 0) <= 4, "after a month the newest, and that of which one point is pinned: %d",
       visible(v, 0));
    remove_dir();
}

/* All of ten days. */
static bool own_ladder(void *user, const char *server, struct vault_rung rungs[static VAULT_RUNGS_MOST], struct vault_ladder *out)
{
    (void)server;
    *out = *(const struct vault_ladder *)user;
    rungs[0] = (struct vault_rung){10 * 86400 * US_PER_S, 0};
    out->rungs = rungs;
    out->rung_count = 1;
    return true;
}

static bool no_ladder(void *user, const char *server, struct vault_rung rungs[static VAULT_RUNGS_MOST], struct vault_ladder *out)
{
    (void)user, (void)server, (void)rungs, (void)out;
    return false;
}

/* Two groups, and then points of the servers' own: how many of its points the first server keeps of them after so long, by a ladder of one hour. */
static int left_after(int64_t age_us, bool (*of)(void *, const char *, struct vault_rung *, struct vault_ladder *))
{
    static const struct clock clock = {fake_now, NULL};
    static const struct vault_rung hour = {3600 * US_PER_S, 0};
    static struct vault_ladder brief = {.keep_last = 1, .rung_count = 1, .rungs = &hour, .user = &brief};
    const struct vault_options timed = {.segment_bytes = 4 << 20, .guard_bytes = 1 << 20, .clock = &clock};
    CLEANUP(vault_close) struct vault *v = NULL;
    struct vault_group g;
    struct vault_point p;
    struct err e = {0};

    fresh_dir();
    MUST(vault_open(dir, &timed, &v, &e) == 0);
    for (uint64_t round = 1; round <= 2; round++, fake_now_us += 60 * US_PER_S)
        MUST(stage_all(v, round, &g, &e) == 0 && vault_group_commit(v, &g, &e) == 0);
    for (int i = 0; i < SERVERS; i++)
        MUST(vault_point_commit(v, servers[i], 0, "crash", 0, &p, &e) == 0);
    fake_now_us += age_us;
    brief.of = of;
    MUST(vault_expire(v, servers[0], &brief, &e) >= 0);
    return visible(v, 0);
}

static void expire_by_their_own(void)
{
    is_int(left_after(86400 * US_PER_S, NULL), 1, "where all have its ladder, a server's points of groups are gone after an hour");
    is_int(left_after(86400 * US_PER_S, own_ladder), 3, "where another server of theirs keeps its own for ten days, they stay");
    is_int(left_after(86400 * US_PER_S, no_ladder), 3, "and where nobody knows yet what the others keep");
    remove_dir();
}

/* Groups for ever, until it is killed; some are only staged, some dropped in part. */
static _Noreturn void child(int fd, uint64_t round)
{
    struct vault *v = open_vault();
    struct vault_group g;
    struct err e = {0};

    for (;; round++) {
        if (stage_all(v, round, &g, &e) < 0)
            _exit(2);
        if (round % 3 == 0)
            for (int i = 0; i < SERVERS; i++)
                vault_point_unstage(v, g.points[i].id);
        else if (vault_group_commit(v, &g, &e) < 0 || write(fd, "", 1) != 1)
            _exit(3);
        if (round % 16 == 5 && vault_gc(v, NULL, &e) < 0)
            _exit(4);
    }
}

/* Those of a list that are of a group, in its order: their count. */
static int of_groups(struct vault_point *list, int count)
{
    int left = 0;

    for (int i = 0; i < count; i++)
        if (list[i].group[0])
            list[left++] = list[i];
    return left;
}

/* Every server has a point of the same groups; others: and maybe points of its own. */
static bool groups_are_whole(struct vault *v, int *count, bool others)
{
    struct vault_point *lists[SERVERS] = {0};
    bool fine = true;

    for (int i = 0; i < SERVERS; i++) {
        int n = vault_point_list(v, servers[i], 0, &lists[i], NULL);

        n = others && n > 0 ? of_groups(lists[i], n) : n;

        fine = fine && n >= 0 && (i == 0 || n == *count);
        *count = i == 0 ? n : *count;
    }
    for (int k = 0; fine && k < *count; k++)
        fine = lists[0][k].group[0] && strcmp(lists[0][k].group, lists[1][k].group) == 0 && strcmp(lists[0][k].group, lists[2][k].group) == 0;
    for (int i = 0; i < SERVERS; i++)
        free(lists[i]);
    return fine;
}

static void killed(void)
{
    struct err e = {0};
    int whole = 0, rebuilt = 0, ended = 0, count = 0, before = 0, committed = 0;

    fresh_dir();
    for (int kill_number = 0; kill_number < KILLS; kill_number++) {
        CLEANUP(vault_close) struct vault *v = NULL;
        int status, said[2];
        char byte;
        pid_t pid;

        MUST(pipe(said) == 0);
        pid = fork();
        if (pid == 0)
            child(said[1], 1000 * (uint64_t)kill_number + 1);
        close(said[1]);
        for (int i = 0; i < 2 + kill_number % 3; i++)
            committed += read(said[0], &byte, 1) == 1;
        usleep((useconds_t)(kill_number * 7919 % 40) * 1000);
        kill(pid, SIGKILL);
        MUST(waitpid(pid, &status, 0) == pid);
        ended += !WIFSIGNALED(status);
        close(said[0]);
        v = open_vault();
        whole += groups_are_whole(v, &count, false);
        before = count;
        if (kill_number % 5 == 4) {
            vault_close(&v);
            MUST(vault_rebuild(dir, &options, &e) == 0);
            v = open_vault();
            rebuilt += groups_are_whole(v, &count, false) && count == before;
        }
    }
    is_int(ended, 0, "nothing failed before the kill");
    is_int(whole, KILLS, "after every kill, each group is there with all its points, or not");
    is_int(rebuilt, KILLS / 5, "after a rebuild, too");
    ok(count >= committed && committed >= 2 * KILLS, "%d groups are there of %d that were said to be", count, committed);
    remove_dir();
}

int main(int argc, char **argv)
{
    MUST(argc == 2);
    options.key_count = getenv("VAULT_SEALED") != NULL;
    reader = argv[1];
    all_or_none();
    space_is_kept();
    expire_together();
    expire_by_their_own();
    killed();
    return tap_done();
}
