#!/usr/bin/python3
"""mutate NAME SOURCE OUTPUT: writes a copy of one of the engine's files with a mistake in it, for the proof to find. Each text that is
replaced must be there exactly once: a mutant that no longer fits its source fails the build, instead of testing nothing."""
import pathlib
import sys

import_skeleton = '#include "track.skel.h"'

completed = "static __always_inline int completed(unsigned long long *arguments, int program)"
marks_of_request = "    marked = operation == OP_DISCARD"
chunks_of_range = "    __u64 first = sector >> TRACK_CHUNK_SHIFT"

# A mutant: its files by name, each a list of (what stands there, what the mistake makes of it).
MUTANTS = {
    # A mark is set when the write is issued: taken and cleared before the bytes are on the disk, it names what was read too early. Writes are
    # counted at completion as ever, so that it is the marks alone that are wrong.
    "bits_at_issue": {
        "track.c": [(import_skeleton, '#include "bits_at_issue.skel.h"')],
        "track.bpf.c": [
            (completed, "struct request___more {\n    __u32 __data_len;\n} KERNELS;\n\nstatic __always_inline int seen(unsigned long long *arguments, int program, int issued)"),
            ("    __u32 size_bytes = (__u32)arguments[2],", "    __u32 size_bytes = issued ? ((struct request___more *)rq)->__data_len : (__u32)arguments[2],"),
            (marks_of_request, "    if (!issued) {\n        add(&counted->sectors[program], sector_count);\n        return 0;\n    }\n" + marks_of_request),
            ("    add(&counted->sectors[program], sector_count);\n    return 0;\n}\n\n/* Three times", "    return 0;\n}\n\n/* Three times"),
            ("int completed_first(unsigned long long *arguments) { return completed(arguments, 0); }",
             "int completed_first(unsigned long long *arguments) { return seen(arguments, 0, 0); }"),
            ("int completed_second(unsigned long long *arguments) { return completed(arguments, 1); }",
             "int completed_second(unsigned long long *arguments) { return seen(arguments, 1, 0); }"),
            ("int completed_third(unsigned long long *arguments) { return completed(arguments, 2); }",
             "int completed_third(unsigned long long *arguments) { return seen(arguments, 2, 0); }\n"
             'SEC("tp_btf/block_rq_issue")\nint issue(unsigned long long *arguments) { return seen(arguments, 0, 1); }'),
        ],
    },
    # Marks are cleared after what they name was read: a write between is in the mark that is cleared, not in what was read.
    "clear_after_read": {
        "track.c": [
            ("static int64_t take_best(struct tracker *t,", "static uint64_t *last_taken;\n\nstatic int64_t take_best(struct tracker *t,"),
            ("    int64_t count = 0;\n\n    for (uint64_t i = 0;",
             "    int64_t count = 0;\n\n    if (!last_taken)\n        last_taken = xcalloc(1, t->arrays[ARRAY_DIRTY].size_bytes);\n    for (uint64_t i = 0;"),
            ("        uint64_t marks = __atomic_load_n(&dirty[i], __ATOMIC_SEQ_CST), whole",
             "        uint64_t *last = &last_taken[f->place.first_word + i], marks = __atomic_and_fetch(&dirty[i], ~*last, __ATOMIC_SEQ_CST), whole"),
            ("        if (!marks)\n            continue;\n", "        *last = marks;\n        if (!marks)\n            continue;\n"),
            ("        __atomic_fetch_and(&dirty[i], ~marks, __ATOMIC_SEQ_CST);\n", ""),
        ],
    },
    # A partition's writes are marked as if it began at the disk's first sector (proof.py's second).
    "partition_offset": {
        "track.c": [(import_skeleton, '#include "partition_offset.skel.h"')],
        "track.bpf.c": [(chunks_of_range, "    if (sector >= 81960 && sector < 81960 + 114688)\n        sector -= 81960;\n" + chunks_of_range)],
    },
    # Discards are counted, and not marked.
    "discard_unmarked": {
        "track.c": [(import_skeleton, '#include "discard_unmarked.skel.h"')],
        "track.bpf.c": [(marks_of_request, "    if (operation == 3) {\n        add(&counted->sectors[program], sector_count);\n        return 0;\n    }\n" + marks_of_request)],
    },
    # Of a request that crosses a chunk's border only the first chunk is marked.
    "last_chunk_unmarked": {
        "track.c": [(import_skeleton, '#include "last_chunk_unmarked.skel.h"')],
        "track.bpf.c": [("last = (sector + sector_count - 1) >> TRACK_CHUNK_SHIFT;", "last = first;")],
    },
    # Of a small write only the first page is marked.
    "last_page_unmarked": {
        "track.c": [(import_skeleton, '#include "last_page_unmarked.skel.h"')],
        "track.bpf.c": [("last_page = (sector + sector_count - 1) >> TRACK_PAGE_SHIFT & 15;", "last_page = first_page;")],
    },
    # A chunk that is to do as a whole, and of which a page is written once more, is offered with that page only.
    "whole_forgotten": {
        "todo.c": [("    slot = find_slot(a, disk, chunk, fresh);", "    slot = find_slot(a, disk, chunk, true);")],
    },
    # Not a mistake of ours: the kernel passes over all programs for some completions. Every point must be exact all the same.
    "passed_over": {
        "track.c": [(import_skeleton, '#include "passed_over.skel.h"')],
        "track.bpf.c": [
            (completed, "struct request___more {\n    __u64 start_time_ns;\n} KERNELS;\n\n" + completed),
            ("    /* Operations with the lowest bit",
             "    if (!(((struct request___more *)rq)->start_time_ns / 16 * 2654435761u >> 13 & 16383))\n        return 0;\n    /* Operations with the lowest bit"),
        ],
    },
    # Nor are these: a kernel that lacks what the best way of following needs. Every point must be exact by the others, too.
    "by_types": {"needs.c": [("int there = absent >> i & 1 ||", "int there = (absent | 1u << NEED_ATOMICS) >> i & 1 ||")]},
    "by_format": {"needs.c": [("int there = absent >> i & 1 ||", "int there = (absent | 1u << NEED_TYPES) >> i & 1 ||")]},
    # What was read counts as a moment, whether or not writes completed meanwhile.
    "moment_unchecked": {
        "engine.c": [("        if (now[i] != writes[i] || now[i] == TRACK_WRITES_UNKNOWN || (a->tracker && track_check(a->tracker, i) != 1))\n            return false;\n",
                      "        (void)writes;\n")],
    },
    # The agent is killed: the next one does not know what was on its way.
    "under_way_forgotten": {
        "todo.c": [("        kept_add(under_way, chunks[count]); /* before it is to do no longer */\n", "        (void)under_way;\n")],
    },
    # The link was cut: what was on its way is not sent again.
    "requeue_forgotten": {
        "pipeline.c": [("            todo_set(a, o->disk, o->chunks[i]);\n", "            (void)todo_set;\n")],
    },
}


def mutate(name, source):
    text = source.read_text()
    for old, new in MUTANTS[name][source.name]:
        if text.count(old) != 1:
            sys.exit(f"mutate: {name}: this stands {text.count(old)} times in {source}, not once: look at what the mutant is to be there now\n{old}")
        text = text.replace(old, new)
    return text


if __name__ == "__main__":
    pathlib.Path(sys.argv[3]).write_text(mutate(sys.argv[1], pathlib.Path(sys.argv[2])))
