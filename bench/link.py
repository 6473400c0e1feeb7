"""A long link: the source and the destination in network namespaces of their own, and between them a line with a rate and a delay (delay_line.c)."""
import json
import os
import subprocess

from common import run

SOURCE, SINK = "198.51.100.1", "198.51.100.2"


class Link:
    """A context; from its beginning the place's source and sink are at the two ends. rtt_ms: there and back. The queue before the line holds what it
    carries in that time, as a router's should."""

    def __init__(self, place, mbit_per_s, rtt_ms):
        self.place, self.mbit_per_s, self.rtt_ms = place, mbit_per_s, rtt_ms
        self.names = [f"slipway-{end}-{os.getpid()}" for end in ("a", "b")]

    def __enter__(self):
        place, (source, sink) = self.place, self.names
        try:
            for name in self.names:
                run("ip", "netns", "add", name)
                run("ip", "-n", name, "link", "set", "lo", "up")
            queue_bytes = self.mbit_per_s * 1e6 / 8 * self.rtt_ms / 1000
            self.line = place.start("delay_line", "nice", "-n", "-10", place.build / "bench/delay_line", source, "line0", sink, "line0", self.mbit_per_s * 1e6,
                                    self.rtt_ms * 500, queue_bytes, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if self.line.stdout.readline() != "ready\n":
                raise RuntimeError("the line did not begin")
            for name, own, other in ((source, SOURCE, SINK), (sink, SINK, SOURCE)):
                run("ip", "-n", name, "address", "add", own, "peer", other, "dev", "line0")
                run("ip", "-n", name, "link", "set", "line0", "up")
        except BaseException:
            self.__exit__()
            raise
        place.source, place.sink = (["nsenter", f"--net=/run/netns/{name}"] for name in self.names)
        place.source_address, place.address = SOURCE, SINK
        return self

    def __exit__(self, *_):
        if "delay_line" in self.place.processes:
            self.place.stop("delay_line")
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
        self.place.source, self.place.sink = [], []
        self.place.source_address = self.place.address = "127.0.0.1"

    def bytes(self):
        """What has gone onto the line so far, from the source and to it, whole IP packets."""
        self.line.stdin.write("?\n")
        self.line.stdin.flush()
        return json.loads(self.line.stdout.readline())["sent"]

    def share(self, sent_bytes, seconds):
        """Of what the line could have carried one way."""
        return sent_bytes * 8 / (self.mbit_per_s * 1e6 * seconds)
