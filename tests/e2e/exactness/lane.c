/* lane: one thread that writes its own sectors in every way that block devices and files know, one write after the other. */
#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE_SECTORS (4096u / SECTOR)
#define HOT_PART 8u /* half of the writes go to this part of the area: its chunks, which lanes share, are written again and again */

struct range { /* one write's */
    uint64_t offset;
    uint32_t first, count; /* sectors of the lane's area */
};

static bool write_direct(struct lane_writer *w, const struct range *r)
{
    return pwrite(w->direct, w->block, (size_t)r->count * SECTOR, (off_t)r->offset) == (ssize_t)r->count * (ssize_t)SECTOR;
}

static bool write_buffered(struct lane_writer *w, const struct range *r)
{
    return pwrite(w->buffered, w->block, (size_t)r->count * SECTOR, (off_t)r->offset) == (ssize_t)r->count * (ssize_t)SECTOR &&
           fdatasync(w->buffered) == 0;
}

static bool write_synced(struct lane_writer *w, const struct range *r)
{
    struct iovec part = {w->block, (size_t)r->count * SECTOR};

    return pwritev2(w->buffered, &part, 1, (off_t)r->offset, RWF_DSYNC) == (ssize_t)part.iov_len;
}

static bool write_mapped(struct lane_writer *w, const struct range *r)
{
    size_t size = (size_t)r->count * SECTOR;
    uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, w->buffered, (off_t)r->offset);
    bool written;

    if (map == MAP_FAILED)
        return false;
    /* Without reading ahead: that takes several pages as one (a large folio), and to dirty one of them writes back all, with what the cache of this node holds
     * of the neighbours, which other lanes write past it. */
    madvise(map, size, MADV_RANDOM);
    memcpy(map, w->block, size);
    written = msync(map, size, MS_SYNC) == 0;
    munmap(map, size);
    return written;
}

static bool zero_by_ioctl(struct lane_writer *w, const struct range *r, unsigned long request)
{
    uint64_t range[2] = {r->offset, (uint64_t)r->count * SECTOR};

    return ioctl(w->direct, request, range) == 0;
}

static bool zero_discard(struct lane_writer *w, const struct range *r) { return zero_by_ioctl(w, r, BLKDISCARD); }
static bool zero_ioctl(struct lane_writer *w, const struct range *r) { return zero_by_ioctl(w, r, BLKZEROOUT); }

static bool zero_range(struct lane_writer *w, const struct range *r)
{
    return fallocate(w->direct, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)r->offset, (off_t)r->count * SECTOR) == 0;
}

static bool zero_punch(struct lane_writer *w, const struct range *r)
{
    return fallocate(w->direct, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->offset, (off_t)r->count * SECTOR) == 0;
}

struct way {
    bool (*write)(struct lane_writer *w, const struct range *r);
    unsigned share; /* of all */
    bool zero, paged;
};
static const struct way ways[] = {
    {write_direct, 60, false, false}, {write_buffered, 10, false, true}, {write_synced, 6, false, true}, {write_mapped, 8, false, true},
    {zero_discard, 4, true, true},    {zero_ioctl, 4, true, true},       {zero_range, 4, true, true},    {zero_punch, 4, true, true},
};

static const struct way *choose(struct lane_writer *w)
{
    for (;;) {
        uint32_t at = random_below(&w->random, 100);
        const struct way *way = ways;

        while (at >= way->share)
            at -= (way++)->share;
        if (!way->zero || (w->zeroes && !w->lane->last_was_zero))
            return way;
    }
}

/* Through the page cache and for zeros whole pages; else whole sectors at any. Zeros may cover a whole piece. */
static struct range place(struct lane_writer *w, const struct way *way)
{
    uint32_t among = w->piece_count < HOT_PART || random_below(&w->random, 2) ? w->piece_count : w->piece_count / HOT_PART;
    const struct piece *p = &w->pieces[random_below(&w->random, among)];
    uint32_t unit = way->paged || random_below(&w->random, 2) ? PAGE_SECTORS : 1, units = p->count / unit;
    uint32_t most = way->zero ? units : w->most / unit < units ? w->most / unit : units;
    uint32_t count = random_below(&w->random, 3) ? 1 + random_below(&w->random, most < 4 ? most : 4) : 1 + random_below(&w->random, most);
    uint32_t first = random_below(&w->random, units - count + 1);

    return (struct range){p->offset + (uint64_t)first * unit * SECTOR, p->first + first * unit, count * unit};
}

static void zero_or_die(struct lane_writer *w, const struct way *way, const struct range *r)
{
    /* Where a filesystem is mounted on a neighbour, the kernel refuses now and then (EBUSY) before it has begun: then by hand. */
    if (way->write(w, r))
        return;
    if (errno != EBUSY && errno != EOPNOTSUPP)
        die(w->node);
    for (uint32_t done = 0; done < r->count; done += w->most) {
        struct range part = {r->offset + (uint64_t)done * SECTOR, r->first + done, r->count - done < w->most ? r->count - done : w->most};

        memset(w->block, 0, (size_t)part.count * SECTOR);
        if (!write_direct(w, &part))
            die(w->node);
    }
}

static bool write_one(struct lane_writer *w)
{
    const struct way *way = choose(w);
    struct range r = place(w, way);
    uint32_t number = lane_issue(w->lane, r.first, r.count, way->zero);

    if (!number)
        return false;
    if (way->zero) {
        zero_or_die(w, way, &r);
        w->zero_writes++;
    } else {
        lane_stamp(w->lane, number, r.first, r.count, w->block);
        if (!way->write(w, &r))
            die(w->node);
    }
    lane_acknowledge(w->lane, number);
    return true;
}

void *lane_run(void *lane_writer)
{
    struct lane_writer *w = lane_writer;

    while (gate_enter(w->gate, w->counted)) {
        bool written = write_one(w);

        gate_leave(w->gate, w->counted);
        if (!written || random_below(&w->random, 4) == 0)
            usleep(written ? random_below(&w->random, 3000) : 100000);
    }
    return NULL;
}
