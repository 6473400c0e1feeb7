"""serve with a second replicator beside its own, and this test as the runner that pushes agents. `sys.path` must hold tests/ and this folder."""
import json
import os

import factory
from ends import free_port
from replicated import MIB, run
from tap import intact, ok

DISK = 96 * MIB
FACTS = {"hostname": "web01", "disks": [{"name": "vda", "id": "disk-1", "size_bytes": DISK}]}


class Many(factory.Factory):
    def __init__(self, slipway, agent):
        super().__init__(slipway, agent)
        self.homes = {"embedded": self.data / "replicator", "staging2": self.dir / "staging2"}
        self.ports = {"embedded": self.port, "staging2": free_port()}
        self.runner = self.dir / "runner-dc1"

    # ---- the second replicator ----

    def enrol_replicator(self):
        for name in ("staging2", "blind"):
            (self.dir / name).mkdir()
            (self.dir / name / "token").write_text(self.answer("enrol", "replicator", name)["token"])

    def start_replicator_named(self, name, port, *more):
        home = self.dir / name
        self.start(name, self.slipway_program, "replicator", "--state", home, "--factory", self.url, "--ca", self.data / "ca.pem", "--name", name, "--token-file", home / "token",
                   "--listen", f"127.0.0.1:{port}", "--guard-mib", "16", *more, env={**os.environ, "SLIPWAY_LOG": "text"})

    def start_second(self):
        self.start_replicator_named("staging2", self.ports["staging2"])

    def replicators(self):
        return {item["name"]: item for item in self.answer("replicator", "list").get("items", [])}

    # ---- a runner: this test ----

    def enrol_runner(self):
        self.runner.mkdir()
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.runner / "key.pem", "-out", self.runner / "csr.pem", "-subj",
            "/CN=runner:dc1")
        made = self.post("/v1/enrol", {"token": self.answer("enrol", "runner", "dc1", "--label", "source:dc1")["token"], "csr_pem": (self.runner / "csr.pem").read_text()})
        (self.runner / "cert.pem").write_text(made["certificate_pem"])

    def claim(self, step, wait_ms=10000):
        return self.post("/v1/runner/claim", {"labels": ["source:dc1"], "steps": [step], "wait_ms": wait_ms}, self.runner)

    def failed(self):
        run_id = self.answer("run", "list", "--wave", "w1")["items"][0]["id"]
        return [task for task in self.answer("run", "show", run_id)["tasks"] if task["state"] == "FAILED"]

    def finish(self, document, **result):
        self.post(f"/v1/runner/attempts/{document['attempt']}/finish", {"fence": document["fence"], "outcome": "succeeded", "result": result}, self.runner)

    # ---- the agent ----

    def settings(self):
        return json.loads((self.dir / "agent-web01/config.json").read_text())

    def start_again(self):
        """With the settings that it left."""
        self.start("agent-web01", self.agent_program, "run", "--folder", self.dir / "agent-web01", env={**os.environ, "SLIPWAY_LOG": "text"})

    def server(self):
        return self.answer("server", "show", "web01")

    def placed_at(self, name):
        server = self.server()
        place = server.get("placement") or {}
        replication = server.get("replication") or {}
        return place.get("replicator") == name and not place.get("to") and replication.get("state") == "CONTINUOUS" and replication["newest_point"]

    def settled_at(self, name):
        """The agent has let the other go."""
        settings = self.settings()
        return settings["replicator_port"] == self.ports[name] and "other_replicator_port" not in settings

    def points(self, name):
        return [point["id"] for point in self.ask("points", at=self.homes[name], server="web01")["points"]]

    def exact(self, name):
        """A held point at that replicator is the disk, block by block."""
        at = self.homes[name]
        point = self.ask("point", at=at, server="web01", consistency="frozen", hold=True, timeout_ms=30000)["point"]
        compared = self.ask("compare", at=at, server="web01", point=point["id"])["disks"][0]
        self.ask("thaw", at=at, server="web01")
        intact(compared["blocks_differing"] == 0 and compared["still"] and compared["bytes_compared"] == DISK, f"a point at {name} is the disk, block by block", compared)

    def idle(self):
        """No task of web01 is at work: a server that a step works on does not move."""
        return "is at work" not in self.cli("server", "move", "web01", "--to", "nobody").stderr

    def start_wave(self):
        """Up to where agents are to be pushed."""
        self.enrol_runner()
        secret = self.dir / "secret"
        secret.write_text("secret")
        ok(self.cli("credential", "add", "root", "--user", "root", "--password-file", secret).returncode == 0 and
           self.cli("settings", "set", "credential", '{"name":"root"}').returncode == 0, "a credential")
        ok(self.cli("wave", "start", "w1").returncode == 0, "the wave starts")
        for _ in range(2):
            self.finish(self.claim("prerequisites"), facts=FACTS)

    def write(self, text):
        (self.mounted / "written").write_text(text * 1000)
        self.sync()
