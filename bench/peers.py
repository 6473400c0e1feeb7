"""The peers that copy a disk, each told in the same words: made ready, copied (what is timed), copied again after a change, compared.

They run where the place's source and sink are: on this machine over loopback, or at the two ends of a link. All read through the page cache. What
they send is protected (TLS, ssh), what they store is compressed as they do by default, or by zstd, level 3, where they must be told."""
import os
import secrets
import subprocess

from common import free_port, run, timed, wait_for

ZSTD_LEVEL = 3


class Peer:
    """disk: a loop device; image: the file below it, with the same bytes."""
    name = None

    def __init__(self, place, disk, image):
        self.place, self.disk, self.image = place, disk, image
        self.copied = place.dir / f"{type(self).__name__.lower()}.raw"
        self.prepare()

    def prepare(self):
        pass

    def copy(self):
        """Seconds."""
        raise NotImplementedError

    def check(self):
        """Raises where the destination is not what the disk is."""
        run("cmp", self.disk, self.copied)

    def end(self):
        """Gives back what it held."""
        self.copied.unlink(missing_ok=True)


class Nbdcopy(Peer):
    name = "nbdcopy (TLS)"

    def prepare(self):
        """The source's disk as nbdkit serves it, TLS with a pre-shared key required."""
        key = self.place.dir / "keys.psk"
        if not key.exists():
            key.write_text(f"bench:{secrets.token_hex(32)}\n")
        self.port, address = free_port(), self.place.source_address
        self.server = f"nbdkit-{self.port}"
        self.place.start(self.server, *self.place.source, "nbdkit", "-f", "-r", "--tls=require", f"--tls-psk={key}", "-i", address, "-p", self.port, "file", self.disk)
        self.uri = f"nbds://bench@{address}:{self.port}/?tls-psk-file={key}"
        wait_for("nbdkit", lambda: run(*self.place.sink, "nbdinfo", "--size", self.uri), 20)

    def copy(self):
        return timed(*self.place.sink, "nbdcopy", self.uri, self.copied)

    def end(self):
        self.place.stop(self.server)
        super().end()


class Convert(Nbdcopy):
    name = "qemu-img convert (TLS)"

    def copy(self):
        return timed(*self.place.sink, "qemu-img", "convert", "--object", f"tls-creds-psk,id=t,endpoint=client,username=bench,dir={self.place.dir}", "--image-opts",
                     f"driver=nbd,host={self.place.source_address},port={self.port},tls-creds=t", "-O", "raw", self.copied)


class Pipe(Peer):
    name = f"dd, zstd -{ZSTD_LEVEL}, ssh"

    def copy(self):
        shell, host = self.place.sshd()
        return timed(*self.place.source, "bash", "-o", "pipefail", "-c",
                     f"dd if={self.disk} bs=1M status=none | zstd -q -c -T0 -{ZSTD_LEVEL} | {shell} {host} 'zstd -q -d -f --sparse -o {self.copied}'")


class Rsync(Peer):
    name = "rsync -S, ssh"

    def copy(self):
        shell, host = self.place.sshd()
        how = ["--inplace", "--no-whole-file", "--ignore-times"] if self.copied.exists() else ["-S"]
        return timed(*self.place.source, "rsync", *how, "--copy-devices", "-e", shell, self.disk, f"{host}:{self.copied}")


class Restic(Peer):
    name = "restic, sftp"

    def prepare(self):
        shell, host = self.place.sshd()
        self.repository, self.environment = self.place.dir / "restic", {**os.environ, "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(self.place.dir / "restic-cache")}
        self.words = [*self.place.source, "restic", "-q", "-r", f"sftp:{host}:{self.repository}", "-o", f"sftp.command={shell} {host} -s sftp"]
        run(*self.words, "init", env=self.environment)

    def copy(self):
        return timed(*self.words, "backup", "--force", self.image, env=self.environment)

    def check(self):
        run("bash", "-o", "pipefail", "-c", f"restic -q -r {self.repository} dump latest {self.image} | cmp - {self.disk}", env=self.environment)

    def end(self):
        run("rm", "-rf", self.repository, self.place.dir / "restic-cache")


class Borg(Peer):
    name = f"borg -C zstd,{ZSTD_LEVEL}, ssh"

    def prepare(self):
        shell, host = self.place.sshd()
        self.repository, self.count = self.place.dir / "borg", 0
        self.environment = {**os.environ, "BORG_RSH": shell, "BORG_BASE_DIR": str(self.place.dir / "borg-base"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
                            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
        self.at = f"ssh://{host}{self.repository}"
        run(*self.place.source, "borg", "init", "-e", "none", self.at, env=self.environment)

    def copy(self):
        self.count += 1
        return timed(*self.place.source, "borg", "create", "--sparse", "--files-cache=disabled", "-C", f"zstd,{ZSTD_LEVEL}", f"{self.at}::{self.count}", self.image,
                     env=self.environment)

    def check(self):
        run("bash", "-o", "pipefail", "-c", f"borg extract --stdout {self.repository}::{self.count} | cmp - {self.disk}", env=self.environment)

    def end(self):
        run("rm", "-rf", self.repository, self.place.dir / "borg-base")


ALL = (Nbdcopy, Convert, Pipe, Rsync, Restic, Borg)


def warm(disk, image):
    """Both ways to the same bytes into the page cache, for all peers alike."""
    for path in (disk, image):
        subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"], check=True)
