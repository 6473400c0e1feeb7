"""The `world` command."""
import argparse
import json
import os
import pathlib
import secrets
import shutil
import signal
import sys
import time

from . import acklog, cmdb, guests, network, probe, qemu, rows
from .common import HERE, Failure, Lock, Processes, cache_folder, run, run_id, wait_for, write_json

CMDB_PORT = 8000
HELP = """commands:
  up      builds (once, in ~/.cache/slipway-demo) and resumes the guests, starts probe, log and CMDB; prints DIR/world.json
  down    ends and removes all of it, after a crash, too; logs and JSON files in DIR stay
  clean   down, and DIR removed
  status  what runs; exit status 0 when all does
  probe   what the probe has measured so far
  rows    holds db01's rows against what was acknowledged
  ssh     NAME COMMAND: runs a command in a guest as its user

DIR/world.json holds namespaces, addresses, users, secrets' files, QMP sockets, logs, and the CMDB's address and token."""


class World:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        self.run = run_id(self.folder)
        self.network = network.Network(self.run)
        self.processes = Processes(self.folder)
        self.sockets = pathlib.Path(f"/run/slipway-demo-{self.run}")  # a socket's path may not be long
        self.expected = ("acklog", "cmdb", "db01", "probe", "web01")

    def running(self):
        return [name for name in self.expected if self.processes.pid(name)]

    def up(self, say):
        if len(self.running()) == len(self.expected):
            return self.describe()
        self.down()
        begin = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        booted, pristine = guests.booted_state(say)
        self.keep_secrets(pristine)
        self.network.up([guest["tap"] for guest in guests.GUESTS.values()])
        self.sockets.mkdir(mode=0o700, exist_ok=True)
        self.start_services()
        resumed = time.monotonic()
        for name in guests.GUESTS:
            guests.start(name, self.folder, booted, self.sockets, self.network.dc, self.processes)
        for name in guests.GUESTS:
            guests.wait_resumed(name, self.folder, self.sockets, self.processes)
        for name in guests.GUESTS:
            shell = guests.Shell(self.network.dc, name, self.folder / "secrets")
            wait_for(f"the clock of {name} to follow the real one", lambda s=shell: abs(s.clock_skew_s()) < 0.5, 60, 0.2)
        say(f"the guests were resumed in {time.monotonic() - resumed:.1f} s")
        self.serve("probe", self.network.client, "serve-probe", self.folder / "probe.log")
        wait_for("both services to answer the probe", self.both_answer, 60)
        say(f"the source network is up after {time.monotonic() - begin:.1f} s")
        return self.describe()

    def keep_secrets(self, pristine):
        folder = self.folder / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in ("key", "key.pub", "db01.password"):
            shutil.copy(pristine / name, folder / name)
            (folder / name).chmod(0o600)

    def start_services(self):
        for name in ("probe.log", "acknowledged.log"):  # of a run before
            (self.folder / name).unlink(missing_ok=True)
        write_json(self.folder / "cmdb.json", cmdb.first_state({name: guest["address"] for name, guest in guests.GUESTS.items()}))
        token = self.folder / "secrets/cmdb.token"
        token.write_text(secrets.token_hex(20))
        token.chmod(0o600)
        self.serve("acklog", self.network.client, "serve-acks", self.folder / "acknowledged.log")
        self.serve("cmdb", self.network.dc, "serve-cmdb", self.folder / "cmdb.json", token)

    def serve(self, name, namespace, *command):
        self.processes.start(name, *network.within(namespace, sys.executable, HERE / "world", *command))

    def both_answer(self):
        measured = probe.summary(self.folder / "probe.log")
        return len(measured) == 2 and all(held["probes_total"] > held["probes_failed"] for held in measured.values())

    def describe(self):
        servers = {}
        for name, guest in guests.GUESTS.items():
            servers[name] = {"address": guest["address"], "parking_address": f"{guest['parking']}/24", "mac": guest["mac"], "user": guests.USER,
                             "disks": [{"name": disk, "size_bytes": size << 20} for disk, size in guest["disks"]],
                             "qmp": str(self.sockets / f"{name}.qmp"), "serial": str(self.folder / f"{name}.serial")}
        servers["web01"] |= {"key": str(self.folder / "secrets/key"), "sudo": "nopasswd", "services": "nginx,www-counter"}
        servers["db01"] |= {"password_file": str(self.folder / "secrets/db01.password"), "sudo": "password", "services": "ledger,postgresql"}
        value = {
            "run": self.run, "folder": str(self.folder), "accelerator": qemu.accelerator(cache_folder())[0], "servers": servers,
            "namespaces": {"dc": self.network.dc, "client": self.network.client, "factory": self.network.factory},
            "bridge": network.BRIDGE, "dc_gateway": network.DC_GATEWAY, "dc_outside": network.DC_OUTSIDE, "factory": network.FACTORY,
            "client": network.CLIENT, "target_networks": {"dc": {"namespace": self.network.dc, "bridge": network.BRIDGE}},
            "cmdb": {"url": f"http://{network.DC_OUTSIDE}:{CMDB_PORT}", "token_file": str(self.folder / "secrets/cmdb.token"),
                     "state": str(self.folder / "cmdb.json")},
            "probe_log": str(self.folder / "probe.log"), "ack_log": str(self.folder / "acknowledged.log"),
        }
        write_json(self.folder / "world.json", value)
        return value

    def down(self):
        for name in self.processes.names():
            self.processes.stop(name, 3)
        self.network.down()
        clean_first_boot()
        shutil.rmtree(self.sockets, ignore_errors=True)
        for name in guests.GUESTS:
            for disk, _ in guests.GUESTS[name]["disks"]:
                (self.folder / f"{disk}.qcow2").unlink(missing_ok=True)

    def rows(self):
        text = run(*network.within(self.network.client, sys.executable, HERE / "world", "check-rows", guests.GUESTS["db01"]["address"],
                                   self.folder / "acknowledged.log"))
        return json.loads(text)


def clean_first_boot():
    """Ends the guests of a first boot whose `up` was killed. Not while another copy of the demo is at it."""
    try:
        with Lock(cache_folder() / "booted.lock", waits=False):
            network.Network(run_id(cache_folder())).down()
    except BlockingIOError:
        pass


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


INNER = {  # what runs inside a namespace
    "serve-acks": lambda path: acklog.serve(network.CLIENT, path),
    "serve-cmdb": lambda path, token: cmdb.serve(network.DC_OUTSIDE, CMDB_PORT, path, pathlib.Path(token).read_text().strip()),
    "serve-probe": probe.serve,
    "check-rows": lambda address, log: print(json.dumps(rows.check(address, log))),
}


def command(arguments):
    world = World(arguments.dir)
    if arguments.command == "up":
        try:
            value = world.up(say)
        except BaseException:
            world.down()
            raise
        print(json.dumps(value, indent=1))
    elif arguments.command in ("down", "clean"):
        world.down()
        if arguments.command == "clean" and (world.folder / "world.json").exists():
            shutil.rmtree(world.folder)
    elif arguments.command == "status":
        running = world.running()
        print(json.dumps({name: name in running for name in world.expected}))
        return 0 if len(running) == len(world.expected) else 1
    elif arguments.command == "probe":
        print(json.dumps(probe.summary(world.folder / "probe.log"), indent=1))
    elif arguments.command == "rows":
        found = world.rows()
        print(json.dumps(found))
        return 1 if found["missing"] or found["torn"] else 0
    elif arguments.command == "ssh":
        if len(arguments.rest) < 2 or arguments.rest[0] not in guests.GUESTS:
            raise Failure("usage: world ssh NAME COMMAND")
        print(guests.Shell(world.network.dc, arguments.rest[0], world.folder / "secrets").command(" ".join(arguments.rest[1:]), 600), end="")
    return 0


def main(words):
    if words and words[0] in INNER:
        INNER[words[0]](*words[1:])
        return 0
    parser = argparse.ArgumentParser(prog="world", description="The demo's source network, alone.", epilog=HELP,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("up", "down", "clean", "status", "probe", "rows", "ssh"))
    parser.add_argument("--dir", default=str(HERE.parent / ".demo/world"), help="where its state is (default: .demo/world)")
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if os.geteuid() != 0:
            raise Failure("the demo makes network namespaces and disks: run it as root or with sudo")
        return command(arguments)
    except Failure as failure:
        print(f"world: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("world: interrupted; everything was removed", file=sys.stderr)
        return 130
