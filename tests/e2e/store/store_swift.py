#!/usr/bin/python3
"""OpenStack Swift (Debian's python3-swift) with its S3 interface, on loopback, in a folder: one device, one copy. As a program: one of its four servers.
Usage: store_swift.py FOLDER account|container|object|proxy"""
import pathlib
import signal
import subprocess
import sys

import ports

PACKAGES = ["python3-swift"]
KINDS = ("account", "container", "object", "proxy")
STORAGE = """[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
bind_ip = 127.0.0.1
bind_port = {port}
mount_check = false
workers = 0
user = root
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
# The cache has no server behind it: it is asked for by tempauth only, and what it does not know is looked up.
PROXY = """[DEFAULT]
swift_dir = {folder}
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = root
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:9
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_bucket_listing = 3
[filter:tempauth]
use = egg:swift#tempauth
user_slipway_vaults = {secret} .admin
"""


def is_there():
    try:
        import swift.common.wsgi  # pylint: disable=unused-import,import-outside-toplevel
        return True
    except ImportError:
        return False


class Swift:
    """access and secret are those of its one user; start() and kill() as often as one likes: what it took is in its folder."""
    access, secret, name = "slipway:vaults", "a/se+cret=", "OpenStack Swift"

    def __init__(self, folder):
        from swift.common.ring import RingBuilder  # pylint: disable=import-outside-toplevel
        self.folder = pathlib.Path(folder)
        (self.folder / "devices/d1").mkdir(parents=True)
        (self.folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = of this run\n[storage-policy:0]\nname = one\ndefault = yes\n")
        from ends import free_port  # pylint: disable=import-outside-toplevel  # the servers' own processes have no need of it
        self.ports = {kind: free_port() for kind in KINDS}
        self.port, self.processes = self.ports["proxy"], []
        for kind in KINDS:
            text = (PROXY if kind == "proxy" else STORAGE).format(folder=self.folder, kind=kind, port=self.ports[kind], secret=self.secret)
            (self.folder / f"{kind}.conf").write_text(text)
            if kind != "proxy":
                ring = RingBuilder(3, 1, 1)
                ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": self.ports[kind], "device": "d1", "weight": 1.0})
                ring.rebalance()
                ring.get_ring().save(str(self.folder / f"{kind}.ring.gz"))

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self.processes = [subprocess.Popen([sys.executable, __file__, self.folder, kind], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True) for kind in KINDS]
        for port in self.ports.values():
            ports.wait_for(port, self.processes, self.folder / "log")

    def kill(self):
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.processes = []

    def tell(self):
        """What went wrong, to somebody who reads a test's output."""
        sys.stdout.write("".join(f"# {line}\n" for line in (self.folder / "log").read_text(errors="replace").splitlines()[-60:]))


def make(folder):
    return Swift(folder)


def serve(folder, kind):
    ports.end_with_parent()
    from swift.common import utils, wsgi  # pylint: disable=import-outside-toplevel
    utils.set_swift_dir(folder)  # it looks into /etc/swift otherwise
    return wsgi.run_wsgi(f"{folder}/{kind}.conf", f"{kind}-server")


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2]))
