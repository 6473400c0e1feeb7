"""The probe: a client on the data centre's network that asks both services several times a second, so that downtime is measured by
somebody else. One JSON line a question: {"t": when asked, "server", "ok", "ms", "saw" or "error"}."""
import http.client
import json
import re
import threading
import time

from . import pgwire

PERIOD_S = 0.2
TIMEOUT_S = 2.0
IN_FLIGHT_LIMIT = 6  # questions that wait for their time-out don't hold up the next ones, up to here


class Web01:
    """Asks for the page over a connection of its own each time."""
    address = "192.0.2.11"

    def ask(self):
        connection = http.client.HTTPConnection(self.address, 80, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/", headers={"Host": "web01", "Connection": "close"})
            answer = connection.getresponse()
            text = answer.read(65536).decode("utf-8", "replace")
        finally:
            connection.close()
        found = re.search(r"<h1>(\w+)</h1>\s*<p>counter (\d+)</p>", text)
        if answer.status != 200 or not found:
            raise OSError(f"HTTP {answer.status} without the page: {text[:80]!r}")
        if found.group(1) != "web01":
            raise OSError(f"the page of another host, {found.group(1)}")
        return f"counter {found.group(2)}"


class Db01:
    """Asks for the newest row. Holds a connection, as the database's clients do, and opens a new one when it is lost."""
    address = "192.0.2.12"

    def __init__(self):
        self.idle, self.lock = [], threading.Lock()

    def ask(self):
        with self.lock:
            database = self.idle.pop() if self.idle else None
        database = database or pgwire.Connection((self.address, 5432), "probe", "ledger", TIMEOUT_S)
        try:
            rows = database.query("SELECT max(n) FROM ledger")
        except BaseException:
            database.close()
            raise
        with self.lock:
            self.idle.append(database)
        return f"row {rows[0][0]}"


def question(server, asker, slots, write):
    begin, clock = time.time(), time.monotonic()
    line = {"t": round(begin, 3), "server": server}
    try:
        line |= {"ok": True, "saw": asker.ask()}
    except Exception as failure:  # pylint: disable=broad-except  # whatever went wrong, the service did not answer rightly
        line |= {"ok": False, "error": str(failure) or type(failure).__name__}
    line["ms"] = round((time.monotonic() - clock) * 1000, 1)
    if line["ok"] and line["ms"] > TIMEOUT_S * 1000:
        line = {**line, "ok": False, "error": "answered too late"}
    slots.release()
    write(line)


def serve(path):
    """Asks for ever, each question in a thread of its own."""
    lock = threading.Lock()
    with open(path, "a", encoding="utf-8", buffering=1) as log:
        def write(line):
            with lock:
                log.write(json.dumps(line) + "\n")
        askers = [(name, asker, threading.BoundedSemaphore(IN_FLIGHT_LIMIT)) for name, asker in (("web01", Web01()), ("db01", Db01()))]
        due = time.monotonic()
        while True:
            for server, asker, slots in askers:
                if slots.acquire(blocking=False):  # otherwise the six before are waiting still, and will say so
                    threading.Thread(target=question, args=(server, asker, slots, write), daemon=True).start()
            due = max(due + PERIOD_S, time.monotonic() - 1)  # after a stall of our own, no burst
            time.sleep(max(0.0, due - time.monotonic()))


def summary(path):
    """For each server: probes_total, probes_failed, outages and downtime_ms. An outage lasts from the last good answer before it to the
    first good answer after it, so it's an upper bound; downtime_ms is the longest outage."""
    answers = {}
    with open(path, encoding="utf-8") as log:
        for text in log:
            if text.endswith("\n"):
                line = json.loads(text)
                answers.setdefault(line["server"], []).append(line)
    return {server: of_server(sorted(lines, key=lambda line: line["t"])) for server, lines in sorted(answers.items())}


def of_server(lines):
    outages, good, down = [], None, False
    for line in lines:
        if not line["ok"]:
            down = True
            continue
        answered = line["t"] + line["ms"] / 1000
        if down:
            begin = good if good is not None else lines[0]["t"]
            outages.append({"from": round(begin, 3), "to": round(answered, 3), "ms": round((answered - begin) * 1000)})
        good, down = answered, False
    if down:  # still down: until the last question
        begin = good if good is not None else lines[0]["t"]
        end = lines[-1]["t"] + lines[-1]["ms"] / 1000
        outages.append({"from": round(begin, 3), "to": None, "ms": round((end - begin) * 1000)})
    return {"probes_total": len(lines), "probes_failed": sum(not line["ok"] for line in lines), "last_ok": lines[-1]["ok"], "outages": outages,
            "downtime_ms": max((outage["ms"] for outage in outages), default=0),
            "downtime_total_ms": sum(outage["ms"] for outage in outages)}
