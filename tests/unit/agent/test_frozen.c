/* Points for which the source stands still: frozen, held, with the owner's programs around it, in step with other servers'. Needs root and loop devices; skipped without. */
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

/* ---- the tests ---- */

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

int main(void)
{
    struct fake *f = world_open("test_frozen");
    char path[300];

    if (!f)
        return 0;
    snprintf(path, sizeof path, "%s/m", folder);
    mkdir(path, 0700);
    test_frozen(f, "mkfs.ext4 -q -F", "e2fsck -fn");
    test_never_quiet(f);
    test_hold_ends(f);
    test_in_step(f);
    test_hooks(f);
    is_str(f->fault, "", "the agent kept to the protocol");
    is_int(f->refusals, 0, "and had nothing to refuse");
    world_close(f);
    return tap_done();
}
