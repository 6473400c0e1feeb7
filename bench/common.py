"""What the benches share: a folder of the run's own, certificates, processes that end with it, a loop device with real files."""
import contextlib
import getpass
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20


def run(*words, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(word) for word in words)[:200]} failed: {(done.stderr or done.stdout)[-500:].strip()}")
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, look, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, KeyError, IndexError, RuntimeError):
            found = look()
            if found:
                return found
        time.sleep(0.02)
    raise RuntimeError(f"{what} did not come within {seconds} s")


class Place:
    """A context: everything in it is removed at its end."""

    def __init__(self, build):
        self.build, self.processes, self.loops, self.mounts, self.ram = pathlib.Path(build), {}, [], [], []

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="slipway-bench."))
        self.port = free_port()
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

    def start(self, name, *words, **more):
        with open(self.dir / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen([str(word) for word in words], **{"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL, **more})
        return self.processes[name]

    def stop(self, name, number=signal.SIGTERM):
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def certificates(self, *names):
        new = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        run(*new, "-x509", "-days", "2", "-keyout", self.dir / "ca.key", "-out", self.dir / "ca.pem", "-subj", "/CN=bench CA")
        for name in names:
            folder = self.dir / name.replace(":", "-")
            folder.mkdir()
            run(*new, "-keyout", folder / "key.pem", "-out", folder / "csr.pem", "-subj", f"/CN={name}")
            run("openssl", "x509", "-req", "-in", folder / "csr.pem", "-CA", self.dir / "ca.pem", "-CAkey", self.dir / "ca.key", "-CAcreateserial",
                "-days", "2", "-out", folder / "cert.pem")
            shutil.copy(self.dir / "ca.pem", folder / "ca.pem")

    def disk(self, name, size_mib, own_mib=0, template=None):
        """A loop device with ext4, about half full of this machine's own files (or a copy of a template's image), and own_mib of noise."""
        image = self.dir / f"{name}.raw"
        if template:
            run("cp", "--sparse=always", template, image)
        else:
            run("truncate", "-s", f"{size_mib}M", image)
        loop = self.loop(image, "--direct-io=on")
        if not template:
            run("mkfs.ext4", "-q", "-F", loop)
        mount = self.dir / f"{name}.mnt"
        mount.mkdir()
        run("mount", loop, mount)
        self.mounts.append(str(mount))
        if not template:
            self.fill(mount / "files", size_mib // 2)
        if own_mib:
            with open("/dev/urandom", "rb") as noise, open(mount / f"own-{name}", "wb") as out:
                for _ in range(own_mib):
                    out.write(noise.read(MIB))
        os.sync()
        run("umount", mount)
        self.mounts.remove(str(mount))
        return loop, image

    @staticmethod
    def fill(folder, size_mib):
        folder.mkdir()
        held, number = 0, 0
        for source in ("/usr/lib", "/usr/bin", "/usr/share"):
            for path in sorted(pathlib.Path(source).rglob("*")):
                if held >= size_mib * MIB:
                    return
                if path.is_symlink() or not path.is_file():
                    continue
                with contextlib.suppress(OSError):
                    shutil.copyfile(path, folder / f"{number}")
                    held += path.stat().st_size
                    number += 1

    def replicator(self, *more):
        identity = self.dir / "replicator-r1"
        self.start("replicator", self.build / "src/main/slipway", "replicator", "--state", self.dir / "replicator", "--listen", f"127.0.0.1:{self.port}",
                   "--certificate", identity / "cert.pem", "--key", identity / "key.pem", "--ca", identity / "ca.pem", "--guard-mib", "16", *more)
        wait_for("the replicator", lambda: self.ask("status"), 30)

    def agent(self, server, loop, program=None, **settings):
        """program: another one than the build's. settings: beside or instead of those that every bench has."""
        folder = self.dir / f"agent-{server}"
        (folder / "config.json").write_text(json.dumps({"server": server, "replicator_address": "127.0.0.1", "replicator_port": self.port,
                                                        "disks": [os.path.basename(loop)], "runtime_dir": str(self.dir / f"run-{server}"), **settings}))
        self.start(f"agent-{server}", program or self.build / "src/main/slipway-agent", "run", "--folder", folder)

    def sshd(self):
        """An SSH server of this run's own: the words of a remote shell for rsync, and the host to name."""
        for key in ("host_key", "user_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.dir / key)
        (self.dir / "authorized").write_text((self.dir / "user_key.pub").read_text())
        port, host = free_port(), f"{getpass.getuser()}@127.0.0.1"
        (self.dir / "sshd_config").write_text(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {self.dir}/host_key\nAuthorizedKeysFile {self.dir}/authorized\n"
                                              "StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n")
        run("mkdir", "-p", "/run/sshd")
        self.start("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", self.dir / "sshd_config")
        shell = f"ssh -p {port} -i {self.dir}/user_key -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        wait_for("sshd", lambda: run(*shell.split(), host, "echo up"), 20)
        return shell, host

    def ask(self, verb, **more):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(600)
            s.connect(str(self.dir / "replicator/control.sock"))
            s.sendall((json.dumps({"verb": verb, **more}) + "\n").encode())
            with s.makefile() as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "ok" in answer:
                        if not answer["ok"]:
                            raise RuntimeError(answer["error"]["message"])
                        return answer
        raise RuntimeError("the replicator closed the connection")

    def synced(self, server):
        """Seconds until the server's first recovery point is committed, and its replication object."""
        begun = time.monotonic()
        state = wait_for(f"the first point of {server}", lambda: next((held for held in self.ask("status", server=server)["servers"] if held.get("newest_point")), None), 1800)
        return time.monotonic() - begun, state


def timed(*words, **more):
    begun = time.monotonic()
    run(*words, **more)
    return time.monotonic() - begun
