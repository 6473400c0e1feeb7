#!/usr/bin/python3
"""far: the agent reaches its replicator only through an HTTP proxy, 200 ms away. What is synced is exact; a connection that the proxy loses is made
anew and goes on where it was; a proxy that refuses is told as such. Prints TAP.
Usage: far SLIPWAY SLIPWAY_AGENT"""
import json
import os
import subprocess
import sys

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from replicated import MIB, World, continuous, device_hash, in_world  # pylint: disable=wrong-import-position
from relay import Relay  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

DELAY_S = 0.1  # each way


class Proxy(Relay):
    """CONNECT to one place only."""

    def __init__(self, port):
        super().__init__(port)
        self.refuse, self.asked, self.delay_s = False, [], DELAY_S
        self.url = f"http://127.0.0.1:{self.port}"

    def open(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(4096)
            if not piece:
                raise OSError("the client went away")
            head += piece
        line = head.split(b"\r\n")[0].decode()
        self.asked.append(line)
        if self.refuse or line != f"CONNECT 127.0.0.1:{self.to} HTTP/1.1":
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            raise OSError("refused")
        try:
            server = super().open(client)
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            raise
        client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 far\r\n\r\n")
        return server


def sync_and_cut(world, proxy):
    world.start_replicator()
    world.start_agent(proxy=proxy.url, read_bytes_per_s=12 * MIB)
    world.wait("the initial sync is two thirds done", lambda: world.server()["bytes_done"] > 64 * MIB)
    proxy.cut()
    world.wait("the replicator sees that the link is gone", lambda: not world.server()["connected"])
    world.wait("it is made anew, and goes on to a point", lambda: continuous(world) and world.server()["connected"], 120)
    server = world.server()
    ok(len(proxy.asked) >= 2 and set(proxy.asked) == {f"CONNECT 127.0.0.1:{world.port} HTTP/1.1"}, "each connection came through the proxy", proxy.asked)
    ok(server["bytes_read"] < server["bytes_total"] + 32 * MIB, f"nothing started over: {server['bytes_read'] >> 20} MiB read of {server['bytes_total'] >> 20}")


def exact(world):
    (world.mounted / "later").write_bytes(os.urandom(3 * MIB))
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    compared = world.ask("compare", server="web01", point=point["id"])["disks"][0]
    ok(compared["blocks_differing"] == 0 and compared["still"], "a held point is exact: " + json.dumps(compared))
    return point["id"]


def back_home(world, proxy, point):
    source, asked = device_hash(world.loop), len(proxy.asked)
    world.ask("thaw", server="web01")
    world.rescue_folder("web01", "rescue", proxy=proxy.url)
    loop = world.other_disk("home.raw", 96 * MIB)
    status, said = world.restore("--point", point, "--onto", os.path.basename(loop))
    ok(status == 0 and device_hash(loop) == source and len(proxy.asked) > asked, f"it goes back to a disk through the proxy, too: {said}")


def refused(world, proxy):
    proxy.refuse = True
    proxy.cut()

    def told():
        status = json.loads(subprocess.run([AGENT, "status", "--config", world.dir / "agent-web01/config.json"], capture_output=True, text=True, check=True).stdout)
        return "the proxy refuses" in json.dumps(status)
    world.wait("a proxy that refuses is told as such by the agent's own status", told)
    proxy.refuse = False
    world.wait("and once it lets through, all goes on", lambda: continuous(world) and world.server()["connected"])


def steps(world):
    proxy = Proxy(world.port)
    world.certificates()
    world.disk(96 * MIB)
    sync_and_cut(world, proxy)
    back_home(world, proxy, exact(world))
    refused(world, proxy)


in_world(lambda: World(SLIPWAY, AGENT), steps)
