#!/usr/bin/python3
"""way_out: what a vault holds can be had without Slipway's help after: a real replicator and agent, a loop device with partitions and ext4;
its points are exported to every format and converted back, served, read file by file, verified, pinned, dropped; and everything that
must be refused or broken off leaves nothing that looks done. Prints TAP. Usage: way_out SLIPWAY SLIPWAY_AGENT disks|files
(files: what is read through libguestfs, which runs a small machine for each look)."""
import filecmp
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from replicated import MIB, World, continuous, device_hash, flip, in_world, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position

FORMATS = ("raw", "qcow2", "vmdk", "vhdx")
OURS = "the test"
SIZE = 96 * MIB


class Partitioned(World):
    """Its disk has a partition table, and two file systems."""

    def disk(self, size):
        image = self.dir / "source.raw"
        with open(image, "wb") as f:
            f.truncate(size)
        run("sfdisk", "-q", image, input="label: gpt\nsize=72MiB\nsize=20MiB\n")
        self.loop = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
        subprocess.run(["partx", "--delete", self.loop], capture_output=True, check=False)  # what somebody before left there
        run("partx", "--add", self.loop)  # not every kernel reads partition tables by itself
        for number in (1, 2):
            run("mkfs.ext4", "-q", "-F", f"{self.loop}p{number}")
        self.mounted = self.dir / "mnt"
        self.mounted.mkdir()
        run("mount", f"{self.loop}p1", self.mounted)
        (self.mounted / "etc").mkdir()
        (self.mounted / "etc/secret").write_bytes(os.urandom(3 * MIB + 17))
        (self.mounted / "etc/link").symlink_to("/etc/secret")
        (self.mounted / "noise").write_bytes(os.urandom(24 * MIB))
        self.sync()

    def release_disk(self):
        for _ in range(50):  # whoever had it open a moment ago may still be ending
            if subprocess.run(["partx", "--delete", self.loop], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        super().release_disk()

    def point(self, verb, *words, vault="replicator", seconds=600, **more):
        """`slipway point`: exit status, what it printed, what it complained of."""
        done = subprocess.run([str(w) for w in (SLIPWAY, "point", verb, *words, "--vault", self.dir / vault)], capture_output=True, text=True,
                              timeout=seconds, check=False, **more)
        return done.returncode, done.stdout, done.stderr

    def started(self, verb, *words, **more):
        return subprocess.Popen([str(w) for w in (SLIPWAY, "point", verb, *words, "--vault", self.dir / "replicator")], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, **more)

    def pins(self, point):
        return [reason for reason in json.loads(self.point("show", point, "-o", "json")[1])["pins"] if reason != f"kept: {OURS}"]

    def folder(self, name):
        made = self.dir / name
        made.mkdir()
        return made


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def take(world):
    """A point of a held source, and the device's bytes at that moment."""
    world.start_replicator()
    world.start_agent()
    world.wait("the initial sync ends in continuous replication with a point", lambda: continuous(world), 120)
    (world.mounted / "last").write_bytes(os.urandom(2 * MIB))
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]["id"]
    run("dd", f"if={world.loop}", f"of={world.dir}/held.raw", "bs=1M", "iflag=direct")
    status, text, said = world.point("verify", point)
    ok(status == 0 and "each is there and is what its hash says" in text and
       f"all {SIZE // 65536} blocks of the source are those of the point" in text, "verify: the point of a held source is its source", text + said)
    found = json.loads(world.point("verify", point, "-o", "json")[1])
    ok(found["verdict"] == "equal" and found["source"]["held"] and found["source"]["disks"][0]["still"], "and knows that it was held", found)
    behind(world.dir / "source.raw")
    status, text, said = world.point("verify", point)
    ok(status == 14 and f"1 of {SIZE // 65536} blocks are not those of the point" in text,
       "a block that differs from a held source is a fault", text + said)
    behind(world.dir / "source.raw")
    world.ask("thaw", server="web01")
    return point


def behind(image):
    """A bit of the source turns, behind its device's back, where no file system is."""
    with open(image, "r+b") as f:
        f.seek(SIZE - MIB)
        byte = f.read(1)
        f.seek(SIZE - MIB)
        f.write(bytes([byte[0] ^ 1]))
        f.flush()
        os.fsync(f.fileno())


def looks(world, point):
    status, text, said = world.point("list", "web01")
    lines = text.splitlines()
    ok(status == 0 and "WHEN" in lines[0] and any(point in line and " frozen " in line for line in lines), "list", text + said)
    page = json.loads(world.point("list", "web01", "--limit", 1, "-o", "json")[1])
    rest = json.loads(world.point("list", "web01", "--page", page["next"], "-o", "json")[1])
    ok(len(page["items"]) == 1 and page["next"] == page["items"][0]["id"] and rest["items"][0]["at"] < page["items"][0]["at"] and
       all(p["id"] != page["next"] for p in rest["items"]), "in pages, newest first", page)
    shown = json.loads(world.point("show", point, "-o", "json")[1])
    ok(shown["id"] == point and shown["pins"] == [] and shown["disks"][0]["size_bytes"] == SIZE and shown["bytes"] >= 2 * MIB, "show", shown)
    zone = {**os.environ, "TZ": "Etc/GMT-3"}
    text = world.point("show", point, env=zone)[1]
    ok(" +03" in text and " crash" not in text, "its time is local, with its zone", text)


def exports(world, point):
    disk = json.loads(world.point("show", point, "-o", "json")[1])["disks"][0]["id"]
    for kind in FORMATS:
        folder = world.folder(f"to-{kind}")
        status, text, said = world.point("export", point, "--to", folder, "--format", kind)
        made = names(folder)
        if not ok(status == 0 and text.rstrip().endswith("Every image was read again and is what the point holds.") and len(made) == 1 and
                  made[0].endswith(f".{kind}") and point in made[0], f"{kind}: exported", f"{status} {made} {text} {said}"):
            continue
        told = json.loads(run("qemu-img", "info", "--output=json", folder / made[0]))
        run("qemu-img", "convert", "-f", kind, "-O", "raw", folder / made[0], world.dir / "back.raw")
        ok(told["format"] == kind and filecmp.cmp(world.dir / "back.raw", world.dir / "held.raw", shallow=False),
           f"{kind}: back as raw it is the held device, byte by byte", told)
        ok(told["actual-size"] < SIZE * 3 // 4, f"{kind}: zeros take no room ({told['actual-size'] >> 20} of {SIZE >> 20} MiB)")
    ok(world.pins(point) == [], "nothing is pinned after")
    only = world.folder("only")
    status, text, said = world.point("export", point, "--to", only, "--disk", disk, "--no-compare", "-o", "json")
    told = json.loads(text)["items"][0]
    ok(status == 0 and told["disk"] == disk and told["path"] == str(only / names(only)[0]) and not told["compared"],
       "one disk, not compared: and said so", text + said)


def refusals(world, point):
    folder = world.dir / "to-qcow2"
    before = (folder / names(folder)[0]).stat()
    status, _, said = world.point("export", point, "--to", folder)
    after = (folder / names(folder)[0]).stat()
    ok(status == 6 and "--force" in said and (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns),
       "a file that exists is refused, and left", said)
    status, _, said = world.point("export", point, "--to", folder, "--force")
    ok(status == 0 and len(names(folder)) == 1 and (folder / names(folder)[0]).stat().st_ino != before.st_ino, "and replaced by force", said)
    status, _, said = world.point("export", point, "--to", world.folder("turned"), "--format", "raw", env=bad_disk(world))
    ok(status == 14 and "is not what the recovery point holds" in said and names(world.dir / "turned") == [],
       "an image that came out wrong gets no name", said)
    small = world.folder("small")
    run("mount", "-t", "tmpfs", "-o", "size=8m", "slipway-test", small)
    status, _, said = world.point("export", point, "--to", small, "--format", "raw")
    ok(status == 13 and "make room" in said and names(small) == [], "no room: refused before anything is written", said)
    run("umount", small)
    for words, expected, what in (
            (("export", "20200101T000000000Z-1-0000", "--to", world.dir / "x"), 5, "slipway point list"),
            (("export", point, "--to", world.dir / "x", "--format", "vdi"), 2, "raw, qcow2, vmdk, vhdx"),
            (("export", point, "--to", world.dir / "x", "--disk", "sdz"), 5, "it has "),
            (("export", point), 2, "--to FOLDER"),
            (("list", "nobody"), 5, "it has web01"),
            (("list", "web01", "--limit", "none"), 2, "whole number"),
            (("fetch", point, "etc/secret", "--to", world.dir / "y"), 2, "/etc/secret"),
            (("pin", point), 2, "--reason")):
        status, text, said = world.point(*words)
        ok(status == expected and what in said and len(said.splitlines()) == 1 and text == "",
           f"refused, with what to do: {said.strip()[:160]}", f"{status}: {text}{said}")
    ok(not (world.dir / "x").exists() and not (world.dir / "y").exists(), "and nothing is made")
    status, _, said = world.point("show", point, vault="mnt")
    ok(status == 5 and "holds no vault" in said, "a folder without a vault", said)


def bad_disk(world):
    """A qemu-img whose image has one bit turned."""
    folder = world.folder("bad")
    (folder / "qemu-img").write_text(f"""#!/bin/sh
for last; do :; done
{shutil.which("qemu-img")} "$@" || exit
[ "$1" = compare ] || printf x | dd of="$last" bs=1 seek=50000000 conv=notrunc status=none
""")
    (folder / "qemu-img").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def slow_tools(world):
    """A qemu-img that writes a part of its output and then takes its time."""
    folder = world.folder("bin")
    (folder / "qemu-img").write_text('#!/bin/sh\nfor last; do :; done\nhead -c 1000000 /dev/zero >"$last"\nexec sleep 1000\n')
    (folder / "qemu-img").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def broken_off(world, point):
    environment = slow_tools(world)
    for number, name in ((signal.SIGINT, "ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGKILL, "SIGKILL")):
        folder = world.folder(f"stopped-{number}")
        export = world.started("export", point, "--to", folder, "--format", "raw", env=environment)
        world.wait(f"{name}: it is in the middle", lambda f=folder: any(p.stat().st_size for p in f.iterdir()))
        ok(names(folder)[0].endswith(".part") and world.pins(point) == ["lent"], f"{name}: under another name, and the point is pinned",
           names(folder))
        child = run("pgrep", "-P", export.pid).split()[0]
        export.send_signal(number)
        said = export.communicate(timeout=30)[1]
        if number == signal.SIGKILL:
            os.kill(int(child), signal.SIGKILL)
            world.wait(f"{name}: the point is pinned no longer", lambda: world.pins(point) == [])
            status, _, said = world.point("export", point, "--to", folder, "--format", "raw")
            ok(status == 0 and len(names(folder)) == 1 and device_hash(folder / names(folder)[0]) == device_hash(world.dir / "held.raw"),
               "what it left is written over", said)
            continue
        ok(export.returncode == 15 and names(folder) == [], f"{name}: nothing is left, and it ends as broken off",
           f"{export.returncode} {names(folder)} {said}")
        ok(world.pins(point) == [] and not os.path.exists(f"/proc/{child}"), f"{name}: nothing is pinned, nothing runs", world.pins(point))


def serves(world, point):
    serve = world.started("serve", point)
    lines = []
    while "guestmount" not in "".join(lines):
        lines.append(serve.stdout.readline())
    uri = next(line for line in lines if "nbdcopy" in line).split("'")[1]
    run("nbdcopy", uri, world.dir / "copy.raw")
    intact(device_hash(world.dir / "copy.raw") == device_hash(world.dir / "held.raw"), "nbdcopy from what is served: the held device")
    plain = next(line for line in lines if "guestmount" in line).split("'")[1]
    ok(run("guestfish", "--ro", "--format=raw", "-a", plain, "echo", "taken").strip() == "taken", "guestmount's line names what libguestfs takes")
    ok(world.pins(point) == ["lent"], "it is pinned meanwhile")
    reader = subprocess.Popen(["nbdcopy", uri, "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # a pipe that nobody empties
    reader.stdout.read(MIB)
    exported = world.ask("export", point=point)["disks"][0]["nbd_uri"]
    ok(run("nbdinfo", "--size", exported).strip() == str(SIZE), "beside it, a machine can run from it")
    world.ask("unexport", point=point)
    ok(world.pins(point) == ["lent"], "which ends without a person's reading being in its way")
    world.ask("export", point=point)
    serve.send_signal(signal.SIGINT)
    serve.communicate(timeout=30)
    ok(serve.returncode == 0 and any("qemu-img convert" in line for line in lines), "ctrl-C ends it in order, and it told how to use it", lines)
    reader.stdout.read()
    ok(reader.wait(30) != 0 and subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False).returncode != 0,
       "after that nobody reads it")
    ok(world.pins(point) == ["export"] and run("nbdinfo", "--size", exported).strip() == str(SIZE), "but the machine still does")
    world.ask("unexport", point=point)


def moved_on(world, point):
    """The source is written to: what differs is told as that, and as known once the vault has it."""
    (world.mounted / "later").write_bytes(os.urandom(MIB))
    world.sync()
    seen = {}

    def known():
        seen["status"], text, _ = world.point("verify", point, "-o", "json")
        seen["found"] = json.loads(text)
        disk = seen["found"]["source"]["disks"][0]
        return disk["blocks_differing"] >= 16 and disk["blocks_received_since"] == disk["blocks_differing"]
    world.wait("verify: each block that differs is known as a later change", known)
    ok(seen["status"] == 0 and seen["found"]["verdict"] == "changed_since", "which is no damage", seen)
    status, text, _ = world.point("verify", point)
    ok(status == 0 and "have changed on the source since" in text and "no damage" in text, "and is said so", text)


def files(world, point):
    status, _, said = world.point("files", point, "/")
    ok(status == 2 and "/dev/sda1 (ext4)" in said and "/dev/sda2 (ext4)" in said, "two file systems and no system: it asks which", said)
    status, text, said = world.point("files", point, "/etc", "--filesystem", "/dev/sda1", "-o", "json")
    entries = {e["name"]: e for e in json.loads(text)["items"]} if status == 0 else {}
    ok(status == 0 and entries["secret"]["size_bytes"] == 3 * MIB + 17 and entries["link"]["type"] == "link", "a folder is listed", text + said)
    to = world.dir / "fetched"
    status, text, said = world.point("fetch", point, "/etc/link", "--to", to, "--filesystem", "/dev/sda1")
    ok(status == 0 and filecmp.cmp(to, world.mounted / "etc/secret", shallow=False) and to.stat().st_mode & 0o777 == 0o600,
       "a file is fetched, along a link, byte by byte", text + said)
    status, _, said = world.point("fetch", point, "/etc/secret", "--to", to, "--filesystem", "/dev/sda1")
    ok(status == 6 and "--force" in said, "a file that exists is refused", said)
    status, _, said = world.point("fetch", point, "/etc/nothing", "--to", world.dir / "z", "--filesystem", "/dev/sda1")
    ok(status == 5 and "slipway point files" in said and not (world.dir / "z").exists(), "a file that is not there", said)
    fetch = world.started("fetch", point, "/noise", "--to", world.dir / "z", "--filesystem", "/dev/sda1")
    world.wait("its small machine runs", lambda: appliances(fetch.pid))
    machines = appliances(fetch.pid)
    fetch.send_signal(signal.SIGINT)
    said = fetch.communicate(timeout=120)[1]
    ok(fetch.returncode == 15 and not (world.dir / "z").exists() and not (world.dir / "z.part").exists(), "it is broken off at once", said)
    ok(not any(os.path.exists(f"/proc/{machine}") for machine in machines), "and its machine with it")
    ok(world.pins(point) == [], "nothing is pinned after")


def appliances(pid):
    """The machines that this process runs."""
    found = subprocess.run(["pgrep", "-P", str(pid), "qemu-system"], capture_output=True, text=True, check=False).stdout.split()
    return [p for p in found if b"guestfsd.sock" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]


def damaged_file(world, point):
    """What is damaged is met while a file is read: nothing of it is left, and the chunk is named."""
    world.kill("replicator", signal.SIGTERM)
    flip(world)
    world.start_replicator()
    world.wait("the replicator opens the vault again", lambda: (world.dir / "replicator/control.sock").exists() and world.server())
    status, _, said = world.point("fetch", point, "/noise", "--to", world.dir / "noise", "--filesystem", "/dev/sda1")
    ok(status == 14 and "chunk " in said and point in said and not list(world.dir.glob("noise*")),
       "a file with a damaged chunk is not fetched", f"{status} {said}")


def kept(world, point):
    ok(world.point("pin", point, "--reason", "audit 2026")[0] == 0 and world.pins(point) == ["kept: audit 2026"], "a point is pinned by a person")
    status, _, said = world.point("drop", point, "--yes")
    ok(status == 7 and "slipway point unpin" in said, "and not dropped then", said)
    ok(world.point("unpin", point, "--reason", "another")[0] == 5 and world.point("unpin", point)[0] == 0 and world.pins(point) == [], "unpinned")
    old = json.loads(world.point("list", "web01", "-o", "json")[1])["items"][-1]["id"]
    status, text, said = world.point("drop", old, "--yes")
    ok(status == 0 and old != point and world.point("show", old)[0] == 5 and world.point("drop", old, "--yes")[0] == 5,
       "another one is dropped, once", text + said)


def at_rest(world, point):
    serve = world.started("serve", point)
    next(line for line in serve.stdout if "guestmount" in line)
    began = time.monotonic()
    ok(world.kill("replicator", signal.SIGTERM) == 0 and time.monotonic() - began < 5, "a replicator that lends ends in order, and soon")
    said = serve.communicate(timeout=30)[1]
    ok(serve.returncode == 10 and "the replicator has ended" in said, "who had it on loan is told", said)
    ok(world.pins(point) == [], "and it is pinned no longer")
    folder = world.folder("rest")
    status, text, said = world.point("export", point, "--to", folder, "--format", "raw", vault="replicator/vault")
    ok(status == 0 and device_hash(folder / names(folder)[0]) == device_hash(world.dir / "held.raw") and "at rest" in said,
       "a vault at rest gives the same", text + said)
    status, text, said = world.point("verify", point)
    ok(status == 7 and "no replicator runs" in said and "each is there" in text and world.point("verify", point, "--stored")[0] == 0,
       "where nobody can ask the source, verify says so", text + said)


def killed(world, point):
    """A replicator that was killed leaves a pin in the vault; whoever opens it next takes it away."""
    world.start_replicator()
    world.wait("the replicator opens the vault again", lambda: (world.dir / "replicator/control.sock").exists() and world.server())
    serve = world.started("serve", point)
    world.wait("the point is lent", lambda: world.pins(point) == ["lent"])
    world.kill("replicator")
    ok(serve.wait(30) == 10 and world.pins(point) == [], "after SIGKILL of the replicator the point is pinned no longer")


def damage(world, point):
    flip(world)
    for running in (False, True):
        if running:
            world.start_replicator()
            world.wait("the replicator opens the vault again", lambda: (world.dir / "replicator/control.sock").exists() and world.server())
        folder = world.folder(f"damaged-{running}")
        status, text, said = world.point("export", point, "--to", folder, "--format", "qcow2")
        ok(status == 14 and "chunk " in said and point in said and names(folder) == [] and "Done" not in text,
           f"a flipped chunk: {said.strip()[:200]}", f"{status} {names(folder)} {text} {said}")
        status, text, said = world.point("verify", point)
        ok(status == 14 and "chunk " in said and "each is there" not in text, "verify tells it, too", f"{status} {text}{said}")
    ok(world.pins(point) == [], "and nothing is pinned")


def stay(world, point):
    """On a slow machine what follows takes longer than ten minutes, and then the point would be no more."""
    world.ask("pin", point=point, reason=OURS)


PARTS = {"disks": (looks, exports, refusals, broken_off, serves, moved_on, kept, at_rest, killed, damage), "files": (stay, files, damaged_file)}


def steps(world):
    world.certificates()
    world.disk(SIZE)
    point = take(world)
    for part in PARTS[sys.argv[3]]:
        part(world, point)


in_world(lambda: Partitioned(SLIPWAY, AGENT), steps)
