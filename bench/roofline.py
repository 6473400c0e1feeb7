"""What the machine can do at all, for the benches to stand beside (roofline.c); no bench of its own."""
import json

from common import run

MOST = 1.3
STAGES = {"read_s": "reading the disk", "sha256_s": "SHA-256", "zstd_s": "zstd at our level", "aes_gcm_s": "AES-256-GCM"}


def limits(place, loop):
    """Seconds for the disk in each stage, alone on all cores."""
    said = json.loads(run(place.build / "bench/roofline", loop))
    return {STAGES[name]: round(said[name], 2) for name in STAGES}


def figure(what, seconds, found):
    slowest = max(found.values())
    return {"what": what, "unit": "s", "ours": round(seconds, 2), "peers": {**found, "all four, one after the other": round(sum(found.values()), 2)},
            "goal": {"ours_at_most": round(slowest * MOST, 2)},
            "how": f"the same run, each stage alone on all cores over what the disk holds; the goal is {MOST} times the slowest. Both ends share these cores: hashing, compressing, encrypting, "
                   "and at the other end decrypting, unpacking and hashing again, have to be done beside each other"}
