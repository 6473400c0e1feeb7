"""The demo's story: one wave of two machines, end to end. Each function is a stage; a failure anywhere ends it with what failed and why."""
import datetime
import json
import pathlib
import time

from world_parts import probe
from world_parts.common import Failure, wait_for, write_json

from .factory import REPLICATOR_PORT, Refused

WAVE = "wave-1"
HOLD_S = 20  # long enough that decommissioning before its end can be asked for on any machine
WINDOW_AHEAD_S = 60


def stamp(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Story:
    def __init__(self, folder, world, factory, description, display, watcher):
        self.folder, self.world, self.factory, self.description = pathlib.Path(folder), world, factory, description
        self.display, self.watcher = display, watcher
        self.refusals, self.way_back_ms = [], None

    def refused(self, what, *words):
        """Asks for something that must be refused. That it is allowed ends the demo."""
        try:
            self.factory.run(*words)
        except Refused as refusal:
            self.refusals.append({"asked": what, "answer": str(refusal)})
            self.display.say(f"refused, as it must be: {what}: {str(refusal).splitlines()[-1][:200]}", "refused")
            return
        raise Failure(f"{what} was allowed; it must be refused")

    # -- Pre-migration --

    def start_factory(self):
        self.factory.serve()
        self.factory.runner()
        self.settings()
        self.credentials()
        wait_for("the runner and the replicator to be seen by the factory", self.seen, 60, 0.5)

    def seen(self):
        runners = {runner["name"] for runner in self.factory.json("runner", "list")["items"]}
        return "dc1" in runners and self.factory.json("replicator", "list")["items"]

    def settings(self):
        networks = {name: network for name, network in self.description["target_networks"].items()}
        value = {
            "replicator": {"address": self.description["factory"], "port": REPLICATOR_PORT},
            "target": {"name": "local-qemu", "settings": {"networks": networks, "label": self.description["run"]}},
            "cmdb": {"kind": "netbox", "url": self.description["cmdb"]["url"], "token_credential": "cmdb"},
        }
        for name, held in value.items():
            self.factory.run("settings", "set", name, "-", input=json.dumps(held))

    def credentials(self):
        for name, server in self.description["servers"].items():
            words = ["credential", "add", name, "--user", server["user"], "--sudo", server["sudo"]]
            words += ["--key-file", server["key"]] if "key" in server else ["--password-file", server["password_file"]]
            if server["sudo"] == "password":
                words += ["--sudo-password-file", server["password_file"]]
            self.factory.run(*words)
        self.factory.run("credential", "add", "cmdb", "--token-file", self.description["cmdb"]["token_file"])

    def doctor(self):
        self.factory.run("backup")
        self.factory.run("target", "probe", timeout_s=300)
        answer, end = None, time.monotonic() + 120
        while True:
            answer = self.factory.json("doctor", "--no-fail")
            if answer["passed"]:
                break
            if time.monotonic() > end:
                for check in answer["checks"]:
                    if not check["passed"]:
                        self.display.say(f"{check['title']}: {check['evidence']} → {check.get('advice')}", "failed")
                raise Failure("slipway doctor does not pass; the lines above say what to do")
            time.sleep(1)
        for check in answer["checks"]:
            self.display.say(f"doctor: {check['title']}: {check['evidence'][:140]}", "done")

    # -- Inventory --

    def inventory(self):
        path = self.folder / "servers.csv"
        servers = self.description["servers"]
        checks = {"web01": "http://192.0.2.11:80/ contains web01; command systemctl is-active nginx",
                  "db01": "command systemctl is-active postgresql@15-main"}
        lines = ["wave,application,server,owner,address,parking_address,credential,services,checks,door,network,target_network,cpu,memory_mib"]
        for name, server in servers.items():
            lines.append(",".join(f'"{field}"' for field in (
                WAVE, "shop", name, "anna@example.org", server["address"], server["parking_address"], name, server["services"], checks[name],
                "ask" if name == "db01" else "auto", "dc1", "dc", "2", "768")))
        path.write_text("\n".join(lines) + "\n")
        preview = self.factory.json("import", path, "--create-waves", "--dry-run")
        if preview["applied"] or not preview["counts"]["create"]:
            raise Failure(f"the preview of the import is wrong: {preview['counts']}")
        self.display.say(f"import, previewed: {preview['counts']['create']} to create, {preview['counts']['update']} to change; nothing was changed yet")
        self.factory.run("import", path, "--create-waves")
        self.factory.run("wave", "set", WAVE, f"hold_s={HOLD_S}", "right_size_after_s=1", "right_size_measure_s=20", "host_keys=accept-first")

    # -- The wave --

    def build(self):
        self.factory.run("wave", "start", WAVE)
        self.watcher.start()
        self.refused("a cutover before the servers are ready", "wave", "cutover", WAVE)
        self.watcher.wait("verify_replication", {"SUCCEEDED"}, timeout_s=900)

    def validate(self):
        """The window is agreed on, a minute ahead, while the test instances boot; each owner signs when asked."""
        waiting = sorted(self.description["servers"])
        self.set_window()
        while waiting:
            name = wait_for("an owner to be asked", lambda: next((n for n in waiting if self.watcher.came_to("sign_off", n, {"WAITING"})), None), 900, 0.3)
            self.factory.run("task", "approve", self.watcher.find("sign_off", name)[0]["id"], "--note", "the demo signs for the owner; elsewhere a person does")
            waiting.remove(name)
        self.watcher.wait("terminate_test", {"SUCCEEDED"}, timeout_s=300)

    def set_window(self):
        opens = time.time() + WINDOW_AHEAD_S
        self.factory.run("window", "set", WAVE, "--opens", stamp(opens), "--closes", stamp(opens + 1800), "--time-zone", "Europe/Berlin")
        self.refused("a cutover outside the window", "wave", "cutover", WAVE)
        self.refused("finalizing a server that was not cut over", "server", "finalize", "web01")

    def window(self):
        self.watcher.wait("go_no_go", {"WAITING"}, timeout_s=WINDOW_AHEAD_S + 60)

    def cutover(self):
        self.factory.run("wave", "cutover", WAVE)
        self.watcher.wait("door", {"WAITING"}, "db01", timeout_s=900)

    def way_back(self):
        begun = time.monotonic()
        self.factory.run("server", "back", "db01", "--yes")
        self.watcher.wait("verify_source", {"SUCCEEDED"}, "db01", timeout_s=600, template="way_back")
        wait_for("db01's source to answer the probe again", lambda: self.serves("db01"), 60, 0.2)
        self.way_back_ms = round((time.monotonic() - begun) * 1000)
        rows = wait_for("db01's rows to be read", lambda: self.world.rows(), 60, 1)
        if rows["missing"] or rows["torn"]:
            raise Failure(f"after the way back {rows['missing']} rows are missing and {rows['torn']} torn")
        self.display.say(f"db01 serves from its source again after {self.way_back_ms / 1000:.1f} s; {rows['present']} rows, none lost", "done")

    def serves(self, name):
        last = probe.summary(self.world.folder / "probe.log").get(name, {})
        return last.get("last_ok", False)

    def cutover_again(self):
        self.watcher.wait("cut_over_again", {"WAITING"}, "db01", timeout_s=60)
        self.factory.run("server", "cutover", "db01")
        self.watcher.wait("door", {"WAITING"}, "db01", timeout_s=900)
        self.factory.run("server", "open", "db01")
        self.watcher.wait("open_door", {"SUCCEEDED"}, timeout_s=900)
        for name in self.description["servers"]:
            wait_for(f"{name} to answer the probe from its new place", lambda n=name: self.serves(n), 120, 0.2)
        self.refused("taking db01 back with its door open, without saying what would be lost", "server", "back", "db01", "--yes")

    def acceptance(self):
        self.watcher.wait("compare", {"SUCCEEDED"}, timeout_s=1200)
        self.refused("decommissioning before finalize", "server", "decommission", "db01")
        for name in self.description["servers"]:
            task = self.watcher.wait("acceptance", {"WAITING"}, name, timeout_s=60)[0]
            self.factory.run("task", "approve", task["id"], "--note", "the demo accepts for the owner; elsewhere a person does")
        for name in self.description["servers"]:
            wait_for(f"{name} to be ready to finalize", lambda n=name: self.watcher.find("finalize", n)[0]["state"] in ("WAITING", "READY", "RUNNING", "SUCCEEDED"), 60, 0.3)
            if self.watcher.find("finalize", name)[0]["state"] == "WAITING":
                self.factory.run("server", "finalize", name)
        self.watcher.wait("finalize", {"SUCCEEDED"}, timeout_s=120)
        self.refused("decommissioning before the hold period ended", "server", "decommission", "db01")

    def after(self):
        self.watcher.wait("decommission", {"SUCCEEDED"}, timeout_s=600)
        self.watcher.wait("right_size", {"SUCCEEDED"}, timeout_s=600)
        self.watcher.wait("drop_staged", {"SUCCEEDED"}, timeout_s=300)

    # -- The proof --

    def measurements(self):
        """What others measured: the probe on the clients' network, and the machine that was told each acknowledged row."""
        measured = probe.summary(self.world.folder / "probe.log")
        rows = self.world.rows()
        if "db01" in measured and self.way_back_ms is not None:
            measured["db01"]["way_back_ms"] = self.way_back_ms
        self.measure("probe", {"servers": measured})
        self.measure("rows", rows)
        self.measure("machine", {"accelerator": self.description["accelerator"]})

    def measure(self, name, value):
        self.factory.run("wave", "measure", WAVE, name, "-", input=json.dumps(value))

    def proof(self):
        self.measurements()
        self.watcher.wait("report", {"SUCCEEDED"}, timeout_s=120)
        report = self.factory.json("report", WAVE)
        write_json(self.folder / "report.json", report)
        self.factory.run("report", WAVE, "--html", self.folder / "report.html")
        return report
