/* The plain tracker's programs where the kernel does not describe its types (4.18 on). One reads what the tracepoint records of a completion, whose layout stands in the tracepoint's format file. The kernel passes such a program over whenever
 * any other one is at work on the processor, and tells nobody. So a second one hangs on the same tracepoint as a raw one, which is not passed over: it can't tell what is completed, but for its size, and it can count. Where more was called than answered, something was not
 * seen (roll_call in plain.c). */
#include "track/plain.bpf.h"

/* Less than a sector is no read or write, but a command past the block layer, which the record can't tell from one without data: an UNMAP, for one, of 8 + 16 n bytes. What devices are asked who and how they are has these sizes, mostly. */
static __always_inline int is_suspect(__u32 size_bytes)
{
    return size_bytes && size_bytes < 512 && size_bytes != 8 && size_bytes != 36 && size_bytes != 252 && size_bytes != 254 && size_bytes != 255;
}

SEC("raw_tracepoint/block_rq_complete")
int called(unsigned long long *arguments)
{
    struct plain_processor *own = this_processor();

    if (!own)
        return 0;
    add(&own->roll.called, 1);
    if (is_suspect((__u32)arguments[2]))
        add(&own->lost, 1);
    return 0;
}

/* What lies at a place that is not known before the program is loaded can't be loaded as such. */
#define READ(into, record, at) bpf_probe_read(&(into), sizeof(into), (const char *)(record) + ((at) & (PLAIN_RECORD_SIZE - 1)))

/* What was done is a letter, after an F where a flush came before. Of what has none of its own (N) is only known that it was neither read nor write: it writes zeroes, or is a command past the block layer, either way. */
static __always_inline void see(void *record, const struct plain_control *c, struct plain_processor *own)
{
    const struct plain_place *place;
    struct track_counters *counted;
    char letters[4] = {0}, letter;
    __u32 dev = 0, sector_count = 0;
    __u64 sector = 0;

    if (READ(sector_count, record, c->count_at) || READ(letters, record, c->operation_at)) {
        add(&own->lost, 1);
        return;
    }
    letter = letters[0] == 'F' ? letters[1] : letters[0];
    if (!sector_count || letter == 'R')
        return;
    if (READ(dev, record, c->dev_at) || READ(sector, record, c->sector_at)) {
        add(&own->lost, 1);
        return;
    }
    place = find_place(c, dev);
    if (!place) {
        if (letter != 'W' && letter != 'D' && (!dev || dev >> 20 == SCSI_GENERIC_MAJOR)) /* it may have been for any disk */
            add(&own->lost, 1);
        return;
    }
    counted = counters_of(own, place->index);
    if (!mark(c, place, sector, sector_count) || (letter == 'D' && place->many_ranges))
        add(&counted->lost, 1);
    if (letter != 'W' && letter != 'D')
        add(&counted->unclear, 1);
    add(&counted->sectors[0], sector_count);
}

SEC("tracepoint/block/block_rq_complete")
int completed(void *record)
{
    __u32 zero = 0;
    const struct plain_control *c = bpf_map_lookup_elem(&control, &zero);
    struct plain_processor *own = this_processor();

    if (!c || !own)
        return 0;
    see(record, c, own);
    add(&own->roll.answered, 1);
    return 0;
}

char _license[] SEC("license") = "GPL";
