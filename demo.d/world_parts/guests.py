"""The two guests: their hardware, booting them once from their own boot loaders, keeping that booted state, resuming it."""
import concurrent.futures
import hashlib
import os
import pathlib
import shutil
import time

from . import images, qemu
from .common import HERE, Lock, Processes, cache_folder, run, run_id, wait_for
from .network import Network, within

USER = "migrate"
SIZES = {"memory_mib": 768, "cpu_count": 2}
GUESTS = {
    "web01": {"address": "192.0.2.11", "parking": "192.0.2.211", "mac": "52:54:00:00:02:0b", "tap": "tap-web01", "bus": "virtio",
              "disks": (("web01-root", images.WEB_ROOT_MIB), ("web01-data", images.WEB_DATA_MIB))},
    "db01": {"address": "192.0.2.12", "parking": "192.0.2.212", "mac": "52:54:00:00:02:0c", "tap": "tap-db01", "bus": "scsi",
             "disks": (("db01-disk", images.DB_MIB),)},
}


def hash_of(*things):
    whole = hashlib.sha256()
    for thing in things:
        whole.update(pathlib.Path(thing).read_bytes() if isinstance(thing, pathlib.Path) else repr(thing).encode())
    return whole.hexdigest()[:12]


def recipe():
    """Names the images: everything that they are made from, except the packages."""
    return hash_of(HERE / "world_parts/images.py", HERE / "world_parts/pgwire.py", *sorted((HERE / "guest").iterdir()))


def command_line(name, accelerator, disk, serial, qmp, extra=()):
    """disk: from a disk's name to its file. The order of devices fixes their addresses, which a saved state must find again."""
    guest = GUESTS[name]
    words = [qemu.PROGRAM, "-name", name, *accelerator, "-machine", "q35", "-smp", SIZES["cpu_count"], "-m", SIZES["memory_mib"],
             "-nodefaults", "-display", "none", "-device", "VGA", "-serial", f"file:{serial}", "-rtc", "base=utc",
             "-qmp", f"unix:{qmp},server=on,wait=off", "-device", "virtio-rng-pci",
             "-netdev", f"tap,id=lan,ifname={guest['tap']},script=no,downscript=no",
             "-device", f"virtio-net-pci,netdev=lan,mac={guest['mac']},romfile="]
    if guest["bus"] == "scsi":
        words += ["-device", "virtio-scsi-pci,id=scsi"]
    for index, (disk_name, _) in enumerate(guest["disks"]):
        device = "scsi-hd,bus=scsi.0" if guest["bus"] == "scsi" else "virtio-blk-pci"
        # The source data centre is make-believe: the machine that runs the demo may lose it with a power cut (cache=unsafe).
        words += ["-drive", f"file={disk(disk_name)},if=none,format=qcow2,cache=unsafe,discard=unmap,id={disk_name}",
                  "-device", f"{device},drive={disk_name},serial={disk_name},bootindex={index + 1}"]
    return [*words, *extra]


def overlay(base, base_format, path):
    path.unlink(missing_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", base_format, path)


class Shell:
    """SSH from within a namespace. web01 takes a key; db01 a password, for login and for sudo."""

    def __init__(self, namespace, name, secrets_folder, address=None):
        self.namespace, self.name, self.folder = namespace, name, pathlib.Path(secrets_folder)
        self.address = address or GUESTS[name]["address"]

    def command(self, text, timeout_s=30):
        options = ["-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10", "-F", "none"]
        env = dict(os.environ)
        if self.name == "db01":
            # The password goes through a helper's output: it is on no command line.
            env |= {"SSH_ASKPASS": str(HERE / "askpass"), "SSH_ASKPASS_REQUIRE": "force", "PASSWORD_FILE": str(self.folder / "db01.password")}
            options += ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"]
        else:
            options += ["-o", "BatchMode=yes", "-i", str(self.folder / "key")]
        return run(*within(self.namespace, "ssh", *options, f"{USER}@{self.address}", text), timeout_s=timeout_s, env=env,
                   input="" if self.name == "web01" else (self.folder / "db01.password").read_text())

    def root(self, text, timeout_s=60):
        """text must hold no single quote."""
        sudo = "sudo -S -p ''" if self.name == "db01" else "sudo"
        return self.command(f"{sudo} sh -c '{text}'", timeout_s)

    def clock_skew_s(self):
        """The guest's clock less ours, at least; the way there and back is taken off in the guest's favour."""
        before = time.time()
        there = float(self.command("date +%s.%N"))
        after = time.time()
        return min(0.0, there - before) + max(0.0, there - after)


def built_images(say):
    """The folder of the guests' pristine disks, built where the cache lacks them."""
    cache = cache_folder()
    folder = cache / f"images-{recipe()}"
    with Lock(cache / "images.lock"):
        if not folder.exists():
            say("building the guests' disks from Debian packages")
            part = cache / f"building-{recipe()}"
            shutil.rmtree(part, ignore_errors=True)  # of a build that was cut off
            part.mkdir()
            images.build(part)
            part.rename(folder)
    return folder


def booted_state(say):
    """The folder of the guests as they were after their first boot: NAME.state, DISK.qcow2 over the pristine disks."""
    cache = cache_folder()
    pristine = built_images(say)
    accelerator = qemu.accelerator(cache)[1]
    folder = cache / f"booted-{hash_of(HERE / 'world_parts/guests.py', recipe(), accelerator, qemu.version())}"
    with Lock(cache / "booted.lock"):
        if not folder.exists():
            part = cache / f"booting-{folder.name}"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            boot_and_save(pristine, part, accelerator, say)
            part.rename(folder)
    return folder, pristine


def boot_and_save(pristine, folder, accelerator, say):
    network, processes = Network(run_id(cache_folder())), Processes(folder)
    try:
        network.up([guest["tap"] for guest in GUESTS.values()])
        say("booting the guests from their own boot loaders")
        for name, guest in GUESTS.items():
            for disk, _ in guest["disks"]:
                overlay(pristine / f"{disk}.raw", "raw", folder / f"{disk}.qcow2")
            processes.start(name, *within(network.dc, *command_line(
                name, accelerator, lambda disk: folder / f"{disk}.qcow2", folder / f"{name}.serial", folder / f"{name}.qmp")))
        with concurrent.futures.ThreadPoolExecutor(len(GUESTS)) as pool:
            for name in pool.map(lambda name: settle(Shell(network.dc, name, pristine), folder), GUESTS):
                say(f"{name} is up")
        for name in GUESTS:
            with qemu.qmp_ready(folder / f"{name}.qmp", processes.pid(name), folder / f"logs/{name}.log") as qmp:
                qmp.save(folder / f"{name}.state")
        say("kept the booted guests for the next time")
    finally:
        for name in processes.names():
            processes.stop(name)
        network.down()


def settle(shell, folder):
    """Waits until the guest is done booting, lets it write the configuration of its boot loader as a Debian machine does, syncs. Its name."""
    wait_for(f"{shell.name}'s SSH (its console: {folder}/{shell.name}.serial)", lambda: shell.command("echo up"), 600, 1)
    wait_for(f"{shell.name} to finish booting", lambda: "running" in shell.command("systemctl is-system-running || true"), 300, 1)
    shell.root("update-grub && sync", 120)
    return shell.name


def start(name, folder, booted, sockets, namespace, processes):
    """Resumes a guest of a world from the booted state, on disks of its own."""
    for disk, _ in GUESTS[name]["disks"]:
        overlay(booted / f"{disk}.qcow2", "qcow2", folder / f"{disk}.qcow2")
    accelerator = qemu.accelerator(cache_folder())[1]
    processes.start(name, *within(namespace, *command_line(
        name, accelerator, lambda disk: folder / f"{disk}.qcow2", folder / f"{name}.serial", sockets / f"{name}.qmp",
        ("-incoming", f"exec:cat '{booted}/{name}.state'"))))


def wait_resumed(name, folder, sockets, processes):
    with qemu.qmp_ready(sockets / f"{name}.qmp", processes.pid(name), folder / f"logs/{name}.log") as qmp:
        def running():
            # The state was saved stopped, and says so when it arrives.
            if qmp.command("query-status")["status"] in ("paused", "prelaunch", "postmigrate"):
                qmp.command("cont")
            return qmp.command("query-status")["running"]
        wait_for(f"{name} to resume", running, 60, 0.05)
