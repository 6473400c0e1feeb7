/* In which order a pass reads: what is sent seldom while buffers are short, the rest while there is room; every chunk once. */
#include "agent/engine.h"
#include "tap.h"

#define CHUNKS_10_GIB (INT64_C(10) << 30 >> 16)
#define BATCHES 32

static uint64_t seed;

static uint64_t rnd(uint64_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (seed >> 33) % below;
}

/* An agent in a pass over disks of so many chunks, with so much memory for what is to do. */
static struct agent *make(const int64_t *chunk_counts, int disk_count, int64_t blocks)
{
    struct agent *a = xcalloc(1, sizeof *a);

    a->pages = xcalloc(TRACK_SLOT_COUNT, sizeof *a->pages);
    a->kept = a->own_kept = xcalloc(1, sizeof *a->own_kept);
    a->pass = PASS_RUNNING;
    a->batch_count = a->free_count = BATCHES;
    a->disk_count = disk_count;
    for (int i = 0; i < disk_count; i++) {
        a->disks[i].chunk_count = chunk_counts[i];
        a->disks[i].todo = bits_new(chunk_counts[i], blocks);
        order_begin(&a->disks[i]);
        todo_all(a, i);
    }
    return a;
}

static void unmake(struct agent **at)
{
    for (int i = 0; i < (*at)->disk_count; i++)
        bits_free(&(*at)->disks[i].todo);
    free((*at)->pages);
    free((*at)->own_kept);
    free_ptr(at);
}

/* The next offer: its first chunk, or -1; what is in it was not there before. */
static int64_t next(struct agent *a, uint8_t **seen, int *disk, struct stretch **s)
{
    uint32_t chunks[BATCH_CHUNKS];
    uint16_t pages[BATCH_CHUNKS];
    struct kept_offer kept = {0};
    int count;

    *s = order_next(a, disk);
    if (!*s)
        return -1;
    count = todo_next(a, *disk, *s, &kept, chunks, pages, BATCH_CHUNKS);
    MUST(count > 0);
    for (int i = 0; i < count; i++) {
        MUST(!i || chunks[i] > chunks[i - 1]);
        seen[*disk][chunks[i]]++;
    }
    return chunks[0];
}

static bool all_seen(const uint8_t *seen, int64_t count, bool once)
{
    for (int64_t i = 0; i < count; i++)
        if (!seen[i] || (once && seen[i] > 1))
            return false;
    return true;
}

static void test_covers(int64_t chunk_count)
{
    CLEANUP(unmake) struct agent *a = make(&chunk_count, 1, bits_blocks(chunk_count) + BITS_BLOCKS_LEAST);
    const struct agent_disk *d = &a->disks[0];
    int64_t at = 0;

    for (int i = 0; i < d->stretch_count; i++) {
        MUST(d->stretches[i].first == at && d->stretches[i].end > at);
        at = d->stretches[i].end;
    }
    ok(at == chunk_count && d->stretch_count <= STRETCHES_MOST, "%lld chunks are %d stretches", (long long)chunk_count, d->stretch_count);
}

/* A disk whose first half has data, the rest nothing. Buffers are short half of the time. */
static void test_half_empty(void)
{
    const int64_t count = CHUNKS_10_GIB;
    CLEANUP(unmake) struct agent *a = make(&count, 1, 5);
    CLEANUP(free_ptr) uint8_t *seen = xcalloc((size_t)count, 1);
    int64_t first, empty_early = 0, data_early = 0;
    struct stretch *s;
    int disk;

    for (int64_t n = 0; (first = next(a, &seen, &disk, &s)) >= 0; n++) {
        bool early = n < count / BATCH_CHUNKS / 2, data = first < count / 2;

        empty_early += early && !data;
        data_early += early && data;
        order_learn(s, data ? BATCH_CHUNKS : 0, BATCH_CHUNKS);
        a->free_count = n % 2 ? BATCHES : BATCHES / 8;
    }
    ok(all_seen(seen, count, true), "every chunk comes once");
    ok(empty_early > data_early * 4 / 5 && data_early > empty_early * 4 / 5, "what is empty comes beside what is not (%lld and %lld offers in the first half)",
       (long long)empty_early, (long long)data_early);
}

static void test_room(void)
{
    const int64_t count = CHUNKS_10_GIB;
    CLEANUP(unmake) struct agent *a = make(&count, 1, 5);
    struct stretch *s;
    int disk;

    for (int i = 0; i < 20; i++)
        order_learn(&a->disks[0].stretches[3], 0, BATCH_CHUNKS), order_learn(&a->disks[0].stretches[1], 1, BATCH_CHUNKS);
    for (int i = 0; i < 20; i++)
        order_learn(&a->disks[0].stretches[0], BATCH_CHUNKS, BATCH_CHUNKS);
    s = order_next(a, &disk);
    ok(s == &a->disks[0].stretches[0], "while there is room: what has most to send");
    a->free_count = BATCHES / 8;
    s = order_next(a, &disk);
    ok(s == &a->disks[0].stretches[3], "while buffers are short: what has nothing to send");
    a->pass = PASS_DONE;
    s = order_next(a, &disk);
    ok(s == &a->disks[0].whole, "what was changed since comes in its order");
    a->pass = PASS_RUNNING;
    a->held = true;
    s = order_next(a, &disk);
    ok(s == &a->disks[0].whole, "and so does what stands still");
}

/* Several disks, little memory, anything thought of any stretch; and chunks that come back: then more may be to do than there was (bits.h), never less. */
static void test_random(uint64_t number, bool come_back)
{
    const int64_t counts[3] = {(int64_t)(100000 + number * 7919), 31, (int64_t)(40000 + number * 104729)};
    CLEANUP(unmake) struct agent *a = make(counts, 3, BITS_BLOCKS_LEAST + (int64_t)number);
    uint8_t *seen[3];
    struct stretch *s;
    int64_t again = 0, first, taken = 0;
    bool all = true;
    int disk;

    seed = number;
    for (int i = 0; i < 3; i++)
        seen[i] = xcalloc((size_t)counts[i], 1);
    while ((first = next(a, seen, &disk, &s)) >= 0) {
        order_learn(s, (int)rnd(BATCH_CHUNKS + 1), BATCH_CHUNKS);
        a->free_count = (int)rnd(BATCHES + 1);
        if (come_back && taken++ % 500 == 499) { /* as when the link breaks */
            todo_set(a, disk, first);
            for (int i = 0; i < 3; i++)
                order_rewind(&a->disks[i]);
            seen[disk][first]--;
            again++;
        }
    }
    for (int i = 0; i < 3; i++) {
        all &= all_seen(seen[i], counts[i], !come_back);
        free(seen[i]);
    }
    ok(all && (again > 0) == come_back && todo_total(a) == 0, "seed %d: every chunk comes, whatever is thought of its stretch%s", (int)number,
       come_back ? "" : ", and once");
}

/* All memory is taken by what was marked here and there, and two stretches have a full block to read, by turns. */
static void test_tight(void)
{
    const int64_t count = 20 * BITS_BLOCK_COUNT, sparse[] = {8, 9, 18, 19}, full[] = {0, 10};
    CLEANUP(unmake) struct agent *a = make(&count, 1, ARRAY_COUNT(sparse));
    CLEANUP(free_ptr) uint8_t *seen = xcalloc((size_t)count, 1);
    struct agent_disk *d = &a->disks[0];
    int64_t first, read = 0, most = 4 * BITS_BLOCK_COUNT;
    struct stretch *s;
    int disk;

    is_int(d->stretch_count, 2, "a disk is read in two stretches");
    bits_free(&d->todo);
    d->todo = bits_new(count, ARRAY_COUNT(sparse));
    for (size_t i = 0; i < ARRAY_COUNT(sparse); i++)
        todo_set(a, 0, sparse[i] * BITS_BLOCK_COUNT);
    for (size_t i = 0; i < ARRAY_COUNT(full); i++)
        todo_set(a, 0, full[i] * BITS_BLOCK_COUNT + 7);
    is_int(d->todo->count, (int)ARRAY_COUNT(full) * BITS_BLOCK_COUNT + (int)ARRAY_COUNT(sparse), "where memory is short, two blocks are to be read whole");
    for (int n = 0; read <= most && (first = next(a, &seen, &disk, &s)) >= 0; n++) {
        read += BATCH_CHUNKS;
        order_learn(s, s == &d->stretches[0] ? 0 : BATCH_CHUNKS, BATCH_CHUNKS);
        a->free_count = n % 2 ? BATCHES : 0;
    }
    ok(read <= most && todo_total(a) == 0, "that takes %lld chunks: neither fills what the other has read", (long long)read);
}

int main(void)
{
    const int64_t sizes[] = {1, 31, 32, 33, 255, 256, 257, 8 * 32 + 1, BITS_BLOCK_COUNT, 8 * BITS_BLOCK_COUNT - 1, 8 * BITS_BLOCK_COUNT, 8 * BITS_BLOCK_COUNT + 1, 1000003};

    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++)
        test_covers(sizes[i]);
    test_half_empty();
    test_room();
    test_tight();
    for (uint64_t number = 0; number < 8; number++)
        test_random(number / 2, number % 2);
    return tap_done();
}
