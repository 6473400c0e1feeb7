"""An agent of the test's own, on the wire (docs/formats/wire.md): says what it is told to say, when it is told to. Its disk is all zeros."""
import json
import queue
import select
import socket
import ssl
import struct
import threading

TYPES = {"HELLO": 1, "OFFER": 2, "POINT_COMMIT": 5, "POINT_AT": 12, "WELCOME": 32, "NEED": 33, "ACK": 34, "TAKE_POINT": 35, "POINT_DONE": 36,
         "POINT_GO": 44, "POINT_FAILED": 64, "REFUSE": 66, "PING": 67, "PONG": 68}
NAMES = {number: name for name, number in TYPES.items()}
CHUNKS = 16


class Agent:
    def __init__(self, world, server):
        self.server, self.sequence, self.offers, self.request = server, 0, 0, 0
        self.heard = queue.Queue()
        folder = world.dir / f"agent-{server}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(folder / "ca.pem")
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.stream = context.wrap_socket(socket.create_connection(("127.0.0.1", world.port), timeout=30))
        self.lock = threading.Lock()  # one thread at a time uses the stream: OpenSSL's wish
        threading.Thread(target=self.listen, daemon=True).start()
        self.say("HELLO", version=1, agent_version="test", server=server, boot_id="b", tracker="ebpf", epoch=f"e-{server}-{id(self)}",
                 disks=[{"id": "disk", "name": "vda", "size_bytes": CHUNKS * 65536}])
        self.expect("WELCOME")
        self.offer()
        self.expect("ACK")

    def frame(self, name, payload):
        with self.lock:
            self.sequence += 1
            self.stream.settimeout(20)
            self.stream.sendall(struct.pack("<IHHI", len(payload), TYPES[name], 0, self.sequence) + payload)

    def say(self, name, **message):
        self.frame(name, json.dumps(message).encode())

    def offer(self):
        """All chunks, zero: nothing more has to travel."""
        self.offers += 1
        entries = b"".join(struct.pack("<IBBH32x", chunk, 1, 0, 0) for chunk in range(CHUNKS))
        self.frame("OFFER", struct.pack("<QHH", self.offers, 0, CHUNKS) + entries)

    def read(self, size):
        data = b""
        while len(data) < size:
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
                elif name != "PONG":
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

    def asked(self, **members):
        message = self.expect("TAKE_POINT", **members)
        self.request = message["request"]
        return message

    def at(self, step):
        self.say("POINT_AT", request=self.request, value=step)

    def told(self, step):
        self.expect("POINT_GO", request=self.request, value=step)

    def commit(self, group=True, consistency="frozen"):
        self.say("POINT_COMMIT", request=self.request, consistency=consistency, at_us=1, freeze_ms=3, held=False, attempts=1, group=group)

    def fail(self, kind="timeout"):
        self.say("POINT_FAILED", request=self.request, kind=kind, message="as the test wants it")

    def close(self):
        self.stream.shutdown(socket.SHUT_RDWR)
        self.stream.close()
