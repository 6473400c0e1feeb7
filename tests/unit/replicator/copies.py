#!/usr/bin/python3
"""copies: two real replicators and a real agent: its points are copied from the first to the second, through cut links, kills of either and a full disk; and a
copier of the test's own, which says what it must not. Each replicator's word of the factory lies in its folder. Prints TAP. Usage: copies SLIPWAY SLIPWAY_AGENT"""
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[2])]

import fake_agent  # pylint: disable=wrong-import-position
from ends import free_port  # pylint: disable=wrong-import-position
from replicated import MIB, Refused, World, continuous, device_hash, in_world, run  # pylint: disable=wrong-import-position
from relay import Relay  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position


class Two(World):
    def __init__(self):
        super().__init__(SLIPWAY, AGENT)
        self.first, self.second = self.dir / "replicator", self.dir / "second"
        self.second_port = free_port()
        self.link = Relay(self.second_port)
        self.at_second = types.SimpleNamespace(dir=self.dir, port=self.second_port)  # for agents that go there

    def words(self, home, to=None, source=None, **settings):
        """What the factory said last."""
        home.mkdir(exist_ok=True)
        (home / "copies.json").write_text(json.dumps({"to": {"web01": to} if to else {}, "from": {"web01": source} if source else {}}))
        (home / "settings.json").write_text(json.dumps({"servers": {"web01": settings} if settings else {}}))

    def start_second(self, *more):
        identity = self.dir / "replicator-r2"
        key = self.dir / "second.key"
        self.start("second", SLIPWAY, "replicator", "--state", self.second, "--name", "r2", "--listen", f"127.0.0.1:{self.second_port}", "--certificate", identity / "cert.pem",
                   "--key", identity / "key.pem", "--ca", identity / "ca.pem", "--guard-mib", "16", "--vault-key-file", key, "--make-vault-key", *more,
                   env={**os.environ, "SLIPWAY_LOG": "text"})

    def copy(self):
        return self.server()["copy"]

    def stands(self, kind):
        """For that reason."""
        copy = self.copy()
        return copy["state"] == "STALLED" and copy["error"] and copy["error"]["kind"] == kind

    def is_current(self):
        copy = self.copy()
        return copy["state"] == "CURRENT" and copy["point"] == self.server()["newest_point"]

    def points(self, home=None):
        return {point["id"]: point for point in self.ask("points", at=home or self.second, server="web01")["points"]}

    def content(self, home, point):
        """The SHA-256 of the point's disk, as the replicator serves it."""
        uri = self.ask("export", at=home, point=point)["disks"][0]["nbd_uri"]
        raw = self.dir / "copy.raw"
        run("nbdcopy", uri, raw)
        self.ask("unexport", at=home, point=point)
        digest = hashlib.sha256(raw.read_bytes()).hexdigest()
        raw.unlink()
        return digest

    def write(self, name, size):
        (self.mounted / name).write_bytes(os.urandom(size))
        self.sync()

    def held(self, what):
        """A point at which the source stands still, copied: the second has what the disk holds."""
        point = self.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]["id"]
        self.wait(f"{what}: the point is copied", lambda: point in self.points(), 120)
        wanted = device_hash(self.loop)
        self.ask("thaw", server="web01")
        intact(self.content(self.second, point) == wanted, f"{what}: at the second it is the disk, byte by byte")
        return point

    def refused_there(self, home, verb, **more):
        try:
            self.ask(verb, at=home, **more)
            return "nothing was refused"
        except Refused as refused:
            return str(refused)

    def close(self):
        for name in list(self.processes):
            self.kill(name)
        if os.path.ismount(self.second):
            subprocess.run(["umount", self.second], check=False)
        super().close()


# ---- a copier of the test's own ----

class Copier(fake_agent.Wire):
    def __init__(self, world, folder="replicator-r1", server="web01", replicator="r1", version=1):
        super().__init__(world.dir / folder, world.second_port, server)
        self.say("COPY", version=version, replicator=replicator, server=server)

    def point(self, **members):
        self.request += 1
        self.offers = 0
        self.say("COPY_POINT", **{"request": self.request, "epoch": "e1", "point": "p1", "base": "", "at_us": 1000000, "consistency": "crash", "freeze_ms": 0, "unreadable_bytes": 0,
                                  "ranges": [], "group": "", "group_name": "", "group_at_us": 0, "group_window_us": 0, "members": [],
                                  "disks": [{"id": "disk", "name": "", "size_bytes": fake_agent.CHUNKS * 65536}], **members})

    def commit(self):
        self.say("COPY_COMMIT", request=self.request, value=0)


def refused(world, what, kind, words, **more):
    wire = Copier(world, **more)
    said = wire.expect("REFUSE")
    ok(said["kind"] == kind and words in said["message"], f"{what} is refused: {said['message']}", said)
    wire.close()


def strangers(world):
    refused(world, "a replicator that the factory has not named", "denied", "has not said", folder="replicator-r3", replicator="r3")
    refused(world, "another server than the one that is said", "denied", "has not said", server="db01")
    refused(world, "one that takes another's name", "denied", "certificate", folder="replicator-r3")
    refused(world, "an agent that copies", "denied", "certificate", folder="agent-web01")
    refused(world, "another version", "unsupported", "one release", version=9)
    wire = fake_agent.Wire(world.dir / "replicator-r1", world.second_port, "web01")
    wire.say("HELLO", version=2, agent_version="test", server="web01", boot_id="b", tracker="ebpf", epoch="e", disks=[{"id": "disk", "name": "vda", "size_bytes": 65536}])
    ok(wire.expect("REFUSE")["kind"] == "denied", "a replicator is no agent")
    ok(world.points() == {}, "none of them left anything")


def by_hand(world):
    """The second's end, step by step."""
    wire = Copier(world)
    there = wire.expect("COPYING")
    ok(there["point"] == "" and not there["exact"] and there["replicator"] == "r2", "nothing is there", there)
    wire.point(base="p0")
    ok(wire.expect("POINT_FAILED")["kind"] == "state", "a base that is not there: all must be offered")
    wire.point()
    ok(wire.expect("COPY_GO")["value"] == 0, "a point begins")
    wire.commit()
    ok(wire.expect("POINT_FAILED")["kind"] == "state" and world.points() == {}, "what was never offered makes no point")
    wire.point(group="g1", group_name="shop", group_at_us=7, group_window_us=3, members=[{"point": "p1", "server": "web01"}, {"point": "p9", "server": "db01"}], unreadable_bytes=1024,
               ranges=[{"disk": 0, "first_sector": 2, "sector_count": 2}])
    wire.expect("COPY_GO")
    wire.offer()
    wire.expect("ACK")
    wire.close()
    wire = Copier(world)
    there = wire.expect("COPYING")
    ok(there["epoch"] == "e1" and there["point"] == "", "cut before its commit: no point, and the epoch is known", there)
    wire.point(group="g1", group_name="shop", group_at_us=7, group_window_us=3, members=[{"point": "p1", "server": "web01"}, {"point": "p9", "server": "db01"}], unreadable_bytes=1024,
               ranges=[{"disk": 0, "first_sector": 2, "sector_count": 2}])
    ok(wire.expect("COPY_GO")["value"] == 1, "what was applied need not be offered again")
    wire.commit()
    ok(wire.expect("POINT_DONE")["point"] == "p1", "the point is committed")
    point = world.points()["p1"]
    ok(point["copied"] and point["group"] == "g1" and point["unreadable_bytes"] == 1024 and point["unreadable"][0]["disk"] == "disk", "with its marks and its group", point)
    group = world.ask("points", at=world.second, group="g1")["group"]
    ok(group["name"] == "shop" and group["points"] == 2, "the group has two points, one of which is here", group)
    wire.point()
    ok(wire.expect("POINT_DONE")["point"] == "p1", "asked again it is there")
    wire.point(point="p2", epoch="e2", at_us=999)
    ok(wire.expect("POINT_FAILED")["kind"] == "conflict", "an older one is refused")
    wire.point(point="p2", epoch="e2", base="p1", at_us=999)
    wire.expect("COPY_GO")
    wire.commit()
    ok(wire.expect("POINT_DONE")["point"] == "p2", "but for one that was made of the newest here: a clock was set back")
    wire.say("POINT_COMMIT", request=1, consistency="crash", at_us=1, freeze_ms=0, held=False, attempts=1, group=False, unreadable_bytes=0, ranges=[])
    ok(wire.expect("REFUSE")["kind"] == "protocol", "an agent's words are not for it")
    wire.close()
    agent = fake_agent.Agent(world.at_second, "web01")
    refused(world, "whoever copies while the agent is there", "conflict", "agent of web01")
    agent.close()
    other = Copier(world)
    ok(other.expect("COPYING")["exact"] is True, "an agent that found nothing to change has left the point that was there")
    agent = fake_agent.Agent(world.at_second, "web01")
    other.expect("closed")
    ok(True, "the agent ends a copy that is under way")
    agent.close()
    world.wait("it is gone", lambda: not world.ask("status", at=world.second, server="web01")["servers"][0]["connected"])
    world.ask("drop", at=world.second, server="web01")
    ok(world.points() == {}, "all of it can be dropped")


# ---- the real ones ----

def interrupted(world):
    """A first copy that is cut, whose source dies, and whose end dies."""
    world.link.bytes_per_s = 6 * MIB
    world.start_agent()
    world.wait("the agent replicates to the first", lambda: continuous(world), 120)
    world.wait("the first copy is under way", lambda: world.copy()["state"] == "COPYING" and world.copy()["bytes_total"] - world.copy()["backlog_bytes"] > 8 * MIB, 60)
    made = world.link.made
    world.link.cut()
    ok(world.copy()["point"] is None, "cut in the midst")
    world.wait("it goes on", lambda: world.link.made > made, 60)
    time.sleep(0.5)
    made = world.link.made
    world.kill("second")
    world.start_second()
    world.wait("the second killed: it goes on", lambda: world.link.made > made and world.ask("status", at=world.second), 60)
    time.sleep(0.5)
    made = world.link.made
    world.kill("replicator")
    ok(world.points() == {}, "there is no point of which a part is missing")
    world.start_replicator()
    world.wait("the first killed: it goes on", lambda: world.link.made > made, 60)
    world.link.bytes_per_s = 0
    world.wait("the copy is whole", world.is_current, 120)
    ok(world.link.carried < 2 * 26 * MIB, f"what was there was not sent again: {world.link.carried / MIB:.1f} MiB in all", world.link.carried)
    world.held("after all that")


def every_point(world):
    before = world.link.carried
    for turn in range(4):
        world.write(f"small{turn}", 100000)
        time.sleep(1.1)
    world.wait("the copy is up with the first", world.is_current, 60)
    here, there = world.points(world.first), world.points()
    ok(len(there) >= 4 and set(there) <= set(here), f"{len(there)} of {len(here)} points are there")
    ok(all(there[point]["at"] == here[point]["at"] and there[point]["consistency"] == here[point]["consistency"] for point in there), "under their ids, of their moments, taken as they were")
    ok(world.link.carried - before < 8 * MIB, "only what differs is sent", world.link.carried - before)
    newest = world.copy()
    ok(newest["lag_ms"] == 0 and newest["point_age_ms"] < 60000 and newest["error"] is None, "its figures say so", newest)
    ok(world.ask("verify", at=world.second, point=newest["point"])["chunks"] > 0, "all of it can be read")


def gone_here(world):
    """As after a move: the second has a pinned point that the first does not know. What the first does not say of it ends nothing."""
    point = world.ask("point", server="web01", consistency="crash", timeout_ms=60000)["point"]["id"]
    world.ask("pin", point=point, reason="year")
    for turn in range(3):
        world.write(f"after{turn}", 50000)
        time.sleep(1.1)
    world.wait("a point is pinned there, and newer ones are copied", lambda: "copy: year" in world.points().get(point, {}).get("pins", []) and
               world.copy()["point"] != point and "copying" not in world.points(world.first)[point]["pins"], 60)
    world.link.down = True
    world.link.cut()
    world.ask("unpin", point=point, reason="year")
    world.ask("drop_point", point=point)
    world.link.down = False
    other = world.ask("point", server="web01", consistency="crash", timeout_ms=60000)["point"]["id"]
    world.ask("pin", point=other, reason="day")
    world.wait("the first says anew what it keeps", lambda: "copy: day" in world.points().get(other, {}).get("pins", []), 90)
    ok("copy: year" in world.points()[point]["pins"], "what it knows nothing of stays pinned", world.points()[point])
    world.ask("unpin", point=other, reason="day")
    world.wait("what it knows of ends", lambda: world.points()[other]["pins"] == [], 60)


def pins(world):
    point = world.ask("point", server="web01", consistency="crash", timeout_ms=60000)["point"]["id"]
    world.ask("pin", point=point, reason="audit")
    world.write("later", 50000)
    world.wait("a pinned point is pinned there, too", lambda: "copy: audit" in world.points().get(point, {}).get("pins", []), 60)
    ok(world.refused_there(world.second, "drop_point", point=point).startswith("state"), "and stays")
    world.ask("unpin", point=point, reason="audit")
    world.wait("until it is not", lambda: world.points()[point]["pins"] == [], 60)
    gone_here(world)
    world.link.down = True
    world.link.cut()
    old = world.ask("point", server="web01", consistency="crash", timeout_ms=60000)["point"]["id"]
    world.write("pinned", 50000)
    world.ask("pin", point=old, reason="month")
    for turn in range(3):
        world.write(f"behind{turn}", 50000)
        time.sleep(1.1)
    world.wait("without its link the copy stands, and says why", lambda: world.stands("unreachable") and world.copy()["lag_ms"] > 0, 60)
    newest = world.copy()["point"]
    world.link.down = False
    world.wait("with it it goes on", world.is_current, 90)
    world.wait("what was pinned meanwhile is copied, though it is not the newest, and pinned", lambda: "copy: month" in world.points().get(old, {}).get("pins", []), 60)
    ok(world.copy()["pins_missing"] == 0, "no pin is missing")
    held = [point["id"] for point in world.points(world.first).values() if "copying" in point["pins"]]
    ok(held and newest not in held, "the point that the copy goes on from is pinned at the first, those before are not", held)
    ok("second copy" in world.refused_there(world.first, "drop_point", point=held[0]), "it can't be dropped there")


def the_agent_comes(world):
    """The server's agent goes first, whoever it is; afterwards the copy is made whole again."""
    points = set(world.points())
    agent = fake_agent.Agent(world.at_second, "web01")
    world.write("meanwhile", 300000)
    world.wait("while an agent is at the second, nobody copies there", lambda: world.stands("conflict"), 60)
    ok("agent of web01" in world.copy()["error"]["message"], "which is said", world.copy())
    ok(points == set(world.points()) and continuous(world), "no point is mixed of both")
    agent.close()
    world.wait("when it is gone all is offered, and what lacks is sent", world.is_current, 90)
    world.held("after an agent was there")


def paced(world):
    """A limit of its own: the agent's points at the first go on meanwhile."""
    world.kill("replicator")
    world.words(world.first, {"replicator": "r2", "address": "127.0.0.1", "port": world.link.port}, copy_rate="500kB/s")
    world.start_replicator()
    world.wait("the first knows a limit", lambda: world.is_current() and continuous(world), 90)
    world.write("much", 8 * MIB)
    world.wait("the copy is behind, and shows how much", lambda: world.copy()["state"] == "BEHIND" and 0 < world.copy()["backlog_bytes"] < world.copy()["bytes_total"], 60)
    newest = world.server()["newest_point"]
    world.write("small", 10000)
    world.wait("points go on", lambda: world.server()["newest_point"] != newest and world.copy()["lag_ms"] > 0, 60)
    ok(world.copy()["error"] is None, "that is no error", world.copy())
    world.kill("replicator")
    world.words(world.first, {"replicator": "r2", "address": "127.0.0.1", "port": world.link.port})
    world.start_replicator()
    world.wait("without it the copy is up soon, from where it was", world.is_current, 90)


def full(world):
    """The second's disk is full: the first goes on, and says it."""
    world.kill("second")
    run("mount", "-t", "tmpfs", "-o", "size=400m", "slipway-test", world.second)
    world.words(world.second, source="r1")
    run("mount", "-o", "remount,size=40m", world.second)
    world.start_second()
    world.wait("the second begins anew, and is full", lambda: world.stands("no_space"), 120)
    ok("r2" in world.copy()["error"]["message"], "who is full is said", world.copy())
    before = world.server()["newest_point"]
    world.write("on", 100000)
    world.wait("the agent's points at the first go on", lambda: world.server()["newest_point"] != before and continuous(world), 60)
    ok(world.points() == {}, "nothing is committed in part")
    run("mount", "-o", "remount,size=400m", world.second)
    world.wait("with room it goes on by itself", world.is_current, 120)
    world.held("after it was full")


def dropped(world):
    world.kill("agent-web01", signal.SIGTERM)
    world.wait("the agent is stopped", lambda: not world.server()["connected"])
    there = world.points()
    ok("kept: month" in world.refusal("drop", server="web01") and set(world.points()) == set(there) and there, "a server is not dropped while a person keeps one of its points: nothing goes, here and there")
    kept = next(point["id"] for point in world.points(world.first).values() if "kept: month" in point["pins"])
    world.ask("unpin", point=kept, reason="month")
    world.kill("second")
    ok("second copy at r2" in world.refusal("drop", server="web01") and world.points(world.first), "nor while its second copy can't be")
    world.start_second()
    world.wait("with the second it is", lambda: world.ask("drop", server="web01"), 60)
    ok(world.points() == {} and world.points(world.first) == {}, "here and there")


def steps(world):
    world.certificates("replicator:r2", "replicator:r3")
    world.disk(96 * MIB)
    world.words(world.second, source="r1")
    world.start_second()
    world.wait("the second is up", lambda: world.ask("status", at=world.second), 60)
    strangers(world)
    by_hand(world)
    world.words(world.first, {"replicator": "r2", "address": "127.0.0.1", "port": world.link.port})
    world.start_replicator()
    world.wait("the first is up", lambda: world.ask("status"), 60)
    interrupted(world)
    every_point(world)
    pins(world)
    the_agent_comes(world)
    paced(world)
    full(world)
    dropped(world)


in_world(Two, steps)
