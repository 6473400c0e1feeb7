#!/usr/bin/python3
"""sectors: the real agent and the real replicator, and a disk some of whose sectors can't be read. All else is replicated, the points are marked and say
where; the mark outlives the agent, and goes when the sectors are written or can be read again. A disk that fails as a whole stalls, by name. Prints TAP.
Usage: sectors SLIPWAY SLIPWAY_AGENT SLOW_DISK VAULT_READ"""
import fcntl
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys

SLIPWAY, AGENT, SLOW_DISK, VAULT_READ = sys.argv[1:5]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from replicated import MIB, World, continuous, in_world, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position

SIZE = 48 * MIB
FIRST, LAST = 2072, SIZE // 512 - 8  # sectors that can't be read: in the midst of a chunk, and at the disk's end
BLKSSZGET = 0x1268


class BadDisk(World):
    """A loop device on a file in FUSE, whose sectors are bad where self.bad says so."""

    def disk(self, size, behind=0):
        (self.dir / "fuse").mkdir()
        (self.dir / "source.raw").write_bytes(os.urandom(size // 2) + bytes(size // 2 - MIB) + os.urandom(MIB))
        with open(self.dir / "bad", "w+b") as f:
            f.truncate(size // 512)
            self.bad = mmap.mmap(f.fileno(), 0)
        self.spoil(FIRST)
        self.spoil(LAST)
        self.start("slow_disk", SLOW_DISK, self.dir / "fuse", self.dir / "source.raw", 0, self.dir / "bad")
        self.wait("the disk is there", lambda: (self.dir / "fuse/disk").exists())
        self.loop = run("losetup", "--find", "--show", "--direct-io=on", self.dir / "fuse/disk").strip()
        with open(self.loop, "rb", buffering=0) as f:
            self.unit = struct.unpack("i", fcntl.ioctl(f, BLKSSZGET, bytes(4)))[0]  # the least that it reads

    def spoil(self, sector):
        self.bad[sector] = 1

    def write(self, sector):
        """A whole unit, past the page cache."""
        block = mmap.mmap(-1, 4096)
        block.write(os.urandom(4096))
        fd = os.open(self.loop, os.O_WRONLY | os.O_DIRECT)
        try:
            os.pwrite(fd, block, sector * 512 // 4096 * 4096)
        finally:
            os.close(fd)

    def newest(self):
        return self.ask("points", server="web01", limit=1)["points"][0]

    def release_disk(self):
        subprocess.run(["losetup", "-d", self.loop], check=False)
        self.kill("slow_disk", signal.SIGTERM)
        subprocess.run(["umount", "-l", self.dir / "fuse"], check=False, stderr=subprocess.DEVNULL)

    def close(self):
        for name in [name for name in self.processes if name != "slow_disk"]:
            self.kill(name)
        if self.loop:
            self.release_disk()
        self.loop = None
        super().close()


def holds(world, point, zero):
    """Whether the point is what the disk's file has, with zero bytes in those units."""
    expected = bytearray((world.dir / "source.raw").read_bytes())
    for sector in zero:
        at = sector * 512 // world.unit * world.unit
        expected[at:at + world.unit] = bytes(world.unit)
    uri = world.ask("export", point=point)["disks"][0]["nbd_uri"]
    run("nbdcopy", uri, world.dir / "copy.raw")
    same = (world.dir / "copy.raw").read_bytes() == expected
    world.ask("unexport", point=point)
    return same


def ranges(world, *sectors):
    return [{"disk": world.newest()["disks"][0]["id"], "first_sector": sector * 512 // world.unit * world.unit // 512, "sector_count": world.unit // 512} for sector in sectors]


def first_sync(world):
    world.start_replicator()
    world.start_agent(unreadable_retry_s=3600)
    world.wait("with two bad sectors the rest is replicated, and a point is there", lambda: continuous(world) and world.server()["newest_point_unreadable_bytes"])
    server, point = world.server(), world.newest()
    ok(server["unreadable_bytes"] == server["newest_point_unreadable_bytes"] == 2 * world.unit, f"what can't be read is told: {server['unreadable_bytes']} bytes")
    cause = server["cause"]
    ok(cause["kind"] == "sectors_unreadable" and cause["severity"] == "error" and f"disk {os.path.basename(world.loop)}, sectors {FIRST * 512 // world.unit * world.unit // 512}"
       in cause["text"] and "accept_unreadable" in cause["advice"], f"the cause names disk and sectors, and what to do: {cause}")
    ok(point["unreadable_bytes"] == 2 * world.unit and point["unreadable"] == ranges(world, FIRST, LAST), f"the point says where: {point.get('unreadable')}")
    intact(holds(world, point["id"], (FIRST, LAST)), "it holds all that could be read, byte by byte, and zeroes there")
    listed = run(VAULT_READ, "--key-file", world.vault_key, world.dir / "replicator/vault", "points")
    ok(f"unreadable={2 * world.unit}" in listed, "another reader of the vault sees the mark")
    shown = run(SLIPWAY, "point", "show", point["id"], "--vault", world.dir / "replicator")
    ok("could not be read at the source" in shown and str(ranges(world, FIRST)[0]["first_sector"]) in shown, "slipway point show tells it")
    compared = world.ask("compare", server="web01", point=point["id"])
    ok(compared["point"]["unreadable_bytes"] == 2 * world.unit, "and so does a comparison, which can't say more than that the zeroes are there")


def killed(world):
    world.kill("agent-web01")
    world.start_agent(unreadable_retry_s=3600)
    before = world.newest()["id"]
    world.write(SIZE // 2 // 512)
    world.wait("an agent that goes on after SIGKILL knows them still", lambda: world.server()["connected"] and world.newest()["id"] != before and continuous(world))
    ok(world.newest()["unreadable_bytes"] == 2 * world.unit, "its points are marked")
    world.ask("point", server="web01", consistency="crash", hold=False)
    world.kill("replicator")
    world.start_replicator()
    world.wait("a replicator that starts again, too", lambda: continuous(world) and world.server()["newest_point_unreadable_bytes"] == 2 * world.unit)


def mended(world):
    world.write(FIRST)
    world.wait("a sector that is written is read again, and its mark goes", lambda: world.newest()["unreadable_bytes"] == world.unit)
    ok(world.newest()["unreadable"] == ranges(world, LAST), "the other one stays")
    world.kill("agent-web01")
    world.bad[LAST] = 0
    world.start_agent(unreadable_retry_s=1)
    world.wait("one that can be read again loses it after a retry", lambda: world.server()["connected"] and world.server()["unreadable_bytes"] == 0 and
               world.newest()["unreadable_bytes"] == 0 and world.server()["cause"] is None)
    ok("unreadable" not in world.newest() and holds(world, world.newest()["id"], ()), "and the point is the disk")


def spoilt_later(world):
    """What was replicated, and can't be read any more when its neighbour is written."""
    again = world.read_again("web01")
    world.spoil(FIRST + 16)
    world.write(FIRST + 8)

    def told():  # a kernel that passes over the tracker makes the agent read all again: then it is found, and marked
        point = world.newest()
        return holds(world, point["id"], (FIRST + 16,) if point["unreadable_bytes"] else ()) and (not point["unreadable_bytes"] or world.read_again("web01") > again)
    world.wait("the newest point is of after the write, and a page that was not written stays as it was, and is not read", told)
    world.bad[FIRST + 16] = 0


def whole_disk(world):
    world.kill("agent-web01")
    shutil.rmtree(world.kept("agent-web01"))  # as after a reboot: all is read again
    world.bad[:] = b"\1" * len(world.bad)
    world.start_agent(unreadable_retry_s=1)

    def stalls():
        server = world.server()
        cause = server["cause"] or {}
        return server["state"] == "STALLED" and cause.get("kind") == "source_unreadable" and \
            f"disk {os.path.basename(world.loop)} can't be read: sectors of more than 256 pieces" in cause["text"]
    world.wait("a disk that fails as a whole stalls, by name", stalls, 120)
    before = world.newest()["id"]
    world.bad[:] = bytes(len(world.bad))
    world.wait("it goes on by itself once it can be read", lambda: continuous(world) and world.newest()["id"] != before and world.server()["unreadable_bytes"] == 0 and
               world.newest()["unreadable_bytes"] == 0, 90)
    intact(holds(world, world.newest()["id"], ()), "and nothing is missing")


def steps(world):
    world.certificates()
    world.disk(SIZE)
    for part in (first_sync, killed, mended, spoilt_later, whole_disk):
        part(world)


in_world(lambda: BadDisk(SLIPWAY, AGENT), steps)
