"""Ceph's radosgw (Debian's packages), on loopback, in a folder: one monitor, one OSD on a file, one gateway, with cephx between them."""
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import uuid

import ports
from ends import free_port, run

PACKAGES = ["ceph-mon", "ceph-osd", "radosgw"]
SETTINGS = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv4 = true
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
crash dir = {folder}/crash
keyring = {folder}/$name.keyring
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon osd min in ratio = 0
mon data avail crit = 1
mon data = {folder}/mon.a
osd data = {folder}/osd.0
osd objectstore = bluestore
osd class load list = *
bluestore block create = true
bluestore block size = 6442450944
bluestore block db size = 0
bluestore block wal size = 0
osd memory target = 939524096
rgw enable usage log = false
rgw frontends = beast endpoint=127.0.0.1:{port}
[client.rgw.a]
rgw data = {folder}
[mon.a]
keyring = {folder}/mon.a/keyring
[osd.0]
keyring = {folder}/osd.0/keyring
"""


def is_there():
    return all(shutil.which(program) for program in ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin"))


class Radosgw:
    """As store_swift.Swift."""
    access, secret, name = "SLIPWAYVAULTS", "a/se+cret=", "Ceph's radosgw"

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.port, self.processes, self.begun = free_port(), [], False
        self.conf, self.log = self.folder / "ceph.conf", self.folder / "log"
        self.fsid, self.monitor = uuid.uuid4(), (free_port(), free_port())
        self.conf.write_text(SETTINGS.format(fsid=self.fsid, folder=self.folder, v2=self.monitor[0], v1=self.monitor[1], port=self.port))

    def run(self, *words):
        return run(*words, timeout=120)

    def ceph(self, *words):
        return self.run("ceph", "-c", self.conf, *words)

    def spawn(self, *words):
        with open(self.log, "ab") as log:
            self.processes.append(subprocess.Popen([*words, "-c", self.conf, "-f", "--setuser", "root", "--setgroup", "root"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=ports.end_with_parent))  # pylint: disable=subprocess-popen-preexec-fn

    def make(self):
        """What there is before anything runs."""
        everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *"]
        self.run("ceph-authtool", "--create-keyring", self.folder / "mon.keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self.run("ceph-authtool", "--create-keyring", self.folder / "client.admin.keyring", "--gen-key", "-n", "client.admin", *everything)
        self.run("ceph-authtool", self.folder / "mon.keyring", "--import-keyring", self.folder / "client.admin.keyring")
        self.run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{self.monitor[0]},v1:127.0.0.1:{self.monitor[1]}]", "--fsid", self.fsid, self.folder / "monmap")
        for folder in ("mon.a", "osd.0", "crash"):
            (self.folder / folder).mkdir()
        self.run("ceph-mon", "-c", self.conf, "--mkfs", "-i", "a", "--monmap", self.folder / "monmap", "--keyring", self.folder / "mon.keyring", "--setuser", "root", "--setgroup", "root")

    def start(self):
        if not self.begun:
            self.make()
        self.spawn("ceph-mon", "-i", "a")
        ports.wait_for(self.monitor[0], self.processes, self.log)
        if not self.begun:
            osd = str(uuid.uuid4())
            self.ceph("osd", "new", osd)
            (self.folder / "osd.0/keyring").write_text(self.ceph("auth", "get-or-create", "osd.0", "mon", "allow profile osd", "osd", "allow *"))
            (self.folder / "client.rgw.a.keyring").write_text(self.ceph("auth", "get-or-create", "client.rgw.a", "mon", "allow rw", "osd", "allow rwx"))
            self.run("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", osd, "--setuser", "root", "--setgroup", "root")
        self.spawn("ceph-osd", "-i", "0")
        self.wait("the OSD", lambda: "1 up" in self.ceph("osd", "stat"))
        self.spawn("radosgw", "-n", "client.rgw.a")
        ports.wait_for(self.port, self.processes, self.log)
        if not self.begun:
            self.run("radosgw-admin", "-c", self.conf, "user", "create", "--uid=slipway", "--display-name=Slipway", f"--access-key={self.access}", f"--secret-key={self.secret}")
        self.begun = True

    def wait(self, what, condition, seconds=120):
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise OSError(f"{what} did not come")
            time.sleep(0.2)

    def kill(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.processes = []

    def tell(self):
        for log in sorted(self.folder.glob("*log")):
            sys.stdout.write("".join(f"# {log.name}: {line}\n" for line in log.read_text(errors="replace").splitlines()[-30:]))


def make(folder):
    return Radosgw(folder)
