"""What the source feels of its initial sync with limits on: its own reads and writes on the same disk, with the sync and without, in turns. The replicator is as if on
another machine: its vault lies in memory, and it runs on the last processor when nothing else wants that; the source has the others, with and without."""
import json
import os
import statistics

from common import MIB, Place, run, wait_for
from tracker import in_turns

DURATION = "2 min, quick 30 s"
READ_MIB_PER_S, SEND_MIB_PER_S = 20, 10
OWN_IOPS = 400
HOW = ("{iops} random reads and writes of 4 KiB a second, direct, half of each, on the disk that is being synced, which is read at most at {read} and sent at most at {sent} MiB/s; {pairs} "
       "pairs of runs of {seconds} s, with the sync and without in turns; medians; pair by pair {least} to {most} of "
       "without; the replicator on the last processor, when nothing else wants it, its vault in memory; the source on the others")


def own_work(place, loop, size_mib, seconds):
    """One run of the source's own work: its latencies in µs."""
    said = json.loads(run(*place.source, "fio", "--name=own", f"--filename={loop}", f"--offset={size_mib // 2}M", f"--size={size_mib // 2}M", "--direct=1", "--rw=randrw", "--bs=4k", "--norandommap",
                          "--ioengine=libaio", "--iodepth=4", f"--rate_iops={OWN_IOPS // 2},{OWN_IOPS // 2}", "--time_based", f"--runtime={seconds}", "--output-format=json"))
    job = said["jobs"][0]
    if job["error"] or job["read"]["iops"] + job["write"]["iops"] < 0.9 * OWN_IOPS:
        raise RuntimeError(f"fio did not do its work: error {job['error']}, {job['read']['iops']:.0f} reads and {job['write']['iops']:.0f} writes a second")
    return {f"{side}_{name}": job[side]["clat_ns"]["percentile"][key] / 1000 for side in ("read", "write") for name, key in (("p50", "50.000000"), ("p99", "99.000000"))}


def while_syncing(place, loop, size_mib, seconds):
    """A run while the agent reads the whole disk for the first time. Raises where it wasn't at it from the beginning to the end."""
    status = place.dir / "run-agent-web01/status.json"

    def state():
        return json.loads(status.read_text())

    status.unlink(missing_ok=True)
    wait_for("the last sync to be forgotten", lambda: place.ask("drop", server="web01"), 20)  # so that every run sends, not only reads
    place.agent("web01", loop, read_bytes_per_s=READ_MIB_PER_S * MIB, bytes_per_s=SEND_MIB_PER_S * MIB)
    before = wait_for("the sync", lambda: (said := state())["state"] in ("INITIAL_SYNC", "RESCAN") and said["bytes_read"] and said, 60)
    got = own_work(place, loop, size_mib, seconds)
    after = state()
    place.stop("agent-web01")
    if after["state"] not in ("INITIAL_SYNC", "RESCAN") or after["bytes_read"] <= before["bytes_read"]:
        raise RuntimeError(f"the sync was over before its cost was measured: {after['state']}")
    return got


def measure(build, quick):
    size_mib, pairs, seconds = (512, 2, 3) if quick else (2048, 6, 8)
    with Place(build) as place:
        last = os.cpu_count() - 1
        place.source, place.sink = ["taskset", "-c", f"0-{max(last - 1, 0)}"], ["taskset", "-c", str(last), "chrt", "-i", "0"]
        place.memory("replicator", 3 * size_mib)
        place.memory("run-agent-web01", 16)  # as /run is
        loop, _ = place.disk("source", size_mib)
        run("dd", "if=/dev/urandom", f"of={loop}", "bs=1M", f"seek={size_mib // 2}", f"count={size_mib // 2}", "oflag=direct", "status=none")
        place.certificates("replicator:r1", "agent:web01")
        place.replicator()
        on, off = in_turns(pairs, lambda: while_syncing(place, loop, size_mib, seconds), lambda: own_work(place, loop, size_mib, seconds))
    for side in ("read", "write"):
        for name, goal in (("p99", {"ratio_at_least": round(1 / 1.1, 3)}), ("p50", None)):
            ours, without = ([got[f"{side}_{name}"] for got in taken] for taken in (on, off))
            ratios = [got / peer for got, peer in zip(ours, without)]
            yield {"what": f"{name} of the source's own {side}s while it is synced, limits on", "unit": "µs", "ours": round(statistics.median(ours), 1), "goal": goal,
                   "peers": {"without": round(statistics.median(without), 1)},
                   "how": HOW.format(iops=OWN_IOPS, read=READ_MIB_PER_S, sent=SEND_MIB_PER_S, pairs=pairs, seconds=seconds, least=f"{min(ratios):.2f}", most=f"{max(ratios):.2f}")}
