/* What the tracker needs of the kernel, asked one by one, so that who must do without it is told what is missing and from which kernel on it is there. */
#include "track/private.h"

#include "base/file.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
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

static const struct need {
    int (*there)(void); /* as tried says */
    const char *what, *since;
} needs[TRACKER_NEEDS] = {
    {has_bpf, "BPF (CONFIG_BPF_SYSCALL)", "4.4"},
    {has_types, "a description of its types, /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)", "5.4, where it was built with it"},
    {has_mapped_arrays, "BPF arrays that can be mapped, and programs that know its types", "5.5"},
    {has_atomics, "BPF atomic operations that return what was there", "5.12"},
};

int tracker_needs(unsigned absent, struct err *e)
{
    CLEANUP(buf_release) struct buf missing = {.limit_bytes = 700};
    struct utsname kernel = {0};

    for (size_t i = 0; i < ARRAY_COUNT(needs); i++) {
        int there = absent >> i & 1 ? 0 : needs[i].there();

        if (there < 0)
            return tracker_fail(e, EPERM, "BPF");
        if (!there)
            buf_printf(&missing, "%s%s (from %s on)", missing.size_bytes ? "; " : "", needs[i].what, needs[i].since);
    }
    if (!missing.size_bytes)
        return 0;
    uname(&kernel);
    return err_set(e, ERR_UNSUPPORTED, "this kernel, %s, lacks %s", kernel.release, missing.data);
}
