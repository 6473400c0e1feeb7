/* The agent against a replicator of the test's own, on loop devices: what its points hold is compared with the disks, and what travels is counted. Needs root and
 * loop devices; skipped without. Seeded: SLIPWAY_SEED=N repeats a run. */
#include "agentworld.h"

#include <sys/ioctl.h>

static atomic_bool writing;

/* ---- writers ---- */

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

    if (!f)
        return 0;
    test_quiet(f);
    test_order(f);
    test_cut(f);
    test_asked_for_zeroes(f);
    test_no_hurry(f);
    test_grown(f);
    test_backlog(f);
    test_packed(f);
    test_detach(f);
    is_str(f->fault, "", "the agent kept to the protocol");
    is_int(f->refusals, 1, "and had nothing else to refuse");
    world_close(f);
    return tap_done();
}
