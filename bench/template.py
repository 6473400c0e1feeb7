"""Bytes on the wire for a second server of the same template, beside rsync over ssh of its image."""
import re

from common import MIB, Place, run


def rsync_bytes(place, first, second):
    """What rsync sends for the second image to a machine that has the first under the name it writes to."""
    shell, host = place.sshd()
    run("cp", "--sparse=always", first, place.dir / "rsync.raw")
    said = run("rsync", "--inplace", "--no-whole-file", "--ignore-times", "--stats", "-e", shell, second, f"{host}:{place.dir}/rsync.raw")
    run("cmp", second, place.dir / "rsync.raw")
    return int(re.search(r"Total bytes sent: ([\d,]+)", said)[1].replace(",", ""))


def measure(build, quick):
    size_mib, own_mib = (512, 10) if quick else (10240, 200)
    with Place(build) as place:
        loop, image = place.disk("first", size_mib)
        second, second_image = place.disk("second", size_mib, own_mib, template=image)
        place.certificates("replicator:r1", "agent:web01", "agent:web02")
        place.replicator()
        place.agent("web01", loop)
        first_s, first = place.synced("web01")
        place.agent("web02", second)
        second_s, state = place.synced("web02")
        place.ask("verify", point=state["newest_point"])
        for server in ("web01", "web02"):
            place.stop(f"agent-{server}")
        rsync = rsync_bytes(place, image, second_image)
    yield {"what": f"bytes sent for a second server of a template with {own_mib} MiB of its own", "unit": "MiB", "ours": round(state["bytes_sent"] / MIB, 1),
           "peers": {"rsync over ssh, told which image to start from": round(rsync / MIB, 1), "ours, the first server": round(first["bytes_sent"] / MIB, 1)}, "goal": {"ours_at_most": own_mib * 1.15 + 8},
           "how": "one run, loopback; the point verified chunk by chunk, rsync's image compared whole"}
    yield {"what": "time of the second server's sync", "unit": "s", "ours": round(second_s, 2), "peers": {"ours, the first server": round(first_s, 2)},
           "how": "the same run"}
