#include "power.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512u

struct unflushed {
    struct unflushed *before; /* the one that was written before */
    uint64_t offset;
    size_t size;
    uint8_t *was, *is;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct unflushed *newest;
static unsigned left, luck; /* writes until the power goes, this one included; 0: it stays */
static int disk;
static bool gone;

void power_goes(int image, unsigned at, unsigned seed)
{
    disk = image;
    left = at;
    luck = seed;
}

static int write_all(int image, const uint8_t *from, size_t size, uint64_t offset)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(image, from + done, size - done, (off_t)(offset + done));

        if (n < 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

static void note(const uint8_t *bytes, size_t size, uint64_t offset)
{
    struct unflushed *u = calloc(1, sizeof *u);

    if (!u || !(u->was = malloc(size)) || !(u->is = malloc(size)) || pread(disk, u->was, size, (off_t)offset) != (ssize_t)size)
        abort();
    memcpy(u->is, bytes, size);
    u->size = size;
    u->offset = offset;
    u->before = newest;
    newest = u;
}

static void forget(struct unflushed *u)
{
    free(u->was);
    free(u->is);
    free(u);
}

/* How much of a write got to the disk: whole sectors. */
static size_t kept_of(size_t size)
{
    switch (rand_r(&luck) % 3) {
    case 0: return 0;
    case 1: return size;
    default: return (size_t)rand_r(&luck) % (size / SECTOR + 1) * SECTOR;
    }
}

/* Back to what was flushed, newest first; then forward again, with what luck has kept. */
static void lose(void)
{
    struct unflushed *oldest = NULL;
    unsigned count = 0;

    while (newest) {
        struct unflushed *u = newest;

        newest = u->before;
        if (write_all(disk, u->was, u->size, u->offset) < 0)
            abort();
        u->before = oldest;
        oldest = u;
        count++;
    }
    while (oldest) {
        struct unflushed *u = oldest;

        oldest = u->before;
        if (write_all(disk, u->is, kept_of(u->size), u->offset) < 0)
            abort();
        forget(u);
    }
    gone = true;
    printf("the power is gone, with %u writes that were not flushed\n", count);
    fflush(stdout);
}

int power_write(int image, const uint8_t *bytes, size_t size, uint64_t offset)
{
    int result = -1;

    if (!size)
        return 0;
    pthread_mutex_lock(&lock);
    if (!left && !gone) {
        pthread_mutex_unlock(&lock);
        return write_all(image, bytes, size, offset);
    }
    if (!gone) {
        note(bytes, size, offset);
        result = write_all(disk, bytes, size, offset);
        if (--left == 0)
            lose();
    }
    if (gone) {
        errno = EIO;
        result = -1;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int power_flush(void)
{
    bool lost;

    pthread_mutex_lock(&lock);
    while (newest) {
        struct unflushed *u = newest;

        newest = u->before;
        forget(u);
    }
    lost = gone;
    pthread_mutex_unlock(&lock);
    errno = EIO;
    return lost ? -1 : 0;
}

bool power_is_gone(void)
{
    bool lost;

    pthread_mutex_lock(&lock);
    lost = gone;
    pthread_mutex_unlock(&lock);
    return lost;
}
