"""The age of the newest recovery point at 20 MB/s of churn, the freezes, and the residue: from the last write on the source to the point committed."""
import json
import time

from common import Place, wait_for

DURATION = "5 min, quick 1 min (--minutes: how long the churn lasts, 3)"
CHURN_MB_PER_S = 20
INTERVAL_S = 2  # between points: the schedule's own default of 5 s can't keep an age below 5 s
BUDGET_MS = 200
SAMPLE_S = 0.05
RESIDUE_WARM_S = 4


class Churn:
    """Random direct writes of mixed sizes to a file on the source's filesystem, at a steady rate."""

    def __init__(self, place, mount, size_mib, seconds):
        self.place, self.report = place, place.dir / "churn.json"
        self.process = place.start("churn", "fio", "--name=churn", f"--filename={mount}/churn", f"--size={size_mib}M", "--direct=1", "--rw=randwrite", "--norandommap",
                                   "--bssplit=4k/50:16k/30:64k/20", f"--rate={CHURN_MB_PER_S * 1000000}", "--ioengine=libaio", "--iodepth=4", "--buffer_compress_percentage=50",
                                   "--refill_buffers", "--time_based", f"--runtime={seconds}", "--output-format=json", f"--output={self.report}")

    def end(self, seconds, least=0.9):
        """What fio says of its writes; raises where it wrote less than that share of what it should have."""
        if self.process.wait(seconds + 60):
            raise RuntimeError("fio failed")
        del self.place.processes["churn"]
        write = json.loads(self.report.read_text())["jobs"][0]["write"]
        if write["bw_bytes"] < least * CHURN_MB_PER_S * 1e6:
            raise RuntimeError(f"the load wrote {write['bw_bytes'] / 1e6:.1f} MB/s instead of {CHURN_MB_PER_S}")
        return write


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def server(place):
    return place.ask("status", server="web01")["servers"][0]


def all_points(place):
    """Newest first."""
    found, more = [], {}
    while True:
        answer = place.ask("points", server="web01", limit=500, **more)
        found += answer["points"]
        if not answer.get("next"):
            return found
        more = {"before": answer["next"]}


def ages(place, seconds):
    """Samples of the newest point's age in seconds, and the points that came meanwhile by id (asked for as it goes: old ones expire)."""
    samples, points, asked, begun = [], {}, 0, time.monotonic()
    while time.monotonic() - begun < seconds:
        state = server(place)
        samples.append(state["newest_point_age_ms"] / 1000)
        if state["newest_point"] not in points:
            points[state["newest_point"]] = None
        if time.monotonic() - asked > 30:
            asked = time.monotonic()
            keep(place, points)
        time.sleep(SAMPLE_S)
    keep(place, points)
    return samples, [point for point in points.values() if point]


def keep(place, points):
    for point in all_points(place):
        if point["id"] in points:
            points[point["id"]] = point


def residue(place, mount, size_mib, least):
    """Churn, an end of it, and at once a held point as a cutover takes it: seconds from the last write's end to the answer."""
    churn = Churn(place, mount, size_mib, RESIDUE_WARM_S)
    churn.process.wait(RESIDUE_WARM_S + 60)
    seconds, point = place.taken(lambda: place.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"])
    churn.end(0, least)
    place.ask("thaw", server="web01")
    return seconds, point


def measure(build, quick, minutes=None):
    size_mib, repetitions, least = (256, 3, 0.1) if quick else (1024, 15, 0.9)  # quick may run on a machine that has other things to do
    seconds = int((minutes or (0.3 if quick else 3)) * 60)
    with Place(build) as place:
        loop, _ = place.disk("source", size_mib * 3, used_mib=size_mib)
        mount = place.mount(loop)
        place.certificates("replicator:r1", "agent:web01")
        place.replicator("--point-interval", f"{INTERVAL_S}s")
        place.agent("web01", loop, freeze_budget_ms=BUDGET_MS)
        place.synced("web01")
        Churn(place, mount, size_mib, 5).end(5, 0)  # lays the file out
        churn = Churn(place, mount, size_mib, seconds + 10)
        time.sleep(8)
        names = ("agent-web01", "replicator")
        before = {name: place.processor_s(name) for name in names}
        again = place.read_again("web01")
        samples, points = ages(place, seconds)
        again = place.read_again("web01") - again
        used = {name: (place.processor_s(name) - before[name]) / seconds for name in names}
        write = churn.end(20, least)
        taken = [residue(place, mount, size_mib, least)[0] for _ in range(repetitions)]
        point = place.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
        compared = place.ask("compare", server="web01", point=point["id"])["disks"][0]
        place.ask("thaw", server="web01")
        if compared["blocks_differing"] or not compared["still"]:
            raise RuntimeError(f"the last point is not the disk: {compared}")
        place.stop("agent-web01")
    yield from figures(seconds, samples, points, write, taken, again)
    yield {"what": f"processors that the replicator uses at {CHURN_MB_PER_S} MB/s of churn", "unit": "", "ours": round(used["replicator"], 3),
           "how": f"the same run, a point every {INTERVAL_S} s; the agent at the source {used['agent-web01']:.3f}"}


def figures(seconds, samples, points, write, taken, again):
    freezes = [point["freeze_ms"] for point in points]
    frozen = sum(1 for freeze in freezes if freeze)
    how = (f"{seconds} s, looked at every {SAMPLE_S * 1000:.0f} ms; {write['bw_bytes'] / 1e6:.1f} MB/s of random direct writes of 4 to 64 KiB to a file on ext4; a point every {INTERVAL_S} s; "
           f"{len(points)} points, {frozen} of them frozen, budget {BUDGET_MS} ms; the disk's last point compared with it, every block")
    yield {"what": "p99 of the age of the newest point", "unit": "s", "ours": round(percentile(samples, 0.99), 2), "goal": {"ours_at_most": 5.0},
           "how": f"{how}; p50 {percentile(samples, 0.5):.2f} s, longest {max(samples):.2f} s; {again} times the kernel passed over the tracker, and all of the disk was read again"}
    if not freezes:
        raise RuntimeError("no point came")
    yield {"what": "p99 of a point's freeze", "unit": "ms", "ours": percentile(freezes, 0.99), "goal": {"ours_at_most": 200}, "how": "the same run, as the points say"}
    yield {"what": "longest freeze of a point", "unit": "ms", "ours": max(freezes), "goal": {"ours_at_most": BUDGET_MS + 50}, "how": "the same run"}
    yield {"what": "longest write of the load", "unit": "ms", "ours": round(write["clat_ns"]["max"] / 1e6, 1),
           "how": f"the same run, what a writer on the source waited at most, attempts that were thrown away included; its p99.9 {write['clat_ns']['percentile']['99.900000'] / 1e6:.1f} ms"}
    yield {"what": f"residue: from the last write at {CHURN_MB_PER_S} MB/s to the held point committed, longest", "unit": "s", "ours": round(max(taken), 2), "goal": {"ours_at_most": 2.0},
           "how": f"{len(taken)} times {RESIDUE_WARM_S} s of the same load, then at once a held point as a cutover takes it; p50 {percentile(taken, 0.5):.2f} s"}
