"""For stores that are killed and come back at the same port."""
import ctypes
import signal
import socket
import time


def wait_for(port, processes, log):
    """Until somebody listens there; OSError with the end of the log where one of the processes ends before."""
    while all(process.poll() is None for process in processes):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
    raise OSError(f"the store has ended: {log.read_text(errors='replace')[-1500:]}")


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
