"""A launch: from the request to the guest's first instruction, by size of the disk, beside a copy with nbdcopy first."""
import json
import statistics

from common import Place, run

DURATION = "3 min, quick 1 min"
COMPARED_BYTES = 4 << 30  # of each copy: the rest of a large disk is mostly zeros, and would only cost time
# A boot sector, in the 1,024 bytes that ext4 leaves alone: mov dx, 0x3f8; mov al, 'B'; out dx, al; cli; hlt: says a letter on the serial port.
BOOT_SECTOR = bytes.fromhex("baf803b042eefaf4ebfd").ljust(510, b"\0") + b"\x55\xaa"


def source(place, size_gib, used_mib):
    """A disk of that size with used_mib of real files, and a boot sector; its newest point's export."""
    server = f"web{size_gib:03}"
    loop, _ = place.disk(server, size_gib * 1024, used_mib=used_mib)
    with open(loop, "r+b") as disk:
        disk.write(BOOT_SECTOR)
    place.agent(server, loop)
    place.follows(server)
    point = place.ask("point", server=server, consistency="crash", timeout_ms=120000)["point"]
    place.stop(f"agent-{server}")
    return point["id"], loop


def launched(place, point, number):
    """Seconds from the request (the export of the point is a part of it) until the processor runs, and until code from the disk has run."""
    export_s, disk = place.taken(lambda: place.ask("export", point=point)["disks"][0])
    got = json.loads(run(place.build / "bench/launch", place.dir / f"target-{number}", disk["nbd_uri"], disk["size_bytes"]))
    place.ask("unexport", point=point)
    return {end: export_s + got[f"{end}_us"] / 1e6 for end in ("running", "disk")}


def copied(place, point, loop):
    """Seconds that a copy of the whole disk takes first."""
    uri = place.ask("export", point=point)["disks"][0]["nbd_uri"]
    seconds = place.taken(lambda: run("nbdcopy", uri, place.dir / "copy.raw"))[0]
    run("cmp", "--bytes", COMPARED_BYTES, loop, place.dir / "copy.raw")
    (place.dir / "copy.raw").unlink()
    place.ask("unexport", point=point)
    return seconds


def measure(build, quick):
    repetitions, used = (3, {1: 64, 4: 128}) if quick else (9, {1: 512, 100: 4096})
    with Place(build) as place:
        place.certificates("replicator:r1", *(f"agent:web{size:03}" for size in used))
        place.replicator("--point-interval", "1h")
        points = {size: source(place, size, mib) for size, mib in used.items()}
        took = {size: [] for size in used}
        for number in range(repetitions):
            for size, (point, _) in points.items():
                took[size].append(launched(place, point, f"{size}-{number}"))
        copies = {size: copied(place, point, loop) for size, (point, loop) in points.items()}
    for size, mib in used.items():
        for end, title, goal in (("running", "first instruction", {"ours_at_most": 1.0}), ("disk", "first instruction from its disk", None)):
            ours = [one[end] for one in took[size]]
            yield {"what": f"from the request to the guest's {title}: disk of {size} GiB, {mib} MiB of files", "unit": "s", "ours": round(statistics.median(ours), 3), "goal": goal,
                   "peers": {"nbdcopy of the whole disk, then the same": round(copies[size] + statistics.median(ours), 2)},
                   "how": f"median of {repetitions}, the sizes in turns, longest {max(ours):.3f} s; export of the point, overlay, network, QEMU's start under emulation"
                          + ("" if end == "running" else ", firmware, and the boot sector's letter on the serial port")}
