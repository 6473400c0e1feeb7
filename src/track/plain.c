#include "track/plain.h"

#include "track/format.h"
#include "track/plain_shared.h"

#include "base/file.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wshadow"
#include "format.skel.h"
#include "typed.skel.h"
#pragma GCC diagnostic pop

/* Those from MAP_SIDES on are in use while it follows. */
enum { MAP_CONTROL, MAP_PLACES, MAP_SIDES, MAP_BLOCKS, MAP_SUMMARIES, MAP_PROCESSORS, MAPS };
static const struct {
    const char *name;
    size_t size_bytes; /* of an element: 8 divides each */
} maps[MAPS] = {{"control", sizeof(struct plain_control)}, {"places", sizeof(struct plain_place)}, {"sides", sizeof(uint64_t)}, {"blocks", sizeof(struct plain_block)},
                {"summaries", sizeof(struct plain_summary)}, {"processors", sizeof(struct plain_processor)}};

struct plain {
    struct bpf_object *object;
    struct bpf_link *called, *completed; /* called: NULL where there are types */
    struct roll *roll;                   /* as called */
    uint64_t called_passed_over;         /* by the kernel's word */
    int maps[MAPS];
    /* The kernel passes over a tracepoint's program while a call to the same processor looks into a map, too: so where maps can be had as memory (5.5), they are. Else NULL. */
    void *at[MAPS];
    size_t at_size_bytes[MAPS];
    unsigned processor_count;
    struct plain_control control;
    struct plain_place places[TRACK_DISKS_MAX]; /* of each disk, by its number */
    char names[TRACK_DISKS_MAX][sizeof((struct track_followed *)0)->name];
    uint64_t sides[TRACK_DISKS_MAX];            /* on which its marks are set */
    struct plain_block block;                   /* the taker's */
    struct plain_summary summary;
};

int plain_wait_for_programs(void) { return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) < 0 ? -1 : 0; }

/* ---- making one ---- */

/* Before discards of many ranges there was no such file, and the kernels that we load into have it. */
static bool takes_many_ranges(const char *name)
{
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/queue/max_discard_segments", name);
    CLEANUP(buf_release) struct buf text = {0};

    return file_read(path, 64, &text, NULL) < 0 || strtoul(text.data, NULL, 10) != 1;
}

/* Each disk's marks begin with a block and a summary of their own: nobody takes another's with them. */
static void place_disks(struct plain *p, const struct track_ledger *l)
{
    for (unsigned i = 0; i < l->disk_count; i++) {
        uint32_t blocks = (uint32_t)(l->disks[i].place.chunk_count / PLAIN_BLOCK_CHUNKS) + 1;

        p->places[i] = (struct plain_place){.dev = l->disks[i].place.dev, .index = i, .first_block = p->control.block_count, .first_summary = p->control.summary_count,
                                            .chunk_count = l->disks[i].place.chunk_count, .many_ranges = takes_many_ranges(l->disks[i].name)};
        memcpy(p->names[i], l->disks[i].name, sizeof p->names[i]);
        p->control.block_count += blocks;
        p->control.summary_count += (blocks + PLAIN_SUMMARY_BLOCKS - 1) / PLAIN_SUMMARY_BLOCKS;
    }
}

const void *plain_programs(enum track_way way, size_t *size_bytes)
{
    return way == TRACK_WAY_TYPES ? typed_bpf__elf_bytes(size_bytes) : format_bpf__elf_bytes(size_bytes);
}

static int open_map(struct plain *p, int map, uint32_t count, bool mapped, struct err *e)
{
    struct bpf_map *m = bpf_object__find_map_by_name(p->object, maps[map].name);

    MUST(m && bpf_map__value_size(m) == maps[map].size_bytes);
    if ((count && bpf_map__set_max_entries(m, count) < 0) || (mapped && map >= MAP_SIDES && bpf_map__set_map_flags(m, BPF_F_MMAPABLE) < 0))
        return tracker_fail(e, errno, "can't size the tracker's map");
    return 0;
}

static int hold_map(struct plain *p, int map, bool mapped, struct err *e)
{
    struct bpf_map *m = bpf_object__find_map_by_name(p->object, maps[map].name);

    p->maps[map] = bpf_map__fd(m);
    if (!mapped || map < MAP_SIDES)
        return 0;
    p->at_size_bytes[map] = maps[map].size_bytes * bpf_map__max_entries(m);
    p->at[map] = mmap(NULL, p->at_size_bytes[map], PROT_READ | PROT_WRITE, MAP_SHARED, p->maps[map], 0);
    if (p->at[map] != MAP_FAILED)
        return 0;
    p->at[map] = NULL;
    return tracker_fail(e, errno, "can't map the tracker's marks");
}

static int open_object(struct plain *p, enum track_way way, bool mapped, struct err *e)
{
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = "slipway");
    const uint32_t counts[MAPS] = {[MAP_BLOCKS] = 2 * p->control.block_count, [MAP_SUMMARIES] = 2 * p->control.summary_count, [MAP_PROCESSORS] = p->processor_count};
    size_t size;
    const void *bytes = plain_programs(way, &size);

    p->object = bpf_object__open_mem(bytes, size, &options);
    if (!p->object)
        return tracker_fail(e, errno, "can't open the tracker's program");
    for (int i = 0; i < MAPS; i++)
        if (open_map(p, i, counts[i], mapped, e) < 0)
            return -1;
    if (bpf_object__load(p->object) < 0)
        return tracker_fail(e, errno, "the kernel doesn't take the tracker's program");
    for (int i = 0; i < MAPS; i++)
        if (hold_map(p, i, mapped, e) < 0)
            return -1;
    return 0;
}

/* Elements are of whole words, each read and written as such: a count is one. */
static void copy_words(uint64_t *to, const uint64_t *from, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes / sizeof *to; i++)
        __atomic_store_n(&to[i], __atomic_load_n(&from[i], __ATOMIC_SEQ_CST), __ATOMIC_RELEASE);
}

static int set(const struct plain *p, int map, uint32_t key, const void *value)
{
    if (!p->at[map])
        return bpf_map_update_elem(p->maps[map], &key, value, BPF_ANY);
    copy_words((uint64_t *)((char *)p->at[map] + key * maps[map].size_bytes), value, maps[map].size_bytes);
    return 0;
}

static int get(const struct plain *p, int map, uint32_t key, void *value)
{
    if (!p->at[map])
        return bpf_map_lookup_elem(p->maps[map], &key, value);
    copy_words(value, (const uint64_t *)((char *)p->at[map] + key * maps[map].size_bytes), maps[map].size_bytes);
    return 0;
}

static int tell_places(struct plain *p, const struct track_ledger *l, struct err *e)
{
    for (unsigned i = 0; i < l->disk_count; i++)
        if (set(p, MAP_PLACES, p->places[i].dev * p->control.factor >> TRACK_PLACES_SHIFT, &p->places[i]) < 0)
            return tracker_fail(e, errno, "can't name the disks to the tracker's program");
    return set(p, MAP_CONTROL, 0, &p->control) < 0 ? tracker_fail(e, errno, "can't set up the tracker's program") : 0;
}

/* The same event for all processors: its program is, whichever the event is opened on. */
static int attach_to_record(struct plain *p, int id, struct err *e)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof attributes, .config = (uint64_t)id};
    struct bpf_program *program = bpf_object__find_program_by_name(p->object, "completed");
    int fd = (int)syscall(SYS_perf_event_open, &attributes, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);

    if (fd < 0)
        return tracker_fail(e, errno, "can't open the tracepoint");
    p->completed = bpf_program__attach_perf_event(program, fd);
    if (p->completed)
        return 0;
    tracker_fail(e, errno, "can't attach the tracker to the tracepoint");
    close(fd);
    return -1;
}

/* As roll.h has it: what of a processor was answered is read before what was called. */
static int read_rolls(const void *user, struct plain_roll *out)
{
    const struct plain *p = user;

    for (uint32_t i = 0; i < p->processor_count; i++) {
        struct plain_processor one;
        const struct plain_roll *at = (const void *)((const char *)p->at[MAP_PROCESSORS] + i * sizeof one);

        if (p->at[MAP_PROCESSORS]) {
            out[i].answered = __atomic_load_n(&at->answered, __ATOMIC_SEQ_CST);
            out[i].called = __atomic_load_n(&at->called, __ATOMIC_SEQ_CST);
            continue;
        }
        if (get(p, MAP_PROCESSORS, i, &one) < 0)
            return -1;
        out[i] = one.roll;
    }
    return 0;
}

/* Who calls must be there before who answers. */
static int attach_by_format(struct plain *p, const struct track_format *f, struct err *e)
{
    p->called = bpf_program__attach(bpf_object__find_program_by_name(p->object, "called"));
    if (!p->called)
        return tracker_fail(e, errno, "can't attach the tracker to the tracepoint");
    if (plain_wait_for_programs() < 0)
        return tracker_fail(e, errno, "membarrier");
    if (attach_to_record(p, f->id, e) < 0)
        return -1;
    p->roll = roll_new(read_rolls, p, p->processor_count);
    roll_begin(p->roll);
    return 0;
}

static int attach_by_types(struct plain *p, struct err *e)
{
    p->completed = bpf_program__attach(bpf_object__find_program_by_name(p->object, "completed"));
    return p->completed ? 0 : tracker_fail(e, errno, "can't attach the tracker to the tracepoint");
}

int plain_open(const struct track_ledger *l, enum track_way way, bool mapped, struct plain **out, struct err *e)
{
    CLEANUP(plain_close) struct plain *p = xcalloc(1, sizeof *p);
    struct track_format f = {0};

    p->processor_count = l->processor_count;
    if (way == TRACK_WAY_FORMAT && tracker_read_format(&f, e) < 0)
        return -1;
    if (tracker_find_factor(l, &p->control.factor, e) < 0)
        return -1;
    p->control.dev_at = (unsigned)f.dev_at;
    p->control.sector_at = (unsigned)f.sector_at;
    p->control.count_at = (unsigned)f.count_at;
    p->control.operation_at = (unsigned)f.operation_at;
    place_disks(p, l);
    if (open_object(p, way, mapped, e) < 0 || tell_places(p, l, e) < 0)
        return -1;
    if ((way == TRACK_WAY_FORMAT ? attach_by_format(p, &f, e) : attach_by_types(p, e)) < 0)
        return -1;
    *out = p;
    p = NULL;
    return 0;
}

void plain_close(struct plain **p)
{
    if (!*p)
        return;
    for (int i = 0; i < MAPS; i++)
        if ((*p)->at[i])
            munmap((*p)->at[i], (*p)->at_size_bytes[i]);
    bpf_link__destroy((*p)->completed);
    bpf_link__destroy((*p)->called);
    bpf_object__close((*p)->object);
    roll_free(&(*p)->roll);
    free_ptr(p);
}

/* ---- counting ---- */

struct track_counters plain_counted(const struct plain *p, int disk)
{
    CLEANUP(free_ptr) struct plain_processor *one = xmalloc(sizeof *one);
    struct track_counters sum = {0};

    for (uint32_t i = 0; i < p->processor_count; i++) {
        if (get(p, MAP_PROCESSORS, i, one) < 0) {
            sum.lost = sum.unclear = UINT64_MAX; /* nothing is known: track_take and track_check say so */
            return sum;
        }
        sum.sectors[0] += one->disks[disk].sectors[0];
        sum.lost += one->disks[disk].lost + one->lost;
        sum.unclear += one->disks[disk].unclear;
    }
    return sum;
}

int plain_roll_call(struct plain *p)
{
    struct bpf_prog_info info = {0};
    __u32 size = sizeof info;
    int result;

    if (!p->roll)
        return 1;
    result = roll_call(p->roll);
    /* Newer kernels pass over who calls, too, where it interrupted itself, and say so. */
    if (bpf_obj_get_info_by_fd(bpf_program__fd(bpf_object__find_program_by_name(p->object, "called")), &info, &size) < 0 || info.recursion_misses == p->called_passed_over)
        return result;
    p->called_passed_over = info.recursion_misses;
    return -1;
}

/* ---- taking ---- */

static uint32_t summary_count(const struct plain_place *place)
{
    return (uint32_t)((place->chunk_count + (uint64_t)PLAIN_SUMMARY_BLOCKS * PLAIN_BLOCK_CHUNKS - 1) / ((uint64_t)PLAIN_SUMMARY_BLOCKS * PLAIN_BLOCK_CHUNKS));
}

static int get_summary(const struct plain *p, const struct plain_place *place, uint32_t side, uint32_t number, struct plain_summary *s)
{
    return get(p, MAP_SUMMARIES, side * p->control.summary_count + place->first_summary + number, s);
}

static uint32_t block_key(const struct plain *p, const struct plain_place *place, uint32_t side, uint32_t block)
{
    return side * p->control.block_count + place->first_block + block;
}

static bool is_zero(const void *bytes, size_t size) { return !*(const char *)bytes && memcmp(bytes, (const char *)bytes + 1, size - 1) == 0; }

/* 1: there are marks on the side on which they are set now. */
static int has_marks(struct plain *p, int disk)
{
    const struct plain_place *place = &p->places[disk];

    for (uint32_t i = 0; i < summary_count(place); i++) {
        if (get_summary(p, place, (uint32_t)p->sides[disk], i, &p->summary) < 0)
            return -1;
        if (!is_zero(&p->summary, sizeof p->summary))
            return 1;
    }
    return 0;
}

/* A multipath device takes what its ways take, and may have got others since: what was taken for one range until now may have been several. */
static int ranges_are_known(struct plain *p, int disk)
{
    struct plain_place *place = &p->places[disk];

    if (!p->roll || place->many_ranges || !takes_many_ranges(p->names[disk]))
        return 1;
    place->many_ranges = 1;
    set(p, MAP_PLACES, place->dev * p->control.factor >> TRACK_PLACES_SHIFT, place);
    return 0;
}

/* Afterwards the side that it was on is ours. */
static int change_sides(struct plain *p, int disk)
{
    uint64_t other = !p->sides[disk];

    if (set(p, MAP_SIDES, (uint32_t)disk, &other) < 0)
        return -1;
    __atomic_store_n(&p->sides[disk], other, __ATOMIC_SEQ_CST);
    return plain_wait_for_programs();
}

static int64_t take_block(struct plain *p, const struct plain_place *place, uint32_t side, uint32_t block, bool whole, track_visit *visit, void *user)
{
    static const struct plain_block none;
    int64_t first = (int64_t)block * PLAIN_BLOCK_CHUNKS, count = 0;

    if (get(p, MAP_BLOCKS, block_key(p, place, side, block), &p->block) < 0)
        return -1;
    for (int64_t i = 0; i < (int64_t)PLAIN_BLOCK_CHUNKS && first + i < (int64_t)place->chunk_count; i++)
        if (whole || p->block.chunks[i] || p->block.spans[i >> PLAIN_SPAN_SHIFT]) {
            visit(first + i, TRACK_PAGES_ALL, user);
            count++;
        }
    return set(p, MAP_BLOCKS, block_key(p, place, side, block), &none) < 0 ? -1 : count;
}

static int64_t take_summary(struct plain *p, const struct plain_place *place, uint32_t side, uint32_t number, track_visit *visit, void *user)
{
    static const struct plain_summary none;
    uint32_t first = number * PLAIN_SUMMARY_BLOCKS;
    int64_t count = 0, more;

    if (get_summary(p, place, side, number, &p->summary) < 0)
        return -1;
    if (is_zero(&p->summary, sizeof p->summary))
        return 0;
    for (uint32_t i = 0; i < PLAIN_SUMMARY_BLOCKS && (uint64_t)(first + i) * PLAIN_BLOCK_CHUNKS < place->chunk_count; i++) {
        if (!p->summary.touched[i] && !p->summary.whole[i])
            continue;
        more = take_block(p, place, side, first + i, p->summary.whole[i], visit, user);
        if (more < 0)
            return -1;
        count += more;
    }
    return set(p, MAP_SUMMARIES, side * p->control.summary_count + place->first_summary + number, &none) < 0 ? -1 : count;
}

int64_t plain_take(struct plain *p, int disk, track_visit *visit, void *user)
{
    const struct plain_place *place = &p->places[disk];
    int64_t count = 0, more;
    uint32_t side = (uint32_t)p->sides[disk];
    int marks;

    if (!ranges_are_known(p, disk))
        return -1;
#ifndef __x86_64__
    if (plain_wait_for_programs() < 0) /* what one of them has counted it has marked, but maybe nobody sees it yet */
        return -1;
#endif
    marks = has_marks(p, disk);
    if (marks <= 0)
        return marks;
    if (change_sides(p, disk) < 0)
        return -1;
    for (uint32_t i = 0; i < summary_count(place); i++) {
        more = take_summary(p, place, side, i, visit, user);
        if (more < 0)
            return -1;
        count += more;
    }
    return count;
}

static int64_t waiting_in(const struct plain *p, const struct plain_place *place, uint32_t side, uint32_t block, bool whole)
{
    CLEANUP(free_ptr) struct plain_block *b = xmalloc(sizeof *b);
    int64_t count = 0;

    if (whole)
        return PLAIN_BLOCK_CHUNKS;
    if (get(p, MAP_BLOCKS, block_key(p, place, side, block), b) < 0)
        return 0;
    for (uint32_t i = 0; i < PLAIN_BLOCK_CHUNKS; i++)
        count += b->chunks[i] || b->spans[i >> PLAIN_SPAN_SHIFT];
    return count;
}

int64_t plain_waiting(const struct plain *p, int disk_count)
{
    int64_t count = 0;

    for (int disk = 0; disk < disk_count; disk++) {
        const struct plain_place *place = &p->places[disk];
        uint32_t side = (uint32_t)__atomic_load_n(&p->sides[disk], __ATOMIC_SEQ_CST);

        for (uint32_t i = 0; i < summary_count(place); i++) {
            struct plain_summary s;

            if (get_summary(p, place, side, i, &s) < 0)
                continue;
            for (uint32_t b = 0; b < PLAIN_SUMMARY_BLOCKS; b++)
                if (s.touched[b] || s.whole[b])
                    count += waiting_in(p, place, side, i * PLAIN_SUMMARY_BLOCKS + b, s.whole[b]);
        }
    }
    return count;
}
