#!/usr/bin/python3
"""What the benches judge by: they must not say that a goal holds when it doesn't, nor measure what wasn't there. Prints TAP."""
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import sys

sys.dont_write_bytecode = True
BENCH = pathlib.Path(__file__).resolve().parent.parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))
loader = importlib.machinery.SourceFileLoader("bench_run", str(BENCH / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
loader.exec_module(run)

import api  # pylint: disable=wrong-import-position
import downtime  # pylint: disable=wrong-import-position
import tracker  # pylint: disable=wrong-import-position

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import tap  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position


def refused(call, *words):
    try:
        call(*words)
    except RuntimeError:
        return True
    return False


def verdicts():
    def figure(ours, peers, goal=None, higher=False):
        return run.finish("api", {"what": "x", "unit": "s", "ours": ours, "peers": peers, "goal": goal, "higher_is_better": higher}, False)
    at_least = {"ratio_at_least": 1.0}
    ok(figure(2.0, {"a": 4.0, "b": 3.0}, at_least)["ratio"] == 1.5, "the ratio is against the best peer, of whom less is better")
    ok(figure(10.0, {"a": 4.0, "b": 20.0}, at_least, True)["ratio"] == 0.5, "or more")
    ok(figure(2.0, {"a": 4.0}, at_least)["holds"] is True and figure(5.0, {"a": 4.0}, at_least)["holds"] is False, "a goal holds, or doesn't")
    ok(figure(2.0, {}, at_least)["holds"] is False, "and doesn't where no peer was measured")
    ok(figure(9.0, {}, {"ours_at_most": 8})["holds"] is False and figure(2.0, {})["holds"] is None, "without a goal there is no verdict")
    wanted = {"bench", "what", "unit", "ours", "peers", "ratio", "goal", "holds", "machine", "commit"}
    ok(wanted <= set(figure(2.0, {})), "a line says all that it must")


def drawing():
    def text(what, ours, quick):
        return json.dumps({"bench": "api", "what": what, "unit": "s", "ours": ours, "peers": {"p": 3.0}, "ratio": 1.0, "goal": {"ratio_at_least": 1.0}, "how": "",
                           "quick": quick, "machine": "m", "commit": "c", "date": "d", "holds": False})
    kept = run.newest([text("a", 1.0, False), text("a", 2.0, False), text("a", 3.0, True), text("quick only", 4.0, True)])
    ok([line["ours"] for line in kept] == [2.0], "the newest figure is drawn; a quick one takes no real one's place, nor stands beside it")
    ok("**no**" in run.table(kept) and "quick:" not in run.table(kept), "a goal that was missed is seen")
    ok("quick:" in run.table(run.newest([text("a", 3.0, True)])), "a quick one alone is drawn as such")


def report(outages, state="SUCCEEDED", result="passed"):
    """A report of one server: quiesced at 100 s (and at 10 s in a round that was taken back), its copy started at 110 s, its door opened at 130 s."""
    def attempt(begin, end, number):
        return {"number": number, "state": "SUCCEEDED", "started": f"1970-01-01T00:{begin // 60:02}:{begin % 60:02}.000Z", "finished": f"1970-01-01T00:{end // 60:02}:{end % 60:02}.000Z"}
    times = {"quiesce": (100, 108), "final_sync": (108, 109), "launch_cutover": (109, 110), "verify_cutover": (110, 129), "open_door": (129, 130)}
    tasks = [{"server": "s", "name": step, "state": state, "attempts": [attempt(begin - 90, end - 90, 1), attempt(begin, end, 2)]} for step, (begin, end) in times.items()]
    return {"result": result, "reasons": [], "servers": [{"name": "s"}], "tasks": tasks,
            "measurements": {"probe": {"servers": {"s": {"outages": [{"from": begin, "to": end} for begin, end in outages]}}}}}


def cutovers():
    seen = downtime.measured(report([(12.0, 60.0), (105.0, 131.0)]))["s"]
    ok((seen["all_s"], seen["before_s"], seen["boot_s"]) == (26.0, 5.0, 21.0), "the last round's outage counts, not the longer one with the way back")
    ok(abs(seen["steps"]["quiesce"] - 8) < 1e-6, "and the steps' time of that round")
    for what, made in (("without an outage", report([])), ("with none in the last round", report([(12.0, 60.0)])), ("whose outage has no end", report([(105.0, None)])),
                       ("that failed", report([(105.0, 131.0)], result="failed")), ("whose task failed", report([(105.0, 131.0)], state="FAILED")),
                       ("without a probe", {**report([]), "measurements": {}}), ("without servers", {**report([]), "servers": []})):
        ok(refused(downtime.measured, made), f"a report {what} is refused")


def outputs():
    said = "  Latency Distribution\n     50%  809.00us\n     75%    1.20ms\n     90%    2.00ms\n     99%    1.50s \n  100 requests in 1.00s, 1MB read\n"
    got = api.parse(said + "Requests/sec:   1234.50\n")
    ok(abs(got["p50_ms"] - 0.809) < 1e-9 and got["p99_ms"] == 1500 and got["rate"] == 1234.5, "wrk's units are read")
    ok(refused(api.parse, said + "  Non-2xx or 3xx responses: 7\nRequests/sec:   1234.50\n"), "refusals are no answers")
    ok(refused(api.parse, said.replace("100 requests", "  Socket errors: connect 0, read 3\n100 requests") + "Requests/sec:   1234.50\n"), "nor are broken connections")
    order = []
    on, off = tracker.in_turns(4, lambda: order.append("on") or 1, lambda: order.append("off") or 2)
    ok(order == ["off", "on", "on", "off", "off", "on", "on", "off"] and on == [1] * 4 and off == [2] * 4, "runs are in turns, each first as often as second")


verdicts()
drawing()
cutovers()
outputs()
sys.exit(tap.finish())
