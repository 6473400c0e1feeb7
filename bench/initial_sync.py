"""Initial sync of a disk half full of real files over loopback, beside every peer that copies a disk, and beside what this machine can do at all."""
import roofline
from common import Place
from peers import ALL, warm

DURATION = "9 min, quick 1 min"


def ours(place, loop):
    place.certificates("replicator:r1", "agent:web01")
    place.replicator()
    place.agent("web01", loop)
    seconds, state = place.synced("web01")
    used = {name: place.processor_s(name) for name in ("agent-web01", "replicator")}
    place.ask("verify", point=state["newest_point"])
    place.stop("agent-web01")
    return seconds, used


def measure(build, quick):
    size_mib = 256 if quick else 10240
    with Place(build) as place:
        loop, image = place.disk("source", size_mib)
        seconds, used = ours(place, loop)
        place.stop("replicator")
        limits = roofline.limits(place, loop)
        warm(loop, image)  # the peers read through the page cache; we read around it
        peers = {}
        for peer in (kind(place, loop, image) for kind in ALL):
            peers[peer.name] = round(peer.copy(), 2)
            peer.check()
            peer.end()
    how = ("one run each, loopback; page cache warm for the peers, ours reads the device; ours until the first recovery point is synced to disk, the peers' copies are not synced; "
           "every copy compared whole")
    yield {"what": f"initial sync of {size_mib} MiB, half full", "unit": "s", "ours": round(seconds, 2), "peers": peers, "goal": {"ratio_at_least": 1.0}, "how": how}
    for name, where in (("agent-web01", "source"), ("replicator", "replicator")):
        yield {"what": f"processor time of the initial sync at the {where}, for each GiB that the disk holds", "unit": "s", "ours": round(used[name] / (size_mib / 2 / 1024), 2),
               "how": f"the same run: {used[name]:.1f} s of a processor until the first recovery point, all threads"}
    yield roofline.figure(f"initial sync of {size_mib} MiB beside what this machine can do at all", seconds, limits)
