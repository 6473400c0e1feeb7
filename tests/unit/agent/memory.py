#!/usr/bin/python3
"""memory: the real agent with ten disks of 2 TiB (sparse) keeps to 128 MiB, all that it takes: its own memory, locked, and the tracker's marks
in the kernel; with a bound that does not do it says what would. Prints TAP.
Usage: memory SLIPWAY SLIPWAY_AGENT"""
import os
import pathlib
import signal
import subprocess
import sys
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from replicated import MIB, World, in_world, run  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

DISKS, SIZE = 10, 2 << 40


def memory(pid):
    """VmRSS holds the tracker's maps, for the agent maps them; VmLck is what may never be swapped."""
    lines = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM", "VmLck", "VmSwap")}


def children(pid):
    return [int(c) for c in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start(world, loops, **settings):
    world.start("agent-web01", *world.agent_words("web01", loops, **settings), env={**os.environ, "SLIPWAY_LOG": "text"})


def log(world):
    return (world.dir / "agent-web01.log").read_text()


def steps(world):
    loops = []
    world.at_end(lambda: [subprocess.run(["losetup", "-d", loop], check=False) for loop in loops])
    world.certificates()
    for i in range(DISKS):
        image = world.dir / f"disk{i}.raw"
        with open(image, "wb") as f:
            f.truncate(SIZE)
        loops.append(run("losetup", "--find", "--show", "--direct-io=on", image).strip())
    world.start_replicator()
    start(world, loops)
    pid = world.processes["agent-web01"].pid
    world.wait("the agent reads ten disks of 2 TiB", lambda: world.server()["bytes_total"] == DISKS * SIZE and world.server()["bytes_read"] > 512 * MIB, 120)
    ok("changes by eBPF" in log(world), "and follows their changes")
    # Marks here and there: what is to do is then neither all nor nothing in each of these places.
    for number, loop in enumerate(loops):
        with open(loop, "r+b", buffering=0) as f:
            for place in range(100):
                os.pwrite(f.fileno(), b"x" * 512, (place * 37 + number) % 1024 * (SIZE // 1024) + 65536)
            os.fsync(f.fileno())
    time.sleep(3)
    now = memory(pid)
    ok(now["VmRSS"] <= 128 and now["VmHWM"] <= 128, f"it takes no more than 128 MiB, the tracker's marks among it: {now}")
    freezer = [memory(child) for child in children(pid)]
    ok(now["VmRSS"] + sum(c["VmRSS"] for c in freezer) <= 128 and freezer, f"with the process that thaws, too: {freezer}")
    ok(now["VmLck"] + 81 >= now["VmRSS"] and now["VmSwap"] == 0, "all but what is the kernel's is locked: none of it is ever swapped")
    ok("MiB of buffers, not 64" in log(world), "and says that it has fewer buffers for it")
    world.kill("agent-web01", signal.SIGTERM)
    start(world, loops, memory_bound_mib=90)
    ok(world.processes["agent-web01"].wait(30) != 0, "with a bound that does not do it does not start")
    ok("need at least" in log(world) and "memory_bound_mib allows 90: set it higher" in log(world), "and says what would: " + log(world).splitlines()[-1])


in_world(lambda: World(SLIPWAY, AGENT), steps)
