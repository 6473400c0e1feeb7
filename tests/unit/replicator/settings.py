#!/usr/bin/python3
"""settings: the real agent and the real replicator, told how to replicate by a small factory: interval, ladder, bandwidth by calendar, pause;
over a wrong word, a factory that is down, and restarts. Prints TAP.
Usage: settings SLIPWAY SLIPWAY_AGENT"""
import http.server
import json
import os
import shutil
import ssl
import sys
import threading
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from ends import free_port  # pylint: disable=wrong-import-position
from replicated import MIB, World, continuous, in_world, run  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position


class Factory:
    """Answers POST /v1/replicator/status with the settings that the test wants."""

    def __init__(self, world):
        place = world.dir / "factory"
        place.mkdir()
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", place / "key.pem", "-out", place / "csr.pem",
            "-subj", "/CN=factory")
        (place / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        run("openssl", "x509", "-req", "-in", place / "csr.pem", "-CA", world.dir / "ca.pem", "-CAkey", world.dir / "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", place / "ext", "-out", place / "cert.pem")
        self.settings, self.more, self.told, self.asked, self.server, self.place = {}, {}, None, 0, None, place
        self.ca, self.port = world.dir / "ca.pem", world.port
        while self.port == world.port:  # nobody listens there yet
            self.port = free_port()
        self.begin()

    def begin(self):
        factory = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):  # pylint: disable=invalid-name
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                factory.told = body["servers"]
                answer = json.dumps({"unknown": [], "servers": {s["server"]: factory.settings for s in body["servers"]}, **factory.more}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                factory.asked += 1

            def log_message(self, *_):  # pylint: disable=arguments-differ
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.place / "cert.pem", self.place / "key.pem")
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()


def holds(world):
    return world.server()["settings"]


def interval(world, factory):
    world.wait("where the factory says nothing the replicator's own holds", lambda: continuous(world) and holds(world)["point_interval_ms"] == 1000)
    factory.settings = {"point_interval_s": 3600}
    world.wait("an interval is taken over", lambda: holds(world)["point_interval_ms"] == 3600000)
    time.sleep(1.5)  # a point that was asked for before may still come
    newest = world.server()["newest_point"]
    (world.mounted / "change").write_bytes(os.urandom(MIB))
    world.sync()
    world.wait("the change has reached the vault", lambda: world.server()["bytes_stored"] and world.server()["backlog_bytes"] == 0)
    for _ in range(30):
        time.sleep(0.1)
        if world.server()["newest_point"] != newest:
            break
    ok(world.server()["newest_point"] == newest, "and no point is taken before its time, where one a second was")
    factory.settings = {"point_interval_s": 1}
    world.wait("a shorter one brings it", lambda: world.server()["newest_point"] != newest)


def ladder(world, factory):
    for i in range(12):
        (world.mounted / "step").write_bytes(os.urandom(65536))
        world.sync()
        newest = world.server()["newest_point"]
        if i < 11:
            world.ask("point", server="web01", consistency="any", timeout_ms=60000)
    count = len(world.ask("points", server="web01", limit=500)["points"])
    ok(count >= 12 and newest, f"there are {count} points")
    kept = world.ask("points", server="web01", limit=500)["points"][-1]["id"]
    world.ask("pin", point=kept, reason="test")
    factory.settings = {"point_interval_s": 3600, "retention": "1s all"}
    world.wait("a short ladder is taken over", lambda: holds(world)["point_interval_ms"] == 3600000)
    world.wait("and expires the points, but for the newest three and one that is pinned",
               lambda: len(world.ask("points", server="web01", limit=500)["points"]) == 4, 90)
    ok(kept in [p["id"] for p in world.ask("points", server="web01", limit=500)["points"]], "the pinned one is there")
    ok(world.server()["state"] in ("CONTINUOUS", "CREATING_SNAPSHOT", "BACKLOG") and world.server()["connected"], "nothing was stopped for it")


def bandwidth(world, factory):
    """By calendar: it is what is said for today, and what is said for another day is not."""
    day = time.strftime("%a", time.gmtime()).lower()
    others = [d for d in ("mon", "tue", "wed", "thu", "fri", "sat", "sun") if d != day]
    factory.settings = {"bandwidth": f"none; {day} 2MB/s; {','.join(others)} pause", "time_zone": "UTC", "read_rate": "100MB/s", "cpu_percent": 90}
    world.wait("today's limit is told", lambda: holds(world)["limit_bytes_per_s"] == 2000000 and not holds(world)["paused_by_calendar"])
    before = world.server()["bytes_sent"]
    begin = time.monotonic()
    (world.mounted / "much").write_bytes(os.urandom(12 * MIB))
    world.sync()
    world.wait("12 MiB come over", lambda: world.server()["bytes_sent"] - before > 12 * MIB, 120)
    took = time.monotonic() - begin
    # Not less than what the limit allows; how much more it takes says nothing. Two frames of 2 MiB may go at once.
    ok(took > 8 * MIB / 2000000, f"at no more than 2 MB/s: it took {took:.1f} s")
    factory.settings = {"bandwidth": "pause"}
    world.wait("a pause is told, and the agent keeps it", lambda: world.server()["state"] == "PAUSED" and holds(world)["paused_by_calendar"])
    ok(world.server()["cause"]["kind"] == "calendar_pause", "the cause is the calendar: " + str(world.server()["cause"]))
    world.ask("pause", server="web01")
    factory.settings = {"bandwidth": "none"}
    world.wait("a pause by order stays when the calendar's ends", lambda: not holds(world)["paused_by_calendar"] and world.server()["state"] == "PAUSED")
    factory.settings = {"bandwidth": "pause"}
    world.wait("and the calendar's begins again", lambda: holds(world)["paused_by_calendar"])
    world.ask("resume", server="web01")
    time.sleep(1.5)
    ok(world.server()["state"] == "PAUSED", "a resume by order does not end the calendar's")
    point = world.ask("point", server="web01", consistency="any", timeout_ms=60000)["point"]
    ok(point["id"], "a point that somebody asks for is taken all the same")
    world.wait("and the pause goes on", lambda: world.server()["state"] == "PAUSED")
    group = world.ask("group_point", servers=["web01"], consistency="any", timeout_ms=60000)
    ok(len(group["group"]["points"]) == 1, "so is a group's")
    factory.settings = {"bandwidth": "3MB/s", "point_interval_s": 1}
    world.wait("then it goes on", lambda: world.server()["state"] == "CONTINUOUS" and holds(world)["limit_bytes_per_s"] == 3000000)


def ordered(world, factory):
    """A person's pause, which comes down with the settings, and counts once."""
    good, now_us = dict(factory.settings), int(time.time() * 1e6)
    factory.settings = {**good, "order": {"paused": True, "by": "anna", "at_us": now_us}}
    world.wait("an order to pause is carried out, and says whose it is", lambda: world.server()["state"] == "PAUSED" and "paused by anna" in world.server()["cause"]["text"])
    ok(holds(world)["error"] is None, "it is no setting")
    world.ask("resume", server="web01")
    asked = factory.asked
    world.wait("what was ordered here since holds, however often the factory says the old one", lambda: world.server()["state"] == "CONTINUOUS" and factory.asked > asked + 1)
    world.ask("pause", server="web01")
    factory.settings = {**good, "order": {"paused": False, "by": "anna", "at_us": now_us + 1}}
    world.wait("until there is a new one", lambda: world.server()["state"] == "CONTINUOUS")
    world.kill("replicator")
    start(world, factory)
    world.wait("after a restart it goes on", lambda: world.server()["connected"])
    world.ask("pause", server="web01")
    asked = factory.asked
    world.wait("and it does not carry the order out again", lambda: factory.asked > asked + 1 and world.server()["state"] == "PAUSED")
    world.ask("resume", server="web01")
    factory.settings = good


def wrong(world, factory):
    good = dict(factory.settings)
    factory.settings = {"bandwidth": "mon-fro 3MB/s", "point_interval_s": 1, "wings": 2}
    world.wait("what can't be read is refused, with every fault named",
               lambda: "mon-fro" in holds(world)["error"]["message"] and "wings is not known" in holds(world)["error"]["message"]
               if holds(world)["error"] else False)
    ok(holds(world)["limit_bytes_per_s"] == 3000000, "and what held before goes on")
    ok(world.server()["cause"]["kind"] == "settings_refused" and "mon-fro" in world.server()["cause"]["text"], "the cause says it, too")
    world.wait("the factory is told the cause", lambda: "mon-fro" in json.dumps(factory.told))
    factory.settings = good
    world.wait("taken back, nothing is wrong", lambda: holds(world)["error"] is None)


def alone(world, factory):
    """The factory is gone: nothing changes, over a restart, too."""
    factory.end()
    newest = world.server()["newest_point"]
    (world.mounted / "alone").write_bytes(os.urandom(MIB))
    world.sync()
    world.wait("without its factory points are taken", lambda: world.server()["newest_point"] != newest)
    world.kill("replicator")
    start(world, factory)
    world.wait("after a kill and a restart without a factory the last word holds",
               lambda: continuous(world) and world.server()["connected"] and holds(world)["limit_bytes_per_s"] == 3000000)
    world.kill("replicator")
    world.kill("agent-web01")
    shutil.rmtree(world.dir / "replicator/vault/index")
    start(world, factory)
    world.wait("and where the index is made anew, with nobody there", lambda: holds(world)["limit_bytes_per_s"] == 3000000 and not world.server()["connected"])
    ok(world.server()["newest_point"] and world.ask("servers")["servers"] == ["web01"], "its points are known to be its own")
    world.start_agent()
    asked = factory.asked
    factory.settings = {"bandwidth": "4MB/s", "point_interval_s": 1}
    factory.begin()
    world.wait("when it is back it is heard again", lambda: holds(world)["limit_bytes_per_s"] == 4000000 and factory.asked > asked)


def start(world, factory):
    identity = world.dir / "replicator-r1"
    world.start_replicator("--factory", f"https://127.0.0.1:{factory.port}")
    ok(identity.exists(), "the replicator starts")


def not_kept(world, factory):
    """What the factory says of certificates can't be written down: all else that it says is taken all the same."""
    (world.dir / "replicator/revoked.json").mkdir()
    factory.more = {"revoked": {"version": "v1", "certificates": {"0a": "as the test wants it"}}}
    factory.settings = {"point_interval_s": 7}
    world.wait("where one word of the factory's can't be kept, the others are taken", lambda: holds(world)["point_interval_ms"] == 7000)
    factory.more = {}
    (world.dir / "replicator/revoked.json").rmdir()


def steps(world):
    world.certificates()
    world.disk(96 * MIB)
    factory = Factory(world)
    start(world, factory)
    world.start_agent()
    interval(world, factory)
    not_kept(world, factory)
    ladder(world, factory)
    bandwidth(world, factory)
    ordered(world, factory)
    wrong(world, factory)
    alone(world, factory)


in_world(lambda: World(SLIPWAY, AGENT), steps)
