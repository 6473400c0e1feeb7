#!/usr/bin/python3
"""gentle: the real agent on a disk whose own load rises while it is read for the first time: the agent sees it, reads less, never nothing, and
comes back when the load falls; what it says of the source's latency is read from the replicator's status. And its limits of reading and of
processor use. Prints TAP.
Usage: gentle SLIPWAY SLIPWAY_AGENT"""
import ctypes
import mmap
import os
import pathlib
import re
import signal
import struct
import sys
import threading
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import tap  # pylint: disable=wrong-import-position
from replicated import MIB, World, continuous, in_world, run  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

BIG = 3072 * MIB  # mostly zeros: read for a long time, sent in no time
FLOOR = 4 * MIB


class Load:
    """Threads that write to the disk itself, past the cache, each when its last write is done: the more, the longer each waits."""

    def __init__(self, world):
        self.fd = os.open(world.loop, os.O_RDWR | os.O_DIRECT)
        self.threads, self.wanted, self.size = [], 0, 64 << 10

    def write(self, number):
        page = mmap.mmap(-1, 1 << 20)
        page.write(os.urandom(1 << 20))
        place = BIG - (number + 1) * MIB  # behind the file system
        while number < self.wanted:
            os.pwritev(self.fd, [memoryview(page)[:self.size]], place)
            if self.wanted == 1:
                time.sleep(0.002)

    def want(self, count, size):
        self.size = size
        self.wanted = count
        self.threads = [t for t in self.threads if t.is_alive()]
        while len(self.threads) < count:
            thread = threading.Thread(target=self.write, args=(len(self.threads),), daemon=True)
            thread.start()
            self.threads.append(thread)

    def end(self):
        self.wanted = 0
        for thread in self.threads:
            thread.join()
        os.close(self.fd)


def latency(world):
    return world.server()["source_latency"]


def backs_off(world):
    load = Load(world)
    load.want(1, 4096)
    world.start_replicator()
    world.start_agent(read_bytes_per_s=24 * MIB)
    world.wait("while the agent reads, it tells the source's latency with and without it",
               lambda: world.server()["state"] == "INITIAL_SYNC" and latency(world)["with_us"] > 0 and latency(world)["without_us"] > 0)
    world.wait("a light load holds nothing back", lambda: latency(world)["backoff_bytes_per_s"] == 0)
    world.wait("what the making of the disk took is no measure of it any more", lambda: latency(world)["without_us"] < 2 * latency(world)["with_us"])
    print("# light:", latency(world))
    seen = {}

    def held_back():
        now = latency(world)
        if now["backoff_bytes_per_s"]:
            seen.update(now)
        return now["backoff_bytes_per_s"]
    load.want(48, 256 << 10)
    world.wait("when the source's own load rises, it backs off", held_back)
    print("# heavy:", seen)
    said = re.search(r"takes longer \((\d+) us; (\d+) us without", (world.dir / "agent-web01.log").read_text())
    ok(said and int(said[1]) > int(said[2]), f"for its I/O takes longer than without, it says: {said and said[0]}")
    # By half at first; but what is seen may be a look later, when it comes on again by a step (tests/unit/agent/test_gentle.c).
    ok(FLOOR <= seen["backoff_bytes_per_s"] < 24 * MIB, f"to less than it read, and never below its floor: {seen['backoff_bytes_per_s']}")
    before = world.server()["bytes_read"]
    world.wait("it goes on reading all the same", lambda: world.server()["bytes_read"] > before + 8 * MIB)
    load.want(1, 4096)
    world.wait("and comes back when the load has fallen", lambda: latency(world)["backoff_bytes_per_s"] == 0)
    load.end()
    log = (world.dir / "agent-web01.log").read_text()
    ok("takes longer" in log and "as before" in log, "the log says both")
    world.kill("agent-web01", signal.SIGTERM)


def cpu_us(pid):
    """What its workers and all its other threads have used."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) * 1000000 // os.sysconf("SC_CLK_TCK")


def processor(world):
    """A tenth of a processor: by its own clocks and ours, over a whole sync, it is not twice that."""
    with open(world.mounted / "noise2", "wb") as f:
        f.write(os.urandom(64 * MIB))
    world.sync()
    begin = time.monotonic()
    world.start_agent(cpu_percent=10)
    pid = world.processes["agent-web01"].pid
    world.wait("an agent that may use a tenth of a processor is at work", lambda: world.server()["state"] in ("INITIAL_SYNC", "RESCAN"))
    used, since = cpu_us(pid), time.monotonic()
    read = world.server()["bytes_read"]
    world.wait("and comes on", lambda: world.server()["bytes_read"] > read + 256 * MIB, 120)
    share = (cpu_us(pid) - used) / 1e6 / (time.monotonic() - since)
    # The threads that only hear and report are not paced; a free one uses what there is: more than half a processor.
    ok(share < 0.3, f"it uses {share:.2f} of one ({time.monotonic() - begin:.0f} s)")
    world.kill("agent-web01", signal.SIGTERM)


def slice_ns(thread):
    """What the kernel says of a thread of the usual kind (struct sched_attr's sched_runtime, from Linux 6.12 on: its slice); None where it can't be asked."""
    number = {"x86_64": 315, "aarch64": 275}.get(os.uname().machine)
    attributes = ctypes.create_string_buffer(56)
    if number is None or ctypes.CDLL(None).syscall(number, int(thread), attributes, len(attributes), 0) != 0:
        return None
    return struct.unpack_from("Q", attributes, 24)[0]


def modest(pid):
    """All of the agent's threads give way soon (but the one that the thread sanitizer has of its own)."""
    if tuple(int(part) for part in re.match(r"(\d+)\.(\d+)", os.uname().release).groups()) < (6, 12):
        tap.note("a kernel before 6.12 takes no wish for a slice")
        return
    slices = [slice_ns(thread) for thread in os.listdir(f"/proc/{pid}/task")]
    others = "libtsan" in pathlib.Path(f"/proc/{pid}/maps").read_text()
    ok(len(slices) - slices.count(100000) <= others, f"all its threads have short slices: {slices} ns")


def alone(world):
    """What the agent reads itself is nobody's load, into however many requests the kernel cuts it."""
    world.start_agent()
    pid, held_back = world.processes["agent-web01"].pid, []

    def ended():
        if latency(world)["backoff_bytes_per_s"]:
            held_back.append(latency(world))
        return continuous(world)
    world.wait("without a limit it ends in continuous replication", ended, 120)
    modest(pid)
    ok(not held_back, f"and holds back nothing where nobody else uses the disk: {held_back[:1]}")


def steps(world):
    world.certificates()
    world.disk(BIG, 64 * MIB)
    run("dd", "if=/dev/zero", f"of={world.loop}", "bs=1M", f"seek={BIG // MIB - 64}", "count=64", "oflag=direct")
    backs_off(world)
    processor(world)
    alone(world)


in_world(lambda: World(SLIPWAY, AGENT), steps)
