"""The real agent and the real replicator over loopback, in a folder of their own, with a loop device as the source's disk; for the tests of
what stands on them: `sys.path` must hold tests/. Needs root."""
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import tap
from tap import ok

MIB = 1 << 20


def run(*command, **more):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **more).stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Refused(Exception):
    pass


class World:
    """A CA, a source disk, a replicator and an agent in a folder of their own."""

    def __init__(self, slipway, agent):
        self.slipway, self.agent = slipway, agent
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="slipway-replication."))
        self.port = free_port()
        self.processes = {}
        self.loop = self.mounted = None

    def certificates(self):
        new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        ca = self.dir / "ca.pem"
        run(*new, "-keyout", self.dir / "ca.key", "-out", ca, "-subj", "/CN=test CA")
        for name in ("replicator:r1", "agent:web01", "agent:db01"):
            place = self.dir / name.replace(":", "-")
            place.mkdir()
            run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", place / "key.pem", "-out",
                place / "csr.pem", "-subj", f"/CN={name}")
            run("openssl", "x509", "-req", "-in", place / "csr.pem", "-CA", ca, "-CAkey", self.dir / "ca.key", "-CAcreateserial", "-days", "2",
                "-out", place / "cert.pem")
            shutil.copy(ca, place / "ca.pem")

    def disk(self, size):
        image = self.dir / "source.raw"
        with open(image, "wb") as f:
            f.truncate(size)
        self.loop = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
        run("mkfs.ext4", "-q", "-F", "-b", "4096", self.loop)
        self.mounted = self.dir / "mnt"
        self.mounted.mkdir()
        run("mount", self.loop, self.mounted)
        with open("/dev/urandom", "rb") as noise, open(self.mounted / "noise", "wb") as f:
            f.write(noise.read(24 * MIB))
        (self.mounted / "text").write_text("the quick brown fox\n" * 400000)
        self.sync()

    def release_disk(self):
        subprocess.run(["losetup", "-d", self.loop], check=False)

    def sync(self):
        """This file system only: another one may be frozen by somebody else's test."""
        run("sync", "-f", self.mounted)

    def start(self, name, command):
        log = open(self.dir / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env={**os.environ, "SLIPWAY_LOG": "text"})

    def start_replicator(self, *more):
        identity = self.dir / "replicator-r1"
        self.start("replicator", [self.slipway, "replicator", "--state", self.dir / "replicator", "--listen", f"127.0.0.1:{self.port}", "--certificate", identity / "cert.pem",
                                  "--key", identity / "key.pem", "--ca", identity / "ca.pem", "--point-interval", "1s", "--guard-mib", "16", *more])

    def start_agent(self, server="web01", folder="agent-web01", **settings):
        folder = self.dir / folder
        (folder / "config.json").write_text(json.dumps({
            "server": server, "replicator_address": "127.0.0.1", "replicator_port": self.port, "disks": [os.path.basename(self.loop)],
            "runtime_dir": str(self.dir / f"run-{folder.name}"), "freeze_budget_ms": 2000, **settings}))
        self.start(f"agent-{server}", [self.agent, "run", "--folder", folder])

    def kill(self, name, number=signal.SIGKILL):
        process = self.processes.pop(name, None)
        if process:
            process.send_signal(number)
            process.wait(30)
            return process.returncode

    def ask(self, verb, timeout=120, **more):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(timeout)
            s.connect(str(self.dir / "replicator/control.sock"))
            s.sendall((json.dumps({"verb": verb, **more}) + "\n").encode())
            with s.makefile() as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "ok" in answer:
                        if not answer["ok"]:
                            raise Refused(answer["error"]["kind"] + ": " + answer["error"]["message"])
                        return answer
        raise Refused("closed")

    def refusal(self, verb, **more):
        try:
            self.ask(verb, **more)
            return "nothing was refused"
        except Refused as refused:
            return str(refused)

    def server(self):
        return self.ask("status", server="web01")["servers"][0]

    def wait(self, what, condition, seconds=60):
        until = time.monotonic() + seconds
        last = None
        while time.monotonic() < until:
            try:
                last = condition()
                if last:
                    return ok(True, what)
            except (OSError, Refused) as reason:
                last = reason
            time.sleep(0.1)
        ok(False, f"{what}: {last}")
        raise Refused("without it, what follows means nothing")

    def close(self):
        for name in list(self.processes):
            self.kill(name)
        for mounted in filter(os.path.ismount, (self.mounted or "", self.dir / "replicator")):
            subprocess.run(["umount", mounted], check=False)
        if self.loop:
            self.release_disk()
        if tap.failed:
            for log in sorted(self.dir.glob("*.log")):
                print("".join(f"# {log.name}: {line}\n" for line in log.read_text(errors="replace").splitlines()[-60:]))
        shutil.rmtree(self.dir)


def continuous(world):
    server = world.server()
    return server["state"] == "CONTINUOUS" and server["newest_point"]


def device_hash(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    digest = hashlib.sha256()
    with open(fd, "rb") as f:
        while block := f.read(4 * MIB):
            digest.update(block)
    return digest.hexdigest()


def flip(world):
    """One byte of the stored noise, which every point uses since the beginning."""
    with open(sorted((world.dir / "replicator/vault/segments").glob("*.seg"))[0], "r+b") as f:
        f.seek(8 * MIB)
        byte = f.read(1)
        f.seek(8 * MIB)
        f.write(bytes([byte[0] ^ 1]))
