"""The real agent and the real replicator over loopback, in a folder of their own, with a loop device as the source's disk; for the tests of
what stands on them: `sys.path` must hold tests/. Needs root."""
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import tap
import ends
from tap import ok
from ends import MIB, Refused, run  # pylint: disable=unused-import

CHUNK = 65536


class World(ends.Ends):
    """A CA, a source disk, a replicator and an agent in a folder of their own."""

    def __init__(self, slipway, agent):
        super().__init__(slipway, agent, "slipway-replication.")
        self.vault_key = self.dir / "vault.key"  # the vault is encrypted: what looks at it at rest needs the key, too
        os.environ["SLIPWAY_VAULT_KEY_FILE"] = str(self.vault_key)
        self.loop = self.mounted = None
        self.last = []

    def certificates(self, *names):
        super().certificates("replicator:r1", "agent:web01", "agent:db01", *names)

    def disk(self, size, behind=0):
        """With so many bytes behind its file system."""
        image = self.dir / "source.raw"
        with open(image, "wb") as f:
            f.truncate(size)
        self.loop = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
        run("mkfs.ext4", "-q", "-F", "-b", "4096", self.loop, (size - behind) // 4096)
        self.mounted = self.dir / "mnt"
        self.mounted.mkdir()
        run("mount", self.loop, self.mounted)
        self.fill_files()
        self.sync()

    def fill_files(self):
        with open("/dev/urandom", "rb") as noise, open(self.mounted / "noise", "wb") as f:
            f.write(noise.read(24 * MIB))
        (self.mounted / "text").write_text("the quick brown fox\n" * 400000)

    def other_disk(self, name, size):
        """A disk for a point to go back to, full of something else; by its name in /dev."""
        image = self.dir / name
        image.write_bytes(os.urandom(4 * MIB) * (size // (4 * MIB)) + bytes(size % (4 * MIB)))
        return self.loop_over(image)

    def loop_over(self, image):
        loop = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
        self.at_end(lambda: subprocess.run(["losetup", "-d", loop], check=False))
        return loop

    def release_disk(self):
        subprocess.run(["losetup", "-d", self.loop], check=False)

    def sync(self):
        """This file system only: another one may be frozen by somebody else's test."""
        run("sync", "-f", self.mounted)

    def start_replicator(self, *more, **environment):
        self.start("replicator", *self.replicator_words("--point-interval", "1s", "--vault-key-file", self.vault_key, "--make-vault-key", *more),
                   env={**os.environ, "SLIPWAY_LOG": "text", **environment})

    def kept(self, folder):
        """Where an agent's tracker lives on: names of a BPF filesystem have no dots."""
        return pathlib.Path("/sys/fs/bpf") / f"{self.dir.name.replace('.', '-')}-{folder}"

    def start_agent(self, server="web01", folder="agent-web01", loop=None, **settings):
        self.start(f"agent-{server}", *self.agent_words(server, [loop or self.loop], folder, **{"freeze_budget_ms": 2000, "tracker_dir": str(self.kept(folder)), **settings}), env={**os.environ, "SLIPWAY_LOG": "text"})

    def rescue_folder(self, server, folder, port=None, **settings):
        """The server's identity, as it is on a machine that was booted from a rescue medium."""
        subprocess.run(["cp", "-a", self.dir / f"agent-{server}", self.dir / folder], check=True)
        (self.dir / folder / "config.json").write_text(json.dumps({"server": server, "replicator_address": self.address, "replicator_port": port or self.port,
                                                                   "runtime_dir": str(self.dir / f"run-{folder}"), **settings}))

    def restoring(self, *more, folder="rescue"):
        """slipway-agent restore, as it runs; restored() waits for it."""
        return subprocess.Popen([str(word) for word in (self.agent_program, "restore", "--config", self.dir / folder / "config.json", *more)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def restore(self, *more, folder="rescue"):
        return restored(self.restoring(*more, folder=folder))

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
        for kept in pathlib.Path("/sys/fs/bpf").glob(str(self.kept("*").name)):
            shutil.rmtree(kept)
        for mounted in self.mounts():
            subprocess.run(["umount", mounted], check=False)
        if self.loop:
            self.release_disk()
        if tap.failed:
            for log in sorted(self.dir.glob("*.log")):
                print("".join(f"# {log.name}: {line}\n" for line in log.read_text(errors="replace").splitlines()[-60:]))
        super().close()
        for what in self.last:
            what()

    def mounts(self):
        """What is mounted in the folder, the last first."""
        with open("/proc/self/mountinfo", encoding="utf-8") as all_mounts:
            return [place for place in (line.split()[4] for line in all_mounts) if place.startswith(f"{self.dir}/")][::-1]

    def at_end(self, what):
        """Is called once all else is closed."""
        self.last.append(what)


def in_world(make, steps, needs="root for loop devices"):
    """What a test runs: its steps in a world of their own, and all that they made is removed, however they end. Ends the process."""
    if os.geteuid() != 0:
        print(f"1..0 # SKIP needs {needs}")
        sys.exit(0)
    world = make()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        steps(world)
    except Exception as reason:  # pylint: disable=broad-exception-caught
        ok(False, f"{type(reason).__name__}: {reason}")
    finally:
        world.close()
    status = tap.finish()
    sys.stdout.flush()
    os._exit(status)  # a thread that hangs is no reason to wait


def continuous(world):
    server = world.server()
    return server["state"] == "CONTINUOUS" and server["newest_point"]


def restored(process, seconds=300):
    """(0, what it answers) or (another status, what it complains of)."""
    out, said = process.communicate(timeout=seconds)
    return process.returncode, json.loads(out) if process.returncode == 0 else said


def first_chunk(device):
    """Past the cache: the first 64 KiB."""
    fd = os.open(device, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with open(fd, "rb") as f:
        return f.read(CHUNK)


def device_hash(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    digest = hashlib.sha256()
    with open(fd, "rb") as f:
        while block := f.read(4 * MIB):
            digest.update(block)
    return digest.hexdigest()


def flip(world):
    """One byte of the stored noise, which every point uses since the beginning: most of the largest segment."""
    segment = max((world.dir / "replicator/vault/segments").glob("*.seg"), key=lambda path: path.stat().st_size)
    with open(segment, "r+b") as f:
        at = segment.stat().st_size // 2
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))
