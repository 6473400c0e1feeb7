/* cpio: an archive in the format "newc", which is an initramfs (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst). Folders come before
 * what is in them; the buffer's limit says how large it may get (image->over). */
#pragma once

#include "base/mem.h"

void cpio_add(struct buf *image, const char *path, unsigned mode, const void *bytes, size_t size); /* mode with its type, as in stat(2) */
void cpio_device(struct buf *image, const char *path, unsigned mode, unsigned dev_major, unsigned dev_minor);
void cpio_end(struct buf *image);
