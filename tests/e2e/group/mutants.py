#!/usr/bin/python3
"""mutants.py NAME SOURCE OUT: a copy of one of Slipway's files with one mistake in it, which test_group must find. As the exactness proof's mutate.py,
whose engine it borrows."""
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "exactness"))

import mutate  # pylint: disable=wrong-import-position

mutate.MUTANTS = {
    # The agent thaws as soon as it has what it wants, and does not look again whether all stood still.
    "agent_thaws_first": {
        "point.c": [
            ("    if (result == 0 && r->group)\n        result = stand_still(a, writes, end_us, e);\n",
             "    if (result == 0 && r->group) {\n        freezer_thaw(a->freezer, &thawed, NULL);\n"
             "        result = step_say(a, WIRE_STILL, e) < 0 ? -1 : step_wait(a, WIRE_COMMIT, deadline_us, e);\n    }\n"),
        ],
    },
    # The replicator has the servers stand still in turn, and releases each before it asks the next.
    "slipway_in_turn": {
        "group.c": [
            ("static int attempt(struct group *g, struct err *e)\n{\n",
             "static int in_turn(struct group *g, struct err *e)\n{\n"
             "    vault_group_begin(g->r->vault, g->wanted->name, clock_now_us(), g->made);\n"
             "    for (size_t i = 0; i < g->count; i++) {\n"
             "        int come;\n\n"
             "        if (tell(g, i, WIRE_STILL, e) < 0)\n            return -1;\n"
             "        while ((come = look_at(g->peers[i], WIRE_STILL, e)) == 0)\n            clock_sleep_us(500);\n"
             "        if (come < 0)\n            return -1;\n"
             "        pthread_mutex_lock(&g->peers[i]->lock);\n"
             "        g->peers[i]->slots[SLOT_POINT].group = g->made;\n"
             "        pthread_mutex_unlock(&g->peers[i]->lock);\n"
             "        if (tell(g, i, WIRE_COMMIT, e) < 0)\n            return -1;\n"
             "    }\n    (void)release;\n    return 0;\n}\n\n"
             "static int attempt(struct group *g, struct err *e)\n{\n"),
            ("tell_all(g, WIRE_STILL, e) < 0 || await_all(g, WIRE_STILL, e) < 0 ||\n                         release(g, e) < 0 ||",
             "in_turn(g, e) < 0 ||"),
        ],
    },
}

if __name__ == "__main__":
    pathlib.Path(sys.argv[3]).write_text(mutate.mutate(sys.argv[1], pathlib.Path(sys.argv[2])))
