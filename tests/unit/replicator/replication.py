#!/usr/bin/python3
"""replication: the real agent and the real replicator over loopback: a loop device with ext4 is synced while it is written to, points are
taken, exported, compared; both ends are killed and restarted; then detached and dropped. Prints TAP.
Usage: replication SLIPWAY SLIPWAY_AGENT"""
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import fake_agent  # pylint: disable=wrong-import-position
from replicated import MIB, Refused, World, continuous, device_hash, flip, in_world, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position


def full_disk(world):
    """The replicator's disk has room for a part of what is to come, and then for nothing at all."""
    vault = world.dir / "replicator"
    vault.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=36m", "slipway-test", vault)
    world.start_replicator()
    world.start_agent()

    def stalled():
        server = world.server()
        return server["state"] == "STALLED" and "make room" in json.dumps(server["error"])
    world.wait("a full disk stalls the initial sync, and says what to do", stalled)
    ok(fill(vault), "then somebody else takes the last block")
    world.kill("replicator")
    world.start_replicator()
    time.sleep(3)
    ended = world.processes["replicator"].poll() is not None
    ok(not ended or "make room on it" in (world.dir / "replicator.log").read_text(), f"the replicator, killed, {'ends and says why' if ended else 'starts'} on a full disk")
    (vault / "fill").unlink()
    run("mount", "-o", "remount,size=1g", vault)
    if ended:
        world.kill("replicator")
        world.start_replicator()  # as serve does
    world.wait("when there is room it goes on to a point", lambda: continuous(world), 120)
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    compared = world.ask("compare", server="web01", point=point["id"])["disks"][0]
    ok(compared["blocks_differing"] == 0 and compared["still"], "and nothing is corrupt: every block is equal: " + json.dumps(compared))
    world.ask("thaw", server="web01")
    full_once_it_is_used(world, vault, point["id"])
    for name in ("agent-web01", "replicator"):
        world.kill(name)
    run("umount", vault)


def fill(vault):
    subprocess.run(["dd", "if=/dev/zero", f"of={vault}/fill", "bs=4k"], capture_output=True, check=False)
    return os.statvfs(vault).f_bavail == 0


def full_once_it_is_used(world, vault, point):
    """A point on a full disk: it is not launched, for it could not be kept for the machine; it is read, and brought back to disks."""
    ok(fill(vault), "its disk is full once more")
    refused = world.refusal("export", point=point)
    ok(refused.startswith("no_space: ") and "pins" in refused, f"a point is not given to a machine that it could not be kept for: {refused}")
    ok(not world.ask("points", point=point)["points"][0]["pins"], "nor is it half kept")
    world.rescue_folder("web01", "rescue-full")
    other = world.other_disk("other.raw", 96 * MIB)
    status, said = world.restore("--point", point, "--onto", os.path.basename(other), folder="rescue-full")
    again = world.restore("--point", point, "--onto", os.path.basename(other), "--dry-run", folder="rescue-full")
    ok(status == 0 and said["passes"] == 2 and again[0] == 0 and again[1]["bytes_different"] == 0, f"but it goes back to disks: {said}")
    (vault / "fill").unlink()
    ok(world.ask("export", point=point)["disks"] and world.ask("points", point=point)["points"][0]["pins"], "with room it is kept, and given")
    world.ask("unexport", point=point)


def synchronise(world):
    """With a vault that nothing happened to."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, most))
    world.start_replicator()
    world.start_agent()
    world.wait("the initial sync ends in continuous replication with a point", lambda: continuous(world), 120)
    ok(resource.prlimit(world.processes["replicator"].pid, resource.RLIMIT_NOFILE)[0] == most, f"as many agents as the system lets it: {most} files")
    server = world.server()
    ok(server["bytes_total"] == 96 * MIB and server["bytes_stored"] > 24 * MIB and server["error"] is None, "the figures: " +
       json.dumps({k: server[k] for k in ("bytes_total", "bytes_read", "bytes_sent", "bytes_stored", "tracker")}))
    ok(server["bytes_sent"] < 40 * MIB, "zeros were not sent")


def follow(world):
    newest = world.server()["newest_point"]
    (world.mounted / "later").write_bytes(os.urandom(3 * MIB))
    world.sync()
    world.wait("a change makes a new point by itself", lambda: world.server()["newest_point"] != newest)
    world.wait("the newest point stays fresh while nothing changes", lambda: world.server()["newest_point_age_ms"] < 3000)
    dropped = world.server()["newest_point"]
    world.ask("drop_point", point=dropped)
    there = lambda: world.server()["newest_point"] in [point["id"] for point in world.ask("points", server="web01")["points"]]
    ok(there(), "where somebody drops it, it is the newest no more")
    before = world.server()["newest_point"]
    world.wait("and another one comes, though nothing changes", lambda: world.server()["newest_point"] not in (dropped, before) and there())


def small_writes(world):
    """Random pages: what travels and is stored is about what was written, not whole chunks."""
    size, count = 16 * MIB, 600
    with open(world.mounted / "pages", "wb") as f:
        f.write(os.urandom(size))
    world.sync()
    newest = world.server()["newest_point"]
    world.wait("the file of pages is there", lambda: continuous(world) and world.server()["newest_point"] != newest and not world.server()["backlog_bytes"])
    time.sleep(2.5)  # the agent tells its own figures every second
    before = world.server()
    random = __import__("random").Random(7)
    fd = os.open(world.mounted / "pages", os.O_WRONLY)
    for turn in range(6):
        for _ in range(count // 6):
            os.pwrite(fd, os.urandom(4096), random.randrange(size // 4096) * 4096)
        os.fdatasync(fd)
        time.sleep(0.5)
    os.close(fd)
    written = count * 4096
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    compared = world.ask("compare", server="web01", point=point["id"])["disks"][0]
    ok(compared["blocks_differing"] == 0 and compared["still"], "the point after them is exact: " + json.dumps(compared))
    world.ask("thaw", server="web01")
    time.sleep(2.5)
    now = world.server()
    moved = {name: now[name] - before[name] for name in ("bytes_read", "bytes_sent", "bytes_stored")}
    moved["bytes_read"] -= 96 * MIB  # by the comparison
    ok(moved["bytes_read"] < 2 * written and moved["bytes_sent"] < 1.5 * written and moved["bytes_stored"] < 3 * written,
       f"{count} pages, {written} bytes written: " + json.dumps(moved))


def held_point(world):
    (world.mounted / "last").write_bytes(os.urandom(2 * MIB))
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    ok(point["consistency"] == "frozen" and len(point["disks"]) == 1, "a frozen point, held: " + json.dumps(point))
    world.wait("the status says that the source is held", lambda: world.server()["held"])
    disks = world.ask("export", point=point["id"])["disks"]
    uri = disks[0]["nbd_uri"]
    run("nbdcopy", uri, world.dir / "copy.raw")
    intact(device_hash(world.dir / "copy.raw") == device_hash(world.loop), "the copy is the device, byte by byte")
    compared = world.ask("compare", server="web01", point=point["id"])["disks"][0]
    intact(compared["blocks_differing"] == 0 and compared["still"] and compared["source_sha256"] == compared["target_sha256"] ==
           device_hash(world.loop) and compared["bytes_compared"] == 96 * MIB, "compare: every block is equal: " + json.dumps(compared))
    thawed = world.ask("thaw", server="web01")
    ok(thawed["was_held"] and thawed["still"], "thawed: " + json.dumps(thawed))
    (world.mounted / "after").write_bytes(os.urandom(MIB))
    world.sync()
    differing = world.ask("compare", server="web01", point=point["id"])["disks"][0]
    ok(differing["blocks_differing"] > 0 and not differing["still"] and differing["source_sha256"] != differing["target_sha256"],
       f"after a write the comparison finds {differing['blocks_differing']} blocks and says that the source was not still")
    run("fsck.ext4", "-fn", world.dir / "copy.raw")
    ok(True, "the copy's filesystem is clean")
    return point, uri


def restarts(world, point, uri):
    world.kill("replicator")
    (world.mounted / "while-down").write_bytes(os.urandom(MIB))
    world.sync()
    time.sleep(0.5)
    world.start_replicator()
    world.wait("after SIGKILL of the replicator it goes on", lambda: continuous(world) and world.server()["connected"])
    ok(run("nbdinfo", "--size", uri).strip() == str(96 * MIB), "exports survive the restart")
    sent = world.server()["bytes_sent"]
    world.kill("agent-web01")
    world.wait("without its agent the server is stalled, with the cause", lambda: world.server()["state"] == "STALLED" and world.server()["error"])
    world.kill("replicator")
    world.start_replicator()
    world.wait("a replicator that has not heard the agent yet says so when it is to compare",
               lambda: world.refusal("compare", server="web01", point=point["id"]).startswith("unreachable: the agent"))
    (world.mounted / "while-away").write_bytes(os.urandom(MIB))
    world.sync()
    world.start_agent()
    world.wait("after SIGKILL of the agent it goes on", lambda: continuous(world) and world.server()["connected"])
    ok(world.server()["bytes_sent"] < sent + 8 * MIB, f"without sending everything again ({world.server()['bytes_sent']} bytes)")
    read, log = json.loads((world.dir / "run-agent-web01/status.json").read_text())["bytes_read"], (world.dir / "agent-web01.log").read_text()
    ok("goes on where the agent before it was" in log and (read < 24 * MIB or world.read_again("web01")), f"nor reading everything again ({read} bytes): its tracker lived on")
    fresh = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    compared = world.ask("compare", server="web01", point=fresh["id"])["disks"][0]
    intact(compared["blocks_differing"] == 0 and compared["still"], "and the next point is exact: " + json.dumps(compared))
    world.ask("thaw", server="web01")
    ok(world.ask("verify", point=point["id"])["chunks"] > 0, "the point from before is whole")


def orders(world, point, uri):
    world.ask("pause", server="web01")
    world.wait("paused", lambda: world.server()["state"] == "PAUSED")
    world.ask("resume", server="web01")
    world.wait("resumed", lambda: world.server()["state"] == "CONTINUOUS")
    ok(world.refusal("drop", server="web01").startswith("state"), "a connected server is not dropped")
    ok(world.refusal("status", server="nobody").startswith("not_found"), "an unknown server")
    ok(world.refusal("export", point="nothing").startswith("not_found"), "an unknown point")
    ok(world.refusal("sing").startswith("invalid"), "an unknown verb")
    ok(len(world.ask("points", server="web01")["points"]) >= 3, "points are listed")
    reader = subprocess.Popen(["nbdcopy", uri, "-"], stdout=subprocess.PIPE)  # a pipe that nobody empties
    ok(len(reader.stdout.read(MIB)) == MIB and world.refusal("unexport", point=point["id"]).startswith("state"),
       "an export that is read is not ended")
    reader.kill()
    reader.wait()
    world.ask("unexport", point=point["id"])
    ok(subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False).returncode != 0, "an export that ended is not served")


def strangers(world):
    shutil.copytree(world.dir / "agent-db01", world.dir / "stranger")
    world.start_agent("web01", "stranger")  # db01's certificate, web01's name
    world.wait("another server's certificate is refused", lambda: "the agent says it is server web01" in (world.dir / "replicator.log").read_text())
    older = fake_agent.Agent(world, "web01", greet=False, version=1).expect("REFUSE")
    ok(older["kind"] == "unsupported" and "push the agent again" in older["message"], "so is an agent of an older version, which is told what helps: " + older["message"])
    ok(world.server()["connected"], "and the real agent stays")


def look(world, verb, *more, folder="replicator"):
    """`slipway vault`: its exit status and its words."""
    done = subprocess.run([SLIPWAY, "vault", verb, "--vault", world.dir / folder, *more], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def whole_vault(world):
    for verb, words in (("stat", "damaged  0 chunks"), ("check", " 0 findings"), ("scrub", " 0 findings")):
        status, text = look(world, verb)
        ok(status == 0 and words in text, f"vault {verb}: nothing is damaged: {text.splitlines()[-1:]}")


def repaired(world):
    """Damage that the source can mend."""
    point = world.ask("point", server="web01", consistency="crash", timeout_ms=60000)["point"]["id"]
    sent = world.server()["bytes_sent"]
    flip(world)
    status, text = look(world, "scrub")
    # The replicator itself may have met it first, and asked: then there is nothing left for scrub to ask for.
    ok(status == 14 and "uses a damaged chunk" in text, "scrub finds damage, and names the points: " + text.strip()[-200:])

    def usable():
        try:
            return bool(world.ask("usable", point=point))
        except Refused:
            return False
    world.wait("the point is usable again, from the source's own bytes", usable, 60)
    verified = world.ask("verify", point=point)
    status, text = look(world, "scrub")
    ok(verified["chunks"] > 0 and status == 0, "it holds chunk by chunk, and scrub finds nothing any more")
    world.wait("continuous again", lambda: continuous(world))
    ok(world.server()["bytes_sent"] < sent + 8 * MIB, "without sending everything again")
    held = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]
    compared = world.ask("compare", server="web01", point=held["id"])["disks"][0]
    world.ask("thaw", server="web01")
    intact(compared["blocks_differing"] == 0 and compared["still"], "and the next point is exact")


def cared_for(world):
    status, text = look(world, "stat")
    ok(status == 0 and "sealed   yes, under data key 1; names of chunks are hidden\n" in text, "the vault is encrypted: " + " | ".join(text.splitlines()))
    told = json.loads(look(world, "stat", "-o", "json")[1])
    ok(told["vault"]["encrypted"] and told["usage"]["living_bytes"] > 20 * MIB and told["usage"]["index_bytes"] > 0, "and told as JSON")
    status, text = look(world, "rotate")
    ok(status == 0 and "data key 2" in text, "a new data key beside writers: " + text.strip())
    status, text = look(world, "compact", "--live", "90", "--seal-anew")
    ok(status == 0 and "given back" in text, "compacted beside writers: " + text.strip())
    new = world.dir / "new.key"
    new.write_text("5a" * 32 + "\n")
    status, text = look(world, "rotate", "--new-key-file", new)
    ok(status == 0 and "opens with the new key alone" in text, "another key: " + text.strip())
    world.kill("replicator", signal.SIGTERM)
    old = world.vault_key.read_text()
    before = sorted((p.name, p.stat().st_size) for p in (world.dir / "replicator/vault").rglob("*") if p.is_file())
    status, text = look(world, "check")
    ok(status != 0 and "not with the key that was given" in text and
       sorted((p.name, p.stat().st_size) for p in (world.dir / "replicator/vault").rglob("*") if p.is_file()) == before, "with the old one it is refused, and nothing is changed: " + text.strip()[:120])
    world.start_replicator()
    world.wait("the replicator refuses it, too", lambda: "not with the key that was given" in (world.dir / "replicator.log").read_text())
    world.kill("replicator")
    world.vault_key.write_text(new.read_text())
    ok(old != world.vault_key.read_text() and look(world, "check")[0] == 0, "with the new one it opens")
    world.start_replicator("--work-memory-mib", "64")
    world.wait("and is gone on with", lambda: continuous(world) and world.server()["connected"])
    ok("memory   64.0 MiB at most" in look(world, "stat")[1], "in the memory that it was given")
    counted = json.loads(look(world, "stat", "-o", "json")[1])["vault"]["chunks"]
    world.wait("its status tells how many chunks there are, as vault stat does", lambda: counted > 0 and abs(world.ask("status")["vault"]["chunks"] - counted) < counted / 4)


def damaged_vault(world, point):
    status, text = look(world, "scrub")
    ok(status == 14 and "corrupt: chunk " in text and f"recovery point {point}, disk" in text, "vault scrub finds the chunk and names the points: " +
       text.splitlines()[0][:120])
    status, text = look(world, "check", "--json", folder="replicator/vault")
    found = json.loads(text)
    ok(status == 14 and found["finding_count"] == len(found["findings"]) > 0 and any(point in f["text"] for f in found["findings"]),
       "vault check knows it from then on")
    status, text = look(world, "stat")
    ok(status == 14 and "damaged  1 chunks" in text, "and vault stat counts it")


def looks(world):
    point = world.ask("points", server="web01")["points"][0]["id"]
    whole_vault(world)  # through the replicator
    world.kill("replicator", signal.SIGTERM)
    whole_vault(world)  # at rest
    told = json.loads(look(world, "stat", "--work-memory-mib", "1", "-o", "json")[1])["vault"]
    ok(told["work_memory_bytes"] == MIB and look(world, "scrub", "--work-memory-mib", "1")[0] == 0, "with little memory, too")
    flip(world)
    ok(look(world, "stat")[0] == 0, "what nobody has read is not known to be damaged")
    damaged_vault(world, point)
    with open(world.dir / "replicator/vault/lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, text = look(world, "check")
        ok(status == 10 and "wait until it is done, or stop it" in text, "a vault that somebody else has open is left alone: " + text.strip()[:200])
    status, text = look(world, "stat", folder="mnt")
    ok(status == 5 and "holds no vault" in text and sorted(p.name for p in world.mounted.glob("*vault*")) == [], "a folder without a vault stays one")
    ok(look(world, "mend")[0] == 2 and subprocess.run([SLIPWAY, "vault", "stat"], capture_output=True, check=False).returncode == 2, "bad input")
    world.start_replicator()
    world.wait("the replicator opens it again", lambda: (world.dir / "replicator/control.sock").exists() and world.server())
    ok(world.refusal("export", point=point).startswith("corrupt"), "a point with known damage is not launched")
    damaged_vault(world, point)


def the_end(world):
    world.ask("detach", server="web01")
    ok(world.server()["state"] == "DISCONNECTED", "detached")
    world.wait("the agent has ended by itself", lambda: world.processes["agent-web01"].poll() is not None, 20)
    looks(world)
    freed = world.ask("drop", server="web01")["bytes_freed"]
    ok(freed > 20 * MIB, f"dropped: {freed} bytes freed")
    ok(world.ask("drop", server="web01")["bytes_freed"] < MIB, "dropping again is fine")
    ok(world.ask("points", server="web01")["points"] == [], "nothing is left")
    ok(world.kill("replicator", signal.SIGTERM) == 0, "the replicator stops in order")


def steps(world):
    world.certificates()
    world.disk(96 * MIB)
    full_disk(world)
    synchronise(world)
    follow(world)
    small_writes(world)
    repaired(world)
    cared_for(world)
    point, uri = held_point(world)
    restarts(world, point, uri)
    orders(world, point, uri)
    world.kill("agent-web01")
    world.start_agent()
    world.wait("again", lambda: continuous(world) and world.server()["connected"])
    real = world.processes.pop("agent-web01")
    strangers(world)
    world.kill("agent-web01")
    world.processes["agent-web01"] = real
    the_end(world)


in_world(lambda: World(SLIPWAY, AGENT), steps)
