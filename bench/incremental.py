"""A recovery point after a random change of 1 % of a disk in blocks of 64 KiB, beside every peer's next copy: time, and bytes for each byte changed."""
import os
import random
import time

from common import MIB, Place, wait_for
from peers import ALL, Convert, Pipe, warm

DURATION = "2 min, quick 1 min"
BLOCK = 65536
# These two copy everything again, as nbdcopy does, which stands for them.
PEERS = [kind for kind in ALL if kind not in (Convert, Pipe)]


def change(loop, size_mib):
    """Writes noise, which nobody can compress, to 1 % of the disk's blocks: how many bytes."""
    dice = random.Random(1)
    places = dice.sample(range(size_mib * MIB // BLOCK), size_mib * MIB // BLOCK // 100)
    fd = os.open(loop, os.O_WRONLY)
    for place in places:
        os.pwrite(fd, dice.randbytes(BLOCK), place * BLOCK)
    os.fsync(fd)
    os.close(fd)
    return len(places) * BLOCK


def loopback_bytes():
    return int(open("/sys/class/net/lo/statistics/tx_bytes").read())


def sent_by(place):
    return place.ask("status", server="web01")["servers"][0]["bytes_sent"]


def point(place):
    """From the order to go on (the agent was told to pause before the change, so that none of it is there yet) until a point holds the change: seconds,
    bytes."""
    before = sent_by(place)
    place.ask("resume", server="web01")
    seconds, made = place.taken(lambda: place.ask("point", server="web01", consistency="any", timeout_ms=120000)["point"])
    time.sleep(2.5)  # the agent tells every second what it has sent
    return seconds, sent_by(place) - before, made


def measure(build, quick):
    size_mib = 128 if quick else 2048
    with Place(build) as place:
        loop, image = place.disk("source", size_mib)
        warm(loop, image)
        peers = [kind(place, loop, image) for kind in PEERS]
        for peer in peers:
            peer.copy()
        place.certificates("replicator:r1", "agent:web01")
        place.replicator("--point-interval", "1h")
        place.agent("web01", loop)
        place.follows("web01")
        place.ask("pause", server="web01")
        wait_for("the pause", lambda: place.ask("status", server="web01")["servers"][0]["state"] == "PAUSED", 20)
        changed = change(loop, size_mib)
        seconds, sent, made = point(place)
        place.same_as(made["id"], loop)
        place.stop("agent-web01")
        warm(loop, image)
        taken, wire = {}, {}
        for peer in peers:
            before = loopback_bytes()
            taken[peer.name] = round(peer.copy(), 2)
            wire[peer.name] = round((loopback_bytes() - before) / changed, 2)
            peer.check()
            peer.end()
    of = f"after a change of 1 % of {size_mib} MiB"
    how = "one run, loopback; the change is noise in random blocks of 64 KiB, all made before any of it is sent; ours from the order to go on to the committed point; every copy compared whole"
    yield {"what": f"time of a point {of}", "unit": "s", "ours": round(seconds, 3), "peers": taken, "goal": {"ratio_at_least": 10.0}, "how": how}
    yield {"what": f"bytes sent for each byte changed, {of}", "unit": "", "ours": round(sent / changed, 3), "peers": wire, "goal": {"ours_at_most": 1.1},
           "how": "the same run; ours as the agent counts frames, the peers' as the loopback device counts packets (others of this machine's included)"}
