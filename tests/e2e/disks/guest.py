"""A guest that is a kernel, an initramfs of a few programs, and disks: it boots in seconds, prints what its script prints, and is gone."""
import os
import pathlib
import re
import shutil
import subprocess

HERE = pathlib.Path(__file__).resolve().parent


class Tree:
    """The initramfs. root: where kernel, modules and (for another architecture) programs come from; / is this machine."""

    def __init__(self, folder, root="/", arch="x86_64"):
        self.folder, self.root, self.arch = pathlib.Path(folder) / "tree", pathlib.Path(root), arch
        for name in ("bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "mnt", "modules", "usr"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "usr/bin").symlink_to("/bin")
        (self.folder / "usr/sbin").symlink_to("/sbin")
        kernels = sorted((self.root / "boot").glob("vmlinuz-*"))
        if not kernels:
            raise SystemExit(f"there is no kernel in {self.root}/boot")
        self.kernel = kernels[-1]
        self.release = self.kernel.name.removeprefix("vmlinuz-")

    def add(self, source, name):
        """A program of ours (static), or a script."""
        shutil.copy(source, self.folder / "bin" / name)
        (self.folder / "bin" / name).chmod(0o755)

    def add_host(self, *names):
        """Programs of this machine (or by their paths), with the libraries that they load."""
        for name in names:
            path = shutil.which(name)
            if not path:
                raise SystemExit(f"{name} is needed on this machine")
            self.add(path, pathlib.Path(path).name)
            seen = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
            for library in re.findall(r"(/\S+) \(0x", seen):
                target = self.folder / library.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    shutil.copy(library, target)

    def add_modules(self, *names):
        order = []
        for name in names:
            shown = subprocess.run(["modprobe", "-d", self.root, "-S", self.release, "--show-depends", name], capture_output=True, text=True, check=False)
            if shown.returncode:
                raise SystemExit(f"the kernel {self.release} has no {name}: {shown.stderr}")
            for path in re.findall(r"^insmod (\S+)", shown.stdout, re.M):
                if path not in order:
                    order.append(path)
                    shutil.copy(path, self.folder / "modules")
        (self.folder / "modules/order").write_text("".join(pathlib.Path(path).name + "\n" for path in order))

    def pack(self):
        image = self.folder.parent / "initramfs"
        with open(image, "wb") as out:
            names = subprocess.run(["find", ".", "-print0"], cwd=self.folder, capture_output=True, check=True).stdout
            subprocess.run(["cpio", "--null", "--quiet", "-o", "-H", "newc"], input=names, cwd=self.folder, stdout=out, check=True)
        return image


def boot(tree, arguments, timeout_s, program=None, words=""):
    """Boots it and waits for its end (without cmpxchg16b: QEMU 7.2's emulation of it makes kernels from 6.7 on panic). words: more for the kernel's command line. Returns what came over the serial console."""
    machine = {"x86_64": ["qemu-system-x86_64", "-machine", "q35", "-cpu", "max,-cx16"],
               "aarch64": ["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"]}[tree.arch]
    console = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}[tree.arch]
    log = tree.folder.parent / "serial.log"
    command = [program or machine[0], *machine[1:], "-accel", "tcg,thread=multi,tb-size=256", "-smp", "1", "-m", "1024", "-nodefaults", "-display", "none",
               "-serial", f"file:{log}", "-no-reboot", "-kernel", tree.kernel, "-initrd", tree.pack(),
               "-append", f"console={console} loglevel=4 panic=-1 cryptomgr.notests no_timer_check {words}", *arguments]
    try:
        done = subprocess.run([os.fspath(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False)
        said = done.stderr
    except subprocess.TimeoutExpired:
        said = f"the guest was still there after {timeout_s} s"
    return log.read_text(errors="replace").replace("\r", "") + said if log.exists() else said
