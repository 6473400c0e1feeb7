#!/usr/bin/python3
"""groups: the real replicator and two agents of the test's own: points of a group in step, and every way in which one of the two can fail the
other: all of the group's points are there, or none. Prints TAP. Usage: groups SLIPWAY SLIPWAY_AGENT"""
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[2])]

from fake_agent import CHUNKS, Agent  # pylint: disable=wrong-import-position
from replicated import Refused, World, in_world  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

SERVERS = ["db01", "web01"]


class Asked:
    """A group's point, or one of a server alone, asked by somebody who waits beside the test."""

    def __init__(self, world, consistency="frozen", timeout_ms=20000, server=None):
        self.answer = self.refusal = None
        self.thread = threading.Thread(target=self.run, args=(world, consistency, timeout_ms, server))
        self.thread.start()

    def run(self, world, consistency, timeout_ms, server):
        try:
            if server:
                self.answer = world.ask("point", server=server, consistency=consistency, timeout_ms=timeout_ms)["point"]
            else:
                self.answer = world.ask("group_point", servers=SERVERS, consistency=consistency, timeout_ms=timeout_ms, name="shop")["group"]
        except (Refused, OSError) as reason:
            self.refusal = str(reason)

    def end(self):
        self.thread.join(60)
        return self.answer or self.refusal


class Both:
    def __init__(self, world):
        self.world = world
        self.db, self.web = (Agent(world, server) for server in SERVERS)
        self.known = self.count()

    def count(self):
        return [len(self.world.ask("points", server=server)["points"]) for server in SERVERS]

    def all(self):
        return self.db, self.web

    def come_to(self, step):
        """Both, through the steps before it, too."""
        for agent in self.all():
            agent.asked()
        self.go_through(step)

    def go_through(self, step):
        """Both were asked."""
        for at in range(1, step + 1):
            for agent in self.all():
                if at > 1:
                    agent.told(at)
                agent.at(at)

    def none_more(self, what):
        ok(self.count() == self.known, f"{what}: none has a point", str(self.count()))

    def one_more(self, what):
        self.known = [n + 1 for n in self.known]
        ok(self.count() == self.known, f"{what}: each has one point more", str(self.count()))


def in_step(both):
    asked = Asked(both.world)
    for agent in both.all():
        message = agent.asked()
        ok(message["group"] and message["consistency"] == "frozen" and not message["hold"], f"{agent.server} is asked for a point of a group")
    both.db.at(1)
    ok(both.db.hears_nothing() and both.web.hears_nothing(), "one is ready: nobody is told to stand still")
    both.web.at(1)
    for agent in both.all():
        agent.told(2)
    both.web.at(2)
    ok(both.db.hears_nothing() and both.web.hears_nothing(), "one stands still: nobody is told to commit")
    both.db.at(2)
    for agent in both.all():
        agent.told(3)
    both.web.commit(consistency="application")
    ok(both.web.hears_nothing() and both.db.hears_nothing(), "one has committed: it is not told that this counts")
    both.none_more("one has committed")
    both.db.commit()
    group = asked.end()
    both.one_more("both have")
    for agent in both.all():
        agent.expect("POINT_DONE", request=agent.request)
    ok(group["name"] == "shop" and group["consistency"] == "frozen" and {p["server"] for p in group["points"]} == set(SERVERS) and
       {p["consistency"] for p in group["points"]} == {"frozen", "application"} and all(p["group"] == group["id"] for p in group["points"]),
       "the answer tells them; the group is what the least of them is: " + json.dumps(group))
    newest = both.world.ask("points", server="web01")["points"][0]
    ok(newest["group"] == group["id"] and 0 <= group["window_us"] < 10 ** 7, "the list, too")
    listed = both.world.ask("points", group=group["id"])
    ok({p["id"] for p in listed["points"]} == {p["id"] for p in group["points"]} and listed["group"]["name"] == "shop", "and a group's own list")
    ok(both.world.refusal("points", group="g-none").startswith("not_found"), "an unknown group")


def dies_at_the_barrier(both):
    asked = Asked(both.world)
    both.come_to(1)
    for agent in both.all():
        agent.told(2)
    both.web.at(2)
    both.db.close()
    both.web.told(0)
    both.web.fail("cancelled")
    ok("unreachable: the connection to the agent of db01 was lost" in asked.end(), f"one dies at the barrier: {asked.refusal}")
    both.none_more("and")
    both.db = Agent(both.world, "db01")


def cut_before_the_commit(both):
    asked = Asked(both.world)
    both.come_to(2)
    for agent in both.all():
        agent.told(3)
    both.web.commit()
    both.db.close()
    ok("unreachable" in asked.end(), f"the link is cut between the order and the commit: {asked.refusal}")
    both.none_more("though the other has committed")
    both.web.expect("POINT_FAILED", request=both.web.request)
    ok(True, "which is told so")
    both.db = Agent(both.world, "db01")


def never_comes(both):
    asked = Asked(both.world, timeout_ms=2500)
    both.come_to(1)
    for agent in both.all():
        agent.told(2)
    both.web.at(2)
    both.web.told(0)
    both.web.fail("cancelled")
    both.db.told(0)
    both.db.fail("cancelled")
    ok("timeout" in asked.end() and "db01" in asked.refusal, f"one does not come to stand still in time: {asked.refusal}")
    both.none_more("and")
    both.db.at(2)
    both.db.told(0)
    ok(True, "what it says later is answered: give up")
    both.db.commit()
    both.db.expect("POINT_FAILED", request=both.db.request)
    both.none_more("even if it commits then")


def again_with_all(both):
    asked = Asked(both.world)
    both.come_to(2)
    for agent in both.all():
        agent.told(3)
    both.web.commit()
    both.db.fail()
    for agent in both.all():
        agent.asked()
    both.none_more("one's freeze ran out before the order: its point and the other's count for nothing, and both are asked again")
    both.go_through(2)
    for agent in both.all():
        agent.told(3)
    for agent in both.all():
        agent.commit()
    ok(isinstance(asked.end(), dict) and asked.answer["attempts"] == 2, f"then they have it: {asked.refusal}")
    both.one_more("with the second attempt")


def can_not(both):
    asked = Asked(both.world, "crash")
    both.web.asked()
    both.web.at(1)
    both.db.asked(consistency="crash")
    both.db.fail("unsupported")
    both.web.told(0)
    both.web.fail("cancelled")
    ok("unsupported" in asked.end(), f"one whose writes can't be followed ends it, and is not asked again: {asked.refusal}")
    both.none_more("and")


def nothing_failed(both):
    """It says that the point failed by nothing: that is no point, neither of its own nor of the group."""
    asked = Asked(both.world, server="db01")
    both.db.asked(group=False)
    both.db.fail("none")
    ok("protocol: the agent of db01" in asked.end(), f"one whose point failed by nothing has none: {asked.refusal}")
    asked = Asked(both.world)
    both.come_to(2)
    for agent in both.all():
        agent.told(3)
    both.web.commit()
    both.db.fail("none")
    ok("protocol" in asked.end(), f"nor has its group: {asked.refusal}")
    both.web.expect("POINT_FAILED", request=both.web.request)
    both.none_more("and")


def unasked(both):
    """A point that nobody asked for, one that was answered before, and one whose asker has given up."""
    agent = both.db
    agent.request = 123456789
    agent.commit(group=False, consistency="crash")
    ok("nobody asked" in agent.expect("POINT_FAILED", request=agent.request, kind="state")["message"], "a point that nobody asked for is none")
    asked = Asked(both.world, "crash", server="db01")
    agent.asked(group=False)
    agent.commit(group=False, consistency="crash")
    agent.expect("POINT_DONE", request=agent.request)
    asked.end()
    agent.commit(group=False, consistency="crash")
    agent.expect("POINT_FAILED", request=agent.request, kind="state")
    both.known[0] += 1
    ok(both.count() == both.known, "nor is one a second time")
    asked = Asked(both.world, "crash", 1000, server="db01")
    agent.asked(group=False)
    ok("in time" in asked.end(), f"whoever asked gives up: {asked.refusal}")
    agent.commit(group=False, consistency="crash")
    agent.expect("POINT_DONE", request=agent.request)
    both.known[0] += 1
    ok(both.count() == both.known, "what was asked for counts, late as it is")
    asked = Asked(both.world, timeout_ms=1500)
    both.come_to(1)
    both.web.told(2)
    both.web.fail("unsupported")
    agent.told(0)
    agent.fail("cancelled")
    asked.end()
    agent.commit(group=False)
    agent.expect("POINT_FAILED", request=agent.request, kind="state")
    both.none_more("a group's attempt that came to nothing is none of one server's own either")


def disobeys(both):
    for group, what in ((True, "commits before it is told to"), (False, "commits as if it were alone")):
        asked = Asked(both.world)
        both.come_to(1)
        for agent in both.all():
            agent.told(2)
        both.web.commit(group)
        both.web.expect("POINT_FAILED", request=both.web.request)
        both.db.told(0)
        both.db.fail("cancelled")
        ok("state" in asked.end(), f"one {what}: {asked.refusal}")
        both.none_more("and")
    asked = Asked(both.world, timeout_ms=60000)
    both.come_to(2)
    for agent in both.all():
        agent.told(3)
    both.web.commit(group=False)
    both.db.commit()
    ok("state" in asked.end(), f"or does so when it is told to: {asked.refusal}")
    both.none_more("and")


def until_frozen(both):
    """Nobody comes to stand still by itself. How many attempts without a freeze there were until they are asked with one, which they answer."""
    attempts, kinds = 0, {"crash"}
    while attempts < 100:
        kinds = {agent.asked(group=True)["consistency"] for agent in both.all()}
        if kinds != {"crash"}:
            break
        attempts += 1
        for agent in both.all():
            agent.fail()
    for agent in both.all():
        agent.at(1)
    return attempts if kinds == {"frozen"} else -1


def goes_to_freeze(both):
    asked = Asked(both.world, "any", timeout_ms=4000)
    both.in_2_s = until_frozen(both)
    ok(both.in_2_s >= 2, f"any: {both.in_2_s} attempts without a freeze, then with one")
    for agent in both.all():
        agent.told(2)
        agent.at(2)
    for agent in both.all():
        agent.told(3)
        agent.commit()
    ok(isinstance(asked.end(), dict), f"and that is the point: {asked.refusal}")
    both.one_more("any")


def asker_leaves(both):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(both.world.dir / "replicator/control.sock"))
        s.sendall((json.dumps({"verb": "group_point", "servers": SERVERS, "consistency": "frozen"}) + "\n").encode())
        both.come_to(1)
        both.web.told(2)
    both.web.told(0)
    both.db.told(0)
    for agent in both.all():
        agent.fail("cancelled")
    ok(True, "whoever asked goes away: both are told to give up")
    time.sleep(0.3)
    both.none_more("and")


def holder_leaves(both):
    """A point that is to be held, whose asker goes away a moment before it is there: nobody would let the source go."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(both.world.dir / "replicator/control.sock"))
        s.sendall((json.dumps({"verb": "point", "server": "db01", "consistency": "frozen", "hold": True}) + "\n").encode())
        ok(both.db.asked()["hold"], "a point that is to be held is asked for")
    both.db.commit(group=False, held=True)
    both.db.expect("THAW")
    ok(True, "whoever asked for it is gone when it comes: the source is let go at once")
    both.known[0] += 1


def behind_its_data(both):
    """A point was committed, and what was sent before it travels slowly: whoever asks meanwhile is told so, and nothing of it is lost."""
    agent, content = both.db, os.urandom(65536)
    agent.offer_one(content)
    first = Asked(both.world, "crash", 1500, "db01")
    agent.asked(group=False)
    agent.commit(group=False, consistency="crash")
    request = agent.request
    ok("in time" in first.end(), f"a point whose data does not come is waited for as long as somebody wants: {first.refusal}")
    second = Asked(both.world, "crash", server="db01")
    agent.asked(group=False)
    agent.commit(group=False, consistency="crash")
    agent.expect("POINT_FAILED", request=agent.request, kind="state")
    ok("on its way" in second.end(), f"another one is not taken meanwhile: {second.refusal}")
    agent.data(content)
    done = agent.expect("POINT_DONE", request=request)
    ok(both.world.ask("points", server="db01")["points"][0]["id"] == done["point"], "once its data is there it is a point, over the same connection")
    both.known = both.count()


def not_whole(both):
    """As after damage that was found while all was offered: the agent believes that it is done, and greets anew to learn what is missing."""
    both.db.close()
    both.world.wait("db01 leaves", lambda: not both.world.ask("status", server="db01")["servers"][0]["connected"])
    agent = Agent(both.world, "db01", greet=False, disks=[{"id": "disk", "name": "vda", "size_bytes": 2 * CHUNKS * 65536}])
    agent.expect("WELCOME")
    agent.offer()
    asked = Asked(both.world, "crash", server="db01")
    agent.asked(group=False)
    agent.commit(group=False, consistency="crash")
    failed = agent.expect("POINT_FAILED", request=agent.request)
    ok("never received" in failed["message"] and "never received" in asked.end(), f"a point of half a disk is none: {failed['message']}")
    agent.expect("closed")
    ok(True, "and the session ends: the next WELCOME tells the agent of it")
    both.db = Agent(both.world, "db01")
    both.known = both.count()


def killed_between(both):
    asked = Asked(both.world)
    both.come_to(2)
    for agent in both.all():
        agent.told(3)
    both.web.commit()
    time.sleep(0.5)  # it is durable by now, or will be
    both.world.kill("replicator")
    ok(asked.end() == "closed" or "Connection reset" in asked.refusal, f"the replicator is killed between the two commits: {asked.refusal}")
    both.world.start_replicator()
    both.world.wait("it starts again", lambda: (both.world.dir / "replicator/control.sock").exists() and both.world.ask("servers"))
    both.none_more("the first has no point")
    check = both.world.ask("check")
    ok(check["finding_count"] == 0, "and nothing is damaged: " + json.dumps(check["findings"]))


def asked_together(both):
    """By the clock; what was asked of one alone before is answered, whichever it is."""
    left, until = list(both.all()), time.monotonic() + 20
    while left and time.monotonic() < until:
        agent = left.pop(0)
        try:
            if agent.asked(seconds=0.1)["group"]:
                continue
            agent.commit(group=False)
        except OSError:
            pass  # nothing yet
        left.append(agent)
    ok(not left, "both are asked together, by the clock")


def with_settings(both, **more):
    """The replicator, started anew with this of the factory's; the agents, which have nothing to send."""
    world = both.world
    world.kill("replicator")
    (world.dir / "replicator/settings.json").write_text(json.dumps({"servers": {s: {"group_points": "shop", "point_interval_s": 1} for s in SERVERS}, **more}))
    world.start_replicator()
    world.wait("the replicator knows of a group", lambda: world.ask("status", server="db01")["servers"][0]["settings"]["group"] == "shop")
    both.db, both.web = (Agent(world, server) for server in SERVERS)
    for agent in both.all():
        agent.goes_on()


def on_two_replicators(both):
    """Where the factory counts a third server among them, which is another replicator's, no point is called the group's."""
    world, told = both.world, lambda server: world.ask("status", server=server)["servers"][0]
    with_settings(both, groups={"shop": {"app01": "r2", "db01": "r1", "web01": "r1"}})
    for agent in both.all():
        agent.asked(group=False)
        agent.commit(group=False)
        agent.expect("POINT_DONE", request=agent.request)
    apart = [told(server) for server in SERVERS]
    ok(all((one["cause"] or {}).get("kind") == "group_apart" and "servers of shop: app01 replicates to r2, not to r1" in one["cause"]["text"] and not one["settings"]["together"] for one in apart),
       "one of the group is another replicator's: those here have points of their own, and say so", json.dumps(apart))
    ok(all(world.ask("points", server=server)["points"][0]["group"] is None for server in SERVERS), "which name no group")
    with_settings(both, groups={"shop": {"app01": "r1", "db01": "r1", "web01": "r1"}})
    world.wait("so it is where it was given to this one, and has not come", lambda: "app01 has not come to r1 yet" in (told("db01")["cause"] or {"text": ""})["text"])
    both.web.close()
    with_settings(both, groups={"shop": {"db01": "r1"}})
    both.web.close()
    both.db.asked(group=False)
    both.db.commit(group=False)
    ok(told("db01")["cause"] is None, "one that is the only one of its group, by the factory's word, is not apart from who is here, too", json.dumps(told("db01")["cause"]))
    with_settings(both, groups={"shop": {"db01": "r1", "web01": "r1"}})
    asked_together(both)
    for agent in both.all():
        agent.close()


def by_the_clock(both):
    world, newest = both.world, lambda server: both.world.ask("points", server=server)["points"][0]
    told = lambda server: world.ask("status", server=server)["servers"][0]
    world.kill("replicator")
    (world.dir / "replicator/settings.json").write_text(json.dumps({"servers": {s: {"group_points": "shop", "point_interval_s": 1} for s in SERVERS}}))
    world.start_replicator()
    world.wait("the replicator knows of a group", lambda: told("db01")["settings"]["group"] == "shop")
    both.db = Agent(world, "db01")
    both.db.goes_on()
    hope_ms = both.db.asked(group=False)["hope_ms"]
    ok(hope_ms == 500, f"by the clock, a quiet moment is hoped for for half of the time to the next point, {hope_ms} ms of 1 s")
    both.db.commit(group=False)
    world.wait("one is away: the other has points of its own, and says why", lambda: told("db01")["cause"] and told("db01")["cause"]["kind"] == "group_apart" and
               "the other servers of shop: web01 is not connected" in told("db01")["cause"]["text"] and not told("db01")["settings"]["together"])
    both.web = Agent(world, "web01")
    both.web.goes_on()
    asked_together(both)
    both.go_through(2)
    for agent in both.all():
        agent.told(3)
    for agent in both.all():
        agent.commit(consistency="crash")
    for agent in both.all():
        agent.expect("POINT_DONE", request=agent.request)
    group = newest("db01")["group"]
    ok(group and newest("web01")["group"] == group and world.ask("points", group=group)["group"]["name"] == "shop", "and have one of one instant")
    listed = subprocess.run([SLIPWAY, "point", "list", "db01", "--vault", world.dir / "replicator"], capture_output=True, text=True, timeout=60, check=False)
    window = str(world.ask("points", group=group)["group"]["window_us"])
    columns = [re.split(r"  +", line) for line in listed.stdout.splitlines()]
    ok(columns[0][3:5] == ["GROUP", "WINDOW (us)"] and columns[1][3:5] == [group, window], "which `slipway point list` shows, and the window that the instant lies in", listed.stdout + listed.stderr)
    shown = subprocess.run([SLIPWAY, "point", "show", newest("web01")["id"], "--vault", world.dir / "replicator"], capture_output=True, text=True, timeout=60, check=False)
    ok(re.search(rf"^  all stood still for \(us\) +{window}$", shown.stdout, re.M), "and `slipway point show`", shown.stdout + shown.stderr)
    ok(told("db01")["settings"]["together"] and told("db01")["cause"] is None, "nothing is amiss", json.dumps(told("db01")))
    ok(told("db01")["pointed"] and told("web01")["pointed"], "it is a point of this connection: whoever moves a server here waits for that")
    said = [[point.get("group_window_us") for point in told(server)["points"] if point["group"] == group] for server in SERVERS]
    ok(said == [[int(window)], [int(window)]], "the factory is told each point's window, too", json.dumps(said))
    in_half_a_second = until_frozen(both)
    ok(0 < in_half_a_second < both.in_2_s, f"nor does a group hope for longer: {in_half_a_second} attempts without a freeze, {both.in_2_s} in 2 s")
    for agent in both.all():
        agent.told(2)
    both.web.fail("unsupported")
    both.db.told(0)
    both.db.fail("cancelled")
    for agent in both.all():
        agent.asked(group=False)
        agent.commit(group=False)
    world.wait("the next comes to nothing: each has its own then", lambda: (told("db01")["cause"] or {}).get("kind") == "group_apart" and
               "as the test wants it" in told("db01")["cause"]["text"])
    world.ask("pause", server="web01")
    world.wait("one is paused: the other says so", lambda: "web01 is paused" in (told("db01")["cause"] or {"text": ""})["text"])
    both.db.asked(group=False)
    both.db.commit(group=False)
    world.ask("detach", server="web01")
    world.wait("one leaves for good: the other is alone, and nothing is amiss", lambda: told("db01")["cause"] is None)


def steps(world):
    world.certificates()
    world.start_replicator()
    world.wait("the replicator listens", lambda: world.ask("status"))
    both = Both(world)
    for part in (in_step, dies_at_the_barrier, cut_before_the_commit, never_comes, again_with_all, can_not, nothing_failed, unasked, disobeys, goes_to_freeze, asker_leaves, holder_leaves):
        part(both)
    in_step(both)
    behind_its_data(both)
    not_whole(both)
    killed_between(both)
    on_two_replicators(both)
    by_the_clock(both)


in_world(lambda: World(SLIPWAY, AGENT), steps)
