/* How often space is given back, of whom points may expire, for whom others wait; and what agents are asked. */
#include "replicator/session.h"
#include "tap.h"
#include "testca.h"

#include <sys/socket.h>

static void may_expire(void)
{
    static struct replicator r;
    static struct peer p = {.r = &r, .lock = PTHREAD_MUTEX_INITIALIZER};

    ok(care_may_expire(&p), "without a factory the replicator's own ladder holds");
    r.options.factory_url = "https://factory";
    ok(!care_may_expire(&p), "of a server that the factory has not spoken of nothing expires");
    p.settings_said = json_object();
    ok(care_may_expire(&p), "once it has, also if it leaves the ladder to us, points do");
    json_free(&p.settings_said);
}

/* A point that holds its source still is taken by the newest one's age, also where the clock was set back since that one. */
static void by_the_clock(void)
{
    struct peer p = {.has_status = true, .status = {.tracker = "rescan"}, .settings = {.rescan_freeze_us = 60 * US_PER_S, .rescan_points_us = 3600 * US_PER_S}};
    int64_t now_us = clock_monotonic_us();
    struct wire_take_point take;

    p.newest_at_us = clock_now_us() - 1800 * US_PER_S;
    ok(!rescanned_due(&p, now_us, &take), "half an hour after the newest none is due");
    p.newest_at_us = clock_now_us() - 3601 * US_PER_S;
    ok(rescanned_due(&p, now_us, &take), "after an hour one is");
    p.newest_at_us = clock_now_us() + 400 * 86400 * US_PER_S;
    ok(rescanned_due(&p, now_us, &take), "so is one where the newest is of a time to come");
    p.last_try_us = now_us - US_PER_S;
    ok(!rescanned_due(&p, now_us, &take), "and not again a moment after it was tried");
}

/* A member of a group that says for good that it is at a point, or is asked for one without an end. */
static void at_a_point(void)
{
    static struct session s;
    struct peer p = {.session = &s, .has_status = true, .status = {.state = "CREATING_SNAPSHOT", .tracker = "ebpf"}};
    const char *why;

    ok(!care_why_no_point(&p, true, 100 * US_PER_S), "one that is at a point is waited for");
    ok(!care_why_no_point(&p, true, 155 * US_PER_S), "as long as such a point may take");
    why = care_why_no_point(&p, true, 165 * US_PER_S);
    ok(why && strstr(why, "more than a minute"), "and no longer: it %s", why ? why : "is waited for");
    ok(!care_why_no_point(&p, false, 165 * US_PER_S), "which is nothing against a point of its own");
    memcpy(p.status.state, "CONTINUOUS", sizeof "CONTINUOUS");
    ok(!care_why_no_point(&p, true, 166 * US_PER_S), "once it is done it is one of them again");
    memcpy(p.status.state, "CREATING_SNAPSHOT", sizeof "CREATING_SNAPSHOT");
    ok(!care_why_no_point(&p, true, 170 * US_PER_S), "and is waited for anew");
}

/* ---- what agents are asked ---- */

static struct replicator asking = {.stir_lock = PTHREAD_MUTEX_INITIALIZER, .stirred = PTHREAD_COND_INITIALIZER};
static struct peer peer = {.r = &asking, .server = "web01", .lock = PTHREAD_MUTEX_INITIALIZER};

struct shaking {
    struct tls_context *context;
    int fd;
};

static void *shake_hands(void *user)
{
    const struct shaking *s = user;
    struct tls_stream *stream = NULL;

    MUST(tls_open(s->context, s->fd, "", 5000, &stream, NULL) == 0);
    return wire_conn_new(&stream, 5000);
}

/* Two ends of a connection; the first is the replicator's. */
static void connect_ends(struct wire_conn *ends[static 2])
{
    struct shaking sides[2] = {0};
    pthread_t thread;
    struct test_ca ca;
    void *other;
    int pair[2];

    test_ca_make(&ca);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    for (int i = 0; i < 2; i++) {
        char *pem[2];

        test_ca_sign(&ca, i ? "agent:web01" : "replicator:r", pem);
        MUST(tls_context_new(i ? TLS_CLIENT : TLS_SERVER, pem[0], pem[1], ca.pem, &sides[i].context, NULL) == 0);
        sides[i].fd = pair[i];
        free(pem[0]);
        free(pem[1]);
    }
    MUST(pthread_create(&thread, NULL, shake_hands, &sides[0]) == 0);
    ends[1] = shake_hands(&sides[1]);
    MUST(pthread_join(thread, &other) == 0);
    ends[0] = other;
    for (int i = 0; i < 2; i++)
        tls_context_free(&sides[i].context);
    test_ca_release(&ca);
}

static void name_disks(const char *first, const char *second)
{
    peer.hello.disk_count = 2;
    snprintf(peer.hello.disks[0].id, sizeof peer.hello.disks[0].id, "%s", first);
    snprintf(peer.hello.disks[1].id, sizeof peer.hello.disks[1].id, "%s", second);
}

static void *ask_for_hashes(void *result)
{
    struct wire_hash *wanted = xcalloc(1, sizeof *wanted);
    int fds[LIMIT_DISKS_PER_SERVER] = {101, 102};
    struct ask a = {SLOT_HASH, WIRE_HASH, wanted, sizeof *wanted, &wanted->request, fds, false, false};

    wanted->disk_count = 2;
    memcpy(wanted->disks[0].id, "a", 2);
    memcpy(wanted->disks[1].id, "b", 2);
    *(int *)result = slot_ask(&peer, &a, clock_monotonic_us() + 10 * US_PER_S, NULL);
    free(wanted);
    return NULL;
}

/* Whoever asks waits for another comparison, and the agent comes anew meanwhile, with its disks in another order. */
static void hashes_of_another_order(void)
{
    struct session s = {0};
    struct wire_conn *ends[2];
    pthread_condattr_t attributes;
    pthread_t thread;
    int result = -1;

    MUST(pthread_condattr_init(&attributes) == 0 && pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&peer.changed, &attributes) == 0);
    connect_ends(ends);
    s.conn = ends[0];
    peer.session = &s;
    peer.greeted = true;
    name_disks("a", "b");
    peer.slots[SLOT_HASH].busy = true;
    MUST(pthread_create(&thread, NULL, ask_for_hashes, &result) == 0);
    clock_sleep_us(100 * US_PER_MS);
    pthread_mutex_lock(&peer.lock);
    name_disks("b", "a");
    pthread_mutex_unlock(&peer.lock);
    slot_leave(&peer, SLOT_HASH);
    pthread_join(thread, NULL);
    is_int(result, 0, "an agent is asked for its hashes");
    ok(peer.slots[SLOT_HASH].hash_fd[0] == 102 && peer.slots[SLOT_HASH].hash_fd[1] == 101, "each disk's go where that disk's are wanted, whatever order its agent came with last: %d, %d",
       peer.slots[SLOT_HASH].hash_fd[0], peer.slots[SLOT_HASH].hash_fd[1]);
    slot_leave(&peer, SLOT_HASH);
    name_disks("b", "c");
    ask_for_hashes(&result);
    ok(result < 0 && !peer.slots[SLOT_HASH].busy, "of a disk that is gone none are asked for");
    peer.session = NULL;
    peer.greeted = false;
    wire_conn_free(&ends[0]);
    wire_conn_free(&ends[1]);
}

/* The schedule's ask is lost with its link, and a person has the slot when its send fails. */
static atomic_bool over, overtaken;
static void *overtake(void *unused)
{
    struct slot *s = &peer.slots[SLOT_POINT];

    while (!atomic_load(&over) && !atomic_load(&overtaken)) {
        pthread_mutex_lock(&peer.lock);
        if (s->busy && s->quiet) {
            *s = (struct slot){.busy = true, .request = s->request + 1};
            atomic_store(&overtaken, true);
        }
        pthread_mutex_unlock(&peer.lock);
    }
    return unused;
}

static void slot_of_somebody_else(void)
{
    struct wire_take_point take = {0};
    struct ask a = {SLOT_POINT, WIRE_TAKE_POINT, &take, sizeof take, &take.request, NULL, true, false};
    int64_t until_us = clock_monotonic_us() + 20 * US_PER_S;
    pthread_t thread;

    MUST(pthread_create(&thread, NULL, overtake, NULL) == 0);
    while (!atomic_load(&overtaken) && clock_monotonic_us() < until_us)
        (void)slot_ask(&peer, &a, clock_monotonic_us() + 10 * US_PER_MS, NULL);
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    ok(!atomic_load(&overtaken) || peer.slots[SLOT_POINT].busy, "an ask that fails leaves the slot to whoever has it by then%s", atomic_load(&overtaken) ? "" : " (nobody came to have it)");
    peer.slots[SLOT_POINT] = (struct slot){0};
}

/* ---- */

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    is_int(care_space_every_us(false, 0), 300 * US_PER_S, "every five minutes");
    is_int(care_space_every_us(false, 75 * US_PER_S), 300 * US_PER_S, "also where it takes a fourth of them");
    is_int(care_space_every_us(false, 3600 * US_PER_S), 4 * 3600 * US_PER_S, "where it takes long, it takes a fourth of the time still");
    is_int(care_space_every_us(true, 3600 * US_PER_S), 10 * US_PER_S, "without room it goes on at once");
    may_expire();
    by_the_clock();
    at_a_point();
    hashes_of_another_order();
    slot_of_somebody_else();
    return tap_done();
}
