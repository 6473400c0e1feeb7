"""A forwarder from a port on loopback into a network namespace, so that a browser of this machine reaches the demo's console."""
import ctypes
import os
import socket
import threading

CLONE_NEWNET = 0x40000000


def connect_inside(namespace, address, port):
    """A connection whose socket was made inside the namespace; this thread (short-lived) enters it and stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"can't enter {namespace}")
    finally:
        os.close(descriptor)
    return socket.create_connection((address, port), 5)


def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def serve_one(client, namespace, address, port):
    with client:
        try:
            inside = connect_inside(namespace, address, port)
        except OSError:
            return
        with inside:
            back = threading.Thread(target=copy, args=(inside, client), daemon=True)
            back.start()
            copy(client, inside)
            back.join()


def serve(local_port, namespace, address, port):
    with socket.create_server(("127.0.0.1", local_port)) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve_one, args=(client, namespace, address, port), daemon=True).start()
