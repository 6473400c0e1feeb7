/* The controller that keeps the agent from slowing the source: a source and a clock that are made up, a second a look. */
#include "agent/engine.h"
#include "base/clock.h"
#include "tap.h"

#define MIB (INT64_C(1) << 20)

/* A disk: an I/O of the source's takes base_us, and more the more is read: twice as long at half of what the disk can give, and so on. */
struct source {
    int64_t base_us, ios, can_read, stalled;
};

struct run {
    struct gentle g;
    int64_t now_us, rate, wants; /* wants: what is read where nothing holds it back */
    int64_t read, looks_held, lowest, highest_latency_us;
};

static int64_t latency_of(const struct source *d, int64_t read) { return d->base_us * d->can_read / (d->can_read - read * 9 / 10); }

static void second(struct run *r, const struct source *d)
{
    int64_t limit = r->rate && r->rate < r->wants ? r->rate : r->wants, read = limit < d->can_read ? limit : d->can_read;
    int64_t latency_us = latency_of(d, read);
    struct gentle_sample s = {.now_us = r->now_us += US_PER_S, .span_us = US_PER_S, .ios = d->ios, .io_us = d->ios * latency_us, .own_bytes = read,
                              .stalled = d->stalled};

    r->rate = gentle_look(&r->g, &s);
    r->read += read;
    r->looks_held += r->rate != 0;
    r->lowest = !r->lowest || read < r->lowest ? read : r->lowest;
    r->highest_latency_us = latency_us > r->highest_latency_us ? latency_us : r->highest_latency_us;
}

static struct run begin(int64_t ios, int64_t io_us, int64_t wants)
{
    struct run r = {.wants = wants};

    gentle_init(&r.g, ios, io_us, 0);
    return r;
}

static void live(struct run *r, const struct source *d, int seconds)
{
    r->looks_held = r->lowest = r->highest_latency_us = r->read = 0;
    for (int i = 0; i < seconds; i++)
        second(r, d);
}

static void an_idle_source(void)
{
    const struct source idle = {.base_us = 200, .ios = GENTLE_LEAST_IOS - 1, .can_read = 1000 * MIB, .stalled = -1};
    struct run r = begin(0, 0, 900 * MIB);

    live(&r, &idle, 600);
    ok(r.looks_held == 0 && r.read == 600 * 900 * MIB, "a source that does nothing never slows the agent");
    is_int(r.g.latency_us, 0, "and nothing is said of its latency");
}

static void a_source_with_room(void)
{
    const struct source busy = {.base_us = 1000, .ios = 500, .can_read = 1000 * MIB, .stalled = -1};
    struct run r = begin(0, 0, 300 * MIB);

    live(&r, &busy, 600);
    ok(r.g.without_us >= 1000 && r.g.without_us < 1050 && r.g.with_us > r.g.without_us && r.g.with_us < 2 * r.g.without_us,
       "its latency is known without the agent (%lld us) and with (%lld us)", (long long)r.g.without_us, (long long)r.g.with_us);
    ok(r.read > 97 * 600 * 300 * MIB / 100 && r.g.rate == 0, "where it stays low enough, nothing is held back but to look: %lld of %d MiB were read",
       (long long)(r.read / MIB), 600 * 300);
    ok(r.looks_held >= 2 * 4 && r.looks_held <= 2 * 6, "for two seconds every two minutes (%lld s in all)", (long long)r.looks_held);
}

static void a_source_that_suffers(void)
{
    const struct source busy = {.base_us = 1000, .ios = 500, .can_read = 100 * MIB, .stalled = -1};
    struct source free = busy;
    struct run r = begin(100000, 100000 * 1000, 95 * MIB);

    second(&r, &busy);
    ok(r.rate > 0 && r.rate <= 95 * MIB / 2, "when it takes longer, the next second's reading is halved (%lld MiB/s)", (long long)(r.rate / MIB));
    live(&r, &busy, 20);
    live(&r, &busy, 600);
    ok(r.read / 600 > GENTLE_FLOOR && r.read / 600 < 60 * MIB, "in the long run it reads what the disk has room for: %lld MiB/s",
       (long long)(r.read / 600 / MIB));
    ok(r.lowest >= GENTLE_FLOOR && r.highest_latency_us < 4000, "never less than the floor, and the source waits %lld us at worst, not 7000",
       (long long)r.highest_latency_us);
    free.can_read = 10000 * MIB;
    live(&r, &free, 30);
    ok(r.g.rate == 0 && r.rate == 0, "when the disk has room again, nothing is held back any more");
}

static void a_source_with_a_load_of_its_own(void)
{
    struct source d = {.base_us = 1000, .ios = 500, .can_read = 1000 * MIB, .stalled = -1};
    struct run r = begin(100000, 100000 * 1000, 200 * MIB);

    live(&r, &d, 60);
    d.base_us = 20000; /* its own work has become heavy; the agent has little part in it */
    live(&r, &d, 10);
    ok(r.looks_held > 0 && r.lowest >= GENTLE_FLOOR, "it backs off at first: who can know");
    live(&r, &d, 300);
    ok(r.g.rate == 0 && 2 * r.g.without_us > d.base_us, "and comes back, once it has seen that the source is like that without it (%lld us)", (long long)r.g.without_us);
}

/* What it did before us (a backup, the making of its disk) had it wait for long: no measure for what it does now. */
static void a_source_that_was_busy_once(void)
{
    struct source d = {.base_us = 200, .ios = 500, .can_read = 1000 * MIB, .stalled = -1};
    struct run r = begin(100000, INT64_C(100000) * 4000, 200 * MIB);

    live(&r, &d, 30);
    ok(r.looks_held == 0 && r.g.without_us < 400, "what is quicker while the agent reads is no slower without it (%lld us)", (long long)r.g.without_us);
    d.base_us = 3000;
    live(&r, &d, 5);
    ok(r.looks_held > 0, "so a rise is seen that would have been none then");
}

static void an_agent_that_rests(void)
{
    struct source d = {.base_us = 1000, .ios = 500, .can_read = 1000 * MIB, .stalled = -1};
    struct run r = begin(0, 0, 0);

    live(&r, &d, 20);
    ok(r.g.without_us == 1000 && r.g.with_us == 0 && r.looks_held == 0, "while the agent reads nothing it learns what the source is like");
    d.base_us = 50000;
    live(&r, &d, 20);
    is_int(r.looks_held, 0, "and holds back nothing, whatever the source does to itself");
}

static void stalls(void)
{
    struct source d = {.base_us = 1000, .ios = 0, .can_read = 1000 * MIB, .stalled = 30};
    struct run r = begin(0, 0, 2 * MIB);

    live(&r, &d, 10);
    r.wants = 400 * MIB;
    live(&r, &d, 10);
    is_int(r.looks_held, 0, "little stalling is no reason to hold back");
    d.stalled = 30 + GENTLE_STALL_RISE + 50;
    live(&r, &d, 5);
    ok(r.looks_held > 0 && r.rate < 400 * MIB, "other programs that wait for I/O more than before are one, where the disks tell nothing");
    r = begin(0, 0, 400 * MIB);
    live(&r, &d, 60);
    is_int(r.looks_held, 0, "where it is not known how it was before, that alone says nothing");
}

/* A second in which we asked for 200 MiB in reads of 1 MiB that took 10 ms each, side by side; the kernel has cut each into so many requests. */
static struct burden after(const struct burden *was, int cut, int64_t others, int64_t other_bytes, int64_t other_us)
{
    struct burden is = *was;

    is.at_us += US_PER_S;
    is.own_bytes += 200 * MIB;
    is.own_requests += 200;
    is.own_us += 200 * 10000;
    is.reads += 200 * cut + others;
    is.read_us += 200 * cut * 10000 + others * other_us;
    is.read_bytes += 200 * MIB + others * other_bytes;
    is.others_read_bytes += others * other_bytes;
    return is;
}

static void whose_reads(void)
{
    const struct burden was = {.known = true, .at_us = US_PER_S, .stalled_us = -1};
    struct burden is = after(&was, 8, 0, 0, 0);
    struct gentle_sample s = burden_between(&was, &is);

    is_int(s.ios, 0, "into however many requests our reads are cut, they are nobody else's");
    is_int(s.own_bytes, 200 * MIB, "but ours");
    is = after(&was, 8, 1000, 4096, 700);
    s = burden_between(&was, &is);
    ok(s.ios == 1000 && s.io_us / s.ios == 700, "reads of others beside them are told: %lld, of %lld us each", (long long)s.ios, (long long)(s.io_us / s.ios));
    is = after(&was, 1, 20, 4096, 700);
    s = burden_between(&was, &is);
    is_int(s.ios, 0, "few beside many of ours are not");
    is.writes += 50;
    is.write_us += 50 * 300;
    s = burden_between(&was, &is);
    ok(s.ios == 50 && s.io_us == 50 * 300, "writes are never ours");
}

static void paces(void)
{
    struct pace p = {0};

    is_int(pace_book(&p, 1 << 30, 1000), 0, "without a limit nobody waits");
    pace_set(&p, 1000, 1000);
    is_int(pace_book(&p, 500, 1000), 0, "the first goes at once");
    is_int(pace_book(&p, 500, 1000), US_PER_S / 2, "the second when its time has come");
    pace_set(&p, 10000, 1000);
    is_int(pace_book(&p, 1, 1000), US_PER_S / 10, "under ten times the limit what was booked takes a tenth");
    pace_set(&p, 1, 1000);
    is_int(pace_book(&p, 1, 1000), INT64_C(1001) * US_PER_S, "under a lower one it takes longer");
    pace_set(&p, 0, 1000);
    is_int(pace_book(&p, 1, 1000), 0, "and without a limit nothing is left of it");
    pace_set(&p, 1, 1000);
    pace_book(&p, INT64_MAX, 1000);
    is_int(pace_book(&p, 1, 1000), INT64_C(86400) * US_PER_S, "nobody waits for longer than a day");
    ok(pace_lower(0, 5) == 5 && pace_lower(5, 0) == 5 && pace_lower(3, 5) == 3 && pace_lower(0, 0) == 0, "the lower of two limits, where 0 is none");
}

/* WELCOME tells one limit, LIMIT comes a little later: until then what was told last holds. */
static void reconnections(void)
{
    static struct agent_config c = {.read_bytes_per_s = 9 * MIB};
    struct agent *a = xcalloc(1, sizeof *a);

    a->config = &c;
    link_greeted(a, 3 * MIB);
    ok(a->send_pace.per_s == 3 * MIB && a->read_pace.per_s == 9 * MIB && !a->cpu_pace.per_s, "at first there are WELCOME's limit and the agent's own");
    link_limit(a, &(struct wire_limit){.value = 2 * MIB, .read_bytes_per_s = 5 * MIB, .cpu_percent = 50});
    link_greeted(a, 4 * MIB);
    ok(a->send_pace.per_s == 4 * MIB && a->read_pace.per_s == 5 * MIB && a->cpu_pace.per_s == US_PER_S / 2, "after a reconnection it reads as it was told last");
    link_limit(a, &(struct wire_limit){.value = 4 * MIB});
    ok(a->read_pace.per_s == 9 * MIB && !a->cpu_pace.per_s, "until it is told that this holds no longer");
    free(a);
}

int main(void)
{
    an_idle_source();
    a_source_with_room();
    a_source_that_suffers();
    a_source_with_a_load_of_its_own();
    a_source_that_was_busy_once();
    an_agent_that_rests();
    stalls();
    whose_reads();
    paces();
    reconnections();
    return tap_done();
}
