"""The exactness proof: the real agent and replicator follow a disk that is written to in every way while points of every kind are taken at random
moments, the agent and the replicator are killed and the link is cut; every point is compared with what the disk must have held (model.h) and, where
the disk stands still, with the disk itself. docs/replication.md tells what that proves.

Everything that is chosen here comes from a seed; when which write lands does not, so a seed that failed may need several tries to fail again."""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "bench"))
from common import MIB, Place, run, wait_for  # pylint: disable=wrong-import-position

SECTOR = 512
DISK_MIB = 128
# No partition begins at a chunk's border (64 KiB), so that chunks are shared between what lies beside and what lies inside.
FIRST = (18472, 49152)     # no filesystem: begin, size in sectors
SECOND = (81960, 114688)   # ext4; mutate.py knows it, too
DELAY_US = 8000
POINT_TIMEOUT_MS = 20000
PATIENCE_S = int(os.environ.get("SLIPWAY_PATIENCE_S", "90"))  # for both ends to be connected and in step again after a kill
EVENTS = ["agent", "replicator", "link", "link", "link"]
EVENTS_EVERY = 20          # points: in so many, each event, at random places; in half as many at first
HOLD_LIMIT_MS = 30000
KINDS = ["crash"] * 10 + ["any"] * 3 + ["frozen"] * 3 + ["held"] * 4


class Broken(Exception):
    """The proof itself can't go on: neither exact nor inexact was seen."""


def partition_table():
    """An MBR from its signature (byte 440) on."""
    entries = b"".join(struct.pack("<4xB3xII", 0x83, *partition) for partition in (FIRST, SECOND))
    return struct.pack("<IH64s2s", 0x51195a7e, 0, entries, b"\x55\xaa")


class Link(threading.Thread):
    """What the agent dials: passes bytes to the replicator, and can be cut."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.pairs, self.lock = port, [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.own_port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            agent, _ = self.listener.accept()
            try:
                replicator = socket.create_connection(("127.0.0.1", self.port), 5)
            except OSError:
                agent.close()
                continue
            replicator.settimeout(None)
            with self.lock:
                self.pairs.append((agent, replicator))
            for source, sink in ((agent, replicator), (replicator, agent)):
                threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def carry(source, sink):
        try:
            while data := source.recv(262144):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class Writer:
    """The program that writes and knows: a line each way."""

    def __init__(self, process):
        self.process = process

    def order(self, *words):
        try:
            self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
            self.process.stdin.flush()
        except OSError as reason:
            raise Broken("the writer has ended") from reason
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Broken("the writer has ended")
        return json.loads(line)


class Proof(Place):
    """A world for the proof, a context. agent: the program that is proven, where it isn't the build's own."""

    def __init__(self, build, seed, agent=None):
        super().__init__(build)
        self.seed, self.random, self.program = seed, random.Random(seed), agent
        self.faults, self.counts = [], {"compared": 0, "identical": 0, "checked_filesystems": 0, "in_flight": 0, "torn_in_flight": 0, "refused": 0,
                                    "agents_killed": 0}
        self.plan, self.slow, self.doom, self.events = [], None, None, EVENTS
        self.kept = pathlib.Path(f"/sys/fs/bpf/slipway-proof-{os.getpid()}")

    # ---- what it is made of ----

    def __enter__(self):
        super().__enter__()
        try:
            self.make()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def make(self):
        own = self.build / "tests/e2e/exactness"
        self.images = self.memory("ram", DISK_MIB * 4)
        disk = self.images / "disk.raw"
        with open(disk, "wb") as out:
            out.truncate(DISK_MIB * MIB)
            out.seek(440)
            out.write(partition_table())
        (self.dir / "slow").mkdir()
        self.slow = subprocess.Popen([own / "slow_disk", self.dir / "slow", disk, str(DELAY_US)], stdout=subprocess.PIPE, text=True)
        if self.slow.stdout.readline() != "mounted\n":
            raise Broken("the slow disk can't be made: is there no /dev/fuse?")
        self.device = self.loop(self.dir / "slow/disk", "--direct-io=on")
        run("partx", "-u", self.device)
        wait_for("the partitions", lambda: os.path.exists(self.device + "p2"), 10)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.device + "p2")
        mount = self.dir / "mnt"
        mount.mkdir()
        run("mount", self.device + "p2", mount)
        self.mounts.append(str(mount))
        (mount / "churn").mkdir()
        spans = f"{MIB}-{SECOND[0] * SECTOR},{(SECOND[0] + SECOND[1]) * SECTOR}-{DISK_MIB * MIB}"
        words = (self.seed, self.device, self.device + "p1", spans, self.device + "p2", mount / "stamped", mount / "churn")
        self.writer = Writer(self.start("writer", own / "writer", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        self.writer.answer()
        self.certificates("replicator:r1", "agent:web01")
        self.link = Link(self.port)
        self.start_replicator()
        self.start_agent()

    def start_replicator(self):
        self.replicator("--point-interval", "1h")

    def start_agent(self):
        self.agent("web01", self.device, self.program, replicator_port=self.link.own_port, freeze_budget_ms=3000, tracker_dir=str(self.kept))

    def __exit__(self, kind, failure, trace):
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for name in ("agent-web01", "writer"):  # the agent first: what it holds frozen moves again
            if name in self.processes:
                self.stop(name, signal.SIGTERM if name != "writer" else signal.SIGKILL)
        shutil.rmtree(self.kept, ignore_errors=True)
        while self.mounts:
            subprocess.run(["umount", self.mounts.pop()], check=False)
        for loop in list(self.loops):
            subprocess.run(["losetup", "-d", loop], check=False)
            self.loops.remove(loop)
        if self.slow:
            self.slow.terminate()
            self.slow.wait(15)
        super().__exit__(kind, failure, trace)
        for number, handler in before.items():
            signal.signal(number, handler)

    # ---- points ----

    def ready(self):
        """Both ends run, are connected and in step, and nothing is held: a link that was cut may have left it so."""
        def look():
            server = self.ask("status", server="web01")["servers"][0]
            if server["held"]:
                self.ask("thaw", server="web01")
                return False
            return server["connected"] and server["state"] in ("CONTINUOUS", "BACKLOG")
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise Broken(f"{name} has ended with {process.returncode}")
        try:
            wait_for("continuous replication", look, PATIENCE_S)
        except RuntimeError as reason:
            raise Broken(str(reason)) from reason

    def strike(self):
        """An event, where one is due."""
        if not self.plan:
            self.plan = self.events + [None] * (EVENTS_EVERY // (1 if self.counts["compared"] else 2) - len(self.events))
            self.random.shuffle(self.plan)
        event = self.plan.pop()
        if event == "link":
            threading.Timer(self.random.uniform(0, 0.3), self.link.cut).start()
        elif event == "agent":  # while the point is taken, when much is under way, or a little before
            self.doom = threading.Timer(self.random.uniform(0, 0.4), self.processes["agent-web01"].kill)
            self.doom.start()
            time.sleep(self.random.choice((0, 0, 0.4)))
        elif event:
            self.stop("replicator", signal.SIGKILL)
            time.sleep(self.random.uniform(0, 0.5))
            self.start_replicator()

    def succeed(self):
        """The next agent, where this one was killed."""
        if not self.doom:
            return
        self.doom.join()
        self.doom = None
        self.stop("agent-web01", signal.SIGKILL)
        time.sleep(self.random.uniform(0, 0.5))
        self.counts["agents_killed"] += 1
        self.start_agent()

    def taken_over(self):
        """How many agents went on where the one before was killed."""
        return (self.dir / "agent-web01.log").read_text(errors="replace").count("goes on where the agent before it was")

    def take(self, kind):
        """A point that was answered, or None. The model knows between which moments it lies."""
        self.writer.order("begin")
        try:
            point = self.ask("point", server="web01", consistency="frozen" if kind == "held" else kind, hold=kind == "held",
                             hold_limit_ms=HOLD_LIMIT_MS, timeout_ms=POINT_TIMEOUT_MS)["point"]
        except (RuntimeError, OSError, ValueError):
            self.counts["refused"] += 1  # cut, killed, or never a quiet moment: no point, so nothing to compare
            return None
        self.writer.order("end")
        return point

    def fetch(self, point):
        image = self.images / "point.raw"
        uri = self.ask("export", point=point["id"])["disks"][0]["nbd_uri"]
        run("nbdcopy", "--requests=16", uri, image)
        self.ask("unexport", point=point["id"])
        return image

    def fault(self, kind, point, words):
        self.faults.append({"kind": kind, "point": point["id"], "consistency": point["consistency"], "words": words, "seed": self.seed})

    def check(self, point):
        image = self.fetch(point)
        verdict = self.writer.order("check", image)
        for kind in ("lost", "torn", "alien", "future", "order"):
            if verdict[kind]:
                self.fault(kind, point, f"{verdict[kind]} of {verdict['sectors']} sectors: {verdict['words']}")
        for count in ("in_flight", "torn_in_flight"):
            self.counts[count] += verdict[count]
        self.counts["compared"] += 1
        if point["consistency"] == "frozen" or self.counts["compared"] % 3 == 0:
            self.check_filesystem(point, image)
        return image

    def check_filesystem(self, point, image):
        """As it stands after a freeze, and after its journal was replayed where a machine would have lost its power."""
        part = self.images / "part.raw"
        run("dd", f"if={image}", f"of={part}", "bs=4k", f"skip={SECOND[0] // 8}", f"count={SECOND[1] // 8}", "status=none")
        for options, fine in ((["-p"], 1), (["-fn"], 0))[point["consistency"] == "frozen":]:
            done = subprocess.run(["e2fsck", *options, part], capture_output=True, text=True, check=False)
            if done.returncode > fine:
                self.fault("filesystem", point, f"e2fsck {options[0]}: {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
                break
        self.counts["checked_filesystems"] += 1

    def check_held(self, point):
        """Once nothing writes any more, the point is taken again: then it is the disk, byte by byte, and the product's own comparison agrees."""
        try:
            self.writer.order("hush")
            again = self.take("held")
            if not again:
                return
            image = self.check(again)
            same = self.writer.order("same", image)
            by_product = self.ask("compare", server="web01", point=again["id"])["disks"][0] if self.random.random() < 0.3 else None
            thawed = self.ask("thaw", server="web01")
            if not thawed["was_held"] or not thawed["still"]:
                return  # the link was cut, or a limit reached: the disk moved on
            self.counts["identical"] += 1
            if same["differing"]:
                self.fault("differs", again, f"{same['differing']} sectors differ from the disk, the first at byte {same['first']}")
            if by_product and (by_product["blocks_differing"] > 0) != (same["differing"] > 0):
                words = f"the product's comparison says {by_product['blocks_differing']} blocks, and we {same['differing']} sectors"
                self.fault("comparison", again, words)
        finally:
            self.writer.order("go")
            self.ready()

    def one(self):
        """A point of a random kind at a random moment; True where one was compared."""
        kind = self.random.choice(KINDS)
        self.ready()
        time.sleep(self.random.uniform(0, 0.25))
        self.strike()
        point = self.take(kind)
        self.succeed()
        if not point:
            return False
        try:
            self.check_again(kind, point)
            if kind == "held":
                self.check_held(point)
        except (RuntimeError, OSError, ValueError) as reason:
            self.ready()  # whoever takes the second one may be struck, too
            print(f"# {kind}: {reason}", file=sys.stderr)
            return False
        return True

    def check_again(self, kind, point):
        """Whoever reads may be struck, too, and reads again. A point that was answered must be there then."""
        try:
            self.check(point)
        except (RuntimeError, OSError, ValueError) as reason:
            print(f"# {kind}: {reason}", file=sys.stderr)
            self.ready()
            try:
                self.check(point)
            except (RuntimeError, OSError, ValueError) as again:
                self.fault("unreadable", point, f"a point that was answered can't be read: {again}")

    def go_on(self, points, stop_at_fault=False):
        """Until so many points were compared; yields after each."""
        while self.counts["compared"] < points and not (stop_at_fault and self.faults):
            self.one()
            yield self.counts
        self.counts.update(self.writer.order("stats"), taken_over=self.taken_over())
