/* delay_line NAMESPACE DEVICE NAMESPACE DEVICE BITS_PER_S DELAY_US QUEUE_BYTES: a link between two network namespaces, for kernels without netem.
 * Makes a TUN device in each and carries packets between them: each direction sends BITS_PER_S, holds at most QUEUE_BYTES that wait to be sent (what
 * comes on top is dropped, as a router does), and brings every packet DELAY_US later. Prints "ready"; then for each line of input {"sent":[a to b, b
 * to a],"dropped":[…]}: bytes of whole IP packets that went onto the link, and that didn't. Ends with its input. */
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PACKET_BYTES 2048
#define PACKETS 16384 /* on their way in one direction; a power of two */
#define NAMESPACE_FOLDER "/run/netns/"

struct packet {
    int64_t due_us;
    int size;
    uint8_t bytes[PACKET_BYTES];
};

struct lane { /* one direction */
    int from, to;
    struct packet *packets; /* a ring */
    unsigned first, count;
    double free_us; /* when the last byte that waits will have been sent */
    long long sent_bytes, dropped_bytes;
};

struct link {
    double us_per_byte;
    int64_t delay_us;
    double queue_us; /* how long the queue takes to be sent */
};

static int open_device(const char *namespace, const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    char path[128];
    int ns, fd;

    snprintf(path, sizeof path, NAMESPACE_FOLDER "%s", namespace);
    ns = open(path, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
        return -1;
    close(ns);
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    return fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 ? -1 : fd;
}

/* Takes what has come from one side, and says when each packet is due at the other. */
static void take(struct lane *l, const struct link *k)
{
    int64_t now_us = clock_monotonic_us();

    for (;;) {
        struct packet *p = &l->packets[(l->first + l->count) % PACKETS];
        double begin_us = l->free_us > (double)now_us ? l->free_us : (double)now_us;
        uint8_t spare[PACKET_BYTES];
        bool room = l->count < PACKETS && begin_us - (double)now_us < k->queue_us;
        ssize_t size = read(l->from, room ? p->bytes : spare, PACKET_BYTES);

        if (size <= 0)
            return;
        if (!room) {
            l->dropped_bytes += size;
            continue;
        }
        l->free_us = begin_us + (double)size * k->us_per_byte;
        p->size = (int)size;
        p->due_us = (int64_t)l->free_us + k->delay_us;
        l->count++;
        l->sent_bytes += size;
    }
}

/* Brings what is due; the time of the next, or INT64_MAX. */
static int64_t bring(struct lane *l)
{
    while (l->count) {
        struct packet *p = &l->packets[l->first];

        if (p->due_us > clock_monotonic_us())
            return p->due_us;
        if (write(l->to, p->bytes, (size_t)p->size) < 0 && errno == EAGAIN)
            return p->due_us; /* the other side's queue is full: again at once */
        l->first = (l->first + 1) % PACKETS;
        l->count--;
    }
    return INT64_MAX;
}

/* false at the end of the input. */
static bool answer(const struct lane *lanes)
{
    char line[64];

    if (!fgets(line, sizeof line, stdin))
        return false;
    printf("{\"sent\":[%lld,%lld],\"dropped\":[%lld,%lld]}\n", lanes[0].sent_bytes, lanes[1].sent_bytes, lanes[0].dropped_bytes, lanes[1].dropped_bytes);
    fflush(stdout);
    return true;
}

static void carry(struct lane *lanes, const struct link *k)
{
    struct pollfd ends[] = {{.fd = lanes[0].from, .events = POLLIN}, {.fd = lanes[1].from, .events = POLLIN}, {.fd = 0, .events = POLLIN}};

    for (;;) {
        int64_t first_us = bring(&lanes[0]), second_us = bring(&lanes[1]), wait_us;
        struct timespec t;

        first_us = first_us < second_us ? first_us : second_us;
        wait_us = first_us == INT64_MAX ? US_PER_S : first_us - clock_monotonic_us();
        wait_us = wait_us < 50 ? 50 : wait_us; /* also where the other side's queue was full */
        t = (struct timespec){wait_us / US_PER_S, wait_us % US_PER_S * 1000};
        if (ppoll(ends, ARRAY_COUNT(ends), &t, NULL) < 0 && errno != EINTR)
            return;
        take(&lanes[0], k);
        take(&lanes[1], k);
        if (ends[2].revents && !answer(lanes))
            return;
    }
}

int main(int argc, char **argv)
{
    struct lane lanes[2] = {0};
    struct link k;
    int ends[2];

    if (argc != 8) {
        fprintf(stderr, "usage: delay_line NAMESPACE DEVICE NAMESPACE DEVICE BITS_PER_S DELAY_US QUEUE_BYTES\n");
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        ends[i] = open_device(argv[1 + 2 * i], argv[2 + 2 * i]);
        if (ends[i] < 0) {
            fprintf(stderr, "delay_line: %s in %s: %s\n", argv[2 + 2 * i], argv[1 + 2 * i], strerror(errno));
            return 1;
        }
        lanes[i].packets = xcalloc(PACKETS, sizeof *lanes[i].packets);
    }
    k = (struct link){.us_per_byte = 8e6 / atof(argv[5]), .delay_us = atoll(argv[6])};
    k.queue_us = atof(argv[7]) * k.us_per_byte;
    lanes[0].from = lanes[1].to = ends[0];
    lanes[0].to = lanes[1].from = ends[1];
    setvbuf(stdin, NULL, _IONBF, 0);
    printf("ready\n");
    fflush(stdout);
    carry(lanes, &k);
    return 0;
}
