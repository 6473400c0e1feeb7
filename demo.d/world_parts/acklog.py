"""The machine that hears of each row that db01's database has acknowledged: a line "N SUM" over TCP is on disk here (fsync) before it counts,
as "N SUM TIME". What is in this file was acknowledged; only whole lines get in."""
import os
import selectors
import socket
import time

PORT = 7001
LINE_LIMIT = 4096


def serve(address, path):
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    server = socket.create_server((address, PORT))
    ready = selectors.DefaultSelector()
    ready.register(server, selectors.EVENT_READ)
    held = {}
    while True:
        lines = []
        for key, _ in ready.select():
            if key.fileobj is server:
                peer, _ = server.accept()
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                ready.register(peer, selectors.EVENT_READ)
                held[peer] = b""
                continue
            lines += take(key.fileobj, held, ready)
        if lines:
            now = f"{time.time():.3f}"
            os.write(log, "".join(f"{line} {now}\n" for line in lines).encode())
            os.fsync(log)


def take(peer, held, ready):
    """The whole lines that a peer has sent."""
    try:
        piece = peer.recv(65536)
    except OSError:
        piece = b""
    whole, _, rest = (held[peer] + piece).rpartition(b"\n")
    if not piece or len(rest) > LINE_LIMIT:
        ready.unregister(peer)
        del held[peer]
        peer.close()
    else:
        held[peer] = rest
    return [line for line in whole.decode("ascii", "replace").split("\n") if len(line.split()) == 2]


def read(path):
    """{number: checksum} of what was acknowledged."""
    rows = {}
    with open(path, encoding="ascii") as log:
        for line in log:
            number, checksum, _ = line.split()
            # A number that was acknowledged twice with different content means that an acknowledged row was lost: it can't match both.
            rows[int(number)] = checksum if rows.get(int(number), checksum) == checksum else "twice"
    return rows
