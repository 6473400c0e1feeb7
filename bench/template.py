"""Bytes on the wire for a second server of the same template, beside rsync over ssh of its image."""
from common import MIB, Place


def measure(build, quick):
    size_mib, own_mib = (512, 10) if quick else (10240, 200)
    with Place(build) as place:
        loop, image = place.disk("first", size_mib)
        second, _ = place.disk("second", size_mib, own_mib, template=image)
        place.certificates("replicator:r1", "agent:web01", "agent:web02")
        place.replicator()
        place.agent("web01", loop)
        first_s, first = place.synced("web01")
        place.agent("web02", second)
        second_s, state = place.synced("web02")
        place.ask("verify", point=state["newest_point"])
    yield {"what": f"bytes sent for a second server of a template with {own_mib} MiB of its own", "unit": "MiB", "ours": round(state["bytes_sent"] / MIB, 1),
           "peers": {"the first server": round(first["bytes_sent"] / MIB, 1)}, "goal": {"ours_at_most": own_mib * 1.15 + 8},
           "how": "one run, loopback; both points verified chunk by chunk"}
    yield {"what": "time of the second server's sync", "unit": "s", "ours": round(second_s, 2), "peers": {"the first server": round(first_s, 2)},
           "how": "the same run"}
