"""serve with its own replicator in a folder of its own, the client's view of it, agents that enrol as push_agent makes them. `sys.path` must hold tests/."""
import json
import os
import ssl
import subprocess
import urllib.request

from ends import free_port
from replicated import World, run
from tap import ok


class Factory(World):
    """serve with its own replicator, and the client's view of it."""

    def __init__(self, slipway, agent):
        super().__init__(slipway, agent)
        self.api_port, self.data = free_port(), self.dir / "data"
        self.url = f"https://127.0.0.1:{self.api_port}"
        self.environment = {**os.environ, "XDG_CONFIG_HOME": str(self.dir / "config"), "SLIPWAY_URL": self.url, "SLIPWAY_CA": str(self.data / "ca.pem")}

    def cli(self, *words):
        return subprocess.run([self.slipway_program, *(str(word) for word in words)], capture_output=True, text=True, env=self.environment, check=False)

    def answer(self, *words):
        done = self.cli(*words, "-o", "json")
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def replication(self):
        return self.answer("server", "show", "web01").get("replication") or {}

    def wait_cli(self, what, condition, seconds):
        return self.wait(what, lambda: condition(self.replication()), seconds)

    def start_serve(self, *more):
        self.start("serve", self.slipway_program, "serve", "--data", self.data, "--listen", f"127.0.0.1:{self.api_port}", "--replicator-listen", f"127.0.0.1:{self.port}", *more)

    def serve(self):
        password = self.dir / "password"
        password.write_text("correct horse battery staple")
        self.start_serve("--init-user", "anna", "--init-password-file", password)
        self.wait("the factory is up", lambda: self.cli("login", "--name", "anna", "--password-file", password).returncode == 0, 60)
        servers = self.dir / "servers.csv"
        servers.write_text("wave,application,server,owner,address\nw1,shop,web01,anna,192.0.2.11\nw1,shop,db01,anna,192.0.2.12\n")
        ok(self.cli("import", servers, "--create-waves").returncode == 0, "two servers are imported")

    def post(self, path, body, certificate=None):
        """The answer, None where it has no body; with a certificate's folder, as who it names."""
        context = ssl.create_default_context(cafile=self.data / "ca.pem")
        if certificate:
            context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        asked = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, context=context) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def enrol(self, token=None):
        """As push_agent does it: the request comes from the source, the certificate goes there."""
        place = self.dir / "agent-web01"
        place.mkdir(exist_ok=True)
        csr = run(self.agent_program, "csr", "--server", "web01", "--folder", place)
        made = self.post("/v1/enrol", {"token": token or self.answer("enrol", "agent", "web01")["token"], "csr_pem": csr})
        run(self.agent_program, "install-cert", "--folder", place, input=made["certificate_pem"] + made["ca_pem"])
