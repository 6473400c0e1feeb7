/* A writer killed at seeded moments: everything that it was told is durable is there after, whole, and nothing half done is. */
#include "base/clock.h"
#include "tap.h"
#include "vault/vault.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK VAULT_CHUNK_BYTES
#define CHUNKS 200
#define ROUNDS 12

static char dir[64];
static const struct vault_key key = {{7}};
static struct vault_options options = {.segment_bytes = 1 << 20, .guard_bytes = 1 << 20, .keys = &key}; /* VAULT_SEALED: with the key */

/* What the child says, in order, once it holds. */
struct word {
    enum { POINT_MADE, POINT_GOES, SYNCED } what;
    uint32_t round, step;
    char point[VAULT_POINT_ID_SIZE];
};

static void fill(uint8_t bytes[static CHUNK], uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    memset(bytes, 0, CHUNK);
    for (size_t i = 0; seed && i + 8 <= CHUNK; i += 32) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(bytes + i, &x, 8);
    }
}

/* The seed of a chunk's content after `step` of a round: every step rewrites every seventh chunk. */
static uint64_t seed_of(uint32_t round, uint32_t step, uint32_t chunk)
{
    uint32_t last = step;

    while (last > 0 && (chunk + last) % 7)
        last--;
    return chunk % 11 == 3 ? 0 : 1 + chunk + 1000 * (uint64_t)last + 1000000 * (uint64_t)round;
}

static int put(struct vault *v, const struct vault_disk *d, uint32_t chunk, uint64_t seed, struct err *e)
{
    uint8_t bytes[CHUNK];
    struct vault_hash hash;

    fill(bytes, seed);
    return vault_store(v, bytes, NULL, &hash, NULL, e) < 0 || vault_map(v, d, chunk, &hash, e) != 1 ? -1 : 0;
}

static void say(int fd, struct word w)
{
    if (write(fd, &w, sizeof w) != sizeof w)
        _exit(3);
}

static void drop_oldest(struct vault *v, int fd, uint32_t round)
{
    CLEANUP(free_ptr) struct vault_point *list = NULL;
    int count = vault_point_list(v, "s", 0, &list, NULL);
    struct word w = {.what = POINT_GOES, .round = round};

    if (count < 8)
        return;
    memcpy(w.point, list[count - 1].id, sizeof w.point);
    say(fd, w);
    if (vault_point_drop(v, w.point, NULL) < 0)
        _exit(4);
}

static _Noreturn void child(int fd, uint32_t round)
{
    struct vault *v = NULL;
    struct vault_point p;
    struct vault_disk d;
    struct err e = {0};

    if (vault_open(dir, &options, &v, &e) < 0 || vault_disk_open(v, "s", "d", CHUNKS * (uint64_t)CHUNK, &d, &e) < 0)
        _exit(1);
    for (uint32_t step = 0;; step++) {
        struct vault_feed feed = {.applied = step};
        struct word w = {.what = POINT_MADE, .round = round, .step = step};

        snprintf(feed.epoch, sizeof feed.epoch, "r%u", round);
        for (uint32_t c = 0; c < CHUNKS; c++)
            if ((step == 0 || (c + step) % 7 == 0) && put(v, &d, c, seed_of(round, step, c), &e) < 0)
                _exit(2);
        if (vault_feed_set(v, "s", &feed, &e) < 0)
            _exit(2);
        if (step % 2) {
            if (vault_sync(v, &e) < 0)
                _exit(2);
            say(fd, (struct word){.what = SYNCED, .round = round, .step = step});
            continue;
        }
        if (vault_point_commit(v, "s", 0, "crash", 0, &p, &e) < 0)
            _exit(2);
        memcpy(w.point, p.id, sizeof w.point);
        say(fd, w);
        drop_oldest(v, fd, round);
        if (step % 6 == 4 && (step % 4 ? vault_gc(v, NULL, &e) : vault_compact(v, 90, true, NULL, &e)) < 0)
            _exit(5);
        if (options.key_count && vault_rotate(v, NULL, &e) < 0)
            _exit(6);
    }
}

/* ---- the parent's memory of what was said ---- */

static struct word *points;
static size_t point_count;
static int64_t synced_round = -1, synced_step = -1;

static void remember(const struct word *w)
{
    if (w->what == POINT_MADE) {
        points = xrealloc(points, (point_count + 1) * sizeof *points);
        points[point_count++] = *w;
    } else if (w->what == POINT_GOES) {
        for (size_t i = 0; i < point_count; i++)
            if (strcmp(points[i].point, w->point) == 0)
                points[i] = points[--point_count];
    }
    if (w->what != POINT_GOES) {
        synced_round = w->round;
        synced_step = w->step;
    }
}

static bool point_holds(struct vault *v, const struct word *w)
{
    CLEANUP(vault_image_free) struct vault_image *image = NULL;
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct err e = {0};

    if (vault_image_open(v, w->point, "d", &image, &e) < 0) {
        printf("# %s\n", e.message);
        return false;
    }
    for (uint32_t c = 0; c < CHUNKS; c++) {
        fill(wanted, seed_of(w->round, w->step, c));
        if (vault_image_read(image, bytes, CHUNK, c * (uint64_t)CHUNK, &e) < 0 || memcmp(bytes, wanted, CHUNK) != 0) {
            printf("# point %s (round %u step %u) chunk %u: %s\n", w->point, w->round, w->step, c, e.kind ? e.message : "other bytes");
            return false;
        }
    }
    return true;
}

static void look(uint32_t round)
{
    CLEANUP(vault_close) struct vault *v = NULL;
    CLEANUP(vault_report_release) struct vault_report held = {0};
    struct vault_report *report = &held;
    struct vault_feed feed = {0};
    struct err e = {0};
    bool all_hold = true;

    if (round % 4 == 3) {
        ok(vault_rebuild(dir, &options, &e) == 0, "round %u: the index is made anew: %s", round, e.message);
        synced_round = -1; /* that loses the feeds: the next writer may be killed before it has said anything */
    }
    if (!ok(vault_open(dir, &options, &v, &e) == 0, "round %u: it opens: %s", round, e.message))
        return;
    for (size_t i = 0; i < point_count; i++)
        all_hold = point_holds(v, &points[i]) && all_hold;
    ok(all_hold, "round %u: all %zu points that were made are whole", round, point_count);
    ok(vault_check(v, report, &e) == 0 && report->finding_count == 0, "round %u: check finds nothing (%s)", round,
       report->finding_count ? report->findings[0].text : e.message);
    if (synced_round >= 0) {
        char epoch[32];

        snprintf(epoch, sizeof epoch, "r%lld", (long long)synced_round);
        ok(vault_feed_get(v, "s", &feed, &e) == 1 &&
           (strcmp(feed.epoch, epoch) != 0 ? feed.applied < 3 : feed.applied >= (uint64_t)synced_step),
           "round %u: the feed is at least where it was synced (%s %llu, %s %lld)", round, feed.epoch, (unsigned long long)feed.applied,
           epoch, (long long)synced_step);
    }
}

/* Lets the writer say `words` things, then live a little longer. */
static void one_round(uint32_t round, unsigned words, int64_t longer_us)
{
    int pipes[2], status;
    struct word w;
    pid_t pid;

    if (pipe(pipes) < 0)
        abort();
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        close(pipes[0]);
        child(pipes[1], round);
    }
    close(pipes[1]);
    for (unsigned i = 0; i < words && read(pipes[0], &w, sizeof w) == sizeof w; i++)
        remember(&w);
    clock_sleep_us(longer_us);
    kill(pid, SIGKILL);
    while (read(pipes[0], &w, sizeof w) == sizeof w)
        remember(&w);
    close(pipes[0]);
    waitpid(pid, &status, 0);
    ok(WIFSIGNALED(status), "round %u: the writer was killed %lld us after word %u (and had not failed: %d)", round,
       (long long)longer_us, words, WIFEXITED(status) ? WEXITSTATUS(status) : 0);
    look(round);
}

int main(void)
{
    uint64_t x = (uint64_t)clock_now_us();
    char command[128];

    snprintf(dir, sizeof dir, "/tmp/vault-crash.XXXXXX");
    if (!mkdtemp(dir))
        abort();
    options.key_count = getenv("VAULT_SEALED") != NULL;
    if (getenv("SEED"))
        x = strtoull(getenv("SEED"), NULL, 10);
    printf("# SEED=%llu\n", (unsigned long long)x);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        one_round(round, round == 0 ? 0 : (unsigned)(x % 14), (int64_t)(x >> 20) % 60000);
    }
    ok(point_count > 0, "there were points to lose");
    free(points);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) == 0 ? tap_done() : 1;
}
