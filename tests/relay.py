"""A link between two ends of a test, on loopback: what comes in on one side goes out on the other; late, slow, in shreds, or never again."""
import collections
import random
import select
import socket
import struct
import threading
import time

BLOCK = 65536
WAITING = 1000  # pieces at most that are on their way


class Relay:
    """To 127.0.0.1:to. carried: bytes; made: connections."""

    def __init__(self, to):
        self.to, self.carried, self.made, self.pairs = to, 0, 0, []
        self.bytes_per_s = 0  # 0: no bound
        self.delay_s = 0  # each way
        self.shreds = False
        self.down = False  # who comes is turned away
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def open(self, client):
        """The connection onwards; OSError: there is none. client: what asks may say first where to."""
        del client
        return socket.create_connection(("127.0.0.1", self.to), 5)

    def serve(self, client):
        try:
            if self.down:
                raise OSError("down")
            server = self.open(client)
        except OSError:
            client.close()
            return
        pair = (client, server)
        for end in pair:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(True)
        self.pairs.append(pair)
        self.made += 1
        try:
            self.carry(pair)
        except (OSError, ValueError):
            pass
        for end in pair:
            end.close()

    def carry(self, pair):
        client, server = pair
        other, waiting = {client: server, server: client}, collections.deque()
        while True:
            if pair not in self.pairs:
                time.sleep(0.1)  # forgotten: nothing moves any more, and nothing is said
                continue
            pause = max(0, waiting[0][0] - time.monotonic()) if waiting else 1
            for end in select.select(pair if len(waiting) < WAITING else [], [], [], pause)[0]:
                waiting.append((time.monotonic() + self.delay_s, other[end], end.recv(BLOCK)))
            while waiting and waiting[0][0] <= time.monotonic():
                _, end, piece = waiting.popleft()
                if not piece:
                    raise OSError("the end")
                self.send(end, piece)

    def send(self, end, piece):
        while piece:
            size = random.randint(1, len(piece)) if self.shreds else len(piece)
            end.sendall(piece[:size])
            piece = piece[size:]
            self.carried += size
            if self.bytes_per_s:
                time.sleep(size / self.bytes_per_s)

    def forget(self):
        """As a router does that starts again: what is connected stays so, half open; new connections work."""
        self.pairs = []

    def cut(self):
        """Every connection, without a word."""
        for pair in self.pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def reset(self):
        """Every connection, by an RST to the client: what it sends next fails."""
        for client, server in self.pairs:
            try:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                server.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
