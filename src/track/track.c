#include "track/private.h"

#include "base/file.h"
#include "base/hash.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wshadow"
#include "track.skel.h"
#pragma GCC diagnostic pop

const char *const track_array_names[ARRAYS] = {"dirty", "whole", "slots", "counters", "todo", "ledger", "memory"};

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level, (void)format, (void)args;
    return 0;
}

int tracker_fail(struct err *e, int reason, const char *what)
{
    if (reason == EPERM || reason == EACCES)
        return err_set(e, ERR_DENIED, "%s: not permitted (root is needed, and a kernel that isn't locked down)", what);
    return err_set(e, ERR_UNSUPPORTED, "%s: %s", what, strerror(reason));
}

/* ---- making one ---- */

int tracker_look(const struct track_disk *disk, struct track_followed *f, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0}, sequence = {0};
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/dev", disk->name);
    CLEANUP(free_ptr) char *queue = xasprintf("/sys/block/%s/mq", disk->name);
    CLEANUP(free_ptr) char *sequence_path = xasprintf("/sys/block/%s/diskseq", disk->name);
    unsigned major, minor;

    if (file_read(path, 64, &text, e) < 0)
        return -1;
    if (sscanf(text.data, "%u:%u", &major, &minor) != 2)
        return err_set(e, ERR_PROTOCOL, "%s holds no device number", path);
    if (!file_exists(queue))
        return err_set(e, ERR_UNSUPPORTED, "%s has no request queue, so its writes can't be followed", disk->name);
    memcpy(f->name, disk->name, sizeof f->name);
    f->size_bytes = (uint64_t)disk->size_bytes;
    f->place.dev = major << 20 | minor; /* the kernel's own encoding */
    f->instance = file_read(sequence_path, 64, &sequence, NULL) == 0 ? strtoull(sequence.data, NULL, 10) : 0; /* from 5.15 on */
    return 0;
}

/* The disks one after the other. words: of the arrays with a bit a chunk. */
static int place_disks(struct track_ledger *l, const struct track_disk *disks, uint32_t *words, struct err *e)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < l->disk_count; i++) {
        struct track_followed *f = &l->disks[i];

        f->place = (struct track_place){.first_word = (uint32_t)sum, .index = i, .chunk_count = (uint64_t)track_chunks(disks[i].size_bytes)};
        if (tracker_look(&disks[i], f, e) < 0)
            return -1;
        sum += (f->place.chunk_count + 63) / 64;
        if (sum > UINT32_MAX / 8)
            return err_set(e, ERR_LIMIT, "the disks are too large for the tracker");
    }
    *words = sum ? (uint32_t)sum : 1;
    return 0;
}

/* The factor by which no two disks hash to one place: about one in seven does for 64 disks. A disk that was named twice has none. */
static int name_disks(struct track_bpf *bpf, const struct track_ledger *l, struct err *e)
{
    volatile struct track_place *places = bpf->rodata->places; /* the program's constants, until it is loaded */
    uint64_t state = 0x9e3779b97f4a7c15u;

    for (int tries = 0; tries < 10000; tries++, state = state * 6364136223846793005u + 1442695040888963407u) {
        uint32_t factor = (uint32_t)(state >> 32) | 1;
        unsigned placed = 0;

        for (int i = 0; i < TRACK_PLACES; i++)
            places[i].dev = 0;
        for (; placed < l->disk_count; placed++) {
            volatile struct track_place *place = &places[l->disks[placed].place.dev * factor >> TRACK_PLACES_SHIFT];

            if (place->dev)
                break;
            *place = l->disks[placed].place;
        }
        if (placed == l->disk_count) {
            bpf->rodata->places_factor = factor;
            return 0;
        }
    }
    return err_set(e, ERR_INTERNAL, "the tracker can't tell the disks' numbers apart");
}

static struct track_bpf *open_programs(struct err *e)
{
    struct track_bpf *bpf;

    libbpf_set_print(quiet);
    if (tracker_needs(0, e) < 0)
        return NULL;
    bpf = track_bpf__open();
    if (!bpf)
        tracker_fail(e, errno, "can't open the tracker's program");
    return bpf;
}

uint64_t tracker_programs_hash(void)
{
    uint8_t sum[HASH_XXH_SIZE];
    uint64_t hash;
    size_t size;
    const void *bytes = track_bpf__elf_bytes(&size);

    hash_xxh(bytes, size, sum);
    memcpy(&hash, sum, sizeof hash);
    return hash;
}

static int load(struct track_bpf *bpf, const struct track_ledger *l, uint32_t words, bool with_todo, struct err *e)
{
    struct bpf_map *const with_bits[] = {bpf->maps.dirty, bpf->maps.whole, bpf->maps.todo};

    for (size_t i = 0; i < ARRAY_COUNT(with_bits) - !with_todo; i++)
        if (bpf_map__set_max_entries(with_bits[i], words) < 0)
            return tracker_fail(e, errno, "can't size the tracker's map");
    if (bpf_map__set_max_entries(bpf->maps.counters, l->processor_count * TRACK_DISKS_MAX) < 0)
        return tracker_fail(e, errno, "can't size the tracker's counters");
#ifdef __x86_64__
    bpf->rodata->loads_in_order = 1;
#endif
    if (name_disks(bpf, l, e) < 0)
        return -1;
    if (track_bpf__load(bpf) < 0)
        return tracker_fail(e, errno, "the kernel doesn't take the tracker's program");
    return 0;
}

struct tracker *tracker_new(void)
{
    struct tracker *t = xcalloc(1, sizeof *t);

    for (int i = 0; i < ARRAYS; i++)
        t->arrays[i].fd = -1;
    for (int i = 0; i < PROGRAMS; i++)
        t->programs[i] = t->links[i] = -1;
    return t;
}

static int map_array(struct track_array *array)
{
    struct bpf_map_info info = {0};
    __u32 size = sizeof info;

    if (bpf_obj_get_info_by_fd(array->fd, &info, &size) < 0)
        return -1;
    array->size_bytes = (size_t)((info.value_size + 7) / 8 * 8) * info.max_entries;
    array->at = mmap(NULL, array->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, array->fd, 0);
    if (array->at != MAP_FAILED)
        return 0;
    array->at = NULL;
    return -1;
}

int tracker_map(struct tracker *t, struct err *e)
{
    for (int i = 0; i < ARRAYS; i++)
        if (map_array(&t->arrays[i]) < 0)
            return tracker_fail(e, errno, "can't map the tracker's marks");
    t->dirty = t->arrays[ARRAY_DIRTY].at;
    t->whole = t->arrays[ARRAY_WHOLE].at;
    t->slots = t->arrays[ARRAY_SLOTS].at;
    t->counters = t->arrays[ARRAY_COUNTERS].at;
    t->todo = t->arrays[ARRAY_TODO].size_bytes == t->arrays[ARRAY_DIRTY].size_bytes ? t->arrays[ARRAY_TODO].at : NULL;
    t->ledger = t->arrays[ARRAY_LEDGER].at;
    return 0;
}

static int own(int fd) { return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3); }

/* What the skeleton made, as files of our own: it is not needed after. */
static int take_files(struct tracker *t, const struct track_bpf *bpf, struct err *e)
{
    const struct bpf_map *maps[ARRAYS] = {bpf->maps.dirty, bpf->maps.whole, bpf->maps.slots, bpf->maps.counters, bpf->maps.todo, bpf->maps.ledger, bpf->maps.memory};
    const struct bpf_program *programs[PROGRAMS] = {bpf->progs.completed_first, bpf->progs.completed_second, bpf->progs.completed_third};

    for (int i = 0; i < ARRAYS; i++)
        if ((t->arrays[i].fd = own(bpf_map__fd(maps[i]))) < 0)
            return tracker_fail(e, errno, "can't hold the tracker's map");
    for (int i = 0; i < PROGRAMS; i++)
        if ((t->programs[i] = own(bpf_program__fd(programs[i]))) < 0)
            return tracker_fail(e, errno, "can't hold the tracker's program");
    return 0;
}

static struct track_balance read_balance(const struct tracker *t, int disk);
static void set_balance(struct track_followed *f, const struct track_balance *b);

static int attach(struct tracker *t, struct track_bpf *bpf, struct err *e)
{
    const struct bpf_link *links[PROGRAMS];

    if (track_bpf__attach(bpf) < 0)
        return tracker_fail(e, errno, "can't attach the tracker to the tracepoint");
    links[0] = bpf->links.completed_first, links[1] = bpf->links.completed_second, links[2] = bpf->links.completed_third;
    for (int i = 0; i < PROGRAMS; i++)
        if ((t->links[i] = own(bpf_link__fd(links[i]))) < 0)
            return tracker_fail(e, errno, "can't hold the tracker's link");
    for (unsigned i = 0; i < t->ledger->disk_count; i++) {
        struct track_balance b = read_balance(t, (int)i);

        set_balance(&t->ledger->disks[i], &b);
    }
    return 0;
}

static void destroy(struct track_bpf **bpf) { track_bpf__destroy(*bpf); }
static void free_ledger(struct track_ledger **l) { free_ptr(l); }

static int open_new(const struct track_disk *disks, int disk_count, bool with_todo, struct tracker **out, struct err *e)
{
    CLEANUP(free_ledger) struct track_ledger *l = xcalloc(1, sizeof *l);
    CLEANUP(track_close) struct tracker *t = tracker_new();
    CLEANUP(destroy) struct track_bpf *bpf = NULL;
    int processors = libbpf_num_possible_cpus();
    uint32_t words = 0;

    MUST(disk_count >= 1 && disk_count <= TRACK_DISKS_MAX);
    if (processors < 1)
        return tracker_fail(e, -processors, "can't count the processors");
    l->programs = tracker_programs_hash();
    l->disk_count = (unsigned)disk_count;
    l->processor_count = (unsigned)processors;
    if (place_disks(l, disks, &words, e) < 0)
        return -1;
    bpf = open_programs(e);
    if (!bpf || load(bpf, l, words, with_todo, e) < 0 || take_files(t, bpf, e) < 0 || tracker_map(t, e) < 0)
        return -1;
    *t->ledger = *l;
    if (attach(t, bpf, e) < 0)
        return -1;
    *out = t;
    t = NULL;
    return 0;
}

int track_open(const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e)
{
    return open_new(disks, disk_count, false, out, e);
}

int track_open_to_keep(const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e)
{
    return open_new(disks, disk_count, true, out, e);
}

static void close_held(int fd)
{
    if (fd >= 0)
        close(fd);
}

void track_close(struct tracker **t)
{
    if (!*t)
        return;
    for (int i = 0; i < ARRAYS; i++) {
        if ((*t)->arrays[i].at)
            munmap((*t)->arrays[i].at, (*t)->arrays[i].size_bytes);
        close_held((*t)->arrays[i].fd);
    }
    for (int i = 0; i < PROGRAMS; i++) {
        close_held((*t)->links[i]);
        close_held((*t)->programs[i]);
    }
    free_ptr(t);
}

void *track_memory(struct tracker *t) { return t->arrays[ARRAY_MEMORY].at; }

uint64_t *track_todo(struct tracker *t, int disk) { return t->todo ? t->todo + t->ledger->disks[disk].place.first_word : NULL; }

/* ---- whether everything was seen ---- */

/* What all processors have counted. Each count only rises: two equal sums had equal parts. */
static struct track_counters counted(const struct tracker *t, int disk)
{
    struct track_counters sum = {0};

    for (unsigned i = 0; i < t->ledger->processor_count; i++) {
        const struct track_counters *c = &t->counters[i * TRACK_DISKS_MAX + (unsigned)disk];

        for (int p = 0; p < PROGRAMS; p++)
            sum.sectors[p] += __atomic_load_n(&c->sectors[p], __ATOMIC_SEQ_CST);
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

uint64_t tracker_sectors_by_stat(const char *name)
{
    unsigned long long v[STAT_FIELDS];

    return read_stat(name, v) ? v[STAT_SECTORS_WRITTEN] + v[STAT_SECTORS_DISCARDED] : TRACK_WRITES_UNKNOWN;
}

/* In this order: a completion is counted by us first, and right after by the kernel. passed_over: how often the kernel says that it passed over the
 * program, for whatever disk. */
static struct track_balance read_balance(const struct tracker *t, int disk)
{
    struct track_balance b = {.by_stat = tracker_sectors_by_stat(t->ledger->disks[disk].name)};
    struct track_counters c = counted(t, disk);

    for (int i = 0; i < PROGRAMS; i++) {
        struct bpf_prog_info info = {0};
        __u32 size = sizeof info;

        b.sectors[i] = c.sectors[i];
        if (bpf_obj_get_info_by_fd(t->programs[i], &info, &size) == 0)
            b.passed_over[i] = info.recursion_misses;
    }
    return b;
}

/* The other one is written, then it holds. */
static void set_balance(struct track_followed *f, const struct track_balance *b)
{
    f->balance[~f->newest & 1] = *b;
    __atomic_store_n(&f->newest, ~f->newest & 1, __ATOMIC_SEQ_CST);
}

/* What the programs have seen since the balance was taken, against what the kernel has counted: 1 all of it, 0 more (what is counted in a moment), -1 less. */
static int weigh(const struct track_balance *was, const struct track_balance *now)
{
    int64_t by_stat = (int64_t)(now->by_stat - was->by_stat), seen = 0;
    bool one_saw_all = false, all_passed_over = true;

    for (int i = 0; i < PROGRAMS; i++) {
        int64_t by_program = (int64_t)(now->sectors[i] - was->sectors[i]);

        if (by_program > by_stat)
            return 0;
        one_saw_all |= by_program == by_stat;
        all_passed_over &= now->passed_over[i] != was->passed_over[i];
        seen += by_program;
    }
    /* Where each was passed over, as the kernel says, for the others' sake, each completion has been seen by one of them at least. */
    return one_saw_all || (all_passed_over && seen >= by_stat) ? 1 : -1;
}

int track_check(struct tracker *t, int disk)
{
    struct track_followed *f = &t->ledger->disks[disk];
    struct track_balance now = read_balance(t, disk);
    const struct track_balance *was = tracker_balance(f);
    int weighed;

    if (f->unseen)
        return -1;
    if (now.by_stat == TRACK_WRITES_UNKNOWN)
        return 1;
    weighed = was->by_stat == TRACK_WRITES_UNKNOWN ? 1 : weigh(was, &now);
    if (weighed == 0)
        return 0;
    if (weighed < 0)
        __atomic_store_n(&f->unseen, 1, __ATOMIC_SEQ_CST); /* written down before the balance moves on */
    set_balance(f, &now);
    return weighed;
}

/* ---- taking ---- */

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
    struct track_followed *f = &t->ledger->disks[disk];
    uint64_t *dirty = t->dirty + f->place.first_word, *whole_of = t->whole + f->place.first_word, *todo = track_todo(t, disk);
    uint64_t lost = counted(t, disk).lost;
    int64_t count = 0;
    bool lost_now;

    __atomic_store_n(&f->untold, 0, __ATOMIC_SEQ_CST);
    for (uint64_t i = 0; i < (f->place.chunk_count + 63) / 64; i++) {
        uint64_t marks = __atomic_load_n(&dirty[i], __ATOMIC_SEQ_CST), whole;

        if (!marks)
            continue;
        /* To do before it is marked no longer, and no mark is cleared that was not looked at: whenever we are killed, each is in one of the two. */
        if (todo)
            todo[i] |= marks;
        __atomic_fetch_and(&dirty[i], ~marks, __ATOMIC_SEQ_CST);
        whole = __atomic_fetch_and(&whole_of[i], ~marks, __ATOMIC_SEQ_CST);
        count += __builtin_popcountll(marks);
        for (; marks; marks &= marks - 1) {
            int bit = __builtin_ctzll(marks);

            visit((int64_t)i * 64 + bit, take_pages(t, disk, (int64_t)i * 64 + bit, whole >> bit & 1), user);
        }
    }
    lost_now = lost != f->lost_seen;
    if (lost_now || track_check(t, disk) < 0) {
        __atomic_store_n(&f->untold, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&f->lost_seen, lost, __ATOMIC_SEQ_CST);
        __atomic_store_n(&f->unseen, 0, __ATOMIC_SEQ_CST); /* it is said now */
        return err_set(e, ERR_CORRUPT, "not every write could be marked: %s", lost_now ? "the disk has grown, or was written past the block layer"
                       : "the kernel has counted more than the tracker has seen");
    }
    return count;
}

int64_t track_waiting(const struct tracker *t, uint64_t *written)
{
    int64_t whole = 0, pages = 0;

    *written = 0;
    for (unsigned i = 0; i < t->ledger->disk_count; i++) {
        struct track_counters c = counted(t, (int)i);

        *written += c.sectors[0] + c.sectors[1] + c.sectors[2];
    }
    for (size_t i = 0; i < t->arrays[ARRAY_DIRTY].size_bytes / sizeof *t->dirty; i++) {
        uint64_t marks = __atomic_load_n(&t->dirty[i], __ATOMIC_RELAXED);

        whole += marks ? __builtin_popcountll(marks & __atomic_load_n(&t->whole[i], __ATOMIC_RELAXED)) : 0;
    }
    for (size_t i = 0; i < TRACK_SLOT_COUNT; i++)
        pages += __builtin_popcountll(__atomic_load_n(&t->slots[i], __ATOMIC_RELAXED) & TRACK_PAGES_ALL);
    return whole * TRACK_CHUNK_SIZE + pages * TRACK_PAGE_SIZE;
}

uint64_t track_writes(const struct tracker *t, int disk)
{
    uint64_t by_stat = tracker_sectors_by_stat(t->ledger->disks[disk].name);
    struct track_counters c = counted(t, disk);

    /* All only rise; sectors, for a flush counts as a write there. The tracker's own would do, were it never passed over. */
    return c.sectors[0] + c.sectors[1] + c.sectors[2] + c.lost + (by_stat == TRACK_WRITES_UNKNOWN ? 0 : by_stat);
}

uint64_t track_writes_by_stat(const char *name)
{
    unsigned long long v[STAT_FIELDS];

    return read_stat(name, v) ? v[STAT_WRITES] + v[STAT_DISCARDS] : TRACK_WRITES_UNKNOWN;
}
