"""Requests a second and their latency of `slipway serve` over TLS, beside nginx serving a file of the same size; an import of 10,000 servers."""
import json
import os
import re
import ssl
import statistics
import urllib.request

from common import Place, free_port, run, timed, wait_for

DURATION = "4 min, quick 40 s"
WAVES = 50
CONNECTIONS = 16
UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
NGINX = """daemon off; user root; worker_processes auto; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {dir}/nginx; proxy_temp_path {dir}/nginx; fastcgi_temp_path {dir}/nginx;
  uwsgi_temp_path {dir}/nginx; scgi_temp_path {dir}/nginx; sendfile on; default_type application/json; open_file_cache max=16;
  server {{ listen 127.0.0.1:{port} ssl; root {dir}/www; ssl_protocols TLSv1.3; ssl_certificate {dir}/nginx-peer/cert.pem; ssl_certificate_key {dir}/nginx-peer/key.pem; }}
}}
"""


class Factory:
    def __init__(self, place):
        self.place, self.data, self.slipway = place, place.dir / "data", place.build / "src/main/slipway"
        self.url = f"https://127.0.0.1:{place.port}"
        self.environment = {**os.environ, "HOME": str(place.dir), "XDG_CONFIG_HOME": str(place.dir / "config"), "SLIPWAY_URL": self.url, "SLIPWAY_CA": str(self.data / "ca.pem")}

    def start(self):
        """Serves as after an install, children and all, with one user's token at hand."""
        self.place.start("serve", self.slipway, "serve", "--data", self.data, "--listen", f"127.0.0.1:{self.place.port}", "--replicator-listen", f"127.0.0.1:{free_port()}")
        wait_for("slipway serve", lambda: self.get("/healthz"), 60)
        password = self.place.dir / "password"
        password.write_text(re.search(r"password: (.*)", (self.data / "first-login").read_text())[1])
        self.command("login", "--name", "admin", "--password-file", password)
        made = json.loads(self.command("token", "create", "bench", "-o", "json"))
        self.environment["SLIPWAY_TOKEN"] = self.token = made["token"]

    def command(self, *words):
        return run(self.slipway, *words, env=self.environment)

    def get(self, path, token=None):
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=self.data / "ca.pem"), timeout=20) as answer:
            return answer.read()


def servers_csv(path, count):
    rows = [f"w{n % WAVES:02},app{n // 10},server{n:05},anna@example.org,10.{n // 65536}.{n // 256 % 256}.{n % 256},linux,dc1,lan,nginx,command true" for n in range(count)]
    path.write_text("\n".join(["wave,application,server,owner,address,credential,network,target_network,services,checks", *rows]) + "\n")


def imports(factory, count):
    """Seconds for the first import and for the same file once more, in which nothing has changed."""
    file = factory.place.dir / "servers.csv"
    servers_csv(file, count)
    words, env = (factory.slipway, "import", file, "--create-waves"), {"env": factory.environment}
    first, again = timed(*words, **env), timed(*words, **env)
    exported = factory.get("/v1/exports", factory.token).decode().count("\n") - 1
    if exported != count:
        raise RuntimeError(f"{exported} servers are there after an import of {count}")
    return first, again


def nginx(place, bodies):
    """The peer: each body as a file."""
    (place.dir / "www").mkdir()
    for name, body in bodies.items():
        (place.dir / "www" / name).write_bytes(body)
    port = free_port()
    (place.dir / "nginx.conf").write_text(NGINX.format(dir=place.dir, port=port))
    place.start("nginx", "nginx", "-e", place.dir / "nginx.log", "-c", place.dir / "nginx.conf")
    url = f"https://127.0.0.1:{port}"
    for name in bodies:
        wait_for("nginx", lambda name=name: run("curl", "-sf", "--insecure", f"{url}/{name}"), 20)
    return url


def load(url, seconds, token=None):
    """One run of wrk, each connection kept alive: requests a second, p50 and p99 in ms. A single wrong answer is a failure."""
    said = run("wrk", "-t", 1, "-c", CONNECTIONS, "-d", f"{seconds}s", "--latency", *(("-H", f"Authorization: Bearer {token}") if token else ()), url)
    return parse(said)


def parse(said):
    wrong = re.search(r"(Non-2xx or 3xx responses|Socket errors):.*", said)
    if wrong:
        raise RuntimeError(f"wrk: {wrong[0]}")
    got = {"rate": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])}
    for name, share in (("p50_ms", "50"), ("p99_ms", "99")):
        value, unit = re.search(rf"^\s+{share}%\s+([\d.]+)(us|ms|s)\s*$", said, re.M).groups()
        got[name] = float(value) * UNITS_MS[unit]
    if not got["rate"]:
        raise RuntimeError("wrk: no request was answered")
    return got


def figures(what, ours, peer, size, how):
    def middle(runs, key):
        return round(statistics.median(got[key] for got in runs), 2)
    for key, title, unit in (("rate", "requests a second", "1/s"), ("p50_ms", "p50 of the latency", "ms"), ("p99_ms", "p99 of the latency", "ms")):
        yield {"what": f"{title}: {what}", "unit": unit, "ours": middle(ours, key), "peers": {f"nginx, a file of {size} bytes": middle(peer, key)},
               "higher_is_better": key == "rate", "how": how}


def measure(build, quick):
    count, rounds, seconds = (1000, 1, 4) if quick else (10000, 5, 10)
    with Place(build) as place:
        factory = Factory(place)
        factory.start()
        first, again = imports(factory, count)
        how = f"one run of the command, {WAVES} waves made by it, SQLite with synchronous=FULL; all of them counted afterwards"
        yield {"what": f"slipway import of {count:,} servers", "unit": "s", "ours": round(first, 2), "peers": {}, "how": how}
        yield {"what": f"the same {count:,} servers imported again, nothing changed", "unit": "s", "ours": round(again, 2), "peers": {}, "how": how}
        asked = {f"GET /v1/waves with a token, {WAVES} waves": ("/v1/waves", factory.token, "waves"), "GET /healthz": ("/healthz", None, "healthz")}
        bodies = {name: factory.get(path, token) for path, token, name in asked.values()}
        place.certificates("nginx:peer")
        peer_url = nginx(place, bodies)
        for what, (path, token, name) in asked.items():
            ours, peer = [], []
            for _ in range(rounds):
                ours.append(load(factory.url + path, seconds, token))
                peer.append(load(f"{peer_url}/{name}", seconds))
            yield from figures(what, ours, peer, len(bodies[name]),
                               f"wrk, {CONNECTIONS} connections kept alive, TLS 1.3 on loopback, medians of {rounds} runs of {seconds} s each, in turns; "
                               "the load comes from the same machine")
