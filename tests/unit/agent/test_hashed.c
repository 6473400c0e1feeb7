/* What of a run of HASH counts when it goes on: all that was hashed, as long as it is the same run, and the source held as it was then, or not at all. Needs root and loop
 * devices; skipped without. */
#include "agentworld.h"

#define CHUNKS (SMALL / (int)WIRE_CHUNK_SIZE)

/* Asks for the rest of the first disk; how many hashes came for it, -1 where none did in time. */
static int rest(struct fake *f, int64_t run, int64_t from)
{
    static int64_t request = 100;
    struct wire_hash ask = {.request = ++request, .run = run, .disk_count = 1};
    int before = (int)f->hashes_received, done = f->hash_count + 1;

    snprintf(ask.disks[0].id, sizeof ask.disks[0].id, "%s", f->disks[0].info.id);
    ask.disks[0].from_chunk = from;
    fake_send(f, WIRE_HASH, &ask, sizeof ask);
    return fake_wait(f, &f->hash_count, done, 60000) ? (int)f->hashes_received - before : -1;
}

static bool is_hash_of(const struct fake *f, const struct loopdev *l)
{
    uint8_t *truth = read_disk(l), sum[HASH_SHA256_SIZE];

    hash_sha256(truth, (size_t)l->size_bytes, sum);
    free(truth);
    return memcmp(sum, f->hashed.disks[0].sha256, sizeof sum) == 0;
}

static void cut(struct fake *f)
{
    int connections = f->connections + 1;

    pthread_mutex_lock(&f->lock);
    wire_conn_cut(f->conn);
    pthread_mutex_unlock(&f->lock);
    ok(fake_wait(f, &f->connections, connections, 60000), "the link is cut, and made anew");
}

static void test_runs(struct fake *f)
{
    is_int(rest(f, 5, 0), CHUNKS, "a run begins with the first chunk");
    ok(is_hash_of(f, &raw[0]) && !f->hashed.still, "and has the disk's hash");
    is_int(rest(f, 5, CHUNKS), 0, "nothing of it is left to hash");
    ok(is_hash_of(f, &raw[0]), "and its hash is known still");
    cut(f);
    is_int(rest(f, 5, CHUNKS), 0, "also over another connection");
    is_int(rest(f, 5, CHUNKS / 2), CHUNKS, "what the other end has not got is hashed again: from where the running hash is known");
    ok(is_hash_of(f, &raw[0]), "to the disk's hash");
    is_int(rest(f, 6, CHUNKS), CHUNKS, "another run begins anew, whatever the other end says that it has");
    is_int(rest(f, 5, CHUNKS), CHUNKS, "so does the one before, which was given up for it");
    is_int(rest(f, 0, CHUNKS), CHUNKS, "and who names no run");
    is_int(rest(f, 0, CHUNKS), CHUNKS, "each time");
}

static void test_held(struct fake *f)
{
    struct wire_simple thaw = {.request = 78};
    int thaws = f->thaw_count + 1;

    is_int(rest(f, 7, 0), CHUNKS, "a run over a source that moves");
    ok(fake_point(f, WIRE_FROZEN, true, 0, 60000) != NULL, "which is held then: %s", f->failure.message);
    is_int(rest(f, 7, CHUNKS), CHUNKS, "what was hashed before counts no more");
    ok(f->hashed.still && is_hash_of(f, &raw[0]), "so that \"still\" is true of all of it");
    is_int(rest(f, 7, CHUNKS), 0, "what was hashed since does");
    ok(f->hashed.still, "and it stands still");
    cut(f);
    is_int(rest(f, 7, CHUNKS), 0, "also over another connection");
    ok(f->hashed.still, "and it stands still");
    fake_send(f, WIRE_THAW, &thaw, sizeof thaw);
    ok(fake_wait(f, &f->thaw_count, thaws, 60000), "let go");
    is_int(rest(f, 7, CHUNKS), CHUNKS, "it is hashed anew");
    ok(!f->hashed.still, "and does not stand still");
    ok(fake_point(f, WIRE_FROZEN, true, 0, 60000) != NULL, "held");
    is_int(rest(f, 8, 0), CHUNKS, "hashed");
    fake_send(f, WIRE_THAW, &thaw, sizeof thaw);
    ok(fake_wait(f, &f->thaw_count, thaws + 1, 60000) && fake_point(f, WIRE_FROZEN, true, 0, 60000) != NULL, "let go, and held again");
    is_int(rest(f, 8, CHUNKS), CHUNKS, "hashed anew: it is another moment");
    fake_send(f, WIRE_THAW, &thaw, sizeof thaw);
    ok(fake_wait(f, &f->thaw_count, thaws + 2, 60000), "let go");
}

/* The first disk, again and again: so it takes its time. */
static void ask_for_long(struct fake *f)
{
    struct wire_hash *ask = xcalloc(1, sizeof *ask);

    *ask = (struct wire_hash){.request = 300, .disk_count = LIMIT_DISKS_PER_SERVER / 2};
    for (int i = 0; i < LIMIT_DISKS_PER_SERVER / 2; i++)
        snprintf(ask->disks[i].id, sizeof ask->disks[i].id, "%s", f->disks[0].info.id);
    fake_send(f, WIRE_HASH, ask, sizeof *ask);
    free(ask);
}

/* Whoever shares a limit with others is told of another one with each that begins or ends to send. */
static void test_told_meanwhile(struct fake *f)
{
    struct wire_simple thaw = {.request = 79}, order = {0};
    int done = f->hash_count, thaws = f->thaw_count, connections = f->connections;

    ok(fake_point(f, WIRE_FROZEN, true, 0, 60000) != NULL, "held: %s", f->failure.message);
    ask_for_long(f);
    for (int i = 1; i <= 3 * 16; i++)
        fake_send(f, WIRE_LIMIT, &(struct wire_limit){.value = (100 + i) << 20}, sizeof(struct wire_limit));
    fake_send(f, WIRE_PAUSE, &order, sizeof order);
    fake_send(f, WIRE_RESUME, &order, sizeof order);
    fake_send(f, WIRE_THAW, &thaw, sizeof thaw);
    ok(fake_wait(f, &f->thaw_count, thaws + 1, 60000), "while it is hashed it is told other limits, and to be let go");
    is_int(f->hash_count, done, "which it does at once, and not when all is hashed");
    is_int(f->thawed.request, 79, "as it was asked for");
    ok(f->thawed.was_held && f->thawed.still, "it was held until then");
    ok(fake_wait(f, &f->hash_count, done + 1, 240000), "it goes on hashing");
    ok(!f->hashed.still, "and does not stand still any more");
    is_int(f->connections, connections, "over the same connection");
    fake_forget_statuses(f);
    ok(fake_wait(f, &f->statuses, 2, 10000), "it says how it goes");
    is_int(f->status.limit_bytes_per_s, (100 + 3 * 16) << 20, "by the limit that was told last");
}

/* The clock asks for a point each minute, and gives it up where it is not answered. */
static void test_points_meanwhile(struct fake *f)
{
    int done = f->hash_count, connections = f->connections, points = f->point_count, failures = f->failures;

    ask_for_long(f);
    for (int i = 0; i < 3 * 16; i++) {
        struct wire_take_point take = {.request = f->next_request++, .consistency = WIRE_FROZEN, .timeout_ms = 60000};

        fake_send(f, WIRE_TAKE_POINT, &take, sizeof take);
    }
    ok(fake_wait(f, &f->failures, failures + 3 * 16 - 1, 60000), "of the points that are asked for while all is hashed each but the last is given up: %s",
       f->failure.message);
    is_int(f->hash_count, done, "as soon as the next one is asked for");
    is_str(f->failure.kind, "cancelled", "in a word");
    ok(fake_wait(f, &f->hash_count, done + 1, 60000), "it goes on hashing");
    ok(fake_wait(f, &f->point_count, points + 1, 60000) && f->points[points].info.request == f->next_request - 1, "the last one is taken then");
    is_int(f->connections, connections, "over the same connection");
    is_int(f->point_count + f->failures, points + failures + 3 * 16, "and no other one");
}

int main(void)
{
    const struct loopdev *disks[] = {&raw[0]};
    struct fake *f = world_open("test_hashed");
    struct running *r;

    if (!f)
        return 0;
    MUST(pwrite(raw[0].fd, "something", 9, 3 << 20) == 9 && fsync(raw[0].fd) == 0);
    r = start_agent(f, 1, disks, false);
    ok(fake_wait_state(f, "CONTINUOUS", 60000), "connected, and in step");
    test_runs(f);
    test_held(f);
    test_told_meanwhile(f);
    test_points_meanwhile(f);
    stop_agent(r);
    fake_forget_points(f);
    is_str(f->fault, "", "the agent kept to the protocol");
    world_close(f);
    return tap_done();
}
