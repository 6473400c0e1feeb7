#!/usr/bin/python3
"""test_runner PROGRAM: the real runner against a factory of this test's own, over mutual TLS. Prints TAP."""
import http.server
import json
import os
import queue
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time

program = sys.argv[1]
folder = tempfile.mkdtemp(prefix="slipway-runner-")
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import tap  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position


def openssl(*words, **more):
    return subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, text=True, **more).stdout


def certificates():
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test-ca")
    openssl(*new, "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=factory",
            "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
    with open(f"{folder}/server.pem", "w") as out:
        for name in ("server.crt", "ca.pem"):
            out.write(open(f"{folder}/{name}").read())


class Factory:
    """What the factory would know. `wrong` makes it fail in the named way."""

    def __init__(self):
        self.tasks, self.calls, self.offers, self.peers = queue.Queue(), [], [], set()
        self.finished, self.artifacts, self.down, self.answer = {}, {}, False, {}
        self.lease_ms, self.lock = 3000, threading.Lock()

    def wait_for(self, found, seconds=15):
        until = time.time() + seconds
        while time.time() < until:
            with self.lock:
                value = found()
            if value:
                return value
            time.sleep(0.05)
        return None

    def give(self, attempt, step, **more):
        self.tasks.put({"attempt": attempt, "fence": 7, "lease_ms": self.lease_ms, "timeout_ms": 60000,
                        "task": {"id": "t", "name": step, "step": step, "phase": "build", "params": {}},
                        "server": {"name": "web01", "address": "192.0.2.11"}, "context": {"before": {"count": 41}},
                        "credential": {"secret": "hunter2-secret"}, **more})

    def evidence(self, attempt):
        return [line for path, body in self.calls if path == f"/v1/runner/attempts/{attempt}/report" for line in body.get("evidence", [])]


factory = Factory()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send(self, status, document=None):
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        raw = self.body()
        body = json.loads(raw) if raw else None
        peer = self.connection.getpeercert()
        name = dict(x[0] for x in peer["subject"])["commonName"] if peer else None
        if factory.down:
            return self.send(503, {"kind": "unreachable", "detail": "going down"})
        if self.path == "/v1/enrol":
            return self.enrol(body)
        if name != "runner:dc1":
            return self.send(401, {"kind": "unauthenticated", "detail": "who are you?"})
        if self.path == "/v1/runner/claim":
            return self.claim(body)
        with factory.lock:
            factory.calls.append((self.path, body))
            attempt, verb = self.path.split("/")[4:6]
            if verb == "finish":
                factory.finished.setdefault(attempt, []).append(body)
                return self.send(200, {})
            if factory.answer.get(attempt) == 409:
                return self.send(409, {"kind": "conflict", "detail": "the fence is old"})
        self.send(200, {"cancelled": factory.answer.get(attempt) == "cancel", "lease_ms": factory.lease_ms})

    def enrol(self, body):
        if body["token"] not in ("one-time", "for-another"):
            return self.send(403, {"kind": "denied", "detail": "the token is wrong or was used"})
        more = ["-subj", "/CN=runner:other"] if body["token"] == "for-another" else []
        openssl("x509", "-req", *more, "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "1", "-out", "new.pem", "-CAcreateserial", input=body["csr_pem"])
        self.send(200, {"certificate_pem": open(f"{folder}/new.pem").read(), "ca_pem": open(f"{folder}/ca.pem").read(), "name": "dc1"})

    def claim(self, body):
        with factory.lock:
            factory.offers.append(body)
        try:
            self.send(200, factory.tasks.get(timeout=1))
        except queue.Empty:
            self.send(204)

    def do_PUT(self):
        body = self.body()
        with factory.lock:
            factory.artifacts[self.path] = (self.headers.get("Content-Type"), body)
        self.send(200, {})

    def log_message(self, *words):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def finish_request(self, request, client_address):
        request.settimeout(30)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
        context.load_verify_locations(f"{folder}/ca.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            with context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        except (OSError, ValueError):
            pass


def start(*more, token="one-time", state="state", name="dc1"):
    with open(f"{folder}/token", "w") as out:
        out.write(token + "\n")
    return subprocess.Popen([program, "runner", "--factory", url, "--ca", f"{folder}/ca.pem", "--name", name, "--labels", "source:dc1,target",
                             "--token-file", f"{folder}/token", "--state", f"{folder}/{state}", "--parallel", "2", *more],
                            stderr=open(f"{folder}/log", "ab"))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def finish_of(attempt, seconds=15):
    bodies = factory.wait_for(lambda: factory.finished.get(attempt), seconds)
    return bodies[0] if bodies else {}


def enrolment():
    wrong = start(token="stolen", state="wrong")
    ok(wrong.wait(20) == 4, "a wrong token is denied, with the exit code of a denial")
    ok(not os.path.exists(f"{folder}/wrong/identity/cert.pem"), "and nothing is kept")
    renamed = start(name="dc2", state="renamed", token="for-another")
    ok(renamed.wait(20) == 11, "a certificate for another name is refused")
    ok(not os.path.exists(f"{folder}/renamed/identity/key.pem"), "and not kept either")
    fingerprint = openssl("x509", "-in", "ca.pem", "-noout", "-fingerprint", "-sha256").split("=")[1].strip()
    with open(f"{folder}/token", "w") as out:
        out.write("one-time\n")
    pinned = subprocess.Popen([program, "runner", "--factory", url, "--ca-fingerprint", "SHA256:" + fingerprint, "--name", "dc1", "--labels",
                               "target", "--token-file", f"{folder}/token", "--state", f"{folder}/pinned"], stderr=subprocess.DEVNULL)
    ok(factory.wait_for(lambda: any(o["labels"] == ["target"] for o in factory.offers)), "the CA can be pinned by its fingerprint")
    pinned.terminate()
    pinned.wait(20)


def places():
    """Two places for work, of which one takes what is long, and two more for what only waits."""
    with open(f"{folder}/token", "w") as out:
        out.write("one-time\n")
    beside = subprocess.Popen([program, "runner", "--factory", url, "--ca", f"{folder}/ca.pem", "--name", "dc1", "--labels", "target,replicator", "--token-file",
                               f"{folder}/token", "--state", f"{folder}/beside", "--parallel", "2"], stderr=subprocess.DEVNULL)
    own = factory.wait_for(lambda: offers if len(offers := [o["steps"] for o in factory.offers if o["labels"] == ["target", "replicator"]]) >= 4 else None) or []
    ok(sorted(own[:4]) == [["patient"], ["patient", "long"], ["watch"], ["watch"]], f"what waits for days leaves the places of what is urgent alone: {own}")
    beside.terminate()
    beside.wait(20)


def a_task_runs():
    offer = factory.wait_for(lambda: [o for o in factory.offers if o["labels"] == ["source:dc1", "target"]])[0]
    ok("good" in offer["steps"] and "patient" in offer["steps"], "it offers the steps that its labels allow")
    factory.give("a1", "good")
    finish = finish_of("a1")
    ok(finish.get("outcome") == "succeeded" and finish["result"] == {"count": 42} and finish["fence"] == 7, "a step succeeds with its result")
    ok(factory.evidence("a1") == [{"name": "address", "passed": True, "evidence": "192.0.2.11, bytes ?? that are no text"}],
       "its evidence came first, as text")
    ok(any("progress" in b for p, b in factory.calls if "/a1/" in p), "and its progress")
    ok(factory.artifacts.get("/v1/runner/attempts/a1/artifacts/note.txt?fence=7") == ("text/plain", b"note"), "and its artifact")
    ok(factory.wait_for(lambda: not os.path.exists(f"{folder}/state/attempts/a1")), "its folder is gone")
    ok(factory.wait_for(lambda: not os.listdir(f"{folder}/state/finishes")), "nothing is left to tell")


def failures():
    for attempt, step, kind, words in (("b1", "bad", "unreachable", "can't be reached"), ("b2", "liar", "internal", "did not hold"),
                                       ("b3", "crash", "internal", "signal 9"), ("b4", "absent", "unsupported", "no step")):
        factory.give(attempt, step)
        finish = finish_of(attempt)
        ok(finish.get("outcome") == "failed" and finish["error"]["kind"] == kind and words in finish["error"]["message"],
           f"{step}: {finish.get('error')}")
    ok(factory.evidence("b1")[0]["passed"] is False, "the evidence of a failure is told")
    factory.give("b5", "hang", timeout_ms=1000)
    pids = factory.wait_for(lambda: [e["evidence"] for e in factory.evidence("b5")])[0].split()
    finish = finish_of("b5", 20)
    ok(finish.get("error", {}).get("kind") == "timeout", f"what hangs is ended: {finish.get('error')}")
    ok(not any(alive(p) for p in pids), "with all that it started")


def stops():
    factory.give("c1", "patient")
    factory.wait_for(lambda: factory.evidence("c1"))
    factory.answer["c1"] = "cancel"
    ok(finish_of("c1").get("error", {}).get("kind") == "cancelled", "a cancelled task stops and says so")
    factory.give("c2", "hang")
    pids = factory.wait_for(lambda: [e["evidence"] for e in factory.evidence("c2")])[0].split()
    factory.answer["c2"] = 409
    ok(factory.wait_for(lambda: not any(alive(p) for p in pids), 5), "an old fence ends it at once")
    time.sleep(0.5)
    ok("c2" not in factory.finished, "and nothing is reported")


def bad_days(runner):
    factory.give("d1", "good")
    factory.wait_for(lambda: factory.evidence("d1"))
    factory.down = True
    factory.give("d2", "good")  # given by nobody: the factory is down
    factory.down = False
    ok(finish_of("d2").get("outcome") == "succeeded", "a factory that was away is served again")
    # A finish that could not be told survives SIGKILL of the runner.
    factory.give("d3", "patient", timeout_ms=1500)
    factory.wait_for(lambda: factory.evidence("d3"))
    factory.down = True
    ok(factory.wait_for(lambda: os.path.exists(f"{folder}/state/finishes/d3.json"), 8), "an end that can't be told is kept")
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    factory.down = False
    runner = start()
    ok(finish_of("d3").get("error", {}).get("kind") == "timeout", "and told by the next runner, though this one was killed")
    ok(len(factory.finished["d3"]) == 1, "once")
    # A runner that is killed takes its attempts' processes with it.
    factory.give("d4", "hang")
    pids = factory.wait_for(lambda: [e["evidence"] for e in factory.evidence("d4")])[0].split()
    second = start()
    ok(second.wait(10) == 7, "a second runner on the same state is refused")
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    ok(factory.wait_for(lambda: not any(alive(p) for p in pids), 5), "a killed runner leaves no process behind")
    time.sleep(1.5)  # the dead runner's long poll must not take what is meant for the next
    runner = start()
    factory.give("d4", "good", fence=8)
    ok(finish_of("d4").get("fence") == 8, "the attempt runs again under its new fence")
    # The lease runs out while the factory is away: another runner may have the task, so ours must stop.
    factory.give("d5", "hang")
    pids = factory.wait_for(lambda: [e["evidence"] for e in factory.evidence("d5")])[0].split()
    factory.down = True
    ok(factory.wait_for(lambda: not any(alive(p) for p in pids), 8), "a lease that can't be renewed ends the attempt")
    factory.down = False
    return runner


def no_secrets():
    told = json.dumps(factory.calls) + open(f"{folder}/log", errors="replace").read()
    ok("hunter2" not in told, "no secret was told or logged")
    ok(os.stat(f"{folder}/state/identity/key.pem").st_mode & 0o77 == 0, "the key is for nobody else")


def the_end(runner):
    factory.give("e1", "hang")
    pids = factory.wait_for(lambda: [e["evidence"] for e in factory.evidence("e1")])[0].split()
    runner.terminate()
    ok(runner.wait(15) == 0, "SIGTERM ends it well")
    ok(not any(alive(p) for p in pids), "and what it ran")


certificates()
server = Server(("127.0.0.1", 0), Handler)
url = f"https://127.0.0.1:{server.server_address[1]}"
threading.Thread(target=server.serve_forever, daemon=True).start()
runner = None
try:
    enrolment()
    places()
    runner = start()
    a_task_runs()
    failures()
    stops()
    runner = bad_days(runner)
    no_secrets()
    the_end(runner)
finally:
    if runner and runner.poll() is None:
        runner.kill()
    if tap.failed:
        print("# " + open(f"{folder}/log", errors="replace").read()[-6000:].replace("\n", "\n# "))
    shutil.rmtree(folder, ignore_errors=True)
sys.exit(tap.finish())
