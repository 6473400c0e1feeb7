/* churn: a filesystem's life. What it holds is the filesystem's own to say: the proof compares the whole disk, and checks the filesystem. */
#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILES 24u
#define FILE_MOST (512u << 10)

static void path_of(struct churn *c, char path[static 512]) { snprintf(path, 512, "%s/%u", c->folder, random_below(&c->random, FILES)); }

/* A filesystem that is full is part of its life; anything else is not. */
static void may_fail(bool failed, const char *what)
{
    if (failed && errno != ENOSPC && errno != ENOENT && errno != EEXIST && errno != EOPNOTSUPP)
        die(what);
}

static void noise(struct churn *c, uint8_t *bytes, size_t size)
{
    uint64_t x = random_next(&c->random);

    for (size_t i = 0; i + 8 <= size; i += 8)
        memcpy(bytes + i, &x, 8);
}

static void write_some(struct churn *c, int fd, uint8_t *bytes, bool aligned)
{
    size_t size = aligned ? 4096 * (1 + random_below(&c->random, 16)) : 1 + random_below(&c->random, 65536);
    off_t at = aligned ? 4096 * (off_t)random_below(&c->random, 64) : (off_t)random_below(&c->random, FILE_MOST - 65536);

    noise(c, bytes, size);
    may_fail(pwrite(fd, bytes, size, at) < 0, "churn: write");
}

static void map_some(struct churn *c, int fd)
{
    uint8_t *map;

    if (fallocate(fd, 0, 0, 65536) < 0) { /* a mapped page without room would be SIGBUS */
        may_fail(true, "churn: fallocate");
        return;
    }
    map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        die("churn: mmap");
    for (size_t i = 0; i < 65536; i += 4096)
        map[i] = (uint8_t)random_next(&c->random);
    msync(map, 65536, random_below(&c->random, 2) ? MS_SYNC : MS_ASYNC);
    munmap(map, 65536);
}

static void shape(struct churn *c, int fd)
{
    off_t at = random_below(&c->random, FILE_MOST), size = 1 + random_below(&c->random, FILE_MOST / 4);

    switch (random_below(&c->random, 4)) {
    case 0: may_fail(ftruncate(fd, at) < 0, "churn: truncate"); break;
    case 1: may_fail(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, size) < 0, "churn: punch"); break;
    case 2: may_fail(fallocate(fd, FALLOC_FL_ZERO_RANGE, at, size) < 0, "churn: zero range"); break;
    default: may_fail(fallocate(fd, 0, at, size) < 0, "churn: fallocate"); break;
    }
}

static void names(struct churn *c)
{
    struct fstrim_range trim = {.len = UINT64_MAX};
    char path[512], other[512];
    int fd;

    path_of(c, path);
    path_of(c, other);
    switch (random_below(&c->random, 8)) {
    case 0:
    case 1:
    case 2: may_fail(unlink(path) < 0, "churn: unlink"); break;
    case 3:
    case 4: may_fail(rename(path, other) < 0, "churn: rename"); break;
    case 5:
    case 6: may_fail(link(path, other) < 0, "churn: link"); break;
    default:
        fd = open(c->folder, O_RDONLY | O_CLOEXEC);
        may_fail(ioctl(fd, FITRIM, &trim) < 0, "churn: trim");
        close(fd);
    }
}

static void write_file(struct churn *c, uint8_t *bytes)
{
    bool direct = random_below(&c->random, 3) == 0;
    char path[512];
    int fd;

    path_of(c, path);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (direct ? O_DIRECT : 0), 0600);
    if (fd < 0) {
        may_fail(true, "churn: open");
        return;
    }
    switch (random_below(&c->random, 4)) {
    case 0: map_some(c, fd); break;
    case 1: shape(c, fd); break;
    default: write_some(c, fd, bytes, direct);
    }
    if (random_below(&c->random, 4) == 0)
        may_fail(fsync(fd) < 0, "churn: fsync");
    close(fd);
}

void *churn_run(void *churn)
{
    struct churn *c = churn;
    void *bytes;

    if (posix_memalign(&bytes, 4096, 65536) != 0)
        abort();
    while (gate_enter(c->gate, false)) {
        if (random_below(&c->random, 5))
            write_file(c, bytes);
        else
            names(c);
        c->operations++;
        gate_leave(c->gate, false);
        usleep(random_below(&c->random, 4000));
    }
    free(bytes);
    return NULL;
}
