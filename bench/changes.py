"""Small changes at random places: what is read, sent and stored for each byte that was written, beside rsync over ssh of the image. With --minutes: that long, on a
disk of 100 GiB that holds nothing but them, and without rsync, which would read it for longer than that."""
import mmap
import os
import random
import re
import time

from common import MIB, Place, run, wait_for

DURATION = "3 min, quick 30 s (--minutes: how long the changes last, 1, and then on 100 GiB)"
PAGE = 4096


def fill(loop, size_mib):
    with open("/dev/urandom", "rb") as noise, open(loop, "wb") as out:
        for _ in range(size_mib):
            out.write(noise.read(MIB))
        os.fsync(out.fileno())


def write_at_random(loop, size_mib, a_second, seconds):
    """Direct writes of a page each, evenly in time: how many."""
    dice, buffer, count = random.Random(1), mmap.mmap(-1, PAGE), 0
    fd = os.open(loop, os.O_WRONLY | os.O_DIRECT)
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        while count < passed * a_second:
            buffer[:] = dice.randbytes(PAGE)
            os.pwrite(fd, buffer, dice.randrange(size_mib * MIB // PAGE) * PAGE)
            count += 1
        time.sleep(0.002)
    os.close(fd)
    return count


def figures(place):
    time.sleep(2.5)  # the agent tells its own every second
    state = place.ask("status", server="web01")["servers"][0]
    return {name: state[name] for name in ("bytes_read", "bytes_sent", "bytes_stored")}


def rsync_bytes(place, before, after):
    shell, host = place.sshd()
    said = run("rsync", "--inplace", "--no-whole-file", "--ignore-times", "--stats", "-e", shell, after, f"{host}:{before}")
    run("cmp", before, after)
    return int(re.search(r"Total bytes sent: ([\d,]+)", said)[1].replace(",", ""))


def measure(build, quick, minutes=None):
    beside = quick or not minutes
    size_mib, a_second, seconds = (256, 1000, 5) if quick else (4096, 5000, 60) if beside else (102400, 5000, int(minutes * 60))
    with Place(build) as place:
        image, before_image = place.dir / "changing.raw", place.dir / "before.raw"
        run("truncate", "-s", f"{size_mib}M", image)
        loop = place.loop(image, "--direct-io=on")
        if beside:
            fill(loop, size_mib)
        place.certificates("replicator:r1", "agent:web01")
        place.replicator()
        place.agent("web01", loop)
        place.synced("web01")
        if beside:
            run("cp", image, before_image)
        before, again = figures(place), place.read_again("web01")
        count = write_at_random(loop, size_mib, a_second, seconds)
        wait_for("all changes", lambda: place.ask("status", server="web01")["servers"][0]["backlog_bytes"] == 0, 120)
        point = place.ask("point", server="web01", consistency="crash", timeout_ms=60000)["point"]
        again = place.read_again("web01") - again
        after = figures(place)
        place.ask("verify", point=point["id"])
        place.stop("agent-web01")
        written, changed = count * PAGE, {name: after[name] - before[name] for name in before}
        rsync = {"bytes_read": size_mib * MIB, "bytes_sent": rsync_bytes(place, before_image, image)} if beside else {}
    how = f"one run: {count} writes of 4 KiB to random places of {size_mib} MiB in {seconds} s, points every 5 s, all kept; the last verified chunk by chunk"
    how += (", rsync's image compared whole" if beside else "") + f"; {again} times the kernel passed over the tracker, and all of the disk was read again"
    disk = "" if beside else f", {size_mib // 1024} GiB"
    for name, word, goal in (("bytes_read", "read", 4), ("bytes_sent", "sent", 1.3), ("bytes_stored", "stored", 1.5)):
        yield {"what": f"bytes {word} for each byte written at random{disk}", "unit": "", "ours": round(changed[name] / written, 2),
               "peers": {"rsync over ssh": round(rsync[name] / written, 2)} if name in rsync else {}, "goal": {"ours_at_most": goal}, "how": how}
