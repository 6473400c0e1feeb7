#!/usr/bin/python3
"""http_server FOLDER: an HTTPS server on a free port of 127.0.0.1 that wants client certificates of the CA in FOLDER where they are given.
Prints its port. What it answers is named by the path."""
import http.server
import json
import ssl
import sys
import time

folder = sys.argv[1]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections = dropped = 0

    def setup(self):
        super().setup()
        Handler.connections += 1

    def send(self, status, body, kind="application/json", **headers):
        body = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self):
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if self.path == "/echo":
            peer = self.connection.getpeercert()
            name = dict(x[0] for x in peer["subject"])["commonName"] if peer else None
            self.send(200, json.dumps({"method": self.command, "body": body.decode(), "type": self.headers.get("Content-Type"),
                                       "extra": self.headers.get("X-Extra"), "peer": name, "connections": Handler.connections, "dropped": Handler.dropped}),
                      ETag='"7"')
        elif self.path == "/problem":
            self.send(422, json.dumps({"type": "about:blank", "title": "Bad", "status": 422, "detail": "two lines are wrong",
                                       "kind": "invalid", "faults": [{"field": "name", "reason": "is missing"}]}),
                      "application/problem+json")
        elif self.path == "/plain-error":
            self.send(503, "try later", "text/plain")
        elif self.path == "/not-json":
            self.send(200, "{", "application/json")
        elif self.path == "/none":
            self.send_response(204)
            self.end_headers()
        elif self.path == "/long":
            self.send(200, b"x" * 300000, "text/plain")
        elif self.path == "/slow":
            time.sleep(3)
            self.send(200, "{}")
        elif self.path == "/moved":
            self.send(302, "", Location="/echo")
        elif self.path == "/dropped":
            Handler.dropped += 1
            self.close_connection = True
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
        else:
            self.send(404, "{}")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer

    def log_message(self, *words):
        pass


class Server(http.server.ThreadingHTTPServer):
    def finish_request(self, request, client_address):
        request.settimeout(20)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
        context.load_verify_locations(f"{folder}/ca.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            with context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        except OSError:
            pass


server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
