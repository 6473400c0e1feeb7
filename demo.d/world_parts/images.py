"""Builds the disks of the two guests from Debian packages, without booting anything: mmdebstrap makes the tree, mkfs fills the
filesystems at their offsets in a sparse file, LVM's metadata is written through a loop device (no device-mapper needed), GRUB's
core image is put into the BIOS boot partition as grub-install would."""
import glob
import os
import pathlib
import re
import secrets
import shutil
import struct
import subprocess
import threading

from .common import HERE, Failure, run

SECTOR = 512
MIB = 1 << 20
BOOT_FIRST, BOOT_LAST = 2048, 4095  # sectors of the BIOS boot partition
SYSTEM_OFFSET = 2 * MIB             # where the second partition begins
BACKUP_GPT = 34 * SECTOR
WEB_ROOT_MIB, WEB_DATA_MIB, DB_MIB = 896, 320, 1344  # small: each byte is hashed inside an emulated machine, for the proof
DB_VOLUMES = (("root", 768), ("swap", 96), ("data", 448))
WEB_ROOT_UUID = "7d1c0f7e-3d2b-4a58-9d0d-51fb7e0a1e01"
WEB_DATA_UUID = "7d1c0f7e-3d2b-4a58-9d0d-51fb7e0a1e02"
CONSOLE = "console=tty0 console=ttyS0,115200"

COMMON_PACKAGES = ("linux-image-cloud-amd64,systemd-sysv,udev,dbus,openssh-server,iproute2,zstd,sudo,python3-minimal,grub-pc,"
                   "login,passwd,procps,kmod")
PACKAGES = {"web01": "nginx-light,xfsprogs", "db01": "postgresql,lvm2"}
INITRAMFS_MODULES = {"web01": "virtio_pci virtio_blk ext4", "db01": "virtio_pci virtio_blk virtio_scsi sd_mod ext4 dm_mod"}
# What these guests have no use for and would be read, hashed, packed and booted for nothing: drivers of hardware that they don't have,
# PostgreSQL's compiler for queries (it works without), documentation.
EXCLUDED = (*(f"/usr/share/{part}/*" for part in ("man", "doc", "locale", "info", "fonts", "i18n")), "/lib/udev/hwdb.d/*", "/usr/lib/udev/hwdb.d/*",
            "/usr/lib/*/libLLVM*", "/usr/lib/*/libz3*", "/usr/lib/postgresql/*/lib/bitcode/*", "/usr/lib/postgresql/*/lib/llvmjit*",
            *(f"/lib/modules/*/kernel/{part}/*" for part in (
                "arch/x86/kvm", "drivers/comedi", "drivers/cpufreq", "drivers/hid", "drivers/infiniband", "drivers/net/ethernet", "drivers/target",
                "fs/btrfs", "fs/ceph", "fs/nfs", "fs/nfsd", "fs/smb", "net/sunrpc", "sound")))
ADDRESS = {"web01": "192.0.2.11", "db01": "192.0.2.12"}
# Work that would start by itself at odd times, and once more after each resume's jump of the clock; and steps of a boot that nothing here needs.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
          "e2scrub_reap.service", "systemd-timesyncd.service", "systemd-binfmt.service", "systemd-pstore.service",
          "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "dev-hugepages.mount", "dev-mqueue.mount",
          "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount",
          *(f"modprobe@{module}.service" for module in ("configfs", "drm", "efi_pstore", "fuse", "loop")))


def apt_sources():
    """This machine's own sources of Debian 12, in sources.list form: a guest's packages come from where the machine's come from."""
    wanted = {"bookworm", "bookworm-updates", "bookworm-security"}
    lines = []
    for name in sorted(glob.glob("/etc/apt/sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", pathlib.Path(name).read_text()):
            lines += lines_of_stanza(stanza, wanted)
    for name in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*.list"))]:
        if os.path.exists(name):
            lines += [line for line in pathlib.Path(name).read_text().splitlines()
                      if (parts := re.match(r"deb\s+(?:\[[^]]*\]\s+)?\S+\s+(\S+)\s+(.*)", line))
                      and parts.group(1) in wanted and "main" in parts.group(2).split()]
    if not lines:
        raise Failure("no package source of Debian 12 (bookworm main) is set up on this machine; the demo's guests are built from it. "
                      "Add one to /etc/apt/sources.list.d")
    return "\n".join(lines) + "\n"


def lines_of_stanza(stanza, wanted):
    """A deb822 stanza as one-line sources, for the suites that are wanted."""
    fields = {}
    for line in stanza.splitlines():
        if not line.startswith("#") and (parts := re.match(r"([A-Za-z-]+):\s*(.*)", line)):
            fields[parts.group(1).lower()] = parts.group(2).split()
    if "deb" not in fields.get("types", []) or "main" not in fields.get("components", []) or fields.get("enabled") == ["no"]:
        return []
    signed = fields.get("signed-by", [])
    option = f"[signed-by={signed[0]}] " if signed and signed[0].startswith("/") else ""
    return [f"deb {option}{uri} {suite} main" for uri in fields.get("uris", []) for suite in fields.get("suites", []) if suite in wanted]


def make_tree(name, folder, log):
    """The guest's files in folder/NAME.root."""
    tree = folder / f"{name}.root"
    settings = run("apt-config", "dump").splitlines()
    (folder / "apt.conf").write_text("\n".join(line for line in settings if re.match(r"Acquire::(Check|http|https|Retries)", line)) + "\n")
    (folder / "sources.list").write_text(apt_sources())
    hook = folder / "initramfs-hook"
    hook.write_text("#!/bin/sh\nset -e\nmkdir -p \"$1/etc/initramfs-tools/conf.d\" \"$1/usr/share/initramfs-tools/modules.d\"\n"
                    "printf 'MODULES=list\\nCOMPRESS=zstd\\nCOMPRESSLEVEL=1\\n' > \"$1/etc/initramfs-tools/conf.d/small\"\n"
                    f"printf '%s\\n' {INITRAMFS_MODULES[name]} > \"$1/usr/share/initramfs-tools/modules.d/guest\"\n")
    hook.chmod(0o755)
    excluded = [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED]
    excluded.append("--dpkgopt=force-unsafe-io")  # a tree that a crash cut short is made again anyway
    command = ["mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase", '--aptopt=Apt::Install-Recommends "false"',
               f"--aptopt={folder}/apt.conf", f"--include={COMMON_PACKAGES},{PACKAGES[name]}", *excluded,
               f"--essential-hook={hook} \"$1\"", "bookworm", str(tree), f"{folder}/sources.list"]
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False,
                              env={**os.environ, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode:
        tail = "\n".join(pathlib.Path(log).read_text().strip().splitlines()[-6:])
        raise Failure(f"mmdebstrap could not make {name}: {tail}")
    return tree


def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def chroot(tree, *command, input=None):
    return run("chroot", tree, *command, input=input, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"})


def customize(name, tree, public_key, password):
    """What both guests have: name, address, the user who may administer, the programs of ours."""
    write(tree / "etc/hostname", name + "\n")
    write(tree / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    write(tree / "etc/resolv.conf", "")
    write(tree / "etc/systemd/journald.conf.d/demo.conf", "[Journal]\nStorage=volatile\n")
    write(tree / "etc/systemd/network/10-lan.network",
          f"[Match]\nName=en*\n\n[Network]\nAddress={ADDRESS[name]}/24\nGateway=192.0.2.1\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n")
    write(tree / "etc/default/grub", f'GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="{CONSOLE}"\n'
          "GRUB_TERMINAL=console\nGRUB_DISABLE_OS_PROBER=true\n")
    write(tree / "etc/ssh/sshd_config.d/demo.conf", "UseDNS no\nPermitRootLogin no\n"
          f"PasswordAuthentication {'yes' if name == 'db01' else 'no'}\n")
    chroot(tree, "useradd", "-m", "-s", "/bin/bash", "-G", "sudo", "migrate")
    if name == "web01":
        write(tree / "home/migrate/.ssh/authorized_keys", public_key)
        write(tree / "etc/sudoers.d/migrate", "migrate ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        chroot(tree, "chown", "-R", "migrate:migrate", "/home/migrate/.ssh")
    else:
        # Few rounds: with Debian's default each login and each sudo would take a second of an emulated processor.
        chroot(tree, "chpasswd", "--crypt-method", "SHA512", "--sha-rounds", "1000", input=f"migrate:{password}\n")
    for program in ("clock-follow.py", "counter.py" if name == "web01" else "ledger.py"):
        write(tree / "usr/local/lib/demo" / program, (HERE / "guest" / program).read_text())
    for unit in ("clock-follow.service", "www-counter.service" if name == "web01" else "ledger.service"):
        write(tree / "etc/systemd/system" / unit, (HERE / "guest" / unit).read_text())
        chroot(tree, "systemctl", "-q", "enable", unit)
    chroot(tree, "systemctl", "-q", "enable", "systemd-networkd")
    for unit in MASKED:
        (tree / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (tree / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink(missing_ok=True)
    shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)


def customize_web01(tree):
    write(tree / "etc/fstab", f"UUID={WEB_ROOT_UUID} / ext4 defaults 0 1\nUUID={WEB_DATA_UUID} /srv/www xfs defaults 0 0\n")
    write(tree / "etc/nginx/sites-available/default", (HERE / "guest/web01.nginx").read_text())
    (tree / "srv/www").mkdir(exist_ok=True)


def customize_db01(tree):
    write(tree / "etc/fstab", "/dev/mapper/vg0-root / ext4 defaults 0 1\n/dev/mapper/vg0-swap none swap sw 0 0\n"
          "/dev/mapper/vg0-data /var/lib/postgresql ext4 defaults 0 2\n")
    write(tree / "usr/local/lib/demo/pgwire.py", (HERE / "world_parts/pgwire.py").read_text())
    chroot(tree, "useradd", "-r", "-M", "-s", "/usr/sbin/nologin", "ledger")
    write(tree / "etc/postgresql/15/main/conf.d/demo.conf",
          "listen_addresses = '*'\nshared_buffers = 48MB\nmax_connections = 30\nmax_wal_size = 128MB\nmin_wal_size = 48MB\n")
    access = tree / "etc/postgresql/15/main/pg_hba.conf"
    access.write_text(access.read_text() + "host ledger probe 192.0.2.0/24 trust\n")
    server = ("/usr/lib/postgresql/15/bin/postgres", "--single", "-F", "-D", "/var/lib/postgresql/15/main",
              "-c", "config_file=/etc/postgresql/15/main/postgresql.conf")
    (tree / "dev/shm").mkdir(exist_ok=True)
    (tree / "dev/shm").chmod(0o1777)  # the server keeps shared memory there
    for script, database in (("db01.sql", "postgres"), ("ledger.sql", "ledger")):
        said = subprocess.run(["chroot", str(tree), "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *server, database],
                              input=(HERE / "guest" / script).read_text(), capture_output=True, text=True, check=False)
        if said.returncode or "ERROR" in said.stdout + said.stderr:
            raise Failure(f"PostgreSQL could not be set up in db01: {said.stdout}{said.stderr}")


def partition(disk, size_mib, system_type):
    disk.unlink(missing_ok=True)
    with open(disk, "wb") as file:
        file.truncate(size_mib * MIB)
    run("sgdisk", f"-n1:{BOOT_FIRST}:{BOOT_LAST}", "-t1:ef02", "-n2:4096:0", f"-t2:{system_type}", disk)


def fill_ext4(disk, tree, offset, size, uuid=None):
    """An ext4 with the tree's content at an offset of the disk. GRUB 2.06 must be able to read it."""
    assert size % 4096 == 0 and offset % 4096 == 0
    run("mkfs.ext4", "-q", "-F", *(("-U", uuid) if uuid else ()), "-E", f"offset={offset},lazy_itable_init=0,lazy_journal_init=0",
        "-O", "^metadata_csum_seed,^orphan_file", "-d", tree, disk, f"{size // 1024}k", timeout_s=300)


def install_grub(tree, disk, early, modules, root, folder, name):
    """Modules and a first grub.cfg into the tree, to be called before the tree becomes a filesystem; boot code onto the disk after.
    Returns the function that writes the boot code."""
    platform = tree / "usr/lib/grub/i386-pc"
    grub = tree / "boot/grub"
    shutil.copytree(platform, grub / "i386-pc", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.image", "config.h", "*.module"))
    kernel = sorted(path.name for path in (tree / "boot").glob("vmlinuz-*"))[-1]
    initrd = kernel.replace("vmlinuz", "initrd.img")
    write(grub / "grub.cfg", f"linux /boot/{kernel} root={root} ro {CONSOLE}\ninitrd /boot/{initrd}\nboot\n")
    write(tree / "tmp/early.cfg", early)
    chroot(tree, "grub-mkimage", "-O", "i386-pc", "-o", "/tmp/core.img", "-c", "/tmp/early.cfg", "-p", "/boot/grub", *modules)
    boot, core = bytearray((platform / "boot.img").read_bytes()), bytearray((tree / "tmp/core.img").read_bytes())
    for left in ("early.cfg", "core.img"):
        (tree / "tmp" / left).unlink()
    if len(core) > (BOOT_LAST - BOOT_FIRST + 1) * SECTOR:
        raise Failure(f"GRUB's core image for {name} does not fit its partition")

    def write_boot_code():
        # As grub-bios-setup does: boot.img names the core image's first sector (at 0x5c), and is to use the disk that the BIOS booted
        # (0xff at 0x64); the core image's own first sector names the sectors that follow it (at 0x1f4), loaded at 0x820.
        struct.pack_into("<QB", boot, 0x5c, BOOT_FIRST, 0xff)
        sectors = -(-len(core) // SECTOR)
        struct.pack_into("<QHH", core, 0x1f4, BOOT_FIRST + 1, sectors - 1, 0x820)
        with open(disk, "r+b") as file:
            table = file.read(SECTOR)
            file.seek(0)
            file.write(bytes(boot[:440]) + table[440:SECTOR])  # the partition table of the protective MBR stays
            file.seek(BOOT_FIRST * SECTOR)
            file.write(core)
    return write_boot_code


def disks_web01(tree, folder):
    root, data = folder / "web01-root.raw", folder / "web01-data.raw"
    partition(root, WEB_ROOT_MIB, "8300")
    early = f"search.fs_uuid {WEB_ROOT_UUID} root\nset prefix=($root)/boot/grub\n"
    write_boot_code = install_grub(tree, root, early, ("biosdisk", "part_gpt", "ext2", "search_fs_uuid", "normal"),
                                   f"UUID={WEB_ROOT_UUID}", folder, "web01")
    size = (WEB_ROOT_MIB * MIB - BACKUP_GPT - SYSTEM_OFFSET) // 4096 * 4096
    fill_ext4(root, tree, SYSTEM_OFFSET, size, WEB_ROOT_UUID)
    write_boot_code()
    with open(data, "wb") as file:
        file.truncate(WEB_DATA_MIB * MIB)
    run("mkfs.xfs", "-q", "-f", "-m", f"uuid={WEB_DATA_UUID}", data)


def logical_volumes(disk):
    """Makes the volume group on the second partition; gives {volume: (offset, size)} in bytes of the disk."""
    length = DB_MIB * MIB - SYSTEM_OFFSET - BACKUP_GPT
    loop = run("losetup", "-f", "--show", "-o", SYSTEM_OFFSET, "--sizelimit", length // SECTOR * SECTOR, disk).strip()
    try:
        # Metadata only: no volume is activated, so no device-mapper is needed, and the machine's own volumes are not looked at.
        options = ("--driverloaded", "n", "--devices", loop)
        run("pvcreate", "-q", *options, loop)
        run("vgcreate", "-q", *options, "vg0", loop)
        for volume, size_mib in DB_VOLUMES:
            run("lvcreate", "-q", "-y", *options, "-an", "-Zn", "-Wn", "-n", volume, "-L", f"{size_mib}M", "vg0")
        begin = int(run("pvs", *options, "--noheadings", "--units", "b", "--nosuffix", "-o", "pe_start"))
        places = {}
        for line in run("lvs", *options, "--noheadings", "--units", "b", "--nosuffix", "-o", "lv_name,vg_extent_size,seg_pe_ranges",
                        "vg0").splitlines():
            volume, extent, ranges = line.split()  # one contiguous range each, in a fresh group
            first, last = map(int, ranges.rpartition(":")[2].split("-"))
            places[volume] = (SYSTEM_OFFSET + begin + first * int(extent), (last - first + 1) * int(extent))
        return places
    finally:
        run("losetup", "-d", loop)


def disks_db01(tree, folder):
    disk = folder / "db01-disk.raw"
    partition(disk, DB_MIB, "8e00")
    places = logical_volumes(disk)
    write_boot_code = install_grub(tree, disk, "set root=(lvm/vg0-root)\nset prefix=($root)/boot/grub\n",
                                   ("biosdisk", "part_gpt", "lvm", "ext2", "normal"), "/dev/mapper/vg0-root", folder, "db01")
    data = folder / "db01.data"
    os.rename(tree / "var/lib/postgresql", data)
    (tree / "var/lib/postgresql").mkdir()
    fill_ext4(disk, tree, *places["root"])
    fill_ext4(disk, data, *places["data"])
    swap = folder / "db01.swap"
    with open(swap, "wb") as file:
        file.truncate(places["swap"][1])
    swap.chmod(0o600)
    run("mkswap", swap)
    run("dd", f"if={swap}", f"of={disk}", "bs=64k", f"seek={places['swap'][0]}", "oflag=seek_bytes", "conv=notrunc,sparse")
    swap.unlink()
    write_boot_code()


def build(folder):
    """Everything into folder: web01-root.raw, web01-data.raw, db01-disk.raw, key, key.pub, db01.password."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "slipway-demo", "-f", folder / "key")
    public_key = (folder / "key.pub").read_text()
    password = secrets.token_urlsafe(12)
    write(folder / "db01.password", password + "\n", 0o600)
    failures = []

    def one(name, own, disks):
        try:
            part = folder / f"{name}.build"
            part.mkdir()
            tree = make_tree(name, part, folder / f"{name}.log")
            customize(name, tree, public_key, password)
            own(tree)
            disks(tree, folder)
            shutil.rmtree(part)
        except Exception as failure:  # pylint: disable=broad-except  # handed to the thread that waits
            failures.append(failure)

    threads = [threading.Thread(target=one, args=arguments) for arguments in
               (("web01", customize_web01, disks_web01), ("db01", customize_db01, disks_db01))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    for left in folder.glob("db01.data"):
        shutil.rmtree(left)
