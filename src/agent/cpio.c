#include "agent/cpio.h"

#include <string.h>
#include <sys/stat.h>

#define ALIGNMENT 4

static void pad(struct buf *image)
{
    while (image->size_bytes % ALIGNMENT)
        buf_add(image, "", 1);
}

/* magic, ino, mode, uid, gid, nlink, mtime, filesize, dev, rdev, namesize, check: eight hexadecimal digits each but the magic. */
static void header(struct buf *image, const char *path, unsigned mode, size_t size, unsigned dev_major, unsigned dev_minor)
{
    buf_printf(image, "070701%08x%08x%08x%08x%08x%08x%08zx%08x%08x%08x%08x%08zx%08x", 0u, mode, 0u, 0u, S_ISDIR(mode) ? 2u : 1u, 0u, size, 0u, 0u, dev_major,
               dev_minor, strlen(path) + 1, 0u);
    buf_add(image, path, strlen(path) + 1);
    pad(image);
}

void cpio_add(struct buf *image, const char *path, unsigned mode, const void *bytes, size_t size)
{
    header(image, path, mode, size, 0, 0);
    buf_add(image, bytes, size);
    pad(image);
}

void cpio_device(struct buf *image, const char *path, unsigned mode, unsigned dev_major, unsigned dev_minor)
{
    header(image, path, mode, 0, dev_major, dev_minor);
}

void cpio_end(struct buf *image)
{
    header(image, "TRAILER!!!", 0, 0, 0, 0);
}
