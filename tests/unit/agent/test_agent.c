/* The agent against a replicator of the test's own, on loop devices: what its points hold is compared with the disks. Needs root and
 * loop devices; skipped without. Seeded: SLIPWAY_SEED=N repeats a run. */
#include "agentworld.h"

#include <errno.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* Runs a check program on a point's image. */
static int check_image(const struct fake_point *p, int disk, const char *program)
{
    char path[300];
    uint8_t *image = fake_image(p, disk);
    FILE *file;
    int status;

    snprintf(path, sizeof path, "%s/image", folder);
    file = fopen(path, "w");
    MUST(file && fwrite(image, 1, (size_t)p->disks[disk].info.size_bytes, file) == (size_t)p->disks[disk].info.size_bytes);
    fclose(file);
    free(image);
    status = run("%s %s >/dev/null 2>&1", program, path);
    unlink(path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

/* ---- writers ---- */

static atomic_bool writing;

static void *write_files(void *user)
{
    const char *mount_point = user;
    uint64_t state = seed;
    char path[300];

    for (int i = 0; atomic_load(&writing); i++) {
        uint8_t block[40000];
        int fd;

        state = state * 6364136223846793005u + 1442695040888963407u;
        memset(block, (int)(state >> 40), sizeof block);
        memcpy(block, &state, sizeof state);
        snprintf(path, sizeof path, "%s/f%d", mount_point, (int)(state >> 33) % 40);
        fd = open(path, O_RDWR | O_CREAT, 0600);
        if (fd < 0)
            continue;
        if (pwrite(fd, block, 1 + (state >> 20) % sizeof block, (off_t)((state >> 50) % 300000)) > 0 && i % 7 == 0)
            fsync(fd);
        if (i % 29 == 0 && ftruncate(fd, 0) < 0)
            break;
        close(fd);
        usleep(1000 + (state >> 40) % 4000);
    }
    return NULL;
}

#define PLACES 32 /* in turn on the one disk and the other */

static off_t place_offset(int place) { return (off_t)(1 + 3 * (place / 2)) * 2 * WIRE_CHUNK_SIZE; }

/* Dependent writes over two disks: n goes to each place, and when it is there, to the next. */
static void *write_in_order(void *user)
{
    int fds[2] = {open(raw[0].path, O_RDWR | O_DIRECT | O_CLOEXEC), open(raw[1].path, O_RDWR | O_DIRECT | O_CLOEXEC)};
    uint64_t state = seed, *block;

    (void)user;
    MUST(fds[0] >= 0 && fds[1] >= 0 && posix_memalign((void **)&block, 4096, 4096) == 0);
    memset(block, 0, 4096);
    for (uint64_t n = 1; atomic_load(&writing); n++) {
        for (int i = 0; i < PLACES; i++) {
            block[0] = n;
            MUST(pwrite(fds[i % 2], block, 4096, place_offset(i)) == 4096);
            state = state * 6364136223846793005u + 1442695040888963407u;
            if (state >> 58 == 0)
                usleep(50000 + (state >> 20) % 100000); /* the moments that the optimistic way lives on */
        }
    }
    free(block);
    close(fds[0]);
    close(fds[1]);
    return NULL;
}

/* In a moment, n has come up to some place, and n - 1 is in those behind it. */
static bool is_moment(const struct fake_point *p)
{
    uint8_t *images[2] = {fake_image(p, 0), fake_image(p, 1)};
    uint64_t n[PLACES];
    bool fine;

    for (int i = 0; i < PLACES; i++)
        memcpy(&n[i], images[i % 2] + place_offset(i), 8);
    fine = n[0] - n[PLACES - 1] <= 1;
    for (int i = 1; i < PLACES; i++)
        fine &= n[i - 1] >= n[i];
    if (!fine)
        for (int i = 0; i < PLACES; i++)
            printf("%s%llu%s", i ? " " : "# ", (unsigned long long)n[i], i + 1 < PLACES ? "" : "\n");
    free(images[0]);
    free(images[1]);
    return fine;
}

/* ---- the tests ---- */

static void test_quiet(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[0], &raw[1]};
    struct running *r = start_agent(f, 2, disks, false);
    struct fake_point *p;
    int64_t received;

    ok(fake_wait_state(f, "CONTINUOUS", 60000), "it becomes continuous (it is %s: %s)", f->status.state, f->status.error);
    is_str(f->server_name, "agent:web01", "under its name");
    is_str(f->status.tracker, "ebpf", "following writes");
    p = fake_point(f, WIRE_CRASH, false, 0, 60000);
    ok(p && p->info.consistency == WIRE_CRASH && p->info.freeze_ms == 0, "a crash-consistent point without a freeze: %s", f->failure.message);
    ok(p && point_equals_disk(p, 0, &raw[0]) && point_equals_disk(p, 1, &raw[1]), "both disks are equal");
    MUST(pwrite(raw[0].fd, "over a border", 13, 5 * 65536 - 5) == 13 && fsync(raw[0].fd) == 0);
    received = f->chunks_received;
    p = fake_point(f, WIRE_ANY, false, 0, 60000);
    ok(p && point_equals_disk(p, 0, &raw[0]), "a change is in the next point");
    is_int(f->chunks_received - received, 2, "and only its two chunks travelled");
    stop_agent(r);
    ok(fake_wait(f, &f->byes, 1, SOON_MS), "it said goodbye");
    received = f->chunks_received;
    r = start_agent(f, 2, disks, false);
    p = NULL;
    if (ok(fake_wait(f, &f->connections, 2, 60000), "a new agent connects"))
        p = fake_point(f, WIRE_ANY, false, 0, 60000);
    ok(p && point_equals_disk(p, 0, &raw[0]), "its point is equal");
    is_int(f->chunks_received - received, 0, "and nothing was sent that was there");
    ok(f->chunks_offered >= 4 * SMALL / WIRE_CHUNK_SIZE, "though everything was offered again");
    stop_agent(r);
}

static void test_order(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[0], &raw[1]};
    struct running *r = start_agent(f, 2, disks, false);
    int wrong = 0, points = 0, connections = f->connections + 1;
    pthread_t writer;

    ok(fake_wait(f, &f->connections, connections, 60000), "connected");
    atomic_store(&writing, true);
    MUST(pthread_create(&writer, NULL, write_in_order, NULL) == 0);
    for (int i = 0; i < 12 && points < 6; i++) {
        struct fake_point *p = fake_point(f, WIRE_CRASH, false, 0, 20000);

        points += p != NULL;
        wrong += p && !is_moment(p);
        if (!p)
            printf("# %s\n", f->failure.message);
    }
    atomic_store(&writing, false);
    pthread_join(writer, NULL);
    ok(points >= 3, "%d points were taken while there were writes", points);
    is_int(wrong, 0, "none holds a write without the one that it depended on");
    stop_agent(r);
    fake_forget_points(f);
}

static void test_frozen(struct fake *f, const char *make, const char *check)
{
    const struct loopdev *disks[] = {&data};
    struct running *r;
    struct fake_point *p;
    char point[256];
    pthread_t writer;
    struct wire_hash hash = {.request = 77};
    struct wire_simple thaw = {.request = 78};
    uint8_t sum[HASH_SHA256_SIZE], *image;
    int connections = f->connections + 1, failed = 0;
    struct stat before, after;

    snprintf(point, sizeof point, "%s/m", folder);
    MUST(run("%s %s >/dev/null 2>&1", make, data.path) == 0 && run("mount %s %s", data.path, point) == 0);
    r = start_agent(f, 1, disks, false);
    ok(fake_wait(f, &f->connections, connections, 60000), "connected; %s", make);
    atomic_store(&writing, true);
    MUST(pthread_create(&writer, NULL, write_files, point) == 0);
    for (int i = 0; i < 3; i++) {
        p = fake_point(f, WIRE_FROZEN, false, 0, 60000);
        if (!ok(p && p->info.consistency == WIRE_FROZEN, "a frozen point while files are written: %s", p ? "" : f->failure.message))
            continue;
        ok(p->info.freeze_ms <= BUDGET_MS, "the freeze took %lld ms in %lld attempts", (long long)p->info.freeze_ms, (long long)p->info.attempts);
        failed += check_image(p, 0, check) != 0;
    }
    is_int(failed, 0, "each is clean by itself (%s)", check);
    p = fake_point(f, WIRE_FROZEN, true, 0, 60000);
    ok(p && p->info.held, "a held point: %s", p ? "" : f->failure.message);
    if (p) {
        ok(point_equals_disk(p, 0, &data), "equals the disk, which stands still, byte by byte");
        MUST(fstat(data.fd, &before) == 0);
        hash.disk_count = 0;
        free(f->hashes);
        f->hashes = xcalloc(SIZE / WIRE_CHUNK_SIZE, HASH_SHA256_SIZE);
        fake_send(f, WIRE_HASH, &hash, sizeof hash);
        if (ok(fake_wait(f, &f->hash_count, 1, 60000), "the source is hashed")) {
            image = fake_image(p, 0);
            hash_sha256(image, SIZE, sum);
            ok(memcmp(sum, f->hashed.disks[0].sha256, sizeof sum) == 0, "to the hash of the point");
            ok(f->hashed.still, "and stood still");
            hash_sha256(image + 17 * WIRE_CHUNK_SIZE, WIRE_CHUNK_SIZE, sum);
            ok(memcmp(sum, f->hashes + 17 * HASH_SHA256_SIZE, sizeof sum) == 0 && f->hashes_received >= SIZE / WIRE_CHUNK_SIZE, "chunk by chunk");
            free(image);
        }
        f->hash_count = 0;
        pthread_mutex_lock(&f->lock); /* the link is cut while held: the agent comes back, still holding */
        connections = f->connections + 1;
        wire_conn_cut(f->conn);
        pthread_mutex_unlock(&f->lock);
        ok(fake_wait(f, &f->connections, connections, 60000), "the link is cut while held; the agent comes back");
        p = fake_point(f, WIRE_FROZEN, true, 0, 60000);
        ok(p && p->info.held && point_equals_disk(p, 0, &data), "and the same moment can be taken again");
        fake_send(f, WIRE_THAW, &thaw, sizeof thaw);
        ok(fake_wait(f, &f->thaw_count, 1, 60000) && f->thawed.was_held && f->thawed.still, "it thaws, and all had stood still");
        f->thaw_count = 0;
        MUST(fstat(data.fd, &after) == 0);
    }
    usleep(100000);
    atomic_store(&writing, false);
    pthread_join(writer, NULL);
    ok(run("echo x > %s/after && sync", point) == 0, "the filesystem is writable again");
    p = fake_point(f, WIRE_ANY, false, 0, 60000);
    p = p && run("sync") == 0 ? fake_point(f, WIRE_ANY, false, 0, 60000) : NULL;
    ok(p && point_equals_disk(p, 0, &data), "the last point equals the disk: %s", p ? "" : f->failure.message);
    stop_agent(r);
    MUST(run("umount %s", point) == 0);
    fake_forget_points(f);
}

/* Direct writes without a rest, ahead of everybody else: hardly a moment is without one. */
static void *write_always(void *user)
{
    char path[300];
    void *block;
    int fd;

    setpriority(PRIO_PROCESS, 0, -15); /* the thread's */
    snprintf(path, sizeof path, "%s/always-%d", (const char *)user, (int)gettid());
    fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    MUST(fd >= 0 && posix_memalign(&block, 4096, 4096) == 0);
    memset(block, 1, 4096);
    for (off_t at = 0; atomic_load(&writing); at = (at + 4096) % (4 << 20))
        MUST(pwrite(fd, block, 4096, at) == 4096);
    free(block);
    close(fd);
    return NULL;
}

/* How long `any` hopes depends on how often in a row it did so in vain. A quiet moment may come all the same, and then it is none of this test's. Where the
 * kernel passes over the tracker in the midst of a point it is taken twice, and the second time is half as long. */
static void test_never_quiet(struct fake *f)
{
    const struct loopdev *disks[] = {&data};
    int connections = f->connections + 1, vain = 0, early = 0, late = 0, sooner = 0;
    struct running *r;
    char point[256];
    pthread_t writers[3];

    snprintf(point, sizeof point, "%s/m", folder);
    MUST(run("mkfs.ext4 -q -F %s >/dev/null 2>&1", data.path) == 0 && run("mount %s %s", data.path, point) == 0);
    r = start_agent(f, 1, disks, false);
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "continuous");
    atomic_store(&writing, true);
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&writers[i], NULL, write_always, point) == 0);
    for (int i = 0; i < 5; i++) {
        int64_t begin_us = clock_monotonic_us(), taken_us;
        struct fake_point *p = fake_point(f, WIRE_ANY, false, 0, 60000);
        bool frozen = p && p->info.consistency == WIRE_FROZEN;

        taken_us = clock_monotonic_us() - begin_us;
        ok(p, "a point comes, %s, after %lld ms: %s", frozen ? "frozen" : "quiet", (long long)(taken_us / US_PER_MS), p ? "" : f->failure.message);
        early += frozen && taken_us < 5 * US_PER_S >> (vain + 1);
        late += frozen && vain >= 2 && taken_us >= 5 * US_PER_S;
        sooner += frozen && vain >= 2 && taken_us < 5 * US_PER_S;
        vain = frozen ? vain + 1 : vain > 0 ? vain - 1 : 0;
    }
    is_int(early, 0, "a moment is hoped for");
    ok(late == 0 || sooner > 0, "and less each time that none came (%d sooner, %d not)", sooner, late);
    stop_agent(r);
    r = start_agent(f, 1, disks, false);
    ok(fake_wait(f, &f->connections, connections + 1, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "an agent that knows nothing yet");
    f->hope_ms = 100;
    for (sooner = late = 0; sooner == 0 && late < 3;) { /* by itself it would hope for 5 s, 2.5, 1.25 */
        int64_t begin_us = clock_monotonic_us();
        struct fake_point *p = fake_point(f, WIRE_ANY, false, 0, 60000);

        if (!p || p->info.consistency != WIRE_FROZEN || clock_monotonic_us() - begin_us >= 5 * US_PER_S >> late)
            late++;
        else
            sooner++;
    }
    f->hope_ms = 0;
    ok(sooner > 0, "nobody hopes for longer than whoever asks (%d frozen sooner, %d not)", sooner, late);
    atomic_store(&writing, false);
    for (int i = 0; i < 3; i++)
        pthread_join(writers[i], NULL);
    stop_agent(r);
    MUST(run("umount %s", point) == 0);
    fake_forget_points(f);
}

static void test_hold_ends(struct fake *f)
{
    const struct loopdev *disks[] = {&data};
    struct running *r;
    struct fake_point *p;
    char point[256];
    int connections = f->connections + 1;
    int64_t begin_us;
    struct wire_simple thaw = {.request = 9};
    int written;

    snprintf(point, sizeof point, "%s/m", folder);
    MUST(run("mount %s %s", data.path, point) == 0);
    hold_limit_ms = 1500;
    r = start_agent(f, 1, disks, false);
    hold_limit_ms = 60000;
    ok(fake_wait(f, &f->connections, connections, 60000), "connected");
    p = fake_point(f, WIRE_FROZEN, true, 0, 60000);
    begin_us = clock_monotonic_us();
    ok(p && p->info.held, "held");
    written = run("echo y > %s/late && sync", point);
    begin_us = clock_monotonic_us() - begin_us;
    ok(written == 0 && begin_us > US_PER_S && begin_us < 60 * US_PER_S, "a write goes on when the hold's limit is over, after %lld ms",
       (long long)begin_us / 1000);
    fake_send(f, WIRE_THAW, &thaw, sizeof thaw);
    ok(fake_wait(f, &f->thaw_count, 1, 60000) && !f->thawed.was_held, "and a thaw says that nothing was held any more");
    f->thaw_count = 0;
    stop_agent(r);
    MUST(run("umount %s", point) == 0);
    fake_forget_points(f);
}

/* Over all of the disk, what does not compress. */
static void write_noise(uint64_t state)
{
    uint8_t *noise = xmalloc(SIZE);

    for (int i = 0; i < SIZE / 8; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        memcpy(noise + i * 8, &state, 8);
    }
    MUST(pwrite(data.fd, noise, SIZE, 0) == SIZE && fsync(data.fd) == 0);
    free(noise);
}

/* The first sync is cut again and again: what was acknowledged isn't sent again. */
static void test_cut(struct fake *f)
{
    const struct loopdev *disks[] = {&data};
    struct running *r;
    struct fake_point *p;
    int connections = f->connections;

    write_noise(seed | 1);
    f->chunks_received = 0;
    f->cut_after_offers = 3;
    r = start_agent(f, 1, disks, false);
    for (int i = 1; i <= 4; i++) {
        ok(fake_wait(f, &f->connections, connections + i, 60000), "connection %d", i);
        pthread_mutex_lock(&f->lock);
        f->cut_after_offers = i < 4 ? 4 : 0;
        pthread_mutex_unlock(&f->lock);
    }
    p = fake_point(f, WIRE_CRASH, false, 0, 60000);
    ok(p && point_equals_disk(p, 0, &data), "the point is whole: %s", p ? "" : f->failure.message);
    ok(f->chunks_received < SIZE / WIRE_CHUNK_SIZE + 4 * 64 * 4, "%lld chunks travelled for %d", (long long)f->chunks_received,
       SIZE / WIRE_CHUNK_SIZE);
    stop_agent(r);
    fake_forget_points(f);
}

/* There is nothing of a zero chunk that could be sent, and its buffer is another's already. */
static void test_asked_for_zeroes(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[0]};
    uint8_t *zeroes = xcalloc(1, SMALL);
    int connections = f->connections;
    struct fake_point *p;
    struct running *r;

    MUST(pwrite(raw[0].fd, zeroes, SMALL, 0) == SMALL && fsync(raw[0].fd) == 0);
    free(zeroes);
    f->ask_for_zeroes = true;
    r = start_agent(f, 1, disks, false);
    ok(fake_wait(f, &f->connections, connections + 2, 60000) && !f->ask_for_zeroes, "whoever asks for a zero chunk is left");
    ok(f->refusals == 1 && strstr(f->refusal.message, "zero chunk"), "and told why: %s", f->refusal.message);
    p = fake_point(f, WIRE_CRASH, false, 0, 60000);
    ok(p && point_equals_disk(p, 0, &raw[0]), "and comes to a whole point when it keeps to the protocol: %s", p ? "" : f->failure.message);
    stop_agent(r);
    fake_forget_points(f);
}

/* Writes a file, in a process of its own: on a frozen filesystem it waits for the thaw. */
static pid_t write_late(const char *name)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(run("echo z > %s/m/%s", folder, name) != 0);
    usleep(200000);
    return pid;
}

static bool is_waiting(pid_t pid) { return waitpid(pid, NULL, WNOHANG) == 0; }

/* Whether it ended well within that time. */
static bool ends(pid_t pid, int timeout_ms)
{
    int64_t until_us = clock_monotonic_us() + timeout_ms * US_PER_MS;
    int status;

    while (clock_monotonic_us() < until_us) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return status == 0;
        usleep(5000);
    }
    return false;
}

/* The next point, alone, is right. */
static void goes_on(struct fake *f)
{
    struct fake_point *p;

    MUST(run("sync -f %s/m", folder) == 0);
    p = fake_point(f, WIRE_FROZEN, true, 0, 60000);
    ok(p && p->info.held && point_equals_disk(p, 0, &data), "the next point alone equals the disk: %s", p ? "" : f->failure.message);
    f->thaw_count = 0;
    fake_send(f, WIRE_THAW, &(struct wire_simple){.request = 5}, sizeof(struct wire_simple));
    ok(fake_wait(f, &f->thaw_count, 1, 60000), "thawed");
    f->thaw_count = 0;
}

/* A point of a group: how it ends well, and every other end. */
static void test_in_step(struct fake *f)
{
    const struct loopdev *disks[] = {&data};
    int connections = f->connections + 1, points, failures;
    struct running *r;
    pid_t writer;

    MUST(run("mkfs.ext4 -q -F %s", data.path) == 0 && run("mount %s %s/m", data.path, folder) == 0);
    r = start_agent(f, 1, disks, false);
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "continuous");

    ok(fake_step(f, WIRE_FROZEN, false, STEP_MS, WIRE_STILL), "it comes to stand still: %s", f->failure.message);
    writer = write_late("one");
    points = f->point_count;
    ok(is_waiting(writer) && f->point_count == points, "frozen, and nothing is committed while the others are waited for");
    fake_go(f, WIRE_COMMIT);
    ok(fake_wait(f, &f->point_count, points + 1, 60000) && f->points[points].info.consistency == WIRE_FROZEN && f->points[points].info.group,
       "told to, it commits");
    ok(ends(writer, SOON_MS) && check_image(&f->points[points], 0, "e2fsck -fn") == 0, "thaws, and the point is clean");

    failures = f->failures;
    ok(fake_step(f, WIRE_FROZEN, false, STEP_MS, WIRE_STILL), "again");
    writer = write_late("two");
    fake_go(f, WIRE_GIVE_UP);
    ok(ends(writer, SOON_MS), "told to give up, it thaws at once");
    fails_with(f, failures, "cancelled");
    failures = f->failures;
    ok(fake_step(f, WIRE_FROZEN, false, STEP_MS, WIRE_READY), "ready, and not told to stand still");
    ok(ends(write_late("three"), SOON_MS), "nothing is frozen yet");
    fake_go(f, WIRE_GIVE_UP);
    fails_with(f, failures, "cancelled");

    failures = f->failures;
    points = f->point_count;
    ok(fake_step(f, WIRE_FROZEN, false, 600, WIRE_STILL), "with a budget of 600 ms");
    writer = write_late("four");
    ok(ends(writer, SOON_MS), "it waits no longer than that for the others");
    fails_with(f, failures, "timeout");
    fake_go(f, WIRE_COMMIT);
    usleep(300000);
    is_int(f->point_count, points, "and an order that comes late makes no point");

    failures = f->failures;
    ok(fake_step(f, WIRE_CRASH, false, 0, WIRE_STILL), "without a freeze");
    MUST(run("echo q > %s/m/five && sync -f %s/m", folder, folder) == 0);
    fake_go(f, WIRE_COMMIT);
    fails_with(f, failures, "timeout");
    is_int(f->point_count, points, "what was written before the order is the end of it");
    goes_on(f);
    MUST(run("sync -f %s/m", folder) == 0);
    usleep(300000);
    points = f->point_count;
    for (int i = 0; i < 5 && f->point_count == points; i++) { /* a filesystem writes on its own now and then */
        if (fake_step(f, WIRE_CRASH, false, 0, WIRE_STILL))
            fake_go(f, WIRE_COMMIT);
        fake_wait(f, &f->point_count, points + 1, 3000);
    }
    ok(f->point_count == points + 1 && f->points[points].info.consistency == WIRE_CRASH && f->points[points].info.freeze_ms == 0 &&
       point_equals_disk(&f->points[points], 0, &data), "where nothing was, it commits what the disk holds");

    ok(fake_step(f, WIRE_FROZEN, false, STEP_MS, WIRE_STILL), "still, once more");
    writer = write_late("six");
    connections = f->connections + 1;
    pthread_mutex_lock(&f->lock);
    wire_conn_cut(f->conn);
    pthread_mutex_unlock(&f->lock);
    ok(ends(writer, SOON_MS), "the link is cut: it thaws at once");
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "and comes back");
    goes_on(f);

    failures = f->failures;
    fake_step(f, WIRE_FROZEN, true, 0, WIRE_READY);
    fails_with(f, failures, "invalid");
    failures = f->failures;
    fake_step(f, WIRE_APPLICATION, false, 0, WIRE_READY);
    fails_with(f, failures, "state");
    stop_agent(r);
    fake_forget_points(f);

    connections = f->connections + 1;
    r = start_agent(f, 1, disks, true);
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "an agent that can't follow writes");
    failures = f->failures;
    fake_step(f, WIRE_CRASH, false, 0, WIRE_READY);
    fails_with(f, failures, "unsupported");
    stop_agent(r);
    fake_forget_points(f);
    MUST(run("umount %s/m", folder) == 0);
}

static int lines_of(const char *name)
{
    char path[300];
    FILE *file;
    int count = 0;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "re");
    for (int c; file && (c = fgetc(file)) != EOF;)
        count += c == '\n';
    if (file)
        fclose(file);
    return count;
}

/* The owner's programs: what they make of a point, and what their failing does. */
static void test_hooks(struct fake *f)
{
    const struct loopdev *disks[] = {&data};
    static char before[300], after[300];
    int connections = f->connections + 1, failures;
    struct fake_point *p;
    struct running *r;

    snprintf(before, sizeof before, "%s/before", folder);
    snprintf(after, sizeof after, "%s/after", folder);
    MUST(run("printf '#!/bin/sh\necho $1 >> %s/ran-before\ntest ! -e %s/refuse\n' > %s && chmod +x %s", folder, folder, before, before) == 0);
    MUST(run("printf '#!/bin/sh\necho $1 >> %s/ran-after\n' > %s && chmod +x %s", folder, after, after) == 0);
    before_freeze = before;
    after_thaw = after;
    MUST(run("mount %s %s/m", data.path, folder) == 0);
    r = start_agent(f, 1, disks, false);
    before_freeze = after_thaw = "";
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "continuous");
    p = fake_point(f, WIRE_APPLICATION, false, 20000, 60000);
    ok(p && p->info.consistency == WIRE_APPLICATION, "a point with the owner's programs: %s", p ? "" : f->failure.message);
    ok(lines_of("ran-before") >= 1 && lines_of("ran-after") == lines_of("ran-before"), "each ran before, and after");
    p = fake_point(f, WIRE_FROZEN, false, 20000, 60000);
    ok(p && p->info.consistency == WIRE_APPLICATION, "one that is frozen says that they ran, too");
    p = fake_point(f, WIRE_CRASH, false, 0, 60000);
    ok(p && p->info.consistency == WIRE_CRASH, "one without a freeze does not");
    MUST(run("touch %s/refuse", folder) == 0);
    failures = f->failures;
    ok(!fake_point(f, WIRE_FROZEN, false, 20000, 60000) && f->failures == failures + 1, "a program that fails fails the point: %s", f->failure.message);
    ok(!fake_step(f, WIRE_APPLICATION, false, STEP_MS, WIRE_READY), "in a group, too: %s", f->failure.message);
    is_int(lines_of("ran-after"), lines_of("ran-before"), "and what it may have stopped goes on again");
    ok(run("rm %s/refuse && echo x > %s/m/x", folder, folder) == 0, "nothing is frozen");
    ok(fake_step(f, WIRE_APPLICATION, false, STEP_MS, WIRE_STILL), "in a group");
    failures = f->point_count;
    ok(lines_of("ran-before") == lines_of("ran-after") + 1, "it ran before the freeze");
    ok(run("test -e %s/run/quiet", folder) == 0, "which is written down where a next agent looks");
    fake_go(f, WIRE_COMMIT);
    ok(fake_wait(f, &f->point_count, failures + 1, 60000) && f->points[failures].info.consistency == WIRE_APPLICATION, "such a point");
    stop_agent(r);
    is_int(lines_of("ran-after"), lines_of("ran-before"), "and after it");
    ok(run("test -e %s/run/quiet", folder) != 0, "and no more");
    MUST(run("touch %s/run/quiet", folder) == 0); /* as of one that was killed before it came to the second program */
    connections = f->connections + 1;
    after_thaw = after;
    r = start_agent(f, 1, disks, false);
    after_thaw = "";
    ok(fake_wait(f, &f->connections, connections, 60000), "another agent");
    ok(lines_of("ran-after") == lines_of("ran-before") + 1 && run("test -e %s/run/quiet", folder) != 0, "runs the program that an agent before it did not come to");
    stop_agent(r);
    MUST(run("umount %s/m", folder) == 0);
    fake_forget_points(f);
}

/* Who asks for a point while everything is read first does not make the agent forget its limits. */
static void test_no_hurry(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[0]};
    struct running *r;
    int connections = f->connections + 1;

    read_bytes_per_s = 128 << 10; /* a minute for the disk */
    r = start_agent(f, 1, disks, true);
    read_bytes_per_s = 0;
    ok(fake_wait(f, &f->connections, connections, 60000) && !fake_point(f, WIRE_FROZEN, true, 0, 3000), "no point comes before all was read: %s", f->failure.message);
    ok(strstr(f->failure.message, "not every chunk has reached the replicator yet"), "for it is read as slowly as it is set");
    stop_agent(r);
}

/* Past all filesystems, number after number, each once the one before is there, to places in turn over all of the disk. */
#define RAW_PLACES 8
static off_t raw_place(uint64_t n) { return (off_t)(n % RAW_PLACES * (SIZE / RAW_PLACES) + 65536); }

struct raw_writer {
    pthread_t thread;
    atomic_bool stop;
    int64_t written;
};

static void write_number(uint64_t place, uint64_t n) { MUST(pwrite(data.fd, &n, sizeof n, raw_place(place)) == sizeof n && fdatasync(data.fd) == 0); }

static void *write_raw(void *user)
{
    struct raw_writer *w = user;

    for (uint64_t n = 1; !atomic_load(&w->stop); n++, w->written++)
        write_number(n, n);
    return NULL;
}

/* With a number all before it are there. */
static bool is_of_one_moment(const struct fake_point *p)
{
    uint8_t *image = fake_image(p, 0);
    uint64_t found[RAW_PLACES], most = 0;
    bool holds = true;

    for (int i = 0; i < RAW_PLACES; i++) {
        memcpy(&found[i], image + raw_place((uint64_t)i), sizeof found[i]);
        most = found[i] > most ? found[i] : most;
    }
    for (uint64_t n = most > RAW_PLACES ? most - RAW_PLACES + 1 : 1; n <= most; n++)
        holds = holds && found[n % RAW_PLACES] == n;
    tap_note("  the last number is %llu", (unsigned long long)most);
    free(image);
    return holds;
}

static void *stop_raw(void *user)
{
    struct raw_writer *w = user;

    clock_sleep_us(2 * US_PER_S);
    atomic_store(&w->stop, true);
    return NULL;
}

/* The reading that everything is for goes on for seconds, as what is new travels at the network's limit. Nothing says what was written meanwhile: all is read again, until nothing was. */
static void test_rescan_of_a_writer(struct fake *f)
{
    const struct loopdev *disks[] = {&data};
    struct running *r;
    struct raw_writer w = {0};
    bool scanned = false;
    struct wire_simple thaw = {.request = 11};
    int connections = f->connections + 1;
    struct fake_point *p;
    pthread_t stopper;

    rescan_interval_s = 3600;
    bytes_per_s = 8 << 20;
    r = start_agent(f, 1, disks, true);
    rescan_interval_s = 1;
    bytes_per_s = 0;
    for (int i = 0; i < 600 && !scanned; i++) {
        clock_sleep_us(100 * US_PER_MS);
        pthread_mutex_lock(&f->lock);
        scanned = f->connections == connections && f->statuses && f->status.scan_ms > 0;
        pthread_mutex_unlock(&f->lock);
    }
    ok(scanned, "another disk was read, and is not read again for an hour");
    write_noise(seed ^ 0x5eed);
    for (uint64_t i = 0; i < RAW_PLACES; i++)
        write_number(i, 0);
    MUST(pthread_create(&w.thread, NULL, write_raw, &w) == 0 && pthread_create(&stopper, NULL, stop_raw, &w) == 0);
    p = fake_point(f, WIRE_FROZEN, true, 0, 60000);
    pthread_join(stopper, NULL);
    pthread_join(w.thread, NULL);
    ok(p && is_of_one_moment(p), "past a writer (%lld writes) a point is of one moment: %s", (long long)w.written, p ? "" : f->failure.message);
    fake_send(f, WIRE_THAW, &thaw, sizeof thaw);
    ok(fake_wait(f, &f->thaw_count, 1, 60000), "thawed");
    f->thaw_count = 0;
    stop_agent(r);
    fake_forget_points(f);
}

/* Not held, but for as long as reading takes, where whoever asks allows that. */
static void test_rescan_unheld(struct fake *f)
{
    struct fake_point *p;
    struct wire_status told;

    ok(!fake_point(f, WIRE_ANY, false, 0, 60000) && strcmp(f->failure.kind, "unsupported") == 0, "without a budget of its own no point is taken: %s", f->failure.message);
    MUST(pwrite(raw[0].fd, "once more", 9, 3 << 20) == 9 && fsync(raw[0].fd) == 0);
    p = fake_point(f, WIRE_ANY, false, 60000, 60000);
    ok(p && p->info.consistency == WIRE_FROZEN && !p->info.held && p->info.freeze_ms > 0 && point_equals_disk(p, 0, &raw[0]),
       "with one it is: the source stood still for %lld ms: %s", p ? (long long)p->info.freeze_ms : -1, p ? "" : f->failure.message);
    f->statuses = 0;
    ok(fake_wait(f, &f->statuses, 2, 60000), "it goes on");
    pthread_mutex_lock(&f->lock);
    told = f->status;
    pthread_mutex_unlock(&f->lock);
    ok(!told.held && told.scan_ms > 0 && told.lag_ms > 0 && strcmp(told.state, "CONTINUOUS") == 0, "not held; a reading took %lld ms, the copy is %lld ms old", (long long)told.scan_ms,
       (long long)told.lag_ms);
    ok(!fake_point(f, WIRE_FROZEN, false, 1, 60000) && p->info.consistency == WIRE_FROZEN, "what is not enough ends it after one attempt: %s", f->failure.message);
    ok(!strstr(f->failure.message, "2 attempts"), "and no more");
}

static void test_rescan(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[0]};
    struct running *r = start_agent(f, 1, disks, true);
    struct fake_point *p;
    struct wire_simple thaw = {.request = 10};
    int connections = f->connections + 1;
    int64_t received;

    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "rescanning");
    is_str(f->status.tracker, "rescan", "and says so");
    ok(!fake_point(f, WIRE_CRASH, false, 0, 60000), "a crash-consistent point is refused: %s", f->failure.message);
    is_str(f->failure.kind, "unsupported", "as unsupported");
    received = f->chunks_received;
    MUST(pwrite(raw[0].fd, "changed", 7, 2 << 20) == 7 && fsync(raw[0].fd) == 0);
    p = fake_point(f, WIRE_FROZEN, true, 0, 60000);
    ok(p && p->info.held && point_equals_disk(p, 0, &raw[0]), "a held point is equal: %s", p ? "" : f->failure.message);
    is_int(f->chunks_received - received, 1, "one chunk travelled");
    fake_send(f, WIRE_THAW, &thaw, sizeof thaw);
    ok(fake_wait(f, &f->thaw_count, 1, 60000), "thawed");
    f->thaw_count = 0;
    test_rescan_unheld(f);
    stop_agent(r);
    fake_forget_points(f);
    test_rescan_of_a_writer(f);
}

static void test_grown(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[1]};
    struct running *r = start_agent(f, 1, disks, false);
    struct fake_point *p;
    int connections = f->connections + 1;

    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "continuous");
    MUST(truncate(raw[1].file, 2 * SMALL) == 0 && ioctl(raw[1].fd, LOOP_SET_CAPACITY, 0) == 0);
    raw[1].size_bytes = 2 * SMALL;
    MUST(pwrite(raw[1].fd, "in the new part", 15, SMALL + 100000) == 15 && fsync(raw[1].fd) == 0);
    ok(fake_wait(f, &f->connections, connections + 1, 60000), "the disk grows: the agent says HELLO again");
    p = fake_point(f, WIRE_CRASH, false, 0, 60000);
    ok(p && p->disks[0].info.size_bytes == 2 * SMALL && point_equals_disk(p, 0, &raw[1]), "the point has all of its new size");
    stop_agent(r);
    fake_forget_points(f);
}

static bool wait_backlog(struct fake *f, int64_t bytes, int64_t eta_least, int64_t eta_most)
{
    int64_t until_us = clock_monotonic_us() + SOON_MS * US_PER_MS;
    bool reached = false;

    while (!reached && clock_monotonic_us() < until_us) {
        pthread_mutex_lock(&f->lock);
        reached = f->status.backlog_bytes == bytes && f->status.eta_ms >= eta_least && f->status.eta_ms <= eta_most;
        pthread_mutex_unlock(&f->lock);
        clock_sleep_us(20000);
    }
    return reached;
}

/* What is to do is counted in what will travel: whether it waits in the kernel, is on its way, or is not acknowledged yet. */
static void test_backlog(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[0]};
    struct running *r = start_agent(f, 1, disks, false);
    struct wire_simple order = {0};
    int connections = f->connections + 1, fd = open(raw[0].path, O_RDWR | O_DIRECT | O_CLOEXEC);
    uint8_t *block;

    MUST(fd >= 0 && posix_memalign((void **)&block, 4096, 4096) == 0);
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "continuous");
    ok(wait_backlog(f, 0, 0, 0), "no backlog, nothing to wait for");
    fake_send(f, WIRE_PAUSE, &order, sizeof order);
    ok(fake_wait_state(f, "PAUSED", SOON_MS), "paused");
    for (int i = 0; i < 20; i++) {
        memset(block, i + 1, 4096);
        MUST(pwrite(fd, block, 4096, (off_t)(5 * i + 1) * WIRE_CHUNK_SIZE + 8192) == 4096);
    }
    ok(wait_backlog(f, 20 * 4096, -1, -1), "20 pages wait while paused (%lld bytes), and until when is not known", (long long)f->status.backlog_bytes);
    pthread_mutex_lock(&f->lock);
    f->keep_quiet = true;
    pthread_mutex_unlock(&f->lock);
    fake_send(f, WIRE_RESUME, &order, sizeof order);
    ok(fake_wait_state(f, "CONTINUOUS", SOON_MS) && wait_backlog(f, 20 * 4096, -1, 600000), "sent and not acknowledged they are backlog yet (%lld bytes)",
       (long long)f->status.backlog_bytes);
    ok(fake_wait_state(f, "BACKLOG", 60000), "after ten seconds it says so");
    is_str(f->status.bottleneck, "replicator", "and who is waited for");
    pthread_mutex_lock(&f->lock);
    f->keep_quiet = false;
    pthread_mutex_unlock(&f->lock);
    pthread_mutex_lock(&f->lock);
    wire_conn_cut(f->conn);
    pthread_mutex_unlock(&f->lock);
    ok(fake_wait_state(f, "CONTINUOUS", 60000) && wait_backlog(f, 0, 0, 0), "over a new link they are acknowledged");
    fake_send(f, WIRE_PAUSE, &order, sizeof order);
    ok(fake_wait_state(f, "PAUSED", SOON_MS), "paused once more");
    pthread_mutex_lock(&f->lock);
    wire_conn_cut(f->conn);
    pthread_mutex_unlock(&f->lock);
    ok(fake_wait_state(f, "CONTINUOUS", 60000), "a new link on which nobody says so is not paused");
    ok(f->status.rate_bytes_per_s > 0 && f->status.churn_bytes_per_s >= 0, "and a rate is known: %lld", (long long)f->status.rate_bytes_per_s);
    is_str(f->status.bottleneck, "", "nothing holds it up");
    free(block);
    close(fd);
    stop_agent(r);
    fake_forget_points(f);
}

/* Chunks that are noise each, and nearly the same: nothing to be had from one alone. */
static void fill_alike(const struct loopdev *l)
{
    uint8_t *chunk = xmalloc(WIRE_CHUNK_SIZE);
    uint64_t state = seed;

    for (size_t i = 0; i < WIRE_CHUNK_SIZE; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        chunk[i] = (uint8_t)(state >> 40);
    }
    for (off_t at = 0; at < l->size_bytes; at += WIRE_CHUNK_SIZE) {
        memcpy(chunk, &at, sizeof at);
        MUST(pwrite(l->fd, chunk, WIRE_CHUNK_SIZE, at) == WIRE_CHUNK_SIZE);
    }
    MUST(fsync(l->fd) == 0);
    free(chunk);
}

static void test_packed(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[1]};
    int connections = f->connections + 1;
    struct fake_point *p;
    struct running *r;
    int64_t chunks = f->chunks_received, sent_bytes;

    fill_alike(&raw[1]);
    bytes_per_s = 2 << 20; /* as a slow network */
    r = start_agent(f, 1, disks, false);
    ok(fake_wait(f, &f->connections, connections, 60000) && fake_wait_state(f, "CONTINUOUS", 60000), "continuous over a slow network");
    sent_bytes = wire_conn_received_bytes(f->conn);
    chunks = f->chunks_received - chunks;
    p = fake_point(f, WIRE_CRASH, false, 0, 60000);
    ok(p && point_equals_disk(p, 0, &raw[1]), "the point is the disk");
    ok(chunks >= raw[1].size_bytes / WIRE_CHUNK_SIZE && sent_bytes < chunks * WIRE_CHUNK_SIZE / 2, "%lld chunks that are alike took %lld bytes, less than half", (long long)chunks,
       (long long)sent_bytes);
    stop_agent(r);
    bytes_per_s = 0;
    fake_forget_points(f);
}

static void test_detach(struct fake *f)
{
    const struct loopdev *disks[] = {&raw[0]};
    struct running *r = start_agent(f, 1, disks, false);
    struct wire_simple detach = {0};
    int connections = f->connections + 1, byes = f->byes;
    char path[300];

    ok(fake_wait(f, &f->connections, connections, 60000), "connected");
    fake_send(f, WIRE_DETACH, &detach, sizeof detach);
    pthread_join(r->thread, NULL);
    ok(r->result == 0 && fake_wait(f, &f->byes, byes + 1, SOON_MS), "detached: it says goodbye and ends");
    free(r);
    r = start_agent(f, 1, disks, false);
    pthread_join(r->thread, NULL);
    ok(r->result == 0 && f->connections == connections, "and doesn't dial again");
    free(r);
    snprintf(path, sizeof path, "%s/detached", folder);
    unlink(path);
}

int main(void)
{
    struct fake *f = world_open("test_agent");
    char path[300];

    if (!f)
        return 0;
    snprintf(path, sizeof path, "%s/m", folder);
    mkdir(path, 0700);
    test_quiet(f);
    test_order(f);
    test_cut(f);
    test_asked_for_zeroes(f);
    test_frozen(f, "mkfs.ext4 -q -F", "e2fsck -fn");
    test_never_quiet(f);
    test_hold_ends(f);
    test_in_step(f);
    test_hooks(f);
    test_no_hurry(f);
    test_rescan(f);
    test_grown(f);
    test_backlog(f);
    test_packed(f);
    test_detach(f);
    is_str(f->fault, "", "the agent kept to the protocol");
    is_int(f->refusals, 1, "and had nothing else to refuse");
    world_close(f);
    return tap_done();
}
