"""What every part of the demo's world needs: running commands, JSON files, processes that can be found again after a crash."""
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent.parent  # demo.d/


class Failure(Exception):
    """What failed, why, and what to do, in words for the person who started the demo."""


class Ended(Failure):
    """What was waited for can't come any more."""


def run(*command, input=None, timeout_s=120, check=True, env=None):
    """Runs a command to its end and returns its stdout; a non-zero exit is a Failure with the last lines of stderr."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=input, capture_output=True, text=True, timeout=timeout_s, env=env,
                              stdin=subprocess.DEVNULL if input is None else None)
    except FileNotFoundError:
        raise Failure(f"{words[0]} is not installed; scripts/setup installs what the demo needs") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(words)[:200]} took longer than {timeout_s} s") from None
    if check and done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise Failure(f"{' '.join(words)[:200]} failed ({done.returncode}): {tail}")
    return done.stdout


def write_json(path, value):
    """Atomic, so that a reader never meets half a file."""
    path = pathlib.Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(beside, path)


def read_json(path, otherwise=None):
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return otherwise


def timestamp(seconds=None):
    """RFC 3339 in UTC with milliseconds."""
    when = datetime.datetime.fromtimestamp(time.time() if seconds is None else seconds, datetime.timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def run_id(folder):
    """The id in the names of everything outside the folder. Made from the folder's path, so that `down` finds it all
    without any file of a run that crashed, and two copies of the demo never meet."""
    return hashlib.sha256(str(pathlib.Path(folder).resolve()).encode()).hexdigest()[:8]


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(base) / "slipway-demo"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


class Lock:
    """An exclusive lock on a file, so that two copies of the demo don't build the same image twice.
    waits=False: BlockingIOError where somebody holds it."""

    def __init__(self, path, waits=True):
        self.path, self.waits = path, waits

    def __enter__(self):
        self.file = open(self.path, "w", encoding="ascii")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | (0 if self.waits else fcntl.LOCK_NB))
        except BlockingIOError:
            self.file.close()
            raise
        return self

    def __exit__(self, *_):
        self.file.close()


def start_time(pid):
    """The kernel's start time of a process: with it a recorded pid can't be mistaken for a later process of the same number."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Processes:
    """Background processes of one world, recorded in DIR/pids/NAME.json."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder) / "pids"
        self.logs = pathlib.Path(folder) / "logs"

    def start(self, name, *command, env=None):
        """Starts a process in a session of its own; its output goes to DIR/logs/NAME.log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.logs / f"{name}.log", "ab") as log:
            child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     start_new_session=True, env=env)
        write_json(self.folder / f"{name}.json", {"pid": child.pid, "start_time": start_time(child.pid)})
        return child

    def pid(self, name):
        """The process's pid while it runs, else None."""
        held = read_json(self.folder / f"{name}.json")
        return held["pid"] if held and held["start_time"] is not None and start_time(held["pid"]) == held["start_time"] else None

    def names(self):
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def stop(self, name, grace_s=5):
        pid = self.pid(name)
        if pid:
            end_process(pid, grace_s)
        (self.folder / f"{name}.json").unlink(missing_ok=True)


def end_process(pid, grace_s=5):
    """SIGTERM, then SIGKILL after the grace."""
    begun, started = start_time(pid), time.monotonic()
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        while begun is not None and start_time(pid) == begun:
            try:  # a child of ours must be waited for, or it stays as a zombie
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
            if time.monotonic() - started > grace_s:
                break
            time.sleep(0.02)
        else:
            return


def wait_for(what, look, timeout_s, every_s=0.1):
    """Calls look() until it gives something true, and returns that. look may raise OSError or Failure while it isn't there yet."""
    end, last = time.monotonic() + timeout_s, None
    while True:
        try:
            found = look()
            if found:
                return found
        except Ended:
            raise
        except (OSError, Failure) as failure:
            last = failure
        if time.monotonic() > end:
            raise Failure(f"{what} did not come within {timeout_s} s" + (f": {last}" if last else ""))
        time.sleep(every_s)
