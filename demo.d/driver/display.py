"""What the demo shows while it works: each stage with its time, the tasks that run now, and what comes next. On a terminal the
lines about running work stay at the bottom and are redrawn; elsewhere each change is a line."""
import os
import shutil
import sys
import threading
import time

MARKS = {"done": "✔", "refused": "✋", "failed": "✘", "note": "·"}
COLOURS = {"done": "32", "refused": "33", "failed": "31", "note": "2"}


def duration(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class Display:
    def __init__(self, stages, out=sys.stdout):
        self.out, self.terminal = out, out.isatty() and os.environ.get("TERM") != "dumb"
        self.stages, self.begun, self.stage, self.stage_begun = stages, time.monotonic(), None, None
        self.live, self.drawn, self.lock, self.times = [], 0, threading.RLock(), []
        self.stop = threading.Event()
        if self.terminal:
            threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self):
        while not self.stop.wait(0.5):
            with self.lock:
                self._draw()

    def _erase(self):
        if self.drawn:
            self.out.write(f"\x1b[{self.drawn}A\x1b[J")
            self.drawn = 0

    def _draw(self):
        if not self.terminal:
            return
        self._erase()
        lines = []
        if self.stage is not None:
            index = self.stages.index(self.stage)
            following = self.stages[index + 1] if index + 1 < len(self.stages) else "nothing: this is the last"
            lines.append(f"\x1b[1m▶ {self.stage}\x1b[0m  {duration(time.monotonic() - self.stage_begun)}  "
                         f"\x1b[2m(stage {index + 1} of {len(self.stages)}, {duration(time.monotonic() - self.begun)} in all; next: {following})\x1b[0m")
            lines += [f"    {line}" for line in self.live]
        width = shutil.get_terminal_size().columns
        for line in lines:
            self.out.write(line[:width + 8] + "\n")
        self.drawn = len(lines)
        self.out.flush()

    def say(self, text, kind="note"):
        with self.lock:
            self._erase()
            mark = f"\x1b[{COLOURS[kind]}m{MARKS[kind]}\x1b[0m" if self.terminal else MARKS[kind]
            self.out.write(f"{time.strftime('%H:%M:%S')} {mark} {text}\n")
            self.out.flush()
            self._draw()

    def enter(self, stage):
        with self.lock:
            self.leave()
            self.stage, self.stage_begun, self.live = stage, time.monotonic(), []
            if self.terminal:
                self._draw()
            else:
                self.out.write(f"{time.strftime('%H:%M:%S')} ▶ {stage}\n")
                self.out.flush()

    def leave(self):
        with self.lock:
            if self.stage is None:
                return
            took = time.monotonic() - self.stage_begun
            self.times.append((self.stage, took))
            stage, self.stage, self.live = self.stage, None, []
            self.say(f"{stage}: {duration(took)}", "done")

    def running(self, lines):
        with self.lock:
            changed, self.live = lines != self.live, lines
            if changed:
                self._draw()

    def close(self):
        self.stop.set()
        with self.lock:
            self._erase()
            self.out.flush()
