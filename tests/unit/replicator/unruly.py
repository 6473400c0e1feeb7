#!/usr/bin/python3
"""unruly: agents of the test's own that do what ours don't: the replicator neither gives them what others need, nor takes their silence for an answer. Prints TAP.
Usage: unruly SLIPWAY SLIPWAY_AGENT"""
import hashlib
import json
import pathlib
import struct
import sys
import threading
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[2])]

from fake_agent import Agent  # pylint: disable=wrong-import-position
from replicated import World, in_world  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

MANY = 1024  # chunks in an offer
PAGES, PAGES_BYTES = 0x7FFF, 15 * 4096
ZSTD_ZEROS = bytes.fromhex("28b52ffd60") + struct.pack("<H", PAGES_BYTES - 256) + (3 | PAGES_BYTES << 3).to_bytes(3, "little") + b"\0"  # one frame, one block of the same byte


def offer_pages(agent):
    """Pages of many chunks, all zero, and their content. They wait for the offers before."""
    agent.offers += 1
    agent.frame("OFFER", struct.pack("<QHH", agent.offers, 0, MANY) +
                b"".join(struct.pack("<IBBH32s", chunk, 0, 0, PAGES, hashlib.sha256(bytes(PAGES_BYTES)).digest()) for chunk in range(MANY)))
    agent.frame("DATA", struct.pack("<QHH", agent.offers, MANY, 0) +
                b"".join(struct.pack("<HBBII", entry, 1, 0, PAGES_BYTES, len(ZSTD_ZEROS)) + ZSTD_ZEROS for entry in range(MANY)))


def hoards(world):
    """An offer whose content it keeps for itself, and more and more pages behind it, which can't be laid before."""
    agent = Agent(world, "web01", disks=[{"id": "disk", "name": "vda", "size_bytes": MANY * 65536}])
    agent.offer_one(b"x" * 65536)
    for _ in range(4):
        offer_pages(agent)
    agent.say("PING", request=7, value=0)
    ok(agent.expect("PONG", request=7), "240 MiB of pages may wait")
    offer_pages(agent)
    ok("pages wait" in agent.expect("REFUSE")["message"], "an agent that lets more and more wait is refused")
    ok(Agent(world, "web01"), "and may come again")


def stays(world):
    """Told that replication is over, it stays."""
    agent = Agent(world, "db01")
    agent.goes_on()
    told = world.ask("detach", server="db01")["agent_told"]
    agent.expect("DETACH")
    status = world.ask("status", server="db01")["servers"][0]
    ok(not told and status["connected"] and status["state"] != "DISCONNECTED", f"an agent that stays is not told of as gone: {status['state']}")
    agent.close()
    world.wait("once it is gone, it is", lambda: world.ask("status", server="db01")["servers"][0]["state"] == "DISCONNECTED")
    ok(not world.ask("detach", server="db01")["agent_told"], "nor is one that is away told of as told")
    world.ask("resume", server="db01")
    agent = Agent(world, "db01")
    obeys = threading.Thread(target=lambda: (agent.expect("DETACH"), agent.say("BYE", request=0, kind="none", message="detached"), agent.close()))
    obeys.start()
    ok(world.ask("detach", server="db01")["agent_told"], "one that says goodbye was told")
    obeys.join()


def asked_for(agent, seconds):
    """It answers whatever it is asked for by the clock meanwhile: the longest that it waited for that."""
    longest, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.monotonic()
        agent.asked(group=False, seconds=70)
        longest = max(longest, time.monotonic() - begun)
        agent.commit(group=False, consistency="crash")
        agent.expect("POINT_DONE", request=agent.request)
    return longest


def takes_nothing(world):
    """An agent that reads nothing of what it is told, while another one goes on."""
    world.kill("replicator")
    (world.dir / "replicator/settings.json").write_text(json.dumps({"servers": {"web01": {"point_interval_s": 8}}}))
    world.start_replicator()
    world.wait("the replicator starts again", lambda: world.ask("status"))
    deaf, other = Agent(world, "web01"), Agent(world, "db01")
    for agent in (deaf, other):
        agent.goes_on()
    deaf.asked(group=False)
    deaf.commit(group=False, consistency="crash")
    deaf.expect("POINT_DONE", request=deaf.request)
    deaf.flood()
    longest = asked_for(other, 15)
    ok(longest < 4, f"an agent that takes nothing holds up nobody else's points: they came at most {longest:.1f} s apart")
    world.ask("pause", server="web01", timeout=5)
    world.ask("pause", server="db01", timeout=5)
    other.expect("PAUSE", seconds=5)
    ok(True, "nor their orders")
    for server in ("web01", "db01"):
        world.ask("resume", server=server)
    deaf.close()
    other.close()


def steps(world):
    world.certificates()
    world.start_replicator()
    world.wait("the replicator listens", lambda: world.ask("status"))
    hoards(world)
    takes_nothing(world)
    stays(world)


in_world(lambda: World(SLIPWAY, AGENT), steps)
