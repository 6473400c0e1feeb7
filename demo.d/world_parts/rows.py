"""Holds db01's table against what was acknowledged: every acknowledged row must be present with its checksum, and no row torn."""
import hashlib

from . import acklog, pgwire


def check(address, log_path):
    acknowledged = acklog.read(log_path)  # first: rows that are acknowledged while we read must not count as missing
    with pgwire.Connection((address, 5432), "probe", "ledger", 60) as database:
        rows = database.query("SELECT n, payload, sum FROM ledger")
    present = {int(number): checksum for number, _, checksum in rows}
    torn = [int(number) for number, payload, checksum in rows
            if hashlib.md5(f"{number} {payload}".encode()).hexdigest() != checksum]
    missing = sorted(number for number, checksum in acknowledged.items() if present.get(number) != checksum)
    return {"acknowledged": len(acknowledged), "present": len(present), "missing": len(missing), "torn": len(torn),
            "first_missing": missing[:10], "first_torn": torn[:10]}
