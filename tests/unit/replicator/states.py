#!/usr/bin/python3
"""states: the real agent and the real replicator over loopback: each state of a replication is reached by the path that a source takes, and each has
its cause and figures. A writer outruns a limit: never; it stops: a time, and then all is well. Prints TAP.
Usage: states SLIPWAY SLIPWAY_AGENT day|outrun|changes"""
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import fake_agent  # pylint: disable=wrong-import-position
import tap  # pylint: disable=wrong-import-position
from replicated import MIB, World, continuous, in_world, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position

LIMIT = 1 * MIB


def cause(world):
    return (world.server()["cause"] or {}).get("kind")


def words(server):
    return json.dumps({name: server[name] for name in ("state", "backlog_bytes", "lag_ms", "eta_ms", "eta", "rate_bytes_per_s", "churn_bytes_per_s", "bottleneck", "cause")})


class Writer:
    """Overwrites random pages of a file with noise, so many bytes a second, until told to stop."""

    def __init__(self, path, rate):
        self.path, self.rate, self.stopping = path, rate, threading.Event()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        with open(self.path, "r+b", buffering=0) as f:
            pages, begun, written = os.fstat(f.fileno()).st_size // 4096, time.monotonic(), 0
            while not self.stopping.is_set():
                for _ in range(64):
                    os.pwrite(f.fileno(), os.urandom(4096), random.randrange(pages) * 4096)
                os.fdatasync(f.fileno())
                written += 64 * 4096
                time.sleep(max(0, written / self.rate - (time.monotonic() - begun)))

    def stop(self):
        self.stopping.set()
        self.thread.join()


class Narrow:
    """A link that lets through so many bytes a second, one way; the other way all."""

    def __init__(self, port, rate):
        self.to, self.rate = port, rate
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # what it has taken in looks as if it were across
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                agent = self.listener.accept()[0]
                replicator = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                return
            threading.Thread(target=self.carry, args=(agent, replicator, self.rate), daemon=True).start()
            threading.Thread(target=self.carry, args=(replicator, agent, 0), daemon=True).start()

    @staticmethod
    def carry(source, target, rate):
        try:
            while piece := source.recv(16384):
                target.sendall(piece)
                time.sleep(len(piece) / rate if rate else 0)
        except OSError:
            pass
        for end in (source, target):
            end.close()


def first_sync(world):
    world.start_replicator()
    seen = set()
    world.start_agent(read_bytes_per_s=8 * MIB)

    def synced():
        server = world.server()
        seen.add(server["state"])
        if server["state"] == "INITIAL_SYNC" and server["eta_ms"]:
            seen.add("ETA")
        if server["bottleneck"]:
            seen.add("held up by the " + server["bottleneck"])
        return continuous(world)
    world.wait("the first sync ends", synced, 120)
    ok({"INITIAL_SYNC", "ETA", "CONTINUOUS", "held up by the limit"} <= seen, f"it said so, how long it takes, and that a limit is what holds it up: {sorted(seen)}")
    server = world.server()
    ok(server["cause"] is None and server["eta"] is None and server["bottleneck"] is None, "all is well: no cause: " + words(server))


def stopped(world):
    world.kill("agent-web01", signal.SIGTERM)
    world.wait("an agent that was stopped: STOPPED, and why", lambda: world.server()["state"] == "STOPPED" and cause(world) == "agent_stopped")
    shutil.rmtree(world.kept("agent-web01"))  # as after a reboot: its tracker is gone
    seen = set()
    world.start_agent(read_bytes_per_s=8 * MIB)

    def back():
        seen.add((world.server()["state"], cause(world)))
        return continuous(world)
    world.wait("started again it goes on", back, 120)
    ok(("RESCAN", "agent_restarted") in seen, f"over RESCAN, which says why: {sorted(map(str, seen))}")
    world.kill("agent-web01")
    world.wait("an agent that was killed: STALLED, since when, and what to check",
               lambda: world.server()["state"] == "STALLED" and cause(world) == "agent_away" and "since 20" in world.server()["cause"]["text"])


def snapshot(world):
    hook = world.dir / "hook"
    hook.write_text("#!/bin/sh\nsleep 4\n")
    hook.chmod(0o755)
    world.start_agent(before_freeze=str(hook), bytes_per_s=LIMIT)
    world.wait("again", lambda: continuous(world) and world.server()["connected"], 120)
    asked = threading.Thread(target=world.ask, args=("point",), kwargs={"server": "web01", "consistency": "frozen", "timeout_ms": 60000})
    asked.start()
    world.wait("a point that takes its time: CREATING_SNAPSHOT", lambda: world.server()["state"] == "CREATING_SNAPSHOT")
    asked.join()
    world.wait("and then it is CONTINUOUS again", lambda: continuous(world))


def power_lost(world):
    """The source loses its power while a point is taken: its agent is gone, and so is its tracker."""
    begun, said = world.dir / "begun", []
    (world.dir / "hook").write_text(f"#!/bin/sh\ntouch {begun}\nsleep 4\n")
    asked = threading.Thread(target=lambda: said.append(world.refusal("point", server="web01", consistency="frozen", timeout_ms=20000)))
    asked.start()
    world.wait("another point is being taken", begun.exists)
    before = {point["id"] for point in world.ask("points", server="web01")["points"]}
    world.kill("agent-web01")
    shutil.rmtree(world.kept("agent-web01"))
    asked.join()
    ok(said != ["nothing was refused"] and {point["id"] for point in world.ask("points", server="web01")["points"]} <= before,
       f"the power goes meanwhile: no such point, and whoever asked is told: {said}")
    world.start_agent(bytes_per_s=LIMIT)
    world.wait("and with it back all is read again, and well", lambda: world.server()["connected"] and continuous(world) and cause(world) is None, 120)


def paused(world):
    world.ask("pause", server="web01", by="anna")

    def waits():
        server = world.server()
        if server["state"] == "PAUSED" and server["backlog_bytes"] < MIB:  # what was written before the agent heard of it was sent
            (world.mounted / "meanwhile").write_bytes(os.urandom(MIB))
            world.sync()
        return server["state"] == "PAUSED" and "paused by anna, since 20" in server["cause"]["text"] and server["backlog_bytes"] >= MIB and server["eta_ms"] is None
    world.wait("paused: PAUSED, by whom, and what waits", waits)
    world.kill("replicator")
    world.start_replicator()
    world.wait("a restart of the replicator forgets neither", lambda: world.server()["connected"] and "paused by anna" in world.server()["cause"]["text"])
    world.ask("resume", server="web01")
    world.wait("resumed", lambda: continuous(world) and cause(world) is None)


def out_of_time(world):
    identity = world.dir / "agent-web01"
    world.kill("agent-web01")
    world.sign(identity, days=0)
    world.start_agent()
    world.wait("an agent whose certificate is out of its time: STALLED, whose it is, and what to do", lambda: world.server()["state"] == "STALLED" and
               cause(world) == "certificate_refused" and "TLS handshake with agent:web01" in world.server()["cause"]["text"] and "has expired" in world.server()["cause"]["text"])
    world.kill("agent-web01")
    world.sign(identity)
    world.start_agent()
    world.wait("with a new one all is well", lambda: continuous(world) and world.server()["connected"] and cause(world) is None, 120)


def in_step(world):
    world.start_replicator()
    world.start_agent()
    world.wait("the first sync ends", lambda: continuous(world))


def outrun(world):
    """More is written than the limit lets through."""
    start_over(world, "with a limit it goes on", bytes_per_s=LIMIT)
    (world.mounted / "hot").write_bytes(os.urandom(48 * MIB))
    world.sync()
    world.wait("the file that will be written to is there", lambda: continuous(world) and world.server()["backlog_bytes"] == 0, 120)
    writer = Writer(world.mounted / "hot", 4 * LIMIT)
    try:
        begun = time.monotonic()
        world.wait("the writer outruns the limit: BACKLOG, never", lambda: world.server()["state"] == "BACKLOG" and world.server()["eta"] == "never", 90)
        tap.note(f"after {time.monotonic() - begun:.0f} s: {words(world.server())}")
        server = world.server()
        ok(server["eta_ms"] is None and server["bottleneck"] == "limit" and server["limit_bytes_per_s"] == LIMIT, "no time is told, and what bounds it")
        ok(server["cause"]["kind"] == "limit_too_low" and server["cause"]["severity"] == "error" and "the limit of 8.4 Mbit/s (bytes_per_s in the agent's" in
           server["cause"]["text"] and "raise the limit" in server["cause"]["advice"], "the cause names the limit and whose it is, and what to do")
        ok(server["churn_bytes_per_s"] > server["rate_bytes_per_s"] > LIMIT / 3, "churn and rate are about what they are")
        states, again = set(), world.read_again("web01")
        until = time.monotonic() + 6
        while time.monotonic() < until:
            states.add((world.server()["state"], world.server()["eta"]))
            time.sleep(0.2)
        said = {("RESCAN", "never")} if world.read_again("web01") > again else set()  # where this kernel passed over the tracker meanwhile
        ok(states - said == {("BACKLOG", "never")}, f"and so it stays: {states}")
    finally:
        writer.stop()
    world.wait("the writer stops: a time is told", lambda: world.server()["eta_ms"] is not None and world.server()["eta"] is None, 90)
    tap.note(words(world.server()))
    told, begun = world.server()["eta_ms"] / 1000, time.monotonic()
    world.wait("and then it is continuous, and all is well", lambda: continuous(world) and cause(world) is None, 180)
    tap.note(f"{told:.0f} s were told, {time.monotonic() - begun:.0f} s it took")


def start_over(world, what, **settings):
    """A new agent; what was said of the old one is not taken for its word."""
    world.kill("agent-web01")
    world.wait("its agent is gone", lambda: not world.server()["connected"])
    world.start_agent(**settings)
    world.wait(what, lambda: world.server()["connected"] and continuous(world), 120)


def narrow(world):
    """No limit, and a link that is no wider than one."""
    link = Narrow(world.port, LIMIT)
    start_over(world, "over a narrow link it goes on", replicator_port=link.port)
    (world.mounted / "hot").write_bytes(os.urandom(24 * MIB))
    world.sync()
    world.wait("what is much for the link is a backlog, and the link is what holds it up", lambda: world.server()["state"] == "BACKLOG" and world.server()["bottleneck"] == "link" and
               cause(world) == "catching_up" and "held up by the link" in world.server()["cause"]["text"])
    tap.note(words(world.server()))
    ok(LIMIT / 3 < world.server()["rate_bytes_per_s"] < 2 * LIMIT, "the rate is the link's, not that of the rescan before")
    world.wait("until it has caught up", lambda: continuous(world) and cause(world) is None, 120)
    link.listener.close()


def grown(world):
    start_over(world, "over a wide one, too")
    os.truncate(world.dir / "source.raw", 104 * MIB)
    run("losetup", "-c", world.loop)
    world.wait("a disk that has grown is noticed and said, with its sizes", lambda: cause(world) == "disks_changed" and
               "(96.0 MiB) has grown to 104 MiB" in world.server()["cause"]["text"])
    world.wait("and replicated as it is", lambda: continuous(world) and world.server()["bytes_total"] == 104 * MIB)


def shrunk(world):
    """By what lies behind its filesystem."""
    older = world.server()["newest_point"]
    os.truncate(world.dir / "source.raw", 100 * MIB)
    run("losetup", "-c", world.loop)
    world.wait("one that has shrunk, too", lambda: cause(world) == "disks_changed" and "(104 MiB) has shrunk to 100 MiB" in world.server()["cause"]["text"])
    world.wait("and is replicated as it is", lambda: continuous(world) and world.server()["bytes_total"] == 100 * MIB and world.server()["newest_point"] != older)
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    compared = world.ask("compare", server="web01", point=point["id"])["disks"][0]
    world.ask("thaw", server="web01")
    intact(compared["size_bytes"] == 100 * MIB and compared["blocks_differing"] == 0 and compared["still"], f"the point is the disk: {compared}")
    ok(world.ask("verify", point=older)["chunks"] > 0, "and the points of before have what they had")


def rivals(world):
    """A clone of the source's memory has its name, its certificate, and its boot: nobody can tell them apart."""
    shutil.copytree(world.dir / "agent-web01", world.dir / "clone")
    real = world.processes.pop("agent-web01")
    world.start_agent("web01", "clone")
    world.wait("two agents of one name and boot: STALLED, with both addresses", lambda: world.server()["state"] == "STALLED" and cause(world) == "same_name" and
               "127.0.0.1 and 127.0.0.1" in world.server()["cause"]["text"], 60)
    world.kill("agent-web01")
    world.processes["agent-web01"] = real
    world.wait("alone again it goes on", lambda: world.server()["connected"] and continuous(world), 120)


def machines(world):
    """A clone of its disks is another boot, and so is the source after a reboot."""
    disks = [{"name": "vda", **disk} for disk in world.server()["points"][0]["disks"]]

    def dial():
        return fake_agent.Agent(world, "web01", greet=False, boot_id="another", disks=disks)

    def is_welcome():
        other = dial()
        try:
            other.expect("WELCOME", seconds=5)
            return other
        except OSError:
            return None
    refused = dial().expect("REFUSE")
    ok(refused["kind"] == "conflict" and "another machine replicates as web01, from 127.0.0.1" in refused["message"], "another machine is refused: " + refused["message"])
    ok(world.server()["connected"] and world.server()["state"] != "STALLED" and cause(world) == "clone_refused", "which is said, and the server's replication goes on")
    real = world.processes["agent-web01"]
    real.send_signal(signal.SIGSTOP)  # its link is there, and silent: what a source leaves behind that is reset
    begun, other = time.monotonic(), None
    while not other and time.monotonic() < begun + 30:
        other = is_welcome()
        time.sleep(0.5)
    ok(other, f"a source that comes back as another boot has its place after {time.monotonic() - begun:.1f} s")
    real.send_signal(signal.SIGCONT)

    def real_is_refused():
        other.say("PING", request=0, value=0)
        return "another machine replicates as web01" in (world.dir / "agent-web01.log").read_text()
    world.wait("then the other one is refused", real_is_refused)
    other.say("PING", request=0, value=0)
    ok(world.ask("prefer", server="web01")["address"] == "127.0.0.1", "a person's word decides")

    def real_is_back():
        try:
            other.say("PING", request=0, value=0)
        except OSError:
            return world.server()["connected"] and continuous(world)
        return False
    world.wait("and the other one has its place", real_is_back, 60)


def untracked(world):
    world.kill("agent-web01")
    world.start_agent(tracker="rescan", rescan_interval_s=3600, freeze_budget_ms=10)
    world.wait("a source whose changes can't be followed says so, why, and what it costs", lambda: (lambda c: c and c["kind"] == "not_tracked"
               and c["severity"] == "warning" and "the setting tracker is rescan" in c["text"])(world.server()["cause"]), 120)
    ok(world.server()["churn_bytes_per_s"] is None, "and its churn is not known")
    world.ask("detach", server="web01")
    ok(world.server()["state"] == "DISCONNECTED" and cause(world) == "detached", "detached: DISCONNECTED")


LIVES = {"day": (first_sync, stopped, snapshot, power_lost, paused, out_of_time), "outrun": (in_step, outrun), "changes": (in_step, narrow, grown, shrunk, rivals, machines, untracked)}


def steps(world):
    world.certificates()
    world.disk(96 * MIB)
    for part in LIVES[sys.argv[3]]:
        part(world)


in_world(lambda: World(SLIPWAY, AGENT), steps)
