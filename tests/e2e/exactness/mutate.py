#!/usr/bin/python3
"""mutate NAME SOURCE OUTPUT: writes a copy of one of the engine's files with a mistake in it, for the proof to find. Each text that is
replaced must be there exactly once: a mutant that no longer fits its source fails the build, instead of testing nothing."""
import pathlib
import sys

import_skeleton = '#include "track.skel.h"'

# A mutant: its files by name, each a list of (what stands there, what the mistake makes of it).
MUTANTS = {
    # A mark is set when the write is issued: taken and cleared before the bytes are on the disk, it names what was read too early. Writes are
    # counted at completion as ever, so that it is the marks alone that are wrong.
    "bits_at_issue": {
        "track.c": [(import_skeleton, '#include "bits_at_issue.skel.h"')],
        "track.bpf.c": [
            ('SEC("tracepoint/block/block_rq_complete")\nint completed(struct complete *e)',
             "static __always_inline int seen(struct complete *e, int issued)"),
            ("    __u64 first = e->sector",
             "    if (!issued) {\n        add_one(&counted->writes);\n        return 0;\n    }\n    __u64 first = e->sector"),
            ("    add_one(&counted->writes);\n    return 0;\n}\n\nchar",
             "    return 0;\n}\n\n"
             'SEC("tracepoint/block/block_rq_issue")\nint issue(struct complete *e) { return seen(e, 1); }\n\n'
             'SEC("tracepoint/block/block_rq_complete")\nint complete(struct complete *e) { return seen(e, 0); }\n\nchar'),
        ],
    },
    # Marks are cleared after what they name was read: a write between is in the mark that is cleared, not in what was read.
    "clear_after_read": {
        "track.c": [
            ("int64_t track_take(struct tracker *t,", "static uint64_t *last_taken;\n\nint64_t track_take(struct tracker *t,"),
            ("    int64_t count = 0;\n", "    int64_t count = 0;\n\n    if (!last_taken)\n        last_taken = xcalloc(1, t->words_size);\n"),
            ("        uint64_t marks = __atomic_load_n(&from[i], __ATOMIC_SEQ_CST) ? __atomic_exchange_n(&from[i], 0, __ATOMIC_SEQ_CST) : 0;\n",
             "        uint64_t *last = &last_taken[t->places[disk].first_word + i];\n"
             "        uint64_t marks = __atomic_and_fetch(&from[i], ~*last, __ATOMIC_SEQ_CST);\n\n"
             "        *last = marks;\n"),
        ],
    },
    # A partition's writes are marked as if it began at the disk's first sector (proof.py's second).
    "partition_offset": {
        "track.c": [(import_skeleton, '#include "partition_offset.skel.h"')],
        "track.bpf.c": [("    __u64 first = e->sector >> TRACK_CHUNK_SHIFT, last = (e->sector + e->sector_count - 1) >> TRACK_CHUNK_SHIFT;",
                         "    __u64 sector = e->sector >= 81960 && e->sector < 81960 + 114688 ? e->sector - 81960 : e->sector;\n"
                         "    __u64 first = sector >> TRACK_CHUNK_SHIFT, last = (sector + e->sector_count - 1) >> TRACK_CHUNK_SHIFT;")],
    },
    # Discards are taken for reads.
    "discard_unmarked": {
        "track.c": [(import_skeleton, '#include "discard_unmarked.skel.h"')],
        "track.bpf.c": [("    index = place->index;", "    if (rwbs[0] == 'D')\n        return 0;\n    index = place->index;")],
    },
    # Of a request that crosses a chunk's border only the first chunk is marked.
    "last_chunk_unmarked": {
        "track.c": [(import_skeleton, '#include "last_chunk_unmarked.skel.h"')],
        "track.bpf.c": [("last = (e->sector + e->sector_count - 1) >> TRACK_CHUNK_SHIFT;", "last = first;")],
    },
    # What was read counts as a moment, whether or not writes completed meanwhile.
    "moment_unchecked": {
        "engine.c": [("        if (now[i] != writes[i] || now[i] == TRACK_WRITES_UNKNOWN)\n            return false;\n", "        (void)writes;\n")],
    },
    # The link was cut: what was on its way is not sent again.
    "requeue_forgotten": {
        "pipeline.c": [("            todo_set(d, o->chunks[i]);\n", "            (void)todo_set;\n")],
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
