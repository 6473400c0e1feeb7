#!/usr/bin/python3
"""A small S3 server for tests: one bucket, objects as files in a folder, signatures checked (s3_client.py). It can misbehave: FOLDER/fault holds words that are read anew with each request.

  gone      the connection ends without an answer          500 N     the next N requests are answered 500
  slow      every answer waits 20 s                        wrong     what is got has a flipped bit
  short     what is got ends early (and says so)           cut       what is got ends early (and says otherwise)
  spoil     what is put is kept with a flipped bit         lie       the same, under the tag of what was sent
  forget    what is put is not kept                        nobucket  there is no such bucket
  late      every answer waits 50 ms                       once      of each segment what is got first has a flipped bit
  later     what is put of segments is not answered, and is kept when FOLDER/carry is there: FOLDER/carried is there once all of it was
  hold      what is to be deleted is not, until whoever asked goes away: FOLDER/held is there from then on, and FOLDER/left after

FOLDER/at_once says how many segments were being put at once at most.

Usage: s3_server.py FOLDER PORT BUCKET ACCESS SECRET; prints its port (0: any) when it listens."""
import base64
import hashlib
import http.server
import pathlib
import random
import sys
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

sys.dont_write_bytecode = True
from s3_client import signature  # pylint: disable=wrong-import-position

PAGE = 3
folder, bucket, access, secret = pathlib.Path(sys.argv[1]), sys.argv[3], sys.argv[4], sys.argv[5]
objects = folder / "objects"
objects.mkdir(parents=True, exist_ok=True)
lock = threading.Lock()
putting, waiting, at_once, spoilt = [], [], folder / "at_once", set()
at_once.write_text("0")


def flipped(data):
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:] if data else data


def path_of(key):
    return objects / urllib.parse.quote(key, safe="")


class Refused(Exception):
    def __init__(self, status, code):
        super().__init__(code)
        self.status, self.code = status, code


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def fault(self):
        with lock:
            path = folder / "fault"
            word, _, count = (path.read_text() if path.exists() else "").strip().partition(" ")
            if count:
                path.write_text(f"{word} {int(count) - 1}" if int(count) > 1 else "")
            return word

    def check(self, body):
        """AWS Signature Version 4."""
        words = self.headers.get("Authorization", "")
        if not words.startswith("AWS4-HMAC-SHA256 "):
            raise Refused(403, "AccessDenied")
        parts = dict(p.strip().split("=", 1) for p in words.split(" ", 1)[1].split(","))
        who, day, region, service, end = parts["Credential"].split("/")
        names = parts["SignedHeaders"].split(";")
        if who != access or (service, end) != ("s3", "aws4_request"):
            raise Refused(403, "InvalidAccessKeyId")
        stamp = self.headers["x-amz-date"]
        if abs(time.time() - (time.mktime(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) - time.timezone)) > 900 or stamp[:8] != day:
            raise Refused(403, "RequestTimeTooSkewed")
        needed = {"host"} | {n.lower() for n in self.headers if n.lower().startswith("x-amz-")}
        if not needed <= set(names) or names != sorted(names):
            raise Refused(403, "AccessDenied")
        url = urllib.parse.urlsplit(self.path)
        pairs = urllib.parse.parse_qsl(url.query, keep_blank_values=True)
        payload = self.headers["x-amz-content-sha256"]
        wanted = signature(secret, method=self.command, path=urllib.parse.unquote(url.path), query=pairs, headers=self.headers, names=names, payload=payload, stamp=stamp, region=region)
        if wanted != parts["Signature"]:
            raise Refused(403, "SignatureDoesNotMatch")
        if hashlib.sha256(body).hexdigest() != payload:
            raise Refused(400, "XAmzContentSHA256Mismatch")
        if self.headers["content-md5"] and base64.b64decode(self.headers["content-md5"]) != hashlib.md5(body).digest():
            raise Refused(400, "BadDigest")

    def answer(self, status, body=b"", claimed=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if claimed is not None and claimed != len(body) and self.command != "HEAD":
            self.close_connection = True

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.fault()
        if fault == "gone":
            self.close_connection = True
            return
        if fault in ("slow", "late"):
            time.sleep(20 if fault == "slow" else 0.05)
        try:
            if fault == "500":
                raise Refused(500, "InternalError")
            self.check(body)
            url = urllib.parse.urlsplit(self.path)
            name, _, key = urllib.parse.unquote(url.path)[1:].partition("/")
            if name != bucket or fault == "nobucket":
                raise Refused(404, "NoSuchBucket")
            if not key:
                self.list(dict(urllib.parse.parse_qsl(url.query)))
            else:
                getattr(self, self.command.lower())(key, body, fault)
        except Refused as refused:
            self.answer(refused.status, f"<?xml version=\"1.0\"?><Error><Code>{refused.code}</Code><Message>no &amp; no</Message></Error>".encode())


    def serve_counted(self):
        counted = [self] if self.command == "PUT" and self.path.endswith(".seg") else []
        with lock:
            putting.extend(counted)
            if len(putting) > int(at_once.read_text()):
                at_once.write_text(str(len(putting)))
        try:
            self.serve()
        finally:
            with lock:
                for one in counted:
                    putting.remove(one)

    do_GET = do_PUT = do_HEAD = do_DELETE = serve_counted

    def carry_out(self, key, body, meta):
        while not (folder / "carry").exists():
            time.sleep(0.02)
        path_of(key).write_bytes(body)
        path_of(key).with_suffix(".meta").write_text(meta)
        with lock:
            waiting.remove(key)
            if not waiting:
                (folder / "carried").touch()

    def put(self, key, body, fault):
        if fault == "later" and key.endswith(".seg"):
            with lock:
                waiting.append(key)
            threading.Thread(target=self.carry_out, args=(key, body, self.headers.get("x-amz-meta-sha256", "")), daemon=True).start()
            self.close_connection = True
            return
        kept = flipped(body) if fault in ("spoil", "lie") else body
        if fault != "forget":
            path_of(key).write_bytes(kept)
            path_of(key).with_suffix(".meta").write_text(self.headers.get("x-amz-meta-sha256", "") if fault != "lie" else hashlib.sha256(kept).hexdigest())
        self.answer(200, ETag=f'"{hashlib.md5(kept if fault == "spoil" else body).hexdigest()}"')

    def object(self, key):
        path = path_of(key)
        if not path.exists():
            raise Refused(404, "NoSuchKey")
        return path.read_bytes()

    def head(self, key, _body, _fault):
        data = self.object(key)
        self.answer(200, claimed=len(data), ETag=f'"{hashlib.md5(data).hexdigest()}"', x_amz_meta_sha256=path_of(key).with_suffix(".meta").read_text())

    def get(self, key, _body, fault):
        data = self.object(key)
        status, headers = 200, {}
        if self.headers["range"]:
            first, last = (int(n) for n in self.headers["range"].removeprefix("bytes=").split("-"))
            if first >= len(data):
                raise Refused(416, "InvalidRange")
            headers["Content_Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            status, data = 206, data[first:last + 1]
        if fault == "wrong" and not key.endswith("vault.json"):
            data = flipped(data)
        if fault == "once" and key.endswith(".seg") and key not in spoilt:
            spoilt.add(key)
            data = flipped(data)
        if fault == "short":
            data = data[:len(data) // 2]
        self.answer(status, data[:len(data) // 2] if fault == "cut" else data, len(data), **headers)

    def delete(self, key, _body, fault):
        if fault == "hold":
            (folder / "held").touch()
            self.connection.recv(1)
            (folder / "left").touch()
            self.close_connection = True
            return
        path_of(key).unlink(missing_ok=True)
        path_of(key).with_suffix(".meta").unlink(missing_ok=True)
        self.answer(204)

    def list(self, asked):
        keys = sorted(urllib.parse.unquote(p.name) for p in objects.iterdir() if not p.name.endswith(".meta"))
        keys = [k for k in keys if k.startswith(asked.get("prefix", "")) and k > asked.get("continuation-token", "").removeprefix("after & ")]
        page, more = keys[:PAGE], len(keys) > PAGE
        text = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        text += f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>" + (f"<NextContinuationToken>{escape('after & ' + page[-1])}</NextContinuationToken>" if more else "")
        for key in page:
            text += f"<Contents><Key>{escape(key)}</Key><Size>{path_of(key).stat().st_size}</Size></Contents>"
        self.answer(200, (text + "</ListBucketResult>").encode())


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


def listening(port):
    """At this port; at 0: one that no outgoing connection of other programs can take while this server is away."""
    while True:
        try:
            return Server(("127.0.0.1", port or random.randrange(10000, 32768)), Handler)
        except OSError:
            if port:
                raise


server = listening(int(sys.argv[2]))
print(server.server_address[1], flush=True)
server.serve_forever()
