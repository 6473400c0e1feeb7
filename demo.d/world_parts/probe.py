"""The probe: a client on the data centre's network that asks both services several times a second, so that downtime is measured by
somebody else. One JSON line a question: {"t": when asked, "server", "ok", "ms", "saw" or "error"}."""
import http.client
import json
import re
import threading
import time

from . import pgwire

PERIOD_S = 0.2
TIMEOUT_S = 1.0


def ask_web01(address):
    connection = http.client.HTTPConnection(address, 80, timeout=TIMEOUT_S)
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


def ask_db01(address):
    with pgwire.Connection((address, 5432), "probe", "ledger", TIMEOUT_S) as database:
        rows = database.query("SELECT max(n) FROM ledger")
    return f"row {rows[0][0]}"


QUESTIONS = {"web01": ("192.0.2.11", ask_web01), "db01": ("192.0.2.12", ask_db01)}


def ask(server, write):
    address, question = QUESTIONS[server]
    begin, clock = time.time(), time.monotonic()
    line = {"t": round(begin, 3), "server": server}
    try:
        saw = question(address)
        line |= {"ok": True, "saw": saw}
    except Exception as failure:  # pylint: disable=broad-except  # whatever went wrong, the service did not answer rightly
        line |= {"ok": False, "error": str(failure) or type(failure).__name__}
    line["ms"] = round((time.monotonic() - clock) * 1000, 1)
    if line["ok"] and line["ms"] > TIMEOUT_S * 1000:
        line |= {"ok": False, "error": "answered too late"}
    write(line)


def serve(path):
    """Asks for ever. A question that hangs doesn't hold up the next one: each has a thread of its own, and ends by its time-out."""
    lock = threading.Lock()
    with open(path, "a", encoding="utf-8", buffering=1) as log:
        def write(line):
            with lock:
                log.write(json.dumps(line) + "\n")
        due = time.monotonic()
        while True:
            for server in QUESTIONS:
                threading.Thread(target=ask, args=(server, write), daemon=True).start()
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
