"""Many agents on one replicator, each with a disk of 1 GiB of its own, each churning a little: errors, lag, points' ages, memory for each session."""
import mmap
import os
import random
import sys
import threading
import time

from common import MIB, Place, run, wait_for
from lag import percentile

DURATION = "4 min, quick 1 min (--minutes: how long the churn lasts, 2)"
DISK_MIB, NOISE_MIB = 1024, 4
PAGE, WRITES_PER_S = 4096, 5  # by each
LAG_LIMIT_S = 60              # steps/verify_replication's own
GROUP = 20
FINE = ("CONTINUOUS", "CREATING_SNAPSHOT")


class Churn(threading.Thread):
    """Direct writes of a page to random places of the disks' first parts, evenly over all disks and time."""

    def __init__(self, loops):
        super().__init__(daemon=True)
        self.files = [os.open(loop, os.O_WRONLY | os.O_DIRECT) for loop in loops]
        self.stopping, self.count = False, 0

    def run(self):
        dice, buffer, begun = random.Random(1), mmap.mmap(-1, PAGE), time.monotonic()
        rate = WRITES_PER_S * len(self.files)
        while not self.stopping:
            while self.count < (time.monotonic() - begun) * rate and not self.stopping:
                buffer[:] = dice.randbytes(PAGE)
                os.pwrite(self.files[self.count % len(self.files)], buffer, dice.randrange(64 * MIB // PAGE) * PAGE)
                self.count += 1
            time.sleep(0.005)

    def end(self):
        self.stopping = True
        self.join()
        for file in self.files:
            os.close(file)


def disk(place, name):
    image = place.dir / f"{name}.raw"
    run("truncate", "-s", f"{DISK_MIB}M", image)
    with open(image, "r+b") as out:
        out.write(os.urandom(NOISE_MIB * MIB))
    return place.loop(image, "--direct-io=on")


def memory(process):
    """A process's own memory, in bytes: what is its own (the index's file, which the kernel may drop, is not), and all that is resident."""
    told = dict(line.split(":", 1) for line in open(f"/proc/{process.pid}/status") if line.startswith(("RssAnon", "VmRSS")))
    return tuple(int(told[name].split()[0]) * 1024 for name in ("RssAnon", "VmRSS"))


def slope(places):
    """Of the straight line through (x, y) that lies nearest."""
    mean_x, mean_y = (sum(values) / len(places) for values in zip(*places))
    return sum((x - mean_x) * (y - mean_y) for x, y in places) / sum((x - mean_x) ** 2 for x, _ in places)


def connect(place, servers, loops):
    """Starts them group by group, each when those before follow their disks: the replicator's memory by sessions."""
    replicator, sizes = place.processes["replicator"], []
    for first in range(0, len(servers), GROUP):
        sizes.append((first, *memory(replicator)))
        for server in servers[first:first + GROUP]:
            place.agent(server, loops[server], memory_mib=8)
        wait_for(f"{first + GROUP} agents to follow their disks", lambda: follow(place, first + GROUP, len(servers)), 900)
        time.sleep(3)
    return sizes + [(len(servers), *memory(replicator))]


def states(place):
    return place.ask("status")["servers"]


def follow(place, count, most):
    return sum(1 for state in states(place) if state["state"] in FINE and state["newest_point"]) >= min(count, most)


def watch(place, seconds):
    """Samples of every server's lag and its newest point's age in seconds; and what was said to be wrong."""
    lags, ages, wrong, begun = [], [], set(), time.monotonic()
    while time.monotonic() - begun < seconds:
        for state in states(place):
            lags.append(state["lag_ms"] / 1000)
            ages.append(state["newest_point_age_ms"] / 1000)
            if state["error"] or not state["connected"]:
                wrong.add(f"{state['server']}: {state['state']}: {(state['error'] or {}).get('message')}")
        time.sleep(1)
    return lags, ages, wrong


def check(place, servers, loops):
    """A sample of the disks against a point of each, byte by byte, once nobody writes."""
    for server in servers[::max(1, len(servers) // 8)]:
        point = place.ask("point", server=server, consistency="crash", timeout_ms=60000)["point"]
        place.same_as(point["id"], loops[server])


def measure(build, quick, minutes=None, agents=None):
    agents = agents or (10 if quick else 200)
    seconds = (minutes or (0.2 if quick else 2)) * 60
    servers = [f"web{number:03}" for number in range(agents)]
    with Place(build) as place:
        place.certificates("replicator:r1", *(f"agent:{server}" for server in servers))
        loops = {server: disk(place, server) for server in servers}
        place.replicator()
        sizes = connect(place, servers, loops)
        agent_memory = [memory(place.processes[f"agent-{server}"])[0] for server in servers]
        churn = Churn(loops.values())
        churn.start()
        before = place.processor_s("replicator")
        lags, ages, wrong = watch(place, seconds)
        used = (place.processor_s("replicator") - before) / seconds
        churn.end()
        sizes_after = memory(place.processes["replicator"])
        check(place, servers, loops)
        gone = [server for server in servers if place.processes[f"agent-{server}"].poll() is not None]
        for server in servers:  # all at once: each takes a moment
            place.processes[f"agent-{server}"].terminate()
        for server in servers:
            place.stop(f"agent-{server}")
    rate = churn.count / seconds
    how = (f"{agents} agents and their replicator on this machine, {rate:.0f} writes of 4 KiB a second over all of them for {seconds:.0f} s, points every 5 s; {len(lags)} looks; "
           "a sample of the disks compared with a point of each, whole")
    for line in sorted(wrong | {f"{server}: its agent is gone" for server in gone})[:20]:
        print(line, file=sys.stderr)
    yield {"what": f"agents of {agents} with an error, or gone", "unit": "", "ours": len({line.split(":")[0] for line in wrong} | set(gone)), "goal": {"ours_at_most": 0}, "how": how}
    yield {"what": "longest lag of any", "unit": "s", "ours": round(max(lags), 2), "goal": {"ours_at_most": LAG_LIMIT_S}, "how": f"the same run; p99 {percentile(lags, 0.99):.2f} s"}
    yield {"what": "p99 of the age of the newest point, all servers", "unit": "s", "ours": round(percentile(ages, 0.99), 2), "how": f"the same run; longest {max(ages):.2f} s"}
    yield {"what": f"processors that the replicator uses for {agents} servers that churn a little", "unit": "", "ours": round(used, 3),
           "how": "the same run; asked for its status every second meanwhile"}
    resting, churning = slope([(count, own) for count, own, _ in sizes]), (sizes_after[0] - sizes[0][1]) / agents
    yield {"what": "memory of the replicator for each session", "unit": "MiB", "ours": round(max(resting, churning) / MIB, 3), "goal": {"ours_at_most": 2.0},
           "how": f"the larger of: the slope of its anonymous memory over 0 to {agents} sessions, {sizes[0][1] / MIB:.0f} to {sizes[-1][1] / MIB:.0f} MiB ({resting / MIB:.2f} each); what it holds after "
                  f"the churn, {sizes_after[0] / MIB:.0f} MiB ({churning / MIB:.2f} each); all resident {sizes_after[1] / MIB:.0f} MiB, the index's file included"}
    yield {"what": "memory of an agent", "unit": "MiB", "ours": round(percentile(agent_memory, 0.5) / MIB, 1), "how": "median, anonymous memory, with memory_mib 8 and a disk of 1 GiB"}
