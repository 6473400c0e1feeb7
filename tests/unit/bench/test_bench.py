#!/usr/bin/python3
"""What the benches judge by: they must not say that a goal holds when it doesn't, nor measure what wasn't there. Prints TAP."""
import importlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import sys
import types

sys.dont_write_bytecode = True
BENCH = pathlib.Path(__file__).resolve().parent.parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))
loader = importlib.machinery.SourceFileLoader("bench_run", str(BENCH / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
loader.exec_module(run)

import api  # pylint: disable=wrong-import-position
import downtime  # pylint: disable=wrong-import-position
import fleet  # pylint: disable=wrong-import-position
import lag  # pylint: disable=wrong-import-position
import link as link_of_wan  # pylint: disable=wrong-import-position
import roofline  # pylint: disable=wrong-import-position
import wan  # pylint: disable=wrong-import-position
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
    ok(figure(96.0, {}, {"ours_at_least": 95})["holds"] is True and figure(94.0, {}, {"ours_at_least": 95})["holds"] is False, "nor where it must not be less")
    ok("at least 95 s" in run.goal(figure(94.0, {}, {"ours_at_least": 95})), "which is said in words")
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


class Link:
    """Counts what went over it: what a copy sends, and a tenth of it back."""

    def __init__(self):
        self.sent = [1000, 100]

    def bytes(self):
        return list(self.sent)


def counting():
    link = Link()

    def copy():
        link.sent = [link.sent[0] + 500, link.sent[1] + 50]
        return 2.0
    ok(wan.over(link, copy) == {"seconds": 2.0, "sent": 500, "all": 550}, "of a link's bytes those count that a copy sent, both ways")
    ok(abs(link_of_wan.Link.share(types.SimpleNamespace(mbit_per_s=8), 1000000, 2.0) - 0.5) < 1e-9, "the share of a link is of what it carries one way")
    ok(lag.percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 100], 0.99) == 100 and lag.percentile(list(range(1000)), 0.99) == 990, "a p99 does not leave the worst of a few out")
    ok(abs(fleet.slope([(0, 10.0), (100, 60.0), (200, 110.0)]) - 0.5) < 1e-9, "memory by session is the slope")
    churn = lag.Churn.__new__(lag.Churn)
    churn.process, churn.place = types.SimpleNamespace(wait=lambda seconds: 0), types.SimpleNamespace(processes={"churn": 1})
    churn.report = types.SimpleNamespace(read_text=lambda: json.dumps({"jobs": [{"write": {"bw_bytes": 10e6}}]}))
    ok(refused(churn.end, 1), "a load that wrote half of what it should is none")
    limits = {"reading the disk": 2.0, "SHA-256": 1.0}
    held = [run.finish("initial_sync", roofline.figure("x", seconds, limits), False)["holds"] for seconds in (2.6, 2.7)]
    ok(held == [True, False], "the machine's limit is that of its slowest stage")


def lists():
    benches = {name: importlib.import_module(name) for name in run.BENCHES}
    ok(all(bench.DURATION and bench.__doc__ for bench in benches.values()), "each bench says what it measures and how long it takes")
    ok({name for name, bench in benches.items() if run.takes_minutes(bench)} == {"changes", "lag", "fleet"}, "those with a load of any length take --minutes")
    ok(not [name for name in run.PROGRAMS if name.startswith("bench/") and name[6:] not in (BENCH / "meson.build").read_text()], "every program of theirs is built")


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
counting()
lists()
cutovers()
outputs()
sys.exit(tap.finish())
