#!/usr/bin/python3
"""clock.py SLIPWAY SLIPWAY_AGENT SET_CLOCK.so: the replicator's wall clock is set, ahead by more than any point may be old, back, and ahead again over a restart,
while a real agent replicates. No point may go for that, new ones must come, and the newest must be the disk. Prints TAP."""
import json
import os
import sys
import time

SLIPWAY, AGENT, SET_CLOCK = (os.path.abspath(program) for program in sys.argv[1:4])
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from replicated import MIB, World, continuous, in_world  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

DAY_S = 86400
SWEEPS_S = 45  # two of retention's, which come every 20 s


class Clocked(World):
    def set_clock(self, seconds):
        (self.dir / "clock").write_text(str(seconds))

    def start_clocked(self):
        self.start_replicator(LD_PRELOAD=SET_CLOCK, SET_CLOCK=str(self.dir / "clock"))

    def ids(self):
        return [point["id"] for point in self.ask("points", server="web01")["points"]]

    def write(self, text):
        (self.mounted / "written").write_text(text * 1000)
        self.sync()


def points(world, count):
    there = set(world.ids())
    for number in range(count):
        newest = world.server()["newest_point"]
        world.write(f"{number} of {count}\n")
        world.wait(f"point {number + 1} of {count}", lambda newest=newest: world.server()["newest_point"] != newest)
    return set(world.ids()) - there


def stay(world, known, what):
    time.sleep(SWEEPS_S)
    there = set(world.ids())
    ok(known <= there, f"{what}: all {len(known)} points stay", sorted(known - there))


def exact(world):
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    compared = world.ask("compare", server="web01", point=point["id"])["disks"][0]
    world.ask("thaw", server="web01")
    ok(compared["blocks_differing"] == 0 and compared["still"], "a held point is the disk: " + json.dumps(compared))
    return point


def steps(world):
    world.certificates()
    world.disk(64 * MIB)
    world.set_clock(0)
    world.start_clocked()
    world.wait("the replicator listens", lambda: world.ask("status"))
    world.start_agent()
    world.wait("the first sync ends", lambda: continuous(world), 120)
    known = set(world.ids()) | points(world, 6)
    world.set_clock(400 * DAY_S)
    stay(world, known, "the clock jumps 400 days ahead")
    log = world.dir / "replicator.log"
    ok("the clock was set ahead by 34560000 s" in log.read_text() or "the clock was set ahead by 34559999 s" in log.read_text(), "the log says so")
    known |= points(world, 2)
    ok(exact(world)["at"][:4] > min(known)[:4], "new points have the new time")
    world.set_clock(-30 * DAY_S)
    known |= set(world.ids()) | points(world, 2)
    stay(world, known, "and back, to before the first")
    exact(world)
    world.kill("replicator")
    world.set_clock(800 * DAY_S)
    world.start_clocked()
    world.wait("it starts again, with the clock ahead", lambda: world.ask("status") and world.server()["connected"] and continuous(world), 120)
    stay(world, known, "over a restart")
    exact(world)


in_world(lambda: Clocked(SLIPWAY, AGENT), steps)
