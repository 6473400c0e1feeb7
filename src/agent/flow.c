/* flow: how hard is compressed what is sent. Each chunk alone, quickly, by all workers, where the machine is what limits; all as one stream (wire/conn.h),
 * which takes a third off the bytes and costs a processor, where the network is. The kernel says which: it counts how long a connection had something to
 * send, and how much of that the other end was to blame for. */
#include "agent/engine.h"

#include "base/clock.h"

#define LOOK_US (500 * US_PER_MS)
#define REST_US (3 * US_PER_S)       /* without anything packed: the stream ends */
#define FALLEN_US (30 * US_PER_S)    /* once it was too much for this machine */
#define FAR_RTT_US (10 * US_PER_MS)  /* no local network: packed from the beginning */
#define SLOW_BYTES_PER_S 13e6        /* 100 Mbit/s */
#define MEDIUM_BYTES_PER_S 30e6
#define LEAST_BYTES (256u << 10) /* less is not worth a stream, whose ends keep a window each */
#define HARD_LEVEL 6
#define LIGHT_LEVEL 3

static int level_for(double bytes_per_s) { return bytes_per_s <= SLOW_BYTES_PER_S ? HARD_LEVEL : bytes_per_s <= MEDIUM_BYTES_PER_S ? LIGHT_LEVEL : 0; }

int flow_next_level(int level, double busy_share, double held_share, double bytes_per_s, bool has_work)
{
    if (busy_share >= 0.8 && held_share <= 0.3)
        return level_for(bytes_per_s) > level ? level_for(bytes_per_s) : level;
    if (has_work && busy_share < 0.5)
        return level > LIGHT_LEVEL ? LIGHT_LEVEL : 0;
    return level;
}

void flow_begin(struct agent *a, const struct wire_conn *c)
{
    struct tls_flow tcp = {0};

    a->flow = (struct flow){0};
    atomic_store(&a->pack_level, wire_conn_flow(c, &tcp) && tcp.rtt_us >= FAR_RTT_US ? HARD_LEVEL : 0);
}

bool flow_packs(const struct agent *a, const struct offer *o)
{
    size_t bytes = 0;

    for (int i = 0; i < o->offered; i++)
        bytes += wire_needs(&o->need, (unsigned)i) ? wire_entry_size(&(struct wire_entry){.pages = o->pages[i]}) : 0;
    return atomic_load(&a->pack_level) && bytes >= LEAST_BYTES;
}

static void set_level(struct agent *a, int level, int64_t now_us)
{
    int before = atomic_exchange(&a->pack_level, level);

    if (level < before) {
        a->flow.quiet_until_us = now_us + FALLEN_US;
        wire_conn_rest(a->conn, 0, NULL); /* a stream keeps its level */
    }
}

void flow_look(struct agent *a)
{
    struct flow *f = &a->flow;
    int64_t now_us = clock_monotonic_us(), passed_us = now_us - f->looked_us, sent = wire_conn_sent_bytes(a->conn), limit, busy_us, held_us;
    struct tls_flow tcp;
    int level = atomic_load(&a->pack_level), next;

    wire_conn_rest(a->conn, REST_US, NULL);
    if (passed_us < LOOK_US || !wire_conn_flow(a->conn, &tcp))
        return;
    pthread_mutex_lock(&a->lock);
    limit = a->send_pace.per_s;
    pthread_mutex_unlock(&a->lock);
    busy_us = tcp.busy_us - f->tcp.busy_us;
    held_us = tcp.held_us - f->tcp.held_us;
    if (limit > 0 && level_for((double)limit))
        next = level_for((double)limit); /* our own limit is as a network of that rate */
    else
        next = flow_next_level(level, (double)busy_us / (double)passed_us, busy_us > 0 ? (double)held_us / (double)busy_us : 0,
                               (double)(sent - f->sent_bytes) * US_PER_S / (double)passed_us, atomic_load(&a->todo_bytes) > 0);
    if (f->looked_us && (next < level || now_us >= f->quiet_until_us))
        set_level(a, next, now_us);
    f->looked_us = now_us;
    f->sent_bytes = sent;
    f->tcp = tcp;
}
