#!/usr/bin/python3
"""back_to_disks: `slipway-agent restore`: a recovery point goes back onto block devices. Only what differs travels; what is done was read again; a cut link
and a killed program go on; nothing is begun that can't be ended, and a disk that is half done boots nobody. Prints TAP.
Usage: back_to_disks SLIPWAY SLIPWAY_AGENT"""
import json
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time

SLIPWAY, AGENT = sys.argv[1], sys.argv[2]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from replicated import CHUNK, MIB, World, continuous, device_hash, first_chunk, flip, in_world, restored, run  # pylint: disable=wrong-import-position
from tap import intact, ok  # pylint: disable=wrong-import-position

SIZE = 96 * MIB


def onto_another(world):
    point = world.ask("point", server="web01", consistency="frozen", hold=True, timeout_ms=60000)["point"]["id"]
    source = device_hash(world.loop)
    world.ask("thaw", server="web01")
    target = world.other_disk("first.raw", SIZE)
    name = os.path.basename(target)
    status, said = world.restore("--point", point, "--onto", name, "--dry-run")
    ok(status == 0 and said["bytes_written"] == 0 and said["bytes_different"] > SIZE // 2 and device_hash(target) != source, f"a dry run tells and writes nothing: {said}")
    status, said = world.restore("--point", point, "--onto", name)
    ok(status == 0 and said["passes"] == 2 and said["point"] == point, f"the point goes onto a disk full of something else: {said}")
    intact(device_hash(target) == source, "which then is what the source was, byte by byte")
    run("fsck.ext4", "-fn", target)
    status, said = world.restore("--point", point, "--onto", name)
    ok(status == 0 and said["bytes_written"] == said["bytes_received"] == 0 and said["passes"] == 1, f"again: nothing differs, nothing travels: {said}")
    return point, target, source


def only_what_differs(world, point, target, source):
    with open(target, "r+b", buffering=0) as f:
        for at in (0, 40 * MIB + 4096, SIZE - 512):  # the first chunk, one in the midst, the last
            f.seek(at)
            f.write(b"x" * 512)
        os.fsync(f.fileno())
    status, said = world.restore("--point", point, "--onto", "/dev/" + os.path.basename(target))
    ok(status == 0 and said["bytes_different"] == 3 * CHUNK and said["bytes_received"] <= 3 * CHUNK and device_hash(target) == source,
       f"three chunks differ, and no more than these travel: {said}")
    larger = world.other_disk("larger.raw", SIZE + 5 * MIB + 512)
    status, said = world.restore("--point", "newest", "--onto", os.path.basename(larger))
    ok(status == 0 and said["disks"] == 1, f"a larger disk takes it, too: {said}")


def refusals(world, point, target):
    name = os.path.basename(target)
    small = os.path.basename(world.other_disk("small.raw", SIZE - MIB))
    before = device_hash(target)
    place = world.dir / "other"
    place.mkdir()
    run("mount", "-o", "ro", target, place)
    for arguments, words in ((("--point", point, "--onto", name), "in use"),):
        status, said = world.restore(*arguments)
        ok(status != 0 and words in said, f"a disk that is mounted: {said.splitlines()[-1]}")
    run("umount", place)
    for what, arguments, words in (
            ("a disk that is too small", ("--point", point, "--onto", small), "does not fit"),
            ("two disks for one", ("--point", point, "--onto", f"{name},{small}"), "more disks"),
            ("no disk of that name", ("--point", point, "--onto", "nosuch"), "nosuch"),
            ("no disk of that identity", ("--point", point), "--onto"),
            ("a point that is none", ("--point", "20200101T000000000Z-1-abcd", "--onto", name), "no recovery point"),
            ("no point at all", ("--onto", name), "--point")):
        status, said = world.restore(*arguments)
        ok(status != 0 and isinstance(said, str) and words in said, f"{what}: {str(said).splitlines()[-1]}")
    world.rescue_folder("db01", "stranger")
    status, said = world.restore("--point", point, "--onto", name, folder="stranger")
    ok(status != 0 and "another server's" in said, f"another server's certificate: {said.splitlines()[-1]}")
    intact(device_hash(target) == before, "none of them has written anything")


def of_its_launched_machine(world):
    """A server may have the points of the machine that was launched for it, under that one's name; nobody else may, nor that one the server's."""
    other = world.other_disk("copy.raw", SIZE)
    with open(other, "r+b", buffering=0) as f:
        f.write(os.urandom(3 * MIB))
        os.fsync(f.fileno())
    before = [p["id"] for p in world.ask("points", server="web01")["points"]]
    world.start_agent("web01~copy", "agent-web01~copy", other, disk_ids={f"path:virtual/block/{os.path.basename(other)}": "wwid:the_source's"})

    def in_step():
        server = world.ask("status", server="web01~copy")["servers"][0]
        return server["state"] == "CONTINUOUS" and server["newest_point"] and continuous(world)
    world.wait("the launched machine is in step, beside its source", in_step, 60)
    point = world.ask("point", server="web01~copy", consistency="any", timeout_ms=60000)["point"]
    ok(point["server"] == "web01~copy" and [d["id"] for d in point["disks"]] == ["wwid:the_source's"], f"its disk is reported as its source's: {point}")
    ok(set(before) <= {p["id"] for p in world.ask("points", server="web01")["points"]} and
       all(p["server"] == "web01" for p in world.ask("points", server="web01")["points"]), "and the source's points are the source's")
    world.ask("pin", point=point["id"], reason="way home")
    world.kill("agent-web01~copy")
    wanted, target = device_hash(other), world.other_disk("home.raw", SIZE)
    status, said = world.restore("--point", point["id"], "--onto", os.path.basename(target))
    ok(status == 0 and device_hash(target) == wanted, f"the source gets what it has written: {said}")
    world.rescue_folder("db01~copy", "stranger-copy")
    for folder_of, asked in (("stranger", point["id"]), ("stranger-copy", point["id"]), ("stranger", before[0])):
        status, said = world.restore("--point", asked, "--onto", os.path.basename(target), folder=folder_of)
        ok(status != 0 and "another server's" in said, f"{folder_of}: {said.splitlines()[-1]}")
    world.rescue_folder("web01~copy", "copy")
    status, said = world.restore("--point", before[0], "--onto", os.path.basename(target), folder="copy")
    ok(status != 0 and "another server's" in said, f"nor has the launched machine its source's: {said.splitlines()[-1]}")
    world.wait("its agent is seen off", lambda: not world.ask("status", server="web01~copy")["servers"][0]["connected"], 30)
    ok("pinned" in world.refusal("drop", server="web01~copy"), "what is pinned is not dropped")
    world.ask("unpin", point=point["id"], reason="way home")
    world.ask("drop", server="web01~copy")
    ok(not world.ask("points", server="web01~copy")["points"] and world.ask("points", server="web01")["points"], "then its points go, and no other's")


def broken_off(world, point, target, source):
    """The replicator is stopped in the midst; then the restore itself is killed; then it is asked again."""
    scramble = os.urandom(MIB)
    with open(target, "r+b", buffering=0) as f:
        for at in range(0, SIZE, 2 * MIB):
            f.seek(at)
            f.write(scramble)
        os.fsync(f.fileno())
    process = world.restoring("--point", point, "--onto", os.path.basename(target))
    shut = None
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until and not shut:
        shut = first_chunk(target) == bytes(CHUNK)
    world.kill("replicator")
    ok(shut, "while it is half done its first chunk is zero: nobody boots from it")
    time.sleep(1)
    ok(process.poll() is None and first_chunk(target) == bytes(CHUNK), "a replicator that is killed does not end it, nor is the disk said to be whole")
    world.start_replicator()
    status, said = restored(process)
    ok(status == 0 and device_hash(target) == source, f"it goes on when the replicator is back, and ends right: {said}")
    with open(target, "r+b", buffering=0) as f:
        for at in range(0, SIZE, 2 * MIB):
            f.seek(at)
            f.write(scramble)
        os.fsync(f.fileno())
    process = world.restoring("--point", point, "--onto", os.path.basename(target))
    while process.poll() is None and first_chunk(target) != bytes(CHUNK):
        pass
    process.kill()
    ok(restored(process)[0] == -signal.SIGKILL and first_chunk(target) == bytes(CHUNK), "a restore that is killed leaves nothing that boots")
    status, said = world.restore("--point", point, "--onto", os.path.basename(target))
    ok(status == 0 and device_hash(target) == source, f"asked again it ends right: {said}")


def forgetful_disk(world, point):
    """A disk that loses what is written to it (here: somebody writes over it all the time) is never said to be done."""
    target = world.other_disk("forgetful.raw", SIZE)
    over = threading.Event()

    def spoil():
        with open(target, "r+b", buffering=0) as f:
            while not over.is_set():
                f.seek(20 * MIB)
                f.write(os.urandom(4096))
                os.fsync(f.fileno())
    thread = threading.Thread(target=spoil)
    thread.start()
    status, said = world.restore("--point", point, "--onto", os.path.basename(target))
    over.set()
    thread.join()
    # Two writers of one loop device: the kernel has refused a flush once.
    ok(status != 0 and any(words in said for words in ("still differ", "in use", "Input/output error")),
       f"a disk that changes under it is never said to be done: {said.splitlines()[-1]}")


def say(world, number, server="web01", folder="web01", **message):
    """One frame on a connection of its own: the type and the document of the answer."""
    identity = world.dir / f"agent-{folder}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(identity / "ca.pem")
    context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    payload = json.dumps({"version": 2, "agent_version": "test", "server": server, **message}).encode()
    with context.wrap_socket(socket.create_connection(("127.0.0.1", world.port), timeout=20)) as stream, stream.makefile("rb") as heard:
        stream.sendall(struct.pack("<IHHI", len(payload), number, 0, 1) + payload)
        size, number, _, _ = struct.unpack("<IHHI", heard.read(12))
        return number, json.loads(heard.read(size))


def from_the_midst(world, point):
    """What a restore says that was cut off: where the offers are to begin."""
    restore, restoring, refuse = 11, 43, 66
    ask = {"point": point, "disks": []}
    number, said = say(world, restore, **ask)
    ok(number == restoring and (said["from_disk"], said["from_chunk"]) == (0, 0), f"the offers begin with the first chunk where nothing else is asked: {said}")
    number, said = say(world, restore, **ask, from_disk=0, from_chunk=SIZE // CHUNK - 1)
    ok(number == restoring and said["from_chunk"] == SIZE // CHUNK - 1, "or with the last, where the rest is there")
    for where in ({"from_disk": 1}, {"from_chunk": SIZE // CHUNK}, {"from_disk": 0, "from_chunk": 1 << 31}):
        number, said = say(world, restore, **ask, **where)
        ok(number == refuse and "which is none" in said["message"], f"refused: {where}: {said}")


def a_word_about_it(world, point):
    """What a machine in rescue says of its restoring (its whole way: tests/e2e/rescue)."""
    rescue, heard, refuse = 14, 46, 66
    ok(world.server()["rescue"] is None, "no machine is in rescue")
    for what, words, more in (("a state that there is none of", "says", {"state": "saved"}), ("another server's certificate", "certificate", {"folder": "db01"}),
                              ("a server that nobody knows", "no server", {"server": "db01", "folder": "db01"})):
        number, said = say(world, rescue, **{"point": point, "state": "done", "message": "all", **more})
        ok(number == refuse and words in said["message"] and world.server()["rescue"] is None, f"refused: {what}: {said}")
    ok("no rescue" in world.refusal("boot_rescued", server="web01"), "a server that is in no rescue is not booted")
    for state, message in (("restoring", "sda"), ("failed", "no disk \"x\"\u00e9"), ("done", "3 bytes differed")):
        number, answer = say(world, rescue, point=point, state=state, message=message)
        told = world.server()["rescue"]
        ok(number == heard and answer["value"] == 0 and (told["point"], told["state"], told["message"]) == (point, state, message) and told["at"], f"heard: {told}")
        if state != "done":
            ok(state in world.refusal("boot_rescued", server="web01"), f"a source that says {state} is not booted")
    done = {"point": point, "state": "done", "message": "3 bytes differed"}
    ask = [SLIPWAY, "point", "boot", "web01", "--yes", "--vault", world.dir / "replicator"]
    ok("not another" in world.refusal("boot_rescued", server="web01", point="another") and say(world, rescue, **done)[1]["value"] == 0, "from another point it does not boot")
    ok(world.ask("boot_rescued", server="web01", point=point)["point"] == point and say(world, rescue, **done)[1]["value"] == 1, "one that has said done is told to boot")
    say(world, rescue, **{**done, "state": "restoring"})
    ok(say(world, rescue, **done)[1]["value"] == 0, "once only: what is restored anew waits anew")
    run(*ask)
    ok(say(world, rescue, **done)[1]["value"] == 1, "slipway point boot says the same")
    ok(world.server()["connected"], "and the server's agent is as connected as before")


def damaged(world, target):
    """The vault's copy is damaged: what can't be read right is not written."""
    for name in ("agent-web01", "replicator"):
        world.kill(name)
    flip(world)
    world.start_replicator()
    world.wait("the replicator is back", lambda: world.ask("status"))
    ok(world.server()["rescue"]["state"] == "done", "what a machine in rescue said last is known over a restart")
    other = world.other_disk("other.raw", SIZE)
    status, said = world.restore("--point", "newest", "--onto", os.path.basename(other))
    ok(status != 0 and "corrupt" in said and first_chunk(other) == bytes(CHUNK), f"a damaged chunk ends it by name, with a disk that nobody boots from: {said.splitlines()[-1]}")
    del target


def steps(world):
    world.certificates("agent:web01~copy", "agent:db01~copy")
    world.disk(SIZE)
    world.rescue_folder("web01", "rescue")
    world.start_replicator()
    world.start_agent()
    world.wait("the source is in step", lambda: continuous(world), 120)
    point, target, source = onto_another(world)
    ok(world.server()["connected"], "the agent of the server stayed connected meanwhile")
    only_what_differs(world, point, target, source)
    refusals(world, point, target)
    of_its_launched_machine(world)
    world.ask("pin", point=point, reason="test")
    broken_off(world, point, target, source)
    forgetful_disk(world, point)
    from_the_midst(world, point)
    a_word_about_it(world, point)
    damaged(world, target)


in_world(lambda: World(SLIPWAY, AGENT), steps)
