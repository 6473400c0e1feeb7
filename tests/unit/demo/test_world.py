#!/usr/bin/python3
"""The parts of the demo's world that measure and judge: they must not say that all is well when it isn't. Prints TAP."""
import hashlib
import http.client
import json
import os
import pathlib
import socket
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
sys.path.insert(0, str(ROOT / "demo.d"))

from world_parts import acklog, cmdb, common, images, probe, rows  # pylint: disable=wrong-import-position

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import tap  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position


def lines(*answers):
    """(time, good): answers of a probe, each taking 10 ms."""
    return [{"t": when, "ok": good, "ms": 10} for when, good in answers]


def outages():
    whole = probe.of_server(lines((0, True), (1, True)))
    ok(whole["downtime_ms"] == 0 and not whole["outages"] and whole["probes_failed"] == 0, "a service that always answered had no outage")
    once = probe.of_server(lines((0, True), (1, False), (2, False), (3, True), (4, True)))
    ok(once["outages"] == [{"from": 0.01, "to": 3.01, "ms": 3000}] and once["probes_failed"] == 2, "an outage lasts from good answer to good answer")
    still = probe.of_server(lines((0, True), (1, False), (5, False)))
    ok(still["outages"][0]["to"] is None and still["downtime_ms"] == 5000, "one that hasn't ended counts until the last question")
    ok(probe.of_server(lines((0, False), (1, True)))["downtime_ms"] == 1010, "a service that was down at the start was down from the start")
    two = probe.of_server(lines((0, True), (1, False), (2, True), (3, False), (5, True)))
    ok(two["downtime_ms"] == 3000 and two["downtime_total_ms"] == 5000, "the longest of two, and their sum")


def acknowledged(folder):
    path = folder / "acks"
    path.write_text("1 aa 0.1\n2 bb 0.2\n3 cc 0.3\n3 dd 0.4\n")
    held = acklog.read(path)
    ok(held == {1: "aa", 2: "bb", 3: "twice"}, "a number that was acknowledged with two contents fits neither")

    with socket.create_server(("127.0.0.1", 0)) as free:
        acklog.PORT = free.getsockname()[1]
    log = folder / "log"
    threading.Thread(target=acklog.serve, args=("127.0.0.1", log), daemon=True).start()
    peer = common.wait_for("the log of acknowledged rows", lambda: socket.create_connection(("127.0.0.1", acklog.PORT), 1), 5)
    peer.sendall(b"7 abc\n8 d")
    common.wait_for("the first row", lambda: log.exists() and log.read_text(), 5)
    peer.sendall(b"ef\nnonsense\n9 half")
    peer.close()
    time.sleep(0.3)
    ok(acklog.read(log) == {7: "abc", 8: "def"}, "whole lines count, however they are cut; half a line and nonsense don't")


class FakeDatabase:
    held = []

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def query(self, _):
        return self.held


def ledger(folder):
    path = folder / "ledger"
    sums = {n: hashlib.md5(f"{n} p{n}".encode()).hexdigest() for n in range(1, 5)}
    path.write_text("".join(f"{n} {sums[n]} 0.0\n" for n in (1, 2, 3)))
    rows.pgwire.Connection, real = FakeDatabase, rows.pgwire.Connection
    try:
        FakeDatabase.held = [(str(n), f"p{n}", sums[n]) for n in (1, 2, 3, 4)]
        found = rows.check("nowhere", path)
        ok((found["acknowledged"], found["present"], found["missing"], found["torn"]) == (3, 4, 0, 0), "a row more than acknowledged is fine")
        FakeDatabase.held = [(str(n), f"p{n}", sums[n]) for n in (1, 3)]
        ok(rows.check("nowhere", path)["first_missing"] == [2], "an acknowledged row that isn't there is missing")
        FakeDatabase.held = [("1", "p1", sums[1]), ("2", "px", sums[2]), ("3", "other", hashlib.md5(b"3 other").hexdigest())]
        found = rows.check("nowhere", path)
        ok(found["first_torn"] == [2] and found["first_missing"] == [3], "a torn row is torn; a number that was given again is missing")
    finally:
        rows.pgwire.Connection = real


def ask(port, method, path, body=None, token="t0"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, None if body is None else json.dumps(body), {"Authorization": f"Token {token}"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def records(folder):
    path = folder / "cmdb.json"
    common.write_json(path, cmdb.first_state({"web01": "192.0.2.11", "db01": "192.0.2.12"}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    threading.Thread(target=cmdb.serve, args=("127.0.0.1", port, path, "t0"), daemon=True).start()
    common.wait_for("the CMDB", lambda: ask(port, "GET", "/api/status/"), 5)
    machines = "/api/virtualization/virtual-machines/"
    ok(ask(port, "GET", machines, token="wrong")[0] == 403, "a wrong token is refused")
    _, found = ask(port, "GET", machines + "?name=db01")
    ok(found["count"] == 1 and found["results"][0]["name"] == "db01", "a record is found by its name")
    number = found["results"][0]["id"]
    _, page = ask(port, "GET", machines + "?limit=1")
    ok(page["count"] == 2 and len(page["results"]) == 1 and "offset=1" in page["next"], "lists come in pages")
    ok(ask(port, "PATCH", f"{machines}{number}/", {"status": "gone"})[0] == 400, "a status that is none is refused")
    ok(ask(port, "PATCH", f"{machines}999/", {"status": "offline"})[0] == 404, "a record that isn't there is not found")
    ok(ask(port, "PATCH", f"{machines}{number}/", {"status": "decommissioning"})[1]["status"]["value"] == "decommissioning", "a status is changed")
    entry = {"assigned_object_type": "virtualization.virtualmachine", "assigned_object_id": number, "kind": "success", "comments": "moved"}
    ok(ask(port, "POST", "/api/extras/journal-entries/", entry)[0] == 201, "a journal entry is made")
    ok(ask(port, "POST", "/api/extras/journal-entries/", {**entry, "comments": ""})[0] == 400, "an empty one is refused")
    held = common.read_json(path)
    ok(held["virtualization/virtual-machines"][0]["status"]["value"] == "decommissioning" and len(held["extras/journal-entries"]) == 1,
       "both are on disk")


def sources():
    stanza = "Types: deb deb-src\n# a remark\nURIs: http://a.invalid/debian\nSuites: bookworm trixie\nComponents: main contrib\nSigned-By: /k.gpg\n"
    ok(images.lines_of_stanza(stanza, {"bookworm"}) == ["deb [signed-by=/k.gpg] http://a.invalid/debian bookworm main"], "sources of Debian 12 are taken over")
    ok(not images.lines_of_stanza(stanza.replace("deb deb-src", "deb-src"), {"bookworm"}), "sources of source code are not")
    ok(not images.lines_of_stanza(stanza.replace("main contrib", "stable"), {"bookworm"}), "nor those of others")


def processes(folder):
    held = common.Processes(folder)
    child = held.start("sleeper", "sleep", "60")
    ok(held.pid("sleeper") == child.pid, "a process is found again by its record")
    record = common.read_json(folder / "pids/sleeper.json")
    common.write_json(folder / "pids/other.json", {**record, "start_time": record["start_time"] + 1})
    ok(held.pid("other") is None, "another process of that number is not taken for it")
    held.stop("other")
    ok(held.pid("sleeper") == child.pid, "nor ended")
    held.stop("sleeper")
    ok(held.pid("sleeper") is None and child.poll() is not None, "it is ended")


with tempfile.TemporaryDirectory() as name:
    outages()
    acknowledged(pathlib.Path(name))
    ledger(pathlib.Path(name))
    records(pathlib.Path(name))
    sources()
    processes(pathlib.Path(name))
sys.exit(tap.finish())
