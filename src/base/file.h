/* file: whole-file reading and writing, folders. */
#pragma once

#include "base/mem.h"

/* The whole file, at most limit_bytes (ERR_LIMIT over it), appended to out. */
int file_read(const char *path, size_t limit_bytes, struct buf *out, struct err *e);
/* Atomic: a temporary file beside it, fsync, rename, fsync of the folder. mode as for open(2). */
int file_write(const char *path, const void *bytes, size_t size, unsigned mode, struct err *e);
/* What was made, renamed or removed in the folder is durable when this returns. */
int file_sync_dir(const char *dir, struct err *e);
/* mkdir -p; folders that exist are fine, and what is made is durable. */
int file_make_dirs(const char *path, unsigned mode, struct err *e);
bool file_exists(const char *path);
/* Reads or writes exactly size bytes, over short counts and EINTR. read_all: 1 whole, 0 end of file before the first byte, -1. */
int fd_read_all(int fd, void *bytes, size_t size, struct err *e);
int fd_write_all(int fd, const void *bytes, size_t size, struct err *e);
int fd_pread_all(int fd, void *bytes, size_t size, int64_t offset, struct err *e);
int fd_pwrite_all(int fd, const void *bytes, size_t size, int64_t offset, struct err *e);
/* A process may have so many files and connections open: from now on as many as the system lets it (the hard limit; a program that is started gets the soft one, 1,024 mostly). */
size_t fd_most(void);
/* Until events (of poll) are there: 0, or -1 ERR_TIMEOUT from until_us on (monotonic). who: whom the message names. */
int fd_wait(int fd, short events, int64_t until_us, const char *who, struct err *e);
