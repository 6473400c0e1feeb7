#include "track/track.h"

#include "base/file.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wshadow"
#include "track.skel.h"
#pragma GCC diagnostic pop

struct tracker {
    struct track_bpf *bpf;
    int disk_count;
    struct track_place places[TRACK_DISKS_MAX];
    uint64_t lost_seen[TRACK_DISKS_MAX];
    uint64_t *words; /* the mapped arrays */
    size_t words_size;
    struct track_counters *counters;
    size_t counters_size;
};

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level, (void)format, (void)args;
    return 0;
}

/* The folder of the event, tracefs mounted where it isn't. */
static const char *event_folder(void)
{
    static const char *const folders[] = {"/sys/kernel/tracing/events/block/block_rq_complete",
                                          "/sys/kernel/debug/tracing/events/block/block_rq_complete"};

    for (int i = 0; i < 2; i++)
        if (file_exists(folders[i]))
            return folders[i];
    mount("tracefs", "/sys/kernel/tracing", "tracefs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    return file_exists(folders[0]) ? folders[0] : NULL;
}

/* The offset of a field in the event, -1 where it has none of that name. Lines: "\tfield:dev_t dev;\toffset:8;\tsize:4;…" */
static int field_offset(const char *format, const char *name)
{
    for (const char *at = strstr(format, "field:"); at; at = strstr(at + 1, "field:")) {
        const char *end = strchr(at, ';'), *start = end;
        int offset;

        if (!end)
            break;
        while (start > at && start[-1] != ' ')
            start--;
        if (strncmp(start, name, strlen(name)) == 0 && (start[strlen(name)] == ';' || start[strlen(name)] == '[') &&
            sscanf(end, "; offset:%d", &offset) == 1)
            return offset;
    }
    return -1;
}

static int read_event_format(int *rwbs_offset, struct err *e)
{
    CLEANUP(buf_release) struct buf format = {0};
    CLEANUP(free_ptr) char *path = NULL;
    const char *folder = event_folder();

    if (!folder)
        return err_set(e, ERR_UNSUPPORTED, "this kernel has no tracepoint block_rq_complete, or tracefs can't be mounted");
    path = xasprintf("%s/format", folder);
    if (file_read(path, 65536, &format, e) < 0)
        return -1;
    *rwbs_offset = field_offset(format.data, "rwbs");
    if (field_offset(format.data, "dev") != 8 || field_offset(format.data, "sector") != 16 ||
        field_offset(format.data, "nr_sector") != 24 || *rwbs_offset < 0)
        return err_set(e, ERR_UNSUPPORTED, "this kernel's tracepoint block_rq_complete has its fields elsewhere");
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

static int load(struct tracker *t, int rwbs_offset, struct err *e)
{
    libbpf_set_print(quiet);
    t->bpf = track_bpf__open();
    if (!t->bpf)
        return fail(e, errno, "can't open the tracker's program");
    t->bpf->rodata->rwbs_offset = (uint32_t)rwbs_offset;
    if (bpf_map__set_max_entries(t->bpf->maps.dirty, (uint32_t)(t->words_size / sizeof *t->words)) < 0)
        return fail(e, errno, "can't size the tracker's map");
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
    t->counters_size = TRACK_DISKS_MAX * sizeof *t->counters;
    t->words = map_array(t->bpf->maps.dirty, t->words_size);
    t->counters = map_array(t->bpf->maps.counters, t->counters_size);
    if (!t->words || !t->counters)
        return fail(e, errno, "can't map the tracker's marks");
    return 0;
}

static int attach(struct tracker *t, const struct track_disk *disks, struct err *e)
{
    for (int i = 0; i < t->disk_count; i++) {
        uint32_t dev;

        if (kernel_dev(disks[i].name, &dev, e) < 0)
            return -1;
        if (bpf_map__update_elem(t->bpf->maps.places, &dev, sizeof dev, &t->places[i], sizeof t->places[i], BPF_NOEXIST) < 0)
            return fail(e, errno, "can't name a disk to the tracker");
    }
    if (track_bpf__attach(t->bpf) < 0)
        return fail(e, errno, "can't attach the tracker to the tracepoint");
    return 0;
}

int track_open(const struct track_disk *disks, int disk_count, struct tracker **out, struct err *e)
{
    CLEANUP(track_close) struct tracker *t = xcalloc(1, sizeof *t);
    int rwbs_offset = -1;

    MUST(disk_count >= 1 && disk_count <= TRACK_DISKS_MAX);
    t->disk_count = disk_count;
    if (place_disks(t, disks, e) < 0 || read_event_format(&rwbs_offset, e) < 0 || load(t, rwbs_offset, e) < 0 ||
        map_arrays(t, e) < 0 || attach(t, disks, e) < 0)
        return -1;
    *out = t;
    t = NULL;
    return 0;
}

void track_close(struct tracker **t)
{
    if (!*t)
        return;
    if ((*t)->words)
        munmap((*t)->words, (*t)->words_size);
    if ((*t)->counters)
        munmap((*t)->counters, (*t)->counters_size);
    track_bpf__destroy((*t)->bpf);
    free_ptr(t);
}

int64_t track_take(struct tracker *t, int disk, uint64_t *words, struct err *e)
{
    uint64_t *from = t->words + t->places[disk].first_word;
    uint64_t lost = __atomic_load_n(&t->counters[disk].lost, __ATOMIC_SEQ_CST);
    int64_t count = 0;

    for (uint64_t i = 0; i < (t->places[disk].chunk_count + 63) / 64; i++) {
        uint64_t marks = __atomic_load_n(&from[i], __ATOMIC_SEQ_CST) ? __atomic_exchange_n(&from[i], 0, __ATOMIC_SEQ_CST) : 0;

        count += __builtin_popcountll(marks & ~words[i]);
        words[i] |= marks;
    }
    if (lost != t->lost_seen[disk]) {
        t->lost_seen[disk] = lost;
        return err_set(e, ERR_CORRUPT, "writes beyond the disk's known end: it has grown");
    }
    return count;
}

uint64_t track_writes(const struct tracker *t, int disk) { return __atomic_load_n(&t->counters[disk].writes, __ATOMIC_SEQ_CST); }

uint64_t track_writes_by_stat(const char *name)
{
    CLEANUP(buf_release) struct buf text = {0};
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/stat", name);
    CLEANUP(free_ptr) char *on_path = xasprintf("/sys/block/%s/queue/iostats", name);
    CLEANUP(buf_release) struct buf on = {0};
    unsigned long long v[12] = {0};

    if (file_read(on_path, 64, &on, NULL) < 0 || on.data[0] != '1' || file_read(path, 4096, &text, NULL) < 0)
        return TRACK_WRITES_UNKNOWN;
    if (sscanf(text.data, "%llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6],
               &v[7], &v[8], &v[9], &v[10], &v[11]) < 11)
        return TRACK_WRITES_UNKNOWN;
    return v[4] + v[11]; /* writes completed, discards completed (Documentation/block/stat) */
}
