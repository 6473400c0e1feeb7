#!/usr/bin/python3
"""bucket: a replicator whose vault's full segments lie in an S3-compatible store (tests/s3_server.py): they go there, their files here go, a whole disk is read
back from there, and a store that is away holds no replication up. Prints TAP. Usage: bucket SLIPWAY SLIPWAY_AGENT"""
import os
import shutil
import socket
import subprocess
import sys
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
sys.path.insert(0, TESTS)

import bucketed  # pylint: disable=wrong-import-position
from ends import free_port  # pylint: disable=wrong-import-position
from replicated import MIB, Refused, World, in_world  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position


class Store:
    def __init__(self, world):
        self.world, self.folder, self.port = world, world.dir / "store", free_port()
        self.options = bucketed.options(world, f"http://127.0.0.1:{self.port}", "vaults", "key", "secret")

    def start(self):
        self.world.start("store", sys.executable, os.path.join(TESTS, "s3_server.py"), self.folder, self.port, "vaults", "key", "secret")
        while self.world.processes["store"].poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.05)
        raise Refused("the store has ended")

    def kill(self):
        self.world.kill("store")

    def segments(self):
        return len(list((self.folder / "objects").glob("*.seg")))


def pins(world, point):
    return world.ask("points", point=point)["points"][0]["pins"]


def lose_disk(world):
    world.kill("replicator")
    shutil.rmtree(world.dir / "replicator/vault")


def disk_lost(world, store, point):
    """What people keep is kept by who takes the vault over from its bucket; where that can't be known, nobody does."""
    world.start_replicator(*store.options)
    world.wait("the replicator is back", lambda: world.server()["connected"])
    bucketed.full(world)
    world.ask("pin", point=point, reason="the auditor asked")
    world.wait("its pins are in the bucket", lambda: bucketed.settled(world) and not bucketed.bucket(world)["pins_wait"])
    at = next((store.folder / "objects").glob("*pins"))
    ok(b"auditor" not in at.read_bytes() and point.encode() not in at.read_bytes(), "where nobody can read them")
    store.kill()
    world.ask("pin", point=point, reason="the lawyer, too")
    world.wait("while the store is away one waits, and the status says so", lambda: bucketed.bucket(world)["pins_wait"])
    before = at.read_bytes()
    store.start()
    world.wait("it goes there once the store is back", lambda: at.read_bytes() != before and not bucketed.bucket(world)["pins_wait"])
    kept = pins(world, point)
    lose_disk(world)
    world.start_replicator(*store.options)
    world.wait("a replicator with an empty disk takes the vault over", lambda: world.ask("status"), 120)
    ok(pins(world, point) == kept and "kept: the lawyer, too" in kept, "with its pins", (pins(world, point), kept))
    lose_disk(world)
    whole = at.read_bytes()
    at.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    words = world.replicator_words("--vault-key-file", world.vault_key, *store.options)
    started = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)
    ok(started.returncode and "which recovery points are to be kept for somebody is not known" in started.stdout + started.stderr, "with pins that are damaged there it does not start", started)
    at.write_bytes(whole)
    world.start_replicator(*store.options)
    world.wait("with whole ones it does", lambda: world.ask("status"), 120)
    ok(pins(world, point) == kept, "and has them", (pins(world, point), kept))


def steps(world):
    world.certificates()
    world.disk(96 * MIB)
    store = Store(world)
    store.start()
    world.start_replicator(*store.options)
    world.start_agent()
    point = bucketed.sent_and_read(world, store)
    bucketed.second(world, store)
    bucketed.away(world, store, point)
    bucketed.at_rest(world, store, point)
    disk_lost(world, store, point)


in_world(lambda: World(SLIPWAY, AGENT), steps)
