"""Both ends of replication, the real programs in a folder of their own: certificates of a CA of this run, a replicator, agents, what the
replicator's control socket answers. The tests (tests/replicated.py) and the benches (bench/common.py) build on it. Needs root."""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile

MIB = 1 << 20


def run(*words, **more):
    """What a program printed; RuntimeError with the end of what it said where it fails."""
    done = subprocess.run([str(word) for word in words], **{"capture_output": True, "text": True, **more}, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(word) for word in words)[:200]} failed: {(done.stderr or done.stdout)[-500:].strip()}")
    return done.stdout


def free_port():
    """One that is free, and that no outgoing connection takes while whoever listens there is away: those have ports from 32768 on."""
    while True:
        port = random.randrange(10000, 32768)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


class Refused(RuntimeError):
    """The replicator's no: "kind: message"."""


class Ends:
    """close() ends the processes and removes the folder."""

    def __init__(self, slipway, agent, prefix):
        self.slipway_program, self.agent_program = slipway, agent
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
        self.address, self.port = "127.0.0.1", free_port()
        self.processes = {}

    def certificates(self, *names):
        """A CA, and for each name a folder with a key and what the CA signed: role:name in role-name."""
        new = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        run(*new, "-x509", "-days", "2", "-keyout", self.dir / "ca.key", "-out", self.dir / "ca.pem", "-subj", "/CN=test CA")
        for name in names:
            folder = self.dir / name.replace(":", "-")
            folder.mkdir()
            run(*new, "-keyout", folder / "key.pem", "-out", folder / "csr.pem", "-subj", f"/CN={name}")
            self.sign(folder)
            shutil.copy(self.dir / "ca.pem", folder / "ca.pem")

    def sign(self, folder, days=2):
        run("openssl", "x509", "-req", "-in", folder / "csr.pem", "-CA", self.dir / "ca.pem", "-CAkey", self.dir / "ca.key", "-CAcreateserial", "-days", days,
            "-out", folder / "cert.pem")

    def start(self, name, *words, **more):
        with open(self.dir / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen([str(word) for word in words], **{"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL, **more})
        return self.processes[name]

    def read_again(self, server):
        """How often the kernel had passed over its tracker by now, so that the agent read a whole disk again."""
        return (self.dir / f"agent-{server}.log").read_text().count("is read again")

    def kill(self, name, number=signal.SIGKILL, patience_s=30):
        """What it ended with; None where it wasn't there. Whoever does not go within the patience is killed."""
        process = self.processes.pop(name, None)
        if not process:
            return None
        process.send_signal(number)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return process.returncode

    def replicator_words(self, *more):
        identity = self.dir / "replicator-r1"
        return [self.slipway_program, "replicator", "--state", self.dir / "replicator", "--listen", f"{self.address}:{self.port}", "--certificate", identity / "cert.pem",
                "--key", identity / "key.pem", "--ca", identity / "ca.pem", "--guard-mib", "16", *more]

    def agent_words(self, server, disks, folder=None, **settings):
        """Writes the agent's settings (into another agent's folder where one is named): how it is started. disks: their devices, or "auto"."""
        folder = self.dir / (folder or f"agent-{server}")
        (folder / "config.json").write_text(json.dumps({
            "server": server, "replicator_address": self.address, "replicator_port": self.port, "disks": disks if disks == "auto" else [os.path.basename(disk) for disk in disks],
            "runtime_dir": str(self.dir / f"run-{folder.name}"), **settings}))
        return [self.agent_program, "run", "--folder", folder]

    def ask(self, verb, timeout=600, at=None, **more):
        """The answer of the replicator's control socket (of the one in that folder); Refused where it is a no."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(timeout)
            s.connect(str((at or self.dir / "replicator") / "control.sock"))
            s.sendall((json.dumps({"verb": verb, **more}) + "\n").encode())
            with s.makefile() as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "ok" in answer:
                        if not answer["ok"]:
                            raise Refused(answer["error"]["kind"] + ": " + answer["error"]["message"])
                        return answer
        raise Refused("closed")

    def close(self):
        for name in list(self.processes):
            self.kill(name)
        shutil.rmtree(self.dir, ignore_errors=True)
