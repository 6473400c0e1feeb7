#!/usr/bin/python3
"""bucket: a replicator whose vault's full segments lie in an S3-compatible store (tests/s3_server.py): they go there, their files here go, a whole disk is read
back from there, and a store that is away holds no replication up. Prints TAP. Usage: bucket SLIPWAY SLIPWAY_AGENT"""
import json
import os
import signal
import socket
import sys
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
sys.path.insert(0, TESTS)

import bucketed  # pylint: disable=wrong-import-position
import tap  # pylint: disable=wrong-import-position
from ends import free_port  # pylint: disable=wrong-import-position
from replicated import MIB, Refused, World  # pylint: disable=wrong-import-position
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


def main():
    if os.geteuid() != 0:
        print("1..0 # SKIP it needs root")
        return 0
    world = World(SLIPWAY, AGENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
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
    except (Refused, RuntimeError, OSError, KeyError, json.JSONDecodeError) as reason:
        ok(False, f"the test went on to its end: {reason!r}")
    finally:
        world.close()
    return tap.finish()


sys.exit(main())
