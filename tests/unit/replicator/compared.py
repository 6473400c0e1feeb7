#!/usr/bin/python3
"""compared: a source is compared with its point over a bad link: cut, with its replicator killed, with nobody left who asked, it goes on with the first chunk whose hash has
not come; with its agent killed it begins anew. What it says is true each time. Prints TAP.
Usage: compared SLIPWAY SLIPWAY_AGENT"""
import json
import os
import socket
import subprocess
import sys
import threading

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from relay import Relay  # pylint: disable=wrong-import-position
from replicated import CHUNK, MIB, Refused, World, continuous, device_hash, in_world, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position

SIZE = 512 * MIB
FRAME = 1024 * CHUNK  # of the disk, for one HASHES
FRAMES = 3            # that come before the link is cut
SLOW = 24 << 10       # bytes a second: a HASHES of 32 KiB takes a while


class Asker(threading.Thread):
    """Somebody who asks for a comparison, and waits."""

    def __init__(self, world, point):
        super().__init__(daemon=True)
        self.world, self.point, self.answer, self.refused = world, point, None, None
        self.start()

    def run(self):
        try:
            self.answer = self.world.ask("compare", server="web01", point=self.point)
        except (Refused, OSError, ValueError) as reason:
            self.refused = str(reason)

    def disk(self):
        self.join(120)
        return self.answer["disks"][0] if self.answer else {"refused": self.refused}


def come(world, point):
    """How much of the disk's hashes has come."""
    try:
        return (world.dir / "replicator/compared" / point / "0").stat().st_size // 32 * CHUNK
    except OSError:
        return 0


def read_bytes(world):
    with open(f"/sys/block/{os.path.basename(world.loop)}/stat", encoding="ascii") as f:
        return int(f.read().split()[2]) * 512


def slowly(world, link, point):
    """A comparison of which some frames have come, and the rest is in the link."""
    link.bytes_per_s = SLOW
    asker = Asker(world, point)
    world.wait("a part of the hashes has come", lambda: come(world, point) >= FRAMES * FRAME, 120)
    return asker


def says_truth(disk, source, still, what):
    intact(disk.get("blocks_differing") == 0 and disk["source_sha256"] == disk["target_sha256"] == source and disk["still"] == still, f"{what}: {json.dumps(disk)}")


def went_on(world, point, before, what):
    """Of the disk at most what had not come was read again, after it was read once."""
    again = read_bytes(world) - before - SIZE
    ok(again < SIZE - (FRAMES - 1) * FRAME, f"{what}: {max(again, 0) >> 20} of {SIZE >> 20} MiB were read again")
    ok(not (world.dir / "replicator/compared" / point).exists(), "and nothing is left of it")


def back(world, link, made):
    world.wait("the agent is back", lambda: link.made > made and world.server()["connected"], 60)


def cut(world, link, point, source, still):
    before = read_bytes(world)
    asker = slowly(world, link, point)
    ok("being compared already" in world.refusal("compare", server="web01", point=point), "a second one at a time is refused")
    link.cut()
    link.bytes_per_s = 0
    says_truth(asker.disk(), source, still, f"the link is cut in the midst, the source {'stands' if still else 'does not stand'} still")
    went_on(world, point, before, "it goes on where it was")
    ok(f"in the midst of a comparison with recovery point {point}" in (world.dir / "replicator.log").read_text(), "the log says so")


def held(world, link):
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]["id"]
    cut(world, link, point, device_hash(world.loop), True)
    ok(world.ask("thaw", server="web01")["was_held"], "it was held all the while")


def asker_gone(world, link, point, source):
    before = read_bytes(world)
    link.bytes_per_s = SLOW
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(world.dir / "replicator/control.sock"))
        s.sendall((json.dumps({"verb": "compare", "server": "web01", "point": point}) + "\n").encode())
        world.wait("a part of the hashes has come", lambda: come(world, point) >= FRAMES * FRAME, 120)
    made = link.made
    link.cut()
    link.bytes_per_s = 0
    back(world, link, made)
    world.wait("whoever asked is seen to be gone", lambda: not busy(world, point), 60)
    says_truth(Asker(world, point).disk(), source, False, "whoever asked went away; asked again")
    went_on(world, point, before, "it goes on where it was")


def busy(world, point):
    return subprocess.run(["flock", "-n", world.dir / "replicator/compared" / point / "run", "true"], check=False).returncode != 0


def replicator_killed(world, link, point, source):
    before = read_bytes(world)
    asker = slowly(world, link, point)
    world.kill("replicator")
    link.cut()
    link.bytes_per_s = 0
    made = link.made
    ok("refused" in asker.disk(), "the replicator is killed in the midst: whoever asked is told nothing good")
    world.start_replicator()
    back(world, link, made)
    says_truth(Asker(world, point).disk(), source, False, "asked again of its successor")
    went_on(world, point, before, "it goes on where it was")


def agent_killed(world, link, point, source):
    asker = slowly(world, link, point)
    world.kill("agent-web01")
    link.cut()
    link.bytes_per_s = 0
    before = read_bytes(world)
    world.start_agent(replicator_port=link.port)
    says_truth(asker.disk(), source, False, "the agent is killed in the midst")
    ok(read_bytes(world) - before >= SIZE, "the disk's own hash is had by reading all of it again")


def differs(world, link, point):
    """A source that has gone on since the point is said to have, over a cut link, too."""
    world.ask("pause", server="web01", by="test")
    with open(world.loop, "r+b", buffering=0) as f:
        f.seek(300 * MIB)
        f.write(os.urandom(4 * MIB))
        os.fsync(f.fileno())
    asker = slowly(world, link, point)
    link.cut()
    link.bytes_per_s = 0
    disk = asker.disk()
    intact(disk.get("blocks_differing", 0) >= 4 * MIB // CHUNK and disk["source_sha256"] != disk["target_sha256"], f"a source that is another than the point is said to be: {json.dumps(disk)}")
    world.ask("resume", server="web01")


def is_free(device):
    """Another test may have copied all mounts, into a namespace of its own: the file system is written to when it leaves them."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        return True
    except OSError:
        return False


def steps(world):
    link = Relay(world.port)
    world.certificates()
    world.disk(SIZE)
    world.start_replicator()
    world.start_agent(replicator_port=link.port)
    world.wait("the source is in step", lambda: continuous(world), 120)
    held(world, link)
    run("umount", world.mounted)
    world.wait("it is mounted nowhere, and nobody writes from here on", lambda: is_free(world.loop), 300)
    world.wait("all is there", lambda: world.server()["backlog_bytes"] == 0)
    point = world.ask("point", server="web01", consistency="crash", timeout_ms=60000)["point"]["id"]
    world.ask("pin", point=point, reason="test")
    source = device_hash(world.loop)
    cut(world, link, point, source, False)
    asker_gone(world, link, point, source)
    replicator_killed(world, link, point, source)
    agent_killed(world, link, point, source)
    differs(world, link, point)


in_world(lambda: World(SLIPWAY, AGENT), steps)
