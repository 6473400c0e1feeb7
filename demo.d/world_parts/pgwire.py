"""pgwire: as much of PostgreSQL's protocol 3 as the demo needs: trust or peer authentication and the simple query.
Standard library only, and only the part of it that python3-minimal has: this file also goes into the guest db01."""
import socket
import struct


class PgError(OSError):
    """The server's own words, or a broken conversation."""


class Connection:
    def __init__(self, address, user, database, timeout_s):
        """address: (host, port), or the path of a unix socket."""
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout_s)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.held = b""
        words = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
        try:
            self.socket.sendall(struct.pack("!II", 8 + len(words), 196608) + words)
            self._until_ready()
        except BaseException:
            self.socket.close()
            raise

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def query(self, text):
        """The rows of a simple query: tuples of str, or None for NULL."""
        body = text.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!I", 4 + len(body)) + body)
        return self._until_ready()

    def _exactly(self, size):
        pieces, have = [self.held], len(self.held)
        while have < size:
            piece = self.socket.recv(65536)
            if not piece:
                raise PgError("the server closed the connection")
            pieces.append(piece)
            have += len(piece)
        whole = b"".join(pieces)
        self.held = whole[size:]
        return whole[:size]

    def _until_ready(self):
        rows, failure = [], None
        while True:
            kind, size = struct.unpack("!cI", self._exactly(5))
            if not 4 <= size <= 1 << 24:
                raise PgError("an answer that is not PostgreSQL's")
            body = self._exactly(size - 4)
            if kind == b"D":
                rows.append(fields_of(body))
            elif kind == b"E":
                words = {field[:1]: field[1:].decode("utf-8", "replace") for field in body.split(b"\0") if field}
                failure = PgError(f"{words.get(b'S', 'ERROR')}: {words.get(b'M', 'unknown')}")
                if words.get(b"S") in ("FATAL", "PANIC"):
                    raise failure
            elif kind == b"R" and struct.unpack("!I", body[:4])[0]:
                raise PgError("the server asks for a password")
            elif kind == b"Z":
                if failure:
                    raise failure
                return rows


def fields_of(body):
    """A DataRow's fields."""
    fields, at = [], 2
    for _ in range(struct.unpack("!H", body[:2])[0]):
        size = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        fields.append(None if size < 0 else body[at:at + size].decode())
        at += max(size, 0)
    return tuple(fields)
