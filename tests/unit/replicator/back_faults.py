#!/usr/bin/python3
"""back_faults: the way back on bad days: a link that is late and in shreds, one that is half open, a certificate out of its time, a disk that loses its power in the
midst with all that it had not flushed, a disk with sectors that can't be read. What is said to be done is the point, byte by byte; what is half done boots nobody. Prints TAP.
Usage: back_faults SLIPWAY SLIPWAY_AGENT SLOW_DISK"""
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

SLIPWAY, AGENT, SLOW_DISK = sys.argv[1:4]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from relay import Relay  # pylint: disable=wrong-import-position
from replicated import CHUNK, MIB, World, continuous, device_hash, first_chunk, in_world, restored, run  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

SIZE = 48 * MIB
POWER_AT = (1, 2, 4, 7, 12, 40, 200)  # writes: those of a whole restore are about SIZE / CHUNK / 2
OFFER = 128 * CHUNK
SECTOR = 512
BAD = (2072, SIZE // 512 - 8)  # sectors that can't be read: in the midst of a chunk, and at the disk's end


class Disk:
    """Another disk, full of something else: a loop device on a file of slow_disk's."""

    def __init__(self, world, name, *more, delay_us=0):
        self.world, self.name, self.folder, self.image = world, name, world.dir / f"fuse-{name}", world.dir / f"{name}.raw"
        self.folder.mkdir()
        self.image.write_bytes(os.urandom(4 * MIB) * (SIZE // (4 * MIB)))
        world.start(f"disk-{name}", SLOW_DISK, self.folder, self.image, delay_us, *more)
        world.wait(f"disk {name} is there", lambda: (self.folder / "disk").exists())
        self.loop = run("losetup", "--find", "--show", "--direct-io=on", self.folder / "disk").strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["losetup", "-d", self.loop], check=False)
        self.world.kill(f"disk-{self.name}", signal.SIGTERM)
        subprocess.run(["umount", "-l", self.folder], check=False, stderr=subprocess.DEVNULL)

    def shut(self, process):
        """Waits until the restore has begun to write; whether it is at work still."""
        until = time.monotonic() + 60
        while first_chunk(self.loop) != bytes(CHUNK) and time.monotonic() < until:
            time.sleep(0.02)
        return first_chunk(self.loop) == bytes(CHUNK) and process.poll() is None


def onto(disk):
    return ("--onto", os.path.basename(disk.loop))


def late(world, link, point, source):
    link.delay_s, link.shreds = 0.05, True
    with Disk(world, "late") as disk:
        status, said = world.restore("--point", point, *onto(disk), folder="far")
        ok(status == 0 and device_hash(disk.loop) == source, f"over a link that is late, and cuts everything into shreds: {said}")
    link.delay_s, link.shreds = 0, False


def cut(world, link, point, source):
    """Twice in the midst: each time it goes on where it was, not with the first chunk."""
    link.bytes_per_s = 8 * MIB
    with Disk(world, "cut") as disk:
        process = world.restoring("--point", point, *onto(disk), folder="far")
        for _ in range(2):
            until = time.monotonic() + 60
            carried = link.carried
            while link.carried < carried + 9 * MIB and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            link.cut()
        link.bytes_per_s = 0
        said, log = process.communicate(timeout=300)
        goes_on = [int(where) for where in re.findall(r"the restore goes on in .*, from (\d+) MiB on", log)]
        ok(process.returncode == 0 and device_hash(disk.loop) == source, f"a link that is cut in the midst, again and again: {said}{log}")
        ok(goes_on == sorted(goes_on) and len(goes_on) == 2 and goes_on[0] > 0, f"each time it goes on where it was: from {goes_on} MiB on")
    told = (world.dir / "replicator.log").read_text().count("from where the connection before broke")
    ok(told == 2, f"and is offered no chunk that was there before: {told}")


def zeroed(world, link, point, source, whole):
    """Only chunks that are zero in the point differ, and the link breaks while they are written: nothing differs any more when it goes on, but nobody has seen the first chunk yet."""
    whole = bytearray(whole)
    zeros = [at for at in range(OFFER, len(whole), CHUNK) if whole[at:at + CHUNK] == bytes(CHUNK)]
    zeros = [at for at in zeros if at // OFFER == zeros[0] // OFFER]
    for at in zeros:
        whole[at:at + CHUNK] = os.urandom(CHUNK)
    with Disk(world, "zeroed", delay_us=20000) as disk:
        disk.image.write_bytes(whole)
        process = world.restoring("--point", point, *onto(disk), folder="far")
        until = time.monotonic() + 60
        with open(disk.image, "rb", buffering=0) as f:
            while os.pread(f.fileno(), CHUNK, zeros[0]) != bytes(CHUNK) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.002)
        link.reset()
        said, log = process.communicate(timeout=300)
        ok(process.returncode == 0 and device_hash(disk.loop) == source and "the restore goes on" in log, f"a link that is reset while {len(zeros)} chunks of zeroes are written: {log}")
        ok(json.loads(said)["passes"] == 2, f"a pass that has written is not the one that finds nothing different: {said}")


def half_open(world, link, point, source):
    link.bytes_per_s = 8 * MIB
    with Disk(world, "half") as disk:
        process = world.restoring("--point", point, *onto(disk), folder="far")
        ok(disk.shut(process), "a restore over a slow link is at work")
        made = link.made
        link.forget()
        link.bytes_per_s = 0
        status, said = restored(process)
        ok(status == 0 and link.made > made and device_hash(disk.loop) == source, f"its link is half open: after a minute of silence it takes another, and ends right: {said}")
    world.wait("the replicator gives up the other one, too", lambda: "[timeout]" in (world.dir / "replicator.log").read_text(), 90)


def out_of_time(world, point):
    with Disk(world, "time") as disk:
        before = device_hash(disk.loop)
        world.rescue_folder("web01", "late-one")
        world.sign(world.dir / "late-one", days=0)
        status, said = world.restore("--point", point, *onto(disk), folder="late-one")
        ok(status != 0 and "expired" in said and device_hash(disk.loop) == before, f"a certificate that is out of its time: nothing is written: {said.splitlines()[-1]}")


def power(world, point, source):
    """As the disk is found after it: as it was, or whole, or nothing that boots."""
    for at in POWER_AT:
        seed = random.randrange(1 << 30)
        with Disk(world, f"power-{at}", "-", at, seed) as disk:
            before = device_hash(disk.image)
            status, said = world.restore("--point", point, *onto(disk))
            gone = "the power is gone" in (world.dir / f"disk-power-{at}.log").read_text()
            after = device_hash(disk.image)
            shut = first_chunk(disk.image)[:SECTOR] == bytes(SECTOR)  # of the zeroing itself its first sectors may be all that is there
            ok(status != 0 and gone and (shut or after in (before, source)),
               f"the power goes at write {at} (seed {seed}): {'it boots nobody' if shut else 'it is as before' if after == before else 'it is whole' if after == source else 'HALF DONE'}",
               f"{status} {said} {gone}")
    left = [path for path in world.dir.glob("power-*.raw") if first_chunk(path) == bytes(CHUNK)]
    ok(left, f"{len(left)} of {len(POWER_AT)} times it was half done")
    with open(left[0], "rb") as half, Disk(world, "again") as disk:
        disk.image.write_bytes(half.read())
        status, said = world.restore("--point", point, *onto(disk))
        ok(status == 0 and device_hash(disk.image) == source, f"with its power back, the restore is asked again, and ends right: {said}")


def unreadable(world, point, source):
    bad = world.dir / "bad"
    with open(bad, "wb") as f:
        f.truncate(SIZE // 512)
        for sector in BAD:
            f.seek(sector)
            f.write(b"\1")
    with Disk(world, "bad", bad) as disk:
        status, said = world.restore("--point", point, *onto(disk))
        ok(status == 0 and device_hash(disk.loop) == source and not any(bad.read_bytes()), f"sectors that can't be read are written, and can be: {said}")


def steps(world):
    link = Relay(world.port)
    world.certificates()
    world.disk(SIZE)
    world.rescue_folder("web01", "rescue")
    world.rescue_folder("web01", "far", link.port)
    world.start_replicator()
    world.start_agent()
    world.wait("the source is in step", lambda: continuous(world), 120)
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]["id"]
    source = device_hash(world.loop)
    with open(world.loop, "rb") as f:
        whole = f.read()
    world.ask("thaw", server="web01")
    world.ask("pin", point=point, reason="test")
    late(world, link, point, source)
    cut(world, link, point, source)
    zeroed(world, link, point, source, whole)
    half_open(world, link, point, source)
    out_of_time(world, point)
    power(world, point, source)
    unreadable(world, point, source)


in_world(lambda: World(SLIPWAY, AGENT), steps)
