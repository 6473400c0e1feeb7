"""What the tests of a whole wave share: the demo's machinery (its source network, its driver), and the checks of a finished wave."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "demo.d"), str(ROOT / "tests")]

from tap import intact, note, ok  # pylint: disable=wrong-import-position
from world_parts.common import run_id  # pylint: disable=wrong-import-position


def folder(name):
    """A folder for one run; SLIPWAY_TEST_DIR keeps it in a known place."""
    held = os.environ.get("SLIPWAY_TEST_DIR")
    if held:
        pathlib.Path(held).mkdir(parents=True, exist_ok=True)
        return pathlib.Path(held)
    return pathlib.Path(tempfile.mkdtemp(prefix=f"slipway-{name}."))


class Notes:
    """The driver's display as TAP comments."""

    def __init__(self):
        self.stage = None

    def say(self, text, kind=""):
        note(f"{kind or 'note'}: {text}"[:400])

    def enter(self, stage):
        self.stage = stage
        note(f"stage: {stage}")

    def running(self, lines):
        pass

    def leave(self):
        pass

    def close(self):
        pass


def check_page(page):
    ok("<svg" in page and "data:image/png;base64," in page, "the report's page has the drawn timeline and the pictures")
    ok(not re.search(r"""(?:src|href)=["']?https?:""", page), "and needs nothing from elsewhere")


def check_traces(folder):
    """Nothing of a run that was cleaned up is left on this machine."""
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    ok(run_id(folder / "world") not in left, "no network of the run is left", left)
    left = subprocess.run(["pgrep", "-af", f"{folder}/"], capture_output=True, text=True, check=False)  # 1: none is there
    ok(left.returncode == 1, "no process of the run is left", left.stdout or left.stderr)


def check_report(report):
    """A wave of the demo's two servers that is through: nothing lost, nothing unseen."""
    ok(report["result"] == "passed", "the report's result is passed", report.get("reasons"))
    ok(sorted(server["name"] for server in report["servers"]) == ["db01", "web01"], "both servers are in the report")
    for server in report["servers"]:
        disks = server["disks"]
        ok(len(disks) == {"web01": 2, "db01": 1}[server["name"]], f"{server['name']}: all its disks are in the report", disks)
        for disk in disks:
            ok(disk["bytes_compared"] == disk["size_bytes"] and disk["size_bytes"] > 0, f"{server['name']}: disk {disk['id']} was compared whole", disk)
            intact(len(disk["source_sha256"]) == 64 and disk["source_sha256"] == disk["target_sha256"], f"{server['name']}: source and copy of disk {disk['id']} are the same", disk)
        ok(server["boot_checks"] and all(check["passed"] and check["evidence"] for check in server["boot_checks"]),
           f"{server['name']}: {len(server['boot_checks'])} boot checks hold, each with evidence", json.dumps(server["boot_checks"]))
        ok(server["downtime_ms"] and server["probes_total"] > server["probes_failed"] > 0, f"{server['name']}: was down for {server['downtime_ms']} ms, and the probe saw it")
    rows = report["rows"]
    ok(rows["acknowledged"] > 0 and rows["missing"] == 0 and rows["torn"] == 0 and rows["present"] >= rows["acknowledged"],
       f"{rows['acknowledged']} acknowledged rows, {rows['present']} present, {rows['missing']} missing, {rows['torn']} torn", rows)
    moved = report["replication"]
    ok(moved["bytes_read"] > 0 and moved["bytes_sent"] > 0 and moved["bytes_stored"] > 0, "bytes read, sent and stored are told", moved)
    ok(len(report["refusals"]) >= 3, f"{len(report['refusals'])} requests were refused")
    ok(bool(report["stages"]), "the stages have their times")
