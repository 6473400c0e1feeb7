"""QEMU: which accelerator really works here, starting a guest, QMP."""
import glob
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time

from .common import Failure, read_json, run, start_time, write_json

PROGRAM = "qemu-system-x86_64"
KVM = ("-accel", "kvm", "-cpu", "host")
# Not "max": what is written for AVX runs in emulation at a fifth of the plain code's speed (OpenSSL's SHA-256 on a Xeon: 29 against 142 MB/s).
TCG = ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64")
PROBE_DEADLINE_S = 10


def version():
    return run(PROGRAM, "--version").splitlines()[0]


def kernel_works_under_kvm():
    """Boots a stock kernel without a root under KVM: it works when the kernel gets as far as missing its root before the deadline.
    That /dev/kvm opens says nothing: nested or filtered KVM may fail or crawl."""
    kernels = sorted(glob.glob("/boot/vmlinuz-*"))
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not kernels:
        return False
    with tempfile.NamedTemporaryFile() as serial:
        child = subprocess.Popen([PROGRAM, *KVM, "-machine", "q35", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
                                  "-serial", f"file:{serial.name}", "-kernel", kernels[-1],
                                  "-append", "console=ttyS0 panic=-1"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(PROBE_DEADLINE_S)
        except subprocess.TimeoutExpired:
            return False
        finally:
            child.kill()
            child.wait()
        return b"Unable to mount root" in pathlib.Path(serial.name).read_bytes()


def accelerator(cache):
    """("kvm" | "tcg", its options). The answer is kept for this kernel, processor and QEMU."""
    model = [line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")][:1]
    machine = {"kernel": os.uname().release, "cpu": model, "qemu": version(), "kvm": os.access("/dev/kvm", os.R_OK | os.W_OK)}
    held = read_json(cache / "accelerator.json", {})
    if held.get("machine") != machine:
        held = {"machine": machine, "accelerator": "kvm" if kernel_works_under_kvm() else "tcg"}
        write_json(cache / "accelerator.json", held)
    return held["accelerator"], KVM if held["accelerator"] == "kvm" else TCG


class Qmp:
    """One QMP conversation. Events that arrive between answers are dropped: callers poll."""

    def __init__(self, path, timeout_s=30):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r")
        self.lines.readline()  # the greeting
        self.command("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def command(self, name, **arguments):
        self.socket.sendall(json.dumps({"execute": name, **({"arguments": arguments} if arguments else {})}).encode() + b"\n")
        while True:
            line = self.lines.readline()
            if not line:
                raise Failure(f"QEMU went away during {name}")
            answer = json.loads(line)
            if "error" in answer:
                raise Failure(f"QEMU refused {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def save(self, path, timeout_s=60):
        """Stops the guest and writes its memory and devices to path. The guest stays stopped: its disks belong to that moment."""
        self.command("stop")
        # The default limit on bandwidth would make this take a minute.
        self.command("migrate-set-parameters", **{"max-bandwidth": 4 << 30})
        self.command("migrate", uri=f"exec:cat > '{path}'")
        end = time.monotonic() + timeout_s
        while (state := self.command("query-migrate")["status"]) not in ("completed", "failed"):
            if time.monotonic() > end:
                state = "too slow"
                break
            time.sleep(0.05)
        if state != "completed":
            raise Failure(f"QEMU could not save the booted guest to {path}: {state}")


def qmp_ready(path, pid, log, timeout_s=20):
    """A QMP conversation with a QEMU that was just started."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            return Qmp(path)
        except OSError:
            if start_time(pid) is None or time.monotonic() > end:
                tail = pathlib.Path(log).read_text(errors="replace").strip().splitlines()[-5:]
                raise Failure("QEMU did not start: " + " ".join(tail) + f" (log: {log})") from None
            time.sleep(0.05)
