"""./demo: the arguments, the order of the stages, and a clean end whatever happens."""
import argparse
import concurrent.futures
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

from world_parts import main as world_main
from world_parts.common import HERE, Failure

from . import proof
from .display import Display, duration
from . import forward
from .factory import API_PORT, Factory, Watcher
from .story import WAVE, Story

ROOT = HERE.parent
STAGES = [
    ("The source network and the build", None),
    ("The factory", "start_factory"),
    ("Pre-migration: doctor", "doctor"),
    ("Inventory", "inventory"),
    ("Build: prerequisites, agent, initial sync", "build"),
    ("Validate: test instances", "validate"),
    ("Waiting for the cutover window", "window"),
    ("Cutover", "cutover"),
    ("The way back: db01 returns to its source", "way_back"),
    ("db01 is cut over again", "cutover_again"),
    ("Comparison, acceptance, finalize", "acceptance"),
    ("Post-migration", "after"),
    ("The proof", None),
]


def build(folder):
    """Both programs, in a build folder of the demo's own."""
    log = folder / "build.log"
    target = ROOT / "build"
    with open(log, "w", encoding="utf-8") as out:
        if not (target / "build.ninja").exists():
            subprocess.run(["meson", "setup", str(target)], cwd=ROOT, stdout=out, stderr=out, check=False)
        done = subprocess.run(["ninja", "-C", str(target), "src/main/slipway", "src/main/slipway-agent"], stdout=out, stderr=out, check=False)
    if done.returncode:
        raise Failure(f"the build failed; {log} says why")
    return target / "src/main"


class Demo:
    """One run in a folder of its own. programs: the folder of slipway and slipway-agent; None: they are built."""

    def __init__(self, folder, keep=False, programs=None, factory_class=Factory):
        self.folder, self.keep, self.programs, self.factory_class = folder, keep, programs, factory_class
        self.world = world_main.World(folder / "world")
        self.display = Display([name for name, _ in STAGES])
        self.watcher = None

    def prepare(self):
        self.clean()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.display.enter(STAGES[0][0])
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            building = pool.submit(lambda: self.programs or build(self.folder))
            description = self.world.up(self.display.say)
            programs = building.result()
        self.factory = self.factory_class(self.folder, self.world, description, programs)
        self.watcher = Watcher(self.factory, WAVE, self.display)
        self.story = Story(self.folder, self.world, self.factory, description, self.display, self.watcher)
        self.display.say(f"the guests run under {description['accelerator']}")

    def drive(self):
        """All stages, then the proof's report."""
        for name, method in STAGES[1:]:
            self.display.enter(name)
            if method:
                getattr(self.story, method)()
        return self.story.proof()

    def run(self):
        begun = time.monotonic()
        self.prepare()
        report = self.drive()
        self.watcher.close()
        self.display.leave()
        self.display.close()
        print()
        for line in proof.lines(report):
            print(line)
        print(f"\nreport: {self.folder}/report.html and report.json\nthe whole demo took {duration(time.monotonic() - begun)}")
        return 0 if report["result"] == "passed" else 1

    def clean(self):
        self.world.down()
        for path in ("factory", "runner", "secrets", "config"):
            shutil.rmtree(self.folder / path, ignore_errors=True)

    def tell_how_to_look(self):
        """Leaves .demo/slipway, the command line with the factory's address, and says how to get to the console. The factory listens inside its
        own namespace only, so a forwarder on loopback is offered."""
        factory, command = self.factory, self.folder / "slipway"
        variables = " ".join(f"{name}='{factory.environment[name]}'" for name in ("SLIPWAY_URL", "SLIPWAY_CA", "HOME", "XDG_CONFIG_HOME"))
        namespace = f"/run/netns/{factory.description['namespaces']['factory']}"
        command.write_text(f"#!/bin/sh\nexec nsenter --net={namespace} env {variables} '{factory.slipway}' \"$@\"\n")
        command.chmod(0o755)
        port = self.forward(namespace)
        print(f"""
Everything is still running.
  console   https://127.0.0.1:{port}/  (its certificate is signed by {factory.data}/ca.pem)
  login     {factory.user}, password {factory.password_file.read_text().strip()}
  commands  {command} wave show {WAVE}
  remove    ./demo --clean""")

    def forward(self, namespace):
        """A port on loopback that leads to the console inside the factory's namespace; ends with the world."""
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        self.world.processes.start("forward", sys.executable, HERE / "drive", "--forward", port, namespace, self.factory.address, API_PORT)
        return port


def main(words):
    if words and words[0] == "--forward":
        return forward.serve(int(words[1]), words[2], words[3], int(words[4]))
    parser = argparse.ArgumentParser(prog="./demo", description="Moves two real machines from one network into another, with the proof at the end.")
    parser.add_argument("--keep", action="store_true", help="leave everything running and print the console's address and a login")
    parser.add_argument("--clean", action="store_true", help="remove what a run left, and stop")
    parser.add_argument("--programs", type=pathlib.Path, help="the folder of slipway and slipway-agent (default: they are built in build/)")
    parser.add_argument("--dir", default=str(ROOT / ".demo"), help="where the demo's state and report go (default: .demo)")
    arguments = parser.parse_args(words)
    if os.geteuid() != 0:
        os.execvp("sudo", ["sudo", sys.executable, str(HERE / "drive"), *words])
    folder = pathlib.Path(arguments.dir).resolve()
    demo = Demo(folder, arguments.keep, arguments.programs and arguments.programs.resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    if arguments.clean:
        demo.display.close()
        demo.clean()
        print("removed")
        return 0
    status, ended = 1, False
    try:
        status = demo.run()
        ended = True
    except Failure as failure:
        stage = demo.display.stage
        demo.display.close()
        print(f"\n✘ the demo stopped in “{stage}”: {failure}\n  logs: {demo.world.processes.logs}/ (serve.log, runner.log), {folder}/build.log", file=sys.stderr)
    except KeyboardInterrupt:
        demo.display.close()
        print("\ninterrupted", file=sys.stderr)
        status = 130
    finally:
        demo.display.close()
        if demo.watcher:
            demo.watcher.close()
        if arguments.keep and hasattr(demo, "factory"):
            demo.tell_how_to_look()
        else:
            demo.clean()
            if not ended:
                print(f"the machines and networks were removed; the logs stay in {folder}", file=sys.stderr)
    return status
