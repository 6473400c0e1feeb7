/* The list of what can't be read: what offers do to it, what is told of it, and what an agent after SIGKILL makes of it. */
#include "agent/engine.h"
#include "base/clock.h"
#include "tap.h"

static struct agent *agent;
static struct offer offer;

static void begin(void)
{
    agent = xcalloc(1, sizeof *agent);
    agent->kept = xcalloc(1, sizeof *agent->kept);
    agent->pages = xcalloc(TRACK_SLOT_COUNT, sizeof *agent->pages);
    pthread_mutex_init(&agent->lock, NULL);
    agent->disk_count = 2;
    for (int i = 0; i < 2; i++) {
        snprintf(agent->disks[i].info.name, sizeof agent->disks[i].info.name, "sd%c", 'a' + i);
        agent->disks[i].chunk_count = 4096;
        agent->disks[i].todo = bits_new(4096, BITS_BLOCKS_LEAST + bits_blocks(4096));
    }
}

static void end(void)
{
    for (int i = 0; i < 2; i++)
        bits_free(&agent->disks[i].todo);
    pthread_mutex_destroy(&agent->lock);
    free(agent->pages);
    free(agent->kept);
    free(agent);
}

/* Of one chunk; count 0: all was read. */
static int offered(int disk, uint32_t chunk, uint16_t pages, unsigned first, unsigned count)
{
    struct err e = {0};

    offer = (struct offer){.disk = disk, .count = 1, .chunks = {chunk}, .slot = {3}, .pages = {pages}};
    if (count) {
        offer.bad = xcalloc(BATCH_CHUNKS, sizeof *offer.bad);
        sectors_add(&offer.bad[3], first, count); /* by its place in the batch, wherever it stands among the chunks */
    }
    return unreadable_apply(agent, &offer, &e);
}

static bool told(int64_t sectors, int64_t ranges, const char *words)
{
    CLEANUP(buf_release) struct buf out = {0};
    struct unreadable_told t;

    buf_init(&out, WIRE_TEXT_SIZE);
    unreadable_tell(agent, &t);
    unreadable_say(agent, &t, &out);
    tap_note("%s", out.data);
    return t.bytes == sectors * WIRE_SECTOR_SIZE && t.range_total == ranges && strstr(out.data, words);
}

static void test_offers(void)
{
    begin();
    ok(offered(0, 9, 0, 0, 0) == 0 && agent->kept->unreadable_count == 0, "what was read is not listed");
    ok(offered(1, 9, 0, 127, 1) == 0 && offered(1, 10, 0, 0, 2) == 0 && offered(0, 7, 0, 5, 1) == 0 && !offer.bad, "three chunks with bad sectors");
    ok(told(4, 2, "disk sda, sectors 901; disk sdb, sectors 1279 to 1281"), "are told by place, neighbours as one");
    ok(offered(0, 7, 1 << 3, 0, 0) == 0 && told(4, 2, "901"), "a page elsewhere in the chunk says nothing of it");
    ok(offered(0, 7, 1 << 3, 24, 8) == 0 && told(12, 3, "901, 920 to 927"), "another page's sectors come to it");
    ok(offered(0, 7, 1 << 0, 0, 0) == 0 && told(11, 2, "sda, sectors 920 to 927"), "the page that was read again is whole");
    ok(offered(0, 7, 0, 0, 0) == 0 && told(3, 1, "disk sdb"), "and then the chunk");
    ok(offered(1, 9, 0, 0, 0) == 0 && offered(1, 10, 0, 0, 0) == 0 && agent->kept->unreadable_count == 0, "until nothing is listed");
    end();
}

static void test_bound(void)
{
    struct wire_point p = {0};
    int refused = 0;

    begin();
    for (uint32_t i = 0; i < UNREADABLE_MOST; i++)
        refused += offered(0, 3 * i, 0, 1, 1) < 0;
    ok(!refused && unreadable_full(agent), "%d chunks are listed", UNREADABLE_MOST);
    ok(offered(0, 2000, 0, 1, 1) < 0 && agent->kept->unreadable_count == UNREADABLE_MOST, "one more is refused");
    ok(unreadable_apply(agent, &offer, NULL) < 0, "and again, where another thread comes to the same offer: it never goes out as if all had been read");
    unreadable_drop(&offer);
    ok(offered(0, 3, 0, 2, 1) == 0 && offered(1, 3, 0, 0, 0) == 0, "one of them, and a good one, are not");
    unreadable_mark_point(agent, &p);
    ok(p.unreadable_bytes == UNREADABLE_MOST * 512 && p.range_count == WIRE_RANGES && p.ranges[1].first_sector == 3 * 128 + 2 && p.ranges[1].sector_count == 1,
       "a point gets the number of all, and the first places");
    ok(told(UNREADABLE_MOST, UNREADABLE_MOST, " more places"), "words stay short");
    end();
}

static void test_kept(void)
{
    begin();
    ok(offered(0, 5, 0, 1, 1) == 0 && offered(0, 6, 0, 1, 1) == 0, "two chunks");
    agent->kept->unreadable[2] = agent->kept->unreadable[0]; /* SIGKILL while one was taken off: the last stands twice */
    agent->kept->unreadable_count = 3;
    unreadable_kept(agent);
    ok(agent->kept->unreadable_count == 2 && told(2, 2, "641, 769"), "what stands twice is one");
    ok(bits_has(agent->disks[0].todo, 5) && bits_has(agent->disks[0].todo, 6) && agent->disks[0].todo->count == 2, "and all of it is to be read again");
    end();
}

/* Without a tracker: hashed in another order than they were read, two readings of a chunk would leave the older one's checksum. */
static void test_again(void)
{
    struct agent_config config = {.unreadable_retry_s = 300};

    begin();
    agent->config = &config;
    MUST(offered(0, 9, 0, 5, 1) == 0 && agent->kept->unreadable_count == 1);
    agent->next_number = 2;
    agent->offers[1] = (struct offer){.state = OFFER_FILLED, .number = 1};
    unreadable_look(agent);
    is_int(agent->disks[0].todo->count, 0, "by checksums: while an offer is not hashed yet none of what can't be read is tried again");
    agent->offers[1].state = OFFER_HASHED;
    unreadable_look(agent);
    is_int(agent->disks[0].todo->count, 1, "then it is");
    unreadable_look(agent);
    ok(bits_has(agent->disks[0].todo, 9) && agent->next_retry_us > clock_monotonic_us() + 290 * US_PER_S, "and not again at once");
    end();
}

int main(void)
{
    test_offers();
    test_bound();
    test_kept();
    test_again();
    return tap_done();
}
