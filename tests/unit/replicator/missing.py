#!/usr/bin/python3
"""missing: the real replicator and agents of the test's own: a server's disk that is not there any more is said, over restarts of both and whatever points come, until it is
back, or somebody has accepted it; and an agent that can't name its disks says why. Prints TAP. Usage: missing SLIPWAY SLIPWAY_AGENT"""
import pathlib
import subprocess
import sys
import threading

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[2])]

from fake_agent import CHUNKS, Agent, Wire  # pylint: disable=wrong-import-position
from replicated import World, in_world  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

SIZE = CHUNKS * 65536


def disks(*ids):
    return [{"id": name, "name": f"vd{name[-1]}", "size_bytes": SIZE} for name in ids]


class Source:
    """One agent after the other; without STATUS, so that no points are taken by the clock."""

    def __init__(self, world):
        self.world, self.agent = world, None

    def goes(self):
        self.agent.close()
        self.world.wait("its agent goes", lambda: not self.world.server()["connected"])

    def comes(self, *ids):
        if self.agent:
            self.goes()
        self.agent = Agent(self.world, "web01", disks=disks(*ids))
        for disk in range(1, len(ids)):
            self.agent.offer(disk)
            self.agent.expect("ACK")

    def point(self):
        asked = []
        thread = threading.Thread(target=lambda: asked.append(self.world.ask("point", server="web01", consistency="crash", timeout_ms=20000)["point"]))
        thread.start()
        self.agent.asked()
        self.agent.commit(group=False, consistency="crash")
        self.agent.expect("POINT_DONE")
        thread.join(30)
        return {disk["id"] for disk in asked[0]["disks"]} if asked else None

    def missing(self):
        server = self.world.server()
        said = {disk["id"] for disk in server["disks_missing"]}
        kind = (server["cause"] or {}).get("kind")
        return said if bool(said) == (kind == "disk_missing") else f"{said}, but its cause is {kind}"

    def is_missing(self, *ids):
        self.world.wait(f"missing: {', '.join(ids) or 'none'}", lambda: self.missing() == set(ids))


def restart(world, source, lost=None):
    source.goes()
    source.agent = None
    world.kill("replicator")
    if lost:
        lost.unlink()
    world.start_replicator()
    world.wait("the replicator starts again", lambda: world.ask("status"))


def goes(world, source):
    source.comes("disk a", "disk b")
    ok(source.point() == {"disk a", "disk b"}, "a point of both disks")
    before = world.server()["newest_point"]
    source.is_missing()
    source.comes("disk a")
    source.is_missing("disk b")
    server = world.server()
    since = server["disks_missing"][0]["since"]
    ok(server["disks_missing"][0]["size_bytes"] == SIZE and since[:19] in server["cause"]["text"], f"its size, and since when: {server['cause']['text']}")
    ok(source.point() == {"disk a"}, "a point without it")
    source.is_missing("disk b")
    restart(world, source)
    source.comes("disk a")
    source.is_missing("disk b")
    ok(world.server()["disks_missing"][0]["since"] == since, "after a restart it is missing since then, though neither map nor newest point has it")
    ok({disk["id"] for point in world.ask("points", server="web01")["points"] if point["id"] == before for disk in point["disks"]} == {"disk a", "disk b"} and
       world.ask("verify", point=before)["chunks"] >= 0, "the point from before has both, whole")


def comes_back(world, source):
    source.comes("disk a", "disk b")
    source.is_missing()
    ok(source.point() == {"disk a", "disk b"}, "it is back, and in the next point")
    ok("no disk of web01 is missing" in world.refusal("accept_disks", server="web01"), "there is nothing to accept")


def accepted(world, source):
    source.comes("disk b")
    source.is_missing("disk a")
    done = subprocess.run([SLIPWAY, "replication", "accept", "web01", "--yes", "--vault", world.dir / "replicator"], capture_output=True, text=True, check=False)
    ok(done.returncode == 0 and "accepted" in done.stdout, f"a person accepts it: {done.stdout}{done.stderr}")
    source.is_missing()
    source.comes("disk b")
    source.is_missing()
    restart(world, source)
    source.comes("disk b")
    source.is_missing()
    ok(source.point() == {"disk b"}, "a point of what is there")
    source.comes("disk a", "disk b")
    source.comes("disk b")
    source.is_missing("disk a")


def from_the_vault(world, source):
    """Where what was kept beside it is lost: its newest point still tells."""
    source.comes("disk a", "disk b")
    ok(source.point() == {"disk a", "disk b"}, "a point of both")
    source.comes("disk a")
    source.is_missing("disk b")
    restart(world, source, lost=world.dir / "replicator/servers.json")
    source.comes("disk a")
    source.is_missing("disk b")


def stands(world, source):
    """An agent that has no disks to name says why, instead of HELLO."""
    source.goes()
    source.agent = None

    def cause():
        return world.server()["cause"] or {"kind": "none"}
    ok(cause()["kind"] == "agent_away", "an agent that is away")
    excuse = Wire(world.dir / "agent-web01", world.port, "web01")
    excuse.say("REFUSE", request=0, kind="limit", message="set memory_bound_mib higher")
    try:
        excuse.expect("WELCOME")
    except OSError as reason:
        ok("closed" in str(reason), f"it is heard, and the connection ends: {reason}")
    server = world.server()
    ok(cause()["kind"] == "agent_stands" and "set memory_bound_mib higher" in cause()["text"] and server["error"]["kind"] == "limit", f"and is told: {cause()['text']}")
    ok(not server["connected"] and server["state"] == "STALLED", "it is not connected")
    source.comes("disk a")
    world.wait("once it comes it is so no longer", lambda: cause()["kind"] == "disk_missing")
    source.goes()
    source.agent = None
    ok(cause()["kind"] == "agent_away", "nor once it is away again")


def twice(world, source):
    """Two disks of one identity would feed one map."""
    before = [len(world.ask("points", server="web01")["points"]), world.server()["disks_missing"]]
    for ids in (("disk a", "disk b", "disk a"), ("disk c", "disk c")):
        refused = Agent(world, "web01", greet=False, disks=disks(*ids)).expect("REFUSE")
        ok(refused["kind"] == "protocol" and f"names the disk {ids[-1]} twice" in refused["message"], f"one identity twice is refused: {refused['message']}")
    ok(before == [len(world.ask("points", server="web01")["points"]), world.server()["disks_missing"]], "and changes nothing")
    source.comes("disk a", "disk b")
    source.is_missing()


def steps(world):
    world.certificates()
    world.start_replicator()
    world.wait("the replicator listens", lambda: world.ask("status"))
    source = Source(world)
    for part in (goes, comes_back, accepted, from_the_vault, stands, twice):
        part(world, source)


in_world(lambda: World(SLIPWAY, AGENT), steps)
