/* In which order a pass over everything reads.
 *
 * Zeroes are not sent, nor is what the replicator has already, and where the network limits it would stand idle while the source reads through gigabytes of that. So each
 * disk is read in several stretches, and the last of the buffers are kept for the stretches that of late had least to send: they are read while what
 * is to be sent waits for its turn, the others while there is room for it. Only the order depends on it: every chunk is read once, whatever was thought of its stretch. */
#include "agent/engine.h"

#define SPARE_SHARE 4    /* of the buffers */
#define SPARED_ALL 64
#define SPARED_UNKNOWN 32

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t round_up(int64_t number, int64_t grain) { return (number + grain - 1) / grain * grain; }

static struct stretch stretch_of(int64_t first, int64_t end) { return (struct stretch){.first = first, .end = end, .cursor = first, .spared = SPARED_UNKNOWN}; }

void order_begin(struct agent_disk *d)
{
    int64_t blocks = bits_blocks(d->chunk_count), room = d->todo->free_count; /* each stretch has a block that is neither full nor empty (bits.h) */
    int64_t count = room < blocks ? least(STRETCHES_MOST, room / 2) : STRETCHES_MOST, grain = blocks >= count ? BITS_BLOCK_COUNT : BATCH_CHUNKS;
    int64_t length = round_up(round_up(d->chunk_count, count) / count, grain);

    d->whole = stretch_of(0, d->chunk_count);
    d->stretch_count = 0;
    for (int64_t first = 0; first < d->chunk_count; first += length)
        d->stretches[d->stretch_count++] = stretch_of(first, least(first + length, d->chunk_count));
}

void order_rewind(struct agent_disk *d)
{
    d->whole.cursor = 0;
    for (int i = 0; i < d->stretch_count; i++)
        d->stretches[i].cursor = d->stretches[i].first;
}

int64_t order_peek(const struct agent_disk *d, const struct stretch *s)
{
    int64_t chunk = bits_next(d->todo, s->cursor);

    if (chunk < 0 || chunk >= s->end)
        chunk = bits_next(d->todo, s->first);
    return chunk < s->end ? chunk : -1;
}

/* tight: also those for whose next chunk another block would be filled. */
static struct stretch *find_best(struct agent *a, bool tight, int *disk)
{
    bool spare = a->free_count <= a->batch_count / SPARE_SHARE;
    struct stretch *best = NULL;

    for (int i = 0; i < a->disk_count; i++) {
        struct agent_disk *d = &a->disks[i];

        for (int n = 0; n < d->stretch_count; n++) {
            struct stretch *s = &d->stretches[n];
            int64_t chunk;

            if (best && (spare ? s->spared <= best->spared : s->spared >= best->spared))
                continue;
            chunk = order_peek(d, s);
            if (chunk < 0 || (!tight && bits_is_tight(d->todo, chunk)))
                continue;
            best = s;
            *disk = i;
        }
    }
    return best;
}

struct stretch *order_next(struct agent *a, int *disk)
{
    struct stretch *best;

    if (a->pass == PASS_RUNNING && !a->held) {
        /* Where memory is short, what was begun comes first: two stretches would fill each other's block again, and neither come to an end. */
        best = find_best(a, false, disk);
        return best ? best : find_best(a, true, disk);
    }
    for (int i = 0; i < a->disk_count; i++)
        if (a->disks[i].todo->count) {
            *disk = i;
            return &a->disks[i].whole;
        }
    return NULL;
}

void order_learn(struct stretch *s, int sent, int count)
{
    int spared = count ? SPARED_ALL * (count - sent) / count : SPARED_ALL;

    s->spared += (spared - s->spared) / 4;
}
