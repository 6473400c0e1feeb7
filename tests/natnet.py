"""A source's network behind a router that has one address for all of it, and a line between them on which packets are late, lost, out of order and
doubled. Three namespaces of the run's own:

  slipway-behind-RUN    the source, 192.0.2.2
  slipway-router-RUN    192.0.2.1 at the line's end, and 198.51.100.1 outside
  slipway-outside-RUN   198.51.100.2: reaches the router's outside, and nothing behind it

Needs root."""
import os
import subprocess
import sys

import line
from ends import run

SOURCE, INSIDE, ROUTER, OUTSIDE = "192.0.2.2", "192.0.2.1", "198.51.100.1", "198.51.100.2"

# As `conntrack -F` does, which not every machine has: over netlink, to its netfilter (12), request and answer (5), that the table of connections be emptied (1, 2).
FORGET = """
import socket, struct
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as s:
    s.send(struct.pack("<IHHII4x", 20, 1 << 8 | 2, 5, 1, 0))
    raise SystemExit(struct.unpack_from("<i", s.recv(4096), 16)[0] != 0)
"""

# What it does not know it drops without a word, as routers do; {policy}: of what goes through it.
RULES = """
table ip natted
delete table ip natted
table ip natted {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        oifname "out" ip protocol tcp masquerade to :{first}-{last}
    }}
    chain forward {{
        type filter hook forward priority filter; policy {policy};
        ct state invalid drop
        iifname "out" ct state new drop
    }}
    chain input {{
        type filter hook input priority filter;
        iifname "out" drop
    }}
}}
"""


class Network:
    """begin() makes it, end() removes it. within: what begins a command that is to have the network of "behind" or "outside"; all else is the machine's."""

    def __init__(self):
        self.names = {part: f"slipway-{part}-{os.getpid()}" for part in ("behind", "router", "outside")}
        self.within = {part: ("nsenter", f"--net=/run/netns/{name}") for part, name in self.names.items()}
        self.line, self.ports = None, ()

    def begin(self, ends, program, mbit_per_s, rtt_ms, faults):
        for name in self.names.values():
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        self.line = line.begin(ends, program, (self.names["behind"], self.names["router"]), mbit_per_s, rtt_ms, faults)
        self.batch("router", f"link add out type veth peer name in netns {self.names['outside']}", f"address add {ROUTER}/30 dev out", "link set out up",
                   f"address add {INSIDE}/24 dev {line.DEVICE}", f"link set {line.DEVICE} up")
        self.batch("outside", f"address add {OUTSIDE}/30 dev in", "link set in up")
        self.batch("behind", f"address add {SOURCE}/24 dev {line.DEVICE}", f"link set {line.DEVICE} up", f"route add default via {INSIDE}")
        self.set("ipv4/ip_forward", 1)
        self.route(20000)

    def batch(self, part, *words):
        run("ip", "-n", self.names[part], "-batch", "-", input="\n".join(words) + "\n")

    def set(self, name, value):
        run(*self.within["router"], "sh", "-c", f"echo {value} > /proc/sys/net/{name}")

    def route(self, first_port, policy="accept", takes_up=False):
        """Whoever is behind comes from one of 1,000 ports of the router's from now on; connections that it knows stay as they are. takes_up: a connection that
        it does not know it takes for a new one, in the midst of it; else it drops that."""
        self.ports = (first_port, first_port + 999)
        self.set("netfilter/nf_conntrack_tcp_loose", int(takes_up))
        run(*self.within["router"], "nft", "-f", "-", input=RULES.format(first=self.ports[0], last=self.ports[1], policy=policy))

    def forget(self):
        """Every connection, as a router does that starts again."""
        run(*self.within["router"], sys.executable, "-c", FORGET)

    def peers(self, part, what):
        """(address, port) at the other end of the connections that stand there, as far as that part can know; what: a filter of ss."""
        lines = run(*self.within[part], "ss", "-Htn", "state", "established", what).splitlines()
        return {(peer.rpartition(":")[0], int(peer.rpartition(":")[2])) for peer in (text.split()[3] for text in lines)}

    def seen(self, port):
        """Who is connected to that port outside."""
        return self.peers("outside", f"( sport = :{port} )")

    def is_dialled(self, port):
        """Who is behind has a connection to that port, or takes it for one."""
        return bool(self.peers("behind", f"( dport = :{port} )"))

    def is_through(self, port):
        """Somebody is connected through the router as it is now; nobody may be seen by another address."""
        seen = self.seen(port)
        if any(address != ROUTER for address, _ in seen):
            raise RuntimeError(f"seen from outside: {seen}")
        return any(self.ports[0] <= number <= self.ports[1] for _, number in seen)

    def counted(self):
        return line.ask(self.line)

    def end(self):
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
