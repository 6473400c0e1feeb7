#!/usr/bin/python3
"""test_source SLIPWAY: the steps at the source against a make-believe source machine (source_world.sh). Prints TAP."""
import http.server
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

program = os.path.abspath(sys.argv[1])
here = pathlib.Path(__file__).resolve().parent
if os.geteuid() != 0:
    print("1..0 # SKIP a source machine in namespaces needs root")
    sys.exit(0)
if len(sys.argv) < 3:
    outer = tempfile.mkdtemp(prefix="slipway-source-")
    try:
        sys.exit(subprocess.run([here / "source_world.sh", outer, sys.executable, __file__, program, outer]).returncode)
    finally:
        shutil.rmtree(outer, ignore_errors=True)

folder = pathlib.Path(sys.argv[2])
(folder / "state").mkdir()
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import tap  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

context, attributes, settings = {}, {"services": "web,worker", "parking_address": "192.0.2.211/24"}, {}
credential = {"kind": "ssh_key", "user": "root", "secret": (folder / "user_key").read_text(), "sudo": "none"}


class Outcome:
    def __init__(self, status, lines, error):
        self.status, self.error = status, error
        self.evidence = [line["evidence"] for line in lines if "evidence" in line]
        self.result = next((line["result"] for line in lines if "result" in line), {})
        self.failed = [e["name"] for e in self.evidence if not e["passed"]]

    def said(self, name):
        return next((e["evidence"] for e in self.evidence if e["name"] == name), "")

    def __repr__(self):
        return f"exit {self.status}, failed {self.failed}, error {self.error}"


def step(name, **more):
    document = {"attempt": "a1", "fence": 1, "task": {"id": "t", "name": name, "step": name, "params": {"wait_ms": 4000}}, "run": {"id": "r1"},
                "wave": {"name": "w", "settings": {"host_keys": "accept-first"}},
                "server": {"name": "web01", "address": "192.0.2.11", "port": 22, "attributes": attributes}, "context": context,
                "facts": context.get("prerequisites", {}).get("facts"), "credential": credential, "enrolment": {"token": "one-time-secret"},
                "settings": {"replicator": {"address": "192.0.2.1", "port": 7443}, "agent_path": str(folder / "agent"), **settings},
                "runner": {"factory_url": factory_url, "ca_file": f"{folder}/ca.pem", "certificate_file": f"{folder}/client.pem",
                           "key_file": f"{folder}/client.key"}} | more
    (folder / "document.json").write_text(json.dumps(document))
    # What a neighbour remembers of an address that went, or came with other hardware, would only cost the time of a connection.
    subprocess.run(["ip", "neigh", "flush", "dev", "run0"], check=True, capture_output=True)
    done = subprocess.run([program, "runner", "--state", folder / "state", "--try", folder / "document.json"], capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    error = json.loads(done.stderr.splitlines()[-1])["message"] if done.stderr.strip() else ""
    return Outcome(done.returncode, lines, error)


def unit(name, state=None, **marks):
    (folder / "units").mkdir(exist_ok=True)
    if state:
        (folder / "units" / name).write_text(state + "\n")
    for mark, there in marks.items():
        path = folder / "units" / f"{name}.{mark}"
        path.write_text("") if there else path.unlink(missing_ok=True)
    path = folder / "units" / name
    return path.read_text().strip() if path.exists() else None


def asked():
    text = (folder / "asked").read_text()
    (folder / "asked").write_text("")
    return text


def addresses():
    out = subprocess.run(["ip", "-n", "source", "-o", "addr", "show", "dev", "eth0", "scope", "global"], capture_output=True, text=True).stdout
    return [line.split()[3] for line in out.splitlines()]


def default_route():
    return subprocess.run(["ip", "-n", "source", "route", "show", "default"], capture_output=True, text=True).stdout.strip()


# ---- a factory that signs the agent's certificate ----

def openssl(*words, **more):
    return subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, text=True, **more).stdout


def start_factory():
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    leaf = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test-ca")
    openssl(*new, *leaf, "-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=factory", "-addext", "subjectAltName=IP:127.0.0.1")
    openssl(*new, *leaf, "-keyout", "client.key", "-out", "client.pem", "-subj", "/CN=runner:dc1")
    context_ = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context_.load_cert_chain(folder / "server.pem", folder / "server.key")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            enrolled.append(body)
            openssl("x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "1", "-out", "new.pem", "-CAcreateserial", input=body["csr_pem"])
            answer = json.dumps({"certificate_pem": (folder / "new.pem").read_text(), "ca_pem": (folder / "ca.pem").read_text()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context_.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"https://127.0.0.1:{server.server_address[1]}"


def start_replicator():
    listener = socket.create_server(("192.0.2.1", 7443))

    def accept():
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return
    threading.Thread(target=accept, daemon=True).start()
    return listener


def start_proxy(status):
    """An HTTP proxy that answers every CONNECT to the replicator so, and any other with 400."""
    listener = socket.create_server(("192.0.2.1", 3128))

    def accept():
        while True:
            try:
                peer = listener.accept()[0]
            except OSError:
                return
            asked_for = peer.recv(4096).startswith(b"CONNECT 192.0.2.1:7443 HTTP/1.1\r\n")
            peer.sendall(f"HTTP/1.1 {status if asked_for else '400 What'}\r\n\r\n".encode())
            peer.close()
    threading.Thread(target=accept, daemon=True).start()
    return listener


# ---- the tests ----

def source_probe():
    settings["sources"] = {"dc1": {"probe": "192.0.2.11:22"}}
    outcome = step("source_probe")
    ok(outcome.status == 0 and "answers from here" in outcome.said("source network dc1") and "answers" in outcome.said("replicator"), f"both are reached: {outcome}")
    settings["sources"] = {"dc1": {"probe": "192.0.2.11:23"}}
    outcome = step("source_probe")
    ok(outcome.status == 10 and outcome.failed == ["source network dc1"], f"a network that does not answer is named: {outcome.said('source network dc1')}")
    del settings["sources"]


def logins():
    """A password, and what a login without root rights is told."""
    global credential
    kept = credential
    credential = {"kind": "ssh_password", "user": "mover", "secret": "wrong horse", "sudo": "none"}
    outcome = step("prerequisites")
    ok(outcome.status == 3 and outcome.failed == ["login"] and "wrong horse" not in outcome.error, f"a wrong password is named, not told: {outcome.error[:120]}")
    credential["secret"] = "horse battery"
    outcome = step("prerequisites")
    ok(outcome.status == 4 and outcome.failed == ["root rights"], f"a login without root rights: {outcome.said('root rights')}")
    credential["sudo"] = "nopasswd"
    outcome = step("prerequisites")
    ok(outcome.status == 4 and outcome.failed == ["root rights"], f"sudo that refuses: {outcome.said('root rights')[:120]}")
    pathlib.Path("/etc/sudoers").write_text("root ALL=(ALL) ALL\nmover ALL=(ALL) NOPASSWD: ALL\n")
    outcome = step("prerequisites")
    ok(outcome.status == 0 and not outcome.failed, f"sudo that does not: {outcome}")
    credential = kept

def prerequisites():
    global credential
    unit("web", "active"), unit("worker", "active")
    outcome = step("prerequisites", wave={"name": "w", "settings": {}})
    ok(outcome.status == 4 and "not known yet" in outcome.error, f"an unknown host key is not taken without leave: {outcome.error[:90]}")
    good = credential
    credential = good | {"secret": (folder / "stranger_key").read_text()}
    outcome = step("prerequisites")
    ok(outcome.status == 3 and outcome.failed == ["login"], f"a wrong key is named: {outcome.error[:90]}")
    credential = good | {"host_key": "SHA256:AAAA"}
    outcome = step("prerequisites")
    ok(outcome.status == 4 and "changed host key" in outcome.error, "a changed host key is refused, though first keys are taken")
    credential = good
    for words in ("link add docker0 type bridge", "addr add 172.17.0.1/16 dev docker0", "link set docker0 up"):
        subprocess.run(["ip", "-n", "source", *words.split()], check=True)
    outcome = step("prerequisites")
    ok(outcome.status == 0 and not outcome.failed, f"all holds: {outcome}")
    ok([n["name"] for n in outcome.result["facts"]["nics"]] == ["eth0"], "a bridge of its containers is no interface that the copy must be given")
    subprocess.run(["ip", "-n", "source", "link", "del", "docker0"], check=True)
    facts = outcome.result.get("facts", {})
    ok({"address": "0.0.0.0", "port": 80} in facts["listening"] and {"address": "0.0.0.0", "port": 22} in facts["listening"], "its ports")
    nic = next((n for n in facts["nics"] if n["name"] == "eth0"), {})
    ok(nic.get("addresses") == ["192.0.2.11/24"] and nic.get("gateway") == "192.0.2.1" and len(nic.get("mac", "")) == 17, f"its interface {nic}")
    ok(facts["cpu_count"] == os.cpu_count() and facts["memory_bytes"] > 1 << 28 and facts["arch"] == os.uname().machine, "CPUs, memory")
    ok(any(d["in_use"] and d["size_bytes"] > 1 << 20 for d in facts["disks"]) and all(d["id"] for d in facts["disks"]), "disks with ids")
    ok(any(m["target"] == "/" for m in facts["mounts"]) and facts["boot"] in ("bios", "uefi") and facts["kernel"] == os.uname().release, "the rest")
    context["prerequisites"] = outcome.result
    ok(asked().count("systemctl stop") == 0, "nothing was changed")


def prerequisites_through_a_proxy():
    attributes["proxy"] = "http://192.0.2.1:3128"
    for status, passes in (("200 Connection established", True), ("403 Forbidden", False)):
        proxy = start_proxy(status)
        outcome = step("prerequisites")
        proxy.shutdown(socket.SHUT_RDWR)
        proxy.close()
        ok(("way to the replicator" not in outcome.failed) == passes and "http://192.0.2.1:3128" in outcome.said("way to the replicator"),
           f"a proxy that says {status}: {outcome.said('way to the replicator')}")
    del attributes["proxy"]


def prerequisites_that_do_not_hold():
    replicator.shutdown(socket.SHUT_RDWR)
    replicator.close()
    unit("worker", "inactive")
    subprocess.run(["ip", "addr", "add", "192.0.2.211/24", "dev", "run0"], check=True)
    outcome = step("prerequisites")
    ok(outcome.status == 7 and {"services", "parking address", "way to the replicator"} <= set(outcome.failed), f"each is named: {outcome.failed}")
    ok("worker: loaded, inactive" in outcome.said("services"), outcome.said("services"))
    ok("taken" in outcome.said("parking address"), outcome.said("parking address"))
    subprocess.run(["ip", "addr", "del", "192.0.2.211/24", "dev", "run0"], check=True)
    unit("worker", "active")
    attributes["parking_address"] = "192.0.2.300/24"
    outcome = step("prerequisites")
    ok("parking address" in outcome.failed, f"an address that is none: {outcome.said('parking address')}")
    attributes["parking_address"] = "192.0.2.211/24"
    attributes["services"] = "web; reboot"
    ok(step("prerequisites").status == 2, "a service's name that is no name is refused before it gets there")
    attributes["services"] = "web,worker"


def prerequisites_of_other_machines():
    """What can't be had here is put into the world's own files."""
    lsblk = pathlib.Path("/usr/bin/lsblk")
    real = lsblk.read_bytes() if lsblk.exists() else None
    for kinds, passes in (("disk mpath part ext4", True), ("disk zfs_member", False)):
        lsblk.unlink(missing_ok=True)
        lsblk.write_text(f"#!/bin/sh\nprintf '%s\\n' {kinds}\n")
        lsblk.chmod(0o755)
        outcome = step("prerequisites")
        ok(("disk layout" not in outcome.failed) == passes and kinds.split()[1] in outcome.said("disk layout"), f"a layout of {kinds}: {outcome.said('disk layout')}")
    lsblk.unlink()
    if real:
        lsblk.write_bytes(real)
        lsblk.chmod(0o755)
    release = pathlib.Path("/etc/os-release")  # the script reads it as a shell does: so it can tell of a lockdown, too
    words = release.read_text()
    release.unlink()
    release.write_text(words + """
get() {
    value=
    case $1 in
    */security/lockdown) value='none integrity [confidentiality]' ;;
    *) [ -r "$1" ] && read -r value 2>/dev/null <"$1" ;;
    esac
    return 0
}
""")
    attributes["memory_bound_mib"] = 1 << 20
    outcome = step("prerequisites")
    ok("change tracking" not in outcome.failed and "holds the source still" in outcome.said("change tracking"), f"where changes can't be followed: {outcome.said('change tracking')}")
    ok("memory" in outcome.failed and f"the agent needs {(1 << 20) + 32} MiB" in outcome.said("memory"), f"what the agent may take must be there: {outcome.said('memory')}")
    attributes["memory_bound_mib"] = 48
    outcome = step("prerequisites")
    big = sum(d["size_bytes"] for d in outcome.result["facts"]["disks"]) > 20 << 30  # of a smaller one the checksums fit into the least that can be set
    ok(("change tracking" in outcome.failed) == big and ("memory_bound_mib" in outcome.said("change tracking")) == big,
       f"too little memory for checksums is said before the agent does not start: {outcome.said('change tracking')}")
    del attributes["memory_bound_mib"]
    release.write_text(words)


def push():
    outcome = step("push_agent", enrolment={})
    ok(outcome.status == 2 and "enrolment.token" in outcome.error, f"no token, no agent: {outcome.error}")
    outcome = step("push_agent")
    ok(outcome.status == 0 and not outcome.failed, f"the agent is pushed: {outcome}")
    ok("compared there" not in outcome.said("program") and "was there" in outcome.said("program") and outcome.result["version"] == "slipway-agent 0.0.test",
       f"what the first attempt did is found: {outcome.said('program')}")
    ok(unit("slipway-agent") == "active" and len(enrolled) == 1 and enrolled[0]["token"] == "one-time-secret", "it runs, enrolled once")
    config = json.loads(pathlib.Path("/etc/slipway-agent/config.json").read_text())
    ok(config == {"server": "web01", "replicator_address": "192.0.2.1", "replicator_port": 7443}, "its configuration")
    ok("BEGIN CERTIFICATE" in pathlib.Path("/etc/slipway-agent/cert.pem").read_text(), "its certificate")
    ok("one-time-secret" not in asked(), "no secret on a command line")
    outcome = step("push_agent")
    ok(outcome.status == 0 and len(enrolled) == 1 and "enrolled before" in outcome.said("identity"), "again: everything is there")
    ok("systemctl restart" not in asked(), "and nothing is started anew")
    attributes["freeze_budget_ms"] = "150"
    attributes["before_freeze"] = "/opt/shop/freeze"
    outcome = step("push_agent")
    config = json.loads(pathlib.Path("/etc/slipway-agent/config.json").read_text())
    ok(outcome.status == 0 and "systemctl restart slipway-agent" in asked() and config["freeze_budget_ms"] == 150 and
       config["before_freeze"] == "/opt/shop/freeze" and "after_thaw" not in config, "another configuration starts it anew")
    attributes["memory_bound_mib"] = "256"
    ok(step("push_agent").status == 0 and json.loads(pathlib.Path("/etc/slipway-agent/config.json").read_text())["memory_bound_mib"] == 256,
       "its bound of memory reaches it")
    settings["agent_path"] = "/no/such/agent"
    outcome = step("push_agent")
    ok(outcome.status != 0 and "agent_path" in outcome.error, f"an agent that isn't there: {outcome.error[:80]}")
    del settings["agent_path"]


def push_to_another_architecture():
    """The source says that it is another machine: it gets a build for that one, or none."""
    real, fake, build = pathlib.Path("/usr/bin/uname.real"), pathlib.Path("/usr/bin/uname"), folder / "agent.aarch64"
    shutil.copy("/usr/bin/uname", real)

    def says(arch):
        fake.unlink()
        fake.write_text(f'#!/bin/sh\n[ "$1" = -m ] && exec echo {arch}\nexec {real} "$@"\n')
        fake.chmod(0o755)

    says("riscv64")
    outcome = step("push_agent")
    ok(outcome.status != 0 and "not built for riscv64" in outcome.error, f"one that no agent is built for: {outcome.error[:80]}")
    says("aarch64")
    outcome = step("prerequisites")
    ok("architecture" in outcome.failed and str(build) in outcome.said("architecture"), f"a build that is missing: {outcome.said('architecture')}")
    outcome = step("push_agent")
    ok(outcome.status != 0 and str(build) in outcome.error, f"nothing else is pushed: {outcome.error[:120]}")
    shutil.copy("/usr/bin/true", build)
    outcome = step("push_agent")
    ok(outcome.status != 0 and "is not built for aarch64" in outcome.error, f"nor a build of another architecture: {outcome.error[:80]}")
    shutil.copy(folder / "agent", build)
    outcome = step("push_agent")
    ok(outcome.status == 0 and "for aarch64" in outcome.said("program"), f"its own is: {outcome.said('program')}")
    ok("architecture" not in step("prerequisites").failed, "and there is one")
    fake.unlink()
    shutil.move(real, fake)


def quiesce_and_back():
    outcome = step("decommission")
    ok(outcome.status != 0 and not (folder / "off").exists(), f"a source that serves is not decommissioned: {outcome.error[:100]}")
    unit("worker", stuck=True)
    asked()
    outcome = step("quiesce")
    ok(outcome.status == 7 and outcome.failed == ["service worker"] and "192.0.2.11/24" in addresses(),
       f"a service that does not stop stops it; the address stays: {outcome}")
    unit("worker", "active", stuck=False)
    unit("web", "active")
    asked()
    outcome = step("quiesce")
    ok(outcome.status == 0 and outcome.result["parked"] is True, f"again, and it is parked: {outcome}")
    ok(addresses() == ["192.0.2.211/24"], f"only the parking address is left: {addresses()}")
    ok("via 192.0.2.1" in default_route(), f"the way out is still there: {default_route()}")
    ok(unit("web") == "inactive" and unit("worker") == "inactive", "services are off")
    stops = [line for line in asked().splitlines() if line.startswith("systemctl stop")]
    ok(stops[:2] == ["systemctl stop web", "systemctl stop worker"], f"in their order: {stops}")
    outcome = step("quiesce")
    ok(outcome.status == 0 and addresses() == ["192.0.2.211/24"], f"done twice is done once: {outcome}")
    context["quiesce"] = outcome.result
    outcome = step("restore_source")
    ok(outcome.status == 0, f"the source is taken back: {outcome}")
    ok(addresses() == ["192.0.2.11/24"] and "via 192.0.2.1" in default_route(), f"its address, its way out: {addresses()} {default_route()}")
    starts = [line for line in asked().splitlines() if line.startswith("systemctl start")]
    ok(starts == ["systemctl start worker", "systemctl start web"], f"its services, the last first: {starts}")
    ok(step("restore_source").status == 0 and addresses() == ["192.0.2.11/24"], "again: nothing is parked")


def verify():
    outcome = step("verify_source")
    ok(outcome.status == 0 and not outcome.failed, f"the source serves as before: {outcome}")
    unit("web", "inactive")
    outcome = step("verify_source")
    ok(outcome.status == 9 and outcome.failed == ["services"], f"a service that is off is seen: {outcome}")
    unit("web", "active")
    facts = context["prerequisites"]["facts"]
    outcome = step("verify_source", facts=facts | {"listening": facts["listening"] + [{"address": "0.0.0.0", "port": 81}]})
    ok(outcome.status == 9 and outcome.failed == ["listening ports"], f"a port that is missing, too: {outcome.said('listening ports')}")
    ok(step("verify_source", facts=None).status == 2, "without facts it fails")


def way_home():
    """The source is parked; it is looked at, it leaves for its rescue, and it comes back as what came home."""
    image = pathlib.Path("/run/slipway-agent/rescue.img")
    context.update(sync_copy={"point": "point-8"}, last_change={"point": "point-9"})
    outcome = step("check_rescue")
    ok(outcome.status != 0 and "rescue-image" not in asked(), f"a source that is not parked is not looked at: it is not where it should be: {outcome.error[:90]}")
    ok(step("quiesce").status == 0, "parked")
    asked()
    (folder / "no-rescue").touch()
    outcome = step("check_rescue")
    ok(outcome.status == 7 and outcome.failed == ["rescue"] and "no driver" in outcome.said("rescue"), f"what it lacks is named: {outcome}")
    (folder / "no-rescue").unlink()
    outcome = step("check_rescue")
    ok(outcome.status == 0 and "point-8" in outcome.said("image") and not image.exists(), f"it can restore itself, and the image is gone again: {outcome}")
    ok(unit("slipway-agent") == "active" and not (folder / "left").exists(), "nothing was stopped")
    (folder / "no-kexec").touch()
    outcome = step("leave_source")
    ok(outcome.status == 7 and outcome.failed == ["rescue"] and unit("slipway-agent") == "active" and not image.exists(), f"a kernel that does not leave: all is as it was: {outcome}")
    (folder / "no-kexec").unlink()
    asked()
    outcome = step("leave_source")
    ok(outcome.status == 0 and (folder / "left").exists() and unit("slipway-agent") == "inactive" and "--point point-9" in asked(), f"it leaves for the last point: {outcome}")
    subprocess.run(["ip", "-n", "source", "link", "set", "eth0", "down"], check=True)
    outcome = step("leave_source")
    ok(outcome.status == 0 and "before this one" in outcome.said("left"), f"an attempt after it, when it has left: {outcome}")
    outcome = step("leave_source", context=context | {"last_change": {"point": "point-10"}})
    ok(outcome.status == 10, f"of another point nobody was told: {outcome.error[:90]}")
    subprocess.run(["ip", "-n", "source", "link", "set", "eth0", "up"], check=True)
    subprocess.run(["ip", "-n", "source", "addr", "add", "192.0.2.11/24", "dev", "eth0"], check=True)
    rescued = {"task": {"id": "t", "name": "restore_source", "step": "restore_source", "params": {"rescued": True}}}
    outcome = step("restore_source", **rescued)
    ok(outcome.status == 7 and outcome.failed == ["restored system"], f"a source that is still parked did not boot what came home: {outcome}")
    subprocess.run(["ip", "-n", "source", "addr", "del", "192.0.2.11/24", "dev", "eth0"], check=True)
    unit("slipway-agent", "active")
    context["quiesce"] = {}
    ok(step("restore_source").status == 0 and addresses() == ["192.0.2.11/24"], "taken back as ever")
    unit("web", "inactive")
    asked()
    outcome = step("restore_source", **rescued)
    ok(outcome.status == 0 and unit("web") == "active" and "systemctl stop" not in asked(), f"a restored system serves: {outcome}")
    (folder / "left").unlink()


def on_the_launched_machine():
    """scripts/home.sh, run here: what push_copy, last_change and resume_copy do there (with a machine: tests/e2e/home)."""
    script, place = (here / "../../../src/steps/scripts/home.sh").read_text(), pathlib.Path("/run/slipway-home")

    def home(*words):
        done = subprocess.run(["sh", "-s", "--", *words], input=script, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr
    status, said = home("still", "web worker")
    ok(status == 1 and "not ok agent" in said and unit("web") == "active", f"nothing stops where no agent is: {said.strip()}")
    status, said = home("look")
    ok(status == 0 and "arch\t" in said and place.is_mount() and place.stat().st_mode & 0o777 == 0o700, f"its place is in memory: {said.strip()}")
    shutil.copy(folder / "agent", place / "slipway-agent")
    (place / "slipway-agent").chmod(0o755)
    ok(any(len(line) == 71 for line in home("look")[1].splitlines() if line.startswith("sha256\t")) and "serial:x" in home("disks")[1], "what is there is found again, and its disks")
    status, said = home("configure", "web01~copy", '{"server":"web01~copy"}')
    ok(status == 0 and "config\tchanged" in said and "csr" in said and (place / "config.json").stat().st_mode & 0o777 == 0o600, "its settings, and a request for its identity")
    ok("config\tsame" in home("configure", "web01~copy", '{"server":"web01~copy"}')[1], "again nothing changes")
    asked()
    unit("worker", stuck=True)
    status, said = home("still", "web worker")
    ok(status == 1 and "not ok service worker" in said, f"a service that does not stop is named: {said.strip()}")
    unit("worker", "active", stuck=False)
    status, said = home("still", "web worker")
    ok(status == 0 and unit("web") == "inactive" and unit("worker") == "inactive", f"services are off: {said.strip()}")
    status, said = home("resume", "web worker")
    ok(status == 0 and unit("web") == "active" and unit("worker") == "active" and not place.exists(), f"they run again, and the agent is gone: {said.strip()}")
    starts = [line for line in asked().splitlines() if line.startswith("systemctl start")]
    ok(starts == ["systemctl start worker", "systemctl start web"], f"the last first: {starts}")
    ok(home("resume", "web worker")[0] == 0, "again is success")


def the_end():
    subprocess.run(["ip", "-n", "source", "addr", "add", "192.0.2.211/24", "dev", "eth0"], check=True)
    outcome = step("decommission")
    ok(outcome.status == 7 and outcome.failed == ["parked source"] and unit("slipway-agent") == "active",
       f"a machine that is not parked may be the copy: {outcome}")
    ok(step("quiesce").status == 0, "parked")
    asked()
    begin = time.time()
    outcome = step("decommission")
    # The gateway is this runner itself, and no copy is there: whose network is silent can't be told.
    ok(outcome.status == 10 and "may be down" in outcome.error and not outcome.failed and not outcome.said("unreachable"), f"silence alone is no proof: {outcome}")
    ok((folder / "off").exists(), "it was told to power off")
    names = [e["name"] for e in outcome.evidence]
    ok({"agent's files", "agent's unit", "agent's process", "service web", "power off"} <= set(names), f"each is proven in {time.time() - begin:.0f} s")
    left = [p for p in ("/etc/slipway-agent", "/usr/local/sbin/slipway-agent", "/etc/systemd/system/slipway-agent.service") if os.path.exists(p)]
    ok(not left, f"nothing of the agent is left {left}")
    for words in ("netns add copy", "link add copy0 type veth peer name eth0 netns copy", "link set copy0 up", "-n copy addr add 192.0.2.11/24 dev eth0",
                  "-n copy link set eth0 up", "route add 192.0.2.11/32 dev copy0"):
        subprocess.run(["ip", *words.split()], check=True)
    outcome = step("decommission")
    ok(outcome.status == 0 and "earlier attempt" in outcome.said("agent"), f"where its copy answers it is decommissioned: {outcome}")
    ok("while 192.0.2.11 answered" in outcome.said("unreachable"), f"it is off: {outcome.said('unreachable')[:120]}")
    outcome = step("decommission", run={"id": "r2"})
    ok(outcome.status != 0, "silence alone proves nothing")


enrolled = []
factory_url = start_factory()
replicator = start_replicator()
for _ in range(600):
    if b"listening" in (folder / "sshd.log").read_bytes():
        break
    time.sleep(0.1)
else:
    sys.exit("the source's sshd does not listen: " + (folder / "sshd.log").read_text())
source_probe()
prerequisites()
logins()
prerequisites_through_a_proxy()
prerequisites_that_do_not_hold()
prerequisites_of_other_machines()
push()
push_to_another_architecture()
quiesce_and_back()
verify()
way_home()
on_the_launched_machine()
the_end()
status = tap.finish()
if tap.failed:
    print("# " + (folder / "sshd.log").read_text()[-1500:].replace("\n", "\n# "))
os._exit(status)
