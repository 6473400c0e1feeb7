#!/usr/bin/python3
"""mutate NAME SOURCE OUTPUT: writes a copy of one of the session's files with a mistake in it, for the simulation to find (as tests/e2e/exactness/mutate.py)."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "e2e/exactness"))
import mutate

mutate.MUTANTS = {
    # Offers are acknowledged that are not durable.
    "ack_unsynced": {"session.c": [("    while (vault_sync(s->r->vault, &why) < 0) {", "    while (0 && vault_sync(s->r->vault, &why) < 0) {")]},
    # The feed says one offer more than is in the map.
    "feed_ahead": {"offers.c": [("    s->applied = feed.applied;\n", "    s->applied = feed.applied - 1;\n"),
                                ("struct vault_feed feed = {.applied = o->offer.number};", "struct vault_feed feed = {.applied = o->offer.number + 1};")]},
    # A point does not wait for the offers before it.
    "point_early": {"offers.c": [("        if (s->barrier && (!s->first || s->first->offer.number > s->barrier_after)) {", "        if (s->barrier) {")]},
    # A session of the same server goes on beside a new one.
    "two_sessions": {"session.c": [("    while ((p->session || p->copying) && result == 0) {\n", "    while (0 && (p->session || p->copying) && result == 0) {\n")]},
}

if __name__ == "__main__":
    pathlib.Path(sys.argv[3]).write_text(mutate.mutate(sys.argv[1], pathlib.Path(sys.argv[2])))
