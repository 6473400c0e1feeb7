/* A source whose changes can't be followed: its points come of reading all of it, and hold one moment all the same. Needs root and loop devices; skipped without. */
#include "agentworld.h"

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
    fake_forget_statuses(f);
    ok(fake_wait(f, &f->statuses, 2, 60000), "it goes on");
    pthread_mutex_lock(&f->lock);
    told = f->status;
    pthread_mutex_unlock(&f->lock);
    ok(!told.held && told.scan_ms > 0 && told.lag_ms > 0 && strcmp(told.state, "CONTINUOUS") == 0, "not held; a reading took %lld ms, the copy is %lld ms old", (long long)told.scan_ms,
       (long long)told.lag_ms);
    ok(!fake_point(f, WIRE_FROZEN, false, 1, 60000) && p->info.consistency == WIRE_FROZEN, "what is not enough ends it after one attempt: %s", f->failure.message);
    ok(!strstr(f->failure.message, "2 attempts"), "and no more");
}

static void set_statistics(const struct loopdev *l, const char *to)
{
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/queue/iostats", l->name);
    FILE *file = fopen(path, "we");

    MUST(file && fputs(to, file) >= 0 && fclose(file) == 0);
}

static void test_uncounted(struct fake *f)
{
    int64_t begun_us = clock_monotonic_us();

    set_statistics(&raw[0], "0");
    ok(!fake_point(f, WIRE_FROZEN, true, 0, 20000), "where the kernel counts no writes no point is taken: %s", f->failure.message);
    is_str(f->failure.kind, "unsupported", "as unsupported");
    ok(clock_monotonic_us() - begun_us < 10 * US_PER_S, "and nothing stood still for it until the time was over");
    set_statistics(&raw[0], "1");
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
    test_uncounted(f);
    stop_agent(r);
    fake_forget_points(f);
    test_rescan_of_a_writer(f);
}

int main(void)
{
    struct fake *f = world_open("test_rescan");

    if (!f)
        return 0;
    test_rescan(f);
    is_str(f->fault, "", "the agent kept to the protocol");
    is_int(f->refusals, 0, "and had nothing to refuse");
    world_close(f);
    return tap_done();
}
