"""An agent of the test's own, on the wire (docs/formats/wire.md): says what it is told to say, when it is told to. Its disk is all zeros."""
import hashlib
import json
import queue
import select
import socket
import ssl
import struct
import threading
import time
import uuid

TYPES = {"HELLO": 1, "OFFER": 2, "DATA": 3, "POINT_COMMIT": 5, "STATUS": 9, "BYE": 10, "POINT_AT": 12, "COPY": 17, "COPY_POINT": 18, "COPY_COMMIT": 19, "WELCOME": 32, "NEED": 33, "ACK": 34,
         "TAKE_POINT": 35, "POINT_DONE": 36, "THAW": 37, "PAUSE": 39, "DETACH": 42, "POINT_GO": 44, "COPYING": 48, "COPY_GO": 49, "POINT_FAILED": 64, "REFUSE": 66, "PING": 67, "PONG": 68}
NAMES = {number: name for name, number in TYPES.items()}
CHUNKS = 16


class Wire:
    """A connection to a replicator, with the certificate that lies in a folder."""

    def __init__(self, folder, port, server):
        self.server, self.sequence, self.offers, self.request = server, 0, 0, 0
        self.heard = queue.Queue()
        self.deaf = False  # it takes nothing more
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(folder / "ca.pem")
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.stream = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30))
        self.lock = threading.Lock()  # one thread at a time uses the stream: OpenSSL's wish
        threading.Thread(target=self.listen, daemon=True).start()

    def frame(self, name, payload):
        with self.lock:
            self.sequence += 1
            self.stream.settimeout(20)
            self.stream.sendall(struct.pack("<IHHI", len(payload), TYPES[name], 0, self.sequence) + payload)

    def flood(self):
        """It asks and asks, and takes no answer, until the other end waits for it to do so and takes no more itself."""
        self.deaf = True
        time.sleep(0.3)
        payload = json.dumps({"request": 1, "value": 0}).encode()
        with self.lock:
            self.stream.settimeout(1)
            try:
                while True:
                    asked = b"".join(struct.pack("<IHHI", len(payload), TYPES["PING"], 0, self.sequence + n + 1) + payload for n in range(1000))
                    self.stream.sendall(asked)
                    self.sequence += 1000
            except OSError:
                pass  # it waits

    def say(self, name, **message):
        self.frame(name, json.dumps(message).encode())

    def offer(self, disk=0):
        """All chunks, zero: nothing more has to travel."""
        self.offers += 1
        entries = b"".join(struct.pack("<IBBH32x", chunk, 1, 0, 0) for chunk in range(CHUNKS))
        self.frame("OFFER", struct.pack("<QHH", self.offers, disk, CHUNKS) + entries)

    def offer_one(self, content):
        """A first chunk that holds something: data has to follow."""
        self.offers += 1
        self.frame("OFFER", struct.pack("<QHH", self.offers, 0, 1) + struct.pack("<IBBH32s", 0, 0, 0, 0, hashlib.sha256(content).digest()))

    def data(self, content):
        self.frame("DATA", struct.pack("<QHH", self.offers, 1, 0) + struct.pack("<HBBII", 0, 0, 0, len(content), len(content)) + content)

    def read(self, size):
        data = b""
        while len(data) < size:
            while self.deaf:
                time.sleep(0.1)
            if not self.stream.pending():
                select.select([self.stream], [], [], 0.2)
            with self.lock:
                self.stream.settimeout(0)
                try:
                    piece = self.stream.recv(size - len(data))
                except ssl.SSLWantReadError:
                    continue
            if not piece:
                raise OSError("closed")
            data += piece
        return data

    def listen(self):
        try:
            while True:
                size, number, _, _ = struct.unpack("<IHHI", self.read(12))
                payload = self.read(size)
                name = NAMES.get(number, str(number))
                if name == "PING":
                    self.frame("PONG", payload)
                elif name in ("NEED", "ACK"):
                    self.heard.put((name, {}))
                else:
                    self.heard.put((name, json.loads(payload)))
        except (OSError, ValueError):
            self.heard.put(("closed", {}))

    def expect(self, name, seconds=20, **members):
        """The next message of that name: what else comes before it is dropped but for a connection's end."""
        while True:
            try:
                got, message = self.heard.get(timeout=seconds)
            except queue.Empty:
                raise OSError(f"{self.server}: no {name} {members} came") from None
            if got == name and all(message.get(k) == v for k, v in members.items()):
                return message
            if got == "closed":
                raise OSError(f"{self.server}: closed where {name} was expected")

    def hears_nothing(self, seconds=0.3):
        try:
            return self.heard.get(timeout=seconds)[0] in ("NEED", "ACK")
        except queue.Empty:
            return True

    def close(self):
        self.stream.shutdown(socket.SHUT_RDWR)
        self.stream.close()


class Agent(Wire):
    def __init__(self, world, server, greet=True, **hello):
        """hello: members of HELLO; without greet nothing is said after it."""
        super().__init__(world.dir / f"agent-{server}", world.port, server)
        self.say("HELLO", **{"version": 2, "agent_version": "test", "server": server, "boot_id": "b", "tracker": "ebpf", "epoch": uuid.uuid4().hex,
                             "disks": [{"id": "disk", "name": "vda", "size_bytes": CHUNKS * 65536}], **hello})
        if not greet:
            return
        self.expect("WELCOME")
        self.offer()
        self.expect("ACK")

    def goes_on(self):
        """It follows its disk, and has nothing to send: points can be asked for by the clock."""
        self.say("STATUS", state="CONTINUOUS", tracker="ebpf", bytes_total=CHUNKS * 65536, bytes_read=0, bytes_sent=0, bytes_done=0, backlog_bytes=0, lag_ms=0,
                 eta_ms=-1, rate_bytes_per_s=0, churn_bytes_per_s=0, limit_bytes_per_s=0, bottleneck="", source_latency_us=0, source_latency_without_us=0,
                 source_latency_with_us=0, backoff_bytes_per_s=0, held=False, tracker_reason="", rescan_interval_s=0, note_kind="", note="",
                 unreadable_bytes=0, unreadable="", error_kind="", error="")

    def asked(self, **members):
        message = self.expect("TAKE_POINT", **members)
        self.request = message["request"]
        return message

    def at(self, step):
        self.say("POINT_AT", request=self.request, value=step)

    def told(self, step):
        self.expect("POINT_GO", request=self.request, value=step)

    def commit(self, group=True, consistency="frozen", held=False):
        self.say("POINT_COMMIT", request=self.request, consistency=consistency, at_us=1, freeze_ms=3, held=held, attempts=1, group=group,
                 unreadable_bytes=0, ranges=[])

    def fail(self, kind="timeout"):
        self.say("POINT_FAILED", request=self.request, kind=kind, message="as the test wants it")
