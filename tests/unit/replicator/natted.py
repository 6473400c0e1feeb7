#!/usr/bin/python3
"""natted: the agent is behind a router that has one address for all behind it, and the way there is 200 ms long (there and back), loses one packet in a
hundred, and brings others out of order and twice. What is synced is exact. The router forgets its connections: both ends notice, and go on where they were.
Prints TAP.
Usage: natted SLIPWAY SLIPWAY_AGENT DELAY_LINE"""
import json
import os
import shutil
import subprocess
import sys
import time

SLIPWAY, AGENT, DELAY_LINE = sys.argv[1:4]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import natnet  # pylint: disable=wrong-import-position
import tap  # pylint: disable=wrong-import-position
from replicated import CHUNK, MIB, World, continuous, device_hash, first_chunk, in_world, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position

MBIT_PER_S, RTT_MS = 20, 200
LOST, OVERTAKEN, DOUBLED = 10, 10, 10  # of 1,000 packets, in each direction
NOTICED_S, PATIENCE_S = 30, 45  # what the protocol says; with the time that a busy machine takes to say so
FILES, DISK, APART = 16 * MIB, 128 * MIB, MIB
SLACK = 8 * MIB  # what the filesystem writes meanwhile, and an offer that was read in part


class Natted(World):
    """The agent's network is behind the router, the replicator's outside; all else of both is the machine's."""

    def __init__(self, network):
        super().__init__(SLIPWAY, AGENT)
        self.network, self.address = network, natnet.OUTSIDE
        self.places = {"replicator": "outside", "agent-web01": "behind"}

    def start(self, name, *words, **more):
        within = self.network.within[self.places[name]] if name in self.places else ()
        return super().start(name, *within, *words, **more)

    def restoring(self, *more, folder="rescue"):
        return subprocess.Popen([str(word) for word in (*self.network.within["behind"], AGENT, "restore", "--config", self.dir / folder / "config.json", *more)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def fill(self):
        """So that the way there is as long everywhere: each MiB behind the files has a chunk that does not compress."""
        self.disk(DISK, DISK - FILES)
        with open(self.loop, "r+b", buffering=0) as f:
            for at in range(FILES, DISK, APART):
                f.seek(at)
                f.write(os.urandom(CHUNK))
            os.fsync(f.fileno())

    def fill_files(self):
        (self.mounted / "text").write_text("the quick brown fox\n" * 40000)

    def agent_has_read(self):
        return json.loads(run(AGENT, "status", "--config", self.dir / "agent-web01/config.json"))["bytes_read"]

    def is_through(self):
        return self.network.is_through(self.port)


def timed(world, what, condition):
    """How long it took, from now on."""
    begun = time.monotonic()
    world.wait(what, condition, PATIENCE_S)
    return time.monotonic() - begun


def first_sync(world):
    world.start_replicator()
    world.start_agent()
    world.wait("the initial sync is a third done", lambda: world.server()["bytes_done"] > DISK // 3, 180)
    ok(world.is_through() and not continuous(world), f"from the router's address: {world.network.seen(world.port)}")


def forgotten(world):
    """No end of the connection is told. The agent may dial at once, once it has noticed."""
    left, read = DISK - world.server()["bytes_done"], world.agent_has_read()
    world.network.route(30000)
    world.network.forget()

    def comes_anew():
        nonlocal read
        if world.is_through():
            return True
        read = world.agent_has_read()
        return False
    taken = timed(world, "the router forgets its connections: the agent notices, and comes from another port", comes_anew)
    ok(taken > NOTICED_S / 3, f"by the silence: after {taken:.0f} s")
    world.wait("the replicator goes on with it, to a point", lambda: world.server()["connected"] and continuous(world), 240)
    since, again = world.agent_has_read() - read, world.read_again("web01") * DISK  # where this kernel passed over the tracker meanwhile
    ok(since <= left + again + SLACK, f"nothing starts over: {since >> 20} MiB are read since, {left >> 20} of {DISK >> 20} MiB were not acknowledged before")


def exact(world):
    (world.mounted / "later").write_bytes(os.urandom(MIB // 2))
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=120000)["point"]
    compared = world.ask("compare", server="web01", point=point["id"])["disks"][0]
    world.ask("thaw", server="web01")
    intact(compared["blocks_differing"] == 0 and compared["still"], "a held point is exact: " + json.dumps(compared))


def other_port(world):
    """It forgets them, and takes what comes for new ones: in the midst, from another port, to an end that never heard of them."""
    world.network.route(40000, takes_up=True)
    world.network.forget()
    taken = timed(world, "a router that takes up what it forgot, at another port: the agent is told, and comes anew", world.is_through)
    ok(taken < NOTICED_S, f"at once: after {taken:.0f} s")
    world.wait("and goes on", lambda: world.server()["connected"] and continuous(world), 60)


def dead(world):
    """Nothing goes through any more, in either direction: each end has only the silence."""
    begun = time.monotonic()
    world.network.route(50000, policy="drop")
    world.network.forget()
    seen = {}

    def noticed():
        now = time.monotonic() - begun
        if not world.server()["connected"]:
            seen.setdefault("replicator", now)
        if not world.network.is_dialled(world.port):
            seen.setdefault("agent", now)
        return len(seen) == 2
    world.wait("a router that lets nothing through: both ends notice", noticed, PATIENCE_S)
    ok(all(NOTICED_S / 3 < at for at in seen.values()), "by the silence: " + ", ".join(f"the {end} after {at:.0f} s" for end, at in sorted(seen.items())))
    world.network.route(50000)
    world.wait("it lets through again: they go on", lambda: world.is_through() and world.server()["connected"] and continuous(world), 120)


def back_home(world):
    """A point goes back onto a disk that differs here and there; in the midst the router takes the connection up at another port."""
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=120000)["point"]["id"]
    source, home = device_hash(world.loop), world.dir / "home.raw"
    shutil.copy(world.dir / "source.raw", home)
    world.ask("thaw", server="web01")
    world.ask("pin", point=point, reason="test")
    with open(home, "r+b") as f:
        for at in range(FILES, DISK, 4 * APART):
            f.seek(at)
            f.write(bytes(CHUNK))
    loop = world.loop_over(home)
    world.rescue_folder("web01", "rescue")
    process = world.restoring("--point", point, "--onto", os.path.basename(loop))
    world.wait("a restore is at work: the disk boots nobody", lambda: first_chunk(loop) == bytes(CHUNK), 60)
    world.network.route(60000, takes_up=True)
    world.network.forget()
    said, log = process.communicate(timeout=300)
    ok(process.returncode == 0 and "the restore goes on" in log, f"its connection comes from another port, and it goes on: {said}{log}")
    intact(device_hash(loop) == source, "the disk is the source, byte by byte")


def line_was_bad(world):
    counted = world.network.counted()
    tap.note(json.dumps(counted))
    for way in range(2):
        packets = counted["packets"][way]
        ok(all(packets * share / 6000 < counted[what][way] < packets * share * 3 / 1000 for what, share in (("lost", LOST), ("overtaken", OVERTAKEN), ("doubled", DOUBLED))),
           f"of {packets} packets {'to' if way == 0 else 'from'} the replicator {counted['lost'][way]} were lost, {counted['overtaken'][way]} overtook, {counted['doubled'][way]} came twice")


def steps(world):
    seed = int(os.environ.get("SLIPWAY_SEED", time.time_ns() // 1000 % 1000000))
    tap.note(f"SLIPWAY_SEED={seed}")
    world.at_end(world.network.end)
    world.network.begin(world, DELAY_LINE, MBIT_PER_S, RTT_MS, (seed, LOST, OVERTAKEN, DOUBLED))
    world.certificates()
    world.fill()
    first_sync(world)
    forgotten(world)
    exact(world)
    other_port(world)
    dead(world)
    exact(world)
    back_home(world)
    line_was_bad(world)


in_world(lambda: Natted(natnet.Network()), steps, "root for loop devices and network namespaces")
