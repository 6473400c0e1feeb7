"""The factory as a new user starts it: `slipway serve` in its own network, a runner beside the sources, and the command line."""
import json
import os
import pathlib
import re
import secrets
import subprocess
import threading
import time

from world_parts.common import Ended, Failure, wait_for

API_PORT, REPLICATOR_PORT = 8443, 8444


def inside(namespace, *command):
    """Enters only the network namespace. (`ip netns exec` would give a mount namespace as well, and what the factory makes under
    /run/netns would be seen by nobody else.)"""
    return ("nsenter", f"--net=/run/netns/{namespace}", *command)


class Refused(Failure):
    """The factory said no, in words."""

    def __init__(self, words, status):
        super().__init__(words)
        self.status = status


class Factory:
    def __init__(self, folder, world, description, programs):
        self.folder, self.world, self.description = pathlib.Path(folder), world, description
        self.programs = pathlib.Path(programs)
        self.slipway = str(self.programs / "slipway")
        self.data = self.folder / "factory"
        self.user, self.address = "demo", description["factory"]
        self.url = f"https://{self.address}:{API_PORT}"
        self.environment = dict(os.environ, SLIPWAY_URL=self.url, SLIPWAY_CA=str(self.data / "ca.pem"), HOME=str(self.folder),
                                XDG_CONFIG_HOME=str(self.folder / "config"))
        self.password_file = self.folder / "secrets/demo.password"

    def serve(self):
        self.password_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.password_file.exists():
            self.password_file.touch(mode=0o600)
            self.password_file.write_text(secrets.token_urlsafe(12))
        self.start_serve()
        wait_for(f"the factory (its log: {self.world.processes.logs}/serve.log)", self.answers, 60, 0.3)
        self.run("login", "--name", self.user, "--password-file", self.password_file)

    def start_serve(self, *more):
        self.world.processes.start("serve", *inside(
            self.description["namespaces"]["factory"], self.slipway, "serve", "--data", self.data, "--listen", f"{self.address}:{API_PORT}",
            "--name", self.address, "--replicator-listen", f"{self.address}:{REPLICATOR_PORT}",
            "--init-user", self.user, "--init-password-file", self.password_file, *more), env=self.environment)

    def answers(self):
        if not self.world.processes.pid("serve"):
            raise Ended(f"slipway serve ended at once; {self.world.processes.logs}/serve.log says why")
        done = subprocess.run(inside(self.description["namespaces"]["factory"], "curl", "-sf", "--max-time", "2", "--cacert",
                                     str(self.data / "ca.pem"), f"{self.url}/healthz"), capture_output=True)
        return done.returncode == 0

    def must_run(self):
        if not self.world.processes.pid("serve"):
            raise Ended(f"slipway serve ended; {self.world.processes.logs}/serve.log says why")

    def runner(self):
        token = json.loads(self.run("enrol", "runner", "dc1", "--label", "source:dc1"))["token"]
        file = self.folder / "secrets/runner.token"
        file.touch(mode=0o600)
        file.write_text(token)
        self.start_runner()

    def start_runner(self):
        self.world.processes.start("runner", *inside(
            self.description["namespaces"]["dc"], self.slipway, "runner", "--factory", self.url, "--ca", self.data / "ca.pem", "--name", "dc1",
            "--labels", "source:dc1", "--token-file", self.folder / "secrets/runner.token", "--state", self.folder / "runner"), env=self.environment)

    def run(self, *words, input=None, timeout_s=120):
        """A `slipway` command as the user would give it, with JSON output. Refused carries what it said."""
        done = subprocess.run(inside(self.description["namespaces"]["factory"], self.slipway, *[str(word) for word in words], "-o", "json"),
                              capture_output=True, text=True, env=self.environment, timeout=timeout_s, input=input)
        if done.returncode:
            raise Refused(done.stderr.strip() or done.stdout.strip(), done.returncode)
        return done.stdout

    def json(self, *words, input=None):
        return json.loads(self.run(*words, input=input))


class Watcher:
    """Reads the wave's run every second: says each change once, and shows what runs now."""

    def __init__(self, factory, wave, display):
        self.factory, self.wave, self.display = factory, wave, display
        self.tasks, self.seen, self.stop, self.lock = {}, {}, threading.Event(), threading.Lock()
        self.failure = None
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def start(self):
        self.thread.start()

    def close(self):
        self.stop.set()

    def _loop(self):
        while not self.stop.wait(1):
            try:
                self._look()
            except (Failure, ValueError, subprocess.TimeoutExpired) as failure:
                self.display.running([f"the factory does not answer: {str(failure)[:160]}"])

    def _look(self):
        found = {}
        for run in self.factory.json("run", "list", "--wave", self.wave)["items"]:
            whole = self.factory.json("run", "show", run["id"])
            for task in whole["tasks"]:
                found[str(task["id"])] = task | {"template": whole["template"]}
        with self.lock:
            self.tasks = found
        live = []
        for task in found.values():
            self._tell(task)
            if task["state"] == "RUNNING":
                live.append(self._line(task))
            elif task["state"] == "WAITING" and task.get("waits_for"):
                live.append(f"{task['title']} ({task['server'] or 'the wave'}): waits for {task['waits_for']['what']}")
        self.display.running(live)

    def _tell(self, task):
        state = task["state"]
        if self.seen.get(task["id"]) == (state, task.get("round")):
            return
        self.seen[task["id"]] = (state, task.get("round"))
        name = f"{task['server'] or 'wave'}: {task['title']}"
        if state == "SUCCEEDED":
            held = f", {task['evidence_count']} lines of evidence" if task.get("evidence_count") else ""
            self.display.say(f"{name}{held}", "done")
        elif state in ("FAILED", "CANCELLED", "SKIPPED"):
            self.display.say(f"{name}: {state.lower()}{': ' + task['error']['message'] if task.get('error') else ''}", "failed" if state == "FAILED" else "note")

    @staticmethod
    def _line(task):
        progress, text = task.get("progress"), f"{task['title']} ({task['server'] or 'the wave'})"
        if not progress:
            return text
        if progress.get("total"):
            scale, unit = (1 << 20, "MiB") if progress.get("unit") == "bytes" else (1, progress.get("unit") or "")
            text += f": {100 * progress['done'] / progress['total']:.0f} % ({progress['done'] / scale:.0f} of {progress['total'] / scale:.0f} {unit})"
        return text + (f" {progress['note']}" if progress.get("note") else "")

    def find(self, name, server=None, template="wave_migration"):
        with self.lock:
            return [task for task in self.tasks.values() if task["name"] == name and task["template"] == template and (server is None or task["server"] == server)]

    def failed(self):
        with self.lock:
            return [task for task in self.tasks.values() if task["state"] == "FAILED"]

    def must_go_on(self):
        for task in self.failed():
            message = (task.get("error") or {}).get("message", "no cause was given")
            raise Ended(f"the task “{task['title']}” of {task['server'] or 'the wave'} failed: {message}")
        self.factory.must_run()

    def came_to(self, name, server, states):
        """Whether the server's task of that name is in one of the states now; what failed ends the demo."""
        self.must_go_on()
        return any(task["state"] in states for task in self.find(name, server))

    def wait(self, name, states, server=None, timeout_s=900, template="wave_migration"):
        """Until every task of that name is in one of the states. A FAILED task anywhere ends the demo with its cause."""
        end = time.monotonic() + timeout_s
        while True:
            found = self.find(name, server, template)
            if found and all(task["state"] in states for task in found):
                return found
            self.must_go_on()
            if time.monotonic() > end:
                held = ", ".join(f"{task['server'] or 'wave'} {task['state']}" for task in found) or "no such task"
                raise Failure(f"“{name}” did not come to {'/'.join(states)} within {timeout_s} s ({held})")
            time.sleep(0.3)
