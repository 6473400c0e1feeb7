#include "track/track.h"

#include "base/file.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wshadow"
#include "track.skel.h"
#pragma GCC diagnostic pop

#define PROGRAMS 3

/* Sectors written and discarded by the kernel's statistics; by our programs; and how often they were passed over: when these last agreed. */
struct balance {
    uint64_t by_stat, sectors, passed_over;
};

struct tracker {
    struct track_bpf *bpf;
    int disk_count;
    struct track_place places[TRACK_DISKS_MAX];
    uint64_t lost_seen[TRACK_DISKS_MAX];
    struct balance balance[TRACK_DISKS_MAX];
    bool unseen[TRACK_DISKS_MAX]; /* a write was not seen, and track_take has not said so yet */
    char names[TRACK_DISKS_MAX][64];
    uint64_t *words, *whole, *slots; /* the mapped arrays */
    size_t words_size, slots_size;
    struct track_counters *counters; /* TRACK_DISKS_MAX of each processor, one processor after the other */
    size_t counters_size;
    int processor_count;
};

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level, (void)format, (void)args;
    return 0;
}

/* The kernel's own encoding of dev_t, from /sys/block/NAME/dev; refuses what completes no requests. */
static int kernel_dev(const char *name, uint32_t *dev, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/dev", name);
    CLEANUP(free_ptr) char *queue = xasprintf("/sys/block/%s/mq", name);
    unsigned major, minor;

    if (file_read(path, 64, &text, e) < 0)
        return -1;
    if (sscanf(text.data, "%u:%u", &major, &minor) != 2)
        return err_set(e, ERR_PROTOCOL, "%s holds no device number", path);
    if (!file_exists(queue))
        return err_set(e, ERR_UNSUPPORTED, "%s has no request queue, so its writes can't be followed", name);
    *dev = major << 20 | minor;
    return 0;
}

static int place_disks(struct tracker *t, const struct track_disk *disks, struct err *e)
{
    uint64_t words = 0;

    for (int i = 0; i < t->disk_count; i++) {
        uint64_t chunks = (uint64_t)track_chunks(disks[i].size_bytes);

        t->places[i] = (struct track_place){.first_word = (uint32_t)words, .index = (uint32_t)i, .chunk_count = chunks};
        if (kernel_dev(disks[i].name, &t->places[i].dev, e) < 0)
            return -1;
        memcpy(t->names[i], disks[i].name, sizeof t->names[i]);
        words += (chunks + 63) / 64;
    }
    if (words > UINT32_MAX / 8)
        return err_set(e, ERR_LIMIT, "the disks are too large for the tracker");
    t->words_size = (words ? words : 1) * sizeof *t->words;
    return 0;
}

static int fail(struct err *e, int reason, const char *what)
{
    if (reason == EPERM || reason == EACCES)
        return err_set(e, ERR_DENIED, "%s: not permitted (root is needed, and a kernel that isn't locked down)", what);
    return err_set(e, ERR_UNSUPPORTED, "%s: %s", what, strerror(reason));
}

/* The factor by which no two disks hash to one place: about one in seven does for 64 disks. A disk that was named twice has none. */
static int name_disks(struct tracker *t, struct err *e)
{
    volatile struct track_place *places = t->bpf->rodata->places; /* the program's constants, until it is loaded */
    uint64_t state = 0x9e3779b97f4a7c15u;

    for (int tries = 0; tries < 10000; tries++, state = state * 6364136223846793005u + 1442695040888963407u) {
        uint32_t factor = (uint32_t)(state >> 32) | 1;
        int placed = 0;

        for (int i = 0; i < TRACK_PLACES; i++)
            places[i].dev = 0;
        for (; placed < t->disk_count; placed++) {
            volatile struct track_place *place = &places[t->places[placed].dev * factor >> TRACK_PLACES_SHIFT];

            if (place->dev)
                break;
            *place = t->places[placed];
        }
        if (placed == t->disk_count) {
            t->bpf->rodata->places_factor = factor;
            return 0;
        }
    }
    return err_set(e, ERR_INTERNAL, "the tracker can't tell the disks' numbers apart");
}

static int load(struct tracker *t, struct err *e)
{
    if (!file_exists("/sys/kernel/btf/vmlinux"))
        return err_set(e, ERR_UNSUPPORTED, "this kernel does not describe its types (no /sys/kernel/btf/vmlinux)");
    libbpf_set_print(quiet);
    t->bpf = track_bpf__open();
    if (!t->bpf)
        return fail(e, errno, "can't open the tracker's program");
    if (bpf_map__set_max_entries(t->bpf->maps.dirty, (uint32_t)(t->words_size / sizeof *t->words)) < 0 ||
        bpf_map__set_max_entries(t->bpf->maps.whole, (uint32_t)(t->words_size / sizeof *t->words)) < 0)
        return fail(e, errno, "can't size the tracker's map");
    t->processor_count = libbpf_num_possible_cpus();
    if (t->processor_count < 1 || bpf_map__set_max_entries(t->bpf->maps.counters, (uint32_t)t->processor_count * TRACK_DISKS_MAX) < 0)
        return fail(e, errno, "can't size the tracker's counters");
#ifdef __x86_64__
    t->bpf->rodata->loads_in_order = 1;
#endif
    if (name_disks(t, e) < 0)
        return -1;
    if (track_bpf__load(t->bpf) < 0)
        return fail(e, errno, "the kernel doesn't take the tracker's program");
    return 0;
}

static void *map_array(const struct bpf_map *map, size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);

    return at == MAP_FAILED ? NULL : at;
}

static int map_arrays(struct tracker *t, struct err *e)
{
    t->counters_size = (size_t)t->processor_count * TRACK_DISKS_MAX * sizeof *t->counters;
    t->slots_size = TRACK_SLOT_COUNT * sizeof *t->slots;
    t->words = map_array(t->bpf->maps.dirty, t->words_size);
    t->whole = map_array(t->bpf->maps.whole, t->words_size);
    t->slots = map_array(t->bpf->maps.slots, t->slots_size);
    t->counters = map_array(t->bpf->maps.counters, t->counters_size);
    if (!t->words || !t->whole || !t->slots || !t->counters)
        return fail(e, errno, "can't map the tracker's marks");
    return 0;
}

/* What all processors have counted. Each count only rises: two equal sums had equal parts. */
static struct track_counters counted(const struct tracker *t, int disk)
{
    struct track_counters sum = {0};

    for (int i = 0; i < t->processor_count; i++) {
        const struct track_counters *c = &t->counters[i * TRACK_DISKS_MAX + disk];

        sum.sectors += __atomic_load_n(&c->sectors, __ATOMIC_SEQ_CST);
        sum.lost += __atomic_load_n(&c->lost, __ATOMIC_SEQ_CST);
    }
    return sum;
}

/* Fields of /sys/block/NAME/stat (Documentation/block/stat). */
enum { STAT_WRITES = 4, STAT_SECTORS_WRITTEN = 6, STAT_DISCARDS = 11, STAT_SECTORS_DISCARDED = 13, STAT_FIELDS = 14 };

/* False where the kernel keeps no statistics of the disk (queue/iostats is 0), or none that we know. */
static bool read_stat(const char *name, unsigned long long v[static STAT_FIELDS])
{
    CLEANUP(buf_release) struct buf text = {0};
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/stat", name);
    CLEANUP(free_ptr) char *on_path = xasprintf("/sys/block/%s/queue/iostats", name);
    CLEANUP(buf_release) struct buf on = {0};
    char *at;

    if (file_read(on_path, 64, &on, NULL) < 0 || on.data[0] != '1' || file_read(path, 4096, &text, NULL) < 0)
        return false;
    at = text.data;
    for (int i = 0; i < STAT_FIELDS; i++) {
        char *end;

        v[i] = strtoull(at, &end, 10);
        if (end == at)
            return false;
        at = end;
    }
    return true;
}

/* How often the kernel says that it passed over one of the programs, for whatever disk. */
static uint64_t passed_over(const struct tracker *t)
{
    const struct bpf_program *programs[PROGRAMS] = {t->bpf->progs.completed_first, t->bpf->progs.completed_second, t->bpf->progs.completed_third};
    uint64_t sum = 0;

    for (size_t i = 0; i < PROGRAMS; i++) {
        struct bpf_prog_info info = {0};
        __u32 size = sizeof info;

        if (bpf_obj_get_info_by_fd(bpf_program__fd(programs[i]), &info, &size) == 0)
            sum += info.recursion_misses;
    }
    return sum;
}

/* In this order: a completion is counted by us first, and right after by the kernel. */
static struct balance read_balance(const struct tracker *t, int disk)
{
    unsigned long long v[STAT_FIELDS];
    struct balance b = {.by_stat = TRACK_WRITES_UNKNOWN};

    if (read_stat(t->names[disk], v))
        b.by_stat = v[STAT_SECTORS_WRITTEN] + v[STAT_SECTORS_DISCARDED];
    b.sectors = counted(t, disk).sectors;
    b.passed_over = passed_over(t);
    return b;
}

static int attach(struct tracker *t, struct err *e)
{
    if (track_bpf__attach(t->bpf) < 0)
        return fail(e, errno, "can't attach the tracker to the tracepoint");
    for (int i = 0; i < t->disk_count; i++)
        t->balance[i] = read_balance(t, i);
    return 0;
}

int track_open(const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e)
{
    CLEANUP(track_close) struct tracker *t = xcalloc(1, sizeof *t);

    MUST(disk_count >= 1 && disk_count <= TRACK_DISKS_MAX);
    t->disk_count = disk_count;
    if (place_disks(t, disks, e) < 0 || load(t, e) < 0 || map_arrays(t, e) < 0 || attach(t, e) < 0)
        return -1;
    *out = t;
    t = NULL;
    return 0;
}

static void unmap(void *at, size_t size)
{
    if (at)
        munmap(at, size);
}

void track_close(struct tracker **t)
{
    if (!*t)
        return;
    unmap((*t)->words, (*t)->words_size);
    unmap((*t)->whole, (*t)->words_size);
    unmap((*t)->slots, (*t)->slots_size);
    unmap((*t)->counters, (*t)->counters_size);
    track_bpf__destroy((*t)->bpf);
    free_ptr(t);
}

int track_check(struct tracker *t, int disk)
{
    struct balance now = read_balance(t, disk), was = t->balance[disk];
    int64_t by_stat = (int64_t)(now.by_stat - was.by_stat), missing = PROGRAMS * by_stat - (int64_t)(now.sectors - was.sectors);

    if (t->unseen[disk])
        return -1;
    if (now.by_stat == TRACK_WRITES_UNKNOWN)
        return 1;
    if (missing < 0)
        return 0;
    t->balance[disk] = now;
    /* Where some of the programs were passed over, one of them at least has seen each completion. */
    t->unseen[disk] = missing > 0 && was.by_stat != TRACK_WRITES_UNKNOWN &&
                      (now.passed_over == was.passed_over || missing > (PROGRAMS - 1) * by_stat);
    return t->unseen[disk] ? -1 : 1;
}

static uint32_t take_slot(struct tracker *t, uint32_t index, uint64_t tag)
{
    uint64_t held = __atomic_load_n(&t->slots[index], __ATOMIC_SEQ_CST);

    if (held >> TRACK_TAG_SHIFT != tag >> TRACK_TAG_SHIFT)
        return 0;
    /* While it is ours nobody else takes it: what comes out is ours, with what was added since. */
    return (uint32_t)(__atomic_exchange_n(&t->slots[index], 0, __ATOMIC_SEQ_CST) & TRACK_PAGES_ALL);
}

/* The pages of a chunk whose mark was just cleared. Whoever marks a chunk names its pages before (in a slot, or as a whole): so they are here by now, or an
 * earlier take had them, early: then this mark finds none, and stands for the whole chunk. */
static uint32_t take_pages(struct tracker *t, int disk, int64_t chunk, bool whole)
{
    uint64_t tag = track_tag((unsigned)disk, (uint64_t)chunk);
    uint32_t slot = track_slot(tag), pages = take_slot(t, slot, tag) | take_slot(t, slot ^ 1, tag);

    return whole || !pages ? TRACK_PAGES_ALL : pages;
}

int64_t track_take(struct tracker *t, int disk, track_visit *visit, void *user, struct err *e)
{
    uint64_t *from = t->words + t->places[disk].first_word, *whole_from = t->whole + t->places[disk].first_word;
    uint64_t lost = counted(t, disk).lost;
    int64_t count = 0;
    bool lost_now;

    for (uint64_t i = 0; i < (t->places[disk].chunk_count + 63) / 64; i++) {
        uint64_t marks = __atomic_load_n(&from[i], __ATOMIC_SEQ_CST) ? __atomic_exchange_n(&from[i], 0, __ATOMIC_SEQ_CST) : 0;

        uint64_t whole = marks ? __atomic_fetch_and(&whole_from[i], ~marks, __ATOMIC_SEQ_CST) : 0;

        count += __builtin_popcountll(marks);
        for (; marks; marks &= marks - 1) {
            int bit = __builtin_ctzll(marks);

            visit((int64_t)i * 64 + bit, take_pages(t, disk, (int64_t)i * 64 + bit, whole >> bit & 1), user);
        }
    }
    lost_now = lost != t->lost_seen[disk];
    if (lost_now || track_check(t, disk) < 0) {
        t->lost_seen[disk] = lost;
        t->unseen[disk] = false; /* it is said now */
        return err_set(e, ERR_CORRUPT, "not every write could be marked: %s", lost_now ? "the disk has grown, or was written past the block layer"
                       : "the kernel has counted more than the tracker has seen");
    }
    return count;
}

int64_t track_waiting(const struct tracker *t, uint64_t *written)
{
    int64_t whole = 0, pages = 0;

    *written = 0;
    for (int i = 0; i < t->disk_count; i++)
        *written += counted(t, i).sectors;
    for (size_t i = 0; i < t->words_size / sizeof *t->words; i++) {
        uint64_t marks = __atomic_load_n(&t->words[i], __ATOMIC_RELAXED);

        whole += marks ? __builtin_popcountll(marks & __atomic_load_n(&t->whole[i], __ATOMIC_RELAXED)) : 0;
    }
    for (size_t i = 0; i < TRACK_SLOT_COUNT; i++)
        pages += __builtin_popcountll(__atomic_load_n(&t->slots[i], __ATOMIC_RELAXED) & TRACK_PAGES_ALL);
    return whole * TRACK_CHUNK_SIZE + pages * TRACK_PAGE_SIZE;
}

uint64_t track_writes(const struct tracker *t, int disk)
{
    unsigned long long v[STAT_FIELDS];
    uint64_t by_stat = read_stat(t->names[disk], v) ? v[STAT_SECTORS_WRITTEN] + v[STAT_SECTORS_DISCARDED] : 0;

    struct track_counters c = counted(t, disk);

    /* All only rise; sectors, for a flush counts as a write there. The tracker's own would do, were it never passed over. */
    return c.sectors + c.lost + by_stat;
}

uint64_t track_writes_by_stat(const char *name)
{
    unsigned long long v[STAT_FIELDS];

    return read_stat(name, v) ? v[STAT_WRITES] + v[STAT_DISCARDS] : TRACK_WRITES_UNKNOWN;
}
