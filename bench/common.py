"""What the benches share: a folder of the run's own, certificates, processes that end with it, a loop device with real files."""
import contextlib
import getpass
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import ends  # pylint: disable=wrong-import-position
from ends import MIB, free_port, run  # pylint: disable=wrong-import-position


def wait_for(what, look, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, KeyError, IndexError, RuntimeError):
            found = look()
            if found:
                return found
        time.sleep(0.02)
    raise RuntimeError(f"{what} did not come within {seconds} s")


def files_below(top):
    """Plain files, in an order that stays; found as they are asked for, so that the first come soon."""
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


class Place(ends.Ends):
    """A context: everything in it is removed at its end."""

    def __init__(self, build):
        self.build, self.loops, self.mounts, self.ram = pathlib.Path(build), [], [], []
        self.source, self.sink, self.source_address, self.shell = [], [], "127.0.0.1", None  # what begins each end's commands: link.py
        super().__init__(self.build / "src/main/slipway", self.build / "src/main/slipway-agent", "slipway-bench.")

    def __enter__(self):
        return self

    def __exit__(self, kind, failure, _):
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for name in list(self.processes):
            self.stop(name)
        for mount in reversed(self.mounts):
            subprocess.run(["umount", mount], check=False)
        for loop in self.loops:
            subprocess.run(["losetup", "-d", loop], check=False)
        if kind and issubclass(kind, Exception):
            self.tell_logs()
        for mount in reversed(self.ram):
            subprocess.run(["umount", mount], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)

    def tell_logs(self):
        """What the processes said last, for whoever wants to know why the bench failed: their logs go with the folder."""
        for log in sorted(self.dir.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines()[-6:]:
                print(f"{log.stem}: {line[:300]}", file=sys.stderr)

    def memory(self, name, size_mib):
        """A folder in memory."""
        folder = self.dir / name
        folder.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={size_mib}M,mode=0700", "slipway-bench", folder)
        self.ram.append(str(folder))
        return folder

    def loop(self, image, *more):
        loop = run("losetup", "--find", "--show", *more, image).strip()
        self.loops.append(loop)
        return loop

    def release(self, loop):
        run("losetup", "-d", loop)
        self.loops.remove(loop)

    def stop(self, name, number=signal.SIGTERM):
        self.kill(name, number, 15)

    def disk(self, name, size_mib, own_mib=0, template=None, used_mib=None):
        """A loop device with ext4, about half full (used_mib: or so full) of this machine's own files (or a copy of a template's image), and own_mib of
        noise."""
        image = self.dir / f"{name}.raw"
        if template:
            run("cp", "--sparse=always", template, image)
        else:
            run("truncate", "-s", f"{size_mib}M", image)
        loop = self.loop(image, "--direct-io=on")
        if not template:
            run("mkfs.ext4", "-q", "-F", loop)
        mount = self.mount(loop)
        if not template:
            self.fill(mount / "files", used_mib or size_mib // 2)
        if own_mib:
            with open("/dev/urandom", "rb") as noise, open(mount / f"own-{name}", "wb") as out:
                for _ in range(own_mib):
                    out.write(noise.read(MIB))
        run("umount", mount)
        self.mounts.remove(str(mount))
        return loop, image

    def mount(self, loop):
        """Where the device's filesystem is mounted from now on."""
        folder = self.dir / f"{os.path.basename(loop)}.mnt"
        folder.mkdir(exist_ok=True)
        run("mount", loop, folder)
        self.mounts.append(str(folder))
        return folder

    @staticmethod
    def fill(folder, size_mib):
        folder.mkdir()
        held, number = 0, 0
        for source in ("/usr/lib", "/usr/bin", "/usr/share"):
            for path in files_below(source):
                if held >= size_mib * MIB:
                    return
                with contextlib.suppress(OSError):
                    shutil.copyfile(path, folder / f"{number}")
                    held += os.path.getsize(path)
                    number += 1

    def replicator(self, *more):
        self.start("replicator", *self.sink, *self.replicator_words(*more))
        wait_for("the replicator", lambda: self.ask("status"), 30)

    def agent(self, server, loop, program=None, **settings):
        """program: another one than the build's. settings: beside or instead of those that every bench has."""
        words = self.agent_words(server, [loop], **settings)
        self.start(f"agent-{server}", *self.source, program or words[0], *words[1:])

    def sshd(self):
        """An SSH server of this run's own at the sink, started once: the words of a remote shell for rsync, and the host to name."""
        if self.shell:
            return self.shell
        for key in ("host_key", "user_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.dir / key)
        (self.dir / "authorized").write_text((self.dir / "user_key.pub").read_text())
        port, host = free_port(), f"{getpass.getuser()}@{self.address}"
        (self.dir / "sshd_config").write_text(f"Port {port}\nListenAddress {self.address}\nHostKey {self.dir}/host_key\nAuthorizedKeysFile {self.dir}/authorized\n"
                                              "StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\nSubsystem sftp internal-sftp\n")
        run("mkdir", "-p", "/run/sshd")
        self.start("sshd", *self.sink, "/usr/sbin/sshd", "-D", "-e", "-f", self.dir / "sshd_config")
        shell = f"ssh -p {port} -i {self.dir}/user_key -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        wait_for("sshd", lambda: run(*self.source, *shell.split(), host, "echo up"), 20)
        self.shell = shell, host
        return self.shell

    @staticmethod
    def taken(work):
        """Seconds, and what the work gave."""
        begun = time.monotonic()
        got = work()
        return time.monotonic() - begun, got

    def same_as(self, point, loop):
        """Raises where the point's first disk is not, byte by byte, what the device holds."""
        uri = self.ask("export", point=point)["disks"][0]["nbd_uri"]
        run("bash", "-o", "pipefail", "-c", f"nbdcopy '{uri}' - | cmp - {loop}")
        self.ask("unexport", point=point)

    def follows(self, server):
        """Waits until the agent has sent all once, and follows what changes."""
        wait_for(f"the agent of {server} to follow changes", lambda: self.ask("status", server=server)["servers"][0]["state"] == "CONTINUOUS", 1800)

    def processor_s(self, name):
        """Seconds of a processor that a process has used, all its threads."""
        fields = open(f"/proc/{self.processes[name].pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def synced(self, server):
        """Seconds until the server's first recovery point is committed, and its replication object."""
        begun = time.monotonic()
        state = wait_for(f"the first point of {server}", lambda: next((held for held in self.ask("status", server=server)["servers"] if held.get("newest_point")), None), 1800)
        return time.monotonic() - begun, state


def timed(*words, **more):
    begun = time.monotonic()
    run(*words, **more)
    return time.monotonic() - begun
