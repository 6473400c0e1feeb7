/* What the agent takes: the set of chunks to do, held against a plain bitmap; and the plan, for machines small and large. */
#include "agent/bits.h"
#include "agent/memory.h"
#include "track/track.h"
#include "tap.h"

#define MIB (INT64_C(1) << 20)
#define TIB (INT64_C(1) << 40)

static uint64_t seed;

static uint64_t rnd(uint64_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (seed >> 33) % below;
}

struct model {
    struct bits *b;
    uint8_t *there; /* by a plain array: what was added and not dropped */
    int64_t count, cursor;
};

static void add(struct model *m, int64_t number)
{
    bits_add(m->b, number);
    m->count += !m->there[number];
    m->there[number] = 1;
}

/* As todo_next does: the next one goes. Where it was never added it is one that was filled in: no harm. */
static int64_t take(struct model *m)
{
    int64_t next = bits_next(m->b, m->cursor);

    if (next < 0)
        next = bits_next(m->b, 0);
    if (next < 0)
        return -1;
    bits_drop(m->b, next);
    m->count -= m->there[next];
    m->there[next] = 0;
    m->cursor = next + 1;
    return next;
}

static bool same(const struct model *m, bool exactly)
{
    int64_t count = 0;

    for (int64_t i = 0; i < m->b->bound; i++) {
        bool has = bits_has(m->b, i);

        count += has;
        if ((m->there[i] && !has) || (exactly && has && !m->there[i]))
            return false;
    }
    return count == m->b->count;
}

/* Random lives: adding near one place and anywhere, taking, filling. */
static void lives(int64_t bound, int64_t blocks, bool exactly)
{
    struct model m = {.b = bits_new(bound, blocks), .there = xcalloc((size_t)bound, 1)};
    bool right = true;

    for (int round = 0; round < 60 && right; round++) {
        int64_t near = (int64_t)rnd((uint64_t)bound);

        for (uint64_t i = rnd(3000); i; i--)
            add(&m, rnd(2) ? (int64_t)rnd((uint64_t)bound) : (near + (int64_t)rnd(2000)) % bound);
        for (uint64_t i = rnd(6000); i; i--)
            take(&m);
        if (rnd(12) == 0) {
            bits_fill(m.b);
            memset(m.there, 1, (size_t)bound);
            m.count = bound;
        }
        right = same(&m, exactly) && (!exactly || m.count == m.b->count) && bits_next(m.b, bound) == -1;
    }
    ok(right, "%lld chunks in %lld blocks: %s", (long long)bound, (long long)blocks, exactly ? "what was added, no more and no less" : "nothing is ever lost");
    m.cursor = 0;
    for (int64_t i = 0; i < 4 * bound && take(&m) >= 0; i++)
        ;
    ok(m.b->count == 0 && m.count == 0 && bits_next(m.b, 0) == -1, "and all of it comes out in the end");
    bits_free(&m.b);
    free(m.there);
}

static int plan(int64_t bound_mib, int64_t buffers_mib, int disks, int64_t disk_bytes, int cores, bool tracked, struct memory_plan *out, struct err *e)
{
    struct agent_config c = {.memory_bound_mib = bound_mib, .memory_mib = buffers_mib};
    struct memory_wants w = {.disk_bytes = disks * disk_bytes, .chunk_count = disks * disk_bytes / 65536, .disk_count = disks, .mark_bits = tracked ? TRACK_MARK_BITS_KEPT - 1 : 0, .cores = cores};

    err_clear(e);
    return memory_plan(&c, &w, out, e);
}

/* With a bit more for each chunk, for the agent after this one. */
static void kept(void)
{
    struct agent_config c = {.memory_bound_mib = 128, .memory_mib = 64};
    struct memory_wants w = {.disk_bytes = 13 * TIB, .chunk_count = 13 * TIB / 65536, .disk_count = 1, .mark_bits = TRACK_MARK_BITS_KEPT, .cores = 2};
    struct memory_plan p, without;
    struct err e = {0};

    is_int(memory_plan(&c, &w, &p, &e), 0, "a tracker of 13 TiB can be kept: %s", e.message);
    w.mark_bits--;
    ok(memory_plan(&c, &w, &without, &e) == 0 && without.buffers_bytes > p.buffers_bytes, "which takes from the buffers: %lld MiB, not %lld", (long long)(p.buffers_bytes / MIB),
       (long long)(without.buffers_bytes / MIB));
    w = (struct memory_wants){.disk_bytes = 20 * TIB, .chunk_count = 20 * TIB / 65536, .disk_count = 10, .mark_bits = TRACK_MARK_BITS_KEPT, .cores = 2};
    ok(memory_plan(&c, &w, &p, &e) < 0, "one of 20 TiB can't, at the default: %s", e.message);
}

static void plans(void)
{
    struct memory_plan p;
    struct err e = {0};

    ok(plan(128, 64, 1, INT64_C(100) << 30, 4, true, &p, &e) == 0 && p.workers == 4 && p.buffers_bytes == 64 * MIB &&
           p.spare_blocks >= (INT64_C(100) << 30) / 65536 / BITS_BLOCK_COUNT, "a usual machine gets all that it wants");
    is_int(plan(128, 64, 10, 2 * TIB, 2, true, &p, &e), 0, "ten disks of 2 TiB fit into 128 MiB %s", e.message);
    ok(p.total_bytes <= 128 * MIB && p.buffers_bytes >= 8 * MIB && p.buffers_bytes < 64 * MIB,
       "with %lld MiB of buffers and room for %lld GiB of scattered marks", (long long)(p.buffers_bytes / MIB),
       (long long)p.spare_blocks * 2);
    is_int(plan(128, 64, 10, 2 * TIB, 64, true, &p, &e), 0, "with many processors, too");
    ok(p.total_bytes <= 128 * MIB && p.workers >= 2 && p.workers < 8, "by fewer workers (%d)", p.workers);
    ok(plan(100, 64, 10, 2 * TIB, 2, true, &p, &e) == -1 && e.kind == ERR_LIMIT && strstr(e.message, "memory_bound_mib"), "less is refused: %s", e.message);
    ok(plan(128, 64, 1, 4 * TIB, 2, false, &p, &e) == -1 && strstr(e.message, "checksums"), "so are checksums of much: %s", e.message);
    is_int(plan(48, 64, 1, INT64_C(1) << 30, 2, true, &p, &e), 0, "a small bound does for a small machine");
    ok(p.total_bytes <= 48 * MIB && p.buffers_bytes >= 8 * MIB, "with smaller buffers (%lld MiB)",
       (long long)(p.buffers_bytes / MIB));
    for (int64_t bound = 48; bound < 400; bound += 7)
        for (int disks = 1; disks <= 64; disks *= 4)
            for (int64_t size = INT64_C(1) << 30; size <= 8 * TIB; size *= 8)
                if (plan(bound, 64, disks, size, 8, true, &p, &e) == 0 &&
                    (p.total_bytes > bound * MIB || p.buffers_bytes < 8 * MIB || p.buffers_bytes > 64 * MIB || p.workers < 2 || p.spare_blocks < 1)) {
                    ok(false, "%lld MiB for %d disks of %lld", (long long)bound, disks, (long long)size);
                    return;
                }
    ok(true, "whatever is granted keeps to its bound");
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    lives(5 * BITS_BLOCK_COUNT + 77, 6, true);
    lives(BITS_BLOCK_COUNT, 2, true);
    lives(1000, 2, true);
    lives(12 * BITS_BLOCK_COUNT + 1, 2, false);
    lives(12 * BITS_BLOCK_COUNT - 63, 5, false);
    plans();
    kept();
    return tap_done();
}
