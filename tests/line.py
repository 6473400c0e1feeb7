"""A line between two network namespaces, with a rate, a delay, and what else becomes of packets on the way (delay_line.c)."""
import json
import subprocess

DEVICE = "line0"  # in both namespaces


def begin(ends, program, namespaces, mbit_per_s, rtt_ms, faults=()):
    """The process, among those of ends.Ends. rtt_ms: there and back. The queue before the line holds what it carries in that time, as a router's should.
    faults: a seed, and how many of 1,000 packets are lost, overtake, come twice."""
    queue_bytes = mbit_per_s * 1e6 / 8 * rtt_ms / 1000
    process = ends.start("delay_line", "nice", "-n", "-10", program, namespaces[0], DEVICE, namespaces[1], DEVICE, mbit_per_s * 1e6, rtt_ms * 500, queue_bytes, *faults,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("the line did not begin")
    return process


def ask(process):
    """What it has counted so far."""
    process.stdin.write("?\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())
