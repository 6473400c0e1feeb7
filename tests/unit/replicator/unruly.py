#!/usr/bin/python3
"""unruly: agents of the test's own that do what ours don't: the replicator neither gives them what others need, nor takes their silence for an answer. Prints TAP.
Usage: unruly SLIPWAY SLIPWAY_AGENT"""
import hashlib
import pathlib
import struct
import sys

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


def steps(world):
    world.certificates()
    world.start_replicator()
    world.wait("the replicator listens", lambda: world.ask("status"))
    hoards(world)
    stays(world)


in_world(lambda: World(SLIPWAY, AGENT), steps)
