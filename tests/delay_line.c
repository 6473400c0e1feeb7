/* delay_line NAMESPACE DEVICE NAMESPACE DEVICE BITS_PER_S DELAY_US QUEUE_BYTES [SEED LOST OVERTAKEN DOUBLED]: a link between two network namespaces, for
 * kernels without netem. Makes a TUN device in each and carries packets between them: each direction sends BITS_PER_S, holds at most QUEUE_BYTES that wait
 * to be sent (what comes on top is dropped, as a router does), and brings every packet DELAY_US later. Of 1,000 packets so many (by the seed's luck, each
 * direction's own) are lost, change places with one that went before them and is still on its way, come twice.
 * Prints "ready"; then for each line of input {"sent":[a to b, b to a],"dropped":[…],"packets":[…],"lost":[…],"overtaken":[…],"doubled":[…]}: bytes of whole
 * IP packets that went onto the link, and that didn't; then packets: that came, and what became of them. Ends with its input. */
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
#define OVERTAKES_MOST 16 /* places */
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
    long long packets_came, lost, overtaken, doubled;
    uint64_t luck;
};

struct link {
    double us_per_byte;
    int64_t delay_us;
    double queue_us; /* how long the queue takes to be sent */
    unsigned lost, overtaken, doubled; /* of 1,000 */
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

static unsigned below(struct lane *l, unsigned bound)
{
    l->luck ^= l->luck << 13, l->luck ^= l->luck >> 7, l->luck ^= l->luck << 17;
    return (unsigned)(l->luck >> 20) % bound;
}

static struct packet *at(struct lane *l, unsigned place) { return &l->packets[(l->first + place) % PACKETS]; }

static void put(struct lane *l, const struct link *k, const uint8_t *bytes, ssize_t size, int64_t now_us)
{
    double begin_us = l->free_us > (double)now_us ? l->free_us : (double)now_us;
    struct packet *p = at(l, l->count);

    if (l->count == PACKETS || begin_us - (double)now_us >= k->queue_us) {
        l->dropped_bytes += size;
        return;
    }
    l->free_us = begin_us + (double)size * k->us_per_byte;
    p->size = (int)size;
    p->due_us = (int64_t)l->free_us + k->delay_us;
    memcpy(p->bytes, bytes, (size_t)size);
    l->count++;
    l->sent_bytes += size;
}

/* The last one changes places with another: each is due when the other was. */
static void overtake(struct lane *l)
{
    unsigned back = l->count < 2 ? 0 : 1 + below(l, l->count - 1 < OVERTAKES_MOST ? l->count - 1 : OVERTAKES_MOST);
    struct packet *p = at(l, l->count - 1), *other = at(l, l->count - 1 - back), held = *other;

    if (back == 0)
        return; /* nothing else is on its way */
    other->size = p->size;
    memcpy(other->bytes, p->bytes, (size_t)p->size);
    p->size = held.size;
    memcpy(p->bytes, held.bytes, (size_t)held.size);
    l->overtaken++;
}

/* Takes what has come from one side, and says when each packet is due at the other. */
static void take(struct lane *l, const struct link *k)
{
    int64_t now_us = clock_monotonic_us();
    uint8_t bytes[PACKET_BYTES];
    ssize_t size;

    while ((size = read(l->from, bytes, sizeof bytes)) > 0) {
        l->packets_came++;
        if (below(l, 1000) < k->lost) {
            l->lost++;
            continue;
        }
        put(l, k, bytes, size, now_us);
        if (below(l, 1000) < k->overtaken && l->count)
            overtake(l);
        if (below(l, 1000) < k->doubled) {
            put(l, k, bytes, size, now_us);
            l->doubled++;
        }
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
    printf("{\"sent\":[%lld,%lld],\"dropped\":[%lld,%lld],\"packets\":[%lld,%lld],\"lost\":[%lld,%lld],\"overtaken\":[%lld,%lld],\"doubled\":[%lld,%lld]}\n",
           lanes[0].sent_bytes, lanes[1].sent_bytes, lanes[0].dropped_bytes, lanes[1].dropped_bytes, lanes[0].packets_came, lanes[1].packets_came,
           lanes[0].lost, lanes[1].lost, lanes[0].overtaken, lanes[1].overtaken, lanes[0].doubled, lanes[1].doubled);
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

    if (argc != 8 && argc != 12) {
        fprintf(stderr, "usage: delay_line NAMESPACE DEVICE NAMESPACE DEVICE BITS_PER_S DELAY_US QUEUE_BYTES [SEED LOST OVERTAKEN DOUBLED]\n");
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        ends[i] = open_device(argv[1 + 2 * i], argv[2 + 2 * i]);
        if (ends[i] < 0) {
            fprintf(stderr, "delay_line: %s in %s: %s\n", argv[2 + 2 * i], argv[1 + 2 * i], strerror(errno));
            return 1;
        }
        lanes[i].packets = xcalloc(PACKETS, sizeof *lanes[i].packets);
        lanes[i].luck = ((argc > 8 ? strtoull(argv[8], NULL, 10) : 0) * 2 + (uint64_t)i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    }
    k = (struct link){.us_per_byte = 8e6 / atof(argv[5]), .delay_us = atoll(argv[6])};
    k.queue_us = atof(argv[7]) * k.us_per_byte;
    if (argc > 8)
        k.lost = (unsigned)atoi(argv[9]), k.overtaken = (unsigned)atoi(argv[10]), k.doubled = (unsigned)atoi(argv[11]);
    lanes[0].from = lanes[1].to = ends[0];
    lanes[0].to = lanes[1].from = ends[1];
    setvbuf(stdin, NULL, _IONBF, 0);
    printf("ready\n");
    fflush(stdout);
    carry(lanes, &k);
    return 0;
}
