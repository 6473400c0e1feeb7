/* What the tracker's ways need of the kernel, asked one by one, so that who must do without is told what is missing and from which kernel on it is there. Not the kernel's number decides: vendors port back. */
#include "track/format.h"
#include "track/private.h"

#include "base/file.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

/* A bpf() call that was tried: 1 it works, 0 the kernel does not know it, -1 it is not permitted. */
static int tried(int fd)
{
    if (fd >= 0)
        close(fd);
    return fd >= 0 ? 1 : errno == EPERM || errno == EACCES ? -1 : 0;
}

static int has_bpf(void) { return tried(bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, 4, 8, 1, NULL)); }

static int has_types(void) { return file_exists("/sys/kernel/btf/vmlinux"); }

static int has_mapped_arrays(void)
{
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_MMAPABLE);

    return tried(bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, 4, 8, 1, &options));
}

/* The same with the operation that returns what was there, and without one: a kernel that refuses both has another reason. */
static int has_atomics(void)
{
    static const struct bpf_insn program[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
        {.code = BPF_STX | BPF_DW | BPF_MEM, .dst_reg = BPF_REG_10, .src_reg = BPF_REG_0, .off = -8},
        {.code = BPF_STX | BPF_DW | BPF_ATOMIC, .dst_reg = BPF_REG_10, .src_reg = BPF_REG_0, .off = -8, .imm = BPF_OR | BPF_FETCH},
        {.code = BPF_JMP | BPF_EXIT},
    };

    return tried(bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, NULL, "GPL", program, ARRAY_COUNT(program), NULL));
}

#define TRACEFS "/sys/kernel/tracing"
#define TRACEFS_MAGIC 0x74726163
#define FORMAT_PATH TRACEFS "/events/block/block_rq_complete/format"

int tracker_read_format(struct track_format *out, struct err *e)
{
    CLEANUP(buf_release) struct buf text = {0};

    if (tracker_mount("tracefs", TRACEFS, TRACEFS_MAGIC, e) < 0 || file_read(FORMAT_PATH, 16384, &text, e) < 0)
        return -1;
    return format_parse(text.data, text.size_bytes, out, e);
}

static int has_format(void)
{
    struct track_format format;
    struct err e = {0};

    return tracker_read_format(&format, &e) == 0;
}

/* Waits for all programs that are at work. A kernel with processors without a tick (nohz_full) has none. */
static int has_barrier(void)
{
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

    return commands > 0 && commands & MEMBARRIER_CMD_GLOBAL;
}

#define BEST (1u << TRACK_WAY_BEST)
#define TYPES (1u << TRACK_WAY_TYPES)
#define FORMAT (1u << TRACK_WAY_FORMAT)

static const struct need {
    int (*there)(void); /* as tried says */
    const char *what, *since;
    unsigned ways; /* that need it */
} needs[TRACKER_NEEDS] = {
    [NEED_BPF] = {has_bpf, "BPF (CONFIG_BPF_SYSCALL)", "4.4", BEST | TYPES | FORMAT},
    [NEED_TYPES] = {has_types, "a description of its types, /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)", "5.4, where it was built with it", BEST | TYPES},
    [NEED_MAPPED] = {has_mapped_arrays, "BPF arrays that can be mapped, and programs that know its types", "5.5", BEST | TYPES},
    [NEED_ATOMICS] = {has_atomics, "BPF atomic operations that return what was there", "5.12", BEST},
    [NEED_BARRIER] = {has_barrier, "membarrier(2) (CONFIG_MEMBARRIER, without nohz_full)", "4.3", TYPES | FORMAT},
    [NEED_FORMAT] = {has_format, "the record of its tracepoint block_rq_complete in tracefs (CONFIG_EVENT_TRACING)", "4.18", FORMAT},
};

int tracker_offers(unsigned absent, struct err *e)
{
    int offers = 0;

    for (int i = 0; i < TRACKER_NEEDS; i++) {
        /* The record is asked for last, and only where it may be needed: tracefs is mounted for it. */
        int there = absent >> i & 1 || (i == NEED_FORMAT && tracker_may(TRACK_WAY_BEST, offers)) ? 0 : needs[i].there();

        if (there < 0)
            return tracker_fail(e, EPERM, "BPF");
        offers |= there << i;
    }
    return offers;
}

bool tracker_may(enum track_way way, int offers)
{
    for (int i = 0; i < TRACKER_NEEDS; i++)
        if (needs[i].ways >> way & 1 && !(offers >> i & 1))
            return false;
    return true;
}

/* What is not there of what these ways need. */
static void say(struct buf *out, int offers, unsigned ways)
{
    struct utsname kernel = {0};
    const char *between = "";

    uname(&kernel);
    buf_printf(out, "this kernel, %s, lacks ", kernel.release);
    for (int i = 0; i < TRACKER_NEEDS; i++)
        if (needs[i].ways & ways && !(offers >> i & 1)) {
            buf_printf(out, "%s%s (from %s on)", between, needs[i].what, needs[i].since);
            between = "; ";
        }
}

int tracker_say_missing(int offers, struct err *e)
{
    CLEANUP(buf_release) struct buf missing = {.limit_bytes = 700};

    say(&missing, offers, BEST | TYPES | FORMAT);
    return err_set(e, ERR_UNSUPPORTED, "%s", missing.data);
}

void tracker_say_lacks(struct tracker *t, int offers, const char *failed)
{
    static const char *const costs[TRACK_WAYS] = {
        [TRACK_WAY_TYPES] = "whole chunks of 64 KiB are read where pages would do, and whatever ends the agent, the next one reads everything",
        [TRACK_WAY_FORMAT] = "whole chunks of 64 KiB are read where pages would do; whatever ends the agent, the next one reads everything; and so does this one after a discard on a disk that takes several ranges at once (NVMe), and after a "
                             "command past the block layer",
    };
    CLEANUP(buf_release) struct buf text = {.limit_bytes = sizeof t->lacks - 1};

    if (t->way == TRACK_WAY_BEST)
        return;
    if (*failed)
        buf_printf(&text, "%s", failed);
    else
        say(&text, offers, (1u << t->way) - 1);
    buf_printf(&text, ": %s", costs[t->way]);
    snprintf(t->lacks, sizeof t->lacks, "%s", text.data);
}
