"""Recovery points against what the disk must have held, while it is written to in every way: an hour, 1,000 points at least (docs/replication.md)."""
import importlib
import pathlib
import sys
import time

DURATION = "an hour, quick 2 min"
HOW = ("{lives} lives of {points} points with seeds from {seed}: crash-consistent, frozen and held points at random moments of a disk of 128 MiB that is "
       "slow and reorders, under {lanes}; agent and replicator killed, the link cut")
LANES = ("ten writers (direct, buffered, mapped, discard, write-zeroes, fallocate; raw, in a partition and across its borders, in files) and one of files "
         "on ext4")
LIFE_POINTS = 100
HOUR_S, POINTS = 3600, 1000


def measure(build, quick):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/e2e/exactness"))
    proof = importlib.import_module("proof")
    life_points, seconds, points = (20, 0, 20) if quick else (LIFE_POINTS, HOUR_S, POINTS)
    totals, faults, lives, begun = {}, [], 0, time.monotonic()
    seed = first_seed = int(time.time())
    while time.monotonic() - begun < seconds or totals.get("compared", 0) < points:
        with proof.Proof(build, seed) as held:
            for _ in held.go_on(life_points):
                pass
        for name, count in held.counts.items():
            totals[name] = totals.get(name, 0) + count
        for fault in held.faults:
            print(f"not exact: {fault}", file=sys.stderr)
        faults += held.faults
        lives, seed = lives + 1, seed + 1
        print(f"{time.monotonic() - begun:.0f} s: {totals['compared']} points, {totals['writes']} writes, {len(faults)} mismatches", file=sys.stderr)
    how = HOW.format(lives=lives, points=life_points, seed=first_seed, lanes=LANES)
    yield {"what": "mismatches between recovery points and what the disk held", "unit": "", "ours": len(faults), "goal": {"ours_at_most": 0}, "how": how}
    yield {"what": "points compared", "unit": "", "ours": totals["compared"],
           "how": f"{totals['identical']} of them with the disk itself, byte by byte, while it stood still; {totals['checked_filesystems']} filesystems "
                  f"checked; {totals['in_flight']} writes in flight of which a point holds a part; {totals['refused']} requests without a point (killed, cut, "
                  "never quiet)"}
    yield {"what": "writes issued and accounted for", "unit": "", "ours": totals["writes"],
           "how": f"{totals['zeroing']} of them discards and write-zeroes; beside them {totals['files']} operations on files; "
                  f"{time.monotonic() - begun:.0f} s"}
