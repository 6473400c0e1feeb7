"""Initial sync over a long link, 100 Mbit/s and 50 ms there and back, beside every peer: bytes on the wire, and how much of the link is used. A small disk with all of them; the
10 GiB of the other benches with the best of them alone: the two that send everything would take a quarter of an hour each."""
from common import MIB, Place
from link import Link
from peers import ALL, Convert, Pipe, warm

DURATION = "12 min, quick 1 min"
MBIT_PER_S, RTT_MS = 100, 50
# qemu-img does as nbdcopy, which sends as much: one stands for both.
PEERS = [kind for kind in ALL if kind is not Convert]
BEST = [Pipe]


def over(link, copy):
    """Seconds, and the bytes on the line: what the source sent, and all in both directions."""
    before = link.bytes()
    seconds = copy()
    sent, back = (now - then for now, then in zip(link.bytes(), before))
    return {"seconds": seconds, "sent": sent, "all": sent + back}


def ours(place, loop):
    place.agent("web01", loop)
    return place.synced("web01")[0]


def figures(size_mib, got, shares):
    how = (f"one run each, one after the other, over a line of {MBIT_PER_S} Mbit/s, {RTT_MS} ms there and back, a queue of what it carries in that time; bytes of whole IP packets, counted on the "
           "line, both directions; page cache warm for the peers; every copy compared whole, our point chunk by chunk")
    of = f"{size_mib} MiB, half full, at {MBIT_PER_S} Mbit/s and {RTT_MS} ms"
    own, peers = got.pop("ours"), got
    yield {"what": f"bytes on the wire: initial sync of {of}", "unit": "MiB", "ours": round(own["all"] / MIB, 1), "peers": {name: round(one["all"] / MIB, 1) for name, one in peers.items()},
           "goal": {"ratio_at_least": 1.0}, "how": how}
    yield {"what": f"share of the link that is used: {of}", "unit": "%", "ours": round(shares["ours"] * 100, 1), "higher_is_better": True,
           "peers": {name: round(shares[name] * 100, 1) for name in peers}, "goal": {"ours_at_least": 95}, "how": "the same run; from the copy's start to its end, ours to the first recovery point"}
    yield {"what": f"time: initial sync of {of}", "unit": "s", "ours": round(own["seconds"], 1), "peers": {name: round(one["seconds"], 1) for name, one in peers.items()},
           "goal": {"ratio_at_least": 1.0}, "how": "the same run"}


def one_size(build, size_mib, kinds):
    with Place(build) as place:
        loop, image = place.disk("source", size_mib)
        with Link(place, MBIT_PER_S, RTT_MS) as link:
            place.certificates("replicator:r1", "agent:web01")
            place.replicator()
            got = {"ours": over(link, lambda: ours(place, loop))}
            place.ask("verify", point=place.ask("status", server="web01")["servers"][0]["newest_point"])
            place.stop("agent-web01")
            place.stop("replicator")
            warm(loop, image)
            for peer in (kind(place, loop, image) for kind in kinds):
                got[peer.name] = over(link, peer.copy)
                peer.check()
                peer.end()
            # Where the destination asks for the data, the source still sends it: nbdkit is at the source, too.
            shares = {name: link.share(one["sent"], one["seconds"]) for name, one in got.items()}
    yield from figures(size_mib, got, shares)


def measure(build, quick):
    if quick:
        yield from one_size(build, 64, PEERS)
    else:
        yield from one_size(build, 768, PEERS)
        yield from one_size(build, 10240, BEST)
