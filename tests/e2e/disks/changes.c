/* changes DISK… -- COMMAND: follows the disks (names in /sys/block) while the command runs, and looks whether every page that differs after it was marked. A line a
 * disk; exit status 0 where none was missed and every write was seen. It is static, and a guest's initramfs is all that it needs. */
#include "track/track.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGES_A_CHUNK (TRACK_CHUNK_SIZE / TRACK_PAGE_SIZE)
#define READ_SIZE (1 << 20)
#define DISKS_LIMIT 16

struct followed {
    struct track_disk disk;
    uint8_t *before, *after;
    uint32_t *pages; /* marked, of each chunk */
};

static void *space(int64_t size)
{
    void *out;

    MUST(posix_memalign(&out, 4096, (size_t)size) == 0);
    return out;
}

static int open_disk(const char *name, int64_t *size_bytes)
{
    char path[128];
    int fd;

    snprintf(path, sizeof path, "/dev/%s", name);
    fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    *size_bytes = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (*size_bytes >= 0)
        return fd;
    perror(path);
    exit(2);
}

static void read_disk(const struct followed *f, uint8_t *into)
{
    int64_t size;
    int fd = open_disk(f->disk.name, &size);

    MUST(size == f->disk.size_bytes);
    for (int64_t at = 0, got; at < size; at += got) {
        got = pread(fd, into + at, (size_t)(size - at < READ_SIZE ? size - at : READ_SIZE), at);
        MUST(got > 0);
    }
    close(fd);
}

static void prepare(struct followed *f, const char *name)
{
    MUST(strlen(name) < sizeof f->disk.name);
    memcpy(f->disk.name, name, strlen(name) + 1);
    close(open_disk(name, &f->disk.size_bytes));
    f->before = space(f->disk.size_bytes);
    f->after = space(f->disk.size_bytes);
    f->pages = xcalloc((size_t)track_chunks(f->disk.size_bytes), sizeof *f->pages);
    read_disk(f, f->before);
}

static void note(int64_t chunk, uint32_t pages, void *user) { ((uint32_t *)user)[chunk] |= pages; }

/* A write may be seen and not counted yet. */
static int settled(struct tracker *t, int disk)
{
    int state = 0;

    for (int i = 0; i < 100 && state == 0; i++, usleep(20000))
        state = track_check(t, disk);
    return state;
}

static bool look(struct tracker *t, int index, const struct followed *f)
{
    int64_t changed = 0, missed = 0, marked = 0;
    struct err e = {0};
    bool seen;

    marked = track_take(t, index, note, f->pages, &e);
    seen = marked >= 0 && settled(t, index) == 1;
    read_disk(f, f->after);
    for (int64_t at = 0; at < f->disk.size_bytes; at += TRACK_PAGE_SIZE) {
        int64_t page = at / TRACK_PAGE_SIZE, left = f->disk.size_bytes - at;
        bool differs = memcmp(f->before + at, f->after + at, (size_t)(left < TRACK_PAGE_SIZE ? left : TRACK_PAGE_SIZE)) != 0;

        changed += differs;
        missed += differs && !(f->pages[page / PAGES_A_CHUNK] >> (page % PAGES_A_CHUNK) & 1);
    }
    printf("%s changed=%lld missed=%lld marked=%lld seen=%s\n", f->disk.name, (long long)changed, (long long)missed, (long long)marked,
           seen ? "all" : e.message[0] ? e.message : "not all");
    return seen && !missed;
}

int main(int argc, char **argv)
{
    static struct followed followed[DISKS_LIMIT];
    struct track_disk disks[DISKS_LIMIT];
    CLEANUP(track_close) struct tracker *t = NULL;
    struct err e = {0};
    bool holds = true;
    int count = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (; count < DISKS_LIMIT && count + 1 < argc && strcmp(argv[count + 1], "--") != 0; count++) {
        prepare(&followed[count], argv[count + 1]);
        disks[count] = followed[count].disk;
    }
    if (!count || count + 3 != argc) {
        fputs("usage: changes DISK... -- COMMAND\n", stderr);
        return 2;
    }
    if (track_open(disks, count, &t, &e) < 0) {
        printf("can't follow: %s\n", e.message);
        return 3;
    }
    if (track_lacks(t)[0])
        printf("lesser way: %s\n", track_lacks(t));
    if (system(argv[count + 2]) != 0) {
        printf("the command failed\n");
        return 4;
    }
    for (int i = 0; i < count; i++)
        holds &= look(t, i, &followed[i]);
    return holds ? 0 : 1;
}
