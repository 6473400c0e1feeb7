"""The second server of the same template: bytes on the wire and time, beside what has both before it (restic, borg) and what has not."""
import re

from common import MIB, Place, run
from incremental import loopback_bytes
from peers import Borg, Nbdcopy, Pipe, Restic, warm

DURATION = "3 min, quick 1 min"


def rsync(place, first, second):
    """Seconds and bytes that rsync needs for the second image to a machine that has the first under the name it writes to."""
    shell, host = place.sshd()
    run("cp", "--sparse=always", first, place.dir / "rsync.raw")
    seconds, said = place.taken(lambda: run("rsync", "--inplace", "--no-whole-file", "--ignore-times", "--stats", "-e", shell, second, f"{host}:{place.dir}/rsync.raw"))
    run("cmp", second, place.dir / "rsync.raw")
    return seconds, int(re.search(r"Total bytes sent: ([\d,]+)", said)[1].replace(",", ""))


def ours(place, loops):
    """Both servers' first syncs, one after the other: seconds and bytes of each."""
    got = []
    place.certificates("replicator:r1", "agent:web01", "agent:web02")
    place.replicator()
    for server, loop in loops.items():
        place.agent(server, loop)
        seconds, state = place.synced(server)
        place.ask("verify", point=state["newest_point"])
        got.append((seconds, state["bytes_sent"]))
    for server in loops:
        place.stop(f"agent-{server}")
    return got


def second_of(place, kind, disks):
    """A peer's copy of the second disk: of those that keep what they have, after the first one's."""
    peer = kind(place, *disks[0])
    if kind in (Restic, Borg):
        peer.copy()
        peer.disk, peer.image = disks[1]
    else:
        peer.end()
        peer = kind(place, *disks[1])
    before = loopback_bytes()
    seconds = peer.copy()
    wire = loopback_bytes() - before
    peer.check()
    peer.end()
    return peer.name, seconds, wire


def measure(build, quick):
    size_mib, own_mib = (256, 10) if quick else (4096, 200)
    with Place(build) as place:
        disks = [place.disk("first", size_mib)]
        disks.append(place.disk("second", size_mib, own_mib, template=disks[0][1]))
        (first_s, first), (second_s, second) = ours(place, {"web01": disks[0][0], "web02": disks[1][0]})
        for disk in disks:
            warm(*disk)
        rsync_s, rsync_sent = rsync(place, disks[0][1], disks[1][1])
        taken = {kind: second_of(place, kind, disks) for kind in (Restic, Borg, Nbdcopy, Pipe)}
    told = "rsync over ssh, told which image to start from"
    sent = {told: rsync_sent, **{taken[kind][0]: taken[kind][2] for kind in (Restic, Borg)}, "ours, the first server": first}
    how = "one run, loopback; every copy compared whole, our point chunk by chunk"
    of = f"a second server of a template with {own_mib} MiB of its own"
    yield {"what": f"bytes sent for {of}", "unit": "MiB", "ours": round(second / MIB, 1), "peers": {name: round(count / MIB, 1) for name, count in sent.items()},
           "goal": {"ours_at_most": own_mib * 1.15 + 8}, "how": how + "; restic's and borg's as the loopback device counts packets (others of this machine's included)"}
    yield {"what": f"time of {of}, beside those that keep what they have", "unit": "s", "ours": round(second_s, 2), "goal": {"ratio_at_least": 1.0},
           "peers": {taken[kind][0]: round(taken[kind][1], 2) for kind in (Restic, Borg)}, "how": how}
    yield {"what": f"time of {of}, beside those that copy the whole disk", "unit": "s", "ours": round(second_s, 2), "goal": {"ratio_at_least": 8.0},
           "peers": {**{taken[kind][0]: round(taken[kind][1], 2) for kind in (Nbdcopy, Pipe)}, told: round(rsync_s, 2), "ours, the first server": round(first_s, 2)},
           "how": how}
