"""A long link: the source and the destination in network namespaces of their own, and between them a line with a rate and a delay (tests/delay_line.c)."""
import os
import subprocess

from common import run
import line  # of tests/, which common has put on the path

SOURCE, SINK = "198.51.100.1", "198.51.100.2"


class Link:
    """A context; from its beginning the place's source and sink are at the two ends. rtt_ms: there and back."""

    def __init__(self, place, mbit_per_s, rtt_ms):
        self.place, self.mbit_per_s, self.rtt_ms = place, mbit_per_s, rtt_ms
        self.names = [f"slipway-{end}-{os.getpid()}" for end in ("a", "b")]

    def __enter__(self):
        place, (source, sink) = self.place, self.names
        try:
            for name in self.names:
                run("ip", "netns", "add", name)
                run("ip", "-n", name, "link", "set", "lo", "up")
            self.line = line.begin(place, place.build / "tests/delay_line", self.names, self.mbit_per_s, self.rtt_ms)
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
        return line.ask(self.line)["sent"]

    def share(self, sent_bytes, seconds):
        """Of what the line could have carried one way."""
        return sent_bytes * 8 / (self.mbit_per_s * 1e6 * seconds)
