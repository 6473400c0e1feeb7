#include "agent/target.h"

#include "agent/disks.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint8_t *target_buffer(size_t size_bytes)
{
    uint8_t *bytes = aligned_alloc(4096, size_bytes);

    MUST(bytes);
    memset(bytes, 0, size_bytes);
    return bytes;
}

/* ---- which disk ---- */

int target_name_by_identity(struct target *t, const struct agent_config *c, struct err *e)
{
    struct disk found[LIMIT_DISKS_PER_SERVER];
    int count;

    if (disks_find(c, found, LIMIT_DISKS_PER_SERVER, &count, e) < 0)
        return -1;
    for (int i = 0; i < count; i++)
        if (strcmp(found[i].id, t->about.id) == 0) {
            memcpy(t->name, found[i].name, sizeof t->name);
            return 0;
        }
    return err_set(e, ERR_NOT_FOUND, "this machine has no disk %s (of %lld bytes): say with --onto which disks take the point's", t->about.id,
                   (long long)t->about.size_bytes);
}

int target_name_next(struct target *t, const char **list, struct err *e)
{
    const char *at = strncmp(*list, "/dev/", 5) == 0 ? *list + 5 : *list;
    size_t size = strcspn(at, ",");

    if (!size || size >= sizeof t->name || memchr(at, '/', size))
        return err_set(e, ERR_INVALID, "--onto names disks, separated by commas, one for each of the point's");
    memcpy(t->name, at, size);
    t->name[size] = '\0';
    *list = at + size + (at[size] == ',');
    return 0;
}

int target_open(struct target *t, bool dry_run, struct err *e)
{
    char path[80];
    int64_t size = 0;

    snprintf(path, sizeof path, "/dev/%s", t->name);
    if (disks_size(t->name, &size, e) < 0)
        return -1;
    if (size < t->about.size_bytes)
        return err_set(e, ERR_INVALID, "%s has %lld bytes, the point's disk %s has %lld: it does not fit", path, (long long)size, t->about.id,
                       (long long)t->about.size_bytes);
    t->fd = open(path, (dry_run ? O_RDONLY : O_RDWR | O_EXCL) | O_DIRECT | O_CLOEXEC);
    if (t->fd < 0 && errno == EBUSY)
        return err_set(e, ERR_CONFLICT, "%s is in use (mounted, swapped on, or under LVM or md): restore from a rescue system, or free it first", path);
    if (t->fd < 0)
        return err_errno(e, errno, "can't open %s", path);
    t->chunk_count = (t->about.size_bytes + WIRE_CHUNK_SIZE - 1) / WIRE_CHUNK_SIZE;
    t->first = target_buffer(WIRE_CHUNK_SIZE);
    return 0;
}

void target_close(struct target *t)
{
    if (t->fd >= 0)
        close(t->fd);
    free(t->first);
    t->fd = -1;
    t->first = NULL;
}

/* ---- what is on it ---- */

size_t target_chunk_size(const struct target *t, int64_t chunk)
{
    int64_t left = t->about.size_bytes - chunk * (int64_t)WIRE_CHUNK_SIZE;

    return left < (int64_t)WIRE_CHUNK_SIZE ? (size_t)left : WIRE_CHUNK_SIZE;
}

bool target_read(const struct target *t, int64_t chunk, unsigned count, uint8_t *run)
{
    size_t size = (size_t)(count - 1) * WIRE_CHUNK_SIZE + target_chunk_size(t, chunk + count - 1);

    memset(run + size, 0, (size_t)count * WIRE_CHUNK_SIZE - size);
    return fd_pread_all(t->fd, run, size, chunk * (int64_t)WIRE_CHUNK_SIZE, NULL) == 0;
}

void target_same(struct target *t, int64_t chunk, const uint8_t *bytes)
{
    if (chunk != 0 || t->first_known)
        return;
    memcpy(t->first, bytes, WIRE_CHUNK_SIZE);
    t->first_known = true;
}

static int put(struct target *t, int64_t chunk, const uint8_t *bytes, struct err *e)
{
    if (fd_pwrite_all(t->fd, bytes, target_chunk_size(t, chunk), chunk * (int64_t)WIRE_CHUNK_SIZE, e) < 0)
        return err_wrap(e, "writing to %s", t->name);
    t->written_bytes += (int64_t)target_chunk_size(t, chunk);
    return 0;
}

static int flush(struct target *t, struct err *e)
{
    return fdatasync(t->fd) < 0 ? err_errno(e, errno, "flushing %s", t->name) : 0;
}

/* On the disk itself before anything else is: the power may go. */
static int shut(struct target *t, struct err *e)
{
    CLEANUP(free_ptr) uint8_t *zeros = target_buffer(WIRE_CHUNK_SIZE);

    if (put(t, 0, zeros, e) < 0 || flush(t, e) < 0)
        return -1;
    t->shut = true;
    return 0;
}

/* The first one is kept back: until all is there it is zero, and the disk is nothing that boots. */
int target_write(struct target *t, int64_t chunk, const uint8_t *bytes, struct err *e)
{
    if (!t->shut && shut(t, e) < 0)
        return -1;
    if (chunk == 0) {
        memcpy(t->first, bytes, WIRE_CHUNK_SIZE);
        t->first_known = true;
        return 0;
    }
    return put(t, chunk, bytes, e);
}

static int open_disk(struct target *t, struct err *e)
{
    MUST(t->first_known);
    if (put(t, 0, t->first, e) < 0 || flush(t, e) < 0)
        return -1;
    t->shut = false;
    return 0;
}

int targets_finish(struct target *t, int count, struct err *e)
{
    for (int i = 0; i < count; i++)
        if (t[i].shut && flush(&t[i], e) < 0)
            return -1;
    for (int i = 0; i < count; i++)
        if (t[i].shut && open_disk(&t[i], e) < 0)
            return -1;
    return 0;
}
