/* What kernels of 4.18 take can't be tried on one here; but their verifier's bounds are known, and the programs for them are held to these: no more than 4,096 instructions (until 5.2), no loop (until 5.3), no call from one
 * function to another, no instruction and no helper that came later. */
#include "track/plain.h"
#include "tap.h"

#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <string.h>

#define INSTRUCTIONS_MOST 4096u

enum { UNSEEN, UNDER_WAY, DONE };

struct walk {
    const struct bpf_insn *at;
    size_t count;
    uint8_t *state;
    bool loops;
};

/* The ways on from an instruction, 0 to 2 of them. */
static int ways_on(const struct walk *w, size_t i, size_t on[2])
{
    const struct bpf_insn *insn = &w->at[i];
    uint8_t class = BPF_CLASS(insn->code), op = BPF_OP(insn->code);

    if (class == BPF_JMP && op == BPF_EXIT)
        return 0;
    on[0] = i + 1 + (insn->code == (BPF_LD | BPF_DW | BPF_IMM)); /* which takes two */
    if (class != BPF_JMP || op == BPF_CALL)
        return 1;
    on[op == BPF_JA ? 0 : 1] = (size_t)((int64_t)i + 1 + insn->off);
    return op == BPF_JA ? 1 : 2;
}

static void walk(struct walk *w, size_t i)
{
    size_t on[2];
    int count;

    if (w->state[i] != UNSEEN) {
        w->loops |= w->state[i] == UNDER_WAY;
        return;
    }
    w->state[i] = UNDER_WAY;
    count = ways_on(w, i, on);
    for (int k = count - 1; k >= 0; k--)
        walk(w, on[k]);
    w->state[i] = DONE;
}

/* Those of 4.18: of atomics the addition that returns nothing, no jumps by 32 bits, and three helpers: map_lookup_elem, probe_read, get_smp_processor_id. */
static bool is_old(const struct bpf_insn *insn)
{
    uint8_t class = BPF_CLASS(insn->code), op = BPF_OP(insn->code);

    if (class == BPF_JMP32)
        return false;
    if (class == BPF_STX && BPF_MODE(insn->code) == BPF_ATOMIC)
        return insn->imm == BPF_ADD && BPF_SIZE(insn->code) == BPF_DW;
    if (class == BPF_JMP && op == BPF_CALL)
        return insn->src_reg == 0 && (insn->imm == BPF_FUNC_map_lookup_elem || insn->imm == BPF_FUNC_probe_read || insn->imm == BPF_FUNC_get_smp_processor_id);
    return true;
}

static void look(struct bpf_program *program)
{
    struct walk w = {.at = bpf_program__insns(program), .count = bpf_program__insn_cnt(program)};
    size_t young = 0;

    w.state = xcalloc(w.count + 1, 1);
    walk(&w, 0);
    for (size_t i = 0; i < w.count; i++) {
        young += !is_old(&w.at[i]);
        i += w.at[i].code == (BPF_LD | BPF_DW | BPF_IMM);
    }
    ok(w.count <= INSTRUCTIONS_MOST, "%s: %zu instructions", bpf_program__name(program), w.count);
    ok(!w.loops, "no loop");
    is_int(young, 0, "none is younger than 4.18");
    free(w.state);
}

int main(void)
{
    size_t size;
    const void *bytes = plain_programs(TRACK_WAY_FORMAT, &size);
    struct bpf_object *object = bpf_object__open_mem(bytes, size, NULL);
    struct bpf_program *program;
    int programs = 0;

    MUST(object);
    bpf_object__for_each_program(program, object) {
        look(program);
        programs++;
    }
    is_int(programs, 2, "both were looked at");
    ok(!bpf_object__find_map_by_name(object, ".rodata") && !bpf_object__find_map_by_name(object, ".bss"), "nothing beside the programs, which came with 5.2");
    bpf_object__close(object);
    return tap_done();
}
