#!/usr/bin/python3
"""disks_change: the real agent and the real replicator, while somebody writes to the source's first disk: a second one comes, grows, goes, comes again. Only what is
new is read; and each time a point that is held is the disks, block by block, also after the agent was killed in the midst. The agent sees a /sys/block of the test's own. Prints TAP. Usage: disks_change SLIPWAY SLIPWAY_AGENT"""
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from replicated import MIB, World, continuous, in_world, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position

FIRST, SECOND, MORE = 160 * MIB, 32 * MIB, 16 * MIB
WRITTEN = 4 * MIB  # the end of the first disk, which is written to all the time
KILLS = 6
SLACK = 48 * MIB   # of what is written there meanwhile


class Disk:
    """A loop device; in the agent's eyes, once it is plugged in, a disk."""

    def __init__(self, world, name, size):
        self.world, self.name, self.image = world, f"slipway{os.getpid()}{name}", world.dir / f"{name}.raw"
        with open(self.image, "wb") as f:
            f.write(os.urandom(size // 2))
            f.truncate(size)
        self.loop = run("losetup", "--find", "--show", "--direct-io=on", self.image).strip()
        self.node = pathlib.Path("/dev") / self.name
        os.mknod(self.node, 0o60600, os.stat(self.loop).st_rdev)

    def plugging(self):
        return f"ln -s /sys/devices/virtual/block/{os.path.basename(self.loop)} /sys/block/{self.name}"

    def plug(self):
        self.inside(self.plugging())

    def unplug(self):
        self.inside(f"rm /sys/block/{self.name}")

    def inside(self, command):
        run("nsenter", "-m", "-t", self.world.processes["agent-web01"].pid, "sh", "-c", command)

    def grow(self, more):
        """By what is not zero, and was never written through the disk."""
        with open(self.image, "ab") as f:
            f.write(os.urandom(more))
        run("losetup", "-c", self.loop)

    def close(self):
        subprocess.run(["losetup", "-d", self.loop], check=False)
        self.node.unlink(missing_ok=True)


class Writer:
    """While it is entered."""

    def __init__(self, disk):
        self.disk, self.stops, self.thread = disk, threading.Event(), None

    def __enter__(self):
        self.stops.clear()
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def __exit__(self, *_):
        self.stops.set()
        self.thread.join()

    def write(self):
        fd = os.open(self.disk.loop, os.O_WRONLY | os.O_DSYNC)
        while not self.stops.wait(0.02):
            os.pwrite(fd, os.urandom(4096), FIRST - WRITTEN + random.randrange(WRITTEN // 4096) * 4096)
        os.close(fd)


# A file system of another test, which runs beside this one, is in use for as long as its mount is in some namespace.
LEAVE_OTHERS = "awk '$5 ~ \"^/tmp/slipway\" && index($5, \"{}\") != 1 {{ print $5 }}' /proc/self/mountinfo | xargs -r umount -l"


def begin(world, disks):
    words = world.agent_words("web01", "auto", freeze_budget_ms=2000, tracker_dir=str(world.kept("agent-web01")))
    world.start("agent-web01", "unshare", "--mount", "--propagation", "private", "sh", "-c", " && ".join([LEAVE_OTHERS.format(world.dir), "mount -t tmpfs none /sys/block", *(disk.plugging() for disk in disks), 'exec "$@"']), "sh",
                *words, env={**os.environ, "SLIPWAY_LOG": "text"})
    total = sum(disk.image.stat().st_size for disk in disks)
    world.wait(f"{len(disks)} disks, continuous", lambda: world.server()["connected"] and continuous(world) and world.server()["bytes_total"] == total)


def read_so_far(world):
    return json.loads((world.dir / "run-agent-web01/status.json").read_text())["bytes_read"]


def read_again(world):
    """How often the kernel had passed over the tracker, so that one disk was read again: as against all of them."""
    return len(re.findall(r"disk \S+ is read again", (world.dir / "agent-web01.log").read_text()))


def settled(world):
    """Of what had to be read again by now nothing is left to read; how often that was."""
    again = -1
    while again != read_again(world):
        again = read_again(world)
        world.wait("what there is is replicated", lambda: continuous(world))
    return again


def change(world, writer, what, does, total, new):
    """While somebody writes to the first disk; `new` bytes are new of all then."""
    with writer:
        time.sleep(1)
        again, read = settled(world), read_so_far(world)
        does()
        world.wait(f"{what}: all of it is replicated", lambda: world.server()["bytes_total"] == total and continuous(world))
        read = read_so_far(world) - read
    ok(new <= read < new + SLACK or read_again(world) > again, f"what is new was read ({new >> 20} MiB), and what was written meanwhile: {read >> 20} MiB in all")


def is_exact(world, disk_count):
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    compared = world.ask("compare", server="web01", point=point["id"])["disks"]
    world.ask("thaw", server="web01")
    intact(len(compared) == disk_count and all(disk["blocks_differing"] == 0 and disk["still"] for disk in compared), f"a point that is held is {disk_count} disks, block by block", compared)


def changes(world, disks):
    disks.append(Disk(world, "m", FIRST))
    disks.append(Disk(world, "a", SECOND))
    first, second = disks
    writer = Writer(first)
    begin(world, [first])
    change(world, writer, "a disk comes", second.plug, FIRST + SECOND, SECOND)
    is_exact(world, 2)
    change(world, writer, "it grows", lambda: second.grow(MORE), FIRST + SECOND + MORE, MORE)
    is_exact(world, 2)
    change(world, writer, "it goes", second.unplug, FIRST, 0)
    is_exact(world, 1)
    ok((world.server()["cause"] or {}).get("kind") == "disk_missing", "and is said to be missing", world.server()["cause"])
    change(world, writer, "it comes again", second.plug, FIRST + SECOND + MORE, SECOND + MORE)
    is_exact(world, 2)
    ok((world.dir / "agent-web01.log").read_text().count("goes on where it was") == 4, "each time the agent went on where it was")


def times_changed(world):
    return (world.dir / "agent-web01.log").read_text().count("the disks have changed")


def killed(world, disks):
    """In the midst of it: the next agent goes on with what the one before had, or with what it was about to have, or reads everything."""
    first, second = disks
    for turn in range(KILLS):
        there = turn % 2 == 0  # and goes, else it comes
        changed = times_changed(world)
        with Writer(first):
            (second.unplug if there else second.plug)()
            world.wait("it is noticed", lambda: times_changed(world) > changed)  # pylint: disable=cell-var-from-loop
            time.sleep(random.random() / 2)
            world.kill("agent-web01")
            time.sleep(0.2)
            begin(world, [first] if there else disks)
        is_exact(world, 1 if there else 2)


def steps(world):
    disks = []
    world.at_end(lambda: [disk.close() for disk in disks])
    world.certificates()
    world.start_replicator()
    world.wait("the replicator listens", lambda: world.ask("status"))
    changes(world, disks)
    killed(world, disks)


in_world(lambda: World(SLIPWAY, AGENT), steps)
