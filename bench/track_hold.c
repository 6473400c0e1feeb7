/* track_hold DISK: holds the tracker on a disk ("loop3") and takes its marks as the agent does, but reads and sends nothing: what tracking
 * alone costs. Prints "attached", and when its input ends {"writes":…,"chunks":…}: what it saw. */
#include "base/clock.h"
#include "track/track.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define TAKE_INTERVAL_MS 200 /* agent/engine.h */

static int64_t size_of(const char *name)
{
    char path[128];
    int64_t sectors = -1;
    FILE *file;

    snprintf(path, sizeof path, "/sys/block/%s/size", name);
    file = fopen(path, "re");
    if (file && fscanf(file, "%" SCNd64, &sectors) != 1)
        sectors = -1;
    if (file)
        fclose(file);
    return sectors * 512;
}

static void pass_over(int64_t chunk, uint32_t pages, void *user) { (void)chunk, (void)pages, (void)user; }

/* Takes until the input ends; the count of chunks taken, or -1. */
static int64_t hold(struct tracker *t, struct err *e)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    int64_t chunks = 0;

    for (bool last = false; !last;) {
        last = poll(&input, 1, TAKE_INTERVAL_MS) != 0;
        int64_t taken = track_take(t, 0, pass_over, NULL, e);

        /* A write that the kernel did not show: an agent would read everything again; what the tracker costs is the same. */
        if (taken < 0 && e->kind == ERR_CORRUPT)
            err_clear(e);
        else if (taken < 0)
            return -1;
        else
            chunks += taken;
    }
    return chunks;
}

int main(int count, char **words)
{
    CLEANUP(track_close) struct tracker *t = NULL;
    struct track_disk disk = {0};
    struct err e = {0};
    int64_t chunks;

    if (count != 2) {
        fputs("usage: track_hold DISK\n", stderr);
        return 2;
    }
    snprintf(disk.name, sizeof disk.name, "%s", words[1]);
    disk.size_bytes = size_of(disk.name);
    if (disk.size_bytes <= 0) {
        fprintf(stderr, "track_hold: /sys/block has no disk %s with a size\n", disk.name);
        return 1;
    }
    if (track_open(&disk, 1, &t, &e) < 0) {
        fprintf(stderr, "track_hold: %s\n", e.message);
        return 1;
    }
    puts("attached");
    fflush(stdout);
    chunks = hold(t, &e);
    if (chunks < 0) {
        fprintf(stderr, "track_hold: %s\n", e.message);
        return 1;
    }
    printf("{\"chunks\":%" PRId64 "}\n", chunks);
    return 0;
}
