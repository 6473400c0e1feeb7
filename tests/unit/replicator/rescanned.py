#!/usr/bin/python3
"""rescanned: the real agent and the real replicator, and a source whose changes can't be followed. No point comes by itself, for each holds the source still;
that is said, and is no error. One that is held is taken; so are others once it is set for how long the source may stand still, by order and by the clock. What
they hold is the disk. Prints TAP.
Usage: rescanned SLIPWAY SLIPWAY_AGENT"""
import json
import os
import re
import subprocess
import sys

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from replicated import MIB, World, in_world, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position


SIZE, BEHIND = 64 * MIB, 8 * MIB  # of the disk, and of it behind the file system
written = []  # last: behind the file system, and in a file


def readings(world):
    return (world.dir / "agent-web01.log").read_text().count("all disks were read for what has changed")


def holds(world, point):
    """What write() has written, and a file system that was frozen: its superblock says so, and another one of the disk's that was thawed since."""
    uri = world.ask("export", point=point)["disks"][0]["nbd_uri"]
    run("nbdcopy", uri, world.dir / "copy.raw")
    world.ask("unexport", point=point)
    with open(world.dir / "copy.raw", "rb") as f:
        f.seek(SIZE - BEHIND)
        tail = f.read()
    read = subprocess.run(["debugfs", "-R", "cat change", world.dir / "copy.raw"], check=True, capture_output=True).stdout
    return [tail, read] == written and subprocess.run(["e2fsck", "-fn", world.dir / "copy.raw"], check=False, capture_output=True).returncode == 0


def settings(world, **said):
    """What the factory would have said last: the replicator keeps it."""
    world.kill("replicator")
    (world.dir / "replicator/settings.json").write_text(json.dumps({"servers": {"web01": said}}))
    world.start_replicator()
    world.wait(f"with {said} the agent is back, and in order", lambda: world.server()["connected"] and world.server()["state"] == "CONTINUOUS")
    now = world.server()["settings"]
    ok(now["rescan_freeze_ms"] == 1000 * said.get("rescan_freeze_s", 0) and now["rescan_points_ms"] == 1000 * said.get("rescan_points_s", 0), f"what holds is told: {now}")


def write(world):
    written[:] = os.urandom(BEHIND), os.urandom(2 * MIB)
    with open(world.loop, "r+b", buffering=0) as f:
        f.seek(SIZE - BEHIND)
        f.write(written[0])
        os.fsync(f.fileno())
    (world.mounted / "change").write_bytes(written[1])
    world.sync()


def nothing_by_itself(world):
    world.start_replicator()
    world.start_agent(tracker="rescan", rescan_interval_s=1)
    world.wait("the disks are read again and again, and that is in order", lambda: readings(world) >= 3 and world.server()["state"] == "CONTINUOUS")
    world.wait("how long that takes is told", lambda: (world.server()["rescan"] or {}).get("reading_ms"))
    server, log = world.server(), (world.dir / "agent-web01.log").read_text()
    ok(server["rescan"]["reason"] == "the setting tracker is rescan" and server["rescan"]["interval_ms"] == 1000, f"and why, and how often: {server['rescan']}")
    ok(server["newest_point"] is None and "point" not in log, "no point is taken, nor asked for")
    cause = server["cause"]
    ok(cause["kind"] == "not_tracked" and cause["severity"] == "warning" and "none is taken but for a cutover" in cause["text"] and "rescan_freeze_s" in cause["advice"],
       f"the cause says what that costs, and what to do: {cause}")
    seen = set()
    world.wait("how old the copy is is told all the time", lambda: seen.add(world.server()["lag_ms"]) or len(seen) > 4)
    ok(0 not in seen, f"and never that it is of now: {sorted(seen)}")
    ok("set rescan_freeze_s" in world.refusal("point", server="web01", consistency="any", hold=False), "one that is asked for is refused, in words")
    ok(world.server()["cause"]["kind"] == "not_tracked", "and that is no error, either")


def held(world):
    write(world)
    point = world.ask("point", server="web01", consistency="frozen", hold=True)["point"]
    ok(point["consistency"] == "frozen" and world.server()["held"], "one that holds its source still is taken, as a cutover does")
    compared = world.ask("compare", server="web01", point=point["id"])["disks"]
    intact(all(d["still"] and d["blocks_differing"] == 0 and d["source_sha256"] == d["target_sha256"] for d in compared), f"and proven: {compared}")
    ok(world.ask("thaw", server="web01")["still"], "it is let go")


def by_order(world):
    settings(world, rescan_freeze_s=600)
    cause = world.server()["cause"]
    ok(cause["kind"] == "not_tracked" and cause["severity"] == "info" and "only where somebody asks for it" in cause["text"], f"so it was meant: {cause}")
    write(world)
    point = world.ask("point", server="web01", consistency="any", hold=False)["point"]
    ok(point["consistency"] == "frozen" and point["freeze_ms"] > 0 and not world.server()["held"], f"a point takes the source's time, {point['freeze_ms']} ms, and lets it go")
    intact(holds(world, point["id"]), "it holds what was written before, past the file system, too")
    ok("never" in world.refusal("group_point", servers=["web01"], consistency="frozen"), "together with others there is none")


def by_the_clock(world):
    settings(world, rescan_freeze_s=5, rescan_points_s=1)
    newest = [world.server()["newest_point"]]
    for what in ("by itself, too", "and again"):
        write(world)
        world.wait(f"a point comes {what}", lambda: world.server()["newest_point"] != newest[-1])
        newest.append(world.server()["newest_point"])
    points = [p for p in world.ask("points", server="web01", limit=9)["points"] if p["id"] in newest[1:]]
    intact(holds(world, newest[-1]), "the last one is what was written")
    ok(len(points) == 2 and all(p["consistency"] == "frozen" for p in points), "frozen as the others")
    apart_ms = abs(clock_ms(points[0]["at"]) - clock_ms(points[1]["at"]))
    ok(apart_ms >= 9000, f"with at least as much time between as the source may stand still: {apart_ms} ms")
    ok(world.server()["cause"]["kind"] == "not_tracked", f"nothing else is wrong: {world.server()['cause']}")


def clock_ms(at):
    hours, minutes, seconds = re.search(r"T(\d+):(\d+):([\d.]+)Z", at).groups()
    return round(((int(hours) * 60 + int(minutes)) * 60 + float(seconds)) * 1000)


def steps(world):
    world.certificates()
    world.disk(SIZE, BEHIND)
    for part in (nothing_by_itself, held, by_order, by_the_clock):
        part(world)


in_world(lambda: World(SLIPWAY, AGENT), steps)
