"""The vault alone: the rates of put, get, scrub and giving space back, the index for each TiB, memory; beside restic and borg with the same data."""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

from common import MIB, Place, files_below, run
from peers import ZSTD_LEVEL

DURATION = "2 min, quick 30 s"
TIB, CHUNK = 1 << 40, 65536


def data(place, name, files, size_mib):
    """A file of real files' content."""
    path, left = place.dir / name, size_mib * MIB
    with open(path, "wb") as out:
        while left:
            with open(next(files), "rb") as source:
                left -= out.write(source.read(left))
    return path


def spent(words, environment):
    """Seconds, and the most memory that it held, in bytes. Not as wait4 tells it: that begins with what its parent held, which is us."""
    begun, held = time.monotonic(), 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([str(word) for word in words], env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s*(\d+)", pathlib.Path(f"/proc/{process.pid}/status").read_text())
                held = int(found[1]) * 1024 if found else held
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        took = time.monotonic() - begun
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(str(word) for word in words)[:200]} failed: {said.read()[-500:].decode(errors='replace')}")
    return took, held


def in_turn(steps, environment):
    """{step: seconds} for (step, words): those of the same name add up; and the most memory."""
    seconds, memory = {}, 0
    for step, words in steps:
        took, held = spent(words, environment)
        seconds[step] = seconds.get(step, 0) + took
        memory = max(memory, held)
    return seconds, memory


def restic(place, files):
    at, environment = place.dir / "restic", {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(place.dir / "restic-cache")}
    words = ["restic", "-q", "-r", at]
    run(*words, "init", env={**os.environ, **environment})
    got = in_turn([("put", [*words, "backup", "--tag", path.name, path]) for path in files], environment)
    for path in files:
        run("bash", "-o", "pipefail", "-c", f"restic -q -r {at} dump --tag {path.name} latest {path} | cmp - {path}", env={**os.environ, **environment})
    more = in_turn([("get", [*words, "dump", "--tag", path.name, "latest", path]) for path in files] +
                   [("scrub", [*words, "check", "--read-data"]), ("gc", [*words, "forget", "--prune", "latest"])], environment)
    return {**got[0], **more[0]}, max(got[1], more[1])


def borg(place, files):
    at, environment = place.dir / "borg", {"BORG_BASE_DIR": str(place.dir / "borg-base"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    run("borg", "init", "-e", "none", at, env={**os.environ, **environment})
    got = in_turn([("put", ["borg", "create", "-C", f"zstd,{ZSTD_LEVEL}", f"{at}::{path.name}", path]) for path in files], environment)
    for path in files:
        run("bash", "-o", "pipefail", "-c", f"borg extract --stdout {at}::{path.name} | cmp - {path}", env={**os.environ, **environment})
    more = in_turn([("get", ["borg", "extract", "--stdout", f"{at}::{path.name}"]) for path in files] +
                   [("scrub", ["borg", "check", "--verify-data", at]), ("gc", ["borg", "delete", f"{at}::{files[1].name}"]), ("gc", ["borg", "compact", at])], environment)
    return {**got[0], **more[0]}, max(got[1], more[1])


def figures(size_mib, ours, index, peers):
    how = (f"two files of {size_mib} MiB of real files each, as two servers' disks or two archives, put, read and scrubbed by two threads (restic and borg: as they do, the files one after the other), "
           "page cache warm, all synced; what was read back compared whole")
    rate = {"put": "put", "get": "read a point back", "scrub": "scrub, every record read and checked"}
    for step, title in rate.items():
        yield {"what": f"rate: {title}", "unit": "MiB/s", "ours": round(2 * size_mib / ours[f"{step}_s"], 1), "higher_is_better": True, "goal": {"ratio_at_least": 1.0},
               "peers": {name: round(2 * size_mib / seconds[step], 1) for name, (seconds, _) in peers.items()}, "how": how}
    yield {"what": "rate: giving back the space of one of the two", "unit": "MiB/s", "ours": round(size_mib / ours["gc_s"], 1), "higher_is_better": True,
           "peers": {name: round(size_mib / seconds["gc"], 1) for name, (seconds, _) in peers.items()}, "goal": {"ratio_at_least": 1.0},
           "how": f"MiB of the source's data; of {ours['stored_bytes'] / MIB:.0f} MiB on disk {ours['kept_bytes'] / MIB:.0f} are left; restic forget and prune, borg delete and compact"}
    count = index["index_raw_bytes"] // CHUNK
    parts = ", ".join(f"{name} {size / count:.0f}" for name, size in sorted(index["tables"].items(), key=lambda one: -one[1]) if size >= count)
    yield {"what": "index for 10 TiB of distinct data", "unit": "GiB", "ours": round(index["index_bytes"] / index["index_raw_bytes"] * 10 * 1024, 2), "goal": {"ours_at_most": 1.0},
           "how": f"LMDB's file after {count} distinct chunks ({index['index_raw_bytes'] >> 30} GiB), one disk, one point; maps included; bytes a chunk: {parts}, the rest of the file is free pages"}
    yield {"what": "memory", "unit": "MiB", "ours": round(index["memory_bytes"] / MIB, 1), "peers": {name: round(memory / MIB, 1) for name, (_, memory) in peers.items()},
           "how": f"the most that a process held; ours while {count} chunks are put, the index's pages that the kernel may drop included; the peers' with the two files"}


def measure(build, quick):
    size_mib, chunks = (48, 16384) if quick else (1024, 262144)
    with Place(build) as place:
        source = (path for top in ("/usr/lib", "/usr/bin", "/usr/share") for path in files_below(top))
        files = [data(place, name, source, size_mib) for name in ("first", "second")]
        program = place.build / "bench/vault_bench"
        ours = json.loads(run(program, place.dir / "vault", *files))
        run("rm", "-rf", place.dir / "vault")
        index = json.loads(run(program, "index", place.dir / "index-vault", chunks))
        run("rm", "-rf", place.dir / "index-vault")
        peers = {"restic": restic(place, files), "borg": borg(place, files)}
    yield from figures(size_mib, ours, index, peers)
