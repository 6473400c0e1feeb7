#!/usr/bin/python3
"""mutate NAME SOURCE OUTPUT: writes a copy of one of the vault's files with a mistake in it, for the simulation to find (as tests/e2e/exactness/mutate.py)."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "e2e/exactness"))
import mutate

synced_first = ("    if (batch_sync(v, &b, e) < 0 || index_begin(&v->index, true, &txn, e) < 0 || batch_write(v, txn, &b, NULL, e) < 0 ||\n"
                "        (extra && extra(v, txn, user, e) < 0) || index_commit(&txn, e) < 0)\n")
built_synced = "batch_sync(v, &b, e) < 0 || batch_write(v, txn, &b, &early, e) < 0 || extra(v, txn, user, e) < 0 || index_commit(&txn, e) < 0)\n"
built_early = "batch_write(v, txn, &early, NULL, e) < 0 || build(v, txn, user, e) < 0)\n"
lmdb_flags = "MDB_NOTLS | MDB_NORDAHEAD | flags"

mutate.MUTANTS = {
    # The index says where records lie before they are on the disk.
    "index_first": {"commit.c": [(synced_first,
        "    if (index_begin(&v->index, true, &txn, e) < 0 || batch_write(v, txn, &b, NULL, e) < 0 || (extra && extra(v, txn, user, e) < 0) ||\n"
        "        index_commit(&txn, e) < 0 || batch_sync(v, &b, e) < 0)\n"), (built_synced,
        "batch_write(v, txn, &b, &early, e) < 0 || extra(v, txn, user, e) < 0 || index_commit(&txn, e) < 0 || batch_sync(v, &b, e) < 0)\n")]},
    # A segment that was filled since the last sync is not synced.
    "full_unsynced": {"commit.c": [("    for (size_t i = 0; i < b->segment_count; i++)\n        if (segment_sync(",
                                    "    for (size_t i = b->full_count; i < b->segment_count; i++)\n        if (segment_sync(")]},
    # A feed is in a transaction before that of the changes that it speaks of.
    "feed_first": {"commit.c": [("    b->set_count = v->pending.set_count;\n",
                                 "    b->set_count = v->pending.feed_count ? v->pending.set_count / 2 : v->pending.set_count;\n"),
                                ("    return broken ? err_set(e, ERR_IO, \"the vault can't be written",
                                 "    (void)0;\n    return broken ? err_set(e, ERR_IO, \"the vault can't be written")]},
    # A segment's name is not synced.
    "segment_unnamed": {"segment.c": [(" || file_sync_dir(dir, e) < 0)", ")")]},
    # The index is begun under its own name.
    "index_in_place": {"index.c": [(" || (!file_exists(path) && make_file(path, e) < 0))", ")\n        return -1;\n    if (0 && make_file(path, e) < 0)")]},
    # LMDB's flags that are faster: no sync at all; the page that makes a commit count is not synced; pages are written by the mapping.
    "index_unsynced": {"index.c": [(lmdb_flags, lmdb_flags + " | MDB_NOSYNC")]},
    "index_meta_unsynced": {"index.c": [(lmdb_flags, lmdb_flags + " | MDB_NOMETASYNC")]},
    # What a killed process left of a commit is believed, and not synced.
    "open_unsynced": {"index.c": [("    code = mdb_env_sync(out->env, 1);\n", "    code = 0;\n")]},
    # Neither the folders' and the index's names are synced, nor those that a killed process left.
    "names_unsynced": {"vault.c": [(" || sync_names(v, e) < 0)", " || (0 && sync_names(v, e) < 0))")]},
    # What lies in a torn tail is taken in unread.
    "tail_unread": {"segment.c": [("    return record_payload_intact(r, payload);\n", "    return 1;\n")]},
    # What a killed process wrote is taken in as it is read, also where the disk has dropped it.
    "tail_not_again": {"recover_segment.c": [("    if (write_again(&s, e) < 0 || settle(", "    (void)write_again;\n    if (settle(")]},
    # An index that was not made to its end is gone on with: it knows segments, and not their points.
    "unfinished_believed": {"recover.c": [("    *fresh = found == 0 || half == 1;", "    *fresh = found == 0;")]},
    # A deleted segment's row goes before it is gone for good.
    "segment_comes_back": {"gc_segments.c": [("    if (unlink(path) < 0 && errno != ENOENT)\n        return err_errno(e, errno, \"can't remove %s\", path);\n"
                                     "    if (file_sync_dir(v->segment_dir, e) < 0 || vault_flush(v, forget_segment, d, e) < 0)\n        return -1;\n",
                                     "    if (vault_flush(v, forget_segment, d, e) < 0 || file_sync_dir(v->segment_dir, e) < 0)\n        return -1;\n"
                                     "    if (unlink(path) < 0 && errno != ENOENT)\n        return err_errno(e, errno, \"can't remove %s\", path);\n")]},
    # What lives in a sparse segment is copied, and not synced before the segment goes.
    "copy_unsynced": {"gc_segments.c": [("    if (copied < 0 || vault_flush(v, forget_buried, d, e) < 0)\n        return -1;\n",
                                       "    (void)forget_buried;\n    if (copied < 0)\n        return -1;\n")]},
    # A point that is dropped while space is given back leaves its document elsewhere, without its grave.
    "buried_copied": {"gc_segments.c": [("    found = is_buried(g, &r, bytes + RECORD_HEADER_SIZE, e);\n", "    found = 0 && is_buried(g, &r, bytes + RECORD_HEADER_SIZE, e);\n")]},
    # A grave whose point could not be dropped is forgotten.
    "drop_forgotten": {"point.c": [("        return v->drop_count ? err_wrap(e, ", "        v->drop_count = 0;\n    if (v->drop_count)\n        return v->drop_count ? err_wrap(e, ")]},
    # Graves are known before what they bury is gone.
    "buried_late": {"recover.c": [("    foresee(&r);\n    if (vault_flush(v, NULL, NULL, e) < 0 ||", "    if (vault_flush(v, NULL, NULL, e) < 0)\n        return -1;\n    foresee(&r);\n    if (vault_flush(v, NULL, NULL, e) < 0 ||")]},
    # A node that seems to be marked already, and is not, hides what is below it.
    "nodes_by_sieve": {"gc_mark.c": [("    hash_sieve_add(&g->marked, hash);\n    return level >= 0 && hash_seen_add(&g->nodes, hash);\n",
                                      "    return hash_sieve_add(&g->marked, hash) && level >= 0;\n")]},
    # What has no room among the pages that are used is used by nobody.
    "uses_forgotten": {"gc_mark.c": [("    hash_sieve_add(&g->uses_beyond, hash);\n", "")]},
    # A sync that failed is asked for again, and believed.
    "sync_again": {"commit.c": [("            v->broken = true;\n", "            v->broken = false;\n")]},
    # A group's points are made visible one after another.
    "group_in_parts": {"group.c": [("    if (record_add(v, RECORD_GROUP, text, strlen(text), &hash, NULL, e) < 0 || vault_flush(v, reveal_rows, &r, e) < 0)\n        return -1;\n",
        "    if (record_add(v, RECORD_GROUP, text, strlen(text), &hash, NULL, e) < 0)\n        return -1;\n"
        "    for (size_t all = g->count, n = g->count = 1; n <= all; g->count = ++n)\n        if (vault_flush(v, reveal_rows, &r, e) < 0)\n            return -1;\n"
        "    g->count--;\n")]},
    # A point that was staged counts without its group's own document.
    "group_believed": {"recover.c": [("p, &sequence, NULL) < 0 || (p->group[0] && !p->copied) || buried(", "p, &sequence, NULL) < 0 || buried(")]},
    # What was sealed under a new data key is there, and the key is not.
    "key_unsynced": {"vault.c": [
        ("static int write_superblock(", "static int write_unsynced(const char *path, const char *text)\n{\n    CLEANUP(free_ptr) char *new = xasprintf(\"%s.XXXXXX\", path);\n"
         "    CLEANUP(close_fd) int fd = mkstemp(new);\n\n"
         "    return fd < 0 || write(fd, text, strlen(text)) < 0 ? -1 : rename(new, path);\n}\n\nstatic int write_superblock("),
        ("|| file_write(path, text, strlen(text), 0600, e) < 0)\n        return -1;\n    if (!v->superblock)",
         "|| (v->next_segment ? write_unsynced(path, text) : file_write(path, text, strlen(text), 0600, e)) < 0)\n        return err_set(e, ERR_IO, \"vault.json\");\n    if (!v->superblock)")]},
    # The segment that a compaction closes is not synced.
    "closed_unsynced": {"append.c": [("        if (r == 0)\n            hold_full(v);\n",
                                     "        segment_close(&v->current);\n        v->current = (struct segment){.fd = -1};\n")]},
    # A collection does not see that a chunk which comes back while it marks needs others.
    "parts_unbarred": {"append.c": [("    for (size_t i = 0; pages && i < pages->part_count; i++)\n        hash_set_add(v->barrier, &pages->parts[i].name);\n",
                                    "    (void)pages;\n")]},
    # What a collection that failed has left of a chunk counts as all of it.
    "shrunk_believed": {"append.c": [("    if (divided == 1)\n        found = pages_are", "    if (divided == 1 && !pending_find(&v->pending, hash))\n        found = pages_are")]},
    # The file of pins is not synced.
    "pins_unsynced": {"pin_file.c": [("    if (file_write(path, text, size, 0600, e) < 0)\n",
                                      "    CLEANUP(free_ptr) char *new = xasprintf(\"%s.XXXXXX\", path);\n    CLEANUP(close_fd) int fd = mkstemp(new);\n\n"
                                      "    if (fd < 0 || fd_write_all(fd, text, size, NULL) < 0 || rename(new, path) < 0)\n")]},
    # A pin that has ended stays in the file.
    "pins_stay": {"pin.c": [("r == 0 && pins_write(v, NULL, e) < 0", "r == 0 && false")]},
    # What a commit builds, trees and the document, is appended after the segments were synced.
    "document_unsynced": {"commit.c": [(built_early, "batch_write(v, txn, &early, NULL, e) < 0 || batch_sync(v, &early, e) < 0 || build(v, txn, user, e) < 0)\n"),
                                       (built_synced, built_synced.replace("batch_sync(v, &b, e) < 0 || ", ""))]},
}

if __name__ == "__main__":
    pathlib.Path(sys.argv[3]).write_text(mutate.mutate(sys.argv[1], pathlib.Path(sys.argv[2])))
