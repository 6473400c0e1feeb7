"""The tracker's cost on the source: 4 KiB random direct writes with it and without, in turns; and the whole agent's, while it replicates them."""
import json
import os
import statistics
import subprocess

from common import Place, run, wait_for

DURATION = "7 min, quick 30 s"
DEPTH = 8
HOW = ("4 KiB random direct writes, {depth} in flight, on a loop device over {size} MiB of memory, so that no disk's waiting hides the cost; {pairs} pairs of runs of {seconds} s, "
       "with and without in turns, the first of a pair the second of the next; medians; pair by pair {least} to {most} of without")


def write_load(loop, seconds):
    """One run of fio: its IOPS, and the p99 of the latency in µs."""
    said = json.loads(run("fio", "--name=writes", f"--filename={loop}", "--direct=1", "--rw=randwrite", "--bs=4k", "--norandommap", "--ioengine=libaio", f"--iodepth={DEPTH}",
                          "--buffer_compress_percentage=50", "--time_based", f"--runtime={seconds}", "--output-format=json"))
    job = said["jobs"][0]
    if job["error"] or not job["write"]["total_ios"]:
        raise RuntimeError(f"fio wrote nothing, or failed: error {job['error']}")
    return {"iops": job["write"]["iops"], "p99_us": job["write"]["clat_ns"]["percentile"]["99.000000"] / 1000}


def tracked(place, loop, seconds):
    """A run with the tracker alone: attached, and its marks taken as the agent does."""
    holder = place.start("track_hold", place.build / "bench/track_hold", os.path.basename(loop), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if holder.stdout.readline() != "attached\n":
        raise RuntimeError("the tracker does not attach here")
    got = write_load(loop, seconds)
    said = json.loads(holder.communicate("", timeout=30)[0])
    place.stop("track_hold")
    if not said["chunks"]:
        raise RuntimeError("the tracker marked nothing: what was measured is no tracking")
    return got


def replicated(place, loop, seconds):
    """A run with the whole agent, once it follows the disk's changes. Its state is asked of itself: of the process that runs now."""
    status = place.dir / "run-agent-web01/status.json"

    def state():
        return json.loads(status.read_text())

    status.unlink(missing_ok=True)
    place.agent("web01", loop)
    before = wait_for("the agent to follow changes", lambda: (said := state())["state"] == "CONTINUOUS" and said, 600)
    got = write_load(loop, seconds)
    wait_for("a new line of the agent's state", lambda: state()["bytes_read"] > before["bytes_read"], 20)
    tracker = state()["tracker"]
    place.stop("agent-web01")
    if tracker != "ebpf":
        raise RuntimeError(f"the agent could not attach its tracker; it goes by {tracker}")
    return got


def in_turns(pairs, with_it, without):
    """Pairs of runs; which comes first changes from pair to pair, so that a drift of the machine's takes from both."""
    on, off = [], []
    for number in range(pairs):
        for kept, measure in ((on, with_it), (off, without)) if number % 2 else ((off, without), (on, with_it)):
            kept.append(measure())
    return on, off


def figures(subject, on, off, goals, facts):
    for key, title, unit, higher in (("iops", "IOPS", "1/s", True), ("p99_us", "p99 of the latency", "µs", False)):
        ours, without = ([got[key] for got in side] for side in (on, off))
        ratios = [got / peer for got, peer in zip(ours, without)]
        yield {"what": f"{title} with {subject}", "unit": unit, "ours": round(statistics.median(ours), 1), "peers": {"without": round(statistics.median(without), 1)},
               "goal": goals and {"ratio_at_least": goals[key]}, "higher_is_better": higher,
               "how": HOW.format(least=f"{min(ratios):.3f}", most=f"{max(ratios):.3f}", depth=DEPTH, **facts)}


def measure(build, quick):
    size_mib, pairs, seconds, agent_pairs = (128, 5, 1, 2) if quick else (1024, 15, 10, 5)
    with Place(build) as place:
        image = place.memory("ram", size_mib + 16) / "disk.raw"
        run("fallocate", "-l", f"{size_mib}M", image)
        loop = place.loop(image)
        facts = {"size": size_mib, "pairs": pairs, "seconds": seconds}
        write_load(loop, seconds)  # touches memory that was never written
        on, off = in_turns(pairs, lambda: tracked(place, loop, seconds), lambda: write_load(loop, seconds))
        # At most 2 % of the writes, 5 % of the p99.
        yield from figures("the tracker", on, off, {"iops": 0.98, "p99_us": round(1 / 1.05, 3)}, facts)
        place.certificates("replicator:r1", "agent:web01")
        place.replicator()
        facts["pairs"] = agent_pairs
        on, off = in_turns(agent_pairs, lambda: replicated(place, loop, seconds), lambda: write_load(loop, seconds))
        yield from figures("the whole agent replicating, its replicator on the same machine", on, off, None, facts)
