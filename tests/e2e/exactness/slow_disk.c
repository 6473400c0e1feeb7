/* slow_disk FOLDER IMAGE DELAY_US [BAD|- [WRITE SEED]]: a FUSE filesystem with one file, "disk": IMAGE, but half of its writes take up to DELAY_US longer (a few sixteen
 * times that), and such a write lands in two parts, one before the wait and one after it. Reads and the other writes overtake it, as on a disk with
 * a queue. A loop device on it (direct I/O) is a disk on which the time between a write's issue and its completion is long: that is where a
 * tracker that gets the order wrong loses writes, and where a point holds half a write.
 *
 * BAD: a file with a byte for each sector of 512 bytes. A read that meets one that is not 0 fails (EIO), and a write of a whole sector makes it 0: so do disks
 * with a sector that can't be read.
 *
 * WRITE, SEED: the disk has a cache, and loses its power at that write (power.h).
 *
 * Speaks the kernel's protocol itself (linux/fuse.h), so that no library is needed. Prints "mounted", unmounts on SIGTERM. */
#include "power.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define THREADS 64 /* more than writes that may wait at a time: reads must find one that is free */
#define WRITE_MAX (1u << 20)
#define REQUEST_MAX (WRITE_MAX + 4096)
#define FILE_NODE 2
#define LONG_FACTOR 16

static int device, image;
static unsigned delay_us;
static volatile uint8_t *bad; /* NULL: there is none */

static void answer(uint64_t unique, int error, const void *bytes, size_t size)
{
    struct fuse_out_header head = {.len = (uint32_t)(sizeof head + size), .error = error, .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)(uintptr_t)bytes, size}};

    if (writev(device, parts, size ? 2 : 1) < 0 && errno != ENOENT) /* ENOENT: nobody waits for it any more */
        perror("slow_disk: answer");
}

static void answer_result(uint64_t unique, int result) { answer(unique, result < 0 ? -errno : 0, NULL, 0); }

static void fill_attr(uint64_t node, struct fuse_attr *a)
{
    struct stat st = {0};

    fstat(image, &st);
    *a = (struct fuse_attr){.ino = node, .nlink = 1, .mode = S_IFDIR | 0700, .blksize = 4096};
    if (node == FILE_NODE) {
        a->mode = S_IFREG | 0600;
        a->size = (uint64_t)st.st_size;
        a->blocks = (uint64_t)st.st_blocks;
    }
}

static void do_init(uint64_t unique, const struct fuse_init_in *in)
{
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = in->max_readahead,
                                .flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES | FUSE_MAX_PAGES,
                                .max_background = 512, .congestion_threshold = 512, .max_write = WRITE_MAX, .time_gran = 1,
                                .max_pages = WRITE_MAX / 4096};

    out.flags &= in->flags;
    answer(unique, 0, &out, sizeof out);
}

static void do_attr(uint64_t unique, uint64_t node)
{
    struct fuse_attr_out out = {.attr_valid = 3600};

    fill_attr(node, &out.attr);
    answer(unique, 0, &out, sizeof out);
}

static void do_lookup(uint64_t unique, const char *name)
{
    struct fuse_entry_out out = {.nodeid = FILE_NODE, .entry_valid = 3600, .attr_valid = 3600};

    if (strcmp(name, "disk") != 0) {
        answer(unique, -ENOENT, NULL, 0);
        return;
    }
    fill_attr(FILE_NODE, &out.attr);
    answer(unique, 0, &out, sizeof out);
}

static void do_read(uint64_t unique, const struct fuse_read_in *in, uint8_t *into)
{
    ssize_t n = pread(image, into, in->size, (off_t)in->offset);

    if (power_is_gone()) {
        answer(unique, -EIO, NULL, 0);
        return;
    }
    for (uint64_t sector = in->offset / 512; bad && n > 0 && sector < (in->offset + (uint64_t)n + 511) / 512; sector++)
        if (bad[sector]) {
            answer(unique, -EIO, NULL, 0);
            return;
        }
    answer(unique, n < 0 ? -errno : 0, into, n < 0 ? 0 : (size_t)n);
}

/* From the request's number, so that it needs no state. Now and then a very long one: a write that is in flight while all others rest. */
static unsigned delay_of(uint64_t unique)
{
    uint64_t x = unique * UINT64_C(0x9e3779b97f4a7c15);

    x ^= x >> 29;
    return x & 1 ? (unsigned)((x >> 8) % (delay_us + 1)) * (x & 0x7e ? 1 : LONG_FACTOR) : 0;
}

static void do_write(uint64_t unique, const struct fuse_write_in *in)
{
    const uint8_t *bytes = (const uint8_t *)(in + 1);
    unsigned wait_us = delay_of(unique);
    size_t first = wait_us ? in->size / 2 / 512 * 512 : in->size;
    struct fuse_write_out out = {.size = in->size};

    if (power_write(image, bytes, first, in->offset) == 0) {
        if (wait_us)
            usleep(wait_us);
        if (power_write(image, bytes + first, in->size - first, in->offset + first) == 0) {
            for (uint64_t sector = (in->offset + 511) / 512; bad && sector < (in->offset + in->size) / 512; sector++)
                bad[sector] = 0;
            answer(unique, 0, &out, sizeof out);
            return;
        }
    }
    answer(unique, -errno, NULL, 0);
}

static void do_fallocate(uint64_t unique, const struct fuse_fallocate_in *in)
{
    answer_result(unique, fallocate(image, (int)in->mode, (off_t)in->offset, (off_t)in->length));
}

static void serve_one(const struct fuse_in_header *h, uint8_t *scratch)
{
    static const struct fuse_open_out opened = {.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES};
    static const struct fuse_statfs_out space = {.st = {.bsize = 4096, .frsize = 4096, .namelen = 255}};
    const void *in = h + 1;

    switch (h->opcode) {
    case FUSE_INIT: do_init(h->unique, in); break;
    case FUSE_GETATTR:
    case FUSE_SETATTR: do_attr(h->unique, h->nodeid); break;
    case FUSE_LOOKUP: do_lookup(h->unique, in); break;
    case FUSE_OPEN:
    case FUSE_OPENDIR: answer(h->unique, 0, &opened, sizeof opened); break;
    case FUSE_READ: do_read(h->unique, in, scratch); break;
    case FUSE_WRITE: do_write(h->unique, in); break;
    case FUSE_FALLOCATE: do_fallocate(h->unique, in); break;
    case FUSE_STATFS: answer(h->unique, 0, &space, sizeof space); break;
    case FUSE_FSYNC: answer_result(h->unique, power_flush()); break;
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR: answer(h->unique, 0, NULL, 0); break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: break;
    default: answer(h->unique, -ENOSYS, NULL, 0);
    }
}

static void *serve(void *nothing)
{
    uint8_t *request = malloc(REQUEST_MAX), *scratch = malloc(WRITE_MAX);

    (void)nothing;
    if (!request || !scratch)
        abort();
    for (;;) {
        ssize_t n = read(device, request, REQUEST_MAX);

        if (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
            continue;
        if (n < (ssize_t)sizeof(struct fuse_in_header))
            break; /* ENODEV: unmounted */
        serve_one((const struct fuse_in_header *)(const void *)request, scratch);
    }
    free(request);
    free(scratch);
    return NULL;
}

static int map_bad(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat about, disk;
    void *mapped;

    if (fd < 0 || fstat(fd, &about) < 0 || fstat(image, &disk) < 0 || about.st_size < disk.st_size / 512)
        return -1;
    mapped = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    bad = mapped;
    return mapped == MAP_FAILED ? -1 : 0;
}

int main(int count, char **words)
{
    char options[96];
    pthread_t thread;
    sigset_t signals;
    int number;

    if (count != 4 && count != 5 && count != 7) {
        fputs("usage: slow_disk FOLDER IMAGE DELAY_US [BAD|- [WRITE SEED]]\n", stderr);
        return 2;
    }
    delay_us = (unsigned)strtoul(words[3], NULL, 10);
    image = open(words[2], O_RDWR | O_CLOEXEC);
    device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (image < 0 || device < 0) {
        perror("slow_disk: the image or /dev/fuse");
        return 1;
    }
    if (count > 4 && strcmp(words[4], "-") != 0 && map_bad(words[4]) < 0) {
        perror("slow_disk: the list of bad sectors");
        return 1;
    }
    if (count == 7)
        power_goes(image, (unsigned)strtoul(words[5], NULL, 10), (unsigned)strtoul(words[6], NULL, 10));
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%u", device, WRITE_MAX);
    if (mount("slow_disk", words[1], "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
        perror("slow_disk: mount");
        return 1;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&thread, NULL, serve, NULL) != 0 || pthread_detach(thread) != 0)
            abort();
    puts("mounted");
    fflush(stdout);
    sigwait(&signals, &number);
    umount2(words[1], MNT_DETACH);
    return 0;
}
