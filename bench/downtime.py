"""The downtime of a cutover as the demo's outside probe sees it, beside a cold copy of the same disks (boots two guests: minutes, --quick or not)."""
import datetime
import json
import pathlib
import subprocess
import sys

from common import Place, run
from peers import Convert, Nbdcopy

DURATION = "12 min, quick or not"
ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = ("quiesce", "final_sync", "launch_cutover", "verify_cutover", "open_door")


def moment(text):
    """RFC 3339 as seconds since 1970."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def last_attempts(report, server):
    """For each step of the cutover that this server stayed with: begin and end of the attempt that succeeded."""
    found = {}
    for task in report["tasks"]:
        if task["server"] == server and task["name"] in STEPS:
            good = [attempt for attempt in task["attempts"] if attempt["state"] == "SUCCEEDED"]
            if task["state"] != "SUCCEEDED" or not good:
                raise RuntimeError(f"{server}: {task['name']} is {task['state']}: no cutover was measured")
            found[task["name"]] = tuple(moment(good[-1][end]) for end in ("started", "finished"))
    missing = [step for step in STEPS if step not in found]
    if missing:
        raise RuntimeError(f"{server}: the report holds no {', '.join(missing)}")
    return found


def cutover(report, server):
    """The outage that the probe saw while the server was cut over for good (the last round, after a way back), in seconds: all of it, the part before
    the copy was started, and the rest; and each step's time."""
    steps = last_attempts(report, server)
    outages = report["measurements"]["probe"]["servers"][server]["outages"]
    during = [outage for outage in outages if (outage["to"] or 0) > steps["quiesce"][0] and outage["from"] < steps["open_door"][1]]
    if not during or any(outage["to"] is None for outage in outages):
        raise RuntimeError(f"{server}: the probe saw {'no end of an outage' if during else 'no outage while it was cut over'}")
    begin, end = during[0]["from"], during[-1]["to"]
    launched = steps["launch_cutover"][1]
    if not begin < launched < end:
        raise RuntimeError(f"{server}: the outage does not hold the moment at which the copy was started")
    return {"all_s": end - begin, "before_s": launched - begin, "boot_s": end - launched, "steps": {step: end - begin for step, (begin, end) in steps.items()}}


def measured(report):
    """Each server's cutover, of a report that passed."""
    if report["result"] != "passed":
        raise RuntimeError(f"the demo {report['result']}: {'; '.join(report['reasons'])[:300]}")
    if not report["servers"]:
        raise RuntimeError("the report holds no server")
    try:
        return {server["name"]: cutover(report, server["name"]) for server in report["servers"]}
    except KeyError as lacking:
        raise RuntimeError(f"the report lacks {lacking}; docs/formats/report.md says what it holds") from lacking


def wave(place, build):
    """A wave of the demo, in a folder of its own: its report."""
    folder, log = place.dir / "demo", place.dir / "demo.log"
    with open(log, "w") as out:
        demo = subprocess.Popen([sys.executable, ROOT / "demo.d/drive", "--dir", folder, "--programs", build / "src/main"], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            demo.wait()
        finally:
            if demo.poll() is None:
                demo.terminate()  # it removes its machines and networks itself
                demo.wait()
    if not (folder / "report.json").exists():
        raise RuntimeError(f"the demo ended with {demo.returncode} and left no report")
    return json.loads((folder / "report.json").read_text())


def demo_disks():
    """The guests' disks as the demo boots them, by server: the files of its cache."""
    sys.path.insert(0, str(ROOT / "demo.d"))
    from world_parts import guests  # pylint: disable=import-error,import-outside-toplevel
    booted, _ = guests.booted_state(lambda text: None)
    return {server: [booted / f"{disk}.qcow2" for disk, _ in guest["disks"]] for server, guest in guests.GUESTS.items()}


def cold_copies(place, disks):
    """Seconds for copying a server's whole raw disks, by tool; every copy is compared."""
    taken, size_bytes = {}, 0
    for number, disk in enumerate(disks):
        source = place.dir / f"cold-{number}.raw"
        run("qemu-img", "convert", "-O", "raw", disk, source)
        loop = place.loop(source)
        size_bytes += source.stat().st_size
        run("dd", f"if={loop}", "of=/dev/null", "bs=1M")
        for tool, kind in (("nbdcopy", Nbdcopy), ("qemu-img convert", Convert)):
            peer = kind(place, loop, source)
            taken[tool] = taken.get(tool, 0) + peer.copy()
            peer.check()
            peer.end()
        place.release(loop)
        source.unlink()
    return taken, size_bytes


def figures(server, seen, cold, size_bytes, accelerator):
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in seen["steps"].items())
    size = f"{size_bytes / (1 << 30):.2f} GiB of disks"
    yield {"what": f"downtime of {server}'s cutover, seen by the probe ({size})", "unit": "s", "ours": round(seen["all_s"], 1),
           "peers": {f"cold copy by {tool}, then the same boot": round(seconds + seen["boot_s"], 1) for tool, seconds in cold.items()},
           "how": f"last good answer before to first good answer after, five questions a second; {accelerator}; {steps}; the peer's downtime is its copy's time and "
                  "our copy's from its start to its first answer"}
    yield {"what": f"of it, {server} down before its copy starts", "unit": "s", "ours": round(seen["before_s"], 1),
           "peers": {f"cold copy by {tool}": round(seconds, 1) for tool, seconds in cold.items()},
           "how": f"services stopped in order and synced inside an emulated machine, then the last change; the peers copy {size} over TLS on loopback with a warm page "
                  "cache, the stop of the services not counted: their time grows with the disk, ours with the last change"}


def measure(build, quick):  # pylint: disable=unused-argument  # a wave is a wave
    with Place(build) as place:
        report = wave(place, build)
        seen, disks = measured(report), demo_disks()
        for server, got in seen.items():
            cold, size_bytes = cold_copies(place, disks[server])
            yield from figures(server, got, cold, size_bytes, report["accelerator"])
