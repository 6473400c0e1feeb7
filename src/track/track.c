#include "track/plain.h"
#include "track/plain_shared.h"

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
#include <sys/stat.h>
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

/* Before 5.15 there is no such number for disks; but sysfs gives its folders' in turn, as they come. */
uint64_t track_instance(const char *name)
{
    CLEANUP(buf_release) struct buf sequence = {0};
    CLEANUP(free_ptr) char *sequence_path = xasprintf("/sys/block/%s/diskseq", name);
    CLEANUP(free_ptr) char *folder = xasprintf("/sys/block/%s/", name);
    struct stat s;

    if (file_read(sequence_path, 64, &sequence, NULL) == 0)
        return strtoull(sequence.data, NULL, 10);
    return stat(folder, &s) == 0 ? s.st_ino : 0;
}

int tracker_look(const struct track_disk *disk, struct track_followed *f, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/dev", disk->name);
    CLEANUP(free_ptr) char *queue = xasprintf("/sys/block/%s/mq", disk->name);
    CLEANUP(free_ptr) char *zoned_path = xasprintf("/sys/block/%s/queue/zoned", disk->name);
    CLEANUP(buf_release) struct buf zoned = {0};
    unsigned major, minor;

    if (file_read(path, 64, &text, e) < 0)
        return -1;
    if (sscanf(text.data, "%u:%u", &major, &minor) != 2)
        return err_set(e, ERR_PROTOCOL, "%s holds no device number", path);
    if (!file_exists(queue))
        return err_set(e, ERR_UNSUPPORTED, "%s has no request queue, so its writes can't be followed", disk->name);
    if (file_read(zoned_path, 64, &zoned, NULL) == 0 && strncmp(zoned.data, "none", 4) != 0) /* a zone that is reset is a change without a size */
        return err_set(e, ERR_UNSUPPORTED, "%s has zones, so its changes can't be followed", disk->name);
    memcpy(f->name, disk->name, sizeof f->name);
    f->size_bytes = (uint64_t)disk->size_bytes;
    f->place.dev = major << 20 | minor; /* the kernel's own encoding */
    f->instance = track_instance(disk->name);
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

/* About one in seven does for 64 disks. A disk that was named twice has none. */
int tracker_find_factor(const struct track_ledger *l, unsigned *factor, struct err *e)
{
    uint64_t state = 0x9e3779b97f4a7c15u;

    for (int tries = 0; tries < 10000; tries++, state = state * 6364136223846793005u + 1442695040888963407u) {
        bool taken[TRACK_PLACES] = {0};
        unsigned placed = 0;

        *factor = (uint32_t)(state >> 32) | 1;
        for (; placed < l->disk_count; placed++) {
            bool *place = &taken[l->disks[placed].place.dev * *factor >> TRACK_PLACES_SHIFT];

            if (*place)
                break;
            *place = true;
        }
        if (placed == l->disk_count)
            return 0;
    }
    return err_set(e, ERR_INTERNAL, "the tracker can't tell the disks' numbers apart");
}

static int name_disks(struct track_bpf *bpf, const struct track_ledger *l, struct err *e)
{
    volatile struct track_place *places = bpf->rodata->places; /* the program's constants, until it is loaded */
    unsigned factor;

    if (tracker_find_factor(l, &factor, e) < 0)
        return -1;
    bpf->rodata->places_factor = factor;
    for (unsigned i = 0; i < l->disk_count; i++)
        places[l->disks[i].place.dev * factor >> TRACK_PLACES_SHIFT] = l->disks[i].place;
    return 0;
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

static int attach(struct tracker *t, struct track_bpf *bpf, struct err *e)
{
    const struct bpf_link *links[PROGRAMS];

    if (track_bpf__attach(bpf) < 0)
        return tracker_fail(e, errno, "can't attach the tracker to the tracepoint");
    links[0] = bpf->links.completed_first, links[1] = bpf->links.completed_second, links[2] = bpf->links.completed_third;
    for (int i = 0; i < PROGRAMS; i++)
        if ((t->links[i] = own(bpf_link__fd(links[i]))) < 0)
            return tracker_fail(e, errno, "can't hold the tracker's link");
    return 0;
}

static void destroy(struct track_bpf **bpf) { track_bpf__destroy(*bpf); }
static void free_ledger(struct track_ledger **l) { free_ptr(l); }

static int open_best(struct tracker *t, const struct track_ledger *l, uint32_t words, bool with_todo, struct err *e)
{
    CLEANUP(destroy) struct track_bpf *bpf = track_bpf__open();

    if (!bpf)
        return tracker_fail(e, errno, "can't open the tracker's program");
    if (load(bpf, l, words, with_todo, e) < 0 || take_files(t, bpf, e) < 0 || tracker_map(t, e) < 0)
        return -1;
    *t->ledger = *l;
    return attach(t, bpf, e);
}

/* What would be in a map of the kernel's, had anybody after this process use for it. */
static int own_array(struct track_array *array, size_t size_bytes, struct err *e)
{
    void *at = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        return tracker_fail(e, errno, "memory");
    *array = (struct track_array){.fd = -1, .at = at, .size_bytes = size_bytes};
    return 0;
}

static int open_plain(struct tracker *t, const struct track_ledger *l, enum track_way way, bool mapped, struct err *e)
{
    if (own_array(&t->arrays[ARRAY_LEDGER], sizeof *l, e) < 0 || own_array(&t->arrays[ARRAY_MEMORY], TRACK_MEMORY_SIZE, e) < 0)
        return -1;
    t->ledger = t->arrays[ARRAY_LEDGER].at;
    *t->ledger = *l;
    return plain_open(l, way, mapped, &t->plain, e);
}

/* The best way that this kernel has. One that it should have and hasn't is told of, and the next is tried. */
static int open_some_way(const struct track_ledger *l, uint32_t words, bool with_todo, int offers, struct tracker **out, struct err *e)
{
    CLEANUP(buf_release) struct buf failed = {.limit_bytes = 300};
    struct err first = {0};

    for (enum track_way way = 0; way < TRACK_WAYS; way++) {
        CLEANUP(track_close) struct tracker *t = tracker_new();
        struct err own = {0};

        if (!tracker_may(way, offers))
            continue;
        t->way = way;
        if ((way == TRACK_WAY_BEST ? open_best(t, l, words, with_todo, &own) : open_plain(t, l, way, offers >> NEED_MAPPED & 1, &own)) == 0) {
            tracker_say_lacks(t, offers, failed.data ? failed.data : "");
            *out = t;
            t = NULL;
            return 0;
        }
        if (!failed.size_bytes)
            first = own;
        buf_printf(&failed, "%s%.140s", failed.size_bytes ? "; " : "", own.message);
    }
    if (!failed.size_bytes)
        return tracker_say_missing(offers, e);
    *e = first;
    return -1;
}

int tracker_open(const struct track_disk *disks, int disk_count, bool with_todo, unsigned absent, struct tracker **out, struct err *e)
{
    CLEANUP(free_ledger) struct track_ledger *l = xcalloc(1, sizeof *l);
    int processors = libbpf_num_possible_cpus(), offers;
    uint32_t words = 0;

    MUST(disk_count >= 1 && disk_count <= TRACK_DISKS_MAX);
    if (processors < 1)
        return tracker_fail(e, -processors, "can't count the processors");
    l->programs = tracker_programs_hash();
    l->disk_count = (unsigned)disk_count;
    l->processor_count = (unsigned)processors;
    libbpf_set_print(quiet);
    if (place_disks(l, disks, &words, e) < 0 || (offers = tracker_offers(absent, e)) < 0 || open_some_way(l, words, with_todo, offers, out, e) < 0)
        return -1;
    for (int i = 0; i < disk_count; i++) {
        struct track_balance b = tracker_weighed(*out, i);

        tracker_set_balance(&(*out)->ledger->disks[i], &b);
    }
    return 0;
}

int track_open(const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e)
{
    return tracker_open(disks, disk_count, false, 0, out, e);
}

int track_open_to_keep(const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e)
{
    return tracker_open(disks, disk_count, true, 0, out, e);
}

const char *track_lacks(const struct tracker *t) { return t->lacks; }

int track_mark_bits(const struct tracker *t) { return t->plain ? PLAIN_MARK_BITS : TRACK_MARK_BITS_KEPT - !t->todo; }

static void close_held(int fd)
{
    if (fd >= 0)
        close(fd);
}

void track_close(struct tracker **t)
{
    if (!*t)
        return;
    plain_close(&(*t)->plain);
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

static int64_t take_best(struct tracker *t, int disk, track_visit *visit, void *user)
{
    const struct track_followed *f = &t->ledger->disks[disk];
    uint64_t *dirty = t->dirty + f->place.first_word, *whole_of = t->whole + f->place.first_word, *todo = track_todo(t, disk);
    int64_t count = 0;

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
    return count;
}

int64_t track_take(struct tracker *t, int disk, track_visit *visit, void *user, struct err *e)
{
    struct track_followed *f = &t->ledger->disks[disk];
    uint64_t lost = tracker_counted(t, disk).lost;
    bool lost_now = lost != f->lost_seen;
    int64_t count;

    __atomic_store_n(&f->untold, 0, __ATOMIC_SEQ_CST);
    count = t->plain ? plain_take(t->plain, disk, visit, user) : take_best(t, disk, visit, user);
    if (lost_now || count < 0 || track_check(t, disk) < 0) {
        __atomic_store_n(&f->untold, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&f->lost_seen, lost, __ATOMIC_SEQ_CST);
        __atomic_store_n(&f->unseen, 0, __ATOMIC_SEQ_CST); /* it is said now */
        return err_set(e, ERR_CORRUPT, "not every write could be marked: %s", lost_now ? "the disk has grown, or was written in a way of which it is not known what it wrote"
                       : count < 0 ? "the marks could not be read" : "what the kernel has counted is not what the tracker has seen");
    }
    return count;
}

int64_t track_waiting(const struct tracker *t, uint64_t *written)
{
    int64_t whole = 0, pages = 0;

    *written = 0;
    for (unsigned i = 0; i < t->ledger->disk_count; i++) {
        struct track_counters c = tracker_counted(t, (int)i);

        *written += c.sectors[0] + c.sectors[1] + c.sectors[2];
    }
    if (t->plain)
        return plain_waiting(t->plain, (int)t->ledger->disk_count) * TRACK_CHUNK_SIZE;
    for (size_t i = 0; i < t->arrays[ARRAY_DIRTY].size_bytes / sizeof *t->dirty; i++) {
        uint64_t marks = __atomic_load_n(&t->dirty[i], __ATOMIC_RELAXED);

        whole += marks ? __builtin_popcountll(marks & __atomic_load_n(&t->whole[i], __ATOMIC_RELAXED)) : 0;
    }
    for (size_t i = 0; i < TRACK_SLOT_COUNT; i++)
        pages += __builtin_popcountll(__atomic_load_n(&t->slots[i], __ATOMIC_RELAXED) & TRACK_PAGES_ALL);
    return whole * TRACK_CHUNK_SIZE + pages * TRACK_PAGE_SIZE;
}
