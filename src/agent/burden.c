/* What the source's disks do, and what of it is ours: looked at every second for the back-off (gentle.h). The engine's.
 *
 * The agent writes nothing to the disks, so what the kernel counts of writes is the source's. Of reads it is what is left when ours are
 * taken off. Ours are known in bytes and in how long they took; into how many requests the kernel cuts them is not (it depends on the disk's
 * queue, and on where our buffers happen to lie). So others' reads are told by their bytes: what the kernel has counted, less all that we have
 * asked for, whether it has come or not; the most of that so far is theirs for certain. Reads count only where they are many beside ours. */
#include "agent/engine.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_US US_PER_S
#define READ_LEAST_BYTES 4096 /* by which reads are reckoned from bytes */
#define OWN_MOST 4 /* of our own requests for one of the source's: beyond that, its reads drown in ours */

/* /sys/block/NAME/stat (Documentation/block/stat): of reads, then of writes: completed, merged, sectors, milliseconds. */
static bool add_stat(const char *name, struct burden *b)
{
    CLEANUP(buf_release) struct buf text = {0};
    CLEANUP(free_ptr) char *path = xasprintf("/sys/block/%s/stat", name);
    long long reads, read_sectors, read_ms, writes, write_ms;

    if (file_read(path, 4096, &text, NULL) < 0 ||
        sscanf(text.data, "%lld %*d %lld %lld %lld %*d %*d %lld", &reads, &read_sectors, &read_ms, &writes, &write_ms) != 5)
        return false;
    b->reads += reads;
    b->read_bytes += 512 * read_sectors;
    b->read_us += read_ms * US_PER_MS;
    b->writes += writes;
    b->write_us += write_ms * US_PER_MS;
    return true;
}

/* "some avg10=… total=MICROSECONDS" (Documentation/accounting/psi.rst); -1 where the kernel doesn't tell. */
static int64_t stalled_us(const char *path)
{
    CLEANUP(buf_release) struct buf text = {0};
    const char *total = file_read(path, 4096, &text, NULL) == 0 ? strstr(text.data, "total=") : NULL;

    return total ? strtoll(total + strlen("total="), NULL, 10) : -1;
}

/* Our own control group's; NULL where we have none of our own. The caller frees. */
static char *own_pressure_path(void)
{
    CLEANUP(buf_release) struct buf text = {0};
    char *at;

    if (file_read("/proc/self/cgroup", 4096, &text, NULL) < 0 || !(at = strstr(text.data, "0::/")))
        return NULL;
    at += strlen("0::");
    at[strcspn(at, "\n")] = '\0';
    return at[1] ? xasprintf("/sys/fs/cgroup%s/io.pressure", at) : NULL;
}

/* What others waited for I/O while we did not: at least that is theirs. -1: not known. */
static int64_t others_stalled_us(void)
{
    CLEANUP(free_ptr) char *own_path = own_pressure_path();
    int64_t all_us = stalled_us("/proc/pressure/io"), own_us = own_path ? stalled_us(own_path) : -1;

    return all_us < 0 || own_us < 0 ? -1 : all_us - own_us;
}

static struct burden burden_now(struct agent *a)
{
    struct burden b = {.at_us = clock_monotonic_us(), .own_requests = atomic_load(&a->own_requests), .own_us = atomic_load(&a->own_read_us),
                       .own_bytes = atomic_load(&a->bytes_read), .stalled_us = others_stalled_us()};

    b.known = a->disk_count > 0;
    for (int i = 0; i < a->disk_count; i++)
        b.known = add_stat(a->disks[i].info.name, &b) && b.known;
    b.others_read_bytes = b.read_bytes - atomic_load(&a->own_asked_bytes); /* in this order: what was counted had been asked for */
    return b;
}

void burden_begin(struct agent *a)
{
    struct burden b = burden_now(a);

    pthread_mutex_lock(&a->lock);
    a->burden = b;
    gentle_init(&a->gentle, b.reads + b.writes, b.read_us + b.write_us, b.at_us);
    if (!b.known)
        gentle_init(&a->gentle, 0, 0, b.at_us);
    a->read_back_off = 0;
    link_pace_reading(a);
    pthread_mutex_unlock(&a->lock);
}

struct gentle_sample burden_between(const struct burden *was, const struct burden *is)
{
    int64_t own_requests = is->own_requests - was->own_requests, all = is->reads - was->reads, reads = all - own_requests, stalled = is->stalled_us - was->stalled_us;
    int64_t most = (is->others_read_bytes - was->others_read_bytes) / READ_LEAST_BYTES;
    struct gentle_sample s = {.now_us = is->at_us, .span_us = is->at_us - was->at_us, .ios = is->writes - was->writes,
                              .io_us = is->write_us - was->write_us, .own_bytes = is->own_bytes - was->own_bytes, .stalled = -1};

    if (reads > most)
        reads = most;
    if (reads > GENTLE_LEAST_IOS && reads * OWN_MOST > own_requests) {
        int64_t own_us = own_requests ? (is->own_us - was->own_us) * (all - reads) / own_requests : 0, read_us = is->read_us - was->read_us - own_us;

        s.ios += reads;
        s.io_us += read_us > 0 ? read_us : 0;
    }
    if (was->stalled_us >= 0 && is->stalled_us >= 0)
        s.stalled = stalled > 0 ? stalled * 1000 / s.span_us : 0;
    return s;
}

void burden_look(struct agent *a)
{
    struct gentle_sample s;
    struct burden b;
    int64_t held_before, held;

    if (clock_monotonic_us() - a->burden.at_us < LOOK_US)
        return;
    b = burden_now(a);
    if (b.others_read_bytes < a->burden.others_read_bytes)
        b.others_read_bytes = a->burden.others_read_bytes;
    s = burden_between(&a->burden, &b);
    if (!a->burden.known || !b.known)
        s.ios = 0;
    pthread_mutex_lock(&a->lock);
    a->burden = b;
    held_before = a->gentle.rate;
    a->read_back_off = gentle_look(&a->gentle, &s);
    held = a->gentle.rate;
    link_pace_reading(a);
    pthread_mutex_unlock(&a->lock);
    if (!held != !held_before && !a->held)
        log_info(held ? "the source's own I/O takes longer (%lld us; %lld us without the agent): less is read" :
                 "the source's own I/O takes %lld us (%lld us without the agent): reading goes on as before",
                 (long long)a->gentle.latency_us, (long long)a->gentle.without_us);
}
