#!/usr/bin/python3
"""count: what scripts/count makes of the suites' logs: who is tried a second time, what then counts, and what does whatever comes. Prints TAP.
Usage: test_count.py COUNT"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

import tap  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position

COUNT = sys.argv[1]


def write(path, *tests):
    path.write_text("".join(json.dumps({"name": f"slipway:room / {name}", "result": result, "stdout": said, "stderr": ""}) + "\n" for name, result, said in tests))


def count(*words):
    return subprocess.run([COUNT, *map(str, words)], capture_output=True, text=True, check=False)


def last(done):
    return done.stdout.splitlines()[-1]


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        log = folder / "plain.json"
        write(log, ("good", "OK", ""), ("late", "FAIL", "not ok 1 - too late\n"), ("lost", "FAIL", "not ok 1 - a byte\n# no second try counts\n"), ("slow", "TIMEOUT", ""),
              ("left", "SKIP", ""))
        ok(count("--failed", log).stdout.split() == ["late", "slow"], "what failed is tried again, but not where data was not what it must be", count("--failed", log).stdout)
        done = count(folder)
        ok(last(done) == "1 passed, 3 failed, 1 skipped" and done.returncode == 1, "without another try all of them count", done.stdout)
        ok("not ok 1 - a byte" in done.stdout and "skipped in plain: slipway:room / left" in done.stdout, "with what they said", done.stdout)
        write(log.with_suffix(".second"), ("late", "OK", ""), ("slow", "TIMEOUT", ""))
        done = count(folder)
        ok(last(done) == "2 passed, 2 failed, 1 skipped" and "passed in plain on the second try only: late" in done.stdout, "a second try counts, and is told", done.stdout)
        write(log, ("good", "OK", ""))
        log.with_suffix(".second").unlink()
        ok(last(count(folder)) == "1 passed, 0 failed" and count(folder).returncode == 0, "all passed")
        (folder / "sanitizer.17").write_text("ERROR: AddressSanitizer\n")
        done = count(folder)
        ok(last(done) == "1 passed, 1 failed" and done.returncode == 1 and "process 17" in done.stdout, "but where a sanitizer has said something", done.stdout)
        (folder / "sanitizer.17").unlink()
        log.unlink()
        ok(last(count(folder)) == "0 passed, 1 failed", "and no test at all is a failure")
    return tap.finish()


sys.exit(main())
