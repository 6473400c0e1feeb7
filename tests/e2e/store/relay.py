"""A network between a replicator and its store: TLS under a CA of this run, as a load balancer before the store has it, and it can be lost in the midst of what is sent."""
import select
import socket
import ssl
import threading
import time

BLOCK = 65536


class Relay:
    """https://127.0.0.1:port to 127.0.0.1:to."""

    def __init__(self, to, certificate, key):
        self.to = to
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.lock = threading.Lock()
        self.left = None  # bytes to the store until the network is lost; None: it holds
        self.lost = threading.Event()
        self.links = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def lose_after(self, size):
        """When so many bytes more went to the store, nothing moves any more: connections stay, new ones are not answered."""
        with self.lock:
            self.left = size

    def heal(self):
        """The network is back; what hung in it is broken off."""
        with self.lock:
            self.left = None
            self.lost.clear()
            for link in self.links:
                socket.socket.shutdown(link, socket.SHUT_RDWR)  # of TCP, whatever its thread does with TLS

    def close(self):
        self.listener.close()

    def take(self, size):
        with self.lock:
            if self.left is not None:
                self.left -= size
                if self.left <= 0:
                    self.lost.set()

    def accept(self):
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(link,), daemon=True).start()

    def wait(self):
        while self.lost.is_set():
            time.sleep(0.05)

    def serve(self, link):
        client = None
        try:
            self.wait()
            link.settimeout(600)
            with link, self.context.wrap_socket(link, server_side=True) as client, socket.create_connection(("127.0.0.1", self.to)) as store:
                with self.lock:
                    self.links.add(client)
                self.move(client, store)
        except OSError:
            pass
        finally:
            with self.lock:
                self.links.discard(client)

    def move(self, client, store):
        while True:
            ready = [client] if client.pending() else select.select([client, store], [], [], 1)[0]
            self.wait()
            for end in ready:
                data = end.recv(BLOCK)
                if not data:
                    return
                (store if end is client else client).sendall(data)
                if end is client:
                    self.take(len(data))
